"""Model-based clustering (Ostapenko et al. 2024): experts with like parameters share one LoRA; any rule chooses among these.

A router that reads the experts' parameters (arrow) reads those of the clusters' LoRAs, as published. Any other that is not
trained (prototype, uniform) weighs the tasks, and a cluster gets the sum of the weights of its tasks. Gates learn on stored
examples which cluster an example's task is in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.adapters import arithmetic
from lab.consolidation.base import Consolidation, TrainedOptions
from lab.core import registry
from lab.core.errors import LabError
from lab.experts.base import LayerInfo
from lab.routers.base import Decision, MadeOfExperts, Reads, Router, Trained, one_hot


class MbcOptions(TrainedOptions):
    name: str = "mbc"
    clusters: int = Field(
        3, ge=1, le=1000, description="LoRAs the experts are gathered into; while there are fewer experts, each has one"
    )
    space: arithmetic.Space = Field(
        "update", description="what is clustered: the updates B A, or as published the parameters A and B"
    )
    rank: int = Field(8, ge=1, le=1024, description="rank of a cluster's LoRA")
    steps: int = Field(80, ge=1, le=100_000, description="optimiser steps on the stored examples for the clusters' LoRAs")
    lr: float = Field(2e-3, gt=0, le=10, description="learning rate of the clusters' LoRAs")


class Mbc(Consolidation):
    """Isolated LoRAs are clustered after every task, and each cluster gets a LoRA of its own that acts in place of its members.

    A cluster's LoRA starts as the best approximation of its members' mean update and is trained on the stored examples of their
    tasks, each example through the LoRA of its own cluster. Letters: K isolated experts, C clusters, R rank of a cluster's LoRA.
    """

    name = "mbc"
    Options = MbcOptions
    options: MbcOptions
    trains = True

    def __init__(self, options: MbcOptions, router: Router, layers: Sequence[LayerInfo]):
        super().__init__(options, router, layers)
        self.register_buffer("cluster", torch.zeros(0))  # (K,): of each isolated expert
        self.down = nn.ParameterList(torch.zeros(0, options.rank, layer.inputs) for layer in layers)  # per layer (C, R, I)
        self.up = nn.ParameterList(torch.zeros(0, layer.outputs, options.rank) for layer in layers)  # per layer (C, O, R)
        self.weighs_clusters = isinstance(router, MadeOfExperts) or router.trained is Trained.ON_MEMORY  # or else tasks

    @classmethod
    def check(cls, config: Any) -> None:
        router, memory, experts = config.router.name, config.memory, config.experts
        if experts.allocation != "per_task" or not experts.isolated or experts.name != "lora":
            raise LabError(
                "consolidation mbc clusters the LoRAs of the tasks, each trained alone: "
                "use experts=lora, experts.allocation=per_task and experts.isolated=true"
            )
        if not (memory.per_task or memory.per_class or memory.total):
            raise LabError("consolidation mbc trains the clusters' LoRAs on stored examples: set memory.per_task above 0")
        if not chooses(router):
            able = ", ".join(filter(chooses, registry.routers.names()))
            raise LabError(f"router = {router}: clusters are chosen without the task, by a rule or stored examples: use {able}")

    @classmethod
    def check_tasks(cls, config: Any, tasks: Sequence[Any]) -> None:
        if config.consolidation.clusters > len(tasks):
            raise LabError(
                f"consolidation.clusters = {config.consolidation.clusters}: the stream has {len(tasks)} task(s), so as many "
                f"experts: ask for 1 to {len(tasks)} clusters"
            )

    def grow(self, experts: int) -> None:
        clusters = min(self.options.clusters, experts)
        self.cluster = torch.cat([self.cluster, self.cluster.new_zeros(experts - len(self.cluster))])
        for parameters in (self.down, self.up):
            for i, old in enumerate(parameters):
                new = old.new_zeros(clusters - self.experts, *old.shape[1:])
                parameters[i] = nn.Parameter(torch.cat([old.data, new]))
        super().grow(clusters)

    @property
    def choices(self) -> int:
        return self.experts if self.weighs_clusters else len(self.cluster)

    def after_expert_trained(self, experts: Sequence[Mapping[str, Tensor]]) -> None:
        clusters = arithmetic.clusters(arithmetic.products(experts, self.options.space), self.experts)
        self.cluster.copy_(torch.tensor(clusters))
        for c in range(self.experts):
            members = [expert for expert, cluster in zip(experts, clusters, strict=True) if cluster == c]
            for i, layer in enumerate(self.layers):
                a = torch.cat([member[f"{layer.name}.lora_A"] for member in members]).double() / len(members)
                b = torch.cat([member[f"{layer.name}.lora_B"] for member in members], dim=1).double()
                down, up = arithmetic.low_rank(a, b, self.options.rank)
                for own, factor in ((self.down[i][c], down), (self.up[i][c], up)):
                    own.zero_()[: factor.shape[0], : factor.shape[1]] = factor

    def acting(self, experts: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
        layers = list(zip(self.layers, self.down, self.up, strict=True))
        return [
            {
                f"{layer.name}.{part}": factor[c]
                for layer, down, up in layers
                for part, factor in (("lora_A", down), ("lora_B", up))
            }
            for c in range(self.experts)
        ]

    def step_descriptions(self, router: Router) -> Mapping[str, str]:
        own = {"weights": "the sum of the weights of the cluster's tasks"}
        return super().step_descriptions(router) if self.weighs_clusters else own

    def names(self, experts: Sequence[str]) -> list[str]:
        owners = self.owner(torch.arange(len(experts), device=self.cluster.device)).tolist()
        return ["+".join(name for name, owner in zip(experts, owners, strict=True) if owner == c) for c in range(self.experts)]

    def owner(self, task: Tensor) -> Tensor:
        return self.cluster[task].long()

    def oracle_decision(self, task: Tensor) -> Decision:
        return replace(super().oracle_decision(task), composition="mix", stacks=self.stacks)

    @property
    def stacks(self) -> list[dict[str, Tensor]]:
        """Parameters of the clusters' LoRAs per layer."""
        return [{"lora_A": down, "lora_B": up} for down, up in zip(self.down, self.up, strict=True)]

    def applied(self, decision: Decision) -> Decision:
        if not self.weighs_clusters:
            assert decision.weights is not None, "a router that weighs tasks does so before the layers"
            member = one_hot(self.cluster.long(), self.experts, 1)[:, 0, 0]  # (K, C)
            owners = self.cluster.long().tolist()
            match = decision.match and replace(decision.match, experts=[owners[k] for k in decision.match.experts])
            decision = Decision(decision.weights @ member, match=match)  # (B | 1, L | 1, H, C)
        decision.stacks = self.stacks
        return decision


def chooses(name: str) -> bool:
    """Whether a router works without the true task, and without training or with what stored examples teach it."""
    router = registry.routers.get(name)
    return router.trained in (Trained.NO, Trained.ON_MEMORY) and Reads.TASK not in router.reads_of(router.Options())
