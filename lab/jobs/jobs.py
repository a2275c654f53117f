"""Jobs: runs that train in a process of their own, which outlives the page, the shell or the server that started it.

Nothing is remembered here. A job is its run folder; its status is derived from the files and the process each time. A queue
is the runs whose run.json says since when they wait; one process per folder, started when there is need, gives them to a
scheduler with LAB_SLOTS slots (default 1: one run trains at a time).
"""

import os
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import filelock

from lab.core.errors import LabError
from lab.jobs import scheduler
from lab.jobs.scheduler import Scheduler, Worker, active, begin, refuse_begun
from lab.run_folder import replay_file, writer
from lab.run_folder.run import Run, root
from lab.run_folder.writer import create_run, request_stop, update_info
from lab.store import index, trash
from lab.store.turns import is_active, turn

ACTIVE = ("queued", "running")
RESUMABLE = ("stopped", "interrupted", "failed", "lost", "queued")
POLL = 1.0  # seconds between two looks at the queue


def start(
    config: dict[str, Any], runs: str | Path | None = None, together: bool = False, id: str | None = None, name: str = ""
) -> Run:
    """Create a run and the process that works on it; LabError if no slot of the folder is free and not `together`."""
    refuse_read_only()
    folder = root(runs)
    with turn(folder):
        if not together:
            _refuse_full(folder)
        run = _sign(create_run(config, folder, id, name=name))
        begin(run, launch)
    return run


def resume(run: Run, together: bool = False) -> Run:
    """Start a process that goes on with a run that waits or has ended without being finished.

    LabError if it is finished or active, or if no slot of the folder is free and not `together`.
    """
    refuse_read_only()
    folder = run.dir.parent
    with turn(folder):
        refuse_begun(run)
        if not together:
            _refuse_full(folder)
        begin(run, launch)
    return run


def stop(run: Run, now: bool = False) -> None:
    """Ask an active run to stop after its current task, or `now`: at its next step, with its state saved.

    `now` returns when the run has ended; its process is killed if it has not stopped after some seconds (`scheduler.GRACE`).
    A run that waits leaves the queue. LabError if the run is not active.
    """
    refuse_read_only()
    with turn(run.dir.parent):  # or a waiting run could be started between the look and the request
        status = run.status
        if status not in ACTIVE:
            raise LabError(f"run '{run.id}' is {status}: there is nothing to stop")
        if status == "queued" and not run.launch:
            return update_info(run, status="stopped", waiting=None)
        if status == "running" and not now:
            return request_stop(run)
    scheduler.end([run])


def annotate(run: Run, **fields: Any) -> None:
    """Change what people wrote about a run: name, text, tags, starred, archived; LabError for what does not fit."""
    refuse_read_only()
    writer.annotate(run, **fields)


def delete(run: Run) -> trash.Entry:
    """Move a run into the trash; LabError if it is active or cannot be moved."""
    refuse_read_only()
    return trash.move(run)


def restore(id: str, runs: str | Path | None = None, name: str | None = None) -> Run:
    """Bring a run back from the trash, under its id or another one; LabError if it is not there, or the id is taken."""
    refuse_read_only()
    return trash.restore(id, runs, name)


def empty_trash(runs: str | Path | None = None, only: Collection[trash.Entry] | None = None) -> list[trash.Entry]:
    """Delete what is in the trash for good, or `only` these entries; returns what was deleted."""
    refuse_read_only()
    return trash.empty(runs, only)


def play(content: bytes, speed: float = 10.0, runs: str | Path | None = None) -> Run:
    """Play a replay file as a job; others may train meanwhile, since it computes nothing."""
    refuse_read_only()
    with turn(root(runs)):
        run = _sign(replay_file.create(content, runs, speed))
        begin(run, launch)
    return run


# -- the queue -------------------------------------------------------------------------------------------------------------


def slots() -> int:
    """How many runs of a folder train at the same time: $LAB_SLOTS, else 1."""
    text = os.environ.get("LAB_SLOTS") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise LabError(f"LAB_SLOTS = {text}: write how many runs of a folder may train at the same time, 1 or more")
    return int(text)


def is_full(runs: str | Path | None = None) -> bool:
    """Whether every slot of a folder is taken, so that another run has to wait."""
    return len(active(runs)) >= slots()


def _refuse_full(folder: Path) -> None:
    busy = active(folder)
    if len(busy) >= slots():
        raise LabError(
            f"run '{busy[0].id}' is {busy[0].status} in this folder: wait for it, stop it first, "
            "or set LAB_SLOTS to how many may train at the same time"
        )


def enqueue(job: Run | dict[str, Any], runs: str | Path | None = None, name: str = "") -> Run:
    """Let a new run of this configuration and name, or a run that can be resumed, wait for its turn; returns the run."""
    refuse_read_only()
    folder = job.dir.parent if isinstance(job, Run) else root(runs)
    with turn(folder):
        if isinstance(job, Run) and (job.status not in RESUMABLE or is_active(job) or job in waiting(folder)):
            raise LabError(f"run '{job.id}' is {job.status}: it cannot be put into the queue")
        run = job if isinstance(job, Run) else _sign(create_run(job, folder, name=name))
        (run.dir / "launch.json").unlink(missing_ok=True)
        last = max((since for _, since in _queue(folder)), default=0)
        update_info(run, status="queued", error=None, ended=None, waiting=max(time.time(), last + 1))
        _ensure_queue_process(folder)
    return run


