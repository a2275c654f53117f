"""A tiny model with a bank of skills, and what its router is asked."""

import torch

from lab.core.registry import routers
from lab.routers.base import Request
from support import tiny

TASKS, SKILLS, SCALE = 3, 4, 1 / tiny.RANK


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def skills(layers, heads: int = 1, tasks: int = TASKS, **options):
    """A router with random logits of the size that training makes."""
    made = routers.get("skills")(routers.options({"name": "skills", "heads": heads, **options}), layers, 32)
    made.grow(SKILLS)
    for task in range(tasks):
        made.add_task(task, 0, draw(task))
        made.logits[task].data = torch.randn(made.logits[task].shape, generator=draw(50 + task)) * 2
    return made


def inventory(heads: int, **options):
    """A tiny model with a bank of random skills, and its router."""
    host, bank = tiny.bank("bert", composition="merge", heads=heads, experts=SKILLS, alpha=1.0)
    return host, bank, skills(bank.layers, heads, **options)


def asked(task: torch.Tensor | None, noise: torch.Generator | None = None) -> Request:
    return Request(torch.ones(4 if task is None else len(task), 6), task=task, noise=noise)
