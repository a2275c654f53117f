"""The frozen pretrained language model and its tokenizer: texts in, one vector per text out, or text."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from lab.adapters.base_model import Base
from lab.config.schema import BackboneConfig
from lab.core.errors import LabError
from lab.data.batching import UNLABELLED, Batch, Encoded, by_length, collate
from lab.data.stream import Example
from lab.models import identity, positions
from lab.models.prefix_cache import Lower
from lab.models.pretrained import HashTokenizer, Tokenizer, WritingModel, is_decoder, load, locate, reader, tiny, writer

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedModel


class Backbone(nn.Module):
    """A frozen language model in evaluation mode (no dropout) with its tokenizer and pooling.

    width D of the sequence representation. `identity` is a digest of what the checkpoint holds and of what the lab computes with
    it; `body` is the same without the part that writes: what a saved expert belongs to. `hub_id`, `commit` and `folder` say where
    it came from, as far as that is known. `notes` are sentences for the user.
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
        self.hub_id = source.hub_id
        self.folder: Path | None = None
        self.commit: str | None = None
        self.notes: list[str] = []
        self.tokenizer: HashTokenizer | Tokenizer
        if source.path is None:
            model, self.tokenizer = tiny()
            if generates:
                writer(model.config, config.name)
        else:
            model, self.tokenizer, self.folder, self.commit, unused = load(source, self.device, generates)
            if unused:
                self.notes.append(f"weights in the file of backbone '{config.name}' that are not used: {_summary(unused)}")
        if generates and self.writing_tokenizer.eos_token_id is None:
            raise LabError(f"backbone '{config.name}' cannot write text: its tokenizer has no token that ends one (eos_token)")
        self.body = identity.of_body(model, self.tokenizer)
        self.identity = identity.of_writer(model, self.body) if generates else self.body
        self.generates = generates
        self.pad: int = self.tokenizer.pad_token_id or 0  # padding is masked: any token does where there is none for it
        cast(nn.Module, model).to(self.device)  # transformers wraps `to` in a way that hides its arguments
        self.model: PreTrainedModel = model.eval().requires_grad_(False)
        if config.dtype == "bfloat16":  # autocast would round these weights at every use: the same numbers, rounded once
            output = self.model.get_output_embeddings() if generates else None  # its weights may be those of the input
            for module in self.model.modules():
                if isinstance(module, nn.Linear) and module is not output:
                    module.to(torch.bfloat16)
        self.type: str = model.config.model_type
        self.pooling = config.pooling if config.pooling != "auto" else ("last" if is_decoder(model.config) else "mean")
        self.text_positions, self.answer_positions = positions.of_texts(model), positions.of_answers(model)
        self.max_length = min(config.max_length, self.text_positions.count if self.text_positions else config.max_length)
        if self.max_length < config.max_length:
            self.notes.append(
                f"texts are cut to {self.max_length} tokens, not to backbone.max_length = {config.max_length}: "
                f"backbone '{config.name}' has no more positions"
            )
        self.lower: Lower | None = None
        self.encoder_decoder: bool = model.config.is_encoder_decoder
        self.side = "left" if generates and not self.encoder_decoder else "right"  # of the padding
        accepted = inspect.signature(model.forward).parameters
        self.takes_positions = generates and "position_ids" in accepted
        self.keeps_logits = "logits_to_keep" in accepted
        self.keeps_cache = "use_cache" in inspect.signature(reader(self.model).forward).parameters
        self.takes_types = "token_type_ids" in accepted and getattr(model.config, "type_vocab_size", 0) > 1
        self.width: int = self.trial(answers=False)([0]).shape[1]  # some return a projection of their hidden states

    @property
    def embedding_width(self) -> int:
        """Width of the tokens as they enter the model."""
        return cast(Tensor, self.model.get_input_embeddings().weight).shape[1]

    @property
    def base(self) -> Base:
        """What adapters of this backbone belong to."""
        return Base(self.config.name, self.body, tuple(str(name) for name in (self.hub_id, self.folder) if name))

    @property
    def writing_tokenizer(self) -> Tokenizer:
        """The tokenizer of a backbone that writes text."""
        assert not isinstance(self.tokenizer, HashTokenizer), "the tiny backbone does not write"
        return self.tokenizer

    @property
    def ends(self) -> list[int]:
        """The tokens that end what a backbone writes: its tokenizer's and its model's."""
        own, theirs = self.writing_tokenizer.eos_token_id, self.model.generation_config.eos_token_id
        assert own is not None, "a backbone that writes has it"
        return [own, *(theirs if isinstance(theirs, list) else [theirs] if theirs is not None else [])]

    def train(self, mode: bool = True) -> "Backbone":
        """The frozen model stays in evaluation mode, whatever its owner does."""
        super().train(mode)
        self.model.eval()
        return self

    def encode(self, examples: Sequence[Example], task: int, split: str) -> list[Encoded]:
        """Token ids of all examples of a split, cut to the maximal length, not padded."""
        if not examples:  # which some tokenizers cannot take
            return []
        texts = [example.text for example in examples]
        pairs = [example.pair or "" for example in examples] if any(example.pair for example in examples) else None
        if isinstance(self.tokenizer, HashTokenizer):
            tokens = self.tokenizer(texts, pairs, self.max_length)
        else:
            tokens = self.tokenizer(texts, pairs, truncation=True, max_length=self.max_length, padding=False)
        types = tokens.get("token_type_ids") or [[0] * len(ids) for ids in tokens["input_ids"]]
        rows = zip(tokens["input_ids"], types, examples, strict=True)
        return [  # a text that no token is left of stands as one for padding
            Encoded(
                list(ids) or [self.pad],
                list(kinds) or [0],
                ex.label,
                task,
                (task, split, row),
                self.target(ex.targets[0]) if ex.targets else (),
                ex.targets,
            )
            for row, (ids, kinds, ex) in enumerate(rows)
        ]

    def length(self, example: Example) -> int:
        """Tokens of a text, or pair of texts, before it is cut."""
        pair = [example.pair] if example.pair else None
        if isinstance(self.tokenizer, HashTokenizer):
            return len(self.tokenizer([example.text], pair, sys.maxsize)["input_ids"][0])
        return len(self.tokenizer([example.text], pair, verbose=False)["input_ids"][0])

    def target(self, text: str) -> tuple[int, ...]:
        """Tokens of a text to write, cut to the maximal length, with the token that ends it."""
        tokenizer = self.writing_tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][: self.max_length - 1]
        assert tokenizer.eos_token_id is not None, "a backbone that writes has it"
        return (*ids, tokenizer.eos_token_id)

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        return collate(rows, self.pad, self.device, self.side)

    def enable_prefix_cache(self, layer: str) -> None:
        """Say that nothing below the block of this layer is ever adapted.

        What it makes of a text is then computed once, in models whose blocks hand on their states alone; it is tried out here.
        """
        self.lower = Lower.of(self.model, layer)
        if self.lower and not self._stands_in():
            self.lower.remove()
            self.lower = None

    @property
    def tolerance(self) -> float:
        """How far the same number, computed in two ways, may be apart, as a share of numbers that matter."""
        return 1e-4 if self.config.dtype == "float32" else 0.05

    def trial(self, answers: bool) -> Callable[[Sequence[int]], Tensor]:
        """A function of numbers in 0 to 2: passes so many of three texts, padded alike, through the model (n, ...).

        `answers`: through the part that writes too, which is given something to say.
        """
        texts = ("one two three", "four", "five six")
        examples = [Example(text, 0, targets=(text.split()[0],) if answers else ()) for text in texts]
        rows, most = self.encode(examples, 0, "trial"), self.max_length // 2  # so that an answer has room behind a text
        cut = [row._replace(ids=row.ids[:most], types=row.types[:most], target=row.target[-2:]) for row in rows]
        batch = self.collate(cut)

        @torch.no_grad()
        def run(rows: Sequence[int]) -> Tensor:
            tensors = (tensor[list(rows)] for tensor in batch[:5])
            some = Batch(*tensors, keys=[batch.keys[row] for row in rows], answers=[batch.answers[row] for row in rows])
            return self.token_logits(some) if answers else self.embed(some)

        return run

    @torch.no_grad()
    def _stands_in(self) -> bool:
        """Whether two rows have the same representations from the states that are kept of them as from their texts."""
        rows = self.encode([Example("a", 0), Example("one two three", 0)], 0, "trial")
        batch, near = self.collate(rows), self.tolerance
        plain = self.embed(batch)
        try:
            with self.prefix_cached(rows):
                return torch.allclose(self.embed(batch), plain, rtol=near, atol=near)
        except (TypeError, ValueError, IndexError, AttributeError, RuntimeError):  # blocks that give or take more than states
            return False

    @contextmanager
    def prefix_cached(self, rows: Sequence[Encoded], size: int = 64, lasting: bool = False) -> Iterator[None]:
        """Inside the block, what the blocks that are never adapted make of these rows is computed once, here, and reused.

        Bits depend on `rows` and `size` alone. `lasting` keeps the states for later calls with the same rows, up to a limit.
        """
        lower = self.lower
        new = list({row.key: row for row in rows if row.key not in lower.states_of}.values()) if lower else []
        if lower and new and lower.has_room(new, self.width, lasting):
            for chunk in by_length(new, size):
                self._learn_states(lower, self.collate([new[i] for i in chunk]))
        try:
            yield
        finally:
            if lower and not lasting:
                lower.forget(new)

    @torch.no_grad()
    def _learn_states(self, lower: Lower, batch: Batch) -> None:
        """Put what the lower blocks make of each row in `lower.states_of`."""
        with lower.capture() as seen:
            self.embed(batch)
        for key, state, length in zip(batch.keys, seen[0], batch.mask.sum(1).tolist(), strict=True):
            lower.states_of[key] = state[:length].clone()  # (T, D)

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
        more: dict[str, Any] = {"token_type_ids": batch.types} if self.takes_types else self.position_ids(batch.mask)
        if self.keeps_cache:
            more |= {"use_cache": False}  # no text goes on; some keep states that they then change in place
        with self.arithmetic(), self.lower.serve(batch.keys) if self.lower else nullcontext():
            hidden = reader(self.model)(input_ids=batch.ids, attention_mask=batch.mask, **more).last_hidden_state  # (B, T, D)
        return pool(hidden.float(), batch.mask, self.pooling)  # (B, D)

    def position_ids(self, mask: Tensor) -> dict[str, Tensor]:
        """Positions of the tokens (B, T), counted from the first that is no padding, for models that write and ask for them."""
        return {"position_ids": (mask.cumsum(1) - 1).clamp_min(0)} if self.takes_positions else {}

    def token_logits(self, batch: Batch) -> Tensor:
        """Logits (B, S, V) of the next token at every place of the targets, given the text and what stands before."""
        if self.encoder_decoder:
            with self.arithmetic():
                return self.model(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.label.contiguous()).logits.float()
        written = batch.label != UNLABELLED
        ids = torch.cat([batch.ids, batch.label.where(written, self.pad)], dim=1)  # (B, T + S)
        mask = torch.cat([batch.mask, written.long()], dim=1)
        wanted = batch.label.shape[1] + 1
        few = {"logits_to_keep": wanted} if self.keeps_logits else {}
        with self.arithmetic():
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False, **self.position_ids(mask), **few).logits
        return logits[:, -wanted:-1].float()

    def write(self, batch: Batch, tokens: int, beams: int) -> list[str]:
        """What the model writes after each text, see `written_tokens`."""
        return self.writing_tokenizer.batch_decode(self.written_tokens(batch, tokens, beams), skip_special_tokens=True)

    def written_tokens(self, batch: Batch, tokens: int, beams: int, watch: Callable[[Tensor], None] | None = None) -> Tensor:
        """Tokens (B, S) that the model writes after each text, at most so many, padded behind the end; greedily with one beam.

        Rows are repeated for their beams, each row's beams side by side. `watch` is given the next tokens (B,) as soon as they
        are written; with several beams none is certain before the end, so it is not called.
        """
        from transformers import GenerationConfig

        tokenizer = self.writing_tokenizer
        settings = GenerationConfig(
            max_new_tokens=tokens,
            num_beams=beams,
            do_sample=False,
            pad_token_id=self.pad,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=self.ends,
            decoder_start_token_id=self.model.config.decoder_start_token_id if self.encoder_decoder else None,
        )
        with self.arithmetic():
            model = cast(WritingModel, self.model)
            streamer = _Streamer(watch) if watch and beams == 1 else None
            ids = model.generate(
                input_ids=batch.ids, attention_mask=batch.mask, generation_config=settings, streamer=streamer
            )  # (B, T + S)
        return ids[:, 1 if self.encoder_decoder else batch.ids.shape[1] :]  # behind the token that starts a decoder, or the text


class _Streamer:
    """Passes on what transformers writes, token by token, but for the text that it was given first."""

    def __init__(self, watch: Callable[[Tensor], None]):
        self.watch, self.begun = watch, False

    def put(self, value: Tensor) -> None:
        if self.begun:
            self.watch(value)
        self.begun = True

    def end(self) -> None:
        pass


def pool(hidden: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector per row from (B, T, D): the mean over tokens, the first token, or the last one."""
    if how == "cls":
        return hidden[:, 0]
    if how == "last":
        last = mask.shape[1] - 1 - mask.flip(1).argmax(1)  # (B,), on whichever side the padding is
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
    return (hidden * weights).sum(1) / weights.sum(1)


def is_recorded(backbone: Backbone, digest: str | None) -> bool:
    """Whether `digest` is what a run recorded of this backbone; of a run of version 0.1 the checkpoint is read again to tell."""
    if digest in (None, backbone.identity):
        return digest is not None
    source = locate(backbone.config.name)
    loaded = tiny() if source.path is None else load(source, backbone.device, backbone.generates)
    return digest == identity.of_version_0_1(loaded[0], loaded[1])


def _summary(names: Sequence[str]) -> str:
    """Names of weights, those of all blocks as one."""
    return ", ".join(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))
