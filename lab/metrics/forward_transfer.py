import numpy as np

from lab.metrics.base import MatrixScores, Mean, Undefined, Use


class ForwardTransfer(Mean):
    """Mean, from the second task on, of the score right after learning minus the score $a_j$ of training on that task alone."""

    name = "forward-transfer"
    path = "forward_transfer"
    title = "Forward transfer"
    latex = r"\mathrm{FWT} = \frac{1}{T-1} \sum_{j=2}^{T} \left( R_{j,j} - a_j \right)"
    range = (-1, 1)
    use = Use.EXPLAIN
    rank = 3

    def parts(self, scores: MatrixScores) -> np.ndarray:
        learned = scores.learned[-scores.old :]
        if scores.single_task is None:
            raise Undefined("needs single-task scores")
        return np.column_stack([learned, np.asarray(scores.single_task, dtype=float)[1 : len(scores.r)]])

    def terms(self, scores: MatrixScores) -> list[str] | None:
        if scores.single_task is not None or len(scores.matrix) < 2:
            return super().terms(scores)
        return [rf"({score:.3f} - a_{{{j}}})" for j, score in enumerate(scores.learned[1:], 2)]  # as far as they are known
