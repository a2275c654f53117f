"""One run on Jobs, live while it is active: progress, loss, scores, routing, log, settings."""

import pandas as pd
import streamlit as st

from lab import figures, views
from lab.core.documents import yaml_text
from lab.jobs import jobs
from lab.pages import chart_card, code_snippets, curves, layout
from lab.pages.job_controls import controls, delete, on_resume
from lab.run_folder.run import Run
from lab.store.turns import safe_status
from lab.training.stages import RouterTraining

PERIOD = 1.5  # seconds between two updates of an active run
SMOOTHING = 0.6  # of the loss, unless said otherwise


def focused(run: Run) -> None:
    """The chosen run."""
    if reason := views.problem(run):
        st.error(layout.plain(reason), title="This run cannot be read")
        delete(run)
        return
    state = run.status
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(layout.plain(run.title), anchor=False, width="content")
        layout.status_badge(state)
        if run.title != run.id:
            st.caption(layout.plain(run.id), width="content")
    if run.notes["text"]:
        st.caption(f":material/sticky_note_2: {layout.plain(run.notes['text'])}")
    if run.info.get("error"):
        st.error(layout.plain(run.info["error"]), title="The run failed")
    if run.changes:
        st.warning(layout.plain("; ".join(run.changes)), title="This run went on with changes")
    if state == "lost":
        st.warning(f"The process of this run ended without a result. Its log may say why. Resume: {on_resume(run).lower()}.")
    live(run, state)
    remarks(run)
    frozen(run)


def live(run: Run, state: str) -> None:
    """The run as it is now, refreshed while it is active; a change of its status draws the page again."""
    charts = bool(len(run.matrix)) or state in jobs.ACTIVE

    @st.fragment(run_every=PERIOD if state in jobs.ACTIVE else None)
    def card() -> None:
        if safe_status(run) != state:
            st.rerun()
        with layout.section():
            standing(run, state)
            stepper(run)
        above = st.container()
        left, right = st.columns(2, gap="large")
        with left, layout.section():
            st.markdown("**Loss**")
            loss(run, state)
        with right, layout.section():
            scores, routes = st.tabs(["Scores", "Routing"]) if run.recorded() else (st.container(), None)
            with scores:
                if routes is None:
                    st.markdown("**Scores**")
                matrix(run, state)
            if routes is not None:
                with routes:
                    routing(run)
        limit = views.LOSS
        if run.protocol.continual and charts:
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
        if alerts := [layout.plain(alert.text) for alert in views.alerts(run, lost=limit)]:
            above.warning("  \n".join(alerts), icon=":material/warning:")  # one box, so that the curves stay in sight
        with layout.section():
            log(run, state)

    controls(run, state)
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
    """The loss of the recorded steps, smoothed, one colour per task."""
    table = views.losses(run)
    if table.empty:
        st.caption("The loss appears with the first steps." if state in jobs.ACTIVE else "The run ended before the first step.")
        return
    alt = f"Loss over {len(table)} recorded steps, at the end {table['loss'].iloc[-1]:.3f}"
    smoothing = st.session_state.get("job_smooth", SMOOTHING)
    curves.loss(table.assign(loss=views.smoothed(table, smoothing)), "job_loss_chart", alt)
    about = "Each point is a mean over the steps before it; their weights fall by this factor per recorded step. 0: every step."
    st.slider("Smoothing", 0.0, 0.98, SMOOTHING, 0.02, key="job_smooth", width=240, help=about)
    memory = " A jump marks the start of training on the memory." if RouterTraining.phase in set(table["phase"]) else ""
    python = code_snippets.python_of(figures.loss_curve, views.losses, (run,), {})
    chart_card.footer("job_loss", f"The whole run, one colour per task.{memory}", python, [run], lambda: views.losses(run))
    if sentence := without_loss(run):
        st.caption(sentence)


def without_loss(run: Run) -> str:
    """Which tasks have no training loss here because their experts were trained by an earlier run; a sentence, or nothing."""
    reused = [str(event["task"] + 1) for event in run.events("TaskStarted") if event.get("reused")]
    if not reused:
        return ""
    experts = "expert of task" if len(reused) == 1 else "experts of tasks"
    return f"No training loss of the {experts} {', '.join(reused)}: an earlier run had trained the same, and it was taken over."


def matrix(run: Run, state: str) -> None:
    """The scores so far: the matrix of a stream, the table of a transfer run."""
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
