"""Which new task hurt which old one, which expert was chosen, and why tasks were forgotten."""

from typing import cast

import streamlit as st

import lab
from lab import figures, views
from lab.comparison import tables
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.pages import chart_card, code_snippets, layout, navigation
from lab.pages.compared.columns import in_columns, run_or_runs
from lab.run_folder.run import Run

MATRIX, CIRCLE = "Matrix", "Circle"  # how what one task cost another is shown
WHY, EXPERTS = "why-forgotten", "expert-chosen"  # places on the page, for links to them


def reasons(runs: list[Run]) -> None:
    """Why tasks were forgotten, and which expert was chosen."""
    routed = [run for run in runs if run.recorded()]
    if routed:
        layout.contents({"Why was it forgotten?": WHY, "Which expert was chosen": EXPERTS})
    reasons_of_forgetting(runs)
    if routed:
        chosen_experts(routed)


def interference(runs: list[Run]) -> None:
    """How much each new task lowered the scores of the old ones, as matrices or as circles."""
    st.subheader("Which new task hurt which old one", anchor=False)
    shown = st.segmented_control(
        "Shown as", [MATRIX, CIRCLE], default=MATRIX, key="cmp_hurt", bind="query-params", required=True,
        label_visibility="collapsed",
    )  # fmt: skip
    for index, group in in_columns(views.groups(runs, ("seed",))):
        with layout.section():
            table = tables.interference_matrix(run_or_runs(group))
            losses = cast(dict[tuple[str, str], float], table.stack().dropna().to_dict())
            if not losses:
                st.info("Needs at least two learned tasks.")
                continue
            new, old = max(losses, key=losses.__getitem__)
            arrows = [f"{new} → {old} {loss:.3f}" for (new, old), loss in losses.items() if loss >= figures.LEAST]
            worst = f"the largest: learning {new} lowered {old} by {losses[new, old]:.3f}"
            chart_card.card(
                figures.interference_graph if shown == CIRCLE else figures.interference,
                run_or_runs(group),
                key=f"cmp_{'graph' if shown == CIRCLE else 'interference'}_{index}",
                table=tables.interference_matrix,
                alt=f"Which new task hurt which old one in {group.label}; "
                + ("; ".join(arrows) or "none" if shown == CIRCLE else worst),
            )
    layout.how_to_read(
        "An arrow leads from the new task to the one it hurt; the wider, the more. Losses below 0.005 and gains have no arrow."
        if shown == CIRCLE
        else "Read down a column to see how much each later task lowered the score of this one; the column sums to what the task "
        "lost since it was learned. Negative numbers are gains. The range is −1 to 1 everywhere."
    )


def chosen_experts(runs: list[Run]) -> None:
    """How often each expert was the first choice, of every run that has several."""
    st.subheader("Which expert was chosen", anchor=EXPERTS)
    single = [run for run in runs if len(run.routing().experts) < 2]
    for index, run in in_columns([run for run in runs if run not in single]):
        with layout.section():
            table = tables.routing_confusion(run)
            favourites = "; ".join(f"{task} → {row.idxmax()} {row.max():.2f}" for task, row in table.dropna().iterrows())
            chart_card.card(
                figures.routing_confusion,
                run,
                key=f"cmp_confusion_{index}",
                table=tables.routing_confusion,
                alt=f"First choice on each task of {run.title}, the most frequent: {favourites}",
            )
    if len(single) < len(runs):
        layout.how_to_read(
            "How often each expert was the first choice on the examples of each task, over layers and routing heads. Off the "
            "diagonal, the router chose the expert of another task."
        )
    if single:
        names = ", ".join(run.title for run in single)
        st.caption(layout.plain(f"With one expert for all tasks there is nothing to choose: {names}."))


def reasons_of_forgetting(runs: list[Run]) -> None:
    st.subheader("Why was it forgotten?", anchor=WHY)
    measured = [run for run in runs if run.decomposition]
    for index, run in in_columns(measured):
        with layout.section():
            why_forgotten(run, f"cmp_decomposition_{index}")
            if "token_loss" in run.decomposition:
                why_forgotten(run, f"cmp_decomposition_tokens_{index}", True)
            for term, reason in tables.decomposition(run).attrs["why"].items():
                st.caption(layout.plain(f"No {tables.TERMS[term].lower()}: {reason}."))
    if measured:
        layout.how_to_read(
            "The loss of each old task, split into growth of the router's error, drift of the experts, drift of the classifier's "
            "old rows, and competition from new classes. The grey mark is the whole loss; left of zero is a gain. Where the "
            "language model answers, a second chart does the same for the loss per token of the right answers."
        )
    if missing := [run for run in runs if not run.decomposition]:
        offer_to_measure(missing, len(runs))


def offer_to_measure(missing: list[Run], chosen: int) -> None:
    """A button that measures the first run of which this is not known and that can be measured; else what would be needed."""
    measurable = next((run for run in missing if run.status == "finished" and 0 in run.kept()), None)
    if chosen == len(missing):
        st.markdown(
            "Forgetting has up to four causes: the router errs more, experts drift, the classifier drifts, new classes compete. "
            "How much each took is measured by asking the model again as it was after every task."
        )
    st.caption(f"Not measured for {len(missing)} of {chosen} runs.")
    if measurable is None:
        st.caption("This needs a finished run that was trained here and kept its weights.")
        navigation.link("train", "Train such a run", ":material/model_training:")
        return
    if reason := jobs.why_read_only():
        st.caption(layout.plain(f"It cannot be measured here: {reason}."))
    elif st.button(
        f"Measure {layout.plain(measurable.title)}",
        icon=":material/play_arrow:",
        key="cmp_measure_why",
        type="secondary" if len(missing) < chosen else "primary",
        help="Loads the model and asks it about the test examples of the old tasks again, several times; seconds to minutes.",
    ):
        measure(measurable)
    with st.popover("Command", icon=":material/terminal:", type="tertiary"):
        st.code(code_snippets.command_of([measurable], "--decompose"), language="bash")


def measure(run: Run) -> None:
    """Measure why a run forgot, with a bar that says how far it is; then the page is drawn with the result."""
    bar = st.progress(0.0, "Loading the model …")

    def tell(task: str, done: int, of: int) -> None:
        bar.progress(done / of, f"{layout.plain(task)}: {done} of {of} old tasks done")

    try:
        lab.decompose(run, tell)
    except (LabError, OSError) as error:
        bar.empty()
        st.error(layout.plain(str(error)))
        return
    st.rerun()


def why_forgotten(run: Run, key: str, *tokens: bool) -> None:
    """Where the losses of a run's old tasks went; with True, those per token of the right answers."""
    mean = tables.decomposition(run, *tokens).loc["mean"]
    terms = ", ".join(f"{title.lower()} {layout.number(mean[term])}" for term, title in tables.TERMS.items())
    lost = "the loss per token grew by" if tokens else "lost"
    alt = f"{run.title}: on average {lost} {mean['loss']:.3f}: {terms}"
    chart_card.card(figures.decomposition, run, *tokens, key=key, table=tables.decomposition, alt=alt)
