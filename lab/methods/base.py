"""Methods: what acts on training beyond routing. Five moments, each optional, in the order in which the loop meets them."""

from collections.abc import Container, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lab.core import registry
from lab.core.errors import LabError, RunFailed
from lab.core.plugin_errors import refuse_entries, wrong_return
from lab.core.registry import Options, Plugin
from lab.data.batching import Batch, Encoded
from lab.data.replay_buffer import ALL, Memory
from lab.data.stream import Task
from lab.models.learner import Learner, Output


class Method(Plugin):
    """A remedy against forgetting. Methods return rows, named loss terms and gradient fixes, so any list of them composes.

    What a method trains against is `learner.trainable_parameters()`, the loss of the task is `learner.head.loss`.
    """

    kind = "method"
    uses_memory: ClassVar[bool] = False  # needs stored examples
    needs_classes: ClassVar[bool] = False  # works on the probabilities of classes, so not on tasks of free text

    def __init__(self, options: Options, learner: Learner, memory: Memory):
        self.options, self.learner, self.memory = options, learner, memory
        self.generated = Memory(ALL, 0, learner.config.seed)  # pseudo-examples that it keeps in place of stored ones

    @classmethod
    def given(cls, options: Options) -> str:
        """What it has of earlier tasks with these options: "stored" examples, "generated" ones, or "" for neither."""
        return "stored" if cls.uses_memory else ""

    @classmethod
    def examples_of(cls, options: Options, own: int, stored: int) -> tuple[int, int]:
        """How many examples an epoch passes over, and how many a step adds to its batch, of these and of the stored ones."""
        return own, 0

    @classmethod
    def check_tasks(cls, config: Any, tasks: Sequence[Task]) -> None:
        """Methods that work on the probabilities of classes are refused where the language model answers."""
        if cls.needs_classes and (tasks[0].generates or config.answer == "words"):
            others = [name for name in registry.methods.names() if not registry.methods.get(name).needs_classes]
            instead = f"task '{tasks[0].name}' asks for free text" if tasks[0].generates else "answer=words has no classifier"
            raise LabError(f"methods.{cls.name} works on the probabilities of classes, {instead}: use one of {', '.join(others)}")

    def begin_task(self, t: int, rows: list[Encoded]) -> None:
        """Task t is about to be learned from these training examples: snapshot, initialise.

        The task's fresh expert is in the bank already, with the number `len(learner.bank) - 1`: `bank.expert(k)` gives its
        parameters, `bank.load_expert(k, tensors)` other values, and `bank.fixed = frozenset({"lora_A"})`, set when the method is
        made, leaves parameters of these names untrained.
        """

    def examples(self, rows: list[Encoded]) -> list[Encoded]:
        """The examples that an epoch of the task passes over; by default the task's own training examples."""
        return rows

    def rows(self, rows: list[Encoded], generator: torch.Generator) -> list[Encoded]:
        """The rows of a step; append replayed ones here, UNLABELLED where only the method's own terms are meant to see them."""
        return rows

    def terms(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        """Extra loss terms by name."""
        return {}

    def adjust_gradients(self) -> None:
        """After backward, before the step: project, mask. The bank is not routed here."""

    def end_task(self, t: int, rows: list[Encoded]) -> None:
        """Task t is learned from these training examples, and the memory holds its share of them: importances, statistics."""

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on after a kill, by name; it counts as stored."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take `state` back."""

    @property
    def bytes(self) -> int:
        """Bytes of what the method keeps."""
        return self.generated.bytes + sum(tensor.numel() * tensor.element_size() for tensor in state_of(self).values())


def state_of(method: Method) -> dict[str, Tensor]:
    """The state of a method; RunFailed for what are no tensors by name."""
    state = method.state()
    refuse_entries(method, "state", state, Tensor)
    return state


def rows_of(method: Method, rows: list[Encoded], generator: torch.Generator) -> list[Encoded]:
    """The rows of a step after a method; RunFailed for what is no list of rows."""
    changed = method.rows(rows, generator)
    if not isinstance(changed, list) or not all(isinstance(row, Encoded) for row in changed):
        raise RunFailed(wrong_return(method, "rows", changed, "a list of rows, those that it is given among them"))
    return changed


def terms_of(method: Method, batch: Batch, out: Output, others: Container[str]) -> dict[str, Tensor]:
    """The loss terms of a method; RunFailed for what are none, and for a name that one of the `others` has."""
    terms = method.terms(batch, out)
    refuse_entries(method, "terms", terms, Tensor)
    for name, term in terms.items():
        if term.dim():
            shape = tuple(term.shape)
            raise RunFailed(f"method '{method.name}' gave the loss term {name} of the shape {shape}: give a mean or a sum")
        if name in others:
            raise RunFailed(f"method '{method.name}' calls a loss term {name}, as another one is called: give it its own name")
    return terms
