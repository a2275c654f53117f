"""How many positions a model has for the tokens of texts and answers."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch import Tensor, nn

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedModel

TABLE = re.compile(r"(^|\.)(wpe|embed_positions|positions?_embed(ding)?s?)$")


class Positions(NamedTuple):
    """`count` positions; `fixed`: the model has a table of them and fails beyond it. Rotary ones are computed for any number."""

    count: int
    fixed: bool


def of_texts(model: "PreTrainedModel") -> Positions | None:
    """Positions of the tokens of a text, in a decoder of its answer too; None: no limit is known, as in T5."""
    part = model.get_encoder() if model.config.is_encoder_decoder else model
    return _positions(part, model.config.get_text_config(), ("max_position_embeddings", "max_encoder_position_embeddings"))


def of_answers(model: "PreTrainedModel") -> Positions | None:
    """Positions of the tokens of an answer: in the decoder of an encoder-decoder, else behind the text's, among the same."""
    if not model.config.is_encoder_decoder:
        return of_texts(model)
    return _positions(model.get_decoder(), model.config, ("max_position_embeddings", "max_decoder_position_embeddings"))


def _positions(part: nn.Module, config: Any, fields: Sequence[str]) -> Positions | None:
    """Rows of a table of positions, else what the configuration says.

    Tables of some models begin with rows for no token: up to the padding index in RoBERTa's, `offset` rows in OPT's and BART's.
    """
    tables = [module for name, module in part.named_modules() if TABLE.search(name) and isinstance(module, nn.Embedding)]
    unused = [cast(int, getattr(t, "offset", 0)) if t.padding_idx is None else t.padding_idx + 1 for t in tables]
    rows = [table.num_embeddings - first for table, first in zip(tables, unused, strict=True)]
    rows += [len(cast(Tensor, buffer)) for name, buffer in part.named_buffers() if TABLE.search(name)]  # of GPT-J, computed
    if rows:
        return Positions(min(rows), fixed=True)
    limits = (getattr(config, field, None) for field in fields)
    return next((Positions(limit, fixed=False) for limit in limits if limit and limit > 0), None)  # XLNet says -1
