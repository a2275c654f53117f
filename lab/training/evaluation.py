"""Evaluation of one task: score, predictions and sums of the routing weights. Observing changes no bit of the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lab.data.batching import Encoded, by_length
from lab.models.heads import Written
from lab.models.learner import Learner
from lab.routers.base import Decision, Match, refuse_not_finite

WHOLE = 16  # test examples per task whose decisions are kept whole


@dataclass
class Predictions:
    """Per test example: the true answer and the given one (classes, indices of the label space, or texts), see Answers."""

    label: np.ndarray
    predicted: np.ndarray
    correct: np.ndarray
    probability: np.ndarray
    scores: dict[str, np.ndarray] = field(default_factory=dict)


def short(values: Tensor) -> np.ndarray:
    """In half precision, which is enough for a picture, unless numbers are too large for it."""
    half = values.detach().half()
    return (half if half.isfinite().all() else values.detach().float()).cpu().numpy()


@dataclass
class RoutingSums:
    """Sums of the weights over the test examples of one task; L layers, H routing heads, E experts."""

    count: int = 0
    weight_sum: np.ndarray | float = 0.0  # (L, H, E)
    top_count: np.ndarray | float = 0.0  # (L, H, E): how often the largest weight is this expert's; ties in equal parts
    entropy_sum: np.ndarray | float = 0.0  # (L, H) in nats, of the weights rescaled to sum to one
    share_sum: np.ndarray | float = 0.0  # (E,): part in the sum of weights, mean over layers and heads
    whole: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)  # row -> the steps to its weights, (L, H, E) each
    queries: dict[int, np.ndarray] = field(default_factory=dict)  # row -> its query (D,), of the rows kept whole
    match: Match | None = None  # the newest, for its keys

    def add(self, decision: Decision, rows: Sequence[int], layers: int) -> None:
        """A decision on the given rows that was used; nothing where it has no weights."""
        weights, steps = decision.recorded(), decision.recorded_steps()
        if weights is None:
            return

        def plain(values: Tensor) -> Tensor:
            return values.detach().float().cpu().expand(len(rows), layers, -1, -1)

        refuse_not_finite(decision)
        w = plain(weights).double()
        share = w / w.sum(-1, keepdim=True).clamp_min(1e-12)
        best = (w == w.amax(-1, keepdim=True)).double()
        top = best / best.sum(-1, keepdim=True)  # experts of equal weight share a choice
        self.count += len(rows)
        self.weight_sum += w.sum(0).numpy()
        self.top_count += top.sum(0).numpy()
        self.entropy_sum += -(share * share.clamp_min(1e-12).log()).sum(-1).sum(0).numpy()
        self.share_sum += share.mean((1, 2)).sum(0).numpy()
        kept = {name: plain(step) for name, step in (steps | {"weights": weights}).items()}
        self.whole |= {row: {name: kept[name][i].numpy() for name in kept} for i, row in enumerate(rows) if row < WHOLE}
        if decision.match:
            self.match, query = decision.match, short(decision.match.query)
            self.queries |= {row: query[i] for i, row in enumerate(rows) if row < WHOLE}

    def arrays(self, task: int) -> dict[str, np.ndarray]:
        """The arrays of the run folder's routing file; see lab.run_folder.routing_record.Routing."""
        rows = sorted(self.whole)
        return (
            {
                f"{task}/count": np.array([self.count]),
                f"{task}/weight_sum": np.asarray(self.weight_sum, dtype=np.float32),
                f"{task}/top_count": np.asarray(self.top_count, dtype=np.float32),
                f"{task}/entropy_sum": np.asarray(self.entropy_sum, dtype=np.float32),
                f"{task}/share_sum": np.asarray(self.share_sum, dtype=np.float32),
                f"{task}/rows": np.array(rows),
                f"{task}/examples": np.stack([self.whole[row]["weights"] for row in rows]),
            }
            | {f"{task}/steps/{name}": np.stack([self.whole[row][name] for row in rows]) for name in self.steps}
            | self.asked(task)
        )

    def asked(self, task: int) -> dict[str, np.ndarray]:
        """Queries of the rows kept whole, where the router has one per example."""
        return {f"{task}/query": np.stack([self.queries[row] for row in sorted(self.whole)])} if self.match else {}

    def keys(self) -> dict[str, np.ndarray]:
        """What queries were compared with, where the router has keys; the same for all tasks."""
        if not self.match or self.match.keys is None:
            return {}
        return {"keys": short(self.match.keys), "key_experts": np.array(self.match.experts)}

    @property
    def steps(self) -> list[str]:
        """What led to the weights of whole decisions: names in order."""
        return [name for name in next(iter(self.whole.values()), {}) if name != "weights"]


