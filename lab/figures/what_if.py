"""Figures of another choice of experts: see lab.analysis.what_if."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lab.figures.drawing import ANSWER_COLOURS, LEGEND, MANY, SMALL, figure, literal, unique

ROWS = ("as recorded", "changed")


def what_if(outcome: dict[str, Any], title: str = "") -> go.Figure:
    """Scores of the tasks as recorded and under a change, from what `lab.analysis.what_if.what_if` returns."""
    rows = outcome["tasks"]
    values = [[row[kind] for row in rows] for kind in ("recorded", "changed")]
    return pairs([row["task"] for row in rows], values, "accuracy", title)


def pairs(tasks: Sequence[str], values: Sequence[Sequence[float]], what: str, title: str = "") -> go.Figure:
    """Two bars per task, between 0 and 1: as recorded, and changed."""
    drawn = figure(title, 280)
    names = unique(tasks)
    for number, (name, own) in enumerate(zip(ROWS, values, strict=True)):
        drawn.add_bar(
            x=np.arange(len(names)),
            y=own,
            name=name,
            marker={"color": ANSWER_COLOURS[number], "pattern": {"shape": "/" if number else "", "fillmode": "overlay"}},
            text=[f"{value:.2f}" for value in own] if len(names) <= MANY // 2 else None,
            textposition="outside",
            cliponaxis=False,
            customdata=[literal(task) for task in tasks],
            hovertemplate=f"<b>%{{customdata}}</b><br>{what} {name}: %{{y:.3f}}<extra></extra>",
        )
    many = {"tickfont": {"size": SMALL}, "tickangle": -90} if len(names) > MANY else {}
    drawn.update_xaxes(tickvals=list(range(len(names))), ticktext=names, showgrid=False, **many)
    drawn.update_yaxes(range=[0, 1.08], tickvals=[0, 0.25, 0.5, 0.75, 1], title=what)
    return drawn.update_layout(legend=LEGEND, barmode="group", bargap=0.25)
