"""A stream in a folder: one sub-folder per task, in it train, validation and test.

    mystream/
      news/      train.jsonl  validation.jsonl  test.jsonl  task.json (optional)
      reviews/   train.csv    dev.csv           test.csv
      topics/    dataset_dict.json ...          (what `DatasetDict.save_to_disk` wrote)

A row has `text`, `label` (a name, or a number) and optionally `text_pair`; in a task of free text, it has `targets` (a text, or a
list of texts that are all right) and no `label`. `task.json` may hold `label_names` (then a number
is an index into them) and `fields`; without it the names are those of a ClassLabel feature, or the labels of the training rows.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.core.errors import LabError, unknown
from lab.data.file_reading import READERS, read_saved
from lab.data.label_reading import Table, examples, label_names, written
from lab.data.stream import SPLITS, Split, Stream, Task

STEMS: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}
SAVED = "dataset_dict.json"  # what marks a save_to_disk folder
LAYOUT = f"one folder per task with train, validation and test files ({', '.join(READERS)})"


class FolderStream(Stream):
    """A stream of your own: a folder of task folders (jsonl, jsonl.gz, csv, parquet or save_to_disk)."""

    def __init__(self, path: str | Path):
        """Open the folder; texts are read by `load`. Raises LabError for a folder that is missing or holds no task."""
        self.path = Path(path).expanduser()
        self.name = self.path.resolve().name
        if not self.path.is_dir():
            raise LabError(f"stream folder {self.path} does not exist: a stream is {LAYOUT}")
        if not self.names():
            hint = f"it is itself a task; did you mean {self.path.parent}?" if _is_task(self.path) else f"expected {LAYOUT}"
            raise LabError(f"stream folder {self.path} holds no tasks: {hint}")

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir() if entry.name[0] not in "._" and _is_task(entry))

    def load(self, name: str) -> Task:
        if name not in self.names():
            raise unknown("task", name, self.names())
        folder = self.path / name
        spec = _spec(folder)
        if (folder / SAVED).is_file():
            tables = _pick(folder, read_saved(folder))
        else:
            tables = {split: _reader(folder, split) for split in SPLITS}
        if not any("label" in row for row in tables["train"].rows) and any("targets" in row for row in tables["train"].rows):
            train, validation, test = (written(tables[split]) for split in SPLITS)
            return Task(name, (), train, validation, test, about=str(spec.get("about") or ""))
        declared = spec.get("label_names") or tables["train"].labels
        names = tuple(declared or label_names(row.get("label") for row in tables["train"].rows))
        train, validation, test = (examples(tables[split], names, declared is not None) for split in SPLITS)
        return Task(name, names, train, validation, test, about=str(spec.get("about") or ""))


def _is_task(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    files = {entry.name for entry in folder.iterdir() if entry.is_file()}
    stems = {stem for group in STEMS.values() for stem in group}
    return bool(files & {SAVED, "task.json"}) or any(name.split(".")[0] in stems for name in files)


def _spec(folder: Path) -> dict[str, Any]:
    """What `task.json` says; {} without one. Raises LabError for a broken one."""
    path = folder / "task.json"
    if not path.is_file():
        return {}
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LabError(f"{path}: broken JSON ({error})") from error
    if not isinstance(spec, dict):
        raise LabError(f"{path}: {type(spec).__name__} instead of a JSON object with label_names and fields")
    names = spec.get("label_names")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise LabError(f"{path}: label_names must be a list of strings")
    return spec


def _reader(folder: Path, split: Split) -> Table:
    """The table of one split, read from the one file that holds it."""
    candidates = [folder / f"{stem}.{kind}" for stem in STEMS[split] for kind in READERS]
    files = [path for path in candidates if path.is_file()]
    if len(files) > 1:
        raise LabError(f"{folder} has two files for {split}: {files[0].name} and {files[1].name}; keep one")
    if files:
        return READERS[files[0].name.split(".", 1)[1]](files[0])
    strange = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name.split(".")[0] in STEMS[split])
    if strange:
        raise LabError(f"{folder / strange[0]}: unknown file type; use one of {', '.join(READERS)}")
    looked = " or ".join(f"{stem}.*" for stem in STEMS[split])
    raise LabError(f"{folder} has no {split} split: looked for {looked} with {', '.join(READERS)}")


def _pick(folder: Path, saved: Mapping[str, Table]) -> dict[Split, Table]:
    """The three splits of a saved DatasetDict under their usual names."""
    tables: dict[Split, Table] = {}
    for split in SPLITS:
        stems = [stem for stem in STEMS[split] if stem in saved]
        if not stems:
            looked = " or ".join(STEMS[split])
            raise LabError(f"{folder} has no {split} split: looked for {looked}, found {', '.join(saved) or 'none'}")
        tables[split] = saved[stems[0]]
    return tables
