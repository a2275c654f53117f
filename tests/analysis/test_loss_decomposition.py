"""Where losses went: against learners copied while they were trained, measured by other code, in every kind of recipe."""

import copy
import json
import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import toy
from typer.testing import CliRunner

import lab
from lab.analysis import loss_decomposition
from lab.cli import main
from lab.config.resolve import configure
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.models.learner import Learner
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run, update_info
from lab.training.evaluation import evaluate
from lab.training.recorder import record
from lab.training.runner import session as api_session
from lab.training.trainer import EVALUATION_BATCH

ACTIVE = ("experts.isolated=false", "experts.allocation=per_task", "router=uniform", "router_training.steps=0")
RECIPES = {name: (name, (), configure(name).scenario) for name in toy.recipes("sequential")}
SETUPS = RECIPES | {
    "l2r, scenario task": ("l2r", (), "task"),
    "l2r, scenario domain": ("l2r", (), "domain"),
    "sequential, scenario task": ("sequential", (), "task"),
    "sequential, scenario domain": ("sequential", (), "domain"),
    "frozen classifier": ("l2r", ("router_training.classifier=frozen",), "class"),
    "earlier experts act": ("sequential", (*ACTIVE, "train.loss_classes=seen"), "class"),
}
EACH = [*toy.one_of_each_kind([*RECIPES]), *(name for name in SETUPS if name not in RECIPES)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By setup: the session, its run, and a copy of the learner after every task."""
    root, known = tmp_path_factory.mktemp("runs"), {}

    def of(name: str):
        if name not in known:
            recipe, more, scenario = SETUPS[name]
            session = toy.session(recipe, *more, of=toy.tasks("sea", "city", "farm"), scenario=scenario)
            run, copies = create_run(session.config.to_dict(), root, f"run-{len(known)}"), []
            for event in record(run, session):
                if type(event).__name__ == "TaskEnded":
                    copies.append(copy.deepcopy(session.learner))
            known[name] = session, run, copies
        return known[name]

    return of


@pytest.fixture
def data(monkeypatch):
    """The toy stream is no stream of the registry: sessions of recorded runs get its tasks from here."""
    by_name = {task.name: task for task in toy.tasks("sea", "city", "farm")}
    monkeypatch.setattr("lab.training.runner.tasks_of", lambda stream, seed, **_: [by_name[task] for task in stream.tasks])


def features(learner: Learner, rows, oracle: bool) -> torch.Tensor:
    """Pooled representations (N, D), one row at a time."""
    found = []
    for row in rows:
        batch = learner.backbone.collate([row])
        with (
            torch.no_grad(),
            learner.bank.routed(learner.consolidation.oracle_decision(batch.task) if oracle else learner.decide(batch)),
        ):
            found.append(learner.backbone.embed(batch))
    return torch.cat(found)


def blocks(learner: Learner) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(learner.head.classifier.weight, learner.head.classifier.bias, strict=True))


def reference(session, then: Learner, now: Learner, j: int, oracle: bool):
    """score(S) for sets of "experts", "classifier" and "new_classes" that are new, by plain matrix products."""
    rows = session.rows[j, "test"]
    pooled = {new: features(learner, rows, oracle) for new, learner in ((False, then), (True, now))}
    sizes, domain = [len(task.labels) for task in session.tasks], session.config.scenario == "domain"
    start = 0 if domain else sum(sizes[:j])

    def score(new: frozenset) -> float:
        old, fresh = blocks(then), blocks(now)
        x = pooled["experts" in new]
        if domain:
            chosen = fresh if "classifier" in new else old
            logits = torch.stack([x @ w.T + b for w, b in chosen]).mean(0)
        else:
            chosen = fresh if "classifier" in new else [*old, *fresh[len(old) :]]
            logits = torch.cat([x @ w.T + b for w, b in chosen], dim=1)
            limit = sum(sizes) if "new_classes" in new else sum(sizes[: j + 1])
            if session.config.scenario == "task":
                logits[:, :start] = -math.inf
                limit = start + sizes[j]
            logits[:, limit:] = -math.inf
        hits = [int(row.argmax()) == start + example.label for row, example in zip(logits, rows, strict=True)]
        return sum(hits) / len(hits)

    return score


def shapley(score, parts: tuple[str, ...], part: str) -> float:
    """The closed form: marginal costs weighted by |S|! (n - 1 - |S|)! / n!."""
    others, n, total = [other for other in parts if other != part], len(parts), 0.0
    for size in range(n):
        for chosen in map(frozenset, combinations(others, size)):
            weight = math.factorial(size) * math.factorial(n - 1 - size) / math.factorial(n)
            total += weight * (score(chosen) - score(chosen | {part}))
    return total


@pytest.mark.parametrize("name", EACH)
def test_recall_gives_back_every_row_of_the_matrix(name, made, data):
    """What a learner computes from the files of a moment is what was measured then."""
    _, run, _ = made(name)
    session = loss_decomposition.reopened(run)
    learner = session.learner
    for after in range(3):
        learner.add_task(after)
        loss_decomposition.recall(run, learner, after)
        for j in range(after + 1):
            found = evaluate(learner, session.rows[j, "test"], after + 1, EVALUATION_BATCH)
            assert found.score == run.matrix[after][j]


@pytest.mark.parametrize("name", EACH)
def test_terms_are_those_of_learners_copied_while_they_were_trained(name, made, data):
    session, run, copies = made(name)
    found = lab.decompose(run)
    oracle = session.learner.per_task and session.config.experts.isolated
    classes = ("new_classes",) if session.config.scenario == "class" else ()
    matrix, now = run.matrix, copies[-1]
    assert [row["task"] for row in found["tasks"]] == ["sea", "city"]
    for j, row in enumerate(found["tasks"]):
        score = reference(session, copies[j], now, j, oracle)
        parts = ("experts", "classifier", *classes)
        expected = {part: shapley(score, parts, part) for part in parts}
        assert {part: row[part] for part in parts} == pytest.approx(expected, abs=1e-9)
        assert (row["learned"], row["last"], row["loss"]) == (matrix[j][j], matrix[2][j], matrix[j][j] - matrix[2][j])
        terms = [row[term] for term in loss_decomposition.TERMS if row[term] is not None]
        assert sum(terms) == pytest.approx(row["loss"], abs=1e-12)
        if oracle:
            before, after = score(frozenset()), score(frozenset(parts))
            assert (row["oracle_learned"], row["oracle_last"]) == pytest.approx((before, after))
            assert row["router"] == pytest.approx((after - matrix[2][j]) - (before - matrix[j][j]))
            assert row["oracle_last"] == run.recorded_scores["oracle"][j]
            assert row["experts"] == 0 or session.learner.consolidation.trains  # which are trained again after every task
    assert found["mean"]["loss"] == pytest.approx(-run.metrics()["backward_transfer"])
    assert set(found["why"]) == {term for term in loss_decomposition.TERMS if found["mean"][term] is None}
    assert (found["mean"]["router"] is None) == (not oracle) and (found["mean"]["new_classes"] is None) == (not classes)


def test_the_toy_stream_loses_by_different_causes(made, data):
    """Else the tests above would hold for code that always answers nothing."""
    sequential, routed = lab.decompose(made("sequential")[1]), lab.decompose(made("uniform")[1])
    assert sequential["mean"]["experts"] > 0.1 and sequential["mean"]["new_classes"] > 0.1
    assert max(abs(row["router"]) for row in routed["tasks"]) > 0.1
    assert lab.decompose(made("oracle")[1])["mean"]["router"] == 0
    assert "one shared expert" in sequential["why"]["router"]
    assert "experts act together" in lab.decompose(made("earlier experts act")[1])["why"]["router"]


def test_equal_parts_are_not_evaluated(made, data, monkeypatch, tmp_path):
    """Frozen experts and a frozen classifier have the share 0: what is left are the new classes, two evaluations a task."""
    calls = []
    monkeypatch.setattr(loss_decomposition, "evaluate", lambda *args: calls.append(args) or evaluate(*args))
    run = copied(made("frozen classifier")[1], tmp_path)
    found = lab.decompose(run)
    assert len(calls) == 4 and {(row["experts"], row["classifier"]) for row in found["tasks"]} == {(0.0, 0.0)}


def copied(run: Run, folder) -> Run:
    import shutil

    shutil.copytree(run.dir, folder / run.id)
    (folder / run.id / "decomposition.json").unlink(missing_ok=True)
    return Run(folder / run.id)


def test_the_second_time_it_is_only_read(made, data, monkeypatch):
    _, run, _ = made("sequential")
    first = lab.decompose(run)
    monkeypatch.setattr(loss_decomposition, "_measure", None)
    assert lab.decompose(run) == first == json.loads((run.dir / "decomposition.json").read_text())


def test_nothing_else_in_the_folder_changes(made, data, tmp_path):
    run = copied(made("l2r")[1], tmp_path)
    before = {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()}
    lab.decompose(run)
    after = {path: path.read_bytes() for path in run.dir.rglob("*") if path.is_file()}
    assert {path.name for path in set(after) - set(before)} == {"decomposition.json"}
    assert {path: after[path] for path in before} == before


def test_the_command(made, data):
    _, run, _ = made("l2r")
    words = ["show", run.id, "--decompose", "--runs", str(run.dir.parent)]
    found = json.loads(CliRunner().invoke(main.app, [*words, "--json"]).stdout)
    assert found.pop("decomposition") == lab.decompose(run) and found == json.loads(json.dumps(run.result()))
    shown = CliRunner().invoke(main.app, words).stdout
    assert "Router error" in shown and "Classifier drift" in shown


# what cannot be decomposed ------------------------------------------------------------------------------------------------------


def spoil(run: Run, what: str) -> None:
    if what == "running":
        update_info(run, status="interrupted")
    if what == "one task":
        scores = run.recorded_scores
        atomic_io.write_json(run.dir / "matrix.json", scores | {"matrix": scores["matrix"][:1]})
    if what == "no state":
        (run.dir / "state" / "after_0" / "classifier.safetensors").unlink()
    if what == "damaged":
        (run.dir / "state" / "after_1" / "classifier.safetensors").write_bytes(b"no arrays")
    if what == "missing":
        (run.dir / "state" / "after_1" / "router.safetensors").unlink()
    if what == "other data":
        update_info(run, fingerprint=run.info["fingerprint"] | {"backbone": "another"})
    if what == "other scores":
        scores = run.recorded_scores
        atomic_io.write_json(run.dir / "matrix.json", scores | {"oracle": [0.123, *scores["oracle"][1:]]})
    if what == "cache":
        (run.dir / "decomposition.json").write_text("{ not")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("running", "is interrupted: where its losses went can be asked of finished runs of two or more tasks"),
        ("one task", "has learned one task only: where"),
        ("no state", "has no files of its moments (state/after_0): only a run that kept them can be looked back at"),
        ("damaged", "is damaged: after_1 cannot be read ("),
        ("missing", "is damaged: after_1 cannot be read ("),
        ("other data", "have changed since it was made: it cannot be evaluated again"),
        ("other scores", "are not reproduced here: task 'sea' after the last task had 0.1230, now "),
        ("cache", "is damaged: decomposition.json cannot be read ("),
    ],
)
def test_refusals_leave_nothing_behind(what, message, made, data, tmp_path):
    run = copied(made("l2r")[1], tmp_path)
    spoil(run, what)
    before = sorted(run.dir.rglob("*"))
    result = CliRunner().invoke(main.app, ["show", run.id, "--decompose", "--runs", str(tmp_path)])
    assert result.exit_code == 2 and result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("lab: ") and message in last
    assert sorted(run.dir.rglob("*")) == before
    with pytest.raises(LabError):
        lab.decompose(run)


def test_the_session_of_a_run_is_that_of_the_run(made, data):
    """The stand-in for the stream gives the data that the run was trained on."""
    session, run, _ = made("l2r")
    assert (
        api_session(session.config, keep=False).fingerprint()
        == session.fingerprint()
        == loss_decomposition.reopened(run).fingerprint()
    )


# what several changes cost together -------------------------------------------------------------------------------------------


fractions = st.floats(0, 1, allow_nan=False, width=32)
PARTS = ("experts", "classifier", "new_classes", "router")


@st.composite
def games(draw):
    """A score for every set of parts."""
    parts = PARTS[: draw(st.integers(0, 4))]
    return parts, {frozenset(chosen): draw(fractions) for n in range(len(parts) + 1) for chosen in combinations(parts, n)}


@given(games())
def test_shares_are_the_closed_form_and_add_up(game):
    """Against the weights |S|! (n - 1 - |S|)! / n! of marginal costs (Shapley 1953)."""
    parts, score = game
    shares, n = loss_decomposition.shares(score.get, parts), len(parts)
    for part in parts:
        without = [chosen for chosen in score if part not in chosen]
        orders = {chosen: math.factorial(len(chosen)) * math.factorial(n - 1 - len(chosen)) for chosen in without}
        expected = sum(count * (score[chosen] - score[chosen | {part}]) for chosen, count in orders.items()) / math.factorial(n)
        assert shares[part] == pytest.approx(expected, abs=1e-9)
    assert sum(shares.values()) == pytest.approx(score[frozenset()] - score[frozenset(parts)], abs=1e-9)
    assert shares == pytest.approx(loss_decomposition.shares(score.get, parts[::-1]), abs=1e-12)


@given(games())
def test_a_part_that_never_matters_has_the_share_zero(game):
    parts, score = game
    shares = loss_decomposition.shares(lambda chosen: score[chosen - {"idle"}], (*parts, "idle"))
    assert shares.pop("idle") == pytest.approx(0, abs=1e-12)
    assert shares == pytest.approx(loss_decomposition.shares(score.get, parts), abs=1e-9)


def test_shares_by_hand():
    """Alone, a costs 0.2 and b nothing; after b, a costs 0.5 and b, after a, 0.3: each order is half of the answer."""
    score = {frozenset(): 0.9, frozenset("a"): 0.7, frozenset("b"): 0.9, frozenset("ab"): 0.4}
    assert loss_decomposition.shares(score.get, ("a", "b")) == pytest.approx({"a": (0.2 + 0.5) / 2, "b": (0.3 + 0.0) / 2})
    assert loss_decomposition.shares(score.get, ()) == {}
