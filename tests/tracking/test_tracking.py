"""Trackers: what a tool is told of a run, by a tool of this test and by those that are installed; what a failing one does."""

import importlib.util
import json
import math
import struct
from pathlib import Path

import pytest
from support.run_folders import LAYERS, TASKS, write_run

import lab
from lab.core import registry
from lab.core.errors import LabError
from lab.run_folder import events
from lab.tracking.base import Tracker, tracked, tracker

STEPS = 3
BLOCK = 1 << 15  # bytes


class Told(Tracker):
    """Keeps what it is told."""

    name = "told"
    package = "json"

    def __init__(self, fails_in: str = ""):
        self.fails_in, self.numbers, self.figures, self.calls = fails_in, [], {}, []

    def call(self, what):
        self.calls.append(what)
        if self.fails_in == what:
            raise ConnectionError("no route\nto host")

    def start(self, run, options):
        self.call("start")
        self.options = options
        return "nowhere"

    def log(self, values, step):
        self.call("log")
        self.numbers.append((step, dict(values)))

    def figure(self, name, figure):
        self.call("figure")
        self.figures[name] = figure

    def end(self, status):
        self.call("end")
        self.status = status


def happenings():
    """The events of a run on three tasks, as training yields them."""
    labels = [["no", "yes"]] * 3
    yield events.RunStarted(TASKS, labels, LAYERS, "cpu", [STEPS] * 3)
    for t, name in enumerate(TASKS):
        for step in range(1, STEPS + 1):
            yield events.Step(t, "train", 0, 1, step, STEPS, {"task": 1.0 / step, "penalty": 0.5}, 0.001, t / 3)
        yield events.Step(t, "memory", 0, 1, 1, 1, {"task": math.nan}, 0.001, t / 3)
        yield events.Evaluated(t, t, 0.9, 4, t / 3)
        yield events.TaskEnded(t, name, 10, 100, (t + 1) / 3)
    yield events.RunEnded({"train_s": 2.5, "device": "cpu"}, {})


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs", "one", events=False)


def follow(run, tool):
    return [*tracked(happenings(), run, tool)]


def test_a_tool_is_told_configuration_numbers_figures_and_the_end(run, capsys):
    tool = Told()
    assert [type(event) for event in follow(run, tool)] == [type(event) for event in happenings()], "all events are passed on"
    assert tool.options["router.name"] == "gates" and tool.options["train.lr"] == 0.001 and tool.status == "finished"
    steps = [step for step, _ in tool.numbers]
    assert steps == sorted(steps) and steps[-1] == 3 * (STEPS + 1), "steps of all phases of all tasks, never falling"
    first = tool.numbers[0]
    assert first == (1, {"loss": 1.5, "loss/task": 1.0, "loss/penalty": 0.5, "lr": 0.001, "progress": 0.0})
    told = {name: value for _, values in tool.numbers for name, value in values.items()}
    assert told["score/cooking"] == 0.9 and told["cost/train_s"] == 2.5 and "cost/device" not in told
    numbers = {path: value for path, value in run.metrics().items() if path != "why" and value is not None}
    assert numbers and {name: told[name] for name in numbers} == numbers, "every metric of the registry that has a value"
    routing = run.routing()
    assert [told[f"routing/weather/{name}"] for name in routing.experts] == pytest.approx(routing.share(1).tolist())
    assert [*tool.figures] == ["accuracy_matrix", "forgetting_curves", "routing_by_task"]
    assert "nowhere" in capsys.readouterr().err


def test_a_run_that_goes_on_counts_from_where_it_was(run):
    from lab.run_folder.writer import append_event

    for event in [*happenings()][1:4]:
        append_event(run, event.to_json())
    tool = Told()
    rest = [event for event in happenings() if getattr(event, "task", 0) > 0]
    assert len([*tracked(iter(rest), run, tool)]) == len(rest) and tool.numbers[0][0] == STEPS + 1


