"""Data as people have it becomes the tasks that a folder of the same rows holds; what cannot be read is refused in one line."""

import json

import datasets
import numpy
import pandas
import pyarrow
import pytest
from support.errors import assert_says

from lab.core.errors import LabError
from lab.data.folder_stream import FolderStream
from lab.data.sources import Columns, Source, read_tasks
from lab.data.stream import SPLITS

RENAMED = Columns(text="body", label="topic")


def rows_of(split: str = "train", number: int = 40, **more) -> list[dict]:
    return [{"body": f"{split} {i}", "topic": ("no", "yes")[i % 2], **more} for i in range(number)]


def as_lab(rows: list[dict]) -> list[dict]:
    return [{"text": row["body"], "label": row["topic"]} for row in rows]


@pytest.fixture
def folder(tmp_path) -> FolderStream:
    """What the other data is compared with: the rows of `rows_of` in a folder of one file, without splits."""
    task = tmp_path / "stream" / "tickets"
    task.mkdir(parents=True)
    (task / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in as_lab(rows_of())))
    return FolderStream(tmp_path / "stream")


TABLES = {
    "frame": lambda rows: pandas.DataFrame(rows),
    "index": lambda rows: pandas.DataFrame(rows).set_index(pandas.MultiIndex.from_product([[0], range(len(rows))])),
    "category": lambda rows: pandas.DataFrame(rows).astype({"topic": "category", "body": "string"}),
    "arrow": lambda rows: pyarrow.Table.from_pylist(rows),
    "dataset": lambda rows: datasets.Dataset.from_list(rows),
    "classes": lambda rows: datasets.Dataset.from_list(rows).cast_column("topic", datasets.ClassLabel(names=["no", "yes"])),
    "iterable": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
    "iterable-classes": lambda rows: TABLES["classes"](rows).to_iterable_dataset(),
    "dicts": lambda rows: rows,
    "pairs": lambda rows: [(row["body"], row["topic"]) for row in rows],
    "generator": lambda rows: (row for row in rows),
    "source": lambda rows: Source(pandas.DataFrame(rows).rename(columns={"body": "own"}), text="own"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_is_read_like_the_folder_of_its_rows(folder, kind):
    (task,) = read_tasks({"tickets": TABLES[kind](rows_of())}, RENAMED)
    expected = folder.load("tickets")
    assert task.digest() == expected.digest()
    missing = [note for note in expected.notes if "split" in note]
    assert len(missing) == 2 and [note for note in task.notes if "split" in note] == missing


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "xlsx"])
def test_every_kind_of_file_gives_the_same_tasks(tmp_path, kind):
    if kind == "xlsx":
        pytest.importorskip("openpyxl")
    frame = pandas.DataFrame([row for domain in ("b", "a") for row in rows_of(domain, domain=domain)]).sample(
        frac=1, random_state=1
    )
    path = tmp_path / f"my.table.{kind}"
    write = {
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "json": lambda: frame.to_json(path, orient="records"),
        "csv": lambda: frame.to_csv(path, index=False, sep=";"),
        "tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        "parquet": lambda: frame.to_parquet(path),
        "xlsx": lambda: frame.to_excel(path, index=False),
    }
    write[kind]()
    tasks = read_tasks(str(path), Columns("body", label="topic", task="domain"))
    expected = read_tasks({name: frame[frame.domain == name] for name in ("a", "b")}, RENAMED)
    assert [(task.name, task.digest()) for task in tasks] == [(task.name, task.digest()) for task in expected]


def test_splits_are_taken_as_they_are_named():
    parts = {split: rows_of(split, 10) for split in ("train", "dev", "test")}
    (expected,) = read_tasks({"t": parts}, RENAMED)
    assert [row.text for split in SPLITS for row in expected.split(split)] == [
        row["body"] for part in parts.values() for row in part
    ]
    saved = datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in parts.items()})
    extra = saved | {"unsupervised": saved["train"]}
    for data in (saved, datasets.DatasetDict(extra), {split: pandas.DataFrame(rows) for split, rows in parts.items()}):
        (task,) = read_tasks({"t": data}, RENAMED)
        assert task.digest() == expected.digest()
        assert any("unsupervised" in note for note in task.notes) == ("unsupervised" in data)
    in_a_column = [row | {"split": split} for split, rows in parts.items() for row in rows]
    assert read_tasks({"t": in_a_column}, RENAMED)[0].digest() == expected.digest()
    alone = {"train": rows_of("a", 12, domain="x") + rows_of("b", 12, domain="y"), "test": rows_of("c", 4, domain="x")}
    x, y = read_tasks(alone, Columns("body", label="topic", task="domain"))
    assert [len(x.test), len(y.test)] == [4, 2] and len(x.train) + len(x.validation) == 12


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 2], ("1", "2")),
        ([1.0, 2.0], ("1", "2")),
        ([True, False], ("false", "true")),
        ([numpy.float32(0.1), numpy.float32(0.5)], ("0.1", "0.5")),
        ([" b", "a "], ("a", "b")),
        ([1, 2, None, float("nan"), -1], ("1", "2")),
    ],
)
def test_labels_are_read_as_in_files(labels, names):
    frame = pandas.DataFrame({"text": [f"t{i}" for i in range(40)], "label": (labels * 40)[:40]})
    (task,) = read_tasks(frame)
    assert task.labels == names
    assert sum(len(task.split(split)) for split in SPLITS) == sum(label in (1, 2) for label in frame.label) or len(labels) == 2


