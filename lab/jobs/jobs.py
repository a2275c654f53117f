"""Jobs: runs that train in a process of their own, which outlives the page, the shell or the server that started it.

Nothing is remembered here. A job is its run folder; its status is derived from the files and the process each time. A queue
is the runs whose run.json says since when they wait; one process per folder, started when there is need, takes them in turn.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import psutil

from lab.core import atomic_io
from lab.core.errors import LabError
from lab.run_folder import replay_file
from lab.run_folder.run import Run, all_runs, remove, root

ACTIVE = ("queued", "running")
RESUMABLE = ("stopped", "interrupted", "failed", "lost", "queued")
GRACE = 4.0  # seconds between asking a process to end and ending it
POLL = 1.0  # seconds between two looks at the queue


def start(config: dict[str, Any], runs: str | Path | None = None, together: bool = False, id: str | None = None) -> Run:
    """Create a run and the process that works on it; LabError if another job of the folder is active and not `together`."""
    refuse_read_only()
    folder = root(runs)
    with _turn(folder):
        _refuse_second(folder, together)
        run = Run.create(config, folder, id)
        _launch(run)
    return run


def resume(run: Run, together: bool = False) -> Run:
    """Start a process that goes on with a run that was stopped, interrupted, lost, or has failed."""
    refuse_read_only()
    with _turn(run.dir.parent):
        if run.status == "finished":
            raise LabError(f"run '{run.id}' is finished: there is nothing to resume")
        if run.status == "running" or (run.status == "queued" and run.launch):
            raise LabError(f"run '{run.id}' is {run.status} already")
        _refuse_second(run.dir.parent, together, but=run.id)
        (run.dir / "launch.json").unlink(missing_ok=True)  # of the process before
        run.update(status="queued", error=None, ended=None, waiting=None)
        _launch(run)
    return run


def stop(run: Run, now: bool = False) -> None:
    """Ask an active run to stop after its current task, or end its processes `now`."""
    refuse_read_only()
    with _turn(run.dir.parent):  # or a waiting run could be started between the look and the word
        status = run.status
        if status not in ACTIVE:
            raise LabError(f"run '{run.id}' is {status}: there is nothing to stop")
        if status == "running" and not now:
            return run.request_stop()
        if status == "queued" and not run.launch:
            return run.update(status="stopped", waiting=None)
    process = _process(run)
    if process is not None:
        _end(process)
    if run.info.get("status") == "queued":  # it never came to write its own end
        run.update(status="stopped", waiting=None)


def delete(run: Run) -> None:
    """Remove a run folder for good; LabError if it is active or cannot be removed."""
    refuse_read_only()
    with _turn(run.dir.parent):
        status = _status(run)
        if status == "running" or (status == "queued" and run.launch):
            raise LabError(f"run '{run.id}' is {status}: stop it before deleting it")
        if run.dir.is_symlink():
            raise LabError(f"run '{run.id}' is a link to another folder: delete it where it lies")
        (run.dir / "run.json").unlink(missing_ok=True)  # from here on it is no run, even if the rest is slow to go
    remove(run.dir)
    if run.dir.exists():
        raise LabError(f"run '{run.id}' could not be removed whole: look at what is left in {run.dir}")


def active(runs: str | Path | None = None) -> list[Run]:
    """Runs of a folder that train or wait for their process, oldest first; unreadable folders are passed over."""
    return [run for run in all_runs(runs) if (state := _status(run)) == "running" or (state == "queued" and run.launch)]


# -- the queue -------------------------------------------------------------------------------------------------------------


def enqueue(what: Run | dict[str, Any], runs: str | Path | None = None) -> Run:
    """Let a new run of this configuration, or a run that can be resumed, wait for its turn; returns the run."""
    refuse_read_only()
    folder = what.dir.parent if isinstance(what, Run) else root(runs)
    with _turn(folder):
        if isinstance(what, Run) and (what.status not in RESUMABLE or what in waiting(folder)):
            raise LabError(f"run '{what.id}' is {what.status}: it cannot be put into the queue")
        run = what if isinstance(what, Run) else Run.create(what, folder)
        (run.dir / "launch.json").unlink(missing_ok=True)
        last = max((since for _, since in _queue(folder)), default=0)
        run.update(status="queued", error=None, ended=None, waiting=max(time.time(), last + 1))
        _tend(folder)
    return run


def waiting(runs: str | Path | None = None) -> list[Run]:
    """Runs of a folder that wait for their turn, the next one first."""
    return [run for run, _ in _queue(root(runs))]


def _queue(folder: Path) -> list[tuple[Run, float]]:
    """The waiting runs, the next one first, each with the time since when it waits."""
    found = [(run, since) for run in all_runs(folder) if (since := _since(run))]
    return sorted(found, key=lambda pair: pair[1])


def _since(run: Run) -> float | None:
    """Since when a run waits for its turn; None if it does not, or cannot be read. One look, as it may begin at any time."""
    try:
        info = run.info
        return info.get("waiting") if info.get("status") == "queued" and not run.launch else None
    except LabError:
        return None


def move(run: Run, by: int) -> None:
    """Change places with the neighbour in the queue: `by` -1 is earlier, 1 is later; at the end nothing happens."""
    refuse_read_only()
    with _turn(run.dir.parent):
        queue = _queue(run.dir.parent)
        place = next((i for i, (one, _) in enumerate(queue) if one == run), None)
        if place is None:
            raise LabError(f"run '{run.id}' does not wait in the queue")
        if 0 <= place + by < len(queue):
            (_, own), (other, theirs) = queue[place], queue[place + by]
            run.update(waiting=theirs)
            other.update(waiting=own)


def paused(runs: str | Path | None = None) -> bool:
    return (root(runs) / ".paused").exists()


def pause(on: bool, runs: str | Path | None = None) -> None:
    """Hold the queue, or let it go on; a run that trains is left alone."""
    refuse_read_only()
    folder = root(runs)
    with _turn(folder):
        (folder / ".paused").touch() if on else (folder / ".paused").unlink(missing_ok=True)
        _tend(folder)


def tend(runs: str | Path | None = None) -> None:
    """See to it that a process takes the waiting runs in turn: after a restart of the machine there is none."""
    folder = root(runs)
    if not read_only() and waiting(folder) and not paused(folder):
        with _turn(folder):
            _tend(folder)


def _tend(folder: Path) -> None:
    """Start the queue's process if there is something to do and no such process yet; only within a turn."""
    if paused(folder) or not waiting(folder):
        return
    try:
        with _keeper(folder).acquire(timeout=0):
            pass
    except filelock.Timeout:
        return
    _detached([sys.executable, "-m", "lab.jobs.jobs", str(folder.resolve())], folder / ".queue.log")


