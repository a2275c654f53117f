"""The first view of Compare: what every method forgot and kept, as curves and bars; one method at a time on a click."""

import streamlit as st

from lab import figures, views
from lab.core.dotted import pick
from lab.core.errors import LabError
from lab.core.intervals import interval
from lab.jobs import jobs
from lab.pages import chart_card, code_snippets, layout
from lab.pages.compared.columns import band_note
from lab.pages.compared.numbers import numbers
from lab.run_folder.run import Run
from lab.views import Group

ONLY = "cmp_only"  # key of the method that stands alone; none: all of them
SEEDS = (1, 2, 3)
LOSS = "loss"


def draw(runs: list[Run], groups: list[Group]) -> None:
    """The sentence, curves beside bars, and what it cost."""
    only = st.session_state.get(ONLY) or ""
    st.markdown(f"#### {conclusion(groups)}")
    left, right = st.columns([3, 2], gap="large")
    with left:
        over_the_stream(runs, groups, only)
    with right:
        bars(runs, groups, only)
    costs(runs, [group for group in groups if only in ("", group.label)])


def choose(groups: list[Group]) -> str:
    """The methods as chips: one that is chosen stands alone on the whole page; the same click again shows all."""
    labels = [group.label for group in groups]
    if st.session_state.get(ONLY) not in labels:
        st.session_state.pop(ONLY, None)
    if len(labels) < 2:
        return ""
    about = "One method alone, in every view. Click it again to see all."
    return st.pills("Show only", labels, key=ONLY, help=about, label_visibility="collapsed", width="content") or ""


def mean(group: Group, path: str) -> float | None:
    """Mean of a measure over the runs of a group, None where one of them lacks it."""
    values = [pick(run.result(), path) for run in group.runs]
    return None if any(value is None for value in values) else interval(values).mean


def conclusion(groups: list[Group]) -> str:
    """The answer in words, from the means: which method kept most, and which forgot most."""
    score, lost = (measure.path for measure in views.judged()[:2])
    ranked = sorted((value, group) for group in groups if (value := mean(group, score)) is not None) if groups else []
    if not ranked:
        return "No run here has learned all its tasks yet."
    value, best = ranked[-1]
    told = " (it is given the task)" if any((run.result()["uses"] or {}).get("task_id") for run in best.runs) else ""
    text = f"**{layout.plain(best.label)}**{told} keeps most: average accuracy {value:.2f}"
    forgotten = [(loss, group) for group in groups if (loss := mean(group, lost)) is not None]
    if not forgotten:
        return f"{text}."
    loss, worst = max(forgotten, key=lambda pair: pair[0])
    if len(groups) == 1:
        return f"{text}, forgetting {loss:.2f}."
    return f"{text}. **{layout.plain(worst.label)}** forgets most: {loss:.2f} per old task."


def over_the_stream(runs: list[Run], groups: list[Group], only: str) -> None:
    """One measure of all methods after each task."""
    titles = {measure.path: measure.title for measure in reversed(views.judged()[:2])}
    if any(run.recorded() and len(run.routing().experts) > 1 for run in runs):
        titles[views.OWN_SHARE] = "Own-expert share"
    titles[LOSS] = "Training loss"
    first = next(iter(titles))
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


def costs(runs: list[Run], groups: list[Group]) -> None:
    """What each method stores and how long it trained, in a line; all measures on a switch."""
    parts = []
    for group in groups:
        stored, seconds = mean(group, "cost.stored_bytes"), mean(group, "cost.train_s")
        examples = mean(group, "uses.stored_examples")
        listed = [
            f"{stored / 1e6:.2f} MB" if stored is not None else "",
            f"{examples:.0f} examples" if examples else "",
            f"{seconds:.0f} s" if seconds is not None else "",
        ]
        if any(listed):
            parts.append(f"**{layout.plain(group.label)}** {', '.join(filter(None, listed))}")
    if parts:
        st.markdown(f":small[Stored and trained: {' · '.join(parts)}]")
    if st.toggle("All measures and costs", key="cmp_all", bind="query-params"):
        shown = [run for group in groups for run in group.runs]
        numbers(shown, groups, "all_numbers", "Every measure of the chosen runs, one column per method")


def repeat(groups: list[Group]) -> None:
    """The button that queues every method with the seeds it has not been run with, so that intervals exist."""
    wanted = [
        run.config | {"seed": seed}
        for group in groups
        for run in group.runs[:1]
        for seed in SEEDS
        if seed not in {other.config["seed"] for other in group.runs}
    ]
    if not wanted:
        return
    reason = jobs.why_read_only()
    seeds = ", ".join(map(str, SEEDS))
    about = reason or f"Queues {len(wanted)} runs that differ in their seed only; they are trained one after another."
    label, icon = f"Repeat with seeds {seeds}", ":material/repeat:"
    if st.button(label, icon=icon, type="tertiary", key="cmp_seeds", disabled=bool(reason), help=about):
        try:
            for config in wanted:
                jobs.enqueue(config)
            st.success(f"{len(wanted)} runs wait in the queue; Jobs shows them. When they are finished, add other seeds above.")
        except (LabError, OSError) as error:
            st.error(layout.plain(str(error)))
