"""The widgets of the form: which options there are for a recipe, and one widget for each."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from lab.config.resolve import merged, parse_override, start, typed, written
from lab.config.schema import RunConfig
from lab.core import registry
from lab.core.documents import yaml_value
from lab.core.errors import LabError
from lab.data import loading
from lab.data.saved_stream import saved_names
from lab.pages import layout
from lab.pages.train_form import draft
from lab.pages.train_form.options import Entry

BACKBONES = ("minilm", "tiny", "strings")  # others only from the command line: a page does not take names of models to load
STRUCTURE = {  # options that decide which others exist
    "experts.name": registry.experts,
    "router.name": registry.routers,
    "protocol.name": registry.protocols,
}
MAIN = {  # options that stand first, with their labels
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
SECTION_TITLES = {"": "Run", "train": "Training", "router_training": "Training on the memory"}


def structure(recipe: str) -> list[str]:
    """Overrides that decide which options exist: kind of expert, router, added methods."""
    names = {path: draft.drafted(recipe, path, None) for path in STRUCTURE}
    chosen = [f"{path}={name}" for path, name in names.items() if name in STRUCTURE[path].names()]
    return chosen + added(recipe)


def more_methods(recipe: str) -> list[str]:
    """Methods that can be added: all except those of the recipe."""
    own = start(recipe, {}).get("methods", {})
    return [name for name in registry.methods.names() if name not in own]


def added(recipe: str) -> list[str]:
    """Overrides that add the chosen methods."""
    chosen = draft.drafted(recipe, "methods", [])
    return [f"methods.{name}={{}}" for name in more_methods(recipe) if name in chosen]


def configuration(recipe: str, structural: list[str]) -> RunConfig:
    """The recipe with these overrides and the settings that come with the chosen stream, before any other change.

    It need not be consistent: that is checked later, with all changes.
    """
    stream = draft.drafted(recipe, "stream.name", None)
    content = start(recipe, {"stream": {"name": stream}} if stream in stream_names() else {})
    for text in structural:
        content = merged(content, parse_override(text))
    return typed(content)


def stream_names() -> list[str]:
    """Streams that can be chosen: registered ones, folders under LAB_DATA, and what was saved beside the runs."""
    try:
        folders = loading.folders()
    except LabError:  # LAB_DATA is no folder; the check says so
        folders = []
    return sorted({"builtin", *registry.streams.names(), *folders, *saved_names()}, key=lambda name: (name != "builtin", name))


@st.cache_data(ttl=60, show_spinner=False)
def task_names(stream: str) -> list[str]:
    """Tasks of a stream; empty if it cannot be opened, for which the check gives the reason."""
    try:
        return loading.open_stream(stream).names()
    except LabError:
        return []


def choices(recipe: str, default_stream: str) -> dict[str, Sequence[str]]:
    """Allowed names by path, for options whose type is only text."""
    streams, stream = stream_names(), draft.drafted(recipe, "stream.name", default_stream)
    tasks = task_names(stream if stream in streams else default_stream)
    return {
        "stream.name": streams,
        "stream.tasks": tasks,
        "protocol.train_tasks": tasks,
        "protocol.held_out": tasks,
        "backbone.name": BACKBONES,
        "experts.name": registry.experts.names(),
        "router.name": registry.routers.names(),
        "protocol.name": registry.protocols.names(),
    }


def widget(recipe: str, entry: Entry, label: str = "") -> Any:
    """Draw the widget of one option; returns its value."""
    entry = draft.with_initial_value(recipe, entry)
    common: dict[str, Any] = {
        "key": draft.key(recipe, entry.path),
        "help": layout.plain(entry.about) or None,
        "persist_state": "session",
    }
    label = label or entry.title
    if entry.kind == "bool":
        return st.toggle(label, entry.default, **common)
    if entry.kind == "choice":
        return choice(recipe, entry, label, common)
    if entry.kind in ("int", "float"):
        return number(entry, label, common)
    if entry.kind == "names" and entry.choices:
        initial = entry.default if isinstance(entry.default, list) else []
        valid = [name for name in initial if name in entry.choices]
        return st.multiselect(label, entry.choices, valid, placeholder="all, alphabetically", **common) or None
    return words(entry, label, common)


def choice(recipe: str, entry: Entry, label: str, common: dict[str, Any]) -> Any:
    """A select box; where the entry is free, a whole number can be typed."""
    if entry.path == "stream.name":  # a stream brings settings with it
        common |= {"on_change": draft.follow, "args": [recipe, entry.path]}
    names = [*dict.fromkeys([*entry.choices, str(entry.default)])]
    chosen = st.selectbox(label, names, index=names.index(str(entry.default)), accept_new_options=entry.free, **common)
    return int(chosen) if entry.free and chosen and chosen.isdecimal() else chosen


def number(entry: Entry, label: str, common: dict[str, Any]) -> Any:
    """A number inside its limits; an optional one may be empty."""
    kind = int if entry.kind == "int" else float

    def of_kind(value: float | None) -> float | None:
        return None if value is None else kind(value)

    value = st.number_input(
        label,
        min_value=of_kind(entry.low),
        max_value=of_kind(entry.high),
        value=of_kind(entry.default),
        step=kind(entry.step),
        format="%d" if kind is int else "%.6g",
        placeholder="all" if entry.optional else None,
        **common,
    )
    return value if value is not None or entry.optional else of_kind(entry.default)


def words(entry: Entry, label: str, common: dict[str, Any]) -> Any:
    """A text, or for a list of names its items separated by commas."""
    parts = entry.default if entry.kind == "names" and isinstance(entry.default, list) else [entry.default]
    text = st.text_input(label, ", ".join(written(part) for part in parts if part is not None), **common)
    if entry.kind != "names":
        return text
    try:
        return yaml_value(f"[{text}]", label)
    except LabError:  # as it was typed: the check says what is wrong with it
        return [text]


def fill(recipe: str, entries: list[Entry]) -> dict[str, Any]:
    """Draw the form: main options, those that a search finds, and all others in one expander. Returns the values by path."""
    by_path = {entry.path: entry for entry in entries}
    values: dict[str, Any] = {}
    columns = st.columns(2)
    for index, (path, label) in enumerate((path, label) for path, label in MAIN.items() if path in by_path):
        with columns[index % 2]:
            values[path] = widget(recipe, by_path[path], label)
            if path == "stream.name":
                where_streams_come_from()
    search = st.text_input(
        "Search all options", key="train_search", icon=":material/search:", placeholder="rank, temperature, learning rate ..."
    )
    others = [entry for entry in entries if entry.path not in MAIN]
    matching = [entry for entry in others if search.strip() and entry.matches(search)]
    if search.strip():
        st.caption(f"{len(matching)} of {len(others)} options match." if matching else "No option matches.")
    side_by_side(recipe, matching, values)
    with st.expander("All other options", icon=":material/tune:", key="train_more"):
        addable = more_methods(recipe)
        st.multiselect(
            "More methods",
            addable,
            [name for name in draft.draft(recipe)[1].get("methods", []) if name in addable],
            key=draft.key(recipe, "methods"),
            help="Methods that act on training besides those of the recipe.",
            persist_state="session",
        )
        rest = [entry for entry in others if entry not in matching]
        for section in dict.fromkeys(entry.section for entry in rest):
            title = SECTION_TITLES.get(section) or section.replace("_", " ").replace(".", " · ").capitalize()
            st.markdown(f"**{layout.plain(title)}**")
            side_by_side(recipe, [entry for entry in rest if entry.section == section], values)
    return values


def side_by_side(recipe: str, entries: Sequence[Entry], values: dict[str, Any]) -> None:
    """Widgets of options in two columns; their values go into `values`."""
    if not entries:
        return
    columns = st.columns(2)
    for index, entry in enumerate(entries):
        with columns[index % 2]:
            values[entry.path] = widget(recipe, entry)


def where_streams_come_from() -> None:
    """What the choice of streams holds, and how more come into it."""
    with st.popover("More streams", icon=":material/help:", type="tertiary"):
        st.markdown(
            "The list holds the streams of the lab, those saved by *Bring your own data* above, and folders under `LAB_DATA`. "
            "There each task is a folder with `train.csv` (or jsonl, parquet ...) in it, with the columns `text` and `label`: "
            "`DATA/reviews/books/train.csv`, `DATA/reviews/films/train.csv`. Started by `LAB_DATA=DATA lab app`, the page offers "
            "the stream `reviews` with its tasks."
        )
