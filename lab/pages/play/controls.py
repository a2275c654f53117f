"""What a visitor sets: the text, the second model or text to compare with, and changes of the routing."""

from dataclasses import replace
from typing import Any

import streamlit as st

from lab.pages import layout, run_picker, url_state
from lab.pages.play.sides import BAR, Question, Side, takes_task
from lab.run_folder.prediction import Answer
from lab.run_folder.run import Run

TYPED = "(typed)"
NOTHING, CHANGED, MOMENT, RUN, TEXT = "nothing", "changed routing", "another moment", "another run", "another text"
ROUTED, ONE, EQUAL, ALL = "as routed", "one expert", "equal weights", "all"
TEMPERATURES = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
UNCHANGED = {"pg_route": ROUTED, "pg_temperature": 1.0, "pg_top": ALL, "pg_off": [], "pg_pruned": []}


def come_in_pairs(recorded: dict[str, list[Answer]]) -> bool:
    """Whether the texts of a task are pairs."""
    return any(answers and all(BAR in answer.text for answer in answers) for answers in recorded.values())


def prompt(sides: list[Side], recorded: dict[str, list[Answer]]) -> Question:
    """The text box, the select box of examples that fill it, and the task if one of the models is given it."""
    examples = {f"{name} {i + 1}": answer for name, answers in recorded.items() for i, answer in enumerate(answers)}
    texts = {name: answer.text for name, answer in examples.items()}
    options = [*texts, TYPED]

    def take_example() -> None:
        st.session_state["pg_text"] = texts.get(st.session_state["pg_example"], st.session_state.get("pg_text", ""))

    def take_text() -> None:
        entered = st.session_state["pg_text"]
        st.session_state["pg_example"] = next((name for name, text in texts.items() if text == entered), TYPED)

    before = st.session_state.get("pg_text")
    same = [name for name, text in texts.items() if text == before]
    url_state.set_default("pg_example", options, same[0] if same else TYPED if before else options[0])
    left, right = st.columns([3, 1])
    chosen = right.selectbox(
        "Example",
        options,
        key="pg_example",
        bind="query-params",
        on_change=take_example,
        help="Test examples that the run recorded, with their true answers.",
    )
    if "pg_text" not in st.session_state:
        st.session_state["pg_text"] = texts.get(chosen, "")
    pairs = come_in_pairs(recorded)
    text = left.text_area(
        "Text",
        key="pg_text",
        height=96,
        on_change=take_text,
        persist_state="session",
        placeholder="Type a text and press Ctrl+Enter",
        help="Kept in this browser session only." + (f" “{BAR.strip()}” separates the two texts of a pair." if pairs else ""),
    )
    task = None
    tasks = next((side.tasks() for side in sides if takes_task(side.run)), [])
    if tasks:
        url_state.drop_unavailable("pg_task", tasks)
        about = "For models that are given the task of every text."
        task = right.selectbox("Task of the text", tasks, key="pg_task", bind="query-params", help=about)
    answer = examples[chosen] if texts.get(chosen) == text else None
    return replace(Question.read(text, pairs), task=task, recorded=answer)


def compared_with(run: Run, after: int, runs: dict[str, Run], recorded: dict[str, list[Answer]]) -> Side | None:
    """The model, or text, that the original is compared with, if any."""
    kinds = [NOTHING, CHANGED, *([MOMENT] if len(run.kept()) > 1 else []), *([RUN] if len(runs) > 1 else []), TEXT]
    url_state.drop_unavailable("pg_beside", kinds)
    kind = st.radio("Compare with", kinds, key="pg_beside", bind="query-params")
    if kind == CHANGED:
        return Side(CHANGED, run, after, changes(run, after), "With changed routing the answer is")
    if kind == MOMENT:
        other_moment = next(k for k in run.kept() if k != after)
        numbers = [str(k + 1) for k in run.kept()]
        url_state.set_default("pg_moment", numbers, str(other_moment + 1))
        chosen = st.select_slider("After task", numbers, key="pg_moment", bind="query-params")
        return Side(f"after task {chosen}", run, int(chosen) - 1, lead=f"After task {chosen} the answer was")
    if kind == RUN:
        others = {key: other for key, other in runs.items() if other.dir != run.dir and other.kept()}
        if not others:
            st.info("No other run here has kept its weights. Train one, and it is offered here.")
            return None
        other = run_picker.pick_run("Other run", "pg_other", others, next(iter(others)))
        lead = f"In run {layout.plain(other.title)} the answer is"
        return Side(other.title, other, min(after, other.kept()[-1]), lead=lead)
    if kind == TEXT:
        return Side("the other text", run, after, lead="For the other text it is", other=other_text(recorded))
    return None


def other_text(recorded: dict[str, list[Answer]]) -> Question:
    """The second text; at first an example of the last task."""
    if "pg_other_text" not in st.session_state:
        last = [answers for answers in recorded.values() if answers]
        st.session_state["pg_other_text"] = last[-1][-1].text if last else ""
    text = st.text_area("Other text", key="pg_other_text", height=120, persist_state="session")
    return Question.read(text, come_in_pairs(recorded))


def changes(run: Run, after: int) -> tuple[tuple[str, Any], ...]:
    """Fields of an Override from the widgets; empty where nothing is changed."""
    routing = run.routing(after) if after in run.recorded() else None
    experts = routing.experts if routing else run.tasks[: after + 1]
    heads = run.config.get("router", {}).get("heads", 1)
    numbers = [str(h + 1) for h in range(heads)]
    url_state.drop_unavailable("pg_expert", experts)
    url_state.drop_unavailable("pg_off", numbers)
    change: dict[str, Any] = {}
    how = st.radio("Weights", [ROUTED, ONE, EQUAL], key="pg_route", bind="query-params")
    if how == ONE:
        change["expert"] = experts.index(st.selectbox("Expert", experts, key="pg_expert", bind="query-params"))
    elif how == EQUAL:
        change["uniform"] = True
    else:
        about = "Below 1 the largest weights grow; above 1 the weights become more equal. For a softmax it is the temperature."
        temperature = st.select_slider("Temperature", TEMPERATURES, 1.0, key="pg_temperature", bind="query-params", help=about)
        change |= {"temperature": temperature} if temperature != 1 else {}
        if len(experts) > 1:
            counts = [ALL, *(str(k) for k in range(1, len(experts)))]
            url_state.drop_unavailable("pg_top", counts)
            top = st.select_slider("Keep the largest", counts, ALL, key="pg_top", bind="query-params")
            change |= {"top": int(top)} if top != ALL else {}
    off = (
        st.multiselect(
            "Switch off routing heads",
            numbers,
            key="pg_off",
            bind="query-params",
            placeholder="none",
            help="In every layer, their blocks of features are then those of the frozen backbone.",
        )
        if heads > 1
        else []
    )
    change |= {"without": tuple(int(number) - 1 for number in off)} if off else {}
    others = [name for k, name in enumerate(experts) if k != change.get("expert")]
    url_state.drop_unavailable("pg_pruned", others)
    if len(experts) > 1:
        pruned = st.multiselect(
            "Take out experts",
            others,
            key="pg_pruned",
            bind="query-params",
            max_selections=len(experts) - 1,
            placeholder="none",
            help="They do not act; the others get their weight in proportion.",
        )
        change |= {"pruned": tuple(experts.index(name) for name in pruned)} if pruned else {}
    st.button("Reset", icon=":material/restart_alt:", on_click=reset, key="pg_reset", width="stretch")
    return tuple(change.items())


def reset() -> None:
    """Undo all changes of the routing."""
    for key, value in UNCHANGED.items():
        st.session_state[key] = value
