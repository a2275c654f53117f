"""Runs that are killed, stopped or interrupted go on to the very bytes of a run that was not."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support import toy
from support.errors import assert_says

import lab
from lab.config.resolve import configure, recipe_names
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.data.stream import Example
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
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run of each recipe: its folder, and kind and phase of every event."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "LOG_EVERY", 0.0)
        for recipe in [*RECIPES, *CASES]:
            made = session(recipe)
            run = create_run(made.config.to_dict(), tmp_path_factory.mktemp(recipe), "r")
            found[recipe] = (run, [(type(event).__name__, made.cursor.phase) for event in recorder.record(run, made)])
    return found


def go_on(run: Run, recipe: str, monkeypatch) -> None:
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
        list(recorder.record(run, made))


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
    (run.dir / "checkpoint" / ".9.safetensors.1.tmp").parent.mkdir(exist_ok=True)
    (run.dir / "checkpoint" / ".9.safetensors.1.tmp").write_bytes(b"half")
    go_on(run, recipe, monkeypatch)
    assert_equal(run, whole[recipe][0])


OTHERS = [name for name in recipe_names() if name not in RECIPES and not {*configure(name).methods} & {*METHODS}]


@pytest.mark.parametrize("recipe", OTHERS)
def test_every_recipe_goes_on_from_the_middle_of_a_task(recipe, tmp_path, monkeypatch):
    """Killed two steps behind a saved state of the second task."""
    made = session(recipe)
    (tmp_path / "whole").mkdir()
    run = create_run(made.config.to_dict(), tmp_path / "whole", "r")
    happened = list(recorder.record(run, made))
    steps = [n for n, event in enumerate(happened) if type(event).__name__ == "Step" and event.task == 1 and event.step > 3]
    go_on(again := killed_after(steps[0] + 1, recipe, tmp_path, monkeypatch), recipe, monkeypatch)
    assert_equal(again, run)


@pytest.mark.parametrize("moment", ["first step", "last step on the first task", "learned", "last step", "evaluated"])
@pytest.mark.parametrize("case", CASES)
def test_every_method_and_memory_goes_on(case, moment, whole, tmp_path, monkeypatch):
    """What a method keeps, and what the memory holds, is after a kill what it was; a last step comes after a saved one."""
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


def test_kill_9_and_lab_resume(tmp_path):
    """The real thing: a process killed while it trains, refused to a second one meanwhile, lost, and gone on with."""
    stream, root = toy.folder(tmp_path / "s"), tmp_path / "runs"
    options = toy.overrides("l2r", "train.epochs=20", "checkpoint.every=10", "reuse=false")
    words = [word for option in options for word in ("-o", option)]
    process = subprocess.Popen(
        lab_command("run", "l2r", *words, "--stream", str(stream), "--backbone", "tiny", "--runs", str(root), "--id", "k"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env=environment(),
    )
    try:
        wait_for(root / "k" / "checkpoint" / "manifest.json", process)
        process.send_signal(signal.SIGSTOP)
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
    assert json.loads(done.stdout)["matrix"] == other.matrix
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
    assert json.loads((run.dir / "checkpoint" / "manifest.json").read_text())["cursor"]["step"] == 4


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


EXAMPLE = Path(lab.__file__).parent / "examples" / "example-l2r" / "config.yaml"


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


@pytest.fixture
def halfway(whole, tmp_path):
    """A run interrupted in the second task's training."""
    run, happenings = started("l2r", tmp_path)
    for event in happenings:
        if type(event).__name__ == "Step" and (event.task, event.phase, event.step) == (1, "train", 4):
            break
    happenings.close()
    return run


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d: flip(next((d / "checkpoint").glob("*.safetensors"))),
            "{0}/checkpoint/{1} is missing or damaged (its SHA-256 differs)",
        ),
        (
            lambda d: next((d / "checkpoint").glob("*.safetensors")).unlink(),
            "{0}/checkpoint/{1} is missing or damaged (its SHA-256 differs)",
        ),
        (
            lambda d: flip(d / "experts/sea/adapter_model.safetensors"),
            "{0}/experts/sea/adapter_model.safetensors is missing or damaged",
        ),
        (lambda d: shutil.rmtree(d / "experts/sea"), "{0}/experts/sea/adapter_model.safetensors is missing or damaged"),
        (
            lambda d: (d / "checkpoint/manifest.json").write_text('{"format"'),
            "there is no state to go on from in {0}/checkpoint: ",
        ),
        (
            lambda d: edit(d / "checkpoint/manifest.json", format=99),
            "the state in {0}/checkpoint has format 99, this version reads 1",
        ),
        (
            lambda d: (d / "events.jsonl").write_text(""),
            "run 'r' cannot go on: its events.jsonl has lost lines; start the run again",
        ),
        (lambda d: (d / "events.jsonl").unlink(), "run 'r' cannot go on: its events.jsonl has lost lines; start the run again"),
        (
            lambda d: edit(d / "run.json", fingerprint={}),
            "run 'r' cannot go on: its data or backbone have changed since it began",
        ),
    ],
)
def test_damaged_state(halfway, damage, message):
    name = next((halfway.dir / "checkpoint").glob("*.safetensors")).name
    damage(halfway.dir)
    with pytest.raises(LabError) as error:
        list(recorder.record(halfway, session("l2r")))
    assert message.format(halfway.dir, name) in str(error.value) and "\n" not in str(error.value)
    assert halfway.status == "failed" and halfway.info["error"] == str(error.value)


def test_changed_data(halfway, whole, monkeypatch):
    tasks = toy.tasks(train=32)
    tasks[1].train[0] = Example("red red red", 0)
    with pytest.raises(LabError) as error:
        list(recorder.record(halfway, session("l2r", of=tasks)))
    assert_says(error, "run 'r'", "data or backbone", "changed")
    go_on(halfway, "l2r", monkeypatch)  # with the old data it still can
    assert_equal(halfway, whole["l2r"][0])


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
