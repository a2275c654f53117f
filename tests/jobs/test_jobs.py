"""Jobs: processes that outlive what started them, seen through their folder; a small stand-in does the training."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from support.run_folders import configuration, write_run

from lab.core.errors import LabError
from lab.jobs import jobs, scheduler
from lab.run_folder.run import Run
from lab.run_folder.writer import claim

WORKER = """
import signal, sys, time
from pathlib import Path
from lab.run_folder.run import Run
from lab.run_folder.writer import append_event, claim, update_info
run = Run(Path(sys.argv[1]))
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[2] == "crash":
    sys.exit("cannot even begin")
lock = claim(run)
print("begun", flush=True)
for step in range(600):
    append_event(run, {"kind": "Step", "step": step})
    if run.stop_requested or sys.argv[2] == "short":
        update_info(run, status="finished" if sys.argv[2] == "short" else "stopped")
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

    monkeypatch.setattr(scheduler, "GRACE", 1.0)
    yield behave
    scheduler.end(started)


def wait_for(run: Run, *states: str) -> str:
    """The status of the run when it is one of these, or after a minute, for busy machines."""
    end = time.monotonic() + 60
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
    assert run.status == "interrupted" and jobs.active(runs) == []
    with pytest.raises(ProcessLookupError):
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
    assert run.status in ("stopped", "interrupted") and jobs.active(runs) == []


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


# -- the queue -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keeper(monkeypatch):
    """The queue's process as a thread of the test, quick; `started` counts how often one was asked for."""
    asked = []

    def start(words: list[str], log) -> int:
        if "lab.jobs.jobs" not in words:
            return detached(words, log)
        asked.append(words)
        threads.append(threading.Thread(target=jobs.work, args=[Path(words[-1])], daemon=True))
        threads[-1].start()
        return 0

    detached, threads = scheduler.detached, []
    monkeypatch.setattr(scheduler, "detached", start)
    monkeypatch.setattr(jobs, "POLL", 0.05)
    yield asked
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_waiting_runs_start_in_turn_and_the_process_ends(runs, worker, keeper):
    worker("short")
    queued = [jobs.enqueue(configuration(seed=seed), runs) for seed in range(3)]
    for run in queued:
        assert wait_for(run, "finished") == "finished"
    begun = [run.info["started"] for run in queued]
    assert begun == sorted(begun) and jobs.waiting(runs) == [] and len(keeper) >= 1


def test_lab_slots_lets_several_runs_of_a_folder_train(runs, worker, keeper, monkeypatch):
    """The same number for runs started at once and for those that wait."""
    monkeypatch.setenv("LAB_SLOTS", "2")
    worker("long")
    first = jobs.start(configuration(), runs)
    assert not jobs.is_full(runs)
    second, third = (jobs.enqueue(configuration(seed=seed), runs) for seed in (1, 2))
    assert wait_for(second, "running") == "running" and jobs.is_full(runs)
    with pytest.raises(LabError, match=r"wait for it, stop it first, or set LAB_SLOTS"):
        jobs.start(configuration(seed=3), runs)
    time.sleep(0.3)
    assert third.status == "queued" and jobs.waiting(runs) == [third]
    jobs.stop(first, now=True)
    assert wait_for(third, "running") == "running" and second.status == "running"


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_number_of_slots_that_is_none_is_refused(runs, monkeypatch, text):
    monkeypatch.setenv("LAB_SLOTS", text)
    with pytest.raises(LabError, match=f"LAB_SLOTS = {text}: write how many"):
        jobs.start(configuration(), runs)
    assert not [*runs.glob("*/run.json")]


def test_a_killed_trainer_does_not_hold_up_the_queue(runs, worker, keeper):
    worker("long")
    first = jobs.start(configuration(), runs)
    wait_for(first, "running")
    worker("short")
    second = jobs.enqueue(configuration(seed=1), runs)
    time.sleep(0.3)
    assert second.status == "queued" and jobs.waiting(runs) == [second]
    os.kill(first.info["pid"], signal.SIGKILL)
    assert wait_for(second, "finished") == "finished" and first.status == "lost"


