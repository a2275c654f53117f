"""Start: a finished story from recorded runs, told at the first look."""

import shlex
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

import lab
from lab import figures, views
from lab.pages import chart_card, layout, navigation, recorded_examples, run_picker, run_table
from lab.pages.train_form.presets import SMALL
from lab.run_folder.run import Run

NOTEBOOK = Path(lab.__file__).parents[1] / "notebooks" / "00_forgetting_in_five_minutes.ipynb"  # of a checkout
LINKS = {
    "train": [("recipe", "l2r"), *(("o", f"{name}={value}") for name, value in SMALL.items())],
    "jobs": [("replay", "true")],
}
TITLES = {
    "sequential": "One adapter for all tasks, trained in sequence",
    "l2r": "One adapter per task, with a learned router",
}


def story(runs: list[Run]) -> tuple[Run, Run] | None:
    """The sequential and the routed example, if both are there and learned the same tasks."""
    by_recipe = {run.config["recipe"]: run for run in runs}
    pair = by_recipe.get("sequential"), by_recipe.get("l2r")
    return pair if pair[0] and pair[1] and pair[0].tasks == pair[1].tasks and len(pair[1].tasks) > 1 else None


def own_share(run: Run, after: int) -> float | None:
    """Own-expert share at a moment: the one of the result at the end, else from the routing recorded then."""
    measured = run.result()["routing"].get("own_expert_share")
    if after == len(run.tasks) - 1 and measured is not None:
        return measured
    return views.own_share(run, after) if after in run.recorded() else None


def numeral(column: DeltaGenerator, name: str, title: str, value: str, note: str, about: str) -> None:
    """One number, large. Not st.metric: its script reaches the browser with that of the charts, seconds after the headings."""
    with column.container(border=True, height="stretch", gap="xxsmall", key=f"number_{name}"):
        st.markdown(title, help=about)
        st.header(value, anchor=False)
        st.markdown(f":small[{note}]")


def metrics(sequential: Run, routed: Run, after: int) -> None:
    """Three numbers of the routed run, with the difference to the sequential one."""
    here, there = views.metrics_after(routed, after), views.metrics_after(sequential, after)
    columns = st.columns(3)
    for column, measure in zip(columns, views.judged()[:2], strict=False):
        name = measure.path
        note = here["why"].get(name)
        if here[name] is not None and there[name] is not None:
            change = here[name] - there[name]
            better = change < 0 if measure.lower_is_better else change > 0
            note = f":{'green' if better else 'red' if change else 'gray'}[{change:+.3f}] against sequential"
        numeral(column, name, measure.title, layout.number(here[name]), note, measure.about)
    own = layout.number(own_share(routed, after))
    about = "1 would be a perfect router; one over the number of tasks is chance."
    numeral(columns[2], "own_share", "Own-expert share", own, "of the weight goes to the task's own adapter", about)


def lost(measured: dict[str, Any]) -> str:
    """Forgetting in words; old tasks that became better have lost nothing."""
    return f"{measured['forgetting']:.2f}" if measured["forgetting"] > 0 else "nothing"


def conclusion(sequential: Run, routed: Run, after: int) -> str:
    """One sentence computed from the numbers."""
    here, there = views.metrics_after(routed, after), views.metrics_after(sequential, after)
    if after == 0:
        return "After the first task there is nothing to forget yet: move on to the second."
    ahead = here[views.headline().path] - there[views.headline().path]
    better = "more" if ahead >= 0 else "less"
    return (
        f"After {after + 1} tasks, one adapter trained in sequence has lost {lost(there)} per old task; routing among one "
        f"adapter per task has lost {lost(here)}, and scores {abs(ahead):.2f} {better} over all tasks."
    )


def side_by_side(runs: tuple[Run, Run], after: int) -> None:
    """Matrices and curves of both runs on one scale."""
    for column, run in zip(st.columns(2, gap="large"), runs, strict=True):
        recipe = run.config["recipe"]
        accuracy = views.metrics_after(run, after)[views.headline().path]
        with column:
            st.subheader(TITLES[recipe], anchor=False)
            alt = f"Score matrix of {recipe} after task {after + 1}: average accuracy {accuracy:.3f}"
            chart_card.card(figures.accuracy_matrix, run, after, key=f"matrix_{recipe}", alt=alt, table=views.accuracy_matrix)
            alt = f"Score of each task over the stream for {recipe}, up to task {after + 1}"
            chart_card.card(figures.forgetting_curves, run, after, key=f"curves_{recipe}", alt=alt, table=views.forgetting_curves)


def doors() -> None:
    """Where to go from here."""
    ways = [
        ("learn", "Take a lesson", "Say what you expect, then look: forgetting, routing, composition."),
        ("train", "Train a tiny run", "A few examples of every task, on this machine; watch it learn and forget."),
        ("jobs", "Watch a replay", "A recorded run as if it were live, faster, without training."),
        ("compare", "Compare runs", "Numbers, matrices and differences of two or more runs."),
        ("routing", "Look into the routing", "Which adapter answers, per task, layer and routing head."),
        ("playground", "Type a text", "See which adapters answer it, change the routing, and look again."),
    ]
    for row in (ways[:3], ways[3:]):
        for column, (name, title, about) in zip(st.columns(3), row, strict=True):
            with column.container(border=True, height="stretch"):
                st.page_link(navigation.page(name), label=f"**{title}**", query_params=LINKS.get(name))
                st.caption(about)
    if NOTEBOOK.is_file():  # not st.code: its highlighter is 1.5 MB of script, which this page would wait for
        command = f"jupyter lab {shlex.quote(str(NOTEBOOK))}"
        st.caption(f":material/menu_book: The same figures in a notebook, cell by cell: `{command}`")


def draw() -> None:
    layout.heading(
        "What does a model forget?",
        "A language model learns one task after another. With one adapter for all of them it forgets; "
        "with one adapter per task, something has to choose among them.",
    )
    pair = story(recorded_examples.examples())
    if pair is None:
        run_table.warn_of_damaged_examples()
        st.info("No pair of recorded examples can be shown here. Train your own run to see its story.")
        return doors()
    sequential, routed = pair
    st.badge("recorded example", icon=":material/movie:", color="violet", help="Trained before and shipped with the lab.")
    learned = min(len(sequential.matrix), len(routed.matrix))
    after = run_picker.pick_task(routed.tasks, "after", learned)
    metrics(sequential, routed, after)
    st.markdown(f"#### {conclusion(sequential, routed, after)}")
    side_by_side(pair, after)
    layout.how_to_read(
        "Each row of a matrix is a moment: the scores on all tasks learned so far. Look down a column to see what happens to a "
        "task while others are learned. Blank cells are tasks not learned yet."
    )
    doors()


draw()
