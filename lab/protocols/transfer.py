"""Joint training on many tasks, then few-shot adaptation to each task that was held out.

What events count as tasks are the joint training and, for every held-out task and number of shots, one adaptation; each begins
with the parameters of the same moment. What the recipes differ in stands in the configuration: the experts and the router, what
adaptation begins with and what it tunes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from lab.config.schema import RunConfig, Section
from lab.config.validation import BUDGETS
from lab.core import registry
from lab.core.errors import LabError, unknown
from lab.core.registry import Options
from lab.data.stream import Task
from lab.metrics.base import TransferScores as TransferMeasured
from lab.protocols.base import Protocol
from lab.run_folder.result import assembled
from lab.run_folder.run import Run
from lab.training.stage import Plan, Planned
from lab.training.transfer_stages import (
    START,
    Adaptation,
    AdaptationEvaluation,
    JointEvaluation,
    JointTraining,
    ReturnToStart,
    change_to_start,
    count,
    modules,
    routing,
    tuned_groups,
)
from lab.training.workload import Sizes

if TYPE_CHECKING:
    from torch import Tensor

    from lab.training.trainer import Session

JOINT = "joint training"


class Shots(NamedTuple):
    """An adaptation: task number `task` is met with so many of its training examples."""

    task: int
    shots: int


class AdaptationOptions(Section):
    start: Literal["trained", "average", "fresh"] = Field(
        default="trained",
        description="experts to begin with: as joint training left them; their uniform average as one expert, without a router; "
        "or drawn anew",
    )
    tuned: Literal["all", "router"] = Field(
        default="all",
        description="what is tuned beside the new task's classifier rows: the experts and its routing, or its routing",
    )
    steps: int = Field(default=100, ge=1, le=100_000, description="optimiser steps on the shots of a held-out task")
    batch_size: int = Field(default=8, ge=1, le=4096, description="shots in one step")
    lr: float | None = Field(
        default=None, gt=0, le=10, description="learning rate of experts and classifier rows; null: train.lr"
    )
    router_lr: float | None = Field(
        default=None, gt=0, le=10, description="learning rate of its routing; null: protocol.router_lr"
    )


class TransferOptions(Options):
    name: str = "transfer"
    train_tasks: list[str] | None = Field(None, description="tasks of joint training; null: all that are not held out")
    held_out: list[str] | None = Field(
        None, description="tasks met in adaptation only; null: all that are not trained on, or without these the last third"
    )
    shots: list[Annotated[int, Field(ge=2, le=1_000_000)]] = Field(
        [8, 32], min_length=1, description="training examples of a held-out task, label-balanced and seeded; each number is tried"
    )
    router_lr: float = Field(0.1, gt=0, le=10, description="learning rate of the routing in joint training")
    adaptation: AdaptationOptions = AdaptationOptions()

    def sides(self, tasks: Sequence[str]) -> tuple[list[str], list[str]]:
        """Tasks to train on and tasks held out, in the order of `tasks`; LabError for names unknown, repeated or on both."""
        sides = {"train_tasks": self.train_tasks, "held_out": self.held_out}
        for side, names in sides.items():
            for name in names or ():
                if name not in tasks:
                    raise unknown(f"task in protocol.{side}", name, tasks)
                if (names or []).count(name) > 1:
                    raise LabError(f"protocol.{side} names '{name}' twice: name each task once")
                if all(name in (other or ()) for other in sides.values()):
                    raise LabError(f"task '{name}' is in protocol.train_tasks and in protocol.held_out: leave it on one side")
        held_out = self.held_out
        if held_out is None and self.train_tasks is None:
            held_out = tasks[-self._held_out(len(tasks)) :]
        elif held_out is None:
            held_out = [name for name in tasks if name not in (self.train_tasks or ())]
        train = [name for name in tasks if (name not in held_out if self.train_tasks is None else name in self.train_tasks)]
        for side, names in {"train_tasks": train, "held_out": held_out}.items():
            if not names:
                raise LabError(f"protocol.{side} holds no task: of {len(tasks)} tasks some are trained on and some are held out")
        return train, [name for name in tasks if name in held_out]

    def _held_out(self, tasks: int) -> int:
        """How many of so many tasks are held out."""
        if self.held_out is not None:
            return len(self.held_out)
        return max(1, tasks // 3) if self.train_tasks is None else tasks - len(self.train_tasks)

    def trained_on(self, tasks: int) -> range:
        """Numbers of the tasks of joint training; held-out tasks stand last."""
        return range(tasks - self._held_out(tasks))

    def adaptations(self, tasks: int) -> list[Shots]:
        """All adaptations in their order."""
        held_out = range(len(self.trained_on(tasks)), tasks)
        return [Shots(t, shots) for t in held_out for shots in sorted(set(self.shots))]


@dataclass
class TransferScores:
    """What the run measures; the content of matrix.json. Scores are by name of the task, then by number of shots."""

    tasks: list[str]  # joint training and adaptations
    labels: list[list[str]]
    train_tasks: list[str]
    trained: dict[str, float] = field(default_factory=dict)  # after joint training
    zero_shot: dict[str, float] = field(default_factory=dict)  # of held-out tasks before adaptation: classifier rows are new
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)
    validation: dict[str, dict[str, float]] = field(default_factory=dict)  # the same on validation examples
    alignment: dict[str, float | None] = field(default_factory=dict)  # of gradients, by the step of joint training
    done: list[float] = field(default_factory=list)  # score of each task of events that has ended; of joint training the mean
    protocol: str = "transfer"


class Transfer(Protocol):
    """Joint training on some tasks (settings of `train`), then few-shot adaptation to each of the others."""

    name = "transfer"
    Options = TransferOptions
    continual = False
    carried = (START,)
    what = "transfer runs"

    # -- the configuration ---------------------------------------------------------------------------------------------

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Refuses what joint training and few-shot adaptation cannot do."""
        if config.scenario != "task":
            raise LabError(f"scenario {config.scenario}: transfer is between known tasks: use scenario=task")
        if config.methods or config.router_training.steps or any(getattr(config.memory, name) for name in BUDGETS):
            raise LabError(
                f"recipe {config.recipe} stores or replays examples of a stream, protocol transfer has none: drop one of the two"
            )
        if config.consolidation.name != "none":
            raise LabError(
                f"consolidation {config.consolidation.name} is of isolated experts, one after the other, transfer trains "
                "all at once: use consolidation=none"
            )

        def follows_experts(name: str) -> bool:
            router = registry.routers.get(name)
            return router.choice() == "computed" or router.trained == "after its expert"

        if follows_experts(config.router.name):
            able = [name for name in registry.routers.names() if not follows_experts(name)]
            raise LabError(
                f"router {config.router.name} is made from isolated experts, one after the other, transfer trains all at once: "
                f"use one of {', '.join(able)}"
            )
        adaptation, several = config.protocol.adaptation, config.experts.allocation not in ("per_task", "shared", 1)
        if adaptation.start == "average" and config.composition != "merge":
            raise LabError("protocol.adaptation.start = average merges parameters: use composition=merge")
        if adaptation.start == "average" and not several:
            raise LabError(
                "protocol.adaptation.start = average is of experts that tasks share: use a pool (experts.allocation=8)"
            )
        if adaptation.tuned == "router" and (not several or adaptation.start == "average"):
            raise LabError(
                "protocol.adaptation.tuned = router needs several experts to choose from: use a pool and start=trained"
            )

    @classmethod
    def check_router(cls, config: RunConfig) -> None:
        """Joint training trains every router that `check` lets pass."""

    @classmethod
    def check_tasks(cls, config: RunConfig, tasks: Sequence[Task]) -> None:
        """Refuses shots that a held-out task has not, or that are fewer than its labels."""
        _, held_out = config.protocol.sides([task.name for task in tasks])
        for task, shots in ((task, shots) for task in tasks if task.name in held_out for shots in config.protocol.shots):
            problem, examples, labels = (
                f"protocol.shots = {shots}: held-out task '{task.name}' has",
                len(task.train),
                len(task.labels),
            )
            if shots > examples:
                raise LabError(f"{problem} {examples} training examples: ask for at most these")
            if shots < labels:
                raise LabError(f"{problem} {labels} labels: give each at least one shot")

    def resolved(self, tasks: list[str]) -> tuple[TransferOptions, list[str]]:
        train, held_out = self.options.sides(tasks)
        return self.options.model_copy(update={"train_tasks": train, "held_out": held_out}), train + held_out

    def warnings(self, config: RunConfig) -> Iterator[str]:
        return iter(())

    def training(self, config: RunConfig) -> str:
        adaptation = self.options.adaptation
        start = {"trained": "", "average": ", from the average of all", "fresh": ", from fresh modules"}[adaptation.start]
        return f"all tasks jointly, then few shots of a new one{start}{', routing alone' if adaptation.tuned == 'router' else ''}"

    def fewest_examples(self) -> int:
        return max(self.options.shots)

    # -- the work ------------------------------------------------------------------------------------------------------

    def plan(self, sizes: Sizes) -> Plan:
        """Joint training on the tasks that are not held out, then adaptation to each that is, with each number of shots."""
        stages = [Planned(0, JointTraining), Planned(0, JointEvaluation)]
        adaptations = range(1, 1 + len(self.options.adaptations(len(sizes))))
        for number in adaptations:
            stages += [Planned(number, Adaptation), Planned(number, AdaptationEvaluation)]
        return [*stages, Planned(adaptations.stop, ReturnToStart)]

    def tasks_met(self, t: int, tasks: int) -> int:
        return tasks

    # -- a run in memory -----------------------------------------------------------------------------------------------

    def scores(self, tasks: Sequence[Task]) -> TransferScores:
        names = [task.name for task in tasks]
        stages = [JOINT, *(f"{names[t]}, {shots} shots" for t, shots in self.options.adaptations(len(tasks)))]
        trained_on = [names[t] for t in self.options.trained_on(len(tasks))]
        return TransferScores(stages, [list(task.labels) for task in tasks], trained_on)

    def examples(self, session: "Session") -> list[int]:
        tasks = len(session.tasks)
        joint = sum(len(session.rows[t, "train"]) for t in self.options.trained_on(tasks))
        return [joint, *(shots for _, shots in self.options.adaptations(tasks))]

    def add_all_tasks(self, session: "Session") -> None:
        """Room for all tasks. What belongs to a held-out task is drawn by its name and stays as it is until adaptation."""
        super().add_all_tasks(session)
        learner, trained_on = session.learner, self.options.trained_on(len(session.tasks))
        learner.router.requires_grad_(False)
        session.trainable = count(modules(learner, trained_on), routing(learner, trained_on))

    def rebuild(self, session: "Session") -> None:
        self.add_all_tasks(session)
        if session.cursor.task > 0:
            change_to_start(session)

    def is_trainable(self, session: "Session", k: int) -> bool:
        return True

    def finished_experts(self, session: "Session", t: int) -> list[int]:
        """After joint training those that act on its tasks: their own where there is one per task, else all."""
        if t > 0:
            return []
        return list(self.options.trained_on(len(session.tasks)) if session.learner.per_task else range(len(session.learner.bank)))

    def stored_tensors(self, session: "Session") -> "list[Tensor]":
        return []

    def cost(self, session: "Session") -> dict[str, Any]:
        """What joint training trains, and what adaptation to a task tunes beside its classifier rows."""
        last = len(session.tasks) - 1
        tuned = count(*tuned_groups(session, last)) - count(session.learner.head.parameters_of([last]))
        return {"trainable_parameters": session.trainable, "adapted_parameters": tuned}

    def summary_line(self, session: "Session", t: int) -> str:
        return f"{session.task_names[t]}: {session.scores.done[t]:.3f}"

    # -- a run on disk -------------------------------------------------------------------------------------------------

    def measured(self, run: Run) -> TransferMeasured:
        scores, options = run.recorded_scores, self.options
        return TransferMeasured(
            zero_shot=scores.get("zero_shot", {}),
            held_out=scores.get("held_out", {}),
            held_out_tasks=options.held_out or [],
            shots=options.shots,
            trained=scores.get("trained", {}),
            train_tasks=options.train_tasks or [],
            alignment=scores.get("alignment", {}),
            shares_experts=run.config["experts"]["allocation"] != "per_task",
        )

    def result(self, run: Run) -> dict[str, Any]:
        recorded = {
            "protocol": self.name,
            "train_tasks": self.options.train_tasks,
            "trained": run.recorded_scores.get("trained", {}),
            "zero_shot": run.recorded_scores.get("zero_shot", {}),
            "held_out": run.recorded_scores.get("held_out", {}),
            "alignment_by_step": run.recorded_scores.get("alignment", {}),
        }
        return assembled(run, recorded, {})

    def score_rows(self, run: Run) -> tuple[list[dict[str, Any]], list[str]]:
        result = self.result(run)
        trained, untrained, held_out = (result[name] for name in ("trained", "zero_shot", "held_out"))
        rows = [{"part": "trained", "task": task, "shots": None, "score": score} for task, score in trained.items()]
        for task, score in untrained.items():
            by_shots = {"0": score} | held_out.get(task, {})
            rows += [{"part": "held out", "task": task, "shots": int(k), "score": s} for k, s in by_shots.items()]
        return rows, ["part", "task", "shots", "score"]

    def validation(self, run: Run) -> list[float]:
        return [score for by_shots in run.recorded_scores.get("validation", {}).values() for score in by_shots.values()]

    def ended_tasks(self, run: Run) -> int:
        return len(run.recorded_scores.get("done", ()))

    def moments(self, run: Run) -> Sequence[int]:
        return range(self.ended_tasks(run))

    def unready(self, run: Run) -> str:
        return "" if run.recorded_scores.get("held_out") else f"run '{run.id}' is {run.status} and was adapted to no task"

    def sides(self) -> dict[str, Sequence[str]]:
        return {"training tasks": self.options.train_tasks or (), "held-out tasks": self.options.held_out or ()}
