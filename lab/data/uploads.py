"""Tables that people upload on a page: small, of a few kinds, and read as strictly as files of folders."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lab.core import names
from lab.core.errors import LabError
from lab.data import conversations
from lab.data.file_reading import READERS, first_line
from lab.data.label_reading import NotOneLabel, label_text
from lab.data.sources import Columns, read_tasks
from lab.data.stream import Task
from lab.data.tables import Table

KINDS = ("csv", "tsv", "jsonl", "json", "xlsx", "parquet")
MEGABYTES = 40  # of an upload
UNPACKED = 1 << 28  # bytes of a Parquet file once it is read: repeated values need next to none in the file
FEW = 50  # distinct values of a column that may be labels or tasks
LOOKED_AT = 1000  # rows by which columns are proposed


def read_upload(name: str, data: bytes) -> Table:
    """The table in an uploaded file of this name. Raises LabError for another kind of file, one too large, and as the readers."""
    kind = next((kind for kind in KINDS if name.lower().endswith(f".{kind}")), None)
    shown = "the upload" if names.fault(name) else name
    if kind is None:
        raise LabError(f"{shown} is of no kind that is read: use {', '.join(KINDS)}")
    if len(data) > MEGABYTES << 20:
        raise LabError(
            f"{shown} has {len(data):,} bytes, an upload at most {MEGABYTES} MB: use lab.stream or lab run --stream FILE"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (f"upload.{kind}" if names.fault(name) else name)
        path.write_bytes(data)
        try:
            if kind == "parquet":
                _refuse_large(path)
            table = READERS[kind](path, None, ())
        except LabError as error:
            raise LabError(str(error).replace(f"{folder}/", "")) from None
    return replace(table, location=lambda i: table.location(i).replace(f"{folder}/", ""))


def _refuse_large(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            size = 0
            for batch in file.iter_batches(100):
                size += batch.nbytes
                if size > UNPACKED:
                    raise LabError(f"{path} holds more than {UNPACKED:,} bytes once it is read: use a part of it")
    except (pyarrow.ArrowException, OSError) as error:
        raise LabError(f"{path}: not a readable Parquet file ({first_line(error)})") from error


def tasks_in(table: Table, chosen: Mapping[str, str]) -> list[Task]:
    """The checked tasks of a table whose columns are `chosen`: `task`, `text`, `text_pair`, and `label` or `targets`.

    Columns that are not chosen do not count, whatever they are called, except `split`. Without a column of tasks the file is one.
    """
    kept = {*chosen.values(), *(conversations.COLUMNS if is_instructions(table) else ())}
    rows = [
        {name: value for name, value in row.items() if name in kept or name.strip().casefold() == "split"} for row in table.rows
    ]
    named = replace(table, rows=rows)
    columns = Columns(*(chosen.get(what) for what in ("text", "text_pair", "label", "targets", "task")))
    return read_tasks(named if columns.task else {table.source.split(".")[0] or "data": named}, columns)


def is_instructions(table: Table) -> bool:
    """Whether a table holds instructions or conversations, whose columns need not be chosen."""
    return conversations.is_instruction_data(table.columns) and "text" not in table.columns


def proposed(table: Table) -> dict[str, str]:
    """Columns that may be the text, the label and the task: by the lab's names, else by what they hold.

    The text is the column of the longest texts; the label that of the fewest values, at least two and at most `FEW`.
    """
    rows = table.rows[:LOOKED_AT]
    columns = [column for column in table.columns if column.strip().casefold() != "split"]
    named = {column.strip().casefold(): column for column in columns}
    chosen = {name: named[name] for name in ("text", "text_pair", "label", "targets", "task") if name in named}
    lengths = {column: sum(len(value) for row in rows if isinstance(value := row.get(column), str)) for column in columns}
    if "text" not in chosen and lengths:
        chosen["text"] = max(columns, key=lengths.__getitem__)
    if not {"label", "targets"} & set(chosen):
        sizes = {column: _distinct(table, column) for column in columns if column not in chosen.values()}
        few = [column for column, size in sizes.items() if 2 <= size <= min(FEW, max(len(rows) // 2, 2))]
        chosen |= {"label": min(few, key=sizes.__getitem__)} if few else {}
    return chosen


def _distinct(table: Table, column: str) -> int:
    """How many values a column has; 0 where it holds something else than single values."""
    try:
        return len({label_text(row.get(column)) for row in table.rows[:LOOKED_AT]} - {None})
    except NotOneLabel:
        return 0
