"""The scheduler: slots, how ends are noted, and that nobody works twice on a run; small stand-ins do the training."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from support.run_folders import configuration, write_run

from lab.core.errors import LabError
from lab.jobs import scheduler
from lab.jobs.scheduler import Scheduler, Worker
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run, update_info

TRAINS = """
import signal, subprocess, sys, time
from pathlib import Path
from lab.run_folder.run import Run
from lab.run_folder.writer import append_event, claim, update_info, now
run, how = Run(Path(sys.argv[1])), sys.argv[2]
if how == "crash":
    sys.exit(3)
if how == "child":
    print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, file=open(run.dir / "child", "w"))
if how in ("deaf", "child"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
stopped = []
if how in ("saves", "notebook"):
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
lock = claim(run)
for step in range(20 if how == "short" else 6000):
    time.sleep(0.02)
    if stopped:
        update_info(run, status="interrupted", ended=now(), saved_at=step)
        break
else:
    update_info(run, status="finished", ended=now())
if how == "notebook":
    time.sleep(600)
"""


@pytest.fixture
def launch(monkeypatch):
    """launch(how) is a way to launch stand-ins of that behaviour; those that are left at the end are killed."""
    monkeypatch.setattr(scheduler, "GRACE", 0.5)
    started: list[Worker] = []

    def behaving(how: str) -> scheduler.Launch:
        def launch(run: Run) -> Worker:
            started.append(scheduler.detached([sys.executable, "-c", TRAINS, str(run.dir), how], run.dir / "log.txt"))
            return started[-1]

        return launch

    yield behaving
    for worker in started:
        with suppress(ProcessLookupError):  # it may end between the two
            if worker.poll() is None:
                os.kill(worker.pid, signal.SIGKILL)


def new(runs: Path, count: int = 1) -> list[Run]:
    return [create_run(configuration(seed=seed), runs, f"run-{seed}") for seed in range(count)]


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def started(schedule: Scheduler, run: Run) -> Run:
    """The run in a process of the scheduler, begun."""
    with scheduler.turn(run.dir.parent):
        assert schedule.start(run)
    wait_until(lambda: run.status != "queued")
    return run


def test_as_many_runs_as_slots_at_a_time_until_all_are_finished(runs, launch):
    waiting, most, ended = new(runs, 5), 0, []
    schedule = Scheduler(2, launch("short"))
    while waiting or schedule.workers:
        with scheduler.turn(runs):
            while waiting and schedule.free():
                assert schedule.start(waiting.pop(0))
        most = max(most, len(scheduler.active(runs)))
        ended += schedule.ended(1.0)
    assert most == 2 and sorted(run.id for run in ended) == [f"run-{seed}" for seed in range(5)]
    assert {run.status for run in ended} == {"finished"}


def test_with_a_folder_the_runs_of_others_take_slots_too(runs, launch):
    first, second = new(runs, 2)
    started(other := Scheduler(1, launch("saves")), first)
    assert Scheduler(2, launch("short")).free() == 2 and Scheduler(2, launch("short"), runs).free() == 1
    other.stop()
    assert Scheduler(2, launch("short"), runs).free() == 2 and second.status == "queued"


def test_no_two_processes_on_a_run(runs, launch):
    """Neither while the first one loads, nor while it trains, nor when it has finished."""
    (run,) = new(runs)
    one, two = Scheduler(1, launch("saves")), Scheduler(1, launch("saves"))
    with scheduler.turn(runs):
        assert one.start(run) and not two.start(run)
    wait_until(lambda: run.status == "running")
    with scheduler.turn(runs):
        assert not two.start(run) and not two.workers
        with pytest.raises(LabError, match="running already"):
            scheduler.begin(run, launch("short"))
    one.stop()
    with pytest.raises(LabError, match="nothing to resume"):
        scheduler.begin(write_run(runs, "done"), launch("short"))


def test_a_process_with_the_same_id_but_another_start_is_not_the_run(runs):
    (run,) = new(runs)
    update_info(run, status="running", pid=os.getpid(), process_started=psutil.Process().create_time() - 100)
    assert run.status == "lost" and scheduler.process_of(run) is None
    update_info(run, process_started=psutil.Process().create_time())
    assert run.status == "running" and scheduler.process_of(run).pid == os.getpid()


@pytest.mark.parametrize(
    ("how", "number", "reason"), [("crash", 0, "exit code 3"), ("saves", signal.SIGKILL, "signal 9 (SIGKILL)")]
)
def test_a_process_that_cannot_note_its_end_has_it_noted(runs, launch, how, number, reason):
    (run,) = new(runs)
    started(schedule := Scheduler(1, launch(how)), run)
    if number:
        os.kill(run.info["pid"], number)
    wait_until(lambda: schedule.ended(0.1) == [run] or run.status == "failed")
    assert run.status == "failed" and run.info["error"] == f"its process ended with {reason}"
    started(Scheduler(1, launch("short")), run)
    assert run.info["error"] is None, "it can be gone on with"


def test_stop_lets_a_run_save_its_state(runs, launch):
    (run,) = new(runs)
    started(schedule := Scheduler(1, launch("saves")), run)
    begin = time.monotonic()
    schedule.stop()
    assert time.monotonic() - begin < 5 and not schedule.workers
    assert run.info["status"] == "interrupted" and run.info["saved_at"] >= 0


@pytest.mark.parametrize("how", ["deaf", "child"])
def test_stop_kills_what_does_not_stop_and_calls_it_interrupted(runs, launch, how):
    """Also when the scheduler that watches the process sees it die first, and with the processes it started."""
    (run,) = new(runs)
    started(Scheduler(1, launch(how)), run)
    pids = [run.info["pid"], *([int((run.dir / "child").read_text())] if how == "child" else [])]
    scheduler.end([run])
    assert run.info["status"] == "interrupted" and run.info["error"] is None
    wait_until(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids), 5)


def test_who_watches_a_process_that_is_stopped_does_not_call_it_failed(runs, launch):
    (run,) = new(runs)
    started(schedule := Scheduler(1, launch("deaf")), run)
    (run.dir / "launch.json").write_text((run.dir / "launch.json").read_text().replace("{", '{"asked_to_end": true,', 1))
    os.kill(run.info["pid"], signal.SIGKILL)
    wait_until(lambda: schedule.ended(0.1) == [run])
    assert run.info["status"] == "interrupted"


def test_stop_before_the_run_has_begun(runs, launch):
    (run,) = new(runs)
    schedule = Scheduler(1, launch("saves"))
    with scheduler.turn(runs):
        schedule.start(run)
    schedule.stop()
    assert run.info["status"] in ("stopped", "interrupted") and scheduler.active(runs) == []


def test_a_notebook_that_trains_the_run_itself_is_not_killed(runs, launch):
    """It was not launched for the run: it has done its part when the run has ended."""
    (run,) = new(runs)
    worker = launch("notebook")(run)
    wait_until(lambda: run.status == "running")
    scheduler.end([run])
    assert run.info["status"] == "interrupted" and "saved_at" in run.info
    time.sleep(2 * scheduler.GRACE)
    assert worker.poll() is None


def test_detached_processes_outlive_their_scheduler(runs):
    """kill -9 of the process that launched a run: the run goes on to its end."""
    (run,) = new(runs)
    code = (
        "import sys, time; from pathlib import Path; from lab.jobs import scheduler; from lab.run_folder.run import Run\n"
        f"words, run = [sys.executable, '-c', {TRAINS!r}, sys.argv[1], 'short'], Run(Path(sys.argv[1]))\n"
        "schedule = scheduler.Scheduler(1, lambda run: scheduler.detached(words, run.dir / 'log.txt'))\n"
        "with scheduler.turn(run.dir.parent): schedule.start(run)\n"
        "time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(run.dir)], env=scheduler.environment())
    wait_until(lambda: run.status == "running")
    parent.kill()
    parent.wait()
    wait_until(lambda: run.status == "finished")


def test_a_turn_that_another_process_keeps_is_a_sentence(runs):
    with (
        scheduler.turn(runs),
        pytest.raises(LabError, match="another process has been starting or stopping runs"),
        scheduler.turn(runs, patience=0.1),
    ):
        pass
