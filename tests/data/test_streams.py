"""Streams: folders in every format, bad input, the hub's tables offline, published orders, and the way from a name to tasks."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from string import Formatter

import pandas
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from support.errors import assert_says

from lab.config.resolve import configure
from lab.contracts import checking
from lab.contracts import streams as contract
from lab.core import registry
from lab.core.errors import LabError
from lab.core.registry import streams
from lab.data.folder_stream import FolderStream
from lab.data.hub_stream import HubStream, HubTask
from lab.data.loading import load_tasks, open_stream
from lab.data.stream import SPLITS, Example, Task, check, limited, sample

DATA = Path(os.environ.get("LAB_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
FORMATS = ("jsonl", "jsonl.gz", "csv", "parquet", "saved")
LABELS = ["bad", "good", "so-so"]
ROWS = {
    "train": [("a, b", 0), ('said "no"\nand left', 1), ("日本語 é", 2), ("NA", 1)],
    "validation": [("v0", 0), ("v1", 2)],
    "test": [("t0", 1), ("t1", 2), ("null", 0)],
}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No LAB_DATA from outside, and a data set cache of the test's own."""
    import datasets

    monkeypatch.delenv("LAB_DATA", raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / ".cache"))


def rows_of(split: str, pair: bool = False) -> list[dict]:
    return [{"text": text, "label": label} | ({"text_pair": f"p{label}"} if pair else {}) for text, label in ROWS[split]]


def write(folder: Path, kind: str, splits: dict[str, list[dict]], spec: dict | None = None) -> Path:
    """A task folder in one of the formats."""
    import datasets

    folder.mkdir(parents=True)
    for split, rows in splits.items():
        path = folder / f"{split}.{kind}"
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        elif kind == "jsonl.gz":
            with gzip.open(path, "wt", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        elif kind == "csv":
            pandas.DataFrame(rows).to_csv(path, index=False)
        elif kind == "parquet":
            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    if kind == "saved":
        saved = {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
        datasets.DatasetDict(saved).save_to_disk(str(folder))
    if spec is not None:
        (folder / "task.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder


# folders ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [False, True])
def test_all_formats_give_the_same_task(tmp_path, pair):
    tasks = []
    for kind in FORMATS:
        write(tmp_path / kind / "news", kind, {split: rows_of(split, pair) for split in SPLITS}, {"label_names": LABELS})
        stream = FolderStream(tmp_path / kind)
        assert stream.names() == ["news"]
        tasks.append(check(stream.load("news")))
    first = tasks[0]
    assert first.labels == ("bad", "good", "so-so")
    for split in SPLITS:
        assert list(first.split(split)) == [Example(text, label, f"p{label}" if pair else None) for text, label in ROWS[split]]
    assert [task.digest() for task in tasks] == [first.digest()] * 5


@pytest.mark.parametrize("kind", FORMATS)
def test_label_names_from_training_rows(tmp_path, kind):
    named = {split: [row | {"label": LABELS[row["label"]]} for row in rows_of(split)] for split in SPLITS}
    numbered = {split: [row | {"label": 8 + row["label"]} for row in rows_of(split)] for split in SPLITS}
    write(tmp_path / "s" / "named", kind, named)
    write(tmp_path / "s" / "numbered", kind, numbered)
    stream = FolderStream(tmp_path / "s")
    assert stream.load("named").labels == ("bad", "good", "so-so")
    assert stream.load("numbered").labels == ("8", "9", "10")
    for name in ("named", "numbered"):
        assert [example.label for example in stream.load(name).train] == [0, 1, 2, 1]


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_label_names_from_class_label(tmp_path, kind):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "y", "x"])})
    saved = datasets.DatasetDict({split: datasets.Dataset.from_list(rows_of(split), features=features) for split in SPLITS})
    folder = tmp_path / "s" / "news"
    folder.mkdir(parents=True)
    if kind == "saved":
        saved.save_to_disk(str(folder))
    else:
        for split in SPLITS:
            saved[split].to_parquet(str(folder / f"{split}.parquet"))
    task = FolderStream(tmp_path / "s").load("news")
    assert task.labels == ("z", "y", "x")
    assert [example.label for example in task.train] == [0, 1, 2, 1]


def test_a_column_of_names_and_numbers_is_refused(tmp_path):
    rows = [row | {"label": row["label"] if i % 2 else LABELS[row["label"]]} for i, row in enumerate(rows_of("train"))]
    folder = a_stream(tmp_path, spec={"label_names": LABELS}, train=rows)
    refuse(folder, "train.jsonl, line 2", "label '1'", "mixes names and numbers")


