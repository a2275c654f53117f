"""LoRA (Hu et al. 2021): y + scale * x A^T B^T, with A random and B zero at the start."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.core.errors import LabError
from lab.experts import _composition, _targets
from lab.experts.base import Expert, ExpertOptions, LayerInfo, uniform

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedModel


class LoraOptions(ExpertOptions):
    name: str = "lora"
    rank: int = Field(8, ge=1, le=1024, description="inner width r of an expert")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / r")
    rslora: bool = Field(False, description="scale by alpha / sqrt(r) instead (Kalajdzievski 2023)")


class Lora(Expert):
    """Low-rank update of a linear layer, by default of the query and value projections; saved in peft's format."""

    name = "lora"
    computation = "parameters, low rank"
    Options = LoraOptions
    options: LoraOptions
    peft_format = True

    @property
    def scale(self) -> float:
        """Factor of the update: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        return scale_of(self.options.alpha, self.options.rank, self.options.rslora)

    def targets(self, model: "PreTrainedModel") -> Sequence[str] | None:
        return _targets.low_rank(model)

    def new(self, layer: LayerInfo, generator: torch.Generator) -> dict[str, Tensor]:
        a = uniform((self.options.rank, layer.inputs), 1 / math.sqrt(layer.inputs), generator)  # (r, I), as peft draws it
        return {"lora_A": a, "lora_B": torch.zeros(layer.outputs, self.options.rank)}

    @classmethod
    def options_for(cls, saved: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The largest rank, and the scale that all have, so that their factors stay as they are; else scale 1."""
        rank = max(config["r"] for config in saved)
        scales = {scale_of(config["lora_alpha"], config["r"], config.get("use_rslora", False)) for config in saved}
        scale = scales.pop() if len(scales) == 1 and min(scales) > 0 else 1.0
        return {"rank": rank, "alpha": rank * scale, "rslora": False}

    def fitted(self, parameters: dict[str, Tensor], fresh: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        """A lower rank is filled up with directions that nothing is written from; another scale goes into B."""
        a, b = parameters["lora_A"], parameters["lora_B"]
        rank = len(a)
        if rank > self.options.rank:
            raise LabError(f"its rank is {rank}, the experts of this bank have {self.options.rank}: use -o experts.rank={rank}")
        b = nn.functional.pad(b * (scale / self.scale), (0, self.options.rank - rank))
        if a.shape[1:] == fresh["lora_A"].shape[1:]:
            a = torch.cat([a, fresh["lora_A"][rank:]])
        return {"lora_A": a, "lora_B": b}

    def output(self, base: nn.Module, x: Tensor, stack: dict[str, Tensor], w: Tensor, how: str) -> Tensor:
        y = base(x)
        return (y + self.scale * _composition.lora(x, stack["lora_A"], stack["lora_B"], w, how)).to(y.dtype)

    def peft_config(self, names: Sequence[str], base: str) -> dict:
        return {
            "peft_type": "LORA",
            "task_type": "FEATURE_EXTRACTION",
            "base_model_name_or_path": base,
            "r": self.options.rank,
            "lora_alpha": self.options.alpha,
            "use_rslora": self.options.rslora,
            "target_modules": list(names),
            "lora_dropout": 0.0,
            "bias": "none",
            "inference_mode": True,
            "fan_in_fan_out": False,
        }


def scale_of(alpha: float, rank: int, rslora: bool) -> float:
    """Factor of an update: alpha / r, or alpha / sqrt(r) for rsLoRA."""
    return alpha / (math.sqrt(rank) if rslora else rank)
