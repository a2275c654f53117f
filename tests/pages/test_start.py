"""Start: the recorded story and its numbers."""

import shutil
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa
import pytest
from support.pages import heatmap, open_page, texts
from support.run_folders import FORGETS, KEEPS, write_run

from lab.pages import recorded_examples, story


def curve(app, number):
    """The scores that a curve of Start shows: one row per task and moment."""
    chart = app.get("vega_lite_chart")[number]
    return {(row["name"], row["moment"]): row["score"] for row in rows_of(chart)}


def rows_of(chart) -> list[dict]:
    frames = [chart.proto.data.data, *(dataset.data.data for dataset in chart.proto.datasets)]
    return [row for frame in frames if frame for row in pa.ipc.open_stream(frame).read_pandas().to_dict("records")]


def numbers(app) -> list[str]:
    """Forgetting and average accuracy of the sequential run, then of the routed one."""
    return [header.value for header in app.header][:4]


def test_start_is_stepped_through_from_the_first_task(recorded):
    app = open_page("start")
    assert numbers(app) == ["–", "0.91", "–", "0.90"] and "nothing to forget yet" in texts(app)
    assert curve(app, 0) == {("animals", 1): FORGETS[0][0]} and app.button(key="story_reset").disabled
    app.button(key="story_step").click().run()
    assert {moment for _, moment in curve(app, 0)} == {1, 2} and "weather" in texts(app)
    app.button(key="story_step").click().run()
    result = write_run(recorded, "other").result()  # the same numbers as the routed one
    assert numbers(app)[2:] == [f"{result[name]:.2f}" for name in ("forgetting", "average_accuracy")]
    assert "lost 0.46 per old task" in texts(app) and "0.28 higher" in texts(app)
    for number, scores in enumerate((FORGETS, KEEPS)):
        assert sorted(curve(app, number).values()) == sorted(value for row in scores for value in row if value is not None)
    assert app.button(key="story_step").disabled
    app.toggle(key="matrices").set_value(True).run()
    np.testing.assert_allclose(heatmap(app, 0)[1:], np.array(FORGETS, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(heatmap(app, 1)[1:], np.array(KEEPS, dtype=float), rtol=1e-6)
    app.button(key="story_reset").click().run()
    assert numbers(app)[0] == "–" and app.button(key="story_reset").disabled
    linked = open_page("start", after="3")
    assert linked.session_state["after"] == 3 and linked.button(key="story_step").disabled
    assert not linked.button(key="story_reset").disabled


def test_start_plays_until_the_last_task_and_then_stops(recorded, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(story.time, "monotonic", lambda: now[0])
    app = open_page("start")
    app.button(key="story_play").click().run()
    seen = [app.session_state["after"]]
    for _ in range(4):
        now[0] += story.PERIOD
        app.run()
        seen.append(app.session_state["after"])
        if len(seen) == 3:  # a redraw that was asked for before the browser had the newest moment
            assert app.slider(key="after").set_value(2).run().session_state["after"] == 3
    assert seen == [1, 2, 3, 3, 3] and app.button(key="story_play").label == "Play"
    app.button(key="story_play").click().run()
    assert app.session_state["after"] == 1 and app.button(key="story_play").label == "Pause"


def test_start_trains_a_run_of_ones_own_where_that_is_allowed(recorded, monkeypatch):
    begun = []

    def start(settings):
        begun.append(settings)
        return write_run(recorded.parent / "runs", "mine", "sequential", FORGETS, routed=False)

    monkeypatch.setattr("lab.jobs.jobs.start", start)
    app = open_page("start")
    app.button(key="start_run").click().run()
    assert begun[0]["recipe"] == "sequential" and begun[0]["stream"]["max_train"] == 40
    assert "It has lost **0.46** per old task." in texts(app) and app.button(key="start_run").label == "Train them again"
    shutil.rmtree(recorded.parent / "runs" / "mine")
    assert app.run().button(key="start_run").label == "Train six tasks"
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    shown = open_page("start")
    assert not [button for button in shown.button if button.key == "start_run"] and "read-only" in texts(shown)


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "matrix.json"])
def test_start_names_a_damaged_example(recorded, name, monkeypatch):
    folder = recorded / "builtin-l2r"
    (folder / name).write_text("[")
    shown = texts(open_page("start"))
    assert f"run 'builtin-l2r' is damaged: {name}" in shown and f"Restore its files; its folder is {folder}." in shown
    monkeypatch.setattr(recorded_examples, "EXAMPLES", recorded)
    assert "Install the lab again to restore it" in texts(open_page("start"))
    shutil.rmtree(folder)
    shown = texts(open_page("start"))
    assert "cannot be shown: " not in shown and "no pair of recorded examples" in shown


def test_start_leads_to_an_open_replay(runs, recorded):
    write_run(runs, "a")
    door = next(one.proto for one in open_page("start").get("page_link") if "Watch a replay" in one.proto.label)
    link = dict(parse_qsl(door.query_string))

    def opened(app):
        return next(one.proto.expanded for one in app.expander if one.label == "Watch a replay")

    app = open_page(door.page, **link)
    assert opened(app) and not opened(open_page("jobs"))
    assert app.selectbox(key="replay_of").value == "builtin-sequential" and not app.button(key="replay_play").disabled
