"""PHATGOOSE (Muqeeth, Liu, Liu and Raffel 2024): a gate per expert and layer, trained after its expert on the same examples.

Gate training: the output of the one expert is weighed per token by sigmoid(x v), x the layer's input, v from 0; all else is
frozen. Routing, per token and layer: s_e = norm(x) norm(v_e) / sqrt(I) over I features, norm(z) = (z - mean z) / spread z; the
weights are the softmax of s over the `top_k` largest.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from lab.experts.base import LayerInfo
from lab.routers.base import (
    Axes,
    Decision,
    GateOptions,
    HasGates,
    LayerDecision,
    Request,
    Router,
    Trained,
    needs_experts_per_task,
    top_softmax,
)


class PhatgooseOptions(GateOptions):
    name: str = "phatgoose"
    top_k: int = Field(2, ge=1, le=1000, description="experts that act on a token; more than there are means all")


class Phatgoose(Router, HasGates):
    """Per token and layer the experts whose own gates fit the input best; each gate is trained on its task alone."""

    name = "phatgoose"
    axes = Axes("layer", "token", "hard")
    Options = PhatgooseOptions
    options: PhatgooseOptions
    step_descriptions = {
        "scores": "how well each token fits the gate that was trained for each expert; mean over the tokens",
        "weights": "for each token the softmax of its largest scores, 0 for the others; mean over the tokens",
    }
    trained = Trained.AFTER_EXPERT
    fresh: Tensor  # (): new gates are made on its device

    def __init__(self, options: PhatgooseOptions, layers: Sequence[LayerInfo], width: int):
        super().__init__(options, layers, width)
        self.vectors = nn.ModuleList(nn.ParameterList() for _ in layers)  # per layer and expert (I,)
        self.register_buffer("fresh", torch.zeros(()), persistent=False)

    def of_layer(self, layer: int) -> nn.ParameterList:
        """Gates of the experts in one layer, each (I,)."""
        return cast(nn.ParameterList, self.vectors[layer])

    @classmethod
    def check(cls, config: Any) -> None:
        needs_experts_per_task(config)

    def grow(self, experts: int) -> None:
        for i, layer in enumerate(self.layers):
            self.of_layer(i).extend(nn.Parameter(self.fresh.new_zeros(layer.inputs)) for _ in range(self.experts, experts))
        super().grow(experts)

    def gate(self, k: int) -> dict[str, nn.Parameter]:
        return {f"vectors.{layer}.{k}": self.of_layer(layer)[k] for layer in range(len(self.layers))}

    def gated(self, k: int) -> Decision:
        def decide(layer: int, x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, enabled=False):
                gate = torch.sigmoid(x.float() @ self.of_layer(layer)[k])  # (B, T)
                return gate[:, :, None, None].expand(-1, -1, self.heads, 1)

        return LayerDecision(decide, experts=(k,))

    def forward(self, request: Request) -> Decision:
        def decide(layer: int, x: Tensor) -> dict[str, Tensor]:
            width = x.shape[-1:]
            with torch.autocast(x.device.type, enabled=False):
                vectors = layer_norm(torch.stack([*self.of_layer(layer)]), width)  # (E, I)
                scores = layer_norm(x.float(), width) @ vectors.T / width[0] ** 0.5  # (B, T, E)
                weights = top_softmax(scores, self.options.top_k)
            steps = {"scores": scores, "weights": weights}
            return {name: step.unsqueeze(2).expand(-1, -1, self.heads, -1) for name, step in steps.items()}

        return LayerDecision(decide, request.mask)
