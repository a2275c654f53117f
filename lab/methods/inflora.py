"""Interference-free low-rank adaptation (InfLoRA, Liang and Li 2024, CVPR): a new LoRA reads what earlier tasks do not use.

In a layer with inputs x (I,) of task t, rows of H_t: the gradient of a weight lies in the span of its inputs (proposition 1),
so an update B A with fixed A changes nothing for an input that the rows of A are orthogonal to. Let M (I, k) be an orthonormal
basis of the inputs of earlier tasks. A_t holds the r leading right singular vectors of H_t - H_t M M^T (section 3.2), and B_t
alone is trained. After the task M gets leading right singular vectors of H_t - H_t M M^T, as few as leave at most 1 - epsilon_t
of |H_t|^2 outside of M; epsilon_t rises linearly from `epsilon` to 1 with the tasks (gradient projection memory, Saha et al.
2021; DualGPM, Liang and Li 2023, stores the complement of M where that is smaller, which gives the same projection).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.core.errors import LabError
from lab.core.registry import Options
from lab.data.batching import Encoded
from lab.data.replay_buffer import Memory
from lab.methods.base import Method
from lab.models.learner import Learner


class InfLoRAOptions(Options):
    name: str = "inflora"
    epsilon: float = Field(
        0.95,
        gt=0,
        le=1,
        description="share of the squared inputs of a task that later tasks avoid; rises to 1 with the tasks",
    )


class InfLoRA(Method):
    """The input directions of a new LoRA are computed from data, outside of those that earlier tasks use; B alone is trained.

    The rows of A have the length 1 / sqrt(3), as in the released code, which is that of the random rows a LoRA begins with.
    Inputs are those of the composed model on all tokens of the task's training examples, before training for A, after it for M.
    """

    name = "inflora"
    Options = InfLoRAOptions
    options: InfLoRAOptions

    def __init__(self, options: InfLoRAOptions, learner: Learner, memory: Memory):
        super().__init__(options, learner, memory)
        learner.bank.fixed = frozenset({"lora_A"})
        self.bases = {  # M by layer, (I, k)
            layer.name: torch.zeros(layer.inputs, 0, dtype=torch.float64, device=learner.backbone.device)
            for layer in learner.bank.layers
        }

    @classmethod
    def check(cls, config: Any) -> None:
        if config.experts.name != "lora" or config.experts.allocation != "per_task":
            raise LabError(
                "methods.inflora designs the input directions of a new LoRA for every task: "
                "use experts.name=lora and experts.allocation=per_task"
            )

    @torch.no_grad()
    def begin_task(self, t: int, rows: list[Encoded]) -> None:
        """Design A_t: the expert of the task is there, with B_t = 0."""
        k, moments = len(self.learner.bank) - 1, second_moments(self.learner, rows)
        values = {name: parameter.detach().clone() for name, parameter in self.learner.bank.expert(k).items()}
        for layer, moment in moments.items():
            a = values[f"{layer}.lora_A"]
            a.copy_(leading_directions(moment, self.bases[layer], len(a)).T / 3**0.5)
        self.learner.bank.load_expert(k, values)

    @torch.no_grad()
    def end_task(self, t: int, rows: list[Encoded]) -> None:
        share = self.options.epsilon + (1 - self.options.epsilon) * t / len(self.learner.task_names)
        for layer, moment in second_moments(self.learner, rows).items():
            self.bases[layer] = extended(self.bases[layer], moment, share)

    def state(self) -> dict[str, Tensor]:
        return {layer: basis for layer, basis in self.bases.items() if basis.shape[1]}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.bases |= {layer: basis.to(self.learner.backbone.device) for layer, basis in tensors.items()}


def second_moments(learner: Learner, rows: Sequence[Encoded], size: int = 64) -> dict[str, Tensor]:
    """H^T H of the inputs of every adapted layer on these rows, without padding: (I, I) in float64, by name of the layer."""
    layers, double = learner.bank.routed_layers, {"dtype": torch.float64, "device": learner.backbone.device}
    moments = {layer.info.name: torch.zeros(layer.info.inputs, layer.info.inputs, **double) for layer in layers}

    def add(name: str, mask: Tensor) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(layer: nn.Module, args: tuple[Tensor]) -> None:
            x = args[0].double()
            tokens = x[mask.bool()] if x.shape[:2] == mask.shape else x.flatten(0, -2)  # (N, I)
            moments[name].add_(tokens.T @ tokens)

        return hook

    for start in range(0, len(rows), size):
        batch = learner.backbone.collate(rows[start : start + size])
        decision = learner.decide(batch)
        hooks = [layer.register_forward_pre_hook(add(layer.info.name, batch.mask)) for layer in layers]
        try:
            with learner.bank.routed(decision):
                learner.head.logits(batch)
        finally:
            for hook in hooks:
                hook.remove()
    return moments


def leading_directions(moment: Tensor, basis: Tensor, count: int) -> Tensor:
    """The `count` leading right singular vectors (I, count) of H - H M M^T, from H^T H and M; 0 where no direction is left."""
    outside = torch.eye(len(moment), dtype=moment.dtype, device=moment.device) - basis @ basis.T  # (I, I)
    vectors = torch.linalg.eigh(outside @ moment @ outside).eigenvectors.flip(1)[:, :count]
    projected = outside @ vectors  # what no input of the task reaches may lie anywhere
    lengths = projected.norm(dim=0)
    return torch.where(lengths > 0.5, projected / lengths.clamp_min(0.5), 0.0)


def extended(basis: Tensor, moment: Tensor, share: float) -> Tensor:
    """M with as few leading right singular vectors of H - H M M^T as let it hold this share of |H|^2, from M and H^T H."""
    outside = torch.eye(len(moment), dtype=moment.dtype, device=moment.device) - basis @ basis.T
    values, vectors = torch.linalg.eigh(outside @ moment @ outside)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    missing = moment.trace() * share - (moment.trace() - values.sum())  # of |H|^2
    count = int((values.cumsum(0) - values < missing - 1e-12 * moment.trace()).sum())
    count = min(count, len(moment) - basis.shape[1])
    return torch.linalg.qr(torch.cat([basis, vectors[:, :count]], dim=1)).Q
