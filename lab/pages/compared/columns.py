"""Groups and runs beside each other, each below its name."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import streamlit as st

from lab.pages import layout
from lab.run_folder.run import Run
from lab.views import Group

Item = TypeVar("Item", Group, Run)

COLUMNS = 2  # charts in a row; more would leave no room for the names of the tasks
INTERVAL = "95 % interval of Student's t over the runs of a method"


def run_or_runs(group: Group) -> Run | list[Run]:
    """The argument of a figure for a group: its only run, or the list of its runs."""
    return group.runs[0] if len(group.runs) == 1 else group.runs


def in_columns(items: Sequence[Item]) -> Iterator[tuple[int, Item]]:
    """Each group or run with its index, yielded inside a column of a grid, below its name."""
    for start in range(0, len(items), COLUMNS):
        for column, index in zip(st.columns(min(COLUMNS, len(items)), gap="medium"), range(start, len(items)), strict=False):
            with column:
                item = items[index]
                st.markdown(name_of(item))
                yield index, item


def name_of(item: Group | Run) -> str:
    """The name above a chart of a group or run."""
    if isinstance(item, Run):
        return f"**{layout.plain(item.title)}**"
    return f"**{layout.plain(item.label)}**" + (f" (mean of {len(item.runs)})" if len(item.runs) > 1 else "")


def band_note(groups: list[Group]) -> str:
    """What the bands of a chart are; empty where no method has several runs."""
    return f" Bands: {INTERVAL}; of two runs it is wide." if any(len(group.runs) > 1 for group in groups) else ""
