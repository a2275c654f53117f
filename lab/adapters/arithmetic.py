"""Arithmetic on saved experts: add, negate, scale, analogy, peft's merges, clusters. Nothing is trained and no input is changed.

First pure functions, then folders in peft's format. An adapter holds its parameters as `<layer>.lora_A` (r, I) and
`<layer>.lora_B` (O, r), or `<layer>.ia3_l`. The operators of Zhang et al. (2023, arXiv 2306.14870) act on parameters and presume
adapters that started from the same values; merges of updates (cat, svd) presume nothing.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lab.adapters import peft_folder, peft_format
from lab.adapters.base_model import Base, compare
from lab.core.errors import LabError

How = Literal["parameters", "linear", "cat", "svd", "ties"]
Space = Literal["update", "parameters"]
SPACES: tuple[str, ...] = ("update", "parameters")
HOW: tuple[str, ...] = ("parameters", "linear", "cat", "svd", "ties")


@dataclass(frozen=True)
class Adapter:
    """A LoRA or (IA)^3 expert: parameters in float32 by layer and name, the content of its adapter_config.json, and its name."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    name: str = ""
    sha256: str = "none, it was never saved"  # of the file of its weights
    backbone: str = ""  # digest of its backbone, where it is known
    notes: tuple[str, ...] = ()  # what is to be said about how it was read

    @property
    def kind(self) -> str:
        return self.config["peft_type"]

    @property
    def scale(self) -> float:
        """Factor of a LoRA update: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        return peft_folder.scale(self.config)

    @property
    def base(self) -> Base:
        """The backbone it belongs to."""
        return Base(self.config.get("base_model_name_or_path") or "", self.backbone)

    @property
    def layers(self) -> list[str]:
        return sorted({name.rpartition(".")[0] for name in self.tensors})

    def update(self, layer: str) -> Tensor:
        """What a LoRA adds to the weight of a layer: (O, I), in float64."""
        return self.scale * self.tensors[f"{layer}.lora_B"].double() @ self.tensors[f"{layer}.lora_A"].double()


# -- arithmetic ------------------------------------------------------------------------------------------------------------


def scaled(adapter: Adapter, by: float) -> Adapter:
    """The adapter with `by` times its effect: B -> by B of a LoRA, l -> 1 + by (l - 1) of an (IA)^3. Negative values negate.

    Only one factor of a LoRA is multiplied: with both, a negation would cancel itself.
    """
    _finite(by)
    return _like(adapter, _affine([adapter], [by], lambda name: [1.0 if name.endswith(".lora_A") else by]))


def negate(adapter: Adapter, by: float = 1.0) -> Adapter:
    """The adapter that undoes `by` times what this one does."""
    _finite(by)
    return scaled(adapter, -by)


def analogy(task: Adapter, target: Adapter, source: Adapter, weights: Sequence[float] = (1.0, 1.0)) -> Adapter:
    """`task` carried to another domain: weights[0] * task + weights[1] * (target - source), the difference by one factor.

    LoRA: A = c0 A_task + c1 (A_target + A_source), B = c0 B_task + c1 (B_target - B_source);
    (IA)^3: 1 + c0 (l_task - 1) + c1 (l_target - l_source).
    """
    task, target, source = same([task, target, source], rank=True)
    _finite(*weights)
    c0, c1 = weights
    signed, unsigned = [c0, c1, -c1], [c0, c1, c1]
    tensors = _affine([task, target, source], signed, lambda name: unsigned if name.endswith(".lora_A") else signed)
    return _like(task, tensors)


def add(
    adapters: Sequence[Adapter], weights: Sequence[float] | None = None, how: How = "parameters", density: float = 0.2
) -> Adapter:
    """Several adapters as one. `weights` default to equal parts; K of them, one per adapter.

    parameters: weighted means of all parameters, the weights normalised to sum one (LoRA: merge, core matrix w w^T). For LoRA too
    the merges of peft: linear, sqrt(|w| s) on both factors, the sign on one; cat, the sum of the updates, exact, of rank K r;
    svd, its best approximation of the first adapter's rank; ties, of the factors the `density` share of largest values, and the
    mean of those whose sign agrees with the sum (Yadav et al. 2023). s is each adapter's own scale: right for rsLoRA too.
    """
    if how not in HOW:
        raise LabError(f"how = {how}: choose one of {', '.join(HOW)}")
    adapters = same(adapters, rank=how in ("parameters", "linear", "ties"), scale=how == "parameters")
    weights = [1 / len(adapters)] * len(adapters) if weights is None else list(weights)
    if len(weights) != len(adapters):
        raise LabError(f"{len(weights)} weights were given for {len(adapters)} experts: give one for each")
    _finite(*weights)
    if how == "parameters":
        share = normalised(weights)
        return _like(adapters[0], _affine(adapters, share, lambda name: share))
    if adapters[0].kind != "LORA":
        raise LabError(f"how = {how} merges updates of LoRA experts, these are {adapters[0].kind}: use how=parameters")
    if how == "ties" and not 0 < density <= 1:
        raise LabError(f"density = {density}: the share of values that are kept is above 0 and at most 1")
    tensors: dict[str, Tensor] = {}
    for layer in adapters[0].layers:
        a, b = _merged(adapters, layer, weights, how, density)
        tensors |= {f"{layer}.lora_A": a.float(), f"{layer}.lora_B": b.float()}
    rank = next(tensor for name, tensor in tensors.items() if name.endswith(".lora_A")).shape[0]
    unscaled = {"r": rank, "lora_alpha": float(rank), "use_rslora": False}  # every scale is in the factors
    return replace(_like(adapters[0], tensors), config=dict(adapters[0].config) | unscaled)


def _merged(adapters: Sequence[Adapter], layer: str, weights: Sequence[float], how: str, density: float) -> tuple[Tensor, Tensor]:
    """Factors (R, I) and (O, R) of one layer, without a scale."""
    downs = [adapter.tensors[f"{layer}.lora_A"].double() for adapter in adapters]
    ups = [adapter.tensors[f"{layer}.lora_B"].double() for adapter in adapters]
    effects = [weight * adapter.scale for weight, adapter in zip(weights, adapters, strict=True)]
    if how in ("linear", "ties"):
        root = torch.tensor([math.sqrt(abs(effect)) for effect in effects], dtype=torch.float64)
        sign = torch.tensor([1.0 if effect >= 0 else -1.0 for effect in effects], dtype=torch.float64)
        if how == "linear":
            return torch.einsum("k,kri->ri", sign * root, torch.stack(downs)), torch.einsum("k,kor->or", root, torch.stack(ups))
        return ties(torch.stack(downs), sign * root, density), ties(torch.stack(ups), root, density)
    a = torch.cat([effect * down for effect, down in zip(effects, downs, strict=True)])  # (K r, I)
    b = torch.cat(ups, dim=1)  # (O, K r)
    return (a, b) if how == "cat" else low_rank(a, b, len(downs[0]))


def ties(tensors: Tensor, weights: Tensor, density: float) -> Tensor:
    """Trim, elect signs, merge (Yadav et al. 2023), as in peft: tensors (K, ...), weights (K,) -> (...)."""
    count = int(density * tensors[0].numel())
    flat = tensors.flatten(1)
    kept = torch.zeros_like(flat).scatter(1, flat.abs().topk(count, dim=1).indices, 1.0) * flat  # (K, N)
    elected = torch.where(kept.sum(0) >= 0, 1.0, -1.0).to(kept.dtype)  # (N,)
    agree = kept.sign() == elected
    merged = (kept * weights[:, None] * agree).sum(0) / agree.sum(0).clamp_min(1)
    return merged.view(tensors.shape[1:])


def low_rank(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best approximation of the product b a by factors of this rank, a (R, I), b (O, R), without making it: (r, I), (O, r)."""
    q_a, r_a = torch.linalg.qr(a.T)
    q_b, r_b = torch.linalg.qr(b)
    u, s, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    rank = min(rank, len(s))
    return v[:rank] @ q_a.T, q_b @ (u[:, :rank] * s[:rank])


