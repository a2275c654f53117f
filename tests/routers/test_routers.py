"""The contract of a router, for every router there is, and the gates against their formulas."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from support import tiny, toy
from support.tiny import hidden, rel
from torch.distributions import RelaxedBernoulli

from lab.contracts import routers as contract
from lab.contracts.checking import same, title
from lab.contracts.routers import EXPERTS, LAYERS, ROWS, TASK, add_task, asked, begin, noise, numbers, randomise, weights
from lab.core.registry import routers
from lab.routers.base import (
    Decision,
    LayerDecision,
    Request,
    Router,
    normalised,
    one_hot,
)

GATES = {
    "/".join(map(str, values)): dict(zip(("gate", "evaluation", "query", "hidden"), values, strict=True))
    for values in itertools.product(
        ("gumbel-sigmoid", "sigmoid", "softmax"), ("soft", "top1", "threshold"), ("backbone", "layer"), (0, 5)
    )
}
CASES = {name: {"name": name} for name in routers.names()} | {
    f"gates/{case}": {"name": "gates", **given} for case, given in GATES.items()
}
CASES["l2p"]["top"] = 2  # of the three experts there are here
CASES["gates/raw"] = {"name": "gates", "normalise": False, "temperature": 0.5}
CASES["gates/raw/layer"] = {"name": "gates", "normalise": False, "query": "layer"}
CASES["gates/tasks"] = {"name": "gates", "start": "tasks"}
CASES["attention/backbone"] = {"name": "attention", "query": "backbone"}
CASES["sparse/normalise"] = {"name": "sparse", "normalise": True, "hold": 1.0}
CASES["sparse/stick-breaking"] = {"name": "sparse", "rule": "stick-breaking", "top_k": 1000, "balance": 1.0}
CASES["prototype/mahalanobis"] = {"name": "prototype", "distance": "mahalanobis", "top_k": 2}
CASES["prototype/all"] = {"name": "prototype", "per": "task", "top_k": 1000, "temperature": 0.1}


def build(case: str, *args, **more) -> Router:
    """The router of a case, see `contract.build`; `more`: options, and `values`."""
    values = more.pop("values", True)
    return contract.build(routers.options(CASES[case] | more), *args, values=values)


@pytest.mark.parametrize("check", contract.CHECKS, ids=title)
@pytest.mark.parametrize("case", CASES)
def test_contract(case, check):
    check(routers.options(CASES[case]))


def test_keys_are_drawn_anew_for_another_generator():
    for case in ("attention", "sparse"):
        first, other = (build(case, values=False) for _ in range(2))
        for router, seed in ((first, 6), (other, 7)):
            router.grow(EXPERTS + 1)
            add_task(router, 1, noise(seed))
        assert not same([*first.state_dict().values()], [*other.state_dict().values()])


def test_uniform_and_oracle():
    uniform, oracle = build("uniform", 2), build("oracle", 2)
    assert torch.equal(uniform(asked(uniform)).weights, torch.full((1, 1, 2, 3), 1 / 3))
    decided = oracle(asked(oracle)).weights
    assert decided.shape == (ROWS, 1, 2, 3)
    assert torch.equal(decided.argmax(-1)[:, 0], TASK[:, None].expand(-1, 2))
    assert torch.equal(decided.sum(-1), torch.ones(ROWS, 1, 2))


# -- gates ---------------------------------------------------------------------------------------------------------------------


def logits_by_hand(router: Router, query: torch.Tensor, layer: int) -> torch.Tensor:
    """W q + b with q standardised by the mean and spread of its features, in plain loops; (B, H, E)."""
    out = torch.zeros(len(query), router.heads, EXPERTS)
    for row in range(len(query)):
        q = (query[row] - getattr(router, f"mean{layer}")) / getattr(router, f"spread{layer}") / len(query[row]) ** 0.5
        if router.hidden:
            q = torch.tanh(router.hidden[layer] @ q)
        for h in range(router.heads):
            for e in range(EXPERTS):
                out[row, h, e] = router.weight[layer][h, e] @ q + router.bias[layer][h, e]
    return out


@pytest.mark.parametrize("hidden_width", [0, 5])
@pytest.mark.parametrize("gate", ["gumbel-sigmoid", "sigmoid", "softmax"])
def test_gates_in_evaluation_are_their_formula(gate, hidden_width):
    router = build("gates", 2, gate=gate, temperature=0.7, hidden=hidden_width, query="backbone")
    request = asked(router)
    w = weights(router, request)
    for layer in range(len(LAYERS)):
        s = logits_by_hand(router, request.query, layer) / 0.7
        z = s.exp() / s.exp().sum(-1, keepdim=True) if gate == "softmax" else 1 / (1 + (-s).exp())
        assert rel(w[:, layer], z / z.sum(-1, keepdim=True)) < 1e-5


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_gumbel_sigmoid_is_torch_s_relaxed_bernoulli(temperature):
    router = build("gates", 2, temperature=temperature, normalise=False, query="backbone")
    s = numbers(len(LAYERS), ROWS, 2, EXPERTS, seed=30)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        u = torch.rand(s.shape)
        torch.manual_seed(5)
        expected = RelaxedBernoulli(torch.tensor(temperature), logits=s).rsample()
    assert rel(router.steps(s, u)["weights"], expected) < 1e-5
    request, seen = asked(router, chance=noise(7)), []
    w = weights(router, request)
    u = torch.rand(len(LAYERS), ROWS, 2, EXPERTS, generator=noise(7))  # one draw per layer, row, head and expert
    for layer in range(len(LAYERS)):
        s = logits_by_hand(router, request.query, layer)
        z = torch.sigmoid((s + u[layer].log() - (1 - u[layer]).log()) / temperature)
        seen.append(z)
        assert rel(w[:, layer], z) < 1e-4
    assert torch.stack(seen, 1).std(0).mean() > 0.05  # the rows differ


@pytest.mark.parametrize("gate", ["sigmoid", "softmax"])
def test_gates_without_noise_train_on_what_they_evaluate(gate):
    router = build("gates", gate=gate)
    assert torch.equal(weights(router, asked(router, chance=noise())), weights(router, asked(router)))


def test_rules_of_evaluation():
    rule = {name: build("gates", evaluation=name, gate="sigmoid", normalise=False) for name in ("soft", "top1", "threshold")}
    shared = build("gates", evaluation="threshold", gate="sigmoid")
    s = torch.tensor([[2.0, -1.0, 1.0], [-2.0, -1.0, -3.0]])
    z = torch.sigmoid(s)
    assert torch.equal(rule["soft"].steps(s, None)["weights"], z)
    assert torch.equal(rule["top1"].steps(s, None)["weights"], torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
    kept = torch.stack(
        [torch.stack([z[0, 0], torch.tensor(0.0), z[0, 2]]), torch.stack([torch.tensor(0.0), z[1, 1], torch.tensor(0.0)])]
    )
    assert torch.equal(rule["threshold"].steps(s, None)["weights"], kept)  # the largest where none is above 1/2
    assert torch.allclose(shared.steps(s, None)["weights"], kept / kept.sum(-1, keepdim=True))
    for router in rule.values():  # training sees the gates themselves, so that all of them have a gradient
        assert torch.equal(router.steps(s, torch.full_like(s, 0.5))["weights"], z)
    hot = build("gates", temperature=0.01, gate="softmax")
    assert torch.allclose(hot.steps(s, None)["weights"], torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]), atol=1e-6)
    assert torch.allclose(normalised(torch.tensor([2.0, 6.0])), torch.tensor([0.25, 0.75]))


def test_the_query_is_standardised_with_what_was_stored():
    """Per layer: mean and spread of the stored queries, feature by feature; a feature that never varies does no harm."""
    router = build("gates/softmax/soft/layer/0", values=False)
    queries = [numbers(40, layer.inputs, seed=layer_number) * 3 + 5 for layer_number, layer in enumerate(LAYERS)]
    queries[0][:, 0] = 1.0
    router.standardise(queries)
    for layer, query in enumerate(queries):
        assert torch.allclose(getattr(router, f"mean{layer}"), query.mean(0))
        assert torch.allclose(getattr(router, f"spread{layer}"), query.std(0).clamp_min(1e-6))
        assert router.logits(layer, query).isfinite().all()


@pytest.mark.parametrize("hidden", [0, 5])
def test_gates_can_start_from_a_ridge_regression_of_the_tasks(hidden):
    """Logits of all heads are those of scikit-learn's ridge regression of +4 for the own expert and -4 for the others."""
    router = build(f"gates/softmax/soft/layer/{hidden}", 2, values=False, start="tasks")
    queries, owners = begin(router)
    target = torch.where(torch.arange(EXPERTS) == owners[:, None], 4.0, -4.0)
    for layer, query in enumerate(queries):
        x = ((query - query.mean(0)) / query.std(0) / query.shape[1] ** 0.5).double()
        x = torch.tanh(x @ router.hidden[layer].double().T) if hidden else x
        expected = Ridge(alpha=1.0).fit(x.detach().numpy(), target.numpy()).predict(x.detach().numpy())
        for head in range(2):
            assert np.allclose(router.logits(layer, query)[:, head].detach().numpy(), expected, atol=1e-4)


