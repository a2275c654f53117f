"""From rows to a task: the one way that rows of folders, of the hub and of tables in memory become labelled examples."""

import json
import random
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lab.core.errors import LabError
from lab.data import conversations
from lab.data.label_reading import (
    HIDDEN,
    NUMBER,
    NotOneLabel,
    Reading,
    is_missing,
    label_names,
    label_text,
    near_equal,
    read_labels,
)
from lab.data.stream import SPLITS, Example, Split, Task, refuse_many

Row = Mapping[str, Any]
COLUMNS = ("text", "text_pair", "label", "targets")
NEEDS = "each row needs text and label, or in a task of free text, text and targets"
SHARE = 0.2  # of the training rows that become a missing validation or test split
VALIDATION_PER_LABEL = 200  # at most, MoCL's number


@dataclass(frozen=True)
class Table:
    """Rows of one split, where they come from, and what was noticed while they were read."""

    rows: Sequence[Row]
    location: Callable[[int], str]  # of row i, as errors name it
    source: str = ""  # the name of the file, for people
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names that the format declares, by column
    notes: tuple[str, ...] = ()  # without the name of the file

    @property
    def columns(self) -> list[str]:
        """The names in its first rows."""
        return list(dict.fromkeys(str(column) for row in self.rows[:1000] for column in row))


@dataclass(frozen=True)
class Declared:
    """What is known of a task besides its rows."""

    label_names: tuple[str, ...] | None = None  # in the order of the classes; None: those of the training rows
    fields: Mapping[str, str] = field(default_factory=dict)  # column of the rows by what it is to the lab (`COLUMNS`)
    about: str = ""


def make_task(name: str, tables: Mapping[Split, Table], declared: Declared = Declared()) -> Task:
    """The task in these tables; `Task.notes` says what was done to the rows.

    Labels are read as texts (lab.data.label_reading). Rows without a label are left out. A missing test or validation split is
    taken from the training rows, never from each other, evenly over labels, by a draw that depends on the task's name alone: so
    runs with different seeds are compared on the same examples.

    Raises LabError naming file and row for a missing column, a text that is empty or no text, a label outside the list, several
    labels in a row, and where there are too few training rows for what is missing.
    """
    for split, table in tables.items():
        if not table.rows:
            raise LabError(f"task '{name}': {table.source} ({split}) holds no rows")
    tables = {split: _of_text(table, declared.fields) for split, table in tables.items()}
    columns = {split: _columns(table, declared.fields) for split, table in tables.items()}
    for split, table in tables.items():
        renamed = [f"'{there}' as {here}" for here, there in columns[split].items() if declared.fields.get(here, here) != there]
        noted = (*table.notes, f"column {', '.join(renamed)}") if renamed else table.notes
        tables = {**tables, split: replace(table, notes=noted)}
    notes = read_as(tables.values())
    if "label" not in columns["train"] and "targets" in columns["train"]:
        names: tuple[str, ...] = ()
        examples: dict[Split, list[Example]] = {split: list(_written(table, columns[split])) for split, table in tables.items()}
    else:
        names, examples = labelled(tables, declared, notes)
        refuse_many(name, names)
    splits = _with_missing_splits(name, examples, notes)
    return Task(name, names, splits["train"], splits["validation"], splits["test"], declared.about, tuple(dict.fromkeys(notes)))


def read_as(tables: Iterable[Table]) -> list[str]:
    """The notes of tables, each once with the files that it is about."""
    sources: dict[str, list[str]] = defaultdict(list)
    for table in tables:
        for note in table.notes:
            sources[note].append(table.source)
    return [f"{', '.join(dict.fromkeys(files))}: {note}" for note, files in sources.items()]


def _of_text(table: Table, fields: Mapping[str, str]) -> Table:
    """The table itself, or the texts and targets in it where it holds instructions or conversations (lab.data.conversations)."""
    if not conversations.is_instruction_data(table.columns) or "text" in _columns(table, fields):
        return table
    rows, kept, notes = conversations.as_free_text(table.rows, table.location)
    if not rows:
        raise LabError(f"{table.source}: none of its {len(table.rows):,} rows has a question and an answer")
    return replace(picked(table, kept), rows=rows, notes=(*table.notes, *notes))


def _columns(table: Table, fields: Mapping[str, str]) -> dict[str, str]:
    """Which column is which: by `fields`, else by its name, in which case and surrounding spaces do not count."""
    present = table.columns
    chosen = {}
    for column in COLUMNS:
        wanted = fields.get(column, column)
        alike = [name for name in present if name.strip().casefold() == wanted.strip().casefold()]
        if wanted in present:
            chosen[column] = wanted
        elif len(alike) == 1:
            chosen[column] = alike[0]
        elif len(alike) > 1:
            raise LabError(f"{table.source} has several columns called {column}: {', '.join(alike)}; rename all but one")
        elif column in fields and table.rows:
            raise LabError(f"{table.location(0)}: fields says that {column} is in column '{wanted}', there is {_list(present)}")
    return chosen


