"""Pages: every one with no run, one, many, damaged ones; numbers on screen are those of the run."""

import ast
import base64
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl

import numpy as np
import pytest
import streamlit
from scipy import stats
from streamlit.testing.v1 import AppTest
from support.decomposition import WENT
from support.run_folders import FORGETS, KEEPS, TASKS, configuration, write_pool, write_queries, write_run, write_transfer
from support.saved_experts import save
from typer.testing import CliRunner

import lab
from lab import figures, views
from lab.adapters import library
from lab.cli import main
from lab.comparison import replicates, tables
from lab.config.resolve import configure
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.data import loading
from lab.data.stream import SPLITS, Example, Task
from lab.jobs import jobs
from lab.pages import draft, shell, system
from lab.run_folder.prediction import kept
from lab.run_folder.routing_record import STEPS
from lab.run_folder.run import now
from lab.training import forecast

PRESETS = ("First look", "See it forget", "In full")
MAIN = Path(lab.__file__).parent / "pages" / "main.py"
PAGES = ["start", "train", "jobs", "compare", "routing", "playground", "library", "about", "learn"]


@pytest.fixture(autouse=True)
def stream(monkeypatch):
    """A stream that needs no data; the benchmark mtl5 would have to be downloaded first."""

    def opened(name, parts=()):
        return SimpleNamespace(names=lambda: list(TASKS), orders={}, load=task, downloads=name == "mtl5")

    monkeypatch.setattr(loading, "open_stream", opened)


def task(name: str) -> Task:
    """Twelve texts in three splits."""
    texts = [Example(f"text {i} about {name}", i % 2) for i in range(12)]
    return Task(name, ("no", "yes"), texts[:6], texts[6:8], texts[8:])


def open_page(name: str, **parameters: str) -> AppTest:
    """A page as it looks when opened by its link."""
    app = AppTest.from_file(str(MAIN), default_timeout=180)  # seconds, for busy machines
    if name != "start":
        app.run()  # the list of pages is known after this
        app.switch_page(f"{name}.py")
    for key, value in parameters.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def texts(app: AppTest) -> str:
    """All text of a page."""
    kinds = ("title", "subheader", "markdown", "caption", "info", "warning", "error", "success", "text")
    return "\n".join(element.value for kind in kinds for element in getattr(app, kind)).replace("\\", "")


def element(app: AppTest, key: str):
    """The chart with this key, or None."""
    return next((one for one in app.get("plotly_chart") if one.proto.id.endswith(f"-{key}")), None)


def chart(app: AppTest, key: str) -> np.ndarray | None:
    """The cells of the chart with this key; None if it has none."""
    numbers = [one.proto.id for one in app.get("plotly_chart")]
    place = next((i for i, id in enumerate(numbers) if id.endswith(f"-{key}")), None)
    traces = json.loads(element(app, key).proto.spec)["data"] if place is not None else []
    return heatmap(app, place) if traces and "z" in traces[0] else None


def codes(app: AppTest) -> int:
    """How many popovers with code there are."""
    return sum(one.proto.popover.label == "Code" for one in app.get("popover"))


def bars(app: AppTest) -> str:
    """What stands above the progress bars."""
    return "\n".join(bar.proto.text for bar in app.get("progress")).replace("\\", "")


