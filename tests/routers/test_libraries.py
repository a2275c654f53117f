"""Libraries of independently trained experts: each rule of selection against its formula or an independent reference."""

import importlib

import numpy as np
import pytest
import torch
from sklearn.covariance import empirical_covariance
from support import tiny, toy
from support.numbers import numbers
from support.tiny import layer_outputs, rel

from lab.config.resolve import configure
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.core.registry import routers
from lab.experts.base import LayerInfo
from lab.models.expert_bank import Bank
from lab.routers.base import MadeOfExperts, Request, Router, top_softmax

WIDTH = 6
LAYERS = [LayerInfo("first", 8, 12), LayerInfo("second", 6, 8)]
SELECTIONS = ["prototype", "epi", "mocl", "dam"]
RECIPES = [*SELECTIONS, "arrow", "phatgoose", "mbc"]


def recipe_s(recipe: str, *changes: str) -> Router:
    """The router of a recipe."""
    options = configure(recipe, changes).router
    return routers.get(options.name)(options, LAYERS, WIDTH)


def taught(router: Router, tasks: list[tuple[torch.Tensor, torch.Tensor]]) -> Router:
    """A router that has met tasks with these queries (N, D) and labels (N,)."""
    for k, (queries, labels) in enumerate(tasks):
        router.grow(k + 1)
        router.add_task(k, int(labels.max()) + 1, torch.Generator())
        router.read_examples(k, queries, labels)
    return router


def chosen(router: Router, queries: torch.Tensor) -> torch.Tensor:
    """Weights (B, E) for queries (B, D)."""
    return router(Request(torch.ones(len(queries), 3, dtype=torch.int64), queries)).weights[:, 0, 0]


def clusters(count: int = 3, classes: int = 2, size: int = 30) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tasks whose classes lie around centres of their own, with very unequal spread of the features."""
    spread = torch.tensor([3.0, 2.0, 1.0, 0.3, 0.1, 0.05])
    found = []
    for task in range(count):
        centres = numbers(classes, WIDTH, seed=task) * 2
        labels = torch.arange(size) % classes
        found.append((centres[labels] + numbers(size, WIDTH, seed=50 + task) * spread, labels))
    return found


# prototypes -------------------------------------------------------------------------------------------------------------------


def test_softmax_over_the_largest():
    s = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
    e = np.exp([2.0, 1.0])
    assert torch.allclose(top_softmax(s, 2), torch.tensor([[e[0], 0, e[1], 0]] / e.sum()).float())
    assert torch.equal(top_softmax(s, 1), torch.tensor([[1.0, 0, 0, 0]]))
    for k in (4, 5, 1000):  # more than there are means all
        assert torch.equal(top_softmax(s, k, 0.5), torch.softmax(s / 0.5, -1))


@pytest.mark.parametrize("recipe", ["prototype", "epi"])
def test_a_task_of_free_text_has_one_mean(recipe):
    router, tasks = recipe_s(recipe), [(queries, torch.zeros_like(labels)) for queries, labels in clusters()]
    for k, (queries, labels) in enumerate(tasks):
        router.grow(k + 1)
        router.add_task(k, 0, torch.Generator())
        router.read_examples(k, queries, labels)
    torch.testing.assert_close(router.mean, torch.stack([queries.mean(0) for queries, _ in tasks]))


def test_the_nearest_class_mean_by_cosine_picks_its_task():
    """Against plain loops over all classes of all tasks."""
    tasks, queries = clusters(), numbers(20, WIDTH, seed=9) * 2
    w = chosen(taught(recipe_s("prototype"), tasks), queries)
    for row, q in enumerate(queries.numpy()):
        best = [
            max(float(q @ m / np.linalg.norm(q) / np.linalg.norm(m)) for m in [x[y == c].mean(0).numpy() for c in (0, 1)])
            for x, y in tasks
        ]
        assert w[row].tolist() == [float(k == np.argmax(best)) for k in range(3)]
    assert len(w.argmax(-1).unique()) == 3


def test_epi_picks_by_mahalanobis_distance_where_the_euclidean_one_picks_another():
    """Scores are minus the distances of scipy with scikit-learn's covariances; classes of unequal size count alike."""
    from scipy.spatial.distance import mahalanobis

    tasks, queries = [(x[5:], y[5:].clone()) for x, y in clusters(size=40)], numbers(40, WIDTH, seed=9)
    tasks = [(torch.cat([x[y == 0], x[y == 1][:6]]), torch.cat([y[y == 0], y[y == 1][:6]])) for x, y in tasks]
    router = taught(recipe_s("epi"), tasks)
    means = [[x[y == c].numpy().astype(float).mean(0) for c in (0, 1)] for x, y in tasks]
    within = [np.mean([empirical_covariance(x[y == c].numpy().astype(float)) for c in (0, 1)], axis=0) for x, y in tasks]
    precision = np.linalg.pinv(np.mean(within, axis=0))
    expected = np.array([[-min(mahalanobis(q, m, precision) ** 2 for m in own) for own in means] for q in queries.numpy()])
    assert np.allclose(router.scores(queries, router.match(queries)).numpy(), expected, rtol=1e-4)
    picked = chosen(router, queries).argmax(-1).numpy()
    assert (picked == expected.argmax(1)).all()
    euclidean = np.array([[min(np.linalg.norm(q - m) for m in own) for own in means] for q in queries.numpy()]).argmin(1)
    assert (picked != euclidean).sum() >= 5


