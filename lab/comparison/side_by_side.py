"""The comparison of runs as one object: shown in a notebook, taken apart, written into a file."""

from collections.abc import Callable, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path

import pandas as pd

from lab import views
from lab.comparison import tables
from lab.core import atomic_io, html
from lab.core.errors import LabError
from lab.run_folder.run import Run


class Comparison:
    """Runs side by side: scores, uses and costs. Runs on a stream and transfer runs have different measures, so a table each."""

    def __init__(self, runs: Sequence[Run]):
        self.runs = [*runs]
        sides = ([run for run in runs if run.protocol.continual is continual] for continual in (True, False))
        self.parts = [part for part in sides if part]

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """One row per group of runs that differ in seed and order only, and measure; unrounded, see `lab.views.summary`.

        Columns: label, recipe, n, learned, tasks, measure, value, low, high, spread, why.
        """
        return pd.concat([views.summary(part) for part in self.parts], ignore_index=True)

    def differences(self, measure: str = "") -> pd.DataFrame:
        """Paired differences between groups, see `lab.views.differences`; `measure`: dotted path of a score, default: the one by
        which methods are ordered."""
        return pd.concat([views.differences(part, measure) for part in self.parts], ignore_index=True)

    @property
    def warnings(self) -> list[str]:
        """What makes the runs unequal, in sentences."""
        return [sentence for part in self.parts for sentence in views.unequal(part)]

    def text(self, form: str) -> str:
        """The tables as text: "csv" (the numbers), "markdown" or "latex" (for people, one table after the other)."""
        if form == "csv":  # one table of all
            return views.to_csv(self.numbers, index=False)
        return "\n".join(tables.FORMATS[form](part) for part in self.parts)

    def save(self, path: str | Path) -> None:
        """Write a file whose ending says what: .csv or .parquet (`numbers`), .md or .tex (tables for people).

        LabError for another ending, and where the file cannot be written.
        """
        file = Path(path)
        check_file(file)
        try:
            atomic_io.replace_bytes(file, FILES[file.suffix](self))
        except OSError as error:
            raise LabError(f"the table {file} cannot be written: {error.strerror}") from error

    def _tables(self) -> list[tuple[pd.DataFrame, list[str]]]:
        """Per part the table with measures down and methods across, and its notes."""
        return [(table.T, notes) for table, notes in map(tables.comparison, self.parts)]

    def __repr__(self) -> str:
        return "\n\n".join("\n".join([table.to_string(), *notes]) for table, notes in self._tables())

    def _repr_html_(self) -> str:
        blocks = [html.paragraph(sentence) for sentence in self.warnings]
        for table, notes in self._tables():
            rows = [[name, *cells] for name, cells in zip(table.index, table.to_numpy(), strict=True)]
            blocks += [html.table(["", *table.columns], rows), *map(html.paragraph, notes)]
        return "".join(blocks)


def _parquet(comparison: Comparison) -> bytes:
    buffer = BytesIO()
    comparison.numbers.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _written(form: str) -> Callable[[Comparison], bytes]:
    return lambda comparison: comparison.text(form).encode()


FILES = {".parquet": _parquet, ".csv": _written("csv"), ".md": _written("markdown"), ".tex": _written("latex")}  # by their ending


def check_file(path: Path) -> None:
    """LabError if a comparison cannot be written into this file; nothing is left behind."""
    if path.suffix not in FILES:
        raise LabError(f"the table {path} has an ending that says no format: use one of {', '.join(FILES)}")
    atomic_io.check_writable(path, "table")
