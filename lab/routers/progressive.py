"""The experts of the true task and of all tasks before it: what Progressive Prompts lets act."""

import torch

from lab.errors import LabError
from lab.router import Decision, Request, Router


class Progressive(Router):
    """Weight 1 for the expert of the true task and all earlier ones, 0 for later ones; uses the task identity and says so."""

    name = "progressive"
    uses_task_id = True

    def forward(self, request: Request) -> Decision:
        if request.task is None:
            raise LabError("the progressive router needs the task identity of every row")
        earlier = torch.arange(self.experts, device=request.task.device) <= request.task[:, None]  # (B, E)
        return Decision(earlier.float()[:, None, None, :].expand(-1, 1, self.heads, -1))
