"""The views of the page Compare: one function each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import pandas as pd
import streamlit as st

from lab import figures, views
from lab.comparison import replicates, tables
from lab.core.intervals import interval
from lab.figures import methods, report
from lab.pages import chart_card, code_snippets, layout, url_state
from lab.run_folder.run import Run
from lab.views import Group

Item = TypeVar("Item", Group, Run)

COLUMNS = 2  # charts in a row; more would leave no room for the names of the tasks
UNCLAIMED = "color: #808890"  # of a difference whose sign is uncertain
INTERVAL = "95 % interval of Student's t over the runs of a method"


def summary(runs: list[Run], groups: list[Group], baseline: str, excluded: dict[str, str]) -> None:
    """The table of measures, downloads, and the paired differences to the baseline."""
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
    st.dataframe(table, column_config=names, key=key, alt=alt, height="content")


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
    st.subheader("Paired differences", anchor=False)
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


def curves(runs: list[Run], groups: list[Group]) -> None:
    """Average accuracy and the score of each task over the stream."""
    st.subheader("Average over the stream", anchor=False)
    score = views.headline()
    means = {group.label: interval([run.metrics()[score.path] for run in group.runs]).mean for group in groups}
    text = "; ".join(f"{name} ends at {layout.number(mean)}" for name, mean in means.items())
    chart_card.card(
        figures.average_curves,
        runs,
        key="cmp_average",
        table=views.average_curves,
        alt=f"{score.title} after each task: {text}",
        read="The mean score on all tasks learned so far, after each task. A falling line means forgetting, or harder tasks."
        f"{band_note(groups)}",
    )
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


def band_note(groups: list[Group]) -> str:
    """What the bands of a chart are; empty where no method has several runs."""
    return f" Bands: {INTERVAL}; of two runs it is wide." if any(len(group.runs) > 1 for group in groups) else ""


def matrices(runs: list[Run], baseline: Group) -> None:
    """The score matrix of every method, and its difference to that of the baseline."""
    groups = views.groups(runs, ("seed",))  # a matrix has the rows of one order
    baseline = next(group for group in groups if group.runs[0] in baseline.runs)
    score = views.headline()
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
    others = [group for group in groups if group != baseline]
    if not others:
        return
    st.subheader(f"Differences to {layout.plain(baseline.label)}", anchor=False)
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


def trade_offs(runs: list[Run]) -> None:
    """Plasticity against stability, and score against cost."""
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Stability and plasticity", anchor=False)
        values = "; ".join(
            f"{row['label']} learned {layout.number(row['learned'])}, kept {layout.number(row['kept'])}"
            for row in replicates.tradeoff(runs).to_dict("records")
        )
        chart_card.card(
            methods.tradeoff,
            runs,
            key="cmp_tradeoff",
            table=replicates.tradeoff,
            alt=f"What was learned and what was kept: {values}",
            read="Further right: learns new tasks better. The distance below the dotted line was lost afterwards.",
        )
    with right:
        st.subheader("Score and cost", anchor=False)
        costs = [measure for measure in tables.COSTS if any(pd.notna(cost) for cost in tables.pareto(runs, measure.path)["cost"])]
        if not costs:
            st.info("No cost is measured yet: it is written when a run is finished.")
            return
        titles = {measure.path: measure.title for measure in costs}
        default = "cost.stored_bytes" if "cost.stored_bytes" in titles else costs[0].path
        cost = st.selectbox(
            "Cost",
            list(titles),
            list(titles).index(default),
            format_func=titles.__getitem__,
            key="cmp_cost",
            bind="query-params",
        )
        rows = tables.pareto(runs, cost).to_dict("records")
        dominated = [f"{row['label']} is dominated by {row['dominated_by']}" for row in rows if row["dominated_by"]]
        verdict = "; ".join(dominated) or "no method is dominated"
        chart_card.card(
            figures.pareto,
            runs,
            cost,
            key="cmp_pareto",
            table=tables.pareto,
            alt=f"Average accuracy by {titles[cost]}: {verdict}",
            read="Better is up and to the left. Faint: dominated, that is, another method is at least as good in both and better "
            "in one. Hollow: uses the task identity, and can dominate only methods that do so too.",
        )
        st.caption(layout.plain(verdict[0].upper() + verdict[1:]) + ".")


def interference(runs: list[Run]) -> None:
    """Which new task hurt which old one, which expert was chosen, and why tasks were forgotten."""
    interference_of_tasks(runs)
    routed = [run for run in runs if run.recorded()]
    if routed:
        chosen_experts(routed)
    reasons_of_forgetting(runs)


def interference_of_tasks(runs: list[Run]) -> None:
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


def order(runs: list[Run]) -> None:
    """The effect of a task's position in the stream, and the scores of every order."""
    st.subheader("Effect of the order of tasks", anchor=False)
    table = replicates.positions(runs)
    effects = [row for row in table.to_dict("records") if pd.notna(row["mean"])]
    if not effects:
        reasons = "; ".join(dict.fromkeys(table["why"])) or "no run learned all its tasks"
        st.info(
            f"There is no effect to show: {layout.plain(reasons)}. Make such runs with a grid (`orders: {{random: 3}}`) or one "
            "by one (`-o stream.tasks=[...]`); then press “Add other seeds and orders” above."
        )
        return
    values = "; ".join(f"{row['label']} position {row['position']} {row['mean']:+z.3f}" for row in effects)
    chart_card.card(
        methods.positions,
        runs,
        key="cmp_positions",
        table=replicates.positions,
        alt=f"Effect of the position in the stream: {values}",
        read=f"Above zero: tasks learned at this position end higher than the same tasks elsewhere. Bars: {INTERVAL}.",
    )
    scores = replicates.orders(runs)
    titles = {measure.path: measure.title.lower() for measure in views.judged([run.result() for run in runs])}
    titles |= {"low": "from", "high": "to"}
    three_digits = st.column_config.NumberColumn(format="%.3f")
    st.dataframe(
        scores.rename(columns=titles),
        hide_index=True,
        key="orders",
        height="content",
        alt="Scores of every order",
        column_config=dict.fromkeys(titles.values(), three_digits),
        placeholder="–",
    )


