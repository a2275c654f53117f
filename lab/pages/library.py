"""Library: the experts of all runs, how similar they are, download and import; and notes about runs."""

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
from lab.pages import actions, chart_card, layout, navigation, run_notes, run_picker, run_table, url_state
from lab.pages.expert_arithmetic import newest_siblings, put_together
from lab.run_folder.run import Run
from lab.store import index

MOST = 24  # experts in one similarity matrix
FIRST = 8  # experts that are compared at first


@st.cache_data(max_entries=2000, show_spinner=False)
def described(folder: str, run: str | None, stamps: tuple) -> dict[str, Any]:
    """`library.describe`, cached for every state of the files (`stamps`)."""
    return library.describe(SavedExpert(Path(folder), Run(Path(run)) if run else None))


@st.cache_data(max_entries=50, show_spinner=False)
def overlaps(keys: tuple[str, ...], side: str, stamps: tuple[int, ...], _experts: list[SavedExpert]) -> pd.DataFrame:
    """`library.similarity`, cached for every choice of experts and state of their files."""
    return library.similarity(_experts, side)


def row(expert: SavedExpert) -> dict[str, Any]:
    """One row of the table of experts."""
    stamps = (expert.folder.stat().st_mtime_ns, run_table.file_stamps(expert.run, "matrix.json") if expert.run else ())
    return described(str(expert.folder), str(expert.run.dir) if expert.run else None, stamps)


def experts(saved: list[SavedExpert]) -> None:
    """The table of all experts; download, similarity and arithmetic below it."""
    st.subheader("Experts", anchor="experts")
    if not saved:
        st.info("There are no experts in this folder yet: a run leaves one for every task it has learned.")
        navigation.link("train", "Go to Train", ":material/model_training:")
        return
    rows = {expert.key: row(expert) for expert in saved}
    experts_table([*rows.values()])
    readable = {expert.key: expert for expert in saved if rows[expert.key]["kind"] != "damaged"}
    if readable:
        default = next(iter(readable))
        url_state.restore("lib_expert", list(readable), default)
        chosen = st.selectbox("Expert to download", list(readable), index=None, key="lib_expert")
        download(readable[chosen or default])
        lora = {key: expert for key, expert in readable.items() if rows[key]["kind"] == "lora"}
        similarity(lora)
        with layout.section():
            put_together(lora)
        st.page_link(navigation.page("route"), label="Route saved experts on a stream", icon=":material/merge:")


def experts_table(rows: list[dict[str, Any]]) -> None:
    """All experts with their measures."""
    table = pd.DataFrame(rows)
    table["kept"] = [kept * 100 for kept in table["kept"]] if "kept" in table else math.nan  # per cent
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


def download(expert: SavedExpert) -> None:
    """One expert as a zip, with its card shown."""
    loader = "peft" if peft_folder.in_peft(expert.config()) else "this lab"
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
        st.caption(f"A folder that {loader} can load, with a card.")
    with st.expander("Card", icon=":material/description:"):
        st.code(library.card(expert), language="markdown", wrap_lines=True)


def similarity(lora: dict[str, SavedExpert]) -> None:
    """The overlap of the subspaces of the chosen LoRA experts."""
    st.subheader("How similar are they?", anchor="similar")
    if len(lora) < 2:
        st.caption("Two LoRA experts are needed to compare their subspaces.")
        return
    url_state.restore("lib_pick", list(lora), newest_siblings(lora)[:FIRST])
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    keys = left.multiselect("LoRA experts", list(lora), key="lib_pick", max_selections=MOST)
    side = right.segmented_control(
        "Compare", ["output", "input"], default="output", key="lib_side", bind="query-params", required=True
    )
    chosen = [lora[key] for key in keys]
    if len(chosen) < 2:
        st.info("Choose at least two experts.")
        return
    folders = [str(expert.folder) for expert in chosen]
    stamps = tuple(expert.folder.stat().st_mtime_ns for expert in chosen)
    chart_card.card(
        figures.subspace_overlap,
        overlaps(tuple(keys), side, stamps, chosen),
        key="lib_similarity",
        table=lambda table: table,
        alt=f"Overlap of the {side} subspaces of {len(chosen)} experts",
        read="1: the two updates act in the same subspace; near 0: in different ones. Mean over layers of the squared cosines of "
        "the principal angles; for two random subspaces of rank r in n dimensions it is r / n.",
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
    with st.expander("Import an expert", icon=":material/upload:"):
        if jobs.read_only():
            st.info("This lab is read-only: experts can be viewed and downloaded, not imported.", icon=":material/lock:")
            return
        with st.form("lib_import", border=False, clear_on_submit=True):
            about = "It contains adapter_config.json and adapter_model.safetensors."
            archive = st.file_uploader("Zip of a peft LoRA folder", type=["zip"], help=about)
            name = st.text_input("Name", max_chars=80, placeholder="my-expert")
            if st.form_submit_button("Import", icon=":material/upload:"):
                if archive is None or not name:
                    st.warning("Choose a file and a name.")
                else:
                    actions.attempt(library.import_expert, archive.getvalue(), name)


def notes(runs: list[Run]) -> None:
    """Star, tags, note, archive and delete of one run."""
    st.subheader("Runs", anchor="runs")
    rows = dict(zip(runs, index.rows(runs), strict=True))
    readable = {run.id: run for run in runs if rows[run]["status"] != "damaged"}
    if not readable:
        st.caption("There are no runs to annotate yet.")
        return
    table = pd.DataFrame([rows[run] for run in readable.values()])
    columns = {
        "starred": st.column_config.CheckboxColumn("star"),
        "archived": st.column_config.CheckboxColumn("archived"),
        "tags": st.column_config.ListColumn("tags"),
        "note": st.column_config.TextColumn("note", width="large"),
        "title": "run",
    }
    order = ["starred", "title", "status", "tags", "note", "archived"]
    st.dataframe(
        table,
        hide_index=True,
        column_order=order,
        column_config=columns,
        key="lib_runs",
        alt="All runs with their notes",
        height="content" if len(table) <= 8 else 320,
    )
    run = run_picker.pick_run("Run to annotate", "lib_run", readable, next(iter(readable)))
    run_notes.form(run, sorted({tag for own in readable.values() for tag in rows[own]["tags"]}), "lib_notes")
    busy, reason = run.status in jobs.ACTIVE, jobs.why_read_only()
    about = reason or ("Stop it first." if busy else "Moves this run into the trash, from where it can be restored on Jobs.")
    if st.button(
        "Delete this run",
        disabled=bool(reason) or busy,
        icon=":material/delete:",
        type="tertiary",
        help=about,
        key="lib_delete",
    ):
        actions.confirm_delete([run])


def draw() -> None:
    layout.heading("Library", "The experts of all runs, to compare, combine and download, and your notes about runs.")
    run_table.warn_of_damaged_runs()
    actions.show_error()
    actions.show_removed()
    runs = index.runs()[::-1]
    try:
        rows = zip(runs, index.rows(runs), strict=True)
        saved = library.experts([run for run, row in rows if row["status"] != "damaged"])
    except LabError as error:
        st.error(layout.plain(error))
        return
    if saved:
        layout.contents({"Experts": "experts", "How similar are they?": "similar", "Combine experts": "combine", "Runs": "runs"})
    experts(saved)
    import_expert()
    notes(runs)


draw()