def test_targets_and_pairs():
    rows = [{"q": f"q{i}", "context": f"c{i}" if i % 2 else None, "label": i, "a": [f"a{i}", "other"]} for i in range(20)]
    (task,) = read_tasks(rows, Columns("q", pair="context", targets="a"))
    assert task.generates and {row.pair for row in task.train} > {None} and task.train[0].targets[1] == "other"


def test_a_part_without_labels_is_taken_from_the_training_rows():
    parts = {"train": as_lab(rows_of(number=40)), "test": [{"text": f"x{i}", "label": -1} for i in range(9)]}
    (task,) = read_tasks({"t": parts})
    assert len(task.test) == 8 and "x0" not in {row.text for row in task.test} and "has a label" in task.notes[0]


def frame(**columns) -> pandas.DataFrame:
    """Forty good rows, with columns that are not."""
    return pandas.DataFrame({"text": [f"t{i}" for i in range(40)], "label": ["a", "b"] * 20, **columns})


def with_one(value, column="text", row=3) -> pandas.DataFrame:
    changed = frame().astype(object)
    changed.at[row, column] = value
    return changed


REFUSED = [
    ([], ["no rows"]),
    ({}, ["no task"]),
    (None, ["NoneType", "DataFrame"]),
    ({"a": 3}, ["a is of type int"]),
    ("no such file.csv", ["no file no such file.csv"]),
    ([("t", "a"), None], ["row 1 is None", "(text, label)"]),
    ([("t", "a", "b")], ["row 0 is of 3 parts"]),
    (["text"], ["row 0 is of type str"]),
    (frame().rename(columns={"text": "body"}), ["no column 'text'", "body, label", "text="]),
    (frame().drop(columns="label"), ["no column 'label' or 'targets'", "only text"]),
    (pandas.concat([frame(), frame()], axis=1), ["column 'label' is there twice"]),
    (frame().set_axis(pandas.MultiIndex.from_tuples([("a", "text"), ("a", "label")]), axis=1), ["MultiIndex"]),
    (with_one(7), ["row 3", "text is of type int"]),
    (with_one(None), ["row 3", "text is missing"]),
    (with_one(float("nan")), ["row 3", "text is missing"]),
    (with_one(b"bytes"), ["row 3", "text is of type bytes"]),
    (with_one(b"bytes", "label"), ["row 3", "label", "bytes"]),
    (with_one(["a", "b"], "label"), ["row 3", "several labels"]),
    (frame(label=[str(i) for i in range(40)]), ["40 training rows of 40 labels", "identifier"]),
    (frame(label=range(40)).loc[numpy.repeat(range(40), 50)].assign(label=range(2000)), ["2,000 labels", "identifier"]),
    ({"train": frame(), "test": frame()}, ["splits must be disjoint"]),
    ({"t": {"train": frame(), "test": frame()[:0]}}, ["(test) holds no rows"]),
    ({"a/b": frame()}, ["name of task 'a/b'"]),
    (frame(label="a"), ["1 label(s)"]),
    ("hf:a b", ["no id of a data set", "hf:OWNER/NAME"]),
    ({"a": Source(frame(), text="body")}, ["no column 'body'", "text, label"]),
    (
        {"a": datasets.DatasetDict({"one": datasets.Dataset.from_list([]), "two": datasets.Dataset.from_list([])})},
        ["no split train"],
    ),
]


def test_a_part_without_a_column_of_the_training_rows_is_refused():
    with pytest.raises(LabError) as caught:
        read_tasks({"train": frame(), "test": frame().rename(columns={"label": "topic"})})
    assert_says(caught, "(test), row 0", "no column 'label'", "text, topic")


