"""About: versions, device, disk, a check that training can work, and every metric as a formula with a run's numbers."""

import json

import streamlit as st

from lab import __version__, views
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import layout, run_picker, system
from lab.run_folder.run import environment, root
from lab.views import glossary

KEYS = {
    "Tab, Shift Tab": "to the next or previous control",
    "Enter or Space": "presses a button, opens a list",
    "Arrow keys": "move a slider or the mark in a list",
    "Typing in a list": "finds an entry by its name",
    "Escape": "closes a list, a popover or a dialog",
    "R": "draws the page again",
}


def metrics() -> None:
    """The glossary, filled in with the numbers of a run."""
    st.subheader("Metrics", anchor=False)
    st.markdown(
        "$R_{i,j}$ is the score on task $j$ after learning task $i$, and $T$ the number of tasks learned so far. Of transfer "
        "runs, $S_{h,k}$ is the score on the held-out task $h$ of $H$ after $k$ examples of it."
    )
    found = run_picker.choices(lambda run: bool(run.matrix or run.scores.get("held_out")))
    run = None
    if found:
        first = next((key for key, run in found.items() if views.complete(run)), next(iter(found)))
        run = run_picker.pick_run("With the numbers of", "about_run", found, first)
    for entry in glossary.glossary(run):
        with st.container(border=True):
            name, formula = st.columns([1, 2], vertical_alignment="center")
            name.markdown(f"**{entry.title}**")
            name.caption(entry.about)
            formula.latex(entry.latex)
            if entry.filled:
                formula.latex(entry.filled)
            if entry.why:
                formula.caption(f"{'– ' if entry.value is None else ''}({layout.plain(entry.why)})", text_alignment="center")


@st.cache_data(show_spinner="Reading every recipe")
def recipes() -> list[dict[str, str]]:
    return system.recipes()


def recipe_map() -> None:
    """Every recipe on the axes of modular systems."""
    st.subheader("The map of recipes", anchor=False)
    st.caption(
        "What a module computes, how modules are chosen, joined and trained, and what a recipe uses beside training examples, "
        "on the axes of Pfeiffer et al. (2023). On the command line: `lab list recipes`."
    )
    if st.toggle("Show the map", key="about_map", bind="query-params"):
        try:
            st.dataframe(recipes(), hide_index=True, height="content", alt="Every recipe on the axes of modular systems")
        except LabError as error:
            st.error(layout.plain(str(error)), icon=":material/error:")


def machine() -> None:
    """Versions, device and disk."""
    st.subheader("This machine", anchor=False)
    known = environment()
    used, free = system.disk(root())
    columns = st.columns(4)
    columns[0].metric("Lab", __version__, border=True)
    columns[1].metric(
        "Device",
        system.device()[0].partition(",")[0],
        f"{known['cores']} cores",
        delta_color="off",
        delta_arrow="off",
        border=True,
    )
    columns[2].metric("Memory", f"{known['memory_bytes'] / 1e9:.0f} GB", border=True)
    columns[3].metric(
        "Runs on disk", f"{used / 1e9:.2f} GB", f"{free / 1e9:.0f} GB free", delta_color="off", delta_arrow="off", border=True
    )
    with st.expander("Environment, to copy into a report", icon=":material/content_copy:"):
        st.code(json.dumps(known, indent=1), language="json")
        st.caption("Versions and sizes only: no names, no paths, no tokens. Every run keeps its own in env.json.")


def check() -> None:
    """Try what training needs."""
    st.subheader("Self-check", anchor=False)
    if jobs.read_only():
        st.info(layout.plain(system.refused()), icon=":material/lock:")
        return
    st.caption("Writes a file into the folder of runs, starts a process as a job is one, and loads torch and the backbone in it.")
    if st.button("Check now", icon=":material/health_and_safety:", key="about_check"):
        with st.spinner("Trying what training needs"):
            found = system.self_check(root())
        for one in found:
            icon, colour = ("check_circle", "green") if one.good else ("error", "red")
            st.markdown(f":{colour}[:material/{icon}:] **{one.name}** · {layout.plain(one.seen)}")
        if all(one.good for one in found):
            st.success("Training can work here.")
        else:
            st.error("Training cannot work here before the red points are repaired.")


def draw() -> None:
    layout.heading("About", "What runs here, whether it works, and what every number means.")
    metrics()
    recipe_map()
    machine()
    check()
    st.subheader("Keyboard", anchor=False)
    st.table({"key": list(KEYS), "does": list(KEYS.values())}, border="horizontal", hide_index=True)
    st.subheader("Privacy and licence", anchor=False)
    st.markdown(
        "The page is served on this machine only, sends no usage figures, and loads nothing from elsewhere. Runs are plain files "
        "in your folder. The lab is licensed under Apache-2.0; a base model and a data set keep their own licences."
    )


draw()
