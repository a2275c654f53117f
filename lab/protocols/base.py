"""Protocols: in what order a run trains and evaluates, what it refuses, and what its result is.

A protocol is built from its options and answers for a run in memory (`lab.training.trainer.Session`) and on disk
(`lab.run_folder.run.Run`). The defaults are good for every protocol in which one model goes through task after task, so that its
result is a matrix of scores. Nothing here loads torch when it is imported: pages and lists ask protocols too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lab.config.schema import RunConfig
from lab.config.validation import BUDGETS
from lab.core import registry
from lab.core.errors import LabError
from lab.core.registry import Options, Plugin
from lab.data.stream import Task
from lab.metrics.base import MatrixScores
from lab.run_folder.result import assembled
from lab.run_folder.run import Run
from lab.training.evaluation_stages import FinalEvaluation, RowEvaluation, UntrainedEvaluation
from lab.training.stage import Plan, Planned
from lab.training.stages import BEFORE_CALIBRATION, ExpertTraining, GateTraining, RouterTraining
from lab.training.workload import Sizes

if TYPE_CHECKING:
    from torch import Tensor

    from lab.data.batching import Encoded
    from lab.training.trainer import Session


@dataclass
class Scores:
    """What a run measures; the content of matrix.json."""

    tasks: list[str]
    labels: list[list[str]]
    matrix: list[list[float | None]] = field(default_factory=list)
    partial: list[float] = field(default_factory=list)  # the row in progress
    measures: dict[str, list[list[float | None]]] = field(default_factory=dict)  # matrices beside it, of texts ROUGE-L
    zero_shot: list[float] | None = None
    oracle: list[float] | None = None
    validation: list[float] | None = None  # last row, on the validation examples


class Protocol(Plugin):
    """In what order a run trains and evaluates."""

    kind = "protocol"
    continual: ClassVar[bool] = True  # one model goes through all tasks: a matrix of scores, and routing at every moment
    on_memory: ClassVar[Sequence[str]] = ("on the memory",)  # routers that stage B trains: values of lab.routers.base.Trained
    carried: ClassVar[Sequence[str]] = (BEFORE_CALIBRATION,)  # names of what its stages keep in `Session.carried`
    what: ClassVar[str] = "runs on a stream"  # its runs, in words

    def __init__(self, options: Any):
        self.options = options

    # -- the configuration ---------------------------------------------------------------------------------------------

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Refuses what training on task after task cannot do."""
        budgets = [name for name in BUDGETS if getattr(config.memory, name)]
        need = "needs stored examples: set memory.per_task, memory.per_class or memory.total above 0"
        if config.router_training.steps and not budgets:
            raise LabError(f"router_training.steps {need}")
        isolated = config.experts.allocation == "per_task" and config.experts.isolated
        router = registry.routers.get(config.router.name)
        if isolated and config.train.loss_classes == "seen":
            raise LabError(
                "train.loss_classes = seen trains classifier rows of earlier tasks, isolated experts must not: "
                "use train.loss_classes=task or experts.isolated=false"
            )
        if isolated and router.trained == "with experts" and router.trained not in cls.on_memory:
            raise LabError(
                f"router {config.router.name} learns while the experts do, isolated experts are trained without it: "
                "use experts.isolated=false or a pool (experts.allocation=10)"
            )
        for name, options in config.methods.items():
            if registry.methods.get(name).given(options) == "stored" and not budgets:
                raise LabError(f"methods.{name} {need}")
            if isolated:
                raise LabError(
                    f"methods.{name} brings earlier tasks into training, isolated experts must not know of them: "
                    "use experts.isolated=false or experts.allocation=shared"
                )

    @classmethod
    def check_router(cls, config: RunConfig) -> None:
        """Refuses routers that would never learn; experts, router and methods have been checked alone by then."""
        router = registry.routers.get(config.router.name)
        if not isinstance(config.experts.allocation, str) and router.trained != "with experts":
            raise LabError(
                f"experts.allocation = {config.experts.allocation}: router {router.name} does not learn with a pool: "
                "set protocol=transfer to train on all tasks at once, or use router=l2p or sparse, "
                "experts.allocation=per_task or shared"
            )
        untaught = not config.router_training.steps and router.trained in cls.on_memory
        if untaught and config.experts.allocation not in ("shared", 1):
            raise LabError(
                f"router_training.steps = 0: router {router.name} learns on stored examples alone and would stay as it begins: "
                "use router_training.steps=80, or another router"
            )

    def resolved(self, tasks: list[str]) -> tuple[Options, list[str]]:
        """The options with everything that was chosen automatically written down, and the tasks in the order of the run."""
        return self.options, tasks

    def warnings(self, config: RunConfig) -> Iterator[str]:
        """What somebody should know before starting, in sentences."""
        if config.scenario == "task":
            yield "Scenario task: the true task is given at test, so choosing an expert is no longer part of the problem."

    def training(self, config: RunConfig) -> str:
        """In what order and company modules are trained, in words."""
        if config.experts.allocation != "per_task":
            order = "task after task"
        else:
            order = "each apart" if config.experts.isolated else "each on top of the earlier ones"
        order += f", with {' and '.join(config.methods)}" if config.methods else ""
        return order + (", then on the memory" if config.router_training.steps else "")

    def fewest_examples(self) -> int:
        """Training examples per task that the options ask for at least."""
        return 0

    # -- the work ------------------------------------------------------------------------------------------------------

    def plan(self, sizes: Sizes) -> Plan:
        """The stages of a run in order: for each task train the expert, train the router, evaluate."""
        stages = [Planned(-1, UntrainedEvaluation)]
        for t in range(len(sizes)):
            stages += [Planned(t, stage) for stage in (ExpertTraining, GateTraining, RouterTraining, RowEvaluation)]
        return [*stages, Planned(len(sizes), FinalEvaluation)]

    def tasks_met(self, t: int, tasks: int) -> int:
        """How many tasks the model has met once task t of so many is trained."""
        return t + 1

    # -- a run in memory -----------------------------------------------------------------------------------------------

    def scores(self, tasks: Sequence[Task]) -> Any:
        """What a run of these tasks will measure, empty; `tasks` of it are what events count."""
        return Scores([task.name for task in tasks], [list(task.labels) for task in tasks])

    def training_rows(self, session: "Session", t: int) -> "list[Encoded]":
        """The rows that task t is learned from; rows of other tasks only as far as `tasks_met` counts these tasks."""
        return session.rows[t, "train"]

    def examples(self, session: "Session") -> list[int]:
        """Training examples of each task, as the run's first event tells them."""
        return [len(self.training_rows(session, t)) for t in range(len(session.tasks))]

    def check_session(self, session: "Session") -> None:
        """Refuses what shows only once model and data are there; before any work."""

    def add_tasks(self, session: "Session", t: int) -> None:
        """Room for the tasks met in training on task t."""
        for task in range(session.learner.head.tasks_seen, self.tasks_met(t, len(session.tasks))):
            session.learner.add_task(task)

    def add_all_tasks(self, session: "Session") -> None:
        """Room for every task, as at the end of a run."""
        self.add_tasks(session, len(session.tasks) - 1)

    def rebuild(self, session: "Session") -> None:
        """In a fresh session: the tasks met and the memory filled as its cursor says; values are filled in afterwards."""
        for task, stage in session.plan[: session.position]:
            if issubclass(stage, ExpertTraining):
                self.add_tasks(session, task)
                session.remember(task)
        if self._learning(session) and session.cursor.step:
            self.add_tasks(session, session.cursor.task)

    @staticmethod
    def _learning(session: "Session") -> bool:
        """Whether the experts of a task are at work."""
        return issubclass(session.plan[session.position].stage, ExpertTraining)

    def is_trainable(self, session: "Session", k: int) -> bool:
        """Whether expert k may still change: it is shared, or its task is being learned."""
        return not session.learner.per_task or (k == session.cursor.task and self._learning(session))

    def finished_experts(self, session: "Session", t: int) -> list[int]:
        """Experts that are done with training once task t is learned."""
        return [len(session.learner.bank) - 1] if session.learner.per_task else []

    def stored_tensors(self, session: "Session") -> "list[Tensor]":
        """What the next task needs beside parameters, memory and statistics of router and methods; it counts as stored."""
        config = session.config.router_training  # each tuning on the memory begins from the classifier before it
        carried = config.steps and config.classifier == "tuned" and not config.warm_start
        return [*session.carried[BEFORE_CALIBRATION].values()] if carried else []

    def cost(self, session: "Session") -> dict[str, Any]:
        """Costs beside those of every run, or in their place."""
        return {}

    def summary_line(self, session: "Session", t: int) -> str:
        """One line about task t, which has ended."""
        row, names = session.scores.matrix[t][: t + 1], session.task_names
        scores = "  ".join(f"{name} {score:.3f}" for name, score in zip(names, row, strict=False))
        return f"after {names[t]}: average {sum(row) / len(row):.3f}   {scores}"

    # -- a run on disk -------------------------------------------------------------------------------------------------

    def measured(self, run: Run) -> Any:
        """What the metrics of a run are computed from."""
        info = run.info
        return MatrixScores(
            matrix=run.matrix,
            routing=info.get("routing") or {},
            oracle=run.recorded_scores.get("oracle"),
            reasons=info.get("why") or {},
            tables={"predictions": run.predictions, "routing_table": run.routing_table},
        )

    def result(self, run: Run) -> dict[str, Any]:
        """What `lab run --json` prints: what was measured, and for every unknown number the reason under `why`."""
        info, zero_shot = run.info, run.recorded_scores.get("zero_shot")
        routing = info.get("routing") or {}
        why = {path: why for path, why in info.get("why", {}).items() if routing.get(path.removeprefix("routing.")) is None}
        if zero_shot is None:
            why["zero_shot"] = "not evaluated yet"
        scores = run.recorded_scores
        recorded = {"tasks": run.tasks, "matrix": scores.get("matrix", []), "zero_shot": zero_shot, "routing": routing}
        measures = {"measures": scores["measures"]} if scores.get("measures") else {}
        return assembled(run, recorded | measures, why)

    def score_rows(self, run: Run) -> tuple[list[dict[str, Any]], list[str]]:
        """The rows of `Run.scores`, and its columns."""
        recorded, tasks = run.recorded_scores, run.tasks
        measures: dict[str, list[list[float | None]]] = recorded.get("measures") or {}
        untrained = enumerate(recorded.get("zero_shot") or [])
        rows: list[dict[str, Any]] = [{"after": -1, "after_name": None, "task": tasks[j], "score": s} for j, s in untrained]
        for i, j in np.argwhere(~np.isnan(run.matrix)).tolist():
            row = {"after": i, "after_name": tasks[i], "task": tasks[j], "score": float(run.matrix[i, j])}
            rows.append(row | {name: matrix[i][j] for name, matrix in measures.items()})
        return rows, ["after", "after_name", "task", "score", *measures]

    def validation(self, run: Run) -> list[float]:
        """Scores on validation examples at the end, by which values are chosen; none while they are not measured."""
        return run.recorded_scores.get("validation") or []

    def ended_tasks(self, run: Run) -> int:
        """Tasks that are learned and scored."""
        return len(run.matrix)

    def moments(self, run: Run) -> Sequence[int]:
        """Tasks after which the run was evaluated, whose predictions, routing and state are kept."""
        return [t for t, row in enumerate(run.matrix) if not np.isnan(row).all()]

    def unready(self, run: Run) -> str:
        """Why a run that does not change any more has no numbers to compare; empty if it has."""
        return "" if len(run.matrix) else f"run '{run.id}' is {run.status} and has learned no task"

    def sides(self) -> dict[str, Sequence[str]]:
        """Groups of tasks that two runs must have in common for their scores to mean the same, by title. Default: none."""
        return {}
