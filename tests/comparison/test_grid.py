"""Grids: which cells there are, what is chosen and how, and that nothing is lost, repeated or hidden whatever ends it."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import toy
from support.processes import broken_cell
from typer.testing import CliRunner

from lab import api
from lab.cli import main
from lab.comparison import grid_runner, grid_spec
from lab.comparison.grid_runner import Grid
from lab.config.resolve import configure
from lab.core import atomic_io, registry
from lab.core.errors import LabError
from lab.run_folder import run as run_module
from lab.run_folder.run import Run
from lab.run_folder.writer import claim, create_run, update_info

CONTENT = {
    "recipes": ["sequential", "replay"],
    "backbone": "tiny",
    "seeds": [0, 1],
    "orders": [["sea", "city"]],
    "set": {"train.epochs": 1, "train.batch_size": 8, "checkpoint.every": 2},
    "sweep": {"train.lr": [0.02, "1e-4"]},
}


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return toy.folder(tmp_path_factory.mktemp("stream") / "toy", toy.tasks(train=32))


def write(folder: Path, stream: Path, /, **changes) -> Path:
    """A grid file over the toy stream; a change to None drops the entry."""
    path = folder / "g.yaml"
    content = {"stream": str(stream), **CONTENT, **changes}
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False))
    return path


def done(made: Grid) -> list:
    """The grid run to its end: every step of its progress."""
    return list(made.work())


def text(content) -> str:
    return json.dumps(content, indent=1)


def events_of(runs: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in runs.glob("*/events.jsonl")}


@pytest.fixture(scope="module")
def whole(stream, tmp_path_factory):
    """The grid in one go: file, folder of runs, steps of progress."""
    root = tmp_path_factory.mktemp("whole")
    path = write(root, stream)
    return path, root / "runs", done(Grid(path, root / "runs"))


# cells ------------------------------------------------------------------------------------------------------------------------


def test_the_cells_are_the_product_of_the_axes(stream, tmp_path):
    changes = {"scenarios": ["class", "task"], "orders": [["sea", "city"], ["city", "sea"]], "seeds": [3, 4, 5]}
    made = Grid(write(tmp_path, stream, **changes), tmp_path / "runs")
    assert len(made.rows) == 2 * 2 and len(made.possible) == 2 * 2 * 2 * 3 * 2
    for row in made.rows:
        for option in row.candidates:
            cells = [(c.config.recipe, c.config.scenario, c.config.train.lr, *c.key) for c in option.finals]
            lr, orders = option.values["train.lr"], (("sea", "city"), ("city", "sea"))
            assert cells == [(row.recipe, row.scenario, lr, seed, order) for order in orders for seed in (3, 4, 5)]
            assert option.trial.hash == option.finals[0].hash, "first seed, first order"
            assert (option.trial.config.train.epochs, option.trial.config.checkpoint.every) == (1, 2)
    assert [option.values for option in made.rows[0].candidates] == [{"train.lr": 0.02}, {"train.lr": 0.0001}]
    assert not (tmp_path / "runs").exists()


def test_the_hash_is_that_of_the_resolved_configuration(stream, tmp_path):
    made = Grid(write(tmp_path, stream), tmp_path)
    cell = made.rows[0].candidates[0].trial
    resolved = cell.config
    assert (resolved.backbone.device, resolved.backbone.dtype, resolved.backbone.threads) == ("cpu", "float32", 1)
    assert resolved.stream.tasks == ["sea", "city"]
    (tmp_path / "other.yaml").write_text("base: sequential\nrecipe: sequential\nabout: other words\n")
    fixed = {"recipes": ["other.yaml"], "seeds": [0], "sweep": None, "set": CONTENT["set"] | {"train.lr": 0.02}}
    other = Grid(write(tmp_path, stream, **fixed), "x")
    assert [c.hash for c in other.possible.values()] == [cell.hash], "the same run in another grid, found beside the file"
    assert cell.hash not in Grid(write(tmp_path, stream, set={}), tmp_path).possible
    assert run_module.ID.fullmatch(cell.id) and cell.id.endswith(cell.hash)


def test_swept_values_may_be_multiples_of_the_recipes_own(stream, tmp_path):
    recipes, sweep = ["sequential", "full"], {"train.lr": ["x0.25", "x1", 0.1]}
    made = Grid(write(tmp_path, stream, recipes=recipes, sweep=sweep), tmp_path / "runs")
    own = [configure(recipe).train.lr for recipe in recipes]
    assert own[0] != own[1]
    rates = [[option.values["train.lr"] for option in row.candidates] for row in made.rows]
    assert rates == [pytest.approx([lr / 4, lr, 0.1]) for lr in own]


def test_random_orders(stream, tmp_path):
    def orders(**changes):
        made = Grid(write(tmp_path, stream, **changes), tmp_path)
        return [tuple(c.config.stream.tasks) for c in made.rows[0].candidates[0].finals][:: len(CONTENT["seeds"])]

    assert sorted(orders(orders={"random": 2})) == [("city", "sea"), ("sea", "city")]
    assert orders(orders={"random": 1}) == orders(orders={"random": 2})[:1]
    assert orders(orders=None) == [("city", "sea")], "the order of the stream"
    with pytest.raises(LabError, match=r"orders.random = 3: 2 tasks have fewer orders"):
        orders(orders={"random": 3})


def test_a_sweep_of_two_options_and_a_seed_of_its_own(stream, tmp_path):
    sweep = {"train.lr": [0.02, 0.01], "train.epochs": [1, 2]}
    made = Grid(write(tmp_path, stream, set={}, sweep=sweep, sweep_seed=7, orders={"random": 2}), tmp_path)
    assert [option.values for option in made.rows[1].candidates] == [
        {"train.lr": lr, "train.epochs": epochs} for lr in (0.02, 0.01) for epochs in (1, 2)
    ]
    assert all(option.trial.config.seed == 7 and option.trial not in option.finals for option in made.rows[0].candidates)
    assert len(made.trials) == 2 * 4 and len(made.possible) == 2 * 4 * (1 + 2 * 2)


@pytest.mark.parametrize("name", sorted(path.stem for path in grid_spec.GRIDS.glob("*.yaml")))
def test_shipped_grids_are_valid(name, tmp_path, monkeypatch):
    """Cells are made of every recipe in every scenario that they name; the data of a benchmark may be absent."""
    _, grid = grid_spec.read(name)
    fixed = grid.set
    folders = [stream for stream in grid.all_streams() if stream and stream not in registry.streams.names()]
    sources = fixed.get("stream.sources") or folders
    shipped = {source: registry.streams.get(source)().names() for source in sources if source in registry.streams.names()}
    rest = [task for task in fixed.get("stream.tasks", []) if not any(task in names for names in shipped.values())]
    for source in sources:  # folders that hold names only
        names = shipped.get(source) or rest or [f"first of {source}", f"second of {source}"]
        rest = rest if source in shipped else []
        for task in names:
            atomic_io.write_json(tmp_path / "data" / source / task / "task.json", {})
        monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))
    made = Grid(name, tmp_path)
    assert made.spec.about and [row.recipe for row in made.rows] == made.spec.recipes * len(made.spec.scenarios)
    assert name != "builtin-tiny" or len(made.possible) == 3 * 2 * 2 * 2


# choosing ---------------------------------------------------------------------------------------------------------------------


def test_values_are_chosen_by_validation(whole):
    """Worked out again from the folders; the sweep's cells at the chosen value are not run twice."""
    path, root, _ = whole
    result = Grid(path, root).result()
    assert len([*root.glob("*/run.json")]) == len(result["cells"]) == 2 * 2 + 2 * 1
    for row in result["table"]:
        scores = {}
        for folder in root.glob(f"{row['recipe']}-*-s0-*"):
            scores[Run(folder).config["train"]["lr"]] = float(np.mean(Run(folder).recorded_scores["validation"]))
        assert {entry["values"]["train.lr"]: entry["validation"] for entry in row["sweep"]} == scores and len(scores) == 2
        assert row["chosen"]["train.lr"] == max([0.02, 0.0001], key=lambda lr: scores[lr])
        finals = [c for c in result["cells"] if c["recipe"] == row["recipe"] and c["values"] == row["chosen"]]
        assert sorted(cell["seed"] for cell in finals) == row["seeds"] == [0, 1] and row["n"] == 2
        measured = [cell["average_accuracy"] for cell in finals]
        assert row["average_accuracy"]["mean"] == pytest.approx(np.mean(measured))
    manifest = json.loads(Grid(path, root).manifest.read_text())
    assert [entry["chosen"] for entry in manifest["selection"]] == [row["chosen"] for row in result["table"]]
    assert [cell["cell"] for cell in manifest["cells"]] == [cell["cell"] for cell in result["cells"]]