def waiting(runs: str | Path | None = None) -> list[Run]:
    """Runs of a folder that wait for their turn, the next one first."""
    return [run for run, _ in _queue(root(runs))]


def _queue(folder: Path) -> list[tuple[Run, float]]:
    """The waiting runs, the next one first, each with the time since when it waits."""
    entries = [(run, since) for run in index.unended(folder) if (since := _waiting_since(run))]
    return sorted(entries, key=lambda entry: entry[1])


def _waiting_since(run: Run) -> float | None:
    """Since when a run waits for its turn; None if it does not, or cannot be read. Reads run.json once: the run may begin."""
    try:
        info = run.info
        return info.get("waiting") if info.get("status") == "queued" and not run.launch else None
    except LabError:
        return None


def move(run: Run, by: int) -> None:
    """Change places with the neighbour in the queue: `by` -1 is earlier, 1 is later; at the end nothing happens."""
    refuse_read_only()
    with turn(run.dir.parent):
        queue = _queue(run.dir.parent)
        position = next((i for i, (waiting_run, _) in enumerate(queue) if waiting_run == run), None)
        if position is None:
            raise LabError(f"run '{run.id}' does not wait in the queue")
        if 0 <= position + by < len(queue):
            (_, since), (neighbour, since_of_neighbour) = queue[position], queue[position + by]
            update_info(run, waiting=since_of_neighbour)
            update_info(neighbour, waiting=since)


def paused(runs: str | Path | None = None) -> bool:
    """Whether the queue of a folder is held."""
    return (root(runs) / ".paused").exists()


def pause(on: bool, runs: str | Path | None = None) -> None:
    """Hold the queue, or let it go on; a run that trains is left alone."""
    refuse_read_only()
    folder = root(runs)
    with turn(folder):
        (folder / ".paused").touch() if on else (folder / ".paused").unlink(missing_ok=True)
        _ensure_queue_process(folder)


def tend(runs: str | Path | None = None) -> None:
    """Start the queue's process if runs wait and there is none: after a restart of the machine."""
    folder = root(runs)
    if not read_only() and waiting(folder) and not paused(folder):
        with turn(folder):
            _ensure_queue_process(folder)


def _ensure_queue_process(folder: Path) -> None:
    """Start the queue's process if there is something to do and no such process yet; only within a turn."""
    if paused(folder) or not waiting(folder):
        return
    try:
        with _queue_lock(folder).acquire(timeout=0):
            pass
    except filelock.Timeout:
        return
    scheduler.detached([sys.executable, "-m", "lab.jobs.jobs", str(folder.resolve())], folder / ".queue.log")


def _queue_lock(folder: Path) -> filelock.FileLock:
    """Held by the process that takes the waiting runs of a folder."""
    return filelock.FileLock(folder / ".queue.lock")


def work(folder: Path) -> None:
    """Start the waiting runs in turn, each when a slot is free; returns when none waits or the queue is held.

    The runs are detached: they outlive this process.
    """
    lock = _queue_lock(folder)
    try:
        lock.acquire(timeout=POLL)
    except filelock.Timeout:
        return
    runs = Scheduler(slots(), launch, folder)
    while True:
        with turn(folder, patience=-1):
            queue = waiting(folder)
            if not queue or paused(folder):  # who adds a run looks for this process within a turn, so this end is seen
                return lock.release()
            for run in queue[: max(runs.free(), 0)]:
                runs.start(run)
        runs.ended(POLL)


# -- pieces ----------------------------------------------------------------------------------------------------------------


class Asker:
    """Who wants something done with runs; the dashboard puts the person in front of the page in its place."""

    def why_only_reads(self) -> str | None:
        """Why this person may look at runs only; None if they may change them."""
        return None

    def name(self) -> str | None:
        """Who they are, where a login tells; runs note it."""
        return None


asker = Asker()


def why_read_only() -> str | None:
    """Why whoever asks may look at runs only; None if they may change them."""
    if os.environ.get("LAB_READ_ONLY", "") not in ("", "0"):
        return "this lab is read-only (LAB_READ_ONLY): runs can be looked at, not started, stopped or changed"
    return asker.why_only_reads()


def read_only() -> bool:
    """Whether whoever asks may look at runs only."""
    return why_read_only() is not None


def refuse_read_only() -> None:
    """LabError where runs can be looked at only."""
    if reason := why_read_only():
        raise LabError(reason)


def _sign(run: Run) -> Run:
    """Note in a new run who started it, where that is known."""
    if name := asker.name():
        update_info(run, started_by=name)
    return run


def command(run: Run) -> list[str]:
    """The command that works on a run: starts a queued one, continues an interrupted one, plays a replay."""
    if run.info.get("replay"):
        return [sys.executable, "-m", "lab.run_folder.replay_file", str(run.dir.resolve())]
    return [sys.executable, "-m", "lab", "resume", run.id, "--runs", str(run.dir.parent.resolve())]


def launch(run: Run) -> Worker:
    """Start the command that works on a run, detached."""
    return scheduler.detached(command(run), run.dir / "log.txt")


if __name__ == "__main__":
    work(Path(sys.argv[1]))
