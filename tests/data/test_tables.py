"""Rows of any format become the task that a person sees in them; what was done to them is said."""

import datetime
import decimal
import gzip
import json
import math
import unicodedata
from pathlib import Path

import numpy
import pandas
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.core.errors import LabError
from lab.data.folder_stream import FolderStream
from lab.data.label_reading import NotOneLabel, label_text, near_equal
from lab.data.stream import SPLITS, Split, Task, check
from lab.data.tables import Declared, Table, make_task


def table(rows, source="rows"):
    return Table(rows, lambda i: f"{source}, row {i}", source)


def rows_of(labels, split="train"):
    return [{"text": f"{split} {i}", "label": label} for i, label in enumerate(labels)]


def classes(task: Task, split: Split = "train") -> list[str]:
    """The label of every row as people read it."""
    return [task.labels[row.label] for row in task.split(split)]


def task_of(labels, **declared) -> Task:
    return make_task("t", {split: table(rows_of(labels, split), split) for split in SPLITS}, Declared(**declared))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((word, word) for word in ("001", "1.0", "1e5", "0x10", "NA", "None", "nan", "null", "true", "True", "2024-01-02")),
        *(
            (value, None)
            for value in (
                None,
                "",
                "  ",
                pandas.NA,
                pandas.NaT,
                numpy.datetime64("NaT"),
                math.nan,
                numpy.float32("nan"),
                decimal.Decimal("nan"),
            )
        ),
        *((value, "1") for value in (1, 1.0, numpy.int64(1), numpy.float32(1), decimal.Decimal("1.00"), " 1 ")),
        (True, "true"),
        (numpy.bool_(False), "false"),
        (2.5, "2.5"),
        (-1, "-1"),
        (1e300, "1e+300"),
        (math.inf, "inf"),
        (10**30, "1" + "0" * 30),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (" a b ", "a b"),
        (numpy.float32(0.1), "0.1"),
        (numpy.float16(2.5), "2.5"),
        (numpy.datetime64("2024-01-02"), "2024-01-02"),
    ],
)
def test_a_label_is_the_text_that_a_person_sees(value, text):
    assert label_text(value) == text


@pytest.mark.parametrize("value", [[], ["a"], ("a", "b"), {"a": 1}, {"a"}, numpy.array([1, 2])])
def test_several_labels_in_a_row_are_refused(value):
    with pytest.raises(NotOneLabel, match="several labels per row"):
        label_text(value)


WORDS = st.sampled_from(
    ["001", "1", "1.0", "01", "NA", "None", "nan", "null", "true", "False", "2024-01-02", "1e5", "0", "-0", "+1"]
)
TEXTS = WORDS | st.integers(-3, 12).map(str) | st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n"), max_size=4)


@settings(deadline=None, max_examples=60)
@given(labels=st.lists(TEXTS, min_size=2, max_size=8), kind=st.sampled_from(["csv", "tsv", "jsonl", "json", "parquet"]))
@example(labels=["001", "1"], kind="csv")
@example(labels=["NA", "null"], kind="parquet")
@example(labels=["-1", ""], kind="csv")
def test_the_class_of_a_row_is_its_text_in_every_format(tmp_path_factory, labels, kind):
    """Whatever the labels look like: numbers, codes, dates, booleans, words for nothing."""
    seen = [label.strip() for label in labels]
    labelled = [label for label in seen if label not in ("", "-1")]
    folder = tmp_path_factory.mktemp("s") / "t"
    folder.mkdir()
    for split in SPLITS:
        frame = pandas.DataFrame(rows_of(labels, split))
        if kind == "parquet":
            frame.to_parquet(folder / f"{split}.parquet")
        elif kind in ("csv", "tsv"):
            frame.to_csv(folder / f"{split}.{kind}", index=False, sep="\t" if kind == "tsv" else ",")
        else:
            frame.to_json(folder / f"{split}.{kind}", orient="records", lines=kind == "jsonl")
    if not labelled:
        with pytest.raises(LabError, match="neither this row nor another of train has a label"):
            FolderStream(folder).load("t")
        return
    task = FolderStream(folder).load("t")
    for split in SPLITS:
        assert classes(task, split) == labelled
    assert len(task.labels) == len(set(labelled))
    assert any("have no label" in note for note in task.notes) == (len(labelled) < len(seen))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats() | TEXTS, min_size=1, max_size=8))
def test_mixed_values_are_read_by_one_rule(values):
    texts = [label_text(value) for value in values]
    labelled = [text for text in texts if text not in (None, "-1")]
    if labelled:
        assert classes(task_of(values)) == labelled