def clusters(similarity: Tensor, count: int, seed: int = 42, components: int = 64) -> list[int]:
    """Cluster numbers of N experts from their inner products (N, N), as model-based clustering does (Ostapenko et al. 2024).

    The rows of the cosines between the experts' first `components` principal coordinates are clustered by k-means (10 starts).
    The coordinates come from the eigenvectors of the inner products, in the paper from a randomised SVD of long vectors.
    Clusters are numbered in the order of their first members. Raises LabError for fewer experts than clusters.
    """
    from sklearn.cluster import KMeans

    if not 1 <= count <= len(similarity):
        raise LabError(f"{count} clusters of {len(similarity)} experts cannot be: ask for 1 to {len(similarity)}")
    values, vectors = torch.linalg.eigh(similarity.double())
    kept = values.clamp_min(0).argsort(descending=True)[:components]
    points = torch.nn.functional.normalize(vectors[:, kept] * values[kept].clamp_min(0).sqrt(), dim=1)  # (N, D)
    # pyright infers the type of n_init from its default "auto"; scikit-learn takes whole numbers too
    kmeans = KMeans(count, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]
    numbers = kmeans.fit_predict((points @ points.T).numpy()).tolist()
    order = list(dict.fromkeys(numbers))
    return [order.index(number) for number in numbers]


