"""The table of runs, cached by the state of their files, and warnings about runs that cannot be read."""

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from lab import views
from lab.core.errors import LabError
from lab.pages import layout, recorded_examples
from lab.run_folder.run import Run, all_runs


def table(runs: list[Run]) -> pd.DataFrame:
    """`views.runs_table`, read again only for runs whose files or status changed."""
    return _table(tuple((str(run.dir), file_stamps(run), status(run)) for run in runs))


def status(run: Run) -> str:
    """The derived status of a run, or "damaged"."""
    try:
        return run.status
    except LabError:
        return "damaged"


def file_stamps(run: Run, *names: str) -> tuple[tuple[str, int, int], ...]:
    """Name, time (ns) and size (bytes) of the files a table depends on, as a cache key; missing files are left out."""
    stamps = []
    for name in names or ("run.json", "config.yaml", "matrix.json", "events.jsonl", "notes.json"):
        try:
            stat = (run.dir / name).stat()
            stamps.append((name, stat.st_mtime_ns, stat.st_size))
        except OSError:
            continue
    return tuple(stamps)


@st.cache_data(max_entries=20, show_spinner=False)
def _table(keys: tuple[tuple[str, tuple, str], ...]) -> pd.DataFrame:
    return pd.DataFrame([_row(*key) for key in keys], columns=views.columns(), dtype=object)


@st.cache_data(max_entries=2000, show_spinner=False)
def _row(folder: str, stamps: tuple, derived_status: str) -> dict[str, Any]:
    """One row; `stamps` and `derived_status` only tell the cache when to read the run again."""
    return views.run_row(Run(Path(folder)))


def warn_of_damaged_runs() -> None:
    """Name the runs that cannot be read, each with the reason."""
    rows = table(all_runs())
    for _, row in rows[rows["status"] == "damaged"].iterrows():
        st.warning(layout.plain(row["reason"]), icon=":material/broken_image:")


def warn_of_damaged_examples() -> None:
    """Name the recorded examples that cannot be read, and say how to restore them."""
    for run in all_runs(recorded_examples.folder()):
        if reason := views.problem(run):
            remedy = "Install the lab again to restore it" if recorded_examples.is_packaged(run) else "Restore its files"
            st.warning(
                layout.plain(f"A recorded example cannot be shown: {reason}. {remedy}; its folder is {run.dir}."),
                icon=":material/broken_image:",
            )
