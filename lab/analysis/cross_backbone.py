"""Experts carried to another backbone (Klimaszewski, Andruszkiewicz and Birch 2024): blocks are skipped or averaged, and where
the features are not the same ones, the student's are matched with teacher's features that behave alike.

Student block l takes teacher block k l (skip), or the mean over blocks k l .. k l + k - 1 (average). Backbones that share their
features (see `alike`: a student cut out of its teacher, or trained on from it) need no more, these go one to one. For others, of
equal width too, features are correlated on tokens that both cut a text into, and matched; the factors keep those columns of A and
rows of B. Whether more than a good scale was carried shows beside `control`: values drawn from the same distribution.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from lab.adapters import arithmetic
from lab.adapters.arithmetic import Adapter
from lab.core.errors import LabError
from lab.core.rng import generator
from lab.models.backbone import Backbone
from lab.models.expert_bank import info_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEXTS = 1000  # that features are correlated on, at most
TOKENS = 20_000
COMMON = 2000  # tokens whose embeddings are compared, at most


def layers(adapter: Adapter, teacher: int, student: int, how: Literal["skip", "average"] = "skip") -> Adapter:
    """The adapter of a teacher of so many blocks for a student of fewer. Raises LabError if the numbers do not divide.

    Student blocks whose teacher blocks carry nothing get nothing.
    """
    if how not in ("skip", "average"):
        raise LabError(f"layers = {how}: choose skip or average")
    if not 1 <= student <= teacher or teacher % student:
        raise LabError(f"a teacher of {teacher} blocks and a student of {student}: the first must be a multiple of the second")
    step = teacher // student
    tensors: dict[str, Tensor] = {}
    for name, tensor in adapter.tensors.items():
        block = block_of(name)
        if block is None:
            raise LabError(f"{name} stands in no block of the backbone: layers cannot be matched")
        first, offset = divmod(block, step)
        if offset == 0:
            parts = [tensor] if how == "skip" else [adapter.tensors.get(renumbered(name, block + i)) for i in range(step)]
            present = [part for part in parts if part is not None]
            if len(present) == len(parts):
                tensors[renumbered(name, first)] = torch.stack(present).double().mean(0).float()
    if not tensors:
        raise LabError(f"'{adapter.name}' has no parameters in the blocks that the student takes over (every {step}th)")
    return replace(adapter, tensors=tensors)


def block_of(name: str) -> int | None:
    """Number of the transformer block in a dotted name."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def renumbered(name: str, block: int) -> str:
    """The same name in another block."""
    return re.sub(r"(^|\.)\d+(?=\.)", lambda match: f"{match[1]}{block}", name, count=1)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's r of every feature of x (N, D) with every one of y (N, E), in float64: (D, E); 0 where a feature never varies."""

    def standard(z: Tensor) -> Tensor:
        z = z.double() - z.double().mean(0)
        return z / z.norm(dim=0).clamp_min(1e-12)

    return standard(x).T @ standard(y)


def matched(similarity: Tensor) -> Tensor:
    """For each of D student features its own teacher feature (D,), so that the sum of `similarity` (D, E) is largest."""
    from scipy.optimize import linear_sum_assignment

    if similarity.shape[0] > similarity.shape[1]:
        raise LabError(f"the student has {similarity.shape[0]} features, the teacher {similarity.shape[1]}: it must not be wider")
    return torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])


def pruned(adapter: Adapter, kept: Mapping[str, Tensor]) -> Adapter:
    """The adapter with, per layer, only these features: columns of A and rows of B, or entries of an (IA)^3 vector.

    Raises LabError for layers whose input and output are not both as wide as the matched features.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in adapter.tensors.items():
        index, side = kept[name.rpartition(".")[0]], 0 if name.endswith(".lora_B") or tensor.shape[-1] == 1 else 1
        if int(index.max()) >= tensor.shape[side]:
            raise LabError(f"{name} of shape {tuple(tensor.shape)} is no map between hidden states: only these can be matched")
        tensors[name] = tensor.index_select(side, index)
    return replace(adapter, tensors=tensors)


def control(adapter: Adapter, seed: int) -> Adapter:
    """Normal values with the mean and spread of each of the adapter's parameters: the same scale, no content."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in adapter.tensors.items():
        noise = torch.randn(tensor.shape, generator=generator(seed, "control", name))
        tensors[name] = tensor.mean() + noise * tensor.std()
    return replace(adapter, tensors=tensors)


def _pretrained(backbone: Backbone) -> "PreTrainedModel":
    """The model of the backbone; nn.Module knows its submodules as tensors or modules only."""
    return cast("PreTrainedModel", backbone.model)


