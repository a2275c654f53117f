"""Jobs: runs that train in a process of their own, which outlives the page, the shell or the server that started it.

Nothing is remembered here. A job is its run folder; its status is derived from the files and the process each time.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import filelock
import psutil

from lab import files
from lab.errors import LabError
from lab.runs import Run, all_runs, root

ACTIVE = ("queued", "running")
RESUMABLE = ("stopped", "interrupted", "failed", "lost", "queued")
GRACE = 4.0  # seconds between asking a process to end and ending it


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
        run.update(status="queued", error=None, ended=None)
        _launch(run)
    return run


def stop(run: Run, now: bool = False) -> None:
    """Ask an active run to stop after its current task, or end its processes `now`."""
    refuse_read_only()
    status = run.status
    if status not in ACTIVE:
        raise LabError(f"run '{run.id}' is {status}: there is nothing to stop")
    if status == "running" and not now:
        run.request_stop()
        return
    process = _process(run)
    if process is not None:
        _end(process)
    if run.info.get("status") == "queued":  # it never came to write its own end
        run.update(status="stopped")


def active(runs: str | Path | None = None) -> list[Run]:
    """Runs of a folder that train or wait for their process, oldest first; unreadable folders are passed over."""
    return [run for run in all_runs(runs) if _status(run) in ACTIVE and (run.launch or _status(run) == "running")]


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


def command(run: Run) -> list[str]:
    """What works on a run: starts a queued one, continues an interrupted one."""
    return [sys.executable, "-m", "lab", "resume", run.id, "--runs", str(run.dir.parent.resolve())]


def _launch(run: Run) -> None:
    """Start the command in a session of its own, writing to log.txt, and note which process it is."""
    package = str(Path(__file__).resolve().parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    with open(run.dir / "log.txt", "ab") as log:
        child = subprocess.Popen(
            command(run), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
        )
    threading.Thread(target=child.wait, daemon=True).start()  # so that no zombie is left
    try:
        started = psutil.Process(child.pid).create_time()
    except psutil.Error:  # it is gone already; its log says why
        started = 0.0
    files.write_json(run.dir / "launch.json", {"pid": child.pid, "process_started": started})


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
