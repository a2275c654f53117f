"""Start: the recorded story and its numbers."""

import shutil
from urllib.parse import parse_qsl

import numpy as np
import pytest
from support.pages import heatmap, open_page, texts
from support.run_folders import FORGETS, KEEPS, write_run

from lab.pages import recorded_examples


def test_start_tells_the_recorded_story(recorded):
    app = open_page("start")
    routed = write_run(recorded, "other").result()  # the same numbers as the recorded one
    known = [f"{routed[name]:.3f}" for name in ("average_accuracy", "forgetting")]
    assert [number.value for number in app.header] == [*known, "0.710"]
    shown = texts(app)
    assert "recorded example" in shown and ":green[+0.277] compared with sequential" in shown and ":green[-0.430]" in shown
    assert "lost 0.46 per old task" in texts(app) and "0.28 higher" in texts(app)
    np.testing.assert_allclose(heatmap(app, 0)[1:], np.array(FORGETS, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(heatmap(app, 2)[1:], np.array(KEEPS, dtype=float), rtol=1e-6)


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


def test_start_slider_moves_every_chart(recorded):
    app = open_page("start")
    app.slider(key="after").set_value(2).run()
    assert app.header[0].value == "0.900" and np.isnan(heatmap(app, 0)[3]).all() and "weather" in texts(app)
    assert open_page("start", after="1").header[1].value == "–"


def test_start_leads_to_an_open_replay(runs, recorded):
    write_run(runs, "a")
    door = next(one.proto for one in open_page("start").get("page_link") if "Watch a replay" in one.proto.label)
    link = dict(parse_qsl(door.query_string))

    def opened(app):
        return next(one.proto.expanded for one in app.expander if one.label == "Watch a replay")

    app = open_page(door.page, **link)
    assert opened(app) and not opened(open_page("jobs"))
    assert app.selectbox(key="replay_of").value == "builtin-sequential" and not app.button(key="replay_play").disabled
