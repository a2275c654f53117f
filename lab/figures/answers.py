"""Figures of one text: its answer, and the routing that led to it."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lab.figures.drawing import (
    ANSWER_COLOURS,
    DIVERGING,
    MANY,
    SMALL,
    cells,
    cells_height,
    figure,
    grid,
    heads,
    literal,
    short,
    task_style,
    unique,
    weight_of,
    weights_by_layer,
)
from lab.run_folder.prediction import Answer

NUMBER = 11  # size of numbers in narrow columns


def answer_by_layer(answer: Answer, head: int | None = None, title: str = "", most: float | None = None) -> go.Figure:
    """Weights of one text in every layer, of one routing head or the mean over them; `most` is where the range of several
    answers ends."""
    table = answer.by_layer(head)
    return weights_by_layer(table, heads(table.columns, ()), "expert", weight_of(table.columns, "weight"), title, most)


def answer_change(changed: Answer, original: Answer, title: str = "") -> go.Figure:
    """Weights of one answer minus those of another, where experts and layers are the same; centred on 0."""
    table = changed.by_layer() - original.by_layer()
    about = weight_of(table.columns, "change of the weight")
    scale = {"colorscale": DIVERGING, "zmin": -1, "zmax": 1, "zmid": 0}
    return weights_by_layer(table, heads(table.columns, ()), "expert", about, title, signed=True, **scale)


def answer_by_token(answer: Answer, title: str = "") -> go.Figure:
    """Weights at every token of one text, mean over layers and routing heads; one row per token."""
    return _by_token(answer.by_token(), title)


def answer_by_said_token(answer: Answer, title: str = "") -> go.Figure:
    """Weights of the pass that gave each token of an answer, mean over layers and routing heads; one row per token."""
    return _by_token(answer.by_said_token().iloc[:, 1:], title)


def _by_token(table: pd.DataFrame, title: str) -> go.Figure:
    """Weights, one row per token and one column per expert."""
    hover = np.empty(table.shape, dtype=object)
    for i, j in np.ndindex(table.shape):
        hover[i, j] = f"{literal(table.index[i])}<br>expert <b>{literal(table.columns[j])}</b> {table.iat[i, j]:.3f}"
    drawn = figure(title, cells_height(len(table)))
    cells(drawn, table.to_numpy(), hover, xgap=1, ygap=1)
    return grid(drawn, [short(token) for token in table.index], heads(table.columns, ()), "token", "expert")


def answer_decision(answer: Answer, layer: int, head: int = 0, title: str = "") -> go.Figure:
    """One decision step by step: a column of bars per step, a row per expert.

    Where values go below 0 or above 1, their numbers stand across the zero line from the bars, where there is always room.
    """
    table = answer.decision(layer, head)
    free = ((table < 0) | (table > 1)).any().tolist()  # of each step
    drawn = make_subplots(
        1,
        table.shape[1],
        figure=figure(title, 80 + (30 if len(table) <= MANY // 2 else 20 if len(table) <= MANY else 13) * len(table)),
        shared_yaxes=True,
        horizontal_spacing=0.07,
        subplot_titles=[literal(name).replace(" ", "<br>") for name in table.columns],
        column_widths=[1.5 if signed else 1 for signed in free],
    )
    drawn.update_layout(margin={"t": 40, "r": 20}).update_annotations(font={"size": 13})
    colours = [task_style(e).colour for e in range(len(table))]
    size = SMALL if len(table) > MANY else NUMBER
    for number, name in enumerate(table.columns, 1):
        values, across = table[name].to_numpy(), free[number - 1]
        most = max(1.0, float(np.abs(values).max()))
        numbers = [f"{value:.{2 if most < 10 else 1 if most < 100 else 0}f}" for value in values]
        drawn.add_bar(
            x=values,
            y=np.arange(len(table)),
            orientation="h",
            marker={"color": colours},
            row=1,
            col=number,
            showlegend=False,
            text=None if across else numbers,
            textposition="auto",
            textfont={"size": size},
            cliponaxis=False,
            customdata=[literal(expert) for expert in table.index],
            hovertemplate=f"<b>%{{customdata}}</b><br>{literal(name)} %{{x:.4f}}<extra></extra>",
        )
        if across:
            drawn.add_scatter(
                x=np.zeros(len(table)),
                y=np.arange(len(table)),
                mode="text",
                text=[f"\u00a0{text}\u00a0" for text in numbers],
                textposition=np.where(values < 0, "middle right", "middle left"),
                textfont={"size": size},
                cliponaxis=False,
                hoverinfo="skip",
                showlegend=False,
                row=1,
                col=number,
            )
        drawn.update_xaxes(
            range=[-most, most] if across else [0, 1],
            tickvals=[0] if across else [0, 1],
            zeroline=across,
            showgrid=False,
            row=1,
            col=number,
        )
    names = unique(table.index)
    return drawn.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=names,
        tickfont={"size": SMALL} if len(names) > MANY else None,
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )


def answer_tokens(answer: Answer, colour: str = ANSWER_COLOURS[0], title: str = "") -> go.Figure:
    """The probability of every token of an answer, after all before it, as bars; on hover the likeliest tokens in its place."""
    places = np.arange(len(answer.said))
    names = [f"{place + 1} · {literal(token.text)}" for place, token in enumerate(answer.said)]
    others = ["<br>".join(f"{literal(text)} {p:.4f}" for text, p in token.likeliest) for token in answer.said]
    drawn = figure(title, 60 + 24 * len(places))
    drawn.add_bar(
        x=[token.probability for token in answer.said],
        y=places,
        orientation="h",
        marker={"color": colour},
        text=[f"{token.probability:.2f}" for token in answer.said],
        textposition="auto",
        cliponaxis=False,
        customdata=np.array([names, others], dtype=object).T,
        hovertemplate="<b>%{customdata[0]}</b> %{x:.4f}<br>likeliest here:<br>%{customdata[1]}<extra></extra>",
        showlegend=False,
    )
    drawn.update_xaxes(range=[0, 1], title="probability", tickformat=".1f")
    return drawn.update_yaxes(tickvals=places, ticktext=names, range=[len(places) - 0.5, -0.5], showgrid=False, zeroline=False)


def answer_probabilities(answers: dict[str, Answer], most: int = 6, title: str = "") -> go.Figure:
    """Probabilities of the likeliest classes of one or several answers to one text, as grouped bars."""
    ranked = pd.DataFrame({name: answer.ranked() for name, answer in answers.items()})
    ranked = ranked.loc[ranked.max(axis=1).sort_values(ascending=False, kind="stable").index[:most]]
    drawn = figure(title, 60 + (16 + 22 * len(answers)) * len(ranked))
    for number, name in enumerate(ranked):
        values = ranked[name]
        drawn.add_bar(
            x=values,
            y=np.arange(len(ranked)),
            orientation="h",
            name=literal(name),
            marker={"color": ANSWER_COLOURS[number], "pattern": {"shape": "/" if number else "", "fillmode": "overlay"}},
            text=["–" if np.isnan(value) else f"{value:.2f}" for value in values],
            textposition="auto",
            cliponaxis=False,
            customdata=[literal(label) for label in ranked.index],
            hovertemplate="<b>%{customdata}</b><br>%{fullData.name}: %{x:.4f}<extra></extra>",
            showlegend=len(answers) > 1,
        )
    drawn.update_xaxes(range=[0, 1], title="probability", tickformat=".1f")
    names = unique(ranked.index, 24)
    drawn.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], showgrid=False)
    return drawn.update_layout(legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0}, barmode="group")