@pytest.mark.parametrize("alias", ["valid", "dev"])
@pytest.mark.parametrize("kind", FORMATS)
def test_validation_aliases(tmp_path, kind, alias):
    write(tmp_path / "s" / "news", kind, {"train": rows_of("train"), alias: rows_of("validation"), "test": rows_of("test")})
    assert [example.text for example in FolderStream(tmp_path / "s").load("news").validation] == ["v0", "v1"]


def test_splits_may_differ_in_format_and_other_folders_are_no_tasks(tmp_path):
    news = write(tmp_path / "s" / "news", "jsonl", {"train": rows_of("train")})
    write(tmp_path / "a", "csv", {"dev": rows_of("validation")})
    (tmp_path / "a" / "dev.csv").rename(news / "dev.csv")
    write(tmp_path / "b", "parquet", {"test": rows_of("test")})
    (tmp_path / "b" / "test.parquet").rename(news / "test.parquet")
    for other in (".git", "_old", "notes"):
        (tmp_path / "s" / other).mkdir()
        (tmp_path / "s" / other / "README.md").write_text("nothing")
    (tmp_path / "s" / "README.md").write_text("nothing")
    stream = FolderStream(tmp_path / "s")
    assert stream.names() == ["news"]
    assert [len(stream.load("news").split(split)) for split in SPLITS] == [4, 2, 3]


# bad input --------------------------------------------------------------------------------------------------------------------


def refuse(folder: Path, *words: str, task: str = "news") -> None:
    """Loading says these words, in one line."""
    with pytest.raises(LabError) as caught:
        check(FolderStream(folder).load(task))
    assert_says(caught, *(word.format(folder) for word in words))


def a_stream(tmp_path: Path, kind: str = "jsonl", spec: dict | None = None, **changed: list[dict]) -> Path:
    write(tmp_path / "s" / "news", kind, {split: rows_of(split) for split in SPLITS} | changed, spec)
    return tmp_path / "s"


def test_missing_folder(tmp_path):
    with pytest.raises(LabError) as caught:
        FolderStream(tmp_path / "gone")
    assert_says(caught, f"stream folder {tmp_path}/gone does not exist", "one folder per task", "jsonl", "csv", "parquet")


def test_folder_without_tasks(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(LabError) as caught:
        FolderStream(tmp_path)
    assert_says(caught, f"stream folder {tmp_path} holds no tasks", "one folder per task", "jsonl", "csv", "parquet")


def test_a_folder_that_is_a_task_is_a_stream_of_one(tmp_path):
    folder = a_stream(tmp_path)
    stream = FolderStream(folder / "news")
    assert stream.names() == ["news"] and stream.load("news").digest() == FolderStream(folder).load("news").digest()
    write(folder / "news" / "more", "jsonl", {split: rows_of(split) for split in SPLITS})
    with pytest.raises(LabError) as caught:
        FolderStream(folder / "news")
    assert_says(caught, "task folder more", "test.jsonl", "move it")


def test_files_that_are_no_splits_are_not_passed_over(tmp_path):
    folder = a_stream(tmp_path)
    (folder / "late").mkdir()
    (folder / "late" / "reviews.csv").write_text("text,label\na,b\n")
    with pytest.raises(LabError) as caught:
        FolderStream(folder)
    assert_says(caught, "late holds reviews.csv", "no split", "train")


def test_unknown_task(tmp_path):
    refuse(a_stream(tmp_path), "unknown task 'new': did you mean 'news'?", task="new")


@pytest.mark.parametrize("kind", FORMATS)
def test_missing_training_rows(tmp_path, kind):
    write(tmp_path / "s" / "news", kind, {split: rows_of(split) for split in ("validation", "test")})
    refuse(tmp_path / "s", "{0}/news has no training rows", "train.*", "data.*")


def test_two_files_for_a_split(tmp_path):
    folder = a_stream(tmp_path)
    (folder / "news" / "dev.csv").write_text("text,label\nx,0\n")
    refuse(folder, "{0}/news has two files for validation: validation.jsonl and dev.csv; keep one")


def test_unknown_file_type(tmp_path):
    folder = a_stream(tmp_path)
    (folder / "news" / "test.jsonl").rename(folder / "news" / "test.xls")
    refuse(folder, "{0}/news/test.xls: unknown file type", "jsonl", "csv", "parquet")


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("jsonl", "test.jsonl, line 2"),
        ("jsonl.gz", "test.jsonl.gz, line 2"),
        ("csv", "test.csv, row 1"),
        ("parquet", "test.parquet, row 1"),
        ("saved", ", test, row 1"),
    ],
)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": " \t", "label": 0}, "empty text"),
        ({"text": "x", "label": 3}, "label '3' is not in the list: bad, good, so-so (or numbers 0..2"),
    ],
)
def test_bad_row(tmp_path, kind, place, row, message):
    folder = a_stream(tmp_path, kind, {"label_names": LABELS}, test=[*rows_of("test")[:1], row])
    where = "{0}/news" + (place if place.startswith(",") else f"/{place}")
    refuse(folder, f"{where}: {message}")


