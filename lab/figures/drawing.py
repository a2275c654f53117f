"""What all figures share: styles of methods and tasks, names on axes, an empty figure, heatmaps."""

import hashlib
import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.colors
import plotly.graph_objects as go
import plotly.io as pio

from lab import views
from lab.config.resolve import recipe_names

SCALE = "Cividis"  # scores and shares, 0 to 1
DIVERGING = "PuOr"  # differences, centred on 0; neither red nor green
LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0}  # above the chart, in a line
AROUND_EQUAL = ["#66B79B", "#A6DBC0", "#D9F0E3", "#F7F7F7", "#E3D6EC", "#A583BC", "#542788"]  # shares about the equal one
LEAST_RATIO, MOST_RATIO = 1.25, 8.0  # times the equal share, at which the strongest colour may stand
FAINT = "rgba(127,127,127,0.25)"  # grid lines on light and dark
FOCUS = "#E8590C"  # outline of what is in focus, seen on every cell, light and dark
NUMBERS = "numbers"  # the trace with the numbers of cells
MANY, SMALL = 24, 9  # rows or columns from which on their names are so small
CELLS_WITH_TEXT = 12  # columns up to which the numbers stand in the cells
NAMED_COLUMNS = 6  # columns up to which names stand above them, if these are short
SHORT = 11  # characters of a short name
NAME = 16  # characters of a name on an axis; the full one is in the hover text


