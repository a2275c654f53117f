"""Figures of methods beside each other, over their repetitions: differences, trade-off, order of the tasks, swept option."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lab import views
from lab.comparison import replicates
from lab.figures import FAINT, figure, literal, short, styles
from lab.figures.drawing import LEGEND
from lab.run_folder.run import Run

UNCERTAIN = 0.4  # opacity of what may not be claimed


def _errors(rows: pd.DataFrame, mean: str = "mean", low: str = "low", high: str = "high") -> dict[str, Any]:
    """Error bars from the ends of intervals; none where there is no interval."""
    above, below = rows[high] - rows[mean], rows[mean] - rows[low]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.5, "width": 5}


def differences(runs: Sequence[Run], baseline: str, measure: str = "", title: str = "") -> go.Figure:
    """Each group of runs minus the baseline, with the interval of the paired difference.

    Hollow and faint where the interval includes zero or there is none, so that no sign may be claimed. `measure` is the path of
    a score; empty: the one by which methods are ordered.
    """
    titles = {score.path: score.title for score in replicates.compared(runs)}
    measure = measure or next(iter(titles))
    table: Any = replicates.differences(runs, baseline)
    table = table[(table["measure"] == measure) & table["mean"].notna()].reset_index(drop=True)
    drawn = figure(title, 110 + 42 * max(len(table), 1))
    looks = styles(views.groups(runs))
    for i, row in table.iterrows():
        colour, _, marker = looks[row["label"]]
        claim = row["claim"] is True
        verdict = {True: "the interval excludes zero", False: "the interval includes zero"}.get(row["claim"], row["why"])
        drawn.add_scatter(
            x=[row["mean"]],
            y=[i],
            mode="markers",
            showlegend=False,
            opacity=1.0 if claim else UNCERTAIN,
            marker={"color": colour, "symbol": marker + ("" if claim else "-open"), "size": 12, "line": {"width": 2}},
            error_x=_errors(table.iloc[[i]]) | {"color": colour},
            name=literal(row["label"]),
            customdata=[
                f"<b>{literal(row['label'])}</b> minus {literal(baseline)}<br>{row['mean']:+z.3f}, {row['n']} "
                f"{'pair' if row['n'] == 1 else 'pairs'}<br>{literal(verdict)}"
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    drawn.add_vline(x=0, line={"color": "rgba(127,127,127,0.9)", "width": 1.5})
    names = [short(label, 28) for label in table["label"]]
    drawn.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], showgrid=False)
    return drawn.update_xaxes(title=f"{titles[measure]}, minus {short(baseline, 28)}", tickformat="+.3~f", zeroline=False)


def tradeoff(runs: Sequence[Run], title: str = "") -> go.Figure:
    """Average accuracy in the end against accuracy right after learning; on the diagonal nothing was lost."""
    table: Any = replicates.tradeoff(runs)
    columns = ["learned", "kept"]
    measured = table[table[columns].notna().all(axis=1)]
    low = max(0.0, measured[columns].min().min() - 0.06) if len(measured) else 0.0
    high = min(1.02, measured[columns].max().max() + 0.06) if len(measured) else 1.0
    drawn = figure(title, 420)
    drawn.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        line={"color": FAINT, "dash": "dot", "width": 2},
        hoverinfo="skip",
        showlegend=False,
        name="nothing lost",
    )
    looks = styles(views.groups(runs))
    for i, row in measured.iterrows():
        colour, _, marker = looks[row["label"]]
        errors = {
            axis: _errors(measured.loc[[i]], name, f"{name}_low", f"{name}_high") | {"color": colour}
            for axis, name in zip(("error_x", "error_y"), columns, strict=True)
        }
        drawn.add_scatter(
            x=[row["learned"]],
            y=[row["kept"]],
            mode="markers",
            name=literal(row["label"]),
            marker={"color": colour, "symbol": marker, "size": 13},
            **errors,
            customdata=[
                f"<b>{literal(row['label'])}</b>, n = {row['n']}<br>learned {row['learned']:.3f}<br>"
                f"kept {row['kept']:.3f}<br>lost {row['learned'] - row['kept']:.3f}"
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    drawn.update_xaxes(title="Plasticity: learning accuracy", range=[low, high])
    drawn.update_yaxes(title="Stability: average accuracy in the end", range=[low, high])
    return drawn.update_layout(legend=LEGEND)


def positions(runs: Sequence[Run], title: str = "") -> go.Figure:
    """How much better or worse than usual a task does in the end when it is learned at each place of the stream."""
    table: Any = replicates.positions(runs)
    measured = table[table["mean"].notna()]
    drawn = _lines(figure(title, 360), measured, views.groups(runs), "position", "position %{x}: %{y:+.3f}")
    drawn.add_hline(y=0, line={"color": "rgba(127,127,127,0.9)", "width": 1.5})
    drawn.update_xaxes(title="position in the stream", dtick=1, showgrid=False)
    return drawn.update_yaxes(title="score against the task's own mean", tickformat="+.3~f")


def sweep(runs: Sequence[Run], option: str = "train.lr", title: str = "") -> go.Figure:
    """Validation score against a swept option on a logarithmic axis; a ring marks the value that selection takes."""
    table = replicates.sweep(runs, option)
    groups = views.groups(runs, ("seed", option))
    drawn = _lines(figure(title, 380), table, groups, "value", f"{literal(option)} %{{x}}: %{{y:.3f}}")
    best = table[table["best"]]
    drawn.add_scatter(
        x=best["value"],
        y=best["mean"],
        mode="markers",
        hoverinfo="skip",
        name="best on validation",
        marker={"symbol": "circle-open", "size": 20, "color": "#8A8A8A", "line": {"width": 2}},
    )
    values = sorted(set(table["value"]))
    drawn.update_xaxes(title=f"{option} (logarithmic)", type="log", tickvals=values, ticktext=[f"{value:g}" for value in values])
    return drawn.update_yaxes(title="validation score, mean over tasks")


def _lines(drawn: go.Figure, table: Any, groups: Sequence[views.Group], x: str, hover: str) -> go.Figure:
    """One line with error bars per group."""
    looks = styles(groups)
    for label in dict.fromkeys(table["label"]):
        rows = table[table["label"] == label]
        colour, dash, marker = looks[label]
        drawn.add_scatter(
            x=rows[x],
            y=rows["mean"],
            mode="lines+markers",
            name=literal(label),
            line={"color": colour, "dash": dash},
            marker={"symbol": marker, "size": 9},
            error_y=_errors(rows),
            hovertemplate=f"<b>{literal(label)}</b><br>{hover}<extra></extra>",
        )
    return drawn.update_layout(legend=LEGEND, showlegend=True)
