"""Soft prompts (Lester et al. 2021): trained vectors that stand before the embedded tokens; the backbone is left as it is."""

import torch
from pydantic import Field
from torch import Tensor

from lab.experts.base import ExpertOptions, InputExpert, LayerInfo, uniform


class PromptOptions(ExpertOptions):
    name: str = "prompt"
    length: int = Field(10, ge=1, le=1024, description="positions of one prompt")


class Prompt(InputExpert):
    """Vectors before the embedded tokens, drawn from U(-1/2, 1/2).

    "mix": the prompts of all experts whose weight is not 0 stand one behind the other, that of the newest expert first (as in
    Progressive Prompts), each times its weight; weights of 0 and 1 choose. "merge": one prompt, the weighted sum (as in MoCL).
    With routing heads a weight applies to its block of features. Only the tokens' positions leave the model, so the sequence
    representation is pooled over the text alone; the positions of the text are counted from behind the prompts.
    """

    name = "prompt"
    computation = "input, soft prompt"
    Options = PromptOptions
    options: PromptOptions

    def new(self, layer: LayerInfo, generator: torch.Generator) -> dict[str, Tensor]:
        return {"prompt": uniform((self.options.length, layer.outputs), 0.5, generator)}  # (P, D)

    def before(self, stack: dict[str, Tensor], w: Tensor, how: str) -> tuple[Tensor, Tensor]:
        prompts = stack["prompt"].unflatten(-1, (w.shape[1], -1))  # (E, P, H, D / H)
        scaled = (w.transpose(1, 2)[:, :, None, :, None] * prompts).flatten(-2)  # (b, E, P, D)
        if how == "merge":
            merged = scaled.sum(1)
            return merged, torch.ones(merged.shape[:2], dtype=torch.bool, device=w.device)
        acts = (w != 0).any(1).flip(1).repeat_interleave(self.options.length, 1)  # (b, E * P)
        return scaled.flip(1).flatten(1, 2), acts

    def positions(self, experts: int, how: str) -> int:
        return self.options.length * (experts if how == "mix" else 1)
