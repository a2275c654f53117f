"""Jobs: the chosen run live, then all runs of the folder with what can be done with several, the trash, and replays."""

import streamlit as st

from lab.jobs import jobs
from lab.pages import actions, layout, navigation, recorded_examples, run_picker
from lab.pages.job_card import focused
from lab.pages.job_table import overview
from lab.run_folder import replay_file
from lab.run_folder.run import Run
from lab.store import index
from lab.store.turns import safe_status


def player() -> None:
    """Play a recorded example or a replay file as a live job."""
    with st.expander("Watch a replay", icon=":material/movie:", key="replay", bind="query-params"):
        st.caption("A recorded run plays like a live one, only faster. Nothing is trained.")
        recorded = {run.id: run for run in recorded_examples.examples()}
        left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
        name = left.selectbox("Recorded example", list(recorded), key="replay_of", placeholder="No recorded examples here")
        file = middle.file_uploader("Or a replay file", type="jsonl", key="replay_file")
        speed = right.select_slider("Speed (times)", [1, 2, 5, 10, 20, 50], 10, key="replay_speed")
        nothing = jobs.read_only() or not (name or file)
        recording = file.getvalue() if file else recorded.get(name or "")
        st.button(
            "Play",
            icon=":material/play_arrow:",
            key="replay_play",
            disabled=nothing,
            on_click=actions.attempt_in_callback,  # before the page is drawn: the run is chosen above
            args=[play, recording, speed],
        )


def play(recording: bytes | Run, speed: float) -> None:
    """Start a replay of a replay file or a recorded run, and choose it, in a callback."""
    run = jobs.play(recording if isinstance(recording, bytes) else replay_file.trace(recording), speed)
    navigation.change_address({"job": run.id})


def draw() -> None:
    layout.heading("Jobs", "Every run is a folder and a process of its own: closing this page does not stop it.")
    actions.show_error()
    actions.show_removed()
    runs = index.runs()[::-1]
    if runs:
        active = [run for run in index.unended() if safe_status(run) in jobs.ACTIVE]
        with run_picker.bar():
            run = run_picker.pick_run("Run to watch", "job", {run.id: run for run in runs}, (active[::-1] or runs)[0].id)
        focused(run)
        st.subheader(f"All runs ({len(runs):,})", anchor=False)
        overview(runs)
    else:
        run_picker.no_runs("There are no runs in this folder yet.")
    actions.trash_card()
    player()


draw()
