"""Processes that are killed at any moment, again and again: every run ends once, with the bytes of one that was left alone.

Run by hand: pytest -n 0 -s -m soak tests/training/test_soak.py. LAB_SOAK_KILLS: kills of each recipe (default 50).
LAB_SOAK_HOURS: how long two workers are killed (default 2). LAB_SOAK_DISK: a folder on a small disk of its own, which is then
filled now and then.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import toy

from lab.config.resolve import recipe_names, validated
from lab.core.errors import LabError, RunFailed
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run
from lab.store import trash
from lab.store.turns import safe_status
from lab.training import ready_adapters, recorder, runner

KILLS = int(os.environ.get("LAB_SOAK_KILLS", "50"))
HOURS = float(os.environ.get("LAB_SOAK_HOURS", "2"))
MIXED = ("l2r", "l2r-merge", "replay", "ewc", "derpp", "olora", "sapt", "phatgoose", "poly", "mhr")  # of different state
READY = "ready"  # no recipe: trained experts are routed
SAME = ("config.yaml", "matrix.json", "router.safetensors", "experts/**/*", "predictions/*", "routing/*", "state/**/*")
fork = multiprocessing.get_context("fork")  # torch is loaded once


def configuration(recipe: str, folder: Path) -> dict[str, Any]:
    """Of a recipe on the toy stream, or of routing experts that were trained in a folder."""
    tasks = toy.tasks(train=32)
    if recipe != READY:
        return toy.session(recipe, "checkpoint.every=2", of=tasks).config.to_dict()
    experts = toy.recorded(toy.session("oracle", of=tasks), folder, "trained").dir / "experts"
    options = ["memory.per_task=24", "router_training.steps=20", "checkpoint.every=2"]
    stream = str(toy.folder(folder / "toy", tasks))
    return ready_adapters.configuration({task.name: experts / task.name for task in tasks}, stream, overrides=options).to_dict()


def work(recipe: str, folder: Path) -> None:
    """Train the run, or go on with it."""
    recorder.LOG_EVERY = 0.0
    run = Run(folder)
    notes = runner.recover(run)
    if recipe == READY:
        session = runner.session(validated(run.config), runs=False)
    else:
        session = toy.session(recipe, "checkpoint.every=2", of=toy.tasks(train=32))
    list(recorder.record(run, session, notes))


def process(recipe: str, folder: Path) -> multiprocessing.Process:
    child = fork.Process(target=work, args=(recipe, folder))
    child.start()
    return child


def content(run: Run) -> dict[str, bytes]:
    return {str(path.relative_to(run.dir)): path.read_bytes() for glob in SAME for path in run.dir.glob(glob) if path.is_file()}


def fault(run: Run, whole: Run) -> str:
    """What is not as in the run that was left alone; empty if nothing is."""
    if content(run) != content(whole):
        return "other bytes"
    ended = Counter(event["kind"] for event in run.events() if event["kind"] in ("RunStarted", "RunEnded"))
    if ended != {"RunStarted": 1, "RunEnded": 1}:
        return f"events {dict(ended)}"
    steps = [(e["task"], e["phase"], e["step"]) for e in run.events("Step")]
    if len({*steps}) != len(steps):
        return "a step twice"
    notes = " ".join(note["what"] for note in run.info.get("recovered", []))
    return notes if "damaged" in notes else ""


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("recipe", [*recipe_names(), READY])
def test_killed_at_random_moments(recipe, tmp_path):
    draw, config = random.Random(recipe), configuration(recipe, tmp_path)
    whole = create_run(config, tmp_path / "whole", "r")
    began = time.monotonic()
    child = process(recipe, whole.dir)
    child.join()
    duration = time.monotonic() - began
    assert child.exitcode == 0 and whole.status == "finished" and "matrix.json" in content(whole)
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
        assert not (why := fault(run, whole)), f"{why} in {run.dir}"
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


# -- two workers -----------------------------------------------------------------------------------------------------------


def work_off(runs: Path) -> None:
    """Train whatever run of the folder is not finished, in any order, until killed; experts are shared through a store."""
    recorder.LOG_EVERY = 0.0
    draw = random.Random(os.getpid())
    while True:
        waiting = [Run(path.parent) for path in runs.glob("r*/run.json")]  # which a run has once it was made
        waiting = [run for run in waiting if safe_status(run) != "finished"]
        for run in draw.sample(waiting, min(len(waiting), 1)):
            with suppress(LabError, RunFailed, OSError):  # another worker has it, or the disk is full
                recipe = run.config["recipe"]
                made = toy.session(recipe, "checkpoint.every=2", of=toy.tasks(train=32), store=runs / ".experts")
                list(recorder.record(run, made, runner.recover(run)))
        time.sleep(0.01)


def size(folder: Path) -> int:
    with suppress(OSError):  # it is at work
        return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    return 0


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_two_workers_that_are_killed(tmp_path):
    """No run is lost, each ends once and with the bytes of one that was left alone; disk and memory stay bounded."""
    draw, runs = random.Random(0), Path(os.environ.get("LAB_SOAK_DISK", tmp_path)) / "runs"
    small_disk, ballast = "LAB_SOAK_DISK" in os.environ, runs.parent / "ballast"
    whole: dict[str, Run] = {}
    for recipe in MIXED:
        config = toy.session(recipe, "checkpoint.every=2", of=toy.tasks(train=32)).config.to_dict()
        whole[recipe] = create_run(config, tmp_path / "whole", recipe)
        (child := process(recipe, whole[recipe].dir)).join()
        assert child.exitcode == 0
    configs, figures = {recipe: run.config for recipe, run in whole.items()}, Counter()
    begun, ended, faults = set[str](), dict[str, str](), dict[str, str]()  # ids; of what has ended also what was wrong with it
    own_memory = psutil.Process().memory_info().rss >> 20
    workers, number, began = [], 0, time.monotonic()
    filled = reported = killed = began
    emptied = began + 60
    while (now := time.monotonic() - began) < HOURS * 3600 or any(runs.glob("r*")):
        ending = now >= HOURS * 3600  # nothing new, nothing bad: what is left must finish
        assert now < HOURS * 3600 + 600, f"not finished: {[*runs.glob('r*')]}"
        workers = [worker for worker in workers if worker.is_alive()]
        while len(workers) < 2:
            workers.append(fork.Process(target=work_off, args=(runs,)))
            workers[-1].start()
            figures["workers"] += 1
        if not ending and time.monotonic() > killed:
            victim = draw.choice(workers)
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()
            killed = time.monotonic() + draw.expovariate(1 / 4)
            figures["kills"] += 1
            continue
        if small_disk and not ending and time.monotonic() > emptied and not ballast.exists():
            with suppress(OSError), open(ballast, "wb", buffering=0) as file:
                while file.write(bytes(1 << 12)):
                    pass
            filled = time.monotonic() + draw.uniform(1, 8)
            figures["full"] += 1
        if ballast.exists() and (ending or time.monotonic() > filled):
            ballast.unlink()
            emptied = time.monotonic() + draw.uniform(10, 60)
        present = [Run(path) for path in runs.glob("r*")]
        if not ending and len(present) < 5:
            with suppress(LabError, OSError):
                begun.add(create_run(configs[recipe := draw.choice(MIXED)], runs, f"r{number}-{recipe}").id)
            number += 1
        for run in present:
            if safe_status(run) == "finished":
                with suppress(LabError, OSError):  # of a full disk, or its worker is about to leave
                    ended[run.id] = fault(run, whole[run.config["recipe"]])
                    trash.move(run)
        faults = {id: why for id, why in ended.items() if why}
        if not faults:
            with suppress(LabError, OSError):
                trash.empty(runs)
        for worker in workers:
            with suppress(psutil.Error):
                figures["memory"] = max(figures["memory"], psutil.Process(worker.pid).memory_info().rss >> 20)
                figures["files"] = max(figures["files"], psutil.Process(worker.pid).num_fds())
        figures["disk"] = max(figures["disk"], size(runs) >> 10)
        figures["own memory"] = max(figures["own memory"], psutil.Process().memory_info().rss >> 20)
        if time.monotonic() > reported:
            numbers = {"minutes": round(now / 60, 1), "begun": len(begun), "finished": len(ended), **figures}
            print(json.dumps(numbers | {"faults": faults}), flush=True)
            reported = time.monotonic() + 300
        time.sleep(0.2)
    for worker in workers:
        worker.kill()
        worker.join()
    print(json.dumps({"minutes": round(now / 60, 1), "begun": len(begun), "finished": len(ended), **figures}), flush=True)
    assert not faults and ended.keys() == begun
    assert figures["own memory"] < own_memory + 100  # MB
    assert figures["disk"] < 4096  # kB, of five runs that go on, the experts that they share, and the trash
