"""Pruning by load: who is kept, by hand; what the others' absence does, against experts and gates that are really taken away."""

import json

import numpy as np
import pytest
import torch
from support import toy
from support.tiny import rel
from torch import nn
from typer.testing import CliRunner

import lab
from lab.analysis.pruning import kept_by_load, pruned
from lab.cli import main
from lab.core.errors import LabError
from lab.inference.loading import load
from lab.inference.override import Override
from lab.run_folder.writer import update_info

THREE = ("city", "farm", "sea")
ALL = "router={name: sparse, top_k: 1000, hold: 0}"  # a softmax over all: without a gate it is that over the others


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs on the toy stream by recipe, made through the same door as a user's."""
    root = tmp_path_factory.mktemp("pruning")
    stream, known = toy.folder(root / "toy", toy.tasks(*THREE)), {}

    def of(recipe: str, *more: str):
        key = "-".join((recipe, str(len(more))))
        if key not in known:
            options = toy.overrides(recipe, *more)
            known[key] = lab.run(recipe, options, stream=str(stream), backbone="tiny", runs=root / "runs", id=key, progress=False)
        return known[key]

    return of


def test_experts_are_kept_by_load():
    loads = [0.05, 0.5, 0.0, 0.3, 0.15]
    assert kept_by_load(loads, 0.8) == [1, 3]
    assert kept_by_load(loads, 0.81) == [1, 3, 4]
    assert kept_by_load(loads, 1.0) == [0, 1, 3, 4]
    assert kept_by_load([2.0, 2.0], 0.5) == [0]
    for bad, share in (([], 0.5), ([0.0, 0.0], 0.5), ([1.0, -1.0], 0.5), ([1.0], 0.0), ([1.0], 1.1), ([float("nan")], 0.5)):
        with pytest.raises(LabError):
            kept_by_load(bad, share)


def test_the_others_share_the_weight_of_a_pruned_expert():
    w = torch.tensor([[[0.5, 0.3, 0.2], [0.0, 0.0, 0.8]]])
    assert torch.allclose(Override(pruned=(1,))(w), torch.tensor([[[0.5 / 0.7, 0, 0.2 / 0.7], [0, 0, 0.8]]]))
    assert torch.equal(Override(pruned=(2,))(w)[0, 1], torch.zeros(3)), "its choice is gone: nothing acts"
    for bad in ((3,), (0, 1, 2)):
        with pytest.raises(LabError, match=r"^pruned = .* this run has 3 expert\(s\), numbered from 0, and one must stay$"):
            Override(pruned=bad).check(1, 3)


def test_a_pruned_expert_is_as_if_it_were_taken_out_of_bank_and_gates(runs):
    learner = load(runs("moduleformer", ALL)).learner  # which is frozen
    batch = learner.backbone.collate(learner.backbone.encode(toy.task("sea").test, 0, "train"))
    with learner.bank.routed(Override(pruned=(1,)).of(learner.decide(batch))):
        found = learner.head.logits(batch)
    with learner.bank.routed(learner.decide(batch)):
        whole = learner.head.logits(batch)
    for layer in learner.bank.routed_layers:
        del layer.experts[1]
        layer.changed()
    for i, rows in enumerate(learner.router.outer):
        learner.router.outer[i] = nn.Parameter(rows[[0, 2]])
    learner.router.experts = 2
    with learner.bank.routed(learner.decide(batch)):
        expected = learner.head.logits(batch)
    assert rel(found, expected) < 1e-5 and rel(whole, expected) > 1e-3


@pytest.mark.parametrize("recipe", ["moduleformer", "mbc"])
def test_loads_and_scores_are_those_of_the_run(recipe, runs):
    run = runs(recipe, *([ALL] if recipe == "moduleformer" else []))
    before = sorted(path for path in run.dir.rglob("*"))
    told = CliRunner().invoke(main.app, ["prune", run.id, "--share", "0.5", "--runs", str(run.dir.parent), "--json"])
    found = json.loads(told.stdout)
    assert sorted(path for path in run.dir.rglob("*")) == before
    routing = run.routing()
    whole = np.concatenate([routing.arrays[f"{t}/share_sum"][None] / 20 for t in range(3)])  # 20 test examples each
    assert [row["expert"] for row in found["experts"]] == routing.experts
    assert np.allclose([row["load"] for row in found["experts"]], whole.mean(0)) and whole.mean(0).sum() == pytest.approx(1)
    kept = [row["load"] for row in found["experts"] if row["kept"]]
    assert sum(kept) >= 0.5 > sum(kept) - min(kept) and 0 < len(kept) < len(found["experts"])
    assert [row["task"] for row in found["tasks"]] == list(THREE)
    assert [row["before"] for row in found["tasks"]] == run.matrix[-1].tolist()
    assert found["average_accuracy"]["before"] == pytest.approx(run.result()["average_accuracy"])
    dropped = tuple(k for k, row in enumerate(found["experts"]) if not row["kept"])
    model = load(run)
    for t, row in enumerate(found["tasks"]):
        answers = [model.answer(example.text, Override(pruned=dropped)) for example in toy.task(THREE[t]).test]
        pairs = zip(answers, toy.task(THREE[t]).test, strict=True)
        assert row["after"] == np.mean([answer.prediction == f"{THREE[t]}/{toy.LABELS[e.label]}" for answer, e in pairs])
    shown = CliRunner().invoke(main.app, ["prune", run.id, "--share", "1", "--runs", str(run.dir.parent)])
    assert shown.exit_code == 0 and "load" in shown.stdout and "mean" in shown.stdout
    nothing = pruned(run, 1.0)
    assert all(row["before"] == row["after"] for row in nothing["tasks"])


def refused(run, share: float = 0.9) -> str:
    before = sorted(run.dir.rglob("*"))
    told = CliRunner().invoke(main.app, ["prune", run.id, "--share", str(share), "--runs", str(run.dir.parent)])
    assert told.exit_code == 2 and told.stdout == "" and sorted(run.dir.rglob("*")) == before
    return told.stderr


def test_what_cannot_be_pruned(runs):
    run = runs("moduleformer", ALL)
    for share in (0, -1, 1.2):
        wrong = f"lab: share = {float(share)}: give the part of the load to keep, above 0 and at most 1\n"
        assert refused(run, share) == wrong
    alone = runs("sequential")
    assert refused(alone) == "lab: run 'sequential-0' has one expert: there is nothing to route and nothing to prune\n"
    joint = runs("private")
    assert refused(joint).startswith("lab: run 'private-0' is of protocol transfer: experts are pruned by the load of ")
    update_info(run, status="interrupted")
    assert refused(run).startswith("lab: run 'moduleformer-1' is interrupted: experts are pruned by the load of a finished run")
    update_info(run, status="finished")
    for path in (run.dir / "routing").iterdir():
        path.unlink()
    assert refused(run) == "lab: run 'moduleformer-1' has no recorded routing: there is no load to prune by\n"
