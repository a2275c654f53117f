"""Runs that are killed, stopped or interrupted go on to the very bytes of a run that was not."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import faults, toy
from support.errors import assert_says

import lab
from lab.config.resolve import configure, recipe_names
from lab.core import atomic_io, verified_files
from lab.core.errors import LabError, RunFailed
from lab.run_folder import lease
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run, request_stop
from lab.training import checkpoint, recorder, runner
from lab.training.recorder import Stopped

SHORT = ("checkpoint.every=3", "train.epochs=2")
RECIPES = ["l2r", "replay"]
SHARED = ("memory.per_task=0", "memory.total=20")
METHODS = {name: ("sequential", f"methods.{name}={{}}") for name in toy.methods()}
SHOTS = ("protocol=transfer", "protocol.shots=[4]", "protocol.adaptation.steps=6")
FULL = ("full", "scenario=task", *SHOTS, "experts.targets=[query]")
TRANSFER = {"poly-mu": ("poly-mu",), "mhr": ("mhr",), "private": ("private",), "full, transfer": FULL}
CASES = (
    METHODS
    | TRANSFER
    | {  # recipe and options, where a case is not simply a recipe
        "all methods": ("sequential", *SHARED, *(options for _, options in METHODS.values())),
        "ewc online": ("ewc-online", "methods.ewc.decay=0.5"),
        "balanced": ("replay-balanced", *SHARED),
        "reservoir": ("l2r", *SHARED),
    }
)
BYTES = ("config.yaml", "matrix.json", "router.safetensors", "experts/**/*", "predictions/*", "routing/*", "state/**/*")


@pytest.fixture(autouse=True)
def every_step_is_logged(monkeypatch):
    monkeypatch.setattr(recorder, "LOG_EVERY", 0.0)


def session(case: str, **settings):
    """Four steps on each task, and eight on the memory, with a state saved every three."""
    recipe, *more = CASES.get(case, (case,))
    short = (*SHORT, "router_training.steps=8") if configure(recipe).router_training.steps else SHORT
    return toy.session(recipe, *short, *more, **{"of": toy.tasks(train=32)} | settings)


def content(run: Run) -> dict[str, bytes]:
    """What a run folder holds, without times."""
    return {str(path.relative_to(run.dir)): path.read_bytes() for glob in BYTES for path in run.dir.glob(glob) if path.is_file()}


def events(run: Run) -> list[dict]:
    """Events without times."""
    return [
        {key: value for key, value in event.items() if key not in ("time", "cost")}
        | {"cost": {key: value for key, value in event.get("cost", {}).items() if not key.endswith("_s") and "peak" not in key}}
        for event in run.events()
        if event["kind"] != "Recovered"
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run of a recipe, once it is asked for: its folder, and kind and phase of every event."""

    class Whole(dict[str, tuple[Run, list[tuple[str, str]]]]):
        def __missing__(self, recipe: str) -> tuple[Run, list[tuple[str, str]]]:
            made = session(recipe)
            run = create_run(made.config.to_dict(), tmp_path_factory.mktemp("whole"), "r")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(recorder, "LOG_EVERY", 0.0)
                self[recipe] = run, [(type(event).__name__, made.cursor.phase) for event in recorder.record(run, made)]
            return self[recipe]

    return Whole()


def go_on(run: Run, recipe: str, monkeypatch, notes: Sequence[str] = ()) -> None:
    """Resume in a fresh session whose new parameters are NaN until something is restored into them."""
    made = session(recipe)
    real, add_task = checkpoint.restore, made.learner.add_task

    def poisoned(t: int) -> None:
        add_task(t)
        for module in (
            made.learner.head.classifier,
            made.learner.router,
            *(layer.experts for layer in made.learner.bank.routed_layers),
        ):
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.data.fill_(float("nan"))

    def restore(session, *args):
        session.learner.add_task = poisoned
        try:
            return real(session, *args)
        finally:
            session.learner.add_task = add_task

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "restore", restore)
        list(recorder.record(run, made, notes))


