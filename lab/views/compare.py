"""Many runs side by side: groups over seeds and orders, their means with intervals, differences of results and options."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, zip_longest
from typing import Any

import numpy as np
import pandas as pd

from lab.config.resolve import completed
from lab.core.dotted import flat, pick
from lab.core.intervals import difference, interval
from lab.run_folder.run import Run
from lab.views.results import COMMON, Measure, cell, headline, measures, reason
from lab.views.runs import complete, learned

APART = 40  # characters up to which options stand in a label


def labels(runs: Sequence[Run]) -> list[str]:
    """Short unique names: what people call the run, else its recipe, and what else is needed to tell the runs apart."""
    names = _told_apart(runs, [_called([run]) for run in runs], ("stream", "scenario", "backbone", "seed"))
    return [f"{name}, {run.id}" if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)]


def _called(runs: Sequence[Run]) -> str:
    """The name that people gave to all of these runs, else their recipe."""
    names = {run.notes["name"] for run in runs}
    return (len(names) == 1 and names.pop()) or runs[0].config["recipe"]


def _told_apart(runs: Sequence[Run], names: list[str], fields: Sequence[str]) -> list[str]:
    """Names, each with those of the fields in which the runs of this name differ."""
    facts = [run.result() for run in runs]
    for field in fields:
        values: dict[str, set[Any]] = {}
        for name, fact in zip(names, facts, strict=True):
            values.setdefault(name, set()).add(fact[field])
        form = "seed {}" if field == "seed" else "{}"
        names = [f"{n}, {form.format(f[field])}" if len(values[n]) > 1 else n for n, f in zip(names, facts, strict=True)]
    return names


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but some options, by default the seed and the order of the tasks."""

    label: str
    recipe: str
    runs: list[Run]