SEEN = [  # values of one type, and an independent statement of the text that a person sees
    (st.booleans(), {True: "true", False: "false"}.get),
    (st.integers(0, 2**62), "{:d}".format),
    (st.integers(0, 2**53).map(float), "{:.0f}".format),
    (st.integers(1, 9999).filter(lambda tenths: tenths % 10).map(lambda tenths: tenths / 10), "{:.1f}".format),
    (st.integers(1, 9999).filter(lambda tenths: tenths % 10).map(lambda tenths: numpy.float32(tenths / 10)), "{:.1f}".format),
    (st.dates(datetime.date(1700, 1, 1), datetime.date(2200, 1, 1)), "{:%Y-%m-%d}".format),
    (st.decimals(0, 99, places=2), lambda value: f"{value:f}" if value % 1 else f"{value:.0f}"),
    (WORDS, str),
]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(SEEN).flatmap(lambda kind: st.tuples(st.lists(kind[0], min_size=1, max_size=6), st.just(kind[1]))))
def test_columns_of_every_type_are_read_as_the_text_that_a_person_sees(tmp_path_factory, column):
    values, seen = column
    folder = tmp_path_factory.mktemp("s") / "t"
    folder.mkdir()
    for split in SPLITS:
        pandas.DataFrame(rows_of(values, split)).to_parquet(folder / f"{split}.parquet")
    task = FolderStream(folder).load("t")
    assert all(classes(task, split) == [seen(value) for value in values] for split in SPLITS)
    if isinstance(values[0], bool | int | float):
        (folder / "test.parquet").unlink()
        (folder / "test.jsonl").write_text("\n".join(json.dumps(row) for row in rows_of(values, "test")))
        assert classes(FolderStream(folder).load("t"), "test") == classes(task, "train")


def test_a_value_is_one_class_in_csv_and_in_jsonl(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "task.json").write_text('{"label_names": ["1", "2", "3"]}')
    (tmp_path / "t" / "train.csv").write_text("text,label\na,1\nb,2\nc,3\n")
    for split, values in (("validation", ["1", 2, 3.0]), ("test", [3, "2", 1])):
        (tmp_path / "t" / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows_of(values, split)))
    task = FolderStream(tmp_path).load("t")
    assert [classes(task, split) for split in SPLITS] == [["1", "2", "3"], ["1", "2", "3"], ["3", "2", "1"]]


def test_names_come_before_numbers():
    """Stars 1 to 5 are names; 0 to 4 of names that are no numbers are indices; of both at once, neither is guessed."""
    stars = ("1", "2", "3", "4", "5")
    assert classes(task_of([1, "2", 5.0], label_names=stars)) == ["1", "2", "5"]
    assert classes(task_of(["1", "0"], label_names=("no", "yes"))) == ["yes", "no"]
    assert any("numbers of label_names: 0 = no, 1 = yes" in note for note in task_of([0, 1], label_names=("no", "yes")).notes)
    assert any("read as names: 001, 002" in note for note in task_of(["001", "002"]).notes)
    for mixed in (["no", "1"], ["no", 0, 1]):
        with pytest.raises(LabError, match="mixes names and numbers"):
            task_of(mixed, label_names=("no", "yes"))
    for outside in ([0, 2], ["01", "0"], [0.5, 1]):
        with pytest.raises(LabError, match="not in the list: no, yes"):
            task_of(outside, label_names=("no", "yes"))


def test_the_reading_is_one_for_all_splits():
    """A test file that happens to hold the numbers 1 and 2 alone is read as the training rows are."""
    tables: dict[Split, Table] = {
        split: table(rows_of([0, 1, 2] if split == "train" else [1, 2], split), split) for split in SPLITS
    }
    with pytest.raises(LabError, match=r"train, row 0: label '0'.*mixes"):
        make_task("t", tables, Declared(("1", "2", "3")))


def test_hidden_labels_are_left_out_unless_they_are_a_name():
    task = task_of([-1, "a", None, "b", "-1", math.nan])
    assert classes(task) == ["a", "b"] and any("4 of 6 rows of train have no label" in note for note in task.notes)
    assert classes(task_of([-1, 0, 1], label_names=("-1", "0", "1"))) == ["-1", "0", "1"]
    hidden: dict[Split, Table] = {"train": table(rows_of(["a", "b"])), "test": table(rows_of([-1, None], "test"))}
    with pytest.raises(LabError, match=r"rows, row 0: .*of test has a label.*taken from the training rows"):
        make_task("t", hidden)


def test_labels_that_are_nearly_equal_are_named():
    composed, apart = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    assert near_equal(["Pos", "neg", "pos", "a b", "a  b", composed, apart]) == [
        ("Pos", "pos"),
        ("a b", "a  b"),
        (composed, apart),
    ]
    assert near_equal(["u", "\ufeffu", "u\u200b", "v"]) == [("u", "\ufeffu", "u\u200b")]
    assert any(r"'e\u0301' and '\xe9'" in note for note in task_of([composed, apart]).notes)
    assert any("'Pos' and 'pos'" in note and "2 classes" in note for note in task_of(["Pos", "pos", "neg"]).notes)
    assert classes(task_of(["u", "u ", " v"])) == ["u", "u", "v"]


