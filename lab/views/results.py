"""The numbers of a result: what they are called, what they mean, how they are picked and written."""

import math
from collections.abc import Sequence
from typing import Any

from lab.metrics._amounts import AMOUNTS
from lab.metrics.base import AT_THE_END, Measure, Use, has, judged_metrics, metric_classes

COMMON = Measure("common_average_accuracy", "Average on common tasks", "Mean score, after the last one, on tasks of all runs.")


def measures(results: Sequence[dict[str, Any]] = ()) -> list[Measure]:
    """What results of one protocol are compared by: their metrics, uses and costs; without results, those of runs on a stream."""
    scores = [metric.measure() for kind in metric_classes() for metric in kind.of_results(results)]
    return scores + [a for a in AMOUNTS if not a.comes_with or any(has(result, a.comes_with) for result in results)]


def compared(results: Sequence[dict[str, Any]] = (), use: Use = Use.COMPARE) -> list[Measure]:
    """The scores of which differences between methods are taken, the most important first; only those of at least this use."""
    scores = [measure for measure in measures(results) if measure.score and measure.use >= use]
    return sorted(scores, key=lambda measure: -measure.use)


def judged(results: Sequence[dict[str, Any]] = ()) -> list[Measure]:
    """The scores whose differences between methods are always reported."""
    return [metric.measure() for metric in judged_metrics(results)]


def headline(results: Sequence[dict[str, Any]] = ()) -> Measure:
    """The score by which methods are ordered; of several (numbers of shots) the last."""
    return compared(results, Use.RANK)[-1]


def reason(result: dict[str, Any], path: str) -> str:
    """Why a value of a result is missing."""
    section, _, name = path.rpartition(".")
    if section == "average" and name not in result["average"]:
        return f"this run was not adapted to {name} shots"
    noted = result["why"].get(path) or result["why"].get(name)
    return noted or ("not recorded by the version of this run" if result.get(section) else AT_THE_END)


def cell(value: float, half: float, why: str, score: bool, name: str = "") -> str:
    """A number as text, with half the width of its interval if there is one, or a dash with the reason."""
    if math.isnan(value):
        return f"– ({why})"
    if name == "uses.task_id":
        return "yes" if value else "no"
    form = "{:.3f}" if score else "{:,.0f}" if value >= 100 or value == int(value) else "{:.1f}"
    return form.format(value) + (f" ± {form.format(half)}" if not math.isnan(half) else "")
