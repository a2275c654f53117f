"""What the page Routing looks at: one task, expert, layer and routing head, and how its maps are drawn; all of it in the link."""

from dataclasses import dataclass
from typing import Any

import streamlit as st

from lab import views
from lab.pages import layout, url_state
from lab.run_folder.run import Run

ALL = "(mean over all)"
OWN, MOST = "(own expert)", "(largest share)"  # where the task has an expert of its own, and where it does not
LARGEST = "(largest weight)"
DEFAULTS = {"rt_layer": LARGEST, "rt_head": LARGEST, "rt_example": LARGEST}  # values of select boxes without a focus
RELATIVE, ABSOLUTE = "times the equal share", "share, 0 to 1"
ORDERS = {"as in the stream": "stream", "by likeness": "likeness", "in groups": "groups"}
WIDTH = 205  # pixels of a select box: the longest option fits
MANY = 12  # tasks or experts from which on maps can be ordered and searched


@dataclass(frozen=True)
class Focus:
    """What the page looks at: 0-based indices of a task, an expert, a layer and a routing head."""

    task: int
    expert: int
    layer: int
    head: int


@dataclass(frozen=True)
class MapSettings:
    """How maps are drawn: colours, order and names of tasks and experts, and the layer and head shown (None: the mean)."""

    absolute: bool = False
    order: str = "stream"
    find: str = ""
    layer: int | None = None
    head: int | None = None


def select(container: Any, label: str, key: str, options: list[str], **more: Any) -> str:
    """A select box bound to the link; a choice that this run does not have falls back to the first option."""
    url_state.drop_unavailable(key, options)
    return container.selectbox(label, options, key=key, bind="query-params", **more)


def clear(expert: str) -> None:
    """Back to the default focus, with this option of the select box Expert."""
    for key, default in (DEFAULTS | {"rt_expert": expert}).items():
        if key in st.session_state:
            st.session_state[key] = default


def choose(run: Run, after: int) -> Focus:
    """Draw the select boxes; returns what they mean."""
    routing = run.routing(after)
    tasks, experts, layers = routing.tasks, routing.experts, views.layer_names(routing.layers)
    bar = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    task = tasks.index(select(bar, "Task", "rt_task", tasks, width=WIDTH))
    default = OWN if tasks[task] in experts else MOST
    name = select(bar, "Expert", "rt_expert", [default, *experts], width=WIDTH)
    expert = views.own_expert(run, after, task) if name == default else experts.index(name)
    table = views.routing_by_layer(run, after, task, expert).to_numpy()  # (L, H)
    chosen = select(bar, "Layer", "rt_layer", [LARGEST, *layers], width=WIDTH)
    layer = int(table.max(1).argmax()) if chosen == LARGEST else layers.index(chosen)
    head = 0
    if table.shape[1] > 1:
        chosen = select(bar, "Routing head", "rt_head", [LARGEST, *(str(h + 1) for h in range(table.shape[1]))], width=WIDTH)
        head = int(table[layer].argmax()) if chosen == LARGEST else int(chosen) - 1
    bar.button(
        "Clear focus",
        icon=":material/filter_alt_off:",
        on_click=clear,
        args=[default],
        key="rt_clear",
        help=f"Go back to the {'own expert of the task' if default == OWN else 'expert with the largest share'}, at the layer "
        "and head where its weight is largest.",
    )
    return Focus(task, expert, layer, head)


def sentence(run: Run, after: int, at: Focus) -> str:
    """What is in focus, in words."""
    routing = run.routing(after)
    tasks, experts, layers = routing.tasks, routing.experts, views.layer_names(routing.layers)
    path = [f"task **{layout.plain(tasks[at.task])}**", f"expert **{layout.plain(experts[at.expert])}**"]
    path += [f"layer **{layout.plain(layers[at.layer])}**"]
    path += [f"head **{at.head + 1}**"] if routing.mean(at.task).shape[1] > 1 else []
    share = routing.share(at.task)[at.expert] if f"{at.task}/share_sum" in routing.arrays else float("nan")
    return (
        f"Focus: {' › '.join(path)}  \nExpert **{layout.plain(experts[at.expert])}** on task **{layout.plain(tasks[at.task])}**: "
        f"{layout.number(share, '{:.1%}')} of the weight"
    )


def settings(run: Run, after: int) -> MapSettings:
    """Draw the controls of the maps that this run needs; returns what they mean."""
    routing = run.routing(after)
    layers, heads = views.layer_names(routing.layers), routing.mean(0).shape[1]
    bar = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    colour = select(bar, "Colour", "rt_colour", [RELATIVE, ABSOLUTE], width=WIDTH)
    order, find = "stream", ""
    if max(len(routing.tasks), len(routing.experts)) > MANY:
        order = ORDERS[select(bar, "Order", "rt_order", [*ORDERS], help=ABOUT_ORDER, width=WIDTH)]
        about = "Parts of names of tasks and experts, with commas."
        find = bar.text_input(
            "Search", key="rt_find", bind="query-params", placeholder="names", max_chars=200, help=about, width=WIDTH
        )
    chosen = select(bar, "In layer", "rt_map_layer", [ALL, *layers], width=WIDTH)
    numbers = [ALL, *(str(h + 1) for h in range(heads))]
    head = select(bar, "In routing head", "rt_map_head", numbers, width=WIDTH) if heads > 1 else ALL
    return MapSettings(
        colour == ABSOLUTE,
        order,
        find,
        None if chosen == ALL else layers.index(chosen),
        None if head == ALL else int(head) - 1,
    )


ABOUT_ORDER = (
    "By likeness, tasks that are routed alike stand beside each other, and experts that serve the same tasks. In groups, each "
    "group of like tasks is one row, the mean of its tasks, and each group of experts one column, their sum."
)


def where_set(**options: Any) -> dict[str, Any]:
    """Options of a figure without those that are off or 0, as by default, so that the code below it stays short."""
    return {name: value for name, value in options.items() if value}
