"""Lessons: recorded runs, card by card; predict a result, then uncover the measured one. Nothing is trained."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from lab import figures, views
from lab.core.errors import LabError
from lab.lessons import lesson
from lab.lessons.lesson import Card, Lesson, Prediction, Question, Show
from lab.pages import chart_card, layout, navigation, recorded_examples, url_state
from lab.run_folder.run import Run

CLOSE = 0.1  # mean distance up to which guesses are called close


def gallery(files: list[str]) -> None:
    """All lessons as cards; a broken one shows its error and leaves the others alone."""
    lessons: dict[str, Lesson] = {}
    for name in files:
        try:
            lessons[name] = lesson.read_lesson(name)
        except LabError as error:
            st.warning(layout.plain(error), icon=":material/broken_image:")
    if not lessons:
        st.info("There are no lessons here. A lesson is a YAML file with a title and cards in the folder LAB_LESSONS.")
        return
    columns = st.columns(3)
    for index, (name, entry) in enumerate(sorted(lessons.items(), key=lambda item: (item[1].place, item[0]))):
        with columns[index % 3].container(border=True, height="stretch"):
            st.markdown(f"#### {layout.plain(entry.title)}")
            st.caption(layout.plain(entry.about))
            st.caption(f":material/schedule: {entry.minutes} minutes · {len(entry.cards)} cards")
            navigation.link("learn", "Begin", ":material/play_arrow:", {"lesson": name, "card": "1"})


def turn_to(number: str) -> None:
    st.session_state["card"] = number


def guided(name: str, opened: Lesson) -> None:
    """The lesson at its current card."""
    numbers = [str(number) for number in range(1, len(opened.cards) + 1)]
    url_state.set_default("card", numbers, "1")
    st.session_state.setdefault("card", st.query_params.get("card", "1"))  # Begin has just written it: else no card is marked
    with st.container(horizontal=True, vertical_alignment="center"):
        navigation.link("learn", "All lessons", ":material/arrow_back:")
        st.markdown(f"**{layout.plain(opened.title)}**")
    chosen = st.segmented_control("Card", numbers, key="card", bind="query-params", required=True, label_visibility="collapsed")
    number = int(chosen or 1)
    hidden = {*opened.hide, *st.query_params.get_all("hide")}
    runs = {run.id: run for run in recorded_examples.examples()}
    with st.container(key=f"lesson_{name}_{number}"):
        card(f"learn/{name}/{number}", opened.cards[number - 1], runs, hidden)
    with st.container(horizontal=True, horizontal_alignment="distribute"):
        back = {"on_click": turn_to, "args": [str(number - 1)], "key": "learn_back"}
        st.button("Back", icon=":material/arrow_back:", disabled=number == 1, **back)
        if number < len(numbers):
            st.button(
                "Next",
                on_click=turn_to,
                args=[str(number + 1)],
                icon=":material/arrow_forward:",
                icon_position="right",
                type="primary",
                key="learn_next",
            )
        elif opened.preset and "train" not in hidden:
            query = {"recipe": opened.preset.recipe, "o": opened.preset.set}
            navigation.link("train", f"**{layout.plain(opened.preset.label)}**", ":material/model_training:", query)


def card(key: str, content: Card, runs: dict[str, Run], hidden: set[str]) -> None:
    """One card: text, prediction, figures, question; figures stay covered until the prediction is made."""
    st.subheader(layout.plain(content.title), anchor=False)
    st.markdown(content.text)
    if content.predict and not predict(f"{key}/predict", content.predict, runs):
        return
    for number, show in enumerate(content.show):
        with layout.section():
            draw_figure(f"{key}/show{number}".replace("/", "_"), show, runs, hidden)
    if content.question:
        ask(f"{key}/question", content.question)


def predict(key: str, prediction: Prediction, runs: dict[str, Run]) -> bool:
    """Sliders for the guesses, and the measured values on request; returns whether these are shown."""
    try:
        truths = [lesson.truth(point, runs) for point in prediction.points]
    except LabError as error:
        st.warning(layout.plain(error), icon=":material/broken_image:")
        return True
    shown = st.session_state.get(f"{key}/shown", False)
    with st.container(border=True):
        st.markdown(f"**Predict:** {prediction.ask}")
        columns = st.columns(min(len(prediction.points), 4))
        guesses = [
            columns[index % len(columns)].slider(
                layout.plain(point.label),
                0.0,
                1.0,
                0.5,
                0.01,
                key=f"{key}/{index}",
                disabled=shown,
                persist_state="session",
                on_change=st.session_state.__setitem__,
                args=[f"{key}/moved", True],
            )
            for index, point in enumerate(prediction.points)
        ]
        if not shown:
            moved = st.session_state.get(f"{key}/moved", False)
            st.button(
                "Uncover the answer",
                type="primary",
                disabled=not moved,
                key=f"{key}/reveal",
                icon=":material/visibility:",
                help=None if moved else "Move a slider first: make your prediction.",
                on_click=st.session_state.__setitem__,
                args=[f"{key}/shown", True],
            )
            return False
        show_measured(key, prediction, guesses, truths)
    return True


def show_measured(key: str, prediction: Prediction, guesses: list[float], truths: list[float]) -> None:
    """Guesses beside the measured values, and what to learn from them."""
    labels = [point.label for point in prediction.points]
    pairs = "; ".join(f"{n}: guess {g:.2f}, measured {t:.2f}" for n, g, t in zip(labels, guesses, truths, strict=True))
    chart_card.card(
        figures.guesses,
        labels,
        guesses,
        [round(truth, 4) for truth in truths],
        key=f"{key}/chart".replace("/", "_"),
        alt=pairs,
        table=lambda labels, guesses, truths: pd.DataFrame({"guess": guesses, "measured": truths}, labels),
    )
    error = sum(abs(guess - truth) for guess, truth in zip(guesses, truths, strict=True)) / len(truths)
    verdict = "Close." if error <= CLOSE else "Surprised?"
    st.markdown(f"**{verdict}** Your guesses are {error:.2f} off on average. {prediction.tell}")


def draw_figure(key: str, show: Show, runs: dict[str, Run], hidden: set[str]) -> None:
    """A figure of recorded runs; where the card leaves the moment open, a slider chooses it."""
    missing = [name for name in show.runs if name not in runs]
    if missing:
        raise LabError(f"the recorded run '{missing[0]}' of this lesson is not installed")
    chosen = [runs[name] for name in show.runs]
    if show.figure == "average_curves":
        alt = f"Average accuracy after each task of {', '.join(run.config['recipe'] for run in chosen)}"
        plot(figures.average_curves, views.average_curves, (chosen,), key, alt, show.read, hidden)
        return
    run = chosen[0]
    learned = len(run.matrix)
    after = min(show.after or learned, learned)
    if show.after is None and learned > 1 and "after" not in hidden:
        after = st.slider("After task", 1, learned, learned, key=f"{key}_after", bind="query-params", persist_state="session")
    alt = f"{show.figure.replace('_', ' ')} of {run.config['recipe']} after task {after}"
    plot(getattr(figures, show.figure), getattr(views, show.figure), (run, after - 1), key, alt, show.read, hidden)


def plot(
    draw: Callable[..., Any],
    table: Callable[..., Any],
    arguments: tuple[Any, ...],
    key: str,
    alt: str,
    read: str,
    hidden: set[str],
) -> None:
    """A chart; with its code and numbers unless the lesson hides "code"."""
    if "code" in hidden:
        chart_card.chart(draw(*arguments), key, alt)
        if read:
            layout.how_to_read(read)
    else:
        chart_card.card(draw, *arguments, key=key, alt=alt, table=table, read=read)


def ask(key: str, question: Question) -> None:
    """A question with one right option; every answer is explained."""
    with st.container(border=True):
        picked = st.radio(question.ask, question.options, index=None, key=key, persist_state="session")
        if picked is None:
            return
        if question.options.index(picked) + 1 == question.right:
            st.success(f"Yes. {question.why}", icon=":material/check_circle:")
        else:
            st.info(f"Not quite: {question.options[question.right - 1]}. {question.why}", icon=":material/lightbulb:")


def draw() -> None:
    layout.heading("Lessons", "Predict a result, then uncover the measured one. All runs are recorded, so nothing is trained.")
    files = list(lesson.lesson_files())
    name = st.query_params.get("lesson")
    if name is None:
        gallery(files)
        return
    try:
        opened = lesson.read_lesson(name)
    except LabError as error:
        st.warning(layout.plain(error), icon=":material/broken_image:")
        gallery(files)
        return
    guided(name, opened)


draw()
