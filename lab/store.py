"""Isolated experts, trained once: kept by content address and taken by every run that would train the same thing.

The address covers all that decides the bytes: backbone weights and arithmetic, the task's training examples, the kind of
expert, the training settings, the seed, and the versions of the engine. A kept expert is bit-identical to a trained one, in
whatever order the tasks come. Two processes that train the same one at the same time write the same content, each whole.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lab import files

if TYPE_CHECKING:
    from lab.loop import Session

ENGINE = 4  # raised when the same settings give other bytes


class Store:
    """A folder of experts named by their content address."""

    def __init__(self, folder: Path):
        self.folder = folder

    def address(self, session: "Session", t: int) -> str:
        """Content address of the expert that `session` trains for task t."""
        config, task = session.config, session.tasks[t]
        content: dict[str, Any] = {
            "engine": ENGINE, "torch": torch.__version__, "seed": config.seed, "task": task.name, "labels": len(task.labels),
            "data": [example.content for example in task.train], "backbone": session.learner.backbone.identity,
            "arithmetic": config.backbone.model_dump(exclude={"name"}), "pooling": session.learner.backbone.pooling,
            "layers": [layer.name for layer in session.learner.bank.layers],
            "experts": config.experts.model_dump(mode="json"), "train": config.train.model_dump(mode="json"),
        }  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def fetch(self, session: "Session", t: int, parameters: dict[str, Tensor]) -> float | None:
        """Fill the parameters of a kept expert and return the seconds its training took; None if it is not there."""
        path = self.folder / f"{self.address(session, t)}.safetensors"
        if not path.is_file():
            return None
        arrays, about = files.read_arrays(path)
        names = _names(parameters, t)
        with torch.no_grad():
            for own, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(arrays[names[own]]))
        return float(about["train_s"])

    def keep(self, session: "Session", t: int, parameters: dict[str, Tensor], seconds: float) -> None:
        """Keep a trained expert and the seconds its training took."""
        names = _names(parameters, t)
        arrays = {names[own]: parameter.detach().cpu().numpy() for own, parameter in parameters.items()}
        files.write_arrays(self.folder / f"{self.address(session, t)}.safetensors", arrays, {"train_s": repr(round(seconds, 3))})


def _names(parameters: dict[str, Tensor], t: int) -> dict[str, str]:
    """Names without the task's position in the stream."""
    return {name: name.removeprefix(f"task{t}.") for name in parameters}
