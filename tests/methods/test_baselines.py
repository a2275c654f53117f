"""Structural baselines: what grows, what is trained, what is stored and what is given, against hand-worked cases."""

import numpy as np
import pytest
import torch
from support import toy

from lab.config.resolve import configure
from lab.core.errors import LabError
from lab.core.registry import Options
from lab.methods.base import Method
from lab.routers.base import Reads
from lab.training.optimisation import schedule


def steps(made):
    """Step events of a session, which stands at each step while it is looked at."""
    return (event for event in made.train() if type(event).__name__ == "Step")


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("name", toy.one_of_each_kind(toy.recipes("sequential")))
def test_every_recipe_runs_in_the_scenarios_it_names_and_no_other(name, scenario):
    if scenario not in configure(name).scenarios:
        with pytest.raises(LabError, match=f"^recipe {name} makes no sense in scenario {scenario}: use scenario "):
            configure(name, scenario=scenario)
        return
    made = toy.trained(name, "train.epochs=1", of=toy.tasks(train=16, test=8), scenario=scenario)
    assert np.isfinite(made.scores.matrix[-1]).all()
    assert made.uses()["task_id"] == (scenario == "task" or Reads.TASK in made.learner.router.reads)


# per-task ---------------------------------------------------------------------------------------------------------------------


