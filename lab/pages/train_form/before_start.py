"""What to expect of a run before it starts: time and memory, warnings, and the first examples as the model will see them."""

import json
from typing import Any

import streamlit as st

from lab.config.resolve import validated
from lab.config.schema import RunConfig
from lab.core.errors import LabError
from lab.data import loading
from lab.data.stream import Task
from lab.jobs import jobs
from lab.pages import layout, url_state
from lab.store import index
from lab.training import forecast
from lab.training.workload import sizes_of

NEWEST = 20  # earlier runs that a forecast may rest on
TOKENS = 60  # of an example that are shown


@st.cache_resource(ttl=300, max_entries=4, show_spinner="Reading the tasks")
def tasks_of(settings: str) -> list[Task] | None:
    """The tasks of a configuration (JSON of `concerns_data`); None where their data would have to be downloaded first.

    Raises LabError where the data cannot be read.
    """
    config = validated(json.loads(settings))
    if loading.open_stream(config.stream.name, config.stream.sources).downloads:
        return None
    return loading.tasks_of(config.stream, config.seed)


@st.cache_data(max_entries=20, show_spinner=False)
def inspected(settings: str) -> dict[str, Any]:
    """The report of a process that loads data and model of a configuration (JSON). Raises LabError if that fails."""
    return forecast.ask(json.loads(settings))


def concerns_data(config: RunConfig) -> str:
    """The part of a configuration that decides which data is read, as JSON."""
    return json.dumps({"stream": config.stream.model_dump(mode="json"), "seed": config.seed}, sort_keys=True)


def expected(config: RunConfig, report: dict[str, Any] | None) -> tuple[forecast.Sizes | None, forecast.Forecast | None]:
    """Sizes of the tasks and the forecast, as far as they are known before the start."""
    if report:
        sizes = report["tasks"]
    else:
        tasks = tasks_of(concerns_data(config))
        sizes = sizes_of(tasks) if tasks else None
    return sizes, forecast.forecast(config, sizes, index.runs()[-NEWEST:]) if sizes else None


def before_start(config: RunConfig) -> None:
    """Time, memory and parameters to expect, warnings, and on a click the first examples as the model sees them."""
    st.subheader("Before you start", anchor=False)
    settings = json.dumps(config.to_dict() | {"about": ""}, sort_keys=True)
    report = st.session_state.get("train/inspected", {}).get(settings)
    sizes, foreseen = expected(config, report)
    show_forecast(foreseen, report)
    for text in forecast.warnings(config, foreseen, sizes, report):
        st.warning(layout.plain(text), icon=":material/warning:")
    if report:
        examples(report)
    elif not jobs.read_only() and st.button(
        "Show what the model will see",
        icon=":material/visibility:",
        key="train_look",
        help="Loads data and model in a process of its own, counts the parameters, and shows the first examples as tokens.",
    ):
        try:
            with st.spinner("Loading data and model"):
                report = inspected(settings)
        except LabError as error:
            st.error(layout.plain(error), title="Data or model cannot be loaded")
            return
        st.session_state["train/inspected"] = {settings: report}
        st.rerun()


def show_forecast(foreseen: forecast.Forecast | None, report: dict[str, Any] | None) -> None:
    """Time, memory and number of parameters; dashes for what is not known yet."""
    source = layout.plain("not known before the data is loaded" if foreseen is None else foreseen.source)
    seconds = foreseen.seconds if foreseen else None
    memory_bytes = foreseen.peak_bytes if foreseen and seconds is not None else None
    time_, memory, parameters = st.columns(3)
    time_.metric("Time", "–" if seconds is None else duration(seconds), help=source)
    memory.metric("Memory", "–" if memory_bytes is None else f"{memory_bytes / 1e9:.1f} GB", help=source)
    count = f"{report['trainable_parameters']:,}" if report else "–"
    parameters.metric("Trainable", count, help="Parameters trained over the whole stream; counted once the model is loaded.")
    st.caption(f"Forecast: {source}. Less if an earlier run has trained some of these experts already.")


def duration(seconds: float) -> str:
    """A rough time in few characters."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 1.5 else f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def examples(report: dict[str, Any]) -> None:
    """The first training examples of a task, token by token."""
    names = [task["name"] for task in report["tasks"]]
    url_state.drop_unavailable("train_examples", names)
    chosen = st.selectbox("First training examples of", names, key="train_examples", bind="query-params")
    task = report["tasks"][names.index(chosen)]
    for example in task["examples"]:
        tokens = example["tokens"]
        more = f" … and {len(tokens) - TOKENS} more" if len(tokens) > TOKENS else ""
        with st.container(border=True):
            st.markdown(" ".join(f"`{literal_token(word)}`:gray[:small[{id}]]" for word, id in tokens[:TOKENS]) + more)
            cut = f" · cut at {report['limit']} tokens" if len(tokens) >= report["limit"] else ""
            st.caption(f"label **{layout.plain(example['label'])}** · {len(tokens)} tokens{cut}")
    st.caption("Each token, and after it the id by which the model knows it.")
    st.caption(
        f"{task['train']} training, {task['validation']} validation, {task['test']} test examples · "
        f"{len(task['labels']) or 'no'} labels · longest text {task['longest']} of {report['limit']} tokens · "
        f"{report['device']}, {report['dtype']}, {report['layers']} adapted layers"
    )


def literal_token(token: str) -> str:
    """A token for inline code, which cannot hold a backtick."""
    return token.replace("`", "ˋ")
