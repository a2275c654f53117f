"""The trained experts that all runs of a folder share, in `.experts/`: which run needs which of them, and taking the rest out.

A run notes the address of an expert in its `stored.txt` before it takes or keeps it, under the lock of the store, so that an
expert that no run names is needed by none, also while runs begin. A run without `stored.txt` (of an earlier version, or one that
has not begun) may need whatever was there by its end.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np

from lab.core import atomic_io
from lab.core.errors import LabError
from lab.run_folder.run import UNREADABLE, Run, root
from lab.store import index, trash
from lab.store.turns import turn

FOLDER, USES = ".experts", "stored.txt"
ADDRESS = re.compile(r"[0-9a-f]{32}")
DAMAGED = ".damaged"  # ending of what was found damaged and is used no more


class Collection(NamedTuple):
    """What no run needs: files with their sizes in bytes; the number of the others; runs that do not say what they need."""

    files: dict[Path, int]
    kept: int
    silent: list[str]


def lock(store: Path) -> filelock.FileLock:
    """Held while a use is noted, and while experts are taken out."""
    return filelock.FileLock(store / ".lock")


def note_use(store: Path, run: Path, address: str) -> None:
    """Note in a run's folder that it needs an expert, on a line of its own also behind one that was cut off."""
    store.mkdir(parents=True, exist_ok=True)
    with lock(store), open(run / USES, "ab+") as noted:
        noted.seek(0)
        lines = noted.read().split(b"\n")
        if address.encode() not in lines:
            noted.write(b"\n" * bool(lines[-1]) + address.encode() + b"\n")


def uses(run: Run) -> set[str] | None:
    """The addresses that a run has noted; None if it notes none, or the list is damaged."""
    try:
        lines = run.bytes_of(USES).decode("ascii").splitlines()
        return {*lines} if all(map(ADDRESS.fullmatch, lines)) else None
    except (FileNotFoundError, *UNREADABLE):
        return set() if _is_replay(run) else None


def _is_replay(run: Run) -> bool:
    try:
        return bool(run.info.get("replay"))
    except LabError:
        return False


def collect(runs: str | Path | None = None, dry_run: bool = False) -> Collection:
    """Delete the stored experts that no run of the folder needs, those in its trash included; `dry_run`: only say which.

    LabError if the folder cannot be written.
    """
    folder = root(runs)
    store = folder / FOLDER
    if not store.is_dir():
        return Collection({}, 0, [])
    with turn(folder), lock(store):
        needed, silent, latest = set[str](), [], 0.0
        for run in [*index.runs(folder), *(entry.run for entry in trash.entries(folder))]:
            named = uses(run)
            if named is None:
                silent.append(run.id)
                latest = max(latest, _end(run))
            needed |= named or set()
        files = {path: path.stat() for path in store.iterdir() if path.suffix in (".safetensors", DAMAGED)}
        unneeded = {
            path: status.st_size
            for path, status in files.items()
            if path.suffix == DAMAGED or (path.stem not in needed and status.st_mtime > latest)
        }
        for path in () if dry_run else unneeded:
            path.unlink()
    return Collection(unneeded, len(files) - len(unneeded), silent)


def _end(run: Run) -> float:
    """When a run ended; without end where it goes on, waits, or cannot be read."""
    try:
        ended = run.info.get("ended")
        return datetime.fromisoformat(ended).timestamp() if ended else float("inf")
    except LabError:
        return float("inf")


def digest(arrays: Mapping[str, Any]) -> str:
    """SHA-256 of arrays: names, types, shapes and content."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def read(path: Path) -> tuple[dict[str, Any], dict[str, str]] | None:
    """The arrays of a stored expert and what is known about it; None if it is not there.

    One that is damaged is not there any more: it is set aside under the ending `.damaged`.
    """
    try:
        arrays, about = atomic_io.read_arrays(path)
        damaged = about.get("sha256", "") not in ("", digest(arrays))
    except FileNotFoundError:
        return None
    except atomic_io.UnreadableArrays:
        damaged, arrays, about = True, {}, {}
    if damaged:
        path.replace(path.with_suffix(DAMAGED))
        return None
    return arrays, about
