"""Routing: what a router is asked, and the decision it returns.

Letters: B rows, T tokens, D width of the query, L adapted layers, H routing heads, E experts.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.core.errors import LabError, RunFailed
from lab.core.registry import Options, Plugin
from lab.experts.base import LayerInfo


class RouterOptions(Options):
    """Options every router has."""

    heads: int = Field(1, ge=1, le=4096, description="routing heads: blocks of a layer's features with weights of their own")


class GateOptions(RouterOptions):
    """Options of a router that trains a gate of its own for every expert, after it and on the same examples."""

    steps: int = Field(100, ge=1, le=100_000, description="optimiser steps on the task's examples, once its expert is trained")
    lr: float = Field(1e-3, gt=0, le=10, description="learning rate of the gates")


@dataclass(frozen=True)
class Request:
    """What a router may look at: the query, the padding mask, noise while training, and the task only if it declares so."""

    mask: Tensor  # (B, T)
    query: Tensor | None = None  # (B, D): the frozen backbone's sequence representation
    task: Tensor | None = None  # (B,)
    noise: torch.Generator | None = None  # given while the router is trained
    embedded: Tensor | None = None  # (B, T, D): the tokens as the frozen backbone embeds them, without positions


@dataclass(frozen=True)
class Match:
    """What was looked up: queries, and the keys they were compared with in the same space; for people, it changes nothing."""

    query: Tensor  # (B, D)
    keys: Tensor | None = None  # (P, D)
    experts: Sequence[int] = ()  # whose each key is


@dataclass
class Decision:
    """Weights of the experts, as a value: `weights` (B | 1, L | 1, H, E), over `experts` (None: all of the bank).

    `losses` are the router's own named loss terms. `composition` replaces the bank's. `steps` are the named values that lead to
    the weights, each of their shape and in order; they are for people and change nothing.
    So is `match`, where one query per example led to them (its keys are None unless the largest dot product wins); of routers
    with a query in each layer, that of the last one.
    """

    weights: Tensor | None
    experts: tuple[int, ...] | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    composition: str | None = None
    steps: dict[str, Tensor] = field(default_factory=dict)
    stacks: Sequence[dict[str, Tensor]] | None = None  # per layer, stacked parameters that act in place of the bank's
    match: Match | None = None
    of: str = ""  # whose it is, for errors

    @property
    def rows(self) -> int | None:
        """How many rows of a batch it tells apart; None: none, or not known before a layer decides."""
        assert self.weights is not None, "a decision without weights makes them in the layers"
        return len(self.weights) if len(self.weights) > 1 else None

    def weights_for_layer(self, layer: int, x: Tensor) -> Tensor:
        """Weights (B | 1, H, E) of one layer with input x; a router that decides per token returns (B | 1, T, H, E)."""
        assert self.weights is not None, "a decision without weights makes them in the layers"
        return self.weights[:, layer if self.weights.shape[1] > 1 else 0]

    def weights_again(self, layer: int, per_token: bool) -> Tensor:
        """The weights that `weights_for_layer` has made in this pass, for a further input of the layer.

        An input that is not made of the tokens (`per_token` false; relative positions) gets the means over the tokens of a row.
        """
        return self.weights_for_layer(layer, torch.empty(0))

    def for_generation(self) -> "Decision":
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

    It may give a mapping of named steps in their place, of which the last one is the weights. What is recorded of weights per
    token are means over the tokens of `mask` (B, T), or over all. Without a mask, layers that are given the tokens of all rows
    one behind the other cannot tell the rows apart. A layer that is called several times in a pass decides at its first call.
    """

    def __init__(
        self,
        decide: Callable[[int, Tensor], Tensor | dict[str, Tensor]],
        mask: Tensor | None = None,
        experts: tuple[int, ...] | None = None,
        stacks: Sequence[dict[str, Tensor]] | None = None,
    ):
        super().__init__(weights=None, experts=experts, stacks=stacks)
        self.decide, self.mask = decide, mask
        self.layer_weights: dict[int, Tensor] = {}
        self.layer_steps: dict[int, dict[str, Tensor]] = {}

    @property
    def rows(self) -> int | None:
        return None if self.mask is None else len(self.mask)

    def weights_for_layer(self, layer: int, x: Tensor) -> Tensor:
        weights = self.decide(layer, x)
        if isinstance(weights, dict):
            self.layer_steps[layer] = weights
            weights = [*weights.values()][-1]
        self.layer_weights[layer] = weights
        return self.acting(weights)

    def weights_again(self, layer: int, per_token: bool) -> Tensor:
        w = self.layer_weights[layer]
        return self.acting(w if per_token or w.dim() == 3 else self._over_tokens(w))

    def acting(self, w: Tensor) -> Tensor:
        """What the experts are multiplied with, from the weights that are recorded."""
        return w

    def for_generation(self) -> Decision:
        """Weights per example stay; per token they are decided anew, and those of the text stay recorded."""
        per_token = any(w.dim() == 4 for w in self.layer_weights.values())
        if not per_token:
            return Decision(self.recorded(), self.experts, composition=self.composition, stacks=self.stacks)
        again = copy.copy(self)
        again.layer_weights, again.layer_steps = {}, {}
        return again

    def recorded(self) -> Tensor | None:
        return self._over_layers(self.layer_weights) if self.layer_weights else None

    def recorded_steps(self) -> dict[str, Tensor]:
        names = next(iter(self.layer_steps.values()), {})
        return {name: self._over_layers({layer: steps[name] for layer, steps in self.layer_steps.items()}) for name in names}

    def _over_layers(self, by_layer: dict[int, Tensor]) -> Tensor:
        """(B | 1, L, H, E) from what each layer made; means over tokens where it is per token."""
        return torch.stack([self._over_tokens(w) if w.dim() == 4 else w for _, w in sorted(by_layer.items())], dim=1)

    def _over_tokens(self, w: Tensor) -> Tensor:
        """(B, T, H, E) -> (B, H, E); layers that see one vector per row, not its tokens, have nothing to leave out."""
        if self.mask is None or self.mask.shape != w.shape[:2]:
            return w.mean(1)
        share = self.mask.to(w.dtype) / self.mask.sum(1, keepdim=True)  # (B, T)
        return (w * share[..., None, None]).sum(1)


