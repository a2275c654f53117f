"""Routing: what a router is asked, and the decision it returns.

Letters: B rows, T tokens, D width of the query, L adapted layers, H routing heads, E experts.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.expert import LayerInfo
from lab.registry import Options, Plugin


class RouterOptions(Options):
    """Options every router has."""

    heads: int = Field(1, ge=1, le=4096, description="routing heads: blocks of a layer's features with weights of their own")


@dataclass(frozen=True)
class Request:
    """What a router may look at: the query, the padding mask, noise while training, and the task only if it declares so."""

    mask: Tensor  # (B, T)
    query: Tensor | None = None  # (B, D): the frozen backbone's sequence representation
    task: Tensor | None = None  # (B,)
    noise: torch.Generator | None = None  # given while the router is trained


@dataclass
class Decision:
    """Weights of the experts, as a value: `weights` (B | 1, L | 1, H, E), over `experts` (None: all of the bank).

    `losses` are the router's own named loss terms. `composition` replaces the bank's. `steps` are the named values that lead to
    the weights, each of their shape and in order; they are for people and change nothing.
    """

    weights: Tensor | None
    experts: tuple[int, ...] | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    composition: str | None = None
    steps: dict[str, Tensor] = field(default_factory=dict)

    def at(self, layer: int, x: Tensor) -> Tensor:
        """Weights (B | 1, H, E) of one layer with input x; a router that decides per token returns (B | 1, T, H, E)."""
        return self.weights[:, layer if self.weights.shape[1] > 1 else 0]

    def held(self) -> "Decision":
        """The decision for the tokens that are written after the text: the same weights."""
        return self

    def recorded(self) -> Tensor | None:
        """Weights (B | 1, L | 1, H, E) that were used, with means over tokens where the decision was per token."""
        return self.weights

    def recorded_steps(self) -> dict[str, Tensor]:
        """The steps in the shape of `recorded`; empty where the router names none."""
        return self.steps


class LayerDecision(Decision):
    """A decision made inside the layers: `decide(layer, x)` gives the weights from the layer's input.

    It may give a mapping of named steps in their place, of which the last one is the weights.
    """

    def __init__(self, decide: Callable[[int, Tensor], Tensor | dict[str, Tensor]]):
        super().__init__(weights=None)
        self.decide = decide
        self.made: dict[int, Tensor] = {}
        self.made_steps: dict[int, dict[str, Tensor]] = {}

    def at(self, layer: int, x: Tensor) -> Tensor:
        found = self.decide(layer, x)
        if isinstance(found, dict):
            self.made_steps[layer] = found
            found = [*found.values()][-1]
        self.made[layer] = found
        return found

    def held(self) -> Decision:
        """Weights per example stay what they were made of; per token they are decided anew, and those of the text stay recorded."""
        per_token = any(w.dim() == 4 for w in self.made.values())
        return LayerDecision(self.decide) if per_token else Decision(self.recorded())

    def recorded(self) -> Tensor | None:
        return _over_layers(self.made) if self.made else None

    def recorded_steps(self) -> dict[str, Tensor]:
        names = next(iter(self.made_steps.values()), {})
        return {name: _over_layers({layer: steps[name] for layer, steps in self.made_steps.items()}) for name in names}


def _over_layers(made: dict[int, Tensor]) -> Tensor:
    """(B | 1, L, H, E) from what each layer made; means over tokens where it is per token."""
    return torch.stack([w.mean(1) if w.dim() == 4 else w for _, w in sorted(made.items())], dim=1)


class Router(nn.Module, Plugin):
    """What chooses among the experts. `uses_task_id` is a declared privilege: evaluation withholds the task otherwise."""

    Options: ClassVar[type[RouterOptions]] = RouterOptions
    uses_task_id: ClassVar[bool] = False
    uses_query: bool = False  # needs the frozen backbone's sequence representation
    reads_layers: bool = False  # decides per example from the text in every layer, which the decoder of an encoder-decoder lacks

    def __init__(self, options: RouterOptions, layers: Sequence[LayerInfo], width: int):
        """`layers`: the adapted layers in forward order; `width`: D of the query."""
        super().__init__()
        self.options, self.layers, self.width, self.experts = options, layers, width, 0

    @property
    def heads(self) -> int:
        return self.options.heads

    def grow(self, experts: int) -> None:
        """The bank now holds so many experts."""
        self.experts = experts

    def reset(self, generator: torch.Generator, queries: Sequence[Tensor], owners: Tensor) -> None:
        """Begin anew; stored examples may help: their queries, as in `standardise`, and the experts of their tasks (N,)."""

    def standardise(self, queries: Sequence[Tensor]) -> None:
        """Per adapted layer, the queries (N, D) of the stored examples in the frozen backbone; default: nothing is learned."""

    @abstractmethod
    def forward(self, request: Request) -> Decision:
        """The weights of the experts for every row of the request."""


def one_hot(index: Tensor, experts: int, heads: int) -> Tensor:
    """Weights (B, 1, H, E) that give each row one expert; index (B,)."""
    return nn.functional.one_hot(index, experts).float()[:, None, None, :].expand(-1, 1, heads, -1)


def normalised(weights: Tensor, eps: float = 1e-12) -> Tensor:
    """Weights that sum to one over the experts."""
    return weights / (weights.sum(-1, keepdim=True) + eps)