def groups(runs: Sequence[Run], over: Sequence[str] = ("seed", "stream.tasks")) -> list[Group]:
    """Runs put together that differ in nothing but the options `over`, and learned the same tasks.

    A run without a complete matrix stays alone.
    """
    members: dict[str, list[Run]] = {}
    for run in runs:
        same = {name: value for name, value in _options(run).items() if name not in (*over, "about")}
        own = "" if complete(run) else run.id
        members.setdefault(json.dumps([same, sorted(run.tasks), own], sort_keys=True), []).append(run)
    firsts = [group[0] for group in members.values()]
    names = _told_apart(firsts, [_called(group) for group in members.values()], ("stream", "scenario", "backbone"))
    names = [f"{name}, {_apart(firsts, names, i, over)}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    names = [f"{name}, {run.id}" if names.count(name) > 1 else name for name, run in zip(names, firsts, strict=True)]
    return [Group(name, g[0].config["recipe"], g) for name, g in zip(names, members.values(), strict=True)]


def _apart(runs: Sequence[Run], names: Sequence[str], i: int, over: Sequence[str]) -> str:
    """What tells run i from the others of the same name: options beside `over` in which they differ, if short, else its id."""
    alike = [_options(run) for run, name in zip(runs, names, strict=True) if name == names[i]]
    own = _options(runs[i])
    differing = [name for name in own if name not in (*over, "about") and any(c.get(name) != own[name] for c in alike)]
    text = ", ".join(f"{name} {own[name]}" for name in differing)
    return text if 0 < len(text) <= APART else runs[i].id


def summary(runs: Sequence[Run]) -> pd.DataFrame:
    """Long form, one row per group of runs and measure: label, recipe, n, learned, tasks, measure, value, low, high, spread, why.

    `value` is the mean over the n runs of the group, `low` and `high` the bounds of its interval, `spread`
    their sample standard deviation, all three NaN below two runs; `why` is the reason of a missing value. Runs of different
    tasks have the measure COMMON too. The runs are of one protocol; of transfer runs tasks are stages.
    """
    columns = ["label", "recipe", "n", "learned", "tasks", "measure", "value", "low", "high", "spread", "why"]
    common, rows, results = common_tasks(runs), [], [run.result() for run in runs]
    shown = measures(results)
    if all("matrix" in result for result in results) and _different(runs):
        shown = [COMMON, *shown]
    for group in groups(runs):
        results = [run.result() | {COMMON.path: common_average(run, common)} for run in group.runs]
        rows += [_summary_row(group, results, measure) for measure in shown]
    return pd.DataFrame(rows, columns=columns).astype({name: float for name in ("value", "low", "high", "spread")})


def _summary_row(group: Group, results: list[dict[str, Any]], measure: Measure) -> dict[str, Any]:
    values = [pick(result, measure.path) for result in results]
    first = group.runs[0]
    row = {"label": group.label, "recipe": group.recipe, "n": len(results), "measure": measure.path}
    row |= {"learned": learned(first), "tasks": len(first.tasks)}
    if any(value is None for value in values):
        reasons = [reason(result, measure.path) for result, value in zip(results, values, strict=True) if value is None]
        none = dict.fromkeys(("value", "low", "high", "spread"), np.nan)
        return row | none | {"why": "no task is common to all runs" if measure is COMMON else reasons[0]}
    numbers = np.array(values, dtype=float)
    spread, mean = numbers.std(ddof=1) if len(numbers) > 1 else np.nan, interval(numbers)
    return row | {"value": mean.mean, "low": mean.low, "high": mean.high, "spread": spread, "why": ""}


def summary_table(runs: Sequence[Run]) -> pd.DataFrame:
    """`summary` as people read it: one row per measure, one column per group, each cell a value or a dash with the reason."""
    numbers = summary(runs)
    by_path = {measure.path: measure for measure in (COMMON, *measures([run.result() for run in runs]))}
    rows: Any = numbers.itertuples()
    numbers["cell"] = [cell(row.value, row.high - row.value, row.why, by_path[row.measure].score, row.measure) for row in rows]
    table = numbers.pivot(index="measure", columns="label", values="cell")
    paths = list(dict.fromkeys(numbers["measure"]))
    table = table.loc[paths, list(dict.fromkeys(numbers["label"]))]
    table.index = pd.Index([by_path[path].title for path in paths], name="measure")
    return table


def common_tasks(runs: Sequence[Run]) -> list[str]:
    """Tasks of the same name and labels that all runs have learned, in the order of the first run."""
    learned = [dict(zip(run.tasks[: len(run.matrix)], run.recorded_scores.get("labels", []), strict=False)) for run in runs]
    return [task for task in (learned[0] if runs else {}) if all(other.get(task) == learned[0][task] for other in learned)]


def unequal(runs: Sequence[Run]) -> list[str]:
    """What makes runs of one protocol unequal, one sentence each, to be said wherever their numbers stand beside each other."""
    results, sentences = [run.result() for run in runs], []
    for field in ("stream", "scenario", "backbone"):
        values = list(dict.fromkeys(result[field] for result in results))
        if len(values) > 1:
            sentences.append(f"These runs differ in their {field}s: {', '.join(values)}. Their scores mean different things.")
    sentences += _other_limits(runs)
    sentences += _other_data(runs)
    sentences += [f"{run.title} went on with changes: {'; '.join(run.changes)}." for run in runs if run.changes]
    for title in runs[0].protocol.sides() if runs else ():
        values = list(dict.fromkeys(", ".join(sorted(run.protocol.sides().get(title, ()))) for run in runs))
        if len(values) > 1:
            sentences.append(f"These runs differ in their {title}: {'; '.join(values)}. Their scores mean different things.")
    if not all(run.protocol.continual for run in runs):
        return sentences
    if _different(runs):
        common = common_tasks(runs)
        shared = f"common to all: {', '.join(common)}" if common else "no task is common to all"
        sentences.append(f"These runs learned different tasks, so their averages mean different things; {shared}.")
    for run in runs:
        if not complete(run):
            reached = f"{run.title} has learned {learned(run)} of {len(run.tasks)} tasks"
            sentences.append(f"{reached}: its numbers are those of that moment, and it is left out of paired differences.")
    return sentences


def limits(run: Run) -> dict[str, int | None]:
    """How many examples of a task the run took at most, by option; None: all. Runs of earlier versions lack options."""
    stream = completed(run.config)["stream"]
    return {f"stream.{name}": value for name, value in stream.items() if name.startswith("max_")}


def _other_limits(runs: Sequence[Run]) -> list[str]:
    """A sentence on the limits of examples in which runs differ, with what to do."""
    values: dict[str, list[str]] = {}
    for run in runs:
        for name, limit in limits(run).items():
            values.setdefault(name, []).append("all" if limit is None else str(limit))
    differing = [f"{name} {', '.join(dict.fromkeys(own))}" for name, own in values.items() if len(set(own)) > 1]
    if not differing:
        return []
    return [
        f"These runs differ in their examples per task ({'; '.join(differing)}), which changes their scores: choose runs with "
        "the same numbers of examples, or train them again with the same."
    ]


def _other_data(runs: Sequence[Run]) -> list[str]:
    """Of which tasks runs of the same stream, limits and seed had other data: a sentence for each such set of runs."""
    seen: dict[tuple[str, str], dict[str, str]] = {}  # by task and how it was drawn, then by digest: the first run that had it
    for run in runs:
        sampling = json.dumps([run.config["stream"] | {"tasks": None}, run.config["seed"]], sort_keys=True, default=str)
        for task, digest in _digests(run).items():
            seen.setdefault((task, sampling), {}).setdefault(digest, run.title)
    differing: dict[str, list[str]] = {}
    for (task, _), by_digest in seen.items():
        if len(by_digest) > 1:
            differing.setdefault(" and ".join(by_digest.values()), []).append(task)
    differ = "are not the same in"
    return [f"The data of {', '.join(tasks)} {differ} {ids}, so they are no pairs." for ids, tasks in differing.items()]


def _digests(run: Run) -> dict[str, str]:
    """Hashes of the data of the tasks as they were used; empty where the run did not note them."""
    return (run.info.get("fingerprint") or {}).get("tasks", {})


def _different(runs: Sequence[Run]) -> bool:
    """Whether the streams of the runs are not the same tasks of the same labels in some order, learned already or not."""
    named = [dict(zip_longest(run.tasks, run.recorded_scores.get("labels", []))) for run in runs]
    return any(labelled != named[0] for labelled in named)


def common_average(run: Run, tasks: Sequence[str]) -> float | None:
    """Mean score on some of its tasks after the last one that it learned; None if there is none."""
    if not tasks:
        return None
    last = run.matrix[-1]
    return float(np.mean([last[run.tasks.index(task)] for task in tasks]))


def differences(runs: Sequence[Run], measure: str = "") -> pd.DataFrame:
    """Paired differences between groups, long form: first, second, measure, n, mean, low, high, p, claim, why.

    First minus second over the seeds and orders that both have in equal circumstances. Groups without such pairs have no
    difference but a reason. `measure` is the path of a score; empty: the one by which methods are ordered.
    """
    measure = measure or headline([run.result() for run in runs]).path
    rows = []
    for pair in combinations(groups(runs), 2):
        first, second = (_values(group, measure) for group in pair)
        row = asdict(difference(first, second))
        reasons = [_without(group, measure) for group, values in zip(pair, (first, second), strict=True) if not values]
        names = {"first": pair[0].label, "second": pair[1].label, "measure": measure}
        rows.append(names | row | {"why": [*reasons, row["why"]][0]})
    columns = ["first", "second", "measure", "n", "mean", "low", "high", "p", "claim", "why"]
    return pd.DataFrame(rows, columns=columns).astype({"claim": object})


def _values(group: Group, measure: str) -> dict[str, float]:
    """The measure of the complete runs of a group that have it, by their circumstances."""
    values = {circumstances(run): pick(run.result(), measure) for run in group.runs if complete(run)}
    return {key: value for key, value in values.items() if value is not None}


def circumstances(run: Run) -> str:
    """What two runs must share for their scores to be a pair: seed, stream with its order and data, scenario, backbone."""
    config = completed(run.config)
    shared = [config["seed"], config["stream"], run.tasks, config["scenario"], config["backbone"]["name"], _digests(run)]
    return json.dumps(shared, sort_keys=True, default=str)


def _without(group: Group, measure: str) -> str:
    """Why no run of a group has a value that could be half of a pair."""
    run = group.runs[0]
    partial = f"{run.title} has learned {learned(run)} of {len(run.tasks)} tasks"
    return reason(run.result(), measure) if complete(run) else partial


def config_difference(runs: Sequence[Run]) -> pd.DataFrame:
    """Options in which the runs differ: one row per option, one column per run, values as text."""
    configs = [_options(run) for run in runs]
    names = list(dict.fromkeys(name for config in configs for name in config))
    rows = {name: [config.get(name, "–") for config in configs] for name in names if name != "about"}
    differing = {name: row for name, row in rows.items() if len(set(row)) > 1}
    table = pd.DataFrame.from_dict(differing, orient="index", columns=labels(runs), dtype=object)
    return table.rename_axis("option")


def _options(run: Run) -> dict[str, str]:
    """The options of a run as text by dotted path; without those of plug-ins that are empty, as a run before them has none."""
    plain = {path: value for path, value in flat(completed(run.config)).items() if value != {}}
    return {
        path: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        for path, value in plain.items()
    }