@pytest.mark.parametrize("kind", FORMATS)
def test_missing_column(tmp_path, kind):
    rows = [{"sentence": "x", "label": 0}, {"sentence": "y", "label": 1}]
    folder = a_stream(tmp_path, kind, test=rows)
    place = {"jsonl": "/test.jsonl, line 1", "jsonl.gz": "/test.jsonl.gz, line 1", "saved": ", test, row 0"}
    where = place.get(kind, f"/test.{kind}, row 0")
    refuse(folder, f"{{0}}/news{where}: no column 'text', only sentence, label", '"fields": {{"text": "sentence"}}')


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": None, "label": 0}, "text is missing (None)"),
        ({"text": "x", "text_pair": 7, "label": 0}, "text_pair is of type int, not a string"),
        ({"text": "x", "label": "old"}, "label 'old' is not in the list: 0, 1, 2 (taken from the training rows)"),
        ({"text": "x", "label": 1.5}, "label '1.5' is not in the list: 0, 1, 2 (taken from the training rows)"),
        ({"text": "x", "label": ["a"]}, "several labels per row"),
        ({"text": "x", "label": {"a": 1}}, "several labels per row"),
        ({"text": "x \ud800", "label": 1}, "text cannot be written as UTF-8 (surrogates not allowed at character 2)"),
        ({"text": "x"}, "no column 'label', only text"),
        ({"text": "x", "targets": ["y"]}, "no column 'label', only text, targets"),
    ],
)
def test_bad_value(tmp_path, row, message):
    folder = a_stream(tmp_path)
    (folder / "news" / "test.jsonl").write_text(json.dumps(row) + "\n")
    refuse(folder, "{0}/news/test.jsonl, line 1: ", message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "test.jsonl",
            b'{"text": "x", "label": 0}\n\n{"text": "\xff", "label": 0}\n',
            "line 3: not UTF-8 (byte 37); save the file as UTF-8",
        ),
        ("test.csv", b"text,label\nx,0\n\xe9,1\n", "line 3: not UTF-8 (byte 15); save the file as UTF-8"),
        (
            "test.jsonl",
            b'{"text": "x", "label": 0}\n{"text": \n',
            "line 2: broken JSON (Expecting value at column 10); each line holds one JSON object",
        ),
        ("test.jsonl", b"[1]\n", "line 1: list instead of a JSON object with text and label"),
    ],
)
def test_bad_bytes(tmp_path, name, content, message):
    folder = a_stream(tmp_path)
    (folder / "news" / "test.jsonl").unlink()
    (folder / "news" / name).write_bytes(content)
    refuse(folder, "{0}/news/" + name + ", ", message)


def test_parquet_that_is_not_utf8(tmp_path):
    folder = a_stream(tmp_path, "parquet")
    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, pyarrow.array([b"fine", b"caf\xe9"], pyarrow.binary()).buffers())
    parquet.write_table(pyarrow.table({"text": text, "label": [0, 1]}), folder / "news" / "test.parquet")
    refuse(folder, "{0}/news/test.parquet, row 1: not UTF-8 (byte 3 of the value)")


@pytest.mark.parametrize(
    ("name", "content", "start"),
    [
        ("test.parquet", b"no parquet", "{0}/news/test.parquet: not a readable Parquet file ("),
        ("test.csv", b"", "{0}/news/test.csv: not a readable csv file ("),
        ("test.csv", b"text,label\na,b,c\n", "{0}/news/test.csv: not a readable csv file ("),
        ("test.csv", b'text,label\n"a,0\nb,1\n', "{0}/news/test.csv: a quotation mark is not closed ("),
        ("test.jsonl.gz", b"no gzip", "{0}/news/test.jsonl.gz cannot be read: "),
        ("test.jsonl.gz", gzip.compress(b'{"text": "x"}' * 99, mtime=0)[:-9], "{0}/news/test.jsonl.gz cannot be read: "),
    ],
)
def test_broken_file(tmp_path, name, content, start):
    folder = a_stream(tmp_path)
    (folder / "news" / "test.jsonl").unlink()
    (folder / "news" / name).write_bytes(content)
    with pytest.raises(LabError) as caught:
        FolderStream(folder).load("news")
    assert str(caught.value).startswith(start.format(folder)) and "\n" not in str(caught.value)
    assert "a,b" not in str(caught.value), "the file may be a link to another one, whose lines are nobody's business"