def heatmap(app: AppTest, number: int) -> np.ndarray:
    """The cells of a chart of the page."""
    z = json.loads(app.get("plotly_chart")[number].proto.spec)["data"][0]["z"]
    if isinstance(z, list):
        return np.array(z, dtype=float)
    values = np.frombuffer(base64.b64decode(z["bdata"]), dtype=z["dtype"])
    return values.reshape([int(size) for size in z["shape"].split(",")])


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A folder of 200 runs."""
    folder = tmp_path_factory.mktemp("crowd")
    for seed in range(200):
        write_run(folder, f"run-{seed:03}", seed=seed, events=seed > 197, routed=seed > 197)
    return folder


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("case", ["none", "one", "many", "damaged", "unrouted", "unrecorded", "begun", "transfer"])
def test_every_page_in_every_situation(runs, recorded, crowd, page, case, monkeypatch):
    """Nothing breaks, and every chart has a text equivalent and its code."""
    if case == "many":
        monkeypatch.setenv("LAB_RUNS", str(crowd))
    elif case == "damaged":
        for name in ("run.json", "config.yaml", "matrix.json", "notes.json"):
            (write_run(runs, f"bad-{name[:3]}").dir / name).write_text("{")
        (write_run(runs, "bad-routing").dir / "routing" / "after_2.safetensors").write_bytes(b"xx")
    elif case == "transfer":
        write_transfer(runs, "a")
    elif case == "begun":
        write_run(runs, "a", matrix=[], status="queued", events=False)
    elif case == "unrouted":
        write_run(runs, "a", "sequential", FORGETS, routed=False)
    elif case != "none":
        write_run(runs, "a", routed=case != "unrecorded")
    else:
        shutil.rmtree(recorded)
    app = open_page(page)
    assert len(app.title) == 1
    charts = app.get("plotly_chart")
    assert all(one.proto.alt for one in charts) and codes(app) >= len(charts)
    if case == "damaged" and page == "compare":
        assert "config.yaml cannot be read" in texts(app) and "notes.json cannot be read" in texts(app)
        assert "bad-routing" in app.multiselect(key="runs").value  # the others are shown all the same
    if page != "train":  # which loads the plug-ins
        assert not app.error or case == "damaged"


def test_transfer_runs_stand_in_a_table_of_their_own(runs):
    write_transfer(runs, "moved"), write_run(runs, "stream")
    app = open_page("compare", runs=["moved", "stream"])
    table, other = app.dataframe[0].value, app.dataframe[1].value
    assert table.columns.tolist() == ["mhr (n = 1)"] and json.loads(app.dataframe[0].proto.columns)["measure"]["width"] == 170
    assert table.loc["32 shots"].tolist() == ["0.700"] and table.loc["Gradient alignment"].tolist() == ["0.200"]
    assert "Forgetting" in other.index and "32 shots" not in other.index
    for seed, by in enumerate((0.1, 0.12, 0.17)):
        write_transfer(runs, f"own{seed}", seed=seed)
        lower = write_transfer(runs, f"low{seed}", "shared", seed)
        held = {"8": 0.6, "32": 0.7 - by}
        atomic_io.write_json(lower.dir / "matrix.json", lower.scores | {"held_out": {"cooking": held}})
    app = open_page("compare", runs=[f"{name}{seed}" for name in ("own", "low") for seed in range(3)])
    assert not app.exception and "One run each" not in texts(app)
    low, high = stats.ttest_1samp([0.1, 0.12, 0.17], 0).confidence_interval()
    assert app.dataframe[1].value.loc["mhr", "average.32"] == f"+0.130 [{low:+.3f}, {high:+.3f}] p 0.25"
    app.selectbox(key="transfer_cmp_measure").set_value("average.32").run()
    drawn = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert drawn["data"][0]["name"] == "mhr" and drawn["layout"]["xaxis"]["title"]["text"] == "32 shots, minus shared"
    assert app.get("download_button")[0].proto.label == "Numbers as CSV" and not app.exception and not app.warning
    atomic_io.write_yaml(runs / "low0" / "config.yaml", lab.Run.open("low0").config | {"backbone": {"name": "minilm"}})
    app.run()
    assert "These runs differ in their backbones: tiny, minilm" in texts(app)
    assert any("lab compare own0 own1 own2 low0 low1 low2 --json" in one.value for one in app.code)
    app = open_page("jobs", job="moved")
    scores = next(table.value for table in app.dataframe if "cooking" in table.value.index)
    assert scores.loc["cooking"].tolist() == [0.5, 0.6, 0.7]
    assert "cooking, 32 shots 0.70" in texts(app)


def test_start_tells_the_recorded_story(recorded):
    app = open_page("start")
    routed = write_run(recorded, "other").result()  # the same numbers as the recorded one
    known = [f"{routed[name]:.3f}" for name in ("average_accuracy", "forgetting")]
    assert [number.value for number in app.header] == [*known, "0.710"]
    shown = texts(app)
    assert "recorded example" in shown and ":green[+0.277] against sequential" in shown and ":green[-0.430]" in shown
    assert "lost 0.46 per old task" in texts(app) and "0.28 more" in texts(app)
    np.testing.assert_allclose(heatmap(app, 0)[1:], np.array(FORGETS, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(heatmap(app, 2)[1:], np.array(KEEPS, dtype=float), rtol=1e-6)


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "matrix.json"])
def test_start_names_a_damaged_example(recorded, name, monkeypatch):
    folder = recorded / "builtin-l2r"
    (folder / name).write_text("[")
    shown = texts(open_page("start"))
    assert f"run 'builtin-l2r' is damaged: {name}" in shown and f"Put its files back; it is {folder}." in shown
    monkeypatch.setattr(shell, "EXAMPLES", recorded)
    assert "Install the lab again to have it back" in texts(open_page("start"))
    shutil.rmtree(folder)
    shown = texts(open_page("start"))
    assert "left out" not in shown and "No pair of recorded examples" in shown


def test_start_slider_moves_every_chart(recorded):
    app = open_page("start")
    app.slider(key="after").set_value(2).run()
    assert app.header[0].value == "0.900" and np.isnan(heatmap(app, 0)[3]).all() and "weather" in texts(app)
    assert open_page("start", after="1").header[1].value == "–"


def test_jobs_show_state_reason_and_actions(runs, monkeypatch):
    failed = write_run(runs, "failed", matrix=KEEPS[:1], status="failed")
    failed.update(error="task weather: <b>no</b> memory")
    (failed.dir / "log.txt").write_text("the last line")
    app = open_page("jobs", job="failed")
    assert "<b>no</b> memory" in texts(app) and any("the last line" in code.value for code in app.code)
    assert [button.label for button in app.button if button.key != "replay_play"] == ["Resume", "Delete"]
    table = app.dataframe[0].value.set_index("run")
    assert (
        table.loc["failed", "status"] == "failed"
        and table.loc["failed", "average_accuracy"] == failed.result()["average_accuracy"]
    )
    np.testing.assert_allclose(heatmap(app, 1)[1, 0], 0.9, rtol=1e-6)
    resumed = []
    monkeypatch.setattr(jobs, "resume", resumed.append)
    app.button(key="resume").click().run()
    assert [run.id for run in resumed] == ["failed"]


def test_jobs_say_that_a_run_ended_before_it_began(runs):
    """Its settings have to change, which is offered first; with a saved state going on is."""

    def offered(app):
        kinds = {"Resume", "Duplicate", "Delete"}
        return [one.proto.label for one in app.main if getattr(one.proto, "label", "") in kinds]

    run = lab.Run.create(configuration(tasks=None), runs, "failed", "failed")
    run.update(error="scenario domain needs tasks with identical label lists")
    app = open_page("jobs", job="failed")
    shown = texts(app)
    assert "It ended before the first step." in shown and "It ended before the first task was learned." in shown
    assert "appears" not in shown and not app.number_input and app.dataframe[0].value["learned"].tolist() == ["–"]
    assert offered(app) == ["Duplicate", "Resume", "Delete"]
    assert app.button(key="resume").help == "Nothing was saved: begins anew with the same settings."
    atomic_io.write_json(run.dir / "checkpoint" / "manifest.json", {})
    app = open_page("jobs", job="failed")
    assert offered(app) == ["Resume", "Duplicate", "Delete"] and app.button(key="resume").help.startswith("Goes on")
    run.update(status="queued", error=None)
    shown = texts(open_page("jobs", job="failed"))
    assert "The loss appears with the first steps." in shown and "The first row appears" in shown


def test_jobs_show_a_running_run(runs, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    run = write_run(runs, "live", matrix=KEEPS[:1], status="running", partial=[0.7, None, None])
    app = open_page("jobs")
    assert [button.label for button in app.button if button.key != "replay_play"] == ["Stop after this task", "Stop now"]
    assert heatmap(app, 1)[2, 0] == pytest.approx(0.7)
    app.button(key="stop_after").click().run()
    assert run.stop_requested and app.button(key="stop_after").disabled


def test_jobs_step_through_the_tasks_and_name_what_is_odd(runs, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    run = write_run(runs, "live", "sequential", [[0.9, None, None], [0.3, 0.8, None]], status="running")
    run.update(started=now())
    app = open_page("jobs")
    shown = texts(app)
    assert ":green-badge[:material/check: 1 animals 0.30]" in shown and ":blue-badge[:material/play_arrow: 3 cooking]" in shown
    assert "Task animals lost 0.60" in shown and "since it started" in bars(app)
    run.append(
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
        }
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
    monkeypatch.setattr(jobs, "_detached", lambda words, log: 0)
    waiting = [jobs.enqueue(configuration(seed=seed), runs) for seed in range(2)]
    app = open_page("jobs", job=waiting[1].id)
    assert "Queue:** 2 waiting" in texts(app) and app.button(key="later").disabled and not app.button(key="earlier").disabled
    assert "waits in the queue, 2 of 2" in bars(app)
    assert set(app.dataframe[0].value["state"]) == {"queued, 1.", "queued, 2."}
    app.button(key="earlier").click().run()
    assert jobs.waiting(runs) == waiting[::-1]
    app.button(key="queue_hold").click().run()
    assert jobs.paused(runs) and "held" in texts(app)
    app.button(key="unqueue").click().run()
    assert waiting[1].status == "stopped" and jobs.waiting(runs) == waiting[:1]


def test_jobs_play_a_recorded_example(runs, recorded, monkeypatch):
    launched = []
    monkeypatch.setattr(jobs, "_detached", lambda words, log: launched.append(words) or 0)
    app = open_page("jobs")
    app.button(key="replay_play").click().run()
    made = lab.Run.open("replay-builtin-sequential", runs)
    assert (
        launched == [[sys.executable, "-m", "lab.run_folder.replay_file", str(made.dir)]] and made.info["replay"]["speed"] == 10
    )
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    assert open_page("jobs").button(key="replay_play").disabled


def test_start_leads_to_an_open_replay(runs, recorded):
    write_run(runs, "a")
    door = next(one.proto for one in open_page("start").get("page_link") if "Watch a replay" in one.proto.label)
    link = dict(parse_qsl(door.query_string))

    def opened(app):
        return next(one.proto.expanded for one in app.expander if one.label == "Watch a replay")

    app = open_page(door.page, **link)
    assert opened(app) and not opened(open_page("jobs"))
    assert app.selectbox(key="replay_of").value == "builtin-sequential" and not app.button(key="replay_play").disabled


def test_jobs_delete_asks_first_and_removes_that_run_only(runs, monkeypatch):
    kept, gone = write_run(runs, "kept"), write_run(runs, "gone")
    app = open_page("jobs", job="gone")
    app.button(key="delete").click().run()
    assert gone.dir.exists()
    app.button(key="delete_yes").click().run()
    assert not gone.dir.exists() and kept.status == "finished" and not app.exception
    damaged = write_run(runs, "damaged")
    (damaged.dir / "matrix.json").write_text("{")
    app = open_page("jobs", job="damaged")
    assert app.error[0].value.startswith("run 'damaged' is damaged")
    app.button(key="delete").click().run()
    app.button(key="delete_yes").click().run()
    assert not damaged.dir.exists() and kept.dir.exists() and not app.exception
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    assert open_page("jobs").button(key="delete").disabled


def test_compare_shows_the_numbers_of_the_runs(runs):
    """Every number on the screen is one that `lab compare --json` prints."""
    made = [write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS, routed=False)]
    printed = json.loads(CliRunner().invoke(main.app, ["compare", "a", "b", "--json", "--runs", str(runs)]).stdout)
    app = open_page("compare")
    table = app.dataframe[0].value
    assert list(table.columns) == ["sequential (n = 1)", "l2r (n = 1)"]
    for result, column in zip(printed, ("l2r (n = 1)", "sequential (n = 1)"), strict=True):
        for measure in views.MEASURES:
            known = views.pick(result, measure.path)
            shown = table.loc[measure.title, column]
            if known is None:
                assert shown == f"– ({views.reason(result, measure.path)})"
            elif measure.path == "uses.task_id":
                assert shown == ("yes" if known else "no")
            else:
                assert float(shown.replace(",", "")) == pytest.approx(known, abs=5e-4 if measure.score else 0.5)
    assert table.loc["Forward transfer", "l2r (n = 1)"] == "– (needs single-task scores)"
    assert app.dataframe[1].value.loc["l2r", "average_accuracy"] == "+0.277 (one pair: no interval)"
    assert "no interval and no claim: sequential; l2r" in texts(app)
    csv = next(button for button in app.get("download_button") if button.proto.label == "Numbers as CSV")
    assert csv.proto.url and open_page("compare", cmp_view="Settings").dataframe[0].value.index[0] == "recipe"
    np.testing.assert_allclose(heatmap(open_page("compare", cmp_view="Matrices"), 2), views.matrix_difference(*made), rtol=1e-5)


def test_compare_takes_differences_over_pairs_of_seeds(runs):
    """Means, intervals and claims against scipy; the mean matrix of two seeds; another baseline turns the signs."""
    lower, other = (
        [[[score and score - by for score in row] for row in KEEPS] for by in byes]
        for byes in ((0.1, 0.12, 0.17), (0.1, -0.05, 0.02))
    )
    for seed in range(3):
        write_run(runs, f"u{seed}", "uniform", other[seed], seed=seed, events=False, routed=False)
        write_run(runs, f"a{seed}", seed=seed, events=False, routed=False)
        write_run(runs, f"b{seed}", "replay", lower[seed], seed=seed, events=False, routed=False)
    app = open_page("compare")
    assert len(app.multiselect(key="runs").value) == 2
    app.button(key="cmp_repeat").click().run()
    assert len(app.multiselect(key="runs").value) == 6
    app.multiselect(key="runs").set_value([f"{name}{seed}" for name in "abu" for seed in range(3)]).run()
    app.selectbox(key="baseline").set_value("l2r").run()
    away = stats.ttest_1samp([-0.1, -0.12, -0.17], 0).confidence_interval()
    assert app.dataframe[1].value.loc["replay", "average_accuracy"] == f"-0.130 [{away.low:+.3f}, {away.high:+.3f}] p 0.25"
    assert app.dataframe[1].value.loc["uniform", "average_accuracy"].endswith("includes 0")
    drawn = {line["name"]: line for line in json.loads(app.get("plotly_chart")[0].proto.spec)["data"]}
    assert drawn["replay"]["opacity"] == 1 and drawn["uniform"]["opacity"] < 0.5
    mean = stats.t.interval(0.95, 2, np.mean([0.8033, 0.7833, 0.7333]), stats.sem([0.8033, 0.7833, 0.7333]))
    assert app.dataframe[0].value.loc["Average accuracy", "replay (n = 3)"] == f"0.773 ± {mean[1] - 0.77333:.3f}"
    app.selectbox(key="baseline").set_value("replay").run()
    assert app.dataframe[1].value.loc["l2r", "average_accuracy"].startswith("+0.130 [")
    app.segmented_control(key="cmp_view").set_value("Matrices").run()
    shown = [heatmap(app, number)[-1, 0] for number in range(3)]
    assert shown == pytest.approx([0.86, 0.73, 0.86 - 0.07 / 3])
    ranges = [chart["data"][0] for chart in (json.loads(c.proto.spec) for c in app.get("plotly_chart"))]
    assert {(one["zmin"], one["zmax"]) for one in ranges[:3]} == {(0, 1)}
    assert len(ranges) == 5 and len({(one["zmin"], one["zmax"]) for one in ranges[3:]}) == 1


VIEWS = ["Summary", "Curves", "Matrices", "Trade-offs", "Interference", "Order", "Learning rates", "Settings"]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_compare_with_seeds_orders_and_what_cannot_be_compared(runs, monkeypatch, view):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    write_run(runs, "a"), write_run(runs, "b", seed=1), write_run(runs, "same"), write_run(runs, "live", status="running")
    write_run(runs, "turned", tasks=TASKS[::-1]), write_run(runs, "half", "replay", KEEPS[:2], status="stopped", routed=False)
    write_run(runs, "newer").update(format=99)
    (write_run(runs, "bad").dir / "matrix.json").write_text("{")
    write_run(runs, "s", "sequential", FORGETS, routed=False)
    app = open_page("compare", cmp_view=view)
    app.multiselect(key="runs").set_value(["a", "b", "same", "live", "turned", "half", "s"]).run()
    assert not app.exception and not app.error
    shown = texts(app)
    for reason in (
        "'same' has the settings and the seed of 'a'",
        "'live' is running",
        "newer version (format 99",
        "matrix.json cannot be read",
        "half has learned 2 of 3 tasks",
    ):
        assert reason in shown, reason
    assert app.segmented_control(key="cmp_view").value == view
    if view == "Interference":
        drawn = [json.loads(one.proto.spec)["data"] for one in app.get("plotly_chart")]
        circles = [traces for traces in drawn if traces[-1].get("name") == "tasks"]
        arrows = [[trace["name"] for trace in traces[:-1]] for traces in circles]
        assert ["weather → animals", "cooking → animals", "cooking → weather"] in arrows
        np.testing.assert_allclose(chart(app, "cmp_confusion_0"), tables.routing_confusion(lab.Run.open("a", runs)), rtol=1e-6)
    if view == "Order":
        table = app.dataframe[0].value.set_index(["label", "order"])
        assert table.loc[("l2r", "animals → weather → cooking"), "n"] == 2 and len(table) == 3


def test_paired_differences_name_whole_methods(runs):
    """Two learning rates of one recipe: the column is as wide as the longest label, at 7 pixels a character."""
    for rate in (0.002, 0.0005):
        made = write_run(runs, f"r{rate}", "sequential", events=False, routed=False)
        atomic_io.write_yaml(made.dir / "config.yaml", configuration("sequential", train={"lr": rate, "epochs": 2}))
    app = open_page("compare", runs=["r0.002", "r0.0005"], baseline="sequential, train.lr 0.0005")
    columns = json.loads(app.dataframe[1].proto.columns)
    assert columns["label"]["label"] == "minus sequential, train.lr 0.0005"
    assert columns["label"]["width"] >= 7 * len("minus sequential, train.lr 0.0005")


def test_compare_shows_a_sweep_and_where_losses_went(runs):
    for rate, score in ((1e-4, 0.5), (1e-3, 0.9), (1e-2, 0.7)):
        made = write_run(runs, f"r{score}", validation=[score, score, score], events=False)
        atomic_io.write_yaml(made.dir / "config.yaml", configuration(train={"lr": rate, "epochs": 2}))
    app = open_page("compare", cmp_view="Learning rates")
    assert len(app.multiselect(key="runs").value) == 2
    app.button(key="cmp_repeat").click().run()
    drawn = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert drawn["layout"]["xaxis"]["type"] == "log" and drawn["layout"]["xaxis"]["ticktext"] == ["0.0001", "0.001", "0.01"]
    found = replicates.sweep([lab.Run.open(f"r{score}", runs) for score in (0.5, 0.9, 0.7)])
    assert found.set_index("value")["mean"].to_dict() == pytest.approx({1e-4: 0.5, 1e-3: 0.9, 1e-2: 0.7})
    assert found.loc[found["best"], "value"].tolist() == [1e-3]
    atomic_io.write_json(runs / "r0.9" / "decomposition.json", WENT)
    app.segmented_control(key="cmp_view").set_value("Interference").run()
    assert "Not measured for 2 of 3 runs" in texts(app) and not app.exception
    assert "trained here and kept their weights" in texts(app) and not any("--decompose" in code.value for code in app.code)
    (runs / "r0.7" / "state" / "after_0").mkdir(parents=True)
    app.run()
    assert any("lab show r0.7 --decompose" in code.value for code in app.code)


def test_compare_restores_the_runs_of_a_link_and_reads_recorded_ones(runs, recorded):
    write_run(runs, "a"), write_run(runs, "b", seed=1), write_run(runs, "c", seed=2)
    app = open_page("compare")
    app.multiselect(key="runs").set_value(["a", "~builtin-sequential"]).run()
    assert not app.exception and list(app.dataframe[0].value.columns) == ["l2r (n = 1)", "sequential (n = 1)"]
    app.multiselect(key="runs").set_value(["a", "b", "c"]).run()
    assert list(app.dataframe[0].value.columns) == ["l2r (n = 3)"]
    app.multiselect(key="runs").set_value([]).run()
    assert "Choose at least one" in texts(app)


@pytest.mark.parametrize("link", ["doesnotexist", "hidden"])
def test_a_page_says_which_runs_of_a_link_are_not_there(runs, link):
    """What is there stays, and the remark goes with another choice; after a deletion there is none."""
    write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS), library.annotate(write_run(runs, "hidden"), archived=True)
    app = open_page("compare", runs=[link, "a"])
    assert f"Not here: {link}." in texts(app) and app.multiselect(key="runs").value == ["a"]
    app.segmented_control(key="cmp_view").set_value("Curves").run()
    assert f"Not here: {link}." in texts(app)
    app.multiselect(key="runs").set_value(["a", "b"]).run()
    assert "Not here" not in texts(app) and "Not here" not in texts(open_page("compare", runs=["a", "b"]))
    app = open_page("compare", runs=[link])
    assert f"Not here: {link}." in texts(app) and app.multiselect(key="runs").value == ["b", "a"]
    app = open_page("routing", rt_run=link)
    assert f"Not here: {link}." in texts(app) and app.selectbox(key="rt_run").value == "b"
    app.selectbox(key="rt_run").set_value("a").run()
    assert "Not here" not in texts(app)
    shutil.rmtree(runs / "a")
    assert app.run().selectbox(key="rt_run").value == "b" and not app.exception


def test_compare_begins_with_runs_that_are_at_rest(runs, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS)
    write_run(runs, "c", "replay", status="running")  # has learned all tasks, and is measured at this moment
    app = open_page("compare")
    write_run(runs, "d", "uniform").update(replay={"run": "a"})
    app = open_page("compare")
    assert app.multiselect(key="runs").value == ["b", "a"] and "Left out" not in texts(app)


def test_compare_offers_only_runs_with_chosen_recipes_tags_and_stars(runs):
    """Any of one kind, all of several kinds; what is still offered stays chosen, and the link holds the choice."""
    for number, recipe in enumerate(("l2r", "sequential", "replay", "l2r")):
        library.annotate(
            write_run(runs, f"r{number}", recipe, seed=number, events=False, routed=False),
            tags=["paper"] if number < 2 else [],
            starred=number == 3,
        )
    app = open_page("compare")
    asked = app.multiselect(key="only")
    assert asked.options == ["recipe l2r", "recipe replay", "recipe sequential", "starred", "stream builtin", "tag paper"]
    app.multiselect(key="runs").set_value(["r0", "r1", "r2"]).run()
    for given, offered, left in (
        (["recipe l2r", "recipe sequential"], ["r3", "r1", "r0"], ["r0", "r1"]),
        (["recipe l2r", "recipe sequential", "tag paper"], ["r1", "r0"], ["r0", "r1"]),
        (["recipe l2r", "starred"], ["r3"], ["r3"]),
    ):
        app.multiselect(key="only").set_value(given).run()
        assert (app.multiselect(key="runs").options, app.multiselect(key="runs").value) == (offered, left) and not app.exception
    app.multiselect(key="only").set_value(["recipe replay", "starred"]).run()
    assert "No run has all of this" in texts(app) and len(app.multiselect(key="runs").options) == 4 and not app.exception
    linked = open_page("compare", only=["tag paper"])
    assert linked.multiselect(key="only").value == ["tag paper"] and linked.multiselect(key="runs").options == ["r1", "r0"]


def test_compare_warns_of_unequal_runs(runs):
    write_run(runs, "a"), write_run(runs, "b", "sequential", [[0.5, None], [0.4, 0.6]], ["x", "y"], routed=False)
    app = open_page("compare")
    assert "These runs learned different tasks" in texts(app)
    assert "no seed and order is common to both" in app.dataframe[1].value.loc["l2r", "forgetting"]
    app.segmented_control(key="cmp_view").set_value("Matrices").run()
    assert "different tasks" in texts(app) and not app.exception


def test_routing_focus_and_examples(runs):
    run = write_run(runs, "a", texts=["A <b>tagged</b> text", "second"])
    app = open_page("routing")
    np.testing.assert_allclose(heatmap(app, 0), views.routing_by_task(run), rtol=1e-6)
    app.selectbox(key="rt_task").set_value("cooking").run()
    app.selectbox(key="rt_expert").set_value("weather").run()
    np.testing.assert_allclose(chart(app, "rt_profile"), views.routing_profile(run, 2, 2), rtol=1e-6)
    np.testing.assert_allclose(chart(app, "rt_layers_weight"), views.routing_by_layer(run, 2, 2, 1), rtol=1e-6)
    assert app.text[0].value == "A <b>tagged</b> text"
    app.select_slider(key="rt_after").set_value(2).run()
    assert not app.exception and app.selectbox(key="rt_task").value == "animals"
    np.testing.assert_allclose(heatmap(app, 0), views.routing_by_task(run, 1), rtol=1e-6)


def test_code_of_a_chart_draws_that_chart(runs, recorded, monkeypatch):
    """What the popover says is run as it stands: same figure, same numbers; the file holds them too."""
    monkeypatch.setattr(lab, "__path__", [str(recorded.parent)])
    monkeypatch.setattr(shell, "EXAMPLES", recorded)
    examples = "lab.Run.open('builtin-l2r', lab.__path__[0] + '/examples')"
    pairs = (write_run(runs, "a"), f"lab.Run.open('a', '{runs}')"), (lab.Run.open("builtin-l2r", recorded), examples)
    for made, open_it in pairs:
        code = shell.python_of(figures.routing_by_task, views.routing_by_task, (made, 1), {"title": "<x>"})
        assert open_it in code and code.endswith("lab.views.routing_by_task(run1, 1)")
        *before, drawing, numbers = code.splitlines()
        names: dict = {}
        exec("\n".join(before), names)
        assert eval(drawing, names) == figures.routing_by_task(made, 1, title="<x>")
        assert eval(numbers, names).equals(views.routing_by_task(made, 1))
    both = [made, lab.Run.open("a")]
    assert "lab.figures.average_curves([run1, run2])" in shell.python_of(figures.average_curves, None, (both,), {})
    assert shell.command_of(both[1:]) == f"lab show a --json --runs {runs}"
    monkeypatch.delenv("LAB_RUNS")
    monkeypatch.chdir(runs.parent)
    assert shell.command_of(both[1:]) == "lab show a --json" and shell.opened(both[1]) == "lab.Run.open('a')"


def test_the_command_of_a_chart_works_in_a_shell_of_its_own(runs, tmp_path, monkeypatch):
    """Own runs, recorded examples, and both beside each other; typed elsewhere, without the settings of the server."""
    monkeypatch.delenv("LAB_EXAMPLES")
    (folder := tmp_path / "other runs").mkdir()
    monkeypatch.setenv("LAB_RUNS", str(folder))
    mine, example, other = write_run(folder, "a"), *shell.examples()[:2]
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(MAIN.parents[2])}
    for shown in ([mine], [mine, example, mine], [example, other]):
        command = shell.command_of(shown)
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=paths, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr[-500:])
        found = json.loads(done.stdout)
        found = found if isinstance(found, list) else [found]
        assert [one["run"] for one in found] == [run.id for run in dict.fromkeys(shown)]
        assert [one["average_accuracy"] for one in found] == [run.metrics()["average_accuracy"] for run in dict.fromkeys(shown)]


def test_a_chart_card_offers_code_and_numbers(runs):
    run = write_run(runs, "a")
    app = open_page("routing")
    assert any("lab.figures.routing_by_task(run1, 2)" in code.value for code in app.code)
    assert f"lab show a --json --runs {runs}" in [code.value for code in app.code]
    button = next(button for button in app.get("download_button") if button.proto.label == "Numbers as CSV")
    assert button.proto.id and run.id == "a"


def test_routing_follows_one_decision_step_by_step(runs):
    run = write_run(runs, "a")
    app = open_page("routing", rt_task="weather", rt_layer="2 · value", rt_head="3", rt_example="2")
    assert "Looking at task **weather** › expert **weather** › layer **2 · value** › head **3**" in texts(app)
    answer = kept(run, 2, 1)[1]
    own = answer.weights[5, 2, 1]
    assert f"logits {np.log(own):.3f} → weights {own:.3f}" in texts(app) and app.text[0].value == answer.text
    drawn = json.loads(element(app, "rt_steps").proto.spec)["data"]
    assert [trace["customdata"] for trace in drawn if trace["type"] == "bar"] == [list(answer.experts)] * 2
    np.testing.assert_allclose(chart(app, "rt_one"), answer.by_layer(2), rtol=1e-6)
    app.button(key="rt_clear").click().run()
    assert app.selectbox(key="rt_layer").value == "(largest weight)" and app.selectbox(key="rt_task").value == "weather"
    assert "layer **3 · value** › head **1**" in texts(app)  # where the fixture gives the own expert the most


def test_routing_explains_steps_in_the_words_of_the_router(runs):
    """As they are recorded; of a run that recorded none, and of a step that nobody explains, what is right for every router."""
    run = write_run(runs, "a")
    assert f"1. **logits**: {STEPS['logits']}" in texts(open_page("routing"))
    path = run.dir / "routing" / "after_2.safetensors"
    arrays, header = atomic_io.read_arrays(path)
    about = json.loads(header["about"]) | {"steps": ["logits", "odd"], "told": {"logits": "a row <b>of a table"}}
    arrays |= {f"{task}/steps/odd": arrays[f"{task}/steps/logits"] for task in range(3)}
    atomic_io.write_arrays(path, arrays, {"about": json.dumps(about)})
    shown = texts(open_page("routing"))
    assert "1. **logits**: a row <b>of a table" in shown and "2. **odd**: a value that this router names" in shown
    assert f"3. **weights**: {STEPS['weights']}" in shown and STEPS["logits"] not in shown


def test_routing_of_a_pool_says_that_tasks_share_experts(runs):
    run = write_pool(runs, "a", tasks=18, experts=8)
    app = open_page("routing")
    box, largest = app.selectbox(key="rt_expert"), views.routing_by_task(run).idxmax(axis=1)
    assert box.options == ["(largest share)", *(f"pool-{e}" for e in range(8))] and "own" not in app.button(key="rt_clear").help
    assert f"expert **{largest.iloc[0]}** ›" in texts(app)
    assert "Experts are shared here" in texts(app) and "diagonal" not in texts(app)
    flow = views.routing_flow(run)
    share = flow.groupby("task")["weight"].max().sum() / flow["weight"].sum()
    assert f"the widest bands of each task, 1 of 8: {share:.0%} of all weight, where equal weights would give 12%" in texts(app)
    box.set_value("pool-7").run()
    assert "expert **pool-7** ›" in texts(app)
    app.button(key="rt_clear").click().run()
    assert f"expert **{largest.iloc[0]}** ›" in texts(app) and not app.exception
    write_run(runs, "b")
    shown = texts(own := open_page("routing", rt_run="b"))
    assert "Bright on the diagonal" in shown and "Experts are shared" not in shown and "Drawn are" not in shown
    assert own.selectbox(key="rt_expert").value == "(own of the task)" and "own expert" in own.button(key="rt_clear").help


def test_routing_offers_both_summaries_of_all_tasks(runs):
    """In a select box, which is never wider than its column."""
    run = write_run(runs, "a")
    app = open_page("routing", rt_summary="Entropy of the tasks")
    drawn = json.loads(element(app, "rt_entropy").proto.spec)["data"][0]
    assert list(drawn["text"]) == [f"{value:.2f}" for value in views.routing_entropy(run)] and not element(app, "rt_load")
    app.selectbox(key="rt_summary").set_value("Load of the experts").run()
    assert element(app, "rt_load") and not element(app, "rt_entropy")


def test_routing_lists_examples_from_the_most_to_the_least_routed(runs, monkeypatch):
    run = write_run(runs, "a", texts=["little", "much", "some"])
    path = run.dir / "routing" / "after_2.safetensors"
    arrays, header = atomic_io.read_arrays(path)
    for i, weight in enumerate((0.1, 0.8, 0.4)):
        arrays["0/examples"][i, :, :, 1] = weight
    atomic_io.write_arrays(path, arrays, header)
    app = open_page("routing", rt_task="animals", rt_expert="weather")
    table = app.dataframe[0].value
    assert table["text"].tolist() == ["much", "some", "little"] and table.index.tolist() == [2, 3, 1]
    assert table["weight here"].tolist() == pytest.approx([0.8, 0.4, 0.1]) and app.text[0].value == "much"


def test_routing_measures_and_warnings(runs, monkeypatch):
    run = write_run(runs, "a", heads=1)
    app = open_page("routing", rt_measure="Change")
    bars = json.loads(element(app, "rt_layers_change").proto.spec)["data"][0]
    assert bars["type"] == "bar" and not [box for box in app.selectbox if box.key == "rt_head"]
    (run.dir / "routing" / "after_0.safetensors").unlink()
    assert "nothing to compare with" in texts(open_page("routing", rt_measure="Change"))
    two = np.array([0.5, 0.49, 0.01], dtype=np.float32)
    monkeypatch.setattr("conftest.weights", lambda task, experts, layers, heads: np.tile(two[:experts], (layers, heads, 1)))
    write_run(runs, "dead")
    assert "Expert cooking is dead" in texts(open_page("routing", rt_run="dead"))
    same = np.full(3, 1 / 3, dtype=np.float32)
    monkeypatch.setattr("conftest.weights", lambda task, experts, layers, heads: np.tile(same[:experts], (layers, heads, 1)))
    write_run(runs, "equal", "uniform")
    assert "nothing is chosen" in texts(open_page("routing", rt_run="equal"))


def test_routing_warns_of_the_moment_that_is_looked_at(runs):
    """After two tasks one expert took all; at the end it does not."""
    run = write_run(runs, "a")
    path = run.dir / "routing" / "after_1.safetensors"
    arrays, header = atomic_io.read_arrays(path)
    taken = {f"{task}/share_sum": np.array([1.0, 0.0]) * arrays[f"{task}/count"] for task in range(2)}
    atomic_io.write_arrays(path, arrays | taken, header)
    app = open_page("routing")
    assert "collapsed" not in texts(app)
    app.select_slider(key="rt_after").set_value(2).run()
    assert "The router has collapsed: expert animals" in texts(app)


def test_a_picker_is_narrowed_by_star_tags_and_recipes(runs):
    """Offered where a run is marked; marks of one kind add up, kinds narrow each other, and the link keeps them."""
    for name, recipe in (("a", "l2r"), ("b", "uniform"), ("c", "uniform"), ("d", "replay")):
        write_run(runs, name, recipe)
    assert not [one for one in open_page("routing").multiselect if one.key == "rt_run_only"]
    library.annotate(lab.Run.open("b"), tags=["best", "odd"], starred=True)
    library.annotate(lab.Run.open("c"), tags=["odd"])
    app = open_page("routing")
    assert app.multiselect(key="rt_run_only").options == [
        "recipe l2r",
        "recipe replay",
        "recipe uniform",
        "starred",
        "stream builtin",
        "tag best",
        "tag odd",
    ]
    offered = {}
    odd, best, star = "tag odd", "tag best", "starred"
    for marks in ([odd], [star, odd], ["recipe l2r", "recipe replay"], [odd, best, "recipe uniform"], [star, "recipe l2r"], []):
        app.multiselect(key="rt_run_only").set_value(marks).run()
        offered[tuple(marks)] = sorted(app.selectbox(key="rt_run").options)
        assert app.selectbox(key="rt_run").value in offered[tuple(marks)] and not app.exception
    assert [*offered.values()] == [["b", "c"], ["b"], ["a", "d"], ["b", "c"], ["a", "b", "c", "d"], ["a", "b", "c", "d"]]
    there = open_page("routing", rt_run_only="starred")
    assert there.selectbox(key="rt_run").options == ["b"] and there.selectbox(key="rt_run").value == "b"


def test_routing_map_of_one_layer_and_routing_head(runs):
    run = write_run(runs, "a", heads=4)
    app = open_page("routing", rt_map_layer="2 · value", rt_map_head="3")
    np.testing.assert_allclose(heatmap(app, 0), views.routing_by_task(run, 2, 5, 2), rtol=1e-5)
    assert any("routing_by_task(run1, 2, 5, 2)" in code.value for code in app.code) and not app.exception
    write_run(runs, "b", heads=1)
    assert "rt_map_head" not in [box.key for box in open_page("routing", rt_run="b").selectbox]


def test_routing_pictures_flow_map_and_animation(runs):
    run = write_run(runs, "a")
    app = open_page("routing", rt_flow_layer="2 · value")
    links = json.loads(element(app, "rt_flow").proto.spec)["data"][0]["link"]
    assert links["value"][:9] == pytest.approx(views.routing_flow(run, 2, 5)["weight"].tolist())
    assert "of all weight reaches the expert of the task it comes from" in texts(app)
    app.select_slider(key="rt_after").set_value(1).run()
    assert not app.exception and len(json.loads(element(app, "rt_flow").proto.spec)["data"][0]["link"]["value"]) == 2
    play = open_page("routing", rt_picture="Over tasks")
    frames = json.loads(element(play, "rt_play").proto.spec)["frames"]
    assert [frame["name"] for frame in frames] == ["1", "2", "3"]
    assert "No queries are recorded for this run" in texts(open_page("routing", rt_picture="Query map"))
    write_queries(run)
    drawn = json.loads(element(open_page("routing", rt_picture="Query map"), "rt_queries").proto.spec)["data"]
    assert [trace["name"] for trace in drawn] == [*TASKS, "keys"]
    for path in run.dir.glob("routing/after_[01]*"):
        path.unlink()
    assert "something to play" in texts(open_page("routing", rt_picture="Over tasks"))


def test_routing_explains_what_is_missing(runs):
    write_run(runs, "a", "sequential", routed=False)
    assert "No routing is recorded" in texts(open_page("routing"))


def test_routing_of_one_shared_expert_is_explained(runs, monkeypatch):
    monkeypatch.setattr("conftest.weights", lambda task, experts, layers, heads: np.ones((layers, heads, 1), dtype=np.float32))
    run = write_run(runs, "a", "sequential")
    for path in run.dir.glob("routing/*"):
        arrays, header = atomic_io.read_arrays(path)
        about = json.loads(header["about"]) | {"experts": ["shared"]}
        atomic_io.write_arrays(path, arrays, {"about": json.dumps(about)})
    app = open_page("routing")
    assert "one expert for all tasks" in texts(app) and not app.get("plotly_chart")


def test_routing_with_a_damaged_moment_says_so_and_the_others_work(runs):
    run = write_run(runs, "a")
    (run.dir / "routing" / "after_1.safetensors").write_bytes(b"xx")
    app = open_page("routing")
    assert len(app.get("plotly_chart")) > 4 and not app.error
    app.select_slider(key="rt_after").set_value(2).run()
    assert "routing/after_1.safetensors cannot be read" in texts(app) and not app.exception


# -- playground --------------------------------------------------------------------------------------------------------------


def test_playground_shows_recorded_answers_without_a_model(runs, monkeypatch):
    run = write_run(runs, "a", texts=["A <b>tagged</b> text", "second"])
    app = open_page("playground")
    assert app.text_area(key="pg_text").value == "A <b>tagged</b> text"
    assert "#### **animals/yes** with probability 0.90; the true class is **animals/yes**" in texts(app)
    np.testing.assert_allclose(chart(app, "pg_layers_0"), kept(run, 2, 0)[0].by_layer(), rtol=1e-6)
    app.selectbox(key="pg_example").set_value("weather 2").run()
    assert app.text_area(key="pg_text").value == "second" and "**weather/no**" in texts(app)
    app.text_area(key="pg_text").set_value("a text of mine").run()
    assert app.selectbox(key="pg_example").value == "(typed)" and "without its weights" in texts(app)
    app.text_area(key="pg_text").set_value("  ").run()
    assert "Type a text above" in texts(app)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Runs that were really trained, on the toy stream with the tiny backbone."""
    from support import toy

    folder = tmp_path_factory.mktemp("trained")
    for id, recipe, *more in (("told", "oracle"), ("one", "sequential"), ("routed", "l2r", "router.heads=2")):
        toy.recorded(toy.session(recipe, *more), folder, id)
    return folder


