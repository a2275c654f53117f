"""Training on a toy stream whose tasks contradict each other: what is learned, forgotten, stored, routed and reported."""

import hashlib
import json
from itertools import pairwise

import numpy as np
import pandas
import pytest
import torch
from support import toy
from support.errors import assert_says

import lab
from lab.config.resolve import configure
from lab.contracts import methods as contract
from lab.contracts.checking import title
from lab.core import registry
from lab.core.errors import LabError, RunFailed
from lab.core.registry import Options
from lab.data.batching import collate
from lab.data.label_space import LabelSpace
from lab.data.replay_buffer import Memory
from lab.data.stream import Example, Task
from lab.methods.base import Method
from lab.models.router_inputs import RouterInputs
from lab.routers.base import Axes, Decision, Match, Reads, Request, Router, RouterOptions
from lab.training.evaluation import WHOLE, Evaluation, RoutingSums, evaluate
from lab.training.optimisation import adamw, moments, restore_moments, schedule
from lab.training.stages import BEFORE_CALIBRATION


def matrix(made):
    return [[score for score in row if score is not None] for row in made.scores.matrix]


@pytest.fixture(scope="module")
def l2r():
    return toy.trained("l2r")


@pytest.fixture(scope="module")
def sequential():
    return toy.trained("sequential", scenario="domain")


# events -----------------------------------------------------------------------------------------------------------------------


def test_order_and_content_of_events():
    made = toy.session("l2r")
    events = list(made.train())
    row = ["Evaluating", "Evaluated"]
    expected = ["RunStarted", *row * 2]  # before training, on both tasks
    expected += ["TaskStarted", "Step", "Learned", *row, "TaskEnded"]  # one task: nothing to choose between
    expected += ["TaskStarted", "Step", "Learned", "Step", *row * 2, "TaskEnded"]
    expected += ["Evaluating", "OracleEvaluated", "Evaluating", "OracleEvaluated", "RunEnded"]
    assert toy.kinds(events) == expected

    begun = events[0].to_json()
    assert (begun["tasks"], begun["labels"], begun["examples"]) == (["sea", "city"], [["no", "yes"]] * 2, [48, 48])
    assert begun["layers"] == [layer.name for layer in made.learner.bank.layers]

    steps = [event for event in events if type(event).__name__ == "Step"]
    assert [(e.task, e.phase, e.step) for e in steps] == [
        (t, phase, step + 1)
        for t, phases in enumerate([[("train", 9)], [("train", 9), ("memory", 20)]])
        for phase, count in phases
        for step in range(count)
    ]
    assert {(e.phase, e.steps, e.epochs) for e in steps} == {("train", 9, 3), ("memory", 20, 1)}
    assert [e.epoch for e in steps if e.task == 0 and e.phase == "train"] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {(e.phase, *e.to_json()["terms"]) for e in steps} == {("train", "task"), ("memory", "memory")}
    assert all(0 < e.lr <= (0.02 if e.phase == "train" else 0.1) for e in steps)

    started = [e.to_json() for e in events if type(e).__name__ == "TaskStarted"]
    assert [(e["task"], e["name"], e["experts"], e["reused"]) for e in started] == [(0, "sea", 1, False), (1, "city", 2, False)]
    size = sum(p.numel() for p in made.learner.bank.expert(0).values()) + 2 * 32 + 2
    assert [e["trainable_parameters"] for e in started] == [size, size]

    scores = [(e.after, e.task, e.score, e.examples) for e in events if type(e).__name__ == "Evaluated"]
    zero, (first,), last = made.scores.zero_shot, *matrix(made)
    assert scores == [(-1, 0, zero[0], 20), (-1, 1, zero[1], 20), (0, 0, first, 20), (1, 0, last[0], 20), (1, 1, last[1], 20)]
    assert [e.score for e in events if type(e).__name__ == "OracleEvaluated"] == made.scores.oracle
    ended = [(e.name, e.stored_examples) for e in events if type(e).__name__ == "TaskEnded"]
    assert ended == [("sea", 24), ("city", 48)]
    assert events[-1].uses == {"task_id": False, "stored_examples": 48, "generated_examples": 0}
    for event in events:
        json.dumps(event.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("recipe", "more"),
    [("l2r", ()), ("sequential", ()), ("replay", ()), ("oracle", ()), ("uniform", ("router_training.classifier=frozen",))],
)
def test_progress_is_monotone_and_ends_at_one(recipe, more):
    progress = [event.progress for event in toy.session(recipe, *more, of=toy.tasks("sea", "city", "farm")).train()]
    assert progress[0] == 0 and progress[-1] == 1
    assert all(0 <= a <= b <= 1 for a, b in pairwise(progress))


