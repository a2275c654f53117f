"""Plotly figures of runs: pure functions, the same for dashboard and notebooks.

Backgrounds are transparent, so a figure fits a light and a dark page. Scores and shares are always drawn on one fixed
colour range from 0 to 1; differences on a range that is symmetric around 0. Names and texts are shown literally.
"""

import hashlib
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.colors
import plotly.graph_objects as go
import plotly.io as pio
from plotly.subplots import make_subplots

from lab import tables, views
from lab.answer import Answer
from lab.runs import Run
from lab.statistics import interval

SCALE = "Cividis"  # scores and shares, 0 to 1
DIVERGING = "PuOr"  # differences, centred on 0; neither red nor green
FAINT = "rgba(127,127,127,0.25)"  # grid lines on light and dark
CELLS_WITH_TEXT = 12  # columns up to which the numbers stand in the cells
NAMED_COLUMNS = 6  # columns up to which names stand above them, if these are short
SHORT = 11  # characters of a short name
NAME = 16  # characters of a name on an axis; the full one is in the hover text


class Style(NamedTuple):
    """How a recipe is drawn on every chart; dash and marker repeat what the colour says."""

    colour: str
    dash: str
    marker: str


METHOD_STYLE = {
    "sequential": Style("#D55E00", "dash", "x"),
    "replay": Style("#C98A00", "dashdot", "diamond"),
    "uniform": Style("#8A8A8A", "dot", "square"),
    "oracle": Style("#C06498", "longdash", "star"),
    "l2r": Style("#2B7FC4", "solid", "circle"),
    "l2r-merge": Style("#009E73", "longdashdot", "triangle-up"),
}
OTHER_COLOURS = ["#7A5FD0", "#B2566B", "#4E8F2F", "#3A98A8", "#A8662A", "#8C7BA1"]
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]
MARKERS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star", "pentagon", "hexagon"]
TERM_COLOURS = ["#2B7FC4", "#D55E00", "#009E73", "#C98A00"]  # router, experts, classifier, new classes
TASK_COLOURS = ["#2B7FC4", "#D55E00", "#009E73", "#C06498", "#C98A00", "#7A5FD0", "#3A98A8", "#8A8A8A", "#B2566B", "#4E8F2F"]

ANSWER_COLOURS = ["#2B7FC4", "#C98A00"]  # an answer, and the one beside it