def test_the_test_scores_choose_nothing(whole, tmp_path):
    """With test and validation scores that disagree, the validation scores decide; of equal ones the first."""
    path, root, _ = whole
    made = Grid(path, root)
    option = made.rows[0].candidates
    for scores, expected in (((0.2, 0.9), 1), ((0.9, 0.2), 0), ((0.5, 0.5), 0)):
        for candidate, score in zip(option, scores, strict=True):
            result = {"average_accuracy": 1 - score}
            made.finished[candidate.trial.hash] = grid_runner.Outcome("finished", "", score, result)
        assert made.selection(made.rows[0])["chosen"] == option[expected].values
    made.finished[option[0].trial.hash] = grid_runner.Outcome("failed", "it broke")
    selection = made.selection(made.rows[0])
    assert selection["chosen"] == option[1].values and selection["sweep"][0]["why"] == "it broke"
    for status in ("interrupted", "stopped"):  # both are gone on with
        made.finished[option[0].trial.hash] = grid_runner.Outcome(status, "not yet")
        assert made.selection(made.rows[0])["chosen"] is None and made.finals(made.rows[0]) == []


def test_of_many_places_of_a_problem_the_first_are_named():
    problems = grid_spec.Problems()
    for place in "abcdd":
        problems.note("wrong", place)
    with pytest.raises(LabError, match=r"^grid g: wrong \(a, b, c and 1 more\)$"):
        problems.refuse("g")


