"""Processes of jobs, in tests."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.jobs import scheduler


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