def products(adapters: Sequence[Mapping[str, Tensor]], space: Space = "update", quantile: float = 0.8) -> Tensor:
    """Inner products (K, K) of experts given by their parameters, in float64, over all layers.

    update: of their updates B A without scale, <B_i A_i, B_j A_j> = sum((A_i A_j^T) * (B_i^T B_j)), exact and without making
    them; the same however a LoRA is factored. parameters, as published: of all parameters as one vector each (of (IA)^3 the
    changes l - 1), in which the `quantile` of smallest absolute values is set to zero.
    """
    if space == "parameters":
        x = torch.stack([_vector(adapter, quantile) for adapter in adapters])  # (K, N)
        return x @ x.T
    total = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    for layer in sorted({name.rpartition(".")[0] for name in adapters[0]}):
        if f"{layer}.ia3_l" in adapters[0]:
            raise LabError("(IA)^3 experts have no update B A to compare: use space=parameters")
        a = torch.stack([adapter[f"{layer}.lora_A"].double().cpu() for adapter in adapters])  # (K, r, I)
        b = torch.stack([adapter[f"{layer}.lora_B"].double().cpu() for adapter in adapters])  # (K, O, r)
        inner = torch.einsum("kri,lsi->klrs", a, a)
        total += (inner * torch.einsum("kor,los->klrs", b, b)).sum((2, 3))
    return total


def _vector(adapter: Mapping[str, Tensor], quantile: float) -> Tensor:
    """All parameters as one vector (N,), in which the `quantile` of smallest absolute values is zero."""
    parts = [(t.double() - float(name.endswith(".ia3_l"))).cpu().flatten() for name, t in sorted(adapter.items())]
    vector = torch.cat(parts)
    smallest = int(quantile * len(vector))
    return vector.index_fill(0, vector.abs().argsort()[:smallest], 0.0)


def normalised(weights: Sequence[float]) -> list[float]:
    """Weights that sum to one. Raises LabError for negative ones and for a sum of zero."""
    if any(weight < 0 for weight in weights):
        raise LabError(f"weights {_listed(weights)}: one is negative, and they are normalised to sum one; use negate or how=cat")
    if not sum(weights):
        raise LabError(f"weights {_listed(weights)} sum to zero, they cannot be normalised")
    return [weight / sum(weights) for weight in weights]


def _affine(adapters: Sequence[Adapter], changes: Sequence[float], share: Callable[[str], Sequence[float]]) -> dict[str, Tensor]:
    """Weighted sums of parameters; of (IA)^3, where no change is the value one, 1 + the sum of `changes` times (l - 1)."""
    sums = {}
    for name in adapters[0].tensors:
        parts = torch.stack([adapter.tensors[name].double() for adapter in adapters])  # (K, ...)
        neutral = 1.0 if name.endswith(".ia3_l") else 0.0
        w = torch.tensor(changes if neutral else share(name), dtype=torch.float64)
        sums[name] = (neutral + torch.tensordot(w, parts - neutral, 1)).float()
    return sums


def _finite(*numbers: float) -> None:
    """Refuse NaN, infinity, and what becomes infinite as a parameter."""
    if not all(abs(number) <= torch.finfo(torch.float32).max for number in numbers):
        raise LabError(f"the number{'s' * (len(numbers) > 1)} {_listed(numbers)} must be finite in float32")


def _like(adapter: Adapter, tensors: dict[str, Tensor]) -> Adapter:
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise LabError("the result has values that float32 cannot hold: use smaller numbers")
    return Adapter(tensors, dict(adapter.config), backbone=adapter.backbone)


# -- what fits together ----------------------------------------------------------------------------------------------------


