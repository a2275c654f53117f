"""A stream without borders: which examples stand where, what is refused, and that a killed run goes on to the same bytes."""

from collections import Counter

import numpy as np
import pytest
from support import toy

from lab.config.resolve import configure
from lab.core import registry
from lab.core.errors import LabError
from lab.inference import loading
from lab.protocols.sequential import Sequential
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run
from lab.training import recorder

NAMES = ("sea", "city", "farm")
OPTIONS = ("protocol=task-free", "train.loss_classes=seen")


def session(*more: str, recipe: str = "sequential", **settings):
    return toy.session(recipe, *OPTIONS, *more, of=toy.tasks(*NAMES, train=32, test=8), **settings)


def segments(made) -> list[list[tuple]]:
    """The keys of the examples of each segment."""
    return [[row.key for row in made.protocol.training_rows(made, t)] for t in range(len(NAMES))]


@pytest.mark.parametrize("blur", [0.0, 0.3, 0.9])
def test_every_example_occurs_once_and_only_neighbours_exchange(blur):
    found = segments(session(f"protocol.blur={blur}"))
    assert Counter(key for segment in found for key in segment) == Counter((t, "train", i) for t in range(3) for i in range(32))
    assert [len(segment) for segment in found] == [32] * 3
    exchanged = int(blur * 32 / 2)
    of_task = [Counter(task for task, _, _ in segment) for segment in found]
    assert of_task[0] == Counter({0: 32 - exchanged, 1: exchanged}) and of_task[2] == Counter({2: 32 - exchanged, 1: exchanged})
    assert of_task[1] == Counter({0: exchanged, 1: 32 - 2 * exchanged, 2: exchanged})


def test_which_examples_are_exchanged_is_seeded():
    first, again, other = (segments(session("protocol.blur=0.5", seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_without_blur_it_is_training_on_task_after_task():
    apart = toy.session("sequential", "train.loss_classes=seen", of=toy.tasks(*NAMES, train=32, test=8))
    blurred = session("protocol.blur=0")
    assert segments(blurred) == [[row.key for row in apart.rows[t, "train"]] for t in range(3)]
    happened = [[event.to_json() for event in made.train() if type(event).__name__ == "Step"] for made in (apart, blurred)]
    assert happened[0] == happened[1]
    assert apart.scores == blurred.scores and toy.equal(toy.expert(apart, "shared"), toy.expert(blurred, "shared"))


@pytest.mark.parametrize("recipe", ["replay", "l2p", "ewc", "lwf", "agem", "derpp"])
def test_recipes_with_shared_experts_run_and_fill_the_matrix(recipe, tmp_path):
    made = session("protocol.blur=0.5", recipe=recipe)
    run = toy.recorded(made, tmp_path)
    assert (~np.isnan(run.matrix)).sum(1).tolist() == [1, 2, 3]
    assert run.result()["average_accuracy"] == pytest.approx(np.mean(run.matrix[-1]))
    assert {row.task for row in made.memory.rows} <= {0, 1, 2}


def test_a_task_whose_examples_came_early_competes_from_then_on(tmp_path):
    made, seen = session("protocol.blur=0.5"), []
    for event in made.train():
        if type(event).__name__ == "Evaluated" and event.after >= 0 and event.task == 0:
            seen.append(made.learner.head.tasks_seen)
    assert seen == [2, 3, 3]


def test_a_kept_moment_answers_as_it_was_evaluated(tmp_path):
    made = session("protocol.blur=0.5")
    run = toy.recorded(made, tmp_path)
    model = loading.load(run, 0)
    answers = [model.answer(example.text).prediction for example in made.tasks[0].test]
    right = [answer == f"sea/{toy.LABELS[example.label]}" for answer, example in zip(answers, made.tasks[0].test, strict=True)]
    assert np.mean(right) == run.matrix[0][0]


@pytest.mark.parametrize("moment", [("Step", 5), ("TaskEnded", 1), ("Step", 9)])
def test_a_killed_run_goes_on_to_the_same_bytes(moment, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "LOG_EVERY", 0.0)
    short = ("protocol.blur=0.5", "checkpoint.every=2", "memory.total=20", "memory.per_task=0")

    def content(run: Run) -> dict[str, bytes]:
        names = ("matrix.json", "experts/**/*", "predictions/*", "state/**/*")
        return {str(p.relative_to(run.dir)): p.read_bytes() for name in names for p in run.dir.glob(name) if p.is_file()}

    whole = toy.recorded(session(*short, recipe="replay"), tmp_path, "whole")
    made = session(*short, recipe="replay")
    killed, kind, number = create_run(made.config.to_dict(), tmp_path, "killed"), *moment
    happenings = recorder.record(killed, made)
    count = 0
    for event in happenings:
        count += type(event).__name__ == kind
        if count == number:
            break
    happenings.close()
    list(recorder.record(killed, session(*short, recipe="replay")))
    assert content(whole) == content(killed)


@pytest.mark.parametrize(
    ("recipe", "options", "reason"),
    [
        ("l2r", [], "experts.allocation = per_task gives every task an expert of its own"),
        ("sequential", ["train.loss_classes=task"], "train.loss_classes = task trains the classifier rows of one task"),
        ("sequential", ["train.loss_classes=seen", "protocol.blur=1"], "protocol.blur = 1: input should be less than 1"),
    ],
)
def test_what_it_refuses(recipe, options, reason):
    with pytest.raises(LabError, match=reason):
        configure(recipe, ["protocol=task-free", *options])


class Half(Sequential):
    """Every task is learned from the first half of its training examples."""

    name = "half"

    def training_rows(self, session, t):
        rows = session.rows[t, "train"]
        return rows[: len(rows) // 2]


def test_the_store_tells_experts_of_other_examples_apart(tmp_path, monkeypatch):
    """What decides is what a task is learned from, not all that it has; routers are told of these examples alone."""
    whole = toy.trained("prototype", of=toy.tasks("sea", "city"), store=tmp_path)
    monkeypatch.setattr(registry.protocols, "build", lambda options: Half(options))
    half = toy.trained("prototype", of=toy.tasks("sea", "city"), store=tmp_path)
    assert half.cursor.reused_s == 0 and half.memory.seen == whole.memory.seen // 2
    assert not toy.equal(toy.expert(half, "sea"), toy.expert(whole, "sea"))
    assert toy.trained("prototype", of=toy.tasks("sea", "city"), store=tmp_path).cursor.reused_s > 0
