import numpy as np

from lab.metrics._routing import RoutingMean
from lab.metrics.base import MatrixScores, Undefined


class OracleAverageAccuracy(RoutingMean):
    """Average accuracy when the true task picks the expert; the labels to choose from are the same."""

    name = "oracle-average-accuracy"
    path = "routing.oracle_average_accuracy"
    title = "Oracle routing"
    latex = r"\mathrm{ACC}^{*} = \frac{1}{T} \sum_{j=1}^{T} R^{*}_{T,j}"
    rank = 7
    recorded_as = "oracle_average_accuracy"

    def parts(self, scores: MatrixScores) -> np.ndarray:
        if scores.oracle is None:
            raise Undefined("not recorded for each task")
        return np.array(scores.oracle, dtype=float)