# files ------------------------------------------------------------------------------------------------------------------------

ROWS = ("erste Zeile; mit\tallem", 'sagt "ja", und', "über\nzwei Zeilen")


def file_task(tmp_path: Path, name: str, content: bytes, spec: dict | None = None) -> Task:
    """The task of a folder with this one training file."""
    folder = tmp_path / "s" / "t"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    if spec is not None:
        (folder / "task.json").write_text(json.dumps(spec))
    return FolderStream(tmp_path / "s").load("t")


def frame(copies: int = 4, **columns: str) -> pandas.DataFrame:
    rows = [{"text": f"{text} {n}", "label": "ab"[i % 2]} for n in range(copies) for i, text in enumerate(ROWS)]
    return pandas.DataFrame(rows).rename(columns=columns)


def all_rows(task: Task) -> set[tuple[str, str]]:
    return {(row.text, task.labels[row.label]) for split in SPLITS for row in task.split(split)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_and_encodings_are_seen(tmp_path, encoding, separator, end):
    text = frame().to_csv(index=False, sep=separator, lineterminator=end)
    task = file_task(tmp_path, "train.csv", text.encode(encoding))
    assert all_rows(task) == {(f"{text} {n}", "ab"[i % 2]) for n in range(4) for i, text in enumerate(ROWS)}
    assert any("separated by" in note for note in task.notes) == (separator != ",")
    assert any("encoded as" in note for note in task.notes) == (not encoding.startswith("utf-8"))


@pytest.mark.parametrize("name", ["train.tsv", "TRAIN.CSV", "data.csv", "train.csv.gz", "data.tsv.gz"])
def test_names_of_files(tmp_path, name):
    task = file_task(tmp_path, name, frame().to_csv(index=False, sep="\t").encode())
    assert len(all_rows(task)) == 12


def test_an_encoding_that_cannot_be_seen_is_named_by_people(tmp_path):
    content = frame().to_csv(index=False).encode("cp1252")
    with pytest.raises(LabError, match=r"line 4: not UTF-8.*task.json.*encoding.*'über'"):
        file_task(tmp_path / "a", "train.csv", content)
    assert ("über\nzwei Zeilen 0", "a") in all_rows(file_task(tmp_path / "b", "train.csv", content, {"encoding": "cp1252"}))
    with pytest.raises(LabError, match=r"no encoding called .nonsense"):
        file_task(tmp_path / "c", "train.csv", content, {"encoding": "nonsense"})


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_texts_of_any_script_in_utf_16_without_a_mark(tmp_path, encoding):
    rows = pandas.DataFrame({"text": [f"привет мир {i}" for i in range(20)], "label": ["да", "нет"] * 10})
    assert file_task(tmp_path, "train.csv", rows.to_csv(index=False).encode(encoding)).labels == ("да", "нет")


def test_tables_as_spreadsheets_write_them(tmp_path):
    """Lines that end in a carriage return, the separator on a line of its own, empty columns and rows behind the last ones."""
    lines = ["sep=;", "text;label;;", *(f"text {i};{'ab'[i % 2]};;" for i in range(12)), ";;;"]
    for end in ("\r", "\r\n"):
        task = file_task(tmp_path / repr(end), "train.csv", end.join(lines).encode())
        assert len(all_rows(task)) == 12 and any("1 of 13 rows" in note for note in task.notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "train.csv: not a readable csv file"),
        ("text,label\n", "train.csv .train. holds no rows"),
        ("text,label\na,b\nc\n", "Row #3: Expected 2 columns, got 1.*separated by commas, with the columns text, label"),
        ("text:label\na, b:c\n", "Row #2.*with the columns text:label"),
        ('text,label\n"' + "a" * 200_000, "train.csv: a quotation mark is not closed"),
    ],
)
def test_csv_that_is_refused(tmp_path, content, words):
    with pytest.raises(LabError, match=words):
        file_task(tmp_path, "train.csv", content.encode())


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("kind", ["json", "json.gz", "jsonl"])
def test_an_array_of_objects_is_read(tmp_path, indent, kind):
    task = file_task(tmp_path, f"train.{kind}", json.dumps(frame().to_dict("records"), indent=indent).encode())
    assert len(all_rows(task)) == 12 and any("one JSON array" in note for note in task.notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a", "label": "x", "label": "y"}', "line 1.*'label' stands there twice"),
        ('{"text": "a", "label": ' + "9" * 5000 + "}", "line 1.*broken JSON"),
        ('{"text": ' + "[" * 100_000, "line 1.*broken JSON"),
        ('[{"text": "a", "label": "x"}, 3]', "element 1: int instead of"),
        ('[{"text": "a", "label": "x"},]', "broken JSON"),
    ],
)
def test_json_that_is_refused(tmp_path, content, words):
    with pytest.raises(LabError, match=words):
        file_task(tmp_path, "train.json", content.encode())