TEMPLATE = go.layout.Template(
    layout=go.Layout(
        font={"family": "Source Sans Pro, Segoe UI, Helvetica, Arial, sans-serif", "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=TASK_COLOURS,
        xaxis={"gridcolor": FAINT, "zerolinecolor": FAINT, "automargin": True},
        yaxis={"gridcolor": FAINT, "zerolinecolor": FAINT, "automargin": True},
        hoverlabel={"align": "left"},
    )
)
pio.templates["lab"] = TEMPLATE


def style(recipe: str) -> Style:
    """The fixed style of a recipe; recipes without one get theirs from a hash of the name, the same everywhere."""
    if recipe in METHOD_STYLE:
        return METHOD_STYLE[recipe]
    digest = hashlib.sha256(recipe.encode()).digest()
    parts = [(OTHER_COLOURS, digest[0]), (DASHES, digest[1]), (MARKERS, digest[2])]
    return Style(*(choices[byte % len(choices)] for choices, byte in parts))


def task_style(task: int) -> Style:
    """The style of the task with this number in the stream."""
    return Style(TASK_COLOURS[task % len(TASK_COLOURS)], DASHES[task % len(DASHES)], MARKERS[task % len(MARKERS)])


def literal(text: Any) -> str:
    """Text that Plotly shows as it is, tags included."""
    return escape(str(text), quote=False)


def short(name: Any, length: int = NAME) -> str:
    """A name for an axis: cut in the middle if it is long."""
    text = str(name)
    return literal(text if len(text) <= length else f"{text[: length - 5]}…{text[-4:]}")


def numbered(names: Sequence[Any]) -> list[str]:
    """Names of rows that are tasks, with their place in the stream."""
    return [f"{i + 1} · {name}" for i, name in enumerate(unique(names))]


def heads(names: Sequence[Any], rows: Sequence[Any]) -> list[str]:
    """Names above columns: as numbers where these are many or long, and the rows say the same names."""
    fit = len(names) <= NAMED_COLUMNS and all(len(str(name)) <= SHORT for name in names)
    if not fit and list(names) == list(rows):
        return [str(i + 1) for i in range(len(names))]
    return unique(names)


def unique(names: Sequence[Any], length: int = NAME) -> list[str]:
    """Names cut for an axis that stay different from each other."""
    cut = [short(name, length) for name in names]
    return [f"{name} ({i + 1})" if cut.count(name) > 1 else name for i, name in enumerate(cut)]


def figure(title: str = "", height: int = 360) -> go.Figure:
    """An empty figure in the style of the lab."""
    top = 44 if title else 12
    layout = {"template": "lab", "height": height, "margin": {"l": 8, "r": 8, "t": top, "b": 8}, "hovermode": "closest"}
    if title:
        layout["title"] = {"text": literal(title), "font": {"size": 15}, "x": 0, "xref": "container", "xanchor": "left"}
    return go.Figure(layout=layout)


# -- heatmaps --------------------------------------------------------------------------------------------------------------


def cells(drawn: go.Figure, values: np.ndarray, hover: np.ndarray, form: str = "{:.2f}", **options: Any) -> None:
    """Add cells at whole coordinates with their number inside; values and hover texts (rows, columns), NaN stays blank."""
    texts = values.shape[1] <= CELLS_WITH_TEXT  # then a colour bar would only take their room
    look = {"zmin": 0, "zmax": 1, "colorscale": SCALE, "hoverongaps": True, "xgap": 2, "ygap": 2} | options
    drawn.add_heatmap(
        z=values.astype(np.float32),
        x=np.arange(values.shape[1]),
        y=np.arange(values.shape[0]),
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        showscale=not texts,
        colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.9},
        **look,
    )
    if texts:
        drawn.add_trace(_numbers(values, form, look))


def _numbers(values: np.ndarray, form: str, look: dict[str, Any]) -> go.Scatter:
    """The numbers of the cells, black on light ones and white on dark ones."""
    known = ~np.isnan(values)
    y, x = np.nonzero(known)
    shares = ((values[known] - look["zmin"]) / (look["zmax"] - look["zmin"])).clip(0, 1)
    colours = plotly.colors.sample_colorscale(look["colorscale"], list(shares), colortype="tuple") if len(shares) else []
    light = [0.2126 * r**2.2 + 0.7152 * g**2.2 + 0.0722 * b**2.2 > 0.18 for r, g, b in colours]  # where black has more contrast
    return go.Scatter(
        x=x,
        y=y,
        mode="text",
        text=[_tight(form.format(value), values.shape[1]) for value in values[known]],
        textfont={"color": ["#000000" if one else "#FFFFFF" for one in light], "size": 11},
        hoverinfo="skip",
        showlegend=False,
        name="numbers",
    )


def _tilt(columns: Sequence[str]) -> int:
    """Angle of the names above columns: level where they fit, upright where they are many."""
    if all(len(name) <= 3 for name in columns) or len(columns) <= 3:
        return 0
    return -40 if len(columns) <= 8 else -90


def _tight(text: str, columns: int) -> str:
    """The number without its leading zero where cells are narrow."""
    return text.replace("0.", ".", 1) if columns > 6 else text


def grid(figure: go.Figure, rows: Sequence[str], columns: Sequence[str], row_title: str, column_title: str) -> go.Figure:
    """Name the cells of a heatmap: first row on top, column names above."""
    figure.update_xaxes(
        tickvals=list(range(len(columns))),
        ticktext=list(columns),
        range=[-0.5, len(columns) - 0.5],
        title=column_title,
        side="top",
        ticklabeloverflow="allow",
        showgrid=False,
        zeroline=False,
        fixedrange=True,
        tickangle=_tilt(columns),
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=list(rows),
        range=[len(rows) - 0.5, -0.5],
        title=row_title,
        showgrid=False,
        zeroline=False,
        fixedrange=True,
    )
    return figure


