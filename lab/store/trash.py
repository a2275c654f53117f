"""The trash of a folder of runs: a run that was removed lies whole in `.trash/` until it is restored or deleted for good.

An entry is the run's folder, called by its id, `~`, and the second (Unix time) in which it was removed. Nothing else is written
down, so that removing and restoring are each one renaming, which happens or does not.
"""

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.core import verified_files
from lab.core.errors import LabError, unknown
from lab.run_folder.lease import Lease
from lab.run_folder.run import ID, Run, examples, located, root
from lab.run_folder.writer import lease_of, update_info
from lab.store.turns import is_active, safe_status, turn

FOLDER = ".trash"
MARK = "~"  # stands in no id


@dataclass(frozen=True)
class Entry:
    """A run in the trash: its id, when it was removed, and where it lies."""

    id: str
    removed: datetime
    dir: Path

    @property
    def run(self) -> Run:
        """The run as it lies in the trash, to be read."""
        return Run(self.dir)

    @property
    def title(self) -> str:
        """What its run is called on screens."""
        run = self.run
        return self.id if run.title == run.id else run.title

    def size(self) -> int:
        """Bytes of its files."""
        return sum(path.lstat().st_size for path in self.dir.rglob("*") if path.is_file())

    def row(self) -> dict[str, Any]:
        """Its row in `lab list trash`; `entry` tells two of the same id apart."""
        times = {"removed": self.removed.isoformat(), "bytes": self.size()}
        return {"name": self.id, "status": safe_status(self.run), **times, "entry": self.dir.name}


def entries(runs: str | Path | None = None) -> list[Entry]:
    """What lies in the trash of a folder of runs, the newest first."""
    folder = root(runs) / FOLDER
    found = [entry for path in folder.iterdir() if (entry := _entry(path))] if folder.is_dir() else []
    return sorted(found, key=lambda entry: (entry.removed, entry.id), reverse=True)


def _entry(path: Path) -> Entry | None:
    name, mark, second = path.name.rpartition(MARK)
    if not mark or not (second.isascii() and second.isdecimal()) or len(second) > 11 or not path.is_dir():
        return None
    return Entry(Run(path.with_name(name)).id, datetime.fromtimestamp(int(second), UTC), path)


def to_remove(id: str, runs: str | Path | None = None) -> Run:
    """The run of an id, or in a folder, as it is: also one that is damaged or of a newer version; LabError if there is none."""
    folder = located(id, runs)
    if folder.parent == examples() != root(runs):
        raise LabError(f"'{id}' is a recorded example: only runs of the folder {root(runs)} are removed")
    return Run(folder) if os.path.lexists(folder / "run.json") else Run.open(id, runs)


def move(run: Run) -> Entry:
    """Move a run into the trash; one that waits leaves the queue.

    LabError if somebody works on it, if it is a link, and if it cannot be moved; then it is where it was.
    """
    folder = run.dir.parent
    with turn(folder):
        if is_active(run):
            raise LabError(f"run '{run.id}' is {run.status}: stop it before removing it")
        if run.dir.is_symlink():
            raise LabError(f"run '{run.id}' is a link to another folder: remove it where it lies")
        if not run.dir.is_dir():
            raise LabError(f"run '{run.id}' is not in {folder} any more")
        second = int(time.time())
        while (place := folder / FOLDER / f"{run.dir.name}{MARK}{second}").exists():
            second += 1
        with _nobody_works_on(run) as lease:
            if safe_status(run) == "queued":
                update_info(run, status="stopped", waiting=None)
            try:
                place.parent.mkdir(exist_ok=True)
                os.rename(run.dir, place)
            except OSError as error:
                raise LabError(f"run '{run.id}' cannot be moved into {place.parent}: {error.strerror}") from error
            if lease:
                lease.folder = place  # which it leaves as it found it
    return Entry(run.id, datetime.fromtimestamp(second, UTC), place)


@contextmanager
def _nobody_works_on(run: Run) -> Iterator[Lease | None]:
    """Holds the lease of a run within the block, where one can be taken; LabError if another process has it."""
    try:
        lease = lease_of(run)
    except OSError:  # what cannot be locked nobody has locked
        yield None
        return
    try:
        yield lease
    finally:
        lease.release()


def chosen(id: str, runs: str | Path | None = None) -> Entry:
    """The entry of a run that was removed; of several of that id the newest, or the one whose full name is given."""
    lying = entries(runs)
    for entry in lying:
        if id in (entry.id, entry.dir.name):
            return entry
    raise unknown("run in the trash", id, {entry.id for entry in lying})


def restore(id: str, runs: str | Path | None = None, name: str | None = None) -> Run:
    """Bring a run back from the trash, under its id or another one.

    LabError if it is not in the trash, and if a run of that id is there by now.
    """
    folder = root(runs)
    with turn(folder):
        entry = chosen(id, runs)
        if name is not None and not ID.fullmatch(name):
            raise LabError(f"'{name}' cannot be a run id: use up to 80 of a-z 0-9 _ . - and begin with a letter or digit")
        place = folder / (name or entry.dir.name.rpartition(MARK)[0])
        if os.path.lexists(place):
            raise LabError(f"a run called '{place.name}' is in {folder} by now: restore it under another name (--as)")
        try:
            os.rename(entry.dir, place)
        except OSError as error:
            raise LabError(f"run '{entry.id}' cannot be restored: {error.strerror}") from error
    return Run(place)


def empty(runs: str | Path | None = None, only: Collection[Entry] | None = None) -> list[Entry]:
    """Delete what is in the trash for good, or `only` these entries; returns what was deleted."""
    with turn(root(runs)):
        lying = [entry for entry in entries(runs) if only is None or entry in only]
        for entry in lying:
            try:
                verified_files.remove(entry.dir)
            except OSError as error:
                raise LabError(f"run '{entry.id}' cannot be deleted: {error.strerror}") from error
    return lying