@dataclass
class Evaluation:
    score: float
    predictions: Predictions
    routing: RoutingSums | None

    @property
    def scores(self) -> dict[str, float]:
        """Further scores of the task by name."""
        return {name: float(values.mean()) for name, values in self.predictions.scores.items()}


class Evaluator:
    """Evaluates the rows of one task batch by batch: `update` with each batch, then `result`."""

    def __init__(
        self,
        learner: Learner,
        rows: list[Encoded],
        seen: int,
        oracle: bool = False,
        change: Callable[[Decision], Decision] | None = None,
    ):
        """The classes that compete are those of the first `seen` tasks, or in scenario task those of the row's own.

        `oracle`: the true task picks the expert. `change`: what every decision is replaced by before it acts.
        """
        self.learner, self.rows, self.seen, self.oracle, self.change = learner, rows, seen, oracle, change
        self.answered: dict[int, tuple[Any, ...]] = {}  # by row
        self.routing, self.measures = RoutingSums(), learner.head.measures

    @property
    def done(self) -> int:
        """How many rows are evaluated."""
        return len(self.answered)

    @torch.no_grad()
    def update(self, chunk: Sequence[int]) -> None:
        """Evaluates the rows of these numbers in one batch."""
        learner = self.learner
        batch = learner.backbone.collate([self.rows[i] for i in chunk])
        decision = learner.consolidation.oracle_decision(batch.task) if self.oracle else learner.decide(batch)
        decision = self.change(decision) if self.change and decision else decision
        answers = learner.head.answers(batch, decision, self.seen)
        columns = (*answers[:4], *(answers.scores[name] for name in self.measures))
        self.answered |= zip(chunk, zip(*columns, strict=True), strict=True)
        if decision:
            self.routing.add(decision, chunk, len(learner.bank.layers))

    def result(self) -> Evaluation:
        """The evaluation of all rows, once each was in a batch."""
        answered = (self.answered[row] for row in range(len(self.rows)))
        columns = [np.array(column) for column in zip(*answered, strict=True)]
        label, predicted, correct, probability, *scores = columns
        predictions = Predictions(label, predicted, correct, probability, dict(zip(self.measures, scores, strict=True)))
        return Evaluation(float(predictions.correct.mean()), predictions, self.routing if self.routing.count else None)


def evaluate(
    learner: Learner,
    rows: list[Encoded],
    seen: int,
    size: int,
    oracle: bool = False,
    change: Callable[[Decision], Decision] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """The evaluation of the rows in batches of `size`; `progress` is told after each how many are done. See `Evaluator`."""
    evaluator = Evaluator(learner, rows, seen, oracle, change)
    with learner.backbone.prefix_cached(rows, size, lasting=True):
        for chunk in by_length(rows, size):
            evaluator.update(chunk)
            if progress:
                progress(evaluator.done)
    return evaluator.result()


@torch.no_grad()
def token_loss(learner: Learner, rows: list[Encoded], size: int, oracle: bool = False) -> float:
    """The mean cross-entropy, in nats, of all tokens of the right answers of rows that are answered by the language model."""
    losses = []
    for chunk in by_length(rows, size):
        batch = learner.backbone.collate([rows[i] for i in chunk])
        decision = learner.consolidation.oracle_decision(batch.task) if oracle else learner.decide(batch)
        losses.append(cast(Written, learner.head).token_losses(batch, decision).double())
    return float(torch.cat(losses).mean())
