"""Figures of experts: how far their subspaces overlap, what a composed one has of each."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lab.figures.drawing import DIVERGING, cell_height, cells, figure, grid, heads, literal, numbered, weights_by_layer


def subspace_overlap(table: pd.DataFrame, title: str = "") -> go.Figure:
    """Overlap of the subspaces of LoRA experts, the table of `lab.adapters.library.similarity`."""
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
    """Cosines between a composed expert and those it was made of by layer, the table of `lab.adapters.library.alignment`."""
    by_layer = table.iloc[:-1]
    names = [key.partition("/")[2] for key in table.columns]
    about = [f"cosine with <b>{literal(key)}</b>" for key in table.columns]
    scale = {"colorscale": DIVERGING, "zmin": -1, "zmax": 1, "zmid": 0}
    return weights_by_layer(by_layer, heads(names, ()), "expert", about, title, signed=True, **scale)
