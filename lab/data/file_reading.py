"""Readers of the file formats of a task folder: each returns a Table, or raises one LabError naming file and place.

Only libraries that hold no code in data are used: json, pyarrow (csv, Parquet, save_to_disk), openpyxl (xlsx, in
lab.data.workbook). Nothing is unpickled.
"""

import csv
import gzip
import io
import json
import re
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from lab.core.documents import json_value, opened, unique
from lab.core.errors import LabError
from lab.core.names import fault
from lab.data.tables import COLUMNS, Table
from lab.data.workbook import read_workbook

BOMS = {
    BOM_UTF8: "utf-8",
    BOM_UTF32_LE: "utf-32-le",
    BOM_UTF32_BE: "utf-32-be",
    BOM_UTF16_LE: "utf-16-le",
    BOM_UTF16_BE: "utf-16-be",
}
BINARY = {b"PK\x03\x04": "an xlsx workbook or another zip archive", b"PAR1": "a Parquet file", b"\x1f\x8b": "compressed by gzip"}
LARGEST = 1 << 30  # bytes of the texts of one file
LARGEST_ARROW = 1 << 35
LINES = "each line holds one JSON object, or the file one array of them"
DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, for errors that must fit one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# -- text ------------------------------------------------------------------------------------------------------------------


def read_text(path: Path, encoding: str | None = None) -> tuple[str, list[str]]:
    """The text of a file, gzipped or not, and what is to be said of its encoding.

    It is UTF-8, or what the mark at its beginning or its zero bytes show (UTF-16, UTF-32), or the `encoding` that is given:
    others look like each other, so they are not guessed. Raises LabError for a text of another encoding, with line and byte.
    """
    try:
        with opened(path, LARGEST) as file:
            data = (gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file).read(LARGEST + 1)
        if len(data) > LARGEST:
            raise LabError(f"holds more than {LARGEST:,} bytes: split it")
    except LabError as error:
        raise LabError(f"{path} {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise LabError(f"{path} cannot be read: {first_line(error)}; write the file again") from error
    if kind := next((kind for start, kind in BINARY.items() if data.startswith(start)), None):
        raise LabError(f"{path} is {kind}, and no text: give it the ending of what it is")
    mark = next((mark for mark in BOMS if data.startswith(mark)), b"")
    chosen = encoding or (BOMS[mark] if mark else _wide(data) or "utf-8")
    try:
        text = data.removeprefix(mark).decode(chosen)
    except UnicodeDecodeError as error:
        start = error.start + len(mark)
        line = data.count(b"\n", 0, start) + 1
        place = f"{path}, line {line}"
        if encoding or chosen != "utf-8":
            raise LabError(f"{place}: not {chosen.upper()} (byte {start}); save the file as UTF-8") from error
        words = re.finditer(rb"[^\s,;|\"]+", data)
        word = next((match.group() for match in words if match.end() > start), b"")
        raise LabError(
            f"{place}: not UTF-8 (byte {start}); save the file as UTF-8, or name its encoding in task.json, "
            f'for example {{"encoding": "cp1252"}}, by which the word there is {word[:40].decode("cp1252", "replace")!r}'
        ) from error
    except (LookupError, ValueError) as error:
        raise LabError(f"{path}: there is no encoding called {encoding!r:.60}; use a name of Python's, such as cp1252") from error
    return text, [f"encoded as {chosen.upper()}"] if chosen != "utf-8" else []


def _wide(data: bytes) -> str | None:
    """The encoding of a text without a mark in whose beginning a tenth of every second byte, and hardly another, is zero.

    These are the characters of ASCII, such as separators and ends of lines, in texts of any script.
    """
    even, odd = data[0:200:2].count(0), data[1:200:2].count(0)
    if len(data) % 2 or 10 * max(even, odd) < len(data[:200]) / 2:
        return None
    return "utf-16-le" if odd > 10 * even else "utf-16-be" if even > 10 * odd else None


# -- JSON ------------------------------------------------------------------------------------------------------------------


def read_json(path: Path, encoding: str | None = None, columns: Collection[str] = COLUMNS) -> Table:
    """One JSON object a line, or one array of objects; blank lines are skipped. Places are lines from 1, or elements from 0."""
    text, notes = read_text(path, encoding)
    if text.lstrip()[:1] == "[" and _is_array(text):
        return _read_array(path, text, notes)
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows.append(_object(_parse(line, f"{path}, line {number}", LINES), f"{path}, line {number}"))
            lines.append(number)
    return Table(rows, lambda i: f"{path}, line {lines[i]}", path.name, notes=tuple(notes))


def _is_array(text: str) -> bool:
    """Whether the text is one array, not a line that holds one by mistake: it has an object in it, or ends with the array."""
    return re.match(r"\s*\[\s*(\{|\]\s*$|$)", text) is not None


def _read_array(path: Path, text: str, notes: list[str]) -> Table:
    values = _parse(text, str(path), "the file holds one JSON array of objects")
    rows = [_object(value, f"{path}, element {i}") for i, value in enumerate(values)]
    return Table(rows, lambda i: f"{path}, element {i}", path.name, notes=(*notes, "one JSON array"))


def _parse(text: str, place: str, needs: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno} column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise LabError(f"{place}: broken JSON ({error.msg} at {at}); {needs}") from error
    except (ValueError, RecursionError) as error:  # a name that is there twice, a number of thousands of digits, deep nesting
        raise LabError(f"{place}: broken JSON ({first_line(error)}); {needs}") from error


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LabError(f"{place}: {type(value).__name__} instead of a JSON object with text and label")
    return value


# -- csv -------------------------------------------------------------------------------------------------------------------


def read_csv(path: Path, encoding: str | None = None, columns: Collection[str] = COLUMNS) -> Table:
    """A table with a header line, separated by what fits the header best; every cell is a text. Rows count from 0."""
    import pyarrow
    from pyarrow import csv as arrow

    text, notes = read_text(path, encoding)
    if line := re.match(r"sep=.(\r\n|\r|\n)", text):  # how a spreadsheet is told the separator
        text = text[line.end() :]
    delimiter, names = _header(text, columns)
    named = [name for name in names if name.strip()]  # spreadsheets write empty columns behind the last one
    if repeated := sorted({name for name in named if named.count(name) > 1}):
        raise LabError(f"{path}: column '{repeated[0]}' is there twice; rename one")
    quoted = text.count('"') % 2 == 0
    if not quoted and delimiter != "\t":  # the parser would take everything up to the end as one text
        raise LabError(f"{path}: a quotation mark is not closed (the file holds an odd number); write a mark inside a text twice")
    data = text.encode("utf-8", "surrogatepass")
    try:
        table = arrow.read_csv(
            io.BytesIO(data),
            read_options=arrow.ReadOptions(block_size=len(data) + 1, use_threads=False),  # with threads, errors name no row
            parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=quoted, quote_char='"' if quoted else False),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(named, pyarrow.string()), strings_can_be_null=False, include_columns=named
            ),
        )
    except pyarrow.ArrowInvalid as error:
        reason = re.sub(r"(got \d+):.*", r"\1", first_line(error))  # without the row, which may be of a file that is linked to
        raise LabError(
            f"{path}: not a readable csv file ({reason}); read as separated by {DELIMITERS[delimiter]}, with the "
            f"columns {', '.join(names) or 'none'}: put texts that hold the separator in quotation marks, or use another one"
        ) from error
    if delimiter != ",":
        notes.append(f"separated by {DELIMITERS[delimiter]}")
    if not quoted:
        notes.append("quotation marks are part of the texts (the file holds an odd number)")
    return Table(table.to_pylist(), lambda i: f"{path}, row {i}", path.name, notes=tuple(notes))