def test_zero_shot_row_is_an_untrained_classifier():
    """With equal weights for all classes the first class wins: the score is its share of the examples."""
    made = toy.session("l2r")
    real = made.learner.head.logits
    made.learner.head.logits = lambda batch, only=None: real(batch, only) * 0
    for event in made.train():
        if type(event).__name__ == "TaskStarted":
            break
    assert made.scores.zero_shot == [0.5, 0.0], "class sea/no is right for half of sea and for none of city"
    assert len(made.learner.head.classifier.weight) == 1, "the untrained classifier is gone when training begins"


def test_train_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream = toy.folder(tmp_path / "s")
    config = configure("l2r", toy.overrides("l2r"), stream=str(stream), backbone="tiny")
    assert [type(event).__name__ for event in lab.train(config)][-1] == "RunEnded"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


# determinism ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["l2r", "replay", "l2r-merge"])
def test_one_seed_gives_one_result(recipe):
    a, b, other = toy.trained(recipe), toy.trained(recipe), toy.trained(recipe, seed=1)
    assert a.scores == b.scores
    for name in a.learner.bank.names:
        assert toy.equal(toy.expert(a, name), toy.expert(b, name))
        assert not toy.equal(toy.expert(a, name), toy.expert(other, name))
    assert a.scores.zero_shot != other.scores.zero_shot or a.scores.matrix != other.scores.matrix


def test_experts_depend_neither_on_order_nor_on_the_recipe(l2r):
    sea, city = toy.expert(l2r, "sea"), toy.expert(l2r, "city")
    others = [
        toy.trained("l2r", of=toy.tasks("farm", "city", "sea")),
        toy.trained("l2r-merge", "router.heads=4"),
        toy.trained("oracle", scenario="task"),
        toy.trained("uniform", "memory.per_task=5", "router_training.steps=1", scenario="domain"),
        toy.trained("l2r", "router.gate=softmax", "router_training.warm_start=true"),
    ]
    for other in others:
        assert toy.equal(toy.expert(other, "sea"), sea) and toy.equal(toy.expert(other, "city"), city)


def test_bottleneck_experts_are_the_same_for_both_compositions():
    mix, merge = (toy.trained(recipe, "experts=bottleneck", "router_training.steps=1") for recipe in ("l2r", "l2r-merge"))
    assert toy.equal(toy.expert(mix, "sea"), toy.expert(merge, "sea"))


def test_frozen_experts_are_bit_identical_after_later_tasks():
    made, kept = toy.session("l2r", of=toy.tasks("sea", "city", "farm")), {}
    for event in made.train():
        if type(event).__name__ == "Learned":
            kept[event.name] = toy.expert(made, event.name)
    backbone = toy.session("l2r").learner.backbone.model.state_dict()
    assert all(toy.equal(toy.expert(made, name), values) for name, values in kept.items()) and len(kept) == 3
    after = {
        name.replace(".base.", "."): p for name, p in made.learner.backbone.model.state_dict().items() if ".experts." not in name
    }
    assert toy.equal(after, {name.replace(".base.", "."): p for name, p in backbone.items()})


# what is forgotten ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["domain", "class"])
def test_sequential_forgets_replay_forgets_less_and_the_oracle_does_not(scenario):
    def both(recipe):
        first, last = matrix(toy.trained(recipe, "train.epochs=4", "experts.skip=0", scenario=scenario))
        return first[0], last[0], last[1]

    learned, kept, new = both("sequential")
    assert learned >= 0.9 and new >= 0.9 and kept <= 0.5
    _, replayed, new = both("replay")
    assert replayed >= kept + 0.2 and new >= 0.7
    learned, oracle, new = both("oracle")
    assert new >= 0.9 and learned >= 0.9 and oracle >= 0.85, "more classes or more rows to average cost even the oracle a little"


def test_the_oracle_in_scenario_task_keeps_its_predictions():
    made = toy.trained(
        "oracle", "router_training.steps=0", "memory.per_task=0", scenario="task", of=toy.tasks("sea", "city", "farm")
    )
    first, second, third = matrix(made)
    assert first[0] == second[0] == third[0] and second[1] == third[1]


def test_l2r_routes_better_than_uniform():
    options = {"of": toy.tasks(train=64, test=40), "scenario": "domain"}
    more = ("memory.per_task=48", "router_training.steps=60", "train.epochs=4")
    routed, even = toy.trained("l2r", *more, **options), toy.trained("uniform", *more, **options)
    for j in range(2):
        result = evaluate(routed.learner, routed.rows[j, "test"], 2, 64)
        share = result.routing.share_sum / result.routing.count
        assert share[j] > 0.6 and share.sum() == pytest.approx(1)
    assert np.mean(matrix(routed)[-1]) >= np.mean(matrix(even)[-1]) + 0.05


