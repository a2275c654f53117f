"""Compare: runs beside each other, grouped by method over their seeds, on one scale."""

from collections.abc import Iterable
from itertools import islice

import streamlit as st

from lab import views
from lab.comparison import replicates, tables
from lab.pages import compare_views, layout, run_picker, run_table, url_state
from lab.run_folder.run import Run

# -- which runs ------------------------------------------------------------------------------------------------------------


def pick(found: dict[str, Run]) -> list[Run]:
    """The chosen runs."""
    url_state.restore("runs", list(found), first_pair(found), run_picker.run_name)
    keys = st.multiselect(
        "Runs",
        list(found),
        format_func=run_picker.run_name,
        key="runs",
        bind="query-params",
        placeholder="Choose two or more runs",
        help="Your own runs, newest first, then the recorded examples.",
    )
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Add their repetitions",
            icon=":material/library_add:",
            type="tertiary",
            on_click=add_repetitions,
            args=[found],
            help="Adds every run that differs from a chosen one in seed, order of tasks or learning rate only.",
            key="cmp_repeat",
        )
    return [found[key] for key in keys]


def add_repetitions(found: dict[str, Run]) -> None:
    """Choose the seeds, orders and learning rates of the chosen runs too, where they have numbers."""
    chosen = st.session_state["runs"]
    more = replicates.repetitions([found[key] for key in chosen], list(found.values()))
    more = {run.dir for run in more if not views.unready(run)}
    st.session_state["runs"] = [*chosen, *(key for key, run in found.items() if run.dir in more and key not in chosen)]


def first_pair(found: dict[str, Run]) -> list[str]:
    """Two runs to begin with: the newest that is complete and can be compared, and the newest such one of another recipe."""
    known = run_table.table(list(found.values())).set_axis(list(found))
    whole = known.index[(known["learned"] == known["tasks"]) & (known["learned"] > 0)]

    def newest(keys: Iterable[str]) -> list[str]:
        return list(islice((key for key in keys if not views.unready(found[key])), 1))

    first = newest(whole) or list(found)[:1]
    others = newest(key for key in whole if known.at[key, "recipe"] != known.at[first[0], "recipe"])
    return first + (others or newest(key for key in whole if key != first[0]))


def cautions(runs: list[Run]) -> None:
    """What makes the comparison unequal, said before the numbers."""
    for sentence in views.unequal(runs):
        st.warning(layout.plain(sentence))
    if any((run.result()["uses"] or {}).get("task_id") for run in runs):
        st.info("A run here is given the true task at test (see “Uses task identity”): it is a reference, not a competitor.")
    for sentence in tables.without_interval(runs):
        st.info(layout.plain(sentence), icon=":material/exposure_plus_1:")


# -- the page --------------------------------------------------------------------------------------------------------------


def draw() -> None:
    layout.heading("Compare", "The same numbers and pictures for every method, over its repetitions and on one scale.")
    run_table.warn_of_damaged_runs()
    found = run_picker.choices()
    if not found:
        return run_picker.no_runs("There are no runs to compare yet.")
    chosen = pick(run_picker.filter_runs("only", found))
    if not chosen:
        return st.info("Choose at least one run above.")
    runs, excluded = views.comparable(chosen)
    for reason in excluded.values():
        st.warning(f"Left out: {layout.plain(reason)}.")
    runs, transfers = ([run for run in runs if run.protocol.continual is wanted] for wanted in (True, False))
    if transfers:
        compare_views.transfer(transfers)
    if not runs:
        return None
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
    help = "Differences are taken to this method, on the same seeds and orders."
    baseline = st.selectbox("Baseline", labels, key="baseline", bind="query-params", help=help)
    with layout.section():
        shown[view]()


draw()
