"""Small pieces of HTML as notebooks show them: escaped, without scripts, with the text's own colour on light and dark."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

RULE = "border-bottom:1px solid rgba(128,128,128,.35)"
SHADE = (31, 119, 180)  # behind a score of 1; half transparent at most, so that text on it can be read on light and dark
OPACITY = 0.55


def paragraph(text: str) -> str:
    """A line of text."""
    return f'<p style="margin:.2em 0">{escape(text)}</p>'


def number(value: Any) -> str:
    """A number with three digits after the point, nothing for one that is not there; all else as it is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], shaded: bool = False) -> str:
    """A table whose first column names its rows; `shaded`: numbers between 0 and 1 on a ground that darkens with them."""
    head = "".join(f'<th style="text-align:{_side(i)};{RULE};padding:.15em .6em">{escape(t)}</th>' for i, t in enumerate(header))
    body = "".join("<tr>" + "".join(_cell(i, value, shaded) for i, value in enumerate(row)) + "</tr>" for row in rows)
    return f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _side(column: int) -> str:
    return "right" if column else "left"


def _cell(column: int, value: Any, shaded: bool) -> str:
    ground = ""
    if shaded and isinstance(value, float) and not math.isnan(value):
        ground = ";background:rgba({},{},{},{:.2f})".format(*SHADE, OPACITY * min(max(value, 0.0), 1.0))
    return f'<td style="text-align:{_side(column)};padding:.15em .6em{ground}">{escape(number(value))}</td>'
