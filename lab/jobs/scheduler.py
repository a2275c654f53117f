"""Launches, watches and ends the processes that work on runs: of single jobs, of the queue of a folder, and of grids.

A run folder names the process that works on it: launch.json the one that was started for it, run.json the one that has begun.
Both hold the process id and the start time, so that a later process with the same id is not taken for it.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

from lab.config import registration
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.run_folder.lease import process_alive
from lab.run_folder.run import TERMINAL, Run
from lab.run_folder.writer import now, update_info
from lab.store import index
from lab.store.turns import is_active, safe_status, turn

GRACE = 10.0  # seconds a process has to save its state and stop before it is killed
LOOK = 0.05  # seconds between two looks at a process


class Worker(Protocol):
    """A process that works on a run, as the one who launched it sees it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Its exit code, -n if signal n ended it; None while it lives."""


Launch = Callable[[Run], Worker]


class Scheduler:
    """Up to `slots` runs at the same time, each in a process that `launch` starts.

    With a `folder`, every active run of that folder takes a slot, whoever started it; without one, those started here do.
    """

    def __init__(self, slots: int, launch: Launch, folder: Path | None = None):
        self.slots, self.launch, self.folder = slots, launch, folder
        self.workers: dict[Run, Worker] = {}

    def free(self) -> int:
        """Slots that no run takes."""
        return self.slots - len({*self.workers, *(active(self.folder) if self.folder else ())})

    def start(self, run: Run) -> bool:
        """Launch a process for a run; only within a `turn`. False if another process works on the run or has finished it."""
        try:
            self.workers[run] = begin(run, self.launch)
        except LabError:
            return False
        return True

    def ended(self, within: float) -> list[Run]:
        """Runs whose processes have ended, as soon as there are any, with the end noted; none after `within` seconds."""
        deadline = time.monotonic() + within
        while True:
            codes = {run: code for run, worker in self.workers.items() if (code := worker.poll()) is not None}
            for run, code in codes.items():
                del self.workers[run]
                note_end(run, code)
            if codes or time.monotonic() >= deadline:
                return [*codes]
            time.sleep(LOOK)

    def stop(self) -> None:
        """End all runs that were started here; each can be resumed."""
        end([*self.workers])
        self.workers.clear()


# -- begin -----------------------------------------------------------------------------------------------------------------


def begin(run: Run, launch: Launch) -> Worker:
    """Launch a process for a run that nobody works on, and note which one it is; only within a `turn`.

    LabError if the run is finished or another process works on it.
    """
    refuse_begun(run)
    (run.dir / "launch.json").unlink(missing_ok=True)  # of the process before
    update_info(run, status="queued", error=None, ended=None, waiting=None)
    worker = launch(run)
    try:
        started = psutil.Process(worker.pid).create_time()
    except psutil.Error:  # it is gone already; its log says why
        started = 0.0
    atomic_io.write_json(run.dir / "launch.json", {"pid": worker.pid, "process_started": started})
    return worker


def refuse_begun(run: Run) -> None:
    """LabError if a run is finished or another process works on it."""
    status = run.status
    if status == "finished":
        raise LabError(f"run '{run.id}' is finished: there is nothing to resume")
    if is_active(run):
        raise LabError(f"run '{run.id}' is {status} already")


def detached(words: Sequence[str], log: Path) -> Worker:
    """Start a command that outlives this process, in a session of its own; what it prints is appended to the file `log`."""
    with open(log, "ab") as out:
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env=environment()
        )
    threading.Thread(target=child.wait, daemon=True).start()  # so that no zombie is left
    return child


def environment() -> dict[str, str]:
    """Environment of a process that finds this package and what was registered here, and prints without delay."""
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return registration.environment() | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


# -- watch -----------------------------------------------------------------------------------------------------------------


def active(runs: str | Path | None = None) -> list[Run]:
    """Active runs of a folder, oldest first; unreadable folders are passed over."""
    return [run for run in index.unended(runs) if is_active(run)]


def process_of(run: Run) -> psutil.Process | None:
    """The process that works on the run, if it is alive."""
    facts = run.info if run.info.get("status") == "running" else run.launch
    pid, started = facts.get("pid"), facts.get("process_started")
    try:
        return psutil.Process(pid) if pid and process_alive(pid, started) else None
    except psutil.Error:
        return None


# -- end -------------------------------------------------------------------------------------------------------------------


def end(runs: Sequence[Run]) -> None:
    """Stop active runs now: each saves its state at its next step; what still works after the grace time is killed.

    A process that was launched for a run is ended with it, together with all processes that it started. A shell or a notebook
    that trains the run itself goes on without it, and is killed only if it does not stop the run.
    """
    processes = {run: process for run in runs if (process := process_of(run)) is not None}
    families = {run: _family(process) if _launched(run, process) else [process] for run, process in processes.items()}
    for run, process in processes.items():
        if _launched(run, process):  # who watches the process is to know that it did not crash
            atomic_io.write_json(run.dir / "launch.json", run.launch | {"asked_to_end": True})
        with suppress(psutil.Error):
            process.terminate()
    left = {run: process for run, process in processes.items() if process.pid != os.getpid()}
    deadline = time.monotonic() + GRACE
    while left and time.monotonic() < deadline:
        time.sleep(LOOK)
        left = {run: process for run, process in left.items() if not _has_left(run, process)}
    for run, process in processes.items():
        if run in left or not _alive(process):
            _kill(families[run])
    for run in runs:
        note_end(run, asked=True)


def _has_left(run: Run, process: psutil.Process) -> bool:
    """Whether a process no longer works on a run: one that was launched for the run is gone, another one has ended the run."""
    return not _alive(process) or (not _launched(run, process) and run.info.get("status") in TERMINAL)


def _launched(run: Run, process: psutil.Process) -> bool:
    return run.launch.get("pid") == process.pid


def _alive(process: psutil.Process) -> bool:
    return process_alive(process.pid, process.create_time())


def _family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return [process]


def _kill(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL to those that are still there; returns when they are gone."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=GRACE)


def note_end(run: Run, code: int | None = None, asked: bool = False) -> None:
    """Write into a run how its process ended, if the process is gone and did not write it itself.

    `code`: exit code of the process where it is known; `asked`: whether somebody stopped the run.
    """
    with turn(run.dir.parent, patience=-1):
        if safe_status(run) != "lost":
            return
        if asked or code == -signal.SIGTERM or (code is not None and run.launch.get("asked_to_end")):
            begun = run.info.get("status") == "running"
            update_info(run, status="interrupted" if begun else "stopped", ended=now(), waiting=None)
        elif code is not None:
            reason = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
            update_info(run, status="failed", error=run.info.get("error") or f"its process ended with {reason}", ended=now())
