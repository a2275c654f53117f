"""Stages: planned and run are one, the order of an epoch is drawn once, and a new kind of stage is one class."""

from collections import Counter

import pytest
import torch
from support import toy

from lab.config.resolve import configure
from lab.core import registry
from lab.data import batching
from lab.data.batching import EpochBatches, shuffled
from lab.training.stage import Training
from lab.training.workload import planned_work, sizes_of

RECIPES = {"l2r": (), "phatgoose": (), "replay": (), "mhr": ()}


def orders(monkeypatch) -> list[int]:
    """How many rows each order that is drawn from now on has."""
    lengths: list[int] = []

    def counted(rows, size, generator):
        lengths.append(len(rows))
        return shuffled(rows, size, generator)

    monkeypatch.setattr(batching, "shuffled", counted)
    return lengths


@pytest.mark.parametrize(("recipe", "drawn"), [("sequential", {48: 6}), ("l2r", {48: 7}), ("shared", {96: 3, 4: 6, 8: 6})])
def test_the_order_of_an_epoch_is_drawn_once(recipe, drawn, monkeypatch):
    """Three epochs of three steps on each task; twenty steps on the 48 stored examples are seven epochs."""
    of = toy.tasks(*(("sea", "city", "farm") if recipe == "shared" else ("sea", "city")))
    made, lengths = toy.session(recipe, of=of), orders(monkeypatch)
    list(made.train())
    expected = Counter(drawn)
    if recipe == "l2r":
        expected[48] += 6
    assert Counter(lengths) == expected


def test_batches_of_a_step_do_not_depend_on_the_steps_before():
    """So that a run is gone on with at any step; every row once in each epoch."""
    rows = toy.session("sequential").rows[0, "train"]

    def fresh() -> EpochBatches:
        return EpochBatches(rows, 16, lambda epoch: torch.Generator().manual_seed(epoch))

    forward = fresh()
    steps = [forward.at(step) for step in range(6)]
    assert [fresh().at(step) for step in range(6)] == steps and len(forward) == 3
    for epoch in (steps[:3], steps[3:]):
        assert Counter(row.key for batch in epoch for row in batch) == Counter(row.key for row in rows)
    assert steps[:3] != steps[3:]


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_planned_is_what_happens(recipe):
    """The steps and evaluations of a run come in the order of its plan, and their work is the planned work."""
    made = toy.session(recipe, of=toy.tasks("sea", "city", "farm"))
    plan = registry.protocols.build(made.config.protocol).plan(sizes_of(made.tasks))
    assert plan == made.plan and made.total_work == planned_work(made.config, made.sizes)
    happened = []
    for event in made.train():
        if type(event).__name__ in ("Step", "Evaluating"):
            happened.append((made.cursor.task, made.cursor.phase))
            assert (made.stage.task, made.stage.phase) == happened[-1] and 0 <= event.progress <= 1
        if type(event).__name__ == "Step":
            assert event.phase == made.stage.phase and isinstance(made.stage, Training)
    order = list(dict.fromkeys(happened))
    planned = [(task, stage.phase) for task, stage in plan]
    assert order == [place for place in planned if place in order]
    assert made.cursor.work == made.total_work
    if recipe != "replay":
        assert {phase for _, phase in order} >= {"train", "evaluate"}


def test_the_work_of_joint_training_and_of_adaptation_by_hand():
    options = ["protocol.shots=[4, 8]", "protocol.adaptation.steps=6", "protocol.adaptation.batch_size=2", "train.epochs=2"]
    config = configure("poly", options)
    sizes = [{"train": 10, "validation": 2, "test": test, "classes": 2} for test in (4, 5, 6)]
    plan = registry.protocols.build(config.protocol).plan(sizes)
    work = [(task, stage.phase, stage.work(config, sizes, task)) for task, stage in plan]
    joint = 3 * (4 * 32 * 2 + 2 * 20)
    assert work == [
        (0, "train", joint),
        (0, "evaluate", 15),
        (1, "train", 36),
        (1, "evaluate", 8),
        (2, "train", 36),
        (2, "evaluate", 8),
        (3, "train", 0),
    ]


def test_a_protocol_can_bring_a_stage_of_its_own():
    """The loop, its events, its progress and the optimiser need to know nothing else of it."""
    made = toy.session("sequential")
    expert = made.plan[1].stage

    class Slower(expert):
        rate = "train.slow"

        def prepare(self, own_rows):
            super().prepare(own_rows)
            self.rates = [rate / 2 for rate in self.rates]

        @classmethod
        def work(cls, config, sizes, task):
            return 2 * super().work(config, sizes, task)

    usual = [event.lr for event in toy.session("sequential").train() if type(event).__name__ == "Step"]
    made.plan = [planned._replace(stage=Slower) if planned.stage is expert else planned for planned in made.plan]
    made.total_work = sum(stage.work(made.config, made.sizes, task) for task, stage in made.plan)
    happenings = list(made.train())
    assert [2 * event.lr for event in happenings if type(event).__name__ == "Step"] == pytest.approx(usual)
    assert made.cursor.work == made.total_work and happenings[-2].progress <= 1
