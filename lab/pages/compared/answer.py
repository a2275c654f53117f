"""The first view of Compare: what every method forgot and kept, as curves and bars; one method at a time on a click."""

from collections.abc import Collection
from typing import Any

import numpy as np
import streamlit as st

from lab import figures, views
from lab.comparison import replicates
from lab.core.dotted import pick
from lab.core.errors import LabError
from lab.core.intervals import interval
from lab.jobs import jobs
from lab.metrics.forgetting import Forgetting
from lab.pages import chart_card, code_snippets, layout, navigation, url_state
from lab.pages.compared.columns import band_note
from lab.pages.compared.numbers import numbers
from lab.run_folder.run import UNREADABLE, Run
from lab.store import index
from lab.views import Group

ONLY = "cmp_only"  # key of the method that stands alone; none: all of them
SEEDS = (1, 2, 3)
LOSS = "loss"


def draw(runs: list[Run], groups: list[Group]) -> None:
    """The sentence, curves beside bars, and what it cost."""
    only = st.session_state.get(ONLY) or ""
    st.markdown(f"#### {conclusion(groups)}")
    st.markdown(" ".join(filter(None, [most_forgotten(groups), perfect_routing(groups)])))
    left, right = st.columns([3, 2], gap="large")
    with left, layout.section():
        over_the_stream(runs, groups, only)
    with right, layout.section():
        bars(runs, groups, only)
    with layout.section():
        costs([group for group in groups if only in ("", group.label)])


def choose(groups: list[Group]) -> str:
    """The methods as chips: one that is chosen stands alone on the whole page; the same click again, or Show all, ends that."""
    labels = [group.label for group in groups]
    if st.session_state.get(ONLY) not in labels:
        st.session_state.pop(ONLY, None)
    if len(labels) < 2:
        return ""
    about = "One method alone, in every view. Click it again to see all."
    only = st.pills("Show only", labels, key=ONLY, help=about, label_visibility="collapsed", width="content") or ""
    if only:
        st.button("Show all", type="tertiary", key="cmp_show_all", on_click=lambda: st.session_state.pop(ONLY, None))
    return only


def mean(group: Group, path: str) -> float | None:
    """Mean of a measure over the runs of a group, None where one of them lacks it."""
    values = [pick(run.result(), path) for run in group.runs]
    return None if any(value is None for value in values) else interval(values).mean


def conclusion(groups: list[Group]) -> str:
    """The answer in words, from the means: which method kept most, and which forgot most."""
    kept, lost = (_known({group.label: mean(group, measure.path) for group in groups}) for measure in views.judged()[:2])
    if not kept:
        return "No run here has learned all its tasks yet."
    if len(groups) == 1:
        forgetting = "".join(f", forgetting {layout.number(value, '{:z.2f}')}" for value in lost.values())
        return f"{_named(groups, kept)}: average accuracy {max(kept.values()):.2f}{forgetting}."
    keeps = "keep" if len(_highest(kept)) > 1 else "keeps"
    text = f"{_named(groups, _highest(kept))} {keeps} most: average accuracy {max(kept.values()):.2f}."
    if not lost:
        return text
    if max(lost.values()) < 0.005:
        return f"{text} No method forgets."
    forgets = "forget" if len(_highest(lost)) > 1 else "forgets"
    return f"{text} {_named(groups, _highest(lost))} {forgets} most: {max(lost.values()):.2f} per old task."


def most_forgotten(groups: list[Group]) -> str:
    """Which task was forgotten most by which method, in words; nothing where no task lost anything."""
    losses: dict[tuple[str, str], list[float]] = {}
    for group in groups:
        for run in group.runs:
            if views.complete(run) and len(run.matrix) > 1:
                parts = Forgetting().parts(run.protocol.measured(run))
                for task, (best, last) in zip(run.tasks[:-1], parts, strict=True):
                    losses.setdefault((group.label, task), []).append(best - last)
    means = {key: float(np.mean(own)) for key, own in losses.items()}
    if not means or max(means.values()) < 0.005:
        return ""
    label, task = max(means, key=means.__getitem__)
    return f"The task forgotten most is **{layout.plain(task)}**, by {layout.plain(label)}: {means[label, task]:.2f} lost."


def perfect_routing(groups: list[Group]) -> str:
    """What an oracle that picks the expert of the true task would add to each method that is routed, in words."""
    gaps = _known({group.label: mean(group, "routing.oracle_gap") for group in groups if not _told(group)})
    added = ", ".join(f"{layout.plain(label)} {gap:+z.2f}" for label, gap in gaps.items())
    return f"With an oracle's routing, to the true task's expert, average accuracy changes by: {added}." if added else ""


def _told(group: Group) -> bool:
    """Whether a method is given the true task."""
    return any((run.result()["uses"] or {}).get("task_id") for run in group.runs)


def _known(values: dict[str, float | None]) -> dict[str, float]:
    return {label: value for label, value in values.items() if value is not None}


def _highest(values: dict[str, float]) -> list[str]:
    """The labels whose value is the highest, as far as two digits tell them apart."""
    return [label for label, value in values.items() if f"{value:.2f}" == f"{max(values.values()):.2f}"]