def assert_equal(run: Run, other: Run) -> None:
    assert run.status == other.status == "finished"
    assert events(run) == events(other)
    assert content(run) == content(other)
    assert not [*run.dir.rglob("*.tmp")]


def started(recipe: str, root: Path):
    """A run folder and the generator that fills it."""
    made = session(recipe)
    run = create_run(made.config.to_dict(), root, "r")
    return run, recorder.record(run, made)


def killed_after(number: int, recipe: str, root: Path, monkeypatch) -> Run:
    """A run that was ended after so many events; nothing is written down about the end, as after kill -9."""
    run, happenings = started(recipe, root)
    for _ in range(number):
        next(happenings)
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "update_info", lambda *args, **fields: None)
        happenings.close()
    return run


def moments(recipe: str, whole) -> list[int]:
    """Ten numbers of events, spread over all events and over the three phases of both tasks."""
    kinds = whole[recipe][1]
    return [round((i + 0.5) * len(kinds) / 10) for i in range(10)]


# kills ------------------------------------------------------------------------------------------------------------------------


def test_the_moments_cover_all_phases(whole):
    for recipe in RECIPES:
        kinds = whole[recipe][1]
        met = {kinds[n - 1] for n in moments(recipe, whole)}
        assert {phase for _, phase in met} >= ({"train", "evaluate", "memory"} if recipe == "l2r" else {"train", "evaluate"})


@pytest.mark.parametrize("moment", range(10))
@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_and_resumed(recipe, moment, whole, tmp_path, monkeypatch):
    run = killed_after(moments(recipe, whole)[moment], recipe, tmp_path, monkeypatch)
    with open(run.dir / "events.jsonl", "ab") as log:
        log.write(b'{"kind": "Step", "ta')
    (run.dir / "checkpoint" / ".9.1.tmp").mkdir(parents=True)
    (run.dir / "checkpoint" / ".9.1.tmp" / "tensors.safetensors").write_bytes(b"half")
    go_on(run, recipe, monkeypatch)
    assert_equal(run, whole[recipe][0])


OTHERS = [name for name in recipe_names() if name not in RECIPES and not {*configure(name).methods} & {*METHODS}]


@pytest.mark.parametrize("recipe", toy.one_of_each_kind(OTHERS))
def test_every_recipe_goes_on_from_the_middle_of_a_task(recipe, tmp_path, monkeypatch):
    """Killed two steps behind a saved state of the second task."""
    made = session(recipe)
    (tmp_path / "whole").mkdir()
    run = create_run(made.config.to_dict(), tmp_path / "whole", "r")
    happened = list(recorder.record(run, made))
    steps = [n for n, event in enumerate(happened) if type(event).__name__ == "Step" and event.task == 1 and event.step > 3]
    go_on(again := killed_after(steps[0] + 1, recipe, tmp_path, monkeypatch), recipe, monkeypatch)
    assert_equal(again, run)


MOMENTS = ["first step", "last step on the first task", "learned", "last step", "evaluated"]
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("case", "moment"),
    [
        pytest.param(case, moment, marks=[] if case == "all methods" or i % len(MOMENTS) == j else [SLOW])
        for i, case in enumerate(CASES)
        for j, moment in enumerate(MOMENTS)
    ],
)
def test_every_method_and_memory_goes_on(case, moment, whole, tmp_path, monkeypatch):
    """What a method keeps, and what the memory holds, is after a kill what it was; a last step comes after a saved one.

    By default every case at one moment, and all methods together at each.
    """
    kinds = [kind for kind, _ in whole[case][1]]
    steps, learned = [i for i, kind in enumerate(kinds) if kind == "Step"], kinds.index("Learned")
    before = {"first step": steps[0], "last step on the first task": learned - 1, "learned": learned, "last step": steps[-1]}
    run, happenings = started(case, tmp_path)
    for _ in range(before.get(moment, len(kinds) - 3) + 1):
        next(happenings)
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "update_info", lambda *args, **fields: None)
        happenings.close()
    go_on(run, case, monkeypatch)
    assert_equal(run, whole[case][0])


