import numpy as np

from lab.metrics._transfer import TransferMean, complete
from lab.metrics.base import TransferScores, Use


class TrainedAverage(TransferMean):
    """Mean score of the $N$ training tasks after joint training."""

    name = "trained-average"
    path = "trained_average"
    title = "Training tasks"
    latex = r"\mathrm{JOINT} = \frac{1}{N} \sum_{n=1}^{N} R_n"
    use = Use.COMPARE
    rank = 1

    def parts(self, scores: TransferScores) -> np.ndarray:
        return complete([scores.trained.get(task) for task in scores.train_tasks], "joint training is not scored yet")
