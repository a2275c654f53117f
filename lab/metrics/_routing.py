"""What metrics of the routing have in common: their values are recorded when a run ends, with those of the tasks."""

from typing import ClassVar

import numpy as np

from lab.metrics.base import MatrixScores, Mean, Undefined, Use


class RoutingMean(Mean):
    """A mean over tasks of something that was measured of the routing after the last task."""

    recorded_as: ClassVar[str]  # its name among what was recorded
    reason_of: ClassVar[str] = ""  # the recorded number that is missing for the same reason
    use = Use.EXPLAIN

    def compute(self, scores: MatrixScores) -> float:
        return scores.recorded(self.recorded_as, self.reason_of)  # older runs recorded the mean alone

    def parts(self, scores: MatrixScores) -> np.ndarray:
        by_task = scores.routing.get(f"{self.recorded_as}_by_task")
        if not by_task:
            raise Undefined("not recorded for each task")
        return np.array([*by_task.values()], dtype=float)