def test_epi_leaves_out_directions_in_which_nothing_varies():
    """Fewer examples than features: the pseudo-inverse, as numpy's."""
    tasks = [(x[:3], y[:3]) for x, y in clusters(2)]
    router = taught(recipe_s("epi"), tasks)
    w = router.whitening.double()
    assert 0 < torch.linalg.matrix_rank(router.covariance) < WIDTH
    assert rel(w.T @ w, torch.linalg.pinv(router.covariance, rtol=1e-10, hermitian=True)) < 1e-4


def test_a_class_without_examples_is_never_the_nearest():
    tasks = clusters()
    x, y = tasks[1]
    tasks[1] = (x[y == 1], y[y == 1])
    for recipe in ("prototype", "epi"):
        w = chosen(taught(recipe_s(recipe), tasks), numbers(20, WIDTH, seed=9))
        assert w.isfinite().all() and torch.equal(w.sum(-1), torch.ones(20))
        assert w[:, 1].any()


def test_mocl_weighs_by_softmax_of_eight_times_the_cosine():
    """A case by hand: tasks whose unit queries average to (1, 0, ...) and (0, 1, ...); the length of a query does not count."""
    one, two = torch.eye(WIDTH)[:2]
    third = torch.eye(WIDTH)[2]
    tasks = [
        (torch.stack([one + third, 5 * (one - third)]), torch.tensor([0, 1])),
        (torch.stack([two, 3 * two]), torch.tensor([0, 1])),
    ]
    w = chosen(taught(recipe_s("mocl"), tasks), torch.stack([7 * (0.6 * one + 0.8 * two)]))
    e = np.exp([8 * 0.6, 8 * 0.8])
    assert np.allclose(w[0].numpy(), e / e.sum(), rtol=1e-5)


def test_the_vector_of_mocl_minimises_its_matching_loss():
    """No vector that gradient descent finds has a smaller mean of 1 - cos(q, v)."""
    (queries, labels), *_ = clusters()
    found = taught(recipe_s("mocl"), [(queries, labels)]).mean[0]
    v = numbers(WIDTH, seed=3).requires_grad_(True)
    optimizer = torch.optim.Adam([v], lr=0.02)

    def loss(v: torch.Tensor) -> torch.Tensor:
        return (1 - torch.nn.functional.cosine_similarity(queries, v.unsqueeze(0))).mean()

    for _ in range(600):
        optimizer.zero_grad()
        loss(v).backward()
        optimizer.step()
    assert loss(found) <= loss(v) + 1e-6
    assert torch.nn.functional.cosine_similarity(found, v, 0) > 0.9999


def test_dam_merges_the_two_experts_with_the_nearest_means():
    tasks, queries = clusters(4), numbers(10, WIDTH, seed=9) * 2
    config, router = configure("dam"), taught(recipe_s("dam"), tasks)
    assert config.composition == "merge"
    cos = np.array([[float(q @ (m := x.mean(0)) / q.norm() / m.norm()) for x, _ in tasks] for q in queries])
    for row, w in enumerate(chosen(router, queries).numpy()):
        best = np.argsort(cos[row])[-2:]
        e = np.exp((cos[row, best] - cos[row, best].max()) / 0.01)
        assert np.allclose(w[best], e / e.sum(), atol=1e-4) and (w > 0).sum() <= 2


