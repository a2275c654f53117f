"""Actions on runs, with errors shown on the page, and the question before a run is deleted."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import streamlit as st

from lab import views
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import layout
from lab.run_folder.run import Run


def attempt(action: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Call `action` and draw the page again; an error is shown there by `show_error`."""
    attempt_in_callback(action, *arguments, **options)
    st.rerun()


def attempt_in_callback(action: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Call `action` inside a callback of a widget, after which the page is drawn again anyway."""
    try:
        action(*arguments, **options)
    except (LabError, OSError) as error:
        st.session_state["action_error"] = str(error)


def show_error() -> None:
    """Show why the last action failed, once."""
    if error := st.session_state.pop("action_error", None):
        st.error(layout.plain(error), icon=":material/error:")


def delete_named(run: Run) -> None:
    """Delete a run where its name was written."""
    if st.session_state["delete_name"].strip() == run.id:
        attempt_in_callback(jobs.delete, run)


@st.dialog("Delete this run?")
def confirm_delete(run: Run) -> None:
    """Ask before a run is deleted, with its size and what it has learned."""
    size = sum(path.lstat().st_size for path in run.dir.rglob("*") if path.is_file())
    st.markdown(f"**{layout.plain(run.id)}** and all its files ({size / 1e6:,.1f} MB) will be deleted. This cannot be undone.")
    with suppress(*views.UNREADABLE):  # a damaged run can be deleted too
        if len(run.matrix):
            st.caption(f"It has learned {len(run.matrix)} of {len(run.tasks)} tasks.")
    with st.form("delete_form", border=False):
        written = st.text_input("Write its name to delete it", key="delete_name", placeholder=run.id, autocomplete="off")
        if st.form_submit_button(
            "Delete", on_click=delete_named, args=[run], type="primary", icon=":material/delete:", key="delete_yes"
        ):
            if written.strip() == run.id:
                st.rerun()
            st.error(f"This is not its name: write {layout.plain(run.id)}")
    if st.button("Keep it", key="delete_no"):
        st.rerun()
