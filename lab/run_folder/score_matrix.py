"""The matrix of scores as people see it: floats, with the names of the tasks when it is shown."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lab.core import html


class Matrix(np.ndarray):
    """R: `R[i, j]` is the score on task j after learning task i, NaN where that task was not seen; float, (tasks learned, T).

    An array like any other; what is computed from it, or cut out of it, is one without names.
    """

    tasks: Sequence[str] = ()  # T names; none of what was made of a matrix

    @classmethod
    def of(cls, rows: Sequence[Sequence[float | None]], tasks: Sequence[str]) -> "Matrix":
        """From rows of T scores each, None where not seen. Raises ValueError for rows of another length."""
        matrix = np.array(rows, dtype=float).reshape(len(rows), len(tasks)).view(cls)
        matrix.tasks = tuple(tasks)
        return matrix

    def _rows(self) -> list[list[Any]]:
        return [[f"after {name}", *map(float, row)] for name, row in zip(self.tasks, self, strict=False)]

    def __repr__(self) -> str:
        if not self.tasks:
            return repr(np.asarray(self))
        lines = [["", *self.tasks], *([html.number(value) or "-" for value in row] for row in self._rows())]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = ([text.rjust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
        return "\n".join("  ".join([line[0].ljust(widths[0]), *cells[1:]]) for line, cells in zip(lines, aligned, strict=True))

    def _repr_html_(self) -> str | None:
        """Rows "after a task", columns tasks; None, which means as text, for an array without names."""
        return html.table(["", *self.tasks], self._rows(), shaded=True) if self.tasks else None
