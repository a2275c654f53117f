"""How well a learned allocation of modules to tasks agrees with the skills that the tasks are made of."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from lab.errors import LabError


class Recovery(NamedTuple):
    """`score`: mean correlation of the skills with their modules, in [-1, 1]; `pairs`: (skill, module, correlation)."""

    score: float
    pairs: list[tuple[int, int, float]]


def recovery(allocation: np.ndarray, truth: np.ndarray) -> Recovery:
    """Match modules to skills one to one so that the sum of their correlations over the tasks is largest (Kuhn 1955).

    allocation (T, K): how much each of T tasks uses each of K modules, in one layer and routing head; truth (T, S): skills of
    the tasks, see lab.strings.skills.truth. A skill that all tasks have or none has cannot be recovered and is left out; a skill
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


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Columns (T, N) with mean 0 and variance 1; constant ones become 0."""
    centred = columns - columns.mean(0, dtype=float)
    spread = centred.std(0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)