def test_fields_name_the_columns(tmp_path):
    content = frame(text="Body", label="Topic").to_csv(index=False).encode()
    mapped = file_task(tmp_path / "a", "train.csv", content, {"fields": {"text": "Body", "label": "Topic"}})
    assert len(all_rows(mapped)) == 12
    for spec, words in (
        (None, "no column 'label', only Body, Topic"),
        ({"fields": {"text": "Body", "label": "gone"}}, "label is in column 'gone', there is Body, Topic"),
        ({"fields": {"Body": "text"}}, "fields names 'Body'"),
        ({"fields": [["text"]]}, "fields must map"),
        ({"labels": ["a", "b"]}, "'labels' is not read, did you mean 'label_names'"),
    ):
        with pytest.raises(LabError, match=words):
            file_task(tmp_path / str(spec)[-9:-3], "train.csv", content, spec)
    near = file_task(tmp_path / "b", "train.csv", frame(text=" Text", label="LABEL ").to_csv(index=False).encode())
    assert all_rows(near) == all_rows(mapped) and any("' Text' as text" in note for note in near.notes)
    with pytest.raises(LabError, match="column 'text' is there twice"):
        file_task(tmp_path / "c", "train.csv", b"text,label,text\na,x,b\n")


def test_a_missing_split_is_a_fifth_of_every_label_of_the_training_rows():
    """The same at every load, apart from the rest, rows of one text together, no label used up; test rows stay as they are."""
    rows = rows_of(["a"] * 40 + ["b"] * 10 + ["c"])
    twins = [{"text": "twin", "label": "a"}] * 6
    tables: dict[Split, Table] = {"train": table(rows + twins), "test": table(rows_of(["a", "b", "c"], "test"))}
    first, second = (make_task("t", tables) for _ in range(2))
    assert check(first).digest() == second.digest() and len(first.test) == 3
    texts = [row.text for row in first.validation]
    assert {label: classes(first, "validation").count(label) for label in "abc"} == {
        "a": 8 + 5 * ("twin" in texts),
        "b": 2,
        "c": 0,
    }
    assert len(first.train) + len(first.validation) == 57 and classes(first).count("c") == 1
    assert any(f"no validation split: {len(texts)} of 57 training rows" in note for note in first.notes)
    alone = check(make_task("t", {"train": table(rows)}))
    assert [len(alone.split(split)) for split in SPLITS] == [33, 8, 10]
    with pytest.raises(LabError, match="too few"):
        make_task("t", {"train": table(rows_of(["a", "b"]))})


def test_one_file_with_a_column_of_splits(tmp_path):
    rows = pandas.DataFrame(
        [{"text": f"{i}", "label": "ab"[i % 2], "Split": ["train", "train", "Dev", "test"][i % 8 // 2]} for i in range(24)]
    )
    task = check(file_task(tmp_path / "a", "data.csv", rows.to_csv(index=False).encode()))
    assert [[row.text for row in task.split(split)][:2] for split in SPLITS] == [["0", "1"], ["4", "5"], ["6", "7"]]
    assert any("train 12, validation 6, test 6" in note for note in task.notes)
    with pytest.raises(LabError, match="row 4: split 'Dve' is none of train"):
        file_task(tmp_path / "b", "data.csv", rows.replace("Dev", "Dve").to_csv(index=False).encode())


def test_a_single_saved_data_set_and_hidden_classes(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "topic": datasets.ClassLabel(names=["2", "1"])})
    rows = [{"text": f"{i}", "topic": [0, 1, -1, None][i % 4]} for i in range(40)]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "s" / "t"))
    (tmp_path / "s" / "t" / "task.json").write_text('{"fields": {"label": "topic"}}')
    task = check(FolderStream(tmp_path / "s").load("t"))
    assert task.labels == ("2", "1") and any("20 of 40 rows" in note for note in task.notes)
    assert all(classes(task, split) == ["21"[int(row.text) % 4] for row in task.split(split)] for split in SPLITS)


def test_a_tab_separated_file_with_loose_quotation_marks(tmp_path):
    lines = [f'"he said {i}\t{"ab"[i % 2]}' for i in range(11)]
    task = file_task(tmp_path, "train.tsv", "\n".join(["text\tlabel", *lines]).encode())
    assert all(row.text.startswith('"he') for row in task.train) and any("part of the texts" in note for note in task.notes)
