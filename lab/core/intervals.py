"""What a few repetitions allow to say: intervals of means, paired differences, and what the order of the tasks changed.

Repetitions are runs that differ in the seed or in the order of the tasks. All of them count as independent draws, which seeds of
one order are and runs of one seed in two orders are only in part: with few orders the intervals are rather too narrow. Nothing
is corrected for the number of comparisons. What is undefined is None, and `why` says the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
EXACT = 13  # pairs up to which all 2^n changes of sign are tried; beyond, RESAMPLES random ones
RESAMPLES = 9999
ONE = "one value has no interval: repeat with other seeds or orders"


@dataclass(frozen=True)
class Interval:
    """A mean over n values with the interval of Student's t at `LEVEL`."""

    n: int
    mean: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Difference(Interval):
    """The mean of n paired differences, first minus second.

    `p` is two-sided, of the exact permutation test that changes signs; with n pairs it cannot be below 2 / 2^n.
    `claim`: whether the interval excludes zero, so that the sign of the difference may be claimed; None below two pairs.
    """

    p: float | None = None
    claim: bool | None = None


def interval(values: npt.ArrayLike, level: float = LEVEL) -> Interval:
    """Mean and t-interval: mean ± t(level, n - 1) s / sqrt(n), s the sample standard deviation; no interval below n = 2."""
    x = np.asarray(values, dtype=float)
    if not len(x):
        return Interval(0, None, why="there is no value")
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(1, mean, why=ONE)
    from scipy.special import stdtrit  # not needed for the one run that most screens show

    half = float(stdtrit(len(x) - 1, (1 + level) / 2) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(len(x), mean, mean - half, mean + half)


def difference(first: Mapping[Any, float], second: Mapping[Any, float], level: float = LEVEL) -> Difference:
    """First minus second over the repetitions that both have (the same key, such as seed and order)."""
    shared = [key for key in first if key in second]
    if not shared:
        return Difference(0, None, why="no seed and order is common to both")
    a, b = (np.array([values[key] for key in shared], dtype=float) for values in (first, second))
    mean = interval(a - b, level)
    if mean.low is None or mean.high is None:
        return Difference(1, mean.mean, why=ONE)
    claim = mean.low > 0 or mean.high < 0
    return Difference(mean.n, mean.mean, mean.low, mean.high, p=permutation(a, b), claim=claim)


def permutation(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p-value of the paired permutation test of the mean difference, (n,) against (n,)."""
    from scipy import stats

    def mean_difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return (x - y).mean(axis=axis).round(12)  # changes of sign that give the same mean must not differ by rounding

    how = {"n_resamples": 2**EXACT if len(a) <= EXACT else RESAMPLES, "rng": np.random.default_rng(0)}
    return float(stats.permutation_test((a, b), mean_difference, permutation_type="samples", vectorized=True, **how).pvalue)


def by_position(scores: Sequence[Mapping[str, float]], level: float = LEVEL) -> list[Interval]:
    """Effect of a task's position in the stream on its score, over runs that learn the same tasks in several orders.

    `scores`: per run, the score of every task, in the order in which it was learned. Per position: mean over the runs of the
    task's score there minus the same task's mean over all runs, so that easy tasks do not look like good positions.
    """
    orders = {tuple(run) for run in scores}
    positions = max((len(run) for run in scores), default=0)
    if len(orders) < 2 or len({frozenset(order) for order in orders}) > 1:
        reason = "needs at least two orders" if len(orders) < 2 else "the runs learned different tasks"
        return [Interval(0, None, why=reason)] * positions
    usual = {task: float(np.mean([run[task] for run in scores])) for task in scores[0]}
    deviations = np.array([[score - usual[task] for task, score in run.items()] for run in scores])  # (runs, positions)
    return [interval(column, level) for column in deviations.T]
