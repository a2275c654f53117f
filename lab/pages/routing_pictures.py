"""Pictures of the routing as a whole, for its page: its flow, the map of queries, and the stream played in the browser."""

import streamlit as st

from lab import figures, views
from lab.pages import chart_card, layout, url_state
from lab.run_folder.run import Run

MEAN = "(mean over layers)"


def flow(run: Run, after: int) -> None:
    """From tasks to experts, in one layer or their mean."""
    layers = views.layer_names(run.routing(after).layers)
    url_state.drop_unavailable("rt_flow_layer", [MEAN, *layers])
    chosen = st.selectbox("Layer of the flow", [MEAN, *layers], key="rt_flow_layer", bind="query-params")
    layer = None if chosen == MEAN else layers.index(chosen)
    table = views.routing_flow(run, after, layer)
    most = table.loc[table.groupby("task", sort=False)["weight"].idxmax()]
    strongest = "; ".join(f"{row.task} to {row.expert} {row.weight:.2f}" for row in most.itertuples())
    right = table.groupby("own")["weight"].sum()
    judged = ""
    if run.routing(after).owned:
        judged = f" {right.get(True, 0.0) / right.sum():.0%} of all weight reaches the expert of the task it comes from."
    drawn, part = views.strongest_bands(table), ""
    if len(drawn) < len(table):
        kept, of = (int(one.groupby("task").size().max()) for one in (drawn, table))
        share = drawn["weight"].sum() / table["weight"].sum()
        part = (
            f" Drawn are the widest bands of each task, {kept} of {of}: {share:.0%} of all weight, where equal weights would "
            f"give {kept / of:.0%}."
        )
    chart_card.card(
        figures.routing_flow,
        run,
        after,
        layer,
        key="rt_flow",
        table=views.routing_flow,
        alt=f"Weight that flows from tasks to experts, the widest of each task: {strongest}.{judged}{part}",
        read="Left the tasks, then the experts; a band is as wide as the mean weight of its expert, and has its colour."
        f"{judged}{part}",
    )


def over_tasks(run: Run, after: int) -> None:
    """The first chart of the page at every recorded moment; plays without the server."""
    moments = run.recorded()
    if len(moments) < 2:
        st.info("Routing is recorded after one task only. From the second task on there is something to play.")
        return
    shares = ", ".join(f"after {k + 1}: {layout.number(views.own_share(run, k), '{:.0%}')}" for k in moments)
    own = f". Mean share of the own expert {shares}" if run.routing(after).owned else ""
    chart_card.card(
        figures.routing_animation,
        run,
        key="rt_play",
        table=views.routing_history,
        alt=f"Share of each expert per task after each learned task, to play{own}",
        read="Play shows how routing changed while the tasks were learned; the slider stops at any task. A row and a column "
        "appear when their task is learned.",
    )


def query_map(run: Run, after: int) -> None:
    """What the router looks at, and the keys it compares it with."""
    routing = run.routing(after)
    if routing.queries(0) is None:
        st.info(
            f"No queries are recorded for this run. Its router, {layout.plain(run.config['router']['name'])}, chooses token by "
            "token, by the task, or not at all; or the run was made by an earlier version. Routers that look at one vector per "
            "text (attention, gates, l2p, prototype) record it by themselves."
        )
        return
    table = views.query_map(run, after)
    keys = table[table["kind"] == "key"]
    layered = run.config["router"].get("query") == "layer"
    whose = " Every layer has a query of its own; this is that of the last one." if layered else ""
    told = (
        f"Stars are the keys that queries are compared with, in the colours of their experts ({len(keys)})."
        if len(keys)
        else "This router has no keys: its gates are functions of the query, not points beside it."
    )
    chart_card.card(
        figures.query_map,
        run,
        after,
        key="rt_queries",
        table=views.query_map,
        alt=f"Map of {len(table) - len(keys)} recorded queries of {table['task'].nunique()} tasks on their two main axes. {told}",
        read=f"Each point is what the router saw of one recorded test example; hollow: answered wrongly.{whose} Tasks that "
        f"overlap here are hard to tell apart by this query; two axes show only a part of it. {told}",
    )


PICTURES = {"Flow": flow, "Query map": query_map, "Over tasks": over_tasks}


def draw(run: Run, after: int) -> None:
    st.subheader("The routing as a whole", anchor=False)
    first = next(iter(PICTURES))
    asked = st.segmented_control(
        "Picture",
        list(PICTURES),
        default=first,
        key="rt_picture",
        bind="query-params",
        label_visibility="collapsed",
        required=True,
    )
    PICTURES[asked or first](run, after)
