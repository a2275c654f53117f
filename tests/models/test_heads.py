"""The classifier of a head: one concatenation however many tasks there are, and the same logits as a loop over blocks."""

import pytest
import torch
from support import toy
from support.numbers import numbers

from lab.data.label_space import LabelSpace
from lab.data.stream import Task
from lab.models.heads import Classifier


def classifier(tasks: int, seen: int, scenario: str = "class") -> Classifier:
    """With blocks of the first `seen` tasks; task t has 2 + t % 3 labels."""
    labels = [("a", "b", "c", "d")[: 2 + (t % 3 if scenario != "domain" else 0)] for t in range(tasks)]
    space = LabelSpace(scenario, [Task(f"t{t}", own, (), (), ()) for t, own in enumerate(labels)])
    built = Classifier(space, 6, torch.device("cpu"))
    for t in range(seen):
        built.grow("test", t)
    return built


@pytest.mark.parametrize("seen", [0, 1, 3])
@pytest.mark.parametrize("only", [None, 0, 2])
def test_logits_stand_in_the_columns_of_their_tasks(seen, only):
    if only is not None and only >= seen:
        pytest.skip("a task that was not added has no block")
    built, x = classifier(4, seen), numbers(5, 6)
    expected = torch.full((5, len(built.space)), -torch.inf)
    for t in range(seen) if only is None else [only]:
        own = built.space.own[t]
        expected[:, own.start : own.stop] = x @ built.weight[t].T + built.bias[t]
    torch.testing.assert_close(built(x, only), expected)


def test_blocks_of_shared_classes_are_averaged():
    built, x = classifier(3, 3, "domain"), numbers(5, 6)
    torch.testing.assert_close(built(x), torch.stack([x @ w.T for w in built.weight]).mean(0))


@pytest.mark.parametrize("tasks", [2, 40])
def test_there_is_one_concatenation_for_all_tasks(monkeypatch, tasks):
    built, calls, cat = classifier(tasks, tasks), [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda *args, **options: calls.append(1) or cat(*args, **options))
    built(numbers(5, 6))
    assert len(calls) == 1


def test_a_learner_has_few_methods():
    """It is backbone, bank, router and head put together; what these do is theirs."""
    learner = toy.session("l2r").learner
    own = [name for name, value in vars(type(learner)).items() if callable(value) or isinstance(value, property)]
    assert len(own) <= 15, own
