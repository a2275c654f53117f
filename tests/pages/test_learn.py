"""Lessons: predictions before answers, places in links, runs that are missing."""

import json

import numpy as np
import pytest
from support.pages import element, heatmap, open_page, texts
from support.run_folders import FORGETS

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
