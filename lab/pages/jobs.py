"""Jobs: every run of the folder with its derived status, and one of them live."""

import pandas as pd
import streamlit as st
import yaml

from lab import figures, jobs, views
from lab.errors import LabError
from lab.pages import shell
from lab.runs import Run, all_runs

PERIOD = 1.5  # seconds between two looks at an active run


def overview(runs: list[Run]) -> None:
    """The table of all runs, newest first; looks again while one is active."""
    active = any(shell.status(run) in jobs.ACTIVE for run in runs)

    @st.fragment(run_every=2 * PERIOD if active else None)
    def rows() -> None:
        table = shell.table(runs)
        table["learned"] = [
            f"{row.learned:.0f}/{row.tasks:.0f}" if row.status != "damaged" else "–" for row in table.itertuples()
        ]
        for name in ("progress", "average_accuracy"):
            table[name] = table[name].astype(float)
        for name in ("recipe", "stream", "seed"):
            table[name] = ["–" if pd.isna(value) else str(value) for value in table[name]]
        columns = {
            "run": st.column_config.TextColumn("run", pinned=True),
            "progress": st.column_config.ProgressColumn("progress", min_value=0, max_value=1, format="percent"),
            "learned": "tasks learned",
            "average_accuracy": st.column_config.NumberColumn("average accuracy", format="%.3f"),
            "created": st.column_config.DatetimeColumn("created", format="distance"),
            "reason": st.column_config.TextColumn("remark", width="medium"),
        }
        order = ["run", "status", "progress", "learned", "average_accuracy", "recipe", "stream", "seed", "created", "reason"]
        height = "content" if len(table) <= 8 else 320
        alt = "All runs with status and progress"
        st.dataframe(table, hide_index=True, column_order=order, column_config=columns, height=height, key="job_table", alt=alt)

    rows()


def act(run: Run, action: str) -> None:
    """Stop or resume a run; what cannot be done is said."""
    try:
        if action == "resume":
            jobs.resume(run)
        else:
            with st.spinner("Ending the process" if action == "now" else "Asking the run to stop"):
                jobs.stop(run, now=action == "now")
    except LabError as error:
        st.session_state["job_error"] = str(error)
    st.rerun()


def controls(run: Run, state: str) -> None:
    """Buttons for what can be done with the run in this state."""
    if error := st.session_state.pop("job_error", None):
        st.error(shell.plain(error))
    locked = jobs.read_only()
    reason = "This lab is read-only." if locked else None
    with st.container(horizontal=True, vertical_alignment="center"):
        if state in jobs.ACTIVE:
            asked = run.stop_requested
            if state == "running" and st.button(
                "Stops after this task" if asked else "Stop after this task",
                icon=":material/stop_circle:",
                disabled=asked or locked,
                help=reason or "Finishes and scores the current task, then ends. Nothing is lost.",
                key="stop_after",
            ):
                act(run, "after")
            if st.button(
                "Stop now",
                icon=":material/cancel:",
                disabled=locked,
                help=reason or "Ends the process at once. Work since the last saved state is done again on resume.",
                key="stop_now",
            ):
                act(run, "now")
        elif state in jobs.RESUMABLE and st.button(
            "Resume", icon=":material/resume:", disabled=locked, key="resume", help=reason or "Goes on from the last saved state."
        ):
            act(run, "resume")
        if run.matrix:
            st.page_link(shell.page("compare"), label="Compare", icon=":material/compare_arrows:", query_params={"runs": run.id})
        if run.recorded():
            st.page_link(shell.page("routing"), label="Routing", icon=":material/alt_route:", query_params={"rt_run": run.id})


