"""Metrics against a published matrix, against independent loops, and where they are undefined."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.metrics import matrix as formulas

NONE = None
# O-LoRA, order 1 of the standard benchmark, from the logs of its authors
O_LORA = [
    [98.71, NONE, NONE, NONE],
    [98.55, 57.76, NONE, NONE],
    [97.41, 57.41, 71.91, NONE],
    [97.74, 56.07, 71.04, 88.62],
]


def test_the_published_matrix():
    found = formulas.metrics(O_LORA)
    assert found["average_accuracy"] == pytest.approx(78.3675, abs=1e-9)
    assert found["backward_transfer"] == pytest.approx(-1.1767, abs=5e-5)
    assert found["forgetting"] == pytest.approx(1.1767, abs=5e-5)
    assert found["learning_accuracy"] == pytest.approx(79.25, abs=1e-9)
    assert found["backward_transfer"] * 3 / 4 == pytest.approx(-0.8825, abs=5e-5)  # divided by T, as SAPT's code does
    assert (found["forward_transfer"], found["why"]) == (None, {"forward_transfer": "needs single-task scores"})


def test_a_run_that_was_stopped():
    found = formulas.metrics(O_LORA[:2])
    assert found["average_accuracy"] == pytest.approx((98.55 + 57.76) / 2)
    assert found["backward_transfer"] == pytest.approx(98.55 - 98.71)
    assert found["learning_accuracy"] == pytest.approx((98.71 + 57.76) / 2)


def test_what_is_undefined_is_none_and_says_why():
    names = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer", "learning_accuracy")
    assert formulas.metrics([]) == dict.fromkeys(names) | {"why": dict.fromkeys(names, "no task is learned yet")}
    one = formulas.metrics([[0.5, None]], single_task=[0.5, 0.5])
    assert (one["average_accuracy"], one["learning_accuracy"]) == (0.5, 0.5)
    needs = "needs at least two learned tasks"
    assert one["why"] == {"forgetting": needs, "backward_transfer": needs, "forward_transfer": needs}
    assert all(one[name] is None for name in one["why"])


def test_forward_transfer_is_measured_from_single_task_scores():
    found = formulas.metrics(O_LORA, single_task=[98.0, 58.0, 70.0, 90.0])
    assert found["forward_transfer"] == pytest.approx(((57.76 - 58) + (71.91 - 70) + (88.62 - 90)) / 3)
    assert found["why"] == {}


def test_forgetting_can_be_negative_and_takes_the_best_row_before_the_last():
    rising = [[0.5, None, None], [0.6, 0.5, None], [0.8, 0.9, 0.7]]
    assert formulas.metrics(rising)["forgetting"] == pytest.approx(((0.6 - 0.8) + (0.5 - 0.9)) / 2)


scores = st.floats(0, 1, allow_nan=False, width=32)


@st.composite
def matrices(draw):
    tasks = draw(st.integers(2, 6))
    rows = draw(st.integers(2, tasks))
    return [[draw(scores) if j <= i else None for j in range(tasks)] for i in range(rows)]


@given(matrices())
def test_metrics_are_their_loops(matrix):
    rows = len(matrix)
    found, last = formulas.metrics(matrix), matrix[-1]
    assert found["average_accuracy"] == pytest.approx(sum(last[:rows]) / rows)
    assert found["learning_accuracy"] == pytest.approx(sum(matrix[j][j] for j in range(rows)) / rows)
    moved, lost = 0.0, 0.0
    for j in range(rows - 1):
        best = matrix[j][j]
        for i in range(j + 1, rows - 1):
            best = max(best, matrix[i][j])
        moved += last[j] - matrix[j][j]
        lost += best - last[j]
    assert found["backward_transfer"] == pytest.approx(moved / (rows - 1), abs=1e-12)
    assert found["forgetting"] == pytest.approx(lost / (rows - 1), abs=1e-12)
    assert found["forgetting"] >= -found["backward_transfer"] - 1e-12
    if all(matrix[i][j] <= matrix[j][j] for i in range(rows) for j in range(i)):  # never better than when learned
        assert found["forgetting"] == pytest.approx(-found["backward_transfer"])


@given(matrices())
def test_interference_is_the_step_down_a_column(matrix):
    rows, found = len(matrix), formulas.interference(formulas.array(matrix))
    for j in range(len(matrix[0])):
        for i in range(rows):
            expected = matrix[i - 1][j] - matrix[i][j] if i > j else None
            assert np.isnan(found[i, j]) if expected is None else found[i, j] == pytest.approx(expected, abs=1e-12)
    lost = [np.nansum(found[:, j]) for j in range(rows - 1)]
    assert np.mean(lost) == pytest.approx(-formulas.metrics(matrix)["backward_transfer"], abs=1e-12)


# what several changes cost together -------------------------------------------------------------------------------------------


PARTS = ("experts", "classifier", "new_classes", "router")


@st.composite
def games(draw):
    """A score for every set of parts."""
    parts = PARTS[: draw(st.integers(0, 4))]
    return parts, {frozenset(chosen): draw(scores) for n in range(len(parts) + 1) for chosen in combinations(parts, n)}


@given(games())
def test_shares_are_the_closed_form_and_add_up(game):
    """Against the weights |S|! (n - 1 - |S|)! / n! of marginal costs (Shapley 1953)."""
    parts, score = game
    found, n = formulas.shares(score.get, parts), len(parts)
    for part in parts:
        without = [chosen for chosen in score if part not in chosen]
        orders = {chosen: math.factorial(len(chosen)) * math.factorial(n - 1 - len(chosen)) for chosen in without}
        expected = sum(count * (score[chosen] - score[chosen | {part}]) for chosen, count in orders.items()) / math.factorial(n)
        assert found[part] == pytest.approx(expected, abs=1e-9)
    assert sum(found.values()) == pytest.approx(score[frozenset()] - score[frozenset(parts)], abs=1e-9)
    assert found == pytest.approx(formulas.shares(score.get, parts[::-1]), abs=1e-12)


@given(games())
def test_a_part_that_never_matters_has_the_share_zero(game):
    parts, score = game
    found = formulas.shares(lambda chosen: score[chosen - {"idle"}], (*parts, "idle"))
    assert found.pop("idle") == pytest.approx(0, abs=1e-12)
    assert found == pytest.approx(formulas.shares(score.get, parts), abs=1e-9)


def test_shares_by_hand():
    """Alone, a costs 0.2 and b nothing; after b, a costs 0.5 and b, after a, 0.3: each order is half of the answer."""
    score = {frozenset(): 0.9, frozenset("a"): 0.7, frozenset("b"): 0.9, frozenset("ab"): 0.4}
    assert formulas.shares(score.get, ("a", "b")) == pytest.approx({"a": (0.2 + 0.5) / 2, "b": (0.3 + 0.0) / 2})
    assert formulas.shares(score.get, ()) == {}