# once -------------------------------------------------------------------------------------------------------------------------


def lab(*words: str):
    return CliRunner().invoke(main.app, [*map(str, words)])


def test_progress_counts_cells(whole):
    steps = whole[2]
    assert steps[-1].done == steps[-1].total == 6 and not steps[-1].active
    assert all(later.done >= step.done for step, later in pairwise(steps))
    assert len([line for step in steps for line in step.ended]) == 6


def test_from_python_it_is_the_same_grid(whole, stream):
    """`lab.grid` of the fields, and `lab.sweep` of one of its recipes, find the cells of the file's grid and run none."""
    path, runs, _ = whole
    before, sweep = events_of(runs), {"train.lr": [0.02, 1e-4]}  # of which the file has one as text, as YAML needs it
    fields = {"stream": str(stream)} | CONTENT | {"sweep": sweep}
    by_file, by_fields = (api.grid(grid, runs=runs, progress=False) for grid in (path, fields))
    assert text(by_fields.result) == text(by_file.result) and not by_fields.unfinished
    rest = {name: fields[name] for name in ("stream", "backbone", "seeds", "orders")}
    swept = api.sweep("replay", sweep, fields["set"], runs=runs, progress=False, **rest)
    assert {run.id for run in swept.cells} == {run.id for run in by_file.cells if run.config["recipe"] == "replay"}
    entry = next(entry for entry in by_file.result["table"] if entry["recipe"] == "replay")
    assert swept.chosen == entry["chosen"] and len(swept.sweep) == 2
    row = by_file.table.set_index("recipe").loc["replay"]
    assert row["average_accuracy"] == pytest.approx(swept.table["average_accuracy"][0]) and row["n"] == 2
    cells = [run for run in swept.cells if run.config["train"]["lr"] == swept.chosen["train.lr"]]
    assert row["average_accuracy"] == pytest.approx(np.mean([np.nanmean(run.matrix[-1]) for run in cells]))
    assert events_of(runs) == before


def test_the_second_time_nothing_happens(whole):
    path, root, _ = whole
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    first, second = (lab("grid", path, "--runs", root, "--json", "--processes", n) for n in (1, 2))
    assert first.exit_code == second.exit_code == 0
    assert first.stdout_bytes == second.stdout_bytes and first.stderr == ""
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before
    result = json.loads(first.stdout)
    for cell in result["cells"]:
        shown = json.loads(lab("show", cell["run"], "--runs", root, "--json").stdout)
        assert {key: value for key, value in cell.items() if key not in ("cell", "values")} == shown
    shown = lab("grid", path, "--runs", root)
    assert shown.exit_code == 0 and "sequential" in shown.stdout and "train.lr=" in shown.stdout
    head, _, *rows = shown.stdout.split("mean over the cells:\n")[1].splitlines()[: 2 + len(result["table"])]
    printed = [dict(zip(re.split(r" {2,}", head.strip()), re.split(r" {2,}", row.strip()), strict=True)) for row in rows]
    for row, columns in zip(result["table"], printed, strict=True):
        uses_task = "yes" if row["uses.task_id"] is True else "no"
        assert (columns.pop("recipe"), columns.pop("uses task identity")) == (row["recipe"], uses_task)
        names = (
            "uses.stored_examples",
            "uses.generated_examples",
            "cost.trainable_parameters",
            "cost.stored_parameters",
            "cost.stored_bytes",
        )
        assert columns == {name.split(".")[1].replace("_", " "): f"{row[name]['mean']:,.0f}" for name in names}


