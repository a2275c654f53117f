"""Equal weights: the reference point that shows whether a router's choice matters."""

import torch

from lab.routers.base import Axes, Decision, Request, Router


class Uniform(Router):
    """Every expert of the bank has the weight 1 / E; with one shared expert that is the expert itself."""

    name = "uniform"
    axes = Axes("model", "all", "soft")

    def forward(self, request: Request) -> Decision:
        return Decision(torch.full((1, 1, self.heads, self.experts), 1 / self.experts, device=request.mask.device))
