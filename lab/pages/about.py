"""About, in three parts: glossary (metrics as formulas with the numbers of a run, recipes), this machine, and a self-check."""

import json

import streamlit as st

from lab import __version__, views
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import layout, run_picker, system
from lab.run_folder.run import root
from lab.run_folder.writer import environment
from lab.store import doctor
from lab.views import glossary

SHOWN = 20  # findings on the page
KEYS = {
    "Tab, Shift Tab": "move to the next or previous control",
    "Enter or Space": "press a button, open a list",
    "Arrow keys": "move a slider or the selection in a list",
    "Typing in a list": "find an entry by its name",
    "Escape": "close a list, a popover or a dialog",
    "R": "draw the page again",
}


def words() -> None:
    """The glossary: what the metrics mean, or what the recipes are made of."""
    options = {"Metrics": metrics, "Recipes": recipe_map}
    chosen = st.segmented_control(
        "Glossary of", [*options], default="Metrics", key="about_words", bind="query-params", required=True
    )
    options[chosen or "Metrics"]()


def metrics() -> None:
    """Every metric as a formula, filled in with the numbers of a run."""
    st.markdown(
        "$R_{i,j}$ is the score on task $j$ after learning task $i$, and $T$ the number of tasks learned so far. For transfer "
        "runs, $S_{h,k}$ is the score on held-out task $h$ of $H$ after training on $k$ of its examples."
    )
    runs = run_picker.choices(lambda run: bool(len(run.matrix) or run.recorded_scores.get("held_out")))
    run = None
    if runs:
        default = next((key for key, run in runs.items() if views.complete(run)), next(iter(runs)))
        run = run_picker.pick_run("Show the numbers of", "about_run", runs, default)
    entries = glossary.glossary(run)
    layout.contents({entry.title: anchor(entry) for entry in entries})
    for entry in entries:
        with st.container(border=True):
            name, formula = st.columns([1, 2], vertical_alignment="center")
            value = "" if entry.value is None else f": {layout.number(entry.value)}"  # a long formula may leave a narrow screen
            name.subheader(entry.title + value, anchor=anchor(entry))
            name.caption(entry.about)
            formula.latex(entry.latex)
            if entry.filled:
                formula.latex(entry.filled)
            if entry.why:
                formula.caption(f"{'– ' if entry.value is None else ''}({layout.plain(entry.why)})", text_alignment="center")


def anchor(entry: glossary.Formula) -> str:
    """The place of a metric on the page, for links to it."""
    return entry.title.lower().replace(" ", "-")


@st.cache_data(show_spinner="Reading every recipe")
def recipes() -> list[dict[str, str]]:
    return system.recipes()


def recipe_map() -> None:
    """Every recipe on the axes of modular systems (Pfeiffer et al. 2023)."""
    st.caption(
        "Every recipe on the axes of Pfeiffer et al. (2023): what a module computes, how modules are chosen, combined and "
        "trained, and what a recipe uses besides training examples. On the command line: `lab list recipes`."
    )
    try:
        columns = {"name": st.column_config.Column(width=130, pinned=True), "group": st.column_config.Column(width=110)}
        alt = "Every recipe on the axes of modular systems"
        st.dataframe(recipes(), hide_index=True, height=620, column_config=columns, alt=alt)
    except LabError as error:
        st.error(layout.plain(str(error)), icon=":material/error:")


def machine() -> None:
    """Versions, device and disk; the keys of the keyboard; privacy and licence."""
    facts = environment()
    used, free = system.disk(root())
    device = system.device()[0].partition(",")[0]
    facts_shown = [
        ("Lab", __version__, f"Python {facts['python']}"),
        ("Device", device, f"{facts['cores']} cores"),
        ("Memory", f"{facts['memory_bytes'] / 1e9:.0f} GB", None),
        ("Runs on disk", f"{used / 1e9:.2f} GB" if used > 1e8 else f"{used / 1e6:.1f} MB", f"{free / 1e9:.0f} GB free"),
    ]
    for column, (title, value, more) in zip(st.columns(4), facts_shown, strict=True):
        column.metric(title, value, more, delta_color="off", delta_arrow="off", border=True, height="stretch")
    with st.expander("Environment, to copy into a bug report", icon=":material/content_copy:"):
        st.code(json.dumps(facts, indent=1), language="json")
        st.caption("Versions and sizes only: no names, paths or tokens. Every run keeps its own in env.json.")
    st.subheader("Keyboard", anchor=False)
    st.table({"key": list(KEYS), "does": list(KEYS.values())}, border="horizontal", hide_index=True)
    st.subheader("Privacy and licence", anchor=False)
    st.markdown(
        "The dashboard is served on this machine only, sends no usage statistics, and loads nothing from elsewhere. Runs are "
        "plain files in your folder. The lab is licensed under Apache-2.0; a base model and a data set keep their own licences."
    )


def self_check() -> None:
    """Test what training needs, on a click."""
    st.subheader("Training", anchor=False)
    if reason := jobs.why_read_only():
        st.info(layout.plain(reason), icon=":material/lock:")
        return
    st.caption(
        "Writes a file into the folder of runs, starts a process like that of a job, and loads torch and the backbone in it."
    )
    if st.button("Check now", icon=":material/health_and_safety:", key="about_check"):
        with st.spinner("Testing what training needs"):
            checks = system.self_check(root())
        for check in checks:
            icon, colour = ("check_circle", "green") if check.passed else ("error", "red")
            st.markdown(f":{colour}[:material/{icon}:] **{check.name}** · {layout.plain(check.detail)}")
        if all(check.passed for check in checks):
            st.success("Training works here.")
        else:
            st.error("Training does not work here until the checks in red are fixed.")


def folder_check() -> None:
    """What is wrong with the folder of runs and the packages: what can be seen at once, and all of it on a click."""
    st.subheader("Runs and packages", anchor=False)
    whole = st.button(
        "Check every file",
        icon=":material/health_and_safety:",
        key="about_doctor",
        help="Reads every file that has a digest, of all runs and stored experts. On the command line: lab doctor.",
    )
    with st.spinner("Reading every file" if whole else "Looking at the folder of runs"):
        findings = list(doctor.examine(whole=whole))
    damage = sum(finding.damage for finding in findings)
    for finding in findings[:SHOWN]:
        icon, colour = ("error", "red") if finding.damage else ("info", "gray")
        st.markdown(f":{colour}[:material/{icon}:] {layout.plain(finding.sentence)}")
    if len(findings) > SHOWN:
        st.caption(f"and {len(findings) - SHOWN} more: lab doctor lists them all")
    if not damage:
        st.success("Every file is as it was written." if whole else "Nothing is damaged as far as can be seen at once.")
    elif any(finding.mend for finding in findings):
        st.caption("On the command line, `lab doctor --repair` mends what can be mended; it deletes nothing.")


def draw() -> None:
    layout.heading("About", "What every number means, what runs on this machine, and whether training works here.")
    parts = {"Glossary": [words], "System": [machine], "Self-check": [self_check, folder_check]}
    tabs = st.tabs([*parts], key="about_part", bind="query-params")
    for tab, pieces in zip(tabs, parts.values(), strict=True):
        with tab:
            for piece in pieces if tab.open else ():  # a tab that is not looked at costs nothing
                piece()


draw()
