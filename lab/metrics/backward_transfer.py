import numpy as np

from lab.metrics.base import MatrixScores, Mean, Use


class BackwardTransfer(Mean):
    """Mean change of old tasks since they were learned; negative is forgetting (Lopez-Paz and Ranzato 2017)."""

    name = "backward-transfer"
    path = "backward_transfer"
    title = "Backward transfer"
    latex = r"\mathrm{BWT} = \frac{1}{T-1} \sum_{j=1}^{T-1} \left( R_{T,j} - R_{j,j} \right)"
    range = (-1, 1)
    use = Use.COMPARE
    rank = 2

    def parts(self, scores: MatrixScores) -> np.ndarray:
        return np.column_stack([scores.last, scores.learned])[: scores.old]