def test_a_wider_grid_runs_only_what_is_new(whole, stream, tmp_path):
    root = whole[1]
    made = Grid(write(tmp_path, stream, recipes=["sequential"], seeds=[0, 1, 2]), root)
    before = {folder.name for folder in root.glob("*/")}
    steps = done(made)
    assert steps[-1].done == 4 and steps[0].done == 3
    new = [Run(root / name) for name in {folder.name for folder in root.glob("*/")} - before]
    assert [run.config["seed"] for run in new] == [2]


def test_looking_runs_nothing(whole, stream, tmp_path):
    path, folder, _ = whole
    seen = lab("grid", write(tmp_path, stream), "--runs", tmp_path / "runs", "--look", "--json")
    assert seen.exit_code == 0 and "4 of the 4 cells known so far are not finished" in seen.stderr
    assert not (tmp_path / "runs").exists() and [row["n"] for row in json.loads(seen.stdout)["table"]] == [0, 0]
    assert lab("grid", path, "--runs", folder, "--look", "--json").stdout == text(Grid(path, folder).result()) + "\n"


def test_times_stand_apart_from_the_table(whole):
    result = Grid(*whole[:2]).result()
    names = {name for row in result["table"] for name in row}
    assert not [name for name in names if name.endswith("_s") or "peak" in name] and "cost.trainable_parameters" in names
    row = result["times"]["rows"][0]
    costs = [c["cost"] for c in result["cells"] if c["recipe"] == "sequential" and c["values"] == result["table"][0]["chosen"]]
    assert row["train_s"] == pytest.approx(np.mean([cost["train_s"] for cost in costs])) and len(costs) == 2


@pytest.mark.slow
def test_two_at_a_time_give_the_same(whole, stream, tmp_path):
    path, root, _ = whole
    made = Grid(path, tmp_path / "runs", processes=2)
    assert max(len(step.active) for step in done(made)) == 2
    assert text(made.result()["table"]) == text(Grid(path, root).result()["table"])


