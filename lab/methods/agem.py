"""A-GEM: no step may raise the loss on the memory, to first order (Chaudhry et al. 2019, "Efficient lifelong learning")."""

import torch
from pydantic import Field
from torch import Tensor

from lab.core.registry import Options
from lab.data.batching import Encoded
from lab.data.replay_buffer import Memory
from lab.methods.base import Method
from lab.models.learner import Learner


class AGEMOptions(Options):
    name: str = "agem"
    per_step: int = Field(32, ge=1, le=4096, description="stored examples whose gradient is the reference of a step")


class AGEM(Method):
    """A gradient that would raise the loss on stored examples of past tasks loses the part that does so.

    The gradient is the one of all loss terms, before it is clipped; the optimiser rescales what is left of it.
    """

    name = "agem"
    Options = AGEMOptions
    options: AGEMOptions
    uses_memory = True

    def __init__(self, options: AGEMOptions, learner: Learner, memory: Memory):
        super().__init__(options, learner, memory)
        self.sampled: list[Encoded] = []  # of the step in progress

    @classmethod
    def examples_of(cls, options: AGEMOptions, own: int, stored: int) -> tuple[int, int]:
        return own, min(options.per_step, stored)

    def rows(self, rows: list[Encoded], generator: torch.Generator) -> list[Encoded]:
        self.sampled = self.memory.sample(self.options.per_step, generator)
        return rows

    def adjust_gradients(self) -> None:
        if not self.sampled:
            return
        learner, parameters = self.learner, list(self.learner.trainable_parameters().values())
        batch = learner.backbone.collate(self.sampled)
        decision = learner.decide(batch)
        with learner.bank.routed(decision):
            loss = learner.head.loss(learner.head.logits(batch), batch)
            reference = torch.autograd.grad(loss, parameters, materialize_grads=True)
        own = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        gradient, reference = (torch.cat([part.reshape(-1) for part in parts]) for parts in (own, reference))  # (P,) each
        fixed = project(gradient, reference)
        for parameter, part in zip(parameters, fixed.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter).clone()


def project(gradient: Tensor, reference: Tensor) -> Tensor:
    """The vector closest to `gradient` whose product with `reference` is not negative (equation 11); both (P,)."""
    product = gradient @ reference
    return gradient if product >= 0 else gradient - product / (reference @ reference) * reference
