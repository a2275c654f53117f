import numpy as np

from lab.metrics.base import MatrixScores, Mean, Use


class AverageAccuracy(Mean):
    """Mean score over the tasks learned so far, after the last one of them."""

    name = "average-accuracy"
    path = "average_accuracy"
    title = "Average accuracy"
    latex = r"\mathrm{ACC} = \frac{1}{T} \sum_{j=1}^{T} R_{T,j}"
    use = Use.RANK
    rank = 0

    def parts(self, scores: MatrixScores) -> np.ndarray:
        return scores.last