def test_a_held_queue_starts_nothing_and_can_be_ordered(runs, worker, keeper):
    worker("short")
    jobs.pause(True, runs)
    a, b, c = (jobs.enqueue(configuration(seed=seed), runs) for seed in range(3))
    assert jobs.waiting(runs) == [a, b, c] and not keeper
    jobs.move(c, -1), jobs.move(a, -1), jobs.stop(b)
    assert jobs.waiting(runs) == [a, c] and b.status == "stopped"
    jobs.move(c, -1)
    assert jobs.waiting(runs) == [c, a]
    with pytest.raises(LabError, match="does not wait"):
        jobs.move(b, 1)
    jobs.enqueue(b)
    assert jobs.waiting(runs) == [c, a, b]
    jobs.pause(False, runs)
    assert wait_for(b, "finished") == "finished"
    assert sorted([a, b, c], key=lambda run: run.info["started"]) == [c, a, b]


@pytest.mark.parametrize("act", [jobs.stop, jobs.delete])
def test_a_waiting_run_that_is_started_meanwhile_is_not_called_stopped_nor_deleted(runs, act):
    """Who starts it holds the turn: the word of the other one is about what it is then."""
    jobs.pause(True, runs)
    run, said = jobs.enqueue(configuration(), runs), []

    def other() -> None:
        try:
            act(run)
        except LabError as error:
            said.append(str(error))

    thread = threading.Thread(target=other)
    with scheduler.turn(runs):
        thread.start()
        time.sleep(0.3)
        lock = claim(run)
    thread.join(20)
    assert run.status == "running" and run.stop_requested == (act is jobs.stop)
    assert said == ([] if act is jobs.stop else [f"run '{run.id}' is running: stop it before removing it"])
    lock.release()


@pytest.mark.parametrize("looks", [2, 3, 4])
def test_a_run_may_leave_the_queue_between_two_looks(runs, monkeypatch, looks):
    """The second run begins after so many reads of its run.json, of which listing the runs is the first."""
    jobs.pause(True, runs)
    first, second = (jobs.enqueue(configuration(seed=seed), runs) for seed in range(2))
    read, info = [], Run.info.fget

    def later(run: Run) -> dict:
        read.append(run)
        return info(run) | ({"status": "stopped", "waiting": None} if run == second and read.count(run) > looks else {})

    monkeypatch.setattr(Run, "info", property(later))
    assert jobs.waiting(runs) == [first, second]


def test_a_run_that_trains_is_active_whatever_its_launch_file_holds(runs):
    run = write_run(runs, "a", matrix=[], status="queued")
    lock = claim(run)
    (run.dir / "launch.json").write_text("{")
    assert jobs.active(runs) == [run]
    lock.release()


def test_after_a_restart_of_the_machine_a_look_at_the_queue_goes_on_with_it(runs, worker, keeper):
    worker("short")
    jobs.pause(True, runs)
    run = jobs.enqueue(configuration(), runs)
    (runs / ".paused").unlink()  # the process that should notice is not there
    time.sleep(0.2)
    assert run.status == "queued"
    jobs.tend(runs), jobs.tend(runs)
    assert wait_for(run, "finished") == "finished"
    time.sleep(0.2)
    assert (run.dir / "log.txt").read_text().count("begun") == 1  # however often somebody looked


def test_the_queue_is_a_process_that_outlives_its_starter(runs):
    """For real: a run whose stream does not exist fails quickly, and says so."""
    run = jobs.enqueue(configuration() | {"stream": {"name": "no-such-stream"}, "router": {"name": "uniform"}}, runs)
    end = time.monotonic() + 60
    while run.status in ("queued", "running") and time.monotonic() < end:
        time.sleep(0.2)
    assert run.status == "failed" and "no-such-stream" in run.info["error"]
    assert (runs / ".queue.log").read_text() == ""


def test_a_finished_or_active_run_is_not_queued(runs, worker):
    worker("long")
    running = jobs.start(configuration(), runs)
    wait_for(running, "running")
    for run in (running, write_run(runs, "done")):
        with pytest.raises(LabError, match="cannot be put"):
            jobs.enqueue(run)
    with pytest.raises(LabError, match="stop it before"):
        jobs.delete(running)


def test_delete_removes_that_run_only(runs, tmp_path, monkeypatch):
    kept, gone = write_run(runs, "kept"), write_run(runs, "gone")
    (runs / "linked").symlink_to(kept.dir)
    with pytest.raises(LabError, match="link"):
        jobs.delete(Run(runs / "linked"))
    jobs.delete(gone)
    assert not gone.dir.exists() and kept.status == "finished"
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    for call in (lambda: jobs.delete(kept), lambda: jobs.enqueue(kept), lambda: jobs.move(kept, 1), lambda: jobs.pause(True)):
        with pytest.raises(LabError, match="read-only"):
            call()
    assert kept.dir.exists()