def test_killed_twice(whole, tmp_path, monkeypatch):
    run, happenings = started("l2r", tmp_path)
    for number in (11, 13):
        for _ in range(number):
            next(happenings)
        happenings.close()
        assert run.status == "interrupted"
        happenings = recorder.record(run, session("l2r"))
    go_on(run, "l2r", monkeypatch)
    assert_equal(run, whole["l2r"][0])


def test_killed_before_anything_was_saved(whole, tmp_path, monkeypatch):
    run, happenings = started("l2r", tmp_path)
    next(happenings)
    happenings.close()
    go_on(run, "l2r", monkeypatch)
    assert_equal(run, whole["l2r"][0])


def lab_command(*words: str) -> list[str]:
    return [sys.executable, "-m", "lab", *words]


@pytest.mark.long
def test_kill_9_and_lab_resume(tmp_path):
    """The real thing: a process killed while it trains, refused to a second one meanwhile, lost, and gone on with."""
    stream, root = toy.folder(tmp_path / "s"), tmp_path / "runs"
    options = toy.overrides("l2r", "train.epochs=10", "checkpoint.every=5", "reuse=false")
    words = [word for option in options for word in ("-o", option)]
    process = subprocess.Popen(
        lab_command("run", "l2r", *words, "--stream", str(stream), "--backbone", "tiny", "--runs", str(root), "--id", "k"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env=environment(),
    )
    try:
        wait_for(root / "k" / "checkpoint" / "0" / "manifest.json", process)
        process.send_signal(signal.SIGSTOP)
        (root / "k" / ".lock").unlink()
        with pytest.raises(LabError) as error:
            lab.resume("k", root, progress=False)
        assert_says(error, "run 'k'", "another process")
        assert Run.open("k", root).status == "running"
    finally:
        process.kill()
    assert process.communicate()[0] == b""
    run = Run.open("k", root)
    assert run.status == "lost" and run.result()["status"] == "lost" and len(run.matrix) < 2
    done = subprocess.run(
        lab_command("resume", "k", "--runs", str(root), "--json"), capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    other = lab.run("l2r", options, stream=str(stream), backbone="tiny", runs=tmp_path / "whole", progress=False)
    assert json.loads(done.stdout)["matrix"] == other.recorded_scores["matrix"]
    assert content(run) == content(other)
    steps = [[(e["task"], e["phase"], e["step"]) for e in r.events("Step") if e["step"] in (1, e["steps"])] for r in (run, other)]
    assert steps[0] == steps[1]


def environment() -> dict[str, str]:
    """Of a child process: the package of this checkout, whatever its folder."""
    root = str(Path(lab.__file__).parents[1])
    return os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.02)


# requests to stop -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("RunStarted", signal.SIGINT),
        ("TaskStarted", signal.SIGINT),
        ("Step train", signal.SIGTERM),
        ("Learned", signal.SIGINT),
        ("Step memory", signal.SIGINT),
        ("Evaluating evaluate", signal.SIGINT),
        ("OracleEvaluated", signal.SIGINT),
    ],
)
def test_interrupted(moment, number, whole, tmp_path, monkeypatch):
    """Ctrl-C or SIGTERM while the event after `moment` is made; the state of that event is saved."""
    kind, _, phase = moment.partition(" ")
    kinds = whole["l2r"][1]
    at = [i for i, (name, where) in enumerate(kinds) if name == kind and where == (phase or where)][-1]
    run, happenings = started("l2r", tmp_path)
    for _ in range(at + 1):
        next(happenings)
    os.kill(os.getpid(), number)
    with pytest.raises(Stopped) as stopped:
        next(happenings)
        next(happenings)
    assert stopped.value.status == run.status == "interrupted" and run.info["ended"]
    go_on(run, "l2r", monkeypatch)
    assert_equal(run, whole["l2r"][0])


