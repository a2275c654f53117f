"""The right of one process to work on a run: a lock of the operating system, and a heartbeat that names the process.

The lock decides between processes that ask at the same time. The heartbeat keeps others out where the lock's file was removed,
and on disks without locks: lease.json names host, process and start of the process, and its time of change is renewed. A process
of this host that is gone has lost its lease at once, one of another host after `EXPIRY` without a heartbeat.
"""

import json
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import psutil

from lab.core import atomic_io
from lab.core.errors import RunFailed

BEAT, EXPIRY = 5.0, 60.0  # seconds
LOCK, LEASE = ".lock", "lease.json"


class Held(Exception):
    """Another process has the lease; the message says which one."""


class Lost(RunFailed):
    """The lease went to another process, or the folder is gone: nothing more may be written into it."""


class Lease:
    """The lease of a folder, from its making until `release`. Raises Held if another process has it."""

    def __init__(self, folder: Path):
        self.folder, self.lock = folder, filelock.FileLock(folder / LOCK)
        try:
            self.lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise Held("another process") from error
        try:
            _refuse_held(folder)
            self.own = this_process()
            atomic_io.write_json(folder / LEASE, self.own)
        except BaseException:
            self.lock.release()
            raise
        self.ended = threading.Event()
        self.heart = threading.Thread(target=self._beat, daemon=True)
        self.heart.start()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the lease back; once is enough."""
        self.ended.set()
        self.heart.join()
        with suppress(OSError):
            if _read(self.folder) == self.own:
                (self.folder / LEASE).unlink()
        self.lock.release()

    def confirm(self) -> None:
        """Renews the heartbeat. Raises Lost if this process has the lease no longer."""
        if not self.folder.is_dir():
            raise Lost(f"the run folder {self.folder} was removed")
        holder = _read(self.folder)
        if holder == self.own:
            os.utime(self.folder / LEASE)
        elif holder:
            raise Lost(f"{_named(holder)} has taken over the run in {self.folder}")
        else:
            atomic_io.write_json(self.folder / LEASE, self.own)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT):
            with suppress(OSError, Lost):  # who writes next is told
                self.confirm()


def this_process() -> dict[str, Any]:
    """What identifies this process."""
    process = psutil.Process()
    return {"pid": process.pid, "process_started": process.create_time(), "host": socket.gethostname()}


def _refuse_held(folder: Path) -> None:
    """Raises Held if there is the heartbeat of another process; the lock is held."""
    holder, own = _read(folder), this_process()
    if not holder or holder == own:  # this process has the lock, so whoever had the lease in it is done
        return
    if holder.get("host") == own["host"]:
        if process_alive(holder.get("pid"), holder.get("process_started")):
            raise Held(_named(holder))
        return
    os.utime(folder / LOCK)  # both times are of the same clock, that of the disk
    age = (folder / LOCK).stat().st_mtime - (folder / LEASE).stat().st_mtime
    if age < EXPIRY:
        raise Held(f"{_named(holder)}, which gave a sign of life {age:.0f} s ago; without one it is gone after {EXPIRY:.0f} s")


def _named(holder: dict[str, Any]) -> str:
    return f"another process ({holder.get('pid')} on {holder.get('host')})"


def _read(folder: Path) -> dict[str, Any]:
    """Whose lease it is; empty if nobody's, or if that cannot be read."""
    try:
        holder = json.loads((folder / LEASE).read_text(encoding="utf-8")) if (folder / LEASE).is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def process_alive(pid: int | None, started: float | None) -> bool:
    """Whether that very process still runs: same id, same start time, not a zombie."""
    try:
        process = psutil.Process(pid or -1)
        return abs(process.create_time() - (started or 0)) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False
