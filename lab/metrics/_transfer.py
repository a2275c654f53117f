"""What metrics of joint training and few-shot adaptation have in common."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lab.metrics.base import Mean, TransferScores, Undefined


class TransferMean(Mean):
    """A mean over tasks or steps, summed from the first to the last."""

    reads = TransferScores

    def compute(self, scores: TransferScores) -> float:
        parts = self.parts(scores).tolist()
        return sum(parts) / len(parts)


def complete(scores: Sequence[Any], reason: str) -> np.ndarray:
    """Scores as floats. Raises Undefined with the reason where one is missing, or all are."""
    if None in scores or not scores:
        raise Undefined(reason)
    return np.array(scores, dtype=float)
