"""Orthogonal low-rank adaptation (O-LoRA, Wang et al. 2023): a new LoRA is kept out of the subspaces of the earlier ones."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lab.core.errors import LabError
from lab.core.registry import Options
from lab.data.batching import Batch
from lab.methods.base import Method
from lab.models.learner import Output


class OrthogonalOptions(Options):
    name: str = "orthogonal"
    strength: float = Field(0.5, ge=0, description="weight of the penalty (lambda_1)")


class Orthogonal(Method):
    """The term strength * sum |A_old A_new^T| over adapted layers, earlier experts and pairs of their rows (r x r each).

    This is the form of the released code; the paper squares the entries.
    """

    name = "orthogonal"
    Options = OrthogonalOptions
    options: OrthogonalOptions

    @classmethod
    def check(cls, config: Any) -> None:
        if config.experts.name != "lora" or config.experts.allocation != "per_task":
            raise LabError(
                "methods.orthogonal holds a new LoRA orthogonal to earlier ones: "
                "use experts.name=lora and experts.allocation=per_task"
            )

    def terms(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        layers, new = self.learner.bank.routed_layers, len(self.learner.bank) - 1
        if not new:
            return {}
        overlaps = []
        for layer in layers:
            old = layer.stack(tuple(range(new)))["lora_A"].flatten(0, 1)  # (E - 1) * r, I
            overlaps.append((old @ layer.expert(new)["lora_A"].T).abs().sum())
        return {"orthogonal": self.options.strength * torch.stack(overlaps).sum()}
