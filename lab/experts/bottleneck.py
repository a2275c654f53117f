"""Bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2021): y + up(relu(down(y))) behind a sub-layer's projection."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lab.experts import _composition, _targets
from lab.experts.base import Expert, ExpertOptions, LayerInfo, uniform

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedModel


class BottleneckOptions(ExpertOptions):
    name: str = "bottleneck"
    size: int = Field(24, ge=1, le=4096, description="inner width of an adapter")
    placement: Literal["houlsby", "pfeiffer"] = Field(
        "houlsby",
        description="houlsby: behind the attention and the feed-forward sub-layer; pfeiffer: behind the feed-forward one only",
    )


class Bottleneck(Expert):
    """Down-projection, ReLU, up-projection, added to the sub-layer's output before the residual sum.

    Saved in the lab's own layout (one safetensors file, `<layer>.<down|down_bias|up|up_bias>`), since peft has no such module.
    """

    name = "bottleneck"
    computation = "function, layers put in"
    Options = BottleneckOptions
    options: BottleneckOptions

    def targets(self, model: "PreTrainedModel") -> Sequence[str] | None:
        attention = _targets.ends_of_attention(model) if self.options.placement == "houlsby" else []
        feed_forward = _targets.ends_of_feed_forward(model)
        return [*attention, *feed_forward] if attention or (self.options.placement == "pfeiffer" and feed_forward) else None

    def new(self, layer: LayerInfo, generator: torch.Generator) -> dict[str, Tensor]:
        size, width = self.options.size, layer.outputs
        return {
            "down": uniform((size, width), 1 / math.sqrt(width), generator),  # (s, O)
            "down_bias": torch.zeros(size),
            "up": torch.zeros(width, size),  # (O, s): a fresh adapter adds nothing
            "up_bias": torch.zeros(width),
        }

    def output(self, base: nn.Module, x: Tensor, stack: dict[str, Tensor], w: Tensor, how: str) -> Tensor:
        y = base(x)
        return (y + self._added(y, stack, w, how)).to(y.dtype)

    def _added(self, y: Tensor, stack: dict[str, Tensor], w: Tensor, how: str) -> Tensor:
        """What the composed adapters add to the sub-layer's output y (B, T, O)."""
        down, down_bias, up, up_bias = (stack[name] for name in ("down", "down_bias", "up", "up_bias"))
        if how == "merge" and w.shape[1] == 1:
            return self._merged(y, down, down_bias, up, up_bias, w[:, 0])
        if how == "merge":  # per token: every token is a row of its own
            rows, tokens = y.shape[:2]
            flat = w.expand(rows, tokens, -1, -1).reshape(rows * tokens, *w.shape[2:])  # (B*T, H, E)
            added = self._merged(y.reshape(rows * tokens, 1, -1), down, down_bias, up, up_bias, flat)
            return added.view(rows, tokens, -1)
        experts, size, _ = down.shape
        z = F.relu(F.linear(y, down.reshape(experts * size, -1), down_bias.reshape(-1))).view(*y.shape[:2], experts, size)
        per_row = w.reshape(-1, *w.shape[2:])  # (B*T | ..., H, E)
        bias = _composition.merged_bias(up_bias, per_row).view(*w.shape[:2], -1)  # (B|1, T|1, O)
        return _composition.mix(z, up, w) + bias

    @staticmethod
    def _merged(y: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor, w: Tensor) -> Tensor:
        """One adapter from weighted sums; w (b, H, E). The inner bias belongs to no block: it takes the mean over the heads."""
        inner_bias = (w.mean(1) @ down_bias).unsqueeze(1)  # (b, 1, s)
        z = F.relu(_composition.apply(y, _composition.merged_down(down, w)) + inner_bias)
        return _composition.apply(z, _composition.merged_up(up, w)) + _composition.merged_bias(up_bias, w).unsqueeze(1)

    def check_heads(self, layer: LayerInfo, heads: int) -> None:
        super().check_heads(LayerInfo(layer.name, layer.outputs, layer.outputs), heads)
