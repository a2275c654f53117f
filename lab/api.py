"""What notebooks and the command line call: run, train, resume, compare."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lab import events
from lab.config import RunConfig
from lab.errors import LabError
from lab.loop import StreamSession
from lab.recipe import configure, validated
from lab.record import record
from lab.runs import Run, root
from lab.session import Session, prepare
from lab.sources import tasks_of
from lab.store import Store
from lab.stream import Task
from lab.transfer import TransferSession

Watch = Callable[[Iterator[events.Event], "Run"], None]


def session(config: RunConfig, runs: str | Path | None = None) -> Session:
    """A session ready to train: data loaded and checked, backbone loaded, everything automatic decided."""
    tasks = tasks_of(config.stream, config.seed)
    store = Store(root(runs) / ".experts") if config.reuse and runs is not False else None
    return opened(prepare(config, tasks, runs or None), tasks, store)


def opened(config: RunConfig, tasks: Sequence[Task], store: Store | None = None) -> Session:
    """The session of a prepared configuration in its protocol. Raises LabError for whatever cannot work, before any training."""
    return (TransferSession if config.transfer else StreamSession)(config, tasks, store)


def train(config: RunConfig | str, **settings: Any) -> Iterator[events.Event]:
    """Events of a run that leaves no folder behind: `for event in lab.train("l2r", stream="builtin")`."""
    yield from session(_configured(config, (), settings), runs=False).train()


def run(recipe: str | RunConfig, overrides: list[str] | None = None, *, runs: str | Path | None = None, id: str | None = None,
        progress: bool = True, **settings: Any) -> Run:  # fmt: skip
    """Train and evaluate a recipe, and return the finished run.

    `overrides` are `key=value` texts as on the command line, `settings` fields of the configuration
    (`stream="builtin", backbone="minilm", seed=0`). Everything is checked before the run's folder is made; raises LabError.
    """
    made = session(_configured(recipe, overrides or (), settings), runs)
    created = Run.create(made.config.to_dict(), runs, id)
    return _watch(created, made, progress)


def _configured(recipe: str | RunConfig, overrides: Sequence[str], settings: dict[str, Any]) -> RunConfig:
    """What `run` and `train` are given as a configuration; LabError for changes to one that is complete."""
    if isinstance(recipe, str):
        return configure(recipe, overrides, **settings)
    if overrides or settings:
        raise LabError(
            f"this configuration is complete, {', '.join([*overrides, *settings])} would be ignored: "
            "give changes to lab.configure, or name a recipe here"
        )
    return recipe


def resume(id: str, runs: str | Path | None = None, progress: bool = True) -> Run:
    """Go on with a run that was stopped, interrupted or killed, or start a queued one; a finished run is left alone."""
    found = Run.open(id, runs)
    if found.status == "finished":
        return found
    if found.info.get("replay"):
        raise LabError(f"run '{id}' is a replay: there is nothing to train; play it again with lab replay {id}")
    try:
        made = session(validated(found.config), runs)
    except LabError as error:
        if found.status == "queued":
            found.update(status="failed", error=str(error))
        raise
    return _watch(found, made, progress)


def _watch(found: Run, made: Session, progress: bool) -> Run:
    from lab.console import follow

    recorded = record(found, made)
    if progress:
        recorded = follow(recorded, made)
    for _ in recorded:
        pass
    return found


def compare(*ids: str, runs: str | Path | None = None) -> Any:
    """Table of runs side by side (pandas): metrics, routing, uses and cost; see lab.views.summary."""
    from lab.views import comparable, summary

    if not ids:
        raise LabError("name at least one run to compare")
    found, excluded = comparable([Run.open(id, runs) for id in dict.fromkeys(ids)])
    if not found:
        raise LabError(f"there is nothing to compare: {'; '.join(excluded.values())}")
    for reason in excluded.values():
        warnings.warn(f"left out: {reason}", stacklevel=2)
    return summary(found)
