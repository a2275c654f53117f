"""Label spaces of the three scenarios, by hand."""

import pytest
import torch

from lab.core.errors import LabError
from lab.data.label_space import LabelSpace
from lab.data.stream import Task
from lab.data.task_checks import check_labels


def task(name: str, *labels: str) -> Task:
    return Task(name, labels, (), (), ())


TASKS = [task("mail", "spam", "ham"), task("film", "bad", "fair", "good"), task("shop", "bad", "good")]
LABEL, TASK = torch.tensor([1, 0, 2, 1]), torch.tensor([0, 2, 1, 1])


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_a_label_of_two_tasks_is_two_classes(scenario):
    space = LabelSpace(scenario, TASKS)
    assert space.names == ["mail/spam", "mail/ham", "film/bad", "film/fair", "film/good", "shop/bad", "shop/good"]
    assert (len(space), space.own) == (7, [range(0, 2), range(2, 5), range(5, 7)])
    assert space.target(LABEL, TASK).tolist() == [1, 5, 4, 3]


def test_competing_classes_of_the_task():
    space = LabelSpace("task", TASKS)
    assert space.competing(torch.tensor([1, 0]), 3, "task").int().tolist() == [[0, 0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]]
    assert torch.equal(space.competing(TASK, 1, "task"), space.competing(TASK, 3, "task"))


def test_competing_classes_seen_so_far():
    space = LabelSpace("class", TASKS)
    for seen, row in {0: [0] * 7, 1: [1, 1, 0, 0, 0, 0, 0], 2: [1, 1, 1, 1, 1, 0, 0], 3: [1] * 7}.items():
        assert space.competing(TASK, seen, "seen").int().tolist() == [row] * 4


def test_the_target_competes():
    for scenario in ("class", "task"):
        space = LabelSpace(scenario, TASKS)
        for how in ("task", "seen"):
            mask = space.competing(TASK, 3, how)
            assert mask[torch.arange(4), space.target(LABEL, TASK)].all()


def test_domain_shares_one_list():
    space = LabelSpace("domain", [task("a", "no", "yes"), task("b", "no", "yes")])
    assert (space.names, space.own) == (["no", "yes"], [range(0, 2), range(0, 2)])
    assert space.target(torch.tensor([1, 0]), torch.tensor([1, 0])).tolist() == [1, 0]
    for how in ("task", "seen"):
        assert space.competing(torch.tensor([0, 1]), 1, how).all()


@pytest.mark.parametrize("other", [("bad", "good"), ("ham", "spam")])
def test_domain_refuses_other_lists_and_other_orders(other):
    with pytest.raises(LabError) as caught:
        check_labels("domain", [task("mail", "spam", "ham"), task("film", *other)])
    assert str(caught.value) == (
        "scenario domain needs tasks with identical label lists: 'mail' has spam, ham, "
        f"'film' has {', '.join(other)}; use scenario class or task"
    )
