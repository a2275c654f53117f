"""Scores: the matrix R of a run, or of several as their mean, and the curves drawn from it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lab.core.errors import LabError
from lab.core.intervals import interval
from lab.metrics.base import evaluate
from lab.run_folder.run import Run
from lab.views.compare import groups
from lab.views.routing import own_share

Runs = Run | Sequence[Run]  # one run, or several that learned the same tasks in the same order: then means over them
OWN_SHARE = "routing.own_expert_share"  # path of the measure that is recorded at each moment


def each(runs: Runs) -> list[Run]:
    """The runs as a list; LabError if they learned different tasks or orders, so that there is no mean over them."""
    listed = [runs] if isinstance(runs, Run) else list(runs)
    for run in listed[1:]:
        if run.tasks != listed[0].tasks:
            raise LabError(
                f"{listed[0].title} and {run.title} learned different tasks or another order: they cannot be put together"
            )
    return listed


def accuracy_matrix(run: Runs, after: int | None = None, partial: bool = False) -> pd.DataFrame:
    """R as a table (T, T): rows "learned so far", columns tasks; rows later than `after` are NaN. Of several runs: their mean.

    With `partial` the row that is being measured is filled as far as it is known.
    """
    matrices = [_accuracy_matrix(single, after, partial) for single in each(run)]
    return sum(matrices[1:], matrices[0]) / len(matrices)


def _accuracy_matrix(run: Run, after: int | None, partial: bool) -> pd.DataFrame:
    tasks, scores = run.tasks, run.recorded_scores
    rows = [list(row) for row in scores.get("matrix", [])]
    if partial and len(rows) < len(tasks) and scores.get("partial"):
        rows.append(list(scores["partial"]))
    values = np.full((len(tasks), len(tasks)), np.nan)
    for i, row in enumerate(rows if after is None else rows[: after + 1]):
        values[i, : len(row)] = [np.nan if score is None else score for score in row]
    return pd.DataFrame(values, index=pd.Index(tasks, name="after"), columns=pd.Index(tasks, name="task"))


def zero_shot(run: Runs) -> list[float] | None:
    """Scores before any training, one per task, or None; of several runs: their mean."""
    scores = [single.recorded_scores.get("zero_shot") for single in each(run)]
    return None if None in scores else [float(score) for score in np.array(scores, dtype=float).mean(0)]


def matrix_difference(first: Runs, second: Runs) -> pd.DataFrame:
    """R of the first run minus R of the second; LabError if they learned different tasks or orders."""
    minuend, subtrahend = each(first)[0], each(second)[0]
    if minuend.tasks != subtrahend.tasks:
        raise LabError(
            f"{minuend.title} and {subtrahend.title} learned different tasks or another order: there is no difference to show"
        )
    return accuracy_matrix(first) - accuracy_matrix(second)


def forgetting_curves(run: Runs, after: int | None = None) -> pd.DataFrame:
    """Score of each task after each task from its own on, long form: after, after_name, task, name, score, low, high.

    Of several runs `score` is the mean and `low` to `high` its t-interval, which is NaN for one run.
    """
    runs = each(run)
    scores = np.array([accuracy_matrix(single, after) for single in runs])  # (runs, T, T)
    tasks = runs[0].tasks
    rows = []
    for j, i in zip(*np.triu_indices(len(tasks)), strict=True):  # j before i
        if not np.isnan(scores[:, i, j]).any():
            mean = interval(scores[:, i, j])
            cell = {"after": i, "after_name": tasks[i], "task": j, "name": tasks[j]}
            rows.append(cell | {"score": mean.mean, "low": mean.low, "high": mean.high})
    columns = ["after", "after_name", "task", "name", "score", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype({"low": float, "high": float})


def transfer_scores(run: Run) -> pd.DataFrame:
    """Scores of the held-out tasks of a transfer run: one row per task, one column per number of shots, 0 first; NaN: not yet."""
    result = run.result()
    rows = {task: {"0": score} | result["held_out"].get(task, {}) for task, score in result["zero_shot"].items()}
    return pd.DataFrame(rows, dtype=float).T.reindex(columns=list(result["average"])).rename_axis("task")


def average_curve(run: Run, after: int | None = None) -> np.ndarray:
    """Mean score over the tasks seen, after each learned task: (rows learned,)."""
    r = run.matrix if after is None else run.matrix[: after + 1]
    return np.array([np.mean(r[i, : i + 1]) for i in range(len(r))])


def average_curves(runs: Sequence[Run], measure: str = "") -> pd.DataFrame:
    """A measure of several runs after each learned task, long form: label, recipe, run, after, score.

    `label` names the group of seeds. `measure` is the path of a measure of the matrix, or OWN_SHARE; empty: the mean score over
    the tasks seen. NaN where it is not defined or was not recorded.
    """
    rows = [
        {"label": group.label, "recipe": group.recipe, "run": run.id, "after": i, "score": score}
        for group in groups(runs)
        for run in group.runs
        for i, score in enumerate(average_curve(run) if not measure else measure_curve(run, measure))
    ]
    return pd.DataFrame(rows, columns=["label", "recipe", "run", "after", "score"])


def measure_curve(run: Run, measure: str) -> np.ndarray:
    """A measure of a run after each learned task: (rows learned,)."""
    moments = range(len(run.matrix))
    if measure == OWN_SHARE:
        routed = run.recorded() if run.recorded() and len(run.routing().experts) > 1 else []
        return np.array([own_share(run, k) if k in routed else np.nan for k in moments], dtype=float)
    return np.array([metrics_after(run, k)[measure] for k in moments], dtype=float)


def metrics_after(run: Run, after: int) -> dict[str, Any]:
    """The metrics of the run as they stood after learning task `after`; those of the run's end are known after the last one."""
    if after + 1 >= len(run.matrix):
        return run.metrics()
    scores = replace(run.protocol.measured(run), matrix=run.matrix[: after + 1], routing={}, oracle=None, reasons={})
    values, why = evaluate(scores)
    return values | {"why": why}
