"""A stream for tests: a keyword decides the label, and what it means flips from task to task, so that interference is certain.

Every task has topic words of its own, so that a router can tell the tasks apart.
"""

import json
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.config.resolve import configure, recipe_names
from lab.core import registry
from lab.core.errors import LabError
from lab.data.stream import SPLITS, Example, Task
from lab.run_folder import events
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run
from lab.training.expert_cache import Store
from lab.training.recorder import record
from lab.training.stages import BEFORE_CALIBRATION
from lab.training.trainer import Session, prepare

TOPICS = {"sea": "wave tide reef coral", "city": "tram street tower plaza", "farm": "barn hay goat field"}
FLIPPED = {"sea": False, "city": True, "farm": False}
LABELS = ("no", "yes")
TRAIN = ("train.lr=0.02", "train.epochs=3")
MEMORY = ("router_training.steps=20", "router_training.lr=0.1")
STEPS = {"router.steps": 4, "consolidation.steps": 4, "consolidation.clusters": 2}  # where a recipe has them
TRANSFER = ("protocol.shots=[4, 8]", "protocol.adaptation.steps=6")


def task(name: str, train: int = 48, test: int = 20, labels: Sequence[str] = LABELS) -> Task:
    """`red` means yes and `blue` no in sea and farm; in city it is the other way round."""
    draw = random.Random(name)
    topic, texts, rows = TOPICS[name].split(), set(), []
    while len(rows) < train + 8 + test:
        label = len(rows) % 2
        colour = ("blue", "red")[label ^ FLIPPED[name]]
        text = " ".join([colour, *draw.choices(topic, k=4), colour])
        if text not in texts:
            texts.add(text)
            rows.append(Example(text, label))
    return Task(name, tuple(labels), rows[:train], rows[train : train + 8], rows[train + 8 :])


def tasks(*names: str, **options: Any) -> list[Task]:
    return [task(name, **options) for name in names or ("sea", "city")]


def overrides(recipe: str, *more: str) -> list[str]:
    """Options that make a recipe learn the toy stream in well under a second."""
    config = configure(recipe)
    if config.protocol.name == "transfer" or "protocol=transfer" in more:
        return [*TRAIN, *TRANSFER, *more]
    budget = "memory.total=48" if config.memory.total else "memory.per_task=24"
    settings = config.to_dict()
    small = [f"{path}={value}" for path, value in STEPS.items() if option_of(settings, path)]
    return [*TRAIN, budget, *small, *(MEMORY if config.router_training.steps else ()), *more]


def option_of(settings: dict[str, Any], path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    section, name = path.split(".")
    return settings.get(section, {}).get(name)


def recipes(protocol: str) -> list[str]:
    """Names of the shipped recipes of a protocol."""
    return [name for name in recipe_names() if configure(name).protocol.name == protocol]


def one_of_each_kind(names: Sequence[str]) -> list[Any]:
    """Recipes as parameters of a test: those that have the parts of an earlier one, and other settings, with the marker slow."""
    seen, parameters = set[tuple](), []
    for name in sorted(names, key=lambda name: len(configure(name).methods)):
        config = configure(name)
        experts, shared = config.experts, config.experts.allocation in ("shared", "per_task")
        kind = (config.protocol.name, config.router.name, experts.name, experts.allocation if shared else "several")
        kind += (experts.isolated, config.composition, config.consolidation.name, config.answer)
        parameters.append(pytest.param(name, marks=[pytest.mark.slow] if kind in seen else []))
        seen.add(kind)
    return parameters


def methods() -> list[str]:
    """Names of the methods that work on one shared expert."""
    found = []
    for name in registry.methods.names():
        with suppress(LabError):
            found.append(configure("sequential", [f"methods.{name}={{}}", "memory.per_task=2"]) and name)
    return found


def session(
    recipe: str = "l2r", *more: str, of: Sequence[Task] | None = None, store: Path | None = None, **settings: Any
) -> Session:
    """A session on the toy stream, ready to train."""
    of = tasks() if of is None else of
    config = configure(recipe, overrides(recipe, *more), backbone="tiny", **settings)
    return Session(prepare(config, of), of, Store(store) if store else None)


def trained(*args: Any, **settings: Any) -> Session:
    """A session at its end."""
    made = session(*args, **settings)
    list(made.train())
    return made


def recorded(made: Session, root: Path, id: str = "r") -> Run:
    """The run folder of a session that was trained to its end."""
    run = create_run(made.config.to_dict(), root, id)
    list(record(run, made))
    return run


def expert(made: Session, name: str) -> dict[str, torch.Tensor]:
    """Copies of the parameters of an expert by its name."""
    return {key: p.detach().clone() for key, p in made.learner.bank.expert(made.learner.bank.names.index(name)).items()}


def isolated(made: Session, name: str) -> dict[str, torch.Tensor]:
    """The classifier rows of a task as training on it left them."""
    prefix = f"task{made.learner.task_names.index(name)}."
    carried = made.carried[BEFORE_CALIBRATION]
    return {key.removeprefix(prefix): tensor for key, tensor in carried.items() if key.startswith(prefix)}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit the same names and values."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kinds(happenings: Sequence[events.Event]) -> list[str]:
    """Kinds of events in order, repeated ones once."""
    names = [type(event).__name__ for event in happenings]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


def folder(path: Path, of: Sequence[Task] | None = None) -> Path:
    """A stream folder that holds the toy stream."""
    for made in tasks() if of is None else of:
        (path / made.name).mkdir(parents=True)
        for split in SPLITS:
            rows = [{"text": example.text, "label": made.labels[example.label]} for example in made.split(split)]
            (path / made.name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
