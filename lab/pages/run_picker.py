"""Choosing a run and a moment of it: which runs are offered, select boxes bound to the link, filters by recipe, tag and star."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lab.pages import code_snippets, layout, navigation, recorded_examples, url_state
from lab.run_folder.run import Run
from lab.store import index

MANY = 12  # number of runs from which on the filter is offered
RECORDED = "~"  # begins the key of a recorded example; no run id begins with it


def choices(accepts: Callable[[Run], bool] | None = None) -> dict[str, Run]:
    """The runs that a picker offers, by key: own runs, newest first, then recorded examples.

    Damaged and archived runs are left out, and those that `accepts` rejects.
    """
    own = index.runs()[::-1]
    rows = dict(zip(own, index.rows(own), strict=True))
    own = {run.id: run for run, row in rows.items() if row["status"] != "damaged" and not row["archived"]}
    offered = own | {RECORDED + run.id: run for run in recorded_examples.examples()}
    return {key: run for key, run in offered.items() if accepts is None or accepts(run)}


def names(runs: dict[str, Run]) -> dict[str, str]:
    """What pickers show for the runs of these keys: what people call them; where two are called the same, with their ids."""
    titles = [row["title"] for row in index.rows(runs.values())]
    titles = [f"{title} (recorded example)" if key[0] == RECORDED else title for key, title in zip(runs, titles, strict=True)]
    times = Counter(titles)
    return {key: title if times[title] == 1 else f"{title}, {key}" for key, title in zip(runs, titles, strict=True)}


def link_name(run: Run) -> str:
    """How a link names a run for a picker."""
    return run.id if recorded_examples.is_own(run) else RECORDED + run.id


def bar() -> DeltaGenerator:
    """The line on which a page's run, filter and moment are chosen, side by side where the screen is wide enough."""
    return st.container(horizontal=True, vertical_alignment="top", gap="medium", key="bar")


def pick_run(label: str, key: str, runs: dict[str, Run], default: str) -> Run:
    """A select box over runs, its choice in the link; begins with the run whose key is `default`. A filter stands below it."""
    box = st.container()
    offered = filter_runs(f"{key}_only", runs)
    default = default if default in offered else next(iter(offered))
    name_of = names(offered).__getitem__
    url_state.restore(key, list(offered), default, name_of)
    chosen = box.selectbox(label, list(offered), index=None, format_func=name_of, key=key)
    return offered[chosen or default]


def filter_runs(key: str, runs: dict[str, Run]) -> dict[str, Run]:
    """The runs that match the chosen recipes, streams, tags and star; all of them where none does.

    The filter is drawn only where there are at least MANY runs, or where one has a tag or a star.
    """
    marks = {name: marks_of(row) for name, row in zip(runs, index.rows(runs.values()), strict=True)}
    all_marks = sorted(set().union(*marks.values()))
    if len(runs) < MANY and not any(mark.startswith(("tag ", "starred")) for mark in all_marks):
        return runs
    url_state.drop_unavailable(key, all_marks)
    chosen = st.multiselect(
        "Filter runs",
        all_marks,
        key=key,
        bind="query-params",
        placeholder="All runs",
        help="Offers only runs with a chosen recipe, stream, tag or star. Several choices of one kind widen the filter, choices "
        "of different kinds narrow it. Tags and stars are set in the Library.",
    )
    kinds: dict[str, set[str]] = {}
    for mark in chosen:
        kinds.setdefault(mark.split()[0], set()).add(mark)
    matching = {name: run for name, run in runs.items() if all(wanted & marks[name] for wanted in kinds.values())}
    if not matching:
        st.caption("No run matches the filter, so all runs are offered.")
    return matching or runs


def marks_of(row: dict[str, Any]) -> set[str]:
    """What a run can be filtered by, as far as it can be read: "recipe l2r", "stream builtin", "tag best", "starred"."""
    marks = {f"{name} {row[name]}" for name in ("recipe", "stream") if name in row}
    return marks | {f"tag {tag}" for tag in row.get("tags", ())} | ({"starred"} if row.get("starred") else set())


def no_runs(reason: str) -> None:
    """The empty state of a page: what is missing and how to make it."""
    st.info(f"{reason} Train one on the page Train, or with this command; it appears here by itself.")
    st.code(f"lab run l2r --stream builtin{code_snippets.runs_option()}", language="bash")
    navigation.link("train", "Go to Train", ":material/model_training:")


def pick_moment(run: Run, moments: list[int], key: str, about: str) -> int:
    """The slider "After task" over the recorded moments of a run, bound to the link. Returns the index of that task (0-based)."""
    if len(moments) == 1:
        return moments[0]
    options = [k + 1 for k in moments]
    url_state.drop_unavailable(key, options)
    with st.container():
        chosen = st.select_slider("After task", options, options[-1], key=key, bind="query-params", help=about)
        st.caption(f"After learning task {chosen} of {len(run.tasks)}: **{layout.plain(run.tasks[chosen - 1])}**")
    return chosen - 1
