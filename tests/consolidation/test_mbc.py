"""Clustering of experts (MBC): clusters, their LoRAs, and what chooses among these."""

import pytest
import torch
from support import tiny, toy
from support.numbers import numbers
from support.tiny import layer_outputs, rel
from typer.testing import CliRunner

from lab.cli.main import app
from lab.config.former_names import FormerName, renamed
from lab.config.resolve import configure
from lab.consolidation.mbc import Mbc, chooses
from lab.core.errors import LabError
from lab.core.registry import consolidations, routers
from lab.models.expert_bank import Bank
from lab.models.learner import load_routing_state, routing_state
from lab.routers.base import MadeOfExperts, Request, Router


@torch.no_grad()
def clustered(made: Bank, choice: str, **options) -> tuple[Router, Mbc]:
    """A router and two clusters of a bank of random experts, trained one after the other."""
    router = routers.get(choice)(routers.options(choice), made.layers, 32)
    clusters = consolidations.get("mbc")(consolidations.options({"name": "mbc", "clusters": 2, **options}), router, made.layers)
    for k in range(len(made)):
        clusters.grow(k + 1)
        router.grow(clusters.choices)
        clusters.after_expert_trained(made.experts()[: k + 1])
    if isinstance(router, MadeOfExperts):
        router.read_experts(clusters.acting(made.experts()))
    return router.requires_grad_(False), clusters.requires_grad_(False)


def test_like_experts_share_a_lora_that_starts_as_their_mean_update():
    """Two of three experts are the same but for their factors: one cluster; the bank's experts stay as they are."""
    host, made = tiny.bank("bert", experts=3)
    turn = torch.linalg.qr(numbers(tiny.RANK, tiny.RANK, seed=2)).Q
    twin = {name: turn.T @ p if name.endswith("lora_A") else p @ turn for name, p in made.expert(0).items()}
    made.load_expert(2, {name: tensor.detach() for name, tensor in twin.items()})
    router, clusters = clustered(made, "arrow", rank=tiny.RANK)
    assert clusters.owner(torch.arange(3)).tolist() == [0, 1, 0]
    assert clusters.names(["a", "b", "c"]) == ["a+c", "b"]
    for i, layer in enumerate(made.routed_layers):
        updates = [e["lora_B"].detach() @ e["lora_A"].detach() for e in layer.experts]
        for c, members in enumerate(([0, 2], [1])):
            mean = sum(updates[k] for k in members) / len(members)
            assert rel(clusters.up[i][c] @ clusters.down[i][c], mean) < 1e-4
    batch, task = tiny.tokens(), torch.tensor([2, 1, 0, 1])
    for layer, x, out in layer_outputs(host, made, clusters.oracle_decision(task), batch):
        for row, k in enumerate(task.tolist()):
            e = layer.experts[k]  # members are their cluster here
            expected = layer.base(x[row]) + made.kind.scale * (x[row] @ e["lora_A"].T @ e["lora_B"].T)
            assert rel(out[row], expected) < 1e-4
    decision = clusters.applied(router(Request(batch["attention_mask"])))
    for layer, x, _ in layer_outputs(host, made, decision, batch):
        factors = zip(clusters.down[layer.index], clusters.up[layer.index], strict=True)
        prototypes = torch.stack([torch.linalg.svd(b @ a).Vh[0] for a, b in factors])
        scores = (x @ prototypes.T).abs()
        assert rel(decision.layer_weights[layer.index][:, :, 0], scores.softmax(-1)) < 1e-3


def test_clusters_are_trained_on_stored_examples_and_the_isolated_experts_stay(tmp_path):
    made = toy.session(
        "mbc", "consolidation.clusters=2", "consolidation.steps=6", of=toy.tasks("sea", "city", "farm"), store=tmp_path
    )
    kept, steps, moved = {}, [], []
    for event in made.train():
        kind = type(event).__name__
        if kind == "Learned":
            kept[event.name] = toy.expert(made, event.name)
            start = [p.detach().clone() for p in made.learner.consolidation.parameters()]
        if kind == "Step" and event.phase == "gate":
            steps.append(event.task)
            if event.step == event.steps:
                moved.append(
                    all(not torch.equal(a, b) for a, b in zip(start, made.learner.consolidation.parameters(), strict=True))
                )
    assert steps == [0] * 6 + [1] * 6 + [2] * 6 and all(moved)
    assert all(toy.equal(kept[name], toy.expert(made, name)) for name in kept)
    assert made.uses()["stored_examples"] == 72
    run = toy.recorded(
        toy.session("mbc", "consolidation.clusters=2", of=toy.tasks("sea", "city", "farm"), store=tmp_path), tmp_path / "runs"
    )
    names = run.routing(2).experts
    assert len(names) == 2 and sorted("+".join(names).split("+")) == ["city", "farm", "sea"]
    own = run.result()["routing"]["own_expert_share_by_task"]
    assert [*own] == ["sea", "city", "farm"] and all(0 <= share <= 1 for share in own.values())
    with pytest.raises(
        LabError, match=r"^consolidation mbc trains the clusters' LoRAs on stored examples: set memory.per_task above 0$"
    ):
        configure("mbc", ["memory.per_task=0", "router_training.steps=0"])


CHOICES = [name for name in routers.names() if chooses(name)]
UNTRAINED = [name for name in CHOICES if name != "gates"]


def test_what_may_choose_among_clusters():
    assert {"arrow", "gates", "prototype", "sum", "uniform"} <= set(CHOICES)
    assert not {"oracle", "phatgoose", "attention", "skills"} & set(CHOICES)


