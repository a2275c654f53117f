"""Sessions and runs on the toy stream, the tasks of `lab.contracts.tiny_run`."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.config.resolve import configure, recipe_names
from lab.contracts.tiny_run import LABELS, TOPICS, TRANSFER, new_session, overrides, task, tasks  # noqa: F401 (for tests)
from lab.core import registry
from lab.core.errors import LabError
from lab.data.stream import SPLITS, Example, Task  # noqa: F401 (Example for tests)
from lab.run_folder import events
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run
from lab.training.expert_cache import Store
from lab.training.recorder import record
from lab.training.stages import BEFORE_CALIBRATION
from lab.training.trainer import Session


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
    return new_session(recipe, *more, of=tasks() if of is None else of, store=Store(store) if store else None, **settings)


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
