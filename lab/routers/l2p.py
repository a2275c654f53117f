"""Learning to Prompt (Wang et al. 2022): keys of a pool are matched with the frozen backbone's query, the best ones act."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import normalize

from lab.core.errors import LabError
from lab.experts.base import LayerInfo
from lab.routers.base import Axes, Decision, Match, Reads, Request, Router, RouterOptions, TaskAware, Trained


class L2POptions(RouterOptions):
    name: str = "l2p"
    top: int = Field(5, ge=1, le=1000, description="experts of the pool that act on an example")
    pull: float = Field(0.5, ge=0, description="weight of the loss that pulls chosen keys towards their queries (lambda)")


class L2P(Router, TaskAware):
    """Weight 1 for the `top` experts whose keys have the largest cosine with the example's query, 0 for the others.

    Prompts are chosen for each example, and the defaults are those of the paper: 5 prompts (of length 5 in the recipe), pull 0.5.
    The configuration that the authors published chooses one set of prompts per batch, 4 of length 10, with pull 1.

    The keys learn with the experts from pull * mean over examples of sum over chosen keys (1 - cosine), and from nothing else:
    the choice has no gradient.
    """

    name = "l2p"
    axes = Axes("model", "example", "hard")
    Options = L2POptions
    options: L2POptions
    step_descriptions = {"weights": "1 for the experts whose keys are most like the text's query, 0 for the others"}
    trained = Trained.WITH_EXPERTS
    reads = frozenset({Reads.QUERY})

    def __init__(self, options: L2POptions, layers: Sequence[LayerInfo], width: int):
        super().__init__(options, layers, width)
        self.key = nn.Parameter(torch.zeros(0, width))  # (E, D)

    @classmethod
    def check(cls, config: Any) -> None:
        pool = config.experts.allocation
        if not isinstance(pool, int) or pool < config.router.top:
            raise LabError(
                f"router l2p chooses {config.router.top} experts (router.top) from a pool, experts.allocation is {pool}: "
                "give it the size of a pool that has as many"
            )

    def grow(self, experts: int) -> None:
        self.key = nn.Parameter(torch.cat([self.key.data, self.key.data.new_zeros(experts - self.experts, self.width)]))
        super().grow(experts)

    @torch.no_grad()
    def add_task(self, task: int, classes: int, generator: torch.Generator) -> None:
        if task == 0:
            self.key.copy_(torch.rand(self.key.shape, generator=generator) * 2 - 1)

    def forward(self, request: Request) -> Decision:
        assert request.query is not None, "this router reads the query"
        query, keys = normalize(request.query.float(), dim=-1), normalize(self.key, dim=-1)
        similar = query @ keys.T  # (B, E)
        best = similar.topk(self.options.top, dim=-1)  # (B, N)
        weights = torch.zeros_like(similar).scatter(1, best.indices, 1.0)
        losses = {"pull": self.options.pull * (1 - best.values).sum(-1).mean()}
        match = Match(query, keys, range(self.experts))
        return Decision(weights[:, None, None, :].expand(-1, 1, self.heads, -1), losses=losses, match=match)
