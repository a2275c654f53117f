"""Routing: which expert answers, on three linked levels: tasks and experts, layers and routing heads, one decision.

The focus is five select boxes, which stand in the URL and are the way of the keyboard; a click on a cell sets them.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from lab import figures, views
from lab.pages import chart_card, code_snippets, layout, navigation, routing_pictures, run_picker, url_state
from lab.run_folder.prediction import Answer, kept
from lab.run_folder.run import Run

ALL = "(mean over all)"
OWN, MOST = "(own of the task)", "(largest share)"  # where the task has an expert of its own, and where it has not
LARGEST = "(largest weight)"
LOAD, ENTROPY = "Load of the experts", "Entropy of the tasks"
FIRST = {"rt_layer": LARGEST, "rt_head": LARGEST, "rt_example": LARGEST}  # what a select box begins with
MEASURES = {"Weight": "weight", "Entropy": "entropy", "Change": "change"}


@dataclass(frozen=True)
class Focus:
    """What the page looks at, as numbers."""

    task: int
    expert: int
    layer: int
    head: int


def nothing_routed(run: Run) -> None:
    """Why a run has no routing to look into, and where its scores are."""
    recipe = layout.plain(run.config["recipe"])
    if run.recorded():
        st.info(
            f"This run of {recipe} has one expert for all tasks: it always gets the whole weight, so there is no routing to look "
            "into. What the tasks do to each other shows in the scores."
        )
    else:
        st.info(
            f"No routing is recorded for this run of {recipe}. Either the method has nothing to choose (one expert for all "
            "tasks), or no task was learned yet. Runs with a router record it by themselves after every task."
        )
    where = {"runs": run_picker.link_name(run)}
    st.page_link(navigation.page("compare"), label="See its scores", icon=":material/compare_arrows:", query_params=where)


# -- the focus -------------------------------------------------------------------------------------------------------------


def box(place: Any, label: str, key: str, options: list[str]) -> str:
    """A select box of the focus; a choice that this run does not have falls back to the first."""
    url_state.drop_unavailable(key, options)
    return place.selectbox(label, options, key=key, bind="query-params")


def clear_focus(expert: str) -> None:
    for key, first in (FIRST | {"rt_expert": expert}).items():
        if key in st.session_state:
            st.session_state[key] = first


def focus(run: Run, after: int) -> Focus:
    """The select boxes, and what they mean."""
    routing = run.routing(after)
    tasks, experts, layers = routing.tasks, routing.experts, views.layer_names(routing.layers)
    places = st.columns(5)
    task = tasks.index(box(places[0], "Task", "rt_task", tasks))
    first = OWN if tasks[task] in experts else MOST
    name = box(places[1], "Expert", "rt_expert", [first, *experts])
    expert = views.own_expert(run, after, task) if name == first else experts.index(name)
    table = views.routing_by_layer(run, after, task, expert).to_numpy()  # (L, H)
    chosen = box(places[2], "Layer", "rt_layer", [LARGEST, *layers])
    layer = int(table.max(1).argmax()) if chosen == LARGEST else layers.index(chosen)
    head = 0
    if table.shape[1] > 1:
        chosen = box(places[3], "Routing head", "rt_head", [LARGEST, *(str(h + 1) for h in range(table.shape[1]))])
        head = int(table[layer].argmax()) if chosen == LARGEST else int(chosen) - 1
    places[4].space("small")
    places[4].button(
        "Clear focus",
        icon=":material/filter_alt_off:",
        on_click=clear_focus,
        args=[first],
        key="rt_clear",
        width="stretch",
        help=f"Back to the {'own expert of the task' if first == OWN else 'expert with the largest share'}, where its weight is "
        "largest.",
    )
    path = [f"task **{layout.plain(tasks[task])}**", f"expert **{layout.plain(experts[expert])}**"]
    path += [f"layer **{layout.plain(layers[layer])}**"] + ([f"head **{head + 1}**"] if table.shape[1] > 1 else [])
    st.markdown(f"Looking at {' › '.join(path)}")
    return Focus(task, expert, layer, head)


# -- level 1: tasks and experts --------------------------------------------------------------------------------------------


def part(run: Run, after: int) -> tuple[int | None, ...]:
    """Numbers of the layer and of the routing head that the map of tasks and experts is of; nothing for the mean over all."""
    layers, heads = views.layer_names(run.routing(after).layers), run.routing(after).mean(0).shape[1]
    places = st.columns(5)
    chosen = box(places[0], "In layer", "rt_map_layer", [ALL, *layers])
    head = box(places[1], "In routing head", "rt_map_head", [ALL, *(str(h + 1) for h in range(heads))]) if heads > 1 else ALL
    if chosen == head == ALL:
        return ()
    return None if chosen == ALL else layers.index(chosen), None if head == ALL else int(head) - 1


def overview(run: Run, after: int) -> None:
    st.subheader("Who answers which task", anchor=False)
    place = part(run, after)
    shares = views.routing_by_task(run, after, *place)

    def look(task: int, expert: int) -> None:
        st.session_state["rt_task"], st.session_state["rt_expert"] = shares.index[task], shares.columns[expert]

    whose = (
        "Bright on the diagonal means that tasks find their own expert."
        if run.routing(after).owned
        else "Experts are shared here: tasks with rows that look alike use the same ones."
    )
    strongest = "; ".join(f"{task}: {row.idxmax()} {row.max():.0%}" for task, row in shares.iterrows())
    left, right = st.columns([3, 2], gap="large")
    with left:
        chart_card.card(
            figures.routing_by_task,
            run,
            after,
            *place,
            key="rt_map",
            alt=f"Share of each expert per task. {strongest}",
            table=views.routing_by_task,
            on_click=look,
            read="Each row is a task and sums to 1: the part of the routing weight each expert gets on its test examples. "
            f"{whose} Click a cell to look inside.",
        )
    with right:
        if box(st, "Over all tasks", "rt_summary", [LOAD, ENTROPY]) == ENTROPY:
            found = views.routing_entropy(run, after)
            alt = "Entropy of the routing of each task: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items())
            read = "How undecided the routing of each task is. 0: one expert takes all. 1: all have the same weight."
            chart_card.card(
                figures.routing_entropy, run, after, key="rt_entropy", alt=alt, table=views.routing_entropy, read=read
            )
        else:
            found = views.routing_load(run, after)["load"]
            alt = "Mean share of each expert: " + ", ".join(f"{name} {value:.0%}" for name, value in found.items())
            read = "Dotted: equal shares. An expert far below it is hardly used."
            chart_card.card(figures.routing_load, run, after, key="rt_load", alt=alt, table=views.routing_load, read=read)


def warnings(run: Run, after: int) -> None:
    """What is wrong with the routing as a whole at this moment."""
    for alert in views.alerts(run, after):
        if alert.kind in ("collapse", "dead", "damaged"):
            st.warning(layout.plain(alert.text), icon=":material/warning:")
    if views.routing_entropy(run, after).min() > 0.999 and len(run.routing(after).experts) > 1:
        st.info("All experts have the same weight everywhere: nothing is chosen. This is what is left without routing.")


# -- level 2: layers and routing heads ---------------------------------------------------------------------------------------


def inside(run: Run, after: int, at: Focus) -> None:
    st.subheader("Where in the network", anchor=False)
    routing = run.routing(after)
    task, expert = routing.tasks[at.task], routing.experts[at.expert]
    share = routing.share(at.task)[at.expert]
    st.markdown(f"Expert **{layout.plain(expert)}** on task **{layout.plain(task)}**: {share:.1%} of the weight")
    layers = views.layer_names(routing.layers)

    def look_at_expert(layer: int, number: int) -> None:
        st.session_state["rt_layer"], st.session_state["rt_expert"] = layers[layer], routing.experts[number]

    def look_at_head(layer: int, head: int) -> None:
        st.session_state["rt_layer"], st.session_state["rt_head"] = layers[layer], str(head + 1)

    left, right = st.columns(2, gap="large")
    with left:
        st.markdown(f"**All experts on {layout.plain(task)}**")
        chart_card.card(
            figures.routing_profile,
            run,
            after,
            at.task,
            key="rt_profile",
            table=views.routing_profile,
            on_click=look_at_expert,
            alt=f"Mean weight of every expert on task {task} by layer",
            read="Input side on top; mean over routing heads. Early layers often cannot tell the tasks apart yet.",
        )
    with right:
        several = routing.mean(at.task).shape[1] > 1
        asked = st.segmented_control(
            "Each routing head" if several else "Each layer",
            list(MEASURES),
            default="Weight",
            key="rt_measure",
            bind="query-params",
            label_visibility="collapsed",
            required=True,
        )
        measure = MEASURES[asked or "Weight"]
        table = views.routing_by_layer(run, after, at.task, at.expert, measure)
        if table.isna().all(axis=None):
            st.info("The moment this task was learned is not recorded, so there is nothing to compare with.")
            return
        told = {
            "weight": f"Mean weight of expert {expert} on task {task}",
            "entropy": f"Entropy of the routing of task {task}",
            "change": f"Change of the routing of task {task} since it was learned",
        }[measure]
        read = {
            "weight": "A routing head is a block of a layer's features with weights of its own.",
            "entropy": "0: one expert takes all. 1: all experts have the same weight.",
            "change": "Jensen-Shannon distance between the weights when the task was learned and now. 0: as then.",
        }[measure]
        chart_card.card(
            figures.routing_by_layer,
            run,
            after,
            at.task,
            at.expert,
            measure,
            key=f"rt_layers_{measure}",
            alt=f"{told} by layer and routing head, from {table.min().min():.2f} to {table.max().max():.2f}",
            table=views.routing_by_layer,
            on_click=look_at_head if several else None,
            read=f"{told}. {read}",
        )


# -- level 3: one decision -------------------------------------------------------------------------------------------------


def decisions(run: Run, after: int, at: Focus) -> None:
    """The kept examples, from the one with the largest weight at the focus to the one with the smallest; one step by step."""
    routing = run.routing(after)
    expert, layer = routing.experts[at.expert], views.layer_names(routing.layers)[at.layer]
    st.subheader("One decision, step by step", anchor=False)
    answers = kept(run, after, at.task)
    if not answers:
        st.info("No single examples are recorded for this task.")
        return
    weights = [float(answer.weights[at.layer, at.head, at.expert]) for answer in answers]
    order = sorted(range(len(answers)), key=lambda i: -weights[i])
    where = f"{layout.plain(layer)}" + (f", head {at.head + 1}" if routing.mean(at.task).shape[1] > 1 else "")
    st.markdown(
        f"The {len(answers)} recorded examples of **{layout.plain(routing.tasks[at.task])}**, from most to least routed to "
        f"**{layout.plain(expert)}** at **{where}**"
    )
    examples_table(answers, weights, order)
    chosen = box(st, "Example", "rt_example", [LARGEST, *(str(i + 1) for i in range(len(answers)))])
    answer = answers[order[0] if chosen == LARGEST else int(chosen) - 1]
    step_by_step(run, after, at, answers.index(answer), answer, where)


def take_row(order: list[int]) -> None:
    """A click on a row of the list chooses its example."""
    rows = st.session_state["rt_examples"].selection.rows
    if rows:
        st.session_state["rt_example"] = str(order[rows[0]] + 1)


def examples_table(answers: list[Answer], weights: list[float], order: list[int]) -> None:
    known = any(answer.label is not None for answer in answers)
    rows = [
        {
            "weight here": weights[i],
            "text": answers[i].text,
            **({"prediction": answers[i].prediction, "correct": answers[i].prediction == answers[i].label} if known else {}),
            **({"probability": float(answers[i].probabilities[0])} if known else {}),
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
        on_select=lambda: take_row(order),
        alt="Recorded examples from the most to the least routed to the expert in focus",
    )


def step_by_step(run: Run, after: int, at: Focus, number: int, answer: Answer, where: str) -> None:
    expert = answer.experts[at.expert]
    steps = answer.decision(at.layer, at.head)
    python = (
        f"import lab\nfrom lab.run_folder.prediction import kept\n\n"
        f"answer = kept({code_snippets.open_expression(run)}, {after}, {at.task})[{number}]\n"
        f"lab.figures.%s\nanswer.%s"
    )
    left, right = st.columns([2, 3], gap="large")
    with left:
        st.text(answer.text)
        if answer.label is not None:
            mark = ":material/check:" if answer.prediction == answer.label else ":material/close:"
            st.markdown(f"{mark} predicted **{layout.plain(answer.prediction)}**, true **{layout.plain(answer.label)}**")
        values = " → ".join(f"{layout.plain(name)} {value:.3f}" for name, value in steps.loc[expert].items())
        st.markdown(f"Expert **{layout.plain(expert)}** at {where}: {values}")
        routing = run.routing(after)
        for place, name in enumerate(steps.columns, 1):
            st.caption(f"{place}. **{layout.plain(name)}**: {layout.plain(routing.about_step(name))}")
    with right:
        call = f"{at.layer}, {at.head}"
        chart_card.card(
            figures.answer_decision,
            answer,
            at.layer,
            at.head,
            key="rt_steps",
            alt=f"Steps of the decision at {where}: " + "; ".join(f"{name} {row.iloc[-1]:.2f}" for name, row in steps.iterrows()),
            table=lambda *_: steps,
            python=python % (f"answer_decision(answer, {call})", f"decision({call})"),
            read="One row per expert, one column per step; the last column is what is used.",
        )
    head = at.head if answer.weights.shape[1] > 1 else None
    st.markdown("**This example in every layer**" + (f", routing head {head + 1}" if head is not None else ""))
    most = views.largest_weight(run)
    chart_card.card(
        figures.answer_by_layer,
        answer,
        head,
        key="rt_one",
        alt="Weights of the chosen example by layer and expert",
        most=most,
        table=lambda *_: answer.by_layer(head),
        python=python % (f"answer_by_layer(answer, {head}, most={most:g})", f"by_layer({head})"),
        read="Each row sums to 1 where the router normalises. A row that changes its favourite asks another expert for help.",
    )


# -- drift -----------------------------------------------------------------------------------------------------------------


def drift(run: Run, after: int) -> None:
    st.subheader("What changed since a task was learned", anchor=False)
    found = views.routing_drift(run, after)
    whose = "own expert" if run.routing(after).owned else "expert with the largest share"
    now = [views.own_expert(run, after, task) for task in range(len(found))]
    text = "; ".join(f"{task} {row.iloc[expert]:+.0%}" for expert, (task, row) in zip(now, found.iterrows(), strict=True))
    chart_card.card(
        figures.routing_drift,
        run,
        after,
        key="rt_drift",
        alt=f"Change of the share of the {whose}: {text}",
        table=views.routing_drift,
        read="Orange: the expert lost weight on this task since it was learned. Purple: it gained. "
        "The last task cannot have changed.",
    )


def draw() -> None:
    layout.heading("Routing", "Which expert answers: by task, by layer and routing head, and in one decision step by step.")
    found = run_picker.choices()
    if not found:
        return run_picker.no_runs("There are no runs to look into yet.")
    routed = [key for key, run in found.items() if (run.info.get("routing") or {}).get("own_expert_share") is not None]
    left, right = st.columns(2, gap="large")
    with left:
        run = run_picker.pick_run("Run", "rt_run", found, (routed or list(found))[0])
    if not run.recorded() or (len(run.recorded()) > 1 and len(run.routing().experts) == 1):
        return nothing_routed(run)
    with right:
        about = "Weights on the test examples of all tasks seen, as they were then."
        after = run_picker.pick_moment(run, run.recorded(), "rt_after", about)
    warnings(run, after)
    at = focus(run, after)
    overview(run, after)
    with layout.section():
        inside(run, after, at)
    with layout.section():
        decisions(run, after, at)
    if after > 0:
        with layout.section():
            drift(run, after)
    with layout.section():
        routing_pictures.draw(run, after)


draw()
