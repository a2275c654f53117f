"""From rows to examples: reads text, text_pair, label and targets of a row, of folders and of the hub alike."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.errors import LabError
from lab.data.stream import Example

Row = Mapping[str, Any]
NEEDS = "each row needs text and label, or in a task of free text, text and targets"


@dataclass(frozen=True)
class Table:
    """Rows of one split, the location of row i as errors name it, and the label names that the file format declares."""

    rows: Sequence[Row]
    location: Callable[[int], str]
    labels: tuple[str, ...] | None = None


def label_names(values: Iterable[Any]) -> tuple[str, ...]:
    """Label names taken from the labels themselves: whole numbers in their order, everything else alphabetically."""
    names = {str(value) for value in values if isinstance(value, int | str) and value != ""}
    try:
        return tuple(sorted(names, key=int))
    except ValueError:
        return tuple(sorted(names))


def examples(table: Table, names: Sequence[str], declared: bool) -> list[Example]:
    """Examples of a table, in its order.

    With `declared` names (`task.json`, ClassLabel) a whole number is an index into them; otherwise the names came from the
    training rows and a number is matched as its own name. An empty `text_pair` counts as none.

    Raises LabError naming file and row for a missing column, a text that is empty or no text, a label outside the list.
    """
    index = {name: number for number, name in enumerate(names)}
    rows: list[Example] = []
    for i, row in enumerate(table.rows):
        text, pair = _texts(row, table.location(i), "label")
        label = row["label"]
        if declared and isinstance(label, int) and not isinstance(label, bool):
            number = label if 0 <= label < len(names) else None
        else:
            number = index.get(str(label)) if isinstance(label, int | str) else None
        if number is None:
            raise LabError(f"{table.location(i)}: label {label!r} is not in the list: {_listing(names, declared)}")
        rows.append(Example(text, number, pair))
    return rows


def written(table: Table) -> list[Example]:
    """Examples of a table whose rows hold `targets`: the texts that are right, as a list, or a single one.

    Raises LabError naming file and row for a missing column, for a text or target that is empty or no text.
    """
    rows: list[Example] = []
    for i, row in enumerate(table.rows):
        location = table.location(i)
        text, pair = _texts(row, location, "targets")
        targets = [row["targets"]] if isinstance(row["targets"], str) else row["targets"]
        if not isinstance(targets, list) or not targets:
            raise LabError(f"{location}: targets = {targets!r} must be a text, or a list of texts that are all right")
        for target in targets:
            _require_text(target, f"{location}: targets")
            if not target.strip():
                raise LabError(f"{location}: empty target")
        rows.append(Example(text, 0, pair, tuple(targets)))
    return rows


def _texts(row: Row, location: str, answer: str) -> tuple[str, str | None]:
    """Text and pair of a row that is to have them and an answer."""
    for column in ("text", answer):
        if column not in row:
            raise LabError(f"{location}: no column '{column}', only {', '.join(map(str, row)) or 'nothing'}; {NEEDS}")
    text, pair = row["text"], row.get("text_pair") or None
    for column, value in (("text", text), ("text_pair", pair)):
        if value is not None or column == "text":
            _require_text(value, f"{location}: {column}")
    if not text.strip():
        raise LabError(f"{location}: empty text")
    return text, pair


def _require_text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise LabError(f"{where} is of type {type(value).__name__}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise LabError(f"{where} cannot be written as UTF-8 ({error.reason} at character {error.start})") from error


def _listing(names: Sequence[str], declared: bool) -> str:
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{listed} (or 0..{len(names) - 1})" if declared else f"{listed or 'none'} (taken from the training rows)"