def cell_height(rows: int, least: int = 220) -> int:
    """Height of a heatmap with this many rows."""
    return max(least, 110 + (34 if rows <= 12 else 22) * rows)


def clickable(figure: go.Figure) -> go.Figure:
    """Transparent markers over the cells of a heatmap: a click anywhere in a cell returns its row as y and its column as x."""
    hover = np.asarray(figure.data[0].customdata)  # (rows, columns)
    y, x = np.mgrid[0 : hover.shape[0], 0 : hover.shape[1]].reshape(2, -1)
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"size": 24, "opacity": 0, "symbol": "square"},
        text=hover.reshape(-1),
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
        name="targets",
    )
    figure.data[-1].selected = figure.data[-1].unselected = {"marker": {"opacity": 0}}
    return figure.update_layout(hoverdistance=-1, clickmode="event+select")


def accuracy_matrix(
    run: views.Runs, after: int | None = None, title: str = "", partial: bool = False, zero_shot: bool = True
) -> go.Figure:
    """R as a heatmap: time runs down, one column per task, scores before any training on top; rows later than `after` blank.

    Of several runs of the same tasks: their mean; so too for the other figures of R.
    """
    table = views.accuracy_matrix(run, after, partial)
    values, tasks = table.to_numpy(), list(table.columns)
    rows = numbered(tasks)
    hover = _matrix_hover(values, tasks)
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
        known = not np.isnan(values[i, j])
        missing = "not learned yet" if j > i else "not measured yet"
        score = f"score {values[i, j]:.3f}" if known else missing
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
    cells(drawn, values, hover, "{:+.2f}", **scale)
    return grid(drawn, numbered(tasks), heads(tasks, tasks), "after learning task", "difference on task")


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


def interference(run: views.Runs, title: str = "") -> go.Figure:
    """What learning each task cost the earlier ones, on the fixed range -1 to 1."""
    table = tables.interference_matrix(run)
    values, tasks = table.to_numpy()[1:, :-1], list(table.columns)  # the first task costs nobody, the last one lost nothing yet
    hover = np.empty(values.shape, dtype=object)
    for i, j in np.ndindex(values.shape):
        missing = "not learned yet" if j > i else "not measured yet"
        cost = missing if np.isnan(values[i, j]) else f"cost {values[i, j]:+.3f}"
        hover[i, j] = f"learning <b>{literal(tasks[i + 1])}</b><br>{cost}<br>on task <b>{literal(tasks[j])}</b>"
    drawn = figure(title, cell_height(len(values)))
    cells(drawn, values, hover, "{:+.2f}", colorscale=DIVERGING, zmin=-1, zmax=1, zmid=0)
    return grid(drawn, numbered(tasks)[1:], heads(tasks, tasks)[:-1], "learning task", "lost by task")


def _pair_hover(table: pd.DataFrame, form: str) -> np.ndarray:
    """Hover texts of a task x expert table."""
    hover = np.empty(table.shape, dtype=object)
    for i, j in np.ndindex(table.shape):
        value = table.iat[i, j]
        middle = "was not recorded on" if np.isnan(value) else form.format(value)
        hover[i, j] = f"expert <b>{literal(table.columns[j])}</b><br>{middle}<br>task <b>{literal(table.index[i])}</b>"
    return hover


MEASURES = {"weight": "mean weight", "entropy": "entropy", "change": "change since then"}


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
    return weights_by_layer(table, heads(table.columns, ()), "expert", _weight_of(table.columns, "mean weight"), title)


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


def weights_by_layer(
    table: pd.DataFrame, columns: Sequence[str], what: str, about: Sequence[str], title: str = "", **scale: Any
) -> go.Figure:
    """A table of weights with one row per layer; `about` says of each column what its numbers are."""
    values = table.to_numpy()
    hover = np.empty(values.shape, dtype=object)
    names = [literal(name) for name in views.layer_names(table.index)]
    form = "{:+.2f}" if scale else "{:.2f}"
    for i, j in np.ndindex(values.shape):
        hover[i, j] = f"{names[i]}<br>{about[j]} {values[i, j]:.3f}"
    drawn = figure(title, cells_height(len(table)))
    top = {"zmax": max(1.0, float(np.nanmax(values, initial=0.0)))}  # weights need not sum to one
    cells(drawn, values, hover, form, xgap=1, ygap=1, **(scale or top))
    return grid(drawn, names, columns, "layer", what)