def test_shared_expert_is_trained_on_in_every_task():
    made, seen = toy.session("sequential"), []
    for event in made.train():
        if type(event).__name__ == "TaskEnded":
            seen.append(toy.expert(made, "shared"))
    assert len(made.learner.bank) == 1 and not toy.equal(*seen)


def test_classifier_of_a_shared_expert_has_one_block_in_scenario_domain(sequential):
    learner = sequential.learner
    assert len(learner.head.classifier.weight) == 1
    assert [*learner.head.parameters_of(range(2))] == ["task0.classifier.weight", "task0.classifier.bias"]


# memory -----------------------------------------------------------------------------------------------------------------------


def stored(memory):
    return [row.key for row in memory.rows]


def test_memory_holds_training_rows_drawn_by_seed_and_task():
    sea, city = toy.tasks()
    made = toy.session("l2r", of=[sea, city])
    rows = [made.rows[t, "train"] for t in range(2)]
    memory, again, other = Memory(6, 0, seed=0), Memory(6, 0, seed=0), Memory(6, 0, seed=1)
    for each in (memory, other):
        each.add(sea, rows[0])
        each.add(city, rows[1])
    again.add(city, rows[1])
    assert stored(memory)[6:] == stored(again), "what is kept of a task does not depend on the tasks before it"
    assert stored(memory) != stored(other)
    assert len(set(stored(memory))) == 12 and {key[1] for key in stored(memory)} == {"train"}
    texts = [(sea, city)[t].train[row].text for t, _, row in stored(memory)]
    assert memory.bytes == sum(len(text.encode()) + 8 for text in texts)


def test_memory_per_class_and_bytes_of_pairs():
    examples = [Example("aé" * (i + 1), i % 3, "p") for i in range(12)]
    task = Task("t", ("a", "b", "c"), examples, examples, examples)
    encoded = toy.session("l2r").learner.backbone.encode(examples, 0, "train")
    memory = Memory(0, 2, seed=0)
    memory.add(task, encoded)
    labels = [row.label for row in memory.rows]
    assert sorted(labels) == [0, 0, 1, 1, 2, 2]
    assert memory.bytes == sum(3 * (row.key[2] + 1) + 1 + 8 for row in memory.rows)
    everything = Memory(100, 0, seed=0)
    everything.add(task, encoded)
    assert sorted(key[2] for key in stored(everything)) == [*range(12)]


def test_memory_sample():
    task = toy.task("sea")
    memory = Memory(10, 0, seed=0)
    memory.add(task, toy.session("l2r").rows[0, "train"])
    draw = memory.sample(4, torch.Generator().manual_seed(0))
    assert len({row.key for row in draw}) == 4 and draw == memory.sample(4, torch.Generator().manual_seed(0))
    assert len(memory.sample(99, torch.Generator())) == 10
    assert Memory(0, 0, seed=0).sample(4, torch.Generator()) == []


def test_stage_b_and_replay_see_stored_training_rows_only():
    for recipe in ("l2r", "replay"):
        made, seen = toy.session(recipe), set()
        inner = made.learner.backbone.collate

        def collate_and_look(rows, inner=inner, seen=seen, made=made):
            if made.optimizer is not None:
                seen |= {row.key for row in rows}
            return inner(rows)

        made.learner.backbone.collate = collate_and_look
        list(made.train())
        assert {split for _, split, _ in seen} == {"train"}
        if recipe == "l2r":
            assert len({key for key in seen}) == 96


@pytest.mark.parametrize("recipe", ["uniform", "oracle", "prototype", "arrow", "phatgoose"])
def test_a_classifier_alone_is_tuned_as_by_whole_passes(monkeypatch, recipe):
    """Where no router learns, every stored example goes through the model once; the result is that of training by hand."""
    made, passed = toy.session(recipe, "router_training.steps=5", "router_training.batch_size=48", "router=" + recipe), 0
    learner, inner = made.learner, made.learner.backbone.embed

    def counted(batch):
        nonlocal passed
        passed += len(batch.keys) * (made.cursor.phase == "memory")
        return inner(batch)

    monkeypatch.setattr(learner.backbone, "embed", counted)
    for event in made.train():
        if type(event).__name__ == "Step" and event.phase == "memory":
            assert passed == 48 * (1 + (Reads.QUERY in learner.router.reads))
    tuned = {name: parameter.detach().clone() for name, parameter in learner.head.parameters_of([0, 1]).items()}
    parameters = learner.head.parameters_of([0, 1])
    batch = learner.backbone.collate(made.memory.rows)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.requires_grad_(True).copy_(made.carried[BEFORE_CALIBRATION][name])
    optimizer = torch.optim.AdamW(parameters.values(), weight_decay=made.config.train.weight_decay)
    for step in range(5):
        optimizer.param_groups[0]["lr"] = made.config.router_training.classifier_lr * schedule(step, 5, made.config.train.warmup)
        decision = learner.decide(batch)
        with learner.bank.routed(decision):
            loss = torch.nn.functional.cross_entropy(learner.head.logits(batch), batch.label + 2 * batch.task)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), made.config.train.clip)
        optimizer.step()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach(), tuned[name], rtol=1e-4, atol=1e-5)
        assert not torch.equal(tuned[name], made.carried[BEFORE_CALIBRATION][name])