def test_interrupted_between_tasks(whole, tmp_path, monkeypatch):
    """A signal that arrives after the new expert was made and before its first step."""
    run, happenings = started("l2r", tmp_path)
    for event in happenings:
        if type(event).__name__ == "TaskEnded":
            os.kill(os.getpid(), signal.SIGINT)
            break
    with pytest.raises(Stopped):
        next(happenings)
    go_on(run, "l2r", monkeypatch)
    assert_equal(run, whole["l2r"][0])


def test_interrupt_keeps_the_step(whole, tmp_path):
    run, happenings = started("l2r", tmp_path)
    for event in happenings:
        if type(event).__name__ == "Step" and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            break
    with pytest.raises(Stopped):
        next(happenings)
    assert checkpoint.newest_whole(run.dir).values["cursor"]["step"] == 4


def test_second_signal_acts_at_once(tmp_path):
    run, happenings = started("l2r", tmp_path)
    next(happenings)
    before = signal.getsignal(signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    happenings.close()
    assert run.status == "interrupted"
    assert before is not signal.default_int_handler and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_stop_after_the_task(whole, tmp_path, monkeypatch):
    run, happenings = started("l2r", tmp_path)
    next(happenings)
    request_stop(run)
    with pytest.raises(Stopped) as stopped:
        list(happenings)
    assert stopped.value.status == run.status == "stopped"
    result = run.result()
    assert [len([s for s in row if s is not None]) for row in result["matrix"]] == [1] and result["average_accuracy"] is not None
    assert result["why"]["forgetting"] == "needs at least two learned tasks" and result["why"]["cost"] and result["why"]["uses"]
    go_on(run, "l2r", monkeypatch)
    assert_equal(run, whole["l2r"][0])


def test_finished_run_is_left_alone(tmp_path):
    stream = toy.folder(tmp_path / "s")
    run = lab.run(
        "sequential",
        toy.overrides("sequential"),
        stream=str(stream),
        backbone="tiny",
        runs=tmp_path / "r",
        id="a",
        progress=False,
    )
    before = {path: path.stat().st_mtime_ns for path in run.dir.rglob("*")}
    shutil.rmtree(stream)  # not even the data is looked at
    again = lab.resume("a", tmp_path / "r")
    assert again.status == "finished" and {path: path.stat().st_mtime_ns for path in run.dir.rglob("*")} == before


def test_queued_run_is_started(tmp_path):
    stream = toy.folder(tmp_path / "s")
    config = lab.configure("sequential", toy.overrides("sequential"), stream=str(stream), backbone="tiny")
    create_run(config.to_dict(), tmp_path, "q")
    assert lab.resume("q", tmp_path, progress=False).status == "finished"
    create_run(config.to_dict(), tmp_path, "p")
    shutil.rmtree(stream)
    with pytest.raises(LabError, match=r"^stream folder .* does not exist"):
        lab.resume("p", tmp_path, progress=False)
    assert Run.open("p", tmp_path).status == "failed"


EXAMPLE = Path(lab.__file__).parent / "examples" / "example-l2r-merge" / "config.yaml"


@pytest.mark.filterwarnings("error::lab.config.former_names.FormerName")
def test_a_run_that_an_earlier_version_began_goes_on(tmp_path):
    """Its config.yaml has the option names of the recorded examples, and lacks the sections that are younger than these."""
    stream = toy.folder(tmp_path / "s", toy.tasks(train=32))
    settings = {"stream": str(stream), "backbone": "tiny"}
    config = configure("l2r", toy.overrides("l2r", *SHORT, "router_training.steps=8", "reuse=false"), **settings)
    runs = [create_run(config.to_dict(), tmp_path / version, "r") for version in ("present", "former")]
    list(recorder.record(runs[0], runner.session(config)))
    happenings = recorder.record(runs[1], runner.session(config))
    next(event for event in happenings if type(event).__name__ == "Step" and (event.phase, event.task) == ("memory", 1))
    happenings.close()
    former = {name: value for name, value in config.to_dict().items() if name not in ("answer", "consolidation", "protocol")}
    former["memory_training"] = former.pop("router_training")
    former["train"]["classes"] = former["train"].pop("loss_classes")
    example = yaml.safe_load(EXAMPLE.read_text())
    assert former.keys() == example.keys() and former["train"].keys() == example["train"].keys()
    atomic_io.write_yaml(runs[1].dir / "config.yaml", former)

    resumed = Run.open("r", tmp_path / "former")
    assert resumed.status == "interrupted"
    assert lab.resume("r", tmp_path / "former", progress=False).status == "finished"
    assert_equal(resumed, runs[0])  # config.yaml too: it is written anew


def test_one_process_at_a_time(tmp_path):
    run, happenings = started("l2r", tmp_path)
    next(happenings)
    with pytest.raises(LabError) as error:
        next(recorder.record(Run(run.dir), session("l2r")))
    assert_says(error, "run 'r'", "another process")
    assert run.status == "running"
    happenings.close()
    next(resumed := recorder.record(run, session("l2r")))
    resumed.close()


# damage -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left(whole, tmp_path_factory):
    """A run interrupted in the second task's training: its newest state is of step 3, the one before of the end of task 1."""
    run, happenings = started("l2r", tmp_path_factory.mktemp("left"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "LOG_EVERY", 0.0)
        for event in happenings:
            if type(event).__name__ == "Step" and (event.task, event.phase, event.step) == (1, "train", 4):
                break
    happenings.close()
    return run


@pytest.fixture
def halfway(left, tmp_path):
    return Run(Path(shutil.copytree(left.dir, tmp_path / "r")))


def states(run: Run) -> list[Path]:
    """The saved states, the newest first."""
    return sorted((path for path in (run.dir / "checkpoint").iterdir() if path.name.isdecimal()), key=lambda p: -int(p.name))


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def mended(run: Run, whole, monkeypatch) -> str:
    """Resume a damaged run, which ends as one that was not; returns what was said about the damage."""
    go_on(run, "l2r", monkeypatch, runner.recover(run))
    assert_equal(run, whole["l2r"][0])
    noted = [note["what"] for note in run.info.get("recovered", [])]
    assert [what for event in run.events("Recovered") for what in event["what"]] == noted
    assert all(note in (run.dir / "log.txt").read_text() for note in noted)
    return " ".join(noted)


FINAL = (
    *(f"experts/sea/adapter_{name}" for name in ("config.json", "model.safetensors")),
    *("predictions/after_0.parquet", "routing/after_0.safetensors", "env.json"),
    *(f"state/after_0/{name}.safetensors" for name in ("router", "classifier")),
)
STATE = ("tensors.safetensors", "session.json", "manifest.json")
FILES = (  # of a run that is half done, with what is said about damage to each; {0} and {1} are the numbers of its states
    *((f"checkpoint/{{0}}/{name}", "set aside as checkpoint.damaged-1") for name in STATE),
    *((f"checkpoint/{{1}}/{name}", "") for name in STATE),
    ("checkpoint/events.jsonl", ""),
    *((name, f"{name} was missing or damaged") for name in (*FINAL, "config.yaml", "run.json", "events.jsonl")),
    *((name, "") for name in ("matrix.json", "stored.txt", "copies")),
)


def test_every_file_of_a_run_is_damaged_by_the_tests_below(halfway):
    named = {name.format(*(state.name for state in states(halfway))) for name, _ in FILES}
    there = {path.relative_to(halfway.dir).as_posix() for path in halfway.dir.rglob("*") if path.is_file()}
    copies = {name for name in there if name.startswith("checkpoint/copies/")}
    assert copies and there - copies == named - {"copies"} | {".lock"}  # the lock is empty


@pytest.mark.parametrize("number", range(len(FILES)))
def test_one_damaged_file_loses_no_run(number, halfway, whole, monkeypatch):
    """Every file is damaged in one way here, in every way in test_soak."""
    damage_one(halfway, number, [*faults.DAMAGE][number % len(faults.DAMAGE)], whole, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("damage", faults.DAMAGE)
@pytest.mark.parametrize("number", range(len(FILES)))
def test_every_damage_to_a_file(number, damage, halfway, whole, monkeypatch):
    damage_one(halfway, number, damage, whole, monkeypatch)


def damage_one(run: Run, number: int, damage: str, whole, monkeypatch) -> None:
    name, said = FILES[number]
    path = run.dir / name.format(*(state.name for state in states(run)))
    path = max((run.dir / "checkpoint" / "copies").iterdir()) if name == "copies" else path
    faults.DAMAGE[damage](path)
    noted = mended(run, whole, monkeypatch)
    readable = damage == "flipped" and name in ("config.yaml", "run.json")  # one bit may leave YAML and JSON well formed
    assert said in noted or readable


def test_a_config_that_was_cut_off_between_two_options(halfway, whole, monkeypatch):
    """What is left is good YAML, with other options."""
    path = halfway.dir / "config.yaml"
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"\ntrain:") + 1])
    assert Run(halfway.dir).config and "train" not in Run(halfway.dir).config
    assert "config.yaml was missing or damaged" in mended(halfway, whole, monkeypatch)


