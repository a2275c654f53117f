"""Actions on runs, with errors shown on the page; the questions before a run is deleted, and the trash."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import streamlit as st

from lab import views
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import layout
from lab.run_folder.run import Run
from lab.store import trash

SHOWN = 5  # runs that a question names


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


def show_removed() -> None:
    """Say which runs are in the trash, with a button that brings them back, once."""
    entries: list[trash.Entry] = [entry for entry in st.session_state.get("removed", []) if entry.dir.exists()]
    if not entries:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        one = len(entries) == 1
        what = f"Run **{layout.plain(entries[0].title)}** is" if one else f"**{len(entries)} runs** are"
        st.markdown(f":material/delete: {what} in the trash.")
        st.button("Undo", icon=":material/undo:", type="tertiary", key="undo_delete", on_click=bring_back, args=[entries])


def bring_back(entries: list[trash.Entry]) -> None:
    """Restore runs, in a callback."""
    for entry in entries:
        attempt_in_callback(jobs.restore, entry.dir.name)


def move_to_trash(runs: list[Run]) -> None:
    """Move runs into the trash, in a callback; `show_removed` tells of them."""
    st.session_state["removed"] = []
    for run in runs:
        attempt_in_callback(lambda run=run: st.session_state["removed"].append(jobs.delete(run)))


@st.dialog("Move into the trash?")
def confirm_delete(runs: list[Run]) -> None:
    """Ask before runs are moved into the trash, with their sizes and what they have learned."""
    for run in runs[:SHOWN]:
        size = sum(path.lstat().st_size for path in run.dir.rglob("*") if path.is_file())
        learned = ""
        with suppress(*views.UNREADABLE):  # a damaged run can be deleted too
            learned = f", {len(run.matrix)} of {len(run.tasks)} tasks learned" if len(run.matrix) else ""
        st.markdown(f"- **{layout.plain(run.title)}** ({size / 1e6:,.1f} MB{learned})")
    if len(runs) > SHOWN:
        st.markdown(f"- and {len(runs) - SHOWN:,} more")
    st.caption("They can be restored from there until the trash is emptied.")
    with st.container(horizontal=True):
        if st.button("Move into the trash", on_click=move_to_trash, args=[runs], type="primary", key="trash_yes"):
            st.rerun()
        if st.button("Keep", key="trash_no"):
            st.rerun()


def purge_named(entry: trash.Entry) -> None:
    """Delete a run in the trash for good where its name was written."""
    if st.session_state["delete_name"].strip() == entry.id:
        attempt_in_callback(jobs.empty_trash, None, [entry])


@st.dialog("Delete this run for good?")
def confirm_purge(entry: trash.Entry) -> None:
    """Ask before a run in the trash is deleted."""
    size = f"{entry.size() / 1e6:,.1f} MB"
    st.markdown(f"**{layout.plain(entry.title)}** ({layout.plain(entry.id)}, {size}) will be deleted. This cannot be undone.")
    ask_name(entry.id, "Write its id to delete it for good", purge_named, entry)


def ask_name(name: str, words: str, act: Callable[[Any], None], of: Any) -> None:
    """A form that calls `act` once the name was written, and a button that leaves everything as it is."""
    with st.form("delete_form", border=False):
        written = st.text_input(words, key="delete_name", placeholder=name, autocomplete="off")
        if st.form_submit_button("Delete", on_click=act, args=[of], type="primary", icon=":material/delete:", key="delete_yes"):
            if written.strip() == name:
                st.rerun()
            st.error(f"This is not its id: write {layout.plain(name)}")
    if st.button("Keep it", key="delete_no"):
        st.rerun()


def trash_card() -> None:
    """What lies in the trash, with buttons that restore a run or delete it for good."""
    lying = trash.entries()
    if not lying:
        return
    reason = jobs.why_read_only()
    with st.expander(f"Trash ({len(lying)})", icon=":material/delete:", key="trash", bind="query-params"):
        names = {entry.dir.name: f"{entry.title}, removed {entry.removed:%Y-%m-%d %H:%M} UTC" for entry in lying}
        name = st.selectbox("Run in the trash", list(names), format_func=names.__getitem__, key="trash_run")
        entry = next(entry for entry in lying if entry.dir.name == name)
        with st.container(horizontal=True):
            restores = "Brings it back among the runs."
            st.button(
                "Restore",
                icon=":material/restore_from_trash:",
                disabled=bool(reason),
                help=reason or restores,
                key="restore",
                on_click=bring_back,
                args=[[entry]],
            )
            if st.button(
                "Delete for good",
                icon=":material/delete_forever:",
                type="tertiary",
                disabled=bool(reason),
                help=reason or "Frees its place on the disk. This cannot be undone.",
                key="purge",
            ):
                confirm_purge(entry)
