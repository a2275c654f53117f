"""Lessons: the shipped ones ask for numbers that the shipped runs have; a broken one says where."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from support.run_folders import write_run

import lab
from lab import figures
from lab.core.errors import LabError
from lab.lessons import lesson
from lab.lessons.lesson import Point
from lab.run_folder.run import Run, all_runs

EXAMPLES = {run.id: run for run in all_runs(Path(lab.__file__).parent / "examples")}


@pytest.mark.parametrize("name", lesson.lesson_files())
def test_shipped_lessons_hold(name):
    one = lesson.read_lesson(name)
    for card in one.cards:
        for point in card.predict.points if card.predict else ():
            assert 0 <= lesson.truth(point, EXAMPLES) <= 1
        for show in card.show:
            runs = [EXAMPLES[run] for run in show.runs]
            assert show.after is None or show.after <= len(runs[0].matrix)
            drawn = figures.average_curves(runs) if show.figure == "average_curves" else getattr(figures, show.figure)(runs[0])
            assert drawn.data
    lab.configure(one.preset.recipe, one.preset.set)


def test_claims_of_the_lessons_are_true_of_the_runs():
    """What the texts say in words, checked against the numbers."""
    results = {name: run.result() for name, run in EXAMPLES.items()}
    sequential, routed = EXAMPLES["example-sequential"], EXAMPLES["example-l2r"]
    diagonal = np.diag(np.array(sequential.matrix, dtype=float))
    assert diagonal.min() > 0.7 and sequential.matrix[0][0] > 0.9 and sequential.matrix[-1][0] < 0.3
    routing = routed.routing()
    shares = {name: routing.share(task) for task, name in enumerate(routing.tasks)}
    for task, rival in (("support_intent", "support_urgency"), ("review_aspect", "product_review")):
        rest = {name: share for name, share in zip(routing.experts, shares[task], strict=True) if name != task}
        assert max(rest, key=rest.get) == rival
    own = {name: share[routing.experts.index(name)] for name, share in shares.items()}
    assert own["news_topic"] > 0.7 and own["news_topic"] - max(own["review_aspect"], own["support_intent"]) > 0.2
    average = {name: result["average_accuracy"] for name, result in results.items()}
    assert (
        average["example-uniform"]
        < average["example-l2r-merge"]
        < average["example-l2r"]
        < results["example-l2r"]["routing"]["oracle_average_accuracy"]
    )
    assert average["example-l2r"] - average["example-l2r-merge"] < 0.05 < average["example-l2r"] - average["example-uniform"]


def test_truth_counts_from_one(runs):
    run = {"a": write_run(runs, "a")}

    def at(**fields):
        return lesson.truth(Point(label="x", run="a", **fields), run)

    assert at(what="score", after=3, task=1) == 0.86 and at(what="routing.oracle_average_accuracy", after=3) == 0.93
    assert at(what="average_accuracy", after=2) == pytest.approx(0.9)
    routing = Run(runs / "a").routing(2)
    assert at(what="share", after=3, task=2, expert=2) == pytest.approx(float(routing.share(1)[1]))
    for wrong in ({"what": "score", "after": 1, "task": 2}, {"what": "forgetting", "after": 1}, {"what": "score", "after": 9}):
        with pytest.raises(LabError, match="has no"):
            at(**wrong)
    with pytest.raises(LabError, match="not installed"):
        lesson.truth(Point(label="x", run="b", what="routing.oracle_average_accuracy"), run)


GOOD = {"title": "t", "about": "a", "cards": [{"title": "c", "text": "x"}]}


def changed(**fields) -> str:
    """The good lesson with something more on its card."""
    return yaml.safe_dump(GOOD | {"cards": [GOOD["cards"][0] | fields]})


@pytest.mark.parametrize(
    "content, words",
    [
        ("title: [\n", "line 2"),
        ("- a\n", "must be a mapping"),
        (yaml.safe_dump(GOOD | {"cards": []}), "cards"),
        (yaml.safe_dump(GOOD | {"colour": "red"}), "colour"),
        (changed(show=[{"figure": "pie", "runs": ["a"]}]), "cards.1.show.1.figure"),
        (changed(predict={"ask": "?", "tell": "", "points": [{"label": "x", "run": "a", "what": "acc"}]}), "average_accuracy"),
        (changed(question={"ask": "?", "options": ["a", "b"], "right": 3, "why": "w"}), "right is 3"),
    ],
)
def test_a_broken_lesson_says_where(tmp_path, monkeypatch, content, words):
    monkeypatch.setenv("LAB_LESSONS", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(LabError, match="lesson mine") as caught:
        lesson.read_lesson("mine")
    assert words in str(caught.value)
    with pytest.raises(LabError, match="forgetting"):
        lesson.read_lesson("forgeting")