def test_memory_that_cannot_hold_a_class_each():
    with pytest.raises(LabError) as error:
        toy.session("l2r", "memory.per_task=1")
    assert_says(error, "memory.per_task = 1", "2 classes", "task 'sea'", "at least 2")
    toy.session("l2r", "memory.per_task=2")


# stage B ----------------------------------------------------------------------------------------------------------------------


def classifier(made):
    return {name: p.detach().clone() for name, p in made.learner.head.classifier.named_parameters()}


@pytest.mark.parametrize("recipe", ["l2r", "uniform"])
def test_a_frozen_classifier_is_bit_identical(recipe):
    made, learned = toy.session(recipe, "router_training.classifier=frozen"), {}
    for event in made.train():
        if type(event).__name__ == "Learned":
            learned = classifier(made)
        if type(event).__name__ == "TaskEnded":
            assert toy.equal(classifier(made), learned)


def test_a_tuned_classifier_changes_and_starts_from_the_isolated_one():
    made, learned = toy.session("l2r", "router_training.warm_start=false", of=toy.tasks("sea", "city", "farm")), {}
    for event in made.train():
        if type(event).__name__ == "Learned":
            now = classifier(made)
            learned |= {name: now[name] for name in (f"weight.{event.task}", f"bias.{event.task}")}
        if type(event).__name__ == "TaskEnded":
            assert toy.equal(classifier(made), learned) == (event.task == 0), "tuned from the second task on"
        if type(event).__name__ == "Step" and (event.task, event.phase, event.step) == (2, "memory", 1):
            now = classifier(made)
            moved = max((now[name] - learned[name]).abs().max().item() for name in learned)
            rate = made.config.router_training.classifier_lr
            assert 0 < moved <= 1.1 * rate, "one step of the classifier's rate away from what training on the tasks left"
    assert all(
        torch.equal(made.carried[BEFORE_CALIBRATION][f"task{t}.classifier.weight"], learned[f"weight.{t}"]) for t in range(3)
    )


def test_warm_start_goes_on_from_the_last_stage():
    ended, begun = {}, {}
    for warm in ("true", "false"):
        given = (f"router_training.warm_start={warm}", "router.start=zero", "train.warmup=0.9")
        made = toy.session("l2r", *given, of=toy.tasks("sea", "city", "farm"))
        for event in made.train():
            if type(event).__name__ == "TaskEnded" and event.task == 1:
                ended[warm] = made.learner.router.weight[0][:, :2].detach().clone()
            if type(event).__name__ == "Step" and (event.task, event.phase, event.step) == (2, "memory", 1):
                begun[warm] = made.learner.router.weight[0][:, :2].detach().clone()
    assert ended["true"].norm() > 0.1
    assert (begun["true"] - ended["true"]).norm() < 0.3 * ended["true"].norm()
    assert begun["false"].norm() < 0.3 * ended["false"].norm(), "trained anew: one small step away from zero"


def test_warm_started_routers_with_a_hidden_layer_learn():
    made = toy.trained("l2r", "router_training.warm_start=true", "router.hidden=8")
    assert all(p.abs().sum() > 0 for p in (*made.learner.router.hidden, *made.learner.router.weight))


# label spaces ---------------------------------------------------------------------------------------------------------------


def test_label_spaces():
    tasks = [toy.task("sea"), toy.task("city")]
    by = {scenario: LabelSpace(scenario, tasks) for scenario in ("task", "class", "domain")}
    assert by["class"].names == by["task"].names == ["sea/no", "sea/yes", "city/no", "city/yes"]
    assert by["domain"].names == ["no", "yes"]
    label, task = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    assert by["class"].target(label, task).tolist() == [0, 1, 3]
    assert by["domain"].target(label, task).tolist() == [0, 1, 1]
    one, two = [True, True, False, False], [False, False, True, True]
    assert by["class"].competing(task, 1, "seen").tolist() == [one, one, one]
    assert by["class"].competing(task, 2, "seen").tolist() == [[True] * 4] * 3
    assert by["class"].competing(task, 2, "task").tolist() == [one, one, two]
    assert by["domain"].competing(task, 1, "seen").tolist() == [[True, True]] * 3