def test_the_checkpoints_are_gone(halfway, whole, monkeypatch):
    shutil.rmtree(halfway.dir / "checkpoint")
    assert mended(halfway, whole, monkeypatch).startswith("there is no whole checkpoint")


def test_every_checkpoint_is_damaged(halfway, whole, monkeypatch):
    """It begins anew, and says so."""
    newest, before = states(halfway)
    faults.flip(newest / "tensors.safetensors")
    (before / "manifest.json").unlink()
    noted = mended(halfway, whole, monkeypatch)
    assert "tensors.safetensors is not as it was written" in noted and "starts again from its beginning" in noted
    assert "manifest.json is missing" in (halfway.dir / "checkpoint.damaged-2" / "reason.txt").read_text()


def test_a_final_file_and_its_copy_are_gone(halfway, whole, monkeypatch):
    shutil.rmtree(halfway.dir / "checkpoint" / "copies")
    (halfway.dir / "predictions" / "after_0.parquet").unlink()
    assert "predictions/after_0.parquet: after_0.parquet is missing, and so is its second copy" in mended(
        halfway, whole, monkeypatch
    )


def test_a_log_that_is_damaged_twice_is_cut_to_the_lines_that_can_be_read(halfway, whole, monkeypatch):
    for log in (halfway.dir / "events.jsonl", halfway.dir / "checkpoint" / "events.jsonl"):
        log.write_bytes(b"{" + log.read_bytes()[1:].replace(b"}", b"", 1))
    go_on(halfway, "l2r", monkeypatch)
    assert content(halfway) == content(whole["l2r"][0])
    assert "lines that cannot be read were left out" in halfway.info["recovered"][0]["what"]
    assert events(halfway) == events(whole["l2r"][0])[1:]


