"""Tables as CSV that a spreadsheet opens without running anything in it."""

import re
from typing import Any

import pandas as pd

STARTS = ("=", "+", "-", "@", "\t", "\n")  # of a cell that a spreadsheet takes for a formula


def to_csv(table: pd.DataFrame | pd.Series, index: bool = True) -> str:
    """A table as CSV, numbers unrounded. Text that begins like a formula gets an apostrophe before it, names included."""
    frame = table.to_frame() if isinstance(table, pd.Series) else table
    frame = frame.astype(object).map(inert)
    return (
        frame.rename(index=inert, columns=inert)
        .rename_axis(index=[inert(name) for name in frame.index.names], columns=[inert(name) for name in frame.columns.names])
        .to_csv(index=index)
    )


def inert(cell: Any) -> Any:
    """A cell that is no formula: text that begins like one behind an apostrophe, numbers as they are."""
    if not isinstance(cell, str):
        return cell
    text = re.sub("\r\n?", "\n", cell)  # pandas leaves a lone return unquoted, and what follows would begin a row
    return f"'{text}" if text.startswith(STARTS) else text
