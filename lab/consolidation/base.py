"""Consolidation: what becomes of the trained experts before a router chooses among them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from lab.core.registry import Options, Plugin
from lab.experts.base import LayerInfo
from lab.routers.base import Decision, Router, one_hot


class TrainedOptions(Options):
    """Options of a consolidation that trains parameters of its own on stored examples, after every task."""

    steps: int = Field(80, ge=1, le=100_000, description="optimiser steps on the stored examples")
    lr: float = Field(2e-3, gt=0, le=10, description="learning rate of these steps")


class Consolidation(nn.Module, Plugin):
    """Turns the experts of the bank into those that act. By default these are the same.

    `experts` is the number of those that act, E of a decision that is applied. Where `trains`, the parameters of this module are
    trained on stored examples after every task (its options are then TrainedOptions), under `oracle_decision`.
    """

    kind = "consolidation"
    trains: ClassVar[bool] = False

    def __init__(self, options: Options, router: Router, layers: Sequence[LayerInfo]):
        """`router`: what will choose; `layers`: the adapted layers in forward order."""
        super().__init__()
        self.options, self.layers, self.heads, self.experts = options, layers, router.heads, 0

    @classmethod
    def steps_of(cls, options: Any) -> int:
        """Optimiser steps on stored examples after every task."""
        return options.steps if cls.trains else 0

    def grow(self, experts: int) -> None:
        """The bank now holds so many experts."""
        self.experts = experts

    @property
    def choices(self) -> int:
        """How many experts the router weighs."""
        return self.experts

    def after_expert_trained(self, experts: Sequence[Mapping[str, Tensor]]) -> None:
        """The newest expert is trained; `experts`: parameters of all, named `<layer>.<parameter>`."""

    def acting(self, experts: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
        """Parameters of the experts that act, from those of the bank."""
        return experts

    def applied(self, decision: Decision) -> Decision:
        """The router's decision as one over the experts that act."""
        return decision

    def step_descriptions(self, router: Router) -> Mapping[str, str]:
        """What the steps of an applied decision are, where more can be said than in routing_record.STEPS."""
        return router.step_descriptions

    def names(self, experts: Sequence[str]) -> list[str]:
        """Names of the experts that act, from those of the bank's."""
        return list(experts)

    def owner(self, task: Tensor) -> Tensor:
        """Numbers of the acting experts (B,) that are right for tasks (B,)."""
        return task

    def oracle_decision(self, task: Tensor) -> Decision:
        """Perfect routing: weight 1 for the expert of each row's task (B,)."""
        return Decision(one_hot(self.owner(task), self.experts, self.heads))
