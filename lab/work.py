"""How much work a run is, in forward passes of one example: what progress is a share of, and what a forecast is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.config import RunConfig

PHASES = ("train", "gate", "memory", "evaluate")
TRAINING = 3.0  # a training example counts as much as three forward passes: one forward, about two backward


@dataclass(frozen=True)
class Work:
    """The work of a configuration; `sizes` holds for each task the examples in its splits train, validation and test."""

    config: RunConfig
    sizes: Sequence[Mapping[str, int]]

    def units(self, task: int, phase: str) -> float:
        """Of one phase of one task; the evaluation of task -1 is the one before training."""
        config = self.config
        if phase == "train":
            return TRAINING * config.train.epochs * self.sizes[task]["train"]
        if phase == "gate":
            return TRAINING * getattr(config.router, "steps", 0) * config.train.batch_size
        if phase == "memory":
            return TRAINING * config.memory_training.steps * config.memory_training.batch_size
        return float(sum(size["test"] for size in self.sizes[: task + 1 if task >= 0 else None]))

    @property
    def last(self) -> float:
        """Of what is measured once at the end: validation examples, and the test with oracle routing."""
        oracle = self.config.experts.allocation == "per_task" and self.config.experts.isolated
        return float(sum(size["validation"] + oracle * size["test"] for size in self.sizes))

    @property
    def total(self) -> float:
        """Of the whole run."""
        phases = (self.units(task, phase) for task in range(len(self.sizes)) for phase in PHASES)
        return self.units(-1, "evaluate") + sum(phases) + self.last
