"""The state of runs and their files, and warnings about runs that cannot be read."""

import streamlit as st

from lab import views
from lab.pages import layout, recorded_examples
from lab.run_folder.run import Run, all_runs
from lab.store import index


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


def warn_of_damaged_runs() -> None:
    """Name the runs that cannot be read, each with the reason."""
    for row in index.rows(index.runs()):
        if row["status"] == "damaged":
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
