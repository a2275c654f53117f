"""A small store of training examples, filled task by task; what routers, the classifier and replay learn from."""

import torch

from lab.batch import Encoded
from lab.chance import generator
from lab.stream import Task


class Memory:
    """Random training examples of every task seen: `per_task` of them, or `per_class` of each label.

    What is kept of a task depends on (seed, task) only, so nothing needs to be saved to go on after a kill.
    """

    def __init__(self, per_task: int, per_class: int, seed: int):
        self.per_task, self.per_class, self.seed = per_task, per_class, seed
        self.rows: list[Encoded] = []
        self.bytes = 0  # UTF-8 bytes of the stored texts, plus 8 per label

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, task: Task, encoded: list[Encoded]) -> None:
        """Store a sample of the task's training examples."""
        order = torch.randperm(len(encoded), generator=generator(self.seed, "memory", task.name)).tolist()
        if self.per_class:
            kept, count = [], [0] * len(task.labels)
            for row in order:
                label = encoded[row].label
                count[label] += 1
                kept += [row] if count[label] <= self.per_class else []
        else:
            kept = order[: self.per_task]
        self.rows += [encoded[row] for row in kept]
        self.bytes += sum(len(task.train[row].text.encode()) + len((task.train[row].pair or "").encode()) + 8 for row in kept)

    def sample(self, size: int, generator: torch.Generator) -> list[Encoded]:
        """`size` stored examples without repetition, or all where there are fewer."""
        return [self.rows[i] for i in torch.randperm(len(self.rows), generator=generator)[:size].tolist()]
