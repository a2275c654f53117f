"""Train: choose a recipe and a stream, change options, see the settings checked, and start the run as a job.

Changes stand in the link as `o=key=value`, so a link opens the form as it was; `from=RUN` fills it with the settings of a run.
"""

import shlex
import time
from dataclasses import replace
from typing import Any

import streamlit as st

from lab.analysis import taxonomy
from lab.config.resolve import GROUPS, configure, fitted, merged, recipes
from lab.config.schema import CUSTOM, RunConfig
from lab.core.documents import yaml_text, yaml_value
from lab.core.errors import LabError, unknown
from lab.data import loading
from lab.data.task_checks import check
from lab.jobs import jobs
from lab.pages import code_snippets, layout, navigation, url_state
from lab.pages.train_form import draft, options, own_data, widgets
from lab.pages.train_form.before_start import before_start, concerns_data, tasks_of
from lab.pages.train_form.presets import PRESETS
from lab.run_folder.notes import NAME

HIDDEN = ("recipe", "about", "scenarios", "stream.sources", "methods.reflection.pseudo")  # a page takes no paths of files
NO_RECIPE = {"group": GROUPS[-1], "about": "No recipe: every option begins with its default.", "paper": ""}
DOUBLE_CLICK = 5.0  # seconds in which a second start of the same run counts as a double click


def checked(recipe: str, changes: list[str]) -> tuple[RunConfig | None, str]:
    """The configuration, or None and the reason why it cannot run."""
    try:
        config = configure(recipe, changes)
        loading.task_order(loading.open_stream(config.stream.name, config.stream.sources), config.stream.tasks)
        tasks = tasks_of(concerns_data(config))
        if tasks:  # None: they must be downloaded first, and the run checks them
            check(config, tasks)
        return config, ""
    except LabError as error:
        return None, str(error)


def as_recipe(recipe: str, changes: list[str]) -> dict[str, Any]:
    """A recipe file of the same run.

    A file that names its stream states all its settings, so those that come with the stream are written out.
    """
    own = options.nested(changes)
    fit = fitted({}, own.get("stream", {}).get("name"))
    # what fits a plug-in that was exchanged is left out
    fit = {name: part for name, part in fit.items() if "name" in part or "name" not in own.get(name, {})}
    return {"recipe" if recipe == CUSTOM else "base": recipe} | merged(fit, own)


def equivalents(recipe: str, changes: list[str]) -> None:
    """The same run as a command, a recipe file and Python, kept up to date with the form."""
    st.subheader("Run this from code", anchor=False)
    command, recipe_file, python = st.tabs(["Command line", "YAML", "Python"])
    words = ["lab", "run", recipe, *(word for change in changes for word in ("-o", change))]
    command.code(shlex.join(words), language="bash", wrap_lines=True)
    runs_option = code_snippets.runs_option()
    if runs_option and not jobs.read_only():
        command.caption(layout.plain(f"To see the run in this dashboard, add{runs_option}: its runs are not in ./runs."))
    content = yaml_text(as_recipe(recipe, changes))
    recipe_file.code(content, language="yaml")
    with recipe_file.container(horizontal=True, vertical_alignment="center"):
        st.caption("A recipe file: `lab run FILE`")
        st.download_button(
            "Download",
            content,
            f"{recipe}-changed.yaml",
            "text/yaml",
            icon=":material/download:",
            type="tertiary",
            on_click="ignore",
            key="train_yaml",
        )
    overrides = f", overrides={changes!r}" if changes else ""
    lines = f"import lab\n\nrun = lab.run({recipe!r}{overrides})\nlab.figures.accuracy_matrix(run)"
    python.code(lines, language="python", wrap_lines=True)


def begin(config: RunConfig, action: str, name: str) -> None:
    """Start the run ("start") or queue it ("queue"), once, and go to its page; a double click goes to the run of the first."""
    settings = config.to_dict()
    last = st.session_state.get("started")
    if last and last["config"] == settings and time.monotonic() - last["at"] < DOUBLE_CLICK:
        navigation.go("jobs", {"job": last["run"]})
    run = jobs.start(settings, name=name) if action == "start" else jobs.enqueue(settings, name=name)
    st.session_state["started"] = {"config": settings, "at": time.monotonic(), "run": run.id}
    navigation.go("jobs", {"job": run.id})


def launch(config: RunConfig | None, reason: str) -> None:
    """The buttons that start or queue the run, or the reason why it cannot run."""
    if jobs.read_only():
        st.info("This lab is read-only: copy the command and run it on a machine of your own.", icon=":material/lock:")
        return
    if reason:
        st.error(layout.plain(reason), title="This cannot run yet")
    active, waiting, full = jobs.active(), jobs.waiting(), jobs.is_full()
    if active:
        queued = f", and {len(waiting)} more {'wait' if len(waiting) > 1 else 'waits'}" if waiting else ""
        together = "One run trains" if jobs.slots() == 1 else f"{jobs.slots()} runs train"
        st.info(f"{layout.plain(active[0].title)} is {active[0].status}{queued}. {together} at a time; others wait in the queue.")
        link = {"job": active[0].id}
        navigation.link("jobs", "Go to the running job", ":material/monitoring:", link)
    if config and not full:
        st.success("Ready to start", icon=":material/check_circle:")
    name = st.text_input("Name of the run", key="train_name", max_chars=NAME, placeholder="recipe, stream, seed and time")
    with st.container(horizontal=True):
        action = ""
        if st.button(
            "Start",
            type="secondary" if full else "primary",
            icon=":material/play_arrow:",
            disabled=config is None or full,
            key="train_start",
        ):
            action = "start"
        if st.button(
            "Add to queue",
            type="primary" if full else "secondary",
            icon=":material/playlist_add:",
            disabled=config is None,
            key="train_queue",
            help="Starts by itself when the runs before it have ended, even if this page is closed.",
        ):
            action = "queue"
    if action and config:
        try:
            begin(config, action, name)
        except LabError as error:
            st.error(layout.plain(error))


