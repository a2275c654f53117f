"""Budgets of the memory: what is kept, how often, how evenly, and that adding the same tasks again gives the same rows."""

from collections import Counter

import numpy as np
import pytest
import scipy.stats
from support import toy
from support.errors import assert_says

from lab.core.errors import LabError
from lab.data.batching import Encoded
from lab.data.replay_buffer import Memory, balanced, ranks
from lab.data.stream import Example, Task


def pair(t: int, labels: list[int], name: str = "") -> tuple[Task, list[Encoded]]:
    """A task whose i-th training text has i + 1 letters, and the same encoded."""
    examples = [Example("x" * (i + 1), label) for i, label in enumerate(labels)]
    rows = [Encoded([1], [0], label, t, (t, "train", i)) for i, label in enumerate(labels)]
    return Task(name or f"t{t}", ("a", "b", "c"), examples, examples, examples), rows


def filled(policy: str, total: int, tasks: list, seed: int = 0) -> Memory:
    memory = Memory(0, 0, seed, total, policy)
    for task, rows in tasks:
        memory.add(task, rows)
    return memory


def test_reservoir_keeps_every_example_with_the_same_probability():
    """Chi-squared over 1500 seeds; inclusions of one draw exclude one another, hence the factor."""
    tasks, total, draws = [pair(0, [0] * 5), pair(1, [0, 1] * 6), pair(2, [2] * 8)], 6, 1500
    counts = Counter(row.key for seed in range(draws) for row in filled("reservoir", total, tasks, seed).rows)
    observed = np.array([counts[row.key] for _, rows in tasks for row in rows])
    n, p = len(observed), total / 25
    assert n == 25 and observed.sum() == draws * total
    statistic = ((observed - draws * p) ** 2).sum() / (draws * p * (1 - p)) * (n - 1) / n
    assert 1e-3 < scipy.stats.chi2.sf(statistic, n - 1) < 1 - 1e-3, observed


def test_reservoir_keeps_pairs_independently_of_their_tasks():
    """Both of two examples stay with probability k (k - 1) / n (n - 1), within four standard errors."""
    tasks, draws = [pair(0, [0] * 6), pair(1, [0] * 6)], 1500
    both = Counter()
    for seed in range(draws):
        kept = {row.key for row in filled("reservoir", 4, tasks, seed).rows}
        both["within"] += {(0, "train", 0), (0, "train", 5)} <= kept
        both["across"] += {(0, "train", 2), (1, "train", 3)} <= kept
    p = 4 * 3 / (12 * 11)
    assert all(abs(count / draws - p) < 4 * (p * (1 - p) / draws) ** 0.5 for count in both.values()) and len(both) == 2


@pytest.mark.parametrize("policy", ["reservoir", "balanced"])
def test_a_total_budget_is_filled_and_never_exceeded(policy):
    tasks = [pair(0, [0, 1, 0]), pair(1, [0] * 9), pair(2, [0, 1, 2] * 4)]
    sizes = [len(filled(policy, 7, tasks[: n + 1])) for n in range(3)]
    assert sizes == [3, 7, 7]
    memory = filled(policy, 7, tasks)
    assert len({row.key for row in memory.rows}) == 7
    assert memory.bytes == sum(row.key[2] + 1 + 8 for row in memory.rows)
    assert memory.rows == filled(policy, 7, tasks).rows != filled(policy, 7, tasks, seed=1).rows
    before = {row.key for row in filled(policy, 7, tasks[:2]).rows}
    assert {row.key for row in memory.rows if row.task < 2} < before, "what was dropped does not come back"


def test_balanced_counts():
    """Three classes, then five, then six; a class with two examples leaves its share to the others."""
    tasks = [pair(0, [0, 1, 2] * 20), pair(1, [0] * 2 + [1] * 30), pair(2, [0] * 40)]
    counts = [Counter((row.task, row.label) for row in filled("balanced", 20, tasks[: n + 1]).rows) for n in range(3)]
    assert sorted(counts[0].values()) == [6, 7, 7]
    assert counts[1][1, 0] == 2 and sorted(counts[1].values()) == [2, 4, 4, 5, 5]
    assert counts[2][1, 0] == 2 and sorted(counts[2].values()) == [2, 3, 3, 4, 4, 4] and sum(counts[2].values()) == 20


def test_balanced_keeps_random_examples_of_a_class():
    task = pair(0, [0] * 10 + [1] * 10)
    counts = Counter(row.key[2] for seed in range(400) for row in filled("balanced", 6, [task], seed).rows)
    assert max(abs(counts[i] / 400 - 0.3) for i in range(20)) < 4 * (0.3 * 0.7 / 400) ** 0.5


def test_ranks_and_the_first_rows_of_every_class():
    _, rows = pair(0, [0, 0, 1, 0, 1, 2])
    assert ranks(rows) == [0, 1, 0, 2, 1, 0]
    assert [row.key[2] for row in balanced(rows, 4)] == [0, 2, 5, 1]


def test_a_budget_smaller_than_the_classes_is_refused():
    with pytest.raises(LabError) as error:
        toy.session("replay", "memory.per_task=0", "memory.total=3")
    assert_says(error, "memory.total = 3", "4 classes", "at least 4")
    toy.session("replay", "memory.per_task=0", "memory.total=4")


def test_routers_learn_from_a_memory_that_lost_a_whole_task():
    """Under a reservoir nothing may be left of a task; what it showed the routers before is then gone too."""
    made = toy.session("l2r", "memory.per_task=0", "memory.total=24", of=toy.tasks("sea", "city", "farm"))
    for event in made.train():
        if type(event).__name__ == "Learned" and event.task == 2:
            made.memory.rows = [row for row in made.memory.rows if row.task != 0]
    assert set(made.stored_queries) == {1, 2}
    assert all(
        {row.key for row in rows} == {row.key for row in made.memory.rows if row.task == t}
        for t, (rows, _) in made.stored_queries.items()
    )
    assert len(made.scores.matrix) == 3
