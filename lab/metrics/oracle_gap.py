import numpy as np

from lab.metrics.base import MatrixScores, Mean, Undefined, Use


class OracleGap(Mean):
    """What perfect routing would add: average accuracy when the true task picks the expert, minus the average accuracy."""

    name = "oracle-gap"
    path = "routing.oracle_gap"
    title = "Oracle gap"
    latex = r"\mathrm{GAP} = \frac{1}{T} \sum_{j=1}^{T} \left( R^{*}_{T,j} - R_{T,j} \right)"
    range = (-1, 1)
    lower_is_better = True
    use = Use.EXPLAIN
    rank = 8

    def compute(self, scores: MatrixScores) -> float:
        return scores.recorded("oracle_average_accuracy") - float(np.mean(scores.last))

    def parts(self, scores: MatrixScores) -> np.ndarray:
        if scores.oracle is None or len(scores.oracle) != len(scores.last):
            raise Undefined("not recorded for each task")
        return np.column_stack([scores.oracle, scores.last])
