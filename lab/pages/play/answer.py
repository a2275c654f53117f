"""What a model answered: the sentence on top, probabilities of classes, and the tokens of what it said."""

import pandas as pd
import streamlit as st

from lab import figures
from lab.pages import chart_card, layout
from lab.run_folder.prediction import Answer

CLASSES = 8  # bars of classes
SCORES = {"exact_match": "exact match", "rouge_l": "ROUGE-L"}


def sentence(answers: dict[str, Answer], lead: str) -> str:
    """The prediction in words; `lead` begins the clause on the second answer."""
    original, *others = answers.values()
    probability = float(original.probabilities.max())
    text = named(original)
    if probability == probability:
        text += f" with probability {share(probability)}"
    if original.label is not None:
        kind = "right answer" if original.writes else "true class"
        text += f"; the {kind} is **{layout.plain(original.label)}**"
    for other in others:
        same = other.prediction == original.prediction
        text += f". {lead} {'the same' if same else named(other)}, with probability {share(float(other.probabilities.max()))}"
    return text


def named(answer: Answer) -> str:
    """A prediction in bold; of a model that wrote nothing, that it did so."""
    return f"**{layout.plain(answer.prediction)}**" if answer.prediction.strip() else "an empty text"


def share(probability: float) -> str:
    """A probability in two digits, which that of a long text seldom reaches."""
    return f"{probability:.2f}" if probability >= 0.005 else "below 0.01"


def remarks(answers: dict[str, Answer]) -> None:
    """How good a text is that a model wrote, where a right answer is known; and where something is missing, why."""
    if any(answer.cut for answer in answers.values()):
        st.caption(":material/content_cut: The text is longer than this model can read: only its beginning is used.")
    for name, answer in answers.items():
        if answer.scores:
            texts = [f"{SCORES[score]} {layout.number(value, '{:.2f}')}" for score, value in answer.scores.items()]
            st.caption(f"{layout.plain(name)}: {', '.join(texts)}")
    unfinished = [name for name, answer in answers.items() if not answer.ended]
    if unfinished:
        cut = "the answer stops at the largest number of tokens that the run allows, before the model ended it."
        st.caption(f":material/content_cut: {layout.plain(', '.join(unfinished))}: {cut}")
    if any(answer.writes and not answer.said for answer in answers.values()):
        st.caption("Of this answer the text alone is recorded. Change the text to see the probability and routing of each token.")


def classes(answers: dict[str, Answer], code: str) -> None:
    """The likeliest classes."""
    if all(len(answer.classes) == 1 for answer in answers.values()):
        st.caption(
            "Only the predicted class of this answer is recorded. Change the text to see the probabilities of all classes."
        )
        return
    predictions = "; ".join(f"{name}: {answer.prediction}" for name, answer in answers.items())
    chart_card.card(
        figures.answer_probabilities,
        answers,
        CLASSES // len(answers),
        key="pg_classes",
        alt=f"Probabilities of the likeliest classes. {predictions}",
        table=lambda answers, most: pd.DataFrame({name: answer.ranked() for name, answer in answers.items()}),
        python=f"{code}\nlab.figures.answer_probabilities(answers, {CLASSES // len(answers)})",
        read="The likeliest of all classes that the model has learned at that moment.",
    )


def said(answers: dict[str, Answer], code: str) -> None:
    """What language models said, token by token, with the probability of each."""
    speaking = {name: answer for name, answer in answers.items() if answer.said}
    for index, (column, (name, answer)) in enumerate(zip(st.columns(max(1, len(speaking))), speaking.items(), strict=False)):
        with column:
            of = "" if answer.writes else ", the words of the likeliest label"
            st.markdown(f"**The answer, token by token: {layout.plain(name)}**{of}")
            chart_card.card(
                figures.answer_tokens,
                answer,
                key=f"pg_said_{index}",
                alt=f"Probability of each token, {name}: {' '.join(token.text for token in answer.said)}",
                table=lambda answer: answer.by_said_token(),
                colour=figures.ANSWER_COLOURS[index],
                python=f"{code}\nlab.figures.answer_tokens(answers[{name!r}], {figures.ANSWER_COLOURS[index]!r})",
                read="The probability of each token after the text and the tokens above it.",
            )
