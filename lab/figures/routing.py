"""Figures of routing: experts by task, by layer and routing head, and over time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lab import views
from lab.comparison import tables
from lab.figures.drawing import (
    DIVERGING,
    FAINT,
    MANY,
    SHORT,
    SMALL,
    around_equal,
    cell_height,
    cells,
    cells_height,
    faint,
    figure,
    grid,
    heads,
    literal,
    numbered,
    short,
    task_style,
    unique,
    weight_of,
    weights_by_layer,
    wrapped,
)
from lab.run_folder.run import Run

PANELS = 24  # small multiples at a time
ROOM = 90  # columns of cells that fit beside each other in small multiples
PLAY_MS = 900  # milliseconds that each moment is shown
MEASURES = {"weight": "mean weight", "entropy": "entropy", "change": "change since then"}


def routing_by_task(
    run: Run,
    after: int | None = None,
    layer: int | None = None,
    head: int | None = None,
    title: str = "",
    order: str = "stream",
    find: str = "",
    absolute: bool = False,
) -> go.Figure:
    """Mean share of each expert in the routing of each task, everywhere or in one layer, one routing head, or both.

    `order` and `find` as for `views.routing_map`. Colours say how many times the equal share a share is: purple more, green
    less; with `absolute`, shares from 0 to 1.
    """
    table = views.routing_map(run, after, layer, head, order, find)
    members = [len(group) for group in table.attrs["columns"]]
    equal = np.array(members) / len(run.routing(after).experts)
    drawn = figure(title, cell_height(len(table)))
    scale = {} if absolute else around_equal(table.to_numpy() / equal, views.times_equal(run, layer, head))
    gap: dict[str, Any] = {"xgap": 1, "ygap": 1} if max(table.shape) > MANY else {}
    cells(drawn, table.to_numpy(), _pair_hover(table, "gets {:.1%} of the weight on", equal), **scale, **gap)
    positions = [str(group[0] + 1) if len(group) == 1 else "" for group in table.attrs["rows"]]
    rows = [f"{position} · {name}" if position else name for position, name in zip(positions, unique(table.index), strict=True)]
    names = heads(table.columns, table.index)
    if names == [str(j + 1) for j in range(len(names))] and all(positions):  # of the tasks that the experts are named like
        names = positions
    elif order == "groups":
        names = unique(table.columns)
    return grid(drawn, rows, names, "examples of task", "expert")


def routing_drift(run: Run, after: int | None = None, title: str = "") -> go.Figure:
    """Change of the shares since each task was learned, on the fixed range -1 to 1."""
    table = views.routing_drift(run, after)
    hover = _pair_hover(table, "changed by {:+z.1%} since then on")
    drawn = figure(title, cell_height(len(table)))
    cells(drawn, table.to_numpy(), hover, "{:+z.2f}", colorscale=DIVERGING, zmin=-1, zmax=1, zmid=0)
    return grid(drawn, numbered(table.index), heads(table.columns, table.index), "examples of task", "expert")


def routing_confusion(run: Run, after: int | None = None, title: str = "") -> go.Figure:
    """How often each expert was the first choice on each task."""
    table = tables.routing_confusion(run, after)
    drawn = figure(title, cell_height(len(table)))
    cells(drawn, table.to_numpy(), _pair_hover(table, "is the first choice in {:.1%} of the decisions on"))
    return grid(drawn, numbered(table.index), heads(table.columns, table.index), "examples of task", "first choice")


def _pair_hover(table: pd.DataFrame, form: str, equal: np.ndarray | None = None) -> np.ndarray:
    """Hover texts of a task x expert table; `equal`: what each column would have if all experts had the same."""
    hover = np.empty(table.shape, dtype=object)
    for i, j in np.ndindex(table.shape):
        value = table.iat[i, j]
        middle = "was not recorded on" if np.isnan(value) else form.format(value)
        if equal is not None and not np.isnan(value):
            middle = f"{middle} ({value / equal[j]:.2f} × the equal share)"
        hover[i, j] = f"expert <b>{literal(table.columns[j])}</b><br>{middle}<br>task <b>{literal(table.index[i])}</b>"
    return hover


def routing_by_layer(
    run: Run, after: int | None, task: int, expert: int, measure: str = "weight", title: str = "", absolute: bool = False
) -> go.Figure:
    """One number per layer and routing head, see `views.routing_by_layer`; bars where there is one routing head.

    Colours of weights as in `routing_by_task`.
    """
    table = views.routing_by_layer(run, after, task, expert, measure)
    what, names = MEASURES[measure], [literal(name) for name in views.layer_names(table.index)]
    most = views.largest_weight(run) if measure == "weight" else 1.0  # the other measures end there
    if table.shape[1] == 1:
        drawn = figure(title, cells_height(len(table)))
        drawn.add_bar(
            x=table.iloc[:, 0],
            y=np.arange(len(table)),
            orientation="h",
            marker={"color": task_style(expert).colour},
            text=[f"{value:.2f}" for value in table.iloc[:, 0]],
            textposition="auto",
            cliponaxis=False,
            customdata=[f"{name}<br>{what} {value:.3f}" for name, value in zip(names, table.iloc[:, 0], strict=True)],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
        )
        drawn.update_xaxes(range=[0, most], title=what, side="top")
        drawn.update_yaxes(
            tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], title="layer", showgrid=False
        )
        return drawn
    heads = [str(h + 1) for h in range(table.shape[1])]
    about, scale = [f"routing head {head}<br>{what}" for head in heads], {}
    if measure == "weight" and not absolute:
        ratios = views.shares_by_head(run, after)[task, :, :, expert] * len(run.routing(after).experts)
        scale = around_equal(ratios, views.times_equal(run, by_head=True))
    return weights_by_layer(table, heads, "routing head", about, title, most, **scale)


def routing_profile(
    run: Run, after: int | None, task: int, title: str = "", absolute: bool = False, order: str = "stream", find: str = ""
) -> go.Figure:
    """Mean weight of every expert in every layer on one task, see `views.routing_profile`; colours as in `routing_by_task`."""
    table = views.routing_profile(run, after, task, order, find)
    about = weight_of(table.columns, "mean weight")
    ratios = views.shares_by_head(run, after)[task].mean(1) * len(run.routing(after).experts)  # (L, E)
    ratios = np.stack([ratios[:, group].mean(1) for group in table.attrs["columns"]], 1)
    scale = {} if absolute else around_equal(ratios, views.times_equal(run, by_head=True))
    tasks = run.routing(after).tasks
    names = heads(table.columns, table.columns if order != "groups" and {*table.columns} <= {*tasks} else ())
    if names == [str(j + 1) for j in range(len(names))]:  # of the tasks that the experts are named like
        names = [str(tasks.index(name) + 1) for name in table.columns]
    return weights_by_layer(table, names, "expert", about, title, views.largest_weight(run), **scale)


def routing_panels(
    run: Run,
    after: int | None = None,
    panels: str = "layers",
    task: int | None = None,
    layer: int | None = None,
    first: int = 0,
    title: str = "",
    absolute: bool = False,
) -> go.Figure:
    """Small multiples of shares, see `views.routing_panels`: `PANELS` of them, beginning with number `first`; colours as in
    `routing_by_task`."""
    table = views.routing_panels(run, after, panels, task, layer)
    names = [*dict.fromkeys(table.index.get_level_values(0))][first : first + PANELS]
    experts, columns = [*dict.fromkeys(table.index.get_level_values(1))], [str(name) for name in table.columns]
    beside = max(1, min(len(names), ROOM // (max(len(columns), 4) + 2)))
    below = -(-len(names) // beside)
    each = max(70, (16 if len(experts) <= 16 else 7) * len(experts))
    height = 90 + below * (each + 34)
    drawn = make_subplots(
        below,
        beside,
        subplot_titles=[literal(name) for name in names],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=min(0.02, 0.5 / beside),
        vertical_spacing=30 / height,
    )
    drawn.update_layout(figure(title, height).layout).update_annotations(font={"size": 11})
    drawn.update_layout(margin={"t": 64 if title else 28})
    most, equal = views.times_equal(run, by_head=True), 1 / len(experts)
    axis = table.columns.name
    for number, name in enumerate(names):
        values = table.loc[name].to_numpy()
        hover = np.empty(values.shape, dtype=object)
        for i, j in np.ndindex(values.shape):
            times = f"{values[i, j]:.1%} of the weight ({values[i, j] / equal:.2f} × the equal share)"
            hover[i, j] = f"{literal(name)}<br>expert <b>{literal(experts[i])}</b>, {axis} {literal(columns[j])}<br>{times}"
        scale = {} if absolute else around_equal(values / equal, most)
        where: dict[str, Any] = {"row": number // beside + 1, "col": number % beside + 1}
        cells(drawn, values, hover, xgap=1, ygap=1, showscale=number == 0, texts=False, **scale, **where)
    labels, every = unique(experts, SHORT), -(-len(experts) // 16)
    drawn.update_yaxes(
        tickvals=list(range(0, len(experts), every)),
        ticktext=labels[::every],
        range=[len(experts) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    shown = [str(j + 1) for j in range(len(columns))] if axis == "task" else columns
    step = -(-len(shown) // 10)
    drawn.update_xaxes(
        tickvals=list(range(0, len(shown), step)), ticktext=shown[::step], tickangle=0, showgrid=False, zeroline=False
    )
    drawn.update_xaxes(title=f"{axis}, by its number" if axis == "task" else axis, row=below)
    tiny = {"size": SMALL}
    return drawn.update_xaxes(tickfont=tiny).update_yaxes(tickfont=tiny if len(experts) > 8 else None)


def routing_load(run: Run, after: int | None = None, title: str = "") -> go.Figure:
    """Mean share of each expert over the tasks; the dotted line marks equal shares."""
    table: Any = views.routing_load(run, after)
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
        x=values.to_numpy(),
        y=np.arange(len(values)),
        orientation="h",
        showlegend=False,
        marker={"color": [task_style(i).colour for i in range(len(values))]},
        text=[f"{value:.2f}" for value in values],
        textposition="auto",
        cliponaxis=False,
        customdata=[literal(name) for name in values.index],
        hovertemplate="<b>%{customdata}</b> %{x:.3f}<extra></extra>",
    )
    drawn.update_xaxes(range=[0, 1], title=what, tickformat=".1f")
    return drawn.update_yaxes(
        tickvals=list(range(len(values))), ticktext=unique(values.index), range=[len(values) - 0.5, -0.5], showgrid=False
    )


def routing_flow(run: Run, after: int | None = None, layer: int | None = None, title: str = "") -> go.Figure:
    """Weight that flows from tasks to experts, in one layer or their mean; where each task has an expert of its own, on to right
    and wrong: what reached the own expert, and what another one. With many tasks, `views.strongest_bands` alone."""
    routing = run.routing(after)
    table: Any = views.strongest_bands(views.routing_flow(run, after, layer))
    tasks, experts = [*dict.fromkeys(table["task"])], list(routing.experts)
    names = [*tasks, *experts]
    colours = [task_style(i).colour for i in (*range(len(tasks)), *range(len(experts)))]
    links = [
        (tasks.index(row.task), len(tasks) + experts.index(row.expert), row.weight, f"{row.task} → {row.expert}")
        for row in table.itertuples()
    ]
    if routing.owned:
        names, colours = [*names, "own expert", "another expert"], [*colours, "#009E73", "#D55E00"]
        for (expert, own), weight in table.groupby(["expert", "own"], sort=False)["weight"].sum().items():
            about = f"{expert}, on {'its own task' if own else 'other tasks'}"
            links.append((len(tasks) + experts.index(expert), len(names) - (2 if own else 1), weight, about))
    source, target, value, about = zip(*(link for link in links if link[2] > 0), strict=True)
    x, y = _columns(len(tasks), len(experts), len(names), source, target, value)
    expert_of = [to if of < len(tasks) else of for of, to in zip(source, target, strict=True)]  # a link has its expert's colour
    drawn = figure(title, max(320, 60 + 44 * max(len(tasks), len(experts))))
    drawn.add_sankey(
        arrangement="snap",
        node={
            "x": x,
            "y": y,
            "label": [short(name) for name in names],
            "color": colours,
            "pad": 14,
            "thickness": 14,
            "line": {"width": 0},
            "customdata": [literal(name) for name in names],
            "hovertemplate": "<b>%{customdata}</b> %{value:.3f}<extra></extra>",
        },
        link={
            "source": source,
            "target": target,
            "value": value,
            "customdata": [literal(text) for text in about],
            "color": [faint(colours[expert]) for expert in expert_of],
            "hovertemplate": "%{customdata}<br>%{value:.3f}<extra></extra>",
        },
        textfont={"size": 12},
    )
    return drawn


def _columns(tasks: int, experts: int, names: int, *links: Sequence[float]) -> tuple[list[float], list[float]]:
    """Places of the nodes of a flow in columns that keep their order, from 0 to 1; `links` are source, target and value."""
    source, target, value = map(np.asarray, links)
    size = np.maximum(np.bincount(source, value, names), np.bincount(target, value, names))
    columns = [range(tasks), range(tasks, tasks + experts), range(tasks + experts, names)]
    x, y = np.zeros(names), np.zeros(names)
    middle = 0.5 if len(columns[2]) else 0.999
    for position, nodes in zip((0.001, middle, 0.999), columns, strict=True):  # at 0 itself a place counts as not given
        x[nodes] = position
        y[nodes] = (np.cumsum(size[nodes]) - size[nodes] / 2) / max(size[nodes].sum(), 1e-9)
    return x.tolist(), y.clip(0.001, 0.999).tolist()


def routing_animation(run: Run, title: str = "") -> go.Figure:
    """Share of each expert on each task at every recorded moment: one frame per moment, played in the browser alone."""
    history: Any = views.routing_history(run)
    tasks, experts = [*dict.fromkeys(history["task"])], [*dict.fromkeys(history["expert"])]
    drawn = figure(title, cell_height(len(tasks)) + 90)
    most = views.times_equal(run)
    for after, rows in history.groupby("after"):
        table = rows.pivot(index="task", columns="expert", values="share").reindex(index=tasks, columns=experts)
        moment, times = go.Figure(), table.to_numpy() * rows["expert"].nunique()
        cells(moment, table.to_numpy(), _pair_hover(table, "gets {:.1%} of the weight on"), **around_equal(times, most))
        drawn.frames += (go.Frame(data=moment.data, name=str(after + 1)),)
    if drawn.frames:
        drawn.add_traces(drawn.frames[-1].data)
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    play = now | {"frame": {"duration": PLAY_MS, "redraw": True}, "fromcurrent": False}
    names = [frame.name for frame in drawn.frames]
    buttons = [("▶ Play", [None, play]), ("❚❚ Pause", [[None], now])]
    drawn.update_layout(
        margin={"b": 90},
        updatemenus=[
            {
                "type": "buttons",
                "direction": "left",
                "x": 0,
                "y": 0,
                "xanchor": "left",
                "yanchor": "top",
                "pad": {"t": 34},
                "showactive": False,
                "bgcolor": FAINT,
                "bordercolor": FAINT,
                "buttons": [{"label": label, "method": "animate", "args": args} for label, args in buttons],
            }
        ],
        sliders=[
            {
                "x": 0.3,
                "len": 0.7,
                "y": 0,
                "yanchor": "top",
                "pad": {"t": 14},
                "active": max(len(names) - 1, 0),
                "currentvalue": {"prefix": "after task "},
                "steps": [{"label": name, "method": "animate", "args": [[name], now]} for name in names],
            }
        ],
    )
    return grid(drawn, numbered(tasks), heads(experts, tasks), "examples of task", "expert")


def query_map(run: Run, after: int | None = None, title: str = "") -> go.Figure:
    """Recorded queries on their two main axes, by task, hollow where the answer was wrong; stars are the router's keys."""
    table: Any = views.query_map(run, after)
    drawn = figure(title, 460)
    for number, (task, rows) in enumerate(table[table["kind"] == "query"].groupby("task", sort=False)):
        colour, _, marker = task_style(number)
        rows = rows.loc[rows["correct"].eq(False).sort_values(kind="stable").index]  # a legend has the symbol of the first
        verdicts = rows["correct"].map({True: "answered right", False: "answered wrong"}).fillna("answer not known")
        drawn.add_scatter(
            x=rows["x"],
            y=rows["y"],
            mode="markers",
            name=short(task),
            marker={
                "color": colour,
                "size": 9,
                "opacity": 0.85,
                "line": {"width": 1.5, "color": colour},
                "symbol": [marker + ("-open" if correct is False else "") for correct in rows["correct"]],
            },
            customdata=[
                f"<b>{literal(task)}</b>, {verdict}<br>{wrapped(text)}"
                for verdict, text in zip(verdicts, rows["text"], strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    keys, experts = table[table["kind"] == "key"], [*run.routing(after).experts]
    if len(keys):
        drawn.add_scatter(
            x=keys["x"],
            y=keys["y"],
            mode="markers",
            name="keys",
            showlegend=False,
            marker={
                "symbol": "star",
                "size": 15,
                "color": [task_style(experts.index(name)).colour for name in keys["task"]],
                "line": {"width": 1.5, "color": "#8A8A8A"},
            },
            customdata=[f"key of expert <b>{literal(name)}</b>" for name in keys["task"]],
            hovertemplate="%{customdata}<extra></extra>",
        )
    parts = [f"{part:.0%} of the variance" for part in table.attrs["explained"]] + [""]
    drawn.update_xaxes(title=f"first main axis: {parts[0]}", zeroline=False)
    drawn.update_yaxes(title=f"second main axis: {parts[1]}", zeroline=False)
    return drawn.update_layout(legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0})
