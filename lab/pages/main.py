"""Entry of the dashboard: navigation, and in the sidebar the folder of runs, the device and the running job."""

import os
import platform
from contextlib import suppress
from pathlib import Path

import streamlit as st

from lab import jobs, views
from lab.errors import LabError
from lab.pages import shell
from lab.runs import all_runs, root


def device() -> tuple[str, str]:
    """Name and icon of the device that training would use, found without loading torch."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if cards and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        model = next((line for line in cards[0].read_text().splitlines() if line.startswith("Model")), "Model: NVIDIA GPU")
        return model.partition(":")[2].strip() + (f" × {len(cards)}" if len(cards) > 1 else ""), ":material/developer_board:"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "Apple GPU", ":material/developer_board:"
    return f"CPU, {os.cpu_count()} cores", ":material/memory:"


def place(folder: Path) -> str:
    """A folder as people know it: relative to where the server was started, else its last two names."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(Path("…", *folder.resolve().parts[-2:]))


def running_job() -> None:
    """The active job with its progress and a link; looks again every two seconds while there is one, or one waits."""
    with suppress(LabError):  # a folder that cannot be written has no queue
        jobs.tend()
    busy = bool(jobs.active()) or (bool(jobs.waiting()) and not jobs.paused())

    @st.fragment(run_every=2 if busy else None)
    def chip() -> None:
        found = jobs.active()
        if busy and not found and (jobs.paused() or not jobs.waiting()):
            st.rerun()
        for run in found:
            try:
                now = views.progress(run)
            except views.UNREADABLE:
                continue
            st.progress(min(max(now.share, 0.0), 1.0), text=f"{shell.plain(run.id)}  \n{shell.plain(now.text())}")
            st.page_link(shell.page("jobs"), label="Watch this job", icon=":material/monitoring:", query_params={"job": run.id})

    chip()


def sidebar() -> None:
    name, icon = device()
    st.badge(name, icon=icon, color="gray")
    if jobs.read_only():
        st.badge("read-only", icon=":material/lock:", color="orange", help="Runs can be looked at, not started or stopped.")
    count = len(all_runs())
    st.caption(
        f"Runs in **{shell.plain(place(root()))}**: {count}", help="Choose another folder with `lab app --runs DIR` or LAB_RUNS."
    )
    running_job()


def main() -> None:
    st.set_page_config(page_title="Adapter routing lab", page_icon="🧭", layout="wide")
    page = st.navigation(shell.pages())
    with st.sidebar:
        sidebar()
    try:
        page.run()
    except (LabError, OSError) as error:
        st.error(shell.plain(error), title="This cannot be shown")
        st.page_link(shell.page("start"), label="Go to Start", icon=":material/home:")


if __name__ == "__main__":
    main()