def labelled(
    tables: Mapping[Split, Table], declared: Declared, notes: list[str]
) -> tuple[tuple[str, ...], dict[Split, list[Example]]]:
    """Label names, and the examples of each split that has a table; adds to the notes. Raises LabError as `make_task` does."""
    columns = {split: _columns(table, declared.fields) for split, table in tables.items()}
    label = columns["train"].get("label", "label")
    declared_names = declared.label_names or tables["train"].classes.get(label)
    labels = {split: _labels(table, columns[split], declared_names or ()) for split, table in tables.items()}
    for split, table in tables.items():
        tables = {**tables, split: _without_unlabelled(split, table, labels[split], notes)}
    texts = {split: [text for text in column if text is not None] for split, column in labels.items()}
    names = tuple(declared_names or label_names(texts["train"]))
    reading = read_labels({text for column in texts.values() for text in column}, names)
    sources = ", ".join(dict.fromkeys(table.source for table in tables.values()))
    notes.append(f"label column of {sources} read as {reading.sentence}")
    for group in near_equal(names):
        written = ascii if len({unicodedata.normalize("NFC", label) for label in group}) < len(group) else repr
        notes.append(
            f"labels {' and '.join(map(written, group))} differ in case, spaces, Unicode form or invisible characters alone: "
            f"they are {len(group)} classes"
        )
    splits = {}
    for split, table in tables.items():
        _refuse_unknown(table, texts[split], reading, names, declared_names is not None)
        pairs = [_texts(row, table.location(i), columns[split]) for i, row in enumerate(table.rows)]
        splits[split] = [Example(text, reading.index[of], pair) for (text, pair), of in zip(pairs, texts[split], strict=True)]
    return names, splits


def _labels(table: Table, columns: Mapping[str, str], names: Sequence[str]) -> list[str | None]:
    """The label of every row as text; None for none, and for -1 where it is no name of a class."""
    labels: list[str | None] = []
    for i, row in enumerate(table.rows):
        if columns.get("label") not in row:
            raise LabError(f"{table.location(i)}: {_missing('label', row)}")
        try:
            text = label_text(row[columns["label"]])
        except NotOneLabel as error:
            raise LabError(f"{table.location(i)}: label {error}") from None
        labels.append(None if text == HIDDEN and HIDDEN not in names else text)
    return labels


def _without_unlabelled(split: Split, table: Table, labels: Sequence[str | None], notes: list[str]) -> Table:
    """The rows that have a label."""
    kept = [i for i, text in enumerate(labels) if text is not None]
    missing = len(labels) - len(kept)
    if not missing:
        return table
    notes.append(f"{missing:,} of {len(labels):,} rows of {table.source} have no label (empty, missing or -1) and are left out")
    if not kept:
        remedy = "" if split == "train" else f"; without these rows, {split} rows are taken from the training rows"
        raise LabError(
            f"{table.location(0)}: neither this row nor another of {split} has a label (empty, missing and -1 are none; "
            f"list -1 in label_names if it is a class){remedy}"
        )
    return picked(table, kept)


def _refuse_unknown(table: Table, texts: Sequence[str], reading: Reading, names: Sequence[str], declared: bool) -> None:
    for i, text in enumerate(texts):
        if text in reading.index:
            continue
        mixed = NUMBER.fullmatch(text) and any(other in names for other in texts) and declared
        listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        numbers = f" (or numbers 0..{len(names) - 1} throughout)" if declared else " (taken from the training rows)"
        also = "; the column mixes names and numbers: write one of them throughout" if mixed else ""
        raise LabError(f"{table.location(i)}: label {text!r} is not in the list: {listed or 'none'}{numbers}{also}")


def _written(table: Table, columns: Mapping[str, str]) -> Iterator[Example]:
    """Examples of a table whose rows hold targets: the texts that are right, as a list, or a single one."""
    for i, row in enumerate(table.rows):
        location = table.location(i)
        if columns.get("targets") not in row:
            raise LabError(f"{location}: {_missing('targets', row)}")
        text, pair = _texts(row, location, columns)
        value = row[columns["targets"]]
        targets = [value] if isinstance(value, str) else value
        if not isinstance(targets, list) or not targets:
            raise LabError(f"{location}: targets = {targets!r} must be a text, or a list of texts that are all right")
        for target in targets:
            _require_text(target, f"{location}: targets")
            if not target.strip():
                raise LabError(f"{location}: empty target")
        yield Example(text, 0, pair, tuple(targets))


