"""Entry of the dashboard: navigation, and in the sidebar the folder of runs, the device and the running job."""

from contextlib import suppress

import streamlit as st

from lab import views
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import layout, navigation, system
from lab.run_folder.run import all_runs, root


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
            st.progress(min(max(now.share, 0.0), 1.0), text=f"{layout.plain(run.id)}  \n{layout.plain(now.text())}")
            st.page_link(
                navigation.page("jobs"), label="Watch this job", icon=":material/monitoring:", query_params={"job": run.id}
            )

    chip()


def sidebar() -> None:
    name, icon = system.device()
    st.badge(name, icon=icon, color="gray")
    if jobs.read_only():
        st.badge("read-only", icon=":material/lock:", color="orange", help="Runs can be looked at, not started or stopped.")
    count = len(all_runs())
    where = layout.plain(system.place(root()))
    st.caption(f"Runs in **{where}**: {count}", help="Choose another folder with `lab app --runs DIR` or LAB_RUNS.")
    running_job()


def main() -> None:
    st.set_page_config(page_title="Adapter routing lab", page_icon="🧭", layout="wide")
    page = st.navigation(navigation.pages())
    try:
        page.run()
    except (LabError, OSError) as error:
        st.error(layout.plain(error), title="This cannot be shown")
        st.page_link(navigation.page("start"), label="Go to Start", icon=":material/home:")
    with st.sidebar:  # after the page, which people wait for: it looks at all runs
        sidebar()


if __name__ == "__main__":
    main()
