"""The model of a run asked again: what it answered when it was recorded, and what changes with its routing."""

import dataclasses

import numpy as np
import pytest
import torch
from support import tiny, toy

from lab.adapters import arithmetic
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.inference.loading import load
from lab.inference.override import Override
from lab.routers._arrow import Subtracted
from lab.routers.base import Decision, LayerDecision, single_expert
from lab.run_folder.prediction import kept
from lab.run_folder.writer import update_info
from lab.training.evaluation import WHOLE

RECIPES = {name: [name] for name in toy.recipes("sequential")}
CASES = RECIPES | {
    "heads": ["l2r", "router.heads=4"],
    "merged heads": ["l2r-merge", "router.heads=4"],
    "backbone": ["l2r", "router.query=backbone", "router.gate=softmax"],
    "bottleneck": ["l2r", "experts.name=bottleneck"],
    "top1": ["l2r", "router.evaluation=top1"],
}
STREAM = toy.tasks("sea", "city", "farm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(folder):
    """A finished run of a case, trained once."""
    made = {}

    def run(name, **settings):
        key = f"{name} {settings}".replace(" ", "-")
        if key not in made:
            made[key] = toy.recorded(toy.session(*CASES[name], of=STREAM, **settings), folder, f"r{len(made)}")
        return made[key]

    return run


def asked(run, after, override=None):
    """(task, row, answer) of every test example of the tasks seen."""
    model = load(run, after)
    for t in range(after + 1):
        for row, example in enumerate(STREAM[t].test):
            yield t, row, model.answer(example.text, override, task=t if model.needs_task else None)


def same_as_recorded(run, after):
    """Every answer has the recorded prediction, probability and, where it was kept whole, routing."""
    stored = run.predictions(after).set_index(["task", "row"])
    whole = {t: kept(run, after, t) for t in range(after + 1)}
    for t, row, answer in asked(run, after):
        then = stored.loc[(STREAM[t].name, row)]
        assert answer.prediction == then["prediction"]
        assert answer.ranked().iloc[0] == pytest.approx(then["probability"], abs=1e-5)
        assert answer.probabilities.sum() == pytest.approx(1, abs=1e-5)
        if row < WHOLE:
            other = whole[t][row]
            assert (other.text, other.prediction, other.label) == (answer.text, answer.prediction, then["label"])
            assert list(other.steps) == list(answer.steps) and other.layers == answer.layers and other.experts == answer.experts
            for name, step in answer.steps.items():
                np.testing.assert_allclose(step, other.steps[name], rtol=1e-6, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", [*toy.one_of_each_kind([*RECIPES]), *(name for name in CASES if name not in RECIPES)])
def test_a_loaded_model_answers_as_it_did(trained, name):
    run = trained(name)
    assert run.kept() == [0, 1, 2]
    for after in (0, 1, 2):
        same_as_recorded(run, after)


def test_a_change_comes_before_the_mean_of_all_experts_is_subtracted():
    """By hand: arrow gives (0.7, 0.3), so (0.2, -0.2) acts; expert 0 alone is (1, 0) less a half of each."""
    w = torch.tensor([[[[0.7, 0.3]]]])
    given = Subtracted(lambda layer, x: w)
    assert torch.allclose(given.weights_for_layer(0, w), torch.tensor([0.2, -0.2]))
    alone, sharp = Override(expert=0).of(given), Override(temperature=0.5).of(given)
    assert torch.allclose(alone.weights_for_layer(0, w), torch.tensor([0.5, -0.5]))
    assert torch.equal(alone.recorded()[0, 0, 0], torch.tensor([1.0, 0]))
    assert torch.allclose(sharp.weights_for_layer(0, w), torch.tensor([0.2, -0.2]) / 0.58)  # .49 and .09 of .58, less a half
    assert torch.equal(given.recorded()[0, 0, 0], w[0, 0, 0])


def test_a_decision_made_before_the_layers_stays_one():
    """So it is known in layers that have not run, as those of a decoder while the text is read."""
    changed = Override(expert=1).of(Decision(torch.tensor([[[[0.7, 0.3]]]])))
    assert torch.equal(changed.recorded(), torch.tensor([[[[0.0, 1]]]])) and changed.for_generation() is changed


@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_scenarios(trained, scenario):
    run = trained("l2r", scenario=scenario)
    model = load(run)
    assert model.needs_task == (scenario == "task") and repr(model).startswith("<RoutedModel l2r on tiny after task '")
    assert len(model.answer("red tide reef", task=1).classes) == 2
    same_as_recorded(run, 2)


def test_an_expert_alone_equals_the_oracle(trained):
    """Forcing the true expert is what oracle routing measures: same scores as the run's own."""
    run = trained("l2r")
    model = load(run)
    for t, task in enumerate(STREAM):
        found = [model.answer(example.text, Override(expert=t)) for example in task.test]
        right = [answer.prediction == f"{task.name}/{task.labels[e.label]}" for answer, e in zip(found, task.test, strict=True)]
        assert np.mean(right) == pytest.approx(run.recorded_scores["oracle"][t])
        assert (found[0].weights[..., t] == 1).all() and found[0].by_expert().iloc[t] == 1
    with torch.no_grad():
        batch = model.learner.backbone.collate(model.learner.backbone.encode([STREAM[0].test[0]], 0, "train"))
        with model.learner.bank.routed(single_expert(0, model.learner.backbone.device)):
            logits = model.learner.head.logits(batch)[0]
    answer = model.answer(STREAM[0].test[0].text, Override(expert=0))
    np.testing.assert_allclose(answer.probabilities, logits.softmax(-1).numpy(), atol=1e-6)


def test_a_saved_expert_tried_alone_has_the_score_of_the_oracle(trained):
    """So has the exact sum of its halves, of twice the rank; without effect it is the frozen backbone."""
    run = trained("l2r")
    model, experts = load(run), {task.name: arithmetic.read(run.dir / "experts" / task.name) for task in STREAM}
    for t, task in enumerate(STREAM):
        own = experts[task.name]
        halves = arithmetic.add([own, own], weights=[0.5, 0.5], how="cat")
        assert halves.config["r"] == 2 * own.config["r"]
        for adapter in (own, halves):
            assert model.accuracy(adapter, t, task.test, size=7) == pytest.approx(run.recorded_scores["oracle"][t])
    nothing = [model.accuracy(arithmetic.scaled(own, 0.0), t, task.test) for t, task in enumerate(STREAM)]
    frozen = []
    for t, task in enumerate(STREAM):
        batch = model.learner.backbone.collate(model.learner.backbone.encode(task.test, t, "train"))
        frozen.append(model.learner.head.answers(batch, None, 3).correct.mean())
    assert nothing == pytest.approx(frozen) and nothing != pytest.approx(run.recorded_scores["oracle"])
    odd = dataclasses.replace(own, tensors=dict([*own.tensors.items()][2:]))
    with pytest.raises(LabError, match="no LoRA of the layers of this model"):
        model.accuracy(odd, 0, STREAM[0].test)


def test_uniform_override_equals_the_uniform_router(trained):
    """L2R with equal weights is the uniform recipe before its classifier is tuned apart: equal weights in every layer."""
    answer = load(trained("heads")).answer("red tide", Override(uniform=True))
    assert np.allclose(answer.weights, 1 / 3) and answer.weights.shape[1:] == (4, 3)
    assert list(answer.steps) == ["logits", "gates", "weights", "changed"]


def test_changes_of_weights_by_hand():
    w = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]])
    assert Override()(w) is w
    assert torch.allclose(Override(top=1)(w), torch.tensor([[[1.0, 0, 0], [0, 0, 1]]]))
    assert torch.allclose(Override(top=2)(w)[0, 0], torch.tensor([0.625, 0.375, 0]))
    assert torch.allclose(Override(temperature=0.5)(w)[0, 0], torch.tensor([0.25, 0.09, 0.04]) / 0.38)
    assert torch.allclose(Override(temperature=1e6)(w)[0, 0], torch.full((3,), 1 / 3), atol=1e-5)
    assert torch.allclose(Override(temperature=0.01)(w)[0, 0], torch.tensor([1.0, 0, 0]))
    assert torch.equal(Override(without=(1,))(w), torch.tensor([[[0.5, 0.3, 0.2], [0, 0, 0]]]))
    assert torch.equal(Override(expert=1, without=(0,))(w), torch.tensor([[[0, 0, 0], [0, 1.0, 0]]]))
    assert torch.allclose(Override(pruned=(0,))(w)[0, 0], torch.tensor([0, 0.6, 0.4]))
    assert torch.allclose(Override(pruned=(0,), temperature=0.5)(w)[0, 0], torch.tensor([0, 0.36, 0.16]) / 0.52)
    assert torch.equal(Override(pruned=(0,), uniform=True)(w)[0, 0], torch.tensor([0, 0.5, 0.5]))
    assert torch.equal(Override(temperature=10)(torch.tensor([[[1.0, 0, 0]]]))[0, 0], torch.tensor([1.0, 0, 0]))
    loose = 2.5 * w  # weights that do not sum to one keep their sum
    assert torch.allclose(Override(temperature=2, top=2)(loose).sum(-1), torch.tensor(2.5))
    logits = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Override(temperature=3)(logits.softmax(-1)), (logits / 3).softmax(-1), atol=1e-6)


