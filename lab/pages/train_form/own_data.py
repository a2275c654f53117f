"""Bring your own data: a file is uploaded, its columns are named, its tasks are looked at, and it is saved as a stream."""

import pandas as pd
import streamlit as st

from lab.core.errors import LabError
from lab.data import uploads
from lab.data.saved_stream import counted, save, shown
from lab.data.stream import Task
from lab.data.tables import Table
from lab.jobs import jobs
from lab.pages import layout
from lab.pages.train_form import draft

NONE = "–"
ROWS = 10  # of each task that are shown
LABELS, TEXTS = "Labels to choose from", "Texts to write"
COLUMNS = {"task": "Task", "text": "Text", "text_pair": "Second text", "label": "Label", "targets": "Answer"}
HELP = {
    "task": "The column that says to which task a row belongs. Without one, the file is one task.",
    "text_pair": "For pairs of texts, such as a question and a passage.",
}


@st.cache_resource(max_entries=4, ttl=900, show_spinner="Reading the file")
def table_of(name: str, data: bytes) -> Table:
    """The table in an upload; LabError where it cannot be read."""
    return uploads.read_upload(name, data)


@st.cache_resource(max_entries=8, ttl=900, show_spinner="Reading the tasks")
def tasks_of(name: str, data: bytes, chosen: tuple[tuple[str, str], ...]) -> list[Task]:
    """The tasks in an upload by the chosen columns; LabError where they cannot be read."""
    return uploads.tasks_in(table_of(name, data), dict(chosen))


def draw(recipe: str) -> None:
    """The part of the form that makes a stream of a file; those who only look are told why they cannot."""
    with st.expander("Bring your own data", icon=":material/upload:", key="own_data"):
        if reason := jobs.why_read_only():
            st.info(layout.plain(reason), icon=":material/lock:")
            return
        file = st.file_uploader(
            "A table with one text in every row",
            type=[*uploads.KINDS],
            max_upload_size=uploads.MEGABYTES,
            key="own_file",
            help="Of a workbook the first sheet that can be seen, with the values of its formulas. Larger files: lab.stream, or "
            "lab run --stream FILE.",
        )
        if file is None:
            return
        try:
            columns(recipe, file.name, file.getvalue())
        except LabError as error:
            st.error(layout.plain(error), title="This cannot be a stream yet")


def columns(recipe: str, name: str, data: bytes) -> None:
    """Which column is which, what tasks these make, and the button that saves them. Raises LabError for what cannot be read."""
    table = table_of(name, data)
    chosen = choice_of_columns(table, name)
    tasks = tasks_of(name, data, tuple(chosen.items()))
    look(tasks)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input("Name of the stream", key="own_name", placeholder="made of tasks and content", max_chars=80)
        st.button(
            "Save as a stream",
            on_click=keep,
            args=[recipe, name, data, tuple(chosen.items())],
            type="primary",
            icon=":material/save:",
            key="own_save",
        )
    if error := st.session_state.pop("own_error", None):
        st.error(layout.plain(error))
    if saved := st.session_state.pop("own_saved", None):
        st.success(f"Saved as the stream {layout.plain(saved)}, which is chosen below.", icon=":material/check_circle:")


def choice_of_columns(table: Table, name: str) -> dict[str, str]:
    """The columns that are chosen, by what they are to the lab."""
    there, proposal = table.columns, uploads.proposed(table)
    if not there:
        raise LabError(f"{name} holds no rows")
    if uploads.is_instructions(table):
        st.caption("These are instructions or conversations: the last answer of each is what the model learns to write.")
        wanted = ["task"]
    else:
        kinds = [LABELS, TEXTS]
        written = "targets" in proposal and "label" not in proposal
        answers = st.segmented_control(
            "What the model answers with", kinds, default=kinds[written], key="own_kind", required=True
        )
        wanted = ["task", "text", "text_pair", "targets" if answers == TEXTS else "label"]
    chosen: dict[str, str] = {}
    boxes = st.columns(len(wanted))
    for box, what in zip(boxes, wanted, strict=True):
        names = [NONE, *there]
        index = names.index(proposal.get(what, NONE))
        # a new file has new widgets: its columns are others
        column = box.selectbox(COLUMNS[what], names, index=index, key=f"own/{what}/{'|'.join(there)}", help=HELP.get(what))
        if column and column != NONE:
            chosen[what] = column
    for what in [name for name in wanted if name not in ("task", "text_pair", *chosen)]:
        raise LabError(f"choose which column is the {COLUMNS[what].lower()}: {', '.join(there)}")
    if repeated := sorted(column for column in set(chosen.values()) if [*chosen.values()].count(column) > 1):
        raise LabError(f"column '{repeated[0]}' is chosen twice: a column is one thing")
    return chosen


def look(tasks: list[Task]) -> None:
    """Rows of a task, and how often each of its labels occurs."""
    names = [task.name for task in tasks]
    sizes = pd.DataFrame([task.summary() for task in tasks])
    st.dataframe(sizes, hide_index=True)
    chosen = st.selectbox("Look at task", names, key=f"own/look/{'|'.join(names)[:200]}") or names[0]
    task = tasks[names.index(chosen)]
    rows, classes = st.columns([3, 2])
    rows.caption(f"The first {min(ROWS, len(task.train))} training rows")
    rows.dataframe(pd.DataFrame(shown(task, ROWS)).drop(columns="task"), hide_index=True)
    classes.caption("Rows of each class")
    classes.dataframe(pd.DataFrame(counted(task)).drop(columns="task"), hide_index=True)
    st.caption("\n".join(f"* {layout.plain(note)}" for note in task.notes))


def keep(recipe: str, name: str, data: bytes, chosen: tuple[tuple[str, str], ...]) -> None:
    """Save the tasks and choose their stream in the form, before it is drawn; an error is shown beside the button."""
    try:
        stream = save(tasks_of(name, data, chosen), st.session_state["own_name"].strip() or None)
    except (LabError, OSError) as error:
        st.session_state["own_error"] = str(error)
        return
    st.session_state["own_saved"] = stream.name
    draft.choose(recipe, "stream.name", stream.name)
