"""How well a learned allocation of modules to tasks agrees with the skills that the tasks are made of.

`python -m lab.analysis.skill_recovery RUN...` prints it for runs on `strings` or `compositions`, per routing head.
"""

import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment

from lab.core.errors import LabError
from lab.data.strings.skills import PAIRS, TASKS, truth
from lab.run_folder.run import Run

DRAWS = 200


class Recovery(NamedTuple):
    """`score`: mean correlation of the skills with their modules, in [-1, 1]; `pairs`: (skill, module, correlation)."""

    score: float
    pairs: list[tuple[int, int, float]]


def recovery(allocation: np.ndarray, truth: np.ndarray) -> Recovery:
    """Match modules to skills one to one so that the sum of their correlations over the tasks is largest (Kuhn 1955).

    allocation (T, K): how much each of T tasks uses each of K modules, in one layer and routing head; truth (T, S): skills of
    the tasks
    (lab.data.strings.skills.truth). A skill that all tasks have or none has cannot be recovered and is left out; a skill
    without a module of its own, or with one that all tasks use alike, counts as 0. LabError where no skill is left.
    """
    if allocation.shape[0] != truth.shape[0]:
        raise LabError(f"the allocation is of {len(allocation)} tasks, the truth of {len(truth)}: give both for the same tasks")
    skills = np.flatnonzero(truth.std(0) > 0)
    if not len(skills):
        raise LabError("all of these tasks are made of the same skills: there is nothing to recover")
    table = _standardised(truth[:, skills]).T @ _standardised(allocation) / len(truth)  # (S, K)
    rows, columns = linear_sum_assignment(table, maximize=True)
    pairs = [(int(skills[s]), int(k), float(table[s, k])) for s, k in zip(rows, columns, strict=True)]
    return Recovery(sum(value for _, _, value in pairs) / len(skills), pairs)


class Recovered(NamedTuple):
    """Of a run: `scores` (L, H) per adapted layer and routing head; `chance` (DRAWS, H) of shuffled tasks, mean over layers."""

    scores: np.ndarray
    chance: np.ndarray

    def p(self) -> float:
        """One-sided permutation test: how often shuffled tasks score at least as well, over all layers and heads."""
        return float((1 + (self.chance.mean(1) >= self.scores.mean() - 1e-12).sum()) / (1 + len(self.chance)))


def recovered(run: Run) -> Recovered:
    """Recovery of the skills by what a run recorded when its (first, or joint) training had ended, of the tasks trained by then.

    The best assignment finds some agreement in any allocation, so the same is done with the tasks of the allocation shuffled,
    alike in all layers and heads. LabError for a run without recorded routing, or whose tasks are not made of known skills.
    """
    if not run.recorded():
        raise LabError(f"run '{run.id}' has no recorded routing")
    routing = run.routing()
    seen = [t for t in range(len(routing.tasks)) if f"{t}/weight_sum" in routing.arrays]
    names = [routing.tasks[t] for t in seen]
    if others := [name for name in names if name not in TASKS | PAIRS]:
        raise LabError(f"run '{run.id}': the skills of task '{others[0]}' are not known, only those of strings and compositions")
    weights, skills = np.stack([routing.mean(t) for t in seen]), truth(names)  # (T, L, H, E), (T, S)

    def scores(order: np.ndarray) -> np.ndarray:
        layers, heads = map(range, weights.shape[1:3])
        return np.array([[recovery(weights[order, i, h], skills).score for h in heads] for i in layers])

    chance = np.random.default_rng(0)
    permuted = np.stack([scores(chance.permutation(len(seen))).mean(0) for _ in range(DRAWS)])
    return Recovered(scores(np.arange(len(seen))), permuted)


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Columns (T, N) with mean 0 and variance 1; constant ones become 0."""
    centred = columns - columns.mean(0, dtype=float)
    spread = centred.std(0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)


def main(
    ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="runs on strings or compositions")],
    runs: Annotated[Path | None, typer.Option("--runs", help="folder of runs (default: $LAB_RUNS, else runs/)")] = None,
) -> None:
    """How well learned allocations agree with the skills that the tasks are made of."""
    table = Table("run", "score", "shuffled tasks", "p", "per routing head")
    for id in ids:
        try:
            recovery = recovered(Run.open(id, runs))
        except LabError as error:
            print(f"lab: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        heads = " ".join(f"{score:.2f}" for score in recovery.scores.mean(0))
        table.add_row(id, f"{recovery.scores.mean():.3f}", f"{recovery.chance.mean():.3f}", f"{recovery.p():.3f}", heads)
    Console(markup=False, width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    typer.run(main)
