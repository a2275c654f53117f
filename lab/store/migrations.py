"""Run folders of earlier formats, brought to the present one step at a time. What a step changes is kept beside it in `former/`.

Folders of earlier formats are read as they are (`lab.config.former_names`); newer ones are refused. A step belongs to the format
that it begins with: 0 is that of version 0.1, whose `run.json` names no format.
"""

import shutil
from collections.abc import Callable
from typing import Any

from lab.core import atomic_io
from lab.run_folder.run import FORMAT, Run
from lab.run_folder.writer import lease_of, update_info


def format_of(run: Run) -> int:
    return run.info.get("format", 0)


def migrate(run: Run) -> None:
    """Bring a run to the present format; LabError if somebody works on it or it cannot be read."""
    with lease_of(run):
        while (written := format_of(run)) < FORMAT:
            STEPS[written](run)
            update_info(run, format=written + 1)


def _names_of_0_2(run: Run) -> None:
    """config.yaml with the present names of its fields."""
    config: dict[str, Any] = run.config
    former = run.dir / "former" / "config.yaml"
    if not former.exists():  # a step that was interrupted begins anew
        former.parent.mkdir(exist_ok=True)
        shutil.copy2(run.dir / "config.yaml", former)
    atomic_io.write_yaml(run.dir / "config.yaml", config)


STEPS: dict[int, Callable[[Run], None]] = {0: _names_of_0_2}