def test_classes_of_other_tasks_are_none_of_a_task():
    names = datasets.ClassLabel(names=["d", "c", "b", "a"])
    rows = [{"text": f"t{i}", "label": i % 4, "domain": i % 4 // 2} for i in range(80)]
    table = datasets.Dataset.from_list(rows).cast_column("label", names)
    assert [task.labels for task in read_tasks(table, Columns(task="domain"))] == [("d", "c"), ("b", "a")]


@pytest.mark.parametrize(("data", "words"), REFUSED, ids=[words[0] for _, words in REFUSED])
def test_what_cannot_be_read_is_refused_in_one_line(data, words):
    with pytest.raises(LabError) as caught:
        read_tasks(data)
    assert_says(caught, *words)


@pytest.mark.parametrize(
    ("domains", "words"),
    [
        (None, ["no column 'domain' (task)", "text, label"]),
        (["a", None] * 20, ["row 1", "'domain' is empty"]),
        (["a/b"] * 40, ["'a/b'"]),
    ],
)
def test_columns_of_tasks_that_are_refused(domains, words):
    data = frame() if domains is None else frame(domain=domains)
    with pytest.raises(LabError) as caught:
        read_tasks(data, Columns(task="domain"))
    assert_says(caught, *words)


def test_an_export_of_a_spreadsheet_is_the_same_as_file_and_as_frame(tmp_path):
    """Semicolons, a mark of the encoding, an index without a name, labels of two types, rows in which nothing stands."""
    lines = [f"{i};{'ab'[i // 20]};ein Wort, {i};{('ja', '1', '1.0')[i % 3]};1,5" for i in range(40)]
    lines[7:7], lines[30:30] = [";;;;", " ;;; ;"], [";;;;"]
    path = tmp_path / "export.csv"
    path.write_text("\n".join([";Bereich;Nachricht;Thema;Betrag", *lines]), encoding="utf-8-sig")
    columns = Columns(text="Nachricht", label="Thema", task="Bereich")
    file, frame = (read_tasks(data, columns) for data in (path, pandas.read_csv(path, sep=";")))
    assert [task.digest() for task in file] == [task.digest() for task in frame] and [task.name for task in file] == ["a", "b"]
    for task in (*file, *frame):
        assert sum(len(task.split(split)) for split in SPLITS) == 20 and any("3 of 43 rows" in note for note in task.notes)
    assert {*read_tasks(path, columns)[0].labels} == {"1", "1.0", "ja"}


def test_an_identifier_names_no_tasks():
    with pytest.raises(LabError) as caught:
        read_tasks([{"text": "t", "label": "a", "id": i} for i in range(1200)], Columns(task="id"))
    assert_says(caught, "'id' names 1,200 tasks", "identifier")


# -- the hub ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set in the layout of the hub, where `load_dataset` looks before the network."""
    folder = tmp_path / "owner" / "news"
    folder.mkdir(parents=True)
    train, test = as_lab(rows_of("train", 30)), as_lab(rows_of("test", 8))
    for split, rows in (("train", [*train, test[0]]), ("test", test), ("extra", train)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = "".join(f"\n  - split: {split}\n    path: {split}.jsonl" for split in ("train", "test", "extra"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:{entries}\n---\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


def test_a_data_set_of_the_hub_in_its_layout(hub, monkeypatch):
    (task,) = read_tasks({"news": "hf:owner/news"}, RENAMED)  # columns that the data set has under the lab's names
    assert (len(task.test), len(task.train) + len(task.validation)) == (8, 30)
    assert task.about == "owner/news, at main"
    said = " ".join(task.notes)
    assert "extra are not read" in said and "not from the hub" in said and "are left out (" in said
    (own,) = read_tasks("hf:owner/news")
    assert own.name == "news"
    with pytest.raises(LabError) as caught:
        read_tasks("hf:owner/news:other")
    assert_says(caught, "hf:owner/news:other", "could not be loaded", "other")
    with pytest.raises(LabError) as caught:
        read_tasks("hf:owner/news@main", revision="other")
    assert_says(caught, "revision main", "other")


def test_configuration_and_revision_reach_the_hub(monkeypatch):
    asked = []

    def load(*words, **named):
        asked.append((*words, named["revision"]))
        return datasets.DatasetDict({"all": datasets.Dataset.from_list(as_lab(rows_of()))})

    monkeypatch.setattr(datasets, "load_dataset", load)
    for data, named in (("hf:o/d:c@r1", {}), ("hf:o/d", {"name": "c", "revision": "r1"}), (Source("hf:o/d@r1", name="c"), {})):
        (task,) = read_tasks({"t": data}, **named)
        assert task.about == "o/d, configuration c, at r1" and task.labels == ("no", "yes")
    assert asked == [("o/d", "c", "r1")] * 3


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(LabError) as caught:
        read_tasks("hf:owner/nowhere")
    assert_says(caught, "hf:owner/nowhere could not be reached", "load it once with network", "csv")
