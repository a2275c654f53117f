"""Jobs: states, alerts, the queue, replays, deletion."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from support.pages import bars, heatmap, open_page, texts
from support.processes import launch_nothing
from support.run_folders import FORGETS, KEEPS, configuration, write_run

import lab
from lab import views
from lab.core import atomic_io
from lab.jobs import jobs
from lab.pages import job_table, layout
from lab.run_folder.events import Preparing
from lab.run_folder.writer import Preparation, append_event, create_run, now, update_info
from lab.store import trash


def buttons(app) -> list[str]:
    """What can be clicked about the run in focus."""
    return [button.label for button in app.button if button.key != "replay_play" and button.label != "Save"]


def test_jobs_show_state_reason_and_actions(runs, monkeypatch):
    failed = write_run(runs, "failed", matrix=KEEPS[:1], status="failed")
    update_info(failed, error="task weather: <b>no</b> memory")
    (failed.dir / "log.txt").write_text("the last line")
    log = failed.dir / "events.jsonl"
    begun, *rest = log.read_text().splitlines()
    log.write_text("\n".join([json.dumps(json.loads(begun) | {"notes": ["3 rows of *a*.csv are left out"]}), *rest]) + "\n")
    app = open_page("jobs", job="failed")
    assert (
        "<b>no</b> memory" in texts(app)
        and "3 rows of *a*.csv are left out" in texts(app)
        and any("the last line" in code.value for code in app.code)
    )
    assert buttons(app) == ["Resume", "Delete"]
    table = app.dataframe[0].value.set_index("run")
    assert (
        table.loc["failed", "status"] == "failed"
        and table.loc["failed", "average_accuracy"] == failed.result()["average_accuracy"]
    )
    np.testing.assert_allclose(heatmap(app, 0)[1, 0], 0.9, rtol=1e-6)
    resumed = []
    monkeypatch.setattr(jobs, "resume", resumed.append)
    app.button(key="resume").click().run()
    assert [run.id for run in resumed] == ["failed"]


def test_jobs_say_that_a_run_ended_before_it_began(runs):
    """Its settings have to change, which is offered first; with a saved state going on is."""

    def offered(app):
        kinds = {"Resume", "Duplicate", "Delete"}
        return [one.proto.label for one in app.main if getattr(one.proto, "label", "") in kinds]

    run = create_run(configuration(tasks=None), runs, "failed", "failed")
    update_info(run, error="scenario domain needs tasks with identical label lists")
    app = open_page("jobs", job="failed")
    shown = texts(app)
    assert "ended before the first step" in shown and "ended before the first task was learned" in shown
    assert "appears" not in shown and not app.number_input and app.dataframe[0].value["learned"].tolist() == ["–"]
    assert offered(app) == ["Duplicate", "Resume", "Delete"]
    assert app.button(key="resume").help.startswith("There is no checkpoint")
    atomic_io.write_json(run.dir / "checkpoint" / "manifest.json", {})
    app = open_page("jobs", job="failed")
    assert offered(app) == ["Resume", "Duplicate", "Delete"] and app.button(key="resume").help.startswith("Continues from")
    update_info(run, status="queued", error=None)
    shown = texts(open_page("jobs", job="failed"))
    assert "The loss appears with the first steps." in shown and "The first row appears" in shown


def test_jobs_show_a_running_run(runs, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    run = write_run(runs, "live", matrix=KEEPS[:1], status="running", partial=[0.7, None, None])
    app = open_page("jobs")
    assert buttons(app) == ["Stop after this task", "Stop now", "Watch this job"]
    assert heatmap(app, 0)[2, 0] == pytest.approx(0.7)
    app.button(key="stop_after").click().run()
    assert run.stop_requested and app.button(key="stop_after").disabled


def test_jobs_step_through_the_tasks_and_name_what_is_odd(runs, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    run = write_run(runs, "live", "sequential", [[0.9, None, None], [0.3, 0.8, None]], status="running")
    update_info(run, started=now())
    app = open_page("jobs")
    shown = texts(app)
    assert ":green-badge[:material/check: 1 animals 0.30]" in shown and ":blue-badge[:material/play_arrow: 3 cooking]" in shown
    assert "Task animals lost 0.60" in shown and "since it started" in bars(app)
    append_event(
        run,
        {
            "kind": "Step",
            "task": 2,
            "phase": "train",
            "epoch": 1,
            "epochs": 2,
            "step": 9,
            "steps": 20,
            "terms": {"task": None},
            "lr": 0.1,
            "progress": 0.9,
        },
    )
    with open(run.dir / "events.jsonl", "a") as events:
        events.write('{"kind": "St')
    app.run()
    assert "The loss is not a number since task 3 (cooking), step 9" in texts(app) and not app.exception


def test_jobs_tell_of_losses_above_a_limit_of_the_reader(runs):
    """The fixture's tasks lost 0.59 and 0.32; the limit stands in the link."""
    write_run(runs, "a", "sequential", FORGETS, routed=False)

    def lost(app):
        return [text for text in texts(app).split("\n") if text.startswith("Task ") and " lost " in text]

    app = open_page("jobs", job="a")
    assert app.number_input(key="job_lost").value == 0.2 and len(lost(app)) == 2
    app.number_input(key="job_lost").set_value(0.5).run()
    assert [text[:12] for text in lost(app)] == ["Task animals"]
    assert not lost(open_page("jobs", job="a", job_lost="0.7")) and len(lost(open_page("jobs", job="a", job_lost="0.4"))) == 1


