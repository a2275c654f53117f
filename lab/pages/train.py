"""Train: choose a recipe and a stream, change what should differ, see it checked, and start it as a job.

What was changed stands in the link as `o=key=value`, so a link opens the form as it was; `from=RUN` fills it from a run.
"""

import shlex
import time
from dataclasses import replace
from typing import Any

import streamlit as st
import yaml

from lab.config.resolve import configure, fitted, merged, recipes
from lab.config.schema import CUSTOM, RunConfig
from lab.core.errors import LabError, bad_yaml, unknown
from lab.data import loading
from lab.data.task_checks import check
from lab.jobs import jobs
from lab.pages import code_snippets, layout, navigation, url_state
from lab.pages.train_form import draft, options, widgets
from lab.pages.train_form.before_start import before_start, concerns_data, tasks_of
from lab.pages.train_form.presets import PRESETS

HIDDEN = ("recipe", "about", "scenarios", "stream.sources", "methods.reflection.pseudo")  # a page takes no paths of files
TWICE = 5.0  # seconds in which the same start is a double click


def checked(recipe: str, changes: list[str]) -> tuple[RunConfig | None, str]:
    """The configuration, or the reason why it cannot run."""
    try:
        made = configure(recipe, changes)
        loading.task_order(loading.open_stream(made.stream.name, made.stream.sources), made.stream.tasks)
        tasks = tasks_of(concerns_data(made))
        if tasks:  # else they are to be downloaded first, and looked at by the run
            check(made, tasks)
        return made, ""
    except LabError as error:
        return None, str(error)


def as_recipe(recipe: str, changes: list[str]) -> dict[str, Any]:
    """A recipe file of the same run. A file that names its stream says all about it, so what fits the stream is written out."""
    own = options.nested(changes)
    fit = fitted({}, own.get("stream", {}).get("name"))
    fit = {name: part for name, part in fit.items() if "name" in part or "name" not in own.get(name, {})}  # as of the old plug-in
    return {"recipe" if recipe == CUSTOM else "base": recipe} | merged(fit, own)


def equivalents(recipe: str, changes: list[str]) -> None:
    """The same run as a command, a recipe file and Python, kept up to date with the form."""
    st.subheader("The same without this page", anchor=False)
    command, recipe_file, python = st.tabs(["Command line", "YAML", "Python"])
    words = ["lab", "run", recipe, *(word for change in changes for word in ("-o", change))]
    command.code(shlex.join(words), language="bash", wrap_lines=True)
    if code_snippets.runs_option() and not jobs.read_only():
        command.caption(
            layout.plain(f"To see the run on this page too, add{code_snippets.runs_option()}: its runs do not stand in ./runs.")
        )
    content = yaml.safe_dump(as_recipe(recipe, changes), sort_keys=False, allow_unicode=True)
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
    listed = f", overrides={changes!r}" if changes else ""
    python.code(
        f"import lab\n\nrun = lab.run({recipe!r}{listed})\nlab.figures.accuracy_matrix(run)", language="python", wrap_lines=True
    )


def begin(made: RunConfig, how: str) -> None:
    """Start the run or put it into the queue, once, and go to its page; a second click finds the run of the first."""
    plain = made.to_dict()
    before = st.session_state.get("started")
    if before and before["config"] == plain and time.monotonic() - before["at"] < TWICE:
        st.switch_page(navigation.page("jobs"), query_params={"job": before["run"]})
    run = jobs.start(plain) if how == "start" else jobs.enqueue(plain)
    st.session_state["started"] = {"config": plain, "at": time.monotonic(), "run": run.id}
    st.switch_page(navigation.page("jobs"), query_params={"job": run.id})


def launch(made: RunConfig | None, reason: str) -> None:
    """The buttons, or why there are none."""
    if jobs.read_only():
        st.info("This lab is read-only: copy the command and run it on a machine of your own.", icon=":material/lock:")
        return
    if reason:
        st.error(layout.plain(reason), title="This cannot run yet")
    busy, ahead, full = jobs.active(), jobs.waiting(), jobs.is_full()
    if busy:
        queued = f", {len(ahead)} more wait" if ahead else ""
        limit = "One run trains" if jobs.slots() == 1 else f"{jobs.slots()} runs train"
        st.info(f"{layout.plain(busy[0].id)} is {busy[0].status}{queued}. {limit} at a time; others wait in the queue.")
        st.page_link(
            navigation.page("jobs"), label="Go to the running job", icon=":material/monitoring:", query_params={"job": busy[0].id}
        )
    if made and not full:
        st.success("The settings fit together.", icon=":material/check_circle:")
    with st.container(horizontal=True):
        first, second = ("secondary", "primary") if full else ("primary", "secondary")
        chosen = ""
        if st.button("Start", type=first, icon=":material/play_arrow:", disabled=made is None or full, key="train_start"):
            chosen = "start"
        if st.button(
            "Add to queue",
            type=second,
            icon=":material/playlist_add:",
            disabled=made is None,
            key="train_queue",
            help="Starts by itself when the runs before it have ended, also when this page is closed.",
        ):
            chosen = "queue"
    if chosen and made:
        try:
            begin(made, chosen)
        except LabError as error:
            st.error(layout.plain(error))


