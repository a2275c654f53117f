"""Joint training: at every task the model is trained anew on all tasks seen (the multi-task upper bound)."""

from typing import Any

from lab.core.errors import LabError
from lab.core.registry import Options
from lab.data.batching import Encoded
from lab.methods.base import Method


class JointOptions(Options):
    name: str = "joint"


class Joint(Method):
    """The shared expert and the classifier start afresh at every task and learn from its examples and all stored ones.

    With a memory that holds everything this is multi-task training, done once per row of the matrix; the stored examples are
    counted like those of any memory. With a small memory it is GDumb's way (Prabhu et al. 2020), with the new task in full.
    """

    name = "joint"
    Options = JointOptions
    uses_memory = True

    @classmethod
    def check(cls, config: Any) -> None:
        if config.experts.allocation != "shared" or config.train.loss_classes != "seen":
            raise LabError(
                "methods.joint trains one model on all tasks: use experts.allocation=shared and train.loss_classes=seen"
            )

    @classmethod
    def examples_of(cls, options: JointOptions, own: int, stored: int) -> tuple[int, int]:
        return own + stored, 0

    def begin_task(self, t: int, rows: list[Encoded]) -> None:
        self.learner.reinitialise()

    def examples(self, rows: list[Encoded]) -> list[Encoded]:
        return self.memory.rows + rows