def test_jobs_say_why_a_task_has_no_training_loss(runs):
    run = write_run(runs, "a")
    assert "No training loss" not in texts(open_page("jobs"))
    events = [event | ({"reused": True} if event["kind"] == "TaskStarted" else {}) for event in run.events()]
    (run.dir / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert "No training loss of the experts of tasks 1, 2, 3: an earlier run had trained the same" in texts(open_page("jobs"))


def test_jobs_name_dead_experts(runs):
    run = write_run(runs, "a")
    assert views.alerts(run) == []
    shares = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.5, 0.49, 0.01]])
    path = run.dir / "routing" / "after_2.safetensors"
    arrays, header = atomic_io.read_arrays(path)
    atomic_io.write_arrays(path, arrays | {f"{t}/share_sum": shares[t] * arrays[f"{t}/count"] for t in range(3)}, header)
    assert [alert.text for alert in views.alerts(run)] == ["Expert cooking is dead: no task gives it more than 1.0%."]
    five = write_run(runs, "b", matrix=[[0.5] * 5] * 5, tasks=list("vwxyz"))
    path = five.dir / "routing" / "after_4.safetensors"
    arrays, header = atomic_io.read_arrays(path)
    shares = np.eye(5) / 2 + np.roll(np.eye(5), 1, axis=1) / 2
    shares[:, 0] += shares[:, 1] + shares[:, 3]
    shares[:, [1, 3]] = 0.0
    atomic_io.write_arrays(path, arrays | {f"{t}/share_sum": shares[t] * arrays[f"{t}/count"] for t in range(5)}, header)
    said = "Experts w, y are dead: no task gives one of them any weight that shows."
    assert [alert.text for alert in views.alerts(five) if alert.kind == "dead"] == [said]


def test_jobs_order_and_hold_the_queue(runs, monkeypatch):
    launch_nothing(monkeypatch)
    waiting = [jobs.enqueue(configuration(seed=seed), runs) for seed in range(2)]
    app = open_page("jobs", job=waiting[1].id)
    assert "Queue:** 2 waiting" in texts(app) and app.button(key="later").disabled and not app.button(key="earlier").disabled
    assert "waits in the queue, 2 of 2" in bars(app)
    assert set(app.dataframe[0].value["state"]) == {"queued, 1.", "queued, 2."}
    app.button(key="earlier").click().run()
    assert jobs.waiting(runs) == waiting[::-1]
    app.button(key="queue_hold").click().run()
    assert jobs.paused(runs) and "paused" in texts(app)
    app.button(key="unqueue").click().run()
    assert waiting[1].status == "stopped" and jobs.waiting(runs) == waiting[:1]


def test_jobs_play_a_recorded_example(runs, recorded, monkeypatch):
    launched = launch_nothing(monkeypatch)
    app = open_page("jobs")
    app.button(key="replay_play").click().run()
    made = lab.Run.open("replay-builtin-sequential", runs)
    assert (
        launched == [[sys.executable, "-m", "lab.run_folder.replay_file", str(made.dir)]] and made.info["replay"]["speed"] == 10
    )
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    assert open_page("jobs").button(key="replay_play").disabled