def use_preset(name: str) -> None:
    """Fill the form with a preset (before the form is drawn)."""
    preset = PRESETS[name]
    st.session_state["recipe"] = preset.recipe
    draft.fill_anew(preset.recipe, preset.values)


def presets(names: list[str]) -> None:
    """Three runs to begin with, as cards."""
    for column, (name, preset) in zip(st.columns(len(PRESETS)), PRESETS.items(), strict=True):
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{name}** · {preset.recipe}")
            st.caption(preset.about)
            st.button(
                "Use these settings",
                key=f"preset_{name}",
                on_click=use_preset,
                args=[name],
                disabled=preset.recipe not in names,
                type="tertiary",
                icon=":material/tune:",
            )


def open_file(recipe_names: list[str]) -> None:
    """Fill the form from a recipe file that somebody has saved."""
    given = st.session_state["train_file"]
    if given is None:
        return
    try:
        content = yaml.safe_load(given.getvalue().decode())
        if not isinstance(content, dict) or content.get("base", content.get("recipe")) not in recipe_names:
            raise LabError(f"{given.name} does not say which recipe it is based on: begin it with base: NAME")
        recipe = content.pop("base", content.pop("recipe", ""))
        values = draft.flat(content)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        st.session_state["train_file_error"] = str(bad_yaml(given.name, error))
        return
    except LabError as error:
        st.session_state["train_file_error"] = str(error)
        return
    st.session_state["recipe"] = recipe
    draft.fill_anew(recipe, values)


def draw() -> None:
    layout.heading(
        "Train", "A recipe is a published system as a list of choices. Change what you want to know about; the rest stays."
    )
    found = {recipe["name"]: recipe["about"] for recipe in recipes()}
    found[CUSTOM] = "No recipe: the defaults of all options, to begin with nothing."
    names = list(found)
    presets(names)
    asked = st.query_params.get("recipe")
    unread = [] if asked is None or asked in names else [str(unknown("recipe", asked, names))]
    url_state.set_default("recipe", names, "l2r")
    recipe = st.selectbox("Recipe", names, index=None, key="recipe", bind="query-params") or names[0]
    st.caption(layout.plain(found[recipe]))
    draft.take_over(recipe, unread)
    said = st.container()
    left, right = st.columns([3, 2], gap="large")
    base = widgets.options(recipe, widgets.structure(recipe))
    offered = widgets.choices(recipe, base.stream.name)
    recipes_own = {one.path: one.default for one in options.entries(widgets.options(recipe, []), offered, HIDDEN)}
    entries = [
        replace(one, default=recipes_own[one.path]) if one.path in widgets.STRUCTURE else one
        for one in options.entries(base, offered, HIDDEN)
    ]
    with left:
        values = widgets.fill(recipe, entries)
        files(names)
    changes = widgets.added(recipe) + options.overrides(entries, values)
    draft.put_into_link(changes)
    for text in draft.left_out(recipe, entries, changes):
        said.warning(f"Not taken over: {layout.plain(text)}", icon=":material/link_off:")
    made, reason = checked(recipe, changes)
    with right:
        launch(made, reason)
        if made:
            before_start(made)
        equivalents(recipe, changes)


def files(names: list[str]) -> None:
    """Begin again, or from a file."""
    with st.expander("Open a recipe file", icon=":material/upload_file:"):
        st.file_uploader(
            "Recipe file",
            type=["yaml", "yml"],
            max_upload_size=1,
            key="train_file",
            on_change=open_file,
            args=[names],
            help="A file as the YAML tab offers it, or the config.yaml of a run.",
        )
        if error := st.session_state.pop("train_file_error", None):
            st.error(layout.plain(error), title="This file cannot be used")


draw()
