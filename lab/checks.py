"""What a configuration and the tasks of its stream must fulfil together, before any training."""

from collections.abc import Sequence

from lab import registry
from lab.config import RunConfig
from lab.errors import LabError
from lab.stream import Task


def check(config: RunConfig, tasks: Sequence[Task]) -> None:
    """Raises LabError for a memory that is too small for the classes, and for tasks that a plug-in cannot work on."""
    check_memory(config, tasks)
    check_plugins(config, tasks)


def check_memory(config: RunConfig, tasks: Sequence[Task]) -> None:
    """A memory that cannot hold one example of each class of a task, or all tasks where they share it, is refused."""
    total, classes = config.memory.total, sum(len(task.labels) for task in tasks)
    if 0 < total < classes:
        raise LabError(f"memory.total = {total} is smaller than the {classes} classes of the stream: store at least {classes}")
    for task in tasks:
        if 0 < config.memory.per_task < len(task.labels):
            raise LabError(
                f"memory.per_task = {config.memory.per_task} is smaller than the {len(task.labels)} classes "
                f"of task '{task.name}': store at least {len(task.labels)}"
            )


def check_plugins(config: RunConfig, tasks: Sequence[Task]) -> None:
    """Tasks that the kind of expert, the router or a method cannot work on are refused."""
    chosen = [(registry.experts, config.experts), (registry.routers, config.router)]
    for kind, options in chosen + [(registry.methods, options) for options in config.methods.values()]:
        kind.get(options.name).check_tasks(config, tasks)
