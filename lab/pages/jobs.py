"""Jobs: all runs of the folder with their status, the queue, and one run live: progress, loss, scores, routing, log."""

from typing import Any

import pandas as pd
import streamlit as st

from lab import figures, views
from lab.config.resolve import recipe_names
from lab.config.schema import CUSTOM
from lab.core.documents import yaml_text
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import actions, chart_card, code_snippets, layout, navigation, recorded_examples, run_picker
from lab.run_folder import replay_file
from lab.run_folder.run import Run
from lab.store import index
from lab.store.turns import safe_status
from lab.training.stages import RouterTraining

PERIOD = 1.5  # seconds between two updates of an active run


def overview(runs: list[Run]) -> None:
    """The table of all runs, newest first; refreshed while one is active."""
    active = any(safe_status(run) in jobs.ACTIVE for run in index.unended())

    @st.fragment(run_every=2 * PERIOD if active else None)
    def listing() -> None:
        table, score = views.runs_table(runs), views.headline()
        positions = {run.id: position for position, run in enumerate(jobs.waiting(), 1)}
        rows = table.to_dict("records")
        table["state"] = [f"queued, {positions[row['run']]}." if row["run"] in positions else row["status"] for row in rows]
        table["learned"] = [f"{row['learned']:.0f}/{row['tasks']:.0f}" if row["tasks"] > 0 else "–" for row in rows]
        for name in ("progress", score.path):
            table[name] = table[name].astype(float)
        for name in ("recipe", "stream", "seed"):
            table[name] = ["–" if pd.isna(value) else str(value) for value in table[name]]
        columns = {
            "run": st.column_config.TextColumn("run", pinned=True),
            "state": st.column_config.TextColumn("status", help="Determined from the files and the process each time."),
            "progress": st.column_config.ProgressColumn("progress", min_value=0, max_value=1, format="percent"),
            "learned": "tasks learned",
            score.path: st.column_config.NumberColumn(score.title.lower(), format="%.3f"),
            "created": st.column_config.DatetimeColumn("created", format="distance"),
            "reason": st.column_config.TextColumn("remark", width="medium"),
        }
        order = ["run", "state", "progress", "learned", score.path, "recipe", "stream", "seed", "created", "reason"]
        height = "content" if len(table) <= 8 else 320
        alt = "All runs with status and progress"
        st.dataframe(
            table,
            hide_index=True,
            column_order=order,
            column_config=columns,
            height=height,
            key="job_table",
            alt=alt,
            placeholder="–",
        )

    listing()
    queue(jobs.waiting())


def queue(waiting: list[Run]) -> None:
    """Pause or continue the queue; shown while a run waits or the queue is paused."""
    paused = jobs.paused()
    if not waiting and not paused:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        names = ", ".join(layout.plain(run.id) for run in waiting[:3]) + (" …" if len(waiting) > 3 else "")
        st.markdown(f"**Queue:** {len(waiting)} waiting{f' ({names})' if waiting else ''}{', paused' if paused else ''}")
        if st.button(
            "Continue the queue" if paused else "Pause the queue",
            icon=":material/play_arrow:" if paused else ":material/pause:",
            disabled=jobs.read_only(),
            key="queue_hold",
            help="Waiting runs start one after another. A pause does not stop the run that is training.",
        ):
            actions.attempt(jobs.pause, not paused)


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
        actions.confirm_delete(run)


def replay_bytes(run: Run) -> bytes:
    """The replay file of a run, or in its place the reason why it cannot be made."""
    try:
        return replay_file.trace(run)
    except LabError as error:
        return f"{error}\n".encode()