def test_broken_saved_folder(tmp_path):
    folder = tmp_path / "s" / "news"
    folder.mkdir(parents=True)
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(LabError, match=r"news: not a readable save_to_disk folder \(.*\)$") as caught:
        FolderStream(tmp_path / "s").load("news")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "broken JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("[]", "list instead of a JSON object with label_names and fields"),
        ('{"label_names": "ab"}', "label_names must be a list of strings that are not empty"),
    ],
)
def test_bad_task_json(tmp_path, content, message):
    folder = a_stream(tmp_path)
    (folder / "news" / "task.json").write_text(content)
    with pytest.raises(LabError) as caught:
        FolderStream(folder).load("news")
    assert str(caught.value) == f"{folder}/news/task.json: {message}"


def test_check_sees_overlap_and_single_label(tmp_path):
    twice = a_stream(tmp_path, test=rows_of("train"))
    refuse(twice, "task 'news': a text of test (row 0) is also in train: splits must be disjoint")
    one = [row | {"label": 0} for row in rows_of("train")]
    single = a_stream(tmp_path / "b", spec={"label_names": LABELS}, train=one)
    refuse(single, "task 'news': the training examples hold one label only")


# sampling ---------------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(labels=st.lists(st.integers(0, 4), max_size=60), limit=st.integers(0, 70), key=st.text(max_size=4))
def test_sample_is_balanced(labels, limit, key):
    rows = [Example(f"t{i}", label) for i, label in enumerate(labels)]
    drawn = sample(rows, limit, key)
    assert drawn == sample(rows, limit, key)
    assert len(drawn) == min(limit, len(rows))
    assert [row for row in rows if row in set(drawn)] == list(drawn)
    have, got = Counter(labels), Counter(row.label for row in drawn)
    most = max(got.values(), default=0)
    assert all(got[label] >= most - 1 or got[label] == have[label] for label in have)


@settings(deadline=None)
@given(seed=st.integers(0, 5), train=st.integers(1, 20), test=st.integers(1, 20))
def test_limits_of_one_split_leave_the_others_alone(seed, train, test):
    rows = {split: [Example(f"{split}{i}", i % 3) for i in range(30)] for split in SPLITS}
    task = Task("news", ("a", "b", "c"), **rows)
    both = limited(task, seed, train, None, test)
    assert both.train == limited(task, seed, train, None, None).train
    assert both.test == limited(task, seed, None, None, test).test
    assert both.validation is task.validation
    assert limited(task, seed, train, None, None).train != limited(task, seed + 1, train, None, None).train or train < 4


# registry ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contract_check", contract.CHECKS, ids=checking.title)
@pytest.mark.parametrize("name", streams.names())
def test_contract(name, contract_check):
    contract_check(streams.options(name))


def test_orders_are_identified_by_their_list():
    """One name never means two lists; two names of one stream never mean the same list."""
    lists: dict[str, tuple[str, ...]] = {}
    for name in streams.names():
        orders = streams.get(name).orders
        assert len(set(orders.values())) == len(orders)
        for title, listed in orders.items():
            assert lists.setdefault(title, listed) == listed


def test_published_orders():
    mtl5, long15 = streams.get("mtl5").orders, streams.get("long15").orders
    assert mtl5["mtl5-i"] == ("yelp", "agnews", "dbpedia", "amazon", "yahoo")
    assert mtl5["mtl5-iii"] != mtl5["mtl5-mocl-2"]
    assert mtl5["standard-1"] == long15["standard-1"] == ("dbpedia", "amazon", "yahoo", "agnews")
    assert [" ".join(long15[f"long15-{i}"]) for i in (4, 5, 6)] == [
        "mnli cb wic copa qqp boolq rte imdb yelp amazon sst2 dbpedia agnews multirc yahoo",
        "multirc boolq wic mnli cb copa qqp rte imdb sst2 dbpedia agnews yelp amazon yahoo",
        "yelp amazon mnli cb copa qqp rte imdb sst2 dbpedia agnews yahoo multirc boolq wic",
    ]
    aliases = streams.get("afrisenti").aliases
    mocl = ("ma", "pcm", "kr", "pt", "ig", "sw", "ha", "ts", "dz", "twi", "am", "yo")
    assert streams.get("afrisenti").orders["afrisenti-2"] == tuple(aliases.get(name, name) for name in mocl)


