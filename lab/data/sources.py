"""From what people have to tasks: DataFrames, data sets, lists, files of tables, and data sets of the hub by their id.

All of it becomes tables of the splits, from which `lab.data.tables.make_task` makes the tasks, as it does for folders.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from lab.core.errors import LabError, unknown
from lab.data import conversations
from lab.data.file_reading import READERS, class_name, first_line, from_arrow
from lab.data.folder_stream import FolderStream
from lab.data.hub_stream import TEST_POOL, TRAIN_POOL, is_unreachable
from lab.data.label_reading import HIDDEN, NotOneLabel, label_text
from lab.data.stream import SPLITS, Split, Stream, Task, check, disjoint
from lab.data.tables import SPLIT_OF, Declared, Table, by_split_column, make_task, picked

HUB = "hf:"
ID = re.compile(r"hf:(?P<repo>[\w.-]+(/[\w.-]+)?)(:(?P<name>[\w.-]+))?(@(?P<revision>[\w./-]+))?")
UNNAMED = re.compile(r"\s*|Unnamed: \d+")  # what pandas calls a column without a name
MOST_ROWS, MOST_TASKS = 2_000_000, 1000
ARGUMENTS = {"text": "text", "text_pair": "pair", "label": "label", "targets": "targets"}  # by the column of the lab
FILES = "csv, tsv, jsonl, json, xlsx or parquet"
TAKEN = f"a DataFrame, a data set of datasets, a list of dicts or of (text, label), a {FILES} file, or hf:OWNER/NAME"
MAPPING = "text=, pair=, label= or targets= (--text-column and so on)"


@dataclass(frozen=True)
class Source:
    """Data of one task, or of several in one table, with the names of its columns, which must be there.

    `name` and `revision` are the configuration and the commit of a data set of the hub.
    """

    data: Any
    text: str | None = None
    pair: str | None = None
    label: str | None = None
    targets: str | None = None
    name: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Columns:
    """Names of columns that hold for all sources: where a table has none of that name, the lab's own name counts."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    targets: str | None = None
    task: str | None = None  # of the column that names the task of a row


AS_THE_LAB = Columns()


def is_source(text: str) -> bool:
    """Whether a text names data outside of folders: an id of the hub, or a file of a table."""
    return text.startswith(HUB) or (_kind(Path(text)) is not None and not Path(text).expanduser().is_dir())


class SourceStream(Stream):
    """A file of a table, or a data set of the hub, as a stream of one task; its columns are called as the lab calls them."""

    def __init__(self, text: str):
        self.text, self.downloads = text, text.startswith(HUB)
        self.name = _own_name(text)

    def names(self) -> list[str]:
        return [self.name]

    def load(self, name: str) -> Task:
        if name != self.name:
            raise unknown("task", name, self.names())
        return read_tasks(self.text)[0]


def read_tasks(data: Any, columns: Columns = AS_THE_LAB, name: str | None = None, revision: str | None = None) -> list[Task]:
    """The checked tasks in `data`, by name: a mapping from task to data, or one table, with `columns.task` of several tasks.

    A folder of tasks is taken as it is. Raises LabError, which names the task and the row, for what cannot be read as folders
    are read, for columns that are not there, and for rows without a task.
    """
    if isinstance(data, Stream):
        return [check(data.load(task)) for task in data.names()]
    if isinstance(data, str | Path) and Path(data).expanduser().is_dir():
        if columns != AS_THE_LAB:
            raise LabError(f"{data} is a folder: its tasks say which column is which in their task.json")
        return read_tasks(FolderStream(data))
    sources: Mapping[str, Any] = {"": data}
    if isinstance(data, Mapping) and not _are_splits(data):
        sources = {str(title): value for title, value in data.items()}
        if not sources:
            raise LabError(f"there is no task: give {TAKEN}, by the name of its task")
        if columns.task:
            raise LabError(f"the tasks are named ({', '.join(list(sources)[:6])}): a column of tasks is for one table")
    tasks: list[Task] = []
    for title, value in sources.items():
        source = value if isinstance(value, Source) else Source(value)
        source = replace(source, name=source.name or name, revision=source.revision or revision)
        title = title or _own_name(source.data)
        tables: dict[Split, Table] = {split: _filled(table) for split, table in _splits(source, title).items()}
        groups = _by_task(tables, columns.task) if columns.task else {title: tables}
        tasks += [_task(task, source, parts, columns) for task, parts in groups.items()]
    return sorted(tasks, key=lambda task: task.name)


