"""Route: adapters that were trained elsewhere, one per task of a stream, and a router that is fitted among them, as a job."""

import shlex

import streamlit as st

from lab.adapters import library
from lab.config.schema import RunConfig
from lab.core import registry
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import code_snippets, layout, navigation, url_state
from lab.pages.train_form import widgets
from lab.store import index
from lab.store.turns import safe_status
from lab.training import forecast, ready_adapters

EXAMPLES = 100  # per task that are offered at first


def adapters(tasks: list[str]) -> dict[str, str]:
    """A box for each task, to choose an expert of this folder or to write where one is; the adapters by task."""
    kept = [expert.key for expert in library.experts([run for run in index.runs()[::-1] if safe_status(run) != "damaged"])]
    chosen = {}
    for task in tasks:
        likely = sorted(kept, key=lambda key, task=task: key.rpartition("/")[2] != task)  # those of its name first
        adapter = st.selectbox(
            f"Adapter for {layout.plain(task)}",
            likely,
            index=None,
            accept_new_options=True,
            placeholder="Choose an expert, or write a folder or a hub id; empty: leave the task out",
            key=f"route_adapter/{task}",
            persist_state="session",
        )
        if adapter:
            chosen[task] = adapter
    return chosen


def settings() -> tuple[str, list[str]]:
    """The router, and the other options as `key=value`."""
    routers = [ready_adapters.RECIPE, *registry.routers.names()]
    url_state.set_default("route_router", routers, ready_adapters.RECIPE)
    router = st.selectbox(
        "Router",
        routers,
        key="route_router",
        bind="query-params",
        help="l2r: a network of routers, trained on the examples. arrow, prototype, uniform and others need no training.",
    )
    most = st.number_input("Examples per task", 2, 100_000, EXAMPLES, key="route_examples", persist_state="session")
    told = st.toggle(
        "The model is told the task of a text",
        key="route_told",
        persist_state="session",
        help="Then it chooses among the labels of this task, else among those of all tasks. The router is not told.",
    )
    return router, [f"stream.max_train={most}", f"scenario={'task' if told else 'class'}"]


def equivalents(chosen: dict[str, str], stream: str, router: str, options: list[str]) -> None:
    """The same from code."""
    command, python = st.tabs(["Command line", "Python"])
    words = [word for task, adapter in chosen.items() for word in ("--expert", f"{task}={adapter}")]
    words += ["--examples", stream, "--router", router, *(word for option in options for word in ("-o", option))]
    command.code(f"{shlex.join(['lab', 'route', *words])}{code_snippets.runs_option()}", language="bash", wrap_lines=True)
    python.code(
        f"import lab\n\nrun = lab.route({chosen!r}, {stream!r}, {router!r}, overrides={options!r})\nrun.result()",
        language="python",
        wrap_lines=True,
    )


def begin(config: RunConfig) -> None:
    """Look at adapters, data and model in a process of its own; then start the run, or queue it, and go to its page."""
    with st.spinner("Loading adapters, data and model"):
        forecast.ask(config.to_dict())
    run = jobs.enqueue(config.to_dict()) if jobs.is_full() else jobs.start(config.to_dict())
    st.switch_page(navigation.page("jobs"), query_params={"job": run.id})


def draw() -> None:
    layout.heading(
        "Route adapters",
        "Adapters that were trained elsewhere become experts as they are. Only a router among them, and a classifier, are fitted "
        "on a few examples of each task.",
    )
    if jobs.read_only():
        st.info("This lab is read-only: run lab route on a machine of your own.", icon=":material/lock:")
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        streams = widgets.stream_names()
        url_state.set_default("route_stream", streams, "builtin")
        stream = st.selectbox("Examples (a stream)", streams, key="route_stream", bind="query-params")
        chosen = adapters(widgets.task_names(stream))
    with right:
        router, options = settings()
        if st.button("Start", type="primary", icon=":material/play_arrow:", disabled=not chosen, key="route_start"):
            try:
                begin(ready_adapters.configuration(chosen, stream, router, overrides=options))
            except LabError as error:
                st.error(layout.plain(error), title="This cannot run yet")
        if not chosen:
            st.info("Choose an adapter for at least one task; with two or more there is something to route.")
            return
        st.caption("When it has run, its page leads to Routing, Compare and Playground.")
        equivalents(chosen, stream, router, options)


draw()
