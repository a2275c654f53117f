"""What can happen in a run, as small frozen records. Training yields them; everything else reads them.

What counts as a task is up to the protocol of the run: in protocol transfer, joint training and each adaptation.

`to_json` gives the line that is appended to `events.jsonl`: the fields plus `kind`. Fields marked `bulk` hold arrays
for the files of the run folder and stay out of the line.
"""

from dataclasses import dataclass, field, fields
from typing import Any

BULK = {"bulk": True}  # metadata of fields that are not part of the event's JSON line


@dataclass(frozen=True)
class Event:
    """Base of all events; `progress` is the share of the whole run's work that is done, in [0, 1]."""

    def to_json(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self) if not f.metadata.get("bulk")}
        return {"kind": type(self).__name__, **values}


@dataclass(frozen=True)
class RunStarted(Event):
    tasks: list[str]
    labels: list[list[str]]
    layers: list[str]  # adapted layers, in forward order
    device: str
    examples: list[int]  # training examples per task
    progress: float = 0.0
    notes: list[str] = field(default_factory=list)  # sentences on what was decided or left out without being asked for


@dataclass(frozen=True)
class Preparing(Event):
    """What is done before the first task, and how much of it where it is counted; not written among the events of the folder."""

    what: str
    done: int = 0
    total: int = 0  # 0: it is not counted
    progress: float = 0.0


@dataclass(frozen=True)
class Recovered(Event):
    """A run that goes on was found damaged: what was wrong and what was done about it, in sentences."""

    what: list[str]
    progress: float


@dataclass(frozen=True)
class TaskStarted(Event):
    task: int
    name: str
    experts: int  # experts in the bank, the new one included
    trainable_parameters: int
    reused: bool  # the expert came from the store; nothing is trained
    progress: float


@dataclass(frozen=True)
class Step(Event):
    """One optimiser step; `phase`: "train" (stage A, on the task), "gate" (a router's own part for it), "memory" (stage B)."""

    task: int
    phase: str
    epoch: int
    epochs: int
    step: int  # 1-based within the phase
    steps: int
    terms: dict[str, Any]  # named loss terms; tensors until somebody writes them down
    lr: float
    progress: float

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"terms": {name: float(value) for name, value in self.terms.items()}}


@dataclass(frozen=True)
class Learned(Event):
    """Stage A of a task is done: its expert is final where experts are per task."""

    task: int
    name: str
    progress: float


@dataclass(frozen=True)
class Evaluating(Event):
    """Examples of task `task` evaluated so far; only for progress bars, not written to the run folder."""

    after: int  # -1: before training
    task: int
    done: int
    total: int
    progress: float


@dataclass(frozen=True)
class Evaluated(Event):
    """Score on one task after learning task `after` (-1: before training on it or on any)."""

    after: int
    task: int
    score: float
    examples: int
    progress: float
    split: str = "test"
    scores: dict[str, float] = field(default_factory=dict)  # further ones by name, of texts ROUGE-L
    predictions: Any = field(default=None, metadata=BULK)  # lab.training.evaluation.Predictions
    routing: Any = field(default=None, metadata=BULK)  # lab.training.evaluation.RoutingSums or None


@dataclass(frozen=True)
class OracleEvaluated(Event):
    """Score on one task at the end when the true task picks the expert, same unmasked labels."""

    task: int
    score: float
    progress: float


@dataclass(frozen=True)
class TaskEnded(Event):
    """Task learned, memory filled, row of the matrix complete."""

    task: int
    name: str
    stored_examples: int
    stored_bytes: int
    progress: float


@dataclass(frozen=True)
class RunEnded(Event):
    cost: dict[str, Any]
    uses: dict[str, Any]
    progress: float = 1.0