def test_label_counts_of_the_benchmarks():
    def counts(name):
        return {task: len(found.labels or ()) for task, found in streams.get(name).tasks.items()}

    assert counts("mtl5") == {"agnews": 4, "amazon": 5, "dbpedia": 14, "yahoo": 10, "yelp": 5}
    assert list(counts("wos").values()) == [5, 3, 5, 5, 5, 5, 5]
    assert len(counts("afrisenti")) == 12 and len(counts("long15")) == 15


def test_imports_are_light():
    modules = ["lab.data.loading", *(f"lab.data.streams.{name.replace('-', '_')}" for name in streams.names())]
    heavy = ("torch", "transformers", "datasets", "pandas", "pyarrow")
    code = f"import sys, {', '.join(modules)}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# the hub, offline: local folders in its format ------------------------------------------------------------------------------


def hub_row(name: str, task: HubTask, number: int, label: int) -> dict:
    columns = {field for _, field, _, _ in Formatter().parse(task.text + (task.pair or "")) if field}
    row = {column: f"{name} {column} {number}" for column in columns}
    row |= {task.label: label + task.first_label} | dict([task.where] if task.where else [])
    return row


def hub_folder(root: Path, tasks: dict[str, HubTask], per_label: int = 10) -> Path:
    """A copy of the data sets of these tasks with a few rows: Parquet files, and a README that names the configurations."""
    files: dict[Path, list[dict]] = {}
    readme: dict[Path, set[tuple[str, str]]] = {}
    for name, task in tasks.items():
        folder = root / task.repo
        for base, part in enumerate([task.train, task.validation, task.test]):
            if part is None:
                continue
            path = folder / (task.data_dir or task.config or "data") / part / "0000.parquet"
            labels = range(len(task.labels or "123"))
            numbers = [(base * 1000 + i, label) for i, label in enumerate(list(labels) * per_label)]
            files.setdefault(path, []).extend(hub_row(name, task, number, label) for number, label in numbers)
            if task.config:
                readme.setdefault(folder, set()).add((task.config, part))
    for path, rows in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    for folder, parts in readme.items():
        configs = {config: [part for name, part in sorted(parts) if name == config] for config, _ in parts}
        entries = [
            {"config_name": config, "data_files": [{"split": part, "path": f"{config}/{part}/*.parquet"} for part in names]}
            for config, names in configs.items()
        ]
        (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(entries)}\n---\n")
    return root


HUB = [name for name in streams.names() if issubclass(streams.get(name), HubStream)]


@pytest.mark.parametrize("name", HUB)
def test_hub_tables_load(tmp_path, name):
    """Every row of every table: configuration, split names, templates, label column and label names fit together."""
    stream = streams.get(name)(root=hub_folder(tmp_path, streams.get(name).tasks))
    for title, spec in stream.tasks.items():
        task = check(stream.load(title))
        count = len(spec.labels or "123")
        rows = 10 * count
        sizes = [rows - (spec.test is None) * (rows // 5) - (spec.validation is None) * (rows // 5)]
        sizes += [rows if spec.validation else rows // 5, rows if spec.test else rows // 5]
        assert [len(task.split(split)) for split in SPLITS] == sizes, title
        assert len(task.labels) == count and (task.train[0].pair is None) == (spec.pair is None)
        assert all(title in example.text for split in SPLITS for example in task.split(split)), title
        assert "0 repeated texts dropped" in task.about


class Toy(HubStream):
    """A stream of one task, for the tests."""

    name = "toy"
    tasks = {"news": HubTask("me/news", "{title}\n{body}", labels=("no", "yes"), first_label=1)}


def toy(tmp_path: Path, **splits: list[tuple]) -> Toy:
    for split, rows in splits.items():
        path = tmp_path / "me" / "news" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = zip(*rows, strict=True)
        parquet.write_table(pyarrow.table(dict(zip(("title", "body", "label"), columns, strict=True))), path)
    return Toy(root=tmp_path)


def test_repeats_hidden_labels_and_empty_rows_are_dropped(tmp_path):
    train = [(f"t{i}", "b", 1 + i % 2) for i in range(20)]
    test = [("x", None, 1), ("y", "b", 2), ("X ", "", 2), ("hidden", "b", 0), ("", None, 1)]
    task = check(toy(tmp_path, train=[*train, ("y", "B", 1), ("t0", "b", 2)], test=test).load("news"))
    assert list(task.test) == [Example("x", 0), Example("y\nb", 1)]
    assert task.about == "me/news at main; 3 repeated texts dropped (test 1, train 2)"
    assert [len(task.split(split)) for split in SPLITS] == [16, 4, 2]
    assert Counter(example.label for example in task.validation) == {0: 2, 1: 2}
    assert {example.text for example in [*task.train, *task.validation]} == {f"t{i}\nb" for i in range(20)}


def test_cuts_and_pools_are_the_same_again(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.data.hub_stream.TRAIN_POOL", 30)
    rows = [(f"t{i}", "b", 1 + i % 2) for i in range(50)]
    first, second = (toy(tmp_path, train=rows, test=[("x", "", 1), ("y", "", 2)]).load("news") for _ in range(2))
    assert first.digest() == second.digest()
    assert [len(first.split(split)) for split in SPLITS] == [24, 6, 2]


def test_hub_columns_that_are_not_there(tmp_path):
    stream = toy(tmp_path, train=[("a", "b", 1)], test=[("a", "b", 1)])
    for changed, column in ((HubTask("me/news", "{gone}"), "gone"), (HubTask("me/news", "{body}", label="stars"), "stars")):
        stream.tasks = {"news": changed}
        with pytest.raises(LabError) as caught:
            stream.load("news")
        assert_says(caught, "me/news (test)", f"no column '{column}'", "title, body, label")


def test_hub_label_names_come_from_the_data_unless_given(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "w"])})
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(20)]
    for split in ("train", "test"):
        path = tmp_path / "me" / "news" / "lang" / split / "0000.parquet"
        path.parent.mkdir(parents=True)
        shifted = [row | {"text": f"{split} {row['text']}"} for row in rows]
        datasets.Dataset.from_list(shifted, features=features).to_parquet(str(path))
    stream = Toy(root=tmp_path)
    for names, found in ((None, ("x", "w")), (("no", "yes"), ("no", "yes"))):
        stream.tasks = {"news": HubTask("me/news", "{text}", labels=names, data_dir="lang")}
        assert stream.load("news").labels == found
    stream.tasks = {"news": HubTask("me/news", "{text}", labels=("a", "b", "c"), data_dir="lang")}
    with pytest.raises(LabError, match=r"^me/news has 2 labels, 3 were expected: x, w$"):
        stream.load("news")


