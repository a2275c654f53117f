"""Streams of people's own data, saved under the folder of runs as ordinary folders of tasks, so that runs can be resumed.

    <runs>/streams/<name>/<task>/   train.jsonl  validation.jsonl  test.jsonl  task.json

What is saved are the tasks as they were read: every row has its split and its label as text. `task.json` also holds the digest of
the data, which is compared whenever the task is read, and the notes on the first reading. A name belongs to one content; where it
is not given it ends in the digest, so the same data has the same name.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.core import atomic_io
from lab.core.errors import LabError, unknown
from lab.core.registry import streams
from lab.data.folder_stream import SPEC, FolderStream, spec_of
from lab.data.sources import AS_THE_LAB, Columns, is_source, read_tasks
from lab.data.stream import SPLITS, Example, Stream, Task
from lab.jobs import jobs
from lab.run_folder.run import UNREADABLE, Run, root, slug
from lab.run_folder.writer import remove, unwritable
from lab.store import index, trash

if TYPE_CHECKING:
    import pandas

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")  # without the dot of files
FOLDER = "streams"  # within the folder of runs
SHOWN = 6  # labels of a task that are listed


def stream(
    data: Any,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    targets: str | None = None,
    task: str | None = None,
    name: str | None = None,
    revision: str | None = None,
    save_as: str | None = None,
    runs: str | Path | None = None,
) -> "SavedStream":
    """Your data as a stream: `lab.run("l2r", stream=lab.stream({"tickets": df, "news": "hf:fancyzhx/ag_news"}, text="body"))`.

    `data` maps the names of tasks to their data, or is one table, in which the column `task` may name the task of every row. The
    data of a task is a DataFrame, a `Dataset`, `DatasetDict` or `IterableDataset`, a list of dicts or of (text, label), a file
    (csv, tsv, jsonl, json, xlsx, parquet), an id of the hub ("hf:OWNER/NAME"), a mapping from splits to such tables, or a
    `lab.Source` with names of columns of its own. `text`, `pair`, `label` and `targets` (for free text, the accepted answers)
    name the columns; a table without a column of that name is read by the names text, text_pair, label, targets. Conversations
    and rows of instructions become tasks of free text. `name` and `revision` are those of data sets of the hub. Splits that are
    missing are taken from the training rows, as for folders.

    The stream is saved as `<runs>/streams/<save_as>`; without `save_as` its name is made of tasks and content. Raises LabError,
    and saves nothing, for whatever cannot be read.
    """
    return save(read_tasks(data, Columns(text, pair, label, targets, task), name, revision), save_as, runs)


class SavedStream(FolderStream):
    """A stream of your own data in the folder of runs."""

    def load(self, name: str) -> Task:
        """The task as it was saved, with the notes of that time. Raises LabError where its files were changed since."""
        task = super().load(name)
        spec = spec_of(self.folders[name])
        if spec.get("digest", task.digest()) != task.digest():
            raise LabError(f"task '{name}' in {self.path} is not as it was saved: save the data again, under another name")
        notes = spec.get("notes")
        return replace(task, notes=tuple(map(str, notes))) if isinstance(notes, list) else task

    @cached_property
    def tasks(self) -> list[Task]:
        """All tasks, alphabetically."""
        return [self.load(name) for name in self.names()]

    @property
    def reference(self) -> str:
        """What a configuration calls it: its name, or its path where it is not in the present folder of runs."""
        return self.name if self.path.resolve() == (root() / FOLDER / self.name).resolve() else str(self.path)

    def preview(self, rows: int = 10) -> "pandas.DataFrame":
        """The first training rows of every task: task, text, pair where there are some, and label or targets."""
        import pandas

        table = pandas.DataFrame([row for task in self.tasks for row in shown(task, rows)])
        return table.dropna(axis="columns", how="all")

    def counts(self) -> "pandas.DataFrame":
        """How many rows each label of a task has in every split; a task of free text has one line."""
        import pandas

        return pandas.DataFrame([row for task in self.tasks for row in counted(task)])

    def __repr__(self) -> str:
        lines = [f"<stream '{self.name}', {len(self.tasks)} task{'s' * (len(self.tasks) != 1)}, in {self.path}>"]
        for task in self.tasks:
            sizes = ", ".join(f"{len(task.split(split)):,} {split}" for split in SPLITS)
            lines += [f"  {task.name}: {sizes}; {listed_labels(task)}", *(f"    {note}" for note in task.notes)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        import pandas

        table = pandas.DataFrame([task.summary() | {"labels": listed_labels(task)} for task in self.tasks])
        notes = "".join(f"<li>{escape(f'{task.name}: {note}')}</li>" for task in self.tasks for note in task.notes)
        return f"<b>stream {escape(self.name)}</b>{table.to_html(index=False)}<ul>{notes}</ul>"


def listed_labels(task: Task) -> str:
    """How many labels a task has, and the first of them."""
    if task.generates:
        return "free text"
    return f"{len(task.labels)} labels: {', '.join(task.labels[:SHOWN])}{', ...' * (len(task.labels) > SHOWN)}"


def shown(task: Task, rows: int) -> list[dict[str, Any]]:
    """The first training rows of a task for people."""
    return [{"task": task.name} | _row(task, example) for example in task.train[:rows]]


def counted(task: Task) -> list[dict[str, Any]]:
    """The number of rows of every label of a task in each split."""
    if task.generates:
        return [{"task": task.name, "label": ""} | {split: len(task.split(split)) for split in SPLITS}]
    numbers = {split: [0] * len(task.labels) for split in SPLITS}
    for split in SPLITS:
        for example in task.split(split):
            numbers[split][example.label] += 1
    return [{"task": task.name, "label": label, **{s: numbers[s][i] for s in SPLITS}} for i, label in enumerate(task.labels)]


# -- saving ----------------------------------------------------------------------------------------------------------------


def saved_names(runs: str | Path | None = None) -> list[str]:
    """Names of the saved streams in a folder of runs."""
    folder = root(runs) / FOLDER
    return sorted(path.name for path in folder.iterdir() if is_saved(path.name, runs)) if folder.is_dir() else []


def is_saved(name: str, runs: str | Path | None = None) -> bool:
    """Whether there is a saved stream of this name."""
    return NAME.fullmatch(name) is not None and (root(runs) / FOLDER / name).is_dir()


def open_saved(name: str, runs: str | Path | None = None) -> SavedStream:
    return SavedStream(root(runs) / FOLDER / name)


def delete(names: Sequence[str], runs: str | Path | None = None) -> None:
    """Delete saved streams, all or none.

    LabError for a name that none has, and for a stream that a run is on, which may lie in the trash: it could not be resumed.
    """
    jobs.refuse_read_only()
    if unknown_names := [name for name in names if not is_saved(name, runs)]:
        raise unknown("saved stream", unknown_names[0], saved_names(runs))
    for run in (*index.runs(runs), *(entry.run for entry in trash.entries(runs))):
        if used := {*names} & _named_by(run):
            why = "remove it before (lab remove; in the trash: lab empty-trash)"
            raise LabError(f"stream '{used.pop()}' cannot be deleted: run '{run.id}' is on it; {why}")
    for name in names:
        folder = root(runs) / FOLDER / name
        hidden = folder.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            os.rename(folder, hidden)  # so that it is there whole or not at all
        except OSError as error:
            raise unwritable(folder, error) from error
        remove(hidden)


def _named_by(run: Run) -> set[str]:
    """What a run calls its data; nothing where that cannot be read."""
    try:
        stream = run.config["stream"]
        return {stream["name"], *stream.get("sources", ())}
    except UNREADABLE:
        return set()


def save(tasks: Sequence[Task], name: str | None = None, runs: str | Path | None = None) -> SavedStream:
    """The stream of these tasks, which is written unless it is there already.

    Raises LabError for a name that cannot be used or belongs to other data, and where nothing can be written; then nothing is.
    """
    jobs.refuse_read_only()
    digest = hashlib.sha256(json.dumps([[task.name, task.digest()] for task in tasks]).encode()).hexdigest()
    name = name or f"{slug('-'.join(task.name for task in tasks))[:40] or 'data'}-{digest[:8]}".lstrip("_-")
    if not NAME.fullmatch(name):
        raise LabError(f"'{name}' cannot name a stream: use up to 80 of a-z 0-9 _ - and begin with a letter or digit")
    if name in streams.names():
        raise LabError(f"'{name}' is a shipped stream: give yours another name")
    folder = root(runs) / FOLDER / name
    if folder.is_dir():
        return _same(folder, tasks)
    temporary = folder.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        for task in tasks:
            _write(temporary / task.name, task)
        os.rename(temporary, folder)
        atomic_io.sync(folder.parent)
    except OSError as error:
        if folder.is_dir():  # another process was faster
            return _same(folder, tasks)
        raise unwritable(root(runs), error) from error
    finally:
        remove(temporary)
    return SavedStream(folder)


def _same(folder: Path, tasks: Sequence[Task]) -> SavedStream:
    """The stream in a folder, if it has these tasks."""
    stream = SavedStream(folder)
    if stream.names() != [task.name for task in tasks] or any(
        saved.digest() != task.digest() for saved, task in zip(stream.tasks, tasks, strict=True)
    ):
        raise LabError(f"there is a stream called '{folder.name}' with other data: choose another name")
    return stream


def _write(folder: Path, task: Task) -> None:
    folder.mkdir(parents=True)
    for split in SPLITS:
        rows = "".join(json.dumps(_row(task, example), ensure_ascii=False) + "\n" for example in task.split(split))
        atomic_io.write_bytes(folder / f"{split}.jsonl", rows.encode())
    names = {} if task.generates else {"label_names": list(task.labels)}
    about = {"about": task.about, "notes": list(task.notes), "digest": task.digest()}
    atomic_io.write_json(folder / SPEC, names | about)


def _row(task: Task, example: Example) -> dict[str, Any]:
    """An example as a row of a folder."""
    answer = {"targets": list(example.targets)} if task.generates else {"label": task.labels[example.label]}
    pair = {} if example.pair is None else {"text_pair": example.pair}
    return {"text": example.text} | pair | answer


def named(stream: Any, runs: str | Path | None = None, columns: Columns = AS_THE_LAB) -> Any:
    """What the configuration of a run among these runs calls a stream.

    Files, ids of the hub, and streams that were saved among other runs are saved first, so that the run can be resumed. Raises
    LabError for `columns` of anything but a file or an id of the hub.
    """
    if isinstance(stream, str | Path) and is_source(str(stream)):
        return save(read_tasks(str(stream), columns), runs=runs).name
    if columns != AS_THE_LAB:
        raise LabError(f"columns are named of a file or of hf:OWNER/NAME, and the stream is {stream or 'not named'}")
    if isinstance(stream, SavedStream):
        is_here = stream.path.parent.resolve() == (root(runs) / FOLDER).resolve()
        return stream.name if is_here else save(stream.tasks, stream.name, runs).name
    return stream.reference if isinstance(stream, Stream) else stream
