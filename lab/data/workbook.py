"""Reader of xlsx workbooks: the values of one sheet, read without running anything and without trusting what the file claims.

A workbook is a zip archive of XML files. The archive may unpack to many times its size, cells may lie anywhere, and formulas,
macros and links to other files may do things; so sizes are looked at first, and values are all that is taken.
"""

import zipfile
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from lab.core.errors import LabError
from lab.data.tables import COLUMNS, Table

UNPACKED = 1 << 27  # bytes of all parts of a workbook
ROWS, WIDTH = 1 << 20, 500  # of a sheet: as many rows as a spreadsheet has, and fewer columns
OLE = b"\xd0\xcf\x11\xe0"  # how old and encrypted workbooks begin


def read_workbook(path: Path, encoding: str | None = None, columns: Collection[str] = COLUMNS) -> Table:
    """The first visible sheet of a workbook; its first row that is not empty names the columns. Places are rows of the sheet.

    Of formulas, the values that the spreadsheet stored are read. Raises LabError for what is no workbook, or too large, for
    macros, and for cells that hold an error, a formula without a value, or a value in a column without a name.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise LabError(f"{path}: reading xlsx needs the package openpyxl: pip install openpyxl") from error
    _refuse_unsafe(path)
    try:
        with (
            closing(openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)) as values,
            closing(openpyxl.load_workbook(path, read_only=True, keep_links=False)) as formulas,
        ):
            return _first_sheet(path, values, formulas)
    except LabError:
        raise
    except Exception as error:  # damaged XML ends in a dozen kinds, none of which the library promises
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise LabError(f"{path}: not a readable xlsx workbook ({reason[:99]}); save it again, or the sheet as csv") from error


def _refuse_unsafe(path: Path) -> None:
    """LabError for what is no archive, would unpack to too much, or holds macros."""
    try:
        with open(path, "rb") as file:
            if file.read(4) == OLE:
                raise LabError(f"{path} is an encrypted workbook or an old one (xls): save it as xlsx without a password")
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except zipfile.BadZipFile as error:
        raise LabError(f"{path}: not a readable xlsx workbook ({error}); give the file the ending of what it is") from error
    if (size := sum(part.file_size for part in parts)) > UNPACKED:
        raise LabError(f"{path} unpacks to {size:,} bytes, at most {UNPACKED:,} are read: save the sheet as csv")
    if any(part.filename.lower().endswith("vbaproject.bin") for part in parts):
        raise LabError(f"{path} holds macros: save it as an xlsx workbook without macros")


def _first_sheet(path: Path, values: Any, formulas: Any) -> Table:
    visible = [sheet.title for sheet in values.worksheets if sheet.sheet_state == "visible"]
    if not visible:
        raise LabError(f"{path} has no sheet that can be seen: put the table into one")
    place = f"{path}, sheet {visible[0]}"
    header: list[str] = []
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    computed = 0
    for number, (cells, sources) in enumerate(zip(_cells(values, visible[0]), _cells(formulas, visible[0]), strict=True), 1):
        if number > ROWS or len(cells) > WIDTH:
            raise LabError(f"{place} is larger than {ROWS:,} rows and {WIDTH} columns: save what belongs to the table")
        if not any(cell.value is not None for cell in (*cells, *sources)):
            continue
        if not header:
            header = [str(cell.value).strip() if cell.value is not None else "" for cell in cells]
            if repeated := sorted({name for name in header if name and header.count(name) > 1}):
                raise LabError(f"{place}: column '{repeated[0]}' is there twice; rename one")
            continue
        computed += sum(source.data_type == "f" for source in sources)
        rows.append({name: value for name, value in _row(place, number, header, cells, sources) if name})
        numbers.append(number)
    notes = [f"sheet '{visible[0]}' is read, not {', '.join(repr(title) for title in visible[1:])}"] if visible[1:] else []
    notes += [f"{computed:,} cells hold formulas, of which the stored values are read"] if computed else []
    return Table(rows, lambda i: f"{place}, row {numbers[i]}", path.name, notes=tuple(notes))


def _cells(book: Any, title: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a sheet, as far as there are cells: the size that the sheet claims does not count."""
    sheet = book[title]
    sheet.reset_dimensions()
    return sheet.rows


def _row(place: str, number: int, header: list[str], cells: Any, sources: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every named cell of a row."""
    for name in header[len(cells) :]:
        yield name, None
    for i, (cell, source) in enumerate(zip(cells, sources, strict=True)):
        name = header[i] if i < len(header) else ""
        if cell.value is None and source.data_type == "f":
            raise LabError(
                f"{place}: cell {source.coordinate} is a formula without a stored value: open the workbook and save it"
            )
        if cell.value is not None and not name:
            raise LabError(f"{place}: cell {cell.coordinate} has a value, and its column no name in the first row")
        if cell.data_type == "e" and cell.value is not None:
            raise LabError(f"{place}: cell {cell.coordinate} holds the error {cell.value}")
        yield name, cell.value
