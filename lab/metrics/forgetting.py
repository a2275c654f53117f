import numpy as np

from lab.metrics.base import MatrixScores, Mean


class Forgetting(Mean):
    """Mean drop of old tasks from the best score that they had before the last task (Chaudhry et al. 2018).

    The last row is not part of the maximum, so the value can be negative; it is never below minus the backward transfer.
    """

    name = "forgetting"
    path = "forgetting"
    title = "Forgetting"
    latex = r"\mathrm{FGT} = \frac{1}{T-1} \sum_{j=1}^{T-1} \left( \max_{j \le l < T} R_{l,j} - R_{T,j} \right)"
    range = (-1, 1)
    lower_is_better = True
    rank = 1

    def parts(self, scores: MatrixScores) -> np.ndarray:
        best = [np.max(scores.r[j : scores.old, j]) for j in range(scores.old)]
        return np.column_stack([best, scores.last[:-1]])