def _task(name: str, source: Source, tables: Mapping[Split, Table], columns: Columns) -> Task:
    """The checked task of its tables."""
    fields = _fields(tables["train"], source, columns)
    for table in tables.values():
        _refuse_missing(table, fields)
    tables = {split: _of_columns(table, fields) for split, table in tables.items()}
    notes: list[str] = []
    for split in ("validation", "test"):
        if split in tables and "label" in fields and _is_hidden(tables[split], fields["label"]):
            notes.append(f"no row of {tables[split].source} has a label (empty, missing or -1): it is left out")
            tables = {other: table for other, table in tables.items() if other != split}
    from_hub = isinstance(source.data, str) and source.data.startswith(HUB)
    task = make_task(name, tables, Declared(fields=fields, about=_about(source) if from_hub else ""))
    task = disjoint(task) if from_hub else task  # nobody can change the data there
    return check(replace(task, notes=(*notes, *task.notes)))


def _own_name(data: Any) -> str:
    """The name of the only task of data without one: that of the file, or of the data set."""
    if isinstance(data, str) and data.startswith(HUB):
        return _parts_of_id(data)["repo"].rpartition("/")[2]
    return Path(data).name.split(".")[0] if isinstance(data, str | Path) else "data"


def _are_splits(data: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds the splits of one table, not tasks."""
    of_library = _is_a(data, "datasets", "DatasetDict", "IterableDatasetDict")
    return of_library or ("train" in data and all(name in SPLIT_OF for name in data))


def _is_a(data: Any, package: str, *names: str) -> bool:
    """Whether it is of a class of a package, which need not be loaded for that."""
    module = sys.modules.get(package)
    return module is not None and isinstance(data, tuple(getattr(module, name) for name in names))


# -- columns ---------------------------------------------------------------------------------------------------------------


def _fields(table: Table, source: Source, columns: Columns) -> dict[str, str]:
    """Which column is which (`Declared.fields`). Raises LabError where text, or both label and targets, are missing."""
    if not table.rows:
        return {}
    present = table.columns
    fields: dict[str, str] = {}
    for column, argument in ARGUMENTS.items():
        exact, common = getattr(source, argument), getattr(columns, argument)
        if exact is not None and exact not in present:
            raise LabError(f"{table.location(0)}: no column '{exact}' ({argument}), only {', '.join(present)}")
        alike = [name for name in present if name.strip().casefold() == column]
        chosen = exact or (common if common in present else None) or (alike[0] if len(alike) == 1 else None)
        if chosen:
            fields[column] = chosen
    if source.targets or (columns.targets in present and not source.label):
        fields.pop("label", None)  # else the task would be to choose among labels
    if "text" not in fields and conversations.is_instruction_data(present):
        return {}
    wanted = {column: getattr(columns, argument) for column, argument in ARGUMENTS.items()}
    for needed in (["text"], ["label", "targets"]):
        if not any(column in fields for column in needed):
            names = [name for column in needed for name in (wanted[column], column) if name]
            raise LabError(
                f"{table.location(0)}: no column {' or '.join(map(repr, names))}, only {', '.join(present) or 'nothing'}; "
                f"say which column it is with {MAPPING}"
            )
    return fields


def _refuse_missing(table: Table, fields: Mapping[str, str]) -> None:
    """LabError for a part of a task that lacks a column of its training rows; second texts may be missing."""
    for column, name in fields.items():
        if table.rows and column != "text_pair" and name not in table.columns:
            raise LabError(f"{table.location(0)}: no column '{name}', as the training rows have, only {', '.join(table.columns)}")


def _of_columns(table: Table, fields: Mapping[str, str]) -> Table:
    """The table with the columns that count, so that another one called label is none."""
    if not fields:
        return table
    kept = set(fields.values())
    return replace(table, rows=[{name: row[name] for name in kept if name in row} for row in table.rows])


def _filled(table: Table) -> Table:
    """The table without the rows in which nothing stands, as spreadsheets write them; that is said."""
    rows = [i for i, row in enumerate(table.rows) if not row or not all(map(_is_nothing, row.values()))]
    empty = len(table.rows) - len(rows)
    note = f"{empty:,} of {len(table.rows):,} rows are empty and are passed over"
    return replace(picked(table, rows), notes=(*table.notes, note)) if empty else table


def _is_nothing(value: Any) -> bool:
    try:
        return label_text(value) is None
    except NotOneLabel:
        return False


def _is_hidden(table: Table, label: str) -> bool:
    """Whether no row of a table has a label."""
    try:
        return bool(table.rows) and all(label_text(row.get(label)) in (None, HIDDEN) for row in table.rows)
    except NotOneLabel:
        return False


def _by_task(tables: Mapping[Split, Table], column: str) -> dict[str, dict[Split, Table]]:
    """The tables of every task that the column names."""
    tasks: dict[str, dict[Split, list[int]]] = defaultdict(lambda: defaultdict(list))
    for split, table in tables.items():
        if table.rows and column not in table.columns:
            raise LabError(f"{table.location(0)}: no column '{column}' (task), only {', '.join(table.columns)}")
        for i, row in enumerate(table.rows):
            try:
                task = label_text(row.get(column))
            except NotOneLabel as error:
                raise LabError(f"{table.location(i)}: task {error}") from None
            if task is None:
                raise LabError(f"{table.location(i)}: column '{column}' is empty: every row needs the name of its task")
            tasks[task][split].append(i)
    if len(tasks) > MOST_TASKS:
        raise LabError(f"column '{column}' names {len(tasks):,} tasks, at most {MOST_TASKS:,} are read: is it an identifier?")
    without = [task for task, parts in tasks.items() if "train" not in parts]
    if without:
        raise LabError(f"task '{without[0]}' has no training rows")
    return {task: {split: _of_task(tables[split], rows) for split, rows in parts.items()} for task, parts in tasks.items()}


def _of_task(table: Table, rows: list[int]) -> Table:
    """These rows of a table; class names that occur in none of them are none of the task's."""
    part = picked(table, rows)
    occurring = {column: {row.get(column) for row in part.rows} for column in table.classes}
    classes = {column: tuple(name for name in names if name in occurring[column]) for column, names in table.classes.items()}
    return replace(part, classes=classes)


# -- what people have ------------------------------------------------------------------------------------------------------


def _splits(source: Source, title: str) -> dict[Split, Table]:
    """The tables of the splits in a source, of which a single table may name the splits in a column."""
    data = source.data
    if isinstance(data, str) and data.startswith(HUB):
        return _of_hub(source)
    if isinstance(data, str | Path):
        return by_split_column(_file(Path(data).expanduser(), source))
    if isinstance(data, Mapping) and _are_splits(data):
        return _named_splits({str(name): _table(part, f"{title} ({name})") for name, part in data.items()}, title)
    return by_split_column(_table(data, title))


def _kind(path: Path) -> str | None:
    """The type of a file of a table by the ending of its name; None for another file."""
    return next((kind for kind in READERS if path.name.lower().endswith(f".{kind}")), None)


def _file(path: Path, source: Source) -> Table:
    """The table in a file. Raises LabError for one that is not there, or of a type that is not read."""
    kind = _kind(path)
    if not path.is_file():
        raise LabError(f"there is no file {path}: give {TAKEN}")
    if kind is None:
        raise LabError(f"{path}: unknown file type; use {FILES}")
    return READERS[kind](path, None, [getattr(source, argument) or column for column, argument in ARGUMENTS.items()])


def _named_splits(tables: Mapping[str, Table], title: str) -> dict[Split, Table]:
    """Tables by split; the only table there is trains, whatever its name. Others are left out, and that is said."""
    chosen: dict[Split, str] = {}
    for stem, split in SPLIT_OF.items():
        if stem in tables:
            chosen.setdefault(split, stem)
    if len(tables) == 1:
        chosen = {"train": next(iter(tables))}
    if "train" not in chosen:
        raise LabError(
            f"{title} has no split train, only {', '.join(tables) or 'nothing'}: give it as {{'train': ..., 'test': ...}}"
        )
    others = [name for name in tables if name not in chosen.values()]
    notes = (f"splits {', '.join(others)} are not read",) if others else ()
    kept: dict[Split, Table] = {split: tables[chosen[split]] for split in SPLITS if split in chosen}
    kept["train"] = replace(kept["train"], notes=(*kept["train"].notes, *notes))
    return kept


def _table(data: Any, where: str) -> Table:
    """The rows of a DataFrame, a data set, a list, or a table that was read already."""
    if isinstance(data, Table):
        return data
    if _is_a(data, "pandas", "DataFrame"):
        return _frame(data, where)
    if _is_a(data, "datasets", "Dataset"):
        return from_arrow(data.with_format("arrow")[:], where, where)
    if _is_a(data, "pyarrow", "Table"):
        return from_arrow(data, where, where)
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        _refuse(data, where)
    features = getattr(data, "features", None) or {}  # of a data set that is read row by row
    classes = {column: tuple(kind.names) for column, kind in features.items() if hasattr(kind, "names")}
    rows = []
    for i, item in enumerate(data):
        if i == MOST_ROWS:
            raise LabError(f"{where} has more than {MOST_ROWS:,} rows: give a part of it")
        row = _listed(item, f"{where}, row {i}")
        rows.append(row | {c: class_name(row[c], names, f"{where}, row {i}") for c, names in classes.items() if c in row})
    return Table(rows, lambda i: f"{where}, row {i}", where, classes)


def _listed(item: Any, location: str) -> dict[str, Any]:
    """A row of a list: a mapping of columns, or (text, label)."""
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, tuple | list) and len(item) == 2:
        return {"text": item[0], "label": item[1]}
    kind = "None" if item is None else f"of type {type(item).__name__}"
    kind = f"of {len(item)} parts" if isinstance(item, tuple | list) else kind
    raise LabError(f"{location} is {kind}: a row is a dict of columns, or (text, label)")


