"""Model-based clustering (Ostapenko et al. 2024): experts with like parameters share one LoRA; any rule chooses among these.

A rule that reads the experts' parameters (arrow) reads those of the clusters' LoRAs, as published. Any other that is not trained
(prototype, uniform) weighs the tasks, and a cluster gets the sum of the weights of its tasks. Gates learn on stored examples
which cluster an example's task is in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.adapters import arithmetic
from lab.config.schema import plugin
from lab.core import registry
from lab.core.errors import LabError
from lab.experts.base import LayerInfo
from lab.routers._arrow import ByDirection
from lab.routers.base import Axes, Decision, GateOptions, Request, Router, RouterOptions, needs_experts_per_task, one_hot


class MbcOptions(GateOptions):
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
    choice: plugin(registry.routers, "router.choice") = Field(
        {"name": "arrow"},
        validate_default=True,
        description="what chooses among the clusters: a router that is not trained, or trained on the memory",
    )


class Mbc(Router):
    """Isolated LoRAs are clustered after every task, each cluster gets a LoRA of its own, and `choice` routes among these.

    A cluster's LoRA starts as the best approximation of its members' mean update and is trained on the stored examples of their
    tasks, each example through the LoRA of its own cluster.
    """

    name = "mbc"
    axes = Axes("computed", "layer", "token", "hard")
    Options = MbcOptions
    options: MbcOptions
    learns_after_experts = True
    holds_experts = True

    def __init__(self, options: MbcOptions, layers: Sequence[LayerInfo], width: int):
        super().__init__(options, layers, width)
        self.register_buffer("cluster", torch.zeros(0))  # (K,): of each isolated expert
        self.down = nn.ParameterList(torch.zeros(0, options.rank, layer.inputs) for layer in layers)  # per layer (C, R, I)
        self.up = nn.ParameterList(torch.zeros(0, layer.outputs, options.rank) for layer in layers)  # per layer (C, O, R)
        chosen = options.choice.model_copy(update={"heads": options.heads})
        self.choice: Router = registry.routers.get(chosen.name)(chosen, layers, width)
        self.reads_parameters = isinstance(self.choice, ByDirection)
        self.weighs_clusters = self.reads_parameters or self.choice.learns_on_memory(chosen)  # or else tasks
        self.step_descriptions = (
            self.choice.step_descriptions
            if self.weighs_clusters
            else {"weights": "the sum of the weights of the cluster's tasks"}
        )
        for need in ("uses_query", "uses_embedded", "reads_layers", "learns_queries"):
            setattr(self, need, getattr(self.choice, need))

    @classmethod
    def axes_of(cls, options: RouterOptions) -> Axes:
        return registry.routers.get(options.choice.name).axes_of(options.choice)

    @classmethod
    def learns_on_memory(cls, options: RouterOptions) -> bool:
        return registry.routers.get(options.choice.name).learns_on_memory(options.choice)

    @classmethod
    def check(cls, config: Any) -> None:
        needs_experts_per_task(config, "lora")
        memory, choice, heads = config.memory, config.router.choice.name, config.router.choice.heads
        if not (memory.per_task or memory.per_class or memory.total):
            raise LabError("router mbc trains the clusters' LoRAs on stored examples: set memory.per_task above 0")
        if not chooses(choice):
            able = ", ".join(filter(chooses, registry.routers.names()))
            raise LabError(
                f"router.choice = {choice}: clusters are chosen without the task, by a rule or stored examples: use {able}"
            )
        if heads not in (1, config.router.heads):
            raise LabError(f"router.choice.heads = {heads}: what chooses has the routing heads of mbc, use router.heads={heads}")

    @classmethod
    def check_tasks(cls, config: Any, tasks: Sequence[Any]) -> None:
        if config.router.clusters > len(tasks):
            raise LabError(
                f"router.clusters = {config.router.clusters}: the stream has {len(tasks)} task(s), so as many experts: "
                f"ask for 1 to {len(tasks)} clusters"
            )

    def grow(self, experts: int) -> None:
        new = min(self.options.clusters, experts)
        self.cluster = torch.cat([self.cluster, self.cluster.new_zeros(experts - len(self.cluster))])
        for parameters in (self.down, self.up):
            for i, old in enumerate(parameters):
                parameters[i] = nn.Parameter(torch.cat([old.data, old.data.new_zeros(new - self.experts, *old.shape[1:])]))
        super().grow(new)
        self.choice.grow(new if self.weighs_clusters else experts)

    def add_task(self, task: int, generator: torch.Generator) -> None:
        self.choice.classes = self.classes
        self.choice.add_task(task, generator)

    def after_expert_trained(self, experts: Sequence[Mapping[str, Tensor]], queries: Sequence[Tensor], labels: Tensor) -> None:
        found = arithmetic.clusters(arithmetic.products(experts, self.options.space), self.experts)
        self.cluster.copy_(torch.tensor(found))
        if not self.weighs_clusters:
            self.choice.after_expert_trained(experts, queries, labels)
        for c in range(self.experts):
            members = [expert for expert, own in zip(experts, found, strict=True) if own == c]
            for i, layer in enumerate(self.layers):
                a = torch.cat([member[f"{layer.name}.lora_A"] for member in members]).double() / len(members)
                b = torch.cat([member[f"{layer.name}.lora_B"] for member in members], dim=1).double()
                down, up = arithmetic.low_rank(a, b, self.options.rank)
                for own, factor in ((self.down[i][c], down), (self.up[i][c], up)):
                    own.zero_()[: factor.shape[0], : factor.shape[1]] = factor

    def gate(self, k: int) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if name.startswith(("down.", "up."))}

    def gate_trained(self) -> None:
        if not self.reads_parameters:
            return
        for i, (down, up) in enumerate(zip(self.down, self.up, strict=True)):
            self.choice.settle(i, down, up, range(self.experts))

    def standardise(self, queries: Sequence[Tensor]) -> None:
        self.choice.standardise(queries)

    def reset(self, generator: torch.Generator, queries: Sequence[Tensor], owners: Tensor) -> None:
        self.choice.reset(generator, queries, self.cluster[owners.long()].long())

    def names(self, experts: Sequence[str]) -> list[str]:
        of = [[name for k, name in enumerate(experts) if self.owner(k) == c] for c in range(self.experts)]
        return ["+".join(members) for members in of]

    def owner(self, task: int) -> int:
        return int(self.cluster[task])

    def oracle_decision(self, task: Tensor) -> Decision:
        return Decision(one_hot(self.cluster[task].long(), self.experts, self.heads), composition="mix", stacks=self.stacks)

    @property
    def stacks(self) -> list[dict[str, Tensor]]:
        """Parameters of the clusters' LoRAs per layer."""
        return [{"lora_A": down, "lora_B": up} for down, up in zip(self.down, self.up, strict=True)]

    def forward(self, request: Request) -> Decision:
        decision = self.choice(request)
        if not self.weighs_clusters:
            member = one_hot(self.cluster.long(), self.experts, 1)[:, 0, 0]  # (K, C)
            match = decision.match and replace(decision.match, experts=[self.owner(k) for k in decision.match.experts])
            decision = Decision(decision.weights @ member, match=match)  # (B | 1, L | 1, H, C)
        decision.stacks = self.stacks
        return decision


def chooses(name: str) -> bool:
    """Whether a router works without the true task, and without training or with what stored examples teach it."""
    router = registry.routers.get(name)
    learned = router.axes.choice == "learned" and not router.learns_on_memory(router.Options())
    return not learned and not router.uses_task_id and not router.holds_experts
