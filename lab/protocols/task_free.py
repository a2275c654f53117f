"""A stream without borders between its tasks: neighbouring tasks blend into one another.

After Aljundi, Kelchtermans and Tuytelaars (2019), "Task-free continual learning", and the blurry borders of Koh, Kim, Ha and Choi
(2022), "Online continual learning on class incremental blurry task configuration". Theirs is a stream of single batches; here a
segment of the stream is passed over as often as `train.epochs` says.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from lab.config.schema import RunConfig
from lab.core import registry
from lab.core.errors import LabError
from lab.core.registry import Options
from lab.protocols.base import Protocol

if TYPE_CHECKING:
    from lab.data.batching import Encoded
    from lab.training.trainer import Session


class TaskFreeOptions(Options):
    name: str = "task-free"
    blur: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="share of a task's training examples that changes places with examples of its neighbours, half with each",
    )


class TaskFree(Protocol):
    """Task after task without borders: examples of neighbouring tasks change places, and no expert is a task's own.

    The stream is trained on in as many segments as it has tasks. Segment t holds the examples of task t but for those that
    changed places with as many of tasks t - 1 and t + 1; with blur = 0 it is task t. A task counts as learned after its own
    segment, so that the matrix has the rows of a stream with borders; its classes compete from the segment on that brings its
    first examples.
    """

    name = "task-free"
    Options = TaskFreeOptions

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Refuses what needs to know where a task begins, or which one an example is of."""
        router = registry.routers.get(config.router.name)
        if config.experts.allocation == "per_task":
            raise LabError(
                "experts.allocation = per_task gives every task an expert of its own, protocol task-free has no borders between "
                "tasks: use experts.allocation=shared, or a pool with router=l2p or sparse (experts.allocation=10)"
            )
        if "task identity" in router.reads_of(config.router):
            raise LabError(
                f"router {router.name} is told the task of an example, protocol task-free tells none: use another router"
            )
        if config.train.loss_classes != "seen":
            raise LabError(
                "train.loss_classes = task trains the classifier rows of one task, a segment of protocol task-free holds "
                "examples of several: use train.loss_classes=seen"
            )
        super().check(config)

    def tasks_met(self, t: int, tasks: int) -> int:
        return min(t + 2, tasks) if self.options.blur else t + 1

    def training_rows(self, session: "Session", t: int) -> "list[Encoded]":
        last = len(session.tasks) - 1
        _, stay, _ = self.parts(session, t)
        before = self.parts(session, t - 1)[2] if t > 0 else []
        after = self.parts(session, t + 1)[0] if t < last else []
        return [*before, *stay, *after]

    def parts(self, session: "Session", t: int) -> "tuple[list[Encoded], list[Encoded], list[Encoded]]":
        """The training examples of task t in segments t - 1, t and t + 1, each in their order; seeded by the task's name."""
        import torch

        rows, last = session.rows[t, "train"], len(session.tasks) - 1
        order = torch.randperm(len(rows), generator=session.chance("blur", t)).tolist()
        early = self.exchanged(session, t - 1) if t > 0 else 0
        late = self.exchanged(session, t) if t < last else 0
        chosen = (order[:early], order[early + late :], order[early : early + late])
        before, stay, after = ([rows[i] for i in sorted(numbers)] for numbers in chosen)
        return before, stay, after

    def exchanged(self, session: "Session", t: int) -> int:
        """How many examples tasks t and t + 1 exchange."""
        smaller = min(len(session.rows[task, "train"]) for task in (t, t + 1))
        return int(self.options.blur * smaller / 2)