@pytest.fixture
def model(runs, played, monkeypatch):
    """The dashboard over those runs, and the model of the routed one."""
    from lab.analysis.inference import load

    monkeypatch.setenv("LAB_RUNS", str(played))
    return load(lab.Run.open("routed"), 1)


def probabilities(app: AppTest) -> list[list[float]]:
    """The bars of the classes, one list per answer; NaN for a class that an answer does not know."""
    traces = json.loads(element(app, "pg_classes").proto.spec)["data"]
    return [[float(text.replace("–", "nan")) for text in trace["text"]] for trace in traces]


def typed(text: str = "red wave harbour", **parameters: str) -> AppTest:
    app = open_page("playground", pg_run="routed", **parameters)
    app.text_area(key="pg_text").set_value(text).run()
    assert not app.exception, app.exception[0].message
    return app


def test_playground_answers_as_the_model_does(model):
    app, answer = typed(), model.answer("red wave harbour")
    assert f"#### **{answer.prediction}** with probability {answer.probabilities.max():.2f}" in texts(app)
    assert probabilities(app) == [[round(p, 2) for p in answer.ranked()]]
    np.testing.assert_allclose(chart(app, "pg_layers_0"), answer.by_layer(), atol=1e-6)
    app.segmented_control(key="pg_head").set_value("2").run()
    np.testing.assert_allclose(chart(app, "pg_layers_0"), answer.by_layer(1), atol=1e-6)
    code = f"load({shell.opened(lab.Run.open('routed'))}, 1).answer('red wave harbour')"
    assert any(code in one.value for one in app.code)


