"""Isolated experts, joint trainings and queries in the frozen backbone, done once: kept by content address for every run.

An address is a function of plain values and covers all that decides the bytes: backbone weights and arithmetic, the training
examples, the kind of expert and what it begins with, the training settings, the seed, and the versions of the engine. What is
kept is bit-identical to what is trained; an isolated expert is so in whatever order the tasks come. Two processes that train the
same expert at the same time write the same content, each a complete file.
"""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.adapters.initial_adapters import digests
from lab.config.fingerprint import address, differing
from lab.config.schema import BackboneConfig, RunConfig
from lab.core import atomic_io
from lab.data.stream import Task
from lab.store import experts

ENGINE = 5  # raised when the same settings give other bytes

# -- addresses -------------------------------------------------------------------------------------------------------------


def training_address(config: RunConfig, tasks: Sequence[Task], backbone: str, layers: Sequence[str], **beside: Any) -> str:
    """Content address of the parameters that are trained on these tasks: of one task, an isolated expert.

    `backbone` is the identity of the frozen weights, `layers` are the names of the adapted layers, `beside` holds plain values
    that decide the bytes of this kind of training too.
    """
    words = config.answer == "words"  # the names of the labels are trained on, not only their number
    data = [
        {"task": task.name, "labels": task.labels if words else len(task.labels), "data": [row.content for row in task.train]}
        for task in tasks
    ]
    beside_content = ("start", "layers")  # paths, and names of layers that are part of `layers`
    experts = {name: value for name, value in differing(config.experts).items() if name not in beside_content}
    content = {
        "tasks": data,
        "seed": config.seed,
        "layers": [*layers],
        "experts": experts,
        "start": digests(config.experts.start, config.experts.pool or [task.name for task in tasks]),
        "train": differing(config.train),
    }
    own = config.own_digests("expert")
    return _frozen_address(config.backbone, backbone, content | ({"plugins": own} if own else {}) | beside)


def query_address(config: BackboneConfig, task: Task, backbone: str) -> str:
    """Content address of the queries of a task's training examples: the frozen backbone alone counts."""
    return _frozen_address(config, backbone, {"queries": [(example.text, example.pair) for example in task.train]})


def _frozen_address(config: BackboneConfig, backbone: str, content: Mapping[str, Any]) -> str:
    """Content address of something that the frozen backbone computes with."""
    arithmetic = {name: value for name, value in differing(config).items() if name != "name"}
    versions = {"engine": ENGINE, "torch": torch.__version__, "transformers": metadata.version("transformers")}
    return address({**content, **versions, "backbone": backbone, "arithmetic": arithmetic})[:32]


# -- files -----------------------------------------------------------------------------------------------------------------


class Store:
    """A folder of trained parameters named by their content address; the run in the folder `user` notes what it needs of them."""

    def __init__(self, folder: Path, user: Path | None = None):
        self.folder, self.user = folder, user

    def read(self, address: str) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
        """The arrays that are kept and what is known about them, `train_s` too; None if they are not there, or damaged."""
        self._note(address)
        return experts.read(self.folder / f"{address}.safetensors")

    def _note(self, address: str) -> None:
        if self.user is not None:
            experts.note_use(self.folder, self.user, address)

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
        self._note(address)
        arrays = {name: parameter.detach().cpu().numpy() for name, parameter in parameters.items()}
        about |= {"train_s": repr(round(seconds, 3)), "sha256": experts.digest(arrays)}
        atomic_io.write_arrays(self.folder / f"{address}.safetensors", arrays, about)


def strip_task_prefix(parameters: Mapping[str, Tensor], t: int) -> dict[str, Tensor]:
    """Parameters by names without the task's position in the stream."""
    return {name.removeprefix(f"task{t}."): parameter for name, parameter in parameters.items()}
