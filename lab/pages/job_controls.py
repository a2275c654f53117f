"""What can be done with one run on Jobs: start, stop, resume, places in the queue, links, name and note, delete."""

import streamlit as st

from lab.config.resolve import recipe_names
from lab.config.schema import CUSTOM
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import actions, navigation, run_notes
from lab.run_folder import replay_file
from lab.run_folder.run import Run
from lab.store import index


def controls(run: Run, state: str) -> None:
    """Buttons for what can be done with a run of this status, most likely first."""
    reason = jobs.why_read_only()

    def offer(label: str, icon: str, key: str, about: str, disabled: bool = False) -> bool:
        return st.button(label, icon=f":material/{icon}:", disabled=disabled or bool(reason), help=reason or about, key=key)

    with st.container(horizontal=True, vertical_alignment="center"):
        waiting = jobs.waiting()
        futile = state == "failed" and not run.saved  # the same settings would fail again
        if futile:
            duplicate(run)
        if run in waiting:
            if offer("Start now", "play_arrow", "start_now", "Starts without waiting for the runs before it.", jobs.is_full()):
                actions.attempt(jobs.resume, run)
            if offer("Earlier", "arrow_upward", "earlier", "Swaps places with the run before it.", run == waiting[0]):
                actions.attempt(jobs.move, run, -1)
            if offer("Later", "arrow_downward", "later", "Swaps places with the run after it.", run == waiting[-1]):
                actions.attempt(jobs.move, run, 1)
            if offer("Remove from the queue", "playlist_remove", "unqueue", "The run is kept and can be resumed."):
                actions.attempt(jobs.stop, run)
        elif state in jobs.ACTIVE:
            requested = run.stop_requested
            label = "Stops after this task" if requested else "Stop after this task"
            about = "Finishes and evaluates the current task, then ends. Nothing is lost."
            if state == "running" and offer(label, "stop_circle", "stop_after", about, requested):
                actions.attempt(jobs.stop, run)
            about = "Ends the process at once. Work since the last checkpoint is repeated on resume."
            if offer("Stop now", "cancel", "stop_now", about):
                with st.spinner("Ending the process"):
                    actions.attempt(jobs.stop, run, True)
        elif state in jobs.RESUMABLE:
            if not jobs.is_full():
                if offer("Resume", "resume", "resume", f"{on_resume(run)}."):
                    actions.attempt(jobs.resume, run)
            elif offer("Add to queue", "playlist_add", "resume_later", "Another run is training: this one continues after it."):
                actions.attempt(jobs.enqueue, run)
        if len(run.matrix):
            navigation.link("compare", "Compare", ":material/compare_arrows:", {"runs": run.id})
        if run.recorded():
            navigation.link("routing", "Routing", ":material/alt_route:", {"rt_run": run.id})
        if not futile:
            duplicate(run)
        if state not in jobs.ACTIVE and len(run.matrix) and not run.info.get("replay") and run.protocol.continual:
            st.download_button(
                "Replay file",
                lambda: replay_bytes(run),
                f"{run.id}.jsonl",
                "application/jsonl",
                icon=":material/movie:",
                type="tertiary",
                on_click="ignore",
                key="job_trace",
                help="The recorded run without its weights; it can be played in any lab.",
            )
        with st.popover("Name and note", icon=":material/edit:", type="tertiary", key="job_notes"):
            tags = {tag for row in index.rows(index.runs()) for tag in row.get("tags", ())}
            run_notes.form(run, sorted(tags), "job_notes")
        if run in waiting or state not in jobs.ACTIVE:
            delete(run)


def on_resume(run: Run) -> str:
    """What resuming does."""
    return "Continues from the last checkpoint" if run.saved else "There is no checkpoint: starts again with the same settings"


def duplicate(run: Run) -> None:
    """The link to the form with the settings of a run."""
    recipe = run.config["recipe"] if run.config["recipe"] in recipe_names() else CUSTOM
    about = "Opens the form on Train with the settings of this run."
    navigation.link("train", "Duplicate", ":material/content_copy:", {"recipe": recipe, "from": run.id}, about)


def delete(run: Run) -> None:
    """The button that moves a run into the trash, after a question."""
    reason = jobs.why_read_only()
    about = reason or "Moves this run into the trash, from where it can be restored."
    if st.button("Delete", icon=":material/delete:", type="tertiary", disabled=bool(reason), help=about, key="delete"):
        actions.confirm_delete([run])


def replay_bytes(run: Run) -> bytes:
    """The replay file of a run, or in its place the reason why it cannot be made."""
    try:
        return replay_file.trace(run)
    except LabError as error:
        return f"{error}\n".encode()
