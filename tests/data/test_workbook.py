"""Workbooks: values of one sheet, and nothing that could run, grow or mislead."""

import zipfile
from datetime import datetime

import pytest
from support.errors import assert_says

from lab.core.errors import LabError
from lab.data import workbook
from lab.data.workbook import read_workbook

openpyxl = pytest.importorskip("openpyxl")


@pytest.fixture
def book(tmp_path):
    """A writer of a workbook with these rows, and changes to it."""

    def write(*rows, change=lambda book: None):
        opened = openpyxl.Workbook()
        for row in rows:
            opened.active.append(row)
        change(opened)
        opened.save(tmp_path / "t.xlsx")
        return tmp_path / "t.xlsx"

    return write


def test_values_keep_their_types_and_empty_rows_are_passed_over(book):
    path = book([], ["text", "label", None], ["a", 1, None], [], ["b", True], ["c", datetime(2024, 1, 2)], ["d", 0.5], ["e"])
    table = read_workbook(path)
    labels = [row["label"] for row in table.rows]
    assert labels == [1, True, datetime(2024, 1, 2), 0.5, None] and labels[1] is True
    assert table.rows[0] == {"text": "a", "label": 1} and table.location(1).endswith("t.xlsx, sheet Sheet, row 5")


def test_the_first_visible_sheet_is_read_and_that_is_said(book):
    def change(opened):
        opened.active.sheet_state = "hidden"
        for title in ("second", "third"):
            opened.create_sheet(title).append(["text", "label"])
            opened[title].append([title, "x"])

    table = read_workbook(book(["text"], change=change))
    assert [row["text"] for row in table.rows] == ["second"] and table.notes == ("sheet 'second' is read, not 'third'",)


def edited(path, name: str, old: bytes, new: bytes, **more: bytes):
    """The workbook with one part changed, and parts that are added."""
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    assert old in parts[name]
    parts[name] = parts[name].replace(old, new)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in (parts | more).items():
            archive.writestr(part, content)
    return path


SHEET = "xl/worksheets/sheet1.xml"


def test_of_formulas_the_stored_values_are_read(book):
    path = book(["text", "label"], ["a", '="x"&1'], ["b", "y"])
    edited(path, SHEET, b"<v></v>" if b"<v></v>" in zipfile.ZipFile(path).read(SHEET) else b"<v />", b"<v>x1</v>")
    edited(path, SHEET, b'<c r="B2">', b'<c r="B2" t="str">')
    table = read_workbook(path)
    assert [row["label"] for row in table.rows] == ["x1", "y"]
    assert table.notes == ("1 cells hold formulas, of which the stored values are read",)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["text", "label"], ["a", "=1+1"]], ["cell B2", "formula without a stored value"]),
        ([["text", "text"], ["a", "b"]], ["column 'text' is there twice"]),
        ([["text", None], ["a", "b"]], ["cell B2", "no name"]),
        ([["text"], ["a", "b"]], ["cell B2", "no name"]),
        ([["text", "label"], ["a", "#REF!"]], ["cell B2", "#REF!"]),
        ([["text"] * 501], ["500 columns"]),
    ],
)
def test_cells_that_are_refused(book, rows, words):
    with pytest.raises(LabError) as caught:
        read_workbook(book(*rows))
    assert_says(caught, "t.xlsx", *words)


def test_files_that_are_refused(book, tmp_path, monkeypatch):
    good = book(["text", "label"], ["a", "b"])

    def refused(*words):
        with pytest.raises(LabError) as caught:
            read_workbook(good)
        assert_says(caught, "t.xlsx", *words)

    whole = good.read_bytes()
    edited(good, SHEET, b"<sheetData>", b"<sheetData>", **{"xl/vbaProject.bin": b"macro"})
    refused("macros")
    good.write_bytes(whole)
    edited(good, SHEET, b'<row r="2"', b'<row r="99999999"')
    refused("larger than 1,048,576 rows")
    good.write_bytes(whole)
    edited(good, SHEET, b"<sheetData>", b"<sheetData><row>")
    refused("not a readable xlsx")
    good.write_bytes(whole)
    edited(good, SHEET, b"<sheetData>", b"<sheetData>", **{"xl/media/zeros.bin": b"0" * 3_000_000})
    monkeypatch.setattr(workbook, "UNPACKED", 2_000_000)
    assert good.stat().st_size < 100_000
    refused("unpacks to 3,0", "save the sheet as csv")
    for content, word in (
        (b"text,label\n", "not a readable xlsx"),
        (b"\xd0\xcf\x11\xe0..", "encrypted"),
        (b"", "not a readable"),
    ):
        good.write_bytes(content)
        refused(word)
