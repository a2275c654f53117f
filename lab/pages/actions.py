"""What pages do to runs: try it, say what cannot be done, and ask before anything is deleted."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import streamlit as st

from lab import views
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import layout
from lab.run_folder.run import Run


def attempt(action: Callable[..., Any], *given: Any, **named: Any) -> None:
    """Do something and draw the page again; what cannot be done is said there, see `said`."""
    do(action, *given, **named)
    st.rerun()


def do(action: Callable[..., Any], *given: Any, **named: Any) -> None:
    """The same inside a callback, after which the page is drawn anyway."""
    try:
        action(*given, **named)
    except (LabError, OSError) as error:
        st.session_state["action_error"] = str(error)


def said() -> None:
    """Show why the last action could not be done."""
    if error := st.session_state.pop("action_error", None):
        st.error(layout.plain(error), icon=":material/error:")


@st.dialog("Delete this run?")
def confirm_delete(run: Run) -> None:
    size = sum(path.lstat().st_size for path in run.dir.rglob("*") if path.is_file())
    st.markdown(f"**{layout.plain(run.id)}** and all its files ({size / 1e6:,.1f} MB) are removed. This cannot be undone.")
    with suppress(*views.UNREADABLE):  # a damaged run can be deleted too
        if run.matrix:
            st.caption(f"{len(run.matrix)} of {len(run.tasks)} tasks are learned and scored.")
    with st.container(horizontal=True):
        words = {"type": "primary", "icon": ":material/delete:", "key": "delete_yes"}
        if st.button("Delete", on_click=do, args=[jobs.delete, run], **words):
            st.rerun()
        if st.button("Keep it", key="delete_no"):
            st.rerun()