def test_per_task_shares_its_experts_with_l2r_and_forgets_nothing(tmp_path):
    """Expert and classifier rows of a task are those of any recipe that trains isolated experts; no later task moves a score."""
    made = toy.trained("per-task", store=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    again = toy.trained("l2r", "router_training.steps=0", "router=oracle", store=tmp_path, scenario="task")
    assert again.cursor.reused_s > 0 and again.scores.matrix == made.scores.matrix
    assert made.scores.matrix[0][0] == made.scores.matrix[1][0]
    assert made.uses() == {"task_id": True, "stored_examples": 0, "generated_examples": 0}


# multitask --------------------------------------------------------------------------------------------------------------------


def test_joint_training_passes_over_all_tasks_from_a_fresh_start():
    """At the second task every example of both is met once an epoch; nothing of what was there before decides the outcome."""
    made = toy.session("multitask", "memory.per_task=1000", "train.epochs=2")
    met = []

    class Note(Method):
        name = "note"

        def begin_task(self, t, rows):
            if t:  # before joint begins: nothing of this may survive
                for parameter in (*made.learner.bank.expert(0).values(), *made.learner.head.classifier.parameters()):
                    parameter.data.fill_(float("nan"))

        def rows(self, rows, generator):
            met.append([row.key for row in rows])
            return rows

    made.methods.insert(0, Note(Options(), made.learner, made.memory))
    list(made.train())
    plain = toy.trained("multitask", "memory.per_task=1000", "train.epochs=2")
    assert toy.equal(toy.expert(made, "shared"), toy.expert(plain, "shared"))
    assert made.scores.matrix == plain.scores.matrix
    first, second = met[: 2 * 3], met[2 * 3 :]
    assert len(second) == 2 * 6
    for batches, tasks in ((first, (0,)), (second, (0, 1))):
        for epoch in (batches[: len(batches) // 2], batches[len(batches) // 2 :]):
            expected = [row.key for t in tasks for row in made.rows[t, "train"]]
            assert sorted(key for batch in epoch for key in batch) == sorted(expected)
    assert made.uses()["stored_examples"] == 96


@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_a_renewed_learner_is_a_fresh_one(scenario):
    made = toy.trained("sequential", scenario=scenario)
    fresh = toy.session("sequential", scenario=scenario).learner
    fresh.add_task(0), fresh.add_task(1)
    assert not toy.equal(made.learner.bank.expert(0), fresh.bank.expert(0))
    made.learner.reinitialise()
    assert toy.equal(made.learner.bank.expert(0), fresh.bank.expert(0))
    assert toy.equal(dict(made.learner.head.classifier.named_parameters()), dict(fresh.head.classifier.named_parameters()))


def test_multitask_does_not_forget_what_sequential_forgets():
    joint, sequential = (toy.trained(name, "train.epochs=6", scenario="class") for name in ("multitask", "sequential"))
    assert joint.scores.matrix[1][0] > sequential.scores.matrix[1][0] + 0.2


# inclora and olora ------------------------------------------------------------------------------------------------------------


def test_inclora_adds_an_expert_per_task_to_the_frozen_sum_of_the_others():
    made = toy.session("inclora", of=toy.tasks("sea", "city", "farm"))
    frozen = {}
    for event in steps(made):
        bank, t = made.learner.bank, event.task
        assert len(bank) == t + 1
        for k in range(t):
            assert toy.equal(frozen[k], {name: p.data for name, p in bank.expert(k).items()})
            assert all(p.grad is None for p in bank.expert(k).values())
        assert any(p.grad.any() for p in bank.expert(t).values())
        frozen[t] = {name: p.detach().clone() for name, p in bank.expert(t).items()}
    batch = made.learner.backbone.collate(made.rows[0, "test"][:5])
    with torch.no_grad():
        found = made.learner(batch)
        assert torch.equal(found.decision.weights, torch.ones(1, 1, 1, 3))
        for layer in made.learner.bank.routed_layers:  # one linear layer with the summed update, worked out by hand
            scale = made.learner.bank.kind.scale
            update = sum(expert["lora_B"] @ expert["lora_A"] for expert in layer.experts) * scale
            layer.base.weight += update
        made.learner.bank.slot = None
        assert torch.allclose(made.learner.head.logits(batch), found.logits, atol=1e-5)


def test_the_classifier_of_inclora_has_one_block_in_scenario_domain():
    made = toy.trained("inclora", scenario="domain")
    assert len(made.learner.head.classifier.weight) == 1 and len(made.learner.bank) == 2


def test_the_orthogonal_penalty_by_hand_and_as_released():
    made = toy.session("olora", "methods.orthogonal.strength=0.25", of=toy.tasks("sea", "city", "farm"))
    (method,) = made.methods
    made.learner.add_task(0)
    assert method.terms(None, None) == {}, "there is nothing to be orthogonal to"
    made.learner.add_task(1)
    bank = made.learner.bank
    for layer in bank.routed_layers:  # rows 2 e0 and -3 e1 against rows e0 + e1, twice: |2| + |-3| each, 4 layers of 8 rows
        for k, rows in ((0, torch.tensor([2.0, -3.0])), (1, torch.tensor([1.0, 1.0]))):
            layer.experts[k]["lora_A"].data.zero_()
            for i, value in enumerate(rows):
                layer.experts[k]["lora_A"].data[i if k == 0 else slice(0, 2), i] = value
        layer.changed()
    (value,) = method.terms(None, None).values()
    assert value.item() == pytest.approx(0.25 * len(bank.routed_layers) * 2 * (2 + 3))

    made.learner.add_task(2)
    draw = torch.Generator().manual_seed(0)
    for k in range(3):
        for parameter in bank.expert(k).values():
            parameter.data = torch.randn(parameter.shape, generator=draw)
            parameter.requires_grad_(k == 2)
        for layer in bank.routed_layers:
            layer.changed()
    (value,) = method.terms(None, None).values()
    released = 0
    for layer in bank.routed_layers:
        old, new = torch.cat([layer.experts[k]["lora_A"] for k in (0, 1)]), layer.experts[2]["lora_A"]
        released += torch.abs(torch.mm(old, new.T)).sum()
    assert value.item() == pytest.approx(0.25 * released.item(), rel=1e-5)
    value.backward()
    for layer in bank.routed_layers:  # d |a . n| / d n = sign(a . n) a
        old, new = torch.cat([layer.experts[k]["lora_A"] for k in (0, 1)]), layer.experts[2]["lora_A"]
        assert torch.allclose(new.grad, 0.25 * (new @ old.T).sign() @ old, rtol=1e-4, atol=1e-4)
        assert all(p.grad is None for k in (0, 1) for p in layer.experts[k].values())


def test_olora_overlaps_less_than_inclora():
    def overlap(made):
        return sum(
            (layer.experts[0]["lora_A"] @ layer.experts[1]["lora_A"].T).abs().sum().item()
            for layer in made.learner.bank.routed_layers
        )

    plain, held = toy.trained("inclora"), toy.trained("olora")
    assert overlap(held) < 0.5 * overlap(plain)


# full -------------------------------------------------------------------------------------------------------------------------


def tuned_by_torch(made, batches, steps):
    """The tiny backbone, all of its weights trained by a plain loop on these batches."""
    fresh = toy.session("full", of=made.tasks).learner
    fresh.head.classifier.grow(0, "classifier", made.tasks[0].name)
    model, head = fresh.backbone.model, fresh.head.classifier
    for layer in fresh.bank.routed_layers:
        model.set_submodule(layer.info.name, layer.base)
    parameters = [*model.requires_grad_(True).parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 1e-3 * schedule(step, steps, 0.06)
        pooled = fresh.backbone.embed(batch)
        loss = torch.nn.functional.cross_entropy(pooled @ head.weight[0].T + head.bias[0], batch.label)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return model


def test_full_is_plain_fine_tuning_of_all_weights():
    made, batches = toy.session("full", "train.lr=1e-3", of=toy.tasks("sea")), []
    before = {name: p.clone() for name, p in made.learner.backbone.model.named_parameters() if ".experts." not in name}
    collate = made.learner.backbone.collate
    made.learner.backbone.collate = lambda rows: batches.append(collate(rows)) or batches[-1]
    for event in steps(made):
        count, met = event.step, list(batches[-event.step :])
    made.learner.backbone.collate = collate
    theirs = tuned_by_torch(made, met, count)
    moved = 0
    for layer in made.learner.bank.routed_layers:
        for name, change in layer.experts[0].items():
            start = before[f"{layer.info.name}.base.{name}"]
            expected = theirs.get_submodule(layer.info.name).get_parameter(name) - start
            if not layer.info.name.endswith("key") or name != "bias":  # softmax does not see it: its gradient is rounding
                assert torch.allclose(change, expected, atol=2e-5), f"{layer.info.name}.{name}"
            assert torch.equal(start, layer.base.get_parameter(name)), "the backbone itself stays as it was"
            moved += bool(change.any())
    assert len(made.learner.bank.routed_layers) == 3 + 1 + 2 * 8  # embeddings and their norm; 6 linear layers and 2 norms each
    assert moved == sum(len(layer.experts[0]) for layer in made.learner.bank.routed_layers)
    assert sum(p.numel() for p in made.learner.bank.expert(0).values()) == sum(p.numel() for p in before.values())


def test_full_keeps_steps_in_float32_that_bfloat16_would_lose():
    made = toy.session("full", "train.lr=1e-6", "backbone.dtype=bfloat16", of=toy.tasks("sea"))
    list(made.train())
    kept = lost = 0
    for layer in made.learner.bank.routed_layers:
        for name, change in layer.experts[0].items():
            base = layer.base.get_parameter(name)
            assert change.dtype == torch.float32
            if base.dtype == torch.bfloat16:
                kept += change.count_nonzero().item()
                lost += ((base + change.to(torch.bfloat16)) == base)[change != 0].sum().item()
    assert kept > 1000 and lost > 0.9 * kept


def test_full_embeddings_and_norms_are_not_rounded_in_bfloat16():
    made = toy.session("full", "backbone.dtype=bfloat16", of=toy.tasks("sea"))
    made.learner.add_task(0)
    batch, norm = made.learner.backbone.collate(made.rows[0, "train"][:4]), made.learner.bank.routed_layers[3]
    assert isinstance(norm.base, torch.nn.LayerNorm)
    seen = []
    norm.register_forward_hook(lambda layer, args, out: seen.append((args[0], out)))
    norm.experts[0]["weight"].data.fill_(1e-4)
    with made.learner.bank.routed(made.learner.decide(batch)), torch.no_grad():
        made.learner.head.logits(batch)
    ((x, out),) = seen
    expected = torch.nn.functional.layer_norm(x, (32,), norm.base.weight + 1e-4, norm.base.bias, norm.base.eps)
    assert x.dtype == out.dtype == torch.float32 and torch.equal(out, expected)
