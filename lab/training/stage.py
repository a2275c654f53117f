"""What a run is made of: stages, one after another, each of which trains something or evaluates something.

The loop, the share of the work that is done, forecasts, saved states and figures read the same stages. A stage is found by where
the run stands: the number of its task and its phase. Nothing here or in `lab.training.stages` loads torch when it is imported, so
that a forecast asks stages for their work without it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from lab.config.schema import RunConfig
from lab.run_folder.events import Event
from lab.training.workload import Sizes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lab.data.batching import Batch, Encoded
    from lab.methods.base import Method
    from lab.routers.base import Decision


class Stage(ABC):
    """A part of the work on one task of a session (`lab.training.trainer.Session`)."""

    phase: ClassVar[str]  # its name in events and saved states

    def __init__(self, session: Any, task: int):
        self.session, self.task = session, task

    @classmethod
    @abstractmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        """How much work it is, in forward passes of one example; `sizes`: see `lab.training.workload.sizes_of`."""

    @abstractmethod
    def run(self) -> Iterator[Event]:
        """Does what is left of the stage, from the session's cursor on."""

    def ended(self) -> Iterator[Event]:
        """Events that tell of its end; the session's cursor stands at the next stage by then. Default: none."""
        return iter(())


class Training(Stage):
    """A stage that takes optimiser steps; `Session.fit` asks it for everything particular to a step.

    The attributes without a value are set before it is fitted.
    """

    about: ClassVar[str]  # what happens, in words
    title: ClassVar[str] = "routing"  # the same in one word, for a line of progress
    announced: ClassVar[bool] = False  # whether `ended` has an event, with which the state is saved
    batch: ClassVar[str] = "train.batch_size"  # the option that says how many rows a step has
    rate: str  # the option that is its learning rate
    groups: "list[dict[str, nn.Parameter]]"  # what it changes, by name
    rates: list[float]  # one for each group
    steps: int
    epochs: int = 1
    source: "Sequence[Encoded]"  # the rows it draws from: what no training changes is computed once for each
    methods: "Sequence[Method]" = ()  # that adjust its gradients

    @abstractmethod
    def rows(self, step: int) -> "list[Encoded]":
        """The rows of the batch of a step."""

    @abstractmethod
    def decision(self, batch: "Batch", step: int) -> "Decision | None":
        """How the batch is routed; None: no expert acts."""

    @abstractmethod
    def terms(self, batch: "Batch", decision: "Decision | None") -> "dict[str, Tensor]":
        """The terms of the loss by name; the bank is routed by the decision."""


class Planned(NamedTuple):
    """A stage that a run will come to."""

    task: int  # -1: before the first one
    stage: type[Stage]


Plan = Sequence[Planned]
