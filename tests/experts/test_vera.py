"""VeRA: the function that peft's VeraModel computes, what is shared, and what is saved."""

import warnings

import pytest
import torch
from support import tiny
from support.tiny import hidden, rel

from lab.core.errors import LabError
from lab.routers.base import Decision, one_hot


def in_peft(made, name: str):
    """The bank's first expert as the adapter of a peft model; A and B are those that peft draws itself."""
    from peft import VeraConfig, get_peft_model

    targets = [layer.name for layer in made.layers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(tiny.model(name), VeraConfig(r=4, target_modules=targets, projection_prng_key=7)).eval()
    for layer in made.layers:
        theirs = wrapped.base_model.model.get_submodule(layer.name)
        for part in ("vera_lambda_b", "vera_lambda_d"):
            getattr(theirs, part)["default"].data.copy_(made.expert(0)[f"{layer.name}.{part}"].data)
    return wrapped


@pytest.mark.parametrize("how", ["mix", "merge"])
@pytest.mark.parametrize("name, targets", [("bert", ["query", "intermediate.dense"]), ("gpt2", ["c_attn"])])
def test_one_expert_is_peft_s(name, targets, how):
    """Layers of unequal shape too: they take parts of the same matrices."""
    host, made = tiny.bank(name, "vera", how, experts=2, rank=4, projection_seed=7, targets=targets)
    batch = tiny.tokens()
    with torch.no_grad(), made.routed(Decision(one_hot(torch.zeros(4, dtype=torch.long), 2, 1))):
        ours = hidden(host, batch)
    with torch.no_grad():
        assert rel(ours, hidden(in_peft(made, name), batch)) < 1e-5
        assert rel(ours, hidden(tiny.model(name), batch)) > 1e-3


@pytest.mark.parametrize("how", ["mix", "merge"])
def test_composed_experts_are_a_plain_loop(how):
    """Two routing heads, weights per example: mixed outputs, or vectors that are summed; d has the mean over the heads."""
    _, made = tiny.bank("bert", "vera", how, heads=2, experts=2, rank=4, targets=["query"])
    layer, x, w = made.routed_layers[0], torch.randn(3, 5, 32), tiny.weights(3, 2, 2)
    with torch.no_grad(), made.routed(Decision(w[:, None])):
        ours = layer(x) - layer.base(x)
    b, d = (torch.stack([expert[f"vera_lambda_{part}"].detach() for expert in layer.experts]) for part in "bd")
    down, up = made.shared["vera_A"], made.shared["vera_B"]
    block = torch.arange(32) // 16  # of each output feature
    for row in range(3):
        share = w[row, block]  # (O, E)
        if how == "mix":
            expected = sum(share[:, e] * b[e] * (x[row] @ down.T * d[e] @ up.T) for e in range(2))
        else:
            expected = (share * b.T).sum(1) * (x[row] @ down.T * (w[row].mean(0) @ d) @ up.T)
        assert rel(ours[row], expected) < 1e-4


def test_a_fresh_expert_changes_nothing_and_the_matrices_are_no_parameters():
    host, made = tiny.bank("bert", "vera", experts=0, rank=4, targets=["query"])
    made.grow("a", "test")
    batch = tiny.tokens()
    with torch.no_grad(), made.routed(Decision(torch.ones(1, 1, 1, 1))):
        assert torch.equal(hidden(host, batch), hidden(tiny.model("bert"), batch))
    assert {name.rpartition(".")[2] for name in made.expert(0)} == {"vera_lambda_b", "vera_lambda_d"}
    assert not any(tensor.requires_grad for tensor in made.shared.values())


def test_saved_experts_are_read_where_the_matrices_are_the_same(tmp_path):
    _, made = tiny.bank("bert", "vera", experts=1, rank=4, targets=["query"])
    made.export(0, tmp_path)
    _, same = tiny.bank("bert", "vera", experts=0, rank=4, targets=["query"])
    same.import_expert(tmp_path, "a")
    assert all(torch.equal(tensor, same.expert(0)[name]) for name, tensor in made.expert(0).items())
    _, other = tiny.bank("bert", "vera", experts=0, rank=4, projection_seed=1, targets=["query"])
    with pytest.raises(LabError, match="projection_seed is 0, the experts of this bank have 1"):
        other.import_expert(tmp_path, "a")
