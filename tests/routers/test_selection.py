"""Systems that learn to select while the experts are trained: shared attention with reflection, sparse gates."""

import json
import math
from itertools import permutations

import pytest
import torch
from support import toy
from support.tiny import rel
from torch import nn
from torch.nn import functional as F
from transformers.models.jetmoe.modeling_jetmoe import JetMoeTopKGating

from lab.analysis import taxonomy
from lab.config.resolve import configure
from lab.core.errors import LabError
from lab.core.registry import routers
from lab.data.batching import UNLABELLED
from lab.experts.base import LayerInfo
from lab.methods.reflection import divergence
from lab.routers.base import Request
from lab.routers.sparse import entropy, stick_breaking
from lab.run_folder.writer import create_run
from lab.training.recorder import record

THREE = ("sea", "city", "farm")
LAYERS = [LayerInfo("first", 6, 6), LayerInfo("second", 4, 6)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(name: str, experts: int = 3, width: int = 6, **options):
    router = routers.get(name)(routers.options({"name": name, **options}), LAYERS, width)
    router.grow(experts)
    router.add_task(0, 0, torch.Generator().manual_seed(1))
    return router


def steps_of(made, task: int, step: int):
    """The session after some steps on `task`."""
    for event in made.train():
        if type(event).__name__ == "Step" and (event.task, event.phase, event.step) == (task, "train", step):
            return made
    raise AssertionError


# shared attention ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["embeddings", "backbone"])
def test_attention_is_torchs_scaled_dot_product_attention(query):
    router, mask = build("attention", query=query, hidden=5), torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
    with torch.no_grad():
        router.norm.weight.copy_(draw(6, seed=7)), router.norm.bias.copy_(draw(6, seed=8))
    down, up, norm = nn.Linear(6, 5, bias=False), nn.Linear(5, 6, bias=False), nn.LayerNorm(6)
    down.weight, up.weight = router.down, router.up
    norm.load_state_dict(router.norm.state_dict())
    embedded, given, values = draw(3, 3, 6), draw(3, 6, seed=1), draw(3, 3, 4, seed=2)  # (B, T, D), (B, D), (B, E, O)
    e = torch.stack([embedded[row, : 3 - row].max(0).values for row in range(3)]) if query == "embeddings" else given
    q = norm(F.silu(up(down(e))))
    keys = torch.stack([*router.keys]).expand(3, 3, 6)
    expected = F.scaled_dot_product_attention(q[:, None], keys, values)[:, 0]
    decision = router(Request(mask, query=given, embedded=embedded))
    assert decision.weights.shape == (3, 1, 1, 3)  # the same for all layers
    assert rel(torch.einsum("be,beo->bo", decision.weights[:, 0, 0], values), expected) < 1e-5
    hot = build("attention", query=query, hidden=5, temperature=2**0.5)
    hot.load_state_dict(router.state_dict())
    expected = F.scaled_dot_product_attention(q[:, None], keys, values, scale=12**-0.5)[:, 0]  # sqrt(2 D), as for T5
    found = hot(Request(mask, query=given, embedded=embedded)).weights[:, 0, 0]
    assert rel(torch.einsum("be,beo->bo", found, values), expected) < 1e-5


def test_pooling_with_and_without_padding():
    embedded, mask = draw(2, 3, 6), torch.tensor([[1, 1, 0], [1, 1, 1]])
    embedded[0, 2] = 9.0  # a token for padding
    for pooling, alike in (("masked", True), ("unmasked", False)):
        router = build("attention", pooling=pooling)
        long = router(Request(mask, embedded=embedded)).weights
        short = router(Request(mask[:1, :2], embedded=embedded[:1, :2])).weights
        assert torch.allclose(long[:1], short, atol=1e-6) == alike


def test_keys_are_learned_with_their_experts_and_earlier_ones_are_frozen_but_act():
    made = toy.session("sapt", of=toy.tasks(*THREE))
    keys, started = {}, {}
    for event in made.train():
        router, kind = made.learner.router, type(event).__name__
        if kind == "TaskStarted":
            keys[event.task] = [key.detach().clone() for key in router.keys]
            started[event.task] = router.down.detach().clone()
            assert not any(torch.equal(a, b) for i, a in enumerate(keys[event.task]) for b in keys[event.task][:i])
        if kind == "Step" and event.phase == "train" and event.step == 2 and event.task:
            grads = [key.grad for key in router.keys]
            assert grads[:-1] == [None] * event.task and grads[-1].any() and router.down.grad.any()
            assert all(p.grad is None for k in range(event.task) for p in made.learner.bank.expert(k).values())
            assert set(event.terms) == {"task", "reflection"}
        if kind == "Learned":
            assert all(torch.equal(a, b) for a, b in zip(router.keys[: event.task], keys[event.task][:-1], strict=True))
            moved = event.task > 0  # with one expert there is nothing to attend to
            assert torch.equal(router.keys[event.task], keys[event.task][-1]) != moved
            assert torch.equal(router.down, started[event.task]) != moved
    weights = made.learner.decide(made.learner.backbone.collate(made.rows[2, "test"])).weights
    assert (weights[..., :2] > 1e-4).all()
    assert made.uses() == {"task_id": False, "stored_examples": 72, "generated_examples": 0}


def drift(*options: str) -> float:
    """How far the weights on the old tasks' test examples are, at the end, from those when they were learned; total variation."""
    made, then = toy.session("sapt", *options, of=toy.tasks(*THREE)), {}
    learner = made.learner

    def weights(t: int) -> torch.Tensor:
        with torch.no_grad():
            return learner.decide(learner.backbone.collate(made.rows[t, "test"])).weights[:, 0, 0]

    for event in made.train():
        if type(event).__name__ == "Learned":
            then[event.task] = weights(event.task)
    moved = [(weights(t) - F.pad(then[t], (0, 2 - t))).abs().sum(-1).mean() / 2 for t in (0, 1)]
    return float(sum(moved) / 2)


def test_reflection_lowers_the_drift_of_old_tasks_weights():
    without = drift("methods.reflection.strength=0")
    for target in ("sample", "task"):
        held = drift("methods.reflection.strength=10", f"methods.reflection.target={target}")
        assert held < 0.6 * without, (target, held, without)
    assert without > 0.1, without


def test_divergence_by_hand():
    """Per task torch's KL with batchmean; an expert that came later has target 0."""
    scores = torch.tensor([[0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0], [0.0, 1.0, 2.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    found = divergence(scores, target, torch.tensor([0, 0, 4]))
    first = (math.log(3) + 0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 0.25)) / 2
    second = F.kl_div(scores[2:].log_softmax(-1), torch.tensor([[0.25, 0.75, 0.0]]), reduction="batchmean")
    assert found.item() == pytest.approx(first + second.item())
    found.backward()
    assert torch.allclose(scores.grad[0], (torch.full((3,), 1 / 3) - torch.tensor([1.0, 0, 0])) / 2)
    same = target[1:]
    assert divergence(same.log(), same, torch.tensor([0, 4])).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("target", ["sample", "task"])
def test_what_is_recorded(target):
    """Each stored example's own weights, or their mean over its task, as they were when the task was learned."""
    made = toy.session("sapt", f"methods.reflection.target={target}", of=toy.tasks(*THREE))
    (method,), learner, then = made.methods, made.learner, {}
    for event in made.train():
        if type(event).__name__ == "Learned":
            own = [row for row in made.memory.rows if row.task == event.task]
            then[event.task] = [row.key for row in own], learner.decide(learner.backbone.collate(own)).weights[:, 0, 0].detach()
    assert len(method.recorded) == 72
    for t, (rows, weights) in then.items():
        expected = F.pad(weights if target == "sample" else weights.mean(0).expand_as(weights), (0, 2 - t))
        assert torch.allclose(torch.stack([method.recorded[key] for key in rows]), expected, atol=1e-6)
        assert t == 0 or weights.std(0).max() > 2e-5, "or the two were the same"
    classifier_before_calibration = sum(4 * parameter.numel() for parameter in learner.head.classifier.parameters())
    assert made.cost()["statistics_bytes"] == 72 * 3 * 4 + classifier_before_calibration


def test_reflection_term_by_hand():
    """On drawn stored examples alone, which the task's loss does not see."""
    made = toy.session("sapt", "methods.reflection={strength: 3, per_step: 5}", of=toy.tasks(*THREE))
    steps_of(made, 2, 3)
    (method,), learner = made.methods, made.learner
    own = made.rows[2, "train"][:4]
    assert method.rows(own, torch.Generator().manual_seed(3)) == own
    assert len(method.sampled) == 5 and {row.task for row in method.sampled} <= {0, 1}
    found = method.terms(None, None)["reflection"]
    expected = 0.0
    for s in {row.task for row in method.sampled}:
        rows = [row for row in method.sampled if row.task == s]
        now = learner.decide(learner.backbone.collate(rows)).weights[:, 0, 0].log()
        then = torch.stack([F.pad(method.recorded[row.key], (0, 1)) for row in rows])
        expected += F.kl_div(now, then, reduction="batchmean").item()
    assert found.item() == pytest.approx(3 * expected, rel=1e-4) and expected > 0


def test_reflection_with_a_memory_that_drops_examples():
    made = toy.trained("sapt", "memory.per_task=0", "memory.total=12", of=toy.tasks(*THREE))
    (method,) = made.methods
    assert [*method.recorded] == [row.key for row in made.memory.rows] and len(method.recorded) == 12
    assert {len(weights) for weights in method.recorded.values()} == {3}


# pseudo-examples ----------------------------------------------------------------------------------------------------------------

WITHOUT_MEMORY = ("memory.per_task=0", "router_training.steps=0")


def pseudo(path, *names: str, count: int = 16):
    """Texts about each task's topic as a generator might have written them, none of them of the task."""
    lines = [{"task": name, "text": text} for name in names for text in invented(name)[:count]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def invented(name: str) -> list[str]:
    words, real = toy.TOPICS[name].split(), {example.text for example in toy.task(name).train}
    texts = [
        " ".join([colour, *two, *three])
        for colour in ("red", "blue")
        for two in permutations(words, 2)
        for three in permutations(words, 2)
    ]
    return [text for text in texts[::7] if text not in real]


def test_reflection_on_pseudo_examples_lowers_the_drift_without_stored_ones(tmp_path):
    file = pseudo(tmp_path / "made.jsonl", *THREE)
    without = drift("methods.reflection.strength=0", *WITHOUT_MEMORY, f"methods.reflection.pseudo={file}")
    held = drift("methods.reflection.strength=10", *WITHOUT_MEMORY, f"methods.reflection.pseudo={file}")
    assert held < 0.6 * without and without > 0.1, (held, without)


def test_pseudo_examples_are_kept_and_counted_as_such(tmp_path):
    """Of every task learned, its own texts in the file; nothing of the training examples."""
    file = pseudo(tmp_path / "made.jsonl", "farm", *THREE, count=5)
    made = toy.session("sapt", *WITHOUT_MEMORY, f"methods.reflection.pseudo={file}", of=toy.tasks(*THREE))
    (method,), counts = made.methods, []
    for event in made.train():
        if type(event).__name__ == "Step" and event.step == 2:
            counts.append(len(method.generated))
            assert all(row.task < event.task for row in method.sampled) and ("reflection" in event.terms) == (event.task > 0)
    assert counts == [0, 5, 10] and len(method.recorded) == 20 == len(method.generated)
    own = {tuple(row.ids) for row in made.learner.encode([toy.Example(text, 0) for text in invented("sea")[:5]], 0, "test")}
    assert {tuple(row.ids) for row in method.generated.rows if row.task == 0} == own
    assert {row.key[1] for row in method.generated.rows} == {"generated"} and {row.label for row in method.sampled} == {
        UNLABELLED
    }
    assert made.uses() == {"task_id": False, "stored_examples": 0, "generated_examples": 20} and len(made.memory) == 0
    texts = [text for name in ("farm", *THREE) for text in invented(name)[:5]]
    assert made.cost()["memory_bytes"] == sum(len(text) + 8 for text in texts)
    assert made.cost()["statistics_bytes"] == 20 * 3 * 4 + 32
    place = taxonomy.place(made.config)
    assert place["uses"] == "generated examples"
    assert taxonomy.place(configure("sapt", [f"methods.reflection.pseudo={file}"]))["uses"] == (
        "stored examples (100 per task), generated examples"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ": the file cannot be read (No such file or directory)"),
        ('{"task": "sea", "text": "a"}', ": there is no example of task 'city', and every task of the stream needs one"),
        ('{"task": "sea", "text": "a"}\n{"task": "citys", "text": "a"}', ", line 2: unknown task 'citys': did you mean 'city'?"),
        ('{"task": "sea"}', ', line 1: write {"task": name, "text": text}, with a text that is not empty'),
        ('{"task": "sea", "text": " "}', ', line 1: write {"task": name, "text": text}, with a text that is not empty'),
        ("sea wave", ', line 1: write {"task": name, "text": text}, with a text that is not empty'),
    ],
)
def test_pseudo_examples_that_are_missing_are_refused_before_a_model_is_loaded(content, message, tmp_path, monkeypatch):
    file = tmp_path / "made.jsonl"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr("lab.training.trainer.Learner", None)
    with pytest.raises(LabError) as error:
        toy.session("sapt", f"methods.reflection.pseudo={file}")
    assert str(error.value) == f"methods.reflection.pseudo = {file}{message}"


def test_a_run_on_pseudo_examples_goes_on_to_the_same_bytes_and_not_with_other_ones(tmp_path):
    file = pseudo(tmp_path / "made.jsonl", *THREE)
    options = (*WITHOUT_MEMORY, f"methods.reflection.pseudo={file}", "checkpoint.every=2")

    def fresh():
        return toy.session("sapt", *options, of=toy.tasks(*THREE))

    whole, broken = toy.recorded(fresh(), tmp_path), create_run(fresh().config.to_dict(), tmp_path, "broken")
    for event in record(broken, fresh()):
        if type(event).__name__ == "Step" and (event.task, event.step) == (2, 4):
            break
    content = file.read_text()
    file.write_text(content.replace("wave", "waves"))
    with pytest.raises(LabError, match=r"the file has changed since the run began$"):
        list(record(broken, fresh()))
    file.write_text(content)
    list(record(broken, fresh()))
    for name in ("router.safetensors", "predictions/after_2.parquet", "experts/farm/adapter_model.safetensors"):
        assert (whole.dir / name).read_bytes() == (broken.dir / name).read_bytes()
    assert broken.result()["uses"] == whole.result()["uses"]


# sparse gates -------------------------------------------------------------------------------------------------------------------


def test_sparse_gate_by_hand():
    router, mask = build("sparse", experts=4, hidden=5, top_k=2), torch.ones(2, 3)
    decision = router(Request(mask))
    for i, layer in enumerate(LAYERS):
        x = draw(2, 3, layer.inputs, seed=i)
        gate = nn.Sequential(nn.Linear(layer.inputs, 5), nn.GELU(), nn.Linear(5, 4, bias=False))
        gate[0].weight, gate[0].bias, gate[2].weight = router.inner[i], router.bias[i], router.outer[i]
        p = gate(x).softmax(-1)
        expected = p.where(p >= p.topk(2, dim=-1).values[..., -1:], 0.0)
        found = decision.weights_for_layer(i, x)
        assert found.shape == (2, 3, 1, 4)  # per token
        assert torch.allclose(found[:, :, 0], expected, atol=1e-6) and (found.sum(-1) < 0.999).all()


def test_normalised_gates_are_those_of_a_softmax_after_the_choice():
    """transformers' JetMoE, given the same logits."""
    router, logits = build("sparse", experts=4, top_k=2, normalise=True), draw(7, 4)
    peer = JetMoeTopKGating(input_size=4, num_experts=4, top_k=2)
    peer.layer.weight.data = torch.eye(4)
    by_expert, rows, gates, sizes, _ = peer(logits)
    expert = torch.arange(4).repeat_interleave(torch.as_tensor(sizes))
    expected = torch.zeros(7, 4).index_put((rows, expert), gates)
    assert len(by_expert) == 14 and rel(router.steps(logits)["weights"], expected) < 1e-5


def test_more_experts_asked_for_than_there_are_means_all():
    many, logits = build("sparse", experts=3, top_k=7), draw(5, 3)
    assert torch.equal(many.steps(logits)["weights"], logits.softmax(-1))
    assert torch.equal(build("sparse", experts=1).steps(draw(5, 1))["weights"], torch.ones(5, 1))


def test_stick_breaking_by_hand():
    """Gates 1/2, 1/4, 1/5 from the oldest to the newest: 1/5, 1/4 of the rest, half of that."""
    z = torch.tensor([0.5, 0.25, 0.2])
    w = stick_breaking(z.logit())
    assert torch.allclose(w, torch.tensor([0.5 * 0.75 * 0.8, 0.25 * 0.8, 0.2]))
    many = stick_breaking(draw(50, 6) * 4)
    assert (many >= 0).all() and (many.sum(-1) <= 1 + 1e-6).all() and (many.sum(-1) < 0.9).any()
    left = torch.sigmoid(-draw(50, 6) * 4).prod(-1)
    assert torch.allclose(1 - many.sum(-1), left, atol=1e-5)
    assert stick_breaking(torch.tensor([200.0, -200.0])).tolist() == [1.0, 0.0]
    router = build("sparse", rule="stick-breaking", top_k=1)
    assert torch.allclose(router.steps(z.logit())["weights"], torch.tensor([0.5 * 0.75 * 0.8, 0.0, 0.0]))


def test_balance_by_hand():
    """Two tokens, each sure of another expert, are ln 2 of information; both sure of the same, or both unsure, are none."""
    router = build("sparse", experts=2)
    for p, expected in (([[1, 0], [0, 1]], math.log(2)), ([[1, 0], [1, 0]], 0), ([[0.5, 0.5], [0.5, 0.5]], 0)):
        assert router.spread(torch.tensor(p, dtype=torch.float)).item() == pytest.approx(-expected, abs=1e-6)
    p = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    overall = -0.65 * math.log(0.65) - 0.35 * math.log(0.35)
    each = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1) + 0.4 * math.log(0.4) + 0.6 * math.log(0.6)) / 2
    assert router.spread(p).item() == pytest.approx(each - overall, rel=1e-5)
    assert build("sparse", load="concentrated").spread(p).item() == pytest.approx(each + overall, rel=1e-5)
    rest = build("sparse", rule="stick-breaking").spread(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert rest.item() == pytest.approx(-math.log(2), abs=1e-6)  # one token to the first expert, one to none


def test_balance_is_the_mean_over_layers_without_padding():
    router, mask = build("sparse", balance=3.0), torch.tensor([[1, 1, 0], [1, 1, 1]])
    decision, xs = router(Request(mask)), [draw(2, 3, layer.inputs, seed=i) for i, layer in enumerate(LAYERS)]
    assert decision.losses == {}
    for _ in range(2):  # computing a layer again, as activation checkpointing does, changes nothing
        for i, x in enumerate(xs):
            decision.weights_for_layer(i, x)
    parts = [router.spread(decision.layer_steps[i]["probabilities"][:, :, 0][mask.bool()]) for i in range(2)]
    assert decision.losses["balance"].item() == pytest.approx(3 * (parts[0] + parts[1]).item() / 2, rel=1e-5)
    decision.losses["balance"].backward()
    assert all(p.grad.any() for p in router.parameters())


POOL = ("experts.allocation=6", "router.hidden=16", "router.top_k=1", "router.hold=0", "train.epochs=4")


def routed(made, task: int) -> torch.Tensor:
    """Weights (B, L, H, E) on a task's test examples, means over tokens."""
    batch = made.learner.backbone.collate(made.rows[task, "test"])
    with torch.no_grad():
        decision = made.learner.decide(batch)
        with made.learner.bank.routed(decision):
            made.learner.head.logits(batch)
    return decision.recorded()


def usage(*options: str) -> float:
    """Entropy of the load over a pool of six experts after training on one task, mean over layers, in nats."""
    load = routed(toy.trained("moduleformer", *POOL, *options, of=toy.tasks("sea")), 0).mean(0)[:, 0]  # (L, E)
    return entropy(load / load.sum(-1, keepdim=True)).mean().item()


def test_balance_raises_and_concentration_lowers_the_entropy_of_usage():
    spread, free = usage("router.balance=1"), usage("router.balance=0")
    packed = usage("router.balance=1", "router.load=concentrated")
    assert spread > free + 0.1 and packed < free - 0.1, (spread, free, packed)


def test_new_rows_are_added_and_old_experts_stay():
    made, before = toy.session("moduleformer", of=toy.tasks(*THREE)), {}
    for event in made.train():
        outer, kind = made.learner.router.outer, type(event).__name__
        if kind == "TaskStarted":
            if event.task:
                assert torch.equal(outer[0][: event.task], before["rows"]) and outer[0].shape[0] == event.task + 1
                assert outer[0][event.task].any(), "drawn, not zero"
            before["expert"] = {k: toy.expert(made, name) for k, name in enumerate(made.learner.bank.names)}
        if kind == "Step" and event.task:
            assert set(event.terms) == {"task", "balance", "hold"}
        if kind == "Learned":
            before["rows"] = outer[0].detach().clone()
            names = made.learner.bank.names
            same = [toy.equal(toy.expert(made, name), before["expert"][k]) for k, name in enumerate(names)]
            assert same == [True] * event.task + [False]
    assert made.uses() == {"task_id": False, "stored_examples": 0, "generated_examples": 0}


def newest_share(hold: float) -> float:
    """Part of the weight that the texts of the first two tasks give to the third task's expert."""
    options = ("train.lr=0.05", "train.epochs=8", "router.balance=1", f"router.hold={hold}")
    made, found = toy.trained("moduleformer", *options, of=toy.tasks(*THREE)), []
    for t in (0, 1):
        weights = routed(made, t).mean((0, 1, 2))
        found.append((weights[2] / weights.sum()).item())
    return sum(found) / 2


def test_hold_keeps_old_texts_from_drifting_to_the_newest_expert():
    held, free = newest_share(1.0), newest_share(0.0)
    assert held < 0.7 * free, (held, free)


def test_hold_by_hand():
    router = build("sparse", hold=2.0)
    assert router(Request(torch.ones(1, 2))).losses == {}, "the first task finds nothing to hold"
    router.grow(4)
    router.add_task(1, 0, torch.Generator().manual_seed(2))
    with torch.no_grad():
        router.outer[1][3, 0] += 0.5
        router.bias[0][1] -= 1.0
    assert router(Request(torch.ones(1, 2))).losses["hold"].item() == pytest.approx(2 * (0.25 + 1), rel=1e-5)


# bad input ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("moduleformer", "router.top_k=0", "router.top_k = 0: input should be greater than or equal to 1"),
        (
            "moduleformer",
            "router.rule=sticks",
            "router.rule = 'sticks': input should be 'softmax' or 'stick-breaking'",
        ),
        (
            "moduleformer",
            "experts.allocation=shared",
            "router sparse chooses among experts: use experts.allocation=per_task or the size of a pool",
        ),
        (
            "moduleformer",
            "experts={name: prompt, allocation: 4}",
            "router sparse decides per token, 'prompt' experts act per example: use another kind",
        ),
        (
            "moduleformer",
            "experts.isolated=true",
            "router sparse learns while the experts do, isolated experts are trained without it: "
            "use experts.isolated=false or a pool (experts.allocation=10)",
        ),
        (
            "sapt",
            "experts.allocation=4",
            "router attention has a key per task's expert: use experts.allocation=per_task",
        ),
        (
            "inclora",
            "methods.reflection={}",
            "methods.reflection needs stored examples: set memory.per_task, memory.per_class or memory.total above 0",
        ),
        ("sapt", "router.temperature=0", "router.temperature = 0: input should be greater than 0"),
        ("sapt", "router=sum", "methods.reflection holds the weights of router attention, router is sum"),
        ("sapt", "methods.reflection.target=mean", "methods.reflection.target = 'mean': input should be 'sample' or 'task'"),
    ],
)
def test_refused(recipe, override, message):
    with pytest.raises(LabError) as error:
        configure(recipe, [override])
    assert str(error.value) == message
