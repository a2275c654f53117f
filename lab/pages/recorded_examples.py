"""Recorded example runs: the folder they lie in, and which runs are some of them."""

import os
from pathlib import Path

from lab import views
from lab.run_folder.run import Run, all_runs, root

EXAMPLES = Path(__file__).parents[1] / "examples"  # shipped with the package


def folder() -> Path:
    """The folder of recorded examples: that of the package, or the one named in LAB_EXAMPLES."""
    return Path(os.environ.get("LAB_EXAMPLES") or EXAMPLES)


def examples() -> list[Run]:
    """The recorded examples that can be read."""
    return views.readable(all_runs(folder()))


def is_own(run: Run) -> bool:
    """Whether a run lies in the folder of runs; every other run is a recorded example."""
    return run.dir.parent.resolve() == root().resolve()


def is_packaged(run: Run) -> bool:
    """Whether a run is an example of the package, whose folder has another path on another machine."""
    return run.dir.parent.resolve() == EXAMPLES.resolve()