ANSWER_COLOURS = ["#2B7FC4", "#C98A00"]  # an answer, and the one beside it


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
TASK_COLOURS = ["#2B7FC4", "#D55E00", "#009E73", "#C06498", "#C98A00", "#7A5FD0", "#3A98A8", "#8A8A8A", "#B2566B", "#4E8F2F"]
TEMPLATE = go.layout.Template(
    layout=go.Layout(
        font={"family": "Source Sans Pro, Segoe UI, Helvetica, Arial, sans-serif", "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=TASK_COLOURS,
        xaxis={"gridcolor": FAINT, "zerolinecolor": FAINT, "automargin": True},
        yaxis={"gridcolor": FAINT, "zerolinecolor": FAINT, "automargin": True},
        hoverlabel={"align": "left"},
    ),
    data={"bar": [go.Bar(insidetextfont={"color": "black"})]},  # has more contrast than white on every colour above
)
pio.templates["lab"] = TEMPLATE


@cache
def style(recipe: str) -> Style:
    """The style of a recipe, the same everywhere; no two shipped recipes share colour and marker.

    A shipped recipe without a fixed one has it from its place among these, any other recipe from a hash of its name.
    """
    if recipe in METHOD_STYLE:
        return METHOD_STYLE[recipe]
    shipped = [name for name in recipe_names() if name not in METHOD_STYLE]
    if recipe in shipped:
        turn, colour = divmod(shipped.index(recipe), len(OTHER_COLOURS))
        picks = (colour, turn + colour, turn + colour)  # neighbours differ in all three
    else:
        picks = tuple(hashlib.sha256(recipe.encode()).digest()[:3])
    return Style(*(row[pick % len(row)] for row, pick in zip((OTHER_COLOURS, DASHES, MARKERS), picks, strict=True)))


def styles(groups: Sequence[views.Group]) -> dict[str, Style]:
    """The style of each group of runs by its label; another group of one recipe keeps the colour and gets the next dash and
    marker."""
    by_label: dict[str, Style] = {}
    before: list[str] = []
    for group in groups:
        colour, *own = style(group.recipe)
        places = (row.index(mark) + before.count(group.recipe) for row, mark in zip((DASHES, MARKERS), own, strict=True))
        by_label[group.label] = Style(colour, *(row[i % len(row)] for row, i in zip((DASHES, MARKERS), places, strict=True)))
        before.append(group.recipe)
    return by_label


def task_style(task: int) -> Style:
    """The style of the task with this number in the stream."""
    return Style(TASK_COLOURS[task % len(TASK_COLOURS)], DASHES[task % len(DASHES)], MARKERS[task % len(MARKERS)])


def faint(colour: str, opacity: float = 0.45) -> str:
    """A colour that lets what is below shine through."""
    return f"rgba{(*plotly.colors.hex_to_rgb(colour), opacity)}"


def literal(text: Any) -> str:
    """Text that Plotly shows as it is, tags included."""
    return escape(str(text), quote=False)


def wrapped(text: Any, width: int = 60, lines: int = 4) -> str:
    """A text in lines for a hover box, cut if it is long."""
    parts = textwrap.wrap(str(text), width, max_lines=lines, placeholder=" …")
    return "<br>".join(map(literal, parts))


def short(name: Any, length: int = NAME) -> str:
    """A name for an axis: cut in the middle if it is long."""
    text = str(name)
    return literal(text if len(text) <= length else f"{text[: length - 5]}…{text[-4:]}")


def numbered(names: Iterable[Any]) -> list[str]:
    """Names of rows that are tasks, with their position in the stream."""
    return [f"{i + 1} · {name}" for i, name in enumerate(unique(names))]


def heads(names: Collection[Any], rows: Collection[Any]) -> list[str]:
    """Names above columns: as numbers where these are many or long, and the rows say the same names."""
    fit = len(names) <= NAMED_COLUMNS and all(len(str(name)) <= SHORT for name in names)
    if not fit and list(names) == list(rows):
        return [str(i + 1) for i in range(len(names))]
    return unique(names)


def unique(names: Iterable[Any], length: int = NAME) -> list[str]:
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


def around_equal(ratios: np.ndarray, most: float) -> dict[str, Any]:
    """Options of `cells` that colour shares by how many times the equal share they are, on a scale of doublings about 1.

    `most`: the ratio of the strongest colour; what is farther from 1, above or below, has that colour too.
    """
    most = min(max(most, LEAST_RATIO), MOST_RATIO)
    limit = math.log2(most)
    colours = np.log2(np.clip(ratios, 1 / (2 * most), None))
    ends = [1 / most, math.sqrt(1 / most), 1.0, math.sqrt(most), most]
    ticks = {"tickvals": [math.log2(end) for end in ends], "ticktext": ["equal" if end == 1 else f"{end:.2g}×" for end in ends]}
    return {"colours": colours, "zmin": -limit, "zmax": limit, "colorscale": AROUND_EQUAL, "ticks": ticks}


def cells(
    drawn: go.Figure,
    values: np.ndarray,
    hover: np.ndarray,
    form: str = "{:z.2f}",
    colours: np.ndarray | None = None,
    ticks: Mapping[str, Any] = {},
    texts: bool | None = None,
    **options: Any,
) -> None:
    """Add cells at whole coordinates with their number inside; values and hover texts (rows, columns), NaN stays blank.

    `colours`: what the colours say where that is not the value itself; `ticks` of the bar that explains them. `texts`: whether
    there are numbers; default: where they fit. `row` and `col` choose a subplot.
    """
    texts = values.shape[1] <= CELLS_WITH_TEXT if texts is None else texts  # then a colour bar would only take their room
    where = {name: options.pop(name) for name in ("row", "col") if name in options}
    look = {
        "zmin": 0,
        "zmax": 1,
        "colorscale": SCALE,
        "hoverongaps": True,
        "xgap": 2,
        "ygap": 2,
        "showscale": not texts,
    } | options
    shown = values if colours is None else np.where(np.isnan(values), np.nan, colours)
    drawn.add_heatmap(
        z=shown.astype(np.float32),
        x=np.arange(values.shape[1]),
        y=np.arange(values.shape[0]),
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.9, **ticks},
        **look,
        **where,
    )
    if texts:
        drawn.add_trace(_numbers(values, shown, form, look), **where)


def _numbers(values: np.ndarray, shown: np.ndarray, form: str, look: dict[str, Any]) -> go.Scatter:
    """The numbers of the cells, black on light ones and white on dark ones; `shown` is what their colours say."""
    measured = ~np.isnan(values)
    y, x = np.nonzero(measured)
    shares = ((shown[measured] - look["zmin"]) / (look["zmax"] - look["zmin"])).clip(0, 1)
    colours = plotly.colors.sample_colorscale(look["colorscale"], list(shares), colortype="tuple") if len(shares) else []
    linear = np.clip(np.reshape(colours, (-1, 3)), 0, 1) ** 2.2  # interpolated colours leave [0, 1] by rounding
    light = linear @ (0.2126, 0.7152, 0.0722) > 0.18  # where black has more contrast
    return go.Scatter(
        x=x,
        y=y,
        mode="text",
        text=[_tight(form.format(value), values.shape[1]) for value in values[measured]],
        textfont={"color": ["#000000" if bright else "#FFFFFF" for bright in light], "size": 11},
        hoverinfo="skip",
        showlegend=False,
        name=NUMBERS,
    )