def _named(groups: list[Group], labels: Collection[str]) -> str:
    """These methods in words, with what gives some of them an advantage."""
    names = []
    for group in groups:
        if group.label in labels:
            names.append(f"**{layout.plain(group.label)}**" + (" (it is given the task)" if _told(group) else ""))
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def over_the_stream(runs: list[Run], groups: list[Group], only: str) -> None:
    """One measure of all methods after each task."""
    titles = {measure.path: measure.title for measure in reversed(views.judged()[:2])}
    if all(len(run.matrix) < 2 for run in runs):  # nothing can have been forgotten
        titles.pop(views.judged()[1].path)
    if any(map(is_routed, runs)):
        titles[views.OWN_SHARE] = "Own-expert share"
    titles[LOSS] = "Training loss"
    first = next(iter(titles))
    url_state.drop_unavailable("cmp_curve", list(titles))
    chosen = st.segmented_control(
        "Over the stream", list(titles), default=first, format_func=titles.__getitem__, key="cmp_curve", bind="query-params",
        required=True,
    )  # fmt: skip
    if chosen == LOSS:
        alt = "Training loss of every method over its steps"
        chart_card.card(figures.loss_curves, runs, key="cmp_losses", only=only, alt=alt)
        return
    ends = {group.label: mean(group, chosen) for group in groups}
    text = "; ".join(f"{name} ends at {layout.number(value)}" for name, value in ends.items())
    chart_card.card(
        figures.average_curves,
        runs,
        key="cmp_average",
        measure=chosen,
        only=only,
        alt=f"{titles[chosen]} after each task: {text}",
        read=f"{titles[chosen]} after each learned task, one line per method.{band_note(groups)}",
    )


def is_routed(run: Run) -> bool:
    """Whether routing among several experts was recorded and can be read."""
    try:
        return bool(run.recorded()) and len(run.routing().experts) > 1
    except UNREADABLE:
        return False


def bars(runs: list[Run], groups: list[Group], only: str) -> None:
    """The final scores; a click on a bar shows its method alone."""
    labels = [group.label for group in groups]
    text = "; ".join(
        f"{group.label} " + ", ".join(f"{m.title.lower()} {layout.number(mean(group, m.path))}" for m in views.judged()[:2])
        for group in groups
    )

    def alone() -> None:
        points = st.session_state["cmp_bars"].selection.points
        if points:
            label = labels[int(points[0]["y"])]
            st.session_state[ONLY] = None if st.session_state.get(ONLY) == label else label

    figure = figures.scores_of_methods(runs, only=only)
    st.markdown(
        "In the end", help="↑ higher is better, ↓ lower is better. Click a bar to see its method alone, again to see all."
    )
    chart_card.chart(figure, "cmp_bars", f"In the end: {text}", on_select=alone, selection_mode="points")
    python = code_snippets.python_of(figures.scores_of_methods, views.summary, (runs,), {})
    chart_card.footer("cmp_bars", "", python, runs, lambda: views.summary(runs))


def costs(groups: list[Group]) -> None:
    """What each method stores and how long it trained, in a line; all measures on a switch."""
    parts = []
    for group in groups:
        stored, seconds = mean(group, "cost.stored_bytes"), mean(group, "cost.train_s")
        examples = mean(group, "uses.stored_examples")
        listed = [
            "" if stored is None else f"{stored / 1e6:.2f} MB" if stored >= 1e4 else f"{stored / 1e3:.1f} kB",
            f"{examples:.0f} examples" if examples else "",
            f"{seconds:.0f} s" if seconds is not None else "",
        ]
        if any(listed):
            parts.append(f"**{layout.plain(group.label)}** {', '.join(filter(None, listed))}")
    if parts:
        st.markdown(f":small[Stored and trained: {' · '.join(parts)}]")
    if st.toggle("All measures and costs", key="cmp_all", bind="query-params"):
        shown = [run for group in groups for run in group.runs]
        numbers(shown, views.groups(shown), "all_numbers", "Every measure of the chosen runs, one column per method")


def repeat(groups: list[Group]) -> None:
    """The button that queues every method with the seeds it has not been run with, so that intervals exist."""
    if all({*SEEDS} <= {run.config["seed"] for run in group.runs} for group in groups):
        return
    reason, seeds = jobs.why_read_only(), ", ".join(map(str, SEEDS))
    about = reason or "Queues every method here with these seeds. Runs that are there, or wait already, are not repeated."
    label, icon = f"Repeat with seeds {seeds}", ":material/repeat:"
    pressed = st.button(label, icon=icon, type="tertiary", key="cmp_seeds", disabled=bool(reason), help=about)
    if reason:
        st.caption(layout.plain(f"Seeds cannot be added here: {reason}."))
    if not pressed:
        return
    queue(
        [group.runs[0].config | {"seed": seed} for group in groups for seed in SEEDS],
        [run for group in groups for run in group.runs],
        "These seeds are there or wait in the queue already: press “Add other seeds and orders”.",
    )


def queue(configs: list[dict[str, Any]], shown: list[Run], nothing: str) -> None:
    """Queue the runs of these configurations that are not there yet, nor among those shown; where all are, say `nothing`."""
    wanted = replicates.missing(configs, [*views.readable(index.runs()), *shown])
    try:
        for config in wanted:
            jobs.enqueue(config)
    except (LabError, OSError) as error:
        st.error(layout.plain(str(error)))
        return
    if not wanted:
        st.info(nothing)
        return
    runs = "1 run waits" if len(wanted) == 1 else f"{len(wanted)} runs wait"
    st.success(f"{runs} in the queue. When they are finished, choose them above.")
    navigation.link("jobs", "Watch them on Jobs", ":material/monitoring:")
