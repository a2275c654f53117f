"""Experts that were trained elsewhere: none is trained here, a router among them and the classifier are fitted on examples."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from lab.adapters import initial_adapters
from lab.adapters.peft_folder import SavedAdapter
from lab.config.schema import RunConfig
from lab.core.errors import LabError
from lab.core.registry import Options
from lab.metrics.base import MatrixScores
from lab.protocols.base import Protocol
from lab.run_folder.run import Run
from lab.training.evaluation_stages import FinalEvaluation, RowEvaluation, UntrainedEvaluation
from lab.training.ready_stages import ReadyExpert
from lab.training.stage import Plan, Planned
from lab.training.stages import GateTraining, RouterTraining
from lab.training.workload import Sizes

if TYPE_CHECKING:
    from lab.training.trainer import Session


class ReadyExpertsOptions(Options):
    name: str = "ready-experts"
    heads: Literal["fitted", "adapters"] = Field(
        "fitted",
        description="classifier of a task; fitted: on its training examples, its expert acting alone; adapters: the linear head "
        "(score) that peft saved with the adapter of a decoder, its rows in the order of the task's labels",
    )


class ReadyExperts(Protocol):
    """Saved experts, one per task, take their places; then a router is fitted among all of them, and all tasks are evaluated.

    The matrix has one row, the last: the router knows all experts at once. Routers that else learn with the experts are fitted on
    the stored examples too.
    """

    name = "ready-experts"
    Options = ReadyExpertsOptions
    options: ReadyExpertsOptions
    on_memory = ("on the memory", "with experts")

    def __init__(self, options: ReadyExpertsOptions):
        super().__init__(options)
        self.heads: dict[str, np.ndarray] = {}  # (C, D) of the tasks whose adapter brings its classifier

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Refuses what needs experts that are trained, and tasks without an expert."""
        if config.experts.allocation != "per_task" or not config.experts.isolated:
            raise LabError("ready experts are one per task: use experts.allocation=per_task and experts.isolated=true")
        for name in config.methods:
            raise LabError(f"methods.{name} acts on the training of experts, ready experts are not trained: leave it out")
        if not config.experts.start:
            raise LabError("protocol ready-experts needs saved experts: name one per task in experts.start, or use lab route")
        tasks, named = config.stream.tasks, sorted(config.experts.start)
        if not isinstance(tasks, list):
            raise LabError(f"protocol ready-experts needs the tasks of its experts: use stream.tasks=[{','.join(named)}]")
        if without := sorted({*tasks} - {*named}):
            raise LabError(f"task '{without[0]}' has no expert in experts.start: add one, or leave the task out of stream.tasks")
        if without := sorted({*named} - {*tasks}):
            raise LabError(f"expert '{without[0]}' has no task in stream.tasks: add the task, or leave the expert out")
        super().check(config)

    def check_session(self, session: "Session") -> None:
        """Reads the heads of the adapters, where they are asked for."""
        head, backbone = session.learner.head, session.learner.backbone
        if self.options.heads == "fitted" or not head.has_rows:
            return
        for name, saved in initial_adapters.read(session.config.experts.start).items():
            rows = len(head.space.own[session.task_names.index(name)])
            try:
                self.heads[name] = exact_head(saved, (rows, backbone.width), backbone.pooling)
            except LabError as error:
                raise LabError(f"experts.start.{name}: {error}: use protocol.heads=fitted") from None

    def training(self, config: RunConfig) -> str:
        return "elsewhere; here the router, on examples" if config.router_training.steps else "elsewhere"

    def plan(self, sizes: Sizes) -> Plan:
        """Every expert takes its place; then the router is trained and all tasks are evaluated, once."""
        placing = [Planned(t, stage) for t in range(len(sizes)) for stage in (ReadyExpert, GateTraining)]
        last = len(sizes) - 1
        evaluating = [Planned(last, RouterTraining), Planned(last, RowEvaluation), Planned(last + 1, FinalEvaluation)]
        return [Planned(-1, UntrainedEvaluation), *placing, *evaluating]

    def cost(self, session: "Session") -> dict[str, Any]:
        """Experts are stored and not trained."""
        learner = session.learner
        parts = (learner.head.classifier, learner.router, learner.consolidation)
        return {"trainable_parameters": sum(parameter.numel() for part in parts for parameter in part.parameters())}

    def measured(self, run: Run) -> MatrixScores:
        gap = "the experts were there all at once: the matrix has its last row alone"
        return dataclasses.replace(super().measured(run), gap=gap)


def exact_head(saved: SavedAdapter, shape: tuple[int, int], pooling: str) -> np.ndarray:
    """The head (C, D) that peft saved with an adapter, if the lab computes what it did.

    That is `score` of a decoder for sequence classification, linear in the state of the last token. Raises LabError for others:
    those of encoders stand behind a pooler or a dense layer that is no part of the adapter.
    """
    if not saved.head:
        raise LabError("the adapter was saved without a head")
    if [*saved.head] != ["score.weight"] or pooling != "last":
        raise LabError(
            f"its head ({', '.join(saved.head)}) does not read what the lab computes: only score of a decoder does, with "
            "backbone.pooling=last"
        )
    weight = saved.head["score.weight"]
    if weight.shape != shape:
        raise LabError(f"its head has shape {weight.shape}, the labels and the backbone need {shape}")
    return weight
