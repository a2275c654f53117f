"""Playground: type a text, see the answer of a run's model and its routing, change the routing and compare.

Recorded examples are shown with their recorded answers. For every other text, and for every change, the model is loaded: only
then does this page load torch.
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
NONE, CHANGED, MOMENT, RUN = "none", "changed routing", "another moment", "another run"
ROUTED, ONE, EQUAL, ALL = "as routed", "one expert", "equal weights", "all"
TEMPERATURES = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
LONGEST = 4000  # characters of a text
BAR = " | "  # separates the two texts of a pair
UNCHANGED = {"pg_route": ROUTED, "pg_temperature": 1.0, "pg_top": ALL, "pg_off": [], "pg_pruned": []}
SCORES = {"exact_match": "exact match", "rouge_l": "ROUGE-L"}


@dataclass(frozen=True)
class Side:
    """One model to answer: a run after task `after` (0-based), with fields of an Override (`change`).

    `lead` begins the sentence on its answer where it is compared with the original.
    """

    name: str
    run: Run
    after: int
    change: tuple[tuple[str, Any], ...] = ()
    lead: str = ""

    def tasks(self) -> list[str]:
        """The tasks it had learned by then, in its own order."""
        return self.run.tasks[: self.after + 1]

    def task(self, name: str | None) -> int | None:
        """The index that a task has here, if this model is given the task; LabError where it has not learned the task."""
        if name is None or not takes_task(self.run):
            return None
        if name not in self.tasks():
            raise LabError(
                f"run '{self.run.id}' has not learned task '{name}' at that moment: choose one of {', '.join(self.tasks())}"
            )
        return self.tasks().index(name)

    def options(self, question: "Question") -> dict[str, Any]:
        """What the model is told beside the text: the task, the second text of a pair, the right answer of what it writes."""
        recorded = question.recorded
        right = [recorded.label] if self.run.writes and recorded and recorded.label else None
        options = {"task": self.task(question.task), "pair": question.pair, "right": right}
        return {name: value for name, value in options.items() if value is not None}

    def python(self, question: "Question") -> str:
        """The expression that computes its answer."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.change)
        arguments = [repr(question.text), *([f"lab.Override({fields})"] if fields else [])]
        arguments += [f"{name}={value!r}" for name, value in self.options(question).items()]
        return f"lab.load({code_snippets.open_expression(self.run)}, {self.after}).answer({', '.join(arguments)})"


@dataclass(frozen=True)
class Question:
    """A text (and the second text of a pair), the task for models that are given it, and the recorded answer of an example."""

    text: str
    pair: str | None
    task: str | None
    recorded: Answer | None


def ask(side: Side, question: Question) -> Answer:
    """The answer of one model, computed now."""
    model, lock = loaded_models.loaded(side.run, side.after)
    from lab.inference.override import Override  # after the model: loading takes time, and only the line above shows that

    with lock:
        return model.answer(question.text, Override(**dict(side.change)), **side.options(question))


# -- the question ----------------------------------------------------------------------------------------------------------


def recorded_answers(run: Run, after: int) -> dict[str, list[Answer]]:
    """The recorded answers of a moment by the name of their task."""
    if after not in run.recorded():
        return {}
    routing = run.routing(after)
    return {name: kept(run, after, t) for t, name in enumerate(routing.tasks) if f"{t}/rows" in routing.arrays}


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
        help="Test examples that the run recorded. Their answers are shown without loading the model.",
    )
    if "pg_text" not in st.session_state:
        st.session_state["pg_text"] = texts.get(chosen, "")
    pairs = any(answers and all(BAR in answer.text for answer in answers) for answers in recorded.values())
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
    first, bar, second = text.partition(BAR)
    answer = examples[chosen] if texts.get(chosen) == text else None
    return Question(first, second, task, answer) if pairs and bar else Question(text, None, task, answer)


def takes_task(run: Run) -> bool:
    """Whether the model of a run may need the task of a text; not known before the run is finished, so True until then."""
    uses = run.info.get("uses")
    return run.config["scenario"] == "task" or uses is None or bool(uses.get("task_id"))