class Axes(NamedTuple):
    """A router's place among modular systems, see lab.analysis.taxonomy; what makes its choice: `Router.choice`."""

    level: str  # layer: every adapted layer has weights of its own | model: all layers share them
    granularity: str  # what may be given weights of its own: all | task | example | token
    hardness: str  # hard: one expert or a few | soft: all of them


class Trained(StrEnum):
    """When the parameters of a router are trained, and on which examples."""

    NO = "no"
    WITH_EXPERTS = "with experts"  # on the examples of every task, while its experts are
    AFTER_EXPERT = "after its expert"  # on the examples of a task, once its expert is trained and frozen, see HasGates
    ON_MEMORY = "on the memory"  # on stored examples of all tasks so far


class Reads(StrEnum):
    """What a router reads beside the padding mask."""

    QUERY = "query"  # the frozen backbone's sequence representation
    EMBEDDED = "embedded tokens"
    LAYERS = "layer inputs"  # of the text, one vector per example; the decoder of an encoder-decoder lacks them
    TASK = "task identity"  # a privilege that is declared: it is withheld from all others


class Router(nn.Module, Plugin):
    """What chooses among the experts.

    A router needs a name, options, its place (`axes`), what it reads, when it is trained, and `forward`. Where it keeps something
    of tasks, of experts or of stored examples, it is one of the classes below too: TaskAware, MadeOfExperts, MadeOfExamples,
    HasGates, FromMemory. What it keeps between tasks are buffers or parameters that `grow` or `add_task` give their final
    shape: a resumed run calls these and then loads the values.
    """

    kind = "router"
    Options: ClassVar[type[RouterOptions]] = RouterOptions
    axes: ClassVar[Axes]
    trained: ClassVar[Trained] = Trained.NO
    reads: frozenset[Reads] = frozenset()
    step_descriptions: Mapping[str, str] = {}  # of steps of its decision of which more can be said than in routing_record.STEPS

    @classmethod
    def check(cls, config: Any) -> None:
        """Refuses experts that a router made of experts or examples is never told of: those not trained alone, one per task."""
        if cls.choice() == "computed":
            needs_experts_per_task(config)

    @classmethod
    def axes_of(cls, options: RouterOptions) -> Axes:
        """Its place with these options."""
        return cls.axes

    @classmethod
    def reads_of(cls, options: RouterOptions) -> frozenset[Reads]:
        """What it reads with these options."""
        return cls.reads

    @classmethod
    def without_layers(cls, options: RouterOptions) -> RouterOptions:
        """Options with which it does not read layer inputs, for encoder-decoders; default: there are none, and it is refused."""
        return options

    @classmethod
    def choice(cls) -> str:
        """What makes the choice: "fixed", "learned", or "computed" from the experts or from statistics of their data."""
        if cls.trained is not Trained.NO:
            return "learned"
        return "computed" if issubclass(cls, MadeOfExperts | MadeOfExamples) else "fixed"

    def __init__(self, options: RouterOptions, layers: Sequence[LayerInfo], width: int):
        """`layers`: the adapted layers in forward order; `width`: D of the query."""
        super().__init__()
        self.options, self.layers, self.width, self.experts = options, layers, width, 0
        self.reads = self.reads_of(options)

    @property
    def heads(self) -> int:
        return self.options.heads

    def grow(self, experts: int) -> None:
        """There are now so many experts to choose among."""
        self.experts = experts

    @abstractmethod
    def forward(self, request: Request) -> Decision:
        """The weights of the experts for every row of the request."""


class TaskAware(ABC):
    """A router that keeps something of every task."""

    @abstractmethod
    def add_task(self, task: int, classes: int, generator: torch.Generator) -> None:
        """Adds what is kept of task `task` (0-based), whose experts are there; 0 classes: it asks for free text."""

    def of_task(self, task: int) -> dict[str, nn.Parameter]:
        """Parameters that examples of this task train, by name; default: all there are."""
        return dict(cast(nn.Module, self).named_parameters())


