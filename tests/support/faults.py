"""A writer that dies: from a chosen operation on a folder on, nothing that changes a file succeeds. And damage to files."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


class Killed(BaseException):
    """What is raised from the chosen operation on; nothing that is meant to tidy up can do so."""


class Writer:
    """Counts what changes files of a folder, and stops everything at operation `last` (0-based); `torn`: with half a file."""

    def __init__(self, folder: Path, last: int | None, torn: bool):
        self.folder, self.last, self.torn, self.count, self.opened = str(folder), last, torn, 0, ""

    def see(self, event: str, details: tuple[Any, ...]) -> None:
        path = str(details[0])
        if not path.startswith(self.folder) and not (self.dead and event in CHANGES):
            return
        if event == "open" and not details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if self.last == self.count and self.torn and os.path.isfile(self.opened):
            self.torn = False
            size = os.path.getsize(self.opened)
            self.last, last = None, self.last
            os.truncate(self.opened, size // 2)
            self.last, self.count = last, self.count - 1
        if self.dead:
            raise Killed
        self.count += 1
        self.opened = path if event == "open" else self.opened

    @property
    def dead(self) -> bool:
        return self.last is not None and self.count >= self.last


active: list[Writer] = []


def _hook(event: str, details: tuple[Any, ...]) -> None:
    if active and (event == "open" or event in CHANGES) and not isinstance(details[0], int):
        active[-1].see(event, details)


@contextmanager
def killed(folder: Path, at: int | None = None, torn: bool = False) -> Iterator[Writer]:
    """Inside the block the process dies at operation `at` on the folder; None: never, the operations are counted."""
    if not installed:
        sys.addaudithook(_hook)  # cannot be removed
        installed.append(True)
    active.append(Writer(folder, at, torn))
    try:
        yield active[-1]
    except Killed:
        pass
    finally:
        active.pop()


installed: list[bool] = []


# -- damage ----------------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def poison(path: Path) -> None:
    """Other content altogether, of the same length."""
    path.write_bytes(b"\xff" * path.stat().st_size)


DAMAGE = {
    "flipped": flip,
    "truncated": truncate,
    "missing": Path.unlink,
    "poisoned": poison,
    "empty": lambda p: p.write_bytes(b""),
}
