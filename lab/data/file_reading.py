"""Readers of the file formats of a task folder: each returns a Table, or raises one LabError naming file and place.

Only libraries that hold no code in data are used: json, pyarrow (csv, Parquet), datasets (save_to_disk). Nothing is unpickled.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from lab.core.errors import LabError
from lab.data.label_reading import Table

TEXTS = ("text", "text_pair", "label", "targets")  # columns of a csv file in which a number is text too


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, for errors that must fit one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def read_jsonl(path: Path) -> Table:
    """One JSON object a line, optionally gzipped; blank lines are skipped, places are lines counted from 1."""
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    start = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append(_parse(line, f"{path}, line {number}", start, first=number == 1))
                    lines.append(number)
                start += len(line)
    except (OSError, EOFError, zlib.error) as error:
        raise LabError(f"{path} cannot be read: {first_line(error)}; write the file again") from error
    return Table(rows, lambda i: f"{path}, line {lines[i]}")


def _parse(line: bytes, place: str, start: int, first: bool) -> dict[str, Any]:
    try:
        row = json.loads(line.rstrip(b"\r\n").decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        raise LabError(f"{place}: not UTF-8 (byte {start + error.start}); save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise LabError(f"{place}: broken JSON ({error.msg} at column {error.colno}); each line holds one JSON object") from error
    if not isinstance(row, dict):
        raise LabError(f"{place}: {type(row).__name__} instead of a JSON object with text and label")
    return row


def read_csv(path: Path) -> Table:
    """Comma-separated with a header line, UTF-8; a label of digits is a number, as in the other formats. Rows count from 0."""
    import pyarrow
    from pyarrow import csv

    data = path.read_bytes()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabError(f"{path}, line {line}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    if data.count(b'"') % 2:  # the parser would take everything up to the end as one text
        raise LabError(f"{path}: a quotation mark is not closed (the file holds an odd number); write a mark inside a text twice")
    try:
        table = csv.read_csv(
            io.BytesIO(data),
            read_options=csv.ReadOptions(block_size=len(data) + 1),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(TEXTS, pyarrow.string())),
        )
    except pyarrow.ArrowInvalid as error:
        raise LabError(f"{path}: not a readable csv file ({first_line(error)})") from error
    rows = table.to_pylist()
    for row in rows:
        label = row.get("label")
        if label is not None and label.isascii() and label.isdigit():
            row["label"] = int(label)
    return Table(rows, lambda i: f"{path}, row {i}")


def read_parquet(path: Path) -> Table:
    """A Parquet file; label names from a ClassLabel feature if `datasets` wrote one. Rows count from 0."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise LabError(f"{path}: not a readable Parquet file ({first_line(error)})") from error
    return _from_arrow(table, str(path))


def read_saved(folder: Path) -> dict[str, Table]:
    """The splits of a `DatasetDict.save_to_disk` folder by name."""
    import datasets

    try:
        saved = cast(datasets.DatasetDict, datasets.load_from_disk(str(folder)))  # a Dataset has no items: refused below
        return {str(name): _from_arrow(split.with_format("arrow")[:], f"{folder}, {name}") for name, split in saved.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise LabError(f"{folder}: not a readable save_to_disk folder ({first_line(error)})") from error


def _from_arrow(table: Any, where: str) -> Table:
    labels = None
    if b"huggingface" in (table.schema.metadata or {}):
        import datasets

        feature = datasets.Features.from_arrow_schema(table.schema).get("label")
        labels = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    try:
        rows = table.to_pylist()
    except UnicodeDecodeError as error:
        raise LabError(f"{where}, row {_not_text(table)}: not UTF-8 (byte {error.start} of the value)") from error
    return Table(rows, lambda i: f"{where}, row {i}", labels)


def _not_text(table: Any) -> int:
    """The first row of an arrow table whose strings are not UTF-8."""
    for row in range(len(table)):
        try:
            table.slice(row, 1).to_pylist()
        except UnicodeDecodeError:
            return row
    return 0


READERS: dict[str, Callable[[Path], Table]] = {
    "jsonl": read_jsonl,
    "jsonl.gz": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
}