class MadeOfExperts(ABC):
    """A router that is computed from the parameters of the experts."""

    @abstractmethod
    def read_experts(self, experts: Sequence[Mapping[str, Tensor]]) -> None:
        """Parameters of all experts it chooses among, `<layer>.<parameter>`; some have changed since the last call."""


class MadeOfExamples(ABC):
    """A router that is computed from the training examples of every task; for isolated experts, one per task."""

    @abstractmethod
    def read_examples(self, task: int, query: Tensor, labels: Tensor) -> None:
        """Of the N training examples of the task just learned: queries in the frozen backbone (N, D), labels within it (N,)."""


class HasGates(ABC):
    """A router with a gate of its own for every expert, trained after it on the same examples; its options are GateOptions."""

    @abstractmethod
    def gate(self, k: int) -> dict[str, nn.Parameter]:
        """Parameters of the gate of expert k, by name."""

    @abstractmethod
    def gated(self, k: int) -> Decision:
        """The decision under which the gate of expert k is trained."""


class FromMemory(ABC):
    """A router that begins anew, with the help of stored examples, whenever it is trained on these."""

    def standardise(self, queries: Sequence[Tensor]) -> None:  # noqa: B027 (most compare what they are given as it is)
        """Per adapted layer, the queries (N, D) of the stored examples in the frozen backbone; default: nothing is learned."""

    @abstractmethod
    def reset(self, generator: torch.Generator, queries: Sequence[Tensor], owners: Tensor) -> None:
        """Begin anew. Of the stored examples: their queries, as in `standardise`, and the experts of their tasks (N,)."""


def loose_tensors(module: nn.Module) -> list[str]:
    """Names of tensors that a module keeps outside of its state, so that a resumed run would lack them; `_names` are caches."""
    return [
        name
        for part in module.modules()
        for name, value in vars(part).items()
        if not name.startswith("_")
        for held in ([value] if isinstance(value, Tensor) else _held(value))
        if isinstance(held, Tensor)
    ]


def _held(value: Any) -> Sequence[Any]:
    return [*value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()


def refuse_weights(of: str, w: Any, axes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
    """RunFailed for weights that are no numbers on the device with these axes, of which each has one of its sizes."""
    of = of or "the routing decision"
    if not isinstance(w, Tensor) or not w.is_floating_point():
        raise RunFailed(f"{of} gave weights that are {getattr(w, 'dtype', type(w).__name__)}: give a tensor of floats")
    if w.device.type != device.type:
        raise RunFailed(f"{of} gave weights on {w.device}, the model is on {device}: make them on request.mask.device")
    if w.dim() != len(axes) or any(size not in allowed for size, allowed in zip(w.shape, axes.values(), strict=True)):
        wanted = ", ".join(f"{name} {' or '.join(map(str, sorted({*allowed})))}" for name, allowed in axes.items())
        raise RunFailed(f"{of} gave weights of the shape {tuple(w.shape)}: expected ({wanted})")


def refuse_not_finite(decision: Decision | None) -> None:
    """RunFailed for a decision whose weights, as they were used, are not all finite; looks at the device."""
    w = decision.recorded() if decision else None
    if decision and w is not None and not bool(w.isfinite().all()):
        raise RunFailed(f"{decision.of or 'the routing decision'} gave weights that are not finite")


def one_hot(index: Tensor, experts: int, heads: int) -> Tensor:
    """Weights (B, 1, H, E) that give each row one expert; index (B,)."""
    return nn.functional.one_hot(index, experts).float()[:, None, None, :].expand(-1, 1, heads, -1)


def single_expert(k: int, device: torch.device) -> Decision:
    """The decision that only expert k acts, with weight 1.

    Both compositions are then the same function; it is always computed in the same form, so that an isolated expert
    has the same bytes in every recipe.
    """
    return Decision(torch.ones(1, 1, 1, 1, device=device), experts=(k,), composition="mix")


def top_softmax(scores: Tensor, k: int, temperature: float = 1.0) -> Tensor:
    """Weights (..., E): softmax of scores / temperature over the k largest, 0 for the others; k above E means all."""
    if k >= scores.shape[-1]:
        return torch.softmax(scores / temperature, -1)
    best = scores.topk(k, dim=-1)
    return torch.zeros_like(scores).scatter(-1, best.indices, torch.softmax(best.values / temperature, -1))


def needs_experts_per_task(config: Any, kind: str | None = None) -> None:
    """Refuse a configuration in which experts are not one per task, trained alone (and, if asked, of one kind)."""
    name, experts = config.router.name, config.experts
    if experts.allocation != "per_task" or not experts.isolated:
        raise LabError(
            f"router {name} chooses by what each task's own expert was trained on: "
            "use experts.allocation=per_task and experts.isolated=true"
        )
    if kind and experts.name != kind:
        raise LabError(f"router {name} reads the parameters of {kind} experts, experts.name is {experts.name}: use {kind}")


def normalised(weights: Tensor, eps: float = 1e-12) -> Tensor:
    """Weights that sum to one over the experts."""
    return weights / (weights.sum(-1, keepdim=True) + eps)
