"""Train: choose a recipe and a stream, change what should differ, see it checked, and start it as a job.

What was changed stands in the link as `o=key=value`, so a link opens the form as it was; `from=RUN` fills it from a run.
"""

import json
import math
import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st
import yaml

from lab import config, jobs, preflight, registry, sources
from lab.errors import LabError, bad_yaml
from lab.pages import form, shell
from lab.pages.form import Entry
from lab.runs import Run, all_runs

BACKBONES = ("minilm", "tiny", "strings")  # others only from the command line: a page does not take names of models to load
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
NEWEST = 20  # earlier runs that a forecast may rest on
TOKENS = 60  # of an example that are shown
PRESETS = {
    "First look": ("l2r", shell.SMALL, "Few examples: routed adapters on the whole stream while you watch."),
    "See it forget": ("sequential", shell.SMALL, "The same small stream with one adapter for all tasks, to compare with."),
    "In full": ("l2r", {}, "All examples of the stream, the settings behind the recorded example."),
}


# -- drafts ----------------------------------------------------------------------------------------------------------------


def draft(recipe: str) -> tuple[int, dict[str, Any]]:
    """How often the form of a recipe was filled anew, and with which values besides the recipe's."""
    return st.session_state.get("train/drafts", {}).get(recipe, (0, {}))


def fill_anew(recipe: str, values: Mapping[str, Any]) -> None:
    """Forget what was entered for a recipe and begin with these values."""
    drafts = st.session_state.get("train/drafts", {})
    st.session_state["train/drafts"] = drafts | {recipe: (draft(recipe)[0] + 1, dict(values))}


def key(recipe: str, path: str) -> str:
    """The session's name of a widget: every recipe keeps its own draft."""
    times = draft(recipe)[0]
    return f"train/{recipe}/{path}" + (f"#{times}" if times else "")


def drafted(recipe: str, path: str, default: Any) -> Any:
    return st.session_state.get(key(recipe, path), draft(recipe)[1].get(path, default))


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} as {'a.b': 1}; added methods as a list under `methods` too."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    methods = content.get("methods") if not prefix else None
    return found | ({"methods": list(methods)} if isinstance(methods, Mapping) else {})


def take_over(recipe: str) -> None:
    """Fill the form from the link: once from a run it names, and with changes that the page did not write there itself."""
    if id := st.query_params.get("from"):
        del st.query_params["from"]
        fill_anew(recipe, flat(Run.open(id).config))
        return
    given = st.query_params.get_all("o")
    if given and given != st.session_state.get("train/link"):
        content: dict[str, Any] = {}
        for text in given:
            content = config.merged(content, config.parse_override(text))
        fill_anew(recipe, flat(content))


def put_into_link(changes: list[str]) -> None:
    st.session_state["train/link"] = changes
    if st.query_params.get_all("o") != changes:
        st.query_params["o"] = changes


def fits(one: Entry, value: Any) -> bool:
    """Whether a value from a link or a file may stand in the widget of an option."""
    if value is None:
        return one.optional
    if one.kind == "bool":
        return isinstance(value, bool)
    if one.kind == "choice":
        return str(value) in one.choices
    if one.kind in ("int", "float"):
        whole = isinstance(value, int) or (one.kind == "float" and isinstance(value, float))
        return whole and not isinstance(value, bool) and (one.low or -math.inf) <= value <= (one.high or math.inf)
    return isinstance(value, list if one.kind == "names" else str)


def begun(recipe: str, one: Entry) -> Entry:
    """The option with the value its widget begins with."""
    values = draft(recipe)[1]
    return replace(one, default=values[one.path]) if one.path in values and fits(one, values[one.path]) else one


# -- the form --------------------------------------------------------------------------------------------------------------


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
    tasks = task_names(drafted(recipe, "stream.name", recipe_stream))
    return {
        "stream.name": stream_names(),
        "stream.tasks": tasks,
        "transfer.train_tasks": tasks,
        "transfer.held_out": tasks,
        "backbone.name": list(BACKBONES),
        "experts.name": registry.experts.names(),
        "router.name": registry.routers.names(),
    }


def widget(recipe: str, one: Entry, label: str = "") -> Any:
    """The widget of one option; returns its value."""
    one = begun(recipe, one)
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
    parts = one.default if one.kind == "names" and isinstance(one.default, list) else [one.default]
    text = st.text_input(label, ", ".join(form.written(part) for part in parts if part is not None), **common)
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
            [name for name in draft(recipe)[1].get("methods", []) if name in added],
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


# -- before the start ------------------------------------------------------------------------------------------------------


@st.cache_data(ttl=300, max_entries=50, show_spinner=False)
def sizes(settings: str) -> preflight.Sizes | None:
    """Examples of each task, for configurations (as JSON) whose data is at hand; None where it had to be downloaded first."""
    made = config.validated(json.loads(settings))
    if sources.open_stream(made.stream.name, made.stream.sources).downloads:
        return None
    return preflight.sizes(made)


