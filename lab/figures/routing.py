"""Figures of routing: experts by task, by layer and routing head, and over time."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lab import tables, views
from lab.figures.drawing import (
    DIVERGING,
    cell_height,
    cells,
    cells_height,
    figure,
    grid,
    heads,
    literal,
    numbered,
    task_style,
    unique,
    weight_of,
    weights_by_layer,
)
from lab.runs import Run

MEASURES = {"weight": "mean weight", "entropy": "entropy", "change": "change since then"}


def routing_by_task(run: Run, after: int | None = None, title: str = "") -> go.Figure:
    """Mean share of each expert in the routing of each task."""
    table = views.routing_by_task(run, after)
    hover = _pair_hover(table, "gets {:.1%} of the weight on")
    drawn = figure(title, cell_height(len(table)))
    cells(drawn, table.to_numpy(), hover)
    return grid(drawn, numbered(table.index), heads(table.columns, table.index), "examples of task", "expert")


def routing_drift(run: Run, after: int | None = None, title: str = "") -> go.Figure:
    """Change of the shares since each task was learned, on the fixed range -1 to 1."""
    table = views.routing_drift(run, after)
    hover = _pair_hover(table, "changed by {:+.1%} since then on")
    drawn = figure(title, cell_height(len(table)))
    cells(drawn, table.to_numpy(), hover, "{:+.2f}", colorscale=DIVERGING, zmin=-1, zmax=1, zmid=0)
    return grid(drawn, numbered(table.index), heads(table.columns, table.index), "examples of task", "expert")


def routing_confusion(run: Run, after: int | None = None, title: str = "") -> go.Figure:
    """How often each expert was the first choice on each task."""
    table = tables.routing_confusion(run, after)
    drawn = figure(title, cell_height(len(table)))
    cells(drawn, table.to_numpy(), _pair_hover(table, "is the first choice in {:.1%} of the decisions on"))
    return grid(drawn, numbered(table.index), heads(table.columns, table.index), "examples of task", "first choice")


def _pair_hover(table: pd.DataFrame, form: str) -> np.ndarray:
    """Hover texts of a task x expert table."""
    hover = np.empty(table.shape, dtype=object)
    for i, j in np.ndindex(table.shape):
        value = table.iat[i, j]
        middle = "was not recorded on" if np.isnan(value) else form.format(value)
        hover[i, j] = f"expert <b>{literal(table.columns[j])}</b><br>{middle}<br>task <b>{literal(table.index[i])}</b>"
    return hover


def routing_by_layer(run: Run, after: int | None, task: int, expert: int, measure: str = "weight", title: str = "") -> go.Figure:
    """One number per layer and routing head, see `views.routing_by_layer`; bars where there is one routing head."""
    table = views.routing_by_layer(run, after, task, expert, measure)
    what, names = MEASURES[measure], [literal(name) for name in views.layer_names(table.index)]
    if table.shape[1] == 1:
        drawn = figure(title, cells_height(len(table)))
        drawn.add_bar(
            x=table.iloc[:, 0], y=np.arange(len(table)), orientation="h", marker={"color": task_style(expert).colour},
            text=[f"{value:.2f}" for value in table.iloc[:, 0]], textposition="auto", cliponaxis=False,
            customdata=[f"{name}<br>{what} {value:.3f}" for name, value in zip(names, table.iloc[:, 0], strict=True)],
            hovertemplate="%{customdata}<extra></extra>", showlegend=False,
        )  # fmt: skip
        drawn.update_xaxes(range=[0, max(1.0, float(np.nanmax(table.to_numpy(), initial=0.0)))], title=what, side="top")
        drawn.update_yaxes(
            tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], title="layer", showgrid=False
        )
        return drawn
    heads = [str(h + 1) for h in range(table.shape[1])]
    return weights_by_layer(table, heads, "routing head", [f"routing head {head}<br>{what}" for head in heads], title)


def routing_profile(run: Run, after: int | None, task: int, title: str = "") -> go.Figure:
    """Mean weight of every expert in every layer on one task."""
    table = views.routing_profile(run, after, task)
    return weights_by_layer(table, heads(table.columns, ()), "expert", weight_of(table.columns, "mean weight"), title)


def routing_load(run: Run, after: int | None = None, title: str = "") -> go.Figure:
    """Mean share of each expert over the tasks; the dotted line marks equal shares."""
    table = views.routing_load(run, after)
    drawn = _bars(table["load"], "mean share over tasks", title)
    drawn.add_vline(x=1 / max(len(table), 1), line={"color": "rgba(127,127,127,0.8)", "dash": "dot", "width": 1.5})
    return drawn


def routing_entropy(run: Run, after: int | None = None, title: str = "") -> go.Figure:
    """Mean entropy of the routing of each task, 0 to 1."""
    return _bars(views.routing_entropy(run, after), "entropy: 0 sure, 1 undecided", title)


def _bars(values: pd.Series, what: str, title: str) -> go.Figure:
    """Shares between 0 and 1 of tasks or of their experts, in the colours of the tasks."""
    drawn = figure(title, 70 + 24 * len(values))
    drawn.add_bar(
        x=values.to_numpy(), y=np.arange(len(values)), orientation="h", showlegend=False,
        marker={"color": [task_style(i).colour for i in range(len(values))]},
        text=[f"{value:.2f}" for value in values], textposition="auto", cliponaxis=False,
        customdata=[literal(name) for name in values.index], hovertemplate="<b>%{customdata}</b> %{x:.3f}<extra></extra>",
    )  # fmt: skip
    drawn.update_xaxes(range=[0, 1], title=what, tickformat=".1f")
    return drawn.update_yaxes(
        tickvals=list(range(len(values))), ticktext=unique(values.index), range=[len(values) - 0.5, -0.5], showgrid=False
    )
