"""Texts as people give them to a model: lists or Series of strings, or of pairs of strings."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lab.core.errors import LabError, Notice
from lab.data.batching import Encoded
from lab.data.stream import Example
from lab.models.backbone import Backbone

LISTED = 5  # positions of cut texts that are named


@dataclass(frozen=True)
class Texts:
    """Texts without labels, and the index that answers to them have: that of a Series, else their positions."""

    examples: list[Example]
    index: pd.Index
    is_series: bool

    @classmethod
    def read(cls, texts: Iterable[Any]) -> "Texts":
        """Raises LabError for what is no list of texts, and by its position for what is no text."""
        if isinstance(texts, str | bytes):
            raise LabError("one text was given, texts are asked for: put it in a list, [text]")
        if isinstance(texts, pd.DataFrame | Mapping) or not isinstance(texts, Iterable):
            raise LabError(f"texts are a list or a Series of strings, not {type(texts).__name__}; of a DataFrame give one column")
        values = [*texts]
        index = texts.index if isinstance(texts, pd.Series) else pd.RangeIndex(len(values))
        return cls([_example(i, value) for i, value in enumerate(values)], index, isinstance(texts, pd.Series))

    def __len__(self) -> int:
        return len(self.examples)

    def like(self, answers: Sequence[str], name: str) -> "list[str] | pd.Series":
        """Answers in the form in which the texts were given."""
        return pd.Series(answers, self.index, name=name, dtype=object) if self.is_series else [*answers]

    @property
    def columns(self) -> dict[str, Any]:
        """The texts as columns of a table; pair only where there are some."""
        pairs = [example.pair for example in self.examples]
        return {"text": [example.text for example in self.examples]} | ({"pair": pairs} if any(pairs) else {})


def _example(i: int, value: Any) -> Example:
    pair = [*value] if isinstance(value, tuple | list) else [value]
    if len(pair) not in (1, 2) or not all(isinstance(text, str) for text in pair):
        raise LabError(f"text {i} (counted from 0) is {_short(value)}: every text is a string, or a pair of strings")
    if not pair[0].strip():
        raise LabError(f"text {i} (counted from 0) is empty: leave it out, or put words in it")
    return Example(pair[0], 0, pair[1] if len(pair) == 2 else None)


def _short(value: Any) -> str:
    """A value as it may stand in a line."""
    written = " ".join(repr(value).split())
    return f"{type(value).__name__} {written[:60]}" if value is not None else "None"


def cut_texts(backbone: Backbone, examples: Sequence[Example], rows: Sequence[Encoded]) -> list[int]:
    """Positions of the texts that have more tokens than are read."""
    full = [i for i, row in enumerate(rows) if len(row.ids) >= backbone.max_length]
    return [i for i in full if backbone.length(examples[i]) > backbone.max_length]


def say_cut(backbone: Backbone, examples: Sequence[Example], rows: Sequence[Encoded]) -> None:
    """Say once which texts were cut."""
    cut = cut_texts(backbone, examples, rows)
    if cut:
        which = ", ".join(map(str, cut[:LISTED])) + (", ..." if len(cut) > LISTED else "")
        some = "1 text has" if len(cut) == 1 else f"{len(cut):,} texts have"
        message = f"{some} more than {backbone.max_length} tokens and were cut: {which} (counted from 0)"
        warnings.warn(message.replace("were", "was") if len(cut) == 1 else message, Notice, stacklevel=5)
