"""A grid as Python has it: its cells, its table, what was chosen by validation."""

from typing import Any

import pandas as pd

from lab.comparison.grid_runner import Grid
from lab.core import html
from lab.run_folder.run import Run
from lab.views.run_list import RunList


class GridResult:
    """What a grid holds now: `cells`, the runs that are there; `table`, one row per recipe, stream and scenario; `sweep`,
    `chosen`; `unfinished`, the reason by run id; `result`, all of it as `lab grid --json` prints it."""

    def __init__(self, grid: Grid):
        self.result: dict[str, Any] = grid.result()
        self.unfinished: dict[str, str] = grid.unfinished()
        self.cells = RunList(Run(grid.folder / cell["run"]) for cell in self.result["cells"] if cell["status"] != "missing")

    @property
    def table(self) -> pd.DataFrame:
        """Means over seeds and orders: recipe, stream, scenario, n, and per measure its mean, `<measure>.low` and
        `<measure>.high`.

        Bounds are those of the interval, NaN below two cells; a mean is NaN where a cell has none.
        """
        rows = []
        for entry in self.result["table"]:
            row = {name: entry[name] for name in ("recipe", "stream", "scenario", "n")}
            for name, value in entry.items():
                if isinstance(value, dict) and "mean" in value:
                    row |= {name: value["mean"], f"{name}.low": value.get("low"), f"{name}.high": value.get("high")}
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def sweep(self) -> pd.DataFrame:
        """Every combination of swept values: recipe, stream, scenario, one column per option, validation (mean score), chosen."""
        return pd.DataFrame(
            {name: entry[name] for name in ("recipe", "stream", "scenario")}
            | tried["values"]
            | {"validation": tried["validation"], "chosen": tried["values"] == entry["chosen"]}
            for entry in self.result["table"]
            for tried in entry["sweep"]
        )

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The swept values with the best validation score, of a grid with one row; None while they are not known."""
        (row,) = self.result["table"]
        return row["chosen"]

    @property
    def differences(self) -> pd.DataFrame:
        """Paired differences between the methods: stream, scenario, first, second, measure, n, mean, low, high, p, claim, why."""
        return pd.DataFrame(self.result["differences"])

    def _about(self) -> str:
        done = len(self.result["cells"]) - len(self.unfinished)
        return f"grid of {len(self.result['cells'])} cells, {done} finished"

    def _short(self) -> pd.DataFrame:
        """The table without bounds, uses and costs."""
        table = self.table
        return table.filter([n for n in table if not n.endswith((".low", ".high")) and not n.startswith(("cost.", "uses."))])

    def __repr__(self) -> str:
        return f"<{self._about()}>\n{self._short().to_string(index=False, float_format='{:.3f}'.format)}"

    def _repr_html_(self) -> str:
        table = self._short()
        reasons = [html.paragraph(f"{id} is not finished: {why}") for id, why in self.unfinished.items()]
        return html.paragraph(self._about()) + html.table([*table], table.astype(object).to_numpy().tolist()) + "".join(reasons)
