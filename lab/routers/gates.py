"""L2R's network of routers (Araujo, Moens, Tuytelaars 2024): one small router per adapted layer, independent gates.

Layer l, routing head h, expert e: s = W[l, h, e] q + b[l, h, e], with q the sequence representation.
gumbel-sigmoid: z = sigmoid((s + log u - log(1 - u)) / temperature), u ~ U(0, 1), in training; z = sigmoid(s / temperature) in
evaluation (the Polytropon relaxation); sigmoid: the same without noise; softmax: experts compete. Weights are z / sum z.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.experts.base import LayerInfo
from lab.routers.base import (
    Axes,
    Decision,
    FromMemory,
    LayerDecision,
    Match,
    Reads,
    Request,
    Router,
    RouterOptions,
    Trained,
    normalised,
)


class GatesOptions(RouterOptions):
    name: str = "gates"
    gate: Literal["gumbel-sigmoid", "sigmoid", "softmax"] = Field("gumbel-sigmoid", description="how logits become weights")
    temperature: float = Field(1.0, gt=0, le=100, description="of the gate; lower is harder")
    normalise: bool = Field(True, description="weights of a layer and head sum to one (softmax always does)")
    evaluation: Literal["soft", "top1", "threshold"] = Field(
        "soft",
        description="soft: gates as they are; top1: the largest alone; threshold: only gates above 1/2, or the largest if none",
    )
    query: Literal["backbone", "layer"] = Field(
        "layer",
        description="layer: mean over tokens of the current layer's own input; backbone: the frozen backbone's representation "
        "(layer becomes backbone in an encoder-decoder, whose encoder is then asked once for all layers)",
    )
    start: Literal["zero", "tasks"] = Field(
        "zero",
        description="zero: all gates alike; tasks: gates read, by a ridge regression on the memory, which task an example is of",
    )
    hidden: int = Field(0, ge=0, le=4096, description="width of a hidden layer in each router; 0: linear routers")


class Gates(Router, FromMemory):
    """Learned gates per adapted layer and routing head, from the sequence representation; trained on the memory (L2R)."""

    name = "gates"
    axes = Axes("layer", "example", "soft")
    trained = Trained.ON_MEMORY
    Options = GatesOptions
    options: GatesOptions
    step_descriptions = {
        "logits": "the layer's own router reads the text, in the layer's input or in the frozen backbone, and gives each expert "
        "a number"
    }

    def __init__(self, options: GatesOptions, layers: Sequence[LayerInfo], width: int):
        super().__init__(options, layers, width)
        widths = [width if Reads.QUERY in self.reads else layer.inputs for layer in layers]
        self.hidden = nn.ParameterList()
        if options.hidden:
            self.hidden.extend(torch.zeros(options.hidden, w) for w in widths)
        self.inner = [options.hidden or w for w in widths]
        self.weight = nn.ParameterList(torch.zeros(self.heads, 0, w) for w in self.inner)  # per layer (H, E, D)
        self.bias = nn.ParameterList(torch.zeros(self.heads, 0) for _ in layers)  # per layer (H, E)
        for i, w in enumerate(widths):
            self.register_buffer(f"mean{i}", torch.zeros(w))
            self.register_buffer(f"spread{i}", torch.ones(w))

    @classmethod
    def reads_of(cls, options: RouterOptions) -> frozenset[Reads]:
        return frozenset({Reads.QUERY if cast(GatesOptions, options).query == "backbone" else Reads.LAYERS})

    @classmethod
    def without_layers(cls, options: RouterOptions) -> RouterOptions:
        return options.model_copy(update={"query": "backbone"})

    def grow(self, experts: int) -> None:
        """Rows for the new experts are added; those of old experts keep their values."""
        added = experts - self.experts
        for i, inner in enumerate(self.inner):
            zeros = self.weight[i].new_zeros
            self.weight[i] = nn.Parameter(torch.cat([self.weight[i].data, zeros(self.heads, added, inner)], dim=1))
            self.bias[i] = nn.Parameter(torch.cat([self.bias[i].data, zeros(self.heads, added)], dim=1))
        super().grow(experts)

    @torch.no_grad()
    def reset(self, generator: torch.Generator, queries: Sequence[Tensor], owners: Tensor) -> None:
        for hidden in self.hidden:
            hidden.copy_(torch.randn(hidden.shape, generator=generator))  # the query has about unit length
        for layer, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            weight.zero_()
            bias.zero_()
            if self.options.start == "tasks":
                w, b = read_out(self.features(layer, queries[layer]), nn.functional.one_hot(owners, self.experts))
                weight.copy_(w.expand_as(weight))  # (H, E, D)
                bias.copy_(b.expand_as(bias))  # (H, E)

    def standardise(self, queries: Sequence[Tensor]) -> None:
        for i, query in enumerate(queries):
            getattr(self, f"mean{i}").copy_(query.mean(0))
            getattr(self, f"spread{i}").copy_(query.std(0).clamp_min(1e-6))

    def features(self, layer: int, query: Tensor) -> Tensor:
        """(B, D) -> (B, D or `hidden`). Each feature of the query is standardised with its mean and spread on the memory, since
        hidden states share a large common part; divided by the root of the width, one learning rate fits every backbone."""
        query = (query.float() - getattr(self, f"mean{layer}")) / getattr(self, f"spread{layer}") / query.shape[-1] ** 0.5
        return torch.tanh(query @ self.hidden[layer].T) if self.hidden else query

    def logits(self, layer: int, query: Tensor) -> Tensor:
        """(B, D) -> (B, H, E)."""
        return torch.einsum("bd,hed->bhe", self.features(layer, query), self.weight[layer]) + self.bias[layer]

    def steps(self, logits: Tensor, noise: Tensor | None) -> dict[str, Tensor]:
        """Logits (..., E) -> weights (..., E) and what leads to them; `noise` is uniform in (0, 1), given in training only."""
        options, steps = self.options, {"logits": logits}
        if noise is not None and options.gate == "gumbel-sigmoid":
            steps["noisy logits"] = logits = logits + torch.log(noise) - torch.log1p(-noise)
        z = logits / options.temperature
        steps["gates"] = z = torch.softmax(z, -1) if options.gate == "softmax" else torch.sigmoid(z)
        if noise is None and options.evaluation != "soft":
            top = nn.functional.one_hot(z.argmax(-1), z.shape[-1]).to(z.dtype)
            steps["kept gates"] = z = top if options.evaluation == "top1" else torch.maximum(z * (z > 0.5), z * top)
        return steps | {"weights": normalised(z) if options.normalise else z}

    def forward(self, request: Request) -> Decision:
        rows, layers = len(request.mask), len(self.layers)
        noise = None
        if request.noise is not None:  # drawn at once, so that recomputation of a layer meets the same noise
            noise = torch.rand(layers, rows, self.heads, self.experts, generator=request.noise).clamp(1e-6, 1 - 1e-6)
            noise = noise.to(request.mask.device)
        if Reads.QUERY in self.reads:
            assert request.query is not None, "this router reads the query"
            logits = torch.stack([self.logits(layer, request.query) for layer in range(layers)])  # (L, B, H, E)
            steps = {name: step.transpose(0, 1) for name, step in self.steps(logits, noise).items()}  # (B, L, H, E)
            return Decision(steps["weights"], steps=steps, match=Match(request.query))
        weight = request.mask.unsqueeze(-1).float() / request.mask.sum(1)[:, None, None]  # (B, T, 1)

        def decide(layer: int, x: Tensor) -> dict[str, Tensor]:
            with torch.autocast(x.device.type, enabled=False):
                text = x[:, : weight.shape[1]].float()  # an answer that is learned stands behind it
                query = (text * weight).sum(1)  # (B, D)
                decision.match = Match(query.detach())
                return self.steps(self.logits(layer, query), None if noise is None else noise[layer])

        decision = LayerDecision(decide, request.mask)
        return decision


def read_out(features: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (E, D) and biases (E,) of logits near +4 for the own expert and -4 for the others, by ridge regression.

    features (N, D), own (N, E) of 0 and 1. The penalty on the squared weights is 1, on the biases 0.
    """
    x, y = features.double(), 8.0 * own.double() - 4.0
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    weight = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1], dtype=x.dtype, device=x.device), x.T @ y).T  # (E, D)
    return weight, y_mean - weight @ x_mean
