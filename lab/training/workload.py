"""How much work a run is, in forward passes of one example: what progress is a share of, and what a forecast is made from."""

from collections.abc import Mapping, Sequence

from lab.config.schema import RunConfig
from lab.core import registry
from lab.data.stream import SPLITS, Task

Sizes = Sequence[Mapping[str, int]]
TRAINING = 3.0  # a training example counts as much as three forward passes: one forward, about two backward


def sizes_of(tasks: Sequence[Task]) -> list[dict[str, int]]:
    """Of each task: the examples in its splits train, validation and test, and its classes."""
    return [{split: len(task.split(split)) for split in SPLITS} | {"classes": len(task.labels)} for task in tasks]


def tested(sizes: Sizes) -> float:
    """Examples in the test splits of these tasks."""
    return float(sum(size["test"] for size in sizes))


def examples_per_epoch(config: RunConfig, sizes: Sizes, task: int) -> int:
    """Examples of an epoch of a task, with those that methods bring."""
    examples, added, stored = sizes[task]["train"], 0, stored_examples(config, sizes[:task])
    for name, options in config.methods.items():
        examples, more = registry.methods.get(name).examples_of(options, examples, stored)
        added += more
    return examples + added * -(-examples // config.train.batch_size)


def stored_examples(config: RunConfig, sizes: Sizes) -> int:
    """Stored examples once the tasks of these sizes are learned, at most."""
    memory = config.memory
    share = [memory.per_class * max(size["classes"], 1) or memory.per_task or size["train"] for size in sizes]
    kept = sum(min(most, size["train"]) for most, size in zip(share, sizes, strict=True))
    return min(memory.total or kept, kept)


def planned_work(config: RunConfig, sizes: Sizes) -> float:
    """Work of the whole run: that of all stages its protocol plans."""
    plan = registry.protocols.build(config.protocol).plan(sizes)
    return sum(stage.work(config, sizes, task) for task, stage in plan)
