"""The label space of a scenario: which classes there are, which compete, and what a row's class is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lab.data.batching import UNLABELLED
from lab.data.stream import Task


class LabelSpace:
    """Classes of a stream under a scenario.

    `class` and `task`: every (task, label) pair is a class of its own; `domain`: the tasks share one label list.
    C classes in all; `names` in order; task t owns `own[t]`.
    """

    def __init__(self, scenario: str, tasks: Sequence[Task]):
        self.scenario = scenario
        if scenario == "domain":
            self.names = list(tasks[0].labels)
            self.own = [range(len(self.names)) for _ in tasks]
        else:
            self.names = [f"{task.name}/{label}" for task in tasks for label in task.labels]
            starts = [sum(len(t.labels) for t in tasks[:i]) for i in range(len(tasks))]
            self.own = [range(start, start + len(task.labels)) for start, task in zip(starts, tasks, strict=True)]
        self.start = torch.tensor([own.start for own in self.own])

    def __len__(self) -> int:
        return len(self.names)

    def target(self, label: Tensor, task: Tensor) -> Tensor:
        """Classes (B,) from labels within their tasks and the tasks; UNLABELLED stays what it is."""
        return torch.where(label == UNLABELLED, label, label + self.start.to(label.device)[task])

    def competing(self, task: Tensor, seen: int, how: str) -> Tensor:
        """Mask (B, C) of the classes that compete: of the row's own task ("task"), or of the first `seen` tasks ("seen")."""
        if how == "task":
            table = torch.zeros(len(self.own), len(self), dtype=torch.bool)
            for t, own in enumerate(self.own):
                table[t, own.start : own.stop] = True
            return table.to(task.device)[task]
        mask = torch.zeros(len(self), dtype=torch.bool)
        for own in self.own[:seen]:
            mask[own.start : own.stop] = True
        return mask.to(task.device).expand(len(task), -1)
