"""Playground: answers are those of the model, recorded or computed, with changed routing beside them."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from support import architectures, generation, toy
from support.pages import chart, element, open_page, texts
from support.run_folders import write_run

import lab
from lab import figures, views
from lab.data.stream import SPLITS
from lab.pages import code_snippets
from lab.run_folder.prediction import kept


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
    code = f"lab.load({code_snippets.open_expression(lab.Run.open('routed'))}, 1).answer('red wave harbour')"
    assert any(code in one.value for one in app.code)


def test_playground_says_why_a_text_went_to_its_expert(model):
    """By the recorded texts with the nearest queries; that of a recorded text is the one of the record."""
    recorded = kept(lab.Run.open("routed"), 1, 0)[0]
    answer, other = model.answer("red wave harbour"), model.answer(recorded.text)
    np.testing.assert_allclose(other.query, recorded.query, atol=2e-2)
    near = views.nearest_examples(lab.Run.open("routed"), 1, answer.query, 6)
    app = typed(pg_more="why this expert")
    assert app.dataframe[0].value["text"].tolist() == near["text"].tolist()
    same = int((near["expert"] == answer.by_expert().idxmax()).sum())
    assert f"{same} of the 6 recorded texts that look most like it to the router went mostly to the same expert" in texts(app)


@pytest.mark.parametrize(
    ("parameters", "change"),
    [
        ({"pg_route": "one expert", "pg_expert": "city"}, {"expert": 1}),
        ({"pg_route": "equal weights"}, {"uniform": True}),
        ({"pg_temperature": "0.2", "pg_top": "1"}, {"temperature": 0.2, "top": 1}),
        ({"pg_off": "2"}, {"without": (1,)}),
        ({"pg_pruned": "sea"}, {"pruned": (0,)}),
    ],
)
def test_playground_changes_the_routing_beside_the_original(model, parameters, change):
    """A link restores the change; the answer is that of the model; reset puts the original's numbers there."""
    from lab.inference.override import Override

    app = typed(pg_beside="changed routing", **parameters)
    original, changed = model.answer("red wave harbour"), model.answer("red wave harbour", Override(**change))
    np.testing.assert_allclose(chart(app, "pg_layers_0"), original.by_layer(), atol=1e-6)
    np.testing.assert_allclose(chart(app, "pg_layers_1"), changed.by_layer(), atol=1e-6)
    np.testing.assert_allclose(chart(app, "pg_change"), changed.by_layer() - original.by_layer(), atol=1e-6)
    predicted = "the same" if original.prediction == changed.prediction else f"**{changed.prediction}**"
    assert f"With changed routing the answer is {predicted}, with probability" in texts(app)
    made = ", ".join(f"{name}={value!r}" for name, value in change.items())
    assert any(f"Override({made})" in code.value for code in app.code)
    app.button(key="pg_reset").click().run()
    assert np.array_equal(chart(app, "pg_layers_1"), chart(app, "pg_layers_0")) and not chart(app, "pg_change").any()
    first, second = probabilities(app)
    assert first == second


def test_playground_compares_moments_and_runs(model):
    from lab.inference.loading import load

    app = typed(pg_beside="another moment")
    then = load(lab.Run.open("routed"), 0).answer("red wave harbour")
    first, second = probabilities(app)
    assert sum(first) == pytest.approx(1, abs=0.02) and len(then.classes) < len(model.learner.head.space.names)
    assert sorted(value for value in second if value == value) == [round(p, 2) for p in sorted(then.probabilities)]
    predicted = "the same" if then.prediction == model.answer("red wave harbour").prediction else f"**{then.prediction}**"
    assert f"After task 1 the answer was {predicted}, with probability" in texts(app)
    app.radio(key="pg_beside").set_value("another run").run()
    app.selectbox(key="pg_other").set_value("one").run()
    assert "In run one the answer is" in texts(app) and not app.exception
    assert [one for one in app.get("plotly_chart") if one.proto.id.endswith("pg_layers_0")] and not element(app, "pg_change")


def test_playground_answers_a_recorded_example_itself_and_keeps_its_true_class(model):
    example = kept(lab.Run.open("routed"), 1, 0)[0]
    app, answer = open_page("playground", pg_run="routed"), model.answer(example.text)
    assert f"probability {answer.probabilities.max():.2f}; the true class is **{example.label}**" in texts(app)
    assert probabilities(app) == [[round(p, 2) for p in answer.ranked()]]
    assert "a layer has one colour" in texts(app) and figures.coloured_text(answer) in [
        part.proto.body for part in app.get("html")
    ]


def test_playground_compares_two_texts(model):
    app = typed(pg_beside="another text")
    app.text_area(key="pg_other_text").set_value("blue reef").run()
    answers = [model.answer(text) for text in ("red wave harbour", "blue reef")]
    for place, answer in enumerate(answers):
        np.testing.assert_allclose(chart(app, f"pg_layers_{place}"), answer.by_layer(), atol=1e-6)
    np.testing.assert_allclose(chart(app, "pg_change"), answers[1].by_layer() - answers[0].by_layer(), atol=1e-6)
    assert ".answer('blue reef')" in next(code.value for code in app.code if "answers = {" in code.value)
    app.text_area(key="pg_other_text").set_value(" ").run()
    assert "The other text: Type a text" in texts(app)


