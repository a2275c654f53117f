"""Learn: lessons over recorded runs, card by card; predict, then uncover. Nothing is trained."""

from typing import Any

import pandas as pd
import streamlit as st

from lab import figures, views
from lab.core.errors import LabError
from lab.lessons import lesson
from lab.lessons.lesson import Card, Lesson, Prediction, Question, Show
from lab.pages import chart_card, layout, navigation, recorded_examples, url_state
from lab.run_folder.run import Run

CLOSE = 0.1  # a guess that is no farther off is called close


def gallery(files: list[str]) -> None:
    """All lessons as cards; a broken one says what is wrong and leaves the others alone."""
    found: dict[str, Lesson] = {}
    for name in files:
        try:
            found[name] = lesson.read_lesson(name)
        except LabError as error:
            st.warning(layout.plain(error), icon=":material/broken_image:")
    if not found:
        st.info("There are no lessons here. A lesson is a YAML file with a title and cards in the folder LAB_LESSONS.")
        return
    columns = st.columns(3)
    for place, (name, one) in enumerate(sorted(found.items(), key=lambda item: (item[1].place, item[0]))):
        with columns[place % 3].container(border=True, height="stretch"):
            st.markdown(f"#### {layout.plain(one.title)}")
            st.caption(layout.plain(one.about))
            st.caption(f":material/schedule: {one.minutes} minutes · {len(one.cards)} cards")
            link = {"lesson": name, "card": "1"}
            st.page_link(navigation.page("learn"), label="Begin", icon=":material/play_arrow:", query_params=link)


def turn(to: int) -> None:
    st.session_state["card"] = to


def guided(name: str, one: Lesson) -> None:
    """The lesson at its current card."""
    steps = list(range(1, len(one.cards) + 1))
    url_state.set_default("card", [str(step) for step in steps], "1")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.page_link(navigation.page("learn"), label="All lessons", icon=":material/arrow_back:")
        st.markdown(f"**{layout.plain(one.title)}**")
    chosen = st.segmented_control(
        "Card", [str(step) for step in steps], key="card", bind="query-params", required=True, label_visibility="collapsed"
    )
    at = int(chosen or 1)
    hidden = {*one.hide, *st.query_params.get_all("hide")}
    runs = {run.id: run for run in recorded_examples.examples()}
    with st.container(key=f"lesson_{name}_{at}"):
        card(f"learn/{name}/{at}", one.cards[at - 1], runs, hidden)
    with st.container(horizontal=True, horizontal_alignment="distribute"):
        st.button("Back", icon=":material/arrow_back:", disabled=at == 1, on_click=turn, args=[str(at - 1)], key="learn_back")
        if at < len(steps):
            words = {"icon": ":material/arrow_forward:", "icon_position": "right", "type": "primary", "key": "learn_next"}
            st.button("Next", on_click=turn, args=[str(at + 1)], **words)
        elif one.preset and "train" not in hidden:
            link = {"recipe": one.preset.recipe, "o": one.preset.set}
            st.page_link(
                navigation.page("train"),
                label=f"**{layout.plain(one.preset.label)}**",
                icon=":material/model_training:",
                query_params=link,
            )


def card(key: str, one: Card, runs: dict[str, Run], hidden: set[str]) -> None:
    """One card: text, prediction, figures, question; figures stay covered until the prediction is made."""
    st.subheader(layout.plain(one.title), anchor=False)
    st.markdown(one.text)
    if one.predict and not predict(f"{key}/predict", one.predict, runs):
        return
    for number, show in enumerate(one.show):
        with layout.section():
            draw_figure(f"{key}/show{number}".replace("/", "_"), show, runs, hidden)
    if one.question:
        ask(f"{key}/question", one.question)