def rates(runs: list[Run]) -> None:
    """The validation score by learning rate."""
    st.subheader("Learning rates", anchor=False)
    rows = replicates.sweep(runs).to_dict("records")
    if not rows:
        st.info(
            "These runs do not vary the learning rate: at least two runs must differ only in train.lr (and the seed). Make them "
            "with a grid (`sweep: {train.lr: [...]}`); then press “Add other seeds and orders” above."
        )
        return
    values = "; ".join(f"{row['label']} {row['value']:g} gives {row['mean']:.3f}" for row in rows)
    chart_card.card(
        methods.sweep,
        runs,
        key="cmp_sweep",
        table=replicates.sweep,
        alt=f"Validation score by learning rate: {values}",
        read="Scores on validation examples only: learning rates may not be chosen by test scores. If the best value is at the "
        "edge, try values beyond it.",
    )


def settings(groups: list[Group]) -> None:
    """The options in which the methods differ, and the runs of every method."""
    st.subheader("Settings that differ", anchor=False)
    table = views.config_difference([group.runs[0] for group in groups]).set_axis([g.label for g in groups], axis=1)
    table = table.drop(index="seed", errors="ignore")
    if table.empty:
        st.info("There is only one method." if len(groups) == 1 else "These runs have equal settings.")
    else:
        st.dataframe(table, key="settings", alt="Options in which the chosen runs differ", height="content")
    members = pd.DataFrame(
        [
            {"method": group.label, "seed": run.config["seed"], "run": run.title, "status": run.status}
            for group in groups
            for run in group.runs
        ]
    )
    st.dataframe(members, hide_index=True, key="members", alt="Runs of every method", height="content")


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


# -- layout ----------------------------------------------------------------------------------------------------------------


def run_or_runs(group: Group) -> Run | list[Run]:
    """The argument of a figure for a group: its only run, or the list of its runs."""
    return group.runs[0] if len(group.runs) == 1 else group.runs


def in_columns(items: Sequence[Item]) -> Iterator[tuple[int, Item]]:
    """Each group or run with its index, yielded inside a column of a grid, below its name."""
    for start in range(0, len(items), COLUMNS):
        for column, index in zip(st.columns(min(COLUMNS, len(items)), gap="medium"), range(start, len(items)), strict=False):
            with column:
                item = items[index]
                st.markdown(name_of(item))
                yield index, item


def name_of(item: Group | Run) -> str:
    """The name above a chart of a group or run."""
    if isinstance(item, Run):
        return f"**{layout.plain(item.title)}**"
    return f"**{layout.plain(item.label)}**" + (f" (mean of {len(item.runs)})" if len(item.runs) > 1 else "")
