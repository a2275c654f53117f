"""Isolated experts, joint trainings and queries in the frozen backbone, done once: kept by content address for every run.

The address covers all that decides the bytes: backbone weights and arithmetic, the training examples, the kind of expert and what
it begins with, the training settings, the seed, and the versions of the engine. What is kept is bit-identical to what is trained;
an isolated expert is so in whatever order the tasks come. Two processes that train the same one at the same time write the same
content, each whole.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lab.adapters.initial_adapters import digests
from lab.core import atomic_io

if TYPE_CHECKING:
    from lab.training.trainer import Session

ENGINE = 5  # raised when the same settings give other bytes


class Store:
    """A folder of trained parameters named by their content address."""

    def __init__(self, folder: Path):
        self.folder = folder

    def address(self, session: "Session", t: int) -> str:
        """Content address of the expert that `session` trains for task t."""
        task = session.tasks[t]
        data = [example.content for example in task.train]
        labels = task.labels if session.config.answer == "words" else len(task.labels)
        began = digests(session.config.experts.start, [task.name])
        return self.address_of(session, {"task": task.name, "labels": labels, "data": data} | began)

    @staticmethod
    def address_of(session: "Session", data: dict[str, Any]) -> str:
        """Content address of what `session` trains on some data, with what else is particular to that training."""
        config = session.config
        return _address(
            session,
            data
            | {
                "seed": config.seed,
                "layers": [layer.name for layer in session.learner.bank.layers],
                "experts": config.experts.model_dump(mode="json", exclude={"start"}),
                "train": config.train.model_dump(mode="json"),
            },
        )

    @staticmethod
    def address_of_queries(session: "Session", t: int) -> str:
        """Content address of the queries of the training examples of task t: the frozen backbone alone counts."""
        return _address(session, {"queries": [(example.text, example.pair) for example in session.tasks[t].train]})

    def read(self, address: str) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
        """The arrays that are kept and what is known about them, `train_s` too; None if they are not there."""
        path = self.folder / f"{address}.safetensors"
        return atomic_io.read_arrays(path) if path.is_file() else None

    def fetch(self, address: str, parameters: Mapping[str, Tensor]) -> dict[str, str] | None:
        """Fill the parameters with what is kept and return what is known about it, see `read`."""
        kept = self.read(address)
        if kept is None:
            return None
        arrays, about = kept
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(arrays[name]))
        return about

    def keep(self, address: str, parameters: Mapping[str, Tensor], seconds: float, **about: str) -> None:
        """Keep trained parameters, the seconds their training took, and what else is to be known about them."""
        arrays = {name: parameter.detach().cpu().numpy() for name, parameter in parameters.items()}
        atomic_io.write_arrays(self.folder / f"{address}.safetensors", arrays, {"train_s": repr(round(seconds, 3)), **about})


def _address(session: "Session", content: dict[str, Any]) -> str:
    """Content address of something that the frozen backbone computes with."""
    config, backbone = session.config.backbone, session.learner.backbone
    content = content | {
        "engine": ENGINE,
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "backbone": backbone.identity,
        "pooling": backbone.pooling,
        "arithmetic": config.model_dump(exclude={"name"}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def strip_task_prefix(parameters: dict[str, Tensor], t: int) -> dict[str, Tensor]:
    """Parameters by names without the task's position in the stream."""
    return {name.removeprefix(f"task{t}."): parameter for name, parameter in parameters.items()}
