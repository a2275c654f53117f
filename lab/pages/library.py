"""Library: the experts of all runs, how alike they are, taking them along; and the notes people keep about runs."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from lab import figures
from lab.adapters import library, peft_folder
from lab.adapters.library import SavedExpert
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import actions, chart_card, layout, navigation, run_picker, run_table, url_state
from lab.pages.expert_arithmetic import put_together, siblings
from lab.run_folder.run import Run, all_runs

MOST = 24  # experts in one similarity matrix
FIRST = 8  # experts that are compared at the first look


@st.cache_data(max_entries=2000, show_spinner=False)
def described(folder: str, run: str | None, stamped: tuple) -> dict[str, Any]:
    """`library.describe`, once for every state of the files; `stamped` is the key."""
    return library.describe(SavedExpert(Path(folder), Run(Path(run)) if run else None))


@st.cache_data(max_entries=50, show_spinner=False)
def compared(keys: tuple[str, ...], side: str, stamped: tuple[int, ...], _chosen: list[SavedExpert]) -> pd.DataFrame:
    """`library.similarity`, once for every choice."""
    return library.similarity(_chosen, side)


def row(expert: SavedExpert) -> dict[str, Any]:
    stat = expert.folder.stat()
    stamped = (stat.st_mtime_ns, run_table.file_stamps(expert.run, "matrix.json") if expert.run else ())
    return described(str(expert.folder), str(expert.run.dir) if expert.run else None, stamped)


def experts(found: list[SavedExpert]) -> None:
    """The table of all experts; one of them in detail."""
    st.subheader("Experts", anchor=False)
    if not found:
        st.info("There are no experts in this folder yet: a run leaves one for every task it has learned.")
        st.page_link(navigation.page("train"), label="Go to Train", icon=":material/model_training:")
        return
    table = pd.DataFrame([row(expert) for expert in found])
    table["kept"] = table.get("kept", math.nan) * 100
    columns = {
        "expert": st.column_config.TextColumn("expert", pinned=True),
        "rank": st.column_config.NumberColumn("rank", format="%d"),
        "parameters": st.column_config.NumberColumn("parameters", format="localized"),
        "norm": st.column_config.NumberColumn("norm", format="%.2f", help="Frobenius norm of the whole update s·B·A (LoRA)."),
        "learned": st.column_config.NumberColumn("learned", format="%.3f", help="Score on its task right after learning it."),
        "now": st.column_config.NumberColumn("now", format="%.3f", help="Score on its task after the last learned task."),
        "kept": st.column_config.ProgressColumn("kept", min_value=0, max_value=100, format="%.0f %%", help="now / learned"),
        "bytes": st.column_config.NumberColumn("size", format="bytes"),
        "problem": "problem",
    }
    order = ["expert", "run", "kind", "rank", "parameters", "norm", "learned", "now", "kept", "bytes"]
    order += ["problem"] if "problem" in table else []
    st.dataframe(
        table,
        hide_index=True,
        column_order=order,
        column_config=columns,
        key="lib_table",
        alt="All experts with their measures",
        placeholder="–",
        height="content" if len(table) <= 10 else 390,
    )
    whole = {expert.key: expert for expert in found if row(expert)["kind"] != "damaged"}
    if whole:
        url_state.restore("lib_expert", list(whole), next(iter(whole)))
        chosen = st.selectbox("Take along", list(whole), index=None, key="lib_expert", bind="query-params") or next(iter(whole))
        take(whole[chosen])
        lora = {key: expert for key, expert in whole.items() if row(expert)["kind"] == "lora"}
        similarity(lora)
        with layout.section():
            put_together(lora)


def take(expert: SavedExpert) -> None:
    """Download one expert, with its card shown."""
    by = "peft" if peft_folder.in_peft(expert.config()) else "this lab"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Download as zip",
            lambda: library.packed(expert),
            f"{expert.key.replace('/', '-')}.zip",
            "application/zip",
            icon=":material/download:",
            on_click="ignore",
            key="lib_download",
        )
        st.caption(f"A folder that {by} loads, with a card.")
    with st.expander("Card", icon=":material/description:"):
        st.code(library.card(expert), language="markdown", wrap_lines=True)


def similarity(found: dict[str, SavedExpert]) -> None:
    """The overlap of the subspaces of the chosen LoRA experts."""
    st.subheader("How alike are they?", anchor=False)
    if len(found) < 2:
        st.caption("Two LoRA experts are needed to compare their subspaces.")
        return
    url_state.restore("lib_pick", list(found), siblings(found)[:FIRST])
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    keys = left.multiselect("LoRA experts", list(found), key="lib_pick", bind="query-params", max_selections=MOST)
    side = right.segmented_control(
        "Compare", ["output", "input"], default="output", key="lib_side", bind="query-params", required=True
    )
    chosen = [found[key] for key in keys]
    if len(chosen) < 2:
        st.info("Choose at least two experts.")
        return
    folders = [str(expert.folder) for expert in chosen]
    stamped = tuple(expert.folder.stat().st_mtime_ns for expert in chosen)
    chart_card.card(
        figures.subspace_overlap,
        compared(tuple(keys), side, stamped, chosen),
        key="lib_similarity",
        table=lambda table: table,
        alt=f"Overlap of the {side} subspaces of {len(chosen)} experts",
        read="1: two updates act in the same subspace; small: in different ones. Mean over layers of the squared cosines of the "
        "principal angles; two random subspaces of rank r in n dimensions have r / n.",
        python="\n".join(
            [
                "from pathlib import Path",
                "",
                "import lab",
                "from lab.adapters.library import SavedExpert, similarity",
                "",
                f"chosen = [SavedExpert(Path(folder)) for folder in {folders!r}]",
                f"table = similarity(chosen, {side!r})",
                "lab.figures.subspace_overlap(table)",
            ]
        ),
    )


def import_expert() -> None:
    """Upload a peft folder as a zip."""
    with st.expander("Bring in an expert", icon=":material/upload:"):
        if jobs.read_only():
            st.info("This lab is read-only: experts can be looked at and taken along, not brought in.", icon=":material/lock:")
            return
        with st.form("lib_import", border=False, clear_on_submit=True):
            about = "It holds adapter_config.json and adapter_model.safetensors."
            given = st.file_uploader("Zip of a peft LoRA folder", type=["zip"], help=about)
            name = st.text_input("Name", max_chars=80, placeholder="my-expert")
            if st.form_submit_button("Bring in", icon=":material/upload:"):
                if given is None or not name:
                    st.warning("Choose a file and a name.")
                else:
                    actions.attempt(library.import_expert, given.getvalue(), name)


def notes(runs: list[Run]) -> None:
    """Star, tags, notes, archive and delete of one run."""
    st.subheader("Runs", anchor=False)
    known = run_table.table(runs)
    readable = {run.id: run for run, status in zip(runs, known["status"], strict=True) if status != "damaged"}
    if not readable:
        st.caption("There are no runs to write about yet.")
        return
    table = pd.DataFrame([{"run": run.id, "status": run.status} | run.notes for run in readable.values()])
    columns = {
        "starred": st.column_config.CheckboxColumn("star"),
        "archived": st.column_config.CheckboxColumn("archived"),
        "tags": st.column_config.ListColumn("tags"),
        "text": st.column_config.TextColumn("note", width="large"),
    }
    order = ["starred", "run", "status", "tags", "text", "archived"]
    st.dataframe(
        table,
        hide_index=True,
        column_order=order,
        column_config=columns,
        key="lib_runs",
        alt="All runs with their notes",
        height="content" if len(table) <= 8 else 320,
    )
    run = run_picker.pick_run("Run to write about", "lib_run", readable, next(iter(readable)))
    known, locked = run.notes, jobs.read_only()
    with st.form(f"lib_notes_{run.id}"):
        left, right = st.columns([1, 3])
        starred = left.toggle("Star", known["starred"], disabled=locked)
        archived = left.toggle("Archived", known["archived"], disabled=locked, help="Left out of the pickers of other pages.")
        used = sorted({tag for other in readable.values() for tag in other.notes["tags"]})
        more = {"accept_new_options": True, "max_selections": library.TAGS, "placeholder": "Choose or write tags"}
        tags = right.multiselect("Tags", used, known["tags"], disabled=locked, **more)
        text = right.text_area("Note", known["text"], max_chars=library.TEXT, disabled=locked)
        if st.form_submit_button("Save", icon=":material/save:", disabled=locked):
            actions.attempt(library.annotate, run, starred=starred, archived=archived, tags=tags, text=text)
    busy = run.status in jobs.ACTIVE
    about = "This lab is read-only." if locked else "Stop it first." if busy else "Removes the folder of this run for good."
    words = {"icon": ":material/delete:", "type": "tertiary", "help": about, "key": "lib_delete"}
    if st.button("Delete this run", disabled=locked or busy, **words):
        actions.confirm_delete(run)


def draw() -> None:
    layout.heading("Library", "What the runs have left behind: experts to compare and take along, and your notes.")
    run_table.warn_of_damaged_runs()
    actions.said()
    runs = all_runs()[::-1]
    try:
        found = library.experts([run for run in runs if run_table.status(run) != "damaged"])
    except LabError as error:
        return st.error(layout.plain(error))
    experts(found)
    import_expert()
    notes(runs)


draw()
