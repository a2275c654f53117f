"""Intervals, paired differences and effects of the order, against scipy, against all sign changes, and worked by hand."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lab.core.intervals import EXACT, by_position, difference, interval

SCORES = st.floats(0, 1, allow_subnormal=False)
MANY = st.lists(SCORES, min_size=2, max_size=9)
TASKS = "abcd"


# intervals --------------------------------------------------------------------------------------------------------------------


def test_interval_by_hand():
    """Mean 2, standard deviation 1, n = 3; the table of Student's t has 4.3027 for two degrees of freedom."""
    found = interval([1, 2, 3])
    assert (found.n, found.mean) == (3, 2.0) and found.why == ""
    assert found.high - found.mean == pytest.approx(4.3027 / 3**0.5, abs=1e-4) == found.mean - found.low
    half = interval([1, 2, 3], level=0.5).high - 2
    assert half == pytest.approx(0.8165 / 3**0.5, abs=1e-4), "a narrower level, a narrower interval"


@settings(max_examples=60, deadline=None)
@given(MANY)
def test_interval_is_that_of_scipy(values):
    found = interval(values)
    assert found.mean == pytest.approx(np.mean(values)) and found.low <= found.mean <= found.high
    if np.std(values) > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_equal_values_have_an_interval_of_no_width():
    found = interval([0.5, 0.5, 0.5])
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


def test_too_few_values_have_a_reason():
    one, none = interval([0.7]), interval([])
    assert (one.n, one.mean, one.low, one.high) == (1, 0.7, None, None) and "one value has no interval" in one.why
    assert (none.n, none.mean, none.low) == (0, None, None) and none.why == "there is no value"


# differences ------------------------------------------------------------------------------------------------------------------


def keyed(values):
    return dict(enumerate(values))


def flips(a, b) -> float:
    """Two-sided p-value from all changes of sign, counted one by one."""
    d = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    means = np.array([np.mean(d * signs) for signs in product((1, -1), repeat=len(d))])
    slack = 1e-12 + 1e-9 * abs(d).max()
    share = min(np.mean(means >= d.mean() - slack), np.mean(means <= d.mean() + slack))
    return min(1.0, 2 * share)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 20).map(lambda k: k / 20)] * 2), min_size=2, max_size=7))
def test_difference_against_scipy_and_all_changes_of_sign(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    found = difference(keyed(a), keyed(b))
    assert found.n == len(a) and found.mean == pytest.approx((a - b).mean())
    assert found.p == pytest.approx(flips(a, b))
    if np.std(a - b) > 1e-9:
        test = stats.ttest_rel(a, b)
        bounds = test.confidence_interval(0.95)
        assert (found.low, found.high) == (pytest.approx(bounds.low, abs=1e-12), pytest.approx(bounds.high, abs=1e-12))
        if abs(test.pvalue - 0.05) > 1e-6:
            assert found.claim == (test.pvalue < 0.05), "the interval excludes zero exactly where the t-test says so"


@settings(max_examples=30, deadline=None)
@given(MANY, st.data())
def test_difference_turned_round(values, data):
    other = data.draw(st.lists(SCORES, min_size=len(values), max_size=len(values)))
    one, back = difference(keyed(values), keyed(other)), difference(keyed(other), keyed(values))
    assert (one.mean, one.low, one.high) == (pytest.approx(-back.mean), pytest.approx(-back.high), pytest.approx(-back.low))
    assert one.claim == back.claim and one.p == pytest.approx(back.p)


def test_only_what_both_have_is_paired():
    first = {(0, "x"): 0.9, (1, "x"): 0.8, (2, "x"): 0.1}
    second = {(1, "x"): 0.5, (0, "x"): 0.6, (3, "x"): 0.0}
    found = difference(first, second)
    assert found.n == 2 and found.mean == pytest.approx(0.3) and found.claim
    assert found.p == 0.5, "2 / 2^2 is the smallest there is"
    assert difference(first, {(0, "x"): 0.6}).claim is None and "one value" in difference(first, {(0, "x"): 0.6}).why
    apart = difference(first, {(9, "x"): 1.0})
    assert (apart.n, apart.mean, apart.claim, apart.p) == (0, None, None, None)
    assert apart.why == "no seed and order is common to both"


def test_a_difference_that_chance_explains_is_no_claim():
    found = difference(keyed([0.5, 0.7, 0.6]), keyed([0.6, 0.55, 0.6]))
    assert found.low < 0 < found.high and found.claim is False and found.p > 0.05


def test_many_pairs_are_drawn_the_same_way_every_time():
    draw = np.random.default_rng(1)
    a, b = (keyed(draw.normal(size=EXACT + 3)) for _ in range(2))
    assert difference(a, b) == difference(a, b)


# order ------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(SCORES, min_size=4, max_size=4), st.lists(SCORES, min_size=4, max_size=4))
def test_effects_of_positions_are_found_again(ease, effect):
    """Every task stands once at every position, and a score is its task's ease plus its position's effect: no noise is left."""
    orders = [TASKS[shift:] + TASKS[:shift] for shift in range(4)]
    scores = [{task: ease[TASKS.index(task)] + effect[place] for place, task in enumerate(order)} for order in orders]
    found = by_position(scores)
    assert [entry.mean for entry in found] == pytest.approx([value - np.mean(effect) for value in effect], abs=1e-9)
    assert all(entry.n == 4 and entry.high - entry.low == pytest.approx(0, abs=1e-6) for entry in found)


def test_effects_of_positions_by_hand():
    """Learned last, both tasks are 0.4 better than learned first; their means are 0.7 and 0.3."""
    found = by_position([{"a": 0.5, "b": 0.5}, {"b": 0.1, "a": 0.9}])
    assert [entry.mean for entry in found] == pytest.approx([-0.2, 0.2]) and [entry.n for entry in found] == [2, 2]


def test_effects_of_positions_need_several_orders_of_the_same_tasks():
    one = by_position([{"a": 0.5, "b": 0.5}, {"a": 0.4, "b": 0.6}])
    assert [(entry.mean, entry.why) for entry in one] == [(None, "needs at least two orders")] * 2
    other = by_position([{"a": 0.5, "b": 0.5}, {"c": 0.4, "a": 0.6}])
    assert [(entry.mean, entry.why) for entry in other] == [(None, "the runs learned different tasks")] * 2
    assert by_position([]) == []
