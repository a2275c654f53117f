"""Every measure of every method as a table, downloads, and paired differences."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from lab import views
from lab.comparison import replicates, tables
from lab.figures import methods, report
from lab.pages import chart_card, code_snippets, layout, url_state
from lab.pages.compared.columns import INTERVAL
from lab.run_folder.run import Run
from lab.views import Group

MEASURES, DIFFERENCES = "measures", "paired-differences"  # places on the page, for links to them
ROW = 29  # pixels of a row of measures, which are many
UNCLAIMED = "color: #808890"  # of a difference whose sign is uncertain


def draw(runs: list[Run], groups: list[Group], baseline: str, excluded: dict[str, str]) -> None:
    """The table of measures, downloads, and the paired differences to the baseline."""
    if len(groups) > 1:
        layout.contents({"Measures": MEASURES, "Paired differences": DIFFERENCES})
    st.subheader("Measures", anchor=MEASURES)
    numbers(runs, groups, "numbers", "Measures of the chosen runs, one column per method")
    with st.container(horizontal=True):
        csv_of(runs, "comparison")
        st.download_button(
            "Report as HTML",
            lambda: report.html(runs, excluded),
            "comparison.html",
            "text/html",
            on_click="ignore",
            icon=":material/description:",
            help="Tables, figures, settings and commands in one file that opens offline.",
        )
        with st.popover("Command", icon=":material/terminal:", type="tertiary"):
            st.code(code_snippets.command_of(runs), language="bash")
        layout.how_to_read(
            f"Means over n runs, which may differ in seed and order, ± half of the {INTERVAL}. A dash stands beside its reason."
        )
    if len(groups) > 1:
        differences(runs, baseline)


def numbers(runs: list[Run], groups: list[Group], key: str, alt: str) -> None:
    """The table of measures, with the number of runs behind each column."""
    table = views.summary_table(runs).rename(columns={group.label: f"{group.label} (n = {len(group.runs)})" for group in groups})
    names = {"measure": st.column_config.TextColumn("measure", width=170, pinned=True)}
    st.dataframe(table, column_config=names, key=key, alt=alt, height="content", row_height=ROW)


def csv_of(runs: list[Run], name: str) -> None:
    """The download of `lab compare --csv`."""
    st.download_button(
        "Numbers as CSV",
        tables.csv(runs),
        f"{name}.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        help="The file of `lab compare --csv`: unrounded, with the reason for each missing number.",
        key=f"{name}_csv",
    )


def differences(runs: list[Run], baseline: str, prefix: str = "") -> None:
    """Table and figure of the paired differences; `prefix` begins the keys of a second one on the page."""
    st.subheader("Paired differences", anchor=f"{prefix}{DIFFERENCES}")
    table = replicates.differences(runs, baseline)
    titles = {measure.path: measure.title for measure in replicates.compared(runs)}
    cells = table.assign(cell=[difference(row) for row in table.to_dict("records")])
    labels, columns = list(dict.fromkeys(table["label"])), list(titles)
    texts = cells.pivot(index="label", columns="measure", values="cell").loc[labels, columns]
    claimed = table.pivot(index="label", columns="measure", values="claim").loc[labels, columns]
    greyed = texts.style.apply(lambda _: claimed.map(lambda claim: "" if claim is True else UNCLAIMED), axis=None)
    names = {path: st.column_config.TextColumn(titles[path], width=270) for path in columns}  # the longest cell
    heading = f"minus {baseline}"
    width = 24 + 7 * max(map(len, [heading, *labels]))  # pixels: the margins, and at most 7 per character
    names["label"] = st.column_config.TextColumn(heading, width=width, pinned=True)
    st.dataframe(greyed, column_config=names, key=f"{prefix}differences", height="content", alt=f"Methods minus {baseline}")
    layout.how_to_read(
        "Each run minus the baseline's run of the same seed and order; in brackets the 95 % interval. Grey: the interval "
        "includes zero or does not exist, so the sign is uncertain. p: the exact permutation test of the pairs, which cannot "
        "fall below 2 / 2ⁿ with n pairs. Nothing is corrected for the number of comparisons."
    )
    measure = st.selectbox("Measure", columns, format_func=titles.__getitem__, key=f"{prefix}cmp_measure", bind="query-params")
    of_measure = [row for row in table.to_dict("records") if row["measure"] == measure and pd.notna(row["mean"])]
    if not of_measure:
        st.info(f"There is no difference to show: {layout.plain('; '.join(dict.fromkeys(table['why'])))}.")
        return
    values = "; ".join(f"{row['label']} {difference(row)}" for row in of_measure)
    chart_card.card(
        methods.differences,
        runs,
        baseline,
        measure,
        key=f"{prefix}cmp_differences",
        alt=f"{titles[measure]} minus that of {baseline}: {values}",
        read="Right of the line: higher than the baseline. Hollow: the sign is uncertain.",
    )


def difference(row: Mapping[Any, Any]) -> str:
    """A paired difference (a row of `replicates.differences`) as text."""
    if pd.isna(row["mean"]):
        return f"– ({row['why']})"
    if pd.isna(row["low"]):
        return f"{row['mean']:+z.3f} (one pair: no interval)"
    includes_zero = "" if row["claim"] else ", includes 0"
    return f"{row['mean']:+z.3f} [{row['low']:+z.3f}, {row['high']:+z.3f}] p {row['p']:.2g}{includes_zero}"


def transfer(runs: list[Run]) -> None:
    """Runs that were trained jointly and adapted to held-out tasks, in a table of their own."""
    st.subheader("Transfer to held-out tasks", anchor=False)
    for sentence in views.unequal(runs):
        st.warning(layout.plain(sentence))
    groups = views.groups(runs)
    numbers(runs, groups, "transfer", "Measures of the transfer runs, one column per method")
    with st.container(horizontal=True):
        csv_of(runs, "transfer")
        with st.popover("Command", icon=":material/terminal:", type="tertiary", key="transfer_command"):
            st.code(code_snippets.command_of(runs), language="bash")
    layout.how_to_read(
        "Mean scores on the held-out tasks after training on so many examples (shots) of each, over n runs, ± half of the "
        f"{INTERVAL}. Every method starts from its own joint training on the other tasks; the true task is given."
    )
    for sentence in tables.without_interval(runs):
        st.info(layout.plain(sentence), icon=":material/exposure_plus_1:")
    labels = [group.label for group in groups]
    if len(labels) > 1:
        url_state.set_default("transfer_baseline", labels, replicates.reference(runs))
        baseline = st.selectbox("Baseline of the transfer runs", labels, key="transfer_baseline", bind="query-params")
        differences(runs, baseline, "transfer_")