def live(run: Run, state: str) -> None:
    """The state of the run, looked up again while it is active; a change of status redraws the page once."""

    @st.fragment(run_every=PERIOD if state in jobs.ACTIVE else None)
    def card() -> None:
        if shell.status(run) != state:
            st.rerun()
        now = views.progress(run)
        st.progress(min(max(now.share, 0.0), 1.0), text=shell.plain(now.text()))
        for alert in views.alerts(run):
            st.warning(shell.plain(alert.text), icon=":material/warning:")
        left, right = st.columns(2, gap="large")
        with left:
            loss(run)
            with shell.section():
                routing(run)
        with right, shell.section():
            matrix(run)
        log(run, state)

    card()


def loss(run: Run) -> None:
    st.subheader("Loss", anchor=False)
    table = views.losses(run)
    if table.empty:
        st.caption("The loss appears with the first steps.")
        return
    alt = f"Loss over {len(table)} recorded steps, at the end {table['loss'].iloc[-1]:.3f}"
    tasks = list(dict.fromkeys(table["task"]))
    colours = [figures.task_style(task).colour for task in tasks]
    names = [f"task {task + 1}" for task in tasks]
    wide = table.pivot_table(index="index", columns="task", values="loss")[tasks].set_axis(names, axis=1).reset_index()
    st.line_chart(wide, x="index", y=names, color=colours, x_label="optimiser steps", y_label="loss", height=280, alt=alt)
    memory = " A jump marks where training on the memory begins." if (table["phase"] == "memory").any() else ""
    shell.how_to_read(f"The whole run, one colour per task.{memory}")


def matrix(run: Run) -> None:
    st.subheader("Scores", anchor=False)
    if not run.matrix and not run.scores.get("partial"):
        st.caption("The first row appears when the first task is learned.")
        return
    average = shell.number(run.metrics()["average_accuracy"])
    shell.chart(figures.accuracy_matrix(run, partial=True), "job_matrix", f"Score matrix so far, average accuracy {average}")
    shell.how_to_read("A row is added after each task: the scores on all tasks learned so far.")


def routing(run: Run) -> None:
    moments = run.recorded()
    if not moments:
        return
    st.subheader("Routing", anchor=False)
    st.caption(f"After task {moments[-1] + 1}: {shell.plain(run.tasks[moments[-1]])}")
    shell.chart(
        figures.routing_by_task(run, moments[-1]), "job_routing", "Share of each expert per task at the last recorded moment"
    )


def log(run: Run, state: str) -> None:
    text = views.log_tail(run)
    with st.expander("Log", expanded=bool(text) and state in ("failed", "lost"), icon=":material/terminal:"):
        st.code(text or "Nothing is written yet.", language=None, height=260 if text else "content")


def frozen(run: Run) -> None:
    """The settings the run was started with, and where it ran."""
    with st.expander("Settings of this run", icon=":material/tune:"):
        st.code(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True), language="yaml", height=320)
        facts = {name: run.info.get(name) for name in ("created", "started", "ended", "pid", "host") if run.info.get(name)}
        st.caption(" · ".join(f"{name} {shell.plain(value)}" for name, value in facts.items()))


def focused(run: Run) -> None:
    """The chosen run."""
    reason = views.problem(run)
    if reason:
        st.error(shell.plain(reason), title="This run cannot be read")
        return
    state = run.status
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(shell.plain(run.id), anchor=False, width="content")
        shell.status_badge(state)
    if run.info.get("error"):
        st.error(shell.plain(run.info["error"]), title="The run failed")
    if state == "lost":
        st.warning(
            "The process of this run ended without a result. Its log may say why; resuming goes on from the last saved state."
        )
    controls(run, state)
    live(run, state)
    frozen(run)


def draw() -> None:
    shell.heading("Jobs", "Every run is a folder and a process of its own: closing this page stops nothing.")
    runs = all_runs()[::-1]
    if not runs:
        return shell.nothing_yet("There are no runs in this folder yet.")
    overview(runs)
    ids = [run.id for run in runs]
    busy = next((run.id for run in runs if shell.status(run) in jobs.ACTIVE), ids[0])
    focused(shell.pick_run("Run to watch", "job", {run.id: run for run in runs}, busy))


draw()
