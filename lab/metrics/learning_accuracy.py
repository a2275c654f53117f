import numpy as np

from lab.metrics.base import MatrixScores, Mean, Use


class LearningAccuracy(Mean):
    """Mean score of each task right after it was learned."""

    name = "learning-accuracy"
    path = "learning_accuracy"
    title = "Learning accuracy"
    latex = r"\mathrm{LA} = \frac{1}{T} \sum_{j=1}^{T} R_{j,j}"
    use = Use.COMPARE
    rank = 4

    def parts(self, scores: MatrixScores) -> np.ndarray:
        return scores.learned