def cells_height(layers: int) -> int:
    """Height of a chart with one row per layer."""
    return max(240, 110 + 20 * layers)


def _weight_of(experts: Sequence[str], what: str) -> list[str]:
    return [f"expert <b>{literal(name)}</b><br>{what}" for name in experts]


# -- one text --------------------------------------------------------------------------------------------------------------


def answer_by_layer(answer: Answer, head: int | None = None, title: str = "") -> go.Figure:
    """Weights of one text in every layer, of one routing head or the mean over them."""
    table = answer.by_layer(head)
    return weights_by_layer(table, heads(table.columns, ()), "expert", _weight_of(table.columns, "weight"), title)


def answer_change(changed: Answer, original: Answer, title: str = "") -> go.Figure:
    """Weights of one answer minus those of another, where experts and layers are the same; centred on 0."""
    table = changed.by_layer() - original.by_layer()
    about = _weight_of(table.columns, "change of the weight")
    scale = {"colorscale": DIVERGING, "zmin": -1, "zmax": 1, "zmid": 0}
    return weights_by_layer(table, heads(table.columns, ()), "expert", about, title, **scale)


def answer_by_token(answer: Answer, title: str = "") -> go.Figure:
    """Weights at every token of one text, mean over layers and routing heads; one row per token."""
    table = answer.by_token()
    hover = np.empty(table.shape, dtype=object)
    for i, j in np.ndindex(table.shape):
        hover[i, j] = f"{literal(table.index[i])}<br>expert <b>{literal(table.columns[j])}</b> {table.iat[i, j]:.3f}"
    drawn = figure(title, cells_height(len(table)))
    cells(drawn, table.to_numpy(), hover, xgap=1, ygap=1)
    return grid(drawn, [short(token) for token in table.index], heads(table.columns, ()), "token", "expert")


def answer_decision(answer: Answer, layer: int, head: int = 0, title: str = "") -> go.Figure:
    """One decision step by step: a column of bars per step, a row per expert."""
    table = answer.decision(layer, head)
    drawn = make_subplots(
        1, table.shape[1], shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=[*map(literal, table.columns)]
    )
    drawn.update_layout(figure(title, 80 + 30 * len(table)).layout)
    drawn.update_layout(margin={"t": 36})
    colours = [task_style(e).colour for e in range(len(table))]
    for number, name in enumerate(table.columns, 1):
        values = table[name]
        drawn.add_bar(
            x=values, y=np.arange(len(table)), orientation="h", marker={"color": colours}, row=1, col=number, showlegend=False,
            text=[f"{value:.2f}" for value in values], textposition="auto", cliponaxis=False,
            customdata=[literal(expert) for expert in table.index],
            hovertemplate=f"<b>%{{customdata}}</b><br>{literal(name)} %{{x:.4f}}<extra></extra>",
        )  # fmt: skip
        free = bool(values.min() < 0 or values.max() > 1)
        reach = 1.25 * max(1.0, float(values.abs().max()))
        drawn.update_xaxes(range=[-reach, reach] if free else [0, 1], zeroline=free, showgrid=False, nticks=4, row=1, col=number)
    names = unique(table.index)
    drawn.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], showgrid=False, zeroline=False
    )
    return drawn


