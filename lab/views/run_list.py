"""Many runs as one object: filtered, listed, shown as a table."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, overload

import pandas as pd

from lab.core import html
from lab.core.errors import unknown
from lab.run_folder.run import STATUSES, Run
from lab.store import index
from lab.views.results import judged
from lab.views.runs import runs_table

SHOWN = 30  # of the newest runs where a list is shown
ABOUT = ("run", "status", "recipe", "stream", "scenario", "seed", "learned", "tasks")


class RunList(Sequence[Run]):
    """Runs, oldest first: `runs[-1]` and `runs["id"]` are runs, `runs[:3]` is a shorter list, `runs.table()` a DataFrame."""

    def __init__(self, runs: Iterable[Run]):
        self._runs = list(runs)

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return index.rows(self._runs)

    def table(self) -> pd.DataFrame:
        """One row per run, damaged ones with the reason: run, status, recipe, stream, ..., the scores, created, reason."""
        return runs_table(self._runs)

    def where(self, **wanted: Any) -> "RunList":
        """The runs with these values in their row of the table: `where(recipe="l2r", status=["stopped", "failed"])`.

        None: any. LabError for a status that there is not.
        """
        chosen = {name: value if isinstance(value, list) else [value] for name, value in wanted.items() if value is not None}
        for status in chosen.get("status", ()):
            if status not in STATUSES:
                raise unknown("status", str(status), STATUSES)
        pairs = zip(self._runs, self._rows, strict=True)
        return RunList(run for run, row in pairs if all(row.get(name) in values for name, values in chosen.items()))

    @overload
    def __getitem__(self, which: int | str) -> Run: ...
    @overload
    def __getitem__(self, which: slice) -> "RunList": ...
    def __getitem__(self, which: int | str | slice) -> "Run | RunList":
        if isinstance(which, slice):
            return RunList(self._runs[which])
        if isinstance(which, int):
            return self._runs[which]
        by_id = {run.id: run for run in self._runs}
        if which not in by_id:
            raise unknown("run", which, by_id)
        return by_id[which]

    def __len__(self) -> int:
        return len(self._runs)

    def _shown(self) -> tuple[str, list[str], list[list[Any]]]:
        """A line about all runs, then column titles and rows of the newest ones, newest first."""
        scores = judged()
        rows = [[row.get(name) for name in (*ABOUT, *(m.path for m in scores))] for row in self._rows[: -SHOWN - 1 : -1]]
        title = f"{len(self)} run{'' if len(self) == 1 else 's'}" + (f", the newest {SHOWN}" if len(self) > SHOWN else "")
        return title, [*ABOUT, *(m.title.lower() for m in scores)], rows

    def __repr__(self) -> str:
        title, columns, rows = self._shown()
        table = pd.DataFrame([[html.number(value) for value in row] for row in rows], columns=columns)
        return f"<{title}>" + (f"\n{table.to_string(index=False)}" if rows else "")

    def _repr_html_(self) -> str:
        title, columns, rows = self._shown()
        return html.paragraph(title) + (html.table(columns, rows) if rows else "")