@pytest.mark.parametrize(
    ("parameters", "change"),
    [
        ({"pg_route": "one expert", "pg_expert": "city"}, {"expert": 1}),
        ({"pg_route": "equal weights"}, {"uniform": True}),
        ({"pg_temperature": "0.2", "pg_top": "1"}, {"temperature": 0.2, "top": 1}),
        ({"pg_off": "2"}, {"without": (1,)}),
    ],
)
def test_playground_changes_the_routing_beside_the_original(model, parameters, change):
    """A link restores the change; the answer is that of the model; reset puts the original's numbers there."""
    from lab.analysis.inference import Override

    app = typed(pg_beside="changed routing", **parameters)
    original, changed = model.answer("red wave harbour"), model.answer("red wave harbour", Override(**change))
    np.testing.assert_allclose(chart(app, "pg_layers_0"), original.by_layer(), atol=1e-6)
    np.testing.assert_allclose(chart(app, "pg_layers_1"), changed.by_layer(), atol=1e-6)
    np.testing.assert_allclose(chart(app, "pg_change"), changed.by_layer() - original.by_layer(), atol=1e-6)
    verb = "stays" if original.prediction == changed.prediction else "becomes"
    assert f"With changed routing, the answer {verb} **{changed.prediction}**" in texts(app)
    made = ", ".join(f"{name}={value!r}" for name, value in change.items())
    assert any(f"Override({made})" in code.value for code in app.code)
    app.button(key="pg_reset").click().run()
    assert np.array_equal(chart(app, "pg_layers_1"), chart(app, "pg_layers_0")) and not chart(app, "pg_change").any()
    first, second = probabilities(app)
    assert first == second


