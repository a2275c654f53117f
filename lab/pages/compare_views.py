"""What the page Compare shows of runs: one function per view."""

from collections.abc import Iterator, Sequence

import pandas as pd
import streamlit as st

from lab import figures, views
from lab.comparison import replicates, tables
from lab.core.intervals import interval
from lab.figures import methods, report
from lab.pages import chart_card, code_snippets, layout, url_state
from lab.run_folder.run import Run
from lab.views import Group

COLUMNS = 2  # pictures in a row; more would leave no room for the names of the tasks
UNCLAIMED = "color: #808890"  # of a difference whose sign may not be claimed
INTERVAL = "95 % interval of Student's t over the runs of a method"


def summary(runs: list[Run], groups: list[Group], baseline: str, excluded: dict[str, str]) -> None:
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
        f"Means over n runs, which may differ in seed and order, ± half of the {INTERVAL}. A dash comes with its reason."
    )
    if len(groups) > 1:
        differences(runs, baseline)


def numbers(runs: list[Run], groups: list[Group], key: str, alt: str) -> None:
    """The table of measures, with the number of runs behind each column."""
    table = views.summary_table(runs).rename(columns={group.label: f"{group.label} (n = {len(group.runs)})" for group in groups})
    names = {"measure": st.column_config.TextColumn("measure", width=170, pinned=True)}
    st.dataframe(table, column_config=names, key=key, alt=alt, height="content")


def csv_of(runs: list[Run], name: str) -> None:
    st.download_button(
        "Numbers as CSV",
        tables.csv(runs),
        f"{name}.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        help="The file of `lab compare --csv`: unrounded, with the reason of each missing number.",
        key=f"{name}_csv",
    )


def differences(runs: list[Run], baseline: str, name: str = "") -> None:
    """Table and figure of the differences; `name` begins the keys of a second one on the page."""
    st.subheader("Paired differences", anchor=False)
    found = replicates.differences(runs, baseline)
    titles = {measure.path: measure.title for measure in replicates.compared(runs)}
    shown = found.assign(cell=[difference(row) for row in found.itertuples()])
    labels, columns = list(dict.fromkeys(found["label"])), list(titles)
    texts = shown.pivot(index="label", columns="measure", values="cell").loc[labels, columns]
    claimed = found.pivot(index="label", columns="measure", values="claim").loc[labels, columns]
    greyed = texts.style.apply(lambda _: claimed.map(lambda claim: "" if claim is True else UNCLAIMED), axis=None)
    names = {path: st.column_config.TextColumn(titles[path], width=270) for path in columns}  # the longest cell
    heading = f"minus {baseline}"
    width = 24 + 7 * max(map(len, [heading, *labels]))  # pixels: its margins, and what a character takes of them at most
    names["label"] = st.column_config.TextColumn(heading, width=width, pinned=True)
    st.dataframe(greyed, column_config=names, key=f"{name}differences", height="content", alt=f"Methods minus {baseline}")
    layout.how_to_read(
        "Each run minus the baseline's run of the same seed and order; in brackets the 95 % interval. Grey: it includes zero, or "
        "there is none, so no sign may be claimed. p: the exact permutation test of the pairs, which cannot fall below 2 / 2ⁿ "
        "with n pairs. Nothing is corrected for the number of comparisons."
    )
    measure = st.selectbox("Measure", columns, format_func=titles.get, key=f"{name}cmp_measure", bind="query-params")
    known = found[(found["measure"] == measure) & found["mean"].notna()]
    if known.empty:
        return st.info(f"No difference can be taken: {layout.plain('; '.join(dict.fromkeys(found['why'])))}.")
    said = "; ".join(f"{row.label} {difference(row)}" for row in known.itertuples())
    chart_card.card(
        methods.differences,
        runs,
        baseline,
        measure,
        key=f"{name}cmp_differences",
        alt=f"{titles[measure]} minus that of {baseline}: {said}",
        read="Right of the line: higher than the baseline. Hollow: no claim.",
    )


