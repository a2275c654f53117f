"""Figures of scores: the matrix R, curves over the tasks, the loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lab import views
from lab.comparison import tables
from lab.core.intervals import interval
from lab.figures.drawing import (
    DIVERGING,
    FAINT,
    LEGEND,
    Style,
    cell_height,
    cells,
    faint,
    figure,
    grid,
    heads,
    literal,
    numbered,
    short,
    styles,
    task_style,
    unique,
)
from lab.run_folder.run import Run
from lab.training.stages import ExpertTraining

LEAST, WIDEST = 0.005, 16  # cost from which a task has an arrow, and pixels that one of 1 is wide
SMOOTH = 60  # a loss is averaged over this part of its recorded steps
BACK = 0.2  # opacity of what stands back while something else is looked at


def accuracy_matrix(
    run: views.Runs, after: int | None = None, title: str = "", partial: bool = False, zero_shot: bool = True
) -> go.Figure:
    """R as a heatmap: time runs down, one column per task, scores before any training on top; rows later than `after` blank.

    Of several runs of the same tasks: their mean; so too for the other figures of R.
    """
    table = views.accuracy_matrix(run, after, partial)
    values, tasks = table.to_numpy(), list(table.columns)
    measured = ~np.isnan(values).all(1)
    ahead = np.arange(len(values)) > np.flatnonzero(measured).max(initial=-1)
    shown = measured | ahead  # without moments that were passed over
    rows = [name for name, kept in zip(numbered(tasks), shown, strict=True) if kept]
    values, hover = values[shown], _matrix_hover(values, tasks)[shown]
    first = views.zero_shot(run) if zero_shot else None
    if first is not None and len(first) == len(tasks):
        values = np.vstack([first, values])
        rows = ["before training", *rows]
        hover = np.vstack(
            [[f"{literal(name)} before any training: {_score(s)}" for name, s in zip(tasks, first, strict=True)], hover]
        )
    drawn = figure(title, cell_height(len(rows)))
    cells(drawn, values, hover)
    return grid(drawn, rows, heads(tasks, tasks), "after learning task", "score on task")


def _score(value: float) -> str:
    return "not measured" if np.isnan(value) else f"{value:.3f}"


def _matrix_hover(values: np.ndarray, tasks: Sequence[str]) -> np.ndarray:
    """Hover texts of R, (T, T)."""
    hover = np.empty(values.shape, dtype=object)
    for i, j in np.ndindex(values.shape):
        measured = not np.isnan(values[i, j])
        missing = "not learned yet" if j > i else "not measured yet"
        score = f"score {values[i, j]:.3f}" if measured else missing
        hover[i, j] = f"<b>{literal(tasks[j])}</b><br>after learning {i + 1} · {literal(tasks[i])}<br>{score}"
    return hover


def matrix_difference(first: views.Runs, second: views.Runs, title: str = "", reach: float | None = None) -> go.Figure:
    """R of the first run minus R of the second, on a range from -reach to reach; by default that of the largest difference."""
    table = views.matrix_difference(first, second)
    values, tasks = table.to_numpy(), list(table.columns)
    if reach is None:
        reach = max(0.05, float(np.nanmax(np.abs(values), initial=0.0))) if np.isfinite(values).any() else 0.05
    hover = _matrix_hover(values, tasks)
    hover = np.vectorize(lambda text: text.replace("score ", "difference "), otypes=[object])(hover)
    drawn = figure(title, cell_height(len(tasks)))
    scale = {"colorscale": DIVERGING, "zmin": -reach, "zmax": reach, "zmid": 0}
    cells(drawn, values, hover, "{:+z.2f}", **scale)
    return grid(drawn, numbered(tasks), heads(tasks, tasks), "after learning task", "difference on task")


def interference(run: views.Runs, title: str = "") -> go.Figure:
    """What learning each task cost the earlier ones, on the fixed range -1 to 1."""
    table = tables.interference_matrix(run)
    values, tasks = table.to_numpy()[1:, :-1], list(table.columns)  # the first task costs nobody, the last one lost nothing yet
    hover = np.empty(values.shape, dtype=object)
    for i, j in np.ndindex(values.shape):
        missing = "not learned yet" if j > i else "not measured yet"
        cost = missing if np.isnan(values[i, j]) else f"cost {values[i, j]:+z.3f}"
        hover[i, j] = f"learning <b>{literal(tasks[i + 1])}</b><br>{cost}<br>on task <b>{literal(tasks[j])}</b>"
    drawn = figure(title, cell_height(len(values)))
    cells(drawn, values, hover, "{:+z.2f}", colorscale=DIVERGING, zmin=-1, zmax=1, zmid=0)
    return grid(drawn, numbered(tasks)[1:], heads(tasks, tasks)[:-1], "learning task", "lost by task")


def interference_graph(run: views.Runs, title: str = "") -> go.Figure:
    """Tasks on a circle, in the order of the stream; an arrow goes from a task to an earlier one that learning it cost something.

    The wider, the more was lost: WIDEST pixels at a cost of 1. Gains, and costs that round to 0.00, have no arrow.
    """
    table = tables.interference_matrix(run)
    tasks = list(table.columns)
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(tasks)) / max(len(tasks), 1)  # clockwise from the top
    x, y = np.cos(angles), np.sin(angles)
    drawn = figure(title, 380)
    for later, earlier in zip(*np.nonzero(table.to_numpy() >= LEAST), strict=True):
        cost, ends, (new, old) = table.iat[later, earlier], [later, earlier], (literal(tasks[later]), literal(tasks[earlier]))
        drawn.add_scatter(
            x=x[ends],
            y=y[ends],
            mode="lines+markers",
            line={"color": task_style(int(later)).colour, "width": 1 + WIDEST * cost},
            marker={"symbol": ["circle", "arrow"], "size": [1, 12 + WIDEST * cost], "angleref": "previous", "standoff": [0, 16]},
            opacity=0.75,
            showlegend=False,
            name=f"{new} → {old}",
            hovertemplate=f"learning <b>{new}</b><br>cost {cost:.3f}<br>on task <b>{old}</b><extra></extra>",
        )
    drawn.add_scatter(
        x=x,
        y=y,
        mode="markers+text",
        text=[str(i + 1) for i in range(len(tasks))],
        textfont={"color": "#FFFFFF", "size": 12},
        marker={"size": 26, "color": [task_style(i).colour for i in range(len(tasks))]},
        name="tasks",
        showlegend=False,
        customdata=[literal(name) for name in tasks],
        hovertemplate="<b>%{customdata}</b><extra></extra>",
        cliponaxis=False,
    )
    for i, name in enumerate(unique(tasks)):
        side = "center" if abs(x[i]) < 0.1 else "left" if x[i] > 0 else "right"
        drawn.add_annotation(x=1.18 * x[i], y=1.18 * y[i], text=name, showarrow=False, xanchor=side)
    drawn.update_xaxes(visible=False, range=[-1.9, 1.9])
    return drawn.update_yaxes(visible=False, range=[-1.35, 1.35], scaleanchor="x")


def forgetting_curves(run: views.Runs, after: int | None = None, title: str = "") -> go.Figure:
    """Score of every task from the moment it was learned; dotted lines mark where the next task begins.

    Of several runs: their mean, with its t-interval as a band.
    """
    tasks = views.each(run)[0].tasks
    curves: Any = views.forgetting_curves(run, after)
    drawn = figure(title, 380)
    for task, rows in curves.groupby("task"):
        colour, dash, marker = task_style(int(task))
        texts = [f"<b>{literal(row.name)}</b> after {literal(row.after_name)}" for row in rows.itertuples(index=False)]
        band(drawn, rows["after"] + 1, rows["low"], rows["high"], colour)
        drawn.add_scatter(
            x=rows["after"] + 1,
            y=rows["score"],
            name=short(tasks[task]),
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            marker={"symbol": marker, "size": 8},
            text=texts,
            hovertemplate="%{text}<br>score %{y:.3f}<extra></extra>",
        )
    return _over_tasks(drawn, len(tasks), "score on the task")


def band(drawn: go.Figure, x: Sequence[float], low: pd.Series, high: pd.Series, colour: str) -> None:
    """Shade the interval of a line; nothing where there is none."""
    if low.isna().any():
        return
    drawn.add_scatter(
        x=[*x, *list(x)[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=faint(colour, 0.15),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        name="interval",
    )


def average_curves(runs: Sequence[Run], title: str = "", measure: str = "", only: str = "") -> go.Figure:
    """A measure over the stream, one line per recipe; several seeds: mean and t-interval, the runs as thin lines.

    `measure`: path of a measure of the matrix, or the own-expert share; empty: the mean score over the tasks seen. With the label
    of a group as `only`, the other groups are faint.
    """
    drawn = figure(title, 380)
    curves: Any = views.average_curves(runs, measure)
    looks = styles(views.groups(runs))
    for label in dict.fromkeys(curves["label"]):
        rows = curves[(curves["label"] == label) & curves["score"].notna()]
        if len(rows):
            _average_curve(drawn, rows, label, looks[label], only in ("", label))
    titles = {entry.path: entry.title.lower() for entry in views.measures()}
    drawn = _over_tasks(drawn, max((len(run.tasks) for run in runs), default=0), titles.get(measure, "average accuracy so far"))
    lowest = curves["score"].min()
    return drawn.update_yaxes(range=[lowest - 0.05, 1.04]) if lowest < 0 else drawn


def _average_curve(drawn: go.Figure, rows: Any, label: str, look: Style, clear: bool = True) -> None:
    """Add the curve of one group of seeds; one that is not clear stands back."""
    colour, dash, marker = look
    seeds = rows["run"].nunique()
    if seeds > 1 and clear:
        for name, points in rows.groupby("run"):
            drawn.add_scatter(
                x=points["after"] + 1,
                y=points["score"],
                mode="lines",
                line={"color": colour, "width": 1},
                opacity=0.4,
                showlegend=False,
                name=literal(name),
                hoverinfo="skip",
            )
    means = {after: interval(points["score"]) for after, points in rows.groupby("after")}
    mean: Any = pd.DataFrame.from_dict(means, orient="index").astype({"low": float, "high": float})
    if clear:
        band(drawn, mean.index + 1, mean["low"], mean["high"], colour)
    drawn.add_scatter(
        x=mean.index + 1,
        y=mean["mean"],
        opacity=1.0 if clear else BACK,
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 3},
        marker={"symbol": marker, "size": 9},
        name=literal(label) + (f" (mean of {seeds})" if seeds > 1 else ""),
        hovertemplate="%{fullData.name}<br>after %{x} tasks: %{y:.3f}<extra></extra>",
    )


def _over_tasks(drawn: go.Figure, tasks: int, what: str) -> go.Figure:
    """Axes of a chart over learned tasks."""
    look = {"type": "line", "yref": "y domain", "y0": 0, "y1": 1, "line": {"color": FAINT, "width": 1, "dash": "dot"}}
    borders = [{**look, "x0": border + 0.5, "x1": border + 0.5} for border in range(1, tasks)]
    drawn.update_layout(shapes=borders)  # at once: add_vline for each takes ten times as long
    drawn.update_xaxes(title="tasks learned", range=[0.6, max(tasks, 1) + 0.4], dtick=1, showgrid=False, zeroline=False)
    drawn.update_yaxes(title=what, range=[-0.02, 1.04], tickformat=".1f")
    return drawn.update_layout(legend=LEGEND)


def loss_curve(run: Run, title: str = "") -> go.Figure:
    """Loss over the whole run, one colour per task; training on the memory is dotted."""
    table: Any = views.losses(run)
    drawn = figure(title, 320)
    for (task, phase), rows in table.groupby(["task", "phase"], sort=False):
        experts = phase == ExpertTraining.phase
        name = short(rows["name"].iloc[0]) + ("" if experts else f" ({phase})")
        line = {"color": task_style(int(task)).colour, "dash": "solid" if experts else "dot", "width": 1.5}
        drawn.add_scatter(
            x=rows["index"],
            y=rows["loss"],
            mode="lines",
            line=line,
            name=name,
            hovertemplate="%{fullData.name}<br>step %{x}: loss %{y:.3f}<extra></extra>",
        )
    drawn.update_xaxes(title="optimiser steps", showgrid=False)
    drawn.update_yaxes(title="loss", rangemode="tozero")
    return drawn.update_layout(legend=LEGEND)


def loss_curves(runs: Sequence[Run], title: str = "", only: str = "") -> go.Figure:
    """The training loss of several runs, smoothed, over the share of the steps that are done; one colour per group of seeds."""
    drawn = figure(title, 380)
    looks = styles(views.groups(runs))
    for group in views.groups(runs):
        colour, dash, _ = looks[group.label]
        for number, run in enumerate(group.runs):
            table = views.losses(run)
            if table.empty:
                continue
            drawn.add_scatter(
                x=table["index"] / table["index"].max(),
                y=table["loss"].rolling(max(len(table) // SMOOTH, 1), min_periods=1).mean(),
                mode="lines",
                opacity=1.0 if only in ("", group.label) else BACK,
                line={"color": colour, "dash": dash, "width": 2},
                name=literal(group.label),
                legendgroup=group.label,
                showlegend=number == 0,
                hovertemplate="%{fullData.name}<br>loss %{y:.3f}<extra></extra>",
            )
    drawn.update_xaxes(title="share of the optimiser steps", tickformat=".0%", showgrid=False)
    drawn.update_yaxes(title="training loss", rangemode="tozero")
    return drawn.update_layout(legend=LEGEND, showlegend=True)


def guesses(labels: Sequence[str], guessed: Sequence[float], measured: Sequence[float], title: str = "") -> go.Figure:
    """Guesses from 0 to 1 beside what was measured, one pair of bars per label."""
    drawn = figure(title, 260)
    names = unique(labels, 24)
    for name, values, colour, pattern in (("your guess", guessed, "#8A8A8A", "/"), ("measured", measured, "#2B7FC4", "")):
        drawn.add_bar(
            name=name,
            x=names,
            y=list(values),
            marker={"color": colour, "pattern": {"shape": pattern}},
            text=[f"{value:.2f}" for value in values],
            textposition="outside",
            cliponaxis=False,
            hovertemplate=f"%{{x}}<br>{name} %{{y:.3f}}<extra></extra>",
        )
    drawn.update_layout(barmode="group", legend={"orientation": "h", "y": 1.15, "x": 0}, margin={"t": 40})
    return drawn.update_yaxes(range=[0, 1.08])
