"""Runs of a second on tasks of three dozen texts: whether a plug-in trains, stops, and goes on to the same numbers.

A keyword decides the label, and what it means flips from task to task, so that interference is certain. Every task has topic
words of its own, so that a router can tell the tasks apart.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lab.config.resolve import configure, recipe_names
from lab.contracts.checking import need
from lab.core.errors import LabError
from lab.core.registry import Options
from lab.data.stream import Example, Task
from lab.run_folder import events
from lab.run_folder.writer import create_run
from lab.training.expert_cache import Store
from lab.training.recorder import record
from lab.training.trainer import Session, prepare

TOPICS = {"sea": "wave tide reef coral", "city": "tram street tower plaza", "farm": "barn hay goat field"}
FLIPPED = {"sea": False, "city": True, "farm": False}
LABELS = ("no", "yes")
TRAIN = ("train.lr=0.02", "train.epochs=3")
MEMORY = ("router_training.steps=20", "router_training.lr=0.1")
STEPS = {"router.steps": 4, "consolidation.steps": 4, "consolidation.clusters": 2}  # where a recipe has them
TRANSFER = ("protocol.shots=[4, 8]", "protocol.adaptation.steps=6")
HOSTS = ("oracle", "l2r", "sequential", "replay")  # recipes that are tried first
CHOICE = {"router": "router", "expert": "experts.name", "consolidation": "consolidation", "protocol": "protocol"}
STOPPED_AT = 4  # steps that are done when a run is left


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
    """Tasks by their names, by default the first two."""
    return [task(name, **options) for name in names or ("sea", "city")]


def overrides(recipe: str, *more: str) -> list[str]:
    """Options that make a recipe learn these tasks in well under a second."""
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


def new_session(recipe: str, *more: str, of: Sequence[Task], store: Store | None = None, **settings: Any) -> Session:
    """A session on these tasks, ready to train."""
    config = configure(recipe, overrides(recipe, *more), backbone="tiny", **settings)
    return Session(prepare(config, of), of, store)


def host(kind: str, options: Options, of: Sequence[Task]) -> Session:
    """A session with this plug-in in the first recipe that takes it; of a method, with no other method beside it.

    Raises the LabError of the first recipe where none does.
    """
    choice = f"methods.{options.name}={{}}" if kind == "method" else f"{CHOICE[kind]}={options.name}"
    reasons = []
    for recipe in dict.fromkeys([*HOSTS, *recipe_names()]):
        try:
            session = new_session(recipe, choice, "checkpoint.every=2", of=of)
        except LabError as error:
            reasons.append(error)
            continue
        if kind != "method" or list(session.config.methods) == [options.name]:
            return session
    raise reasons[0] if reasons else LabError(f"no recipe takes the method {options.name}")


def left_and_gone_on_with(kind: str, options: Options, of: Sequence[Task]) -> Session:
    """A session at its end that was left in the middle of its last task, and gone on with from its folder."""
    session = host(kind, options, of)
    with TemporaryDirectory() as folder:
        run = create_run(session.config.to_dict(), Path(folder), "r")
        steps = 0
        recorded = record(run, session)
        for event in recorded:
            steps += isinstance(event, events.Step) and event.task == len(session.task_names) - 1
            if steps == STOPPED_AT:
                break
        recorded.close()
        if steps < STOPPED_AT:  # nothing to go on with: it trains less than that
            return session
        again = Session(session.config, of)
        for _ in record(run, again):
            pass
        return again


def runs_stops_and_goes_on_to_the_same_numbers(kind: str, options: Options) -> None:
    """On three tasks, then one: to the end, and once more left on the way and gone on with, to the same bits."""
    three = tasks("sea", "city", "farm", train=24, test=8)
    straight = host(kind, options, three)
    for _ in straight.train():
        pass
    again = left_and_gone_on_with(kind, options, three)
    need(
        again.scores == straight.scores,
        f"a run that was left and gone on with has other scores ({_first_difference(straight.scores, again.scores)}): keep what "
        "decides them in buffers and parameters (of a method in state()), and draw from the generators that are given",
    )
    single = host(kind, options, three[:1])
    for _ in single.train():
        pass


def _first_difference(first: Any, second: Any) -> str:
    parts = ((name, vars(first)[name], vars(second)[name]) for name in vars(first))
    return next((f"{name} {str(a)[:60]} and {str(b)[:60]}" for name, a, b in parts if a != b), "")
