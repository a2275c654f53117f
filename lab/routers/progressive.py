"""The experts of the true task and of all tasks before it: what Progressive Prompts lets act."""

from typing import Any

import torch

from lab.core.errors import LabError
from lab.routers.base import Axes, Decision, Reads, Request, Router


class Progressive(Router):
    """Weight 1 for the expert of the true task and all earlier ones, 0 for later ones; uses the task identity and says so."""

    name = "progressive"
    axes = Axes("model", "task", "soft")
    reads = frozenset({Reads.TASK})

    @classmethod
    def check(cls, config: Any) -> None:
        if config.experts.allocation != "per_task":
            raise LabError("router progressive adds the true task's expert to the earlier ones: use experts.allocation=per_task")

    def forward(self, request: Request) -> Decision:
        if request.task is None:
            raise LabError("the progressive router needs the task identity of every row")
        earlier = torch.arange(self.experts, device=request.task.device) <= request.task[:, None]  # (B, E)
        return Decision(earlier.float()[:, None, None, :].expand(-1, 1, self.heads, -1))
