import numpy as np

from lab.metrics._transfer import TransferMean, complete
from lab.metrics.base import TransferScores


class Alignment(TransferMean):
    """Cosine $c_m$ between the adapter gradients of two training tasks: mean over pairs, at $M$ steps of joint training."""

    name = "alignment"
    path = "alignment"
    title = "Gradient alignment"
    latex = r"\mathrm{ALIGN} = \frac{1}{M} \sum_{m=1}^{M} c_m"
    range = (-1, 1)
    rank = 2

    def parts(self, scores: TransferScores) -> np.ndarray:
        apart = "training tasks share no expert, so their gradients have nothing in common"
        measured = [cosine for cosine in scores.alignment.values() if cosine is not None]
        return complete(measured, "not measured yet, or a gradient was zero" if scores.shares_experts else apart)
