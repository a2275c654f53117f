"""Files of texts to be answered."""

from pathlib import Path
from typing import Any

from lab.core.errors import LabError
from lab.data.file_reading import READERS, read_text


def read_texts(
    path: Path, text: str = "text", pair: str | None = None, task: str | None = None
) -> tuple[list[Any], list[str] | None]:
    """The texts of a file (pairs where `pair` names their column), and the task of each where `task` names a column.

    A file .txt holds a text in each line; empty lines at its end are none. Raises LabError naming file and column.
    """
    if not path.is_file():
        raise LabError(f"there is no file {path}")
    if path.suffix == ".txt":
        if pair or task:
            raise LabError(f"{path} has no columns: leave out --pair-column and --task-column, or give a csv or jsonl")
        return [*read_text(path)[0].rstrip("\r\n").splitlines()], None
    kind = next((kind for kind in READERS if path.name.lower().endswith(f".{kind}")), None)
    if kind is None:
        raise LabError(f"{path}: unknown file type; use txt, {', '.join(READERS)}")
    table = READERS[kind](path, None, [name for name in (text, pair, task) if name])
    for option, column in (("--text-column", text), ("--pair-column", pair), ("--task-column", task)):
        missing = next((i for i, row in enumerate(table.rows) if column and column not in row), None)
        if missing is not None:
            there = ", ".join(table.columns) or "none"
            raise LabError(f"{table.location(missing)}: no column '{column}', only {there}; name it with {option}")
    texts = [row[text] if pair is None else (row[text], row[pair]) for row in table.rows]
    return texts, None if task is None else [str(row[task]) for row in table.rows]
