"""Jobs: processes that outlive what started them, seen through their folder; a small stand-in does the training."""

import os
import signal
import sys
import time

import pytest
from conftest import configuration, write_run

from lab import jobs
from lab.errors import LabError
from lab.runs import Run

WORKER = """
import signal, sys, time
from pathlib import Path
from lab.runs import Run
run = Run(Path(sys.argv[1]))
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[2] == "crash":
    sys.exit("cannot even begin")
lock = run.start()
print("begun", flush=True)
for step in range(600):
    run.append({"kind": "Step", "step": step})
    if run.stop_requested or sys.argv[2] == "short":
        run.update(status="finished" if sys.argv[2] == "short" else "stopped")
        break
    time.sleep(0.05)
"""


@pytest.fixture
def worker(monkeypatch):
    """Choose how the stand-in behaves; whatever still runs at the end is ended."""
    started = []

    def behave(how: str) -> None:
        def command(run: Run) -> list[str]:
            started.append(run)
            return [sys.executable, "-c", WORKER, str(run.dir), how]

        monkeypatch.setattr(jobs, "command", command)

    monkeypatch.setattr(jobs, "GRACE", 1.0)
    yield behave
    for run in started:
        if (process := jobs._process(run)) is not None:
            jobs._end(process)


def wait_for(run: Run, *states: str) -> str:
    """The status of the run when it is one of these, or after ten seconds."""
    end = time.monotonic() + 10
    while run.status not in states and time.monotonic() < end:
        time.sleep(0.02)
    return run.status


def test_a_job_is_queued_then_running_then_finished(runs, worker):
    worker("short")
    run = jobs.start(configuration(), runs)
    assert run.status in ("queued", "running", "finished")
    assert wait_for(run, "finished") == "finished"
    assert "begun" in (run.dir / "log.txt").read_text() and jobs.active(runs) == []


def test_a_job_is_in_a_session_of_its_own(runs, worker):
    worker("long")
    run = jobs.start(configuration(), runs)
    assert wait_for(run, "running") == "running"
    assert os.getsid(run.info["pid"]) == run.info["pid"] != os.getsid(0)


def test_only_one_job_at_a_time(runs, worker):
    worker("long")
    first = jobs.start(configuration(), runs)
    with pytest.raises(LabError, match=first.id):
        jobs.start(configuration(seed=1), runs)
    assert len(list(runs.glob("*/run.json"))) == 1
    second = jobs.start(configuration(seed=1), runs, together=True)
    assert {run.id for run in jobs.active(runs)} == {first.id, second.id}


def test_stop_after_the_task_is_a_request(runs, worker):
    worker("long")
    run = jobs.start(configuration(), runs)
    wait_for(run, "running")
    jobs.stop(run)
    assert run.stop_requested and wait_for(run, "stopped") == "stopped"
    with pytest.raises(LabError, match="nothing to stop"):
        jobs.stop(run)


@pytest.mark.parametrize("how", ["long", "deaf"])
def test_stop_now_ends_the_process(runs, worker, how):
    worker(how)
    run = jobs.start(configuration(), runs)
    wait_for(run, "running")
    pid = run.info["pid"]
    jobs.stop(run, now=True)
    assert wait_for(run, "lost") == "lost"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
        time.sleep(0.5)
        os.kill(pid, 0)


def test_a_process_that_never_began_is_noticed_and_blocks_nothing(runs, worker):
    worker("crash")
    run = jobs.start(configuration(), runs)
    assert wait_for(run, "lost") == "lost" and "cannot even begin" in (run.dir / "log.txt").read_text()
    worker("short")
    assert wait_for(jobs.start(configuration(seed=1), runs), "finished") == "finished"


def test_a_killed_process_is_lost_and_can_be_resumed(runs, worker):
    worker("long")
    run = jobs.start(configuration(), runs)
    wait_for(run, "running")
    os.kill(run.info["pid"], signal.SIGKILL)
    assert wait_for(run, "lost") == "lost"
    worker("short")
    jobs.resume(run)
    assert wait_for(run, "finished") == "finished"
    with pytest.raises(LabError, match="nothing to resume"):
        jobs.resume(run)


def test_a_queued_job_can_be_stopped(runs, worker):
    worker("deaf")
    run = jobs.start(configuration(), runs)
    jobs.stop(run, now=True)
    assert wait_for(run, "stopped", "lost") in ("stopped", "lost") and jobs.active(runs) == []


def test_read_only_is_refused_in_the_functions_too(runs, monkeypatch):
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    run = write_run(runs, "a", status="stopped")
    for call in (lambda: jobs.start(configuration(), runs), lambda: jobs.resume(run), lambda: jobs.stop(run)):
        with pytest.raises(LabError, match="read-only"):
            call()


def test_damaged_neighbours_do_not_stop_a_start(runs, worker):
    bad = write_run(runs, "bad")
    (bad.dir / "run.json").write_text("{")
    worker("short")
    assert wait_for(jobs.start(configuration(), runs), "finished") == "finished"
