"""Routing by the directions that LoRA updates amplify (Ostapenko et al. 2024), for LoRAs of tasks and of clusters of tasks.

Expert e with the update D_e = B_e A_e in a layer: p_e is the first right singular vector of D_e. Per token and layer
s_e = |x p_e|, neither side scaled to length one; the weights are the softmax of s / temperature over the `top_k` largest.
General knowledge subtracted (GenKnowSub, Bagherifard et al. 2025): D_e - G in place of D_e throughout, G the mean of all experts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lab.experts.base import LayerInfo
from lab.routers.base import (
    Axes,
    Decision,
    LayerDecision,
    MadeOfExperts,
    Request,
    Router,
    RouterOptions,
    needs_experts_per_task,
    top_softmax,
)


class DirectionOptions(RouterOptions):
    top_k: int = Field(4, ge=1, le=1000, description="experts that act on a token; more than there are means all")
    temperature: float = Field(1.0, gt=0, le=100, description="of the softmax over the scores of these; lower is harder")
    subtract_mean: bool = Field(False, description="subtract from every expert the mean of all experts, as general knowledge")


class ByDirection(Router, MadeOfExperts):
    """A prototype per expert and layer, made of the expert's parameters; see the head of this file."""

    axes = Axes("layer", "token", "hard")
    options: DirectionOptions
    step_descriptions = {
        "scores": "how far each token goes along the direction that the expert's update amplifies most; mean over the tokens",
        "weights": "for each token the softmax of its largest scores, 0 for the others; mean over the tokens",
    }

    def __init__(self, options: DirectionOptions, layers: Sequence[LayerInfo], width: int):
        super().__init__(options, layers, width)
        for i, layer in enumerate(layers):
            self.register_buffer(f"prototype{i}", torch.zeros(0, layer.inputs))  # (E, I)

    @classmethod
    def check(cls, config: Any) -> None:
        needs_experts_per_task(config, "lora")

    def grow(self, experts: int) -> None:
        for i, layer in enumerate(self.layers):
            old = getattr(self, f"prototype{i}")
            setattr(self, f"prototype{i}", torch.cat([old, old.new_zeros(experts - self.experts, layer.inputs)]))
        super().grow(experts)

    def read_experts(self, experts: Sequence[Mapping[str, Tensor]]) -> None:
        for i, layer in enumerate(self.layers):
            a, b = (torch.stack([expert[f"{layer.name}.{part}"] for expert in experts]) for part in ("lora_A", "lora_B"))
            getattr(self, f"prototype{i}").copy_(self.prototypes(a, b))

    def prototypes(self, a: Tensor, b: Tensor) -> Tensor:
        """Prototypes (E, I) of the experts of one layer from their factors a (E, r, I) and b (E, O, r)."""
        if not self.options.subtract_mean:
            return torch.stack([amplified(down, up) for down, up in zip(a, b, strict=True)])
        rows = []
        for k in range(len(a)):  # D_k - G as one product: the factors of all side by side, each with its share
            share = torch.eye(len(a), device=b.device)[k] - 1 / len(a)
            rows.append(amplified(a.flatten(0, 1), (b * share[:, None, None]).transpose(0, 1).flatten(1)))
        return torch.stack(rows)

    def forward(self, request: Request) -> Decision:
        def decide(layer: int, x: Tensor) -> dict[str, Tensor]:
            with torch.autocast(x.device.type, enabled=False):
                scores = (x.float() @ getattr(self, f"prototype{layer}").T).abs()  # (B, T, E)
                steps = {"scores": scores, "weights": top_softmax(scores, self.options.top_k, self.options.temperature)}
            return {name: step.unsqueeze(2).expand(-1, -1, self.heads, -1) for name, step in steps.items()}  # (B, T, H, E)

        return (Subtracted if self.options.subtract_mean else LayerDecision)(decide, request.mask)


class Subtracted(LayerDecision):
    """Experts without their mean: sum_e w_e (D_e - G) is a mix of the experts with weights w_e - (sum w) / E. Recorded is w."""

    def acting(self, w: Tensor) -> Tensor:
        return w - w.mean(-1, keepdim=True)


def amplified(a: Tensor, b: Tensor) -> Tensor:
    """First right singular vector (I,) of the product b a, with a (r, I) and b (O, r), in float64 and without making it.

    With a^T = Q_a R_a and b = Q_b R_b, b a = Q_b (R_b R_a^T) Q_a^T: its singular vectors are those of an r x r matrix, turned.
    """
    q_a, r_a = torch.linalg.qr(a.double().T)
    r_b = torch.linalg.qr(b.double(), mode="r").R
    _, _, v = torch.linalg.svd(r_b @ r_a.T)
    return q_a @ v[0]
