"""Who may change a folder of runs now, and which of its runs somebody works on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from lab.core.errors import LabError
from lab.run_folder.run import Run
from lab.run_folder.writer import unwritable

PATIENCE = 10.0  # seconds to wait for another process that begins or ends runs of the same folder


@contextmanager
def turn(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Inside the block no other process begins, queues, removes or restores runs of the folder.

    LabError if the folder cannot be written, or another process is in such a block for `patience` seconds (-1: no limit).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".jobs.lock")
        lock.acquire(timeout=patience)
    except filelock.Timeout as error:
        raise LabError(f"another process has been starting or stopping runs in {folder} for {patience:g} s: try again") from error
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def safe_status(run: Run) -> str:
    """The status of a run; "damaged" if its folder cannot be read."""
    try:
        return run.status
    except LabError:
        return "damaged"


def is_active(run: Run) -> bool:
    """Whether a process works on the run or was launched for it; a run that waits in the queue is not active."""
    status = safe_status(run)
    return status == "running" or (status == "queued" and bool(run.launch))
