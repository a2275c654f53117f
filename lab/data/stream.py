"""Tasks and streams: texts and labels only, no tensors. A stream is an ordered list of tasks, checked at load."""

import hashlib
import json
import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from lab.core import names
from lab.core.errors import LabError, unknown
from lab.core.plugin_errors import wrong_return
from lab.core.registry import Plugin

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MAX_LABELS = 1000  # of one task; more is a regression or an identifier in the label column


class Example(NamedTuple):
    """One labelled text, or pair of texts; `label` indexes the labels of its task.

    In a task of free text the label is 0 and `targets` holds the accepted answers; the first one is learned.
    """

    text: str
    label: int
    pair: str | None = None
    targets: tuple[str, ...] = ()

    @property
    def content(self) -> list[Any]:
        """Plain values for content addresses."""
        return [*self] if self.targets else [self.text, self.label, self.pair]


@dataclass(frozen=True)
class Task:
    """A labelled text problem with disjoint train, validation and test examples; without labels it asks for free text."""

    name: str
    labels: tuple[str, ...]
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    about: str = ""
    notes: tuple[str, ...] = ()  # what was done to the rows while they were read, in sentences

    def split(self, name: Split) -> Sequence[Example]:
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @property
    def generates(self) -> bool:
        """Whether the answers are free text."""
        return not self.labels

    def summary(self) -> dict[str, Any]:
        """Its name and sizes, one row of a table of tasks."""
        return {"task": self.name, "labels": len(self.labels), **{split: len(self.split(split)) for split in SPLITS}}

    def digest(self) -> str:
        """SHA-256 over labels and examples: the identity of the data in content addresses."""
        content = [self.labels, *([example.content for example in self.split(s)] for s in SPLITS)]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


