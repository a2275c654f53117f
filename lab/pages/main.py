"""Entry of the dashboard: navigation, and in the sidebar the folder of runs, the device and the running job."""

from contextlib import suppress

import streamlit as st

from lab import views
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import head_start, layout, navigation, system, url_state, visitor
from lab.run_folder.run import root
from lab.store import index


def running_job() -> None:
    """The active jobs, each with its progress and a link; refreshed every two seconds while a run is active or waits."""
    with suppress(LabError):  # a folder that cannot be written has no queue
        jobs.tend()
    busy = bool(jobs.active()) or (bool(jobs.waiting()) and not jobs.paused())

    @st.fragment(run_every=2 if busy else None)
    def chip() -> None:
        active = jobs.active()
        if busy and not active and (jobs.paused() or not jobs.waiting()):
            st.rerun()
        for run in active:
            try:
                progress = views.progress(run)
            except views.UNREADABLE:
                continue
            label = f"{layout.plain(run.title)}  \n{layout.plain(progress.text())}"
            st.progress(min(max(progress.share, 0.0), 1.0), text=label)
            navigation.link("jobs", "Watch this job", ":material/monitoring:", {"job": run.id})

    chip()


def sidebar() -> None:
    """Device, folder of runs, running job."""
    name, icon = system.device()
    st.badge(name, icon=icon, color="gray")
    if reason := jobs.why_read_only():
        st.badge("read-only", icon=":material/lock:", color="orange", help=layout.plain(reason))
    count = len(index.runs())
    folder = layout.plain(system.short_path(root()))
    st.caption(f"Runs in **{folder}**: {count}", help="Choose another folder with `lab app --runs DIR` or LAB_RUNS.")
    running_job()


def main() -> None:
    st.set_page_config(page_title="Adapter routing lab", page_icon="🧭", layout="wide")
    visitor.identify()
    page = st.navigation(navigation.pages())
    navigation.shown(page)
    url_state.drop_oversized()
    try:
        page.run()
    except views.UNREADABLE as error:
        st.error(layout.plain(layout.reason(error)), title="This page cannot be shown")
        navigation.link("start", "Go to Start", ":material/home:")
    with st.sidebar:  # after the page, which visitors wait for: the sidebar reads all runs
        sidebar()
        head_start.load()


if __name__ == "__main__":
    main()