@pytest.mark.parametrize(
    ("scenario", "seen", "right"),
    [
        ("task", 2, [True, True, False]),  # 1 of (0, 1); 3 of (2, 3); 2 of (2, 3)
        ("class", 2, [False, True, False]),  # 3, 3 and 2 of all four
        ("class", 1, [True, False, False]),  # task 1 is not seen: its classes do not compete
        ("domain", 2, [True, False, True]),  # two classes in all
    ],
)
def test_scenarios_score_as_defined(scenario, seen, right):
    """Three rows of known logits: labels are (task 0, yes), (task 1, yes), (task 1, yes)."""
    made = toy.session("oracle", scenario=scenario)
    for t in range(2):
        made.learner.add_task(t)
    logits = torch.tensor([[0.0, 2.0, 1.0, 3.0], [1.0, 0.0, 2.0, 3.0], [0.0, 1.0, 3.0, 2.0]])
    rows = [row for t in (0, 1, 1) for row in made.rows[t, "test"] if row.label == 1]
    rows = [rows[0], rows[10], rows[11]]
    order = {row.key: i for i, row in enumerate(rows)}
    last = []

    def fixed(batch, only=None):
        last[:] = [order[key] for key in batch.keys]
        return logits[last][:, : len(made.learner.head.space)]

    made.learner.head.logits = fixed
    result = evaluate(made.learner, rows, seen, 2)
    assert (result.predictions.label == result.predictions.predicted).tolist() == right
    assert result.score == pytest.approx(sum(right) / 3)


def test_matrix_from_predictions(l2r, tmp_path):
    """The matrix and two metrics worked out again from the stored predictions."""
    run = toy.recorded(toy.session("l2r"), tmp_path)
    tables = [run.predictions(after=i) for i in range(2)]
    again = [[float((part.label == part.prediction).mean()) for _, part in table.groupby("task", sort=False)] for table in tables]
    assert again == matrix(l2r) and isinstance(tables[0], pandas.DataFrame)
    (r00,), (r10, r11) = again
    metrics = run.metrics()
    assert metrics["average_accuracy"] == pytest.approx((r10 + r11) / 2)
    assert metrics["forgetting"] == pytest.approx(r00 - r10) and metrics["backward_transfer"] == pytest.approx(r10 - r00)
    assert metrics["learning_accuracy"] == pytest.approx((r00 + r11) / 2) and metrics["forward_transfer"] is None
    assert list(tables[1].columns) == ["task", "row", "label", "prediction", "correct", "probability"]
    assert len(tables[0]) == 20 and len(tables[1]) == 40
    assert set(tables[0].prediction) <= {"sea/no", "sea/yes"}, "classes of tasks not seen do not compete"
    assert (tables[1].correct == (tables[1].label == tables[1].prediction)).all() and tables[1].probability.between(0.25, 1).all()


# routing ----------------------------------------------------------------------------------------------------------------------


class Spy(Router):
    """Equal weights; notes what it was shown."""

    name = "spy"
    Options = RouterOptions
    axes = Axes("model", "all", "soft")
    shown: list[Request]

    def forward(self, request):
        self.shown.append(request)
        return Decision(torch.full((1, 1, self.heads, self.experts), 1 / self.experts))


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
@pytest.mark.parametrize("declared", [False, True])
def test_the_task_is_withheld_from_a_router_that_does_not_declare_it(monkeypatch, declared, scenario):
    spy = type("Spy", (Spy,), {"reads": frozenset({Reads.TASK} if declared else ()), "shown": []})
    made = toy.session("uniform", scenario=scenario)
    made.learner.router = spy(RouterOptions(name="spy"), made.learner.bank.layers, 32)
    list(made.train())
    assert sum(len(request.mask) for request in spy.shown) == 48 + 20 + 40 + 16, "the memory, two rows of the matrix, validation"
    assert all((request.task is not None) == declared for request in spy.shown)
    assert made.uses()["task_id"] == (declared or scenario == "task")


def test_recording_changes_no_bit(l2r, tmp_path):
    run = toy.recorded(toy.session("l2r"), tmp_path)
    assert run.recorded_scores["matrix"] == l2r.scores.matrix
    names = [f"base_model.model.{name}.weight" for name in l2r.learner.bank.expert(0)]
    from safetensors.torch import load_file

    saved = load_file(run.dir / "experts" / "sea" / "adapter_model.safetensors")
    assert toy.equal(saved, dict(zip(names, toy.expert(l2r, "sea").values(), strict=True)))


def test_experts_of_equal_weight_share_the_first_choice():
    sums = RoutingSums()
    sums.add(Decision(torch.tensor([[0.4, 0.4, 0.2], [0.1, 0.1, 0.8]])[:, None, None]), [0, 1], layers=2)
    assert sums.top_count.tolist() == [[[0.5, 0.5, 1.0]]] * 2


