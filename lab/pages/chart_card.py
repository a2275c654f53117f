"""A chart with its text equivalent, how to read it, and the Python, command and CSV of what it shows."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from lab import figures, views
from lab.pages import layout
from lab.pages.code_snippets import command_of, python_of
from lab.run_folder.run import Run

PLOTLY = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


def chart(figure: go.Figure, key: str, alt: str, **options: Any) -> None:
    """A Plotly chart in the theme of the page, with its text equivalent."""
    ink = "#FAFAFA" if st.context.theme.type == "dark" else "#1A1D24"  # the theme's grey is lost on the bands of a flow
    figure.update_traces(textfont={"color": ink}, selector={"type": "sankey"})
    st.plotly_chart(figure, key=key, theme="streamlit", config=PLOTLY, alt=alt, **options)


def card(
    draw: Callable[..., go.Figure],
    *arguments: Any,
    key: str,
    alt: str,
    table: Callable[..., pd.DataFrame | pd.Series] | None = None,
    read: str = "",
    python: str = "",
    on_click: Callable[[int, int], None] | None = None,
    focus: tuple[int, int] | None = None,
    focus_row: int | None = None,
    **options: Any,
) -> None:
    """A chart with what belongs to it: how to read it, its text equivalent, and a popover with Python, command and CSV.

    `draw` is a function of lab.figures, called with `arguments` and `options`; `table` is the function of lab.views with its
    numbers, called with `arguments`. The popover shows these calls; `python` replaces them where the arguments are not runs
    and plain values. `on_click(row, column)` is called with the cell of a heatmap that was clicked; `focus` is the cell
    that has an outline, and `focus_row` a row of cells or bars that has one.
    """
    figure = draw(*arguments, **options)
    selection: dict[str, Any] = {}
    if on_click:
        figures.clickable(figure)
        selection = {"on_select": lambda: _pass_click_on(key, on_click), "selection_mode": "points"}
    if focus_row is not None:
        figures.outline(figure, focus_row)
    if focus:
        figures.outline(figure, *focus)
    chart(figure, key, alt, **selection)
    runs = [item for value in arguments for item in (value if isinstance(value, list) else [value]) if isinstance(item, Run)]
    numbers = partial(table, *arguments) if table else None
    footer(key, read, python or python_of(draw, table, arguments, options), runs, numbers)


def footer(
    key: str,
    read: str,
    python: str,
    runs: Sequence[Run] = (),
    numbers: Callable[[], pd.DataFrame | pd.Series] | None = None,
) -> None:
    """What stands below a chart: how to read it, and a popover with Python, the command for `runs`, and `numbers` as CSV."""
    with st.container(horizontal=True, wrap=False, gap="small", vertical_alignment="center", key=f"{key}_foot"):
        if read:
            layout.how_to_read(read)
        with st.popover("Code", icon=":material/code:", type="tertiary", width="content", key=f"{key}_code"):
            st.code(python, language="python")
            if runs:
                st.code(command_of(runs), language="bash")
            if numbers:
                st.download_button(
                    "Numbers as CSV",
                    lambda: views.to_csv(numbers()),
                    f"{key}.csv",
                    "text/csv",
                    key=f"{key}_csv",
                    icon=":material/download:",
                    on_click="ignore",
                )


def _pass_click_on(key: str, on_click: Callable[[int, int], None]) -> None:
    """Call `on_click` with the clicked cell; does nothing when a selection was cleared."""
    points = st.session_state[key].selection.points
    if points:
        on_click(int(points[0]["y"]), int(points[0]["x"]))