def test_playground_compares_moments_and_runs(model):
    from lab.analysis.inference import load

    app = typed(pg_beside="another moment")
    then = load(lab.Run.open("routed"), 0).answer("red wave harbour")
    first, second = probabilities(app)
    assert sum(first) == pytest.approx(1, abs=0.02) and len(then.classes) < len(model.learner.space.names)
    assert sorted(value for value in second if value == value) == [round(p, 2) for p in sorted(then.probabilities)]
    verb = "stays" if then.prediction == model.answer("red wave harbour").prediction else "becomes"
    assert f"With after task 1, the answer {verb} **{then.prediction}**" in texts(app)
    app.segmented_control(key="pg_beside").set_value("another run").run()
    app.selectbox(key="pg_other").set_value("one").run()
    assert "With one, the answer" in texts(app) and not app.exception
    assert [one for one in app.get("plotly_chart") if one.proto.id.endswith("pg_layers_0")] and not element(app, "pg_change")


def test_playground_draws_a_pair_on_one_range(model, monkeypatch):
    """The weights of the changed answer are three times as large: both charts end at 3."""
    from lab.analysis.inference import Model

    answered = Model.answer

    def larger(self, text, override, **more):
        answer = answered(self, text, override, **more)
        grown = {name: step * (1 if override.expert is None else 3) for name, step in answer.steps.items()}
        return dataclasses.replace(answer, steps=grown)

    monkeypatch.setattr(Model, "answer", larger)
    app = typed(pg_beside="changed routing", pg_route="one expert", pg_expert="city")
    drawn = [json.loads(element(app, f"pg_layers_{place}").proto.spec)["data"][0] for place in (0, 1)]
    assert [one["zmax"] for one in drawn] == pytest.approx([3, 3])
    assert sum("most=3)" in code.value for code in app.code) == 2


def test_playground_tells_the_task_where_the_model_is_told(model):
    app = open_page("playground", pg_run="told")
    app.text_area(key="pg_text").set_value("red wave").run()
    app.selectbox(key="pg_task").set_value("city").run()
    assert (chart(app, "pg_layers_0") == [0, 1]).all()
    app = open_page("playground", pg_run="one")
    app.text_area(key="pg_text").set_value("red wave").run()
    assert "one expert for everything" in texts(app) and not [box for box in app.selectbox if box.key == "pg_task"]


def test_playground_tells_every_side_the_same_task_by_its_name(played, runs):
    """The other run learned the tasks in another order, a third one only one of them; the first is not told at all."""
    from support import toy

    for id in ("told", "routed"):
        shutil.copytree(played / id, runs / id)
    toy.recorded(toy.session("oracle", of=toy.tasks("city", "sea")), runs, "turned")
    toy.recorded(toy.session("oracle", of=toy.tasks("sea")), runs, "short")
    app = open_page("playground", pg_run="told", pg_beside="another run", pg_other="turned", pg_task="city")
    app.text_area(key="pg_text").set_value("red wave").run()
    assert (chart(app, "pg_layers_0") == [0, 1]).all() and (chart(app, "pg_layers_1") == [1, 0]).all()
    said = next(code.value for code in app.code if "answers = {" in code.value)
    assert ".answer('red wave', task=1)" in said and ".answer('red wave', task=0)" in said
    app.selectbox(key="pg_run").set_value("routed").run()
    assert not app.error and (chart(app, "pg_layers_1") == [1, 0]).all()
    assert ".answer('red wave')" in next(code.value for code in app.code if "answers = {" in code.value)
    app.selectbox(key="pg_run").set_value("told").run()
    app.selectbox(key="pg_other").set_value("short").run()
    assert "run 'short' had not learned task 'city' by then: tell one of sea" in texts(app)