def test_a_poisoned_state_of_the_former_format(halfway, whole, tmp_path, monkeypatch):
    """One state of format 1 is gone on with; where it holds NaN, the run begins anew."""
    saved, folder = checkpoint.newest_whole(halfway.dir), halfway.dir / "checkpoint"
    shutil.rmtree(folder)
    former = {name: saved.values[name] for name in ("cursor", "scores")}
    experts = {"sea": saved.values["final"]["experts/sea/adapter_model.safetensors"]}
    former |= {"format": 1, "number": 7, "experts": experts, "events_bytes": saved.values["events"]["size"]}
    for poisoned in (False, True):
        run = Run(Path(shutil.copytree(halfway.dir, tmp_path / f"poisoned-{poisoned}" / "r")))
        arrays = {name: array * np.float32(np.nan) if poisoned else array for name, array in saved.arrays.items()}
        state = run.dir / "checkpoint" / "7.safetensors"
        atomic_io.write_arrays(state, arrays)
        atomic_io.write_json(state.with_name("manifest.json"), former | {"sha256": {state.name: atomic_io.sha256(state)}})
        assert run.saved
        noted = mended(run, whole, monkeypatch)
        assert ("is not finite" in noted and "from its beginning" in noted) if poisoned else not noted
        assert not state.exists() and not state.with_name("manifest.json").exists()


