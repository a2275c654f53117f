"""Metrics against a published matrix, against independent loops, and where they are undefined; the contract of all metrics."""

import importlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.run_folders import FORGETS, write_run, write_transfer

import lab
from lab import views
from lab.cli import output
from lab.cli.list import listing
from lab.comparison import replicates, tables
from lab.contracts import metrics as contract
from lab.contracts.checking import title
from lab.core import registry
from lab.figures import report
from lab.metrics import base
from lab.metrics.base import MatrixScores, Metric, TransferScores, Use, evaluate, metric_classes
from lab.store import index
from lab.views.glossary import glossary

NONE = None
# O-LoRA, order 1 of the standard benchmark, from the logs of its authors
O_LORA = [
    [98.71, NONE, NONE, NONE],
    [98.55, 57.76, NONE, NONE],
    [97.41, 57.41, 71.91, NONE],
    [97.74, 56.07, 71.04, 88.62],
]


def test_the_published_matrix():
    values, why = evaluate(MatrixScores(O_LORA))
    assert values["average_accuracy"] == pytest.approx(78.3675, abs=1e-9)
    assert values["backward_transfer"] == pytest.approx(-1.1767, abs=5e-5)
    assert values["forgetting"] == pytest.approx(1.1767, abs=5e-5)
    assert values["learning_accuracy"] == pytest.approx(79.25, abs=1e-9)
    assert values["backward_transfer"] * 3 / 4 == pytest.approx(-0.8825, abs=5e-5)  # divided by T, as SAPT's code does
    assert values["forward_transfer"] is None and why["forward_transfer"] == "needs single-task scores"


def test_a_run_that_was_stopped():
    values, _ = evaluate(MatrixScores(O_LORA[:2]))
    assert values["average_accuracy"] == pytest.approx((98.55 + 57.76) / 2)
    assert values["backward_transfer"] == pytest.approx(98.55 - 98.71)
    assert values["learning_accuracy"] == pytest.approx((98.71 + 57.76) / 2)


NAMES = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer", "learning_accuracy")


def test_what_is_undefined_is_none_and_says_why():
    values, why = evaluate(MatrixScores([]))
    assert {values[name] for name in NAMES} == {None} and {why[name] for name in NAMES} == {"no task is learned yet"}
    values, why = evaluate(MatrixScores([[0.5, None]], single_task=[0.5, 0.5]))
    assert (values["average_accuracy"], values["learning_accuracy"]) == (0.5, 0.5)
    for name in ("forgetting", "backward_transfer", "forward_transfer"):
        assert values[name] is None and why[name] == "needs at least two learned tasks"


def test_forward_transfer_is_measured_from_single_task_scores():
    values, why = evaluate(MatrixScores(O_LORA, single_task=[98.0, 58.0, 70.0, 90.0]))
    assert values["forward_transfer"] == pytest.approx(((57.76 - 58) + (71.91 - 70) + (88.62 - 90)) / 3)
    assert not set(why) & set(NAMES)


def test_routing_metrics_are_those_recorded_and_missing_for_the_recorded_reason():
    routing = {"own_expert_share": 0.7, "accuracy": 0.9, "oracle_average_accuracy": 80.0}
    values, _ = evaluate(MatrixScores(O_LORA, routing=routing))
    assert (values["routing.own_expert_share"], values["routing.accuracy"]) == (0.7, 0.9)
    assert values["routing.oracle_gap"] == pytest.approx(80 - 78.3675)
    values, why = evaluate(MatrixScores(O_LORA, routing={"accuracy": None}, reasons={"routing.own_expert_share": "one expert"}))
    assert values["routing.accuracy"] is None and why["routing.accuracy"] == why["routing.own_expert_share"] == "one expert"
    assert "version" in why["routing.oracle_gap"] and "finished" in evaluate(MatrixScores(O_LORA))[1]["routing.oracle_gap"]


