"""Recorded example runs: which runs are some of them, and which are those of the package."""

from pathlib import Path

from lab import views
from lab.run_folder.run import Run, all_runs, root
from lab.run_folder.run import examples as folder

EXAMPLES = Path(__file__).parents[1] / "examples"  # shipped with the package


def examples() -> list[Run]:
    """The recorded examples that can be read."""
    return views.readable(all_runs(folder()))


def is_own(run: Run) -> bool:
    """Whether a run lies in the folder of runs; every other run is a recorded example."""
    return run.dir.parent.resolve() == root().resolve()


def is_packaged(run: Run) -> bool:
    """Whether a run is an example of the package, whose folder has another path on another machine."""
    return run.dir.parent.resolve() == EXAMPLES.resolve()
