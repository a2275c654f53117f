"""Start: forgetting and routing, played with two recorded runs, then a run and a text of one's own, and links to the rest."""

import shlex
from pathlib import Path

import streamlit as st

from lab.pages import first_steps, layout, navigation, recorded_examples, run_table, story
from lab.pages.train_form.presets import SMALL

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "00_forgetting_in_five_minutes.ipynb"  # of a checkout
LINKS = {
    "train": {"recipe": "l2r", "o": [f"{name}={value}" for name, value in SMALL.items()]},
    "jobs": {"replay": "true"},
}


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
        "A frozen language model learns one task after another. What it learns is kept in experts, small sets of "
        "added weights: one for all tasks, or one per task and a router that chooses among them.",
    )
    pair = story.pair_of(recorded_examples.examples())
    if pair is None:
        run_table.warn_of_damaged_examples()
        st.info("There is no pair of recorded examples to show. Train a run of your own to see its results.")
        doors()
        return
    with layout.section():
        story.draw(*pair)
    first_steps.draw(pair[1])
    st.header("Go on", anchor=False)
    doors()


draw()