@pytest.mark.parametrize("recipe", SELECTIONS)
def test_means_of_earlier_tasks_stay_as_tasks_come(recipe):
    tasks, queries = clusters(), numbers(10, WIDTH, seed=9)
    two, three = taught(recipe_s(recipe), tasks[:2]), taught(recipe_s(recipe), tasks)
    assert torch.equal(three.mean[: len(two.mean)], two.mean)
    assert torch.equal(chosen(taught(recipe_s(recipe), tasks[:1]), queries), torch.ones(10, 1))  # E = 1


# arrow ------------------------------------------------------------------------------------------------------------------------


def test_arrow_s_prototype_is_the_first_right_singular_vector_of_the_product():
    """At full size: d = 2048, r = 16, random factors, whose spectrum is nearly flat."""
    amplified = importlib.import_module("lab.routers._arrow").amplified
    for rank, inputs, outputs in ((16, 2048, 2048), (4, 96, 32), (3, 2, 40), (1, 8, 5)):
        a, b = numbers(rank, inputs, seed=1), numbers(outputs, rank, seed=2)
        exact = torch.linalg.svd(b @ a).Vh[0]
        found = amplified(a, b)
        assert abs(float(found.norm()) - 1) < 1e-9
        assert abs(float(found.float() @ exact)) > 0.99999, (rank, inputs)


def arrow_over(made: Bank, **options) -> Router:
    """The router over a bank of random experts, met one after the other."""
    return met(routers.get("arrow")(routers.options({"name": "arrow", **options}), made.layers, 32), made)


@torch.no_grad()
def met(router: Router, made: Bank) -> Router:
    router.grow(len(made))
    if isinstance(router, MadeOfExperts):
        router.read_experts(made.experts())
    return router.requires_grad_(False)


@pytest.mark.parametrize("top_k", [1, 2, 1000])
@pytest.mark.parametrize(
    "name, options", [("bert", {}), ("llama", {"rslora": True}), ("gpt2", {}), ("bert", {"targets": ["dense"]})]
)
def test_arrow_is_a_plain_loop_over_tokens_and_experts(name, options, top_k):
    """Also with rsLoRA, with transformers' Conv1D, and with a pooler, whose input has one vector per row."""
    host, made = tiny.bank(name, **options)
    router = arrow_over(made, top_k=top_k, temperature=0.7)
    batch = tiny.tokens()
    decision = router(Request(batch["attention_mask"]))
    seen = layer_outputs(host, made, decision, batch)
    assert len(seen) == len(made.layers)
    scale = tiny.ALPHA / (np.sqrt(tiny.RANK) if options.get("rslora") else tiny.RANK)
    for layer, x, out in seen:
        experts = [(e["lora_A"].detach().double(), e["lora_B"].detach().double()) for e in layer.experts]
        prototypes = [torch.linalg.svd(b @ a).Vh[0] for a, b in experts]
        expected = layer.base(x).double()
        for place in np.ndindex(*x.shape[:-1]):
            token = x[place].double()
            scores = [(token @ p).abs().item() for p in prototypes]
            kept = np.argsort(scores)[-top_k:]
            e = np.exp(np.array([scores[i] for i in kept]) / 0.7)
            for share, i in zip(e / e.sum(), kept, strict=True):
                a, b = experts[i]
                expected[place] += scale * share * (b @ (a @ token))
        assert rel(out.double(), expected) < 1e-5, layer.info.name
    if options.get("targets"):
        assert any(x.dim() == 2 for _, x, _ in seen)
    mask, weights = batch["attention_mask"].bool(), decision.recorded()
    assert weights.shape == (4, len(made.layers), 1, 3) and torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
    first = decision.layer_weights[0]
    if first.shape[1] == mask.shape[1]:  # padding is left out of what is recorded
        assert rel(weights[1, 0], first[1][mask[1]].mean(0)) < 1e-6


