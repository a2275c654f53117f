"""The examples of docs/data.md work as they stand there."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.cli.main import app
from lab.data.saved_stream import saved_names

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
WORDS = {"billing": ("refund invoice", "payment card"), "shop": ("parcel late", "size small")}


@pytest.fixture
def tickets(tmp_path, monkeypatch):
    """The file that the examples begin with, where they are run."""
    rows = [(domain, f"{words[i % 2]} {i}", ("neg", "pos")[i % 2]) for domain, words in WORDS.items() for i in range(30)]
    (tmp_path / "tickets.csv").write_text("domain,body,topic\n" + "".join(",".join(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAB_RUNS", raising=False)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


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
