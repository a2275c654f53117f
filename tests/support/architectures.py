"""Tiny random checkpoints of many architectures, with tokenizers made here: folders as transformers saves them.

An architecture is the name of its configuration in transformers and what that configuration needs beside small SIZES.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

# Small values for what configurations call their sizes, each under several names; an architecture takes those it has.
SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "d_ff", "hidden_dim", "n_inner", "d_inner", "ffn_dim", "moe_intermediate_size"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "shared_expert_intermediate_size"), 48),
    **dict.fromkeys(("head_dim", "d_kv", "d_head"), 8),
    "num_key_value_heads": 2,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 192),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_experts_per_tok": 2,
    "rotary_dim": 4,
}

# Name -> further values of its configuration; "type" is that of the configuration where the name is another.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    # encoders
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "camembert": {"type_vocab_size": 1},
    "xlm-roberta-xl": {},
    "roberta-prelayernorm": {},
    "data2vec-text": {"type_vocab_size": 1},
    "distilbert": {},
    "albert": {"num_hidden_layers": 3, "embedding_size": 16},
    "electra": {"embedding_size": 16},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "conv_kernel_size": 3},
    "deberta-v3": {
        "type": "deberta-v2",
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "share_att_key": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "pooler_hidden_size": 32,
    },
    "modernbert": {"local_attention": 16, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    "mpnet": {},
    "ernie": {},
    "megatron-bert": {},
    "roformer": {},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 24},
    "convbert": {"embedding_size": 32},
    "funnel": {"block_sizes": [1, 1], "architectures": ["FunnelModel"]},
    "layoutlm": {},
    "eurobert": {"mask_token_id": 4},
    "nomic_bert": {},
    "esm": {"position_embedding_type": "rotary", "pad_token_id": 0, "mask_token_id": 4},
    "xlm": {},
    "xlnet": {},
    # decoders
    "gpt2": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gpt_neox": {},
    "gptj": {},
    "gpt_bigcode": {},
    "codegen": {},
    "bloom": {},
    "falcon": {},
    "falcon-new": {"type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2},
    "opt": {},
    "opt-projected": {"type": "opt", "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "mpt": {},
    "llama": {},
    "mistral": {},
    "qwen2": {"pad_token_id": 0},  # its tokenizer in transformers adds a token for padding where none is given
    "qwen3": {},
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 8, "sliding_window": 16},
    "gemma3_text": {"query_pre_attn_scalar": 8, "sliding_window": 16},
    "phi": {},
    "phi3": {},
    "stablelm": {},
    "olmo": {},
    "olmo2": {},
    "starcoder2": {},
    "cohere": {},
    "granite": {},
    "smollm3": {},
    "glm": {},
    "glm4": {},
    "nemotron": {},
    "persimmon": {},
    "biogpt": {},
    "xglm": {"attention_heads": 4},
    "helium": {},
    "exaone4": {},
    "modernbert-decoder": {"local_attention": 16, "cls_token_id": 1, "sep_token_id": 2},
    # decoders whose feed-forward layers are mixtures of experts
    "mixtral": {},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "olmoe": {},
    "granitemoe": {},
    "llama4_text": {"intermediate_size_mlp": 48},
    "gpt_oss": {},
    # others
    "rwkv": {"attention_hidden_size": 32, "context_length": 192},
    # encoder-decoders
    "t5": {},
    "t5-gated": {"type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {},
    "umt5": {},
    "bart": {},
    "mbart": {},
    "pegasus": {},
    "marian": {},
    "m2m_100": {},
    "blenderbot": {},
    "plbart": {},
}

ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;!?'->"


def config(name: str, **changes: Any) -> "PreTrainedConfig":
    """The configuration of a tiny model: 2 or 3 layers of width 32 with 4 heads, no dropout."""
    from transformers import CONFIG_MAPPING

    own = dict(ARCHITECTURES[name])
    kind = CONFIG_MAPPING[own.pop("type", name)]
    usual = kind().to_dict()
    sizes = {key: size for key, size in SIZES.items() if key in usual}
    dropout = {key: 0.0 for key, value in usual.items() if ("drop" in key or key.endswith("pdrop")) and isinstance(value, float)}
    pad, bos = (1, 0) if usual.get("pad_token_id") == 1 else (0, 1)  # RoBERTa's kin counts positions from the padding's id on
    padding = {"pad_token_id": pad} if usual.get("pad_token_id") is not None else {}  # many decoders have none
    ids = {"vocab_size": len(tokens(pad)), "bos_token_id": bos, "eos_token_id": 2, **padding}
    if "decoder_start_token_id" in usual or usual.get("is_encoder_decoder"):
        ids["decoder_start_token_id"] = pad if usual.get("decoder_start_token_id") != 2 else 2
    return kind(**sizes | dropout | ids | own | changes)


def family(settings: "PreTrainedConfig") -> str:
    """What becomes of a text: "encoder", "decoder" or "encoder-decoder"."""
    from transformers.models.auto import modeling_auto

    if settings.is_encoder_decoder:
        return "encoder-decoder"
    masked = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return "decoder" if settings.model_type in causal and settings.model_type not in masked else "encoder"


def model(name: str, head: str = "AutoModel", **changes: Any) -> "PreTrainedModel":
    """The same random frozen weights at each call; `head`: a class of transformers that makes models from configurations."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        built = getattr(transformers, head).from_config(config(name, **changes), attn_implementation="eager")
        for parameter in built.parameters():
            if parameter.dim() == 1:  # biases and norms too, so that nothing hides behind a zero
                nn.init.normal_(parameter, 1.0 if parameter.mean() > 0.5 else 0.0, 0.1)
            else:
                nn.init.normal_(parameter, 0.0, 0.2)
    return built.eval().requires_grad_(False)


