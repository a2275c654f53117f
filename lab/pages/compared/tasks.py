"""Each task over the stream, score matrices and their differences."""

import streamlit as st

from lab import figures, views
from lab.pages import chart_card, layout
from lab.pages.compared.columns import band_note, in_columns, run_or_runs
from lab.run_folder.run import Run
from lab.views import Group

SCORES, DIFFERENCES = "scores", "differences"  # places on the page, for links to them


def curves(runs: list[Run], groups: list[Group]) -> None:
    """The score of each task over the stream."""
    st.subheader("Each task over time", anchor=False)
    for index, group in in_columns(views.groups(runs, ("seed",))):
        with layout.section():
            chart_card.card(
                figures.forgetting_curves,
                run_or_runs(group),
                key=f"cmp_curves_{index}",
                table=views.forgetting_curves,
                alt=f"Score of each task of {group.label} after each learned task",
            )
    layout.how_to_read(
        "One line per task, from the moment it was learned; dotted lines separate the tasks. A falling line is a task being "
        f"forgotten.{band_note(groups)}"
    )


def matrices(runs: list[Run], baseline: Group) -> None:
    """The score matrix of every method, and its difference to that of the baseline."""
    groups = views.groups(runs, ("seed",))  # a matrix has the rows of one order
    baseline = next(group for group in groups if group.runs[0] in baseline.runs)
    others = [group for group in groups if group != baseline]
    score = views.headline()
    if others:
        layout.contents({"Scores": SCORES, f"Differences to {layout.plain(baseline.label)}": DIFFERENCES})
    st.subheader("Scores", anchor=SCORES)
    for index, group in in_columns(groups):
        average = layout.number(group.runs[0].metrics()[score.path])
        alt = f"Score matrix of {group.label}, {score.title.lower()} {average}"
        with layout.section():
            chart_card.card(
                figures.accuracy_matrix, run_or_runs(group), key=f"cmp_matrix_{index}", alt=alt, table=views.accuracy_matrix
            )
    layout.how_to_read(
        "Rows are moments, columns are tasks; each cell is the mean over the runs of a method. Colours range from 0 to 1 in "
        "every matrix."
    )
    if not others:
        return
    st.subheader(f"Differences to {layout.plain(baseline.label)}", anchor=DIFFERENCES)
    equal = [group for group in others if group.runs[0].tasks == baseline.runs[0].tasks]
    for group in others:
        if group not in equal:
            st.info(
                f"{layout.plain(group.label)} learned different tasks than {layout.plain(baseline.label)}, or in another order: "
                "the matrices have no common cells."
            )
    largest = [views.matrix_difference(group.runs, baseline.runs).abs().max().max() for group in equal]
    reach = max([0.05, *(float(value) for value in largest if value == value)])
    for index, group in in_columns(equal):
        chart_card.card(
            figures.matrix_difference,
            run_or_runs(group),
            run_or_runs(baseline),
            key=f"cmp_difference_{index}",
            reach=reach,
            alt=f"Score matrix of {group.label} minus that of {baseline.label}",
            table=views.matrix_difference,
        )
    if equal:
        layout.how_to_read(f"Purple: higher than the baseline. Orange: lower. The range is ±{reach:.2f} in all differences.")
