"""Jobs: every run of the folder with its derived status, and one of them live."""

import pandas as pd
import streamlit as st
import yaml

from lab import figures, views
from lab.config.resolve import recipe_names
from lab.config.schema import CUSTOM
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import actions, chart_card, code_snippets, layout, navigation, recorded_examples, run_picker, run_table
from lab.run_folder import replay_file
from lab.run_folder.run import Run, all_runs
from lab.training.stages import RouterTraining

PERIOD = 1.5  # seconds between two looks at an active run


def overview(runs: list[Run]) -> None:
    """The table of all runs, newest first; looks again while one is active."""
    active = any(run_table.status(run) in jobs.ACTIVE for run in runs)

    @st.fragment(run_every=2 * PERIOD if active else None)
    def rows() -> None:
        table, score = run_table.table(runs), views.headline()
        places = {run.id: place + 1 for place, run in enumerate(jobs.waiting())}
        table["state"] = [f"queued, {places[row.run]}." if row.run in places else row.status for row in table.itertuples()]
        table["learned"] = [
            f"{row.learned:.0f}/{row.tasks:.0f}" if row.tasks > 0 else "–"
            for row in table.itertuples()  # else not known yet
        ]
        for name in ("progress", score.path):
            table[name] = table[name].astype(float)
        for name in ("recipe", "stream", "seed"):
            table[name] = ["–" if pd.isna(value) else str(value) for value in table[name]]
        columns = {
            "run": st.column_config.TextColumn("run", pinned=True),
            "state": st.column_config.TextColumn("status", help="Derived from the files and the process each time."),
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

    rows()
    queue(jobs.waiting())


def queue(waiting: list[Run]) -> None:
    """Hold the queue or let it go on; shown while something waits or it is held."""
    held = jobs.paused()
    if not waiting and not held:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        names = ", ".join(layout.plain(run.id) for run in waiting[:3]) + (" …" if len(waiting) > 3 else "")
        st.markdown(f"**Queue:** {len(waiting)} waiting{f' ({names})' if waiting else ''}{', held' if held else ''}")
        if st.button(
            "Let the queue go on" if held else "Hold the queue",
            icon=":material/play_arrow:" if held else ":material/pause:",
            disabled=jobs.read_only(),
            key="queue_hold",
            help="Waiting runs start one after another. Holding the queue leaves the run that trains alone.",
        ):
            actions.attempt(jobs.pause, not held)


def controls(run: Run, state: str) -> None:
    """Buttons for what can be done with the run in this state, most likely first."""
    locked = jobs.read_only()
    reason = "This lab is read-only." if locked else None

    def offer(label: str, icon: str, key: str, about: str, disabled: bool = False) -> bool:
        return st.button(label, icon=f":material/{icon}:", disabled=disabled or locked, help=reason or about, key=key)

    with st.container(horizontal=True, vertical_alignment="center"):
        waiting = jobs.waiting()
        futile = state == "failed" and not run.saved  # the same settings would fail again
        if futile:
            duplicate(run)
        if run in waiting:
            if offer("Start now", "play_arrow", "start_now", "Does not wait for the runs before it.", jobs.is_full()):
                actions.attempt(jobs.resume, run)
            if offer("Earlier", "arrow_upward", "earlier", "Changes places with the run before it.", run == waiting[0]):
                actions.attempt(jobs.move, run, -1)
            if offer("Later", "arrow_downward", "later", "Changes places with the run behind it.", run == waiting[-1]):
                actions.attempt(jobs.move, run, 1)
            if offer("Take out of the queue", "playlist_remove", "unqueue", "The run stays and can be resumed."):
                actions.attempt(jobs.stop, run)
        elif state in jobs.ACTIVE:
            asked = run.stop_requested
            label = "Stops after this task" if asked else "Stop after this task"
            about = "Finishes and scores the current task, then ends. Nothing is lost."
            if state == "running" and offer(label, "stop_circle", "stop_after", about, asked):
                actions.attempt(jobs.stop, run)
            about = "Ends the process at once. Work since the last saved state is done again on resume."
            if offer("Stop now", "cancel", "stop_now", about):
                with st.spinner("Ending the process"):
                    actions.attempt(jobs.stop, run, True)
        elif state in jobs.RESUMABLE:
            if not jobs.is_full():
                if offer("Resume", "resume", "resume", f"{onward(run)}."):
                    actions.attempt(jobs.resume, run)
            elif offer("Resume in turn", "playlist_add", "resume_later", "Another run trains: this one goes on after it."):
                actions.attempt(jobs.enqueue, run)
        if run.matrix:
            st.page_link(
                navigation.page("compare"), label="Compare", icon=":material/compare_arrows:", query_params={"runs": run.id}
            )
        if run.recorded():
            st.page_link(
                navigation.page("routing"), label="Routing", icon=":material/alt_route:", query_params={"rt_run": run.id}
            )
        if not futile:
            duplicate(run)
        if state not in jobs.ACTIVE and run.matrix and not run.info.get("replay") and run.protocol.continual:
            st.download_button(
                "Replay file",
                lambda: traced(run),
                f"{run.id}.jsonl",
                "application/jsonl",
                icon=":material/movie:",
                type="tertiary",
                on_click="ignore",
                key="job_trace",
                help="The run without weights: it plays anywhere.",
            )
        if run in waiting or state not in jobs.ACTIVE:
            delete(run)


def onward(run: Run) -> str:
    """What resuming does."""
    return "Goes on from the last saved state" if run.saved else "Nothing was saved: begins anew with the same settings"


def duplicate(run: Run) -> None:
    """The link to the form with the settings of a run."""
    recipe = run.config["recipe"] if run.config["recipe"] in recipe_names() else CUSTOM
    st.page_link(
        navigation.page("train"),
        label="Duplicate",
        icon=":material/content_copy:",
        query_params={"recipe": recipe, "from": run.id},
        help="Opens the form with its settings, to change them.",
    )


def delete(run: Run) -> None:
    """The button that removes a run, after asking."""
    locked = jobs.read_only()
    about = "This lab is read-only." if locked else "Removes the folder of this run for good."
    if st.button("Delete", icon=":material/delete:", type="tertiary", disabled=locked, help=about, key="delete"):
        actions.confirm_delete(run)


def traced(run: Run) -> bytes:
    """The replay file, or in its place the reason why there is none."""
    try:
        return replay_file.trace(run)
    except LabError as error:
        return f"{error}\n".encode()


def live(run: Run, state: str) -> None:
    """The state of the run, looked up again while it is active; a change of status redraws the page once."""
    lost = views.LOSS
    if run.protocol.continual and (run.matrix or state in jobs.ACTIVE):
        lost = st.number_input(
            "Tell when a task lost more than",
            0.0,
            1.0,
            views.LOSS,
            0.05,
            key="job_lost",
            bind="query-params",
            width=240,
            help="Best score of a task minus its newest one, from 0 to 1.",
        )

    @st.fragment(run_every=PERIOD if state in jobs.ACTIVE else None)
    def card() -> None:
        if run_table.status(run) != state:
            st.rerun()
        now = views.progress(run)
        queued = jobs.waiting() if state == "queued" else []
        place = f"waits in the queue, {queued.index(run) + 1} of {len(queued)}" if run in queued else now.text()
        timed = now.elapsed_s is not None and state == "running"
        elapsed = f" · {views.clock(now.elapsed_s)} since it started" if timed else ""
        st.progress(min(max(now.share, 0.0), 1.0), text=layout.plain(place + elapsed))
        stepper(run)
        for alert in views.alerts(run, lost=lost):
            st.warning(layout.plain(alert.text), icon=":material/warning:")
        left, right = st.columns(2, gap="large")
        with left:
            loss(run, state)
            with layout.section():
                routing(run)
        with right, layout.section():
            matrix(run, state)
        log(run, state)

    card()


def stepper(run: Run) -> None:
    """The tasks in their order: learned ones with their newest score, the one at work, those ahead."""
    looks = {"learned": ("green", "check"), "now": ("blue", "play_arrow"), "ahead": ("gray", "schedule")}
    badges = []
    for task in views.task_states(run).itertuples():
        colour, icon = looks[task.state]
        score = "" if task.score != task.score else f" {task.score:.2f}"
        name = layout.plain(task.name)
        badges.append(f":{colour}-badge[:material/{icon}: {task.Index + 1} {name}{score}]")
    if badges:
        st.markdown(" ".join(badges), help="Tasks in their order, each with its newest score.")


def loss(run: Run, state: str) -> None:
    st.subheader("Loss", anchor=False)
    table = views.losses(run)
    if table.empty:
        st.caption("The loss appears with the first steps." if state in jobs.ACTIVE else "It ended before the first step.")
        return
    alt = f"Loss over {len(table)} recorded steps, at the end {table['loss'].iloc[-1]:.3f}"
    tasks = list(dict.fromkeys(table["task"]))
    colours = [figures.task_style(task).colour for task in tasks]
    names = [f"task {task + 1}" for task in tasks]
    wide = table.pivot_table(index="index", columns="task", values="loss")[tasks].set_axis(names, axis=1).reset_index()
    st.line_chart(wide, x="index", y=names, color=colours, x_label="optimiser steps", y_label="loss", height=280, alt=alt)
    memory = " A jump marks where training on the memory begins." if (table["phase"] == RouterTraining.phase).any() else ""
    python = code_snippets.python_of(figures.loss_curve, views.losses, (run,), {})
    chart_card.footer("job_loss", f"The whole run, one colour per task.{memory}", python, [run], lambda: views.losses(run))


def matrix(run: Run, state: str) -> None:
    st.subheader("Scores", anchor=False)
    if not run.protocol.continual:
        st.dataframe(views.transfer_scores(run), key="job_transfer", alt="Scores of the held-out tasks by number of shots")
        return layout.how_to_read("Each held-out task before any of its examples is seen (0), and after adaptation to so many.")
    if not run.matrix and not run.scores.get("partial"):
        expected = "The first row appears when the first task is learned."
        return st.caption(expected if state in jobs.ACTIVE else "It ended before the first task was learned.")
    average = layout.number(run.metrics()[views.headline().path])
    chart_card.card(
        figures.accuracy_matrix,
        run,
        key="job_matrix",
        partial=True,
        table=views.accuracy_matrix,
        alt=f"Score matrix so far, average accuracy {average}",
        read="A row is added after each task: the scores on all tasks learned so far.",
    )


def routing(run: Run) -> None:
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
        read="One row per task: which experts its test examples are sent to. Rows sum to one.",
    )


