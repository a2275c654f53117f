"""The form of Train: which options there are, and a widget for each."""

from typing import Any

import streamlit as st
import yaml

from lab.config.resolve import merged, parse_override, start, typed, written
from lab.config.schema import RunConfig
from lab.core import registry
from lab.core.errors import LabError
from lab.data import loading
from lab.pages import layout
from lab.pages.train_form import draft
from lab.pages.train_form.options import Entry

BACKBONES = ("minilm", "tiny", "strings")  # others only from the command line: a page does not take names of models to load
STRUCTURE = {  # what decides which other options there are
    "experts.name": registry.experts,
    "router.name": registry.routers,
    "protocol.name": registry.protocols,
}
MAIN = {
    "stream.name": "Stream",
    "backbone.name": "Backbone",
    "scenario": "Scenario",
    "seed": "Seed",
    "stream.tasks": "Tasks, in order",
    "stream.max_train": "Training examples per task",
    "train.epochs": "Epochs per task",
    "train.lr": "Learning rate",
    "experts.rank": "Rank of an expert",
    "memory.per_task": "Stored examples per task",
}
SECTIONS = {"": "run", "train": "training", "router_training": "training on the memory"}


def structure(recipe: str) -> list[str]:
    """Overrides that decide which options exist: kind of expert, router, added methods."""
    names = {path: draft.drafted(recipe, path, None) for path in STRUCTURE}
    chosen = [f"{path}={name}" for path, name in names.items() if name in STRUCTURE[path].names()]
    return chosen + added(recipe)


def more_methods(recipe: str) -> list[str]:
    """Methods that can be added: all but the recipe's own."""
    own = start(recipe, {}).get("methods", {})
    return [name for name in registry.methods.names() if name not in own]


def added(recipe: str) -> list[str]:
    """Overrides that add the chosen methods."""
    chosen = draft.drafted(recipe, "methods", [])
    return [f"methods.{name}={{}}" for name in more_methods(recipe) if name in chosen]


def options(recipe: str, structural: list[str]) -> RunConfig:
    """The recipe with the chosen plug-ins and what fits the chosen stream, before anything else is changed; consistency is
    checked later, with all changes."""
    stream = draft.drafted(recipe, "stream.name", None)
    content = start(recipe, {"stream": {"name": stream}} if stream in stream_names() else {})
    for text in structural:
        content = merged(content, parse_override(text))
    return typed(content)


def stream_names() -> list[str]:
    """Streams that can be chosen: registered ones, and folders under LAB_DATA."""
    try:
        folders = loading.folders()
    except LabError:  # LAB_DATA is none; that is said by the check
        folders = []
    return sorted({"builtin", *registry.streams.names(), *folders}, key=lambda name: (name != "builtin", name))


@st.cache_data(ttl=60, show_spinner=False)
def task_names(stream: str) -> list[str]:
    """Tasks of a stream, or nothing if it cannot be opened; the reason is then said by the check."""
    try:
        return loading.open_stream(stream).names()
    except LabError:
        return []


def choices(recipe: str, recipe_stream: str) -> dict[str, list[str]]:
    """Names to choose from where the type is only text."""
    streams, stream = stream_names(), draft.drafted(recipe, "stream.name", recipe_stream)
    tasks = task_names(stream if stream in streams else recipe_stream)
    return {
        "stream.name": streams,
        "stream.tasks": tasks,
        "protocol.train_tasks": tasks,
        "protocol.held_out": tasks,
        "backbone.name": list(BACKBONES),
        "experts.name": registry.experts.names(),
        "router.name": registry.routers.names(),
        "protocol.name": registry.protocols.names(),
    }


def widget(recipe: str, one: Entry, label: str = "") -> Any:
    """The widget of one option; returns its value."""
    one = draft.begun(recipe, one)
    common = {"key": draft.key(recipe, one.path), "help": layout.plain(one.about) or None, "persist_state": "session"}
    label = label or one.title
    if one.kind == "bool":
        return st.toggle(label, one.default, **common)
    if one.kind == "choice":
        if one.path == "stream.name":  # which brings the settings that fit it
            common |= {"on_change": draft.follow, "args": [recipe, one.path]}
        choices = [*dict.fromkeys([*one.choices, str(one.default)])]
        chosen = st.selectbox(label, choices, index=choices.index(str(one.default)), accept_new_options=one.free, **common)
        return int(chosen) if one.free and chosen.isdecimal() else chosen
    if one.kind in ("int", "float"):
        return number(one, label, common)
    if one.kind == "names" and one.choices:
        chosen = one.default if isinstance(one.default, list) else []
        kept = [name for name in chosen if name in one.choices]
        return st.multiselect(label, one.choices, kept, placeholder="all, alphabetically", **common) or None
    parts = one.default if one.kind == "names" and isinstance(one.default, list) else [one.default]
    text = st.text_input(label, ", ".join(written(part) for part in parts if part is not None), **common)
    if one.kind != "names":
        return text
    try:
        return yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:  # as it was typed: the check says what is wrong with it
        return [text]


def number(one: Entry, label: str, common: dict[str, Any]) -> Any:
    """A number inside its limits; an optional one may be empty."""
    kind = int if one.kind == "int" else float
    limits = {"min_value": None if one.low is None else kind(one.low), "max_value": None if one.high is None else kind(one.high)}
    value = None if one.default is None else kind(one.default)
    shape = {"step": kind(one.step), "format": "%d" if kind is int else "%.6g", "placeholder": "all" if one.optional else None}
    found = st.number_input(label, value=value, **limits, **shape, **common)
    return found if found is not None or one.optional else value


def fill(recipe: str, found: list[Entry]) -> dict[str, Any]:
    """Draw the form; returns {path: value}. Main options first, all others in one expander."""
    by_path = {one.path: one for one in found}
    values: dict[str, Any] = {}
    columns = st.columns(2)
    for place, (path, label) in enumerate((path, label) for path, label in MAIN.items() if path in by_path):
        with columns[place % 2]:
            values[path] = widget(recipe, by_path[path], label)
    with st.expander("All other options", icon=":material/tune:", key="train_more"):
        added = more_methods(recipe)
        st.multiselect(
            "More methods",
            added,
            [name for name in draft.draft(recipe)[1].get("methods", []) if name in added],
            key=draft.key(recipe, "methods"),
            help="What acts on training beside the recipe.",
            persist_state="session",
        )
        for section in dict.fromkeys(one.section for one in found):
            rest = [one for one in found if one.section == section and one.path not in MAIN]
            if not rest:
                continue
            st.markdown(f"**{layout.plain(SECTIONS.get(section, section.replace('_', ' ').replace('.', ' · ')).capitalize())}**")
            columns = st.columns(2)
            for place, one in enumerate(rest):
                with columns[place % 2]:
                    values[one.path] = widget(recipe, one)
    return values
