"""Which layers experts adapt by default: those that peft chooses for such a model, else those whose names say what they are."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lab.experts.base import is_linear

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedModel

# What the projections of attention are called, up to what `_word` cuts off; fused ones make several things at once.
QUERY, KEY, VALUE = {"q", "query", "q_b"}, {"k", "key"}, {"v", "value"}
FUSED = {"qkv", "qkvz", "query_key_value", "c_attn", "kv", "kv_b"}
OUT = {"o", "out", "output", "dense", "c", "post", "attention_out", "o_b"}

# Endings of the names of the matrices that end feed-forward layers.
FEED_FORWARD = (
    *("output.dense", "mlp.c_proj", "down_proj", "fc2", "fc_out", "dense_4h_to_h", "w2", "mlp.Wo", "lin2", "wo"),
    *("ffn_output", "linear_2", "layer_2", "w_out", "feed_forward.output", "feed_forward.value", "proj_down"),
)


def low_rank(model: "PreTrainedModel") -> Sequence[str] | None:
    """The layers that LoRA adapts by default, as a rule the projections to queries and values; None: not known."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS

    return _of_peft(model, PEFT_TARGETS) or [name for name in _blocks(model) if _word(name) in QUERY | VALUE | FUSED] or None


def rescaled(model: "PreTrainedModel", feedforward: Sequence[str]) -> Sequence[str] | None:
    """The layers that (IA)^3 rescales by default: projections to keys and values, and what ends with `feedforward`."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as PEFT_TARGETS

    attention = [name for name in _attention(model) if _word(name) in KEY | VALUE | FUSED]
    ends = [name for name in _blocks(model) if name.endswith(tuple(feedforward))]
    return _of_peft(model, PEFT_TARGETS) or (attention and attention + ends) or None


def ends_of_attention(model: "PreTrainedModel") -> Sequence[str]:
    """The projections behind the heads of attention."""
    return [name for name in _attention(model) if _word(name) in OUT]


def ends_of_feed_forward(model: "PreTrainedModel") -> Sequence[str]:
    """The last matrices of the feed-forward layers; none where they are mixtures of experts."""
    attention = set(_attention(model))
    return [name for name in _blocks(model) if name not in attention and name.endswith(FEED_FORWARD)]


def _of_peft(model: "PreTrainedModel", table: Mapping[str, Sequence[str] | str]) -> Sequence[str]:
    """What peft has in a table of its own for this type of model, as far as it is there; an entry of one text is a pattern."""
    entry = table.get(model.config.model_type, ())
    names = [name for name, module in model.named_modules() if is_linear(module)]
    if isinstance(entry, str):
        return [name for name in names if re.fullmatch(entry, name)]
    return entry if any(f".{name}".endswith(f".{ending}") for name in names for ending in entry) else ()


def _blocks(model: "PreTrainedModel") -> list[str]:
    """Names of the linear layers in the numbered blocks; those of mixtures of experts, which see some of the tokens, aside."""
    parts_of = {name: name.split(".") for name, module in model.named_modules() if is_linear(module)}
    return [name for name, parts in parts_of.items() if any(map(str.isdigit, parts)) and "experts" not in parts]


def _attention(model: "PreTrainedModel") -> list[str]:
    """Those of `_blocks` in what is called attention, and those that stand beside a projection to queries."""
    parents = {name: name.rpartition(".")[0] for name in _blocks(model)}
    asking = {parent for name, parent in parents.items() if _word(name) in QUERY | FUSED}
    return [name for name, parent in parents.items() if "att" in parent.lower() or parent in asking]


def _word(name: str) -> str:
    """What a projection is called: the last part of its name without what only says that it is one."""
    last = name.removesuffix(".linear").rpartition(".")[2]
    return re.sub(r"^(in_proj_|linear_|project_|to_|[wW](?=[qkvo]))|(_proj|_lin|_linear|_layer|_head)$", "", last)
