"""Uploads: the same tasks as the file on disk, within a size, and no more than what was chosen."""

import io

import pandas
import pyarrow
import pytest
from pyarrow import parquet
from support.errors import assert_says

from lab.core.errors import LabError
from lab.data import uploads
from lab.data.sources import Columns, read_tasks
from lab.data.uploads import is_instructions, proposed, read_upload, tasks_in

HEAD = "\ufeffId;Team;Comment;Urgent;Date;\r\n"


def export(rows: int = 60) -> bytes:
    """As spreadsheets write it: semicolons, a mark, an empty column, quotation marks within texts."""
    lines = (f'{i};{"ab"[i % 2]};"it says ""no""; {i}";{("yes", "no")[i % 3 == 0]};2024-01-0{i % 9};\r\n' for i in range(rows))
    return (HEAD + "".join(lines)).encode()


def test_an_export_is_read_and_its_columns_are_proposed(tmp_path):
    table = read_upload("export (1).csv", export())
    assert proposed(table) == {"text": "Comment", "label": "Team"}
    tasks = tasks_in(table, {"text": "Comment", "label": "Urgent", "task": "Team"})
    (tmp_path / "export.csv").write_bytes(export())
    of_file = read_tasks(tmp_path / "export.csv", Columns("Comment", label="Urgent", task="Team"))
    assert [(task.name, task.digest()) for task in tasks] == [(task.name, task.digest()) for task in of_file]
    (whole,) = tasks_in(table, {"text": "Comment", "label": "Urgent"})
    assert whole.name == "export (1)" and len(whole.train) + len(whole.validation) + len(whole.test) == 60


def test_columns_that_are_not_chosen_do_not_count():
    rows = [{"text": f"t{i}", "text_pair": "p", "label": "x", "other": "ab"[i // 2 % 2]} for i in range(40)]
    rows = [row | {"split": "test" if i % 4 == 0 else "train"} for i, row in enumerate(rows)]
    table = read_upload("t.json", pandas.DataFrame(rows).to_json(orient="records").encode())
    assert proposed(table) == {"text": "text", "text_pair": "text_pair", "label": "label"}
    (task,) = tasks_in(table, {"text": "text", "label": "other"})
    assert task.labels == ("a", "b") and task.train[0].pair is None and len(task.test) == 10
    (written,) = tasks_in(table, {"text": "text", "targets": "other"})
    assert written.generates


def test_instructions_need_no_choice():
    rows = [{"instruction": f"q{i}", "output": f"a{i}", "topic": "ab"[i % 2]} for i in range(30)]
    table = read_upload("chat.jsonl", pandas.DataFrame(rows).to_json(orient="records", lines=True).encode())
    assert is_instructions(table)
    assert [task.name for task in tasks_in(table, {"task": "topic"})] == ["a", "b"]
    assert tasks_in(table, {})[0].generates


def written(**columns) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.exe", b"x", ["a.exe", "no kind", "csv"]),
        ("a.csv.gz", b"x", ["no kind"]),
        ("a.csv", bytes(50 << 20), ["52,428,800 bytes", "40 MB", "lab run --stream"]),
        ("a.csv", b"PK\x03\x04.......", ["a.csv is an xlsx workbook"]),
        ("a.csv", b"PAR1.....", ["a.csv is a Parquet file"]),
        ("a.csv", b"", ["a.csv: not a readable csv"]),
        ("a.parquet", b"text,label\n", ["a.parquet: not a readable Parquet"]),
        ("a.parquet", written(text=["x" * 100_000] * 100), ["a.parquet holds more than 5,000,000 bytes"]),
        ("a.json", b"[" * 100_000, ["a.json", "broken JSON"]),
        ("../a.jsonl", b"{", ["upload.jsonl, line 1"]),
    ],
)
def test_what_is_refused(name, data, words, monkeypatch):
    monkeypatch.setattr(uploads, "UNPACKED", 5_000_000)
    with pytest.raises(LabError) as caught:
        read_upload(name, data)
    assert_says(caught, *words)
    assert "/tmp" not in str(caught.value)
