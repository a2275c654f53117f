"""How much work a run is, in forward passes of one example: what progress is a share of, and what a forecast is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.config.schema import RunConfig, TransferConfig
from lab.core import registry
from lab.data.stream import SPLITS, Task

PHASES = ("train", "gate", "memory", "evaluate")
LOOKS, ALIGNED = 4, 32  # moments of joint training at which the gradients of tasks are compared, and examples of each task
TRAINING = 3.0  # a training example counts as much as three forward passes: one forward, about two backward


def sizes_of(tasks: Sequence[Task]) -> list[dict[str, int]]:
    """Of each task: the examples in its splits train, validation and test, and its classes."""
    return [{split: len(task.split(split)) for split in SPLITS} | {"classes": len(task.labels)} for task in tasks]


@dataclass(frozen=True)
class Work:
    """The work of a configuration; `sizes`: what `sizes_of` makes of its tasks."""

    config: RunConfig
    sizes: Sequence[Mapping[str, int]]

    def units(self, task: int, phase: str) -> float:
        """Of one phase of one task; the evaluation of task -1 is the one before training."""
        config = self.config
        if phase == "train":
            return TRAINING * config.train.epochs * self.epoch(task)
        if phase == "gate":
            consolidation = registry.consolidations.get(config.consolidation.name).steps_of(config.consolidation)
            return TRAINING * (getattr(config.router, "steps", 0) + consolidation) * config.train.batch_size
        if phase == "memory":
            drawn = config.router_training.steps * config.router_training.batch_size
            if drawn and registry.routers.get(config.router.name).trained != "on the memory":
                return float(self.stored(task))  # each goes through the model once, then the classifier alone is tuned
            return TRAINING * drawn
        return float(sum(size["test"] for size in self.sizes[: task + 1 if task >= 0 else None]))

    def epoch(self, task: int) -> int:
        """Examples of an epoch of a task, with those that methods bring."""
        examples, added, stored = self.sizes[task]["train"], 0, self.stored(task - 1)
        for name, options in self.config.methods.items():
            examples, more = registry.methods.get(name).examples_of(options, examples, stored)
            added += more
        return examples + added * -(-examples // self.config.train.batch_size)

    def stored(self, task: int) -> int:
        """Stored examples once this task is learned, at most."""
        memory = self.config.memory
        offered = self.sizes[: task + 1]
        share = [memory.per_class * max(size["classes"], 1) or memory.per_task or size["train"] for size in offered]
        held = sum(min(most, size["train"]) for most, size in zip(share, offered, strict=True))
        return min(memory.total or held, held)

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


class TransferWork(Work):
    """Number 0 is joint training, then comes each held-out task with each number of shots. Held-out tasks stand last."""

    @property
    def held_out(self) -> int:
        """How many tasks are held out; see TransferConfig.sides."""
        given, tasks = self.config.transfer, len(self.sizes)
        if given.held_out is None:
            return TransferConfig.third(tasks) if given.train_tasks is None else tasks - len(given.train_tasks)
        return len(given.held_out)

    def units(self, task: int, phase: str) -> float:
        config, trained, shots = self.config, len(self.sizes) - self.held_out, len(self.config.transfer.shots)
        if task < 0:
            return 0.0
        if task == 0 and phase == "train":
            compared = ALIGNED * LOOKS * trained
            return TRAINING * (compared + config.train.epochs * sum(size["train"] for size in self.sizes[:trained]))
        if task == 0:  # with the held-out tasks before adaptation
            return float(sum(size["test"] for size in self.sizes))
        if phase == "train":
            return TRAINING * config.transfer.adaptation.steps * config.transfer.adaptation.batch_size
        size = self.sizes[trained + (task - 1) // shots]
        return float(size["test"] + size["validation"])

    @property
    def total(self) -> float:
        stages = range(1 + self.held_out * len(self.config.transfer.shots))
        return sum(self.units(stage, phase) for stage in stages for phase in ("train", "evaluate"))


def work_of(config: RunConfig, sizes: Sequence[Mapping[str, int]]) -> Work:
    """The work of a configuration in its protocol."""
    return (TransferWork if config.transfer else Work)(config, sizes)