def test_jobs_delete_asks_first_and_removes_that_run_only(runs, monkeypatch):
    kept, gone = write_run(runs, "kept"), write_run(runs, "gone")
    app = open_page("jobs", job="gone")
    app.button(key="delete").click().run()
    assert gone.dir.exists() and "**gone**" in texts(app)
    app.button(key="trash_no").click().run()
    assert gone.dir.exists() and kept.dir.exists()
    app.button(key="delete").click().run()
    app.button(key="trash_yes").click().run()
    assert not gone.dir.exists() and kept.status == "finished" and not app.exception
    damaged = write_run(runs, "damaged")
    (damaged.dir / "matrix.json").write_text("{")
    app = open_page("jobs", job="damaged")
    assert app.error[0].value.startswith("run 'damaged' is damaged")
    app.button(key="delete").click().run()
    app.button(key="trash_yes").click().run()
    assert not damaged.dir.exists() and kept.dir.exists() and not app.exception
    app.button(key="undo_delete").click().run()
    assert damaged.dir.exists() and not app.exception and "undo_delete" not in [button.key for button in app.button]
    app.selectbox(key="trash_run").set_value(trash.chosen("gone", runs).dir.name).run()
    app.button(key="restore").click().run()
    assert gone.status == "finished" and trash.entries(runs) == []
    trash.move(gone)
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    app = open_page("jobs")
    assert all(app.button(key=key).disabled for key in ("delete", "restore", "purge"))
    monkeypatch.delenv("LAB_READ_ONLY")
    app = open_page("jobs")
    app.button(key="purge").click().run()
    app.text_input(key="delete_name").set_value("gone")
    app.button(key="delete_yes").click().run()
    assert trash.entries(runs) == [] and kept.status == "finished" and not app.exception


def test_what_is_done_with_chosen_runs_fits_each_of_them(runs, monkeypatch):
    """Repeat takes the next seed that is free, Resume those that can be resumed; Delete can be undone for all at once."""
    launch_nothing(monkeypatch)
    write_run(runs, "a", seed=0), write_run(runs, "b", seed=3), write_run(runs, "cut", status="stopped", matrix=KEEPS[:1])
    (write_run(runs, "broken").dir / "matrix.json").write_text("{")

    def chosen(*ids):
        app = open_page("jobs")
        app.session_state[job_table.CHOSEN] = [*ids]
        return app.run()

    app = chosen("a", "cut", "broken")
    labels = {button.key: button.label for button in app.button if (button.key or "").endswith("_chosen")}
    assert labels == {"repeat_chosen": "Repeat 2", "resume_chosen": "Resume 1", "delete_chosen": "Delete"}
    app.button(key="repeat_chosen").click().run()
    assert sorted(run.config["seed"] for run in jobs.waiting(runs)) == [4, 5]
    chosen("cut").button(key="resume_chosen").click().run()
    assert lab.Run.open("cut", runs) in jobs.waiting(runs)
    app = chosen("a", "b")
    app.button(key="delete_chosen").click().run()
    app.button(key="trash_yes").click().run()
    assert {entry.id for entry in trash.entries(runs)} == {"a", "b"} and "**2 runs** are in the trash" in texts(app)
    app.button(key="undo_delete").click().run()
    assert trash.entries(runs) == [] and not app.exception
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    app = chosen("a")
    assert all(app.button(key=key).disabled for key in ("repeat_chosen", "delete_chosen"))


def test_jobs_show_names_notes_and_what_a_run_does_before_its_first_task(runs, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    run = create_run(configuration(), runs, "new", "running", name="<i>mine</i>")
    jobs.annotate(run, text="see *page 3*")
    app = open_page("jobs")
    assert app.subheader[0].value == layout.plain("<i>mine</i>") and "starting to train" in bars(app)
    row = app.dataframe[0].value.iloc[0]
    assert (row["title"], row["note"], row["run"]) == ("<i>mine</i>", "see *page 3*", "new")
    with Preparation(run) as tell:
        tell(Preparing("encoding 3,600 texts", 1200, 3600))
        assert "encoding 3,600 texts, 1,200 done" in bars(app.run()).replace("\\", "")
        assert "left" in bars(app)
    assert "starting to train" in bars(app.run()) and not app.exception


def test_the_loss_is_smoothed_within_each_task_as_by_hand():
    table = pd.DataFrame({"task": [0, 0, 0, 1], "phase": "train", "loss": [1.0, 3.0, 2.0, 8.0]})
    second, third = (0.5 * 1 + 3) / 1.5, (0.25 * 1 + 0.5 * 3 + 2) / 1.75
    np.testing.assert_allclose(views.smoothed(table, 0.5), [1, second, third, 8])
    np.testing.assert_allclose(views.smoothed(table, 0.0), table["loss"])


def test_a_choice_of_rows_counts_for_the_table_that_is_drawn_alone(monkeypatch):
    """After Repeat the table has a row more, and the browser tells of the choice in the one before again."""
    chosen = {"before": {"selection": {"rows": [0]}}, "now": {"selection": {"rows": [1]}}}
    state = {job_table.DRAWN: "now"} | chosen
    monkeypatch.setattr(job_table.st, "session_state", state)
    job_table.choose("now", ["repeated", "own"])
    assert state[job_table.CHOSEN] == ["own"]
    job_table.choose("before", ["other"])
    assert state[job_table.CHOSEN] == ["own"]
