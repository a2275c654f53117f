"""TensorBoard."""

from collections.abc import Mapping
from typing import Any

from lab.core.documents import yaml_text
from lab.run_folder.run import Run
from lab.tracking.base import Tracker, folder


class TensorBoard(Tracker):
    """Event files in `.tracking/tensorboard/<run>` beside the runs; figures there as HTML."""

    name = "tensorboard"
    package = "tensorboard"

    def start(self, run: Run, options: Mapping[str, Any]) -> str:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder(run, self.name) / run.id
        self.writer = SummaryWriter(str(self.folder))
        self.writer.add_text("config", f"```\n{yaml_text(run.config)}\n```")
        return f"tensorboard --logdir {self.folder.parent}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def figure(self, name: str, figure: Any) -> None:
        figure.write_html(self.folder / f"{name}.html", include_plotlyjs="cdn")

    def end(self, status: str) -> None:
        self.writer.add_text("status", status)
        self.writer.close()