def test_playground_draws_a_pair_on_one_range(model, monkeypatch):
    """The weights of the changed answer are three times as large: both charts end at 3."""
    from lab.inference.routed_model import RoutedModel

    answered = RoutedModel.answer

    def larger(self, text, override, **more):
        answer = answered(self, text, override, **more)
        grown = {name: step * (1 if override.expert is None else 3) for name, step in answer.steps.items()}
        return dataclasses.replace(answer, steps=grown)

    monkeypatch.setattr(RoutedModel, "answer", larger)
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
    assert "one expert for all tasks" in texts(app) and not [box for box in app.selectbox if box.key == "pg_task"]


def test_playground_tells_every_side_the_same_task_by_its_name(played, runs):
    """The other run learned the tasks in another order, a third one only one of them; the first is not told at all."""
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
    assert "run 'short' has not learned task 'city'" in texts(app)


def test_playground_names_a_text_that_is_too_long_and_keeps_the_page(runs, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(runs / "of mine"))
    write_run(runs / "of mine", "a")
    app = open_page("playground")
    app.text_area(key="pg_text").set_value("word " * 1000).run()
    assert "5,000 characters; at most 4,000" in texts(app) and app.sidebar.caption
    app.text_area(key="pg_text").set_value("a text of mine").run()
    assert f"lab run l2r --runs '{(runs / 'of mine').resolve()}'" in texts(app)


def test_playground_code_has_both_texts_of_a_pair(runs):
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
    assert "adapter_model.safetensors is missing" in app.warning[0].value.replace("\\", "")


@pytest.fixture(scope="module")
def writing(tmp_path_factory):
    """Runs that write: one router decides per token, the other once."""
    folder, runs = tmp_path_factory.mktemp("llama"), tmp_path_factory.mktemp("writing")
    architectures.save("llama", folder)
    for id, recipe in (("anew", "moduleformer"), ("once", "l2r")):
        session = generation.session(folder, recipe, "train.lr=0.02", of=generation.tasks(("a", "b")))
        toy.recorded(session, runs, id)
    return runs


def test_playground_shows_an_answer_that_was_written_token_by_token(writing, monkeypatch):
    from lab.inference.loading import load
    from lab.inference.override import Override

    monkeypatch.setenv("LAB_RUNS", str(writing))
    example, model = kept(lab.Run.open("anew"), None, 0)[0], load(lab.Run.open("anew"))
    app = open_page("playground", pg_run="anew")
    recorded = texts(app)
    assert f"the right answer is **{example.label}**" in recorded and "true class" not in recorded
    assert "the original: exact match " in recorded and "the text alone is recorded" in recorded
    app.radio(key="pg_beside").set_value("changed routing").run()
    app.radio(key="pg_route").set_value("one expert").run()
    app.selectbox(key="pg_expert").set_value("b").run()
    assert not app.exception and not app.error
    app.segmented_control(key="pg_more").set_value("token by token").run()
    heard: list[str] = []
    assert model.answer(example.text, writing=heard.append).prediction == heard[-1]
    assert len(heard) == len(model.answer(example.text).said) and all(b.startswith(a) for a, b in itertools.pairwise(heard))
    original, changed = (model.answer(example.text, change, right=[example.label]) for change in (None, Override(expert=1)))
    for place, answer in enumerate((original, changed)):
        bars = json.loads(element(app, f"pg_said_{place}").proto.spec)["data"][0]
        assert bars["text"] == [f"{token.probability:.2f}" for token in answer.said]
        np.testing.assert_allclose(chart(app, f"pg_said_weights_{place}"), answer.by_said_token().iloc[:, 1:], atol=1e-6)
        np.testing.assert_allclose(chart(app, f"pg_said_layers_{place}"), answer.at(0).by_layer(), atol=1e-6)
    code = next(code.value for code in app.code if "answers = {" in code.value)
    assert (
        f".answer({example.text!r}, right=[{example.label!r}])" in code
        and f"Override(expert=1), right=[{example.label!r}]" in code
    )
    app.selectbox(key="pg_place").set_value("2").run()
    np.testing.assert_allclose(chart(app, "pg_said_layers_0"), original.at(1).by_layer(), atol=1e-6)
    assert "decides anew at every token" in texts(app) and "changed routing: exact match" in texts(app)


def test_playground_shows_one_decision_as_one(writing, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(writing))
    app = open_page("playground", pg_run="once")
    app.text_area(key="pg_text").set_value("w10 w30").run()
    assert "decides once, from the text" in texts(app) and element(app, "pg_said_0") and not element(app, "pg_said_weights_0")
    assert "right answer" not in texts(app) and not element(app, "pg_classes")
