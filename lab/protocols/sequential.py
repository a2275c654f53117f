"""Task after task: the usual way of continual learning."""

from lab.core.registry import Options
from lab.protocols.base import Protocol


class SequentialOptions(Options):
    name: str = "sequential"


class Sequential(Protocol):
    """Task after task: train the task's expert, train the router, evaluate all tasks seen so far."""

    name = "sequential"
    Options = SequentialOptions