def test_transfer_metrics_by_hand():
    scores = TransferScores(
        zero_shot={"a": 0.2, "b": 0.4},
        held_out={"a": {"8": 0.5}, "b": {"8": 0.9, "32": 1.0}},
        held_out_tasks=["a", "b"],
        shots=[32, 8],
        trained={"c": 0.8},
        train_tasks=["c"],
        alignment={"0": 0.5, "10": None, "20": -0.1},
    )
    values, why = evaluate(scores)
    assert [*why] == ["average.32"] and [*values][:3] == ["average.0", "average.8", "average.32"]
    assert values.pop("average.32") is None
    assert values == pytest.approx({"average.0": 0.3, "average.8": 0.7, "trained_average": 0.8, "alignment": 0.2})


def test_forgetting_can_be_negative_and_takes_the_best_row_before_the_last():
    rising = [[0.5, None, None], [0.6, 0.5, None], [0.8, 0.9, 0.7]]
    assert evaluate(MatrixScores(rising))[0]["forgetting"] == pytest.approx(((0.6 - 0.8) + (0.5 - 0.9)) / 2)


fractions = st.floats(0, 1, allow_nan=False, width=32)


@st.composite
def matrices(draw):
    tasks = draw(st.integers(2, 6))
    rows = draw(st.integers(2, tasks))
    return [[draw(fractions) if j <= i else None for j in range(tasks)] for i in range(rows)]


@given(matrices())
def test_metrics_are_their_loops(matrix):
    rows = len(matrix)
    values, last = evaluate(MatrixScores(matrix))[0], matrix[-1]
    assert values["average_accuracy"] == pytest.approx(sum(last[:rows]) / rows)
    assert values["learning_accuracy"] == pytest.approx(sum(matrix[j][j] for j in range(rows)) / rows)
    moved, lost = 0.0, 0.0
    for j in range(rows - 1):
        best = matrix[j][j]
        for i in range(j + 1, rows - 1):
            best = max(best, matrix[i][j])
        moved += last[j] - matrix[j][j]
        lost += best - last[j]
    assert values["backward_transfer"] == pytest.approx(moved / (rows - 1), abs=1e-12)
    assert values["forgetting"] == pytest.approx(lost / (rows - 1), abs=1e-12)
    assert values["forgetting"] >= -values["backward_transfer"] - 1e-12
    if all(matrix[i][j] <= matrix[j][j] for i in range(rows) for j in range(i)):  # never better than when learned
        assert values["forgetting"] == pytest.approx(-values["backward_transfer"])


# the contract -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", contract.CHECKS, ids=title)
@pytest.mark.parametrize("name", registry.metrics.names())
def test_contract(name, check):
    check(registry.metrics.options(name))


def test_no_metric_may_stand_where_something_else_does(runs):
    """What is reserved is what results hold beside metrics."""
    results = [write_run(runs, "a").result(), write_transfer(runs, "b").result()]
    sections = {metric().path.partition(".")[0] for metric in metric_classes()}
    assert {name for result in results for name in result} - sections <= {*base.RESERVED}


def test_two_metrics_rank():
    metrics = [kind() for kind in metric_classes()]
    assert sorted(metric.name for metric in metrics) == registry.metrics.names()
    assert [metric.path for metric in metrics if metric.use is Use.RANK] == ["average_accuracy", "average.k"]


PLASTICITY_GAP = """
import numpy as np

from lab.metrics.base import MatrixScores, Mean


class PlasticityGap(Mean):
    \"\"\"How much worse the second half of the tasks is learned than the first.\"\"\"

    name = "plasticity-gap"
    path = "plasticity_gap"
    title = "Plasticity gap"
    latex = r"\\mathrm{GAP}"
    range = (-1, 1)
    lower_is_better = True

    def parts(self, scores: MatrixScores) -> np.ndarray:
        half = len(scores.learned[: scores.old]) // 2 + 1
        return np.array([scores.learned[:half].mean() - scores.learned[half:].mean()])
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Adds a file to the folder of metrics."""
    package = importlib.import_module("lab.metrics")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    before = set(sys.modules)
    yield lambda name, text: (tmp_path / f"{name}.py").write_text(text)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]
    base._load.cache_clear()


