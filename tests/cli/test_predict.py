"""`lab predict` and `lab export` as a user types them."""

import json

import pandas as pd
import pytest
from support import toy
from typer.testing import CliRunner

from lab.cli.main import app
from lab.inference.loading import load


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return toy.recorded(toy.session("l2r", of=toy.tasks("sea", "city")), tmp_path_factory.mktemp("runs"))


def lab(*words, run):
    return CliRunner().invoke(app, [str(word) for word in words] + ["--runs", str(run.dir.parent)])


TEXTS = ["red, wave", "=blue tram", "ré"]


@pytest.fixture
def files(tmp_path):
    table = pd.DataFrame({"body": TEXTS, "n": [1, 2, 3]})
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    table.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return tmp_path


def test_texts(run):
    shown = lab("predict", "r", *TEXTS, run=run)
    assert shown.exit_code == 0 and "city/" in shown.stdout and "ré" in shown.stdout
    answers = json.loads(lab("predict", "r", *TEXTS, "--json", "--expert", "sea", run=run).stdout)
    expected = load(run)(TEXTS, expert="sea")
    assert [answer["prediction"] for answer in answers] == list(expected["prediction"])
    assert [answer["share"] for answer in answers] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "txt"])
def test_files(run, files, kind):
    column = [] if kind == "txt" else ["--text-column", "body"]
    expected = load(run)(TEXTS)
    readers = {"csv": pd.read_csv, "jsonl": lambda path: pd.read_json(path, lines=True), "parquet": pd.read_parquet}
    for out, read in readers.items():
        done = lab("predict", "r", "--file", files / f"t.{kind}", *column, "--out", files / f"a.{out}", run=run)
        assert done.exit_code == 0 and "3 answers are in" in done.stdout and "3/3" in done.stderr and "ETA" in done.stderr
        answers = read(files / f"a.{out}")
        assert list(answers["prediction"]) == list(expected["prediction"])
        assert list(answers["probability"]) == pytest.approx(list(expected["probability"]), rel=1e-12)
        assert list(answers["text"]) == [f"'{text}" if text[0] == "=" and out == "csv" else text for text in TEXTS]


def test_export(run, tmp_path):
    done = lab("export", "r", tmp_path / "model", run=run)
    assert done.exit_code == 0 and "lab.load(" in done.stdout
    answers = json.loads(lab("predict", tmp_path / "model", "red wave", "--json", run=run).stdout)
    assert answers[0]["prediction"] == load(run).predict(["red wave"])[0]
    done = lab("export", "r", tmp_path / "merged", "--merge", "--expert", "sea", run=run)
    assert done.exit_code == 0 and (tmp_path / "merged" / "model.safetensors").is_file()
    done = lab("export", "r", tmp_path / "merged", run=run)
    assert done.exit_code == 2 and "exists already and is not empty" in done.stderr


def test_what_is_refused_is_one_line(run, files):
    for words, reason in [
        (["predict", "r"], "give texts"),
        (["predict", "r", "a", "--file", files / "t.csv"], "give texts"),
        (["predict", "r", "--file", files / "t.csv"], "row 0: no column 'text', only body, n; name it with --text-column"),
        (["predict", "r", "--file", files / "none.csv"], "there is no file"),
        (["predict", "r", "--file", files], "there is no file"),
        (["predict", "r", "a", "--out", files / "a.xls"], "unknown file type; use .csv, .jsonl, .parquet"),
        (["predict", "r", "a", "--out", files / "no" / "a.csv"], "there is no folder"),
        (["predict", "r", " "], "text 0 (counted from 0) is empty"),
        (["predict", "r", "a", "--expert", "se"], "unknown expert 'se': did you mean 'sea'"),
        (["predict", "r", "a", "--task", "sea"], "is not told the task of a text"),
        (
            ["predict", "example-uniform", "a"],
            "without its weights, as recorded examples are: train one of your own, lab run",
        ),
        (["predict", "q", "a"], "unknown run 'q'"),
        (["export", "r", files / "e", "--expert", "sea"], "backbone tiny is made by the lab"),
        (["export", "r", files / "e", "--merge"], "decides for each example anew"),
        (["export", "r", files / "e", "--task", "sea"], "use it with --merge"),
    ]:
        done = lab(*words, run=run)
        assert done.exit_code == 2 and done.stdout == "" and reason in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (files / "e").exists() and not (files / "a.csv").exists()
