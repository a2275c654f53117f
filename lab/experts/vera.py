"""VeRA (Kopiczko, Blankevoort and Asano 2024): y + b * (B (d * (A x))), with random A and B shared by all layers and experts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lab.experts import _composition, _targets
from lab.experts.base import Expert, ExpertOptions, LayerInfo, uniform

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedModel


class VeraOptions(ExpertOptions):
    name: str = "vera"
    rank: int = Field(256, ge=1, le=4096, description="inner width r of the shared matrices")
    d_initial: float = Field(0.1, gt=0, le=10, description="first value of the inner vector d; the outer one, b, begins as 0")
    projection_seed: int = Field(0, ge=0, le=2**31 - 1, description="decides A and B; the same for all experts that act together")


class Vera(Expert):
    """Two trained scaling vectors per layer around frozen random matrices that all experts share.

    A (r, I) and B (O, r) are drawn once, as wide as the widest layer, from U(-c, c) with c = sqrt(6 / columns), the same numbers
    as peft draws for the same seed; a layer takes the columns of A and the rows of B that it needs. "mix" sums the outputs of the
    experts, "merge" their vectors. With routing heads a weight applies to its block of b; d belongs to no block, and merging
    takes its mean over the heads. Saved in the lab's own layout (`<layer>.<vera_lambda_b|vera_lambda_d>`), without A and B.
    """

    name = "vera"
    computation = "parameters, low rank with shared random factors"
    Options = VeraOptions
    options: VeraOptions
    must_agree = ("projection_seed",)

    def targets(self, model: "PreTrainedModel") -> Sequence[str] | None:
        return _targets.low_rank(model)

    def shared(self, layers: Sequence[LayerInfo]) -> dict[str, Tensor]:
        rank, chance = self.options.rank, torch.Generator().manual_seed(self.options.projection_seed)
        inputs, outputs = max(layer.inputs for layer in layers), max(layer.outputs for layer in layers)
        return {
            "vera_A": uniform((rank, inputs), (6 / inputs) ** 0.5, chance),
            "vera_B": uniform((outputs, rank), (6 / rank) ** 0.5, chance),
        }

    def new(self, layer: LayerInfo, generator: torch.Generator) -> dict[str, Tensor]:
        d = torch.full((self.options.rank,), self.options.d_initial)
        return {"vera_lambda_b": torch.zeros(layer.outputs), "vera_lambda_d": d}

    def output(self, base: nn.Module, x: Tensor, stack: dict[str, Tensor], w: Tensor, how: str) -> Tensor:
        y = base(x)
        b, d = stack["vera_lambda_b"], stack["vera_lambda_d"]  # (E, O), (E, r)
        down, up = stack["vera_A"][:, : x.shape[-1]], stack["vera_B"][: y.shape[-1]]  # (r, I), (O, r)
        z = F.linear(x, down)  # (B, T, r)
        if how == "mix":
            added = _composition.mix(z.unsqueeze(2) * d, b.unsqueeze(-1) * up, w)
        else:
            rows = w.flatten(0, 1)  # (B*T | ..., H, E)
            inner = (w.mean(2) @ d) * z  # (B, T, r)
            added = _composition.merged_bias(b, rows).view(*w.shape[:2], -1) * F.linear(inner, up)
        return (y + added).to(y.dtype)

    def check_heads(self, layer: LayerInfo, heads: int) -> None:
        super().check_heads(LayerInfo(layer.name, layer.outputs, layer.outputs), heads)