@st.cache_data(max_entries=20, show_spinner=False)
def seen(settings: str) -> dict[str, Any]:
    """What the process that loads data and model found, by the configuration as JSON."""
    return preflight.ask(json.loads(settings))


def concerns_data(made: config.RunConfig) -> str:
    """The part of a configuration that decides how much data there is, as JSON."""
    return json.dumps({"stream": made.stream.model_dump(mode="json"), "seed": made.seed}, sort_keys=True)


def expected(made: config.RunConfig, report: dict[str, Any] | None) -> tuple[preflight.Sizes | None, preflight.Forecast | None]:
    """Sizes of the tasks and the forecast, as far as they are known before the start."""
    tasks = report["tasks"] if report else sizes(concerns_data(made))
    return tasks, preflight.forecast(made, tasks, all_runs()[-NEWEST:]) if tasks else None


def before_start(made: config.RunConfig) -> None:
    """What is to be expected of the run: time, memory, parameters, warnings, and the first examples as the model sees them."""
    st.subheader("Before you start", anchor=False)
    settings = json.dumps(made.to_dict() | {"about": ""}, sort_keys=True)
    looked = st.session_state.get("train/looked", {})
    report = looked.get(settings)
    try:
        tasks, forecast = expected(made, report)
    except LabError as error:
        return st.warning(f"The data cannot be read: {shell.plain(error)}", icon=":material/broken_image:")
    unknown = "not known before the data is loaded" if forecast is None else forecast.source
    known = forecast and forecast.seconds is not None
    time_, memory, parameters = st.columns(3)
    time_.metric("Time", duration(forecast.seconds) if known else "–", help=shell.plain(unknown))
    memory.metric("Memory", f"{forecast.peak_bytes / 1e9:.1f} GB" if known else "–", help=shell.plain(unknown))
    count = f"{report['trainable_parameters']:,}" if report else "–"
    parameters.metric("Trainable", count, help="Parameters trained over the whole stream; counted when the model is looked at.")
    st.caption(f"Forecast: {shell.plain(unknown)}. Less if another run has trained some of these experts already.")
    for text in preflight.warnings(made, forecast, tasks, report):
        st.warning(shell.plain(text), icon=":material/warning:")
    if report:
        return examples(report)
    if not jobs.read_only() and st.button(
        "Show what the model will see", icon=":material/visibility:", key="train_look",
        help="Loads data and model in a process of its own, counts the parameters, and shows the first examples as tokens.",
    ):  # fmt: skip
        try:
            with st.spinner("Loading data and model"):
                report = seen(settings)
        except LabError as error:
            return st.error(shell.plain(error), title="Data and model cannot be loaded")
        st.session_state["train/looked"] = {settings: report}
        st.rerun()