def test_all_heads_off_is_the_frozen_backbone(trained):
    model = load(trained("heads"))
    answer = model.answer("red tide reef", Override(without=(0, 1, 2, 3)))
    batch = model.learner.backbone.collate(model.learner.backbone.encode([toy.Example("red tide reef", 0)], 0, "train"))
    with torch.no_grad():
        expected = model.learner.head.logits(batch)[0].softmax(-1).numpy()
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-6)
    assert (answer.by_expert() == 0).all()
    partly = model.answer("red tide reef", Override(without=(2,)))
    assert (partly.weights[:, 2] == 0).all() and (partly.weights[:, [0, 1, 3]].sum(-1) > 0.99).all()


def test_a_change_leaves_the_model_as_it_was(trained):
    model = load(trained("l2r"))
    before = model.answer("blue tide")
    for change in (Override(expert=2), Override(uniform=True), Override(temperature=0.1), Override(top=1)):
        assert not np.array_equal(model.answer("blue tide", change).probabilities, before.probabilities)
    again = model.answer("blue tide")
    assert np.array_equal(again.probabilities, before.probabilities) and np.array_equal(again.weights, before.weights)


def test_routing_by_token(trained):
    """A router that decides for each token: its weights are shown beside the tokens; the recorded ones are their means."""
    model = load(trained("l2r"))
    given = tiny.weights(len(model.learner.bank.layers), 1, 4, 1, 3)  # (L, B, T, H, E)
    model.learner.decide = lambda batch: tiny.per_token(given)
    answer = model.answer("red tide reef")
    assert answer.tokens == ["[start]", "red", "tide", "reef"]
    np.testing.assert_allclose(answer.token_weights, given[:, 0])
    np.testing.assert_allclose(answer.by_token(), given[:, 0].mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(answer.weights, given[:, 0].mean(1), rtol=1e-6)
    assert (model.answer("red tide reef", Override(expert=1)).by_token()["city"] == 1).all()
    with pytest.raises(LabError, match="not for each token"):
        load(trained("l2r")).answer("red tide reef").by_token()
    assert isinstance(tiny.per_token(given), LayerDecision)


def test_long_texts_are_cut_and_say_so(trained):
    model = load(trained("l2r"))
    limit = model.learner.backbone.max_length
    long = model.answer("red " * 10_000)
    assert long.cut and len(long.tokens) == limit and not model.answer("red").cut


def test_what_cannot_be_asked_is_refused(trained):
    model, told = load(trained("heads"), 1), load(trained("oracle"), 1)
    for refused, reason in [
        (lambda: model.answer("  "), "the text is empty: type a few words"),
        (lambda: model.answer("a", Override(expert=2)), "there is no expert 2: use 0 to 1"),
        (lambda: model.answer("a", Override(top=3)), "top = 3: use 1 to 2"),
        (lambda: model.answer("a", Override(temperature=0)), "temperature = 0: it must be above 0"),
        (lambda: model.answer("a", Override(without=(4,))), "without = [4]: this run has 4 routing head(s), numbered from 0"),
        (lambda: model.answer("a", task=2), "task 2 was not learned at this moment: use 0 to 1"),
        (lambda: told.answer("a"), "this model is told the task of every text: name it"),
        (lambda: load(trained("l2r"), 7), "run '{run}' has no weights of the moment after task 7; kept: [0, 1, 2]"),
        (lambda: kept(trained("l2r"), 0, 2), "run '{run}' kept no examples of task 2 after task 0"),
    ]:
        with pytest.raises(LabError) as error:
            refused()
        assert str(error.value) == reason.format(run=trained("l2r").id)


def test_damaged_and_changed_files_are_refused(tmp_path):
    run = toy.recorded(toy.session("l2r", of=STREAM[:2]), tmp_path)
    update_info(run, fingerprint=run.info["fingerprint"] | {"backbone": "another"})
    with pytest.raises(LabError, match="has changed since"):
        load(run)
    update_info(run, fingerprint={})
    saved = run.dir / "state" / "after_1" / "classifier.safetensors"
    whole = saved.read_bytes()
    saved.write_bytes(b"xx")
    with pytest.raises(LabError, match="is damaged: after_1 cannot be read"):
        load(run)
    saved.write_bytes(whole)
    atomic_io.write_arrays(run.dir / "state" / "after_1" / "router.safetensors", {"odd": np.zeros(2)})
    with pytest.raises(LabError, match="is damaged: after_1 cannot be read"):
        load(run)
    (run.dir / "experts" / "sea" / "adapter_model.safetensors").unlink()
    with pytest.raises(LabError, match=r"adapter_model\.safetensors is missing"):
        load(run)


def test_a_kept_answer_without_predictions_has_no_prediction(tmp_path):
    run = toy.recorded(toy.session("l2r", of=STREAM[:2]), tmp_path)
    (run.dir / "predictions" / "after_1.parquet").unlink()
    answer = kept(run, 1, 0)[0]
    assert answer.prediction == "?" and np.isnan(answer.probabilities[0]) and answer.label is None
    assert answer.by_layer(0).shape == (len(answer.layers), 2) and dataclasses.is_dataclass(answer)
