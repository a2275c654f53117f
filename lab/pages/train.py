"""Train: choose a recipe and a stream, change what should differ, see it checked, and start it as a job."""

import os
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st
import yaml

from lab import config, jobs, registry, sources
from lab.errors import LabError
from lab.pages import form, shell
from lab.pages.form import Entry

BACKBONES = ("minilm", "tiny")  # others only from the command line: a page does not take names of models to load
STRUCTURE = ("experts.name", "router.name")  # what decides which other options there are
HIDDEN = ("recipe", "about", "scenarios", "stream.sources")
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
SECTIONS = {"": "run", "train": "training", "memory_training": "training on the memory"}
TWICE = 5.0  # seconds in which the same start is a double click


def key(recipe: str, path: str) -> str:
    """The session's name of a widget: every recipe keeps its own draft."""
    return f"train/{recipe}/{path}"


def drafted(recipe: str, path: str, default: Any) -> Any:
    return st.session_state.get(key(recipe, path), default)


def structure(recipe: str) -> list[str]:
    """Overrides that decide which options exist: kind of expert, router, added methods."""
    added = drafted(recipe, "methods", [])
    names = {path: drafted(recipe, path, None) for path in STRUCTURE}
    return [f"{path}={name}" for path, name in names.items() if name] + [f"methods.{name}={{}}" for name in added]


def options(recipe: str, structural: list[str]) -> config.RunConfig:
    """The recipe with the chosen plug-ins, before anything else is changed; consistency is checked later, with all changes."""
    content = config.read_recipe(recipe)
    for text in structural:
        content = config.merged(content, config.parse_override(text))
    return config.RunConfig(**content)


def stream_names() -> list[str]:
    """Streams that can be chosen: registered ones, and folders under LAB_DATA."""
    shelf = Path(os.environ.get("LAB_DATA") or os.devnull)
    folders = [path.name for path in shelf.iterdir() if path.is_dir() and path.name[0] != "."] if shelf.is_dir() else []
    return sorted({"builtin", *registry.streams.names(), *folders}, key=lambda name: (name != "builtin", name))


@st.cache_data(ttl=60, show_spinner=False)
def task_names(stream: str) -> list[str]:
    """Tasks of a stream, or nothing if it cannot be opened; the reason is then said by the check."""
    try:
        return sources.open_stream(stream).names()
    except LabError:
        return []


def choices(recipe: str, recipe_stream: str) -> dict[str, list[str]]:
    """Names to choose from where the type is only text."""
    return {
        "stream.name": stream_names(),
        "stream.tasks": task_names(drafted(recipe, "stream.name", recipe_stream)),
        "backbone.name": list(BACKBONES),
        "experts.name": registry.experts.names(),
        "router.name": registry.routers.names(),
    }


def widget(recipe: str, one: Entry, label: str = "") -> Any:
    """The widget of one option; returns its value."""
    common = {"key": key(recipe, one.path), "help": shell.plain(one.about) or None, "persist_state": "session"}
    label = label or one.title
    if one.kind == "bool":
        return st.toggle(label, one.default, **common)
    if one.kind == "choice":
        return st.selectbox(label, one.choices, index=one.choices.index(str(one.default)), **common)
    if one.kind in ("int", "float"):
        return number(one, label, common)
    if one.kind == "names" and one.choices:
        chosen = one.default if isinstance(one.default, list) else []
        kept = [name for name in chosen if name in one.choices]
        return st.multiselect(label, one.choices, kept, placeholder="all, alphabetically", **common) or None
    text = st.text_input(label, "" if one.default is None else form.written(one.default), **common)
    return yaml.safe_load(f"[{text}]") if one.kind == "names" else text


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
        added = [
            name for name in registry.methods.names() if f"methods.{name}" not in config.read_recipe(recipe).get("methods", {})
        ]
        st.multiselect(
            "More methods",
            added,
            key=key(recipe, "methods"),
            help="What acts on training beside the recipe.",
            persist_state="session",
        )
        for section in dict.fromkeys(one.section for one in found):
            rest = [one for one in found if one.section == section and one.path not in MAIN]
            if not rest:
                continue
            st.markdown(f"**{shell.plain(SECTIONS.get(section, section.replace('_', ' ').replace('.', ' · ')).capitalize())}**")
            columns = st.columns(2)
            for place, one in enumerate(rest):
                with columns[place % 2]:
                    values[one.path] = widget(recipe, one)
    return values


