"""Continual-learning metrics from the score matrix R, where R[i][j] is the score on task j after learning task i.

Pure numpy. T tasks; rows may be missing from the end (a run that was stopped). A metric that is undefined is None, and
`metrics` gives the reason. Formulas: see each function; means are over tasks, not over examples.
"""

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np

Matrix = Sequence[Sequence[float | None]]


def array(matrix: Matrix) -> np.ndarray:
    """R as floats with NaN where not yet seen; shape (rows learned, T)."""
    return np.array([[np.nan if score is None else score for score in row] for row in matrix], dtype=float, ndmin=2)


def average_accuracy(r: np.ndarray) -> float:
    """ACC = mean over the tasks seen of the last row (after all T tasks: the usual average accuracy)."""
    return float(np.mean(r[-1, : len(r)]))


def backward_transfer(r: np.ndarray) -> float:
    """BWT = mean over j < T of R[T][j] - R[j][j] (Lopez-Paz and Ranzato 2017); needs two rows."""
    old = len(r) - 1
    return float(np.mean(r[-1, :old] - np.diag(r)[:old]))


def forgetting(r: np.ndarray) -> float:
    """FGT = mean over j < T of max over rows j..T-1 of R[l][j], minus R[T][j] (Chaudhry et al. 2018).

    The last row is not part of the maximum, so the value can be negative; FGT >= -BWT always.
    """
    old = len(r) - 1
    best = [np.max(r[j:old, j]) for j in range(old)]
    return float(np.mean(np.array(best) - r[-1, :old]))


def learning_accuracy(r: np.ndarray) -> float:
    """LA = mean over the tasks seen of R[j][j]."""
    return float(np.mean(np.diag(r)))


def forward_transfer(r: np.ndarray, single_task: Sequence[float]) -> float:
    """FWT = mean over j >= 2 of R[j][j] - a_j, where a_j is the score of a model trained on task j alone."""
    return float(np.mean(np.diag(r)[1:] - np.asarray(single_task, dtype=float)[1 : len(r)]))


def interference(r: np.ndarray) -> np.ndarray:
    """I[i][j] = R[i-1][j] - R[i][j] for i > j: what learning task i cost task j; NaN elsewhere.

    Column j sums to R[j][j] - R[T][j].
    """
    cost = np.full(r.shape, np.nan)
    cost[1:] = r[:-1] - r[1:]
    cost[np.triu_indices(*r.shape)] = np.nan  # k = 0: a task is no cost to itself
    return cost


def shares(score: Callable[[frozenset[str]], float], parts: Sequence[str]) -> dict[str, float]:
    """Split score(none) - score(all) among parts that changed; `score(S)` is that with the parts S new and the others old.

    The share of a part is its mean cost over all orders in which the parts can be changed one after the other (Shapley 1953):
    no order is preferred, the shares add up, and a part whose change never matters has the share 0. 2^n scores for n parts.
    """
    orders = list(permutations(parts))
    found = dict.fromkeys(parts, 0.0)
    for order in orders:
        for i, part in enumerate(order):
            found[part] += (score(frozenset(order[:i])) - score(frozenset(order[: i + 1]))) / len(orders)
    return found


def metrics(matrix: Matrix, single_task: Sequence[float] | None = None) -> dict[str, Any]:
    """All metrics of a matrix; those that are undefined are None, and `why` says for each of them the reason."""
    names = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer", "learning_accuracy")
    if not len(matrix):
        return {name: None for name in names} | {"why": {name: "no task is learned yet" for name in names}}
    r, why = array(matrix), {}
    values: dict[str, Any] = {"average_accuracy": average_accuracy(r), "forgetting": None, "backward_transfer": None}
    values |= {"forward_transfer": None, "learning_accuracy": learning_accuracy(r)}
    if len(r) < 2:
        why |= {name: "needs at least two learned tasks" for name in ("forgetting", "backward_transfer", "forward_transfer")}
    else:
        values |= {"forgetting": forgetting(r), "backward_transfer": backward_transfer(r)}
        if single_task is None:
            why["forward_transfer"] = "needs single-task scores"
        else:
            values["forward_transfer"] = forward_transfer(r, single_task)
    return values | {"why": why}
