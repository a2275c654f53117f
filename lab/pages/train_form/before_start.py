"""Before the start of a run: forecast of time and memory, warnings, and the first examples as the model will see them."""

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
from lab.run_folder.run import all_runs
from lab.training import forecast
from lab.training.workload import sizes_of

NEWEST = 20  # earlier runs that a forecast may rest on
TOKENS = 60  # of an example that are shown


@st.cache_resource(ttl=300, max_entries=4, show_spinner="Reading the tasks")
def tasks_of(settings: str) -> list[Task] | None:
    """The tasks of a configuration (as JSON, see `concerns_data`), if their data is at hand; None where it had to be downloaded.

    Raises LabError where it cannot be read.
    """
    made = validated(json.loads(settings))
    if loading.open_stream(made.stream.name, made.stream.sources).downloads:
        return None
    return loading.tasks_of(made.stream, made.seed)


@st.cache_data(max_entries=20, show_spinner=False)
def seen(settings: str) -> dict[str, Any]:
    """What the process that loads data and model found, by the configuration as JSON."""
    return forecast.ask(json.loads(settings))


def concerns_data(made: RunConfig) -> str:
    """The part of a configuration that decides how much data there is, as JSON."""
    return json.dumps({"stream": made.stream.model_dump(mode="json"), "seed": made.seed}, sort_keys=True)


def expected(made: RunConfig, report: dict[str, Any] | None) -> tuple[forecast.Sizes | None, forecast.Forecast | None]:
    """Sizes of the tasks and the forecast, as far as they are known before the start."""
    tasks = tasks_of(concerns_data(made))
    sizes = report["tasks"] if report else tasks and sizes_of(tasks)
    return sizes, forecast.forecast(made, sizes, all_runs()[-NEWEST:]) if sizes else None


def before_start(made: RunConfig) -> None:
    """What is to be expected of the run: time, memory, parameters, warnings, and the first examples as the model sees them."""
    st.subheader("Before you start", anchor=False)
    settings = json.dumps(made.to_dict() | {"about": ""}, sort_keys=True)
    looked = st.session_state.get("train/looked", {})
    report = looked.get(settings)
    tasks, foreseen = expected(made, report)
    unknown = "not known before the data is loaded" if foreseen is None else foreseen.source
    known = foreseen and foreseen.seconds is not None
    time_, memory, parameters = st.columns(3)
    time_.metric("Time", duration(foreseen.seconds) if known else "–", help=layout.plain(unknown))
    memory.metric("Memory", f"{foreseen.peak_bytes / 1e9:.1f} GB" if known else "–", help=layout.plain(unknown))
    count = f"{report['trainable_parameters']:,}" if report else "–"
    parameters.metric("Trainable", count, help="Parameters trained over the whole stream; counted when the model is looked at.")
    st.caption(f"Forecast: {layout.plain(unknown)}. Less if another run has trained some of these experts already.")
    for text in forecast.warnings(made, foreseen, tasks, report):
        st.warning(layout.plain(text), icon=":material/warning:")
    if report:
        return examples(report)
    if not jobs.read_only() and st.button(
        "Show what the model will see",
        icon=":material/visibility:",
        key="train_look",
        help="Loads data and model in a process of its own, counts the parameters, and shows the first examples as tokens.",
    ):
        try:
            with st.spinner("Loading data and model"):
                report = seen(settings)
        except LabError as error:
            return st.error(layout.plain(error), title="Data and model cannot be loaded")
        st.session_state["train/looked"] = {settings: report}
        st.rerun()


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
            st.markdown(" ".join(f"`{literal_token(token)}`" for token in tokens[:TOKENS]) + more)
            cut = f" · cut at {report['limit']} tokens" if len(tokens) >= report["limit"] else ""
            st.caption(f"label **{layout.plain(example['label'])}** · {len(tokens)} tokens{cut}")
    st.caption(
        f"{task['train']} training, {task['validation']} validation, {task['test']} test examples · "
        f"{len(task['labels']) or 'no'} labels · longest text {task['longest']} of {report['limit']} tokens · "
        f"{report['device']}, {report['dtype']}, {report['layers']} adapted layers"
    )


def literal_token(token: str) -> str:
    """A token for inline code, which cannot hold a backtick."""
    return token.replace("`", "ˋ")