class Stream(Plugin):
    """A source of tasks; one file in `lab/data/streams/` per stream, or a folder on disk.

    `orders` names published task orders by their list. `names` is cheap; `load` reads texts.
    """

    kind = "stream"
    name: str  # of a folder: its own
    orders: dict[str, tuple[str, ...]] = {}
    fit: ClassVar[Mapping[str, Any]] = {}  # settings that recipes made for other streams need here
    downloads: bool = False  # whether loading a task may need the network

    @property
    def reference(self) -> str:
        """What a configuration calls it."""
        return self.name

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all tasks, alphabetical."""

    @abstractmethod
    def load(self, name: str) -> Task:
        """Task `name` with all its examples, unchecked."""


def task_of(stream: Stream, name: str) -> Task:
    """Task `name` of a stream; LabError for what is no task, and for one that `check` refuses."""
    task = stream.load(name)
    if not isinstance(task, Task):
        raise LabError(wrong_return(stream, "load", task, "a Task"))
    return check(task)


def check(task: Task) -> Task:
    """Return the task if it is usable; raise a LabError that names task, split and row if not."""
    if problem := names.fault(task.name):
        raise LabError(f"the name of task {task.name[:60]!r} {problem}: it names a folder of experts, so give it another one")
    where = f"task '{task.name}'"
    if len(task.labels) == 1 or not (task.labels or any(example.targets for example in task.train)):
        raise LabError(f"{where} has {len(task.labels)} label(s): a task needs at least 2")
    refuse_many(task.name, task.labels)
    if len(set(task.labels)) < len(task.labels):
        raise LabError(f"{where} names a label twice: {', '.join(task.labels[:8])}")
    owner: dict[tuple[str, str | None], str] = {}
    for split in SPLITS:
        examples = task.split(split)
        if len(examples) < 2:
            raise LabError(f"{where}, {split}: {len(examples)} example(s); at least 2 are needed")
        for row, example in enumerate(examples):
            if not (isinstance(example, Example) and isinstance(example.text, str) and isinstance(example.label, int)):
                raise LabError(f"{where}, {split}, row {row} is {str(example)[:60]}: give Example(text, number of the label)")
            if not example.text.strip():
                raise LabError(f"{where}, {split}, row {row}: empty text")
            if task.generates and not all(target.strip() for target in example.targets or [""]):
                raise LabError(f"{where}, {split}, row {row}: empty target")
            if not 0 <= example.label < max(len(task.labels), 1):
                raise LabError(f"{where}, {split}, row {row}: label {example.label} is outside 0..{len(task.labels) - 1}")
            seen = owner.setdefault((example.text, example.pair), split)
            if seen != split:
                raise LabError(f"{where}: a text of {split} (row {row}) is also in {seen}: splits must be disjoint")
    if task.labels and len({example.label for example in task.train}) < 2:
        raise LabError(f"{where}: the training examples hold one label only")
    return task


def refuse_many(task: str, labels: Sequence[str]) -> None:
    """LabError for a task with more labels than any has."""
    if len(labels) > MAX_LABELS:
        raise LabError(
            f"task '{task}' has {len(labels):,} labels: at most {MAX_LABELS:,} are allowed; is the label column an identifier?"
        )


def disjoint(task: Task) -> Task:
    """The task without the training texts that are evaluated on, and without the validation texts that are tested on."""
    kept: dict[Split, list[Example]] = {}
    seen: set[tuple[str, str | None]] = set()
    for split in reversed(SPLITS):
        kept[split] = [example for example in task.split(split) if (example.text, example.pair) not in seen]
        seen |= {(example.text, example.pair) for example in kept[split]}
    dropped = {split: len(task.split(split)) - len(kept[split]) for split in SPLITS}
    if not any(dropped.values()):
        return task
    sizes = ", ".join(f"{split} {number:,}" for split, number in dropped.items() if number)
    return replace(task, **kept, notes=(*task.notes, f"texts that are in a later split too are left out ({sizes})"))


def as_text(task: Task) -> Task:
    """The task with the name of each label as the text to write; a task of free text as it is."""
    if task.generates:
        return task
    splits = {s: [example._replace(label=0, targets=(task.labels[example.label],)) for example in task.split(s)] for s in SPLITS}
    return replace(task, labels=(), **splits)


class Labelled(Protocol):
    """Whatever has a label within its task: an example, or one that is tokenised."""

    @property
    def label(self) -> int: ...


Labelling = TypeVar("Labelling", bound=Labelled)


def sample(examples: Sequence[Labelling], limit: int | None, key: str, per_label: int | None = None) -> Sequence[Labelling]:
    """At most `limit` examples, label-balanced as far as the labels allow, drawn by `key`, in their old order.

    Of each label at most `per_label`.
    """
    limit = len(examples) if limit is None else limit
    if limit >= len(examples) and per_label is None:
        return examples
    draw = random.Random(key)
    by_label: dict[int, list[int]] = {}
    for row, example in enumerate(examples):
        by_label.setdefault(example.label, []).append(row)
    queues = [draw.sample(rows, len(rows))[:per_label] for _, rows in sorted(by_label.items())]
    draw.shuffle(queues)  # which labels get one more when the limit does not divide
    kept: list[int] = []
    while len(kept) < limit and any(queues):
        kept += [queue.pop() for queue in queues if queue][: limit - len(kept)]
    return [examples[row] for row in sorted(kept)]


def limited(
    task: Task,
    seed: int,
    max_train: int | None = None,
    max_validation: int | None = None,
    max_test: int | None = None,
    max_per_label: int | None = None,
) -> Task:
    """The task with its splits sub-sampled; drawn by (seed, task, split), so other tasks and orders change nothing."""
    limits: dict[Split, tuple[int | None, int | None]] = {  # per split, and per label
        "train": (max_train, max_per_label),
        "validation": (max_validation, None),
        "test": (max_test, None),
    }
    samples = {
        split: sample(task.split(split), most, f"{seed}/{task.name}/{split}", most_per_label)
        for split, (most, most_per_label) in limits.items()
    }
    return replace(task, **samples)


def order(available: Sequence[str], tasks: Sequence[str] | None) -> list[str]:
    """The tasks in the given order, or all of them alphabetically; unknown and repeated names are refused."""
    if tasks is None:
        return sorted(available)
    for name in tasks:
        if name not in available:
            raise unknown("task", name, available)
    if len(set(tasks)) < len(tasks):
        raise LabError(f"stream.tasks names a task twice: {', '.join(tasks)}")
    if not tasks:
        raise LabError("stream.tasks is empty: name at least one task")
    return list(tasks)