def live(run: Run, state: str) -> None:
    """The run as it is now, refreshed while it is active; a change of its status draws the page again."""
    limit = views.LOSS
    if run.protocol.continual and (len(run.matrix) or state in jobs.ACTIVE):
        limit = st.number_input(
            "Warn if a task loses more than",
            0.0,
            1.0,
            views.LOSS,
            0.05,
            key="job_lost",
            bind="query-params",
            width=240,
            help="Best score of a task minus its newest score, from 0 to 1.",
        )

    @st.fragment(run_every=PERIOD if state in jobs.ACTIVE else None)
    def card() -> None:
        if safe_status(run) != state:
            st.rerun()
        with layout.section():
            standing(run, state)
            stepper(run)
        for alert in views.alerts(run, lost=limit):
            st.warning(layout.plain(alert.text), icon=":material/warning:")
        left, right = st.columns(2, gap="large")
        with left:
            with layout.section():
                loss(run, state)
            with layout.section():
                routing(run)
        with right, layout.section():
            matrix(run, state)
        with layout.section():
            log(run, state)

    card()


def standing(run: Run, state: str) -> None:
    """How far the run is, as a bar with a sentence."""
    progress = views.progress(run)
    waiting = jobs.waiting() if state == "queued" else []
    text = f"waits in the queue, {waiting.index(run) + 1} of {len(waiting)}" if run in waiting else progress.text()
    if progress.elapsed_s is not None and state == "running":
        text += f" · {views.clock(progress.elapsed_s)} since it started"
    st.progress(min(max(progress.share, 0.0), 1.0), text=layout.plain(text))


def stepper(run: Run) -> None:
    """The tasks in order: learned ones with their newest score, the current one, those ahead."""
    styles = {"learned": ("green", "check"), "now": ("blue", "play_arrow"), "ahead": ("gray", "schedule")}
    badges = []
    for number, task in enumerate(views.task_states(run).to_dict("records"), 1):
        colour, icon = styles[task["state"]]
        score = "" if pd.isna(task["score"]) else f" {task['score']:.2f}"
        badges.append(f":{colour}-badge[:material/{icon}: {number} {layout.plain(task['name'])}{score}]")
    if badges:
        st.markdown(" ".join(badges), help="The tasks in order, each with its newest score.")


def loss(run: Run, state: str) -> None:
    """The loss of every recorded step, one colour per task."""
    st.subheader("Loss", anchor=False)
    table = views.losses(run)
    if table.empty:
        st.caption("The loss appears with the first steps." if state in jobs.ACTIVE else "The run ended before the first step.")
        return
    alt = f"Loss over {len(table)} recorded steps, at the end {table['loss'].iloc[-1]:.3f}"
    tasks = list(dict.fromkeys(table["task"]))
    colours: list[Any] = [figures.task_style(task).colour for task in tasks]
    names = [f"task {task + 1}" for task in tasks]
    wide = table.pivot_table(index="index", columns="task", values="loss")[tasks].set_axis(names, axis=1).reset_index()
    st.line_chart(wide, x="index", y=names, color=colours, x_label="optimiser steps", y_label="loss", height=280, alt=alt)
    memory = " A jump marks the start of training on the memory." if RouterTraining.phase in set(table["phase"]) else ""
    python = code_snippets.python_of(figures.loss_curve, views.losses, (run,), {})
    chart_card.footer("job_loss", f"The whole run, one colour per task.{memory}", python, [run], lambda: views.losses(run))


def matrix(run: Run, state: str) -> None:
    """The scores so far: the matrix of a stream, the table of a transfer run."""
    st.subheader("Scores", anchor=False)
    if not run.protocol.continual:
        st.dataframe(views.transfer_scores(run), key="job_transfer", alt="Scores of the held-out tasks by number of shots")
        layout.how_to_read("Score of each held-out task before training on any of its examples (0), and after so many (shots).")
        return
    if not len(run.matrix) and not run.recorded_scores.get("partial"):
        expected = "The first row appears when the first task is learned."
        st.caption(expected if state in jobs.ACTIVE else "The run ended before the first task was learned.")
        return
    average = layout.number(run.metrics()[views.headline().path])
    chart_card.card(
        figures.accuracy_matrix,
        run,
        key="job_matrix",
        partial=True,
        table=views.accuracy_matrix,
        alt=f"Score matrix so far, average accuracy {average}",
        read="After each task a row is added: the scores on all tasks learned so far.",
    )


