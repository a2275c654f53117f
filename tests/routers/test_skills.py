"""The skills router and what it makes of an inventory: against the papers' equations, against peft's Poly, and by hand."""

import math
import warnings

import pytest
import torch
from scipy.special import digamma
from support import tiny
from support.skills import SCALE, SKILLS, TASKS, asked, draw, inventory, skills
from support.tiny import hidden, rel

from lab.core.errors import LabError
from lab.routers.base import Decision
from lab.routers.skills import BOUND, buffet

ROWS = torch.tensor([2, 0, 1, 0])


# the model ----------------------------------------------------------------------------------------------------------------


def published(layer: int, x, weights, a, b):
    """Camera-ready equations: a (H, S, I/H, r), b (H, S, r, O/H), weights (B, H, S) -> what the layer adds, (B, T, O)."""
    down = torch.einsum("bhs,hsir->bhir", weights, a).flatten(1, 2)  # (B, I, r)
    up = torch.einsum("bhs,hsro->brho", weights, b).flatten(2)  # (B, r, O)
    return SCALE * torch.einsum("bti,bir,bro->bto", x, down, up)


def blocks(bank, layer, heads: int):
    """Leaf copies of a layer's parameters in the papers' layout."""
    a = torch.stack([bank.expert(k)[f"{layer.name}.lora_A"].detach() for k in range(SKILLS)])  # (S, r, I)
    b = torch.stack([bank.expert(k)[f"{layer.name}.lora_B"].detach() for k in range(SKILLS)])  # (S, O, r)
    a = a.reshape(SKILLS, tiny.RANK, heads, -1).permute(2, 0, 3, 1).contiguous()
    b = b.reshape(SKILLS, heads, -1, tiny.RANK).permute(1, 0, 3, 2).contiguous()
    return a.requires_grad_(), b.requires_grad_()