def same(adapters: Sequence[Adapter], rank: bool = False, scale: bool = False) -> list[Adapter]:
    """The adapters, with layers that are called as those of the first.

    Raises LabError for different kinds, backbones or layers; with `rank`, different ranks; with `scale`, different scales.
    """
    if not adapters:
        raise LabError("no expert was given")
    first = adapters[0]
    renamed = [first, *(within(other, first.layers) for other in adapters[1:])]
    for other in renamed[1:]:
        pair = f"'{first.name}' and '{other.name}'"
        if first.kind != other.kind:
            raise LabError(f"{pair} are of different kinds, {first.kind} and {other.kind}")
        if first.base.name and other.base.name:
            try:
                compare(other.base, first.base)
            except LabError:
                bases = f"{first.base.name} and {other.base.name}, whose weights are not the same or not here to be compared"
                raise LabError(f"{pair} belong to different backbones, {bases}: transfer one of them first") from None
        if first.layers != other.layers:
            unshared = sorted(set(first.layers) ^ set(other.layers))
            raise LabError(f"{pair} adapt different layers: only one of them has {', '.join(unshared[:3])}")
        ranks = [adapter.config.get("r") for adapter in (first, other)]
        if rank and ranks[0] != ranks[1]:
            raise LabError(f"{pair} have different ranks, {ranks[0]} and {ranks[1]}: use how=cat or how=svd")
        if scale and first.kind == "LORA" and not math.isclose(first.scale, other.scale):
            raise LabError(f"{pair} are scaled by {first.scale:g} and {other.scale:g}: use how=linear, cat or svd")
        for name in first.tensors:
            shapes = [tuple(adapter.tensors[name].shape) for adapter in (first, other)]
            if shapes[0] != shapes[1] and (rank or first.kind != "LORA"):
                raise LabError(f"{pair} do not fit: {name} has shapes {shapes[0]} and {shapes[1]}")
            if _width(name, shapes[0]) != _width(name, shapes[1]):
                raise LabError(f"{pair} belong to backbones of different width: {name} has shapes {shapes[0]} and {shapes[1]}")
    return renamed


def _width(name: str, shape: tuple[int, ...]) -> int:
    """The side of a factor that does not depend on the rank."""
    return shape[0] if name.endswith(".lora_B") else shape[-1]


def _listed(weights: Sequence[float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights)


# -- folders ---------------------------------------------------------------------------------------------------------------


def belonging(adapter: Adapter, base: Base) -> Adapter:
    """The adapter as one of this backbone."""
    return replace(adapter, config=dict(adapter.config) | {"base_model_name_or_path": base.name}, backbone=base.digest)


def within(adapter: Adapter, layers: Collection[str]) -> Adapter:
    """The adapter with its layers called as these are, where both are of one backbone that stands in different models."""
    names = peft_format.aligned(adapter.layers, layers)
    tensors = {f"{names[layer]}.{own}": t for name, t in adapter.tensors.items() for layer, _, own in [name.rpartition(".")]}
    return replace(adapter, tensors=tensors)


def read(folder: Path, name: str = "") -> Adapter:
    """The LoRA or (IA)^3 expert saved in `folder` by the lab or by peft. Raises LabError for anything else."""
    saved = peft_folder.read(folder)
    if saved.kind not in peft_format.KINDS:
        raise LabError(f"{folder} holds an expert of kind {saved.kind}: arithmetic is defined for LoRA and (IA)^3")
    tensors = {parameter: torch.from_numpy(array) for parameter, array in saved.arrays.items()}
    return Adapter(tensors, saved.config, name or folder.name, peft_folder.digest(folder), saved.backbone, saved.notes)


def write(adapter: Adapter, folder: Path, command: str, parts: Sequence[Adapter]) -> None:
    """Save in peft's format, with a card that says how it was made and of what; the folder appears when all is in it.

    Raises LabError if the folder exists or cannot be written.
    """
    config = adapter.config
    card = peft_folder.card(
        folder.name,
        config,
        f"Made by `{command}` of:",
        "",
        *(f"* `{part.name}` (weights SHA-256 {part.sha256})" for part in parts),
        "",
        "Nothing was trained; licence: that of the parts and of the base model.",
    )
    arrays = {name: tensor.numpy() for name, tensor in adapter.tensors.items()}
    peft_folder.create(folder, arrays, config, card, adapter.backbone)
