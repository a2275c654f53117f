"""Curves that grow while somebody watches: unlike a Plotly chart they stay in place when their numbers change."""

import html
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from lab import figures, views
from lab.run_folder.run import Run

FEW = 60  # points of a loss that are drawn as such: a task may have a single one, which is no line
LEGEND = 12  # tasks up to which a loss has a legend


def forgetting(run: Run, key: str, after: int | None = None, height: int = 230) -> None:
    """Score of each task over the stream, up to task `after` (0-based) or as far as the run is; the axes do not move."""
    table = views.forgetting_curves(run, after).assign(moment=lambda rows: rows["after"] + 1)
    tasks = run.tasks
    scale: Any = alt.Scale(domain=tasks, range=[figures.task_style(task).colour for task in range(len(tasks))])
    moments: Any = alt.Scale(domain=[*range(1, len(tasks) + 1)])
    chart = (
        alt.Chart(pd.DataFrame(table[["moment", "name", "score"]]))
        .mark_line(point=True, strokeWidth=2.5)
        .encode(
            x=alt.X("moment:O", title="after task", scale=moments, axis=alt.Axis(labelAngle=0)),
            y=alt.Y("score:Q", title="score", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("name:N", scale=scale, legend=None),
            tooltip=[alt.Tooltip("name:N", title="task"), "moment:O", alt.Tooltip("score:Q", format=".3f")],
        )
        .properties(height=height)
    )
    last = table[table["moment"] == table["moment"].max()]
    newest = ", ".join(f"{name} {score:.2f}" for name, score in zip(last["name"], last["score"], strict=True))
    st.altair_chart(chart, key=key, alt=f"Score of each task over the stream of {run.config['recipe']}; now {newest}")


def loss(table: pd.DataFrame, key: str, text: str, height: int = 280) -> None:
    """A loss over the optimiser steps (`views.losses`), one colour per task; points too where there are few. `text`: in words."""
    tasks = sorted(dict.fromkeys(table["task"]))
    names = [f"task {task + 1}" for task in tasks]
    scale: Any = alt.Scale(domain=names, range=[figures.task_style(task).colour for task in tasks])
    legend = alt.Legend(title=None, orient="bottom", columns=6, symbolSize=50, labelFontSize=11) if len(tasks) <= LEGEND else None
    rows = table.assign(named=[f"task {task + 1}" for task in table["task"]])
    chart = (
        alt.Chart(pd.DataFrame(rows[["index", "named", "name", "loss"]]))
        .mark_line(point=len(rows) <= FEW, strokeWidth=2)
        .encode(
            x=alt.X("index:Q", title="optimiser steps", axis=alt.Axis(grid=False, tickMinStep=1)),
            y=alt.Y("loss:Q", title="loss"),
            color=alt.Color("named:N", scale=scale, legend=legend),
            tooltip=[alt.Tooltip("name:N", title="task"), "index:Q", alt.Tooltip("loss:Q", format=".3f")],
        )
        .properties(height=height)
    )
    st.altair_chart(chart, key=key, alt=text)


def legend(tasks: list[str]) -> None:
    """The colours of the tasks, once for all curves of a page."""
    colours = [figures.task_style(number).colour for number in range(len(tasks))]
    names = (
        f'<span style="white-space: nowrap; margin-right: 1em"><span style="color: {colour}">●</span> {html.escape(task)}</span>'
        for task, colour in zip(tasks, colours, strict=True)
    )
    st.html(f'<div style="font-size: 0.875rem; line-height: 1.6">{" ".join(names)}</div>')