def difference(row: tuple) -> str:
    """A paired difference as text."""
    if pd.isna(row.mean):
        return f"– ({row.why})"
    if pd.isna(row.low):
        return f"{row.mean:+.3f} (one pair: no interval)"
    return f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}] p {row.p:.2g}" + ("" if row.claim else ", includes 0")


def curves(runs: list[Run], groups: list[Group]) -> None:
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
        read="After each task, the mean score on all tasks learned so far. A falling line is forgetting, or harder tasks."
        f"{banded(groups)}",
    )
    st.subheader("Each task over time", anchor=False)
    for place, group in in_columns(views.groups(runs, ("seed",))):
        with layout.section():
            chart_card.card(
                figures.forgetting_curves,
                of(group),
                key=f"cmp_curves_{place}",
                table=views.forgetting_curves,
                alt=f"Score of each task of {group.label} after each learned task",
            )
    layout.how_to_read(
        "One line per task, from the moment it was learned; dotted lines are the borders between tasks. A line that falls is a "
        f"task being forgotten.{banded(groups)}"
    )


def banded(groups: list[Group]) -> str:
    return f" Bands: {INTERVAL}; of two runs it is wide." if any(len(group.runs) > 1 for group in groups) else ""


def matrices(runs: list[Run], baseline: Group) -> None:
    groups = views.groups(runs, ("seed",))  # a matrix has the rows of one order
    baseline = next(group for group in groups if group.runs[0] in baseline.runs)
    for place, group in in_columns(groups):
        score = views.headline()
        alt = f"Score matrix of {group.label}, {score.title.lower()} {layout.number(group.runs[0].metrics()[score.path])}"
        with layout.section():
            chart_card.card(figures.accuracy_matrix, of(group), key=f"cmp_matrix_{place}", alt=alt, table=views.accuracy_matrix)
    layout.how_to_read(
        "Rows are moments, columns are tasks; the mean over the runs of a method. The colour range is 0 to 1 in every matrix."
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
                "there is no cell-by-cell difference."
            )
    found = [views.matrix_difference(group.runs, baseline.runs).abs().max().max() for group in equal]
    reach = max([0.05, *(float(value) for value in found if value == value)])
    for place, group in in_columns(equal):
        chart_card.card(
            figures.matrix_difference,
            of(group),
            of(baseline),
            key=f"cmp_difference_{place}",
            reach=reach,
            alt=f"Score matrix of {group.label} minus that of {baseline.label}",
            table=views.matrix_difference,
        )
    if equal:
        layout.how_to_read(f"Purple: higher than the baseline. Orange: lower. The range is ±{reach:.2f} in all differences.")


def trade_offs(runs: list[Run]) -> None:
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Stability and plasticity", anchor=False)
        said = "; ".join(
            f"{row.label} learned {layout.number(row.learned)}, kept {layout.number(row.kept)}"
            for row in replicates.tradeoff(runs).itertuples()
        )
        chart_card.card(
            methods.tradeoff,
            runs,
            key="cmp_tradeoff",
            table=replicates.tradeoff,
            alt=f"Learning against keeping: {said}",
            read="Right: learns new tasks well. The distance below the dotted line is what was lost afterwards.",
        )
    with right:
        st.subheader("Score and cost", anchor=False)
        costs = [measure for measure in tables.COSTS if not tables.pareto(runs, measure.path)["cost"].isna().all()]
        if not costs:
            return st.info("No cost is measured yet: it is written when a run is finished.")
        names = {measure.path: measure.title for measure in costs}
        first = "cost.stored_bytes" if "cost.stored_bytes" in names else costs[0].path
        cost = st.selectbox(
            "Cost", list(names), list(names).index(first), format_func=names.get, key="cmp_cost", bind="query-params"
        )
        found = tables.pareto(runs, cost)
        beaten = [f"{row.label} is dominated by {row.dominated_by}" for row in found.itertuples() if row.dominated_by]
        verdict = "; ".join(beaten) or "nobody is dominated"
        chart_card.card(
            figures.pareto,
            runs,
            cost,
            key="cmp_pareto",
            table=tables.pareto,
            alt=f"Average accuracy by {names[cost]}: {verdict}",
            read="Better is up and to the left. Faint: dominated, another method is at least as good in both and better in one. "
            "Hollow: uses the task identity, and dominates only such.",
        )
        st.caption(layout.plain(verdict[0].upper() + verdict[1:]) + ".")