def _texts(row: Row, location: str, columns: Mapping[str, str]) -> tuple[str, str | None]:
    """Text and pair of a row; an empty pair is none."""
    if columns.get("text") not in row:
        raise LabError(f"{location}: {_missing('text', row)}")
    text, pair = row[columns["text"]], row.get(columns.get("text_pair", "")) or None
    _require_text(text, f"{location}: text")
    if pair is not None:
        _require_text(pair, f"{location}: text_pair")
    if not text.strip():
        raise LabError(f"{location}: empty text; write one, or leave the row out")
    return text, pair


def _missing(column: str, row: Row) -> str:
    """What is said of a column that is not there: which are, and how to say that one of them is it."""
    here = [str(name) for name in row]
    others = [name for name in here if name.strip().casefold() not in COLUMNS]
    absent = [name for name in ("text", column) if name not in here]
    fields = json.dumps(dict(zip(dict.fromkeys(absent), others, strict=False)), ensure_ascii=False)
    example = f'; or say in task.json which column is it, as in {{"fields": {fields}}}' if others else ""
    return f"no column '{column}', only {_list(here)}; {NEEDS}{example}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _require_text(value: Any, where: str) -> None:
    if value is None or is_missing(value):
        raise LabError(f"{where} is missing ({value}): fill it in, or leave the row out")
    if not isinstance(value, str):
        raise LabError(f"{where} is of type {type(value).__name__}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise LabError(f"{where} cannot be written as UTF-8 ({error.reason} at character {error.start})") from error


# -- splits that are missing -----------------------------------------------------------------------------------------------


def _with_missing_splits(name: str, examples: Mapping[Split, list[Example]], notes: list[str]) -> dict[Split, list[Example]]:
    """All three splits: what is missing is taken from the training rows."""
    splits = dict(examples)
    for split in ("test", "validation"):
        if split not in splits:
            before = len(splits["train"])
            most = VALIDATION_PER_LABEL if split == "validation" else None
            splits["train"], splits[split] = _split_off(splits["train"], f"{name}/{split}", most)
            if len(splits[split]) < 2:
                labels = len({example.label for example in splits["train"]})
                each = f" of {labels:,} labels" if labels > 1 else ""
                raise LabError(
                    f"task '{name}' has no {split} rows, and {before:,} training rows{each} are too few to take some: "
                    f"add {split} rows{', or is the label column an identifier?' if 2 * labels > before else ''}"
                )
            notes.append(
                f"there is no {split} split: {len(splits[split]):,} of {before:,} training rows are it, of every label a fifth "
                "(a fixed draw, the same for every seed)"
            )
    return {split: splits[split] for split in SPLITS}


def _split_off(rows: list[Example], key: str, most: int | None) -> tuple[list[Example], list[Example]]:
    """(the rest, a fifth of the rows of every label drawn by `key`, at most `most`); rows of the same text stay together."""
    groups: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row.text, row.pair].append(i)
    of_label: dict[int, list[list[int]]] = defaultdict(list)
    for group in groups.values():
        of_label[rows[group[0]].label].append(group)
    draw = random.Random(key)
    taken: set[int] = set()
    for _, alike in sorted(of_label.items()):
        size = min(max(round(len(alike) * SHARE), 1), len(alike) - 1, most or len(alike))
        taken.update(i for group in draw.sample(alike, size) for i in group)
    return [row for i, row in enumerate(rows) if i not in taken], [rows[i] for i in sorted(taken)]


def by_split_column(table: Table) -> dict[Split, Table]:
    """One table for each split that its column `split` names; all rows train where it has no such column.

    Raises LabError for a name that is no split.
    """
    column = next((name for name in (table.rows[0] if table.rows else ()) if str(name).strip().casefold() == "split"), None)
    if column is None:
        return {"train": table}
    parts: dict[Split, list[int]] = defaultdict(list)
    for i, row in enumerate(table.rows):
        split = SPLIT_OF.get(str(row.get(column)).strip().casefold())
        if split is None:
            raise LabError(f"{table.location(i)}: split {row.get(column)!r} is none of {', '.join(SPLIT_OF)}")
        parts[split].append(i)
    sizes = ", ".join(f"{split} {len(parts[split]):,}" for split in SPLITS if split in parts)
    note = f"column '{column}' gives the splits, {sizes}"
    made: dict[Split, Table] = {}
    for split in SPLITS:
        if kept := parts.get(split):
            made[split] = replace(picked(table, kept), notes=(*table.notes, note))
    if "train" not in made:
        raise LabError(f"{table.source}: no row is of split train")
    return made


def picked(table: Table, kept: Sequence[int]) -> Table:
    """These rows of a table, which keep the places that errors name."""
    return replace(table, rows=[table.rows[i] for i in kept], location=lambda i: table.location(kept[i]))


STEMS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test",),
}
SPLIT_OF: dict[str, Split] = {stem: split for split, stems in STEMS.items() for stem in stems}
