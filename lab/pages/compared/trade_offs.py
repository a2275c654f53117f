"""What methods gain and what they cost: stability and plasticity, score and cost, the order of tasks, the learning rate."""

from typing import Any

import pandas as pd
import streamlit as st

from lab import figures, views
from lab.comparison import replicates, tables
from lab.figures import methods
from lab.jobs import jobs
from lab.pages import chart_card, layout
from lab.pages.compared import answer
from lab.pages.compared.columns import INTERVAL
from lab.run_folder.run import Run
from lab.views import Group


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
        dominated = [f"{row['dominated_by']} dominates {row['label']}" for row in rows if row["dominated_by"]]
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
        st.caption(f"By the means, {layout.plain(verdict)}. Whether a difference is more than chance stands under Numbers.")


def memory(groups: list[Group]) -> None:
    """Whether more stored examples help, from groups that differ in nothing else; and a button that makes such runs."""
    st.subheader("Does more memory help?", anchor=False)
    stored = [group for group in groups if size(group.runs[0].config)]
    if not stored:
        st.info("No method here stores examples: choose a run of replay or l2r as well.")
        return
    score, told = views.headline(), False
    for family in views.groups([run for group in stored for run in group.runs], ("seed", "stream.tasks", "memory.per_task")):
        scores = {size(group.runs[0].config): answer.mean(group, score.path) for group in views.groups(family.runs)}
        known = {number: value for number, value in scores.items() if value is not None}
        if len(known) > 1:
            told = True
            values = ", ".join(f"{value:.2f} with {number}" for number, value in sorted(known.items()))
            st.markdown(f"**{layout.plain(family.label)}**: {score.title.lower()} {values} stored examples per task.")
    if not told:
        st.markdown("No two of the chosen runs differ in their stored examples alone, so this cannot be told yet.")
    if reason := jobs.why_read_only():
        st.caption(layout.plain(f"Such runs cannot be made here: {reason}."))
        return
    configs = [group.runs[0].config for group in {group.recipe: group for group in stored}.values()]
    about = "Queues each method here that stores examples, with a quarter and with twice as many of each task."
    if st.button(
        "Repeat with a quarter and twice the memory", icon=":material/repeat:", type="tertiary", key="cmp_memory", help=about
    ):
        wanted = [
            config | {"memory": config["memory"] | {"per_task": number}}
            for config in configs
            for number in (max(1, size(config) // 4), 2 * size(config))
        ]
        shown = [run for group in groups for run in group.runs]
        answer.queue(wanted, shown, "These runs are there or wait in the queue already: choose them above.")


def size(config: dict[str, Any]) -> int:
    """How many examples of each task a run stores; 0 where it stores none, or its memory is measured otherwise."""
    memory = config.get("memory") or {}
    return 0 if memory.get("per_class") or memory.get("total") else int(memory.get("per_task") or 0)


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
