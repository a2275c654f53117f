"""Processes that are killed at any moment, again and again: every run ends once, with the bytes of one that was left alone.

Run by hand: pytest -n 0 -m soak tests/training/test_soak.py; LAB_SOAK_KILLS says how many kills of each recipe (default 50).
"""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from support import toy

from lab.core.errors import LabError
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run
from lab.training import recorder, runner

KILLS = int(os.environ.get("LAB_SOAK_KILLS", "50"))
RECIPES = ("l2r", "l2r-merge", "replay", "ewc", "derpp", "olora", "sapt", "phatgoose", "poly", "mhr")
SAME = ("config.yaml", "matrix.json", "router.safetensors", "experts/**/*", "predictions/*", "routing/*", "state/**/*")
fork = multiprocessing.get_context("fork")  # torch is loaded once


def work(recipe: str, folder: Path) -> None:
    """Train the run, or go on with it."""
    recorder.LOG_EVERY = 0.0
    run, session = Run(folder), toy.session(recipe, "checkpoint.every=2", of=toy.tasks(train=32))
    list(recorder.record(run, session, runner.recover(run)))


def process(recipe: str, folder: Path) -> multiprocessing.Process:
    child = fork.Process(target=work, args=(recipe, folder))
    child.start()
    return child


def content(run: Run) -> dict[str, bytes]:
    return {str(path.relative_to(run.dir)): path.read_bytes() for glob in SAME for path in run.dir.glob(glob) if path.is_file()}


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_random_moments(recipe, tmp_path):
    draw, config = random.Random(recipe), toy.session(recipe, "checkpoint.every=2", of=toy.tasks(train=32)).config.to_dict()
    whole = create_run(config, tmp_path / "whole", "r")
    began = time.monotonic()
    child = process(recipe, whole.dir)
    child.join()
    duration = time.monotonic() - began
    assert child.exitcode == 0 and whole.status == "finished"
    kills = number = 0
    while kills < KILLS:
        run = create_run(config, tmp_path / str(number), "r")
        number += 1
        while run.status != "finished":
            child = process(recipe, run.dir)
            child.join(draw.uniform(0, duration))
            if child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
            elif child.exitcode:
                raise AssertionError(f"{recipe}: {run.info.get('error')} in {run.dir}")
            child.join()
        assert content(run) == content(whole)
        said = " ".join(note["what"] for note in run.info.get("recovered", []))
        assert "damaged" not in said, said  # a kill is no damage
        steps = [(e["task"], e["phase"], e["step"]) for e in run.events("Step")]
        assert steps == [(e["task"], e["phase"], e["step"]) for e in whole.events("Step")]
        assert not [*run.dir.rglob("*.tmp")] and len([*(run.dir / "checkpoint").glob("[0-9]*")]) <= 2
    print(json.dumps({"recipe": recipe, "kills": kills, "runs": number, "seconds": round(duration, 2)}))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_two_workers_and_removed_locks(tmp_path):
    """Whoever asks while another one works is refused, whatever of its signs is removed."""
    config = toy.session("l2r", "checkpoint.every=2", of=toy.tasks(train=32)).config.to_dict()
    draw, refused = random.Random(0), 0
    for number in range(max(KILLS // 5, 2)):
        run = create_run(config, tmp_path / str(number), "r")
        child = process("l2r", run.dir)
        while run.status != "running" and child.is_alive():
            time.sleep(0.01)
        name = draw.choice([".lock", "lease.json", "run.json"])
        (run.dir / name).unlink(missing_ok=True)
        try:
            work("l2r", run.dir)
        except LabError as error:
            refused += "already being worked on" in str(error) or "is finished" in str(error)
        child.join()
        assert child.exitcode == 0 and run.status == "finished"
    assert refused == max(KILLS // 5, 2)
