"""From a configuration to a trained run: open a session, record it into its folder, go on with one that was left."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path

from lab.config.resolve import Overrides, changes_of, merged, validated
from lab.config.schema import RunConfig
from lab.core import plugin_errors
from lab.core.atomic_io import replace_bytes
from lab.core.dotted import flat
from lab.core.errors import LabError
from lab.core.verified_files import Damaged, content
from lab.data.loading import tasks_of
from lab.run_folder import events
from lab.run_folder.own_plugins import refuse_absent
from lab.run_folder.run import FORMAT, Run, located, root
from lab.run_folder.writer import Preparation, lease_of, now, update_info
from lab.tracking.base import Tracker, tracked, tracker
from lab.training.checkpoint import CONFIGURATION, Saved, newest_whole
from lab.training.expert_cache import Store
from lab.training.progress_line import follow, preparing
from lab.training.recorder import record
from lab.training.resource_usage import is_out_of_memory
from lab.training.trainer import Session, Tell, prepare, quiet

Watch = Callable[[Iterator[events.Event], "Run"], None]


def session(config: RunConfig, runs: str | Path | None = None, keep: bool = True, tell: Tell = quiet) -> Session:
    """A session ready to train: data loaded and checked, backbone loaded, everything automatic decided.

    `runs`: the folder of runs (see lab.run_folder.run.root), in which saved streams are found and, with `keep`, experts are
    found and kept for reuse. `tell` is called with what is being done.
    """
    with plugin_errors.named():
        tell(events.Preparing(f"reading the tasks of {config.stream.name}"))
        tasks = tasks_of(config.stream, config.seed, runs=runs)
        store = Store(root(runs) / ".experts") if config.reuse and keep else None
        try:
            return Session(prepare(config, tasks, runs), tasks, store, tell)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise LabError(
                f"the memory of {config.backbone.device} was not enough to load the backbone {config.backbone.name}: take a "
                f"smaller one, another backbone.dtype ({config.backbone.dtype}), or free the device"
            ) from error


def resume(
    id: str,
    runs: str | Path | None = None,
    progress: bool = True,
    overrides: Overrides = (),
    accept_changes: bool = False,
    track: str | None = None,
) -> Run:
    """Go on with a run that was stopped, interrupted or killed, or start a queued one; a finished run is left alone.

    Files of the run that are missing or damaged are mended, or the work since the checkpoint before is done again.
    `overrides`: options that change from here on, as for `lab.run`, such as a smaller learning rate after a failure; the run
    records them. Raises LabError for anything else that is not as it was when the run began, settings, data, backbone or
    versions; `accept_changes`: that is recorded too. `track`: a tool that follows the run, as for `lab.run`.
    """
    tool = tracker(track)
    notes = recover(Run(located(id, runs)))
    run = Run.open(id, runs)
    if run.status == "finished":
        return run
    if run.info.get("replay"):
        raise LabError(f"run '{id}' is a replay: there is nothing to train; play it again with lab replay {id}")
    try:
        refuse_absent(run)
        changes = changes_of(overrides)
        with Preparation(run) as tell, preparing(progress) as show:
            opened = session(validated(reduce(merged, changes, run.config)), run.dir.parent, tell=both(tell, show))
    except LabError as error:
        if run.status == "queued":
            update_info(run, status="failed", error=str(error))
        raise
    options = {option for change in changes for option in flat(change)}
    return watched(run, opened, progress, notes, None if accept_changes else options, tool)


def both(first: Tell, second: Tell) -> Tell:
    """Tells two."""

    def tell(event: events.Preparing) -> None:
        first(event)
        second(event)

    return tell


def watched(
    run: Run,
    session: Session,
    progress: bool,
    notes: Sequence[str] = (),
    accepted: Collection[str] | None = (),
    tool: Tracker | None = None,
) -> Run:
    """Train the session into the folder of `run`, followed by a tool, and with a line of progress in the terminal, if asked; the
    rest: see `record`."""
    happenings = record(run, session, notes, accepted)
    happenings = tracked(happenings, run, tool) if tool else happenings
    for _ in follow(happenings, session) if progress else happenings:
        pass
    return Run(run.dir)  # whose configuration may be another now


def recover(run: Run) -> list[str]:
    """Write run.json and config.yaml anew where they are missing or damaged, as the newest checkpoint knows them; says which.

    Raises LabError if another process works on the run.
    """
    saved = newest_whole(run.dir)
    if not saved and not (run.dir / "env.json").is_file():  # no run, as far as can be seen
        return []
    notes, written = [], _written_config(run, saved)
    about = {"format": FORMAT, "created": now()} | (saved.values.get("run", {}) if saved else {})
    if written and (not _is_readable(run, CONFIGURATION) or _is_start_of(run.dir / CONFIGURATION, written)):
        with lease_of(run):
            replace_bytes(run.dir / CONFIGURATION, written)
        notes.append("config.yaml was missing or damaged: it was restored from its second copy")
    if not _is_readable(run, "run.json") and (run.dir / CONFIGURATION).is_file():
        with lease_of(run):
            update_info(run, **about, status="interrupted")
        notes.append("run.json was missing or damaged: what the checkpoint knows of it was written anew")
    return notes


def _written_config(run: Run, saved: Saved | None) -> bytes | None:
    """The config.yaml of a state, from its second copy."""
    digest = saved.values["final"].get(CONFIGURATION) if saved else None
    with suppress(Damaged):
        return content(run.dir / "checkpoint" / "copies" / digest, digest) if digest else None
    return None


def _is_start_of(path: Path, written: bytes) -> bool:
    """Whether a file was cut off; what a person has changed in it is another matter."""
    data = path.read_bytes()
    return len(data) < len(written) and written.startswith(data)


def _is_readable(run: Run, name: str) -> bool:
    try:
        return bool(Run(run.dir).config if name == CONFIGURATION else run.info)
    except LabError:
        return False