@pytest.mark.parametrize("query", ["layer", "backbone"])
def test_gates_learn_on_the_memory_which_cluster_to_choose(query):
    """Stage B trains the gates over the clusters, and nothing of the clusters' LoRAs."""
    of = toy.tasks("sea", "city", "farm")
    made = toy.session("mbc", f"router={{name: gates, start: tasks, query: {query}}}", "router_training.steps=30", of=of)
    router, clusters, before = made.learner.router, made.learner.consolidation, None
    for event in made.train():
        if type(event).__name__ == "Step" and event.phase == "memory" and event.task == 2 and event.step == 1:
            before = [p.detach().clone() for p in (*clusters.down, *clusters.up)]
    assert all(torch.equal(a, b) for a, b in zip(before, (*clusters.down, *clusters.up), strict=True)) and len(before) > 0
    assert {weight.shape[1] for weight in router.weight} == {2} and all(weight.any() for weight in router.weight)
    share = []
    for t in range(3):
        rows = made.rows[t, "test"]
        batch = made.learner.backbone.collate(rows)
        decision = made.learner.decide(batch)
        with torch.no_grad(), made.learner.bank.routed(decision):
            made.learner.head.logits(batch)
        found = decision.recorded()[..., clusters.owner(torch.tensor([t]))].mean().item()
        share.append(found)
    assert min(share) > 0.6, share
    assert made.uses()["stored_examples"] == len(made.memory) and not made.uses()["task_id"]


@pytest.mark.parametrize("choice", [name for name in UNTRAINED if name != "arrow"])
def test_a_cluster_has_the_sum_of_the_weights_of_its_tasks(choice):
    """Beside a run whose router weighs the tasks' own experts: the same tasks, experts and statistics."""
    of = toy.tasks("sea", "city", "farm")
    made = toy.trained("mbc", f"router={choice}", of=of)
    plain = toy.trained("prototype", f"router={choice}", of=of)
    batch = made.learner.backbone.collate([row for t in range(3) for row in made.rows[t, "test"]])
    found, tasks = made.learner.decide(batch).weights[:, 0, 0], plain.learner.decide(batch).weights[:, 0, 0]
    owner = made.learner.consolidation.owner(torch.arange(3)).tolist()
    assert sorted(set(owner)) == [0, 1] and found.shape == (len(tasks), 2)
    for c in (0, 1):
        assert torch.allclose(found[:, c], sum(tasks[:, t] for t in range(3) if owner[t] == c))
    assert choice in ("sum", "uniform") or len(found.unique(dim=0)) == 2, "texts differ in their cluster"


@pytest.mark.parametrize("choice", ["sum", "uniform"])
def test_before_training_equal_weights_on_clusters_are_equal_weights_on_tasks(choice):
    """Each cluster's LoRA is its members' mean update then, and their number is its weight, so nothing is lost by clustering."""
    host, made = tiny.bank("bert", experts=3)
    (router, clusters), batch = clustered(made, choice, rank=2 * tiny.RANK), tiny.tokens()
    decision = router(Request(batch["attention_mask"]))
    plain = layer_outputs(host, made, decision, batch)
    pairs = zip(layer_outputs(host, made, clusters.applied(decision), batch), plain, strict=True)
    (first, x, out), (_, same, expected) = next(iter(pairs))  # later layers are given what earlier ones made
    assert torch.equal(x, same) and rel(out - first.base(x), expected - first.base(x)) < 1e-4


@pytest.mark.parametrize("router", ["oracle", "phatgoose"])
def test_a_router_with_gates_per_expert_or_that_is_told_the_task_cannot_choose_among_clusters(router):
    with pytest.raises(LabError, match=f"router = {router}: clusters are chosen without the task") as error:
        configure("mbc", [f"router={router}"])
    assert str(error.value).endswith(f"use {', '.join(CHOICES)}")


def test_settings_of_earlier_versions_are_read():
    """A router mbc held the router that chooses; recorded weights of clusters stand under the names of that time."""
    former = {"router": {"name": "mbc", "clusters": 2, "heads": 2, "choice": {"name": "prototype", "top_k": 2}}}
    with pytest.warns(FormerName, match="consolidation=mbc"):
        config = renamed(former)
    assert config["router"] == {"name": "prototype", "top_k": 2, "heads": 2}
    assert config["consolidation"] == {"name": "mbc", "clusters": 2}


def test_tensors_of_earlier_versions_are_read():
    learner, other = (toy.session("mbc").learner for _ in range(2))
    for each in (learner, other):
        each.add_task(0), each.add_task(1)
    for name, tensor in routing_state(learner).items():
        tensor.copy_(numbers(*tensor.shape, seed=len(name)))
    former = {
        name.removeprefix("consolidation.") if name.startswith("consolidation.") else f"choice.{name}": tensor.clone()
        for name, tensor in routing_state(learner).items()
    }
    load_routing_state(other, former)
    assert toy.equal(routing_state(learner), routing_state(other))


def test_more_clusters_than_tasks_are_refused_before_any_work(tmp_path):
    with pytest.raises(LabError) as error:
        toy.session("mbc", "consolidation.clusters=3")
    assert str(error.value) == "consolidation.clusters = 3: the stream has 2 task(s), so as many experts: ask for 1 to 2 clusters"
    stream = toy.folder(tmp_path / "toy")
    words = ["run", "mbc", "--stream", stream, "--backbone", "tiny", "--runs", tmp_path / "runs"]
    told = CliRunner().invoke(app, [str(word) for word in words])
    assert told.exit_code == 2 and "consolidation.clusters = 3: the stream has 2 task(s)" in told.stderr
    assert not (tmp_path / "runs").exists()