def use_preset(name: str) -> None:
    """Fill the form with a preset (before the form is drawn)."""
    preset = PRESETS[name]
    st.session_state["recipe"] = preset.recipe
    draft.fill_anew(preset.recipe, preset.values)


def presets(recipe_names: list[str]) -> None:
    """The presets as cards."""
    for column, (name, preset) in zip(st.columns(len(PRESETS)), PRESETS.items(), strict=True):
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{name}** · {preset.recipe}")
            st.caption(preset.about)
            st.button(
                "Use these settings",
                key=f"preset_{name}",
                on_click=use_preset,
                args=[name],
                disabled=preset.recipe not in recipe_names,
                type="tertiary",
                icon=":material/tune:",
            )


def open_file(recipe_names: list[str]) -> None:
    """Fill the form from an uploaded recipe file; an error is kept for `file_picker` to show."""
    file = st.session_state["train_file"]
    if file is None:
        return
    try:
        content = yaml_value(file.getvalue(), file.name)
        if not isinstance(content, dict) or content.get("base", content.get("recipe")) not in recipe_names:
            raise LabError(f"{file.name} does not say which recipe it is based on: begin it with base: NAME")
        recipe = content.pop("base", content.pop("recipe", ""))
        values = draft.flat(content)
    except LabError as error:
        st.session_state["train_file_error"] = str(error)
        return
    st.session_state["recipe"] = recipe
    draft.fill_anew(recipe, values)


def file_picker(recipe_names: list[str]) -> None:
    """Fill the form from a recipe file."""
    with st.expander("Open a recipe file", icon=":material/upload_file:"):
        st.file_uploader(
            "Recipe file",
            type=["yaml", "yml"],
            max_upload_size=1,
            key="train_file",
            on_change=open_file,
            args=[recipe_names],
            help="A file downloaded from the YAML tab, or the config.yaml of a run.",
        )
        if error := st.session_state.pop("train_file_error", None):
            st.error(layout.plain(error), title="This file cannot be used")


def form(recipe: str) -> tuple[list[options.Entry], list[str]]:
    """Draw the form of a recipe and its file picker; returns its options and the overrides that say what was changed."""
    base = widgets.configuration(recipe, widgets.structure(recipe))
    choices = widgets.choices(recipe, base.stream.name)
    of_recipe = {entry.path: entry.default for entry in options.entries(widgets.configuration(recipe, []), choices, HIDDEN)}
    entries = [
        replace(entry, default=of_recipe[entry.path]) if entry.path in widgets.STRUCTURE else entry
        for entry in options.entries(base, choices, HIDDEN)
    ]
    values = widgets.fill(recipe, entries)
    return entries, widgets.added(recipe) + options.overrides(entries, values)


def pick_recipe(listed: dict[str, dict[str, Any]]) -> str:
    """The select box over recipes, group by group with a line each; below it the paper of the chosen one and what it uses."""

    def line(name: str) -> str:
        return f"{listed[name]['group']} · {name}: {listed[name]['about']}"

    url_state.restore("recipe", [*listed], "l2r", line, remark="")
    name = st.selectbox("Recipe", [*listed], index=None, format_func=line, key="recipe") or "l2r"
    recipe = listed[name]
    st.markdown(f"**{layout.plain(name)}** ({layout.plain(recipe['group'])}). {layout.plain(recipe['about'])}")
    facts = [f"Paper: {recipe['paper']}"] if recipe["paper"] else []
    facts += [f"Uses beside the examples of a task: {uses}"] if (uses := used_by(name)) else []
    st.caption(layout.plain(". ".join(facts)) + ("." if facts else ""))
    return name


@st.cache_data(max_entries=200, show_spinner=False)
def used_by(recipe: str) -> str:
    """What a recipe is given beside the training examples of the task at hand; empty where it cannot be said."""
    try:
        return taxonomy.place(configure(recipe))["uses"] if recipe != CUSTOM else ""
    except LabError:
        return ""


def draw() -> None:
    layout.heading("Train", "A recipe is a published system as a list of options. Change the options you want to study.")
    by_group = sorted(recipes(), key=lambda recipe: GROUPS.index(recipe["group"]))
    listed = {recipe["name"]: recipe for recipe in by_group} | {CUSTOM: NO_RECIPE}
    names = list(listed)
    presets(names)
    linked = st.query_params.get("recipe")
    unread = [] if linked is None or linked in names else [str(unknown("recipe", linked, names))]
    recipe = pick_recipe(listed)
    draft.take_over(recipe, unread)
    own_data.draw(recipe)
    remarks = st.container()
    left, right = st.columns([3, 2], gap="large")
    with left:
        entries, changes = form(recipe)
        file_picker(names)
    draft.put_into_link(changes)
    for text in draft.left_out(recipe, entries, changes):
        remarks.warning(f"Ignored: {layout.plain(text)}", icon=":material/link_off:")
    config, reason = checked(recipe, changes)
    with right:
        launch(config, reason)
        if config:
            before_start(config)
        equivalents(recipe, changes)


draw()
