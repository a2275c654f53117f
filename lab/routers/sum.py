"""Weight one for every expert: their outputs are summed and nothing is chosen."""

import torch

from lab.routers.base import Axes, Decision, Request, Router


class Sum(Router):
    """Every expert of the bank has the weight 1, so that a new one is added to what the earlier ones do."""

    name = "sum"
    axes = Axes("model", "all", "soft")

    def forward(self, request: Request) -> Decision:
        return Decision(torch.ones(1, 1, self.heads, self.experts, device=request.mask.device))
