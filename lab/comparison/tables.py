"""Tables that judge runs: the comparison with its costs, who is dominated, who cost whom, and where losses went.

Pure functions from Run objects to pandas, and from tables to CSV, LaTeX and Markdown. No torch, no streamlit. T tasks, E experts.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lab import views
from lab.core.errors import LabError
from lab.metrics._amounts import AMOUNTS
from lab.run_folder.run import Run

COSTS = [amount for amount in AMOUNTS if amount.use >= views.Use.COMPARE and not amount.comes_with]
TERMS = {
    "router": "Router error",
    "experts": "Expert drift",
    "classifier": "Classifier drift",
    "new_classes": "New classes",
}  # of the decomposition, see lab.analysis.loss_decomposition


# -- many runs -------------------------------------------------------------------------------------------------------------


class TextTable(NamedTuple):
    """A table for people, one row per group of runs, and the reasons of its missing values."""

    table: pd.DataFrame
    notes: list[str]


def comparison(runs: Sequence[Run]) -> TextTable:
    """Scores, uses and costs: one row per group of runs that differ only in the seed, one column per measure, cells as text.

    A missing value is a dash, its reason a note; a measure that is missing everywhere has a note and no column.
    """
    table = views.summary_table(runs).T
    notes: dict[str, list[str]] = {}
    for title in table.columns:
        for label, text in table[title].items():
            missing = re.fullmatch(r"– \((.*)\)", str(text))
            if missing:
                notes.setdefault(f"{title}: {missing[1]}", []).append(str(label))
                table.at[label, title] = "–"
    table = table.loc[:, (table != "–").any()]
    table.insert(0, "n", [str(len(group.runs)) for group in views.groups(runs)])
    everywhere = len(table)
    lines = [note if len(labels) == everywhere else f"{note} ({', '.join(labels)})" for note, labels in notes.items()]
    return TextTable(table.rename_axis(index="method", columns=None), lines + without_interval(runs))


def without_interval(runs: Sequence[Run]) -> list[str]:
    """Which methods have one run only, and so no interval; no sentence if there are none."""
    single = "; ".join(group.label for group in views.groups(runs) if len(group.runs) == 1)
    return [f"One seed each, so differences may be chance: {single}. Repeat with other seeds, e.g. --seed 1."] if single else []


def pareto(runs: Sequence[Run], cost: str = "cost.stored_bytes", score: str = "") -> pd.DataFrame:
    """Groups of runs by a score against a cost: label, recipe, n, cost, score, task_id, dominated_by, why.

    `cost` and `score` are paths of `views.measures`; without a score it is the one by which methods are ordered.
    A group is dominated by another one that is at least as good in both and better in one; a group that is given the true task
    dominates only such groups, since the task is a privilege and no merit. Groups of another stream, scenario or backbone are
    not judged by each other.
    `dominated_by` is empty for the others, `why` the reason where cost or score is unknown; such a group takes no part.
    """
    results = [run.result() for run in runs]
    measures = {measure.path: measure for measure in views.measures(results)}
    score = score or views.headline(results).path
    for path in (cost, score):
        if path not in measures:
            raise LabError(f"there is no measure '{path}': use one of {', '.join(measures)}")
    summary = views.summary(runs)
    wide = summary.pivot(index="label", columns="measure", values="value").loc[list(dict.fromkeys(summary["label"]))]
    reasons = summary.pivot(index="label", columns="measure", values="why").loc[wide.index]
    about = summary.drop_duplicates("label").set_index("label")[["recipe", "n"]]
    table = about.assign(cost=wide[cost], score=wide[score], task_id=wide["uses.task_id"] == 1)
    table["why"] = [reasons.at[label, cost] or reasons.at[label, score] for label in table.index]
    signs = np.array([1 if measures[path].lower_is_better else -1 for path in (cost, score)])
    points = table[["cost", "score"]].to_numpy() * signs  # (groups, 2), less is better
    settings = [[group.runs[0].result()[name] for name in ("stream", "scenario", "backbone")] for group in views.groups(runs)]
    privileged, dominated = table["task_id"].to_numpy(), []
    for i in range(len(table)):
        rivals = np.array([other == settings[i] for other in settings]) & (~privileged | privileged[i])
        dominated.append(_dominating(points, rivals, i, list(table.index)))
    table["dominated_by"] = dominated
    return table.reset_index()


def _dominating(points: np.ndarray, rivals: np.ndarray, i: int, labels: Sequence[str]) -> str:
    """The first of the groups `rivals` (N,) that dominates group i, or nothing; comparisons with NaN are false."""
    better = rivals & (points <= points[i]).all(1) & (points < points[i]).any(1)
    return labels[int(np.argmax(better))] if better.any() else ""


# -- one run ---------------------------------------------------------------------------------------------------------------


def interference_matrix(run: views.Runs) -> pd.DataFrame:
    """What learning one task cost another: (T, T), rows "learned", columns tasks; NaN on and above the diagonal.

    The cell (i, j) is R[i-1][j] - R[i][j]; negative: task j gained. A column sums to what the task lost since it was learned.
    """
    table = views.accuracy_matrix(run)
    r = table.to_numpy()
    cost = np.full(r.shape, np.nan)
    cost[1:] = r[:-1] - r[1:]
    cost[np.triu_indices(*r.shape)] = np.nan  # a task is no cost to itself, nor to later ones
    return pd.DataFrame(cost, index=table.index.rename("learned"), columns=table.columns)


def routing_confusion(run: Run, after: int | None = None) -> pd.DataFrame:
    """How often each expert was the first choice on each task seen: (tasks seen, E); rows sum to one.

    A choice is that of one routing head in one layer on one test example.
    """
    routing = run.routing(after)
    shares = np.full((len(routing.tasks), len(routing.experts)), np.nan)
    for task in range(len(routing.tasks)):
        if f"{task}/top_count" in routing.arrays:
            shares[task] = routing.top1(task).mean((0, 1))
    return pd.DataFrame(shares, index=pd.Index(routing.tasks, name="task"), columns=pd.Index(routing.experts, name="expert"))


def decomposition(run: Run, tokens: bool = False) -> pd.DataFrame:
    """Where the losses of old tasks went: one row per old task and "mean", columns learned, last, loss and the terms of `TERMS`.

    `tokens`: of the loss per token of the right answers in nats, not of the score, where the language model answers. Terms that
    do not exist are NaN, with the reason in `attrs["why"]`. LabError where it was not measured yet.
    """
    content = run.decomposition
    if not content:
        measure = f"lab show {run.id} --decompose, with --runs FOLDER if it is not in ./runs"
        raise LabError(f"where the losses of run '{run.id}' went is not measured yet: {measure}")
    columns = ["task", "learned", "last", "loss", *TERMS]
    try:
        part = content["token_loss"] if tokens else content
        table = pd.DataFrame([*part["tasks"], {"task": "mean", **part["mean"]}]).reindex(columns=columns).set_index("task")
        table.attrs["why"] = content["why"]
        return table.astype(float)
    except (KeyError, TypeError, ValueError) as error:
        raise LabError(f"run '{run.id}' is damaged: decomposition.json is no decomposition ({error})") from error


# -- formats ---------------------------------------------------------------------------------------------------------------


def csv(runs: Sequence[Run]) -> str:
    """`views.summary` in long form: unrounded numbers, and the reason of each missing one."""
    return views.to_csv(views.summary(runs), index=False)


def markdown(runs: Sequence[Run]) -> str:
    """The comparison as a GitHub table, followed by its notes."""
    table, notes = comparison(runs)
    rows = [["method", *table.columns], ["---"] * (len(table.columns) + 1)]
    rows += [[label, *cells] for label, cells in zip(table.index, table.to_numpy(), strict=True)]
    lines = ["| " + " | ".join(cells if i == 1 else map(plain, cells)) + " |" for i, cells in enumerate(rows)]
    return "\n".join([*lines, *(f"\n{plain(note)}" for note in notes)]) + "\n"


def plain(text: Any) -> str:
    """Text for Markdown that is shown as it is."""
    return re.sub(r"([\\`*_{}\[\]#|~$<>&])", r"\\\1", str(text)).replace("\n", " ")


def latex(runs: Sequence[Run]) -> str:
    """The comparison as a booktabs tabular, its notes as comments before it."""
    table, notes = comparison(runs)
    body = table.reset_index().to_latex(index=False, escape=True, column_format="l" + "r" * len(table.columns))
    comments = [f"% {line}\n" for line in ("needs \\usepackage{booktabs}", *(note.replace("\n", " ") for note in notes))]
    return "".join(comments) + body.replace("±", r"$\pm$").replace("–", "--").replace("…", r"\dots{}")


FORMATS: dict[str, Callable[[Sequence[Run]], str]] = {"csv": csv, "latex": latex, "markdown": markdown}