@torch.no_grad()
def alike(teacher: Backbone, student: Backbone) -> bool:
    """Whether feature i of both is the same thing.

    It is in equal models, and where, on the embeddings of the tokens that both know, most features of the student correlate best
    with the teacher's of the same number. Trainings from different random values have no such order, whatever they are called.
    Where embeddings are not as wide as hidden states nothing is known: False.
    """
    if teacher.identity == student.identity:
        return True
    embeddings = [cast(nn.Embedding, _pretrained(model).get_input_embeddings()) for model in (teacher, student)]
    tables = [embedding.weight.detach().float().cpu() for embedding in embeddings]  # (V, D) each
    if not teacher.width == student.width == tables[0].shape[1] == tables[1].shape[1]:
        return False
    vocabularies = [getattr(model.tokenizer, "get_vocab", dict)() for model in (teacher, student)]
    both = sorted(set(vocabularies[0]) & set(vocabularies[1]))[:COMMON]
    if not both:
        return False
    x, y = (table[[ids[token] for token in both]] for table, ids in zip(tables, vocabularies, strict=True))  # (N, D) each
    best = correlation(y, x).argmax(1)  # (D,)
    return (best == torch.arange(student.width)).float().mean().item() > 0.5


def carried(
    adapter: Adapter, teacher: Backbone, student: Backbone, texts: Sequence[str], how: Literal["skip", "average"] = "skip"
) -> Adapter:
    """The teacher's adapter for the student; `texts` are for backbones that are not `alike`.

    Raises LabError where layers, features or tokens have no counterpart.
    """
    blocks_t, blocks_s = (_pretrained(model).config.get_text_config().num_hidden_layers for model in (teacher, student))
    modules = dict(student.model.named_modules())
    own = arithmetic.within(adapter, [name for name, _ in teacher.model.named_modules()])
    moved = layers(own, blocks_t, blocks_s, how)
    missing = [name for name in moved.layers if name not in modules]
    if missing:
        raise LabError(f"the student has no layer {missing[0]}: experts are carried between backbones that name layers alike")
    if not alike(teacher, student):
        step = blocks_t // blocks_s
        names = {name: renumbered(f"{name}.", block_of(f"{name}.") * step).removesuffix(".") for name in moved.layers}
        seen_s, seen_t = inputs(student, teacher, list(names), list(names.values()), texts)
        kept = {name: matched(correlation(seen_s[name], seen_t[names[name]])) for name in names}
        moved = pruned(moved, kept)
    for name, tensor in moved.tensors.items():
        layer = info_of(name.rpartition(".")[0], modules[name.rpartition(".")[0]])
        of_output = name.endswith(".lora_B") or tensor.shape[-1] == 1
        side, width = (tensor.shape[0], layer.outputs) if of_output else (tensor.shape[-1], layer.inputs)
        if side != width:
            raise LabError(f"{name} has width {side}, the student's layer {width}: it cannot be carried")
    return moved


@torch.no_grad()
def inputs(
    student: Backbone, teacher: Backbone, own: Sequence[str], other: Sequence[str], texts: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the named layers of both are given at tokens that both cut the texts into: (N, D) and (N, E) per layer."""
    seen: tuple[dict, dict] = ({name: [] for name in own}, {name: [] for name in other})
    count = 0
    for text in texts[:TEXTS]:
        positions = [_positions(model, text) for model in (student, teacher)]
        both = sorted(set(positions[0]) & set(positions[1]))
        for model, store, position in zip((student, teacher), seen, positions, strict=True):
            _listen(model, store, text, [position[span] for span in both])
        count += len(both)
        if count >= TOKENS:
            break
    if not count:
        raise LabError("teacher and student have no tokens in common on these texts: their features cannot be matched")
    return tuple({name: torch.cat(parts) for name, parts in store.items()} for store in seen)  # type: ignore[return-value]


def _positions(model: Backbone, text: str) -> dict[tuple[int, int], int]:
    """Where in the row of tokens each stretch of characters stands; special tokens have none."""
    if not getattr(model.tokenizer, "is_fast", False):
        raise LabError(
            f"the tokenizer of '{model.config.name}' does not tell which characters a token is: features cannot be matched"
        )
    tokenizer = cast("PreTrainedTokenizerBase", model.tokenizer)  # the hash tokenizer was refused
    spans = tokenizer(text, truncation=True, max_length=model.max_length, return_offsets_mapping=True)["offset_mapping"]
    return {(start, end): i for i, (start, end) in enumerate(spans) if end > start}


def _listen(model: Backbone, store: dict[str, list[Tensor]], text: str, tokens: Sequence[int]) -> None:
    """Add what the layers in `store` are given at these tokens of one text."""
    tokenizer = cast("PreTrainedTokenizerBase", model.tokenizer)  # checked in _positions
    ids = tokenizer(text, truncation=True, max_length=model.max_length, return_tensors="pt")
    modules, hooks = dict(model.model.named_modules()), []

    def hook(name: str) -> None:
        def keep(module: nn.Module, args: tuple) -> None:
            store[name].append(args[0][0, list(tokens)].float().cpu())

        hooks.append(modules[name].register_forward_pre_hook(keep))

    for name in store:
        hook(name)
    try:
        model.model(**{key: value.to(model.device) for key, value in ids.items() if key != "token_type_ids"})
    finally:
        for handle in hooks:
            handle.remove()
