"""Tables of methods that were repeated: paired differences, what the order of the tasks changes, and sweeps of an option.

Repetitions are runs that differ in the seed, in the order of the tasks, or in the option that is swept. Pure functions from Run
objects to pandas; what a few repetitions allow to say stands in `lab.core.intervals`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from lab import views
from lab.config.resolve import completed
from lab.core.errors import LabError, unknown
from lab.core.intervals import by_position, interval
from lab.run_folder.run import Run

ONE_ADAPTER = ("sequential", "shared")  # the plain recipes, of a stream and of transfer


def compared(runs: Sequence[Run]) -> list[views.Measure]:
    """The scores of which differences between these runs are taken, the most important first."""
    return views.compared([run.result() for run in runs])


def reference(runs: Sequence[Run]) -> str:
    """Label of the method that others are compared with at first: one adapter for all tasks where it is there, else the first."""
    groups = views.groups(runs)
    return next((group.label for group in groups if group.recipe in ONE_ADAPTER), groups[0].label)


def differences(runs: Sequence[Run], baseline: str) -> pd.DataFrame:
    """Every group of runs minus the group labelled `baseline`, long form; see `views.differences`.

    Columns: label, recipe, measure (of `compared`), n (pairs), mean, low, high, p, claim, why. LabError where no group has that
    label.
    """
    groups = {group.label: group for group in views.groups(runs)}
    if baseline not in groups:
        raise unknown("method", baseline, [*groups])
    base = groups.pop(baseline)
    ordered = [run for group in (*groups.values(), base) for run in group.runs]  # so that the baseline is always the second
    pairs: Any = pd.concat([views.differences(ordered, measure.path) for measure in compared(runs)])
    pairs = pairs[pairs["second"] == baseline].rename(columns={"first": "label"}).drop(columns="second")
    pairs.insert(1, "recipe", [groups[label].recipe for label in pairs["label"]])
    return pairs.reset_index(drop=True).astype(dict.fromkeys(("mean", "low", "high", "p"), float))


def repetitions(runs: Sequence[Run], among: Sequence[Run]) -> list[Run]:
    """The runs of `among` that differ from one of `runs` in nothing but seed, order of the tasks and learning rate."""
    wanted = {run.dir for run in runs}
    families = views.groups(among, ("seed", "stream.tasks", "train.lr"))
    return [run for family in families if wanted & {run.dir for run in family.runs} for run in family.runs]


def missing(configs: Sequence[dict[str, Any]], among: Sequence[Run]) -> list[dict[str, Any]]:
    """The configurations that no run of `among` has which is finished, trains or waits, each once."""

    def settings(config: dict[str, Any]) -> str:
        return json.dumps(completed(config) | {"about": ""}, sort_keys=True, default=str)

    wanted = {settings(config): config for config in configs}
    for run in among:
        if settings(run.config) in wanted and run.status in ("finished", "running", "queued"):
            wanted.pop(settings(run.config))
    return [*wanted.values()]


def positions(runs: Sequence[Run]) -> pd.DataFrame:
    """Effect of a task's position in the stream on its final score, per group of runs in several orders.

    Columns: label, recipe, position (from 1), orders, n, mean, low, high, why; `mean` is against the task's own mean over the
    orders, see `lab.core.intervals.by_position`.
    """
    rows = []
    for group in views.groups(runs):
        orders = len({tuple(run.tasks) for run in group.runs})
        last: list[dict[str, Any]] = [
            dict(zip(run.tasks, run.matrix[-1].tolist(), strict=True)) for run in group.runs if views.complete(run)
        ]
        for position, effect in enumerate(by_position(last), 1):
            row = {"label": group.label, "recipe": group.recipe, "position": position, "orders": orders}
            rows.append(row | asdict(effect))
    columns = ["label", "recipe", "position", "orders", "n", "mean", "low", "high", "why"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(("mean", "low", "high"), float))


def orders(runs: Sequence[Run]) -> pd.DataFrame:
    """The scores by which methods are judged, for every order that was run: label, order, n, and a column for each score.

    The first of them, by which methods are ordered, is followed by `low` and `high`, the bounds of its interval.
    """
    rows = []
    first, *others = views.judged([run.result() for run in runs])
    for group in views.groups(runs):
        for order in dict.fromkeys(tuple(run.tasks) for run in group.runs if views.complete(run)):
            results = [run.result() for run in group.runs if tuple(run.tasks) == order]
            mean = interval([views.pick(result, first.path) for result in results])
            row = {"label": group.label, "order": " → ".join(order), "n": mean.n, first.path: mean.mean}
            values = {measure.path: [views.pick(result, measure.path) for result in results] for measure in others}
            means = {path: np.nan if None in scores else np.mean(scores) for path, scores in values.items()}
            rows.append(row | {"low": mean.low, "high": mean.high} | means)
    columns = ["label", "order", "n", first.path, "low", "high", *(measure.path for measure in others)]
    return pd.DataFrame(rows, columns=columns).astype({"low": float, "high": float})


def sweep(runs: Sequence[Run], option: str = "train.lr") -> pd.DataFrame:
    """Validation score against an option, per group of runs that differ in it (and in the seed) and in nothing else.

    Columns: label, recipe, value, n, mean, low, high, best. The score is the mean over tasks after the last one; `best` marks
    the value that selection would take, the first of equals, from the seeds and orders that all values have. LabError for an
    option that a run lacks or that is no number.
    """
    section, _, name = option.rpartition(".")
    rows = []
    for group in views.groups(runs, ("seed", option)):
        scores: dict[float, dict[Any, float]] = {}
        for run in group.runs:
            value = (views.pick(run.config, section) or {}).get(name) if section else run.config.get(name)
            if not isinstance(value, int | float):
                raise LabError(f"run '{run.id}' has no number {option} that could be swept")
            if run.validation is not None:
                scores.setdefault(value, {})[views.circumstances(run)] = run.validation
        common = set.intersection(*map(set, scores.values())) if scores else set()
        best = max(sorted(scores), key=lambda value: sum(scores[value][key] for key in common)) if common else None
        if len(scores) > 1:
            rows += [
                {"label": group.label, "recipe": group.recipe, "value": value, "best": value == best}
                | asdict(interval([*scores[value].values()]))
                for value in sorted(scores)
            ]
    columns = ["label", "recipe", "value", "n", "mean", "low", "high", "best"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(("value", "mean", "low", "high"), float))


def tradeoff(runs: Sequence[Run]) -> pd.DataFrame:
    """Plasticity against stability, per group of runs: label, recipe, n, learned, kept, with low and high (learned_low, ...).

    `learned` is the learning accuracy and `kept` the average accuracy. They are equal if nothing was lost; their difference is
    (1 - 1/T) times backward transfer.
    """
    summary: Any = views.summary(runs).replace({"measure": {"learning_accuracy": "learned", "average_accuracy": "kept"}})
    summary = summary[summary["measure"].isin(("learned", "kept"))]
    wide = summary.pivot(index="label", columns="measure", values=["value", "low", "high"])
    wide.columns = [name if bound == "value" else f"{name}_{bound}" for bound, name in wide.columns]
    about = summary.drop_duplicates("label")[["label", "recipe", "n"]]
    return about.merge(wide, left_on="label", right_index=True).reset_index(drop=True)
