"""Shared attentive selection (SAPT, Zhao et al. 2024): the example attends to a learned key per expert.

Query of an example: e, the maximum over its embedded tokens, feature by feature; q = LayerNorm(SiLU(W_up W_down e)).
Weights: softmax over the experts of k_i q / (temperature * sqrt(D)), one set for all layers.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lab.core.errors import LabError
from lab.experts.base import LayerInfo
from lab.routers.base import Axes, Decision, Match, Reads, Request, Router, RouterOptions, TaskAware, Trained


class AttentionOptions(RouterOptions):
    name: str = "attention"
    query: Literal["embeddings", "backbone"] = Field(
        "embeddings",
        description="what the query is made of; embeddings: the largest value of each feature among the text's embedded tokens; "
        "backbone: the frozen backbone's representation",
    )
    pooling: Literal["masked", "unmasked"] = Field(
        "masked",
        description="tokens that `embeddings` looks at; masked: those of the text; unmasked: padding too, as the published code "
        "does, so that weights depend on what stands in the same batch",
    )
    hidden: int = Field(100, ge=1, le=4096, description="width in the middle of the projection that makes the query")
    temperature: float = Field(1.0, gt=0, le=1000, description="of the softmax, beside the root of the width; lower is harder")


class Attention(Router, TaskAware):
    """Softmax of the products of an example's projected query with a key per expert; the same weights in every layer.

    The key of a task is learned while its expert is, with the earlier experts frozen but acting. The projection is shared by
    all tasks and goes on learning, so what earlier tasks are sent to drifts unless something holds it (method `reflection`).
    On the built-in stream the weights saturate by the second optimiser step of the second task, with and without `reflection`;
    the cause is not known. It is not that queries are alike: projection and keys that are trained alone tell the tasks apart.
    """

    name = "attention"
    axes = Axes("model", "example", "soft")
    Options = AttentionOptions
    options: AttentionOptions
    step_descriptions = {
        "scores": "the product of the text's query with a key that was learned for each expert",
        "weights": "the softmax of the scores",
    }
    trained = Trained.WITH_EXPERTS

    def __init__(self, options: AttentionOptions, layers: Sequence[LayerInfo], width: int):
        super().__init__(options, layers, width)
        self.down = nn.Parameter(torch.zeros(options.hidden, width))
        self.up = nn.Parameter(torch.zeros(width, options.hidden))
        self.norm = nn.LayerNorm(width)
        self.keys = nn.ParameterList()  # per expert (D,)
        self.initialised = 0  # keys that have their values

    @classmethod
    def reads_of(cls, options: RouterOptions) -> frozenset[Reads]:
        return frozenset({Reads.QUERY if cast(AttentionOptions, options).query == "backbone" else Reads.EMBEDDED})

    @classmethod
    def check(cls, config: Any) -> None:
        if config.experts.allocation != "per_task":
            raise LabError("router attention has a key per task's expert: use experts.allocation=per_task")

    def grow(self, experts: int) -> None:
        self.keys.extend(self.down.new_zeros(self.width) for _ in range(experts - self.experts))
        super().grow(experts)

    @torch.no_grad()
    def add_task(self, task: int, classes: int, generator: torch.Generator) -> None:
        """Keys of new experts are drawn from U(-1, 1); the projection, once, as torch draws linear layers."""
        bounds = [(key, 1.0) for key in self.keys[self.initialised :]]
        bounds += [(weight, weight.shape[1] ** -0.5) for weight in (self.down, self.up) if not self.initialised]
        for tensor, bound in bounds:
            tensor.copy_(bound * (2 * torch.rand(tensor.shape, generator=generator) - 1))
        self.initialised = self.experts

    def of_task(self, task: int) -> dict[str, nn.Parameter]:
        """The projection and the task's own key."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("keys.") or name == f"keys.{task}"}

    def query(self, request: Request) -> Tensor:
        """(B, D)."""
        if Reads.QUERY in self.reads:
            assert request.query is not None, "this router reads the query"
            pooled = request.query.float()
        else:
            unseen = (request.mask == 0).unsqueeze(-1) & (self.options.pooling == "masked")  # (B, T, 1)
            assert request.embedded is not None, "this router reads the embedded tokens"
            pooled = request.embedded.masked_fill(unseen, float("-inf")).amax(1)
        return self.norm(F.silu(pooled @ self.down.T @ self.up.T))

    def forward(self, request: Request) -> Decision:
        keys = torch.stack([*self.keys])  # (E, D)
        query = self.query(request)  # (B, D)
        scores = query @ keys.T / (self.options.temperature * self.width**0.5)  # (B, E)
        steps = {"scores": scores, "weights": torch.softmax(scores, -1)}
        steps = {name: step[:, None, None, :].expand(-1, 1, self.heads, -1) for name, step in steps.items()}  # (B, 1, H, E)
        return Decision(steps["weights"], steps=steps, match=Match(query, keys, range(self.experts)))
