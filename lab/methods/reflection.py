"""Attentive reflection (SAPT, Zhao et al. 2024): examples of earlier tasks are still sent where they were when learned.

Loss: strength * sum over earlier tasks s of the mean over examples x of s of KL(a*_x || a(x)), with a*_x the weights recorded
when s was learned, 0 for experts that came later, and a(x) the present ones.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lab.batch import Batch, Encoded
from lab.errors import LabError
from lab.learner import Learner, Output
from lab.memory import Memory
from lab.method import Method
from lab.registry import Options
from lab.router import Request


class ReflectionOptions(Options):
    name: str = "reflection"
    strength: float = Field(1.0, ge=0, le=1e6, description="weight of the divergence; the published scripts use 0.1 to 2")
    target: Literal["sample", "task"] = Field(
        "task", description="weights that an example is held to; sample: its own; task: their mean over its task's examples"
    )
    per_step: int = Field(32, ge=1, le=4096, description="stored examples drawn at each step; only the router sees them")


class Reflection(Method):
    """On stored examples of earlier tasks the router's weights are held near those recorded when the task was learned."""

    name = "reflection"
    Options = ReflectionOptions
    options: ReflectionOptions
    uses_memory = True

    def __init__(self, options: ReflectionOptions, learner: Learner, memory: Memory):
        super().__init__(options, learner, memory)
        self.recorded: dict[tuple[int, str, int], Tensor] = {}  # target of every stored example by its key: (E,)
        self.drawn: list[Encoded] = []  # at the step in progress
        self.asked: Request | None = None  # what the router is asked about them

    @classmethod
    def check(cls, config: Any) -> None:
        if config.router.name != "attention":
            raise LabError(f"methods.reflection holds the weights of router attention, router is {config.router.name}")

    def rows(self, rows: list[Encoded], generator: torch.Generator) -> list[Encoded]:
        self.drawn = self.memory.sample(self.options.per_step, generator)
        self.asked = self._request(self.drawn) if self.drawn else None
        return rows

    def terms(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        if self.asked is None:
            return {}
        scores = self.learner.router(self.asked).steps["scores"][:, 0, 0]  # (M, E)
        target = torch.stack([self.recorded[row.key] for row in self.drawn])  # (M, E), without the newest expert
        task = torch.tensor([row.task for row in self.drawn], device=scores.device)
        return {"reflection": self.options.strength * divergence(scores, target, task)}

    @torch.no_grad()
    def end_task(self, t: int, rows: list[Encoded]) -> None:
        """Earlier targets are kept as they are, 0 for the new expert; stored examples of the task get theirs."""
        self.recorded = {row.key: self.recorded[row.key] for row in self.memory.rows if row.key in self.recorded}
        self.recorded = {key: F.pad(weights, (0, 1)) for key, weights in self.recorded.items()}
        new = [row for row in self.memory.rows if row.key not in self.recorded]
        if not new:
            return
        weights = self.learner.router(self._request(new)).weights[:, 0, 0]  # (N, E)
        if self.options.target == "task":
            weights = weights.mean(0).expand_as(weights)
        found = self.recorded | {row.key: kept for row, kept in zip(new, weights, strict=True)}
        self.recorded = {row.key: found[row.key] for row in self.memory.rows}

    def _request(self, rows: list[Encoded]) -> Request:
        return self.learner.request(self.learner.collate(rows))

    def state(self) -> dict[str, Tensor]:
        return {"recorded": torch.stack([*self.recorded.values()])} if self.recorded else {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        recorded = tensors["recorded"].to(self.learner.device) if tensors else []
        self.recorded = {row.key: weights for row, weights in zip(self.memory.rows, recorded, strict=True)}


def divergence(scores: Tensor, target: Tensor, task: Tensor) -> Tensor:
    """KL(target || softmax(scores)), mean over the rows of each task and summed over tasks.

    scores (M, E), target (M, E' <= E) with 0 for the experts it lacks, task (M,).
    """
    target = F.pad(target, (0, scores.shape[1] - target.shape[1]))
    each = F.kl_div(scores.log_softmax(-1), target, reduction="none").sum(-1)  # (M,)
    return torch.stack([each[task == s].mean() for s in task.unique()]).sum()