def test_threads_are_split_once_and_for_all(stream, tmp_path, monkeypatch):
    """Cells that left the number to the machine get their part; asked again with other processes they stay the same cells."""
    monkeypatch.setattr(grid_runner.os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr("lab.models.pretrained.os.sched_getaffinity", lambda _: range(8))
    path = write(tmp_path, stream, backbone="minilm")
    made = Grid(path, tmp_path / "runs", processes=3)
    assert {cell.config.backbone.threads for cell in made.possible.values()} == {2}
    made._write_manifest()
    assert Grid(path, tmp_path / "runs", processes=1).possible.keys() == made.possible.keys()
    assert Grid(path, tmp_path / "other", processes=1).possible.keys() != made.possible.keys()
    fixed = write(tmp_path, stream, backbone="minilm", set={"backbone.threads": 5})
    assert {cell.config.backbone.threads for cell in Grid(fixed, tmp_path, 3).possible.values()} == {5}


# reuse ------------------------------------------------------------------------------------------------------------------------


def test_two_processes_that_train_the_same_experts(stream, tmp_path):
    """Both at once, one after the other, and without reuse: the same numbers; what reuse saved is seen, and only there."""
    shared = {"seeds": [0], "sweep": None, "set": {"train.epochs": 2, "router_training.steps": 4, "memory.per_task": 8}}
    path = write(tmp_path, stream, recipes=["uniform", "oracle"], **shared)
    both = Grid(path, tmp_path / "both", processes=2)
    assert any(len(step.active) == 2 for step in done(both)) and not both.unfinished()
    experts = sorted(file.name for file in (tmp_path / "both" / ".experts").glob("*.safetensors"))
    assert len(experts) == 2 and all(atomic_io.read_arrays(tmp_path / "both" / ".experts" / name)[0] for name in experts)
    done(single := Grid(path, tmp_path / "single"))
    (tmp_path / "off").mkdir()
    settings = shared | {"set": shared["set"] | {"reuse": False}}
    done(off := Grid(write(tmp_path / "off", stream, recipes=["uniform", "oracle"], **settings), tmp_path / "off"))
    measured = [
        [(cell["recipe"], cell["matrix"], cell["zero_shot"], cell["routing"]) for cell in made.result()["cells"]]
        for made in (both, single, off)
    ]
    assert measured[0] == measured[1] == measured[2] and len(measured[0]) == 2
    assert not (tmp_path / "off" / ".experts").exists() and off.result()["times"]["reuse"]["share_saved"] == 0
    times = single.result()["times"]
    taken = next(cell["cost"] for cell in single.result()["cells"] if cell["recipe"] == "oracle")
    assert times["reuse_where_taken"]["cells"] == 1 and times["reuse"]["cells"] == 2 and taken["reused_s"] > 0
    assert times["reuse_where_taken"]["share_saved"] == pytest.approx(taken["reused_s"] / (taken["train_s"] + taken["eval_s"]))
    assert 0 < times["reuse"]["share_saved"] < times["reuse_where_taken"]["share_saved"] < 1


# ended early ------------------------------------------------------------------------------------------------------------------


def command(path: Path, root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "lab", "grid", str(path), "--runs", str(root), *words]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[2]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def started(path: Path, root: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(path, root, *words), env=environment(), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def size(root: Path) -> int:
    """How far the cells have come: bytes of all their events."""
    return sum(path.stat().st_size for path in root.glob("*/events.jsonl"))


def until(process: subprocess.Popen, true, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not true() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def killed(path: Path, root: Path, at: float, everything: bool) -> None:
    """Start the grid and kill it -9 once its events have so many bytes, with its cells or alone."""
    process = started(path, root)
    until(process, lambda: size(root) > at)
    os.killpg(process.pid, signal.SIGKILL) if everything else process.kill()
    process.wait()


def same_as_in_one_go(path: Path, root: Path, reference: Path) -> None:
    """The grid started again ends with the numbers of the reference, and a last time does nothing."""
    last = lab("grid", path, "--runs", root, "--json")
    assert last.exit_code == 0, last.stderr
    for part in ("table", "differences"):
        assert text(json.loads(last.stdout)[part]) == text(Grid(path, reference).result()[part])
    again = lab("grid", path, "--runs", root, "--json")
    assert (again.stdout, again.stderr) == (last.stdout, "")


@pytest.mark.slow
@pytest.mark.long
def test_killed_in_the_middle_and_started_again(stream, tmp_path):
    """kill -9 of the grid alone: its cell ends by itself and can be gone on with."""
    path = write(tmp_path, stream, recipes=["sequential"], seeds=[0, 1], sweep=None)
    done(Grid(path, tmp_path / "reference"))
    root = tmp_path / "runs"
    killed(path, root, 0.3 * size(tmp_path / "reference"), everything=False)
    end = time.monotonic() + 60
    while any(Run(folder.parent).status in ("queued", "running") for folder in root.glob("*/run.json")):
        assert time.monotonic() < end, "the cell goes on without its grid"
        time.sleep(0.05)
    same_as_in_one_go(path, root, tmp_path / "reference")


@pytest.mark.slow
@pytest.mark.parametrize("everything", [True, False])
def test_killed_at_random_moments_and_started_again(everything, whole, tmp_path):
    """kill -9 of everything, or of the grid alone; three times, at any moment of the work."""
    path, reference, _ = whole
    total, draw = size(reference), random.Random()
    moments = sorted(draw.uniform(0, 0.9 * total) for _ in range(3))
    print("moments", moments)  # shown where the test fails
    for moment in moments:
        killed(path, tmp_path / "runs", moment, everything)
    same_as_in_one_go(path, tmp_path / "runs", reference)


def test_ctrl_c(stream, tmp_path, monkeypatch):
    """The cell that works stops, and can be gone on with."""
    path, root = write(tmp_path, stream, recipes=["sequential"], sweep=None), tmp_path / "runs"

    def interrupted(steps):
        next(step for step in steps if size(root) > 0)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal was not heard")

    monkeypatch.setattr("lab.training.progress_line.follow_cells", interrupted)
    result = lab("grid", path, "--runs", root)
    assert (result.exit_code, result.stdout) == (1, "") and result.stderr.endswith("the same command goes on with it\n")
    assert [Run(folder.parent).status for folder in root.glob("*/run.json")] == ["interrupted"]


# what fails -------------------------------------------------------------------------------------------------------------------


def test_a_failed_cell_is_named_and_stops_nothing(stream, tmp_path, monkeypatch):
    path, root = write(tmp_path, stream, sweep=None), tmp_path / "runs"
    with monkeypatch.context() as patch:
        patch.setattr(grid_runner, "work", broken_cell)
        result = lab("grid", path, "--runs", root, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    status = {(cell["recipe"], cell["seed"]): (cell["status"], cell["why"].get("status")) for cell in answer["cells"]}
    killed, lost = "its process ended with signal 9 (SIGKILL)", "the loss is not finite"
    assert status == {
        ("sequential", 0): ("finished", None),
        ("sequential", 1): ("finished", None),
        ("replay", 0): ("failed", killed),
        ("replay", 1): ("failed", lost),
    }
    ids = {cell["seed"]: cell["run"] for cell in answer["cells"] if cell["recipe"] == "replay"}
    assert result.stderr.endswith(f"lab: cell {ids[0]} is not finished: {killed}\nlab: cell {ids[1]} is not finished: {lost}\n")
    row = answer["table"][1]
    assert row["n"] == 0 and row["average_accuracy"]["mean"] is None and row["failed"] == {ids[0]: killed, ids[1]: lost}
    assert answer["differences"][0]["why"] == "no seed and order is common to both"
    again = lab("grid", path, "--runs", root, "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["table"][1]["n"] == 2


def test_a_cell_that_another_grid_has_just_finished_stays_finished(whole, tmp_path, monkeypatch):
    """The other one ended while this one loaded the model; neither the run is begun again, nor its end called a failure."""
    path, root, _ = whole
    cell = Grid(path, root).planned()[0]
    before = (root / cell.id / "run.json").read_bytes()
    with pytest.raises(LabError, match=rf"run '{cell.id}' is finished: there is nothing to go on with"):
        claim(Run(root / cell.id))
    monkeypatch.setattr(grid_runner.runner, "resume", lambda id, folder, **options: claim(Run(Path(folder) / id)))
    monkeypatch.setattr(grid_runner.os, "dup2", lambda *given: None)
    monkeypatch.setattr(grid_runner, "_end_with", lambda parent: None)
    with pytest.raises(SystemExit):
        grid_runner.work(cell.id, str(root), {})
    assert (root / cell.id / "run.json").read_bytes() == before


def test_when_no_swept_value_works(stream, tmp_path, monkeypatch):
    monkeypatch.setattr(grid_runner, "work", broken_cell)
    made = Grid(write(tmp_path, stream, seeds=[1]), tmp_path / "runs")
    assert len(done(made)[-1].ended) == 1 or made.unfinished()
    row = made.result()["table"][1]
    assert row["chosen"] is None and row["n"] == 0 and [entry["why"] for entry in row["sweep"]] == ["the loss is not finite"] * 2
    assert len(made.result()["cells"]) == 4


def test_a_damaged_cell_is_named(whole, stream, tmp_path):
    path, root = write(tmp_path, stream, recipes=["sequential"], seeds=[0], sweep=None), tmp_path / "runs"
    done(made := Grid(path, root))
    cell = made.planned()[0]
    (root / cell.id / "matrix.json").write_text("{")
    result = lab("grid", path, "--runs", root, "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["cells"][0]["status"] == "damaged"
    assert "is damaged: matrix.json cannot be read" in result.stderr
    (root / cell.id / "run.json").unlink()  # as a kill leaves it that came while the folder was made
    assert lab("grid", path, "--runs", root, "--json").exit_code == 0


def test_data_that_changed(stream, tmp_path):
    folder = toy.folder(tmp_path / "s", toy.tasks(train=32))
    path, root = write(tmp_path, folder, recipes=["sequential"], seeds=[0], sweep=None), tmp_path / "runs"
    done(made := Grid(path, root))
    train = folder / "sea" / "train.jsonl"
    train.write_text("".join(reversed(train.read_text().splitlines(keepends=True))))
    result = lab("grid", write(tmp_path, folder, recipes=["sequential"], sweep=None), "--runs", root)
    run = made.planned()[0].id
    assert result.exit_code == 2
    assert f"the data of task 'sea' have changed since {run} was begun: remove that run" in result.stderr


def test_what_is_checked_is_what_a_cell_works_on(stream, tmp_path):
    """Labels as text, tasks of its own, and the limits; so a cell that was begun is known again, and none fails afterwards."""
    options = {"backbone": "strings", "recipes": ["sequential"], "set": {"stream.labels_as_text": True}, "sweep": None}
    made = Grid(write(tmp_path, stream, **options), tmp_path / "runs")
    cell = made.planned()[0]
    begun = create_run(cell.config.to_dict(), made.folder, cell.id)
    update_info(begun, fingerprint=json.loads(json.dumps(api.session(cell.config, False).fingerprint())))
    made.check()
    for task in ("sea", "city"):
        (tmp_path / f"{task}.yaml").write_text(f"base: sequential\nrecipe: {task}\nstream: {{tasks: [{task}]}}\n")
    Grid(write(tmp_path, stream, recipes=["sea.yaml", "city.yaml"], orders=None), tmp_path / "runs").check()
    few = {"recipes": ["poly"], "scenarios": ["task"], "set": {"stream.max_train": 16, "protocol.shots": [24]}}
    with pytest.raises(LabError, match=r"shots = 24: held-out task 'city' has 16 training examples"):
        Grid(write(tmp_path, stream, **few), tmp_path / "runs").check()
    task = toy.task("sea", labels="abcde")
    many = replace(task, train=[example._replace(label=i % 5) for i, example in enumerate(task.train)])
    five = toy.folder(tmp_path / "five", [many])
    with pytest.raises(LabError, match=r"stream.max_train = 4 is less than the 5 labels of task 'sea'"):
        Grid(write(tmp_path, five, orders=None, set={"stream.max_train": 4}), tmp_path / "runs").check()


# requests that are wrong ------------------------------------------------------------------------------------------------------

WRONG = [
    ({"recipes": []}, "recipes = []: list should have at least 1 item after validation, not 0"),
    ({"recipes": ["sequental"]}, "unknown recipe 'sequental': did you mean 'sequential'?"),
    ({"recipe": ["l2r"]}, "unknown option 'recipe': did you mean 'recipes'?"),
    ({"seeds": [0, 0]}, "seeds = [0, 0]: names 0 twice"),
    ({"seeds": ["a"]}, "seeds.0 = 'a': input should be a valid integer"),
    ({"seeds": [-1]}, "seeds.0 = -1: input should be greater than or equal to 0"),
    ({"scenarios": ["clas"]}, "scenarios.0 = 'clas': input should be 'task', 'domain' or 'class'"),
    ({"scenarios": ["domain"], "stream": "builtin", "orders": None}, "scenario domain needs tasks with identical label lists"),
    ({"streams": ["builtin"]}, "stream and streams exclude each other"),
    ({"stream": "bultin"}, "unknown stream 'bultin': did you mean 'builtin'?"),
    ({"orders": [["sea", "cty"]]}, "unknown task 'cty': did you mean 'city'?"),
    ({"orders": [["sea", "city"], ["sea"]]}, "orders are to hold the same tasks: sea > city and sea do not"),
    ({"orders": {"rand": 3}}, "grid g.yaml: unknown option of orders 'rand': did you mean 'random'?\n"),
    ({"orders": ["mtl5-i"]}, "unknown order 'mtl5-i'"),
    ({"orders": [["sea", "city"], ["sea", "city"]]}, "twice"),
    ({"set": {"trian.lr": 1}}, "unknown option 'trian': did you mean 'train'?"),
    ({"set": {"seed": 1}}, "'seed' is an axis of its own: write seeds: ... beside set and sweep"),
    ({"set": {"stream.tasks": ["sea"]}}, "'stream.tasks' and orders both say which tasks are learned"),
    ({"set": {"train.lr": 1}}, "'train.lr' stands in set and in sweep: choose one"),
    ({"set": {"memory.per_task": 1}}, "memory.per_task = 1 is smaller than the 2 classes of task"),
    ({"sweep": {"train.lr": []}}, "sweep.train.lr is empty: write at least one value"),
    ({"sweep": {"train.lr": [0.001, "1e-3"]}}, "sweep holds train.lr=0.001 twice"),
    ({"sweep": {"train.lr": [0.001, "x0.5", "x1.0"]}, "set": {"train.lr": 0.002}}, "'train.lr' stands in set and in sweep"),
    ({"sweep": {"train.lr": [0.001, "x0.5"]}, "recipes": ["sequential"]}, "sweep holds train.lr=0.001 twice"),
    (
        {"sweep": {"train.loss_classes": ["x0.5"]}},
        "train.loss_classes: x0.5 is a multiple of the recipe's own value, which is 'seen'",
    ),
    ({"sweep": {"train.lr": [0.1, -1]}}, "train.lr = -1: input should be greater than 0"),
    ({"sweep": {"router.temperature": [1]}}, "unknown option of router 'temperature'"),
    ({"sweep": {"methods.replay.per_step": [1, 2]}}, "'methods.replay.per_step': the recipe has no method 'replay'"),
    ({"sweep": {"experts.targets": [["nothing"]]}}, "experts.targets = ['nothing'] matches no linear layer"),
    ({"recipes": ["sequential", "other/sequential.yaml"]}, "two recipes are called 'sequential': rename one of the files"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_wrong_grids_are_refused_before_anything_is_written(changes, message, stream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sequential.yaml").write_text("base: replay\n")
    result = lab("grid", write(tmp_path, stream, **changes), "--runs", tmp_path / "runs")
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.startswith("lab: grid g.yaml: ")
    assert message in result.stderr and not (tmp_path / "runs").exists()


def test_all_problems_are_listed(stream, tmp_path):
    changes = {"recipes": ["sequential", "sequental", "replay"], "sweep": {"methods.replay.per_step": [1, 0]}}
    with pytest.raises(LabError) as error:
        Grid(write(tmp_path, stream, **changes), tmp_path / "runs")
    first, *lines = str(error.value).splitlines()
    assert first == "grid g.yaml: 3 problems" and len(lines) == 3
    assert [line.split("(")[-1].split(" on ")[0] for line in lines] == ["sequential", "sequental", "replay"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [", "not valid YAML"), ("- a", "grid g.yaml must be a mapping"), ("", "must be a mapping")],
)
def test_files_that_are_no_grids(content, message, tmp_path):
    (tmp_path / "g.yaml").write_text(content)
    result = lab("grid", tmp_path / "g.yaml")
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1


def test_names_of_grids():
    assert lab("grid", "builtin-tin").stderr == "lab: unknown grid 'builtin-tin': did you mean 'builtin-tiny'?\n"
    assert lab("grid", "no.yaml").stderr == "lab: there is no grid file no.yaml\n"


def test_a_folder_that_cannot_be_written(stream, tmp_path):
    (tmp_path / "runs").write_text("a file")
    result = lab("grid", write(tmp_path, stream), "--runs", tmp_path / "runs")
    assert result.exit_code == 2 and "cannot be written" in result.stderr


def test_saved_time():
    costs = [{"train_s": 9.0, "eval_s": 1.0, "reused_s": 6.0}, {"train_s": 4.0, "eval_s": 2.0, "reused_s": 0.0}]
    savings = grid_runner.saved(costs)
    assert (savings["cells"], savings["without_reuse_s"], savings["with_reuse_s"]) == (2, 16.0, 10.0)
    assert savings["share_saved"] == pytest.approx(6 / 16) and savings["factor"] == pytest.approx(1.6)
    assert grid_runner.saved([])["share_saved"] is None


def test_a_damaged_manifest(stream, tmp_path):
    made = Grid(path := write(tmp_path, stream), tmp_path)
    atomic_io.write_json(made.manifest, {"cells": []})
    with pytest.raises(LabError, match=r"g-[0-9a-f]{12}.json is damaged \('threads'\): remove it; finished cells stay"):
        Grid(path, tmp_path)


@pytest.mark.slow
def test_transfer_recipes_in_a_grid(tmp_path):
    """Chosen and compared by what they have: scores of held-out tasks for each number of shots, and gradient alignment."""
    stream = toy.folder(tmp_path / "toy", toy.tasks("sea", "city", "farm", train=32))
    options = {"train.epochs": 1, "protocol.held_out": ["farm"], "protocol.shots": [4, 8], "protocol.adaptation.steps": 3}
    path = write(tmp_path, stream, recipes=["shared", "mhr-z"], scenarios=["task"], orders=None, set=options, seeds=[0])
    made = Grid(path, tmp_path / "runs")
    done(made)
    result = made.result()
    assert not made.unfinished() and len(result["cells"]) == 4
    for row in result["table"]:
        cell = next(c for c in result["cells"] if c["recipe"] == row["recipe"] and c["values"] == row["chosen"])
        scores = Run(tmp_path / "runs" / cell["run"]).recorded_scores["validation"]["farm"]
        best = max(row["sweep"], key=lambda entry: entry["validation"])
        assert row["chosen"] == best["values"] and best["validation"] == pytest.approx(np.mean([*scores.values()]))
        assert row["average.8"]["mean"] == cell["average"]["8"] and row["alignment"]["mean"] == pytest.approx(cell["alignment"])
        assert "average_accuracy" not in row and row["by_position"] == []
    pairs = {pair["measure"]: pair["why"] for pair in result["differences"]}
    assert set(pairs) == {"average.4", "average.8", "alignment"}
    shown = CliRunner().invoke(main.app, ["grid", str(path), "--runs", str(tmp_path / "runs")])
    assert shown.exit_code == 0 and "average.8" in shown.stdout
