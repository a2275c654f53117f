"""Why a text went to its expert: the recorded texts that look most like it to the router."""

from typing import Any

import streamlit as st

from lab import views
from lab.pages import layout
from lab.run_folder.prediction import Answer
from lab.run_folder.run import Run

NEAREST = 6  # texts that are listed
ABOUT_LIKENESS = (
    "Cosine of the two queries, the vectors that the router compares, after the mean of all recorded queries is taken away: 1 "
    "the same direction, 0 unrelated."
)


def texts(run: Run, after: int, answer: Answer, most: int = NEAREST) -> Any:
    """The recorded texts whose queries are nearest to that of an answer, without its own text; None where none are recorded."""
    if answer.query is None or run.routing(after).queries(0) is None:
        return None
    near: Any = views.nearest_examples(run, after, answer.query, most + 1)
    return near[near["text"] != answer.text].head(most)


def in_words(answer: Answer, near: Any) -> str:
    """How many of the nearest texts went to the same expert, and of which tasks they are."""
    favourite = str(answer.by_expert().idxmax())
    same, tasks = int((near["expert"] == favourite).sum()), near["task"].value_counts(sort=True)
    of = ", ".join(f"{layout.plain(task)} ({count})" for task, count in tasks.items())
    return (
        f"{same} of the {len(near)} recorded texts that look most like it to the router went mostly to the same expert, "
        f"**{layout.plain(favourite)}**. They are of {of}."
    )


def table(run: Run, after: int, answer: Answer, key: str) -> None:
    """The nearest recorded texts with a sentence, or why there are none."""
    near = texts(run, after, answer)
    if near is None:
        router = layout.plain(run.config["router"]["name"])
        st.info(
            f"No queries are recorded for this run, so likeness cannot be told. Its router, {router}, does not read one vector "
            "per text (it decides per token or per task, or not at all), or the run was made by an earlier version."
        )
        return
    st.markdown(in_words(answer, near))
    st.dataframe(
        near[["likeness", "text", "task", "expert"]],
        column_config={
            "likeness": st.column_config.NumberColumn("likeness", format="%.2f", width="small", help=ABOUT_LIKENESS),
            "text": st.column_config.TextColumn("text", width="large"),
            "expert": st.column_config.TextColumn("mostly to expert"),
        },
        hide_index=True,
        key=key,
        alt="Recorded texts whose queries are nearest to that of the text",
    )
    if run.config["router"].get("query") == "layer":
        st.caption("Every layer of this router has a query of its own; likeness is told by that of the last layer.")