def interference(runs: list[Run]) -> None:
    st.subheader("Which task cost which", anchor=False)
    for place, group in in_columns(views.groups(runs, ("seed",))):
        with layout.section():
            table = tables.interference_matrix(of(group))
            if table.isna().all(axis=None):
                st.info("Needs at least two learned tasks.")
                continue
            learned, task = table.stack().idxmax()
            chart_card.card(
                figures.interference,
                of(group),
                key=f"cmp_interference_{place}",
                table=tables.interference_matrix,
                alt=f"Interference in {group.label}; the largest: learning {learned} cost {task} {table.at[learned, task]:.3f}",
            )
            costs = [f"{late} → {early} {cost:.3f}" for (late, early), cost in table.stack().items() if cost >= figures.LEAST]
            chart_card.card(
                figures.interference_graph,
                of(group),
                key=f"cmp_graph_{place}",
                table=tables.interference_matrix,
                alt=f"Which task cost which in {group.label}: {'; '.join(costs) or 'none cost another anything'}",
            )
    layout.how_to_read(
        "Going down a column shows what each later task cost this one; the column sums to what it lost since it was learned. "
        "Negative numbers are gains. The range is −1 to 1 everywhere. In the circle an arrow leads from the task that was "
        "learned to the one it cost; the wider, the more."
    )
    routed = [run for run in runs if run.recorded()]
    if routed:
        st.subheader("Which expert was chosen", anchor=False)
        for place, run in in_columns(routed):
            with layout.section():
                if len(run.routing().experts) < 2:
                    st.info("There is one expert: nothing to route.")
                    continue
                table = tables.routing_confusion(run)
                said = "; ".join(f"{task} → {row.idxmax()} {row.max():.2f}" for task, row in table.dropna().iterrows())
                chart_card.card(
                    figures.routing_confusion,
                    run,
                    key=f"cmp_confusion_{place}",
                    table=tables.routing_confusion,
                    alt=f"First choice on each task of {run.id}, the most frequent: {said}",
                )
        layout.how_to_read(
            "How often each expert was the first choice on the examples of each task, over layers and routing heads. Off the "
            "diagonal the router took the expert of another task."
        )
    st.subheader("Where did it go?", anchor=False)
    measured = [run for run in runs if run.decomposition]
    for place, run in in_columns(measured):
        with layout.section():
            mean = tables.decomposition(run).loc["mean"]
            terms = ", ".join(f"{title.lower()} {layout.number(mean[term])}" for term, title in tables.TERMS.items())
            chart_card.card(
                figures.decomposition,
                run,
                key=f"cmp_decomposition_{place}",
                table=tables.decomposition,
                alt=f"{run.id} lost {mean['loss']:.3f} on average: {terms}",
            )
            for term, reason in tables.decomposition(run).attrs["why"].items():
                st.caption(layout.plain(f"No {tables.TERMS[term].lower()}: {reason}."))
    if measured:
        layout.how_to_read(
            "What each old task lost, split by looking back: growth of the router's error, expert drift, drift of the "
            "classifier's old rows, and new classes that compete. The grey mark is the whole loss; left of zero was gained."
        )
    missing = [run for run in runs if not run.decomposition]
    if not missing:
        return
    st.caption(f"Not measured for {len(missing)} of {len(runs)} runs.")
    able = next((run for run in missing if run.status == "finished" and 0 in run.kept()), None)
    if able:
        st.caption("It evaluates a run's moments again, on the command line:")
        st.code(code_snippets.command_of([able], "--decompose"), language="bash")
    else:
        st.caption("It evaluates a run's moments again, so it needs a finished run that was trained here and kept their weights.")


