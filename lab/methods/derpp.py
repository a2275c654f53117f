"""Dark experience replay: stored examples keep their labels and the logits they had when stored (Buzzega et al. 2020)."""

import torch
from pydantic import Field
from torch import Tensor

from lab.core.registry import Options
from lab.data.batching import UNLABELLED, Batch, Encoded
from lab.data.replay_buffer import Memory
from lab.methods.base import Method
from lab.models.learner import Learner, Output


class DERppOptions(Options):
    name: str = "derpp"
    alpha: float = Field(0.5, ge=0, le=1e6, description="weight of the squared difference from the stored logits")
    beta: float = Field(0.5, ge=0, le=1e6, description="weight of the cross-entropy on stored examples; 0: DER")
    per_step: int = Field(16, ge=1, le=4096, description="stored examples drawn at each step, once for each of the two terms")


class DERpp(Method):
    """DER++, stored examples keep their labels and the logits they had when they were stored; both are trained towards.

    Logits are stored when a task is learned. Classes unknown at that time have none, and are left out of the squared
    difference: it is a mean over the classes known when an example was stored.
    """

    name = "derpp"
    Options = DERppOptions
    options: DERppOptions
    uses_memory = True
    needs_classes = True

    def __init__(self, options: DERppOptions, learner: Learner, memory: Memory):
        super().__init__(options, learner, memory)
        self.logits: dict[tuple[int, str, int], Tensor] = {}  # of every stored example by its key: (C,), -inf where unknown
        self.sampled: tuple[list[Encoded], list[Encoded]] = ([], [])  # at the step in progress, for the two terms
        self.start = 0  # where they stand in its batch

    @classmethod
    def examples_of(cls, options: DERppOptions, own: int, stored: int) -> tuple[int, int]:
        return own, 2 * min(options.per_step, stored)

    def rows(self, rows: list[Encoded], generator: torch.Generator) -> list[Encoded]:
        self.start = len(rows)
        self.sampled = self.memory.sample(self.options.per_step, generator), self.memory.sample(self.options.per_step, generator)
        return rows + [row._replace(label=UNLABELLED) for rows_of_term in self.sampled for row in rows_of_term]

    def terms(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        matched, replayed = self.sampled
        if not matched:
            return {}
        first, second = (out.logits[self.start :][: len(matched)], out.logits[self.start + len(matched) :][: len(replayed)])
        stored = torch.stack([self.logits[row.key] for row in matched])  # (M, C)
        again = self.learner.backbone.collate(replayed)
        return {
            "derpp_logits": self.options.alpha * logit_distance(first, stored),
            "derpp_labels": self.options.beta * self.learner.head.loss(second, again),
        }

    def end_task(self, t: int, rows: list[Encoded]) -> None:
        new = [row for row in self.memory.rows if row.key not in self.logits]
        if new:
            self.logits |= zip((row.key for row in new), self.learner.predict(new), strict=True)
        self.logits = {row.key: self.logits[row.key] for row in self.memory.rows}

    def state(self) -> dict[str, Tensor]:
        return {"logits": torch.stack([*self.logits.values()])} if self.logits else {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        stored = tensors["logits"].to(self.learner.backbone.device) if tensors else []
        self.logits = {row.key: logits for row, logits in zip(self.memory.rows, stored, strict=True)}


def logit_distance(logits: Tensor, stored: Tensor) -> Tensor:
    """Squared difference, mean over the classes with a stored logit (those above -inf) and then over rows; both (M, C).

    The paper writes the squared norm, the authors' code takes the mean over classes: alpha has the code's meaning.
    """
    has_logit = stored > float("-inf")
    difference = torch.where(has_logit, logits, 0.0) - torch.where(has_logit, stored, 0.0)
    return (difference.square().sum(-1) / has_logit.sum(-1)).mean()
