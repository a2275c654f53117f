"""Arithmetic with saved LoRA experts: sums, negations, analogies and static merges, with a look at what comes out. numpy only.

Letters: I features in, O features out, r rank, K experts. In a layer, expert i adds s_i B_i A_i with A_i (r, I), B_i (O, r) and
the scale s_i of its configuration: alpha / r, or alpha / sqrt(r) for rsLoRA. What is composed has scale 1 (alpha = r).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lab import files, jobs, library
from lab.errors import LabError, unknown
from lab.library import CONFIG, WEIGHTS, SavedExpert
from lab.runs import ID, remove, root

OPERATIONS = {  # weights of the experts in the order in which they are named; None: any number, each 1 at first
    "add": None,
    "scale": (0.5,),
    "negate": (-1.0,),
    "analogy": (-1.0, 1.0, 1.0),  # a is to b as c is to the result: b - a + c (Ilharco et al. 2023; of LoRA: Zhang et al. 2023)
}
WAYS = {
    "cat": "exact: the factors stand beside each other, the rank is the sum of ranks",
    "svd": "the nearest update of the largest rank, by singular value decomposition",
    "linear": "A and B are summed apart, which brings products of different experts in",
    "ties": "as linear, after small numbers were cut and signs elected (Yadav et al. 2023)",
}
Layer = dict[str, np.ndarray]  # {"lora_A": (r, I), "lora_B": (O, r)}
Layers = dict[str, Layer]


@dataclass(frozen=True, eq=False)
class Composed:
    """An expert that was computed from others; its scale is 1."""

    layers: Layers
    base: str
    about: str  # how it was made

    @property
    def rank(self) -> int:
        return len(next(iter(self.layers.values()))["lora_A"])

    def norm(self) -> float:
        """Frobenius norm of the update of all layers together."""
        return library.norm(self.layers)


def composed(chosen: Sequence[SavedExpert], weights: Sequence[float], how: str = "cat", density: float = 0.5) -> Composed:
    """The weighted sum of LoRA experts, joined in one of `WAYS`, as peft's `add_weighted_adapter` defines these.

    `density` is the part of the numbers that "ties" keeps. Raises LabError for experts that do not fit together.
    """
    if how not in WAYS:
        raise unknown("way to join experts", how, WAYS)
    if not chosen or len(chosen) != len(weights):
        raise LabError(f"{len(chosen)} expert(s) and {len(weights)} weight(s): name at least one expert, and a weight for each")
    if not np.isfinite(weights).all() or not np.any(weights):
        raise LabError(f"weights {list(weights)}: they must be numbers, and not all of them 0")
    if not 0 < density <= 1:
        raise LabError(f"density = {density}: it must be above 0 and at most 1")
    found, scales = [expert.layers() for expert in chosen], [library.scale(expert.config()) for expert in chosen]
    _refuse_unlike(chosen, found, how)
    signed = [weight * scale for weight, scale in zip(weights, scales, strict=True)]
    made = {
        name: dict(zip(("lora_A", "lora_B"), _join([one[name] for one in found], signed, how, density), strict=True))
        for name in found[0]
    }
    terms = " ".join(f"{weight:+g} {expert.key}" for weight, expert in zip(weights, chosen, strict=True))
    how = f"{how}, density {density:g}" if how == "ties" else how
    return Composed(made, str(chosen[0].config().get("base_model_name_or_path", "")), f"{terms} ({how})")


def _refuse_unlike(chosen: Sequence[SavedExpert], found: Sequence[Layers], how: str) -> None:
    """Experts of different backbones, layers or, where their parameters are summed, ranks."""
    first, base = found[0], chosen[0].config().get("base_model_name_or_path")
    for expert, layers in zip(chosen, found, strict=True):
        if not all({"lora_A", "lora_B"} <= set(layer) for layer in layers.values()):
            raise LabError(f"{expert.key} is no plain LoRA expert: only these can be composed here")
        if expert.config().get("base_model_name_or_path") != base:
            raise LabError(f"{expert.key} belongs to another backbone than {chosen[0].key}: they cannot be composed")
        shapes = {name: (layer["lora_A"].shape[1], len(layer["lora_B"])) for name, layer in layers.items()}
        if shapes != {name: (layer["lora_A"].shape[1], len(layer["lora_B"])) for name, layer in first.items()}:
            raise LabError(f"{expert.key} adapts other layers than {chosen[0].key}: they cannot be composed")
        if how in ("linear", "ties") and {len(layer["lora_A"]) for layer in layers.values()} != {
            len(layer["lora_A"]) for layer in first.values()
        }:
            raise LabError(f"{expert.key} has another rank than {chosen[0].key}: '{how}' needs equal ranks; use cat or svd")


def _join(parts: Sequence[Layer], signed: Sequence[float], how: str, density: float) -> tuple[np.ndarray, np.ndarray]:
    """A (r', I) and B (O, r') of the sum of `signed[i]` B_i A_i."""
    downs, ups = [part["lora_A"] for part in parts], [part["lora_B"] for part in parts]
    if how in ("linear", "ties"):  # the root on both sides, the sign on one
        roots = [abs(weight) ** 0.5 for weight in signed]
        signs = [np.sign(weight) * root for weight, root in zip(signed, roots, strict=True)]
        add = _sum if how == "linear" else lambda tensors, weights: _ties(tensors, weights, density)
        return add(downs, signs), add(ups, roots)
    a, b = np.concatenate(downs), np.concatenate([weight * up for weight, up in zip(signed, ups, strict=True)], axis=1)
    if how == "cat":
        return a, b
    rank = max(len(down) for down in downs)
    (q_b, r_b), (q_a, r_a) = np.linalg.qr(b), np.linalg.qr(a.T)  # so that only a small matrix is decomposed: (K r, K r)
    u, s, v = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return v[:rank] @ q_a.T, (q_b @ u[:, :rank]) * s[:rank]


def _sum(tensors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    return np.tensordot(np.asarray(weights), np.stack(tensors), axes=1)


def _ties(tensors: Sequence[np.ndarray], weights: Sequence[float], density: float) -> np.ndarray:
    """Trim to the largest part of each, elect a sign per place, average those that agree (Yadav et al. 2023, section 3)."""
    trimmed = np.stack([_largest(tensor, density) for tensor in tensors])  # (K, ...)
    elected = np.where(trimmed.sum(0) >= 0, 1, -1)
    agree = np.sign(trimmed) == elected
    weighted = trimmed * np.asarray(weights).reshape(-1, *[1] * (trimmed.ndim - 1))
    return (weighted * agree).sum(0) / np.maximum(agree.sum(0), 1)


def _largest(tensor: np.ndarray, density: float) -> np.ndarray:
    """The tensor with all but the largest part of its numbers set to 0."""
    count = int(density * tensor.size)
    kept = np.zeros(tensor.size)
    places = np.argsort(-np.abs(tensor).reshape(-1), kind="stable")[:count]
    kept[places] = tensor.reshape(-1)[places]
    return kept.reshape(tensor.shape)


def alignment(made: Composed, chosen: Sequence[SavedExpert]) -> pd.DataFrame:
    """Cosine between the composed update and that of each expert, per layer and, in the last row, over all: (layers + 1, K).

    1: the result does there what this expert does; -1: the opposite; 0: something else. NaN where an update is zero.
    """
    columns = {}
    for expert in chosen:
        other, factor = expert.layers(), library.scale(expert.config())
        rows = [_products(layer, other[name], factor) for name, layer in made.layers.items()]
        columns[expert.key] = [_cosine(*row) for row in [*rows, np.sum(rows, axis=0)]]
    return pd.DataFrame(columns, pd.Index([*made.layers, "all layers"], name="layer"))


def _products(one: Layer, other: Layer, factor: float) -> tuple[float, float, float]:
    """<X, Y>, <X, X> and <Y, Y> of two updates X and Y, from their factors: <B A, B' A'> = sum((B^T B') * (A A'^T))."""

    def product(x: Layer, y: Layer) -> float:
        return float(np.sum((x["lora_B"].T @ y["lora_B"]) * (x["lora_A"] @ y["lora_A"].T)))

    return factor * product(one, other), product(one, one), factor**2 * product(other, other)


def _cosine(both: float, one: float, other: float) -> float:
    return both / (one * other) ** 0.5 if one > 0 and other > 0 else float("nan")


def keep(made: Composed, name: str, runs: str | Path | None = None) -> SavedExpert:
    """Put a composed expert into the library, in peft's format. Raises LabError for a name that is taken or cannot be one."""
    jobs.refuse_read_only()
    if not ID.fullmatch(name):
        raise LabError(f"'{name}' cannot name an expert: use up to 80 of a-z 0-9 _ . - and begin with a letter or digit")
    folder = root(runs) / ".library" / name
    if folder.exists():
        raise LabError(f"the library has an expert called '{name}' already: choose another name")
    tensors = {
        f"base_model.model.{layer}.{part}.weight": value.astype(np.float32)
        for layer, parts in made.layers.items()
        for part, value in parts.items()
    }
    config = {
        "peft_type": "LORA", "task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": made.base, "r": made.rank,
        "lora_alpha": made.rank, "use_rslora": False, "target_modules": list(made.layers), "lora_dropout": 0.0, "bias": "none",
        "inference_mode": True, "fan_in_fan_out": False,
    }  # fmt: skip
    try:
        files.write_arrays(folder / WEIGHTS, tensors, {"format": "pt", "composed": made.about})
        files.write_json(folder / CONFIG, config)
    except BaseException:
        remove(folder)
        raise
    return SavedExpert(folder)