@pytest.mark.parametrize("top_k", [1, 2])
def test_arrow_is_peft_s_given_the_prototypes(top_k, tmp_path):
    from peft import ArrowConfig
    from peft.tuners.lora import create_arrow_model

    host, made = tiny.bank("llama")
    for k in range(len(made)):
        made.export(k, tmp_path / f"e{k}")
    theirs = create_arrow_model(
        tiny.model("llama"),
        [str(tmp_path / f"e{k}") for k in range(3)],
        ArrowConfig(top_k=top_k, router_temperature=0.8, rng_seed=0),
    ).eval()
    batch = {"input_ids": tiny.tokens()["input_ids"]}
    with torch.no_grad():
        expected = theirs(**batch).last_hidden_state
    router = arrow_over(made, top_k=top_k, temperature=0.8)
    for i, layer in enumerate(made.layers):
        arrow = theirs.base_model.model.get_submodule(layer.name).lora_arrow["arrow_router"]
        cosine = (arrow.prototypes * getattr(router, f"prototype{i}")).sum(-1).abs()
        assert (cosine > 0.9).all()  # power iterations: near
        getattr(router, f"prototype{i}").copy_(arrow.prototypes)
    with torch.no_grad(), made.routed(router(Request(torch.ones_like(batch["input_ids"])))):
        assert rel(tiny.hidden(host, batch), expected) < 1e-5


def test_general_knowledge_is_subtracted_and_nothing_is_changed():
    """Outputs and prototypes are those of Arrow over experts that were trained to be the difference: D_e - mean of all D."""
    host, made = tiny.bank("bert")
    before = {f"{k}.{name}": p.clone() for k in range(3) for name, p in made.expert(k).items()}
    router, batch = arrow_over(made, top_k=2, subtract_mean=True), tiny.tokens()
    decision = router(Request(batch["attention_mask"]))
    for layer, x, out in layer_outputs(host, made, decision, batch):
        updates = [e["lora_B"].double() @ e["lora_A"].double() for e in layer.experts]
        rest = [d - sum(updates) / 3 for d in updates]
        scores = torch.stack([(x.double() @ torch.linalg.svd(d).Vh[0]).abs() for d in rest], -1)
        best = scores.topk(2, -1)
        w = torch.zeros_like(scores).scatter(-1, best.indices, best.values.softmax(-1))
        change = sum(w[..., e, None] * (x.double() @ d.T) for e, d in enumerate(rest))
        expected = layer.base(x).double() + made.kind.scale * change
        assert rel(out.double(), expected) < 1e-5
        assert rel(decision.layer_weights[layer.index][:, :, 0].double(), w) < 1e-4
    assert torch.allclose(decision.recorded().sum(-1), torch.ones(()), atol=1e-5)
    assert all(torch.equal(tensor, made.expert(int(name[0]))[name[2:]]) for name, tensor in before.items())


@pytest.mark.parametrize("recipe", ["arrow", "phatgoose"])
def test_a_router_inside_the_layers_has_the_gradient_of_its_weights_with_checkpointing_too(recipe):
    """Experts under it get the same gradients whether layers are run again in backward or not."""
    found = []
    for again in (False, True):
        host, made = tiny.bank("bert")
        router = met(over(recipe, made), made)
        if again:
            host.train()
            host.gradient_checkpointing_enable({"use_reentrant": False})
            host.enable_input_require_grads()
        batch = tiny.tokens()
        with made.routed(router(Request(batch["attention_mask"]))):
            tiny.readout(tiny.hidden(host, batch), batch["attention_mask"]).backward()
        found.append([p.grad for p in made.expert(0).values()])
    assert all(rel(b, a) < 1e-5 and a.any() for a, b in zip(*found, strict=True))


# phatgoose --------------------------------------------------------------------------------------------------------------------


def over(recipe: str, made: Bank) -> Router:
    """The router of a recipe over a bank; gates are random."""
    options = configure(recipe).router
    router = routers.get(options.name)(options, made.layers, 32)
    router.grow(len(made))
    for i, p in enumerate(router.parameters()):
        p.data = numbers(*p.shape, seed=70 + i)
    return router


def test_phatgoose_routes_by_standardised_products_of_input_and_gate():
    host, made = tiny.bank("bert")
    router, batch = over("phatgoose", made).requires_grad_(False), tiny.tokens()
    decision = router(Request(batch["attention_mask"]))

    def standard(z: torch.Tensor) -> np.ndarray:
        z = z.numpy().astype(float)
        return (z - z.mean()) / np.sqrt(z.var() + 1e-5)

    for layer, x, _ in layer_outputs(host, made, decision, batch):
        for place in np.ndindex(*x.shape[:-1]):
            s = np.array([standard(x[place]) @ standard(v) for v in router.vectors[layer.index]]) / np.sqrt(x.shape[-1])
            kept = np.argsort(s)[-2:]
            w = np.zeros(3)
            w[kept] = np.exp(s[kept]) / np.exp(s[kept]).sum()
            assert np.allclose(decision.layer_weights[layer.index][place][0].numpy(), w, atol=1e-4)