def test_hub_that_cannot_be_reached(tmp_path):
    code = "from lab.data.loading import load_tasks\nfrom lab.core.errors import LabError\n"
    code += "try: load_tasks('mtl5', tasks=['agnews'])\nexcept LabError as error: print(error)"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    env.pop("LAB_DATA", None)
    printed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert printed.startswith("task 'agnews' of mtl5: the data set fancyzhx/ag_news could not be reached (")
    assert printed.endswith("put the task folders in $LAB_DATA/mtl5 or give the path of such a folder as the stream\n")
    assert printed.count("\n") == 1


# from a name to tasks ---------------------------------------------------------------------------------------------------------


def numbered(labels: list[str]) -> dict[str, list[dict]]:
    """Two rows of each label by its number, other texts in every split."""
    return {
        split: [{"text": f"{split} {i} {label}", "label": label} for label in range(len(labels)) for i in range(2)]
        for split in SPLITS
    }


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A LAB_DATA folder with four of the five tasks of mtl5 (one under another name) and a stream of its own."""
    for task in ("ag", "amazon", "dbpedia", "yahoo"):
        names = list(registry.streams.get("mtl5").tasks["agnews" if task == "ag" else task].labels)
        write(tmp_path / "mtl5" / task, "jsonl", numbered(names), {"label_names": names})
    write(tmp_path / "mine" / "news", "jsonl", {split: rows_of(split) for split in SPLITS})
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    return tmp_path


def test_lab_data_comes_before_the_hub_and_carries_orders(shelf):
    stream = open_stream("mtl5")
    assert isinstance(stream, FolderStream) and stream.names() == ["ag", "amazon", "dbpedia", "yahoo"]
    assert stream.orders == {
        "standard-1": ("dbpedia", "amazon", "yahoo", "ag"),
        "standard-2": ("dbpedia", "amazon", "ag", "yahoo"),
        "standard-3": ("yahoo", "amazon", "ag", "dbpedia"),
    }
    assert [task.name for task in load_tasks("mtl5", tasks="standard-3")] == ["yahoo", "amazon", "ag", "dbpedia"]
    assert open_stream(str(shelf / "mtl5")).orders == stream.orders
    assert open_stream("mine").orders == {}
    assert isinstance(open_stream("wos"), HubStream)


def test_a_folder_that_is_called_like_a_benchmark_must_be_it(shelf):
    """Else a sample of other data would silently take the benchmark's place."""
    write(shelf / "wos" / "law", "jsonl", numbered(["a", "b"]))
    with pytest.raises(LabError, match=r"wos is called like the shipped stream 'wos', but it has a task 'law', .*: rename"):
        open_stream("wos")
    assert open_stream(str(shelf / "wos")).names() == ["law"], "a path says which data are meant"
    (shelf / "wos" / "law").rename(shelf / "wos" / "ece")
    with pytest.raises(LabError, match="task 'ece' has the labels 0, 1, in the stream ece area 0, ece area 1, ece area 2"):
        load_tasks("wos")


