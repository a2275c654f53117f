"""Many texts at once: the run's own answers to the bit, whatever the batches, and what is refused by its position."""

import numpy as np
import pandas as pd
import pytest
from support import architectures, generation, toy

from lab.core.errors import LabError, Notice
from lab.inference.loading import load

STREAM = toy.tasks("sea", "city")
CASES = {"class": ["l2r", "router.heads=2"], "domain": ["l2r"], "task": ["l2r"], "told": ["oracle"], "tokens": ["arrow"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs by their case, each trained once."""
    root, trained = tmp_path_factory.mktemp("runs"), {}

    def run(case):
        if case not in trained:
            scenario = {"scenario": case} if case in ("domain", "task") else {}
            trained[case] = toy.recorded(toy.session(*CASES[case], of=STREAM, **scenario), root, case)
        return trained[case]

    return run


def texts_of(t):
    return [example.text for example in STREAM[t].test]


@pytest.mark.parametrize("case", CASES)
def test_predictions_are_those_of_the_run_to_the_bit(runs, case):
    run = runs(case)
    model, stored = load(run), run.predictions()
    for t, task in enumerate(STREAM):
        told = {"task": task.name} if model.needs_task else {}
        of_task = stored[stored["task"] == task.name]
        table = model.predict_proba(texts_of(t), **told)
        assert model.predict(texts_of(t), **told) == list(of_task["prediction"])
        assert np.array_equal(table.max(axis=1), of_task["probability"]) and np.allclose(table.sum(axis=1), 1)
        weights = model.route(texts_of(t)[:4], **told)
        by_hand = [model.answer(text, task=t if told else None) for text in texts_of(t)[:4]]
        expected = np.stack([answer.weights for answer in by_hand]).ravel()
        assert np.allclose(weights["weight"], expected, atol=1e-6) and list(weights["row"].unique()) == [0, 1, 2, 3]
        everything = model(texts_of(t), **told)
        assert list(everything["prediction"]) == list(of_task["prediction"])
        assert list(everything["share"][:4]) == pytest.approx([answer.by_expert().max() for answer in by_hand], abs=1e-6)


def test_what_a_model_wrote_it_writes_again(tmp_path):
    folder = architectures.save("llama", tmp_path / "llama")
    of = generation.tasks(("a", "b"))
    run = toy.recorded(generation.session(folder, "l2r", "train.epochs=1", of=of), tmp_path)
    model, stored = load(run), run.predictions()
    for task in of:
        texts = [example.text for example in task.test]
        assert model.generate(texts) == list(stored[stored["task"] == task.name]["prediction"])
    assert list(model(texts).columns) == ["text", "prediction", "expert", "share"] and model.generate([]) == []
    for ask in (model.predict, model.predict_proba):
        with pytest.raises(LabError, match="writes text and chooses no class: use generate"):
            ask(texts)


def test_batches_and_order_change_nothing_but_rounding(runs):
    model = load(runs("class"))
    texts = [*texts_of(0), "one", *texts_of(1), "a much longer text than any of the others " * 3]
    whole = model.predict_proba(texts)
    for size in (1, 7, 1000):
        assert np.allclose(model.predict_proba(texts, batch_size=size), whole, atol=1e-6)
    backwards = model.predict_proba(texts[::-1]).iloc[::-1]
    assert np.allclose(backwards, whole, atol=1e-6)
    done: list = []
    model.predict(texts, batch_size=16, watch=lambda *counts: done.append(counts))
    assert done[-1] == (len(texts), len(texts)) and len(done) == 3


def test_forms(runs):
    model = load(runs("class"))
    series = pd.Series(texts_of(0)[:2], index=["x", "y"])
    assert model.predict(series).equals(pd.Series(model.predict([*series]), ["x", "y"], name="prediction", dtype=object))
    assert list(model.predict_proba(series).index) == ["x", "y"] and list(model.route(series)["row"].unique()) == ["x", "y"]
    assert model.predict([("a", "b")]) != [] and "pair" in model([("a", "b"), "c"])
    assert list(model.classes.loc["city/yes"]) == ["city", "yes"]
    for empty in ([], pd.Series([], dtype=object)):
        assert len(model.predict(empty)) == 0 and isinstance(model.predict(empty), type(empty))
        assert model.predict_proba(empty).shape == (0, 4) and model(empty).empty and model.route(empty).empty
    assert list(model.route([]).columns) == list(model.route(["a"]).columns) and list(model([]).columns) == list(model(["a"]))


def test_changes_of_the_routing_are_those_of_one_answer(runs):
    from lab.inference.override import Override

    model = load(runs("class"))
    for change, single in (
        ({"expert": "city"}, Override(expert=1)),
        ({"top": 1, "temperature": 0.5}, Override(top=1, temperature=0.5)),
        ({"uniform": True, "without": [1]}, Override(uniform=True, without=(1,))),
        ({"pruned": ["sea"]}, Override(pruned=(0,))),
    ):
        answer, table = model.answer("red wave", single), model(["red wave"], **change)
        assert table["prediction"][0] == answer.prediction and table["probability"][0] == pytest.approx(answer.ranked().max())
        assert np.allclose(model.route(["red wave"], **change)["weight"], answer.weights.ravel(), atol=1e-6)


def test_weights_of_every_token(runs):
    model, whole = load(runs("tokens")), load(runs("class"))
    table = model.route(["red wave", "a"], per_token=True)
    first = table[table["row"] == 0]
    answer = model.answer("red wave")
    assert list(first["token"].unique()) == list(answer.tokens) == ["[start]", "red", "wave"]
    assert np.allclose(first["weight"], answer.token_weights.ravel(), atol=1e-6)
    with pytest.raises(LabError, match="decides once for the whole text"):
        whole.route(["a"], per_token=True)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["a", None], r"text 1 \(counted from 0\) is None: every text is a string"),
        (["a", float("nan")], "text 1 .* is float nan"),
        ([3], "text 0 .* is int 3"),
        (["a", "  "], "text 1 .* is empty"),
        ([("a", "b", "c")], "text 0 .* is tuple"),
        ("a", r"put it in a list, \[text\]"),
        (pd.DataFrame({"text": ["a"]}), "of a DataFrame give one column"),
        (5, "not int"),
    ],
)
def test_what_is_no_text_is_refused_by_position(runs, texts, reason):
    model = load(runs("class"))
    for ask in (model.predict, model.predict_proba, model.route, model):
        with pytest.raises(LabError, match=reason):
            ask(texts)


def test_what_cannot_be_asked_is_refused(runs):
    model, told = load(runs("class")), load(runs("told"))
    for ask, reason in [
        (lambda: model.predict(["a"], task="sea"), "is not told the task of a text: leave out task"),
        (lambda: told.predict(["a"]), "task='sea', or one for each text"),
        (lambda: told.predict(["a"], task="see"), "unknown task 'see': did you mean 'sea'"),
        (lambda: told.predict(["a"], task=["sea", "sea"]), "task names 2 tasks for 1 texts"),
        (lambda: model.predict(["a"], batch_size=0), "batch_size = 0: it must be at least 1"),
        (lambda: model.predict(["a"], expert="se"), "unknown expert 'se'"),
        (lambda: model.predict(["a"], top=9), "top = 9: use 1 to 2"),
        (lambda: model.generate(["a"]), "writes no text: use predict"),
    ]:
        with pytest.raises(LabError, match=reason):
            ask()
    both = told.predict(["red wave", "red tram"], task=["sea", "city"])
    assert both == told.predict(["red wave"], task="sea") + told.predict(["red tram"], task="city")


def test_long_texts_are_cut_and_that_is_said_once(runs):
    model = load(runs("class"))
    limit = model.learner.backbone.max_length
    exact, longer = "red " * (limit - 1), "red " * limit
    with pytest.warns(Notice, match=rf"1 text has more than {limit} tokens and was cut: 2 \(counted from 0\)") as said:
        model.predict(["red", exact, longer])
    assert len(said) == 1 and not model.answer(exact).cut and model.answer(longer).cut