def routing(run: Run) -> None:
    """The share of each expert per task at the last recorded moment."""
    moments = run.recorded()
    if not moments:
        return
    st.subheader("Routing", anchor=False)
    st.caption(f"After task {moments[-1] + 1}: {layout.plain(run.tasks[moments[-1]])}")
    chart_card.card(
        figures.routing_by_task,
        run,
        moments[-1],
        key="job_routing",
        table=views.routing_by_task,
        alt="Share of each expert per task at the last recorded moment",
        read="One row per task: the share of the routing weight that each expert gets on its test examples. Rows sum to 1.",
    )


def remarks(run: Run) -> None:
    """What was done to the data, and what else was decided without being asked for."""
    if sentences := run.remarks:
        with st.expander(f"Data and defaults ({len(sentences)})", icon=":material/info:"):
            st.markdown("\n".join(f"- {layout.plain(sentence)}" for sentence in sentences))


def log(run: Run, state: str) -> None:
    """The end of the log, open where the run failed, and the whole log as a file."""
    text = views.log_tail(run)
    with st.expander("Log", expanded=bool(text) and state in ("failed", "lost"), icon=":material/terminal:"):
        st.code(text or "The log is empty.", language=None, height=260 if text else "content")
        if text:
            st.download_button(
                "Whole log",
                lambda: run.bytes_of("log.txt"),
                f"{run.id}.txt",
                "text/plain",
                key="job_log",
                icon=":material/download:",
                type="tertiary",
                on_click="ignore",
            )


def frozen(run: Run) -> None:
    """The settings the run was started with, and where it ran."""
    with st.expander("Settings of this run", icon=":material/tune:"):
        st.code(yaml_text(run.config), language="yaml", height=320)
        facts = {name: run.info.get(name) for name in ("created", "started", "ended", "pid", "host") if run.info.get(name)}
        st.caption(" · ".join(f"{name} {layout.plain(value)}" for name, value in facts.items()))


def player() -> None:
    """Play a recorded example or a replay file as a live job."""
    with st.expander("Watch a replay", icon=":material/movie:", key="replay", bind="query-params"):
        st.caption("A recorded run plays like a live one, only faster. Nothing is trained.")
        recorded = {run.id: run for run in recorded_examples.examples()}
        left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
        name = left.selectbox("Recorded example", list(recorded), key="replay_of", placeholder="No recorded examples here")
        file = middle.file_uploader("Or a replay file", type="jsonl", key="replay_file")
        speed = right.select_slider("Speed (times)", [1, 2, 5, 10, 20, 50], 10, key="replay_speed")
        if st.button("Play", icon=":material/play_arrow:", key="replay_play", disabled=jobs.read_only() or not (name or file)):
            actions.attempt(play, file.getvalue() if file else recorded[name], speed)


def play(recording: bytes | Run, speed: float) -> None:
    """Start a replay of a replay file or a recorded run, and go to its page."""
    run = jobs.play(recording if isinstance(recording, bytes) else replay_file.trace(recording), speed)
    navigation.go("jobs", {"job": run.id})


def focused(run: Run) -> None:
    """The chosen run."""
    reason = views.problem(run)
    if reason:
        st.error(layout.plain(reason), title="This run cannot be read")
        delete(run)
        return
    state = run.status
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(layout.plain(run.id), anchor=False, width="content")
        layout.status_badge(state)
    if run.info.get("error"):
        st.error(layout.plain(run.info["error"]), title="The run failed")
    if run.changes:
        st.warning(layout.plain("; ".join(run.changes)), title="This run went on with changes")
    if state == "lost":
        st.warning(f"The process of this run ended without a result. Its log may say why. Resume: {on_resume(run).lower()}.")
    controls(run, state)
    live(run, state)
    remarks(run)
    frozen(run)


def draw() -> None:
    layout.heading("Jobs", "Every run is a folder and a process of its own: closing this page does not stop it.")
    actions.show_error()
    actions.show_removed()
    runs = index.runs()[::-1]
    player()
    actions.trash_card()
    if not runs:
        run_picker.no_runs("There are no runs in this folder yet.")
        return
    overview(runs)
    default = next((run.id for run in index.unended()[::-1] if safe_status(run) in jobs.ACTIVE), runs[0].id)
    focused(run_picker.pick_run("Run to watch", "job", {run.id: run for run in runs}, default))


draw()
