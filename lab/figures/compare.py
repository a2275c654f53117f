"""Figures of methods beside each other: a measure, a trade-off, and where losses went."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lab import views
from lab.comparison import tables
from lab.figures.drawing import FAINT, Style, figure, literal, numbered, short, style, styles
from lab.run_folder.run import Run

TERM_COLOURS = ["#2B7FC4", "#D55E00", "#009E73", "#C98A00"]  # router, experts, classifier, new classes


def scores_of_methods(runs: Sequence[Run], title: str = "", only: str = "") -> go.Figure:
    """The scores by which methods are judged (average accuracy, forgetting) as bars with intervals, side by side.

    The rows are the groups of runs, the first on top. With the label of a group as `only`, the other groups are faint.
    """
    summary, shown = views.summary(runs), views.judged()[:2]
    labels = list(dict.fromkeys(summary["label"]))
    drawn = figure(title, 110 + 44 * len(labels))
    for number, measure in enumerate(shown):
        rows = summary[summary["measure"] == measure.path].set_index("label").loc[labels]
        drawn.add_bar(
            x=rows["value"].fillna(0.0),
            y=np.arange(len(rows)),
            orientation="h",
            xaxis=f"x{number + 1}" if number else "x",
            marker={
                "color": [style(name).colour for name in rows["recipe"]],
                "opacity": [1.0 if only in ("", label) else 0.2 for label in labels],
            },
            error_x={"type": "data", "array": rows["high"] - rows["value"], "thickness": 1.5, "width": 5},
            text=["–" if value != value else f"{value:.2f}" for value in rows["value"]],
            textposition="auto",
            hovertext=[f"<b>{literal(row.Index)}</b>, n = {row.n}<br>{measure.title} {_shown(row)}" for row in rows.itertuples()],
            hovertemplate="%{hovertext}<extra></extra>",
            selected={"marker": {"opacity": 1.0}},
            unselected={"marker": {"opacity": 1.0}},
            showlegend=False,
        )
        highest = float(np.nanmax([0.0, *(rows["high"].fillna(rows["value"]))]))
        axis = {
            "domain": [0.54 * number, 0.46 + 0.54 * number],
            "title": f"{measure.title} {'↓' if measure.lower_is_better else '↑'}",
            "zeroline": True,
            "range": [min(0.0, float(np.nanmin([0.0, *rows["low"].fillna(rows["value"])]))), max(1.0, highest)],
        }
        drawn.update_layout({f"xaxis{number + 1}" if number else "xaxis": axis})
    names = [short(label, 24) for label in labels]
    return drawn.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], showgrid=False
    ).update_layout(clickmode="event+select")


def _shown(row: Any) -> str:
    return views.cell(row.value, row.high - row.value, row.why, True)


def decomposition(run: Run, tokens: bool = False, title: str = "") -> go.Figure:
    """Where the loss of each old task went: one bar per task, one piece per term; what was gained lies left of zero.

    `tokens`: of the loss per token of the right answers, see `lab.comparison.tables.decomposition`.
    """
    table = tables.decomposition(run, tokens)
    drawn = figure(title, 130 + 34 * len(table))
    names = [*numbered(table.index[:-1]), "mean"]
    for colour, (term, name) in zip(TERM_COLOURS, tables.TERMS.items(), strict=True):
        if bool(table[term].isna().all()):
            continue  # this run has no such term
        hover = [f"{name}: {piece:+z.3f}<br>of a loss of {loss:.3f}" for piece, loss in table[[term, "loss"]].to_numpy()]
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
    lost = "nats per token lost" if tokens else "accuracy lost"
    drawn.update_xaxes(title=f"{lost} since the task was learned", zeroline=True)
    drawn.update_yaxes(tickvals=list(range(len(table))), ticktext=names, range=[len(table) - 0.4, -0.6], showgrid=False)
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0, "traceorder": "normal"}
    return drawn.update_layout(barmode="relative", legend=legend)


def pareto(runs: Sequence[Run], cost: str = "cost.stored_bytes", score: str = "", title: str = "") -> go.Figure:
    """A score against a cost; dominated groups of runs are faint, those that use the task identity hollow.

    The line runs along the groups that are not dominated and get no task identity. Without a `score` it is the one by which
    methods are ordered. See `lab.comparison.tables.pareto`.
    """
    results = [run.result() for run in runs]
    titles = {measure.path: measure.title for measure in views.measures(results)}
    score = score or views.headline(results).path
    table: Any = tables.pareto(runs, cost, score)
    measured = table[table["cost"].notna() & table["score"].notna()]
    log = len(measured) > 0 and measured["cost"].min() > 0 and measured["cost"].max() > 10 * measured["cost"].min()
    drawn = figure(title, 400)
    _pareto_points(drawn, measured, titles[cost], styles(views.groups(runs)))
    drawn.update_xaxes(title=titles[cost] + (" (logarithmic)" if log else ""), type="log" if log else "linear")
    return drawn.update_yaxes(title=titles[score])


def _pareto_points(drawn: go.Figure, table: Any, cost: str, looks: dict[str, Style]) -> None:
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
        symbols.append(looks[row.label].marker + ("-open" if row.task_id else ""))
    marker = {
        "color": [looks[label].colour for label in table["label"]],
        "symbol": symbols,
        "size": 13,
        "opacity": [0.35 if other else 1.0 for other in table["dominated_by"]],
        "line": {"width": 2},
    }
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