def tokens(pad: int) -> list[str]:
    """The vocabulary by id: special tokens, with padding in place 0 or 1, and a token for each character."""
    special = ["<s>", "<s>", "</s>", "<unk>", "<mask>"]
    special[pad] = "<pad>"
    return [*special, *ALPHABET]


def tokenizer(settings: "PreTrainedConfig") -> "PreTrainedTokenizerFast":
    """Characters as tokens, with the special tokens that texts have in such a model: <s> text </s>, text </s>, or text alone."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pad = 1 if settings.bos_token_id == 0 else 0
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens(pad))}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    kind = family(settings)
    if kind != "decoder":
        first = "<s> " if kind == "encoder" else ""
        made.post_processor = processors.TemplateProcessing(
            single=f"{first}$A </s>",
            pair=f"{first}$A </s> $B:1 </s>:1",
            special_tokens=[("<s>", settings.bos_token_id), ("</s>", 2)],
        )
    typed = ["token_type_ids"] if (getattr(settings, "type_vocab_size", 0) or 0) > 1 else []
    padding = {"pad_token": "<pad>"} if getattr(settings, "pad_token_id", None) is not None else {}
    marks = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"} if kind == "encoder" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=["input_ids", *typed, "attention_mask"],
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | padding | marks,
    )


def save(name: str, folder: Path, **changes: Any) -> str:
    """The checkpoint as pretraining leaves it: with the part that predicts tokens, and so, as RoBERTa's, without a pooler."""
    heads = {"encoder": "AutoModelForMaskedLM", "decoder": "AutoModelForCausalLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}
    settings = config(name, **changes)
    try:
        built = model(name, heads[family(settings)], **changes)
    except ValueError:  # some encoders of transformers have no such part
        built = model(name, **changes)
    built.save_pretrained(folder)
    tokenizer(settings).save_pretrained(folder)
    return str(folder)


def inputs(settings: "PreTrainedConfig", rows: int = 3, width: int = 9, side: str = "right") -> dict[str, torch.Tensor]:
    """Random tokens (B, T) with a mask, of which every second row is padded by two; an encoder-decoder is given answers, too."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, settings.vocab_size, (rows, width), generator=draw)
    mask = torch.ones_like(ids)
    mask[1::2, slice(-2, None) if side == "right" else slice(2)] = 0
    ids[mask == 0] = getattr(settings, "pad_token_id", None) or 0
    answers = {"decoder_input_ids": torch.randint(5, settings.vocab_size, (rows, 4), generator=draw)}
    return {"input_ids": ids, "attention_mask": mask} | (answers if settings.is_encoder_decoder else {})
