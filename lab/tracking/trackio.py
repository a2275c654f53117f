"""Trackio."""

import importlib
from collections.abc import Mapping
from typing import Any

from lab.run_folder.run import Run
from lab.tracking.base import Tracker, folder

PROJECT = "lab"


class Trackio(Tracker):
    """Local, where trackio keeps its projects (`TRACKIO_DIR`); figures as HTML in `.tracking/trackio/<run>` beside the runs."""

    name = "trackio"
    package = "trackio"

    def start(self, run: Run, options: Mapping[str, Any]) -> str:
        trackio: Any = importlib.import_module("trackio")

        self.tool, self.folder = trackio, folder(run, self.name) / run.id
        config = {
            name: value if isinstance(value, str | int | float | bool | None) else str(value) for name, value in options.items()
        }
        trackio.init(project=PROJECT, name=run.id, config=config, resume="allow", embed=False)
        return f"trackio show --project {PROJECT}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.tool.log(dict(values), step=step)

    def figure(self, name: str, figure: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        figure.write_html(self.folder / f"{name}.html", include_plotlyjs="cdn")

    def end(self, status: str) -> None:
        self.tool.finish()
