"""Labels are texts: from a value of any format to the text that a person sees, and from texts to the classes of a task."""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy

NUMBER = re.compile(r"0|-?[1-9][0-9]*")  # a whole number as it is usually written: 001 is a code
HIDDEN = "-1"  # how public data sets mark a label that is not given away


class NotOneLabel(ValueError):
    """A value in the label column that is not the label of one class."""


def label_text(value: Any) -> str | None:
    """The text of a label as a person sees it; None where there is none (missing, empty, NaN).

    Integral floats are whole numbers, booleans are true and false, and surrounding spaces are cut. Raises NotOneLabel for lists
    and other values of several parts.
    """
    if isinstance(value, numpy.floating):
        value = float(str(value))  # the shortest that is this number, also of the 32 bits that it may have
    elif isinstance(value, numpy.datetime64 | numpy.timedelta64):
        value = None if numpy.isnat(value) else str(value)
    elif isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, list | tuple | set | dict) or hasattr(value, "__array__"):
        raise NotOneLabel(f"{value!r} is several labels per row: a row has one label")
    if value is None or is_missing(value):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        return str(int(value)) if _is_whole(value) else str(value)
    if isinstance(value, bytes):
        raise NotOneLabel(f"{value!r} is bytes, not a text: save the label as text")
    return str(value).strip() or None


def is_missing(value: Any) -> bool:
    """Whether it is NaN, which is not itself, or the NA of pandas, which is neither itself nor not."""
    try:
        return bool(value != value)
    except TypeError:
        return True


def _is_whole(value: float | Decimal) -> bool:
    """Whether it stands for one whole number: above 2^53 a float stands for several."""
    return math.isfinite(value) and value == int(value) and (isinstance(value, Decimal) or abs(value) <= 2**53)


def label_names(texts: Iterable[str]) -> tuple[str, ...]:
    """The labels that occur: whole numbers in their order, everything else alphabetically."""
    names = set(texts)
    numbers = all(NUMBER.fullmatch(name) for name in names)
    return tuple(sorted(names, key=int) if numbers else sorted(names))


@dataclass(frozen=True)
class Reading:
    """How the texts of a label column become classes."""

    index: Mapping[str, int]  # class of a text
    sentence: str  # for people: "names: a, b" or "numbers of label_names: 0 = a, 1 = b"


def read_labels(texts: Collection[str], names: Sequence[str]) -> Reading:
    """By name; by number only where no text is a name and all are numbers of names.

    A text that is none of them is not in the index.
    """
    if texts and not set(texts) & set(names) and all(NUMBER.fullmatch(text) for text in texts):
        index = {str(number): number for number in range(len(names))}
        return Reading(index, f"numbers of label_names: {_few(f'{number} = {name}' for number, name in enumerate(names))}")
    return Reading({name: number for number, name in enumerate(names)}, f"names: {_few(names)}")


def near_equal(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of labels that differ in case, spaces, Unicode form or invisible characters alone: likely one class by mistake."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        letters = (letter for letter in unicodedata.normalize("NFKC", name).casefold() if not _is_invisible(letter))
        groups["".join(letters)].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _is_invisible(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter) in ("Cc", "Cf")


def _few(words: Iterable[str], most: int = 8) -> str:
    listed = list(words)
    return ", ".join(listed[:most]) + (f", ... ({len(listed)} in all)" if len(listed) > most else "")
