"""Changes of routing weights, whatever router gave them."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lab.core.errors import LabError, unknown
from lab.routers.base import Decision, LayerDecision, normalised


@dataclass(frozen=True)
class Override:
    """A change of routing weights, whatever router gave them; nothing set: no change.

    `pruned` are numbers of experts that do not act; the others get their weight in proportion, before any other change. `expert`
    or `uniform` replace the weights by others that sum to one. Else `temperature` t raises them to the power 1/t (of a softmax
    the same as dividing its logits by t) and `top` leaves the largest so many; both keep the sum over the experts. `without` are
    numbers of routing heads that are switched off: their blocks of features are those of the frozen backbone. Where a router
    subtracts the mean of all experts, it does so after the change, and the mean stays that of all.
    """

    expert: int | None = None
    uniform: bool = False
    temperature: float = 1.0
    top: int | None = None
    without: tuple[int, ...] = ()
    pruned: tuple[int, ...] = ()

    def check(self, heads: int, experts: int) -> None:
        """LabError if the change does not fit a decision over so many heads and experts."""
        if self.expert is not None and not 0 <= self.expert < experts:
            raise LabError(f"there is no expert {self.expert}: use 0 to {experts - 1}")
        if not self.temperature > 0:
            raise LabError(f"temperature = {self.temperature}: it must be above 0")
        if self.top is not None and not 1 <= self.top <= experts:
            raise LabError(f"top = {self.top}: use 1 to {experts}")
        if not set(self.without) <= set(range(heads)):
            raise LabError(f"without = {list(self.without)}: this run has {heads} routing head(s), numbered from 0")
        if not set(self.pruned) < set(range(experts)):
            raise LabError(f"pruned = {list(self.pruned)}: this run has {experts} expert(s), numbered from 0, and one must stay")
        if self.expert in self.pruned:
            raise LabError(f"expert {self.expert} is pruned and cannot act alone: choose another one")

    def __call__(self, w: Tensor) -> Tensor:
        """Weights (..., H, E) -> weights of the same shape."""
        acts = torch.ones_like(w).index_fill(-1, torch.tensor(self.pruned, dtype=torch.long, device=w.device), 0.0)
        if self.expert is not None:
            changed = torch.zeros_like(w)
            changed[..., self.expert] = 1
        elif self.uniform:
            changed = acts / acts.sum(-1, keepdim=True)
        else:
            changed, total = w, w.sum(-1, keepdim=True)
            if self.pruned:
                changed = total * normalised(w * acts)
            if self.temperature != 1:
                most = changed.amax(-1, keepdim=True).clamp_min(1e-30)
                changed = total * normalised((changed / most) ** (1 / self.temperature))
            if self.top is not None:
                largest = torch.zeros_like(w).scatter(-1, changed.topk(self.top).indices, 1.0)
                changed = total * normalised(changed * largest)
        if self.without:
            on = torch.ones(w.shape[-2], 1, device=w.device, dtype=w.dtype)
            on[list(self.without)] = 0
            changed = changed * on
        return changed

    def of(self, decision: Decision) -> Decision:
        """The decision with its weights changed, whether they were made before the layers or are made in them.

        The weights as they were stay among its steps.
        """

        def changed(steps: dict[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
            return steps | {"weights": weights, "changed": self(weights)}

        if not isinstance(decision, LayerDecision):
            assert decision.weights is not None, "only decisions made in the layers have no weights yet"
            steps = changed(decision.steps, decision.weights)
            return replace(decision, weights=steps["changed"], steps=steps)

        def decide(layer: int, x: Tensor) -> dict[str, Tensor]:
            made = decision.decide(layer, x)
            steps = made if isinstance(made, dict) else {"weights": made}
            return changed(steps, [*steps.values()][-1])

        used = copy.copy(decision)
        used.decide, used.layer_weights, used.layer_steps = decide, {}, {}
        return used


def override_of(
    experts: Sequence[str],
    heads: int,
    *,
    expert: str | int | None = None,
    uniform: bool = False,
    temperature: float = 1.0,
    top: int | None = None,
    without: Sequence[int] = (),
    pruned: Sequence[str | int] = (),
) -> Override:
    """The change with experts given by name or number; LabError for what does not fit these experts and routing heads."""

    def number(named: str | int) -> int:
        if isinstance(named, str) and named not in experts:
            raise unknown("expert", named, experts)
        return experts.index(named) if isinstance(named, str) else named

    change = Override(
        None if expert is None else number(expert), uniform, temperature, top, tuple(without), tuple(map(number, pruned))
    )
    change.check(heads, len(experts))
    return change