def log(run: Run, state: str) -> None:
    text = views.log_tail(run)
    with st.expander("Log", expanded=bool(text) and state in ("failed", "lost"), icon=":material/terminal:"):
        st.code(text or "Nothing is written yet.", language=None, height=260 if text else "content")
        if text:
            st.download_button(
                "Whole log",
                lambda: (run.dir / "log.txt").read_bytes(),
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
        st.code(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True), language="yaml", height=320)
        facts = {name: run.info.get(name) for name in ("created", "started", "ended", "pid", "host") if run.info.get(name)}
        st.caption(" · ".join(f"{name} {layout.plain(value)}" for name, value in facts.items()))


def player() -> None:
    """Play a recorded example, or a replay file, as a live job."""
    with st.expander("Watch a replay", icon=":material/movie:", key="replay", bind="query-params"):
        st.caption("A recorded run happens again, faster, and this page treats it as live. Nothing is trained.")
        recorded = {run.id: run for run in recorded_examples.examples()}
        left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
        name = left.selectbox("Recorded example", list(recorded), key="replay_of", placeholder="There are none here")
        given = middle.file_uploader("or a replay file", type="jsonl", key="replay_file")
        speed = right.select_slider("Times as fast", [1, 2, 5, 10, 20, 50], 10, key="replay_speed")
        if st.button("Play", icon=":material/play_arrow:", key="replay_play", disabled=jobs.read_only() or not (name or given)):
            actions.attempt(play, given.getvalue() if given else recorded[name], speed)