def answer_probabilities(answers: dict[str, Answer], most: int = 6, title: str = "") -> go.Figure:
    """Probabilities of the likeliest classes of one or several answers to one text, as grouped bars."""
    ranked = pd.DataFrame({name: answer.ranked() for name, answer in answers.items()})
    ranked = ranked.loc[ranked.max(axis=1).sort_values(ascending=False, kind="stable").index[:most]]
    drawn = figure(title, 60 + (26 + 22 * len(answers)) * len(ranked))
    for number, name in enumerate(ranked):
        values = ranked[name]
        drawn.add_bar(
            x=values, y=np.arange(len(ranked)), orientation="h", name=literal(name),
            marker={"color": ANSWER_COLOURS[number], "pattern": {"shape": "/" if number else ""}},
            text=["–" if np.isnan(value) else f"{value:.2f}" for value in values], textposition="auto", cliponaxis=False,
            customdata=[literal(label) for label in ranked.index],
            hovertemplate="<b>%{customdata}</b><br>%{fullData.name}: %{x:.4f}<extra></extra>", showlegend=len(answers) > 1,
        )  # fmt: skip
    drawn.update_xaxes(range=[0, 1], title="probability", tickformat=".1f")
    names = unique(ranked.index, 24)
    drawn.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], showgrid=False)
    return drawn.update_layout(legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0}, barmode="group")


def subspace_overlap(table: pd.DataFrame, title: str = "") -> go.Figure:
    """Overlap of the subspaces of LoRA experts, the table of `lab.library.similarity`."""
    values = table.to_numpy()
    hover = np.empty(values.shape, dtype=object)
    for i, j in np.ndindex(values.shape):
        names = f"<b>{literal(table.index[i])}</b><br><b>{literal(table.columns[j])}</b>"
        hover[i, j] = f"{names}<br>{'not comparable' if np.isnan(values[i, j]) else f'overlap {values[i, j]:.3f}'}"
    drawn = figure(title, cell_height(len(table)))
    cells(drawn, values, hover)
    names = [key.partition("/")[2] for key in table.index]
    return grid(drawn, numbered(names), heads(names, names), "expert", "with expert")


def alignment(table: pd.DataFrame, title: str = "") -> go.Figure:
    """Cosines between a composed expert and those it was made of by layer, the table of `lab.library.alignment`."""
    by_layer = table.iloc[:-1]
    names = [key.partition("/")[2] for key in table.columns]
    about = [f"cosine with <b>{literal(key)}</b>" for key in table.columns]
    scale = {"colorscale": DIVERGING, "zmin": -1, "zmax": 1, "zmid": 0}
    return weights_by_layer(by_layer, heads(names, ()), "expert", about, title, **scale)


# -- lines -----------------------------------------------------------------------------------------------------------------


def forgetting_curves(run: views.Runs, after: int | None = None, title: str = "") -> go.Figure:
    """Score of every task from the moment it was learned; dotted lines mark where the next task begins.

    Of several runs: their mean, with its t-interval as a band.
    """
    tasks = views.each(run)[0].tasks
    curves = views.forgetting_curves(run, after)
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
    fill = f"rgba{(*plotly.colors.hex_to_rgb(colour), 0.15)}"
    drawn.add_scatter(
        x=[*x, *list(x)[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=fill, line={"width": 0}, mode="lines",
        hoverinfo="skip", showlegend=False, name="interval",
    )  # fmt: skip


def average_curves(runs: Sequence[Run], title: str = "") -> go.Figure:
    """Mean score over the tasks seen, one line per recipe; several seeds: mean and t-interval, the runs as thin lines."""
    drawn = figure(title, 380)
    curves = views.average_curves(runs)
    drawn_recipes: list[str] = []
    for label in dict.fromkeys(curves["label"]):
        rows = curves[curves["label"] == label]
        _average_curve(drawn, rows, label, drawn_recipes.count(rows["recipe"].iloc[0]))
        drawn_recipes.append(rows["recipe"].iloc[0])
    return _over_tasks(drawn, max((len(run.tasks) for run in runs), default=0), "average accuracy so far")


def _average_curve(drawn: go.Figure, rows: pd.DataFrame, label: str, repeat: int) -> None:
    """Add the curve of one group of seeds; the `repeat`-th group of a recipe keeps its colour and changes dash and marker."""
    colour, dash, marker = style(rows["recipe"].iloc[0])
    if repeat:
        dash, marker = (
            DASHES[(DASHES.index(dash) + repeat) % len(DASHES)],
            MARKERS[(MARKERS.index(marker) + repeat) % len(MARKERS)],
        )
    seeds = rows["run"].nunique()
    if seeds > 1:
        for name, one in rows.groupby("run"):
            drawn.add_scatter(
                x=one["after"] + 1,
                y=one["score"],
                mode="lines",
                line={"color": colour, "width": 1},
                opacity=0.4,
                showlegend=False,
                name=literal(name),
                hoverinfo="skip",
            )
    found = {after: interval(one["score"]) for after, one in rows.groupby("after")}
    mean = pd.DataFrame.from_dict(found, orient="index").astype({"low": float, "high": float})
    band(drawn, mean.index + 1, mean["low"], mean["high"], colour)
    drawn.add_scatter(
        x=mean.index + 1,
        y=mean["mean"],
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 3},
        marker={"symbol": marker, "size": 9},
        name=literal(label) + (f" (mean of {seeds})" if seeds > 1 else ""),
        hovertemplate="%{fullData.name}<br>after %{x} tasks: %{y:.3f}<extra></extra>",
    )


def _over_tasks(drawn: go.Figure, tasks: int, what: str) -> go.Figure:
    """Axes of a chart over learned tasks."""
    for border in range(1, tasks):
        drawn.add_vline(x=border + 0.5, line={"color": FAINT, "width": 1, "dash": "dot"})
    drawn.update_xaxes(title="tasks learned", range=[0.6, max(tasks, 1) + 0.4], dtick=1, showgrid=False, zeroline=False)
    drawn.update_yaxes(title=what, range=[-0.02, 1.04], tickformat=".1f")
    return drawn.update_layout(legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0})


