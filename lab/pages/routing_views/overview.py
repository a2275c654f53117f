"""The first view of the page Routing: all tasks and experts, and beside it all layers and experts for the task in focus."""

import streamlit as st

from lab import figures, views
from lab.pages import chart_card, layout
from lab.pages.routing_views.focus import MANY, Focus, MapSettings, where_set
from lab.run_folder.run import Run


def draw(run: Run, after: int, at: Focus, how: MapSettings) -> None:
    """Both maps with the focus outlined; a click on a cell of either moves it. Side by side where both have room for names."""
    few = len(run.routing(after).experts) <= MANY
    left, right = st.columns([3, 2], gap="large") if few else (st.container(), st.container())
    with left:
        tasks_and_experts(run, after, at, how)
    with right, layout.section():
        layers_and_experts(run, after, at, how)


def tasks_and_experts(run: Run, after: int, at: Focus, how: MapSettings) -> None:
    """The share of each expert per task."""
    routing = run.routing(after)
    shares = views.routing_map(run, after, how.layer, how.head, how.order, how.find)
    rows, columns = shares.attrs["rows"], shares.attrs["columns"]

    def set_focus(row: int, column: int) -> None:
        """Of a group, the pair with the largest share."""
        single = views.routing_by_task(run, after, how.layer, how.head).fillna(0.0).to_numpy()
        _, task, expert = max((single[t, e], t, e) for t in rows[row] for e in columns[column])
        st.session_state["rt_task"], st.session_state["rt_expert"] = routing.tasks[task], routing.experts[expert]

    row = next((i for i, group in enumerate(rows) if at.task in group), None)
    column = next((j for j, group in enumerate(columns) if at.expert in group), None)
    st.markdown("**Which expert is chosen for which task**")
    pattern = (
        "A diagonal that stands out means that each task is routed to its own expert."
        if routing.owned
        else "Experts are shared here: tasks with similar rows use the same experts."
    )
    colours = "" if how.absolute else " White is the equal share; purple is more, green less."
    strongest = "; ".join(f"{task}: {row.idxmax()} {row.max():.0%}" for task, row in shares.dropna(how="all").iterrows())
    where = (how.layer, how.head) if (how.layer, how.head) != (None, None) else ()
    options = {"order": how.order, "find": how.find, "absolute": how.absolute}
    chart_card.card(
        figures.routing_by_task,
        run,
        after,
        *where,
        key="rt_map",
        alt=f"Share of each expert per task. {strongest}",
        table=views.routing_by_task,
        on_click=set_focus,
        focus=None if row is None or column is None else (row, column),
        read="Each row is a task and sums to 1: the share of the routing weight that each expert gets on its test examples. "
        f"{pattern}{colours} Click a cell to focus on it.",
        **{name: value for name, value in options.items() if value not in ("stream", "", False)},
    )


def layers_and_experts(run: Run, after: int, at: Focus, how: MapSettings) -> None:
    """The weight of each expert in each layer on the task in focus."""
    routing = run.routing(after)
    task, layers = routing.tasks[at.task], views.layer_names(routing.layers)

    columns = views.routing_profile(run, after, at.task, how.order, how.find).attrs["columns"]
    column = next((j for j, group in enumerate(columns) if at.expert in group), None)

    def set_focus(layer: int, column: int) -> None:
        """Of a group, the expert with the largest weight."""
        expert = max(columns[column], key=lambda e: routing.mean(at.task)[layer, :, e].mean())
        st.session_state["rt_layer"], st.session_state["rt_expert"] = layers[layer], routing.experts[expert]

    options = {"order": how.order, "find": how.find}
    st.markdown(f"**Layer by layer on {layout.plain(task)}**")
    chart_card.card(
        figures.routing_profile,
        run,
        after,
        at.task,
        key="rt_profile",
        table=views.routing_profile,
        on_click=set_focus,
        focus=None if column is None else (at.layer, column),
        focus_row=at.layer,
        alt=f"Mean weight of every expert on task {task} by layer",
        read="The first layer is on top; mean over routing heads. Early layers often cannot tell the tasks apart yet.",
        **where_set(absolute=how.absolute),
        **{name: value for name, value in options.items() if value not in ("stream", "")},
    )


def warnings(run: Run, after: int) -> None:
    """Warn of a router that has collapsed or chooses nothing, and of experts that are never chosen."""
    for alert in views.alerts(run, after):
        if alert.kind in ("collapse", "dead", "damaged"):
            st.warning(layout.plain(alert.text), icon=":material/warning:")
    if views.routing_entropy(run, after).min() > 0.999 and len(run.routing(after).experts) > 1:
        st.info("All experts have the same weight everywhere: nothing is chosen. This is the same as no routing.")