def test_playground_names_a_text_that_is_too_long_and_keeps_the_page(runs, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(runs / "of mine"))
    write_run(runs / "of mine", "a")
    app = open_page("playground")
    app.text_area(key="pg_text").set_value("word " * 1000).run()
    assert "has 5,000 characters, at most 4,000" in app.error[0].value.replace("\\", "") and app.sidebar.caption
    app.text_area(key="pg_text").set_value("a text of mine").run()
    assert f"lab run l2r --runs '{(runs / 'of mine').resolve()}'" in texts(app)


def test_playground_code_has_both_texts_of_a_pair(runs):
    from support import toy

    pairs = [
        dataclasses.replace(one, **{split: [e._replace(pair="and this") for e in one.split(split)] for split in SPLITS})
        for one in toy.tasks()
    ]
    toy.recorded(toy.session("l2r", of=pairs), runs, "routed")
    app = typed("red wave | blue reef")
    said = next(code.value for code in app.code if "answers = {" in code.value)
    assert ".answer('red wave', pair='blue reef')" in said


def test_playground_says_why_a_model_cannot_be_asked(model, played, tmp_path, monkeypatch):
    shutil.copytree(played / "routed", tmp_path / "broken" / "routed")
    (tmp_path / "broken" / "routed" / "experts" / "sea" / "adapter_model.safetensors").unlink()
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "broken"))
    app = typed()
    assert "adapter_model.safetensors is missing" in app.error[0].value.replace("\\", "")
    app.selectbox(key="pg_example").set_value("sea 1").run()
    assert not app.error and chart(app, "pg_layers_0") is not None  # recorded answers need no model


# -- train -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """Configurations that were started, instead of processes."""
    found = []

    def start(config, runs=None, together=False, id=None):
        found.append(config)
        return SimpleNamespace(id="new-run")

    monkeypatch.setattr(jobs, "start", start)
    return found


def test_train_shows_the_equivalent_command_of_a_change(runs):
    app = open_page("train", recipe="sequential")
    app.number_input(key="train/sequential/train.lr").set_value(0.01).run()
    app.multiselect(key="train/sequential/stream.tasks").set_value(["weather", "animals"]).run()
    command, recipe, python = (code.value for code in app.code)
    assert command == "lab run sequential -o 'stream.tasks=[weather, animals]' -o train.lr=0.01"
    assert recipe.startswith("base: sequential") and "lr: 0.01" in recipe and "overrides=" in python
    assert not app.button(key="train_start").disabled


def form_says(app: AppTest) -> dict[str, object]:
    """What the widgets of the form show, by the path of their option."""
    recipe, found = app.selectbox(key="recipe").value, {}
    for kind in ("selectbox", "number_input", "toggle", "text_input", "multiselect"):
        for one in getattr(app, kind):
            if (one.key or "").startswith(f"train/{recipe}/"):
                found[one.key.removeprefix(f"train/{recipe}/").partition("#")[0]] = one.value
    return found


def assert_the_form_says_what_will_run(app: AppTest) -> dict[str, object]:
    """Every option of the form against the configuration that its command makes, and that against the form."""
    made, shown = draft.flat(of_command(app)), form_says(app)
    for path, value in shown.items():
        if path != "methods" and path in made:
            expected = ", ".join(map(str, made[path])) if isinstance(made[path], list) and isinstance(value, str) else made[path]
            same = str(value) == str(expected) or value == expected or not (value or expected)
            assert same, (path, value, expected)
    assert len(shown) > 30 and {"train.lr", "backbone.name", "experts.skip", "router.name"} <= set(shown)
    return shown


def test_train_shows_what_fits_the_chosen_stream(runs):
    """A stream brings settings; the form shows them, and the recipe's own value is then a change like any other."""
    app = open_page("train", recipe="l2r", o="stream.name=strings")
    shown = assert_the_form_says_what_will_run(app)
    assert (shown["backbone.name"], shown["train.lr"], shown["experts.skip"]) == ("strings", 0.01, 0.0)
    assert app.code[0].value == "lab run l2r -o stream.name=strings"
    app.number_input(key="train/l2r/train.lr#1").set_value(0.002).run()
    app.selectbox(key="train/l2r/backbone.name#1").set_value("minilm").run()
    assert app.code[0].value == "lab run l2r -o stream.name=strings -o backbone.name=minilm -o train.lr=0.002"
    assert_the_form_says_what_will_run(app)
    app.selectbox(key="train/l2r/experts.name#1").set_value("ia3").run()
    assert_the_form_says_what_will_run(app)


def test_train_follows_a_change_of_the_stream(runs):
    """Settings that fit the stream come and go with it; what was changed by hand stays."""
    app = open_page("train", recipe="l2r")
    assert assert_the_form_says_what_will_run(app)["backbone.name"] == "minilm"
    app.number_input(key="train/l2r/seed").set_value(3).run()
    app.selectbox(key="train/l2r/stream.name").set_value("strings").run()
    assert assert_the_form_says_what_will_run(app)["backbone.name"] == "strings"
    assert app.code[0].value == "lab run l2r -o seed=3 -o stream.name=strings"
    app.selectbox(key="train/l2r/stream.name#1").set_value("builtin").run()
    assert assert_the_form_says_what_will_run(app)["train.lr"] == 0.002 and app.code[0].value == "lab run l2r -o seed=3"


def test_train_says_what_is_wrong_at_once(runs, started):
    app = open_page("train", recipe="l2r")
    app.number_input(key="train/l2r/memory.per_task").set_value(0).run()
    assert "needs stored examples" in texts(app) and app.button(key="train_start").disabled


def test_train_offers_the_options_of_the_chosen_plugins(runs):
    app = open_page("train", recipe="l2r")
    app.selectbox(key="train/l2r/router.name").set_value("uniform").run()
    assert "router.name=uniform" in app.code[0].value
    with pytest.raises(KeyError):
        app.number_input(key="train/l2r/router.temperature")
    app.multiselect(key="train/l2r/methods").set_value(["replay"]).run()
    app.number_input(key="train/l2r/methods.replay.per_step").set_value(4).run()
    assert "-o 'methods.replay={}'" in app.code[0].value and "methods.replay.per_step=4" in app.code[0].value


def test_train_starts_once(runs, started):
    app = open_page("train", recipe="sequential")
    app.number_input(key="train/sequential/seed").set_value(3).run()
    app.button(key="train_start").click().run()
    assert [config["seed"] for config in started] == [3]
    app.switch_page("train.py").run()
    app.button(key="train_start").click().run()
    assert len(started) == 1


def test_train_is_refused_in_a_read_only_lab(runs, started, monkeypatch):
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    app = open_page("train")
    assert "read-only" in texts(app)
    assert [button.label for button in app.button] == ["Use these settings"] * 3
    with pytest.raises(LabError, match="read-only"):
        forecast.ask({})


def test_pages_that_read_load_no_torch(runs):
    write_run(runs, "a")
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file({str(MAIN)!r}, default_timeout=60).run()
for page in ("jobs", "compare", "routing", "playground", "library", "about"):
    app.switch_page(page + ".py").run()
    assert not app.exception and app.title
assert "torch" not in sys.modules, "torch"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=MAIN.parents[2])
    assert done.returncode == 0, done.stderr[-600:]


def test_train_refuses_settings_that_do_not_fit_the_tasks(runs, monkeypatch):
    odd = [dataclasses.replace(task(name), labels=("no", name)) for name in TASKS]
    monkeypatch.setattr(loading, "tasks_of", lambda stream, seed: odd)
    app = open_page("train", recipe="sequential", o=["scenario=domain", "seed=77"])
    assert "scenario domain needs tasks with identical label lists" in texts(app) and "fit together" not in texts(app)
    assert app.button(key="train_start").disabled and app.button(key="train_queue").disabled


def test_train_tells_what_is_to_be_expected(runs, monkeypatch):
    app = open_page("train", recipe="sequential")
    work = 4 * 3 + (3 * 2 * 6) * 3 + (4 + 8 + 12) + 2 * 3  # untrained, training, rows, validation
    seconds = work / forecast.DEFAULT["minilm"][0]
    assert app.metric[0].value == f"{seconds:.0f} s" and app.metric[2].value == "–"
    assert "no run with minilm was measured here yet" in texts(app)
    report = {"trainable_parameters": 4321, "layers": 2, "limit": 5, "device": "cpu", "dtype": "float32"}
    tokens = ["[CLS]", "a`b", "<b>", "##c", "[SEP]"]
    row = {"train": 6, "validation": 2, "test": 4, "classes": 2, "labels": ["no", "yes"], "longest": 5, "at_limit": 0.5}
    tasks = [row | {"name": name, "examples": [{"label": "yes", "tokens": tokens}]} for name in TASKS]
    monkeypatch.setattr(forecast, "ask", lambda config: report | {"tasks": tasks})
    app.button(key="train_look").click().run()
    assert app.metric[2].value == "4,321" and "`<b>`" in texts(app) and "cut at 5 tokens" in texts(app)
    assert "50% of the texts reach the limit of 5 tokens" in texts(app) and "3.0 training examples per label" in texts(app)
    app.number_input(key="train/sequential/seed").set_value(1).run()  # another run: the report is not its
    assert app.metric[2].value == "–"


def test_train_says_when_data_or_model_cannot_be_loaded(runs, monkeypatch):
    def fail(config):
        raise LabError("the hub <b>cannot</b> be reached")

    monkeypatch.setattr(forecast, "ask", fail)
    app = open_page("train", o="stream.name=mtl5")
    assert app.metric[0].value == "–"
    app.button(key="train_look").click().run()
    assert "the hub <b>cannot</b> be reached" in texts(app) and not app.exception


def test_train_opens_a_link_and_a_preset(runs):
    link = ["train.lr=0.01", "methods.replay={}", "memory.per_task=7", "router.temperature=soon", "backbone.name=/etc", "x=1"]
    app = open_page("train", recipe="replay", o=link)
    command = app.code[0].value
    assert "train.lr=0.01" in command and "memory.per_task=7" in command  # what does not fit is left out
    assert "/etc" not in command and "soon" not in command and not app.button(key="train_start").disabled
    assert [text.split(":")[1].split("=")[0] for text in not_taken(app)] == [" router.temperature", " backbone.name", " x"]
    app.button(key="preset_First look").click().run()
    assert app.selectbox(key="recipe").value == "l2r" and "stream.max_train=60" in app.code[0].value
    assert app.query_params["o"] == [word for word in app.code[0].value.split() if "=" in word]


