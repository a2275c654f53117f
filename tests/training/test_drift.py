"""A run goes on as it began, or says what has changed; a step that is not finite is not taken."""

import json
import math

import pytest
import torch
import yaml
from support import toy
from support.errors import assert_says

from lab import views
from lab.core.errors import LabError, RunFailed
from lab.run_folder import events
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run, request_stop
from lab.training import checkpoint, drift, runner, trainer
from lab.training.recorder import Stopped, record

OPTIONS = ("checkpoint.every=3", "train.epochs=2", "router_training.steps=8")


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A run of the toy stream that was stopped after its first task; it finds its tasks again when it is resumed."""
    monkeypatch.setattr(runner, "tasks_of", lambda stream, seed, **_: toy.tasks(train=32))
    session = toy.session("l2r", *OPTIONS, of=toy.tasks(train=32))
    run = create_run(session.config.to_dict(), tmp_path, "r")
    with pytest.raises(Stopped):
        for event in record(run, session):
            if isinstance(event, events.TaskStarted):
                request_stop(run)
    return run


def edit(run: Run, **sections) -> None:
    path = run.dir / "config.yaml"
    content = yaml.safe_load(path.read_text())
    for section, values in sections.items():
        content[section] = content[section] | values if isinstance(values, dict) else values
    path.write_text(yaml.safe_dump(content))


def resume(run: Run, **options) -> Run:
    return runner.resume(run.id, run.dir.parent, progress=False, **options)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"train": {"lr": 0.5}}, "train.lr was 0.02, is 0.5"),
        ({"train": {"epochs": 5}}, "train.epochs was its default, is 5"),
        ({"memory": {"per_task": 9}}, "memory.per_task was 24, is 9"),
        ({"seed": 7}, "seed was its default, is 7"),
    ],
)
def test_an_edited_configuration_is_never_silent(begun, sections, sentence):
    edit(begun, **sections)
    before = {
        path: path.read_bytes() for path in begun.dir.rglob("*") if path.is_file() and path.name not in ("log.txt", "run.json")
    }
    with pytest.raises(LabError) as refused:
        resume(begun)
    assert sentence in str(refused.value) and "--accept-changes" in str(refused.value)
    assert all(path.read_bytes() == content for path, content in before.items() if path.is_file() and ".lock" not in path.name)
    run = resume(begun, accept_changes=True)
    assert run.status == "finished" and run.changes == [sentence] and run.result()["changes"] == [sentence]
    assert any(sentence in line for line in views.unequal([run, run]))


def test_other_tasks_and_other_shapes_cannot_be_gone_on_with(begun):
    edit(begun, experts={"rank": 5})
    with pytest.raises(LabError) as refused:
        resume(begun, accept_changes=True)
    assert_says(refused, "does not fit the changes", "undo")


def test_other_data_and_versions_are_named(begun, monkeypatch):
    monkeypatch.setattr(runner, "tasks_of", lambda stream, seed, **_: toy.tasks(train=28))
    fingerprint = begun.info["fingerprint"]
    state = next((begun.dir / "checkpoint").glob("[0-9]*/session.json"))
    assert json.loads(state.read_text())["run"]["fingerprint"] == fingerprint
    monkeypatch.setattr(drift, "environment", lambda: {"lab": "0.0.1", "packages": {"torch": "1.0", "peft": "0.1"}})
    with pytest.raises(LabError) as refused:
        resume(begun)
    for part in ("examples of task 'sea' are others", "lab was", "torch was", "is 1.0"):
        assert part in str(refused.value)
    assert str(refused.value).count("\n  ") >= 4


def test_an_option_changes_on_request_and_is_recorded(begun):
    run = resume(begun, overrides=["train.lr=0.01"])
    assert run.status == "finished" and run.changes == ["train.lr was 0.02, is 0.01"]
    assert run.config["train"]["lr"] == 0.01
    assert any(event["kind"] == "Step" and 0 < event["lr"] <= 0.01 for event in run.events() if event.get("task") == 1)


def test_runs_of_before_have_less_to_compare():
    now = {"tasks": {"a": "1"}, "backbone": "b", "settings": {"seed": 1}, "versions": {"lab": "2"}}
    assert drift.differences({"tasks": {"a": "1"}, "backbone": "b"}, now) == []


@pytest.mark.parametrize("what", ["gradient", "loss"])
def test_a_step_that_is_not_finite_is_not_taken(tmp_path, monkeypatch, what):
    """The run fails with phase, task and option, its state is finite, and it is gone on with at a smaller rate."""
    monkeypatch.setattr(runner, "tasks_of", lambda stream, seed, **_: toy.tasks(train=32))
    session = toy.session("l2r", *OPTIONS, of=toy.tasks(train=32))
    run = create_run(session.config.to_dict(), tmp_path, "r")
    steps = iter(range(10**6))
    terms = trainer.Session.refuse_non_finite

    def poisoned(self, stage, step, losses, norm):
        if next(steps) == 5:
            losses = losses | {"task": torch.tensor(math.inf)} if what == "loss" else losses
            norm = norm * math.nan if what == "gradient" else norm
        terms(self, stage, step, losses, norm)

    monkeypatch.setattr(trainer.Session, "refuse_non_finite", poisoned)
    with pytest.raises(RunFailed) as failed:
        list(record(run, session))
    assert_says(failed, what, "not finite", "phase", "task 'city'", "lower train.lr", "lab resume")
    assert all(torch.isfinite(p).all() for p in session.learner.bank.parameters())
    assert run.status == "failed" and checkpoint.newest_whole(run.dir) is not None
    monkeypatch.setattr(trainer.Session, "refuse_non_finite", terms)
    assert resume(run, overrides=["train.lr=0.001"]).status == "finished"


OPTION_OF = {  # recipe and phase, and the option to lower there
    ("l2r", "train"): "train.batch_size (16)",
    ("l2r", "memory"): "router_training.batch_size (16)",
    ("l2r", "evaluate"): "backbone.max_length (128)",
    ("phatgoose", "gate"): "train.batch_size (16)",
    ("poly", "train"): "train.batch_size (16)",
    ("poly", "train on another task"): "protocol.adaptation.batch_size (8)",
}


@pytest.mark.parametrize(("recipe", "phase"), OPTION_OF)
def test_memory_that_is_not_enough_says_what_to_lower(tmp_path, monkeypatch, recipe, phase):
    """In each phase the run fails with its name and its own options, and is gone on with once there is memory."""
    session = toy.session(recipe, of=toy.tasks(train=32))
    collate = session.learner.backbone.collate

    def step(rows):
        stage = session.stage
        if stage is not None and stage.phase == phase.split()[0] and (stage.task > 0 or phase == "train"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return collate(rows)

    monkeypatch.setattr(session.learner.backbone, "collate", step)
    run = create_run(session.config.to_dict(), tmp_path, "r")
    with pytest.raises(RunFailed) as failed:
        list(record(run, session))
    assert_says(failed, "memory of cpu", f"phase {phase.split()[0]} on task", f"lower {OPTION_OF[recipe, phase]}", "resume")
    assert run.status == "failed" and run.info["error"] == str(failed.value)
    monkeypatch.setattr(session.learner.backbone, "collate", collate)
    monkeypatch.setattr(runner, "tasks_of", lambda stream, seed, **_: toy.tasks(train=32))
    assert phase != "memory" or resume(run).status == "finished"


@pytest.mark.parametrize("error", [MemoryError(), "too much"])
def test_memory_that_the_machine_lacks(monkeypatch, error):
    """The last one is really asked of the allocator. Other errors stay what they are; a backbone may be too large as well."""
    session = toy.session("sequential")

    def step(*_):
        if isinstance(error, str):
            torch.empty(2**60)
        raise error

    monkeypatch.setattr(session.learner.backbone, "collate", step)
    with pytest.raises(RunFailed, match="the memory of cpu was not enough in phase evaluate"):
        list(session.train())
    monkeypatch.setattr(session.learner.backbone, "collate", lambda rows: (_ for _ in ()).throw(RuntimeError("shapes")))
    with pytest.raises(RuntimeError, match="shapes"):
        list(session.train())
    monkeypatch.setattr(runner, "tasks_of", lambda stream, seed, **_: toy.tasks(train=32))
    monkeypatch.setattr(runner, "Session", step)
    with pytest.raises(LabError, match=r"not enough to load the backbone tiny: take a smaller one, another backbone.dtype"):
        runner.session(session.config)


def test_a_loss_that_explodes_is_seen(tmp_path):
    """Without stand-ins: a rate far too high for a real run of a few steps ends in the same refusal or in finite weights."""
    session = toy.session("sequential", "train.lr=10", "train.clip=0", "train.epochs=4")
    try:
        list(session.train())
    except RunFailed as failed:
        assert "not finite" in str(failed)
    assert all(torch.isfinite(p).all() for p in session.learner.bank.parameters())
