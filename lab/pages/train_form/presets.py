"""Presets of the form: the recipe, the values that differ from it, and one sentence."""

from dataclasses import dataclass, field
from typing import Any

SMALL = {"stream.max_train": 60, "stream.max_validation": 20, "stream.max_test": 40, "memory.per_task": 30, "train.epochs": 3}


@dataclass(frozen=True)
class Preset:
    """A way to begin: a recipe, values of options by dotted path, and what the run shows."""

    recipe: str
    about: str
    values: dict[str, Any] = field(default_factory=dict)


PRESETS = {
    "First look": Preset("l2r", "Few examples of every task, so that you can watch a routed run from start to end.", SMALL),
    "See it forget": Preset("sequential", "The same small stream with one expert for all tasks, to compare with.", SMALL),
    "In full": Preset("l2r", "All examples of the stream: the settings of the recorded example."),
}
