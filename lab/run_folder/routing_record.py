"""Routing as a run folder records it: weights on the test examples of every task, at one moment of the stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

STEPS = {  # what a step is in words that are right for every router; see Router.step_descriptions
    "logits": "one number per expert: the larger it is, the more weight the expert gets",
    "noisy logits": "the logits and random noise, which makes a router try other experts while it learns",
    "gates": "each logit brought into the range from 0 to 1, without the noise that some routers add while they learn",
    "kept gates": "only the gates that pass the rule of this router stay",
    "scores": "how well each expert fits, by this router's own measure",
    "probabilities": "the logits as shares of one whole",
    "weights": "what each expert is multiplied by",
}


@dataclass(frozen=True)
class Routing:
    """Routing weights recorded on the test examples of every task seen at one moment of the stream.

    Weights are normalised by the router that gave them. L adapted layers, H routing heads, E experts (as many as
    there were at that moment), N examples kept whole.
    """

    tasks: list[str]
    layers: list[str]
    experts: list[str]
    arrays: dict[str, np.ndarray]
    texts: dict[str, list[str]]
    step_names: Sequence[str] = ()  # what led to the weights of whole decisions, in order
    step_descriptions: Mapping[str, str] = field(default_factory=dict)  # what these are, in the router's own words

    @property
    def owned(self) -> bool:
        """Whether every task has an expert of its own, named like it; else tasks share experts."""
        return set(self.tasks) <= set(self.experts)

    def mean(self, task: int) -> np.ndarray:
        """Mean weight over the test examples of a task: (L, H, E)."""
        return self.arrays[f"{task}/weight_sum"] / self.count(task)

    def top1(self, task: int) -> np.ndarray:
        """Share of examples whose largest weight is this expert's: (L, H, E)."""
        return self.arrays[f"{task}/top_count"] / self.count(task)

    def entropy(self, task: int) -> np.ndarray:
        """Mean entropy in nats of the weights rescaled to sum to one: (L, H)."""
        return self.arrays[f"{task}/entropy_sum"] / self.count(task)

    def share(self, task: int) -> np.ndarray:
        """Mean over layers and routing heads of each expert's part in the sum of weights: (E,); sums to one."""
        return self.arrays[f"{task}/share_sum"] / self.count(task)

    def count(self, task: int) -> int:
        return int(self.arrays[f"{task}/count"][0])

    def examples(self, task: int) -> np.ndarray:
        """Whole decisions of the first few test examples: (N, L, H, E)."""
        return self.arrays[f"{task}/examples"]

    def steps(self, task: int) -> dict[str, np.ndarray]:
        """Whole decisions step by step, as the router names them ("logits", "gates", ...), "weights" last: (N, L, H, E) each."""
        return {name: self.arrays[f"{task}/steps/{name}"] for name in self.step_names} | {"weights": self.examples(task)}

    def about_step(self, name: str) -> str:
        """What a step is: in the router's own words, else in those that are right for every router."""
        return self.step_descriptions.get(name) or STEPS.get(name, "a value that this router names on the way to its weights")

    def queries(self, task: int) -> np.ndarray | None:
        """What the examples kept whole were routed by, (N, D); None where that is not one vector per example."""
        return self.arrays.get(f"{task}/query")

    def keys(self) -> tuple[np.ndarray, list[int]]:
        """What queries are compared with, (P, D), and whose expert each key is; none where the router has no keys."""
        owners = self.arrays.get("key_experts", np.zeros(0))
        return self.arrays.get("keys", np.zeros((0, 0))), owners.astype(int).tolist()


class _About(BaseModel):
    """What the header of a file of routing says."""

    model_config = ConfigDict(strict=True)
    tasks: list[str]
    layers: list[str]
    experts: list[str]
    texts: dict[str, list[str]]
    steps: list[str] = []
    told: dict[str, str] = {}


def read_routing(arrays: dict[str, np.ndarray], header: Any) -> Routing:
    """The routing that a file holds; ValueError where its header and the shapes of its arrays do not fit together."""
    about = _About.model_validate(header)
    layers, experts = len(about.layers), len(about.experts)
    for task in range(len(about.tasks)):
        if f"{task}/count" not in arrays:
            continue
        heads, whole = arrays[f"{task}/weight_sum"].shape[1], len(arrays[f"{task}/rows"])
        each = (layers, heads, experts)
        shapes = {"count": (1,), "weight_sum": each, "top_count": each, "entropy_sum": each[:2], "share_sum": each[2:]}
        shapes |= {name: (whole, *each) for name in ("examples", *(f"steps/{step}" for step in about.steps))}
        for name, shape in shapes.items():
            if arrays[f"{task}/{name}"].shape != shape:
                raise ValueError(f"{task}/{name} is of shape {arrays[f'{task}/{name}'].shape}, not {shape}")
    return Routing(about.tasks, about.layers, about.experts, arrays, about.texts, about.steps, about.told)
