"""Which new task hurt which old one, which expert was chosen, and why tasks were forgotten."""

from typing import cast

import streamlit as st

from lab import figures, views
from lab.comparison import tables
from lab.pages import chart_card, code_snippets, layout
from lab.pages.compared.columns import in_columns, run_or_runs
from lab.run_folder.run import Run


def reasons(runs: list[Run]) -> None:
    """Why tasks were forgotten, and which expert was chosen."""
    reasons_of_forgetting(runs)
    routed = [run for run in runs if run.recorded()]
    if routed:
        chosen_experts(routed)


def interference(runs: list[Run]) -> None:
    """How much each new task lowered the scores of the old ones."""
    st.subheader("Which new task hurt which old one", anchor=False)
    for index, group in in_columns(views.groups(runs, ("seed",))):
        with layout.section():
            table = tables.interference_matrix(run_or_runs(group))
            losses = cast(dict[tuple[str, str], float], table.stack().dropna().to_dict())
            if not losses:
                st.info("Needs at least two learned tasks.")
                continue
            new, old = max(losses, key=losses.__getitem__)
            chart_card.card(
                figures.interference,
                run_or_runs(group),
                key=f"cmp_interference_{index}",
                table=tables.interference_matrix,
                alt=f"Interference in {group.label}; the largest: learning {new} lowered {old} by {losses[new, old]:.3f}",
            )
            shown = [f"{new} → {old} {loss:.3f}" for (new, old), loss in losses.items() if loss >= figures.LEAST]
            chart_card.card(
                figures.interference_graph,
                run_or_runs(group),
                key=f"cmp_graph_{index}",
                table=tables.interference_matrix,
                alt=f"Which new task hurt which old one in {group.label}: {'; '.join(shown) or 'none'}",
            )
    layout.how_to_read(
        "Read down a column to see how much each later task lowered the score of this one; the column sums to what the task lost "
        "since it was learned. Negative numbers are gains. The range is −1 to 1 everywhere. In the circle, an arrow leads from "
        "the new task to the one it hurt; the wider, the more."
    )


def chosen_experts(runs: list[Run]) -> None:
    st.subheader("Which expert was chosen", anchor=False)
    for index, run in in_columns(runs):
        with layout.section():
            if len(run.routing().experts) < 2:
                st.info("There is only one expert, so nothing is routed.")
                continue
            table = tables.routing_confusion(run)
            favourites = "; ".join(f"{task} → {row.idxmax()} {row.max():.2f}" for task, row in table.dropna().iterrows())
            chart_card.card(
                figures.routing_confusion,
                run,
                key=f"cmp_confusion_{index}",
                table=tables.routing_confusion,
                alt=f"First choice on each task of {run.title}, the most frequent: {favourites}",
            )
    layout.how_to_read(
        "How often each expert was the first choice on the examples of each task, over layers and routing heads. Off the "
        "diagonal, the router chose the expert of another task."
    )


def reasons_of_forgetting(runs: list[Run]) -> None:
    st.subheader("Why was it forgotten?", anchor=False)
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
    missing = [run for run in runs if not run.decomposition]
    if not missing:
        return
    st.caption(f"Not measured for {len(missing)} of {len(runs)} runs.")
    measurable = next((run for run in missing if run.status == "finished" and 0 in run.kept()), None)
    if measurable:
        st.caption("To measure it, evaluate the moments of a run again on the command line:")
        st.code(code_snippets.command_of([measurable], "--decompose"), language="bash")
    else:
        st.caption("To measure it, the moments of a run are evaluated again: this needs a finished run that kept their weights.")


def why_forgotten(run: Run, key: str, *tokens: bool) -> None:
    """Where the losses of a run's old tasks went; with True, those per token of the right answers."""
    mean = tables.decomposition(run, *tokens).loc["mean"]
    terms = ", ".join(f"{title.lower()} {layout.number(mean[term])}" for term, title in tables.TERMS.items())
    lost = "the loss per token grew by" if tokens else "lost"
    alt = f"{run.title}: on average {lost} {mean['loss']:.3f}: {terms}"
    chart_card.card(figures.decomposition, run, *tokens, key=key, table=tables.decomposition, alt=alt)