def duration(seconds: float) -> str:
    """A rough time in few characters."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 1.5 else f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def examples(report: dict[str, Any]) -> None:
    """The first training examples of a task, token by token."""
    names = [task["name"] for task in report["tasks"]]
    chosen = st.selectbox("First training examples of", names, key="train_examples")
    task = report["tasks"][names.index(chosen)]
    for example in task["examples"]:
        tokens = example["tokens"]
        more = f" … and {len(tokens) - TOKENS} more" if len(tokens) > TOKENS else ""
        with st.container(border=True):
            st.markdown(" ".join(f"`{literal_token(token)}`" for token in tokens[:TOKENS]) + more)
            cut = f" · cut at {report['limit']} tokens" if len(tokens) >= report["limit"] else ""
            st.caption(f"label **{shell.plain(example['label'])}** · {len(tokens)} tokens{cut}")
    st.caption(
        f"{task['train']} training, {task['validation']} validation, {task['test']} test examples · "
        f"{len(task['labels']) or 'no'} labels · longest text {task['longest']} of {report['limit']} tokens · "
        f"{report['device']}, {report['dtype']}, {report['layers']} adapted layers"
    )


def literal_token(token: str) -> str:
    """A token for inline code, which cannot hold a backtick."""
    return token.replace("`", "ˋ")


def equivalents(recipe: str, changes: list[str]) -> None:
    """The same run as a command, a recipe file and Python, kept up to date with the form."""
    st.subheader("The same without this page", anchor=False)
    command, recipe_file, python = st.tabs(["Command line", "YAML", "Python"])
    words = ["lab", "run", recipe, *(word for change in changes for word in ("-o", change))]
    command.code(shlex.join(words), language="bash", wrap_lines=True)
    content = yaml.safe_dump({"base": recipe} | form.nested(changes), sort_keys=False, allow_unicode=True)
    recipe_file.code(content, language="yaml")
    with recipe_file.container(horizontal=True, vertical_alignment="center"):
        st.caption("A recipe file: `lab run FILE`")
        st.download_button(
            "Download", content, f"{recipe}-changed.yaml", "text/yaml", icon=":material/download:", type="tertiary",
            on_click="ignore", key="train_yaml",
        )  # fmt: skip
    listed = f", overrides={changes!r}" if changes else ""
    python.code(
        f"import lab\n\nrun = lab.run({recipe!r}{listed})\nlab.figures.accuracy_matrix(run)", language="python", wrap_lines=True
    )


def begin(made: config.RunConfig, how: str) -> None:
    """Start the run or put it into the queue, once, and go to its page; a second click finds the run of the first."""
    plain = made.to_dict()
    before = st.session_state.get("started")
    if before and before["config"] == plain and time.monotonic() - before["at"] < TWICE:
        st.switch_page(shell.page("jobs"), query_params={"job": before["run"]})
    run = jobs.start(plain) if how == "start" else jobs.enqueue(plain)
    st.session_state["started"] = {"config": plain, "at": time.monotonic(), "run": run.id}
    st.switch_page(shell.page("jobs"), query_params={"job": run.id})


def launch(made: config.RunConfig | None, reason: str) -> None:
    """The buttons, or why there are none."""
    if jobs.read_only():
        st.info("This lab is read-only: copy the command and run it on a machine of your own.", icon=":material/lock:")
        return
    if reason:
        st.error(shell.plain(reason), title="This cannot run yet")
    busy, ahead = jobs.active(), jobs.waiting()
    if busy:
        queued = f", {len(ahead)} more wait" if ahead else ""
        st.info(f"{shell.plain(busy[0].id)} is {busy[0].status}{queued}. One run trains at a time; others wait in the queue.")
        st.page_link(
            shell.page("jobs"), label="Go to the running job", icon=":material/monitoring:", query_params={"job": busy[0].id}
        )
    if made and not busy:
        st.success("The settings fit together.", icon=":material/check_circle:")
    with st.container(horizontal=True):
        first, second = ("secondary", "primary") if busy else ("primary", "secondary")
        chosen = ""
        if st.button("Start", type=first, icon=":material/play_arrow:", disabled=made is None or bool(busy), key="train_start"):
            chosen = "start"
        if st.button(
            "Add to queue", type=second, icon=":material/playlist_add:", disabled=made is None, key="train_queue",
            help="Starts by itself when the runs before it have ended, also when this page is closed.",
        ):  # fmt: skip
            chosen = "queue"
    if chosen and made:
        try:
            begin(made, chosen)
        except LabError as error:
            st.error(shell.plain(error))


def use_preset(name: str) -> None:
    """Fill the form with a preset (before the form is drawn)."""
    recipe, values, _ = PRESETS[name]
    st.session_state["recipe"] = recipe
    fill_anew(recipe, values)


def presets(names: list[str]) -> None:
    """Three runs to begin with, as cards."""
    for column, (name, (recipe, _, about)) in zip(st.columns(len(PRESETS)), PRESETS.items(), strict=True):
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{name}** · {recipe}")
            st.caption(about)
            st.button(
                "Use these settings", key=f"preset_{name}", on_click=use_preset, args=[name], disabled=recipe not in names,
                type="tertiary", icon=":material/tune:",
            )  # fmt: skip


def open_file(recipe_names: list[str]) -> None:
    """Fill the form from a recipe file that somebody has saved."""
    given = st.session_state["train_file"]
    if given is None:
        return
    try:
        content = yaml.safe_load(given.getvalue().decode())
        if not isinstance(content, dict) or content.get("base", content.get("recipe")) not in recipe_names:
            raise LabError(f"{given.name} does not say which recipe it is based on: begin it with base: NAME")
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        st.session_state["train_file_error"] = str(bad_yaml(given.name, error))
        return
    except LabError as error:
        st.session_state["train_file_error"] = str(error)
        return
    recipe = content.pop("base", content.pop("recipe", ""))
    st.session_state["recipe"] = recipe
    fill_anew(recipe, flat(content))


def draw() -> None:
    shell.heading(
        "Train", "A recipe is a published system as a list of choices. Change what you want to know about; the rest stays."
    )
    found = {recipe["name"]: recipe for recipe in config.recipes()}
    if not found:
        return st.error("No recipes are installed.")
    names = list(found)
    presets(names)
    shell.begin_with("recipe", names, "l2r" if "l2r" in names else names[0])
    recipe = st.selectbox("Recipe", names, index=None, key="recipe", bind="query-params") or names[0]
    st.caption(shell.plain(found[recipe]["about"]))
    take_over(recipe)
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
        files(names)
    own = config.read_recipe(recipe).get("methods", {})
    structural = [f"methods.{name}={{}}" for name in drafted(recipe, "methods", []) if name not in own]
    changes = structural + form.overrides(entries, values)
    put_into_link(changes)
    made, reason = check(recipe, changes)
    with right:
        launch(made, reason)
        if made:
            before_start(made)
        equivalents(recipe, changes)


def files(names: list[str]) -> None:
    """Begin again, or from a file."""
    with st.expander("Open a recipe file", icon=":material/upload_file:"):
        st.file_uploader(
            "Recipe file", type=["yaml", "yml"], max_upload_size=1, key="train_file", on_change=open_file, args=[names],
            help="A file as the YAML tab offers it, or the config.yaml of a run.",
        )  # fmt: skip
        if error := st.session_state.pop("train_file_error", None):
            st.error(shell.plain(error), title="This file cannot be used")


draw()
