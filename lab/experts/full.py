"""Full fine-tuning: an expert is the difference between fine-tuned and pretrained weights, of every layer that has some."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lab.core.errors import LabError
from lab.experts.base import Expert, ExpertOptions, LayerInfo


class FullOptions(ExpertOptions):
    name: str = "full"


class Full(Expert):
    """All weights of the backbone are trained: linear layers, embeddings and norms. The expert holds what is added to them.

    The difference (the task vector of Ilharco et al. 2023) is kept and trained in float32 also where the frozen weights are
    rounded to bfloat16, so no small step is lost. Composed differences are summed; the layers are linear in their weights, so
    "mix" and "merge" are one function. With routing heads a weight applies to its block of the layer's output.
    """

    name = "full"
    computation = "parameters, all"
    Options = FullOptions

    @classmethod
    def check(cls, config: Any) -> None:
        if config.experts.allocation != "shared" or config.router.name != "uniform":
            raise LabError(
                "experts.name = full is one set of weights, trained on task after task: "
                "use experts.allocation=shared and router=uniform"
            )

    def targets(self, model: nn.Module) -> Sequence[str]:
        return ["*"]

    def adapts(self, module: nn.Module, model: nn.Module) -> bool:
        own = any(True for _ in module.parameters(recurse=False))
        if own and any(True for _ in module.children()):
            kind = type(module).__name__
            raise LabError(f"experts.name = full cannot train weights beside inner layers, as in {kind}: use lora")
        return own

    def new(self, layer: LayerInfo, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.zeros(shape) for name, shape in layer.shapes}

    def output(self, base: nn.Module, x: Tensor, stack: dict[str, Tensor], w: Tensor, how: str) -> Tensor:
        experts, heads = w.shape[-1], w.shape[2]
        if w.numel() == experts:  # the same for all rows: one layer with the weighted sum of the differences
            total = {name: (parts * w.view(-1, *[1] * (parts.dim() - 1))).sum(0) for name, parts in stack.items()}
            return self._tuned(base, x, total)
        y = base(x)
        out = y.unflatten(-1, (heads, -1))  # (B, T, H, O / H)
        for e in range(experts):
            alone = self._tuned(base, x, {name: parts[e] for name, parts in stack.items()})
            out = out + (alone - y).unflatten(-1, (heads, -1)) * w[..., e, None]
        return out.flatten(-2).to(y.dtype)

    @staticmethod
    def _tuned(base: nn.Module, x: Tensor, change: dict[str, Tensor]) -> Tensor:
        """The base layer with changed weights; they are summed in float32."""
        return functional_call(base, {name: p.float() + change[name] for name, p in base.named_parameters()}, (x,))

    def check_heads(self, layer: LayerInfo, heads: int) -> None:
        super().check_heads(LayerInfo(layer.name, layer.outputs, layer.outputs), heads)
