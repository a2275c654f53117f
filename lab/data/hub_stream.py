"""Benchmarks from the Hugging Face hub: a table of `HubTask`s per benchmark, and the one loader that reads them all.

Data sets are named by repository, configuration and commit, and hold Parquet (or csv) files: no code of a data set is run.
Where only the hub's own Parquet conversion of a data set exists, the revision is its branch `refs/convert/parquet` or a commit
of it, and `data_dir` names the configuration's folder there.

Splits. Hidden test labels (-1) and rows without text are left out. Texts that occur twice, within or across splits, are kept
once: test first, then validation, then train. Missing splits are cut off the remaining training rows, label-balanced and drawn
by a fixed key, so they are the same for every seed: test a fifth, validation a fifth but at most 200 per label (MoCL's number).
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from lab.core.errors import LabError, unknown
from lab.data.file_reading import class_name, first_line
from lab.data.label_reading import HIDDEN, label_text
from lab.data.stream import Example, Split, Stream, Task, sample
from lab.data.tables import Declared, Row, Table, labelled, read_as

PARQUET_BRANCH = "refs/convert/parquet"
TRAIN_POOL, TEST_POOL = 115_000, 7_600  # rows of a task at most: de Masson d'Autume et al. (2019); the T5 line tests on 7,600 too
CUT_SHARE, VALIDATION_PER_LABEL = 0.2, 200


@dataclass(frozen=True)
class HubTask:
    """Where a task lies on the hub, and how a row of it becomes text, pair and label."""

    repo: str
    text: str  # template over the columns; a line that stays empty is left out
    pair: str | None = None
    label: str = "label"
    labels: tuple[str, ...] | None = None  # names by number; None: those of the ClassLabel column
    first_label: int = 0  # number of the first label (1 for star ratings)
    config: str | None = None
    data_dir: str | None = None  # folder of the configuration, for the hub's Parquet conversion
    revision: str | None = None
    train: str = "train"
    validation: str | None = None  # None: cut off train
    test: str | None = "test"
    where: tuple[str, int] | None = None  # (column, value) of the rows that belong to this task


class HubStream(Stream):
    """A published benchmark from the hub. `root` reads `root/<repo>` instead, a local copy in the hub's layout."""

    downloads = True
    tasks: ClassVar[Mapping[str, HubTask]] = {}
    aliases: ClassVar[Mapping[str, str]] = {}  # other names in use -> name here

    def __init__(self, root: str | Path | None = None):
        self.root = Path(root) if root is not None else None

    def names(self) -> list[str]:
        return sorted(self.tasks)

    def load(self, name: str) -> Task:
        """Task `name`; `about` says where it came from and how many repeated texts were dropped.

        Raises LabError if the hub cannot be reached or the data set is not as described.
        """
        if name not in self.tasks:
            raise unknown("task", name, self.names())
        task = self.tasks[name]
        tables: dict[Split, Table] = {split: self._table(name, split, where) for split, where in _named_splits(task)}
        tables, dropped = _without_repeats(tables)
        notes = read_as(tables.values())
        names, splits = labelled(tables, Declared(task.labels), notes)
        size = len(splits["train"])
        if "test" not in splits:
            splits["train"], splits["test"] = _cut(splits["train"], int(size * CUT_SHARE), f"{self.name}/{name}/test")
        if "validation" not in splits:
            limit = min(int(size * CUT_SHARE), VALIDATION_PER_LABEL * len(names))
            splits["train"], splits["validation"] = _cut(splits["train"], limit, f"{self.name}/{name}/validation")
        about = f"{task.repo} at {task.revision or 'main'}; {sum(dropped.values())} repeated texts dropped ({_counts(dropped)})"
        return Task(name, names, splits["train"], splits["validation"], splits["test"], about, tuple(notes))

    def _table(self, name: str, split: Split, part: str) -> Table:
        task = self.tasks[name]
        data = self._download(name, part)
        missing = {task.label, *(task.where or ())[:1]} - set(data.column_names)
        if missing:
            raise LabError(f"{task.repo} ({part}) has no column '{min(missing)}', only {', '.join(data.column_names)}")
        keep = range(len(data))
        if task.where is not None:
            column, value = task.where
            keep = [row for row, number in enumerate(data[column]) if number == value]
        pool = TEST_POOL if split == "test" else TRAIN_POOL
        if len(keep) > pool:
            keep = sorted(random.Random(f"{task.repo}/{name}/{part}").sample(keep, pool))
        names = getattr(data.features[task.label], "names", None)
        if names and task.labels and len(names) != len(task.labels):
            raise LabError(f"{task.repo} has {len(names)} labels, {len(task.labels)} were expected: {', '.join(names[:8])}")
        rows = list(_rows(task, data.select(keep), part, tuple(task.labels or names or ())))
        shown = [row for row in rows if label_text(row["label"]) not in (None, HIDDEN)]
        hidden = len(rows) - len(shown)
        notes = (f"{hidden:,} of {len(rows):,} rows have no label and are left out",) if hidden else ()
        declared = {"label": tuple(names)} if names else {}
        return Table(shown, lambda row: f"{task.repo} ({part}), row {row}", f"{task.repo} ({part})", declared, notes)

    def _download(self, name: str, part: str) -> Any:
        import datasets

        task = self.tasks[name]
        path = task.repo if self.root is None else str(self.root / task.repo)
        revision = task.revision if self.root is None else None
        try:
            return datasets.load_dataset(path, task.config, data_dir=task.data_dir, revision=revision, split=part)
        except Exception as error:  # the library raises a dozen kinds, among them those of its http client
            reason = "could not be reached" if is_unreachable(error) else "could not be loaded"
            raise LabError(
                f"task '{name}' of {self.name}: the data set {path} {reason} ({first_line(error)}); instead of the hub, "
                f"put the task folders in $LAB_DATA/{self.name} or give the path of such a folder as the stream"
            ) from error