def test_a_state_of_a_newer_version(halfway):
    newest = states(halfway)[0]
    content = {name: (newest / name).read_bytes() for name in ("tensors.safetensors", "session.json")}
    content["session.json"] = content["session.json"].replace(b'"format": 2', b'"format": 3')
    shutil.rmtree(newest)
    verified_files.write(newest, content)
    with pytest.raises(LabError, match=r"newer version .format 3, this one reads 2"):
        list(recorder.record(halfway, session("l2r")))
    assert newest.is_dir()


def test_another_backbone(halfway):
    made = session("l2r")
    made.learner.backbone.identity = "another"
    with pytest.raises(LabError, match=r"run 'r'.*\n.*backbone is another") as error:
        list(recorder.record(halfway, made))
    assert halfway.status == "failed" and halfway.info["error"] == str(error.value)


def test_what_is_not_finite_is_not_saved(whole, tmp_path, monkeypatch):
    made = session("l2r")
    run = create_run(made.config.to_dict(), tmp_path, "r")
    happenings = recorder.record(run, made)
    for event in happenings:
        if type(event).__name__ == "Step" and (event.task, event.step) == (1, 4):
            break
    next(iter(made.learner.head.classifier.parameters())).data.view(-1)[0] = float("nan")
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(RunFailed, match=r"classifier/\S+ is not finite .* task 'city' .*: lower train.lr"):
        next(happenings)
    assert run.status == "failed"
    go_on(run, "l2r", monkeypatch)
    assert_equal(run, whole["l2r"][0])


# a checkpoint that is not written to its end ----------------------------------------------------------------------------------


