"""Charts of all tasks together: flow, load, entropy, change, map of queries, and an animation over the stream."""

import streamlit as st

from lab import figures, views
from lab.pages import chart_card, layout, url_state
from lab.run_folder.run import Run

MEAN = "(mean over layers)"


def flow(run: Run, after: int) -> None:
    """The weight that flows from tasks to experts, in one layer or as the mean over layers."""
    layers = views.layer_names(run.routing(after).layers)
    url_state.drop_unavailable("rt_flow_layer", [MEAN, *layers])
    chosen = st.selectbox("Layer of the flow", [MEAN, *layers], key="rt_flow_layer", bind="query-params")
    layer = None if chosen == MEAN else layers.index(chosen)
    table = views.routing_flow(run, after, layer)
    rows, bands = table.to_dict("records"), views.strongest_bands(table)
    total = sum(row["weight"] for row in rows)
    strongest = "; ".join(
        f"{row['task']} to {row['expert']} {row['weight']:.2f}"
        for row in table.loc[table.groupby("task", sort=False)["weight"].idxmax()].to_dict("records")
    )
    own_share = ""
    if run.routing(after).owned:
        own = sum(row["weight"] for row in rows if row["own"])
        own_share = f" {own / total:.0%} of all weight goes to the task's own expert."
    omitted = ""
    if len(bands) < len(table):
        shown, of = max(bands["task"].value_counts()), max(table["task"].value_counts())
        omitted = (
            f" Only the widest bands of each task are drawn, {shown} of {of}: they carry {sum(bands['weight']) / total:.0%} of "
            f"all weight; with equal weights it would be {shown / of:.0%}."
        )
    chart_card.card(
        figures.routing_flow,
        run,
        after,
        layer,
        key="rt_flow",
        table=views.routing_flow,
        alt=f"Weight that flows from tasks to experts, the widest of each task: {strongest}.{own_share}{omitted}",
        read="Tasks on the left, experts on the right; the width of a band is the mean weight of its expert, and its colour "
        f"that of the expert.{own_share}{omitted}",
    )


def over_tasks(run: Run, after: int) -> None:
    """The share of each expert per task at every recorded moment, as an animation that plays without the server."""
    moments = run.recorded()
    if len(moments) < 2:
        st.info("Routing is recorded after one task only. The animation needs at least two.")
        return
    shares = ", ".join(f"after {k + 1}: {layout.number(views.own_share(run, k), '{:.0%}')}" for k in moments)
    own = f". Mean share of the own expert {shares}" if run.routing(after).owned else ""
    chart_card.card(
        figures.routing_animation,
        run,
        key="rt_play",
        table=views.routing_history,
        alt=f"Share of each expert per task after each learned task, to play{own}",
        read="Press Play to see how routing changed while the tasks were learned, or move the slider. A row and a column appear "
        "when their task is learned.",
    )


def query_map(run: Run, after: int) -> None:
    """The queries that the router saw, and the keys it compares them with, in two dimensions."""
    routing = run.routing(after)
    if routing.queries(0) is None:
        st.info(
            f"No queries are recorded for this run. Its router, {layout.plain(run.config['router']['name'])}, does not read one "
            "vector per text (it decides per token or per task, or not at all), or the run was made by an earlier version."
        )
        return
    table = views.query_map(run, after)
    keys = table[table["kind"] == "key"]
    layered = run.config["router"].get("query") == "layer"
    which = " Every layer has a query of its own; this is that of the last layer." if layered else ""
    about_keys = (
        f"Stars are the keys that the queries are compared with, in the colours of their experts ({len(keys)})."
        if len(keys)
        else "This router has no keys: its gates are functions of the query."
    )
    chart_card.card(
        figures.query_map,
        run,
        after,
        key="rt_queries",
        table=views.query_map,
        alt=f"Map of {len(table) - len(keys)} recorded queries of {table['task'].nunique()} tasks on their two main axes. "
        f"{about_keys}",
        read=f"Each point is the query of one recorded test example; hollow: answered wrongly.{which} Tasks that overlap here "
        f"are hard to tell apart by this query, but two axes show only a part of it. {about_keys}",
    )


def load(run: Run, after: int) -> None:
    """The mean share of each expert over all tasks."""
    shares = views.routing_load(run, after)["load"]
    alt = "Mean share of each expert: " + ", ".join(f"{name} {value:.0%}" for name, value in shares.items())
    read = "Dotted line: equal shares. An expert far below it is hardly used."
    chart_card.card(figures.routing_load, run, after, key="rt_load", alt=alt, table=views.routing_load, read=read)


def entropy(run: Run, after: int) -> None:
    """How evenly the weight of each task is spread."""
    values = views.routing_entropy(run, after)
    alt = "Entropy of the routing of each task: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items())
    read = "How evenly the weight of each task is spread. 0: one expert gets all of it. 1: all experts get the same."
    chart_card.card(figures.routing_entropy, run, after, key="rt_entropy", alt=alt, table=views.routing_entropy, read=read)


def drift(run: Run, after: int) -> None:
    """The change of every task's routing since the task was learned."""
    if after == 0:
        st.info("One task is learned at this moment: nothing can have changed since.")
        return
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


PICTURES = {
    "Flow": flow,
    "Load": load,
    "Entropy": entropy,
    "Change": drift,
    "Query map": query_map,
    "Over tasks": over_tasks,
}


def draw(run: Run, after: int) -> None:
    """The chosen one of the charts."""
    default = next(iter(PICTURES))
    chosen = st.segmented_control(
        "Picture",
        list(PICTURES),
        default=default,
        key="rt_picture",
        bind="query-params",
        label_visibility="collapsed",
        required=True,
    )
    PICTURES[chosen or default](run, after)
