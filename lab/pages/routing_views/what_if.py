"""What if experts were chosen differently: settings, the row of the matrix under them, and the weights of recorded examples."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from lab import figures
from lab.jobs import jobs
from lab.pages import chart_card, code_snippets, layout, loaded_models, url_state
from lab.pages.routing_views.asking import Asked, asker
from lab.pages.routing_views.focus import Focus
from lab.run_folder.run import Run

if TYPE_CHECKING:
    from lab.inference.override import Override

TEMPERATURES = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
EVERY = 1  # seconds between two looks at the progress
METRICS = {"average_accuracy": "Average accuracy", "forgetting": "Forgetting", "routing.accuracy": "Routing accuracy"}
ABOUT = (
    "The model as it was at this moment answers all test examples again, with every routing weight changed as the settings say; "
    "the rows before are as recorded. **Temperature** t raises weights to the power 1/t: below 1 the largest grow, above 1 they "
    "become equal. **Experts that act** keeps that many of the largest weights. **Hard choice** keeps one. **Without experts** "
    "takes some out; the others get their weight in proportion. Weights keep their sum.\n\n"
    "What a run records are scores, sums of weights, and a few examples whole. From these no new answer follows, so the model is "
    "asked, except where the record proves that no weight changes. Settings that were asked once are remembered."
)


def draw(run: Run, after: int, at: Focus) -> None:
    with st.spinner("Loading what computes …"):
        from lab.analysis import what_if
    what_if.moment(run, after)  # or why there is nothing to change
    left, right = st.columns([1, 3], gap="large")
    with left:
        chosen = settings(run, after)
        change = what_if.override_of(run.routing(after).experts, run.routing(after).mean(0).shape[1], **chosen)
    with right:
        pending = answer(run, after, change, chosen)
        if change != what_if.Override():
            with layout.section():
                recorded_weights(run, after, change, at)
    layout.how_to_read(ABOUT)
    if pending:
        watch(run, after, change)


def settings(run: Run, after: int) -> dict[str, Any]:
    """The fields of an Override that the widgets say; none where nothing is changed."""
    experts = run.routing(after).experts
    url_state.drop_unavailable("rt_wi_pruned", experts)
    hard = st.toggle("Hard choice", key="rt_wi_hard", bind="query-params", help="The expert with the largest weight acts alone.")
    temperature = st.select_slider("Temperature", TEMPERATURES, 1.0, key="rt_wi_temperature", bind="query-params", disabled=hard)
    pruned = st.multiselect(
        "Without experts",
        experts,
        key="rt_wi_pruned",
        bind="query-params",
        max_selections=len(experts) - 1,
        placeholder="all act",
    )
    url_state.drop_unavailable("rt_wi_top", [*range(1, len(experts) + 1)])
    top = st.slider("Experts that act", 1, len(experts), len(experts), key="rt_wi_top", bind="query-params", disabled=hard)
    st.button("As recorded", icon=":material/restart_alt:", on_click=reset, args=[len(experts)], key="rt_wi_reset")
    top = 1 if hard else top
    fields: dict[str, Any] = {} if hard or temperature == 1 else {"temperature": temperature}
    fields |= {"top": top} if top < len(experts) else {}
    return fields | ({"pruned": tuple(pruned)} if pruned else {})


def reset(experts: int) -> None:
    """Undo all changes."""
    for key, value in {"hard": False, "temperature": 1.0, "pruned": [], "top": experts}.items():
        st.session_state[f"rt_wi_{key}"] = value


def answer(run: Run, after: int, change: "Override", chosen: dict[str, Any]) -> bool:
    """The row under these settings, as far as it is known; returns whether the model is being asked for the rest."""
    from lab.analysis import what_if

    routing, tasks = run.routing(after), what_if.tasks_at(run, after)
    unsure = [t for t in tasks if not what_if.proven(routing, t, change)]
    asked: Asked | None = asker().known(run, after, change) if unsure else None
    pending = False
    if change == what_if.Override():
        st.markdown("**As recorded.** Move a setting: the row of the matrix after this task is answered again.")
    elif not unsure:
        st.markdown("**Exact from the record:** these settings change no weight of any test example, so all scores stay.")
    elif asked and asked.finished:
        st.markdown(f"**Asked:** the model answered {asked.total:,} test texts under these settings. " + layout.plain(asked.note))
    elif asked and asked.problem:
        st.warning(layout.plain(asked.problem), icon=":material/warning:")
    else:
        pending = begin(run, after, change, asked)
    known = asked.tested if asked and asked.finished else {}
    if unsure and not known and not pending:
        return False
    if pending:
        st.caption("Until then, what was recorded:")
    result = what_if.outcome(run, after, known)
    cards(result)
    arguments = "".join(f", {name}={list(value) if name == 'pruned' else value!r}" for name, value in chosen.items())
    chart_card.card(
        figures.what_if,
        result,
        key="rt_wi_row",
        alt="Accuracy by task as recorded and changed: "
        + "; ".join(f"{row['task']} {row['recorded']:.2f}, {row['changed']:.2f}" for row in result["tasks"]),
        table=lambda result: pd.DataFrame(result["tasks"]).set_index("task"),
        python="import lab\nfrom lab.analysis.what_if import what_if\n\n"
        f"row = what_if({code_snippets.open_expression(run)}, {after}{arguments})\nlab.figures.what_if(row)",
    )
    return pending


def begin(run: Run, after: int, change: "Override", asked: Asked | None) -> bool:
    """Whether the model may be asked; draws how far it is, or what stands in the way."""
    if after not in run.kept():
        st.info(
            "This run is here without its weights of this moment, so its model cannot be asked. "
            f"Choose a run that was trained here, or train one: `lab run {run.config['recipe']}`",
            icon=":material/inventory_2:",
        )
        return False
    if reason := jobs.why_read_only():
        st.info(f"The model would have to be asked about all test texts; {layout.plain(reason)}.", icon=":material/lock:")
        return False
    if not (asked and asked.running) and not loaded_models.is_small(run):
        begins = {"on_click": asker().ask, "args": [run, after, change]}
        st.button("Ask the model", icon=":material/play_arrow:", key="rt_wi_ask", type="primary", **begins)
        st.caption(f"Loads {layout.plain(run.config['backbone']['name'])} and answers all test texts of the tasks again.")
        return False
    asker().ask(run, after, change)
    return True


def watch(run: Run, after: int, change: "Override") -> None:
    """The progress, drawn again every second; the page when it ends."""

    @st.fragment(run_every=EVERY)
    def progress() -> None:
        asked = asker().ask(run, after, change)
        if asked.finished or asked.problem:
            st.rerun()
        st.progress(min(1.0, asked.answered / max(asked.total, 1)), asked.progress)

    progress()


def cards(result: dict[str, Any]) -> None:
    """The three numbers of the row, each with its change."""
    columns = st.columns(len(METRICS))
    for column, (path, title) in zip(columns, METRICS.items(), strict=True):
        recorded, changed = result["metrics"][path]["recorded"], result["metrics"][path]["changed"]
        moved = None if recorded is None or changed is None or changed == recorded else f"{changed - recorded:+z.3f}"
        colour = "inverse" if path == "forgetting" else "normal"
        column.metric(title, layout.number(changed), moved, delta_color=colour)


def recorded_weights(run: Run, after: int, change: "Override", at: Focus) -> None:
    """What the settings do at once to the weights of the examples that were recorded whole."""
    from lab.analysis import what_if

    routing = run.routing(after)
    before, changed = what_if.recorded_shares(run, after, change)
    tasks = [t for t in range(len(routing.tasks)) if not np.isnan(before[t]).any()]
    expert_of = [routing.experts.index(routing.tasks[t]) if routing.owned else at.expert for t in tasks]
    whose = "the task's own expert" if routing.owned else f"expert {routing.experts[at.expert]}"
    values = [[float(table[t, e]) for t, e in zip(tasks, expert_of, strict=True)] for table in (before, changed)]
    st.markdown(f"**At once: the share of {layout.plain(whose)} on the recorded texts**")
    chart_card.card(
        figures.pairs,
        [routing.tasks[t] for t in tasks],
        values,
        "share",
        key="rt_wi_shares",
        alt=f"Share of {whose} on the recorded texts of each task, as recorded and changed",
        table=lambda names, values, _: pd.DataFrame(np.transpose(values), names, ["recorded", "changed"]),
        python="import lab\nfrom lab.analysis.what_if import recorded_shares\n\n"
        f"before, changed = recorded_shares({code_snippets.open_expression(run)}, {after}, lab.{change!r})",
    )
    if what_if.reads_layers(run):
        st.caption(
            "This router decides in every layer by what the layer is fed with. Here the inputs are as recorded; when the model "
            "is asked, layers are fed with what the changed ones before gave them."
        )
