"""Composition against plain loops in float64, written from the definitions and from nothing else."""

import pytest
import torch
from support.tiny import rel

from lab.core import registry
from lab.experts import _composition

B, T, I, O, E, R = 2, 3, 8, 12, 3, 2  # noqa: E741
SHAPES = {"row": (B, 1), "shared": (1, 1), "token": (B, T), "shared over rows": (1, T)}


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts(heads: int, shape: tuple[int, int]):
    """x, stacked A and B, and signed weights that are not normalised."""
    return numbers(B, T, I), numbers(E, R, I, seed=1), numbers(E, O, R, seed=2), numbers(*shape, heads, E, seed=3)


def at(w: torch.Tensor, b: int, t: int) -> torch.Tensor:
    return w[min(b, len(w) - 1), min(t, w.shape[1] - 1)]  # (H, E)


def block_sum(matrices, w, heads: int, axis: int) -> torch.Tensor:
    """sum over e of w[h, e] * matrices[e], where index i of `axis` belongs to head h = i // (width / heads)."""
    total = torch.zeros_like(matrices[0])
    width = total.shape[axis]
    for e in range(len(matrices)):
        for i in range(width):
            total.select(axis, i).add_(w[i // (width // heads), e] * matrices[e].select(axis, i))
    return total


def lora_mix(x, a, b, w, heads):
    """Per output block h: sum over e of w[h, e] * (B_e A_e x)[block h]."""
    out = torch.zeros(*x.shape[:2], b.shape[1], dtype=x.dtype)
    for row in range(x.shape[0]):
        for t in range(x.shape[1]):
            outputs = [b[e] @ (a[e] @ x[row, t]) for e in range(len(a))]
            out[row, t] = block_sum(outputs, at(w, row, t), heads, 0)
    return out


def lora_merge(x, a, b, w, heads):
    """One module: input block h of A and output block h of B are summed with w[h]."""
    out = torch.zeros(*x.shape[:2], b.shape[1], dtype=x.dtype)
    for row in range(x.shape[0]):
        for t in range(x.shape[1]):
            here = at(w, row, t)
            out[row, t] = block_sum(b, here, heads, 0) @ (block_sum(a, here, heads, 1) @ x[row, t])
    return out


def bottleneck_mix(y, stack, w, heads):
    out = y.clone()
    for row in range(y.shape[0]):
        for t in range(y.shape[1]):
            outputs = []
            for e in range(E):
                z = torch.clamp(stack["down"][e] @ y[row, t] + stack["down_bias"][e], min=0)
                outputs.append(stack["up"][e] @ z + stack["up_bias"][e])
            out[row, t] += block_sum(outputs, at(w, row, t), heads, 0)
    return out


def bottleneck_merge(y, stack, w, heads):
    out = y.clone()
    for row in range(y.shape[0]):
        for t in range(y.shape[1]):
            here = at(w, row, t)
            inner_bias = sum(here[:, e].mean() * stack["down_bias"][e] for e in range(E))  # of no block: mean over the heads
            z = torch.clamp(block_sum(stack["down"], here, heads, 1) @ y[row, t] + inner_bias, min=0)
            out[row, t] += block_sum(stack["up"], here, heads, 0) @ z + block_sum(stack["up_bias"], here, heads, 0)
    return out


def bottleneck_stack() -> dict[str, torch.Tensor]:
    return {
        "down": numbers(E, R, O, seed=1),
        "down_bias": numbers(E, R, seed=2),
        "up": numbers(E, O, R, seed=3),
        "up_bias": numbers(E, O, seed=4),
    }


def bottleneck(y, stack, w, how):
    kind = registry.experts.get("bottleneck")(registry.experts.options({"name": "bottleneck", "size": R}))
    return kind.output(torch.nn.Identity(), y, stack, w, how)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("how", ["mix", "merge"])
def test_lora_is_its_definition(how, heads, shape):
    x, a, b, w = parts(heads, SHAPES[shape])
    expected = {"mix": lora_mix, "merge": lora_merge}[how](x, a, b, w, heads)
    assert rel(_composition.lora(x, a, b, w, how), expected) < 1e-12
    single = _composition.lora(x.float(), a.float(), b.float(), w.float(), how)
    assert single.dtype == torch.float32
    assert rel(single, expected) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("how", ["mix", "merge"])
def test_bottleneck_is_its_definition(how, heads, shape):
    y, stack, w = numbers(B, T, O), bottleneck_stack(), numbers(*SHAPES[shape], heads, E, seed=5)
    expected = {"mix": bottleneck_mix, "merge": bottleneck_merge}[how](y, stack, w, heads)
    assert rel(bottleneck(y, stack, w, how), expected) < 1e-12


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("how", ["mix", "merge"])
def test_forms_agree_per_row_and_per_token(how, heads):
    x, a, b, w = parts(heads, (B, 1))
    spread = w.expand(B, T, heads, E)
    assert rel(_composition.lora(x, a, b, spread, how), _composition.lora(x, a, b, w, how)) < 1e-12
    y, stack = numbers(B, T, O), bottleneck_stack()
    assert rel(bottleneck(y, stack, spread, how), bottleneck(y, stack, w, how)) < 1e-12


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_mix_is_merge_where_one_expert_has_it_all_and_only_there(heads):
    x, a, b, w = parts(heads, (B, 1))
    chosen = torch.nn.functional.one_hot(torch.tensor([2, 0]), E).double()[:, None, None].expand(B, 1, heads, E)
    mixed, merged = (_composition.lora(x, a, b, chosen, how) for how in ("mix", "merge"))
    alone = torch.stack([x[0] @ a[2].T @ b[2].T, x[1] @ a[0].T @ b[0].T])
    assert rel(mixed, alone) < 1e-12
    assert rel(merged, alone) < 1e-12
    soft = w.softmax(-1)
    assert rel(_composition.lora(x, a, b, soft, "mix"), _composition.lora(x, a, b, soft, "merge")) > 0.05
    half = torch.full((B, 1, heads, E), 0.5, dtype=torch.float64) * chosen  # one expert, but not with weight 1
    assert rel(_composition.lora(x, a, b, half, "merge"), 0.5 * _composition.lora(x, a, b, half, "mix")) < 1e-12
    y, stack = numbers(B, T, O), bottleneck_stack()
    assert rel(bottleneck(y, stack, chosen, "mix"), bottleneck(y, stack, chosen, "merge")) < 1e-12
    assert rel(bottleneck(y, stack, soft, "mix"), bottleneck(y, stack, soft, "merge")) > 0.01


def test_heads_that_agree_are_one_head_in_mix_and_in_merge():
    x, a, b, w = parts(1, (B, 1))
    for how in ("mix", "merge"):
        four = _composition.lora(x, a, b, w.expand(B, 1, 4, E), how)
        assert rel(four, _composition.lora(x, a, b, w, how)) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", ["mix", "merge"])
def test_gradients_are_those_of_the_definition(how, shape):
    given = parts(2, SHAPES[shape])
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in given] for _ in range(2))
    readout = numbers(B, T, O, seed=9)
    (_composition.lora(*ours, how) * readout).sum().backward()
    ({"mix": lora_mix, "merge": lora_merge}[how](*theirs, 2) * readout).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert rel(mine.grad, other.grad) < 1e-12
