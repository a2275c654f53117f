"""Start: forgetting and routing, shown with two recorded runs, and links to everything else."""

import shlex
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lab import figures, views
from lab.pages import chart_card, layout, navigation, recorded_examples, run_picker, run_table
from lab.pages.train_form.presets import SMALL
from lab.run_folder.run import Run

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "00_forgetting_in_five_minutes.ipynb"  # of a checkout
LINKS = {
    "train": {"recipe": "l2r", "o": [f"{name}={value}" for name, value in SMALL.items()]},
    "jobs": {"replay": "true"},
}
TITLES = {
    "sequential": "One expert for all tasks, trained in sequence",
    "l2r": "One expert per task, with a learned router",
}


def example_pair(runs: list[Run]) -> tuple[Run, Run] | None:
    """The sequential and the routed example, if both exist and have the same tasks (at least two)."""
    by_recipe = {run.config["recipe"]: run for run in runs}
    sequential, routed = by_recipe.get("sequential"), by_recipe.get("l2r")
    if sequential and routed and sequential.tasks == routed.tasks and len(routed.tasks) > 1:
        return sequential, routed
    return None


def own_share(run: Run, after: int) -> float | None:
    """Own-expert share after task `after`: that of the result at the end, else that of the routing recorded then."""
    of_result = run.result()["routing"].get("own_expert_share")
    if after == len(run.tasks) - 1 and of_result is not None:
        return of_result
    return views.own_share(run, after) if after in run.recorded() else None


def numeral(column: DeltaGenerator, name: str, title: str, value: str, note: str, about: str) -> None:
    """One number, large. Not st.metric: its script reaches the browser with that of the charts, seconds after the headings."""
    with column.container(border=True, height="stretch", gap="xxsmall", key=f"number_{name}"):
        st.markdown(title, help=about)
        st.header(value, anchor=False)
        st.markdown(f":small[{note}]")


def metrics(sequential: Run, routed: Run, after: int) -> None:
    """Three numbers of the routed run, two of them with the difference to the sequential run."""
    of_routed, of_sequential = views.metrics_after(routed, after), views.metrics_after(sequential, after)
    columns = st.columns(3)
    for column, measure in zip(columns, views.judged()[:2], strict=False):
        name = measure.path
        note = of_routed["why"].get(name)
        if of_routed[name] is not None and of_sequential[name] is not None:
            change = of_routed[name] - of_sequential[name]
            better = change < 0 if measure.lower_is_better else change > 0
            note = f":{'green' if better else 'red' if change else 'gray'}[{change:+z.3f}] compared with sequential"
        numeral(column, name, measure.title, layout.number(of_routed[name]), note, measure.about)
    share = layout.number(own_share(routed, after))
    about = "1: a perfect router. One divided by the number of tasks: a random choice."
    numeral(columns[2], "own_share", "Own-expert share", share, "of the routing weight goes to the task's own expert", about)


def forgotten(metrics: dict[str, Any]) -> str:
    """Forgetting in words; old tasks that became better have lost nothing."""
    return f"{metrics['forgetting']:.2f}" if metrics["forgetting"] > 0 else "nothing"


def conclusion(sequential: Run, routed: Run, after: int) -> str:
    """One sentence computed from the numbers."""
    of_routed, of_sequential = views.metrics_after(routed, after), views.metrics_after(sequential, after)
    if after == 0:
        return "After the first task there is nothing to forget yet: move the slider to the second task."
    score = views.headline()
    lead = of_routed[score.path] - of_sequential[score.path]
    return (
        f"After {after + 1} tasks, one expert trained in sequence has lost {forgotten(of_sequential)} per old task. Routing "
        f"among one expert per task has lost {forgotten(of_routed)}; its {score.title.lower()} is {abs(lead):.2f} "
        f"{'higher' if lead >= 0 else 'lower'}."
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
    """Links to the other pages."""
    ways = [
        ("learn", "Take a lesson", "Predict a result, then compare it with the measured one: forgetting, routing, composition."),
        ("train", "Train a tiny run", "A few examples of every task, on this machine; watch it learn and forget."),
        ("jobs", "Watch a replay", "A recorded run plays like a live one, only faster. Nothing is trained."),
        ("compare", "Compare runs", "Numbers, matrices and differences of two or more runs."),
        ("routing", "Look into the routing", "Which expert is chosen, by task, layer and routing head."),
        ("playground", "Type a text", "See which experts are chosen for it, change the routing, and compare the answers."),
    ]
    for row in (ways[:3], ways[3:]):
        for column, (name, title, about) in zip(st.columns(3), row, strict=True):
            with column.container(border=True, height="stretch"):
                navigation.link(name, f"**{title}**", query=LINKS.get(name, {}))
                st.caption(about)
    if NOTEBOOK.is_file():  # not st.code: its highlighter is 1.5 MB of script, which this page would wait for
        command = f"jupyter lab {shlex.quote(str(NOTEBOOK))}"
        st.caption(f":material/menu_book: The same figures in a notebook, cell by cell: `{command}`")


def draw() -> None:
    layout.heading(
        "What does a model forget?",
        "A frozen language model learns one task after another. What it learns is kept in experts, small sets of added weights. "
        "With one expert for all tasks it forgets earlier tasks; with one expert per task, a router has to choose among them.",
    )
    pair = example_pair(recorded_examples.examples())
    if pair is None:
        run_table.warn_of_damaged_examples()
        st.info("There is no pair of recorded examples to show. Train a run of your own to see its results.")
        doors()
        return
    sequential, routed = pair
    st.badge(
        "recorded example", icon=":material/movie:", color="violet", help="These runs were trained before and come with the lab."
    )
    learned = min(len(sequential.matrix), len(routed.matrix))
    after = run_picker.pick_task(routed.tasks, "after", learned)
    metrics(sequential, routed, after)
    st.markdown(f"#### {conclusion(sequential, routed, after)}")
    side_by_side(pair, after)
    layout.how_to_read(
        "Each row of a matrix is a moment: the scores on all tasks learned so far. Read down a column to see how the score of a "
        "task changes while others are learned. Blank cells are tasks not learned yet."
    )
    doors()


draw()