def test_a_metric_is_one_file(plugin, runs, capsys):
    """JSON, show, run table, comparison, paired differences, trade-off and report know it; where less is better it counts so."""
    plugin("plasticity_gap", PLASTICITY_GAP)
    pair = [write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS)]
    gap = pair[0].result()["plasticity_gap"]
    assert gap == pair[0].metrics()["plasticity_gap"] == pytest.approx((0.91 + 0.93) / 2 - 0.95)
    output.print_result(pair[0])
    assert "Plasticity gap" in capsys.readouterr().out
    assert "plasticity_gap" in views.columns() and views.run_row(pair[0])["plasticity_gap"] == gap
    assert "Plasticity gap" in tables.comparison(pair).table
    assert "plasticity_gap" in set(replicates.differences(pair, "sequential")["measure"])
    assert tables.pareto(pair, score="plasticity_gap")["score"].notna().all()
    assert next(entry for entry in glossary(pair[0]) if entry.title == "Plasticity gap").value == gap
    assert "Plasticity gap" in report.html(pair, {})


class Surest(Metric):
    """Highest mean probability that the answers on a task have."""

    name = path = "surest"
    title = "Surest"
    latex = r"\max_j \bar{p}_j"

    def compute(self, scores: MatrixScores) -> float:
        return scores.predictions.groupby("task")["probability"].mean().max()


class First(Metric):
    """Part of the routing weight that the first expert gets."""

    name, path, title, latex, range, lower_is_better = "first", "routing.first", "First expert", r"\bar{w}_1", (0, 2), True

    def compute(self, scores: MatrixScores) -> float:
        table = scores.routing_table
        return table.weight[table.expert == "animals"].sum() / table.weight.sum()


def test_metrics_of_predictions_and_of_routing_stand_wherever_metrics_do(runs, nothing_registered, capsys):
    """In JSON, show, list, tables, differences, report, glossary and rows; where nothing is recorded with the reason."""
    lab.register(Surest)
    lab.register(First)
    pair = [write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS, routed=False)]
    predictions, weights = pair[0].predictions(), pair[0].routing_table()
    surest = max(predictions.probability[predictions.task == task].mean() for task in pair[0].tasks)
    first = weights.weight[weights.expert == "animals"].sum() / weights.weight.sum()
    result = pair[0].result()
    assert (result["surest"], result["routing"]["first"]) == pytest.approx((surest, first))
    assert "no routing recorded" in pair[1].result()["why"]["routing.first"] and pair[1].result()["routing"]["first"] is None
    earlier = views.metrics_after(pair[0], 0)
    assert earlier["surest"] == pytest.approx(pair[0].predictions(0).probability.mean())
    assert earlier["routing.accuracy"] is None and earlier["routing.first"] == 1
    assert views.run_row(pair[0])["surest"] == index.rows([pair[0]])[0]["surest"] == result["surest"]
    output.print_result(pair[0])
    shown = capsys.readouterr().out
    for text in (shown, [*tables.comparison(pair).table], report.html(pair, {})):
        assert "Surest" in text and "First expert" in text
    assert {"surest", "routing.first"} <= set(replicates.differences(pair, "sequential")["measure"])
    entry = next(entry for entry in glossary(pair[0]) if entry.title == "First expert")
    assert (entry.value, entry.latex) == (pytest.approx(first), r"\bar{w}_1")
    assert entry.about.endswith("From 0 to 2; lower is better.")
    listed = next(row for row in listing("metrics") if row["name"] == "first")
    assert (listed["path"], listed["formula"]) == ("routing.first", r"\bar{w}_1") and "lower is better" in listed["direction"]
    html = pair[0]._repr_html_()
    assert "Surest" in html and "First expert" in html
    (pair[0].dir / "predictions" / "after_2.parquet").write_bytes(b"no table")
    assert "after_2.parquet cannot be read" in pair[0].result()["why"]["surest"]


def test_a_broken_metric_does_not_hide_the_others(plugin, runs):
    plugin("wrong", "import nothing_of_this_name")
    with pytest.warns(RuntimeWarning, match="metric 'wrong' is broken"):
        assert write_run(runs, "a").result()["average_accuracy"] is not None
