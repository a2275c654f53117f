"""The two ways to compose low-rank experts, exact for every shape of the weights.

Letters: B rows, T tokens, I features in, O features out, E experts, r rank, H routing heads. Weights w have the shape
(B | 1, T | 1, H, E): per example or per token, one row per routing head, a contiguous block of features.

`mix` is the weighted sum of the experts' outputs; with routing heads it is defined per block of output features:
out[block h] = sum_e w[h, e] * (x A_e) B_e[:, block h].
`merge` is one expert whose parameters are weighted sums (Ponti et al. 2022, Eq. 3; Caccia et al. 2023 with H > 1): input block
h of A and output block h of B are summed with w[h]. The two agree only where w is one-hot.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def mix(z: Tensor, up: Tensor, w: Tensor) -> Tensor:
    """Weighted sum of expert outputs from the experts' inner activations.

    z (B, T, E, r) inner activations, up (E, O, r), w (B|1, T|1, H, E) -> (B, T, O), as one GEMM over E * r.
    """
    rows, tokens, experts, rank = z.shape
    heads, out = w.shape[2], up.shape[1]
    flat = up.transpose(1, 2).reshape(experts * rank, out)  # (E*r, O)
    if heads == 1:
        return (z * w[:, :, 0, :, None]).reshape(rows, tokens, experts * rank) @ flat
    scaled = (z.unsqueeze(2) * w.unsqueeze(-1)).reshape(rows, tokens, heads, experts * rank)  # (B, T, H, E*r)
    return torch.einsum("bthk,kho->btho", scaled, flat.view(experts * rank, heads, -1)).reshape(rows, tokens, out)


def _weighted(equation: str, w: Tensor, parameters: Tensor) -> Tensor:
    """Weighted sums of parameters, in full precision also where autocast is on."""
    precise = torch.promote_types(parameters.dtype, torch.float32)
    with torch.autocast(parameters.device.type, enabled=False):
        return torch.einsum(equation, w.to(precise), parameters.to(precise)).to(parameters.dtype)


def merged_down(down: Tensor, w: Tensor) -> Tensor:
    """Down projections summed per input block: down (E, r, I), w (b, H, E) -> (b, r, I)."""
    experts, rank, width = down.shape
    split = down.view(experts, rank, w.shape[1], -1)  # (E, r, H, I/H)
    return _weighted("bhe,erhi->brhi", w, split).reshape(len(w), rank, width)


def merged_up(up: Tensor, w: Tensor) -> Tensor:
    """Up projections summed per output block: up (E, O, r), w (b, H, E) -> (b, O, r)."""
    experts, out, rank = up.shape
    split = up.view(experts, w.shape[1], -1, rank)  # (E, H, O/H, r)
    return _weighted("bhe,ehor->bhor", w, split).reshape(len(w), out, rank)


def merged_bias(bias: Tensor, w: Tensor) -> Tensor:
    """Output-side biases summed per output block: bias (E, O), w (b, H, E) -> (b, O)."""
    experts, out = bias.shape
    return _weighted("bhe,eho->bho", w, bias.view(experts, w.shape[1], -1)).reshape(len(w), out)


def apply(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, T, I) through weight (b, O, I), b in {1, B} -> (B, T, O)."""
    return F.linear(x, weight[0]) if len(weight) == 1 else torch.bmm(x, weight.transpose(1, 2))


def lora(x: Tensor, a: Tensor, b: Tensor, w: Tensor, how: str) -> Tensor:
    """Composed low-rank update without its scale: x (B, T, I), a (E, r, I), b (E, O, r), w (B|1, T|1, H, E) -> (B, T, O)."""
    experts, rank, _ = a.shape
    if how == "mix":
        z = F.linear(x, a.reshape(experts * rank, -1)).view(*x.shape[:2], experts, rank)  # (B, T, E, r)
        return mix(z, b, w)
    if w.shape[1] == 1:
        return apply(apply(x, merged_down(a, w[:, 0])), merged_up(b, w[:, 0]))
    # Per token, merged factors would need (B, T, r, I) numbers; the same sums in their low-rank order need (B, T, H, E, r).
    heads = w.shape[2]
    split = x.view(*x.shape[:2], heads, -1)  # (B, T, H, I/H)
    inner = torch.einsum("bthi,erhi->bther", split, a.view(experts, rank, heads, -1))  # (B, T, H, E, r)
    s = (inner * w.unsqueeze(-1)).sum((2, 3))  # (B, T, r)
    return mix(s.unsqueeze(2).expand(-1, -1, experts, -1), b, w)