def _keeper(folder: Path) -> filelock.FileLock:
    """Held by the process that takes the waiting runs of a folder."""
    return filelock.FileLock(folder / ".queue.lock")


def work(folder: Path) -> None:
    """Start one waiting run after another, each when no other is active; ends when none waits or the queue is held."""
    keeper = _keeper(folder)
    try:
        keeper.acquire(timeout=POLL)
    except filelock.Timeout:
        return
    while True:
        with _turn(folder):  # who adds a run looks for this process within a turn, so the decision to end is seen
            queue = waiting(folder)
            if not queue or paused(folder):
                return keeper.release()
            busy = active(folder)
        if not busy:
            with suppress(LabError):  # somebody else started a run, or stopped this one, in between
                resume(queue[0])
        time.sleep(POLL)


# -- pieces ----------------------------------------------------------------------------------------------------------------


def refuse_read_only() -> None:
    if read_only():
        raise LabError("this lab is read-only (LAB_READ_ONLY): runs can be looked at, not started or stopped")


def read_only() -> bool:
    return os.environ.get("LAB_READ_ONLY", "") not in ("", "0")


def _status(run: Run) -> str:
    try:
        return run.status
    except LabError:
        return "damaged"


def _turn(folder: Path) -> filelock.FileLock:
    """Only one process at a time decides about starting jobs in a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(folder / ".jobs.lock", timeout=10)
    except OSError as error:
        raise LabError(f"the runs folder {folder} cannot be written: {error.strerror}") from error


def _refuse_second(folder: Path, together: bool, but: str = "") -> None:
    busy = [run for run in active(folder) if run.id != but]
    if busy and not together:
        raise LabError(f"run '{busy[0].id}' is {busy[0].status} in this folder: wait for it or stop it first")


def play(content: bytes, speed: float = 10.0, runs: str | Path | None = None) -> Run:
    """Play a replay file as a job; others may train meanwhile, since it computes nothing."""
    refuse_read_only()
    with _turn(root(runs)):
        run = replay_file.create(content, runs, speed)
        _launch(run)
    return run


def command(run: Run) -> list[str]:
    """What works on a run: starts a queued one, continues an interrupted one, plays a replay."""
    if run.info.get("replay"):
        return [sys.executable, "-m", "lab.run_folder.replay_file", str(run.dir.resolve())]
    return [sys.executable, "-m", "lab", "resume", run.id, "--runs", str(run.dir.parent.resolve())]


def _launch(run: Run) -> None:
    """Start the command that works on a run, and note which process it is."""
    pid = _detached(command(run), run.dir / "log.txt")
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:  # it is gone already; its log says why
        started = 0.0
    atomic_io.write_json(run.dir / "launch.json", {"pid": pid, "process_started": started})


def environment() -> dict[str, str]:
    """Of a process that shall find this package and write at once what it has to say."""
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def _detached(words: list[str], log: Path) -> int:
    """Start a command in a session of its own that appends to the file `log`; returns its process id."""
    with open(log, "ab") as out:
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env=environment()
        )
    threading.Thread(target=child.wait, daemon=True).start()  # so that no zombie is left
    return child.pid


def _process(run: Run) -> psutil.Process | None:
    """The process that works on the run, if it is alive."""
    info = run.info if run.info.get("status") == "running" else run.launch
    try:
        process = psutil.Process(info.get("pid") or -1)
        return process if abs(process.create_time() - info.get("process_started", 0)) < 1 else None
    except (psutil.Error, ValueError):
        return None


def _end(process: psutil.Process) -> None:
    """SIGTERM to the process and all it started, SIGKILL to what is left after the grace time."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return
    _signal(process, family, signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=GRACE)
    if left:
        _signal(process, left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=GRACE)


def _signal(process: psutil.Process, family: list[psutil.Process], number: signal.Signals) -> None:
    """To the whole process group if the process leads one, else to each process."""
    try:
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
            return
    except OSError:
        pass
    for member in family:
        try:
            member.send_signal(number)
        except psutil.Error:
            continue


if __name__ == "__main__":
    work(Path(sys.argv[1]))