def test_routing_sums(l2r):
    result = evaluate(l2r.learner, l2r.rows[1, "test"], 2, 7)
    assert isinstance(result, Evaluation)
    batch = collate(l2r.rows[1, "test"], 0)
    decision = l2r.learner.decide(batch)
    with torch.no_grad(), l2r.learner.bank.routed(decision):
        l2r.learner.head.logits(batch)
    weights = decision.recorded().double().numpy()  # (B, L, H, E)
    sums, layers = result.routing, len(l2r.learner.bank.layers)
    assert sums.count == 20 and weights.shape == (20, layers, 1, 2)
    np.testing.assert_allclose(sums.weight_sum, weights.sum(0), rtol=1e-5)
    np.testing.assert_allclose(sums.top_count.sum(-1), 20)
    np.testing.assert_allclose(sums.entropy_sum, -(weights * np.log(weights)).sum(-1).sum(0), rtol=1e-4)
    np.testing.assert_allclose(sums.share_sum, weights.mean((1, 2)).sum(0), rtol=1e-5)
    assert sorted(sums.whole) == [*range(WHOLE)]
    np.testing.assert_allclose(np.stack([sums.whole[i]["weights"] for i in range(WHOLE)]), weights[:WHOLE], rtol=1e-5)


def test_kept_queries_stand_in_the_order_of_their_rows():
    sums, query = RoutingSums(), torch.arange(3.0)[:, None]
    sums.add(Decision(torch.ones(3, 1, 1, 2) / 2, match=Match(query, query, range(3))), [5, 2, WHOLE], 1)
    assert sums.arrays(0)["0/rows"].tolist() == [2, 5] and sums.arrays(0)["0/query"].tolist() == [[1], [0]]
    assert sums.keys()["keys"].dtype == np.float16
    sums.match = Match(query, 1e6 * query)
    assert sums.keys()["keys"].tolist() == [[0], [1e6], [2e6]], "too large for half precision"


@pytest.mark.parametrize("query", ["layer", "backbone"])
def test_a_recorded_decision_can_be_followed_step_by_step(tmp_path, query):
    """Each step follows from the one before by the formula of the gate, in the files of a run; the last one is the weights."""
    made = toy.session("l2r", "router.heads=2", "router.temperature=0.5", f"router.query={query}")
    routing = toy.recorded(made, tmp_path, query).routing(1)
    for task in (0, 1):
        steps = routing.steps(task)
        assert list(steps) == ["logits", "gates", "weights"]
        assert {step.shape for step in steps.values()} == {(WHOLE, len(made.learner.bank.layers), 2, 2)}
        np.testing.assert_allclose(steps["gates"], 1 / (1 + np.exp(-steps["logits"] / 0.5)), rtol=1e-4)
        np.testing.assert_allclose(steps["weights"], steps["gates"] / steps["gates"].sum(-1, keepdims=True), rtol=1e-4)
        assert np.ptp(steps["logits"]) > 0.1 and np.array_equal(steps["weights"], routing.examples(task))
        asked = torch.from_numpy(routing.queries(task)).float()  # what the last layer was asked, in half precision
        with torch.no_grad():
            logits = made.learner.router.logits(len(made.learner.bank.layers) - 1, asked)
        np.testing.assert_allclose(steps["logits"][:, -1], logits, rtol=0.05, atol=0.02)
    assert routing.keys()[1] == []


def test_recorded_queries_and_keys_are_those_of_the_router(tmp_path):
    made = toy.session("l2p")
    routing, learner = toy.recorded(made, tmp_path).routing(1), made.learner
    for task in (0, 1):
        query = torch.nn.functional.normalize(learner.inputs.query(collate(made.rows[task, "test"], 0))[:WHOLE], dim=-1)
        np.testing.assert_allclose(routing.queries(task), query, atol=1e-3)
    keys, owners = routing.keys()
    assert owners == [*range(learner.router.experts)] and [routing.experts[i] for i in owners] == learner.bank.names
    np.testing.assert_allclose(keys, torch.nn.functional.normalize(learner.router.key.detach(), dim=-1), atol=1e-3)
    assert toy.recorded(toy.session("uniform"), tmp_path, "uniform").routing(1).queries(0) is None


def test_a_router_without_steps_records_its_weights_alone(tmp_path):
    routing = toy.recorded(toy.session("uniform"), tmp_path).routing(1)
    assert list(routing.steps(0)) == ["weights"] and (routing.steps(0)["weights"] == 0.5).all()


# the store ------------------------------------------------------------------------------------------------------------------


