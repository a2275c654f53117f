"""The table of all runs on Jobs: status, scores and notes; what can be done with the chosen ones; the queue."""

import hashlib
from typing import Any

import pandas as pd
import streamlit as st

from lab import views
from lab.jobs import jobs
from lab.pages import actions, layout, navigation
from lab.run_folder.run import Run
from lab.store import index
from lab.store.turns import safe_status

PERIOD = 3.0  # seconds between two updates while a run is active
CHOSEN, DRAWN = "jobs/chosen", "jobs/drawn"  # keys in the session: ids of the chosen rows, and the key of the table as drawn
ALIKE = ("recipe", "stream", "scenario", "backbone")  # what runs share of which one is the repetition of another
VISIBLE = 8  # rows up to which the table is as high as its content


def overview(runs: list[Run]) -> None:
    """The table of all runs, newest first, with actions on the chosen rows; refreshed while a run is active."""
    active = any(safe_status(run) in jobs.ACTIVE for run in index.unended())

    @st.fragment(run_every=PERIOD if active else None)
    def listing() -> None:
        rows = views.runs_table(runs)
        offered = st.container()
        table(rows)
        chosen = set(st.session_state.get(CHOSEN, ()))
        with offered:
            act_on([run for run in runs if run.id in chosen])

    listing()
    queue(jobs.waiting())


def table(rows: pd.DataFrame) -> None:
    """The rows, of which several can be chosen; a choice stays with its runs where rows come and go."""
    positions = {run.id: position for position, run in enumerate(jobs.waiting(), 1)}
    known = rows.to_dict("records")
    rows["state"] = [f"queued, {positions[row['run']]}." if row["run"] in positions else row["status"] for row in known]
    rows["learned"] = [f"{row['learned']:.0f}/{row['tasks']:.0f}" if row["tasks"] > 0 else "–" for row in known]
    scores = {measure.path: measure.title.lower() for measure in views.judged()}
    rows["progress"] = rows["progress"].astype(float)
    for path in scores:
        rows[path] = rows[path].astype(float).round(3) + 0.0  # no "-0.000"
    for name in ("recipe", "stream", "seed", "note"):
        rows[name] = ["–" if pd.isna(value) else str(value) for value in rows[name]]
    columns = {
        "title": st.column_config.TextColumn("run", pinned=True),
        "state": st.column_config.TextColumn("status", help="Determined from the files and the process each time."),
        "progress": st.column_config.ProgressColumn("progress", min_value=0, max_value=1, format="percent"),
        "learned": "tasks learned",
        **{path: st.column_config.NumberColumn(title, format="%.3f") for path, title in scores.items()},
        "created": st.column_config.DatetimeColumn("created", format="distance"),
        "note": st.column_config.TextColumn("note", width="medium"),
        "reason": st.column_config.TextColumn("remark", width="medium"),
        "run": st.column_config.TextColumn("id"),
    }
    order = ["title", "state", "progress", "learned", *scores, "note", "recipe", "stream", "seed", "created", "reason", "run"]
    ids = list(rows["run"])
    chosen = set(st.session_state.get(CHOSEN, ()))
    key = f"job_table/{hashlib.sha256(repr(ids).encode()).hexdigest()[:12]}"  # for other rows another table
    st.session_state[DRAWN] = key
    st.dataframe(
        rows,
        hide_index=True,
        column_order=order,
        column_config=columns,
        height="content" if len(rows) <= VISIBLE else 320,
        key=key,
        alt="All runs with status, progress and scores",
        placeholder="–",
        on_select=lambda: choose(key, ids),
        selection_mode="multi-row",
        selection_default={"selection": {"rows": [row for row, id in enumerate(ids) if id in chosen]}},
    )


def choose(key: str, ids: list[str]) -> None:
    """Remember the runs of the chosen rows of a table, in a callback.

    A browser tells of a choice again when it asks for something, and of that in a table that other rows have replaced.
    """
    if key == st.session_state[DRAWN]:
        st.session_state[CHOSEN] = [ids[row] for row in st.session_state[key]["selection"]["rows"]]


def act_on(runs: list[Run]) -> None:
    """Buttons for what can be done with these runs, each for as many of them as it fits."""
    if not runs:
        st.caption("Choose rows by the boxes at their left to compare, repeat, resume, stop or delete several runs at once.")
        return
    reason = jobs.why_read_only()
    states = {run: safe_status(run) for run in runs}
    waiting = jobs.waiting()
    readable = [run for run in runs if states[run] != "damaged" and not views.problem(run)]
    repeatable = [run for run in readable if not run.info.get("replay")]
    scored = [run for run in readable if views.learned(run)]
    resumable = [run for run in repeatable if states[run] in jobs.RESUMABLE and run not in waiting]
    running = [run for run in runs if states[run] in jobs.ACTIVE]
    idle = [run for run in runs if states[run] not in jobs.ACTIVE or run in waiting]

    def offer(label: str, icon: str, key: str, fitting: list[Run], about: str) -> bool:
        title = label if len(fitting) == len(runs) else f"{label} {len(fitting)}"
        disabled = bool(reason) or not fitting
        return st.button(title, icon=f":material/{icon}:", disabled=disabled, help=reason or about, key=key)

    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{len(runs)} chosen**", width="content")
        if len(runs) == 1:
            navigation.link("jobs", "Watch", ":material/visibility:", {"job": runs[0].id})
        if len(scored) > 1:
            navigation.link("compare", "Compare", ":material/compare_arrows:", {"runs": [run.id for run in scored]})
        about = "Queues each with its settings and the next seed that no run of its recipe and stream has."
        if offer("Repeat", "replay", "repeat_chosen", repeatable, about):
            actions.attempt(repeat, repeatable)
        about = "Puts these into the queue, where they go on in turn."
        if resumable and offer("Resume", "resume", "resume_chosen", resumable, about):
            actions.attempt(each, jobs.enqueue, resumable)
        if running and offer("Stop", "stop_circle", "stop_chosen", running, "Each ends after its current task."):
            actions.attempt(each, jobs.stop, running)
        if offer("Delete", "delete", "delete_chosen", idle, "Moves these into the trash, from where they can be restored."):
            actions.confirm_delete(idle)


def each(action: Any, runs: list[Run]) -> None:
    """Call an action on every run."""
    for run in runs:
        action(run)


def repeat(runs: list[Run]) -> None:
    """Queue the settings of every run with the next seed that no run of its recipe, stream, scenario and backbone has."""
    for run in runs:
        own, *others = index.rows([run, *index.runs()])
        alike = [
            row for row in others if all(row.get(name) == own[name] for name in ("recipe", "stream", "scenario", "backbone"))
        ]
        jobs.enqueue(run.config | {"seed": max(row["seed"] for row in (own, *alike)) + 1})


def queue(waiting: list[Run]) -> None:
    """Pause or continue the queue; shown while a run waits or the queue is paused."""
    paused = jobs.paused()
    if not waiting and not paused:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        names = ", ".join(layout.plain(run.title) for run in waiting[:3]) + (" …" if len(waiting) > 3 else "")
        st.markdown(f"**Queue:** {len(waiting)} waiting{f' ({names})' if waiting else ''}{', paused' if paused else ''}")
        if st.button(
            "Continue the queue" if paused else "Pause the queue",
            icon=":material/play_arrow:" if paused else ":material/pause:",
            disabled=jobs.read_only(),
            key="queue_hold",
            help="Waiting runs start one after another. A pause does not stop the run that is training.",
        ):
            actions.attempt(jobs.pause, not paused)