def play(what: bytes | Run, speed: float) -> None:
    """Start a replay and watch it."""
    run = jobs.play(what if isinstance(what, bytes) else replay_file.trace(what), speed)
    st.switch_page(navigation.page("jobs"), query_params={"job": run.id})


def focused(run: Run) -> None:
    """The chosen run."""
    reason = views.problem(run)
    if reason:
        st.error(layout.plain(reason), title="This run cannot be read")
        return delete(run)
    state = run.status
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(layout.plain(run.id), anchor=False, width="content")
        layout.status_badge(state)
    if run.info.get("error"):
        st.error(layout.plain(run.info["error"]), title="The run failed")
    if state == "lost":
        st.warning(f"The process of this run ended without a result. Its log may say why. Resume: {onward(run).lower()}.")
    controls(run, state)
    live(run, state)
    frozen(run)


def draw() -> None:
    layout.heading("Jobs", "Every run is a folder and a process of its own: closing this page stops nothing.")
    actions.said()
    runs = all_runs()[::-1]
    player()
    if not runs:
        return run_picker.no_runs("There are no runs in this folder yet.")
    overview(runs)
    ids = [run.id for run in runs]
    busy = next((run.id for run in runs if run_table.status(run) in jobs.ACTIVE), ids[0])
    focused(run_picker.pick_run("Run to watch", "job", {run.id: run for run in runs}, busy))


draw()