def predict(key: str, one: Prediction, runs: dict[str, Run]) -> bool:
    """Sliders for the guesses, and the answers once they are asked for; returns whether these are shown."""
    try:
        truths = [lesson.truth(point, runs) for point in one.points]
    except LabError as error:
        st.warning(layout.plain(error), icon=":material/broken_image:")
        return True
    shown = st.session_state.get(f"{key}/shown", False)
    with st.container(border=True):
        st.markdown(f"**Predict:** {one.ask}")
        columns = st.columns(min(len(one.points), 4))
        guesses = [
            columns[place % len(columns)].slider(
                layout.plain(point.label),
                0.0,
                1.0,
                0.5,
                0.01,
                key=f"{key}/{place}",
                disabled=shown,
                persist_state="session",
                on_change=st.session_state.__setitem__,
                args=[f"{key}/made", True],
            )
            for place, point in enumerate(one.points)
        ]
        if not shown:
            made = st.session_state.get(f"{key}/made", False)
            st.button(
                "Uncover the answer",
                type="primary",
                disabled=not made,
                key=f"{key}/reveal",
                icon=":material/visibility:",
                help=None if made else "Move a slider first: say what you expect.",
                on_click=st.session_state.__setitem__,
                args=[f"{key}/shown", True],
            )
            return False
        answer(key, one, guesses, truths)
    return True


def answer(key: str, one: Prediction, guesses: list[float], truths: list[float]) -> None:
    """Guesses beside what was measured, and what to see in it."""
    labels = [point.label for point in one.points]
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
    off = sum(abs(guess - true) for guess, true in zip(guesses, truths, strict=True)) / len(truths)
    st.markdown(f"**{'Close' if off <= CLOSE else 'Surprised?'}** Your guesses are {off:.2f} off on average. {one.tell}")


def draw_figure(key: str, show: Show, runs: dict[str, Run], hidden: set[str]) -> None:
    """A figure of recorded runs; where the card leaves the moment open, a slider chooses it."""
    missing = [name for name in show.runs if name not in runs]
    if missing:
        raise LabError(f"the recorded run '{missing[0]}' of this lesson is not installed")
    chosen = [runs[name] for name in show.runs]
    if show.figure == "average_curves":
        alt = f"Average accuracy after each task of {', '.join(run.config['recipe'] for run in chosen)}"
        return plot(figures.average_curves, views.average_curves, (chosen,), key, alt, show.read, hidden)
    run = chosen[0]
    learned = len(run.matrix)
    after = min(show.after or learned, learned)
    if show.after is None and learned > 1 and "after" not in hidden:
        after = st.slider("After task", 1, learned, learned, key=f"{key}_after", bind="query-params", persist_state="session")
    alt = f"{show.figure.replace('_', ' ')} of {run.config['recipe']} after task {after}"
    plot(getattr(figures, show.figure), getattr(views, show.figure), (run, after - 1), key, alt, show.read, hidden)


def plot(draw: Any, table: Any, given: tuple[Any, ...], key: str, alt: str, read: str, hidden: set[str]) -> None:
    if "code" in hidden:
        chart_card.chart(draw(*given), key, alt)
        if read:
            layout.how_to_read(read)
    else:
        chart_card.card(draw, *given, key=key, alt=alt, table=table, read=read)


def ask(key: str, one: Question) -> None:
    """A question with one right option; every answer gets the reason."""
    with st.container(border=True):
        picked = st.radio(one.ask, one.options, index=None, key=key, persist_state="session")
        if picked is None:
            return
        if one.options.index(picked) + 1 == one.right:
            st.success(f"Yes. {one.why}", icon=":material/check_circle:")
        else:
            st.info(f"Not quite: {one.options[one.right - 1]}. {one.why}", icon=":material/lightbulb:")


def draw() -> None:
    layout.heading("Lessons", "Say what you expect, then look. Recorded runs, so nothing has to be trained.")
    files = list(lesson.lesson_files())
    name = st.query_params.get("lesson")
    if name is None:
        return gallery(files)
    try:
        one = lesson.read_lesson(name)
    except LabError as error:
        st.warning(layout.plain(error), icon=":material/broken_image:")
        return gallery(files)
    guided(name, one)


draw()
