"""Repetitions: means and intervals against scipy, effects of order worked out by hand, and their figures."""

import numpy as np
import pytest
from scipy import stats
from support.run_folders import FORGETS, KEEPS, TASKS, configuration, write_run

from lab import figures, views
from lab.comparison import replicates, tables
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.figures import methods


def shifted(by: float) -> list[list[float | None]]:
    return [[None if score is None else score - by for score in row] for row in KEEPS]


@pytest.fixture
def seeds(runs):
    """Three seeds of l2r, and three of replay that lie lower."""
    drops = {"l2r": (0, 0.02, 0.03), "replay": (0.1, 0.14, 0.2)}
    return [
        write_run(runs, f"{recipe}{seed}", recipe, shifted(by), seed=seed, events=False, routed=False)
        for recipe in drops
        for seed, by in enumerate(drops[recipe])
    ]


def test_matrices_and_curves_of_seeds_are_means_with_intervals(seeds):
    made = seeds[3:]
    table = views.accuracy_matrix(made)
    np.testing.assert_allclose(table, views.accuracy_matrix(seeds[0]) - (0.1 + 0.14 + 0.2) / 3)
    assert tables.interference_matrix(made).loc["cooking", "animals"] == pytest.approx(0.02)
    curves = views.forgetting_curves(made).set_index(["task", "after"])
    values = [0.86 - by for by in (0.1, 0.14, 0.2)]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert curves.loc[(0, 2), ["score", "low", "high"]].tolist() == pytest.approx([np.mean(values), low, high])
    assert views.forgetting_curves(made[0])["low"].isna().all()
    bands = [line for line in figures.forgetting_curves(made).data if line.name == "interval"]
    assert len(bands) == 3 and not [line for line in figures.forgetting_curves(made[0]).data if line.name == "interval"]
    with pytest.raises(LabError, match="different tasks or another order"):
        views.accuracy_matrix([made[0], write_run(made[0].dir.parent, "turned", tasks=TASKS[::-1])])


def test_differences_are_paired_by_seed(seeds, runs):
    """The interval is that of the pairs, not that of two independent means; without a pair there is none."""
    row = replicates.differences(seeds, "l2r").set_index("measure").loc["average_accuracy"]
    expected = stats.ttest_rel([-0.1, -0.14, -0.2], [0, -0.02, -0.03])
    low, high = expected.confidence_interval()
    assert row[["mean", "low", "high"]].tolist() == pytest.approx([-0.13, low, high]) and row["claim"] is True and row["n"] == 3
    assert row["p"] == pytest.approx(2 / 2**3)
    other = replicates.differences([seeds[1], seeds[3]], "l2r").set_index("measure").loc["average_accuracy"]
    assert other["n"] == 0 and np.isnan(other["mean"]) and other["why"] == "no seed and order is common to both"
    half = write_run(runs, "half", "ewc", KEEPS[:2], status="stopped", routed=False)
    assert "half has learned 2 of 3 tasks" in set(replicates.differences([seeds[0], half], "l2r")["why"])
    with pytest.raises(LabError, match="unknown method 'l2rr'"):
        replicates.differences(seeds, "l2rr")


def test_difference_figure_marks_what_may_not_be_claimed(seeds):
    claimed, single = methods.differences(seeds, "l2r").data[0], methods.differences([seeds[0], seeds[3]], "l2r").data[0]
    assert claimed.opacity == 1 and not claimed.marker.symbol.endswith("-open")
    assert single.opacity < 0.5 and single.marker.symbol.endswith("-open") and "one value has no interval" in single.customdata[0]
    assert claimed.marker.color == figures.style("replay").colour


def test_positions_and_orders_by_hand(runs):
    """animals ends at 0.86 when first and 0.94 when last: place 1 costs it 0.04 against its own mean."""
    made = [write_run(runs, "there"), write_run(runs, "back", tasks=TASKS[::-1])]
    found = replicates.positions(made)
    assert found["mean"].tolist() == pytest.approx([-0.04, 0.0, 0.04]) and set(found["orders"]) == {2} and set(found["n"]) == {2}
    assert list(methods.positions(made).data[0].y) == pytest.approx([-0.04, 0.0, 0.04])
    table = replicates.orders(made).set_index("order")
    assert table.loc["cooking → weather → animals", "average_accuracy"] == pytest.approx(np.mean(KEEPS[2])) and len(table) == 2
    assert set(replicates.positions(made[:1])["why"]) == {"needs at least two orders"}


def test_sweep_takes_validation_and_marks_the_best(runs):
    made = []
    for i, (rate, seed, score) in enumerate([(1e-2, 0, 0.6), (1e-3, 0, 0.7), (1e-3, 1, 0.9), (1e-2, 1, 0.62)]):
        made.append(write_run(runs, f"r{i}", events=False, validation=[score, score - 0.1, score + 0.1]))
        atomic_io.write_yaml(made[-1].dir / "config.yaml", configuration(seed=seed, train={"lr": rate, "epochs": 2}))
    made.append(write_run(runs, "other", "sequential", FORGETS, validation=[0.1] * 3))  # nothing to choose
    found = replicates.sweep(made).set_index("value")
    assert found["mean"].to_dict() == pytest.approx({1e-3: 0.8, 1e-2: 0.61}) and found["best"].to_dict() == {
        1e-3: True,
        1e-2: False,
    }
    assert set(found["label"]) == {"l2r"} and set(found["n"]) == {2}
    drawn = methods.sweep(made)
    assert drawn.layout.xaxis.type == "log" and list(drawn.data[-1].x) == [1e-3]
    assert {group.label for group in views.groups(made)} == {"l2r, train.lr 0.01", "l2r, train.lr 0.001", "sequential"}
    assert {run.id for run in replicates.repetitions(made[:1], made)} == {"r0", "r1", "r2", "r3"}


def test_the_best_of_a_sweep_is_told_where_all_values_were_tried(runs):
    """As a grid selects: at its first seed; seeds that only the chosen value was repeated with do not count against it."""
    made = []
    for rate, seed, score in [(2e-3, 0, 0.6), (8e-3, 0, 0.62), (8e-3, 1, 0.5), (8e-3, 2, 0.52)]:
        made.append(write_run(runs, f"r{rate}-{seed}", events=False, seed=seed, validation=[score] * 3))
        atomic_io.write_yaml(made[-1].dir / "config.yaml", configuration(seed=seed, train={"lr": rate, "epochs": 2}))
    assert replicates.sweep(made).set_index("value")["best"].to_dict() == {2e-3: False, 8e-3: True}
    assert not replicates.sweep(made[:1] + made[2:])["best"].any()  # no seed has both


def test_trade_off_stands_on_what_was_learned_and_kept(seeds):
    points = {line.name: line for line in methods.tradeoff(seeds).data}
    for name, members in (("l2r", seeds[:3]), ("replay", seeds[3:])):
        results = [run.result() for run in members]
        assert points[name].x[0] == pytest.approx(np.mean([result["learning_accuracy"] for result in results]))
        assert points[name].y[0] == pytest.approx(np.mean([result["average_accuracy"] for result in results]))
        assert points[name].error_y.array[0] > 0
    diagonal = points["nothing lost"]
    assert list(diagonal.x) == list(diagonal.y) == list(methods.tradeoff(seeds).layout.xaxis.range)
