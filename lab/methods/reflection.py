"""Attentive reflection (SAPT, Zhao et al. 2024): examples of earlier tasks are still sent where they were when learned.

Loss: strength * sum over earlier tasks s of the mean over examples x of s of KL(a*_x || a(x)), with a*_x the weights recorded
when s was learned, 0 for experts that came later, and a(x) the present ones. The examples are stored ones, or as in the paper
pseudo-examples that a generator wrote for each task (there 2 % of its training examples); only their texts are used.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lab.core import documents
from lab.core.errors import LabError, unknown
from lab.core.registry import Options
from lab.data.batching import UNLABELLED, Batch, Encoded
from lab.data.replay_buffer import Memory
from lab.data.stream import Example, Task
from lab.methods.base import Method
from lab.models.learner import Learner, Output
from lab.routers.base import Request

LARGEST = 1 << 28  # bytes of a file of generated texts


class ReflectionOptions(Options):
    name: str = "reflection"
    strength: float = Field(1.0, ge=0, le=1e6, description="weight of the divergence; the published scripts use 0.1 to 2")
    target: Literal["sample", "task"] = Field(
        "task", description="weights that an example is held to; sample: its own; task: their mean over its task's examples"
    )
    per_step: int = Field(32, ge=1, le=4096, description="examples of earlier tasks drawn at each step, for the router alone")
    pseudo: str | None = Field(
        None,
        description='file of generated examples in place of stored ones, one JSON object {"task": name, "text": text} per line; '
        "null: stored ones",
    )


class Reflection(Method):
    """On examples of earlier tasks, stored or generated, the router's weights are held near those when the task was learned."""

    name = "reflection"
    Options = ReflectionOptions
    options: ReflectionOptions
    uses_memory = True

    def __init__(self, options: ReflectionOptions, learner: Learner, memory: Memory):
        super().__init__(options, learner, memory)
        self.texts = pseudo_examples(options.pseudo, learner.task_names) if options.pseudo else {}
        self.source = self.generated if options.pseudo else memory
        self.recorded: dict[tuple[int, str, int], Tensor] = {}  # target of every example of the source by its key: (E,)
        self.sampled: list[Encoded] = []  # at the step in progress
        self.sampled_request: Request | None = None  # what the router is asked about them

    @classmethod
    def check(cls, config: Any) -> None:
        if config.router.name != "attention":
            raise LabError(f"methods.reflection holds the weights of router attention, router is {config.router.name}")

    @classmethod
    def check_tasks(cls, config: Any, tasks: Sequence[Task]) -> None:
        super().check_tasks(config, tasks)
        if file := config.methods[cls.name].pseudo:
            pseudo_examples(file, [task.name for task in tasks])

    @classmethod
    def given(cls, options: ReflectionOptions) -> str:
        return "generated" if options.pseudo else "stored"

    def rows(self, rows: list[Encoded], generator: torch.Generator) -> list[Encoded]:
        self.sampled = self.source.sample(self.options.per_step, generator)
        self.sampled_request = self._request(self.sampled) if self.sampled else None
        return rows

    def terms(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        if self.sampled_request is None:
            return {}
        scores = self.learner.router(self.sampled_request).steps["scores"][:, 0, 0]  # (M, E)
        target = torch.stack([self.recorded[row.key] for row in self.sampled])  # (M, E), without the newest expert
        task = torch.tensor([row.task for row in self.sampled], device=scores.device)
        return {"reflection": self.options.strength * divergence(scores, target, task)}

    @torch.no_grad()
    def end_task(self, t: int, rows: list[Encoded]) -> None:
        """Earlier targets are kept as they are, 0 for the new expert; examples of the task get theirs."""
        self._keep(t)
        self.recorded = {row.key: self.recorded[row.key] for row in self.source.rows if row.key in self.recorded}
        self.recorded = {key: F.pad(weights, (0, 1)) for key, weights in self.recorded.items()}
        new = [row for row in self.source.rows if row.key not in self.recorded]
        if not new:
            return
        weights = self.learner.router(self._request(new)).weights[:, 0, 0]  # (N, E)
        if self.options.target == "task":
            weights = weights.mean(0).expand_as(weights)
        targets = self.recorded | {row.key: kept for row, kept in zip(new, weights, strict=True)}
        self.recorded = {row.key: targets[row.key] for row in self.source.rows}

    def _keep(self, t: int) -> None:
        """Keep the pseudo-examples of task t, if there are any."""
        name = self.learner.task_names[t]
        if self.texts:
            examples = [Example(text, UNLABELLED) for text in self.texts[name]]
            self.generated.add(Task(name, (), examples, (), ()), self.learner.encode(examples, t, "generated"))

    def _request(self, rows: list[Encoded]) -> Request:
        return self.learner.inputs.request(self.learner.router, self.learner.backbone.collate(rows))

    def state(self) -> dict[str, Tensor]:
        pseudo = {"pseudo": digest(self.texts)} if self.texts else {}
        return pseudo | ({"recorded": torch.stack([*self.recorded.values()])} if self.recorded else {})

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        if self.texts and not torch.equal(tensors["pseudo"].cpu(), digest(self.texts)):
            raise LabError(f"methods.reflection.pseudo = {self.options.pseudo}: the file has changed since the run began")
        recorded = tensors["recorded"].to(self.learner.backbone.device) if "recorded" in tensors else []
        while self.texts and len(self.generated) < len(recorded):
            self._keep(len({row.task for row in self.generated.rows}))
        self.recorded = {row.key: weights for row, weights in zip(self.source.rows, recorded, strict=True)}


def pseudo_examples(file: str, tasks: Sequence[str]) -> dict[str, list[str]]:
    """Generated texts of every task, from a file of JSON lines {"task": name, "text": text}.

    Raises LabError for a file that is missing or cannot be read, for a line of another form, for a task that is not in the
    stream, and for a task of the stream without an example.
    """
    where = f"methods.reflection.pseudo = {file}"
    texts_of: dict[str, list[str]] = {task: [] for task in tasks}
    try:
        with documents.opened(Path(file), LARGEST) as content:
            lines = content.read().decode().splitlines()
    except (LabError, OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None) or error
        raise LabError(f"{where}: the file cannot be read ({reason})") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = documents.json_value(line)
            task, text = row["task"], row["text"]
        except (ValueError, KeyError, TypeError):
            task, text = None, None
        if not isinstance(task, str) or not isinstance(text, str) or not text.strip():
            raise LabError(f'{where}, line {number}: write {{"task": name, "text": text}}, with a text that is not empty')
        if task not in texts_of:
            raise LabError(f"{where}, line {number}: {unknown('task', task, tasks)}")
        texts_of[task].append(text)
    for task, texts in texts_of.items():
        if not texts:
            raise LabError(f"{where}: there is no example of task '{task}', and every task of the stream needs one")
    return texts_of


def digest(texts: dict[str, list[str]]) -> Tensor:
    """SHA-256 of the texts by task: (32,) uint8."""
    content = json.dumps(texts, sort_keys=True).encode()
    return torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8)


def divergence(scores: Tensor, target: Tensor, task: Tensor) -> Tensor:
    """KL(target || softmax(scores)), mean over the rows of each task and summed over tasks.

    scores (M, E), target (M, E' <= E) with 0 for the experts it lacks, task (M,).
    """
    target = F.pad(target, (0, scores.shape[1] - target.shape[1]))
    each = F.kl_div(scores.log_softmax(-1), target, reduction="none").sum(-1)  # (M,)
    return torch.stack([each[task == s].mean() for s in task.unique()]).sum()
