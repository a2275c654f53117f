"""Routing: which expert answers, from the overview of all tasks down to single examples."""

import streamlit as st

from lab import figures, views
from lab.pages import shell
from lab.runs import Run

FOCUS = ("rt_task", "rt_expert")  # keys of the select boxes, and names in the URL
SHOWN = 4  # experts with columns of their own in the list of examples
OWN = "(own of the task)"


def explain_missing(run: Run) -> None:
    """A run without recorded routing."""
    recipe = shell.plain(run.config["recipe"])
    st.info(
        f"No routing is recorded for this run of {recipe}. Either the method has nothing to choose (one expert for all tasks), "
        "or no task was learned yet. Runs with a router record it by themselves after every task."
    )
    st.page_link(shell.page("compare"), label="See its scores", icon=":material/compare_arrows:", query_params={"runs": run.id})


def moment(run: Run) -> int:
    """The moment that is looked at, among the recorded ones; bound to the URL."""
    moments = run.recorded()
    if len(moments) == 1:
        return moments[0]
    names = run.tasks
    chosen = st.select_slider(
        "After task", [k + 1 for k in moments], moments[-1] + 1, key="rt_after", bind="query-params",
        help="Weights on the test examples of all tasks seen, as they were at this moment.",
    )  # fmt: skip
    st.caption(f"After learning task {chosen} of {len(names)}: **{shell.plain(names[chosen - 1])}**")
    return chosen - 1


def take_click(task: int, expert: int) -> None:
    """A click on a cell moves the focus."""
    tasks, experts = st.session_state["rt_names"]
    st.session_state["rt_task"], st.session_state["rt_expert"] = tasks[task], experts[expert]


def focus(run: Run, after: int) -> tuple[int, int]:
    """The chosen pair of task and expert, from the select boxes."""
    shares = views.routing_by_task(run, after)
    tasks, experts = list(shares.index), list(shares.columns)
    st.session_state["rt_names"] = (tasks, experts)
    offered = [OWN, *experts]
    for key, options in zip(FOCUS, (tasks, offered), strict=True):
        if st.session_state.get(key) not in options:
            st.session_state.pop(key, None)
    left, right = st.columns(2)
    task = tasks.index(left.selectbox("Task", tasks, key="rt_task", bind="query-params"))
    chosen = right.selectbox("Expert", offered, key="rt_expert", bind="query-params")
    return task, views.own_expert(run, after, task) if chosen == OWN else experts.index(chosen)


def overview(run: Run, after: int) -> None:
    shares = views.routing_by_task(run, after)
    st.subheader("Who answers which task", anchor=False)
    strongest = "; ".join(f"{task}: {row.idxmax()} {row.max():.0%}" for task, row in shares.iterrows())
    shell.card(
        figures.routing_by_task, run, after, key="rt_map", alt=f"Share of each expert per task. {strongest}",
        table=views.routing_by_task, on_click=take_click,
        read="Each row is a task and sums to 1: the part of the routing weight each expert gets on its test examples. "
        "Bright on the diagonal means that tasks find their own expert. Click a cell to look inside.",
    )  # fmt: skip


def inside(run: Run, after: int, task: int, expert: int) -> None:
    shares = views.routing_by_task(run, after)
    name, other = shares.index[task], shares.columns[expert]
    st.subheader("Where in the network", anchor=False)
    st.markdown(f"Expert **{shell.plain(other)}** on task **{shell.plain(name)}**: {shares.iat[task, expert]:.1%} of the weight")
    table = views.routing_by_layer(run, after, task, expert)
    span = f"from {table.min().min():.2f} to {table.max().max():.2f}"
    alt = f"Mean weight of expert {other} on task {name} by layer and routing head, {span}"
    shell.chart(figures.routing_by_layer(run, after, task, expert), "rt_layers", alt)
    shell.how_to_read(
        "Input side on top. A routing head is a block of a layer's features with weights of its own. "
        "Columns that differ mean that heads decide differently."
    )


def drift(run: Run, after: int) -> None:
    st.subheader("What changed since a task was learned", anchor=False)
    own = views.routing_drift(run, after)
    text = "; ".join(f"{task} {own.at[task, task]:+.0%}" for task in own.index if task in own.columns)
    shell.chart(figures.routing_drift(run, after), "rt_drift", f"Change of the share of the own expert: {text}")
    shell.how_to_read(
        "Orange: the expert lost weight on this task since it was learned. Purple: it gained. The last task cannot have changed."
    )


def example_list(run: Run, after: int, task: int) -> None:
    """Recorded test examples of the task with their routing, and one of them by layer."""
    st.subheader("Examples", anchor=False)
    table = views.routed_examples(run, after, task)
    if table.empty:
        st.info("No single examples are recorded for this task.")
        return
    means = table[[name for name in table.columns if name.startswith("share: ")]].mean().sort_values(ascending=False)
    kept = list(means.index[:SHOWN])
    shares = {
        name: st.column_config.ProgressColumn(name.removeprefix("share: "), min_value=0, max_value=1, format="percent")
        for name in kept
    }
    columns = {
        "text": st.column_config.TextColumn("text", width="large"),
        "probability": st.column_config.NumberColumn(format="%.2f"),
    }
    told = ["text"] if table["label"].isna().all() else ["text", "label", "prediction", "correct", "probability"]
    shown = table[[*told, *kept]]
    st.dataframe(
        shown,
        hide_index=True,
        column_config=columns | shares,
        key="rt_examples",
        alt="Recorded examples with label, prediction and routing",
    )
    numbers = list(range(len(table)))
    chosen = st.selectbox("Example", numbers, format_func=lambda n: f"{n + 1}: {table['text'].iloc[n][:80]}", key="rt_example")
    left, right = st.columns([2, 3], gap="large")
    row = table.iloc[chosen]
    with left:
        st.text(row["text"])
        if isinstance(row["label"], str):
            mark = ":material/check:" if row["correct"] else ":material/close:"
            st.markdown(f"{mark} predicted **{shell.plain(row['prediction'])}**, true **{shell.plain(row['label'])}**")
    with right:
        shell.chart(
            figures.example_by_layer(run, after, task, chosen), "rt_one", "Weights of the chosen example by layer and expert"
        )


def draw() -> None:
    shell.heading("Routing", "Which expert answers: by task, by layer and routing head, and for single examples.")
    found = shell.choices()
    if not found:
        return shell.nothing_yet("There are no runs to look into yet.")
    routed = [key for key, run in found.items() if run.recorded()]
    run = shell.pick_run("Run", "rt_run", found, (routed or list(found))[0])
    if not run.recorded():
        return explain_missing(run)
    after = moment(run)
    for alert in views.alerts(run):
        if alert.kind in ("collapse", "damaged"):
            st.warning(shell.plain(alert.text), icon=":material/warning:")
    task, expert = focus(run, after)
    left, right = st.columns(2, gap="large")
    with left:
        overview(run, after)
    with right:
        inside(run, after, task, expert)
    with shell.section():
        example_list(run, after, task)
    if after > 0:
        with shell.section():
            drift(run, after)


draw()
