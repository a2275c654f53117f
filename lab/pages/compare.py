"""Compare: runs side by side, grouped by method over their seeds and orders, on one scale."""

from functools import partial

import streamlit as st

from lab import views
from lab.comparison import replicates, tables
from lab.config.resolve import recipes
from lab.pages import layout, run_picker, run_table, url_state
from lab.pages.compared import answer, forgetting, numbers, tasks, trade_offs
from lab.run_folder.run import Run
from lab.views import Group

BOUNDS = ("sequential", "oracle")  # one expert for all tasks, and the true task's expert: between them lies what routing can gain
METHODS, RUNS = 4, 20  # methods that are chosen to begin with, and runs, of each method as many; at most

VIEWS = [
    "Summary",
    "Numbers",
    "Each task",
    "Matrices",
    "Trade-offs",
    "What hurt what",
    "Why forgotten",
    "Order",
    "Learning rates",
    "Settings",
]

# -- which runs ------------------------------------------------------------------------------------------------------------


def pick(runs: dict[str, Run]) -> list[Run]:
    """The chosen runs; `runs` are those offered, by key."""
    name_of = run_picker.names(runs).__getitem__
    url_state.restore("runs", list(runs), partial(first_choice, runs), name_of)
    keys = st.multiselect(
        "Runs",
        list(runs),
        format_func=name_of,
        key="runs",
        placeholder="Choose two or more runs",
        help="Your own runs, newest first, then the recorded examples.",
    )
    return [runs[key] for key in keys]


def more_runs(runs: dict[str, Run], groups: list[Group]) -> None:
    """Buttons that add the other seeds of what is chosen, those that are there and those that must be trained first."""
    st.button(
        "Add other seeds and orders",
        icon=":material/library_add:",
        type="tertiary",
        on_click=add_repetitions,
        args=[runs],
        help="Adds every run that differs from a chosen one only in seed, order of tasks or learning rate.",
        key="cmp_repeat",
    )
    answer.repeat(groups)


def add_repetitions(runs: dict[str, Run]) -> None:
    """Choose the other seeds, orders and learning rates of the chosen runs too, where they have results."""
    chosen = st.session_state["runs"]
    repetitions = replicates.repetitions([runs[key] for key in chosen], list(runs.values()))
    folders = {run.dir for run in repetitions if not views.unready(run)}
    st.session_state["runs"] = [*chosen, *(key for key, run in runs.items() if run.dir in folders and key not in chosen)]