def _named_splits(task: HubTask) -> list[tuple[Split, str]]:
    """(split, name of the split on the hub), in the order in which a repeated text is kept."""
    named: list[tuple[Split, str | None]] = [("test", task.test), ("validation", task.validation), ("train", task.train)]
    return [(split, part) for split, part in named if part is not None]


def _rows(task: HubTask, data: Any, part: str, names: tuple[str, ...]) -> Iterator[Row]:
    """Rows with a text; a number stands for the name at this place, the one below the first for a hidden label."""
    for i, row in enumerate(data):
        label = row[task.label]
        if isinstance(label, int) and names:
            label = class_name(label - task.first_label, names, f"{task.repo} ({part}), row {i}")
        try:
            text, pair = _render(task.text, row), _render(task.pair, row) if task.pair else None
        except KeyError as error:
            raise LabError(f"{task.repo} ({part}) has no column {error}, only {', '.join(data.column_names)}") from error
        if text:
            yield {"text": text, "text_pair": pair, "label": label}


def _render(template: str, row: Row) -> str:
    filled = {column: "" if value is None else value for column, value in row.items()}
    lines = (line.format_map(filled).strip() for line in template.split("\n"))
    return "\n".join(line for line in lines if line)


def _without_repeats(tables: Mapping[Split, Table]) -> tuple[dict[Split, Table], dict[str, int]]:
    """The tables with every text kept where it comes first, and how many rows each lost.

    Texts are compared without regard to case and white space.
    """
    seen: set[tuple[str, str]] = set()
    kept: dict[Split, Table] = {}
    for split, table in tables.items():
        rows = []
        for row in table.rows:
            key = (" ".join(row["text"].casefold().split()), " ".join((row["text_pair"] or "").casefold().split()))
            if key not in seen:
                seen.add(key)
                rows.append(row)
        kept[split] = replace(table, rows=rows)
    return kept, {split: len(tables[split].rows) - len(kept[split].rows) for split in tables}


def _cut(rows: Sequence[Example], size: int, key: str) -> tuple[list[Example], list[Example]]:
    """(the rest, `size` label-balanced rows drawn by `key`); rows are distinct."""
    drawn = list(sample(rows, size, key))
    chosen = set(drawn)
    return [row for row in rows if row not in chosen], drawn


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {number}" for split, number in dropped.items())


def is_unreachable(error: BaseException) -> bool:
    """Whether a connection failed somewhere down the chain of causes."""
    kinds = {"ConnectError", "ConnectTimeout", "ReadTimeout", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError | TimeoutError) or type(cause).__name__ in kinds:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