def _refuse(data: Any, where: str) -> NoReturn:
    kind = f"'{data[:60]}'" if isinstance(data, str) else f"of type {type(data).__name__}"
    raise LabError(f"{where} is {kind}: data is {TAKEN}")


def _frame(frame: Any, where: str) -> Table:
    """The rows of a DataFrame; neither its index nor one that was read from a file, a column without a name, is a column."""
    if frame.columns.nlevels > 1:
        raise LabError(f"{where} has columns of several levels (MultiIndex): give every column one name")
    frame = frame.loc[:, [UNNAMED.fullmatch(str(name)) is None for name in frame.columns]]
    names = [str(name) for name in frame.columns]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise LabError(f"{where}: column '{repeated[0]}' is there twice; rename one")
    columns = [list(frame.iloc[:, c].array) for c in range(len(names))]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return Table(rows, lambda i: f"{where}, row {i}", where)


# -- the hub ---------------------------------------------------------------------------------------------------------------


def _parts_of_id(text: str) -> dict[str, Any]:
    """Repository, configuration and commit in an id. Raises LabError for what is none."""
    match = ID.fullmatch(text)
    if not match:
        raise LabError(
            f"'{text[:80]}' is no id of a data set: write hf:OWNER/NAME, hf:OWNER/NAME:CONFIGURATION or hf:OWNER/NAME@REVISION"
        )
    return match.groupdict()


