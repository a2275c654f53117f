"""Fixtures that any test may use."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell: tests interrupt what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path

import hypothesis
import pytest
from support.cells import cells, nothing_registered  # noqa: F401 (fixtures)
from support.run_folders import (
    FORGETS,
    KEEPS,
    write_run,
)

# A failing example is printed with the line that runs it again.
hypothesis.settings.register_profile("lab", print_blob=True, deadline=None)
hypothesis.settings.load_profile("lab")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests come first, so that at the end no process works while the others wait."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session", autouse=True)
def quick_disk():
    """Tests write thousands of small files: no one waits until each is on the disk (processes that tests start do)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody says how wide the terminal is: what another library noted in this process does not count."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of runs that screens and commands use, and no recorded examples."""
    folder, examples = tmp_path / "runs", tmp_path / "examples"
    folder.mkdir(), examples.mkdir()
    monkeypatch.setenv("LAB_RUNS", str(folder))
    monkeypatch.setenv("LAB_EXAMPLES", str(examples))
    monkeypatch.delenv("LAB_READ_ONLY", raising=False)
    return folder


@pytest.fixture
def recorded(runs: Path) -> Path:
    """The folder of recorded examples, holding a sequential run and a routed one."""
    folder = runs.parent / "examples"
    write_run(folder, "builtin-sequential", "sequential", FORGETS, routed=False)
    write_run(folder, "builtin-l2r", "l2r", KEEPS)
    return folder
