"""Layers and routing heads in detail: one number for each, and small multiples of all experts."""

import streamlit as st

from lab import figures, views
from lab.pages import chart_card, layout, navigation
from lab.pages.routing_views.focus import Focus, MapSettings, select, where_set
from lab.pages.train_form.presets import SMALL
from lab.run_folder.run import Run

MEASURES = {"Weight": "weight", "Entropy": "entropy", "Change": "change"}
HEADS = "experts × routing heads, a panel per layer"
TASKS = "experts × tasks, a panel per layer"
BY_HEAD = "experts × tasks, a panel per routing head"


def draw(run: Run, after: int, at: Focus, how: MapSettings) -> None:
    with layout.section():
        panels(run, after, at, how)
    with layout.section():
        measures(run, after, at, how)


def panels(run: Run, after: int, at: Focus, how: MapSettings) -> None:
    """Small multiples, and in words how much routing heads differ."""
    routing = run.routing(after)
    several = routing.mean(at.task).shape[1] > 1
    if several:
        differ = views.head_difference(run, after)
        st.markdown(
            f"Routing heads differ by **{differ.iloc[at.task]:.2f}** on {layout.plain(routing.tasks[at.task])}, by "
            f"**{differ.mean():.2f}** on all tasks (0: every head chooses alike, 1: as different as can be)."
        )
    else:
        st.markdown("This run has **one routing head**: heads cannot differ. The option `router.heads` gives more.")
        query = {"recipe": "l2r-mh", "o": [f"{name}={value}" for name, value in SMALL.items()]}
        navigation.link("train", "Train a small run with four routing heads", ":material/model_training:", query)
    kinds = ([HEADS, BY_HEAD] if several else []) + [TASKS]
    if several and not routing.owned:
        kinds = [BY_HEAD, HEADS, TASKS]  # of shared experts, as in mhr and poly, what tasks have in common comes first
    left, middle, right = st.columns([2, 1, 1])
    kind = select(left, "Panels", "rt_panels", kinds)
    layers = views.layer_names(routing.layers)
    layer = None
    if kind == BY_HEAD:
        chosen = select(middle, "Of layer", "rt_panel_layer", ["(mean over layers)", *layers])
        layer = layers.index(chosen) if chosen in layers else None
    count = routing.mean(at.task).shape[1] if kind == BY_HEAD else len(layers)
    first = 0
    if count > figures.PANELS:
        begins = [f"{i + 1} to {min(i + figures.PANELS, count)}" for i in range(0, count, figures.PANELS)]
        first = figures.PANELS * begins.index(select(right, "Panels shown", "rt_panel_first", begins))
    task = at.task if kind == HEADS else None
    about = {
        HEADS: f"How each routing head of each layer shares out its weight on {routing.tasks[at.task]}. Columns that look alike: "
        "heads that choose alike.",
        BY_HEAD: "Which experts (skills) each routing head uses for which task. Panels that look alike: heads that choose alike.",
        TASKS: "Which experts each layer uses for which task, mean over routing heads.",
    }[kind]
    chart_card.card(
        figures.routing_panels,
        run,
        after,
        "heads" if kind == BY_HEAD else "layers",
        task,
        layer,
        key="rt_panels_chart",
        table=views.routing_panels,
        alt=f"{kind}. {about}",
        read=about,
        **where_set(first=first),
        **where_set(absolute=how.absolute),
    )


def measures(run: Run, after: int, at: Focus, how: MapSettings) -> None:
    """One number per layer and routing head for the task and the expert in focus."""
    routing = run.routing(after)
    task, expert = routing.tasks[at.task], routing.experts[at.expert]
    layers = views.layer_names(routing.layers)

    def focus_on_head(layer: int, head: int) -> None:
        st.session_state["rt_layer"], st.session_state["rt_head"] = layers[layer], str(head + 1)

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
        focus=(at.layer, at.head) if several else None,
        focus_row=at.layer,
        read=f"{title}. {read}",
        **where_set(absolute=how.absolute and measure == "weight"),
    )