def test_fresh_gates_are_undecided():
    for case in ("gates", "gates/softmax/soft/layer/5"):
        router = build(case, 2, values=False)
        begin(router)
        assert torch.allclose(weights(router, asked(router)), torch.full((), 1 / 3))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_gates_of_the_layer_s_own_input(name):
    """Each decision is the gate of the mean over tokens, without padding, of what its layer was given in the routed model."""
    host, made = tiny.bank(name, heads=2)
    router = routers.get("gates")(routers.options({"name": "gates", "query": "layer", "heads": 2}), made.layers, 32)
    router.grow(EXPERTS)
    randomise(router)
    batch, given, used = tiny.tokens(), [], []
    for layer in made.layers:
        host.get_submodule(layer.name).register_forward_hook(lambda module, args, out: given.append(args[0]))
    decision = router(Request(batch["attention_mask"]))
    assert isinstance(decision, LayerDecision)
    plain, made.kind.output = made.kind.output, lambda base, x, stack, w, how: used.append(w) or plain(base, x, stack, w, how)
    with torch.no_grad(), made.routed(decision):
        hidden(host, batch)
    recorded, mask = decision.recorded(), batch["attention_mask"].unsqueeze(-1)
    assert recorded.shape == (4, len(made.layers), 2, EXPERTS)
    for i in range(len(made.layers)):
        query = torch.stack([x[m[:, 0] == 1].mean(0) for x, m in zip(given[i], mask, strict=True)])
        z = torch.sigmoid(logits_by_hand(router, query, i))
        assert rel(recorded[:, i], z / z.sum(-1, keepdim=True)) < 1e-5
        assert torch.equal(recorded[:, i], used[i][:, 0])