def test_a_path_comes_first(shelf, monkeypatch):
    monkeypatch.chdir(shelf / "mine" / "news")
    assert open_stream("..").names() == ["news"]
    monkeypatch.chdir(shelf)
    assert open_stream("mine").names() == open_stream("./mine").names() == ["news"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (dict(name="mtl"), "unknown stream 'mtl': did you mean 'mtl5'?"),
        (dict(name="mime"), "unknown stream 'mime': did you mean 'mine'?"),
        (dict(name="mtl5", tasks="standard-4"), "unknown order 'standard-4': did you mean 'standard-3'?"),
        (dict(name="mtl5", tasks="mtl5-i"), "unknown order 'mtl5-i': there are: standard-1, standard-2, standard-3"),
        (dict(name="mtl5", tasks=["amazone"]), "unknown task 'amazone': did you mean 'amazon'?"),
        (dict(name="mtl5", tasks=["ag", "ag"]), "stream.tasks names a task twice: ag, ag"),
        (dict(name="", sources=["mine", "mine"]), "stream.sources names 'mine' twice"),
    ],
)
def test_wrong_names(shelf, call, message):
    with pytest.raises(LabError) as caught:
        load_tasks(**call)
    assert str(caught.value) == message


def test_lab_data_that_is_no_folder(monkeypatch):
    monkeypatch.setenv("LAB_DATA", "/nowhere/at/all")
    with pytest.raises(LabError) as caught:
        open_stream("mtl5")
    assert_says(caught, "LAB_DATA=/nowhere/at/all", "not a folder", "unset")


def test_joined_sources(shelf):
    assert open_stream("", ["mine", "mtl5"]).names() == ["ag", "amazon", "dbpedia", "news", "yahoo"]
    assert [task.name for task in load_tasks("", ["mine", "mtl5"], tasks=["news", "ag"])] == ["news", "ag"]
    assert open_stream("", ["mtl5"]).names() == ["ag", "amazon", "dbpedia", "yahoo"]
    write(shelf / "other" / "news", "jsonl", {split: rows_of(split) for split in SPLITS})
    with pytest.raises(LabError) as caught:
        open_stream("", ["mine", "other"])
    assert_says(caught, "stream.sources", "'mine' and 'other'", "'news'", "rename", "drop")


def test_tasks_are_checked_before_they_are_sampled(shelf):
    write(shelf / "bad" / "news", "jsonl", {split: rows_of("train") for split in SPLITS})
    with pytest.raises(LabError, match="splits must be disjoint"):
        load_tasks("bad", max_train=2, max_validation=1, max_test=1)


def test_limits(shelf):
    (task,) = load_tasks("mine", seed=3, max_train=3, max_test=2)
    assert [len(task.split(split)) for split in SPLITS] == [3, 2, 2]
    assert sorted(example.label for example in task.train) == [0, 1, 2]


def test_a_limit_per_label(shelf):
    """Published sizes are per label: of each as many as asked or as there are, whatever the others have."""
    rows = [Example(f"text {i}", 0 if i < 3 else 1 + i % 2) for i in range(30)]
    task = Task("news", ("few", "b", "c"), rows, rows[:2], rows[:2])
    five = limited(task, 0, max_per_label=5)
    assert Counter(example.label for example in five.train) == {0: 3, 1: 5, 2: 5} and five.validation is task.validation
    assert Counter(example.label for example in limited(task, 0, 6, max_per_label=5).train) == {0: 2, 1: 2, 2: 2}
    (task,) = load_tasks("mine", max_per_label=1)
    assert sorted(example.label for example in task.train) == [0, 1, 2]
    assert configure("l2r", ["stream.max_per_label=5"]).to_dict()["stream"]["max_per_label"] == 5


def test_fewer_training_examples_than_labels_are_refused(shelf):
    with pytest.raises(LabError) as error:
        load_tasks("mine", max_train=2)
    assert str(error.value).startswith("stream.max_train = 2 is less than the 3 labels of task 'news': give each label")


# the real data, where they are ------------------------------------------------------------------------------------------------


def real(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} in {DATA}: set LAB_DATA to the folder of the real streams")
    return DATA / name