def _tilt(columns: Sequence[str]) -> int:
    """Angle of the names above columns: level where they fit, upright where they are many."""
    if len(columns) <= 3 or (len(columns) <= MANY and all(len(name) <= 3 for name in columns)):
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
        tickfont={"size": SMALL} if len(columns) > MANY else None,
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=list(rows),
        range=[len(rows) - 0.5, -0.5],
        title=row_title,
        showgrid=False,
        zeroline=False,
        fixedrange=True,
        tickfont={"size": SMALL} if len(rows) > MANY else None,
    )
    return figure


def cell_height(rows: int, least: int = 220) -> int:
    """Height of a heatmap with this many rows."""
    return max(least, 110 + (34 if rows <= 12 else 22 if rows <= MANY else 12) * rows)


def cells_height(layers: int) -> int:
    """Height of a chart with one row per layer."""
    return max(240, 110 + 20 * layers)


def weights_by_layer(
    table: pd.DataFrame,
    columns: Sequence[str],
    what: str,
    about: Sequence[str],
    title: str = "",
    most: float | None = None,
    signed: bool = False,
    **scale: Any,
) -> go.Figure:
    """A table of weights with one row per layer; `about` says of each column what its numbers are.

    Colours are drawn from 0 to `most`, so that charts beside each other can share a range; None: to 1, or the largest weight
    where that is more, since weights need not sum to one. `scale` replaces that, see `cells`; `signed`: numbers show a +.
    """
    values = table.to_numpy()
    hover = np.empty(values.shape, dtype=object)
    names = [literal(name) for name in views.layer_names(table.index)]
    form = "{:+z.2f}" if signed else "{:z.2f}"
    for i, j in np.ndindex(values.shape):
        hover[i, j] = f"{names[i]}<br>{about[j]} {values[i, j]:.3f}"
    drawn = figure(title, cells_height(len(table)))
    top = max(1.0, float(np.nanmax(values, initial=0.0))) if most is None else most
    cells(drawn, values, hover, form, xgap=1, ygap=1, **(scale or {"zmax": top}))
    return grid(drawn, names, columns, "layer", what)


def weight_of(experts: Iterable[str], what: str) -> list[str]:
    return [f"expert <b>{literal(name)}</b><br>{what}" for name in experts]


def clickable(figure: go.Figure, focus: tuple[int, int] | None = None) -> go.Figure:
    """Transparent markers over the cells of a heatmap: a click anywhere in a cell returns its row as y and its column as x.

    The numbers keep their colours when a cell is selected; the cell (row, column) of `focus` has an outline.
    """
    traces: Any = figure.data
    hover = np.asarray(traces[0].customdata)  # (rows, columns)
    numbers = [trace for trace in traces if trace.name == NUMBERS]
    figure.data = [trace for trace in traces if trace.name != NUMBERS]
    figure.add_traces([part for trace in numbers for part in _by_colour(trace)])
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
    targets: Any = figure.data[-1]
    targets.selected = targets.unselected = {"marker": {"opacity": 0}}
    if focus:
        outline(figure, *focus)
    return figure.update_layout(hoverdistance=-1, clickmode="event+select")


def outline(figure: go.Figure, row: int, column: int | None = None) -> go.Figure:
    """Outline what is in focus: a cell of a heatmap, or with no column a whole row of cells or of bars, in all subplots beside
    each other."""
    corners: dict[str, Any] = {"y0": row - 0.47, "y1": row + 0.47}
    corners |= {"x0": 0, "x1": 1, "xref": "paper"} if column is None else {"x0": column - 0.47, "x1": column + 0.47}
    line = {"color": FOCUS, "width": 2 if column is None else 3}
    return figure.add_shape(type="rect", **corners, line=line, fillcolor="rgba(0,0,0,0)")


def _by_colour(numbers: Any) -> list[go.Scatter]:
    """Numbers in one trace per colour: only a single colour can be kept while another trace is selected from."""
    parts = []
    for colour in dict.fromkeys(numbers.textfont.color):
        own = [i for i, other in enumerate(numbers.textfont.color) if other == colour]
        part = go.Scatter(numbers)
        x, y, text = ([values[i] for i in own] for values in (numbers.x, numbers.y, numbers.text))
        parts.append(part.update(x=x, y=y, text=text, textfont={"color": colour}, unselected={"textfont": {"color": colour}}))
    return parts
