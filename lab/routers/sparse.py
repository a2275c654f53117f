"""A sparsely routed bank (ModuleFormer, Shen et al. 2023): per token and layer a small network picks the experts that act.

Gate of a layer with input x: z = W_out GELU(W_in x + b), p = softmax(z) over all experts; the `top_k` largest keep their p, the
others get 0. L_MI = -I(E; X) = -(H(mean of p over tokens) - mean over tokens of H(p)): all experts used, each token decided.

Stick-breaking, the paper's attention over positions, is used here over experts: sigmoid(z_j) of what the newer ones k > j left,
p_j = sigmoid(z_j) * product of (1 - sigmoid(z_k)). The newest expert has the first claim; what nobody claims goes to none.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lab.core.errors import LabError
from lab.experts.base import LayerInfo
from lab.routers.base import (
    Axes,
    Decision,
    LayerDecision,
    Request,
    Router,
    RouterOptions,
    TaskAware,
    Trained,
    normalised,
)


class SparseOptions(RouterOptions):
    name: str = "sparse"
    top_k: int = Field(2, ge=1, le=1000, description="experts that act on a token; more than there are means all")
    normalise: bool = Field(
        False, description="weights of the chosen experts sum to one, as with a softmax after the choice; else they keep theirs"
    )
    rule: Literal["softmax", "stick-breaking"] = Field(
        "softmax", description="experts compete, or each takes its share of what the newer ones left"
    )
    hidden: int = Field(256, ge=1, le=4096, description="width of the gate's hidden layer")
    balance: float = Field(0.0, ge=0, le=1000, description="weight of the loss on how the load is spread, mean over layers")
    load: Literal["balanced", "concentrated"] = Field(
        "balanced",
        description="balanced: -I(E; X); concentrated: the same with the sign of H(E) turned, before experts are pruned",
    )
    hold: float = Field(
        0.0, ge=0, le=1e6, description="weight of the squared distance of the gates from where a task after the first found them"
    )


class Sparse(Router, TaskAware):
    """Per token and layer the `top_k` experts with the largest gates, from a small network on the layer's own input.

    New experts get new rows in the gates; old rows keep their values and go on learning. What keeps gates from drifting to the
    new experts alone is the lab's choice: `hold`, and the balance, which counts old experts too.
    """

    name = "sparse"
    axes = Axes("layer", "token", "hard")
    Options = SparseOptions
    options: SparseOptions
    step_descriptions = {
        "logits": "a small network reads each token in the layer's input and gives each expert a number; mean over the tokens",
        "probabilities": "what each expert would get of a token, if all acted",
        "weights": "for each token the probabilities of the few likeliest experts, 0 for the others; mean over the tokens",
    }
    trained = Trained.WITH_EXPERTS

    def __init__(self, options: SparseOptions, layers: Sequence[LayerInfo], width: int):
        super().__init__(options, layers, width)
        self.inner = nn.ParameterList(torch.zeros(options.hidden, layer.inputs) for layer in layers)
        self.bias = nn.ParameterList(torch.zeros(options.hidden) for _ in layers)
        self.outer = nn.ParameterList(torch.zeros(0, options.hidden) for _ in layers)  # per layer (E, hidden)
        self.initialised = self.tasks_seen = 0  # experts that have rows with values; tasks so far

    @classmethod
    def check(cls, config: Any) -> None:
        if config.experts.allocation == "shared":
            raise LabError("router sparse chooses among experts: use experts.allocation=per_task or the size of a pool")

    def grow(self, experts: int) -> None:
        for i, old in enumerate(self.outer):
            new = old.new_zeros(experts - self.experts, self.options.hidden)
            self.outer[i] = nn.Parameter(torch.cat([old.data, new]))
        super().grow(experts)

    @torch.no_grad()
    def add_task(self, task: int, classes: int, generator: torch.Generator) -> None:
        """Rows of new experts, and once all else, are drawn as torch draws linear layers."""
        for inner, outer in zip(self.inner, self.outer, strict=True):
            for tensor in (outer[self.initialised :], *([] if self.tasks_seen else [inner])):
                tensor.copy_((2 * torch.rand(tensor.shape, generator=generator) - 1) / tensor.shape[1] ** 0.5)
        self.initialised, self.tasks_seen = self.experts, task + 1
        if self.options.hold:
            for i, parameter in enumerate(self.parameters()):
                self.register_buffer(f"found{i}", parameter.detach().clone())

    def steps(self, logits: Tensor) -> dict[str, Tensor]:
        """Logits (..., E) -> probabilities of all experts, and weights, 0 for all but `top_k` of them; (..., E) each."""
        p = stick_breaking(logits) if self.options.rule == "stick-breaking" else logits.softmax(-1)
        best = p.topk(min(self.options.top_k, self.experts), dim=-1).indices
        kept = p * torch.zeros_like(p).scatter(-1, best, 1.0)
        return {"logits": logits, "probabilities": p, "weights": normalised(kept) if self.options.normalise else kept}

    def forward(self, request: Request) -> Decision:
        spread: dict[int, Tensor] = {}  # per layer

        def decide(layer: int, x: Tensor) -> dict[str, Tensor]:
            with torch.autocast(x.device.type, enabled=False):
                inner = F.gelu(F.linear(x.float(), self.inner[layer], self.bias[layer]))
                steps = self.steps(inner @ self.outer[layer].T)  # (B, T, E)
            if self.options.balance:
                p = steps["probabilities"]
                spread[layer] = self.spread(p[request.mask.bool()] if request.mask.shape == p.shape[:2] else p.flatten(0, 1))
                decision.losses["balance"] = self.options.balance * torch.stack([*spread.values()]).mean()
            return {name: step.unsqueeze(2).expand(-1, -1, self.heads, -1) for name, step in steps.items()}  # (B, T, H, E)

        decision = LayerDecision(decide, request.mask)
        if self.options.hold and self.tasks_seen > 1:
            moved = [(p - getattr(self, f"found{i}")).square().sum() for i, p in enumerate(self.parameters())]
            decision.losses["hold"] = self.options.hold * torch.stack(moved).sum()
        return decision

    def spread(self, p: Tensor) -> Tensor:
        """The loss on how the load is spread, from the probabilities (N, E) of tokens; what goes to no expert counts as one."""
        if self.options.rule == "stick-breaking":
            p = torch.cat([p, 1 - p.sum(-1, keepdim=True)], dim=-1)
        overall, each = entropy(p.mean(0)), entropy(p).mean()
        return each + overall if self.options.load == "concentrated" else each - overall


def stick_breaking(logits: Tensor) -> Tensor:
    """sigmoid(z_j) * product over k > j of (1 - sigmoid(z_k)), for logits z (..., E); sums to at most 1 over the last axis."""
    left = F.logsigmoid(-logits)  # log of what an expert leaves
    later = left.flip(-1).cumsum(-1).flip(-1) - left
    return (F.logsigmoid(logits) + later).exp()


def entropy(p: Tensor) -> Tensor:
    """In nats, over the last axis."""
    return -(p * p.clamp_min(1e-12).log()).sum(-1)