@pytest.mark.parametrize("moment", ["start", "log", "figure", "end"])
def test_a_tool_that_fails_is_said_once_and_fails_no_run(run, moment, capsys):
    tool = Told(moment)
    assert len(follow(run, tool)) == len([*happenings()])
    said = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert said == ["lab: told failed and is told no more of this run, which goes on: ConnectionError: no route to host"]
    assert (run.dir / "log.txt").read_text().count("told failed") == 1 and tool.calls.count(moment) == 1


def test_a_run_that_breaks_ends_in_the_tool_too(run):
    def broken():
        yield from [*happenings()][:3]
        raise RuntimeError("the loss is not finite")

    tool = Told()
    run = write_run(run.dir.parent, "half", events=False, status="running")
    with pytest.raises(RuntimeError, match="not finite"):
        [*tracked(broken(), run, tool)]
    assert tool.status == "failed" and not tool.figures


def test_a_tool_that_is_not_there_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"wandb is not installed: pip install 'adapter-routing-lab\[wandb\]'"):
        lab.run("l2r", backbone="tiny", runs=tmp_path, track="wandb")
    with pytest.raises(LabError, match="mlflow is not installed"):
        lab.grid({"recipes": ["l2r"], "stream": "builtin"}, runs=tmp_path, track="mlflow")
    monkeypatch.setenv("LAB_TRACK", "tensorbord")
    with pytest.raises(LabError, match="unknown tracker 'tensorbord': did you mean 'tensorboard'"):
        lab.run("l2r", backbone="tiny", runs=tmp_path)
    assert not [*tmp_path.iterdir()]


# -- what the tools themselves say afterwards ----------------------------------------------------------------------------------


def read_tensorboard(runs: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(runs / ".tracking" / "tensorboard" / "one")).Reload()
    assert (runs / ".tracking" / "tensorboard" / "one" / "accuracy_matrix.html").is_file()
    return {name: [(each.step, each.value) for each in read.Scalars(name)] for name in read.Tags()["scalars"]}


def read_mlflow(runs: Path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs}/.tracking/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["train.lr"] == "0.001"
    assert "accuracy_matrix.html" in {file.path for file in client.list_artifacts(run.info.run_id)}
    names = run.data.metrics
    return {name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)] for name in names}


def wandb_records(file: Path):
    """The records of an offline file: a log of LevelDB (blocks of 32 KiB; checksum, length, type, data) after 7 bytes."""
    data, record = file.read_bytes(), b""
    place = 7
    while place + 7 <= len(data):
        room = BLOCK - place % BLOCK
        if room < 7:
            place += room
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def read_wandb(runs: Path):
    from wandb.proto import wandb_internal_pb2

    (file,) = (runs / ".tracking" / "wandb").rglob("*.wandb")
    numbers: dict[str, list] = {}
    for data in wandb_records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                numbers.setdefault(name, []).append((row.get("_step"), value))
    return numbers


def read_trackio(runs: Path):
    from trackio.sqlite_storage import SQLiteStorage

    numbers: dict[str, list] = {}
    for row in SQLiteStorage.get_logs("lab", "one"):
        for name, value in row.items():
            numbers.setdefault(name, []).append((row["step"], value))
    return numbers


@pytest.mark.parametrize("name", registry.trackers.names())
def test_an_installed_tool_gives_the_numbers_back(run, name, monkeypatch, tmp_path):
    pytest.importorskip(registry.trackers.get(name).package)
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    tool = tracker(name)
    assert tool is not None
    follow(run, tool)
    assert "failed" not in ((run.dir / "log.txt").read_text() if (run.dir / "log.txt").is_file() else "")
    numbers = globals()[f"read_{name}"](run.dir.parent)
    losses = numbers["loss"]
    assert losses[0] == (1, 1.5) and losses[-1][0] == 3 * (STEPS + 1) - 1
    assert numbers["average_accuracy"][-1][1] == pytest.approx(run.metrics()["average_accuracy"])
    assert numbers["routing/cooking/cooking"][-1][1] == pytest.approx(run.routing().share(2)[2])
    assert numbers["score/animals"][0][1] == pytest.approx(0.9)
