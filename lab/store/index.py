"""An index of a folder of runs, so that thousands are listed at once. Never the truth: what it holds is what the files say.

`.index.json` in the folder holds, for every run that has ended, its row (`lab.store.rows`) and the stamps of the files that the
row was made of. A row whose stamps are no longer those of the files is made anew. An index that is missing, damaged, or made
by another version or with other plug-ins is made anew without a word, and a folder that cannot be written does without.
"""

import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import lab
from lab.core import atomic_io, documents, registry
from lab.core.errors import LabError
from lab.run_folder.run import TERMINAL, Run, root
from lab.store import rows as run_rows
from lab.store.turns import safe_status

FILE = ".index.json"
FORMAT = 1
LARGEST = 1 << 28  # bytes of an index that is read
WORTH = 32  # runs of a folder from which on its index is kept on the disk
SETTLED = 2.0  # seconds after which a file that changes has another time of change, on all common disks


class Entry(NamedTuple):
    """What is remembered of a run; a stamp is empty while the files may still change without changing it."""

    stamp: str  # of run.json
    created: str
    ended: bool  # run.json says how the run ended, or cannot be read
    stamps: str = ""  # of all files of the row
    row: dict[str, Any] | None = None


class Index:
    """What is remembered of the runs of one folder, in this process and on the disk."""

    def __init__(self, folder: Path, engine: str):
        self.folder, self.engine, self.lock = folder, engine, threading.RLock()
        self.entries, self.changed = self._read(), False

    def _read(self) -> dict[str, Entry]:
        """The index on the disk; empty where it cannot be used."""
        try:
            with documents.opened(self.folder / FILE, LARGEST, self.folder) as file:
                content = json.loads(file.read())
            if (content["format"], content["engine"]) != (FORMAT, self.engine):
                return {}
            entries = {str(name): Entry(*entry) for name, entry in content["runs"].items()}
            return entries if all(map(_is_entry, entries.values())) else {}
        except (OSError, LabError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def save(self) -> None:
        """Bring the index on the disk up to date, if something has changed and it is worth it; a folder may be read-only."""
        if self.changed and len(self.entries) >= WORTH:
            content = {"format": FORMAT, "engine": self.engine, "runs": self.entries}
            with suppress(OSError, ValueError):
                atomic_io.replace_bytes(self.folder / FILE, json.dumps(content).encode())
        self.changed = False

    def runs(self) -> Iterator[tuple[str, Entry]]:
        """The name of every run's folder, with what is known of the run, in no order."""
        now, names = time.time(), set[str]()
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.folder) as folders:
            for item in folders:
                stamp = _stamp(f"{item.path}/run.json", now)
                if stamp is None:
                    continue
                names.add(item.name)
                entry = self.entries.get(item.name)
                if entry is None or entry.stamp != stamp:  # which no entry has where it is empty
                    entry = _head(Run(Path(item.path)), "" if item.is_symlink() else stamp)
                    self._remember(item.name, entry)
                yield item.name, entry
        if gone := self.entries.keys() - names:
            for name in gone:
                del self.entries[name]
            self.changed = True

    def row(self, run: Run) -> dict[str, Any]:
        """The row of a run of the folder."""
        now, name = time.time(), run.dir.name
        path = str(run.dir)
        each = [_stamp(f"{path}/{file}", now) for file in run_rows.FILES]
        stamps = "" if "" in each or os.path.islink(path) else " ".join(stamp or "-" for stamp in each)
        entry = self.entries.get(name)
        if entry is None or entry.row is None or not stamps or entry.stamps != stamps:
            run = Run(run.dir)  # one that has read nothing yet
            row = run_rows.row(run)
            entry = _head(run, each[0] or "")._replace(stamps=stamps, row=row)
            self._remember(name, entry)
            return dict(row)
        assert entry.row is not None
        row = dict(entry.row)
        if not entry.ended:  # its process may have gone without a word
            row["status"] = safe_status(run)
        return row

    def _remember(self, name: str, entry: Entry) -> None:
        if entry.stamp:
            self.entries[name] = entry
            self.changed = True
        elif self.entries.pop(name, None):
            self.changed = True


def _head(run: Run, stamp: str) -> Entry:
    try:
        info = run.info
        return Entry(stamp, str(info.get("created", "")), info.get("status") in TERMINAL)
    except LabError:
        return Entry(stamp, "", True)


def _is_entry(entry: Entry) -> bool:
    kinds = zip(entry, (str, str, bool, str, dict | None), strict=True)
    return all(isinstance(value, kind) for value, kind in kinds) and (entry.row is None or {"run", "status"} <= entry.row.keys())


def _stamp(path: str, now: float) -> str | None:
    """What changes with the content of a file; None if there is none, empty where a change could go unnoticed.

    That is so shortly after a change, since clocks of disks are coarse, and behind a link, which may lead elsewhere next time.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or now - max(status.st_mtime, status.st_ctime) < SETTLED:
        return ""
    return f"{status.st_ino:x}.{status.st_size:x}.{status.st_mtime_ns:x}.{status.st_ctime_ns:x}"


def _of(folder: Path) -> Index:
    """The index of a folder, made by the code and the plug-ins that there are now."""
    names = [*registry.metrics.signature(), *registry.protocols.signature()]
    return _index(folder.absolute(), " ".join([lab.__version__, _code(os.environ.get(registry.PLUGINS, "")), *names]))


@lru_cache(maxsize=16)
def _index(folder: Path, engine: str) -> Index:
    return Index(folder, engine)


def forget() -> None:
    """Read indices on the disk again, as a new process does."""
    _index.cache_clear()


@cache
def _code(plugins: str) -> str:
    """What changes with the files of the package and of plug-ins."""
    folders = [Path(lab.__file__).parent, *(Path(folder) for folder in plugins.split(os.pathsep) if folder)]
    files = [os.stat(path) for folder in folders for path in folder.rglob("*.py")]
    return f"{len(files)}.{sum(file.st_size for file in files)}.{max(file.st_mtime_ns for file in files)}"


def runs(folder: str | Path | None = None) -> list[Run]:
    """All runs of a folder, oldest first, as `lab.run_folder.run.all_runs` finds them."""
    return _listed(root(folder), lambda entry: True)


def unended(folder: str | Path | None = None) -> list[Run]:
    """The runs of a folder whose run.json says no end, oldest first: they are active, wait, or are lost."""
    return _listed(root(folder), lambda entry: not entry.ended)


def _listed(folder: Path, which: Callable[[Entry], bool]) -> list[Run]:
    index = _of(folder)
    with index.lock:
        listed = [(entry.created, Run(folder / name)) for name, entry in index.runs() if which(entry)]
        index.save()
    return [run for _, run in sorted(listed, key=lambda each: (each[0], each[1].id))]


def rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """The rows of runs, see `lab.store.rows`; read again only where files have changed."""
    made, listed = [], [(run, run.dir.parent) for run in runs]
    indices = {folder: _of(folder) for folder in {folder for _, folder in listed}}
    for run, folder in listed:
        index = indices[folder]
        with index.lock:
            made.append(index.row(run))
    for index in indices.values():
        with index.lock:
            index.save()
    return made
