"""Small pieces that every page is laid out with: heading, escaped text, numbers, sections that fail alone, status badges."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import streamlit as st

from lab.core.errors import LabError
from lab.run_folder.run import UNREADABLE

ONE_LINE = 110  # characters that fit below a chart in half the width of a page
COMPACT = """<style>
.stMainBlockContainer { padding-top: 3.2rem; padding-bottom: 4rem; }
@media (max-width: 768px) { .stMainBlockContainer { padding: 4.2rem 1rem 4rem; } }
[data-testid=stButtonGroup] [role=radiogroup] { flex-wrap: wrap; }
.stMainBlockContainer h1 { padding: 0; font-size: 1.9rem; }
.stMainBlockContainer h2 { font-size: 1.5rem; }
.stMainBlockContainer :is(h3, h4) { font-size: 1.2rem; }
</style>"""  # a smaller margin above the title, three sizes of headings, and choices in lines instead of cut
STATUS_ICON = {
    "queued": ":material/schedule:",
    "running": ":material/play_circle:",
    "finished": ":material/check_circle:",
    "stopped": ":material/stop_circle:",
    "interrupted": ":material/pause_circle:",
    "failed": ":material/error:",
    "lost": ":material/link_off:",
    "damaged": ":material/broken_image:",
}
STATUS_COLOUR: dict[str, Literal["green", "blue", "red", "orange"]] = {
    "finished": "green",
    "running": "blue",
    "queued": "blue",
    "failed": "red",
    "damaged": "red",
    "lost": "orange",
}


def heading(title: str, about: str) -> None:
    """Title of a page and the sentence below it."""
    st.html(COMPACT)
    st.title(title, anchor=False)
    st.caption(about)


def plain(text: Any) -> str:
    """Text escaped for markdown, so that it is shown literally: no formatting, tags or icons."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~$:<>&])", r"\\\1", str(text)).replace("\n", " ")


def how_to_read(text: str) -> None:
    """How a chart or table is read: in sight where it fits in a line, else behind a button of that name."""
    if len(text) <= ONE_LINE:
        st.caption(f":material/info: {text}")
    else:
        with st.popover("How to read", icon=":material/info:", type="tertiary", width="content"):
            st.markdown(text)


def contents(anchors: Mapping[str, str]) -> None:
    """Links to the parts of a long view: their titles, and their anchors."""
    st.markdown(" · ".join(f"[{title}](#{anchor})" for title, anchor in anchors.items()))


def number(value: float | None, form: str = "{:z.3f}") -> str:
    """A number as text; a dash for a missing one (None or NaN)."""
    return "–" if value is None or value != value else form.format(value)


@contextmanager
def section() -> Iterator[None]:
    """A part of a page that shows its own errors and leaves the other parts alone."""
    try:
        yield
    except UNREADABLE as error:
        st.warning(plain(reason(error)), icon=":material/broken_image:")


def reason(error: Exception) -> str:
    """What to tell about an error that a damaged folder may have caused; one that nobody foresaw goes to the log too."""
    if isinstance(error, LabError | OSError):
        return str(error)
    logging.getLogger(__name__).error("a part of a page cannot be shown", exc_info=error)
    return f"{type(error).__name__}: {error}"


def status_badge(status: str) -> None:
    """The status of a run as a coloured badge."""
    st.badge(status, icon=STATUS_ICON.get(status), color=STATUS_COLOUR.get(status, "gray"))