def _hub_id(source: Source) -> tuple[str, str | None, str | None]:
    """Repository, configuration and commit of a source of the hub. Raises LabError where two of one are named."""
    parts = _parts_of_id(source.data)
    for part in ("name", "revision"):
        if parts[part] and getattr(source, part) not in (None, parts[part]):
            raise LabError(
                f"{source.data} has the {part} {parts[part]}, and {getattr(source, part)} is given beside it: name one"
            )
    return parts["repo"], parts["name"] or source.name, parts["revision"] or source.revision


def _about(source: Source) -> str:
    repo, name, revision = _hub_id(source)
    return f"{repo}{f', configuration {name}' if name else ''}, at {revision or 'main'}"


def _of_hub(source: Source) -> dict[Split, Table]:
    """The splits of a data set of the hub; of one with more rows than the benchmarks use of a task, a fixed draw."""
    import datasets

    repo, name, revision = _hub_id(source)
    local = Path(repo).is_dir()  # which `load_dataset` prefers
    try:
        loaded = datasets.load_dataset(repo, name, revision=None if local else revision)
    except Exception as error:  # the library raises a dozen kinds, among them those of its http client
        reason = "could not be reached" if is_unreachable(error) else "could not be loaded"
        raise LabError(
            f"the data set {source.data} {reason} ({first_line(error)}); load it once with network, which keeps it for later, "
            f"or download its files and give one of them ({FILES})"
        ) from error
    tables = {}
    for part, rows in loaded.items():
        split = SPLIT_OF.get(str(part), "train")
        pool = TEST_POOL if split == "test" else TRAIN_POOL
        notes = [f"read from the folder {repo}, not from the hub"] if local else []
        if len(rows) > pool:
            notes.append(f"{pool:,} of {len(rows):,} rows are taken, by a fixed draw")
            rows = rows.select(sorted(Random(f"{repo}/{part}").sample(range(len(rows)), pool)))
        table = from_arrow(rows.with_format("arrow")[:], f"{repo} ({part})", f"{repo} ({part})")
        tables[str(part)] = replace(table, notes=(*table.notes, *notes))
    return _named_splits(tables, repo)