def first_choice(runs: dict[str, Run]) -> list[str]:
    """The runs to begin with: of the newest runs that can be compared, the bounds and the newest methods, with their repetitions.

    Runs can be compared that learned the same tasks of the same stream by the same protocol, in the same scenario, on the same
    backbone.
    """
    rows = dict(zip(runs, views.runs_table(list(runs.values())).to_dict("records"), strict=True))
    alike: dict[str, list[str]] = {}
    for key, row in rows.items():
        if row["learned"] == row["tasks"] and row["learned"] > 0 and not views.unready(runs[key]):
            config, protocol = runs[key].config, type(runs[key].protocol).__name__
            same = (
                views.limits(runs[key]),
                config["stream"]["name"],
                config["scenario"],
                config["backbone"]["name"],
                protocol,
                sorted(runs[key].tasks),
            )
            alike.setdefault(str(same), []).append(key)
    several = [keys for keys in alike.values() if len({rows[key]["recipe"] for key in keys}) > 1]
    families = sorted(several or alike.values(), key=lambda keys: not runs[keys[0]].protocol.continual)  # others have no curves
    family = next(iter(families), [])
    if not family:
        return list(runs)[:1]
    family = sorted(family, key=lambda key: str(rows[key]["created"]), reverse=True)
    keys = {runs[key].dir: key for key in family}
    methods = views.groups([runs[key] for key in family])  # the one with the newest run first
    by_recipe = {group.recipe: group for group in methods[::-1]}
    bounds = {recipe["name"] for recipe in recipes() if recipe["group"] == "bounds"}
    ends = [by_recipe[name] for name in BOUNDS if name in by_recipe]
    others = [group for group in methods if group.recipe not in bounds and group is by_recipe[group.recipe]]
    rest = [group for group in methods if group not in ends + others]
    chosen = ends[:1] + (others + rest)[: METHODS - len(ends)] + ends[1:]
    return [keys[run.dir] for group in chosen for run in group.runs[: RUNS // len(chosen)]]


def cautions(runs: list[Run]) -> None:
    """What makes the comparison unequal, shown before the numbers."""
    for sentence in views.unequal(runs):
        st.warning(layout.plain(sentence))


def notes(runs: list[Run]) -> None:
    """What to keep in mind, shown below the numbers."""
    for sentence in tables.without_interval(runs):
        st.caption(f":material/exposure_plus_1: {layout.plain(sentence)}")
    if any((run.result()["uses"] or {}).get("task_id") for run in runs):
        st.caption(
            ":material/key: A run here is given the true task at test time (“Uses task identity”): use it as a reference only."
        )


# -- the page --------------------------------------------------------------------------------------------------------------


def draw() -> None:
    layout.heading("Compare", "The same numbers and charts for every method, over its seeds and orders, on one scale.")
    run_table.warn_of_damaged_runs()
    offered = run_picker.choices()
    if not offered:
        run_picker.no_runs("There are no runs to compare yet.")
        return
    offered = run_picker.filter_runs("only", offered)
    chosen = pick(offered)
    if not chosen:
        st.info("Choose at least one run above.")
        return
    comparable, excluded = views.comparable(chosen)
    for reason in excluded.values():
        st.warning(f"Left out: {layout.plain(reason)}.")
    runs, transfers = ([run for run in comparable if run.protocol.continual is continual] for continual in (True, False))
    if transfers:
        numbers.transfer(transfers)
    if not runs:
        return
    groups = views.groups(runs)
    with st.container(horizontal=True, vertical_alignment="center"):
        only = answer.choose(groups)
        more_runs(offered, groups)
    cautions(runs)
    if len(groups) == 1:
        st.info("Choose a run of another method to see differences.")
    view = st.segmented_control(
        "View", VIEWS, default=VIEWS[0], key="cmp_view", bind="query-params", required=True, label_visibility="collapsed"
    )
    with layout.section():
        show(view, runs, groups, only, excluded)
    notes(runs)


def show(view: str, runs: list[Run], groups: list[Group], only: str, excluded: dict[str, str]) -> None:
    """One view; of one method alone where that is chosen."""
    if view == "Summary":
        return answer.draw(runs, groups)
    labels = [group.label for group in groups]
    baseline = pick_baseline(labels, runs) if view in ("Numbers", "Matrices") else ""
    first = groups[labels.index(baseline)] if baseline else groups[0]
    runs = [run for group in groups if only in ("", group.label) or group.label == baseline for run in group.runs]
    shown = views.groups(runs)  # of fewer groups, labels may be shorter
    baseline = next((group.label for group in shown if baseline and group.runs[0] in first.runs), "")
    match view:
        case "Numbers":
            numbers.draw(runs, shown, baseline, excluded)
        case "Each task":
            tasks.curves(runs, shown)
        case "Matrices":
            tasks.matrices(runs, first)
        case "Trade-offs":
            trade_offs.memory(shown)
            trade_offs.trade_offs(runs)
        case "What hurt what":
            forgetting.interference(runs)
        case "Why forgotten":
            forgetting.reasons(runs)
        case "Order":
            trade_offs.order(runs)
        case "Learning rates":
            trade_offs.rates(runs)
        case _:
            trade_offs.settings(shown)


def pick_baseline(labels: list[str], runs: list[Run]) -> str:
    """The method that the others are compared with."""
    url_state.set_default("baseline", labels, replicates.reference(runs))
    about = "Differences are taken to this method, on the same seeds and orders."
    return st.selectbox("Baseline", labels, key="baseline", bind="query-params", help=about, width=320)


draw()