def test_a_gate_weighs_its_expert_by_a_sigmoid_while_it_is_trained():
    host, made = tiny.bank("bert")
    router, batch = over("phatgoose", made).requires_grad_(False), tiny.tokens()
    for layer, x, out in layer_outputs(host, made, router.gated(1), batch):
        a, b = layer.experts[1]["lora_A"], layer.experts[1]["lora_B"]
        share = torch.sigmoid((x * router.vectors[layer.index][1]).sum(-1, keepdim=True))
        assert rel(out, layer.base(x) + made.kind.scale * share * (x @ a.T @ b.T)) < 1e-5


def test_each_gate_is_trained_on_its_own_task_alone():
    """Steps as told, the loss falls; the gates of other experts, the experts and the classifier rows stay."""
    made = toy.session("phatgoose", "router.steps=12", "router.lr=0.2", of=toy.tasks("sea", "city", "farm"))
    gates, losses, before = [[v.detach().clone() for layer in made.learner.router.vectors for v in layer]], {}, {}
    for event in made.train():
        if type(event).__name__ == "Learned":
            rows = made.learner.head.parameters_of(range(made.learner.head.tasks_seen))
            before = toy.expert(made, event.name) | {name: p.detach().clone() for name, p in rows.items()}
        if type(event).__name__ == "Step" and event.phase == "gate":
            losses.setdefault(event.task, []).append(float(event.terms["gate"]))
            if event.step == event.steps:
                after = toy.expert(made, made.tasks[event.task].name) | made.learner.head.parameters_of(range(event.task + 1))
                assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
                gates.append([torch.stack([*layer]).detach().clone() for layer in made.learner.router.vectors])
    assert {t: len(found) for t, found in losses.items()} == {0: 12, 1: 12, 2: 12}
    for t in range(3):
        assert all(layer[t].any() for layer in gates[t + 1])
        for later in gates[t + 2 :]:
            assert all(torch.equal(layer[: t + 1], old) for layer, old in zip(later, gates[t + 1], strict=True))
    assert all(layer.shape[0] == 3 for layer in gates[-1])


# all of them in the loop ------------------------------------------------------------------------------------------------------


def test_the_experts_are_those_of_l2r(tmp_path):
    """The same memory, classifier training and stored experts: in one table only the selection differs."""
    first = toy.trained("l2r", store=tmp_path)
    for recipe in RECIPES:
        made = toy.trained(recipe, store=tmp_path)
        assert made.cursor.reused_s > 0
        assert sum("classifier.weight" in atomic_io.read_arrays(path)[0] for path in tmp_path.iterdir()) == 2
        assert toy.equal(toy.expert(made, "city"), toy.expert(first, "city"))
        for field in ("memory", "router_training", "train"):
            assert getattr(made.config, field) == getattr(first.config, field)
        assert not made.uses()["task_id"]


def test_the_means_are_those_of_the_training_examples_in_the_frozen_backbone():
    made = toy.trained("prototype")
    for t, rows in ((0, made.rows[0, "train"]), (1, made.rows[1, "train"])):
        queries = torch.cat(
            [made.learner.backbone.embed(made.learner.backbone.collate(rows[i : i + 8])) for i in range(0, len(rows), 8)]
        )
        labels = torch.tensor([row.label for row in rows])
        for c in (0, 1):
            assert rel(made.learner.router.mean[2 * t + c], queries[labels == c].mean(0)) < 1e-5


def test_selections_need_experts_of_their_own():
    for recipe in RECIPES:
        with pytest.raises(LabError, match=r"^router \w+ chooses by what each task's own expert was trained on: use"):
            configure(recipe, ["experts.allocation=shared"])
        with pytest.raises(LabError, match="isolated=true"):
            configure(recipe, ["experts.isolated=false", "train.loss_classes=seen"])
    for recipe in ("dam", "arrow", "phatgoose"):
        with pytest.raises(LabError, match=r"^router.top_k = 0"):
            configure(recipe, ["router.top_k=0"])
    with pytest.raises(
        LabError, match=r"^router arrow reads the parameters of lora experts, experts.name is bottleneck: use lora$"
    ):
        configure("arrow", ["experts=bottleneck"])