@pytest.mark.parametrize("name", ["mtl5", "wos_fewshot", "afrisenti", "long15_extra"])
def test_real_streams(name):
    """Every task loads whole, its splits are disjoint, its labels and counts are those its card states."""
    stream = FolderStream(real(name))
    assert len(stream.names()) == {"mtl5": 5, "wos_fewshot": 6, "afrisenti": 10, "long15_extra": 10}[name]
    for title in stream.names():
        task, card = check(stream.load(title)), json.loads((DATA / name / title / "task.json").read_text())
        assert list(task.labels) == card["label_names"]
        for split in SPLITS:
            counted = Counter(example.label for example in task.split(split))
            assert [counted[label] for label in range(len(task.labels))] == card["splits"][split]["per_label"]
            assert all((example.pair is not None) == ("text_pair" in card["fields"]) for example in task.split(split))


def test_real_order_by_name(monkeypatch):
    monkeypatch.setenv("LAB_DATA", str(real("mtl5").parent))
    tasks = load_tasks("mtl5", tasks="mtl5-ii", max_train=70, max_validation=28, max_test=30)
    assert [task.name for task in tasks] == ["dbpedia", "yahoo", "agnews", "amazon", "yelp"]
    assert Counter(example.label for example in tasks[0].train) == dict.fromkeys(range(14), 5)
    assert [len(task.test) for task in tasks] == [30] * 5
    alone = load_tasks("mtl5", tasks=["yahoo"], max_train=70, max_validation=28, max_test=30)
    assert alone[0].digest() == tasks[1].digest()


def test_real_long_sequence(monkeypatch):
    monkeypatch.setenv("LAB_DATA", str(real("long15_extra").parent))
    real("mtl5")
    stream = open_stream("", ["mtl5", "long15_extra"])
    assert len(stream.names()) == 15 and {"long15-4", "long15-5", "long15-6", "mtl5-i", "standard-1"} <= set(stream.orders)
    assert stream.load("cb").labels == ("entailment", "contradiction", "neutral")


def test_real_generation_stream():
    stream = FolderStream(real("superni15"))
    task = check(stream.load("task1572_samsum_summary"))
    assert task.generates and [len(task.split(split)) for split in SPLITS] == [144, 16, 20]
    assert all(len(example.targets) >= 1 and example.label == 0 for example in task.test)
    assert stream.load("task363_sst2_polarity_classification").labels == ("NEG", "POS")


# tasks of free text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_targets_instead_of_labels(tmp_path, kind):
    """A list of texts that are all right, where the format has lists; a single text in any."""
    answers = ["p", "q"] if kind == "csv" else [["p"], ["q", "r"]]
    rows = {split: [{"text": f"{split}{i}", "targets": answer} for i, answer in enumerate(answers)] for split in SPLITS}
    task = check(FolderStream(a_stream(tmp_path, kind, **rows)).load("news"))
    assert task.generates and task.labels == ()
    assert [example.targets for example in task.train] == ([("p",), ("q",)] if kind == "csv" else [("p",), ("q", "r")])
    assert limited(task, 0, 2, 2, 2).test == task.test
    changed = Task("news", (), task.train, task.validation, [task.test[0], task.test[1]._replace(targets=("s",))])
    assert changed.digest() != task.digest()


def test_answers_of_digits_are_texts(tmp_path):
    rows = {split: [{"text": f"{split}{i}", "targets": answer} for i, answer in enumerate(("4", "07"))] for split in SPLITS}
    task = check(FolderStream(a_stream(tmp_path, "csv", **rows)).load("news"))
    assert [example.targets for example in task.train] == [("4",), ("07",)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "no column 'targets', only text"),
        ({"text": "x", "targets": []}, "targets = [] must be a text, or a list of texts that are all right"),
        ({"text": "x", "targets": 3}, "targets = 3 must be a text, or a list of texts that are all right"),
        ({"text": "x", "targets": ["y", 3]}, "targets is of type int, not a string"),
        ({"text": "x", "targets": ["y", " "]}, "empty target"),
        ({"text": " ", "targets": ["y"]}, "empty text"),
    ],
)
def test_bad_targets(tmp_path, row, message):
    rows = {split: [{"text": f"{split}{i}", "targets": ["y"]} for i in range(2)] for split in SPLITS}
    refuse(a_stream(tmp_path, **rows | {"test": [rows["test"][0], row]}), "{0}/news/test.jsonl, line 2: ", message)


def test_the_digest_of_labelled_tasks_has_no_targets():
    """Recorded runs and kept experts are addressed by it."""
    rows = [Example("a", 0), Example("b", 1, "c")]
    task, content = Task("t", ("x", "y"), rows, rows, rows), [["x", "y"], *[[["a", 0, None], ["b", 1, "c"]]] * 3]
    assert task.digest() == hashlib.sha256(json.dumps(content).encode()).hexdigest()
