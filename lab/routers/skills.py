"""Polytropon's allocation of skills to tasks (Ponti, Sordoni, Bengio and Reddy 2022), with routing heads (Caccia et al. 2023).

Task i, routing head h, skill j, in each layer (or block, or once): a logit z. In training a relaxed Bernoulli (Eq. 2),
sigmoid((z + log u - log(1 - u)) / temperature) with u ~ U(0, 1) for every example; in evaluation sigmoid(z). The weights
of a task are divided by their sum over the skills of a head (Eq. 3); with composition `merge` they sum the skills' parameters.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.core.errors import LabError
from lab.experts.base import LayerInfo
from lab.routers.base import (
    Axes,
    Decision,
    FromMemory,
    Reads,
    Request,
    Router,
    RouterOptions,
    TaskAware,
    Trained,
    normalised,
)

BOUND = 1e-3  # of the first logits: nearly the same weight for every skill


class SkillsOptions(RouterOptions):
    name: str = "skills"
    gate: Literal["relaxed-bernoulli", "sigmoid"] = Field(
        "relaxed-bernoulli", description="in training: sampled for every example, or the plain sigmoid; in evaluation the latter"
    )
    temperature: float = Field(1.0, gt=0, le=100, description="of the relaxed Bernoulli distribution; lower is harder")
    granularity: Literal["layer", "block", "global"] = Field(
        "layer", description="what has an allocation of its own: each adapted layer, each block of the backbone, or all together"
    )
    epsilon: float = Field(1e-12, ge=0, le=1, description="added to the sum that the weights of a head are divided by")
    prior: float = Field(0.0, ge=0, le=1000, description="weight of the Indian buffet prior in the loss; 0: none")
    alpha: float = Field(5.0, gt=0, le=1000, description="of the Indian buffet prior: how many skills a task is expected to use")


class Skills(Router, TaskAware, FromMemory):
    """A learned table of tasks and skills: which skills of the inventory each task uses; it is given the task, and says so."""

    name = "skills"
    axes = Axes("layer", "task", "soft")
    reads = frozenset({Reads.TASK})
    trained = Trained.ON_MEMORY
    Options = SkillsOptions
    options: SkillsOptions
    step_descriptions = {
        "logits": "the task's row of a learned table, one number per expert; the text is not looked at",
        "weights": "each gate divided by the sum of all",
    }

    def __init__(self, options: SkillsOptions, layers: Sequence[LayerInfo], width: int):
        super().__init__(options, layers, width)
        units = {"layer": [layer.name for layer in layers], "block": [_block(layer.name) for layer in layers], "global": ["all"]}
        unit_of = units[options.granularity]
        self.tables = list(dict.fromkeys(unit_of))  # G of them
        self.table_of = [self.tables.index(unit) for unit in unit_of]  # (L,), or (1,) if global
        self.logits = nn.ParameterList()  # per task (G, H, E)

    def add_task(self, task: int, classes: int, generator: torch.Generator) -> None:
        """A row of logits for the task; those of other tasks stay as they are."""
        row = torch.empty(len(self.tables), self.heads, self.experts).uniform_(-BOUND, BOUND, generator=generator)
        self.logits.append(nn.Parameter(row))

    def grow(self, experts: int) -> None:
        """Columns for new skills, which begin with logits of 0; the others stay as they are."""
        for task, old in enumerate(self.logits):
            new = old.new_zeros(*old.shape[:2], experts - self.experts)
            self.logits[task] = nn.Parameter(torch.cat([old.data, new], dim=-1))
        super().grow(experts)

    def of_task(self, task: int) -> dict[str, nn.Parameter]:
        return {f"logits.{task}": self.logits[task]}

    @torch.no_grad()
    def reset(self, generator: torch.Generator, queries: Sequence[Tensor], owners: Tensor) -> None:
        for row in self.logits:
            row.copy_(torch.empty(row.shape).uniform_(-BOUND, BOUND, generator=generator))

    def forward(self, request: Request) -> Decision:
        if request.task is None:
            raise LabError("the skills router needs the task identity of every row")
        sampled = request.noise is not None and self.options.gate == "relaxed-bernoulli"
        task = request.task
        if not sampled and (task == task[0]).all():
            task = task[:1]  # the same weights for all rows: the parameters are merged once
        steps = {"logits": torch.stack([*self.logits])[task]}  # (B | 1, G, H, E)
        if sampled:
            u = torch.rand(steps["logits"].shape, generator=request.noise).clamp(1e-6, 1 - 1e-6).to(task.device)
            steps["noisy logits"] = steps["logits"] + torch.log(u) - torch.log1p(-u)
            steps["gates"] = torch.sigmoid(steps["noisy logits"] / self.options.temperature)
        else:
            steps["gates"] = torch.sigmoid(steps["logits"])
        steps["weights"] = normalised(steps["gates"], self.options.epsilon)
        steps = {name: step[:, self.table_of] for name, step in steps.items()}  # (B | 1, L | 1, H, E)
        losses = {"prior": self.prior()} if self.options.prior and request.noise is not None else {}
        return Decision(steps["weights"], losses=losses, steps=steps)

    def prior(self) -> Tensor:
        """Weighted minus log probability of the tables under the prior, mean over tables and heads; of the tasks now trained."""
        rows = [row for row in self.logits if row.requires_grad]
        tables = torch.sigmoid(torch.stack(rows)).flatten(1, 2).unbind(1)  # G * H of (T, E)
        return -self.options.prior * torch.stack([buffet(table, self.options.alpha) for table in tables]).mean()


def buffet(z: Tensor, alpha: float) -> Tensor:
    """Log probability of an allocation z (T, E) in (0, 1) under the Indian buffet process (Eq. 4), of its entries rounded.

    With T tasks, m_j tasks that use skill j, and n_h equal columns of kind h, over the skills that some task uses:
    E log alpha - sum_h log n_h! - alpha sum_{i <= T} 1/i + sum_j (log (T - m_j)! + log (m_j - 1)! - log T!). The gradient is that
    of the unrounded m_j (straight-through estimator), as in the authors' code.
    """
    tasks, used = len(z), z.round().bool().any(0)
    z = z[:, used]  # (T, E of used skills)
    m = (z + (z.round() - z).detach()).sum(0)
    equal = torch.tensor([*Counter(map(tuple, z.round().T.tolist())).values()])
    columns = torch.lgamma(tasks - m + 1) + torch.lgamma(m) - math.lgamma(tasks + 1)
    harmonic = sum(1 / i for i in range(1, tasks + 1))
    return columns.sum() + len(m) * math.log(alpha) - torch.lgamma(equal + 1.0).sum() - alpha * harmonic


def _block(name: str) -> str:
    """A layer's name up to the number of its block; all layers outside of blocks belong together."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if number is None else ".".join(parts[: number + 1])