def not_taken(app: AppTest) -> list[str]:
    """What Train says about the parts of a link that it could not use."""
    return [one.value.replace("\\", "") for one in app.warning if one.value.startswith("Not taken over")]


def of_command(app: AppTest) -> dict[str, object]:
    """The configuration that the command beside the form makes."""
    recipe, *changes = (word for word in shlex.split(app.code[0].value)[2:] if word != "-o")
    return configure(recipe, changes).to_dict()


def in_a_form(content: dict[str, object]) -> dict[str, object]:
    """A configuration without what no form says."""
    return {name: value for name, value in content.items() if name not in ("recipe", "about", "scenarios")}


@pytest.mark.parametrize(
    "preset",
    [
        *PRESETS,
        {"recipe": "l2r", "o": ["stream.name=strings"]},
        {"recipe": "l2p", "o": ["stream.name=strings", "experts.name=ia3", "router.name=uniform"]},
        {"recipe": "custom", "o": ["stream.name=strings", "seed=2"]},
    ],
)
def test_the_recipe_file_beside_the_form_is_the_same_run_as_the_command(runs, tmp_path, preset):
    """For every preset, and where settings come with a stream: the file passes `lab validate` and says what the command says."""
    app = open_page("train", **(preset if isinstance(preset, dict) else {}))
    if isinstance(preset, str):
        assert [button.key for button in app.button if button.key.startswith("preset_")] == [f"preset_{name}" for name in PRESETS]
        app.button(key=f"preset_{preset}").click().run()
    (file := tmp_path / "mine.yaml").write_text(app.code[1].value)
    checked = CliRunner().invoke(main.app, ["validate", str(file)])
    assert checked.exit_code == 0, checked.output
    made, told = configure(str(file)).to_dict(), of_command(app)
    assert in_a_form(made) == in_a_form(told) and made["scenarios"] == told["scenarios"]
    call = ast.parse(app.code[2].value).body[1].value
    given = [ast.literal_eval(one) for one in (*call.args, *(named.value for named in call.keywords))]
    assert configure(*given).to_dict() == told


@pytest.mark.parametrize("settings", [("l2r", "train.epochs=5", "methods.ewc={}", "experts.isolated=false"), ("mhr", "seed=2")])
def test_a_run_of_a_recipe_file_is_duplicated_over_no_recipe(runs, settings):
    """Also one of the second protocol: the link of the button fills the form with all that differs from the defaults."""
    wanted = configure(*settings[:1], settings[1:]).to_dict() | {"recipe": "mine"}
    made = (write_transfer if "protocol" in wanted else write_run)(runs, "a")
    atomic_io.write_yaml(made.dir / "config.yaml", wanted)
    link = next(one.proto for one in open_page("jobs", job="a").get("page_link") if one.proto.label == "Duplicate")
    assert "recipe=custom" in link.query_string and "from=a" in link.query_string
    app = open_page("train", **{"recipe": "custom", "from": "a"})
    assert in_a_form(of_command(app)) == in_a_form(wanted)
    assert not not_taken(app) and app.code[0].value.startswith("lab run custom -o ")
    again = open_page("train", recipe="custom", o=list(app.query_params["o"]))
    assert again.code[0].value == app.code[0].value


def test_train_sets_the_size_of_a_pool(runs):
    """A choice that may be a number too; a bad one is named by the check."""

    def choose(what: str) -> None:
        box = app.selectbox(key="train/l2p/experts.allocation#1")
        box.options.append(what)  # as if it was typed
        box.set_value(what).run()

    app = open_page("train", recipe="l2p", o="experts.allocation=12")
    assert "-o experts.allocation=12" in app.code[0].value and not not_taken(app)
    choose("20")
    assert app.code[0].value == "lab run l2p -o experts.allocation=20" and of_command(app)["experts"]["allocation"] == 20
    choose("many")
    assert "experts.allocation" in app.error[0].value.replace("\\", "") and app.button(key="train_start").disabled
    choose("10")
    assert app.code[0].value == "lab run l2p"


def test_train_says_that_a_list_cannot_be_read(runs):
    app = open_page("train", recipe="mhr")
    for text in ("8, [32", "[8"):
        app.text_input(key="train/mhr/protocol.shots").set_value(text).run()
        assert "protocol.shots" in app.error[0].value.replace("\\", "") and app.button(key="train_start").disabled
        assert not app.exception and app.sidebar.caption
    app.text_input(key="train/mhr/protocol.shots").set_value("8, 32").run()
    assert of_command(app)["protocol"]["shots"] == [8, 32] and not app.error


def test_train_refuses_a_recipe_file_with_a_key_that_is_no_text(runs):
    app = open_page("train", recipe="l2r")
    app.file_uploader(key="train_file").set_value(("mine.yaml", b"base: sequential\ntrain:\n  on: 1", "text/yaml")).run()
    assert "a key in train reads as True: put it in quotation marks" in texts(app)
    assert app.selectbox(key="recipe").value == "l2r" and not app.exception


def test_train_takes_no_path_of_a_file(runs):
    """Neither as a field nor from a link."""
    app = open_page("train", recipe="sapt", o="methods.reflection.pseudo=/etc/passwd")
    assert len(not_taken(app)) == 1 and "methods.reflection.pseudo" in not_taken(app)[0]
    assert not any("pseudo" in (box.key or "") for box in app.text_input) and "pseudo" not in app.code[0].value


STRANGE = {  # what a link may say, and how the remark about it begins
    "nonsense": "'nonsense' is not an option: write key=value",
    "train.lr=[": "the value of 'train.lr' cannot be read",
    "methods.replya={}": "unknown method 'replya': did you mean 'replay'?",
    "router.name=gatse": "router.name=gatse: this form has no such option",
    "experts.name=[1]": "experts.name=[1]: ",
    "stream.name=5": "stream.name=5: ",
    "stream.tasks=[weather, boats]": "stream.tasks=[weather, boats]: ",
    "stream.max_train=1": "stream.max_train=1: ",
    "memory.per_class=-1": "memory.per_class=-1: ",
    "memory.total=" + 20 * "9": "memory.total=" + 20 * "9" + ": ",
    "train.clip=.nan": "train.clip=nan: ",
    "decoding=7": "decoding=7: ",
}


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ({"o": [*STRANGE, "seed=3"]}, list(STRANGE.values())),
        ({"o": ["methods=7", "stream.name=nowhere", "seed=3"]}, ["unknown method '7'", "stream.name=nowhere: "]),
        ({"from": "nobody"}, ["unknown run 'nobody': there are: none"]),
        ({"recipe": "l2x", "o": ["seed=3"]}, ["unknown recipe 'l2x'"]),
    ],
)
def test_train_names_what_it_does_not_understand_in_a_link(runs, link, said):
    """The rest of the link counts, the form is there, and the remarks go with the first change."""
    app = open_page("train", **({"recipe": "l2r"} | link))
    assert not app.error and len(not_taken(app)) == len(said), not_taken(app)
    assert all(text.startswith(f"Not taken over: {one}") for text, one in zip(not_taken(app), said, strict=True)), not_taken(app)
    assert app.code[0].value == ("lab run l2r" if "from" in link else "lab run l2r -o seed=3")
    app.number_input(key="train/l2r/seed#1").set_value(4).run()
    assert app.code[0].value == "lab run l2r -o seed=4" and not not_taken(app)


def test_train_begins_with_the_settings_of_a_run(runs):
    write_run(runs, "a", seed=4).dir.joinpath("config.yaml").write_text(
        "recipe: sequential\nseed: 4\ntrain: {epochs: 5, lr: 0.002}\nstream: {name: builtin, tasks: [weather, animals]}\n"
    )
    app = open_page("train", **{"recipe": "sequential", "from": "a"})
    command = app.code[0].value
    assert "seed=4" in command and "train.epochs=5" in command and "tasks=[weather, animals]" in command and "lr" not in command
    assert "from" not in app.query_params


