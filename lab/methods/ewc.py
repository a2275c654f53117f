"""Elastic weight consolidation: parameters that mattered for past tasks are held where those tasks left them.

Kirkpatrick et al. (2017), equation 3; online form: Schwarz et al. (2018), "Progress & compress", section 3.2.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.core.registry import Options
from lab.core.rng import generator
from lab.data.batching import Batch, Encoded
from lab.data.replay_buffer import Memory
from lab.methods.base import Method
from lab.models.heads import Classification
from lab.models.learner import Learner, Output


class EWCOptions(Options):
    name: str = "ewc"
    strength: float = Field(1000.0, ge=0, le=1e12, description="lambda, weight of the penalty")
    form: Literal["per_task", "online"] = Field(
        "per_task", description="a penalty for every past task, or one whose Fisher information is a decaying sum"
    )
    decay: float = Field(1.0, ge=0, le=1, description="gamma of the online form: what is left of the older sum at each task")
    labels: Literal["sampled", "given"] = Field(
        "sampled", description="labels of the Fisher information: drawn from the model, as it is defined, or the true ones given"
    )
    examples: int = Field(200, ge=1, le=1_000_000, description="random training examples of a task to estimate it on, one by one")


class EWC(Method):
    """Parameters that mattered for past tasks are held where those tasks left them; nothing but statistics is stored.

    The penalty covers the shared expert and the classifier rows that were trained. With true labels the Fisher information
    is the "empirical" one, which vanishes where the training examples are fitted; sampled labels cost the same.
    """

    name = "ewc"
    Options = EWCOptions
    options: EWCOptions
    needs_classes = True

    def __init__(self, options: EWCOptions, learner: Learner, memory: Memory):
        super().__init__(options, learner, memory)
        self.past: list[dict[str, dict[str, Tensor]]] = []  # {"fisher": ..., "anchor": ...} by task; online: at most one

    def terms(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        if not self.past:
            return {}
        trained = self.learner.trainable_parameters()
        penalties = [quadratic_penalty(trained, past["anchor"], past["fisher"]) for past in self.past]
        return {"ewc": self.options.strength * sum(penalties, torch.zeros(()))}

    def end_task(self, t: int, rows: list[Encoded]) -> None:
        bank, trained = self.learner.bank, self.learner.trainable_parameters()
        bank.trainable(len(bank) - 1, True)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        fisher = fisher_diagonal(self.log_likelihoods(t, rows), trained)
        for parameter in trained.values():
            parameter.requires_grad_(False)
        bank.trainable(len(bank) - 1, False)
        if self.options.form == "online" and self.past:
            before = self.past.pop()["fisher"]
            fisher = {name: f + self.options.decay * before[name] if name in before else f for name, f in fisher.items()}
        self.past.append({"fisher": fisher, "anchor": {name: p.detach().clone() for name, p in trained.items()}})

    def log_likelihoods(self, t: int, rows: list[Encoded]) -> Iterator[Tensor]:
        """Of single examples of task t, under the true or a sampled label, each with a graph of its own."""
        learner, chance = self.learner, generator(self.learner.config.seed, self.name, self.learner.task_names[t])
        head = learner.head
        assert isinstance(head, Classification), "`check_tasks` refuses the others"
        for i in torch.randperm(len(rows), generator=chance)[: self.options.examples].tolist():
            batch = learner.backbone.collate([rows[i]])
            decision = learner.decide(batch)
            with learner.bank.routed(decision):
                log_p = head.competing(head.logits(batch), batch.task).log_softmax(-1)[0]  # (C,)
                if self.options.labels == "given":
                    yield log_p[head.space.target(batch.label, batch.task)[0]]
                else:
                    yield log_p[torch.multinomial(log_p.detach().exp().cpu(), 1, generator=chance)[0]]

    def state(self) -> dict[str, Tensor]:
        return {
            f"{k}/{kind}/{name}": tensor
            for k, past in enumerate(self.past)
            for kind, tensors in past.items()
            for name, tensor in tensors.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.past = []
        for path, tensor in tensors.items():
            k, kind, name = path.split("/", 2)
            while len(self.past) <= int(k):
                self.past.append({"fisher": {}, "anchor": {}})
            self.past[int(k)][kind][name] = tensor.to(self.learner.backbone.device)


def fisher_diagonal(log_likelihoods: Iterable[Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Diagonal of the Fisher information: mean over examples of the squared gradient of each one's log-likelihood.

    `log_likelihoods` are scalars with graphs of their own, one per example: the square of a batch's mean gradient is
    something else, and smaller by about the batch size. Parameters that do not act get 0.
    """
    total, count = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}, 0
    for value in log_likelihoods:
        gradients = torch.autograd.grad(value, list(parameters.values()), materialize_grads=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            total[name] += gradient.square()
        count += 1
    return {name: tensor / count for name, tensor in total.items()}


def quadratic_penalty(parameters: Mapping[str, Tensor], anchor: Mapping[str, Tensor], importance: Mapping[str, Tensor]) -> Tensor:
    """1/2 sum of importance * (parameter - anchor)^2 over the parameters that have an anchor; a scalar."""
    held = [name for name in parameters if name in anchor]
    parts = ((importance[name] * (parameters[name] - anchor[name]).square()).sum() for name in held)
    return 0.5 * sum(parts, torch.zeros(()))
