"""The examples of docs/data.md and docs/model.md work as they stand there."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lab
from lab.cli.main import app
from lab.data.saved_stream import saved_names

PAGES = Path(__file__).parents[1] / "docs"
WORDS = {"billing": ("refund invoice", "payment card"), "shop": ("parcel late", "size small")}


@pytest.fixture
def tickets(tmp_path, monkeypatch):
    """The file that the examples begin with, where they are run."""
    rows = [(domain, f"{words[i % 2]} {i}", ("neg", "pos")[i % 2]) for domain, words in WORDS.items() for i in range(30)]
    (tmp_path / "tickets.csv").write_text("domain,body,topic\n" + "".join(",".join(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAB_RUNS", raising=False)


def blocks(language: str, page: str = "data") -> list[str]:
    file = PAGES / f"{page}.md"
    return re.findall(rf"^```{language}\n(.*?)^```$", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_python(tickets, capsys):
    names: dict = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["run"].tasks == ["billing", "shop"] and "billing: 20 train" in capsys.readouterr().out
    assert names["stream"].name == "support" and len(saved_names()) == 3
    assert [task.labels for task in names["stream"].tasks] == [("neg", "pos"), ("bad", "good"), ("neg", "pos")]


def test_commands(tickets):
    lines = [line for block in blocks("bash") for line in block.splitlines() if "hf:" not in line]
    assert [line.split()[1] for line in lines] == ["validate", "run", "list"]
    for line in lines:
        small = ["--backbone", "tiny", "-o", "train.epochs=1", "-o", "router_training.steps=5"] if " run " in line else []
        done = CliRunner().invoke(app, [*shlex.split(line)[1:], *small])
        assert done.exit_code == 0, done.output
    assert saved_names()[0] in done.output


def test_the_trained_model(tickets, tmp_path):
    stream = lab.stream("tickets.csv", task="domain", text="body", label="topic")
    small = ["train.epochs=1", "router_training.steps=5"]
    names: dict = {"run": lab.run("l2r", small, stream=stream, backbone="tiny", id="tickets", progress=False)}
    for block in blocks("python", "model"):
        exec(block, names)
    assert names["again"].predict(["a parcel"]) == names["model"].predict(["a parcel"])
    for line in "".join(blocks("bash", "model")).splitlines():
        file = [word.replace("texts.csv", "tickets.csv") for word in shlex.split(line)[1:]]
        done = CliRunner().invoke(app, file)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "answers.parquet").is_file() and '"prediction": "' in done.output
