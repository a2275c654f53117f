from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lab.metrics._transfer import TransferMean, complete
from lab.metrics.base import TransferScores, Use


class FewShotAccuracy(TransferMean):
    """Mean score of the held-out tasks after adaptation to $k$ examples of each; 0 shots: before any was seen."""

    name = "few-shot-accuracy"
    path, title = "average.k", "k shots"
    latex = r"\mathrm{A}_k = \frac{1}{H} \sum_{h=1}^{H} S_{h,k}"
    rank = 0

    def __init__(self, shots: int | str = "k") -> None:
        self.shots = str(shots)
        self.path, self.title = f"average.{shots}", f"{shots} shots"
        self.use = Use.COMPARE if self.shots == "0" else Use.RANK

    @classmethod
    def of_scores(cls, scores: TransferScores) -> "Sequence[FewShotAccuracy]":
        return [cls(shots) for shots in sorted({0, *scores.shots})]

    @classmethod
    def of_results(cls, results: Sequence[Mapping[str, Any]]) -> "Sequence[FewShotAccuracy]":
        return [cls(shots) for shots in sorted({int(shots) for result in results for shots in result.get("average", ())})]

    def parts(self, scores: TransferScores) -> np.ndarray:
        by_task = scores.zero_shot if self.shots == "0" else {h: by.get(self.shots) for h, by in scores.held_out.items()}
        return complete([by_task.get(task) for task in scores.held_out_tasks], "not all held-out tasks are adapted to yet")
