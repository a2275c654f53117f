"""Playground: type a text, see what the model of a run answers and how it is routed, change the routing and look again.

Texts that the run kept are shown as they were recorded. For every other text, and for every change, the model is loaded: only
then does this page import torch.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from lab import figures, views
from lab.core.errors import LabError
from lab.pages import chart_card, code_snippets, layout, loaded_models, run_picker, url_state
from lab.run_folder.prediction import Answer, kept
from lab.run_folder.run import Run

TYPED, ORIGINAL = "(typed)", "the original"
NOTHING, CHANGED, MOMENT, RUN = "nothing", "changed routing", "another moment", "another run"
ROUTED, ONE, EQUAL, ALL = "as routed", "one expert", "equal weights", "all"
TEMPERATURES = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
LONGEST = 4000  # characters of a text
BAR = " | "  # stands between the two texts of a pair
UNCHANGED = {"pg_route": ROUTED, "pg_temperature": 1.0, "pg_top": ALL, "pg_off": []}


@dataclass(frozen=True)
class Side:
    """Whom to ask: a run at a moment, with fields of an Override."""

    name: str
    run: Run
    after: int
    change: tuple[tuple[str, Any], ...] = ()

    def tasks(self) -> list[str]:
        """What it had learned by then, in its own order."""
        return self.run.tasks[: self.after + 1]

    def task(self, name: str | None) -> int | None:
        """The number that a task has here, if this side is told it; LabError where it was not learned."""
        if name is None or not told(self.run):
            return None
        if name not in self.tasks():
            raise LabError(f"run '{self.run.id}' had not learned task '{name}' by then: tell one of {', '.join(self.tasks())}")
        return self.tasks().index(name)

    def python(self, asked: "Asked") -> str:
        """The expression that asks it."""
        made = ", ".join(f"{name}={value!r}" for name, value in self.change)
        given = {"task": self.task(asked.task), "pair": asked.pair}
        more = (f", Override({made})" if made else "") + "".join(f", {k}={v!r}" for k, v in given.items() if v is not None)
        return f"load({code_snippets.open_expression(self.run)}, {self.after}).answer({asked.text!r}{more})"


@dataclass(frozen=True)
class Asked:
    """What is asked: a text, the name of the task for models that are told it, and the kept answer of a recorded example."""

    text: str
    pair: str | None
    task: str | None
    known: Answer | None


def ask(side: Side, asked: Asked) -> Answer:
    """The live answer of one side."""
    model, turn = loaded_models.loaded(side.run, side.after)
    from lab.analysis.inference import Override  # not before: it takes its time, and only the line above says so

    with turn:
        return model.answer(asked.text, Override(**dict(side.change)), task=side.task(asked.task), pair=asked.pair)


# -- the question ----------------------------------------------------------------------------------------------------------


def presets(run: Run, after: int) -> dict[str, list[Answer]]:
    """Kept answers by the name of their task."""
    if after not in run.recorded():
        return {}
    routing = run.routing(after)
    return {name: kept(run, after, t) for t, name in enumerate(routing.tasks) if f"{t}/rows" in routing.arrays}


def prompt(sides: list[Side], answers: dict[str, list[Answer]]) -> Asked:
    """The text box and what fills it, and the task if one of the sides is told it."""
    examples = {f"{name} {i + 1}": one for name, found in answers.items() for i, one in enumerate(found)}
    texts = {name: one.text for name, one in examples.items()}
    options = [*texts, TYPED]

    def take_preset() -> None:
        st.session_state["pg_text"] = texts.get(st.session_state["pg_example"], st.session_state.get("pg_text", ""))

    def take_text() -> None:
        written = st.session_state["pg_text"]
        st.session_state["pg_example"] = next((name for name, text in texts.items() if text == written), TYPED)

    before = st.session_state.get("pg_text")
    same = [name for name, text in texts.items() if text == before]
    url_state.set_default("pg_example", options, same[0] if same else TYPED if before else options[0])
    left, right = st.columns([3, 1])
    chosen = right.selectbox(
        "Example",
        options,
        key="pg_example",
        bind="query-params",
        on_change=take_preset,
        help="Test examples that the run kept whole. Their recorded answers are shown without loading the model.",
    )
    if "pg_text" not in st.session_state:
        st.session_state["pg_text"] = texts.get(chosen, "")
    pairs = [name for name, found in answers.items() if found and all(BAR in one.text for one in found)]
    text = left.text_area(
        "Text",
        key="pg_text",
        height=96,
        on_change=take_text,
        persist_state="session",
        placeholder="Type a text and press Ctrl+Enter",
        help="Stays in this browser session." + (f" “{BAR.strip()}” stands between the two texts of a pair." if pairs else ""),
    )
    task = None
    tasks = next((side.tasks() for side in sides if told(side.run)), [])
    if tasks:
        url_state.drop_unavailable("pg_task", tasks)
        about = "Given to models that are told the task of every text."
        task = right.selectbox("Task that is told", tasks, key="pg_task", bind="query-params", help=about)
    first, bar, second = text.partition(BAR)
    known = examples[chosen] if texts.get(chosen) == text else None
    return Asked(first, second, task, known) if pairs and bar else Asked(text, None, task, known)


def told(run: Run) -> bool:
    """Whether the model of a run may need to be told the task; not known before the run is finished."""
    uses = run.info.get("uses")
    return run.config["scenario"] == "task" or uses is None or bool(uses.get("task_id"))


# -- what stands beside it ---------------------------------------------------------------------------------------------------


def beside(run: Run, after: int, found: dict[str, Run]) -> Side | None:
    """The other side, if one is wanted."""
    kinds = [NOTHING, CHANGED, *([MOMENT] if len(run.kept()) > 1 else []), *([RUN] if len(found) > 1 else [])]
    url_state.drop_unavailable("pg_beside", kinds)
    kind = st.segmented_control(
        "Put beside it",
        kinds,
        default=NOTHING,
        key="pg_beside",
        bind="query-params",
        required=True,
        help="The original stays where it is, so that the difference can be seen.",
    )
    if kind == CHANGED:
        return Side(CHANGED, run, after, changes(run, after))
    if kind == MOMENT:
        first = next(k for k in run.kept() if k != after)
        url_state.set_default("pg_moment", [str(k + 1) for k in run.kept()], str(first + 1))
        chosen = st.select_slider("After task", [str(k + 1) for k in run.kept()], key="pg_moment", bind="query-params")
        return Side(f"after task {chosen}", run, int(chosen) - 1)
    if kind == RUN:
        others = {key: other for key, other in found.items() if other.dir != run.dir and other.kept()}
        if not others:
            st.info("No other run here has kept its weights.")
            return None
        other = run_picker.pick_run("Other run", "pg_other", others, next(iter(others)))
        return Side(other.id, other, min(after, other.kept()[-1]))
    return None


def changes(run: Run, after: int) -> tuple[tuple[str, Any], ...]:
    """Fields of an Override from the widgets; empty where nothing is changed."""
    routing = run.routing(after) if after in run.recorded() else None
    experts = routing.experts if routing else run.tasks[: after + 1]
    heads = run.config.get("router", {}).get("heads", 1)
    numbers = [str(h + 1) for h in range(heads)]
    url_state.drop_unavailable("pg_expert", experts)
    url_state.drop_unavailable("pg_off", numbers)
    first, second, third = st.columns([2, 2, 1], gap="medium")
    found: dict[str, Any] = {}
    with first:
        kinds = [ROUTED, ONE, EQUAL]
        how = st.radio("Weights", kinds, key="pg_route", bind="query-params")  # a row of buttons is cut off where it is narrow
        if how == ONE:
            found["expert"] = experts.index(st.selectbox("Only this expert", experts, key="pg_expert", bind="query-params"))
        elif how == EQUAL:
            found["uniform"] = True
    with second:
        if how == ROUTED:
            about = "Below 1 the largest weights grow, above 1 all become equal. Of a softmax it is its temperature."
            warm = st.select_slider("Temperature", TEMPERATURES, 1.0, key="pg_temperature", bind="query-params", help=about)
            found |= {"temperature": warm} if warm != 1 else {}
            if len(experts) > 1:
                most = [ALL, *(str(k) for k in range(1, len(experts)))]
                url_state.drop_unavailable("pg_top", most)
                top = st.select_slider("Keep the largest", most, ALL, key="pg_top", bind="query-params")
                found |= {"top": int(top)} if top != ALL else {}
        off = st.multiselect(
            "Switch off routing heads",
            numbers,
            key="pg_off",
            bind="query-params",
            placeholder="none",
            help="Their blocks of features are then those of the frozen backbone, in every layer.",
        )
        found |= {"without": tuple(int(number) - 1 for number in off)} if off else {}
    with third:
        st.space("small")
        st.button("Reset", icon=":material/restart_alt:", on_click=reset, key="pg_reset", width="stretch")
    return tuple(found.items())


def reset() -> None:
    for key, value in UNCHANGED.items():
        st.session_state[key] = value


# -- the answer ------------------------------------------------------------------------------------------------------------


def sentence(answers: dict[str, Answer]) -> str:
    """What came out, in words."""
    said = [(answer.prediction, float(answer.probabilities.max())) for answer in answers.values()]
    first = f"**{layout.plain(said[0][0])}**" + ("" if said[0][1] != said[0][1] else f" with probability {said[0][1]:.2f}")
    label = next(iter(answers.values())).label
    if label is not None:
        first += f"; the true class is **{layout.plain(label)}**"
    if len(said) == 1:
        return first
    name, second = layout.plain([*answers][1]), said[1]
    verb = "the answer stays" if second[0] == said[0][0] else "the answer becomes"
    return f"{first}. With {name}, {verb} **{layout.plain(second[0])}** with probability {second[1]:.2f}"


def show(answers: dict[str, Answer], code: str) -> None:
    """Prediction and routing of one or two answers."""
    st.markdown(f"#### {sentence(answers)}")
    if any(answer.cut for answer in answers.values()):
        st.caption(":material/content_cut: The text is longer than this model reads: only its beginning counts.")
    classes(answers, code)
    routed = {name: answer for name, answer in answers.items() if len(answer.experts) > 1}
    if not routed:
        st.info("This model has one expert for everything: there is no routing to show.")
        return
    st.subheader("Which expert answers", anchor=False)
    head = which_head(max(answer.weights.shape[1] for answer in routed.values()))
    most = max(1.0, *(float(answer.weights.max()) for answer in routed.values()))
    left, right = st.columns(2, gap="large")
    for place, (column, (name, answer)) in enumerate(zip((left, right), routed.items(), strict=False)):
        with column:
            by_layer(answer, name, head, place, most, code)
    if len(routed) == 2:
        left, right = st.columns(2, gap="large")
        with left:
            difference(*routed.items(), code)
    with right:
        decision(*[*routed.items()][-1], code)
    by_token(routed, code)


def classes(answers: dict[str, Answer], code: str) -> None:
    """The likeliest classes."""
    if all(len(answer.classes) == 1 for answer in answers.values()):
        st.caption("Of a recorded answer only the predicted class is kept: change the text, and the model is asked for all.")
        return
    said = "; ".join(f"{name}: {answer.prediction}" for name, answer in answers.items())
    chart_card.card(
        figures.answer_probabilities,
        answers,
        key="pg_classes",
        alt=f"Probabilities of the likeliest classes. {said}",
        table=lambda found: pd.DataFrame({name: one.ranked() for name, one in found.items()}),
        python=f"{code}\nlab.figures.answer_probabilities(answers)",
        read="All classes compete that the model had met by then; these are the likeliest.",
    )


def which_head(heads: int) -> int | None:
    """The routing head to look at; None: the mean over them."""
    if heads == 1:
        return None
    options = ["mean", *(str(h + 1) for h in range(heads))]
    url_state.drop_unavailable("pg_head", options)
    chosen = st.segmented_control("Routing head", options, default="mean", key="pg_head", bind="query-params", required=True)
    return None if chosen in (None, "mean") else int(chosen) - 1


def difference(first: tuple[str, Answer], second: tuple[str, Answer], code: str) -> None:
    """Weights of the second answer minus those of the first, where they can be compared."""
    (name, original), (other_name, other) = first, second
    st.markdown(f"**Difference: {layout.plain(other_name)} minus {layout.plain(name)}**")
    if (list(original.layers), list(original.experts)) != (list(other.layers), list(other.experts)):
        st.caption("These two have different experts, so there is no cell-by-cell difference.")
        return
    chart_card.card(
        figures.answer_change,
        other,
        original,
        key="pg_change",
        alt="Change of the weights by layer and expert",
        table=lambda a, b: a.by_layer() - b.by_layer(),
        python=f"{code}\noriginal, other = answers.values()\nlab.figures.answer_change(other, original)",
        read="Purple: more weight than in the original. Orange: less. Mean over routing heads.",
    )


def by_layer(answer: Answer, name: str, head: int | None, place: int, most: float, code: str) -> None:
    """Weights of one answer in all layers, on the range that it shares with the answer beside it."""
    head = None if head is None or head >= answer.weights.shape[1] else head
    shares = answer.by_expert().sort_values(ascending=False)
    top = ", ".join(f"{layout.plain(expert)} {share:.0%}" for expert, share in shares.head(3).items())
    st.markdown(f"**{layout.plain(name)}**  \n{top}")
    chart_card.card(
        figures.answer_by_layer,
        answer,
        head,
        key=f"pg_layers_{place}",
        alt=f"Weights by layer and expert, {name}: {top}",
        table=lambda one, h: one.by_layer(h),
        read="Input side on top.",
        most=most,
        python=f"{code}\nlab.figures.answer_by_layer(answers[{name!r}], {head}, most={most:g})",
    )


def by_token(routed: dict[str, Answer], code: str) -> None:
    """Weights at each token, for routers that decide there."""
    found = {name: answer for name, answer in routed.items() if answer.token_weights is not None}
    if not found:
        return
    st.subheader("Token by token", anchor=False)
    for place, (column, (name, answer)) in enumerate(zip(st.columns(2, gap="large"), found.items(), strict=False)):
        with column:
            st.markdown(f"**{layout.plain(name)}**")
            chart_card.card(
                figures.answer_by_token,
                answer,
                key=f"pg_tokens_{place}",
                alt=f"Weights at each token, {name}",
                table=lambda one: one.by_token(),
                python=f"{code}\nlab.figures.answer_by_token(answers[{name!r}])",
                read="This router decides for each token anew. Mean over layers and routing heads.",
            )


def decision(name: str, answer: Answer, code: str) -> None:
    """One layer's decision step by step."""
    st.markdown(f"**One decision, step by step: {layout.plain(name)}**")
    layers = views.layer_names(answer.layers)
    url_state.drop_unavailable("pg_layer", layers)
    left, right = st.columns(2)
    layer = layers.index(left.selectbox("Layer", layers, key="pg_layer", bind="query-params"))
    heads = [str(h + 1) for h in range(answer.weights.shape[1])]
    url_state.drop_unavailable("pg_step_head", heads)
    head = 0 if len(heads) == 1 else heads.index(right.selectbox("Head", heads, key="pg_step_head", bind="query-params"))
    table = answer.decision(layer, head)
    chart_card.card(
        figures.answer_decision,
        answer,
        layer,
        head,
        key="pg_steps",
        alt=f"Steps of the decision of {name} at {layers[layer]}",
        table=lambda one, at, h: one.decision(at, h),
        python=f"{code}\nlab.figures.answer_decision(answers[{name!r}], {layer}, {head})",
        read=(f"{' → '.join(table.columns)}. The last column is" if len(table.columns) > 1 else "This is")
        + " what each expert's output is multiplied by.",
    )


