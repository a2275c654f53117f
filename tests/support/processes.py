"""Processes of jobs, in tests."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.comparison import grid_runner
from lab.jobs import scheduler
from lab.run_folder.run import Run
from lab.run_folder.writer import update_info


class Gone:
    """A process that is not there."""

    pid = 0

    def poll(self) -> int | None:
        return None


def launch_nothing(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """From here on jobs start no process; returns the commands that they would have started, as they come."""
    commands: list[list[str]] = []

    def detached(words: Sequence[str], log: Path) -> Gone:
        commands.append([*words])
        return Gone()

    monkeypatch.setattr(scheduler, "detached", detached)
    return commands


def broken_cell(id: str, folder: str, environment: dict[str, str], track: str | None = None) -> None:
    """In place of `grid_runner.work`: cells of replay end in several ways, those of sequential work.

    It stands here because the process of a cell imports it by name, which it cannot do with a test module.
    """
    if id.startswith("replay") and "-s0-" in id:
        os.kill(os.getpid(), signal.SIGKILL)
    if id.startswith("replay"):
        update_info(Run(Path(folder) / id), status="failed", error="the loss is not finite")
        sys.exit(1)
    grid_runner.work(id, folder, environment, track)