# -- what it is compared with ------------------------------------------------------------------------------------------------


def compared_with(run: Run, after: int, runs: dict[str, Run]) -> Side | None:
    """The model that the original is compared with, if any."""
    kinds = [NONE, CHANGED, *([MOMENT] if len(run.kept()) > 1 else []), *([RUN] if len(runs) > 1 else [])]
    url_state.drop_unavailable("pg_beside", kinds)
    kind = st.segmented_control(
        "Compare with",
        kinds,
        default=NONE,
        key="pg_beside",
        bind="query-params",
        required=True,
        help="The second answer stands beside the original one.",
    )
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
            st.info("No other run here has kept its weights.")
            return None
        other = run_picker.pick_run("Other run", "pg_other", others, next(iter(others)))
        lead = f"In run {layout.plain(other.title)} the answer is"
        return Side(other.title, other, min(after, other.kept()[-1]), lead=lead)
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
    change: dict[str, Any] = {}
    with first:
        kinds = [ROUTED, ONE, EQUAL]
        how = st.radio("Weights", kinds, key="pg_route", bind="query-params")  # a row of buttons is cut off where it is narrow
        if how == ONE:
            change["expert"] = experts.index(st.selectbox("Expert", experts, key="pg_expert", bind="query-params"))
        elif how == EQUAL:
            change["uniform"] = True
    with second:
        if how == ROUTED:
            about = (
                "Below 1 the largest weights grow; above 1 the weights become more equal. For a softmax it is the temperature."
            )
            temperature = st.select_slider(
                "Temperature", TEMPERATURES, 1.0, key="pg_temperature", bind="query-params", help=about
            )
            change |= {"temperature": temperature} if temperature != 1 else {}
            if len(experts) > 1:
                counts = [ALL, *(str(k) for k in range(1, len(experts)))]
                url_state.drop_unavailable("pg_top", counts)
                top = st.select_slider("Keep the largest", counts, ALL, key="pg_top", bind="query-params")
                change |= {"top": int(top)} if top != ALL else {}
        off = st.multiselect(
            "Switch off routing heads",
            numbers,
            key="pg_off",
            bind="query-params",
            placeholder="none",
            help="In every layer, their blocks of features are then those of the frozen backbone.",
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
    with third:
        st.space("small")
        st.button("Reset", icon=":material/restart_alt:", on_click=reset, key="pg_reset", width="stretch")
    return tuple(change.items())


def reset() -> None:
    """Undo all changes of the routing."""
    for key, value in UNCHANGED.items():
        st.session_state[key] = value


# -- the answer ------------------------------------------------------------------------------------------------------------


def sentence(answers: dict[str, Answer], lead: str) -> str:
    """The prediction in words; `lead` begins the clause on the second answer."""
    original, *others = answers.values()
    probability = float(original.probabilities.max())
    text = named(original)
    if probability == probability:
        text += f" with probability {share(probability)}"
    if original.label is not None:
        kind = "right answer" if original.writes else "true class"
        text += f"; the {kind} is **{layout.plain(original.label)}**"
    for other in others:
        same = other.prediction == original.prediction
        text += f". {lead} {'the same' if same else named(other)}, with probability {share(float(other.probabilities.max()))}"
    return text


def named(answer: Answer) -> str:
    """A prediction in bold; of a model that wrote nothing, that it did so."""
    return f"**{layout.plain(answer.prediction)}**" if answer.prediction.strip() else "an empty text"


def share(probability: float) -> str:
    """A probability in two digits, which that of a long text seldom reaches."""
    return f"{probability:.2f}" if probability >= 0.005 else "below 0.01"


def show(answers: dict[str, Answer], code: str, lead: str = "") -> None:
    """Prediction and routing of one or two answers."""
    st.markdown(f"#### {sentence(answers, lead)}")
    if any(answer.cut for answer in answers.values()):
        st.caption(":material/content_cut: The text is longer than this model can read: only its beginning is used.")
    scores(answers)
    chosen = {name: answer for name, answer in answers.items() if not answer.writes}
    if chosen:
        classes(chosen, code)
    said(answers, code)
    routed = {name: answer for name, answer in answers.items() if len(answer.experts) > 1}
    if not routed:
        st.info("This model has one expert for all tasks, so there is no routing to show.")
        return
    st.subheader("Which expert is chosen", anchor=False)
    said_once(routed)
    head = which_head(max(answer.weights.shape[1] for answer in routed.values()))
    most = max(1.0, *(float(answer.weights.max()) for answer in routed.values()))
    left, right = st.columns(2, gap="large")
    for index, (column, (name, answer)) in enumerate(zip((left, right), routed.items(), strict=False)):
        with column:
            by_layer(answer, name, head, index, most, code)
    first, *others = routed.items()
    for other in others:
        left, right = st.columns(2, gap="large")
        with left:
            difference(first, other, code)
    with right:
        decision(*(others or [first])[-1], code)
    by_token(routed, code)
    by_said_token({name: answer for name, answer in routed.items() if answer.decides_per_token}, code)


def scores(answers: dict[str, Answer]) -> None:
    """How good a text is that a model wrote, where a right answer is known; where none is recorded, why there is less to see."""
    judged = {name: answer for name, answer in answers.items() if answer.scores}
    for name, answer in judged.items():
        values = {SCORES[score]: value for score, value in answer.scores.items()}
        texts = [f"{title} {layout.number(value, '{:.2f}')}" for title, value in values.items()]
        st.caption(f"{layout.plain(name)}: {', '.join(texts)}")
    unfinished = [name for name, answer in answers.items() if not answer.ended]
    if unfinished:
        cut = "the answer stops at the largest number of tokens that the run allows, before the model ended it."
        st.caption(f":material/content_cut: {layout.plain(', '.join(unfinished))}: {cut}")
    if any(answer.writes and not answer.said for answer in answers.values()):
        st.caption("Of this answer the text alone is recorded. Change the text to see the probability and routing of each token.")


def classes(answers: dict[str, Answer], code: str) -> None:
    """The likeliest classes."""
    if all(len(answer.classes) == 1 for answer in answers.values()):
        st.caption(
            "Only the predicted class of this answer is recorded. Change the text to see the probabilities of all classes."
        )
        return
    predictions = "; ".join(f"{name}: {answer.prediction}" for name, answer in answers.items())
    chart_card.card(
        figures.answer_probabilities,
        answers,
        key="pg_classes",
        alt=f"Probabilities of the likeliest classes. {predictions}",
        table=lambda answers: pd.DataFrame({name: answer.ranked() for name, answer in answers.items()}),
        python=f"{code}\nlab.figures.answer_probabilities(answers)",
        read="The likeliest of all classes that the model has learned at that moment.",
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
        st.caption("The two models have different experts, so their weights cannot be subtracted.")
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


def by_layer(answer: Answer, name: str, head: int | None, index: int, most: float, code: str) -> None:
    """Weights of one answer in all layers, on the range (0 to `most`) that it shares with the answer beside it."""
    head = None if head is None or head >= answer.weights.shape[1] else head
    shares = answer.by_expert().sort_values(ascending=False)
    top = ", ".join(f"{layout.plain(expert)} {share:.0%}" for expert, share in shares.head(3).items())
    st.markdown(f"**{layout.plain(name)}**  \n{top}")
    chart_card.card(
        figures.answer_by_layer,
        answer,
        head,
        key=f"pg_layers_{index}",
        alt=f"Weights by layer and expert, {name}: {top}",
        table=lambda answer, head: answer.by_layer(head),
        read="The first layer is on top.",
        most=most,
        python=f"{code}\nlab.figures.answer_by_layer(answers[{name!r}], {head}, most={most:g})",
    )


def by_token(routed: dict[str, Answer], code: str) -> None:
    """Weights at each token, for routers that decide per token."""
    per_token = {name: answer for name, answer in routed.items() if answer.token_weights is not None}
    if not per_token:
        return
    st.subheader("The text, token by token", anchor=False)
    for index, (column, (name, answer)) in enumerate(zip(st.columns(2, gap="large"), per_token.items(), strict=False)):
        with column:
            st.markdown(f"**{layout.plain(name)}**")
            chart_card.card(
                figures.answer_by_token,
                answer,
                key=f"pg_tokens_{index}",
                alt=f"Weights at each token, {name}",
                table=lambda answer: answer.by_token(),
                python=f"{code}\nlab.figures.answer_by_token(answers[{name!r}])",
                read="This router decides for each token separately. Mean over layers and routing heads.",
            )


def said(answers: dict[str, Answer], code: str) -> None:
    """What language models said, token by token: probabilities, and the routing of each where the router decides at each."""
    speaking = {name: answer for name, answer in answers.items() if answer.said}
    if not speaking:
        return
    st.subheader("The answer, token by token", anchor=False)
    for index, (column, (name, answer)) in enumerate(zip(st.columns(2, gap="large"), speaking.items(), strict=False)):
        with column:
            of = "" if answer.writes else ", the words of the likeliest label"
            st.markdown(f"**{layout.plain(name)}**{of}")
            chart_card.card(
                figures.answer_tokens,
                answer,
                key=f"pg_said_{index}",
                alt=f"Probability of each token, {name}: {' '.join(token.text for token in answer.said)}",
                table=lambda answer: answer.by_said_token(),
                colour=figures.ANSWER_COLOURS[index],
                python=f"{code}\nlab.figures.answer_tokens(answers[{name!r}], {figures.ANSWER_COLOURS[index]!r})",
                read="The probability of each token after the text and the tokens above it.",
            )


def said_once(answers: dict[str, Answer]) -> None:
    """Say which decisions hold for a whole answer, and which are shown for the text alone here."""
    speaking = {name: answer for name, answer in answers.items() if answer.said}
    once = "the router decides once, from the text, and these weights act at every token of the answer."
    anew = "the router decides anew at every token, see below; these weights are means over the tokens of the text."
    for about, per_token in ((once, False), (anew, True)):
        names = [name for name, answer in speaking.items() if answer.decides_per_token is per_token]
        if names:
            st.caption(f"{layout.plain(', '.join(names))}: {about}")


def by_said_token(answers: dict[str, Answer], code: str) -> None:
    """Weights of the passes that gave the tokens of answers: all tokens, and for one of them all layers."""
    if not answers:
        return
    st.subheader("The answer, routed token by token", anchor=False)
    for index, (column, (name, answer)) in enumerate(zip(st.columns(2, gap="large"), answers.items(), strict=False)):
        with column:
            st.markdown(f"**{layout.plain(name)}**")
            chart_card.card(
                figures.answer_by_said_token,
                answer,
                key=f"pg_said_weights_{index}",
                alt=f"Weights at each token of the answer, {name}",
                table=lambda answer: answer.by_said_token(),
                python=f"{code}\nlab.figures.answer_by_said_token(answers[{name!r}])",
                read="This router decides anew at every token; the weights are those under which the token was given. Mean over "
                "layers and routing heads.",
            )
    places = [str(place + 1) for place in range(max(len(answer.said) for answer in answers.values()))]
    url_state.drop_unavailable("pg_place", places)
    place = int(st.selectbox("Token of the answer", places, key="pg_place", bind="query-params", width=200)) - 1
    for index, (column, (name, answer)) in enumerate(zip(st.columns(2, gap="large"), answers.items(), strict=False)):
        with column:
            if place >= len(answer.said):
                st.caption(f"{layout.plain(name)} has {len(answer.said)} tokens.")
                continue
            st.markdown(f"**{layout.plain(name)}: token {place + 1}, {layout.plain(answer.said[place].text)}**")
            chart_card.card(
                figures.answer_by_layer,
                answer.at(place),
                key=f"pg_said_layers_{index}",
                alt=f"Weights by layer and expert at token {place + 1} of the answer, {name}",
                table=lambda answer: answer.by_layer(),
                python=f"{code}\nlab.figures.answer_by_layer(answers[{name!r}].at({place}))",
                read="The first layer is on top. Mean over routing heads.",
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
        table=lambda answer, layer, head: answer.decision(layer, head),
        python=f"{code}\nlab.figures.answer_decision(answers[{name!r}], {layer}, {head})",
        read=(f"{' → '.join(table.columns)}. The last column is" if len(table.columns) > 1 else "This is")
        + " what each expert's output is multiplied by.",
    )


# -- the page --------------------------------------------------------------------------------------------------------------


def draw() -> None:
    layout.heading("Playground", "Type a text, see which experts are chosen for it, and change the routing.")
    streams = run_picker.choices(lambda run: run.protocol.continual)
    runs = {key: run for key, run in streams.items() if run.kept() or run.recorded()}
    if not runs:
        run_picker.no_runs("No run here has learned a task yet.")
        return
    routed = [key for key, run in runs.items() if (run.info.get("routing") or {}).get("own_expert_share") is not None]
    live = sorted((key for key in routed or runs if runs[key].kept()), key=lambda key: takes_task(runs[key]))
    left, right = st.columns(2, gap="large")
    with left:
        run = run_picker.pick_run("Run", "pg_run", runs, (live or routed or list(runs))[0])
    with right:
        after = run_picker.pick_moment(run, run.kept() or run.recorded(), "pg_after", "The model as it was at this moment.")
    with layout.section():
        recorded = recorded_answers(run, after)
        box = st.container()  # above the choice of the second model, which decides whether a task is needed
        other = compared_with(run, after, runs) if run.kept() else None
        original = Side(ORIGINAL, run, after)
        sides = [original] if other is None else [original, other]
        with box:
            question = prompt(sides, recorded)
        respond(sides, question, recorded)


def respond(sides: list[Side], question: Question, recorded: dict[str, list[Answer]]) -> None:
    """Show the answers of all models, or why there is none."""
    text = question.text if question.pair is None else f"{question.text}{BAR}{question.pair}"
    if not text.strip():
        st.info("Type a text above, or choose an example.", icon=":material/edit:")
    elif len(text) > LONGEST:  # not max_chars: the box would cut a pasted text silently
        st.error(f"This text has {len(text):,} characters; at most {LONGEST:,} are allowed. Shorten it.")
    elif question.recorded is not None and len(sides) == 1:
        show_recorded(sides[0], question.recorded, recorded)
    elif not sides[0].run.kept():
        st.info(
            "This run is here without its weights, so only its recorded examples can be shown: choose one above. For texts of "
            f"your own, choose a run that was trained here, or train one: `lab run l2r{code_snippets.runs_option()}`",
            icon=":material/inventory_2:",
        )
    else:
        show_computed(sides, question)


def show_recorded(side: Side, answer: Answer, recorded: dict[str, list[Answer]]) -> None:
    """A recorded answer; no model is loaded."""
    st.badge("recorded", icon=":material/history:", color="gray", help="Read from the run folder; no model is loaded.")
    task, answers = next((task, answers) for task, answers in enumerate(recorded.values()) if answer in answers)
    expression = f"kept({code_snippets.open_expression(side.run)}, {side.after}, {task})[{answers.index(answer)}]"
    code = f"import lab\nfrom lab.run_folder.prediction import kept\n\nanswers = {{{ORIGINAL!r}: {expression}}}"
    show({ORIGINAL: answer}, code)


def show_computed(sides: list[Side], question: Question) -> None:
    """The answers of the models, or the reason why one of them cannot answer."""
    try:
        answers = {side.name: ask(side, question) for side in sides}
    except (LabError, OSError, RuntimeError) as error:
        st.error(layout.plain(str(error).split("\n")[0]), title="The model cannot answer")
        return
    listed = "".join(f"    {side.name!r}: {side.python(question)},\n" for side in sides)
    code = f"import lab\n\nanswers = {{\n{listed}}}"
    show(answers, code, sides[-1].lead)


draw()