def test_train_puts_a_run_into_the_queue_while_another_trains(runs, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    monkeypatch.setattr(jobs, "_detached", lambda words, log: 0)
    write_run(runs, "live", matrix=KEEPS[:1], status="running")
    app = open_page("train", recipe="sequential")
    assert app.button(key="train_start").disabled and "live is running" in texts(app)
    app.button(key="train_queue").click().run()
    queued = jobs.waiting(runs)
    assert [run.config["recipe"] for run in queued] == ["sequential"] and not app.exception


# -- library and about -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(runs):
    """A run with two LoRA experts."""
    run = write_run(runs, "a", texts=["A <b>tagged</b> text"])
    for seed, name in enumerate(TASKS[:2]):
        save(run.dir / "experts" / name, seed=seed)
    return run


def test_library_shows_experts_and_how_alike_they_are(shelf):
    app = open_page("library")
    table = app.dataframe[0].value.set_index("expert")
    assert table.loc["animals", "learned"] == 0.9 and table.loc["animals", "now"] == 0.86
    found = library.experts([shelf])
    assert table.loc["weather", "norm"] == library.describe(found[1])["norm"]
    np.testing.assert_allclose(heatmap(app, 0), library.similarity(found), rtol=1e-5)
    app.segmented_control(key="lib_side").set_value("input").run()
    np.testing.assert_allclose(heatmap(app, 0), library.similarity(found, "input"), rtol=1e-5)
    assert any("0.900 when it was learned" in code.value for code in app.code)
    app.multiselect(key="lib_pick").set_value(["a/animals"]).run()
    assert "at least two" in texts(app) and not app.exception


def test_library_puts_experts_together_and_keeps_the_result(shelf, runs):
    app, found = open_page("library"), library.experts([shelf])
    app.segmented_control(key="lib_do").set_value("add").run()
    one, two = (expert.layers() for expert in found)
    for weight in (1.0, -2.0):
        app.number_input(key="lib_weight_2").set_value(weight).run()
        for place, name in enumerate(one):
            x, y = (layers[name]["lora_B"] @ layers[name]["lora_A"] for layers in (one, two))
            sum_ = x + weight * y
            cosines = [np.sum(sum_ * other) / np.linalg.norm(sum_) / np.linalg.norm(other) for other in (x, y)]
            np.testing.assert_allclose(chart(app, "lib_alignment")[place], cosines, rtol=1e-4)
    assert app.metric[0].value == "6" and any("how='cat')" in code.value for code in app.code)
    assert any(
        f"lab compose add a/animals a/weather --weights 1,-2 --how cat --out FOLDER --runs {runs}" in code.value
        for code in app.code
    )
    app.segmented_control(key="lib_do").set_value("negate").run()
    assert "negate takes 1: what undoes the expert. Now there are 2" in texts(app) and chart(app, "lib_alignment") is None
    shutil.copytree(found[0].folder, found[0].folder.with_name("two words"))
    app.run()
    app.multiselect(key="lib_parts").set_value(["a/two words"]).run()
    assert any(f"lab compose negate 'a/two words' --out FOLDER --runs {runs}" in code.value for code in app.code)
    app.multiselect(key="lib_parts").set_value(["a/weather"]).run()
    np.testing.assert_allclose(chart(app, "lib_alignment"), -1, rtol=1e-6)
    app.text_input(key="lib_name").set_value("anti")
    next(button for button in app.button if button.label == "Keep in the library").click().run()
    assert not app.error and "anti" in list(app.dataframe[0].value["expert"])
    (kept,) = library.experts([])
    for name, layer in kept.layers().items():
        np.testing.assert_allclose(layer["lora_B"] @ layer["lora_A"], -two[name]["lora_B"] @ two[name]["lora_A"], rtol=1e-5)
    assert "Made by `lab compose negate a/weather` of:" in library.card(kept)


def test_library_tries_a_composed_expert_beside_its_parts(model, played, monkeypatch):
    """On a click: accuracies are those of the model; nothing is computed before, after another choice, or in read-only mode."""
    from support import toy

    from lab.adapters import arithmetic

    monkeypatch.setattr(loading, "load_tasks", lambda name, parts, tasks, *rest, **limits: toy.tasks(*tasks))
    parts = ["routed/sea", "routed/city"]
    app = open_page("library", lib_do="add", lib_parts=parts)
    assert app.multiselect(key="lib_try").value == ["sea", "city"] and "lib_effect" not in str(app)
    app.button(key="lib_measure").click().run()
    assert not app.exception, app.exception[0].message
    table = app.dataframe[1].value
    adapters = [arithmetic.read(played / "routed" / "experts" / name, f"routed/{name}") for name in ("sea", "city")]
    for name, adapter in {
        "composed": arithmetic.add(adapters, [1.0, 1.0], "cat"),
        **dict(zip(parts, adapters, strict=True)),
    }.items():
        right = [model.accuracy(adapter, t, task.test) for t, task in enumerate(toy.tasks("sea", "city"))]
        assert table[name].tolist() == pytest.approx(right)
    app.number_input(key="lib_weight_2").set_value(3.0).run()
    assert len(app.dataframe) == 2
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    assert "nothing is computed here" in texts(open_page("library", lib_do="add", lib_parts=parts))


def test_library_deletes_a_run_after_asking_and_no_other(shelf, runs, monkeypatch):
    """The button opens the question, one answer keeps the run, the other removes it with its experts; not while it trains."""
    other = write_run(runs, "b")
    app = open_page("library", lib_run="a")
    app.button(key="lib_delete").click().run()
    assert shelf.dir.exists() and "**a** and all its files" in texts(app)
    app.button(key="delete_no").click().run()
    assert shelf.dir.exists()
    app.button(key="lib_delete").click().run()
    app.button(key="delete_yes").click().run()
    assert not shelf.dir.exists() and other.status == "finished" and not app.exception
    assert "There are no experts" in texts(app) and list(app.dataframe[0].value["run"]) == ["b"]
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    write_run(runs, "live", status="running")
    assert open_page("library", lib_run="live").button(key="lib_delete").disabled
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    assert open_page("library", lib_run="b").button(key="lib_delete").disabled


def test_library_writes_about_the_other_runs_beside_a_damaged_one(shelf, runs):
    (write_run(runs, "noted").dir / "notes.json").write_text("{")
    (write_run(runs, "scored").dir / "matrix.json").write_text("{")
    app = open_page("library")
    assert app.selectbox(key="lib_run").options == ["a"] and not app.error


def test_library_keeps_notes_and_hides_archived_runs_elsewhere(shelf, runs):
    write_run(runs, "b")
    app = open_page("library", lib_run="a")
    app.toggle[0].set_value(True), app.toggle[1].set_value(True)
    app.text_area[0].set_value("keep <i>this</i>")
    next(button for button in app.button if button.label == "Save").click().run()
    assert shelf.notes == {"text": "keep <i>this</i>", "tags": [], "starred": True, "archived": True}
    assert open_page("library", lib_run="a").text_area[0].value == "keep <i>this</i>"
    assert open_page("compare").multiselect(key="runs").options == ["b"]


def test_library_is_read_only_on_the_server_too(shelf, monkeypatch):
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    app = open_page("library")
    assert "brought in" not in [button.label for button in app.button] and "not brought in" in texts(app)
    assert all(button.disabled for button in app.button) and app.text_area[0].disabled


def test_about_fills_the_formulas_with_the_numbers_of_the_run(runs, monkeypatch):
    run = write_run(runs, "a", "sequential", FORGETS, routed=False)
    app = open_page("about", about_run="a")
    shown = "\n".join(element.value for element in app.latex)
    assert rf"{run.result()['forgetting']:.3f}" in shown and "(0.910 - 0.320)" in shown
    assert "needs single-task scores" in texts(app) and not app.error
    checks = [system.Check("Disk has room", False, "0.1 GB free"), system.Check("Runs can be written", True, "here")]
    monkeypatch.setattr(system, "self_check", lambda folder: checks)
    app.button(key="about_check").click().run()
    assert "0.1 GB free" in texts(app) and "cannot work here" in app.error[0].value


def test_self_check_tries_what_training_needs(runs, monkeypatch):
    found = {check.name: check for check in system.self_check(runs)}
    assert all(check.good for check in found.values()) and "torch" in found["A process can train"].seen
    assert list(runs.iterdir()) == []
    (runs / "file").touch()
    monkeypatch.setattr(system, "PROBE", "raise SystemExit('no torch here')")
    found = {check.name: check for check in system.self_check(runs / "file")}
    assert not found["Runs can be written"].good and found["A process can train"].seen == "no torch here"


def test_the_map_of_recipes_is_that_of_the_command_line(runs, monkeypatch):
    app = open_page("about", about_map="true")
    table = app.dataframe[0].value
    assert table.to_dict("records") == main.listing("recipes", None) and "l2r" in set(table["name"])
    assert "axes of modular systems" in app.dataframe[0].proto.alt
    monkeypatch.setattr(system, "recipes", lambda: (_ for _ in ()).throw(LabError("no <b>torch</b>")))
    streamlit.cache_data.clear()
    app = open_page("about", about_map="true")
    assert "no <b>torch</b>" in texts(app) and not app.dataframe


# -- lessons ---------------------------------------------------------------------------------------------------------------

LESSON = """
title: What <b>is</b> kept?
about: A lesson
hide: [code]
cards:
  - {title: First, text: "Some <script>text</script>", show: [{figure: forgetting_curves, runs: [builtin-l2r], read: Look.}]}
  - title: Second
    text: Guess
    predict:
      ask: "How much?"
      points: [{label: at the end, run: builtin-sequential, what: score, after: 3, task: 1}]
      tell: So much.
    show: [{figure: accuracy_matrix, runs: [builtin-sequential]}]
    question: {ask: "Which?", options: [this, that], right: 2, why: Because.}
preset: {recipe: sequential, set: [train.epochs=1]}
"""


@pytest.fixture
def lessons(recorded, tmp_path, monkeypatch):
    """A lesson of the test's own, and a broken one, beside the shipped ones."""
    folder = tmp_path / "lessons"
    folder.mkdir()
    (folder / "mine.yaml").write_text(LESSON)
    (folder / "broken.yaml").write_text("title: [\n")
    monkeypatch.setenv("LAB_LESSONS", str(folder))


def test_lessons_are_listed_and_a_broken_one_is_named(lessons):
    shown = texts(open_page("learn"))
    assert "What <b>is</b> kept?" in shown and "Why does a model forget?" in shown and "lesson broken, line 2" in shown


def test_a_lesson_uncovers_the_answer_only_after_a_prediction(lessons):
    app = open_page("learn", lesson="mine", card="2")
    assert app.button(key="learn/mine/2/predict/reveal").disabled and not app.get("plotly_chart") and not app.radio
    app.slider(key="learn/mine/2/predict/0").set_value(0.8).run()
    app.button(key="learn/mine/2/predict/reveal").click().run()
    bars_drawn = json.loads(app.get("plotly_chart")[0].proto.spec)["data"]
    assert [bar["text"] for bar in bars_drawn] == [["0.80"], ["0.32"]]
    assert "0.48 off on average" in texts(app) and app.slider(key="learn/mine/2/predict/0").disabled
    np.testing.assert_allclose(heatmap(app, 1)[1:], np.array(FORGETS, dtype=float), rtol=1e-6)
    app.radio[0].set_value("this").run()
    assert "Not quite: that. Because." in texts(app)
    app.radio[0].set_value("that").run()
    assert "Yes. Because." in texts(app)


def test_a_lesson_keeps_its_place_and_hides_what_it_says(lessons):
    app = open_page("learn", lesson="mine")
    assert "<script>text</script>" in texts(app) and not app.get("popover") and app.button(key="learn_back").disabled
    assert [slider.label for slider in app.slider] == ["After task"]
    there = open_page("learn", lesson="mine", learn_mine_1_show0_after="1")
    assert there.slider[0].value == 1 and element(there, "learn_mine_1_show0").proto.alt.endswith("after task 1")
    app.button(key="learn_next").click().run()
    assert "Second" in texts(app) and app.query_params["card"] in ("2", ["2"])
    assert not open_page("learn", lesson="mine", hide="after").slider
    assert "nearest" in texts(open_page("learn", lesson="mein")) or "mine" in texts(open_page("learn", lesson="mein"))


def test_a_lesson_without_its_run_says_so(runs):
    assert "'example-sequential' of this lesson is not installed" in texts(open_page("learn", lesson="forgetting"))
