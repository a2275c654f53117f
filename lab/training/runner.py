"""From a configuration to a trained run: open a session, record it into its folder, go on with one that was left."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from lab.config.resolve import validated
from lab.config.schema import RunConfig
from lab.core.errors import LabError
from lab.data.loading import tasks_of
from lab.run_folder import events
from lab.run_folder.run import Run, root
from lab.run_folder.writer import update_info
from lab.training.expert_cache import Store
from lab.training.progress_line import follow
from lab.training.recorder import record
from lab.training.trainer import Session, prepare

Watch = Callable[[Iterator[events.Event], "Run"], None]


def session(config: RunConfig, runs: str | Path | Literal[False] | None = None) -> Session:
    """A session ready to train: data loaded and checked, backbone loaded, everything automatic decided.

    `runs`: where experts are found and kept for reuse (see lab.run_folder.run.root); False: none is kept.
    """
    tasks = tasks_of(config.stream, config.seed)
    store = Store(root(runs) / ".experts") if config.reuse and runs is not False else None
    return Session(prepare(config, tasks, runs or None), tasks, store)


def resume(id: str, runs: str | Path | None = None, progress: bool = True) -> Run:
    """Go on with a run that was stopped, interrupted or killed, or start a queued one; a finished run is left alone."""
    run = Run.open(id, runs)
    if run.status == "finished":
        return run
    if run.info.get("replay"):
        raise LabError(f"run '{id}' is a replay: there is nothing to train; play it again with lab replay {id}")
    try:
        opened = session(validated(run.config), runs)
    except LabError as error:
        if run.status == "queued":
            update_info(run, status="failed", error=str(error))
        raise
    return watched(run, opened, progress)


def watched(run: Run, session: Session, progress: bool) -> Run:
    """Train the session into the folder of `run`, with a line of progress in the terminal if asked."""
    recorded = record(run, session)
    for _ in follow(recorded, session) if progress else recorded:
        pass
    return run
