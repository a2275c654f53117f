"""The filled formulas are sums that come out at the metrics they stand for."""

import math
import re

import pytest
from support.run_folders import FORGETS, write_run, write_transfer

from lab.run_folder.writer import update_info
from lab.views import measures
from lab.views.glossary import glossary


def evaluated(filled: str) -> tuple[float, float]:
    """Left and right of `\\frac{1}{n} \\left( ... \\right) \\approx value`, computed."""
    found = re.fullmatch(r"\\frac\{1\}\{(\d+)\} \\left\( ([-+(). 0-9]+) \\right\) \\approx (-?[.0-9]+)", filled)
    return eval(found[2], {"__builtins__": {}}) / int(found[1]), float(found[3])


def test_formulas_come_out_at_the_metrics(runs):
    run = write_run(runs, "a", "sequential", FORGETS, oracle=[0.9, 0.95, 0.97])
    update_info(
        run,
        routing={
            "own_expert_share": 0.5,
            "own_expert_share_by_task": {"a": 0.4, "b": 0.6, "c": 0.5},
            "accuracy": 0.7,
            "accuracy_by_task": {"a": 0.9, "b": 0.7, "c": 0.5},
            "oracle_average_accuracy": 0.94,
        },
    )
    found = {entry.title: entry for entry in glossary(run)}
    result = run.result()
    for title in ("Average accuracy", "Forgetting", "Backward transfer", "Learning accuracy"):
        name = title.lower().replace(" ", "_")
        left, right = evaluated(found[title].filled)
        assert left == pytest.approx(result[name], abs=1e-3) and right == pytest.approx(result[name], abs=5e-4)
        assert found[title].value == result[name]
    assert evaluated(found["Own-expert share"].filled) == pytest.approx((0.5, 0.5))
    assert evaluated(found["Oracle routing"].filled) == pytest.approx((0.94, 0.94), abs=1e-3)
    assert evaluated(found["Routing accuracy"].filled) == pytest.approx((0.7, 0.7))
    gap = 0.94 - result["average_accuracy"]
    assert evaluated(found["Oracle gap"].filled) == pytest.approx((gap, gap), abs=1e-3)
    forward = found["Forward transfer"]
    assert forward.filled == r"\frac{1}{2} \left( (0.930 - a_{2}) + (0.950 - a_{3}) \right)", "as far as the run knows it"
    assert forward.value is None and forward.why == "needs single-task scores"
    assert found["k shots"].why == "a metric of transfer runs" and found["k shots"].filled is None
    assert found["Forgetting"].about.endswith("From -1 to 1; lower is better.")


def test_measures_of_a_transfer_run_come_out_at_its_result(runs):
    run = write_transfer(runs, "t")
    found, result = {entry.title: entry for entry in glossary(run)}, run.result()
    expected = {
        "0 shots": result["average"]["0"],
        "32 shots": result["average"]["32"],
        "Training tasks": result["trained_average"],
        "Gradient alignment": result["alignment"],
    }
    for title, value in expected.items():
        assert evaluated(found[title].filled) == pytest.approx((value, value), abs=1e-3) and found[title].value == value
    assert list(expected.values()) == pytest.approx([0.5, 0.7, 0.85, 0.2])
    assert found["Average accuracy"].why == "a metric of runs on a stream" and found["Forward transfer"].filled is None


def test_a_value_whose_terms_were_not_recorded_is_shown(runs):
    run = write_run(runs, "a")
    update_info(run, routing={"accuracy": 0.7, "own_expert_share": 0.6})
    entry = next(one for one in glossary(run) if one.title == "Routing accuracy")
    assert (entry.filled, entry.value, entry.why) == ("= 0.700", 0.7, "not recorded for each task")


def test_every_score_that_is_compared_has_a_formula(runs):
    shown = [m.title for run in (write_run(runs, "a"), write_transfer(runs, "t")) for m in measures([run.result()]) if m.score]
    named = {entry.title for entry in glossary()}
    assert [title for title in shown if title not in named and "shots" not in title] == []


def test_what_is_not_known_says_why(runs):
    assert all(entry.filled is None and entry.why for entry in glossary())
    one = {entry.title: entry for entry in glossary(write_run(runs, "a", matrix=[[0.9, None, None]], status="stopped"))}
    assert one["Forgetting"].why == "needs at least two learned tasks" and evaluated(one["Average accuracy"].filled) == (0.9, 0.9)
    nothing = glossary(write_run(runs, "b", matrix=[], status="queued"))
    assert all(entry.filled is None and entry.why for entry in nothing)
    long = write_run(runs, "c", tasks=[f"t{i}" for i in range(9)], matrix=[[1.0] * (i + 1) + [None] * (8 - i) for i in range(9)])
    filled = glossary(long)[0].filled
    assert filled.count("1.000") == 6 and r"\dots" in filled and "{9}" in filled and math.isclose(glossary(long)[0].value, 1)
