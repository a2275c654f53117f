"""Playground: type a text, see the answer of a run's model and its routing, change the routing and compare.

A recorded example is shown with its recorded answer at once; a model that is loaded in seconds then answers it itself. Only where
a model is asked does this page load torch.
"""

import streamlit as st

from lab import figures
from lab.core.errors import LabError
from lab.pages import chart_card, code_snippets, layout, loaded_models, run_picker
from lab.pages.play import answer as answers_drawn
from lab.pages.play import controls, weights
from lab.pages.play.sides import Question, Side, ask, takes_task
from lab.run_folder.prediction import Answer, kept
from lab.run_folder.run import Run
from lab.store import index

ORIGINAL = "the original"


def recorded_answers(run: Run, after: int) -> dict[str, list[Answer]]:
    """The recorded answers of a moment by the name of their task."""
    if after not in run.recorded():
        return {}
    routing = run.routing(after)
    return {name: kept(run, after, t) for t, name in enumerate(routing.tasks) if f"{t}/rows" in routing.arrays}


def askable() -> dict[str, Run]:
    """The runs on streams that can be asked, or whose recorded answers can be shown, by the key of a picker."""
    offered = run_picker.choices()
    rows = dict(zip(offered, index.rows(offered.values()), strict=True))
    return {key: run for key, run in offered.items() if rows[key].get("continual") and (run.kept() or run.recorded())}


def most_to_see(runs: dict[str, Run]) -> str:
    """The key of the newest run that was routed, has its weights and takes no task; failing that, of one with less to see."""

    def routed(run: Run) -> bool:
        return (run.info.get("routing") or {}).get("own_expert_share") is not None

    wishes = (lambda run: run.kept() and routed(run) and not takes_task(run), lambda run: run.kept() and routed(run), routed)
    return next((key for wish in wishes for key, run in runs.items() if wish(run)), next(iter(runs)))


def draw() -> None:
    layout.heading("Playground", "Type a text, see the answer and which experts gave it, and change the routing.")
    runs = askable()
    if not runs:
        run_picker.no_runs("No run here has learned a task yet.")
        return
    with run_picker.bar():
        run = run_picker.pick_run("Run", "pg_run", runs, most_to_see(runs))
        after = run_picker.pick_moment(run, run.kept() or run.recorded(), "pg_after", "The model as it was at this moment.")
    with layout.section():
        recorded = recorded_answers(run, after)
        text = st.container()
        shown, settings = st.columns([4, 1], gap="large")
        with settings:  # before the text, since the second model decides whether a task is asked for
            other = controls.compared_with(run, after, runs, recorded) if run.kept() else None
        sides = [Side(ORIGINAL, run, after), *([other] if other else [])]
        with text:
            question = controls.prompt(sides, recorded)
        with shown:
            respond(sides, question, recorded)


def respond(sides: list[Side], question: Question, recorded: dict[str, list[Answer]]) -> None:
    """Show the answers of all models, or why there is none."""
    reasons = {side.name: side.asked(question).unusable for side in sides}
    for name, reason in reasons.items():
        if reason:
            st.info(reason if name == ORIGINAL else f"{name.capitalize()}: {reason}", icon=":material/edit:")
            return
    run = sides[0].run
    only_recorded = not run.kept() or not (loaded_models.is_small(run) or len(sides) > 1)
    if question.recorded is not None and only_recorded:
        show_recorded(sides[0], question.recorded, recorded)
    elif not run.kept():
        st.info(
            "This run is here without its weights, so only its recorded examples can be shown: choose one above. For texts of "
            f"your own, choose a run that was trained here, or train one: `lab run l2r{code_snippets.runs_option()}`",
            icon=":material/inventory_2:",
        )
    else:
        show_computed(sides, question, recorded)


def show_recorded(side: Side, answer: Answer, recorded: dict[str, list[Answer]]) -> None:
    """A recorded answer; no model is loaded."""
    st.badge("recorded", icon=":material/history:", color="gray", help="Read from the run folder; no model is loaded.")
    task, answers = next((task, answers) for task, answers in enumerate(recorded.values()) if answer in answers)
    expression = f"kept({code_snippets.open_expression(side.run)}, {side.after}, {task})[{answers.index(answer)}]"
    code = f"import lab\nfrom lab.run_folder.prediction import kept\n\nanswers = {{{ORIGINAL!r}: {expression}}}"
    show(side, {ORIGINAL: answer}, code)


def show_computed(sides: list[Side], question: Question, recorded: dict[str, list[Answer]]) -> None:
    """The answers of the models, or the reason why one of them cannot answer."""
    draft = st.empty()
    if question.recorded and loaded_models.takes_time(sides[0].run, sides[0].after):
        with draft.container():
            show_draft(question.recorded)
    try:
        answers = {side.name: ask(side, question, lambda text: draft.markdown(f"#### {layout.plain(text)} ▌")) for side in sides}
    except (LabError, OSError, RuntimeError) as error:
        draft.empty()
        tell = st.warning if question.recorded else st.error
        tell(layout.plain(str(error).split("\n")[0]), title="The model cannot answer")
        if question.recorded is not None:
            show_recorded(sides[0], question.recorded, recorded)
        return
    draft.empty()
    listed = "".join(f"    {side.name!r}: {side.python(question)},\n" for side in sides)
    code = f"import lab\n\nanswers = {{\n{listed}}}"
    show(sides[0], answers, code, sides[-1].lead)


def show_draft(answer: Answer) -> None:
    """What is recorded of an answer, to be looked at until the model gives its own."""
    st.markdown(f"#### {answers_drawn.sentence({ORIGINAL: answer}, '')}")
    st.badge("recorded", icon=":material/history:", color="gray", help="The model is loaded, and then asked.")
    if len(answer.experts) > 1:
        chart_card.chart(figures.answer_by_layer(answer), "pg_draft", "Recorded weights by layer and expert")


def show(side: Side, answers: dict[str, Answer], code: str, lead: str = "") -> None:
    """Prediction and routing of one or two answers, the first of which is that of `side`."""
    st.markdown(f"#### {answers_drawn.sentence(answers, lead)}")
    answers_drawn.remarks(answers)
    routed = {name: answer for name, answer in answers.items() if len(answer.experts) > 1}
    few = all(len(answer.experts) <= weights.MANY for answer in routed.values())
    beside = len(answers) == len(routed) == 1 and few  # then both pictures stand in a row
    left, right = st.columns(2, gap="large") if beside else (st.container(), st.container())
    with left:
        chosen = {name: answer for name, answer in answers.items() if not answer.writes}
        if chosen:
            answers_drawn.classes(chosen, code)
        answers_drawn.said(answers, code)
    if not routed:
        st.info("This model has one expert for all tasks, so there is no routing to show.")
        return
    with right:
        head = weights.by_layer(routed, code)
    weights.coloured(routed, head, code)
    weights.more(routed, code, side.run, side.after)


draw()
