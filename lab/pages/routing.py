"""Routing: which expert is chosen, on three linked levels: tasks and experts, layers and routing heads, one decision.

The focus (task, expert, layer, head) is set with select boxes, which stand in the link, or by clicks on cells.
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
OWN, MOST = "(own expert)", "(largest share)"  # where the task has an expert of its own, and where it does not
LARGEST = "(largest weight)"
LOAD, ENTROPY = "Load of the experts", "Entropy of the tasks"
DEFAULTS = {"rt_layer": LARGEST, "rt_head": LARGEST, "rt_example": LARGEST}  # values of select boxes without a focus
MEASURES = {"Weight": "weight", "Entropy": "entropy", "Change": "change"}


@dataclass(frozen=True)
class Focus:
    """What the page looks at: 0-based indices of a task, an expert, a layer and a routing head."""

    task: int
    expert: int
    layer: int
    head: int


def nothing_routed(run: Run) -> None:
    """Say why a run has no routing to show, and link to its scores."""
    recipe = layout.plain(run.config["recipe"])
    if run.recorded():
        st.info(
            f"This run of {recipe} has one expert for all tasks: it always gets the whole weight, so there is no routing to "
            "show. The scores show how the tasks affect each other."
        )
    else:
        st.info(
            f"No routing is recorded for this run of {recipe}. Either the method has nothing to choose (one expert for all "
            "tasks), or no task is learned yet. Runs with a router record it after every task."
        )
    link = {"runs": run_picker.link_name(run)}
    navigation.link("compare", "See its scores", ":material/compare_arrows:", link)


# -- the focus -------------------------------------------------------------------------------------------------------------


def select(container: Any, label: str, key: str, options: list[str]) -> str:
    """A select box bound to the link; a choice that this run does not have falls back to the first option."""
    url_state.drop_unavailable(key, options)
    return container.selectbox(label, options, key=key, bind="query-params")


def clear_focus(expert: str) -> None:
    """Back to the default focus, with this option of the select box Expert."""
    for key, default in (DEFAULTS | {"rt_expert": expert}).items():
        if key in st.session_state:
            st.session_state[key] = default


def focus(run: Run, after: int) -> Focus:
    """Draw the select boxes; returns what they mean."""
    routing = run.routing(after)
    tasks, experts, layers = routing.tasks, routing.experts, views.layer_names(routing.layers)
    columns = st.columns(5)
    task = tasks.index(select(columns[0], "Task", "rt_task", tasks))
    default = OWN if tasks[task] in experts else MOST
    name = select(columns[1], "Expert", "rt_expert", [default, *experts])
    expert = views.own_expert(run, after, task) if name == default else experts.index(name)
    table = views.routing_by_layer(run, after, task, expert).to_numpy()  # (L, H)
    chosen = select(columns[2], "Layer", "rt_layer", [LARGEST, *layers])
    layer = int(table.max(1).argmax()) if chosen == LARGEST else layers.index(chosen)
    head = 0
    if table.shape[1] > 1:
        chosen = select(columns[3], "Routing head", "rt_head", [LARGEST, *(str(h + 1) for h in range(table.shape[1]))])
        head = int(table[layer].argmax()) if chosen == LARGEST else int(chosen) - 1
    columns[4].space("small")
    columns[4].button(
        "Clear focus",
        icon=":material/filter_alt_off:",
        on_click=clear_focus,
        args=[default],
        key="rt_clear",
        width="stretch",
        help=f"Go back to the {'own expert of the task' if default == OWN else 'expert with the largest share'}, at the layer "
        "and head where its weight is largest.",
    )
    path = [f"task **{layout.plain(tasks[task])}**", f"expert **{layout.plain(experts[expert])}**"]
    path += [f"layer **{layout.plain(layers[layer])}**"] + ([f"head **{head + 1}**"] if table.shape[1] > 1 else [])
    st.markdown(f"Focus: {' › '.join(path)}")
    return Focus(task, expert, layer, head)


# -- level 1: tasks and experts --------------------------------------------------------------------------------------------


def layer_and_head(run: Run, after: int) -> tuple[int | None, ...]:
    """The layer and the routing head (0-based; None: the mean) that the matrix shows; empty for the mean over all."""
    layers, heads = views.layer_names(run.routing(after).layers), run.routing(after).mean(0).shape[1]
    columns = st.columns(5)
    chosen = select(columns[0], "In layer", "rt_map_layer", [ALL, *layers])
    numbers = [ALL, *(str(h + 1) for h in range(heads))]
    head = select(columns[1], "In routing head", "rt_map_head", numbers) if heads > 1 else ALL
    if chosen == head == ALL:
        return ()
    return None if chosen == ALL else layers.index(chosen), None if head == ALL else int(head) - 1


def overview(run: Run, after: int, at: Focus) -> None:
    """The share of each expert per task, and a summary over all tasks."""
    st.subheader("Which expert is chosen for which task", anchor=False)
    where = layer_and_head(run, after)
    shares = views.routing_by_task(run, after, *where)

    def set_focus(task: int, expert: int) -> None:
        st.session_state["rt_task"], st.session_state["rt_expert"] = shares.index[task], shares.columns[expert]

    pattern = (
        "A bright diagonal means that each task is routed to its own expert."
        if run.routing(after).owned
        else "Experts are shared here: tasks with similar rows use the same experts."
    )
    strongest = "; ".join(f"{task}: {row.idxmax()} {row.max():.0%}" for task, row in shares.iterrows())
    left, right = st.columns([3, 2], gap="large")
    with left:
        chart_card.card(
            figures.routing_by_task,
            run,
            after,
            *where,
            key="rt_map",
            alt=f"Share of each expert per task. {strongest}",
            table=views.routing_by_task,
            on_click=set_focus,
            focus=(at.task, at.expert),
            read="Each row is a task and sums to 1: the share of the routing weight that each expert gets on its test examples. "
            f"{pattern} Click a cell to focus on it.",
        )
    with right:
        if select(st, "Over all tasks", "rt_summary", [LOAD, ENTROPY]) == ENTROPY:
            entropy = views.routing_entropy(run, after)
            alt = "Entropy of the routing of each task: " + ", ".join(f"{name} {value:.2f}" for name, value in entropy.items())
            read = "How evenly the weight of each task is spread. 0: one expert gets all of it. 1: all experts get the same."
            chart_card.card(
                figures.routing_entropy, run, after, key="rt_entropy", alt=alt, table=views.routing_entropy, read=read
            )
        else:
            load = views.routing_load(run, after)["load"]
            alt = "Mean share of each expert: " + ", ".join(f"{name} {value:.0%}" for name, value in load.items())
            read = "Dotted line: equal shares. An expert far below it is hardly used."
            chart_card.card(figures.routing_load, run, after, key="rt_load", alt=alt, table=views.routing_load, read=read)


def warnings(run: Run, after: int) -> None:
    """Warn of a router that has collapsed or chooses nothing, and of experts that are never chosen."""
    for alert in views.alerts(run, after):
        if alert.kind in ("collapse", "dead", "damaged"):
            st.warning(layout.plain(alert.text), icon=":material/warning:")
    if views.routing_entropy(run, after).min() > 0.999 and len(run.routing(after).experts) > 1:
        st.info("All experts have the same weight everywhere: nothing is chosen. This is the same as no routing.")


# -- level 2: layers and routing heads ---------------------------------------------------------------------------------------


def inside(run: Run, after: int, at: Focus) -> None:
    """The routing of the task in focus by layer and routing head."""
    st.subheader("Where in the network", anchor=False)
    routing = run.routing(after)
    task, expert = routing.tasks[at.task], routing.experts[at.expert]
    share = routing.share(at.task)[at.expert]
    st.markdown(f"Expert **{layout.plain(expert)}** on task **{layout.plain(task)}**: {share:.1%} of the weight")
    layers = views.layer_names(routing.layers)

    def focus_on_expert(layer: int, number: int) -> None:
        st.session_state["rt_layer"], st.session_state["rt_expert"] = layers[layer], routing.experts[number]

    def focus_on_head(layer: int, head: int) -> None:
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
            on_click=focus_on_expert,
            focus=(at.layer, at.expert),
            alt=f"Mean weight of every expert on task {task} by layer",
            read="The first layer is on top; mean over routing heads. Early layers often cannot tell the tasks apart yet.",
        )
    with right:
        several = routing.mean(at.task).shape[1] > 1
        chosen = st.segmented_control(
            "Each routing head" if several else "Each layer",
            list(MEASURES),
            default="Weight",
            key="rt_measure",
            bind="query-params",
            label_visibility="collapsed",
            required=True,
        )
        measure = MEASURES[chosen or "Weight"]
        table = views.routing_by_layer(run, after, at.task, at.expert, measure)
        if table.isna().all(axis=None):
            st.info("The moment after this task was learned is not recorded, so there is nothing to compare with.")
            return
        title = {
            "weight": f"Mean weight of expert {expert} on task {task}",
            "entropy": f"Entropy of the routing of task {task}",
            "change": f"Change of the routing of task {task} since it was learned",
        }[measure]
        read = {
            "weight": "A routing head is a block of a layer's features that has weights of its own.",
            "entropy": "0: one expert gets all the weight. 1: all experts get the same.",
            "change": "Jensen-Shannon distance between the weights when the task was learned and now. 0: unchanged.",
        }[measure]
        chart_card.card(
            figures.routing_by_layer,
            run,
            after,
            at.task,
            at.expert,
            measure,
            key=f"rt_layers_{measure}",
            alt=f"{title} by layer and routing head, from {table.min().min():.2f} to {table.max().max():.2f}",
            table=views.routing_by_layer,
            on_click=focus_on_head if several else None,
            focus=(at.layer, at.head),
            read=f"{title}. {read}",
        )


# -- level 3: one decision -------------------------------------------------------------------------------------------------


def decisions(run: Run, after: int, at: Focus) -> None:
    """The recorded examples, sorted by their weight at the focus (largest first); one of them step by step."""
    routing = run.routing(after)
    expert, layer = routing.experts[at.expert], views.layer_names(routing.layers)[at.layer]
    st.subheader("One decision, step by step", anchor=False)
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
    examples_table(answers, weights, order)
    chosen = select(st, "Example", "rt_example", [LARGEST, *(str(i + 1) for i in range(len(answers)))])
    answer = answers[order[0] if chosen == LARGEST else int(chosen) - 1]
    step_by_step(run, after, at, answers.index(answer), answer, where)


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


def step_by_step(run: Run, after: int, at: Focus, number: int, answer: Answer, where: str) -> None:
    """How the router came to its weights for one example: `answer`, the `number`-th recorded one (0-based) of the task."""
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
        for number, name in enumerate(steps.columns, 1):
            st.caption(f"{number}. **{layout.plain(name)}**: {layout.plain(routing.about_step(name))}")
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
            read="One row per expert, one column per step; the last column is the weight that is used.",
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
        read="Each row sums to 1 where the router normalises. The favourite expert may differ between layers.",
    )


# -- drift -----------------------------------------------------------------------------------------------------------------


def drift(run: Run, after: int) -> None:
    """The change of every task's routing since the task was learned."""
    st.subheader("What changed since a task was learned", anchor=False)
    changes = views.routing_drift(run, after)
    which = "own expert" if run.routing(after).owned else "expert with the largest share"
    now = [views.own_expert(run, after, task) for task in range(len(changes))]
    text = "; ".join(f"{task} {row.iloc[expert]:+z.0%}" for expert, (task, row) in zip(now, changes.iterrows(), strict=True))
    chart_card.card(
        figures.routing_drift,
        run,
        after,
        key="rt_drift",
        alt=f"Change of the share of the {which}: {text}",
        table=views.routing_drift,
        read="Orange: the expert lost weight on this task since it was learned. Purple: it gained. "
        "The last task cannot have changed.",
    )


def draw() -> None:
    layout.heading("Routing", "Which expert is chosen: by task, by layer and routing head, and in one decision step by step.")
    runs = run_picker.choices()
    if not runs:
        run_picker.no_runs("There are no runs to show yet.")
        return
    routed = [key for key, run in runs.items() if (run.info.get("routing") or {}).get("own_expert_share") is not None]
    left, right = st.columns(2, gap="large")
    with left:
        run = run_picker.pick_run("Run", "rt_run", runs, (routed or list(runs))[0])
    if not run.recorded() or (len(run.recorded()) > 1 and len(run.routing().experts) == 1):
        nothing_routed(run)
        return
    with right:
        about = "Weights on the test examples of all tasks learned by then, as they were at that moment."
        after = run_picker.pick_moment(run, run.recorded(), "rt_after", about)
    warnings(run, after)
    at = focus(run, after)
    overview(run, after, at)
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