@pytest.mark.parametrize("granularity", ["layer", "block", "global"])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_outputs_and_gradients_are_those_of_the_equations(heads, granularity):
    host, bank, router = inventory(heads, granularity=granularity)
    inputs, plain = tiny.tokens(), tiny.model("bert")
    copies = [blocks(bank, layer, heads) for layer in bank.layers]
    logits = torch.stack([row.detach() for row in router.logits]).requires_grad_()  # (T, G, H, S)
    for i, layer in enumerate(bank.layers):

        def add(module, args, out, i=i):
            gate = torch.sigmoid(logits[ROWS][:, router.table_of[i if len(router.table_of) > 1 else 0]])  # (B, H, S)
            return out + published(i, args[0], gate / (gate.sum(-1, keepdim=True) + 1e-12), *copies[i])

        plain.get_submodule(layer.name).register_forward_hook(add)
    expected = hidden(plain, inputs)
    tiny.readout(expected, inputs["attention_mask"]).backward()
    with bank.routed(router(asked(ROWS))):
        found = hidden(host, inputs)
        tiny.readout(found, inputs["attention_mask"]).backward()
    assert rel(expected, hidden(tiny.model("bert"), inputs)) > 0.01  # the skills matter
    assert rel(found, expected) < 1e-5
    assert rel(torch.stack([row.grad for row in router.logits]), logits.grad) < 1e-5
    for layer, (a, b) in zip(bank.layers, copies, strict=True):
        ours_a = torch.stack([bank.expert(k)[f"{layer.name}.lora_A"].grad for k in range(SKILLS)])
        ours_b = torch.stack([bank.expert(k)[f"{layer.name}.lora_B"].grad for k in range(SKILLS)])
        assert rel(ours_a.reshape(SKILLS, tiny.RANK, heads, -1), a.grad.permute(1, 3, 0, 2)) < 1e-5
        assert rel(ours_b.reshape(SKILLS, heads, -1, tiny.RANK), b.grad.permute(1, 0, 3, 2)) < 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_outputs_and_gradients_are_those_of_peft_poly(heads):
    from peft import PolyConfig, get_peft_model

    host, bank, router = inventory(heads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = PolyConfig(
            task_type="FEATURE_EXTRACTION",
            r=tiny.RANK,
            n_tasks=TASKS,
            n_skills=SKILLS,
            n_splits=heads,
            target_modules=[layer.name for layer in bank.layers],
            init_weights=False,
        )
        theirs = get_peft_model(tiny.model("bert"), settings).eval()
    for i, layer in enumerate(bank.layers):
        module, (a, b) = theirs.base_model.model.get_submodule(layer.name), blocks(bank, layer, heads)
        module.poly_lora_A["default"].data, module.poly_lora_B["default"].data = a.data, b.data
        module.poly_router["default"].module_logits.data = torch.stack([row[i].flatten() for row in router.logits]).detach()
    inputs = tiny.tokens()
    with bank.routed(router(asked(ROWS))):
        found = hidden(host, inputs)
        tiny.readout(found, inputs["attention_mask"]).backward()
    expected = theirs(**inputs, task_ids=ROWS).last_hidden_state
    tiny.readout(expected, inputs["attention_mask"]).backward()
    assert rel(found, expected) < 1e-5
    for i, layer in enumerate(bank.layers):
        module = theirs.base_model.model.get_submodule(layer.name)
        a, b = (torch.stack([bank.expert(k)[f"{layer.name}.lora_{part}"].grad for k in range(SKILLS)]) for part in "AB")
        a_theirs, b_theirs = module.poly_lora_A["default"].grad, module.poly_lora_B["default"].grad
        assert rel(a.reshape(SKILLS, tiny.RANK, heads, -1), a_theirs.permute(1, 3, 0, 2)) < 1e-5
        assert rel(b.reshape(SKILLS, heads, -1, tiny.RANK), b_theirs.permute(1, 0, 3, 2)) < 1e-5
        logits = torch.stack([row.grad[i].flatten() for row in router.logits])
        assert rel(logits, module.poly_router["default"].module_logits.grad) < 1e-5


def test_skills_under_uniform_weights_learn_what_one_lora_learns():
    """Why mhr-mu and poly-mu need one LoRA: each skill gets 1/S of their mean's gradient, and Adam sees no scale."""
    found = []
    for collapsed in (False, True):
        host, bank = tiny.bank("bert", composition="merge", experts=SKILLS, alpha=1.0)
        if collapsed:
            bank.average("average")
        host.double()
        parameters = [p.requires_grad_() for k in range(len(bank)) for p in bank.expert(k).values()]
        adam, inputs = torch.optim.Adam(parameters, lr=0.01, eps=1e-20), tiny.tokens()
        decision = Decision(torch.full((1, 1, 1, len(bank)), 1 / len(bank), dtype=torch.float64))
        for layer in bank.routed_layers:
            layer.changed()
        outputs = []
        for _ in range(50):
            with bank.routed(decision):
                outputs.append(hidden(host, inputs))
                loss = (outputs[-1] * inputs["attention_mask"].unsqueeze(-1)).square().mean()
                adam.zero_grad()
                loss.backward()
            adam.step()
        found.append((outputs[0].detach(), outputs[-1].detach()))
    (first, last), (_, alone) = found
    assert rel(last, first) > 0.1 and rel(alone, last) < 1e-5


# the table ----------------------------------------------------------------------------------------------------------------


def test_weights_are_normalised_rows():
    """By hand: gates 1/2 and 3/4, epsilon 1/4, so the sum is divided by 3/2."""
    _, bank, router = inventory(1, tasks=1, epsilon=0.25)
    for row in router.logits:
        row.data = torch.tensor([0.0, math.log(3), -200.0, -200.0]).expand_as(row).clone()
    found = router(asked(torch.zeros(4, dtype=torch.long))).weights
    assert found.shape == (1, len(bank.layers), 1, SKILLS)  # one task: its parameters are merged once
    assert torch.allclose(found, torch.tensor([1 / 3, 1 / 2, 0, 0]).expand_as(found))


def test_training_samples_a_relaxed_bernoulli_for_every_example_and_layer():
    _, bank, router = inventory(2, temperature=0.5)
    same = torch.tensor([1, 1, 1, 1])
    decision = router(asked(same, draw(3)))
    u = torch.rand(4, len(bank.layers), 2, SKILLS, generator=draw(3))
    gate = torch.sigmoid((router.logits[1] + torch.log(u / (1 - u))) / 0.5)  # Eq. 2
    assert torch.allclose(decision.weights, gate / gate.sum(-1, keepdim=True), atol=1e-5)
    assert not torch.allclose(decision.weights[0], decision.weights[1], atol=1e-2)
    plain = skills(bank.layers, 2, gate="sigmoid")
    assert torch.equal(plain(asked(ROWS, draw(3))).weights, plain(asked(ROWS)).weights)


def test_new_tasks_leave_the_rows_of_others_alone():
    _, _, router = inventory(2)
    before = [row.detach().clone() for row in router.logits]
    router.add_task(3, 0, draw(9))
    assert all(torch.equal(row, old) for row, old in zip(router.logits, before, strict=False))
    fresh = router.logits[3]
    assert 0 < fresh.abs().max() <= BOUND and fresh.unique().numel() == fresh.numel()
    other = skills(router.layers, 2, tasks=0)
    other.add_task(0, 0, draw(9))
    assert torch.equal(other.logits[0], fresh)  # drawn by its key, not by its place
    router.grow(SKILLS + 2)
    assert all(torch.equal(row[..., :SKILLS], old) for row, old in zip(router.logits, before, strict=False))
    assert list(router.of_task(3)) == ["logits.3"] and router.of_task(3)["logits.3"] is router.logits[3]


def test_granularity_says_what_shares_a_table():
    _, bank, _ = inventory(1)  # query and value of two blocks
    assert [layer.name.split(".")[2] for layer in bank.layers] == ["0", "0", "1", "1"]
    for granularity, tables, equal in (("layer", 4, []), ("block", 2, [(0, 1), (2, 3)]), ("global", 1, [])):
        weights = skills(bank.layers, granularity=granularity)(asked(ROWS)).weights
        assert weights.shape == (4, 1 if granularity == "global" else 4, 1, SKILLS)
        assert weights[0, :, 0].unique(dim=0).shape[0] == tables
        assert all(torch.equal(weights[:, i], weights[:, j]) for i, j in equal)


def test_the_task_must_be_known():
    with pytest.raises(LabError, match="the skills router needs the task identity of every row"):
        inventory(1)[2](asked(None))


# the prior ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        # two tasks; columns used by both and by one: 2 log a - 3/2 a + (0! 1! / 2!) + (1! 0! / 2!)
        ([[1, 0], [1, 1]], 2 * math.log(3) - 4.5 - 2 * math.log(2)),
        # two equal columns: 2! ways to order them
        ([[1, 1], [0, 0]], 2 * math.log(3) - 4.5 - 2 * math.log(2) - math.log(2)),
        # a skill that nobody uses does not count
        ([[1, 0], [1, 0]], math.log(3) - 4.5 - math.log(2)),
        # three tasks, m = 2 and 3: (1! 1! / 3!) and (0! 2! / 3!)
        ([[1, 1], [1, 1], [0, 1]], 2 * math.log(3) - 3 * (1 + 1 / 2 + 1 / 3) - math.log(6) - math.log(3)),
        ([[0, 0], [0, 0]], -4.5),
    ],
)
def test_indian_buffet_prior_by_hand(z, expected):
    soft = (torch.tensor(z) * 0.8 + 0.1).requires_grad_()  # entries are rounded
    found = buffet(soft, alpha=3.0)
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_gradient_of_the_prior_is_that_of_the_number_of_tasks():
    soft = torch.tensor([[0.9, 0.2], [0.8, 0.7], [0.3, 0.6]], requires_grad=True)
    buffet(soft, alpha=3.0).backward()
    expected = [digamma(m) - digamma(3 - m + 1) for m in (2, 2)]
    assert torch.allclose(soft.grad, torch.tensor(expected, dtype=torch.float32).expand(3, 2), atol=1e-5)


def test_the_prior_is_a_loss_in_training_only_and_of_the_rows_being_trained():
    _, _, router = inventory(2, prior=0.5, alpha=3.0)
    assert "prior" not in router(asked(ROWS)).losses
    router.logits[2].requires_grad_(False)
    found = router(asked(ROWS, draw(1))).losses["prior"]
    tables = torch.sigmoid(torch.stack([router.logits[0], router.logits[1]]))  # (T, L, H, S)
    parts = [buffet(tables[:, g, h], 3.0) for g in range(tables.shape[1]) for h in range(2)]
    assert found.item() == pytest.approx(-0.5 * sum(parts).item() / len(parts), rel=1e-5)