def test_reused_experts_are_bit_identical(l2r, tmp_path):
    first = toy.trained("l2r", store=tmp_path)
    files = sorted(tmp_path.iterdir())
    stamps = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert len(files) == 2
    made = toy.session("l2r", store=tmp_path)
    events = list(made.train())
    assert [e.reused for e in events if type(e).__name__ == "TaskStarted"] == [True, True]
    assert {e.phase for e in events if type(e).__name__ == "Step"} == {"memory"}
    assert made.scores == first.scores == l2r.scores
    for name in ("sea", "city"):
        assert toy.equal(toy.expert(made, name), toy.expert(l2r, name))
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(tmp_path.iterdir())] == stamps
    cost, fresh = made.cost(), first.cost()
    assert cost["reused_s"] > 0 and fresh["reused_s"] == 0 and cost["train_s"] >= cost["reused_s"]
    assert {key: value for key, value in cost.items() if not key.endswith("_s") and "peak" not in key} == {
        key: value for key, value in fresh.items() if not key.endswith("_s") and "peak" not in key
    }
    assert fresh["memory_bytes"] == made.memory.bytes > 0 and fresh["peak_memory_bytes"] > 0
    assert fresh["adapter_bytes"] == 4 * fresh["trainable_parameters"]
    assert fresh["statistics_bytes"] == 4 * (fresh["stored_parameters"] - fresh["trainable_parameters"])
    layers = made.learner.bank.layers
    spread = sum(2 * 4 * layer.inputs for layer in layers)  # mean and spread of each router's query
    classifier_before_calibration = sum(
        4 * parameter.numel() for parameter in made.learner.head.classifier.parameters()
    )  # where each tuning begins
    assert fresh["statistics_bytes"] == spread + classifier_before_calibration
    going_on = toy.session("l2r", "router_training.warm_start=true")
    list(going_on.train())
    assert going_on.cost()["statistics_bytes"] == spread
    assert fresh["stored_bytes"] == fresh["adapter_bytes"] + fresh["memory_bytes"] + fresh["statistics_bytes"]


def test_queries_of_training_examples_are_computed_once_for_all_runs(tmp_path, monkeypatch):
    """They depend on the frozen backbone and the texts alone, so runs with other experts and seeds of training share them."""
    asked = []
    inner = RouterInputs.layer_queries
    watched = lambda self, router, rows: asked.append(len(rows)) or inner(self, router, rows)  # noqa: E731
    monkeypatch.setattr(RouterInputs, "layer_queries", watched)
    fresh = toy.trained("prototype", "experts.rank=4")
    first = toy.trained("prototype", store=tmp_path)
    assert asked == 4 * [48]
    second = toy.trained("prototype", "experts.rank=4", store=tmp_path)
    assert asked == 4 * [48] and second.cursor.reused_s > 0 == first.cursor.reused_s
    assert second.scores == fresh.scores
    assert toy.equal(dict(second.learner.router.named_buffers()), dict(fresh.learner.router.named_buffers()))
    toy.trained("prototype", "backbone.max_length=4", store=tmp_path)
    assert asked == 6 * [48], "texts that are cut elsewhere have other queries"


def test_changes_to_a_complete_configuration_are_refused():
    made = configure("l2r", stream="builtin")
    said = "this configuration is complete, .*seed would be ignored: give changes to lab.configure"
    with pytest.raises(LabError, match=said):
        lab.run(made, ["train.lr=0.1"], seed=1)
    with pytest.raises(LabError, match=said):
        next(lab.train(made, seed=1))


def test_a_parameter_without_gradients_has_no_moments_to_go_on_with():
    """A layer that never acts, as the pooler, is trained in name only; AdamW keeps nothing of it."""
    acts, idle = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    first, again = (adamw([{"acts": acts, "idle": idle}], [0.1], 0.0) for _ in range(2))
    acts.sum().backward()
    first.step()
    restore_moments(again, moments(first))
    assert torch.equal(again.state[acts]["exp_avg"], first.state[acts]["exp_avg"]) and idle not in again.state
    again.step()


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_an_expert_has_the_same_bytes_at_every_place_of_a_stream(scenario):
    """What the store rests on: trained first of two tasks, last of three, alone. Seven classes, so that sums have an order."""
    labels = tuple("abcdefg")
    streams = [("sea", "city"), ("farm", "city", "sea"), ("city", "sea")]
    made = [toy.trained("oracle", of=toy.tasks(*names, labels=labels, train=32), scenario=scenario) for names in streams]
    first, *others = [toy.expert(session, "sea") | toy.isolated(session, "sea") for session in made]
    assert "classifier.weight" in first and all(toy.equal(first, other) for other in others)


