"""Weights & Biases."""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from lab.run_folder.run import Run
from lab.tracking.base import Tracker, folder


class WandB(Tracker):
    """Offline, in `.tracking/wandb` beside the runs, for `wandb sync`; `WANDB_MODE=online` sends at once."""

    name = "wandb"
    package = "wandb"

    def start(self, run: Run, options: Mapping[str, Any]) -> str:
        wandb: Any = importlib.import_module("wandb")

        place = folder(run, self.name)
        place.mkdir(parents=True, exist_ok=True)
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        settings = wandb.Settings(silent=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lab"),
            id=run.id,
            name=run.id,
            dir=str(place),
            mode=mode,
            resume="allow",
            config=dict(options),
            settings=settings,
        )
        return f"wandb sync {place}/wandb/offline-run-*-{run.id}" if mode == "offline" else str(self.run.url)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def figure(self, name: str, figure: Any) -> None:
        self.run.log({name: figure})

    def end(self, status: str) -> None:
        self.run.summary["status"] = status
        self.run.finish(exit_code=1 if status == "failed" else 0)
