"""The examples of the pages in docs work as they stand there."""

import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import lab
from lab.cli.main import app
from lab.core import registry
from lab.data.saved_stream import saved_names
from lab.tracking.tensorboard import TensorBoard

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
    lines = [line for block in blocks("bash") for line in block.splitlines() if "hf:" not in line and "remove-stream" not in line]
    assert [line.split()[1] for line in lines] == ["validate", "run", "list"]
    for line in lines:
        small = ["--backbone", "tiny", "-o", "train.epochs=1", "-o", "router_training.steps=5"] if " run " in line else []
        done = CliRunner().invoke(app, [*shlex.split(line)[1:], *small])
        assert done.exit_code == 0, done.output
    assert saved_names()[0] in done.output
    unused = lab.stream({"a": [(f"text {i}", "yes" if i % 2 else "no") for i in range(200)]}).name
    assert CliRunner().invoke(app, ["remove-stream", unused]).exit_code == 0 and unused not in saved_names()


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


@pytest.mark.parametrize("with_grids", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_python_for_people(with_grids, tmp_path, monkeypatch):
    """docs/python.md in order; its tables name every public name, and what they say of shapes and columns is so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAB_RUNS", raising=False)
    names: dict = {}
    for block in blocks("python", "python"):
        if with_grids or "lab.grid(" not in block:
            exec(block, names)
    page = (PAGES / "python.md").read_text(encoding="utf-8")
    assert [name for name in lab.__all__ if f"lab.{name}" not in page] == []
    run = names["run"]
    assert run.matrix.shape == (2, 2) and names["after_last"].tolist() == run.matrix[-1].tolist() == [*names["scores"].iloc[-1]]
    for table in (run.scores(), run.predictions(), run.routing_table(), names["compared"].numbers):
        assert f" {', '.join(table.columns)}" in page
    assert names["shares"].shape == (2, 2) and len(names["losses"]) == 4 and (tmp_path / "comparison.csv").is_file()
    if not with_grids:
        return
    grid, sweep = names["grid"], names["sweep"]
    assert grid.table["n"].tolist() == [2, 2] and len(grid.cells) == 4 and not grid.unfinished
    best = sweep.sweep.loc[sweep.sweep["validation"].idxmax()]
    assert sweep.chosen == {"train.lr": best["train.lr"]} and [*sweep.sweep["chosen"]].count(True) == 1


def test_tracking(monkeypatch, tmp_path):
    """docs/tracking.md: a run tells the tool what the page says; its other commands have the options that they are given."""
    told: list[tuple] = []
    for method in ("log", "figure", "end"):
        monkeypatch.setattr(TensorBoard, method, lambda self, *words, method=method: told.append((method, *words)))
    monkeypatch.setattr(TensorBoard, "start", lambda self, run, options: told.append(("start", options["recipe"])) or "here")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    page = (PAGES / "tracking.md").read_text(encoding="utf-8")
    assert {*re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)} >= {*registry.trackers.names()}
    lines = [line for block in blocks("bash", "tracking") for line in block.splitlines()]
    _, listing, run, *others = [shlex.split(line, comments=True) for line in lines]
    assert CliRunner().invoke(app, listing[1:]).stdout.split()[0] in registry.trackers.names()
    small = ["train.epochs=1", "stream.max_train=16", "stream.max_test=8", "stream.tasks=news_topic,", "router_training.steps=2"]
    done = CliRunner().invoke(app, [*run[1:], *small, "--backbone", "tiny", "-q"])
    assert done.exit_code == 0, done.output
    assert told[0] == ("start", "l2r") and told[-1] == ("end", "finished")
    numbers = {name for call in told if call[0] == "log" for name in call[1]}
    words = {"loss", "loss/task", "lr", "progress", "average_accuracy", "cost/train_s"}
    assert words | {"score/news_topic", "routing/news_topic/news_topic"} <= numbers
    figures = [call[1] for call in told if call[0] == "figure"]
    assert figures and all(f"`{name}`" in page for name in figures)
    for line in others:
        command = get_command(app).commands[line[line.index("lab") + 1]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in line if word.startswith("--")} <= options, line
    assert all(
        "track" in inspect.signature(getattr(lab, name)).parameters for name in ("run", "resume", "route", "grid", "sweep")
    )