def test_reuse_in_another_order_changes_nothing(tmp_path):
    """The scores, and the routing they came from, of an order whose experts were trained in another one."""
    of = {name: toy.task(name, labels=tuple("abcdefg"), train=32, test=8) for name in ("sea", "city", "farm")}
    toy.trained("l2r", of=[of["sea"], of["city"], of["farm"]], store=tmp_path)
    turned = [of["farm"], of["sea"], of["city"]]
    reused, fresh = toy.trained("l2r", of=turned, store=tmp_path), toy.trained("l2r", of=turned)
    assert reused.cursor.reused_s > 0 == fresh.cursor.reused_s
    assert reused.scores == fresh.scores
    assert toy.equal(dict(reused.learner.named_parameters()), dict(fresh.learner.named_parameters()))


def test_queries_of_test_examples_are_computed_once(monkeypatch):
    """Fewer passes through the backbone, and not one bit changed."""

    def passes(keep: bool):
        made = toy.session("l2r", "router.query=backbone", "experts.skip=0", of=toy.tasks("sea", "city", "farm"))
        count = []
        real = made.learner.backbone.embed
        monkeypatch.setattr(made.learner.backbone, "embed", lambda batch: (count.append(batch.keys), real(batch))[1])
        for _ in made.train():
            if not keep:
                made.learner.inputs.queries.clear()
        return made, [keys for keys in count if all(split == "test" for _, split, _ in keys)]

    (one, few), (other, many) = passes(True), passes(False)
    assert one.scores == other.scores and toy.equal(one.learner.state_dict(), other.learner.state_dict())
    # untrained: 3; rows of the matrix: 1 + 2 + 3; with oracle routing: 3; and the queries of the rows: three, or one per cell
    assert len(few) == 3 + 6 + 3 + 3 and len(many) == 3 + 6 + 3 + 6


@pytest.mark.parametrize("recipe", ["sequential", "replay"])
def test_experts_that_depend_on_the_order_are_not_kept(recipe, tmp_path):
    toy.trained(recipe, store=tmp_path)
    assert not list(tmp_path.iterdir())


# a loss that is not finite ------------------------------------------------------------------------------------------------------


def test_a_broken_expert_is_not_kept(tmp_path):
    made = toy.session("l2r", store=tmp_path)
    with pytest.raises(RunFailed) as error:
        for event in made.train():
            if type(event).__name__ == "Step" and event.step == 8:
                with torch.no_grad():
                    made.learner.head.classifier.weight[0].fill_(float("nan"))
    assert_says(error, "task 'sea'", "not finite", "lower train.lr")
    assert not list(tmp_path.iterdir())


# methods ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", contract.CHECKS, ids=title)
@pytest.mark.parametrize("name", registry.methods.names())
def test_contract_of_methods(name, check):
    check(registry.methods.options(name))


def test_moments_of_a_method_come_in_order(monkeypatch):
    """A method that notes its moments: begin, then rows, terms and gradients at every step, then end."""
    noted = []

    class Note(Method):
        name = "note"

        def begin_task(self, t, rows):
            assert rows == made.rows[t, "train"]
            noted.append(("begin", t))

        def rows(self, rows, generator):
            noted.append("rows")
            return rows

        def terms(self, batch, out):
            noted.append("terms")
            return {"note": out.logits[:, 0].sum() * 0}

        def adjust_gradients(self):
            assert all(p.grad is not None for p in self.learner.bank.expert(0).values())
            noted.append("gradients")

        def end_task(self, t, rows):
            assert rows == made.rows[t, "train"] and len(self.memory) == 24 * (t + 1), "the memory holds the task's share"
            noted.append(("end", t))

    made = toy.session("sequential", "train.epochs=1")
    made.methods = [Note(Options(), made.learner, made.memory)]
    events = [event for event in made.train() if type(event).__name__ == "Step"]
    assert noted == [moment for t in range(2) for moment in (("begin", t), *["rows", "terms", "gradients"] * 3, ("end", t))]
    assert {tuple(event.terms) for event in events} == {("task", "note")}


def test_replay_adds_stored_rows():
    made = toy.session("replay", "methods.replay.per_step=5")
    (method,) = made.methods
    rows = made.rows[0, "train"][:3]
    assert method.rows(rows, torch.Generator()) == rows, "nothing is stored in the first task"
    made.memory.add(made.tasks[0], made.rows[0, "train"])
    mixed = method.rows(rows, torch.Generator().manual_seed(0))
    assert mixed[:3] == rows and len(mixed) == 8 and all(row in made.memory.rows for row in mixed[3:])


def test_recorded_routing_names_the_tasks_seen(tmp_path):
    run = toy.recorded(toy.session("l2r"), tmp_path)
    for after in run.recorded():
        routing = run.routing(after)
        assert routing.tasks == ["sea", "city"][: after + 1] == routing.experts
        assert all(routing.share(task).sum() == pytest.approx(1) for task in range(len(routing.tasks)))
