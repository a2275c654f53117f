"""Methods: what acts on training beyond routing. Five moments, each optional, in the order in which the loop meets them."""

import torch
from torch import Tensor

from lab.batch import Batch, Encoded
from lab.learner import Learner, Output
from lab.memory import Memory
from lab.registry import Options, Plugin


class Method(Plugin):
    """A remedy against forgetting. Methods return rows, named loss terms and gradient fixes, so any list of them composes."""

    def __init__(self, options: Options, learner: Learner, memory: Memory):
        self.options, self.learner, self.memory = options, learner, memory

    def begin_task(self, t: int) -> None:
        """Task t is about to be learned: snapshot, initialise."""

    def examples(self, rows: list[Encoded]) -> list[Encoded]:
        """The examples that an epoch of the task passes over; by default the task's own training examples."""
        return rows

    def rows(self, rows: list[Encoded], generator: torch.Generator) -> list[Encoded]:
        """The rows of a step; add replayed ones here."""
        return rows

    def terms(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        """Extra loss terms by name."""
        return {}

    def adjust_gradients(self) -> None:
        """After backward, before the step: project, mask."""

    def end_task(self, t: int) -> None:
        """Task t is learned: importances, statistics."""

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on after a kill, by name."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take `state` back."""
