"""Compare: runs side by side, grouped by method over their seeds and orders, on one scale."""

from collections.abc import Iterable
from itertools import islice

import streamlit as st

from lab import views
from lab.comparison import replicates, tables
from lab.pages import compare_views, layout, run_picker, run_table, url_state
from lab.run_folder.run import Run

# -- which runs ------------------------------------------------------------------------------------------------------------


def pick(runs: dict[str, Run]) -> list[Run]:
    """The chosen runs; `runs` are those offered, by key."""
    name_of = run_picker.names(runs).__getitem__
    url_state.restore("runs", list(runs), first_pair(runs), name_of)
    keys = st.multiselect(
        "Runs",
        list(runs),
        format_func=name_of,
        key="runs",
        placeholder="Choose two or more runs",
        help="Your own runs, newest first, then the recorded examples.",
    )
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Add other seeds and orders",
            icon=":material/library_add:",
            type="tertiary",
            on_click=add_repetitions,
            args=[runs],
            help="Adds every run that differs from a chosen one only in seed, order of tasks or learning rate.",
            key="cmp_repeat",
        )
    return [runs[key] for key in keys]


def add_repetitions(runs: dict[str, Run]) -> None:
    """Choose the other seeds, orders and learning rates of the chosen runs too, where they have results."""
    chosen = st.session_state["runs"]
    repetitions = replicates.repetitions([runs[key] for key in chosen], list(runs.values()))
    folders = {run.dir for run in repetitions if not views.unready(run)}
    st.session_state["runs"] = [*chosen, *(key for key, run in runs.items() if run.dir in folders and key not in chosen)]


def first_pair(runs: dict[str, Run]) -> list[str]:
    """Two runs to begin with: the newest that is complete and can be compared, and the newest such run of another recipe."""
    facts = dict(zip(runs, views.runs_table(list(runs.values())).to_dict("records"), strict=True))
    complete = [key for key, row in facts.items() if row["learned"] == row["tasks"] and row["learned"] > 0]

    def newest(keys: Iterable[str]) -> list[str]:
        return list(islice((key for key in keys if not views.unready(runs[key])), 1))

    first = newest(complete) or list(runs)[:1]
    others = newest(key for key in complete if facts[key]["recipe"] != facts[first[0]]["recipe"])
    return first + (others or newest(key for key in complete if key != first[0]))


def cautions(runs: list[Run]) -> None:
    """What makes the comparison unequal, shown before the numbers."""
    for sentence in views.unequal(runs):
        st.warning(layout.plain(sentence))
    if any((run.result()["uses"] or {}).get("task_id") for run in runs):
        st.info("A run here is given the true task at test time (see “Uses task identity”): use it as a reference only.")
    for sentence in tables.without_interval(runs):
        st.info(layout.plain(sentence), icon=":material/exposure_plus_1:")


# -- the page --------------------------------------------------------------------------------------------------------------


def draw() -> None:
    layout.heading("Compare", "The same numbers and charts for every method, over its seeds and orders, on one scale.")
    run_table.warn_of_damaged_runs()
    offered = run_picker.choices()
    if not offered:
        run_picker.no_runs("There are no runs to compare yet.")
        return
    chosen = pick(run_picker.filter_runs("only", offered))
    if not chosen:
        st.info("Choose at least one run above.")
        return
    comparable, excluded = views.comparable(chosen)
    for reason in excluded.values():
        st.warning(f"Left out: {layout.plain(reason)}.")
    runs, transfers = ([run for run in comparable if run.protocol.continual is continual] for continual in (True, False))
    if transfers:
        compare_views.transfer(transfers)
    if not runs:
        return
    groups = views.groups(runs)
    cautions(runs)
    if len(groups) == 1:
        st.info("Choose a run of another method to see differences.")
    labels = [group.label for group in groups]
    shown = {
        "Summary": lambda: compare_views.summary(runs, groups, baseline, excluded),
        "Curves": lambda: compare_views.curves(runs, groups),
        "Matrices": lambda: compare_views.matrices(runs, groups[labels.index(baseline)]),
        "Trade-offs": lambda: compare_views.trade_offs(runs),
        "Interference": lambda: compare_views.interference(runs),
        "Order": lambda: compare_views.order(runs),
        "Learning rates": lambda: compare_views.rates(runs),
        "Settings": lambda: compare_views.settings(groups),
    }
    view = st.segmented_control("View", list(shown), default="Summary", key="cmp_view", bind="query-params", required=True)
    url_state.set_default("baseline", labels, replicates.reference(runs))
    about = "Differences are taken to this method, on the same seeds and orders."
    baseline = st.selectbox("Baseline", labels, key="baseline", bind="query-params", help=about)
    with layout.section():
        shown[view]()


draw()
