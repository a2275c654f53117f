"""(IA)^3 (Liu et al. 2022): learned vectors rescale keys, values and the inner activations of the feed-forward layers."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.core.errors import LabError
from lab.experts import _targets
from lab.experts.base import Expert, ExpertOptions, LayerInfo

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedModel


class Ia3Options(ExpertOptions):
    name: str = "ia3"
    feedforward: list[str] = Field(
        list(_targets.FEED_FORWARD),
        description="endings of names of layers whose input is rescaled; of the other targets the output is",
    )


class Ia3(Expert):
    """A vector of factors per layer: y * l of the output, or x * l of the input in feed-forward layers; saved in peft's format.

    Composed, the changes l - 1 are summed: s = 1 + sum_e w_e (l_e - 1). The layer is linear in s, so "mix" and "merge" are one
    function; where the weights sum to one, s = sum_e w_e l_e. With routing heads a weight applies to its block of the features.
    """

    name = "ia3"
    computation = "function, features rescaled"
    Options = Ia3Options
    options: Ia3Options
    peft_format = True

    def targets(self, model: "PreTrainedModel") -> Sequence[str] | None:
        return _targets.rescaled(model, self.options.feedforward)

    def scales_input(self, name: str) -> bool:
        """Whether of this layer the input is rescaled."""
        return name.endswith(tuple(self.options.feedforward))

    def new(self, layer: LayerInfo, generator: torch.Generator) -> dict[str, Tensor]:
        return {"ia3_l": torch.ones((1, layer.inputs) if self.scales_input(layer.name) else (layer.outputs, 1))}

    @classmethod
    def options_for(cls, saved: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The layers whose input any of them scales, from the number of the block on: what stands before differs by model."""
        names = {name for config in saved for name in config["feedforward_modules"]}
        return {"feedforward": sorted(re.sub(r"^.*?([^.]+\.\d+\.)", r"\1", name) for name in names)}

    def fitted(self, parameters: dict[str, Tensor], fresh: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        """The same vector, if it scales the side of the layer that experts of this bank scale."""
        if parameters["ia3_l"].T.shape == fresh["ia3_l"].shape != parameters["ia3_l"].shape:
            side = "input" if len(parameters["ia3_l"]) == 1 else "output"
            raise LabError(f"it scales the {side} of a layer, the experts of this bank do not: change experts.feedforward")
        return parameters

    def output(self, base: nn.Module, x: Tensor, stack: dict[str, Tensor], w: Tensor, how: str) -> Tensor:
        experts, _, inputs = stack["ia3_l"].shape  # (E, O, 1) or (E, 1, I)
        change = stack["ia3_l"].view(experts, w.shape[2], -1) - 1  # (E, H, block)
        s = 1 + torch.einsum("bthe,ehd->bthd", w, change).flatten(2)  # (B|1, T|1, O or I)
        if inputs > 1:
            return base(x * s)
        y = base(x)
        return (y * s).to(y.dtype)

    def check_heads(self, layer: LayerInfo, heads: int) -> None:
        width = layer.inputs if self.scales_input(layer.name) else layer.outputs
        super().check_heads(LayerInfo(layer.name, width, width), heads)

    def peft_config(self, names: Sequence[str], base: str) -> dict:
        return {
            "peft_type": "IA3",
            "task_type": "FEATURE_EXTRACTION",
            "base_model_name_or_path": base,
            "target_modules": list(names),
            "feedforward_modules": [name for name in names if self.scales_input(name)],
            "fan_in_fan_out": False,
            "inference_mode": True,
        }