# -- the page --------------------------------------------------------------------------------------------------------------


def draw() -> None:
    layout.heading("Playground", "Type a text, see who answers it, and interfere with the routing.")
    streams = run_picker.choices(lambda run: run.protocol.continual)
    found = {key: run for key, run in streams.items() if run.kept() or run.recorded()}
    if not found:
        return run_picker.no_runs("No run here has learned a task yet.")
    routed = [key for key, run in found.items() if (run.info.get("routing") or {}).get("own_expert_share") is not None]
    live = sorted((key for key in routed or found if found[key].kept()), key=lambda key: told(found[key]))
    left, right = st.columns(2, gap="large")
    with left:
        run = run_picker.pick_run("Run", "pg_run", found, (live or routed or list(found))[0])
    with right:
        after = run_picker.pick_moment(run, run.kept() or run.recorded(), "pg_after", "The model as it was at this moment.")
    with layout.section():
        answers = presets(run, after)
        question = st.container()  # above the choice of the other side, which decides whether a task is asked for
        other = beside(run, after, found) if run.kept() else None
        original = Side(ORIGINAL, run, after)
        sides = [original] if other is None else [original, other]
        with question:
            asked = prompt(sides, answers)
        respond(sides, asked, answers)


def respond(sides: list[Side], asked: Asked, answers: dict[str, list[Answer]]) -> None:
    """Ask all sides and show what they say, or why they cannot."""
    text = asked.text if asked.pair is None else f"{asked.text}{BAR}{asked.pair}"
    if not text.strip():
        return st.info("Type a text above, or take an example.", icon=":material/edit:")
    if len(text) > LONGEST:  # not max_chars: the box would drop what is pasted without a word
        return st.error(f"This text has {len(text):,} characters, at most {LONGEST:,} are answered. Shorten it.")
    run = sides[0].run
    known = asked.known
    if known is not None and len(sides) == 1:
        st.badge("recorded", icon=":material/history:", color="gray", help="From the run folder; no model is loaded for this.")
        task = next(t for t, found in enumerate(answers.values()) if known in found)
        place = f"kept({code_snippets.open_expression(run)}, {sides[0].after}, {task})[{[*answers.values()][task].index(known)}]"
        return show(
            {ORIGINAL: known}, f"import lab\nfrom lab.run_folder.prediction import kept\n\nanswers = {{{ORIGINAL!r}: {place}}}"
        )
    if not run.kept():
        return st.info(
            "This run is here without its weights, so only its recorded examples can be shown: take one above. For texts of your "
            f"own, choose a run that was trained here, or train one: `lab run l2r{code_snippets.runs_option()}`",
            icon=":material/inventory_2:",
        )
    try:
        said = {side.name: ask(side, asked) for side in sides}
    except (LabError, OSError, RuntimeError) as error:
        st.error(layout.plain(str(error).split("\n")[0]), title="The model cannot be asked")
        return None
    listed = "".join(f"    {side.name!r}: {side.python(asked)},\n" for side in sides)
    code = f"import lab\nfrom lab.analysis.inference import Override, load\n\nanswers = {{\n{listed}}}"
    return show(said, code)


draw()