def _header(text: str, columns: Collection[str]) -> tuple[str, list[str]]:
    """The delimiter that finds most of the wanted columns in the header line, and among equals most columns; and the names."""
    wanted = {column.strip().casefold() for column in columns}
    headers = {mark: _first_row(text, mark) for mark in DELIMITERS}

    def fits(mark: str) -> tuple[int, int]:
        return len(wanted & {name.strip().casefold() for name in headers[mark]}), len(headers[mark])

    best = max(DELIMITERS, key=fits)
    return best, headers[best]


def _first_row(text: str, delimiter: str) -> list[str]:
    """The cells of the first line that is not empty; none where a quotation mark stays open for too long."""
    try:
        return next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), [])
    except csv.Error:
        return []


# -- arrow -----------------------------------------------------------------------------------------------------------------


def read_parquet(path: Path, encoding: str | None = None, columns: Collection[str] = COLUMNS) -> Table:
    """A Parquet file; label names from a ClassLabel feature if `datasets` wrote one. Rows count from 0."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise LabError(f"{path}: not a readable Parquet file ({first_line(error)})") from error
    return from_arrow(table, str(path), path.name)


def read_saved(folder: Path) -> dict[str, Table]:
    """The splits of a `save_to_disk` folder by name; a single data set, not a DatasetDict, is called data.

    Read as what it is, JSON and arrow streams, since `datasets` would follow file names out of the folder and trust the arrays.
    """
    import pyarrow

    try:
        whole = folder / "dataset_dict.json"
        splits = _json_file(whole)["splits"] if whole.is_file() else None
        inner = {"data": folder} if splits is None else {name: folder / _plain(name) for name in splits}
        return {name: _read_part(part, f"{folder}, {name}", name) for name, part in inner.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException) as error:
        reason = f"{first_line(error)} is missing" if isinstance(error, KeyError) else first_line(error)
        raise LabError(f"{folder}: not a readable save_to_disk folder ({reason})") from error


def _read_part(folder: Path, where: str, name: str) -> Table:
    """One data set of a `save_to_disk` folder."""
    import pyarrow

    state, features = _json_file(folder / "state.json"), _json_file(folder / "dataset_info.json")["features"]
    if any(value for key, value in state.items() if key.startswith("_indices")):
        raise LabError(f"{where} is a choice of rows that an old version of datasets wrote: load it and save it again")
    tables = []
    for entry in state["_data_files"]:
        with opened(folder / _plain(entry["filename"]), LARGEST_ARROW, folder) as file, pyarrow.ipc.open_stream(file) as stream:
            tables.append(stream.read_all())
            tables[-1].validate(full=True)  # else what is damaged would end the process
    return from_arrow(pyarrow.concat_tables(tables), where, name, features)


def _json_file(path: Path) -> dict[str, Any]:
    with opened(path, LARGEST) as file:
        return json_value(file.read())


def _plain(name: str) -> str:
    """The name of a file or folder, which leads nowhere else. Raises ValueError for another text."""
    if problem := fault(name):
        raise ValueError(f"the name {name[:60]!r} {problem}")
    return name


def from_arrow(table: Any, where: str, source: str, features: Any = None) -> Table:
    """Rows of an arrow table; numbers of a ClassLabel column become the names they stand for, -1 none.

    `features`: what `datasets` noted of the columns, by default in the table itself. Raises LabError for what cannot be read.
    """
    import pyarrow

    if repeated := sorted({name for name in table.column_names if table.column_names.count(name) > 1}):
        raise LabError(f"{where}: column '{repeated[0]}' is there twice; rename one")
    try:
        noted = (table.schema.metadata or {}).get(b"huggingface")
        classes = _classes(json_value(noted)["info"]["features"] if noted and features is None else features or {})
        rows = table.to_pylist()
    except UnicodeDecodeError as error:
        raise LabError(f"{where}, row {_not_text(table)}: not UTF-8 (byte {error.start} of the value)") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, pyarrow.ArrowException) as error:
        raise LabError(f"{where}: its columns cannot be read ({first_line(error)})") from error
    for column in table.schema:
        if pyarrow.types.is_float16(column.type) or pyarrow.types.is_float32(column.type):
            kind = column.type.to_pandas_dtype()  # of numpy, which writes 0.1 as 0.1 also where it has 32 bits
            for row in rows:
                row[column.name] = None if row[column.name] is None else kind(row[column.name])
    for column in classes.keys() & {*table.column_names}:
        kind = table.schema.field(column).type
        if not pyarrow.types.is_integer(kind):
            raise LabError(f"{where}: column '{column}' is said to hold classes by number, and holds {kind}")
        for i, row in enumerate(rows):
            row[column] = class_name(row[column], classes[column], f"{where}, row {i}")
    return Table(rows, lambda i: f"{where}, row {i}", source, classes)


def _classes(features: Any) -> dict[str, tuple[str, ...]]:
    """Names of the classes of every ClassLabel among the features of `datasets`. Raises ValueError for what are none."""
    kinds = {column: kind for column, kind in features.items() if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"}
    for column, kind in kinds.items():
        if not isinstance(kind["names"], list) or not all(isinstance(name, str) for name in kind["names"]):
            raise ValueError(f"the names of the classes in column '{column}' are no list of texts")
    return {column: tuple(kind["names"]) for column, kind in kinds.items()}


def class_name(number: int | None, names: tuple[str, ...], location: str) -> str | None:
    """The name of a class by its number; None and -1 stand for none. Raises LabError for a number without a name."""
    if number is None or number == -1:
        return None
    if not 0 <= number < len(names):
        raise LabError(f"{location}: class {number} has no name, there are {len(names)}: {', '.join(names[:8])}")
    return names[number]


def _not_text(table: Any) -> int:
    """The first row of an arrow table whose strings are not UTF-8."""
    for row in range(len(table)):
        try:
            table.slice(row, 1).to_pylist()
        except UnicodeDecodeError:
            return row
    return 0


Reader = Callable[[Path, str | None, Collection[str]], Table]  # path, encoding or None, names of the wanted columns
READERS: dict[str, Reader] = {
    "jsonl": read_json,
    "jsonl.gz": read_json,
    "json": read_json,
    "json.gz": read_json,
    "csv": read_csv,
    "csv.gz": read_csv,
    "tsv": read_csv,
    "tsv.gz": read_csv,
    "parquet": read_parquet,
    "xlsx": read_workbook,
}
