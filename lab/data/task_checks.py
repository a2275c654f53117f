"""What the tasks of a stream must fulfil together with the configuration, before any training."""

from collections.abc import Sequence

from lab.config.schema import RunConfig
from lab.core.errors import LabError
from lab.data.stream import Task


def check(config: RunConfig, tasks: Sequence[Task]) -> None:
    """Raises LabError for tasks that do not fit the scenario, the memory or a plug-in."""
    check_labels(config.scenario, tasks)
    check_memory(config, tasks)
    check_plugins(config, tasks)


def check_labels(scenario: str, tasks: Sequence[Task]) -> None:
    """In scenario domain the tasks share one label list."""
    first, *others = tasks
    for task in others if scenario == "domain" else []:
        if task.labels != first.labels:
            raise LabError(
                f"scenario domain needs tasks with identical label lists: '{first.name}' has {', '.join(first.labels[:6])}, "
                f"'{task.name}' has {', '.join(task.labels[:6])}; use scenario class or task"
            )


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
    """Tasks that the kind of expert, the router, the consolidation, the protocol or a method cannot work on are refused."""
    for kind, options in config.chosen:
        kind.get(options.name).check_tasks(config, tasks)
