"""One decision of the router, step by step, and the texts that look like the one it was made for."""

import pandas as pd
import streamlit as st

from lab import figures, views
from lab.pages import chart_card, code_snippets, layout, nearest
from lab.pages.routing_views.focus import LARGEST, MANY, WIDTH, Focus, select
from lab.run_folder.prediction import Answer, kept
from lab.run_folder.run import Run

STEPS, WHY = "step-by-step", "why-this-expert"  # places on the page, for links to them


def draw(run: Run, after: int, at: Focus) -> None:
    """The recorded examples, sorted by their weight at the focus (largest first); one of them step by step."""
    routing = run.routing(after)
    expert, layer = routing.experts[at.expert], views.layer_names(routing.layers)[at.layer]
    answers = kept(run, after, at.task)
    if not answers:
        st.info("No examples are recorded for this task.")
        return
    weights = [float(answer.weights[at.layer, at.head, at.expert]) for answer in answers]
    order = sorted(range(len(answers)), key=lambda i: -weights[i])
    where = f"{layout.plain(layer)}" + (f", head {at.head + 1}" if routing.mean(at.task).shape[1] > 1 else "")
    st.markdown(
        f"The {len(answers)} recorded examples of **{layout.plain(routing.tasks[at.task])}**, from most to least routed to "
        f"**{layout.plain(expert)}** at **{where}**"
    )
    left, right = st.columns([3, 2], gap="large")
    with left:
        examples_table(answers, weights, order)
    with right:
        chosen = select(st, "Example", "rt_example", [LARGEST, *(str(i + 1) for i in range(len(answers)))], width=WIDTH)
        answer = answers[order[0] if chosen == LARGEST else int(chosen) - 1]
        in_words(run, after, at, answer, where)
    layout.contents({"Step by step": STEPS, "Why this expert": WHY})
    pictures(run, after, at, answers.index(answer), answer, where)
    with layout.section():
        st.subheader("Why this expert: the recorded texts that look most like it to the router", anchor=WHY)
        nearest.table(run, after, answer, "rt_near")


def choose_row(order: list[int]) -> None:
    """Choose the example of the row that was clicked; `order` holds the example of each row."""
    rows = st.session_state["rt_examples"].selection.rows
    if rows:
        st.session_state["rt_example"] = str(order[rows[0]] + 1)


def examples_table(answers: list[Answer], weights: list[float], order: list[int]) -> None:
    """The recorded examples in this order, each with its weight at the focus."""
    labelled = any(answer.label is not None for answer in answers)
    rows = [
        {
            "weight here": weights[i],
            "text": answers[i].text,
            **({"prediction": answers[i].prediction, "correct": answers[i].prediction == answers[i].label} if labelled else {}),
            **({"probability": float(answers[i].probabilities[0])} if labelled else {}),
        }
        for i in order
    ]
    columns = {
        "weight here": st.column_config.ProgressColumn("weight here", min_value=0, max_value=1, format="%.2f", width="small"),
        "text": st.column_config.TextColumn("text", width="large"),
        "probability": st.column_config.NumberColumn(format="%.2f"),
    }
    st.dataframe(
        pd.DataFrame(rows, index=[i + 1 for i in order]),
        column_config=columns,
        key="rt_examples",
        height=248,
        selection_mode="single-row",
        on_select=lambda: choose_row(order),
        alt="Recorded examples from the most to the least routed to the expert in focus",
    )


def in_words(run: Run, after: int, at: Focus, answer: Answer, where: str) -> None:
    """One example, its prediction, and the weight of the expert in focus step by step."""
    expert = answer.experts[at.expert]
    steps = answer.decision(at.layer, at.head)
    st.text(answer.text)
    if answer.label is not None:
        mark = ":material/check:" if answer.prediction == answer.label else ":material/close:"
        st.markdown(f"{mark} predicted **{layout.plain(answer.prediction)}**, true **{layout.plain(answer.label)}**")
    values = " → ".join(f"{layout.plain(name)} {value:.3f}" for name, value in steps.loc[expert].items())
    st.markdown(f"Expert **{layout.plain(expert)}** at {where}: {values}")
    routing = run.routing(after)
    about = (f"**{layout.plain(name)}**: {layout.plain(routing.about_step(name))}" for name in steps.columns)
    layout.how_to_read("  \n".join(f"{number}. {step}" for number, step in enumerate(about, 1)))


def pictures(run: Run, after: int, at: Focus, number: int, answer: Answer, where: str) -> None:
    """The steps of one example at the layer and head in focus, and its weights in every layer; `number` (0-based) of the task."""
    steps = answer.decision(at.layer, at.head)
    python = (
        f"import lab\nfrom lab.run_folder.prediction import kept\n\n"
        f"answer = kept({code_snippets.open_expression(run)}, {after}, {at.task})[{number}]\n"
        f"lab.figures.%s\nanswer.%s"
    )
    few = len(answer.experts) <= MANY
    left, right = st.columns(2, gap="large") if few else (st.container(), st.container())
    with left:
        st.subheader(f"Step by step at {where}", anchor=STEPS)
        call = f"{at.layer}, {at.head}"
        chart_card.card(
            figures.answer_decision,
            answer,
            at.layer,
            at.head,
            key="rt_steps",
            focus_row=at.expert,
            alt=f"Steps of the decision at {where}: " + "; ".join(f"{name} {row.iloc[-1]:.2f}" for name, row in steps.iterrows()),
            table=lambda *_: steps,
            python=python % (f"answer_decision(answer, {call})", f"decision({call})"),
            read="One row per expert, one column per step; the last is the weight that is used. Outlined: the expert in focus.",
        )
    with right:
        head = at.head if answer.weights.shape[1] > 1 else None
        st.subheader("This text in every layer" + (f", routing head {head + 1}" if head is not None else ""), anchor=False)
        most = views.largest_weight(run)
        chart_card.card(
            figures.answer_by_layer,
            answer,
            head,
            key="rt_one",
            focus=(at.layer, at.expert),
            focus_row=at.layer,
            alt="Weights of the chosen example by layer and expert",
            most=most,
            table=lambda *_: answer.by_layer(head),
            python=python % (f"answer_by_layer(answer, {head}, most={most:g})", f"by_layer({head})"),
            read="Each row sums to 1 where the router normalises. The favourite expert may differ between layers.",
        )
