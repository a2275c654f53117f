"""A stream in a folder: one sub-folder per task, in it train, validation and test, or one file data.

    mystream/
      news/      train.jsonl  validation.jsonl  test.jsonl  task.json (optional)
      reviews/   train.csv    dev.tsv           test.json   (commas, tabs or semicolons; JSON lines or an array)
      tickets/   data.csv                                   (with a column `split`, or without one)
      topics/    dataset_dict.json ...                      (what `save_to_disk` of datasets wrote)

A row has `text`, `label` and optionally `text_pair`; in a task of free text, it has `targets` (a text, or a list of texts that
are all right) and no `label`. Labels are texts (lab.data.label_reading). `task.json` may hold `label_names` (then a column of
numbers that are no names are indices into them), `fields` (which column is the text, ...), `encoding` and `about`. A split that
is missing is taken from the training rows (lab.data.tables). A folder that holds such files itself is a stream of one task.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from lab.core.documents import json_value, opened
from lab.core.errors import LabError, unknown
from lab.data.file_reading import READERS, read_saved
from lab.data.stream import SPLITS, Split, Stream, Task
from lab.data.tables import COLUMNS, STEMS, Declared, Table, by_split_column, make_task

DATA = "data"  # stem of the one file that holds all rows
SAVED = ("dataset_dict.json", "state.json")  # what marks a save_to_disk folder, of splits or of one data set
SPEC = "task.json"
KNOWN = ("label_names", "fields", "encoding", "about")  # of task.json; what else stands there is for people
LAYOUT = f"one folder per task with train, validation and test files, or one file data ({', '.join(READERS)})"


class FolderStream(Stream):
    """A stream of your own: a folder of task folders (jsonl, json, csv, tsv, parquet or save_to_disk)."""

    def __init__(self, path: str | Path):
        """Open the folder; texts are read by `load`.

        Raises LabError for a folder that is missing, holds no task, or holds files that belong to none.
        """
        self.path = Path(path).expanduser()
        self.name = self.path.resolve().name
        if not self.path.is_dir():
            raise LabError(f"stream folder {self.path} does not exist: a stream is {LAYOUT}")
        if not self.folders:
            raise LabError(f"stream folder {self.path} holds no tasks: expected {LAYOUT}")

    @cached_property
    def folders(self) -> dict[str, Path]:
        """The folder of every task by its name."""
        inner = {entry.name: entry for entry in sorted(self.path.iterdir()) if entry.name[0] not in "._" and _is_task(entry)}
        if not _is_task(self.path):
            return inner
        if inner:
            own = next(path.name for path in sorted(self.path.iterdir()) if path.is_file() and _stem(path) in _ALL_STEMS)
            raise LabError(
                f"stream folder {self.path} holds the task folder {next(iter(inner))} and the file {own}, which is in no task: "
                "move it into a folder of its own"
            )
        return {self.name: self.path}

    @property
    def reference(self) -> str:
        """What a configuration calls it: its path."""
        return str(self.path)

    def names(self) -> list[str]:
        return sorted(self.folders)

    def load(self, name: str) -> Task:
        """Task `name`; `notes` say what was done to its rows. Raises LabError naming file and place for what cannot be read."""
        if name not in self.folders:
            raise unknown("task", name, self.names())
        folder = self.folders[name]
        spec = spec_of(folder)
        declared = Declared(_names(folder, spec), _fields(folder, spec), str(spec.get("about") or ""))
        if any((folder / mark).is_file() for mark in SAVED):
            tables = read_saved(folder)
        else:
            tables = _tables(folder, spec.get("encoding"), [declared.fields.get(column, column) for column in COLUMNS])
        return make_task(name, _pick(folder, tables), declared)


_ALL_STEMS = {DATA, *(stem for stems in STEMS.values() for stem in stems)}


def _stem(path: Path) -> str:
    return path.name.split(".")[0].lower()


def _kind(path: Path) -> str:
    return path.name.partition(".")[2].lower()


def _is_task(folder: Path) -> bool:
    """Whether a folder holds the files of a task. Raises LabError where it holds tables, but none by the name of a split."""
    if not folder.is_dir():
        return False
    files = [entry for entry in sorted(folder.iterdir()) if entry.is_file()]
    if any(entry.name in (SPEC, *SAVED) or _stem(entry) in _ALL_STEMS for entry in files):
        return True
    tables = [entry.name for entry in files if _kind(entry) in READERS and entry.name[0] not in "._"]
    if tables:
        raise LabError(f"{folder} holds {tables[0]}, which is no split: call it {', '.join(sorted(_ALL_STEMS))} with its ending")
    return False


def spec_of(folder: Path) -> dict[str, Any]:
    """What `task.json` says; {} without one. Raises LabError for a broken one."""
    path = folder / SPEC
    if not path.is_file():
        return {}
    try:
        with opened(path) as file:
            spec = json_value(file.read())
    except LabError as error:
        raise LabError(f"{path} {error}") from error
    except ValueError as error:
        raise LabError(f"{path}: broken JSON ({error})") from error
    if not isinstance(spec, dict):
        raise LabError(f"{path}: {type(spec).__name__} instead of a JSON object with label_names and fields")
    for name in spec.keys() - set(KNOWN):
        if near := get_close_matches(name, KNOWN, n=1, cutoff=0.7):
            raise LabError(f"{path}: '{name}' is not read, did you mean '{near[0]}'?")
    if not isinstance(spec.get("encoding", ""), str):
        raise LabError(f"{path}: encoding must be a name, such as cp1252")
    return spec


def _names(folder: Path, spec: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = spec.get("label_names")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names)):
        raise LabError(f"{folder / SPEC}: label_names must be a list of strings that are not empty")
    return tuple(name.strip() for name in names) if names else None


def _fields(folder: Path, spec: Mapping[str, Any]) -> dict[str, str]:
    """Column by what it is; a list of columns says that they are called as the lab calls them."""
    fields = spec.get("fields") or {}
    if isinstance(fields, list):
        fields = {str(name): name for name in fields}
    if not isinstance(fields, dict) or not all(isinstance(column, str) for column in fields.values()):
        raise LabError(f'{folder / SPEC}: fields must map names of the lab to columns, for example {{"text": "sentence"}}')
    if foreign := sorted(set(fields) - set(COLUMNS)):
        raise LabError(
            f"{folder / SPEC}: fields names '{foreign[0]}', there are {', '.join(COLUMNS)}: what it is, then the column"
        )
    return fields


def _tables(folder: Path, encoding: str | None, columns: list[str]) -> dict[str, Table]:
    """The tables of a folder by the name of their file."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = _stem(path)
        if path.name == SPEC or path.name[0] in "._" or not path.is_file() or stem not in _ALL_STEMS:
            continue
        if _kind(path) not in READERS:
            raise LabError(f"{path}: unknown file type; use one of {', '.join(READERS)}")
        if stem in files:
            raise LabError(f"{folder} has two files for {stem}: {files[stem].name} and {path.name}; keep one")
        files[stem] = path
    return {stem: READERS[_kind(path)](path, encoding, columns) for stem, path in files.items()}


def _pick(folder: Path, tables: Mapping[str, Table]) -> dict[Split, Table]:
    """Tables by split: at least one of the training rows. Raises LabError without it, and for two of one split."""
    picked: dict[Split, Table] = {}
    for split in SPLITS:
        stems = [stem for stem in STEMS[split] if stem in tables]
        if len(stems) > 1:
            both = " and ".join(tables[stem].source for stem in stems[:2])
            raise LabError(f"{folder} has two files for {split}: {both}; keep one")
        if stems:
            picked[split] = tables[stems[0]]
    if DATA in tables and picked:
        raise LabError(
            f"{folder} has {tables[DATA].source} and {next(iter(picked.values())).source}: keep one file data, or one per split"
        )
    if DATA in tables:
        return by_split_column(tables[DATA])
    if "train" not in picked:
        raise LabError(
            f"{folder} has no training rows: looked for train.* or data.* with {', '.join(READERS)}, "
            f"there is {', '.join(sorted(path.name for path in folder.iterdir())[:6]) or 'nothing'}"
        )
    return picked