def die_in_a_checkpoint(run: Run, happenings, at: int | None, torn: bool, monkeypatch) -> int:
    """Let a run die at an operation of the save of step 3 of the second task; returns how many operations there were."""
    for event in happenings:
        if type(event).__name__ == "Step" and (event.task, event.phase, event.step) == (1, "train", 2):
            break
    with monkeypatch.context() as patch, faults.killed(run.dir, at, torn) as writer:
        patch.setattr(recorder, "update_info", lambda *args, **fields: None)
        next(happenings)
    happenings.close()
    return writer.count


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("at", [1, 4, 8, 10])
def test_killed_in_a_checkpoint(at, torn, whole, tmp_path, monkeypatch):
    run, happenings = started("l2r", tmp_path)
    die_in_a_checkpoint(run, happenings, at, torn, monkeypatch)
    mended(run, whole, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("torn", [False, True])
def test_killed_at_every_stage_of_a_checkpoint(torn, whole, tmp_path, monkeypatch):
    stages = die_in_a_checkpoint(*started("l2r", tmp_path / "counted"), None, torn, monkeypatch)
    assert stages >= 8
    for at in range(stages):
        run, happenings = started("l2r", tmp_path / str(at))
        die_in_a_checkpoint(run, happenings, at, torn, monkeypatch)
        mended(run, whole, monkeypatch)


# finished means whole ---------------------------------------------------------------------------------------------------------


def almost_done(tmp_path) -> tuple[Run, Iterator]:
    run, happenings = started("l2r", tmp_path)
    next(event for event in happenings if type(event).__name__ == "Step" and (event.task, event.phase) == (1, "memory"))
    return run, happenings


def test_a_finished_run_holds_what_its_manifest_says(whole):
    for run, _ in (whole[name] for name in ("l2r", "replay", "all methods", "mhr")):
        manifest = json.loads((run.dir / "manifest.json").read_text())
        assert manifest == {name: atomic_io.sha256(run.dir / name) for name in manifest}
        beside = {"run.json", "manifest.json", ".lock"}
        there = {str(path.relative_to(run.dir)) for path in run.dir.rglob("*") if path.is_file()} - beside
        assert {name for name in there if not name.startswith("checkpoint/")} == manifest.keys()


@pytest.mark.parametrize("name", ["experts", "predictions", "state", "config.yaml", "events.jsonl", "matrix.json", "run.json"])
def test_what_is_removed_while_a_run_works_is_there_when_it_is_finished(name, whole, tmp_path, monkeypatch):
    run, happenings = almost_done(tmp_path)
    shutil.rmtree(run.dir / name) if (run.dir / name).is_dir() else (run.dir / name).unlink()
    list(happenings)
    assert run.status == "finished" and content(run) == content(whole["l2r"][0])
    lines = [event for event in events(whole["l2r"][0]) if name != "events.jsonl" or not is_first_on_the_memory(event)]
    assert events(run) == lines  # what no checkpoint knew of the log is gone
    assert run.info.keys() >= whole["l2r"][0].info.keys()
    said = " ".join(note["what"] for note in run.info.get("recovered", []))
    assert name in said or name in ("events.jsonl", "matrix.json", "run.json")


def is_first_on_the_memory(event: dict) -> bool:
    return event["kind"] == "Step" and (event["task"], event["phase"], event["step"]) == (1, "memory", 1)


def test_what_is_lost_for_good_is_no_finished_run(whole, tmp_path, monkeypatch):
    run, happenings = almost_done(tmp_path)
    for name in ("experts", "checkpoint/copies"):
        shutil.rmtree(run.dir / name)
    with pytest.raises(RunFailed, match=r"not whole: experts/sea/adapter_.* is missing, and so is its second copy; lab resume"):
        list(happenings)
    assert run.status == "failed" and "experts/sea" in run.info["error"]
    go_on(run, "l2r", monkeypatch)
    assert_equal(run, whole["l2r"][0])


# who works on it --------------------------------------------------------------------------------------------------------------


def test_another_process_took_over(tmp_path):
    """As a process that slept for hours finds out before it writes."""
    run, happenings = almost_done(tmp_path)
    edit(run.dir / "lease.json", pid=1, host="elsewhere")
    before = (run.dir / "run.json").read_bytes()
    with pytest.raises(lease.Lost, match="1 on elsewhere"):
        list(happenings)
    assert (run.dir / "run.json").read_bytes() == before


@pytest.mark.parametrize("number", [3, 9, 16, 22])
def test_full_disk_while_training(number, whole, tmp_path, monkeypatch):
    """A write that fails leaves the state before it; with space again the run goes on."""
    run, happenings = started("l2r", tmp_path)
    next(happenings)
    calls, real = [], os.replace

    def full(source, target):
        if Path(target).name != "run.json":
            calls.append(target)
            if len(calls) >= number:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_io.os, "replace", full)
        with pytest.raises(OSError, match="No space left on device"):
            list(happenings)
    assert run.status == "failed" and run.info["error"] == "OSError: [Errno 28] No space left on device"
    assert "No space left" in (run.dir / "log.txt").read_text()
    assert not [*run.dir.rglob("*.tmp")]
    go_on(run, "l2r", monkeypatch)
    assert_equal(run, whole["l2r"][0])


def test_full_disk_hides_no_reason(tmp_path, monkeypatch):
    """Where even run.json cannot be written, the first error is the one that is seen."""
    _, happenings = started("l2r", tmp_path)
    next(happenings)

    def full(path: Path, content: bytes) -> None:
        written.append(path.name)
        raise OSError(errno.ENOSPC, "No space left on device", path.name)

    written: list[str] = []
    monkeypatch.setattr(atomic_io, "replace_bytes", full)
    with pytest.raises(OSError) as error:
        list(happenings)
    assert error.value.filename == written[0] != "run.json" and written[-1] == "run.json"
