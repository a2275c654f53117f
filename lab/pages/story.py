"""The story of Start: two recorded runs learn the same tasks, one task at a time; played, stepped through or moved by hand."""

import time
from typing import Any

import streamlit as st

from lab import figures, views
from lab.pages import chart_card, curves, layout
from lab.run_folder.run import Run

PERIOD = 1.3  # seconds that a moment stays while the story plays
MOMENT, PLAYING = "after", "story plays"  # keys of the session: the slider, and whether it moves
DUE, BEFORE = "next moment", "moment before"  # when it moves next, and from where it moved last
TITLES = {
    "sequential": "One expert for all tasks, trained in sequence",
    "l2r": "One expert per task, with a learned router",
}


def pair_of(runs: list[Run]) -> tuple[Run, Run] | None:
    """The sequential and the routed run, if both exist and have the same tasks (at least two)."""
    by_recipe = {run.config["recipe"]: run for run in runs}
    sequential, routed = by_recipe.get("sequential"), by_recipe.get("l2r")
    if sequential and routed and sequential.tasks == routed.tasks and len(routed.tasks) > 1:
        return sequential, routed
    return None


def draw(sequential: Run, routed: Run) -> None:
    """The controls, the sentence, and both runs side by side; drawn again alone while it plays."""
    learned = min(len(sequential.matrix), len(routed.matrix))

    @st.fragment(run_every=PERIOD if st.session_state.get(PLAYING) else None)
    def stage() -> None:
        advance(learned)
        controls(routed.tasks, learned)
        after = st.session_state[MOMENT] - 1
        st.markdown(f"#### {conclusion(sequential, routed, after)}")
        curves.legend(routed.tasks)
        for column, run in zip(st.columns(2, gap="large"), (sequential, routed), strict=True):
            with column:
                st.markdown(f"**{TITLES[run.config['recipe']]}**")
                curves.forgetting(run, f"curves_{run.config['recipe']}", after)
                card(run, after)
        if st.toggle("Show the matrices", key="matrices", bind="query-params"):
            matrices((sequential, routed), after)

    stage()


def advance(learned: int) -> None:
    """The next moment, where the story plays and the time has come; at the last task it stops."""
    if time.monotonic() < st.session_state.get(DUE, 0.0):
        before = st.session_state.get(BEFORE)
        if before is not None and st.session_state.get(MOMENT) == before:  # asked for before the browser had the newest moment
            st.session_state[MOMENT] = before + 1
        return
    if not st.session_state.get(PLAYING):
        return
    st.session_state[BEFORE] = st.session_state.get(MOMENT, 1)
    st.session_state[MOMENT] = min(st.session_state[BEFORE] + 1, learned)
    st.session_state[DUE] = time.monotonic() + PERIOD * 0.8  # a call may come a little early
    if st.session_state[MOMENT] == learned:
        st.session_state[PLAYING] = False
        st.rerun()


def play(learned: int) -> None:
    """Begin, at the first task again where the story had ended; or pause."""
    st.session_state[PLAYING] = not st.session_state.get(PLAYING)
    st.session_state[DUE], st.session_state[BEFORE] = time.monotonic() + PERIOD / 2, None
    if st.session_state[PLAYING] and st.session_state.get(MOMENT) == learned:
        st.session_state[MOMENT] = 1


def move(moment: int) -> None:
    """Go to a moment (1-based) and stay there."""
    st.session_state[MOMENT] = moment
    st.session_state[PLAYING], st.session_state[BEFORE] = False, None


def offer(label: str, icon: str, moment: int, enabled: bool) -> None:
    """A button that goes to a moment. The whole page is drawn, so that a story that played stops moving by itself."""
    key = f"story_{label.lower()}"
    if st.button(label, icon=f":material/{icon}:", key=key, on_click=move, args=[moment], disabled=not enabled):
        st.rerun()


def controls(tasks: list[str], learned: int) -> None:
    """Play, Step, Reset and the slider."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        buttons = st.container(horizontal=True, gap="small", width="content")
        with st.container():
            moment = st.slider(
                "After task", 1, learned, key=MOMENT, bind="query-params", label_visibility="collapsed", format="task %d"
            )
        st.caption(f"after task {moment} of {len(tasks)}: **{layout.plain(tasks[moment - 1])}**", width="content")
    with buttons:  # after the slider, which takes its value from a link
        label, icon = ("Pause", "pause") if st.session_state.get(PLAYING) else ("Play", "play_arrow")
        if st.button(label, icon=f":material/{icon}:", type="primary", key="story_play", on_click=play, args=[learned]):
            st.rerun()  # the whole page: only then the story begins or ends to move by itself
        offer("Step", "skip_next", moment + 1, moment < learned)
        offer("Reset", "replay", 1, moment > 1)


def forgotten(metrics: dict[str, Any]) -> str:
    """Forgetting in words; old tasks that became better have lost nothing."""
    return f"{metrics['forgetting']:.2f}" if metrics["forgetting"] > 0 else "nothing"


def conclusion(sequential: Run, routed: Run, after: int) -> str:
    """One sentence computed from the numbers."""
    if after == 0:
        return "One task is learned, so there is nothing to forget yet. Press **Play** and watch what the next tasks do to it."
    of_routed, of_sequential = views.metrics_after(routed, after), views.metrics_after(sequential, after)
    score = views.headline()
    lead = of_routed[score.path] - of_sequential[score.path]
    return (
        f"After {after + 1} tasks, one expert trained in sequence has lost {forgotten(of_sequential)} per old task. Routing "
        f"among one expert per task has lost {forgotten(of_routed)}; its {score.title.lower()} is {abs(lead):.2f} "
        f"{'higher' if lead >= 0 else 'lower'}."
    )


def card(run: Run, after: int) -> None:
    """The two numbers of a run at this moment."""
    metrics = views.metrics_after(run, after)
    with st.container(border=True, gap="xxsmall", key=f"card_{run.config['recipe']}"):
        for column, measure in zip(st.columns(2), reversed(views.judged()[:2]), strict=True):
            column.caption(measure.title, help=measure.about)
            # Not st.metric: its script reaches the browser with that of the charts, seconds after the headings.
            column.header(layout.number(metrics[measure.path], "{:z.2f}"), anchor=False)


def matrices(runs: tuple[Run, Run], after: int) -> None:
    """The scores of both runs as matrices on one scale."""
    for column, run in zip(st.columns(2, gap="large"), runs, strict=True):
        recipe = run.config["recipe"]
        accuracy = views.metrics_after(run, after)[views.headline().path]
        with column:
            alt = f"Score matrix of {recipe} after task {after + 1}: average accuracy {accuracy:.3f}"
            chart_card.card(figures.accuracy_matrix, run, after, key=f"matrix_{recipe}", alt=alt, table=views.accuracy_matrix)
    layout.how_to_read(
        "Each row of a matrix is a moment: the scores on all tasks learned so far. Read down a column to see how the score of a "
        "task changes while others are learned. Blank cells are tasks not learned yet."
    )
