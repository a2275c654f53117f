"""InfLoRA: designed directions lie outside of the basis of earlier tasks, B alone is trained, and less is forgotten."""

import pytest
import torch
from support import toy
from support.numbers import numbers

from lab.config.resolve import configure
from lab.core.errors import LabError
from lab.methods.inflora import extended, leading_directions, second_moments


def test_a_basis_holds_the_asked_share_with_as_few_directions_as_it_can():
    """Against singular values of the inputs themselves."""
    h = numbers(50, 8, seed=1).double() * torch.tensor([4.0, 3, 2, 1, 0.5, 0.2, 0.1, 0.1])
    old = torch.linalg.qr(numbers(8, 2, seed=2).double()).Q
    basis = extended(old, h.T @ h, 0.9)
    outside = h - h @ old @ old.T
    squares = torch.linalg.svdvals(outside).square()
    held = h.square().sum() - outside.square().sum()
    count = next(k for k in range(9) if held + squares[:k].sum() >= 0.9 * h.square().sum())
    assert basis.shape == (8, 2 + count)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2 + count, dtype=torch.float64))
    torch.testing.assert_close(basis @ (basis.T @ old), old)
    assert (h @ basis).square().sum() >= 0.9 * h.square().sum()
    assert extended(basis, h.T @ h, 0.9).shape == basis.shape, "what is held already needs no direction"
    assert extended(basis, h.T @ h, 1.0).shape == (8, 8)


def test_directions_are_the_leading_right_singular_vectors_outside_of_the_basis():
    h, basis = numbers(50, 6, seed=3).double(), torch.linalg.qr(numbers(6, 4, seed=4).double()).Q
    exact = torch.linalg.svd(h - h @ basis @ basis.T).Vh[:2].T
    directions = leading_directions(h.T @ h, basis, 3)
    torch.testing.assert_close((directions[:, :2] * exact).sum(0).abs(), torch.ones(2, dtype=torch.float64))
    assert not directions[:, 2].any(), "four of six directions are taken, so two are left"


def test_directions_are_fixed_and_orthogonal_to_what_earlier_tasks_use():
    made = toy.session("inflora", of=toy.tasks("sea", "city", "farm"))
    method, designed = made.methods[0], {}
    for event in made.train():
        if type(event).__name__ == "TaskStarted":
            expert = toy.expert(made, event.name)
            designed = {name: p for name, p in expert.items() if name.endswith("lora_A")}
            assert not any(p.any() for name, p in expert.items() if name.endswith("lora_B"))
            assert not any(name.endswith("lora_A") for name in made.learner.trainable_parameters())
            for name, a in designed.items():
                basis = method.bases[name.removesuffix(".lora_A")]
                assert (a.double() @ basis).abs().max() < 1e-5 if basis.shape[1] else event.task == 0
                assert all(abs(length - 3**-0.5) < 1e-5 or length == 0 for length in a.norm(dim=1).tolist())
        if type(event).__name__ == "Learned":
            after = toy.expert(made, event.name)
            assert all(torch.equal(after[name], a) for name, a in designed.items())
            assert any(p.any() for name, p in after.items() if name.endswith("lora_B"))
    assert all(0 < basis.shape[1] <= len(basis) for basis in method.bases.values())


def test_no_more_is_forgotten_than_without_designed_directions_in_scenario_class():
    """One seed of a toy stream, so a check that nothing broke and no claim: in scenario domain designed directions forget more.

    The loss is among the classes of the task in both, so that the directions alone differ.
    """

    def forgotten(recipe: str) -> float:
        made = toy.trained(recipe, "train.loss_classes=task", of=toy.tasks("sea", "city", "farm"))
        last, learned = made.scores.matrix[-1], [row[t] for t, row in enumerate(made.scores.matrix)]
        return sum(then - now for then, now in zip(learned[:-1], last[:-1], strict=True))

    assert forgotten("inflora") <= forgotten("inclora")


def test_padding_is_no_input():
    """Moments of rows of unequal length are those of the rows alone."""
    made = toy.session("inflora")
    made.learner.add_task(0)
    rows = [row._replace(ids=row.ids[:length]) for row, length in zip(made.rows[0, "train"], (3, 6, 5), strict=False)]
    rows = [row._replace(types=row.types[: len(row.ids)]) for row in rows]
    with torch.no_grad():
        together = second_moments(made.learner, rows)
        alone = [second_moments(made.learner, [row]) for row in rows]
    for name, moment in together.items():
        torch.testing.assert_close(moment, sum(each[name] for each in alone), rtol=1e-4, atol=1e-4)


def test_only_lora_experts_of_tasks_have_designed_directions():
    with pytest.raises(LabError, match=r"use experts\.name=lora and experts\.allocation=per_task"):
        configure("sequential", ["methods.inflora={}"])
