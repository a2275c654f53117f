"""A small store of training examples, filled task by task; what routers, the classifier and replay learn from."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch

from lab.core.rng import generator
from lab.data.batching import Encoded
from lab.data.stream import Example, Task

ALL = 1_000_000  # examples per task; no task has more


class Memory:
    """Random training examples of every task seen, within one of three budgets.

    `per_task` or `per_class` of each task, kept for good; or `total` in all, shared by `policy`: "reservoir", every example
    seen so far is equally likely to be kept; "balanced", every (task, label) pair has equally many, as far as it has them.
    What is kept depends on the seed and the tasks added only, so nothing needs to be saved to go on after a kill.
    """

    def __init__(
        self, per_task: int, per_class: int, seed: int, total: int = 0, policy: Literal["reservoir", "balanced"] = "reservoir"
    ):
        self.per_task, self.per_class, self.seed, self.total, self.policy = per_task, per_class, seed, total, policy
        self.rows: list[Encoded] = []
        self.seen = 0  # examples offered so far
        self.sizes: dict[tuple[int, str, int], int] = {}  # bytes of every stored example, by its key

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the stored texts, plus 8 per label that is no text."""
        return sum(self.sizes.values())

    def add(self, task: Task, encoded: list[Encoded]) -> None:
        """Store a sample of the task's training examples; under a total budget it takes the place of others."""
        chance = generator(self.seed, "memory", task.name)
        order = torch.randperm(len(encoded), generator=chance).tolist()
        offered = [encoded[i] for i in order]
        if self.total and self.policy == "balanced":
            self.rows = balanced([*self.rows, *offered], self.total)
        elif self.total:
            self.rows = reservoir(self.rows, offered, self.total, self.seen, chance)
        elif self.per_class:
            self.rows += [row for row, rank in zip(offered, ranks(offered), strict=True) if rank < self.per_class]
        else:
            self.rows += offered[: self.per_task]
        self.seen += len(offered)
        texts = {encoded[i].key: task.train[i] for i in order}
        sizes = {key: stored_bytes(example) for key, example in texts.items()} | self.sizes
        self.sizes = {row.key: sizes[row.key] for row in self.rows}

    def sample(self, size: int, generator: torch.Generator) -> list[Encoded]:
        """`size` stored examples without repetition, or all where there are fewer."""
        return [self.rows[i] for i in torch.randperm(len(self.rows), generator=generator)[:size].tolist()]


def stored_bytes(example: Example) -> int:
    """Of its texts in UTF-8, and 8 for its label if it has one."""
    answer = len(example.targets[0].encode()) if example.targets else 8
    return len(example.text.encode()) + len((example.pair or "").encode()) + answer


def reservoir(
    kept: Sequence[Encoded], offered: Sequence[Encoded], size: int, seen: int, chance: torch.Generator
) -> list[Encoded]:
    """Algorithm R (Vitter 1985): of all n rows offered so far, `seen` of them earlier, each stays with probability size / n."""
    kept = list(kept)
    for number, row in enumerate(offered, start=seen):
        if len(kept) < size:
            kept.append(row)
        elif (place := int(torch.randint(number + 1, (1,), generator=chance))) < size:
            kept[place] = row
    return kept


def balanced(rows: Sequence[Encoded], size: int) -> list[Encoded]:
    """`size` rows, equally many of every class (to within one) as far as it has them; of each class the first rows."""
    ranked = sorted(zip(ranks(rows), range(len(rows)), strict=True))  # the first row of every class, then the second, ...
    return [rows[i] for _, i in ranked[:size]]


def ranks(rows: Sequence[Encoded]) -> list[int]:
    """For every row, how many rows of its (task, label) pair stand before it."""
    before: Counter[tuple[int, int]] = Counter()
    numbers: list[int] = []
    for row in rows:
        numbers.append(before[row.task, row.label])
        before[row.task, row.label] += 1
    return numbers
