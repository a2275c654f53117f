"""What if: nothing changed gives the run's own row to the bit; changes against a hand-made evaluation; what the record proves."""

from typing import Any

import numpy as np
import pytest
from support import toy
from support.run_folders import write_run

import lab
from lab.analysis import what_if as module
from lab.analysis.what_if import Examiner, Override, outcome, proven, recorded_shares, what_if
from lab.core.errors import LabError
from lab.inference.loading import load


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    root = tmp_path_factory.mktemp("what-if")
    stream = toy.folder(root / "toy", toy.tasks("city", "farm", "sea"))
    options = toy.overrides("l2r", "router.heads=2")
    return lab.run("l2r", options, stream=str(stream), backbone="tiny", runs=root / "runs", id="routed", progress=False)


@pytest.mark.parametrize("after", [1, 2])
def test_without_a_change_the_model_gives_the_row_of_the_run(routed, after):
    examiner = Examiner(routed, after)
    tested = {t: examiner.test(t, Override()) for t in range(after + 1)}
    asked, recorded = outcome(routed, after, tested), what_if(routed, after)
    assert asked["tasks"] == recorded["tasks"] and recorded["asked"] == []
    assert [row["changed"] for row in asked["tasks"]] == routed.matrix[after, : after + 1].tolist()
    for pair in asked["metrics"].values():
        assert pair["changed"] == pytest.approx(pair["recorded"], abs=1e-6)
    if after == 2:
        own, metrics = asked["metrics"], routed.metrics()
        assert own["average_accuracy"]["changed"] == metrics["average_accuracy"]
        assert own["forgetting"]["changed"] == metrics["forgetting"]
        assert own["routing.accuracy"]["recorded"] == pytest.approx(routed.info["routing"]["accuracy"])


@pytest.mark.parametrize("change", [{"temperature": 0.2}, {"top": 1}, {"pruned": ("sea",)}, {"temperature": 3.0, "pruned": (0,)}])
def test_a_change_gives_what_the_loaded_model_predicts_under_it(routed, change: Any):
    model, told = load(routed), []
    row = what_if(routed, watch=lambda *seen: told.append(seen), **change)
    scores = []
    for name in ("city", "farm", "sea"):
        test = toy.task(name).test
        classes = model.predict([example.text for example in test], **change)
        scores.append(np.mean([got == f"{name}/{toy.LABELS[example.label]}" for got, example in zip(classes, test, strict=True)]))
    assert [task["changed"] for task in row["tasks"]] == scores and row["asked"] == ["city", "farm", "sea"]
    best = routed.matrix[:2].copy()
    forgotten = np.mean([np.nanmax(best[j:, j]) - scores[j] for j in range(2)])
    assert row["metrics"]["forgetting"]["changed"] == pytest.approx(forgotten)
    assert told[-1] == ("sea", 60, 60) and [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_no_model_is_asked_where_the_record_proves_that_no_weight_changes(tmp_path, monkeypatch):
    oracle = toy.recorded(toy.session("oracle"), tmp_path)
    monkeypatch.setattr(module, "Examiner", None)
    changes: list[dict[str, Any]] = [{"temperature": 0.1}, {"top": 1}]
    for change in changes:
        row = what_if(oracle, **change)
        assert [task["changed"] for task in row["tasks"]] == oracle.matrix[-1].tolist() and row["asked"] == []
    routing = oracle.routing()
    assert proven(routing, 0, Override(pruned=(1,))) and not proven(routing, 1, Override(pruned=(1,)))
    assert not proven(routing, 0, Override(expert=0)) and not proven(routing, 0, Override(uniform=True))


def test_shares_of_recorded_examples_change_at_once(tmp_path):
    run = write_run(tmp_path, "a")
    before, changed = recorded_shares(run, 2, Override(temperature=0.5, pruned=(2,)))
    weights = np.array(run.routing().examples(0), dtype=float)
    np.testing.assert_allclose(before[0], weights.mean((0, 1, 2)), rtol=1e-5)
    kept = (weights[..., :2] / weights[..., :2].sum(-1, keepdims=True)) ** 2
    np.testing.assert_allclose(changed[0, :2], (kept / kept.sum(-1, keepdims=True)).mean((0, 1, 2)), rtol=1e-5)
    assert (changed[:, 2] == 0).all()


@pytest.mark.parametrize(
    ("after", "change", "words"),
    [
        (0, {}, "one expert after task 0"),
        (7, {}, r"no recorded routing after task 7: use one of \[0, 1, 2\]"),
        (2, {"temperature": 0}, "temperature = 0: it must be above 0"),
        (2, {"pruned": ["nowhere"]}, "nowhere"),
        (2, {"top": 1}, "without its weights"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(tmp_path, after, change, words):
    run = write_run(tmp_path, "a")
    with pytest.raises(LabError, match=words):
        what_if(run, after, **change)
    with pytest.raises(LabError, match="no recorded routing: there are no weights"):
        what_if(write_run(tmp_path, "none", routed=False))