def loss_curve(run: Run, title: str = "") -> go.Figure:
    """Loss over the whole run, one colour per task; training on the memory is dotted."""
    table = views.losses(run)
    drawn = figure(title, 320)
    for (task, phase), rows in table.groupby(["task", "phase"], sort=False):
        name = short(rows["name"].iloc[0]) + ("" if phase == "train" else f" ({phase})")
        line = {"color": task_style(int(task)).colour, "dash": "solid" if phase == "train" else "dot", "width": 1.5}
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
    return drawn.update_layout(legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0})


# -- bars ------------------------------------------------------------------------------------------------------------------


def guesses(labels: Sequence[str], guessed: Sequence[float], measured: Sequence[float], title: str = "") -> go.Figure:
    """Guesses from 0 to 1 beside what was measured, one pair of bars per label."""
    drawn = figure(title, 260)
    names = unique(labels, 24)
    for name, values, colour, pattern in (("your guess", guessed, "#8A8A8A", "/"), ("measured", measured, "#2B7FC4", "")):
        drawn.add_bar(
            name=name, x=names, y=list(values), marker={"color": colour, "pattern": {"shape": pattern}},
            text=[f"{value:.2f}" for value in values], textposition="outside", cliponaxis=False,
            hovertemplate=f"%{{x}}<br>{name} %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    drawn.update_layout(barmode="group", legend={"orientation": "h", "y": 1.15, "x": 0}, margin={"t": 40})
    return drawn.update_yaxes(range=[0, 1.08])


def comparison(runs: Sequence[Run], measure: str = "average_accuracy", title: str = "") -> go.Figure:
    """One measure of several groups of runs as bars with intervals, coloured by recipe; missing values have no bar."""
    found = views.summary(runs)
    found = found[found["measure"] == measure].iloc[::-1]
    drawn = figure(title, 90 + 44 * len(found))
    colours = [style(name).colour for name in found["recipe"]]
    texts = [views.cell(row.value, row.high - row.value, row.why, True) for row in found.itertuples()]
    drawn.add_bar(
        x=found["value"].fillna(0.0),
        y=np.arange(len(found)),
        orientation="h",
        marker={"color": colours},
        error_x={"type": "data", "array": found["high"] - found["value"], "thickness": 1},
        text=[literal(text) for text in texts],
        textposition="auto",
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    drawn.update_yaxes(tickvals=list(range(len(found))), ticktext=[literal(name) for name in found["label"]], showgrid=False)
    return drawn.update_xaxes(zeroline=True)


def decomposition(run: Run, title: str = "") -> go.Figure:
    """Where the loss of each old task went: one bar per task, one piece per term; what was gained lies left of zero."""
    table = tables.decomposition(run)
    drawn = figure(title, 130 + 34 * len(table))
    names = [*numbered(table.index[:-1]), "mean"]
    for colour, (term, name) in zip(TERM_COLOURS, tables.TERMS.items(), strict=True):
        if table[term].isna().all():
            continue  # this run has no such term
        hover = [f"{name}: {piece:+.3f}<br>of a loss of {loss:.3f}" for piece, loss in table[[term, "loss"]].to_numpy()]
        drawn.add_bar(
            x=table[term],
            y=np.arange(len(table)),
            orientation="h",
            name=name,
            marker={"color": colour},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        )
    drawn.add_scatter(
        x=table["loss"],
        y=np.arange(len(table)),
        mode="markers",
        name="Loss",
        marker={"symbol": "line-ns-open", "size": 20, "color": "#8A8A8A", "line": {"width": 3}},
        hovertemplate="loss %{x:.3f}<extra></extra>",
    )
    drawn.update_xaxes(title="accuracy lost since the task was learned", zeroline=True)
    drawn.update_yaxes(tickvals=list(range(len(table))), ticktext=names, range=[len(table) - 0.4, -0.6], showgrid=False)
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0, "traceorder": "normal"}
    return drawn.update_layout(barmode="relative", legend=legend)


# -- trade-offs ------------------------------------------------------------------------------------------------------------


def pareto(runs: Sequence[Run], cost: str = "cost.stored_bytes", score: str = "average_accuracy", title: str = "") -> go.Figure:
    """A score against a cost; dominated groups of runs are faint, those that use the task identity hollow.

    The line runs along the groups that are not dominated and get no task identity. See `lab.tables.pareto`.
    """
    titles = {measure.path: measure.title for measure in views.MEASURES}
    table = tables.pareto(runs, cost, score)
    known = table[table["cost"].notna() & table["score"].notna()]
    log = len(known) > 0 and known["cost"].min() > 0 and known["cost"].max() > 10 * known["cost"].min()
    drawn = figure(title, 400)
    _pareto_points(drawn, known, titles[cost])
    drawn.update_xaxes(title=titles[cost] + (" (logarithmic)" if log else ""), type="log" if log else "linear")
    return drawn.update_yaxes(title=titles[score])


def _pareto_points(drawn: go.Figure, table: pd.DataFrame, cost: str) -> None:
    """The line of the best groups, and all groups."""
    front = table[(table["dominated_by"] == "") & ~table["task_id"]].sort_values("cost")
    drawn.add_scatter(
        x=front["cost"],
        y=front["score"],
        mode="lines",
        line={"color": FAINT, "width": 2, "shape": "hv"},
        hoverinfo="skip",
        showlegend=False,
    )
    hover, symbols = [], []
    for row in table.itertuples():
        verdict = f"dominated by {literal(row.dominated_by)}" if row.dominated_by else "not dominated"
        privilege = "<br>uses the task identity" if row.task_id else ""
        hover.append(f"<b>{literal(row.label)}</b><br>score {row.score:.3f}<br>{cost} {row.cost:,.0f}<br>{verdict}{privilege}")
        symbols.append(style(row.recipe).marker + ("-open" if row.task_id else ""))
    marker = {
        "color": [style(name).colour for name in table["recipe"]], "symbol": symbols, "size": 13,
        "opacity": [0.35 if other else 1.0 for other in table["dominated_by"]], "line": {"width": 2},
    }  # fmt: skip
    drawn.add_scatter(
        x=table["cost"],
        y=table["score"],
        mode="markers+text",
        marker=marker,
        text=[short(label, 28) for label in table["label"]],
        textposition=np.where(table["score"].rank(method="first") % 2, "top center", "bottom center"),  # neighbours part
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
        cliponaxis=False,
    )
