"""Similarity to what a task looked like: the query against one mean per task or per class, in the frozen backbone.

With m the means of the training queries q of a task, or of its classes:
cosine: s = cos(q, m). mahalanobis: s = -(q - m)^T S^+ (q - m), S the mean over tasks of a task's covariance, and that
the mean over its classes (or of the task as one) of the covariance around their mean, each counting alike whatever its size, as
in EPI (Wang et al. 2023).
A task's score is the largest over its means; the weights are the softmax of score / temperature over the `top_k` best tasks.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from lab.experts.base import LayerInfo
from lab.routers.base import (
    Axes,
    Decision,
    MadeOfExamples,
    Match,
    Reads,
    Request,
    Router,
    RouterOptions,
    TaskAware,
    needs_experts_per_task,
    top_softmax,
)

ALL = 1000  # as `top_k`


class PrototypeOptions(RouterOptions):
    name: str = "prototype"
    per: Literal["task", "class"] = Field("class", description="what has a mean: every task, or every class of a task")
    distance: Literal["cosine", "mahalanobis"] = Field("cosine", description="how near a query is to a mean")
    unit: bool = Field(False, description="queries are scaled to length one before they are averaged")
    top_k: int = Field(1, ge=1, le=ALL, description="tasks that get weight; more than there are means all")
    temperature: float = Field(1.0, gt=0, le=100, description="of the softmax over the scores of these; lower is harder")


class Prototype(Router, TaskAware, MadeOfExamples):
    """The expert whose task has the nearest mean to the example, by cosine or Mahalanobis distance; nothing is trained."""

    name = "prototype"
    axes = Axes("model", "example", "hard")
    Options = PrototypeOptions
    options: PrototypeOptions
    step_descriptions = {
        "scores": "how near the text is to what each expert's task looked like: the cosine, or minus a squared distance",
        "weights": "the softmax of the largest scores, 0 for the others",
    }
    reads = frozenset({Reads.QUERY})
    mean: Tensor  # (P, D): all means of all tasks
    covariance: Tensor  # (D, D); it and `whitening` with the distance mahalanobis only
    whitening: Tensor  # (D, D): W^T W is the pseudo-inverse of the covariance

    def __init__(self, options: PrototypeOptions, layers: Sequence[LayerInfo], width: int):
        super().__init__(options, layers, width)
        self.register_buffer("mean", torch.zeros(0, width))
        self.task_of: list[int] = []  # of each mean
        if options.distance == "mahalanobis":
            self.register_buffer("covariance", torch.zeros(width, width, dtype=torch.float64))
            self.register_buffer("whitening", torch.zeros(width, width))

    @classmethod
    def check(cls, config: Any) -> None:
        needs_experts_per_task(config)

    @classmethod
    def axes_of(cls, options: RouterOptions) -> Axes:
        return cls.axes._replace(hardness="soft" if cast(PrototypeOptions, options).top_k == ALL else "hard")

    def add_task(self, task: int, classes: int, generator: torch.Generator) -> None:
        if task in self.task_of:
            return
        new = max(1, classes) if self.options.per == "class" else 1  # texts are of no class
        self.mean = torch.cat([self.mean, self.mean.new_zeros(new, self.width)])
        self.task_of += [task] * new

    def read_examples(self, task: int, query: Tensor, labels: Tensor) -> None:
        """Means of the newest task, and the running mean of the covariances; a class without examples has no mean (NaN)."""
        query = normalize(query.double(), dim=-1) if self.options.unit else query.double()
        group = labels if self.options.per == "class" else torch.zeros_like(labels)  # (N,)
        own = [i for i, owner in enumerate(self.task_of) if owner == task]
        means = torch.stack([query[group == i].mean(0) for i in range(len(own))])  # (P_k, D)
        self.mean[own] = means.to(self.mean.dtype)
        if self.options.distance == "mahalanobis":
            away = [query[group == i] - means[i] for i in range(len(own)) if (group == i).any()]
            covariance = torch.stack([rows.T @ rows / len(rows) for rows in away]).mean(0)  # (D, D)
            self.covariance += (covariance - self.covariance) / (task + 1)
            self.whitening.copy_(whitening(self.covariance))

    def match(self, query: Tensor) -> Match:
        """Queries (B, D) and means where they are compared: at length one, or whitened."""
        if self.options.distance == "cosine":
            return Match(normalize(query.float(), dim=-1), normalize(self.mean, dim=-1), self.task_of)
        return Match(query.float() @ self.whitening.T, self.mean @ self.whitening.T, self.task_of)

    def scores(self, query: Tensor, match: Match) -> Tensor:
        """(B, D), and where it is compared -> (B, E)."""
        if self.options.distance == "cosine":
            assert match.keys is not None, "`match` puts the means there"
            near = match.query @ match.keys.T  # (B, P)
        else:  # differences first: whitened numbers are large and nearly alike
            away = (query.float().unsqueeze(1) - self.mean) @ self.whitening.T  # (B, P, D)
            near = -away.square().sum(-1)
        near = near.nan_to_num(nan=-torch.inf)
        owner = torch.tensor(self.task_of, device=near.device).expand_as(near)
        return near.new_full((len(near), self.experts), -torch.inf).scatter_reduce(1, owner, near, "amax")

    def forward(self, request: Request) -> Decision:
        assert request.query is not None, "this router reads the query"
        match = self.match(request.query)
        scores = self.scores(request.query, match)
        named = {"scores": scores, "weights": top_softmax(scores, self.options.top_k, self.options.temperature)}
        steps = {name: step[:, None, None, :].expand(-1, 1, self.heads, -1) for name, step in named.items()}  # (B, 1, H, E)
        return Decision(steps["weights"], steps=steps, match=match)


def whitening(covariance: Tensor) -> Tensor:
    """W (D, D) with W^T W the pseudo-inverse of a covariance, in which directions without variance do not count."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    return torch.where(kept, values, 1.0).rsqrt().mul(kept).unsqueeze(1) * vectors.T