def order(runs: list[Run]) -> None:
    st.subheader("What the order of the tasks changes", anchor=False)
    found = replicates.positions(runs)
    known = found[found["mean"].notna()]
    if known.empty:
        reasons = "; ".join(dict.fromkeys(found["why"])) or "no run learned all its tasks"
        return st.info(
            f"No effect can be shown: {layout.plain(reasons)}. A grid with `orders: {{random: 3}}` makes such runs, or "
            "`-o stream.tasks=[...]` one by one; then add them above with “Add their repetitions”."
        )
    said = "; ".join(f"{row.label} place {row.position} {row.mean:+.3f}" for row in known.itertuples())
    chart_card.card(
        methods.positions,
        runs,
        key="cmp_positions",
        table=replicates.positions,
        alt=f"Effect of the place in the stream: {said}",
        read=f"Above zero: tasks learned at this place end higher than the same tasks elsewhere. Bars: {INTERVAL}.",
    )
    table = replicates.orders(runs)
    form = st.column_config.NumberColumn(format="%.3f")
    scores = {measure.path: measure.title.lower() for measure in views.judged([run.result() for run in runs])}
    shown = scores | {"low": "from", "high": "to"}
    st.dataframe(
        table.rename(columns=shown),
        hide_index=True,
        key="orders",
        height="content",
        alt="Scores of every order",
        column_config=dict.fromkeys(shown.values(), form),
        placeholder="–",
    )


def rates(runs: list[Run]) -> None:
    st.subheader("Learning rates", anchor=False)
    found = replicates.sweep(runs)
    if found.empty:
        return st.info(
            "These runs hold no sweep: it needs two runs that differ in train.lr (and the seed) only. A grid with "
            "`sweep: {train.lr: [...]}` makes them; then add them above with “Add their repetitions”."
        )
    said = "; ".join(f"{row.label} {row.value:g} gives {row.mean:.3f}" for row in found.itertuples())
    chart_card.card(
        methods.sweep,
        runs,
        key="cmp_sweep",
        table=replicates.sweep,
        alt=f"Validation score by learning rate: {said}",
        read="Validation examples only: this is what selection may look at. A best value at the edge asks for a wider sweep.",
    )


def settings(groups: list[Group]) -> None:
    st.subheader("Settings that differ", anchor=False)
    table = views.config_difference([group.runs[0] for group in groups]).set_axis([g.label for g in groups], axis=1)
    table = table.drop(index="seed", errors="ignore")
    if table.empty:
        st.info("There is one method only." if len(groups) == 1 else "These runs have equal settings.")
    else:
        st.dataframe(table, key="settings", alt="Options in which the chosen runs differ", height="content")
    members = pd.DataFrame(
        [
            {"method": group.label, "seed": run.config["seed"], "run": run.id, "status": run.status}
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
        f"Mean scores of the held-out tasks after so many examples of each, over n runs, ± half of the {INTERVAL}. "
        "Every method begins from its own joint training on the other tasks; the true task is known."
    )
    for sentence in tables.without_interval(runs):
        st.info(layout.plain(sentence), icon=":material/exposure_plus_1:")
    labels = [group.label for group in groups]
    if len(labels) > 1:
        url_state.set_default("transfer_baseline", labels, replicates.reference(runs))
        baseline = st.selectbox("Baseline of the transfer runs", labels, key="transfer_baseline", bind="query-params")
        differences(runs, baseline, "transfer_")


# -- layout ----------------------------------------------------------------------------------------------------------------


def of(group: Group) -> Run | list[Run]:
    """What a figure of a group is given."""
    return group.runs[0] if len(group.runs) == 1 else group.runs


def in_columns(items: Sequence[Group | Run]) -> Iterator[tuple[int, Group | Run]]:
    """Each group or run with its number, drawn under its name inside a column of a grid."""
    for start in range(0, len(items), COLUMNS):
        for place, column in enumerate(st.columns(min(COLUMNS, len(items)), gap="medium"), start):
            if place < len(items):
                with column:
                    one = items[place]
                    seeds = f" (mean of {len(one.runs)})" if isinstance(one, Group) and len(one.runs) > 1 else ""
                    st.markdown(f"**{layout.plain(one.label if isinstance(one, Group) else one.id)}**{seeds}")
                    yield place, one