@pytest.mark.parametrize("query", ["backbone", "layer"])
def test_recording_changes_no_bit(query):
    found = []
    for recording in (False, True):
        host, made = tiny.bank("bert")
        router = routers.get("gates")(routers.options({"name": "gates", "query": query}), made.layers, 32)
        router.grow(EXPERTS)
        randomise(router)
        batch = tiny.tokens()
        decision = router(Request(batch["attention_mask"], query=numbers(4, 32), noise=noise(3)))
        with made.routed(decision):
            out = hidden(host, batch)
            if recording:
                decision.recorded().detach().sum().item()
            tiny.readout(out, batch["attention_mask"]).backward()
        grads = [p.grad for p in (*router.parameters(), *made.expert(0).values())]
        found.append([out.detach(), *grads])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gates_of_the_layer_s_own_input_with_rows_repeated_as_in_beam_search():
    host, made = tiny.bank("llama")
    router = routers.get("gates")(routers.options({"name": "gates", "query": "layer"}), made.layers, 32)
    router.grow(EXPERTS)
    randomise(router)
    batch = tiny.tokens()
    many = {key: value.repeat_interleave(2, 0) for key, value in batch.items()}
    with torch.no_grad(), made.routed(router(Request(batch["attention_mask"]))):
        once = hidden(host, batch)
    with torch.no_grad(), made.routed(router(Request(batch["attention_mask"]))):
        assert rel(hidden(host, many), once.repeat_interleave(2, 0)) < 1e-5


def test_one_hot():
    w = one_hot(torch.tensor([1, 0]), 3, 2)
    assert torch.equal(w, torch.tensor([[[[0.0, 1, 0]] * 2], [[[1.0, 0, 0]] * 2]]))


def test_a_decision_gives_each_layer_its_weights():
    w = tiny.weights(2, 3, 1, 4)
    assert torch.equal(Decision(w).weights_for_layer(2, torch.zeros(2, 5, 8)), w[:, 2])
    assert torch.equal(Decision(w[:, :1]).weights_for_layer(2, torch.zeros(2, 5, 8)), w[:, 0])


def test_the_routing_heads_of_l2r_mh_learn_weights_of_their_own():
    """What makes it l2r-mh; with one head it is l2r, number by number."""
    made = toy.trained("l2r-mh")
    assert made.learner.router.heads == 4
    batch = made.learner.backbone.collate([row for t in range(2) for row in made.rows[t, "test"]])
    decision = made.learner.decide(batch)
    with torch.no_grad(), made.learner.bank.routed(decision):
        made.learner.head.logits(batch)
    w = decision.recorded()  # (B, L, H, E)
    assert w.shape[2:] == (4, 2) and torch.allclose(w.sum(-1), torch.ones(w.shape[:-1]))
    apart = [(w[:, :, i] - w[:, :, j]).abs().mean().item() for i in range(4) for j in range(i)]
    assert min(apart) > 0.005, apart
    one, plain = toy.trained("l2r-mh", "router.heads=1"), toy.trained("l2r")
    assert one.scores == plain.scores
    assert toy.equal(dict(one.learner.router.state_dict()), dict(plain.learner.router.state_dict()))