def check(recipe: str, changes: list[str]) -> tuple[config.RunConfig | None, str]:
    """The configuration, or the reason why it cannot run."""
    try:
        made = config.configure(recipe, changes)
        stream = sources.open_stream(made.stream.name, made.stream.sources)
        if isinstance(made.stream.tasks, list):
            for name in made.stream.tasks:
                if name not in stream.names():
                    raise LabError(f"stream {made.stream.name} has no task {name}")
        return made, ""
    except LabError as error:
        return None, str(error)


def equivalents(recipe: str, changes: list[str]) -> None:
    """The same run as a command, a recipe file and Python, kept up to date with the form."""
    command, recipe_file, python = st.tabs(["Command line", "YAML", "Python"])
    words = ["lab", "run", recipe, *(word for change in changes for word in ("-o", change))]
    command.code(shlex.join(words), language="bash", wrap_lines=True)
    recipe_file.code(
        yaml.safe_dump({"base": recipe} | form.nested(changes), sort_keys=False, allow_unicode=True), language="yaml"
    )
    recipe_file.caption("A recipe file: `lab run FILE`")
    listed = f", overrides={changes!r}" if changes else ""
    python.code(
        f"import lab\n\nrun = lab.run({recipe!r}{listed})\nlab.figures.accuracy_matrix(run)", language="python", wrap_lines=True
    )


def start(made: config.RunConfig) -> None:
    """Start the run once, and go to its page; a second click on the same settings finds the run of the first."""
    plain = made.to_dict()
    before = st.session_state.get("started")
    if before and before["config"] == plain and time.monotonic() - before["at"] < TWICE:
        st.switch_page(shell.page("jobs"), query_params={"job": before["run"]})
    run = jobs.start(plain)
    st.session_state["started"] = {"config": plain, "at": time.monotonic(), "run": run.id}
    st.switch_page(shell.page("jobs"), query_params={"job": run.id})


def launch(made: config.RunConfig | None, reason: str) -> None:
    """The button, or why there is none."""
    if jobs.read_only():
        st.info("This lab is read-only: copy the command and run it on a machine of your own.", icon=":material/lock:")
        return
    if reason:
        st.error(shell.plain(reason), title="This cannot run yet")
    busy = jobs.active()
    if busy:
        st.info(f"{shell.plain(busy[0].id)} is {busy[0].status}. One run trains at a time: wait for it, or stop it.")
        st.page_link(
            shell.page("jobs"), label="Go to the running job", icon=":material/monitoring:", query_params={"job": busy[0].id}
        )
    if made and not busy:
        st.success("The settings fit together.", icon=":material/check_circle:")
    if (
        st.button("Start", type="primary", icon=":material/play_arrow:", disabled=made is None or bool(busy), key="train_start")
        and made
    ):
        try:
            start(made)
        except LabError as error:
            st.error(shell.plain(error))


def draw() -> None:
    shell.heading(
        "Train", "A recipe is a published system as a list of choices. Change what you want to know about; the rest stays."
    )
    found = {recipe["name"]: recipe for recipe in config.recipes()}
    if not found:
        return st.error("No recipes are installed.")
    names = list(found)
    recipe = st.selectbox("Recipe", names, index=names.index("l2r") if "l2r" in names else 0, key="recipe", bind="query-params")
    st.caption(shell.plain(found[recipe]["about"]))
    left, right = st.columns([3, 2], gap="large")
    base = options(recipe, structure(recipe))
    offered = choices(recipe, base.stream.name)
    recipes_own = {one.path: one.default for one in form.entries(options(recipe, []), offered, HIDDEN)}
    entries = [
        replace(one, default=recipes_own[one.path]) if one.path in STRUCTURE else one
        for one in form.entries(base, offered, HIDDEN)
    ]
    with left:
        values = fill(recipe, entries)
    structural = [f"methods.{name}={{}}" for name in drafted(recipe, "methods", [])]
    changes = structural + form.overrides(entries, values)
    made, reason = check(recipe, changes)
    with right:
        launch(made, reason)
        equivalents(recipe, changes)


draw()
