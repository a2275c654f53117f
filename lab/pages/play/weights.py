"""The routing behind answers: weights by layer, texts coloured by expert, one decision step by step, token by token."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lab import figures, views
from lab.pages import chart_card, layout, nearest, url_state
from lab.run_folder.prediction import Answer
from lab.run_folder.run import Run

STEPS, DIFFERENCE, TOKENS, WHY = "one decision", "difference", "token by token", "why this expert"
ALL_LAYERS = "all layers"
MANY = 16  # experts beyond which maps take the whole width, and legends name those alone that are seen


def side_by_side(answers: dict[str, Answer]) -> list[tuple[int, DeltaGenerator, str, Answer]]:
    """Of one or two answers the number, the column to draw it in, name and answer."""
    columns = st.columns(len(answers), gap="large")
    pairs = zip(columns, answers.items(), strict=True)
    return [(index, column, name, answer) for index, (column, (name, answer)) in enumerate(pairs)]


def by_layer(answers: dict[str, Answer], code: str) -> int | None:
    """Weights in all layers, on one range. Returns the routing head that is looked at; None: the mean over them."""
    head = which_head(max(answer.weights.shape[1] for answer in answers.values()))
    most = max(1.0, *(float(answer.weights.max()) for answer in answers.values()))
    for index, column, name, answer in side_by_side(answers):
        with column:
            own = head_of(answer, head)
            shares = answer.by_expert().sort_values(ascending=False)
            top = ", ".join(f"{layout.plain(expert)} {share:.0%}" for expert, share in shares.head(3).items())
            st.markdown(f"**Which expert is chosen{f': {layout.plain(name)}' if len(answers) > 1 else ''}**  \n{top}")
            chart_card.card(
                figures.answer_by_layer,
                answer,
                own,
                key=f"pg_layers_{index}",
                alt=f"Weights by layer and expert, {name}: {top}",
                table=lambda answer, head: answer.by_layer(head),
                read="The first layer is on top.",
                most=most,
                python=f"{code}\nlab.figures.answer_by_layer(answers[{name!r}], {own}, most={most:g})",
            )
    return head


def which_head(heads: int) -> int | None:
    """The routing head to look at; None: the mean over them."""
    if heads == 1:
        return None
    options = ["mean", *(str(h + 1) for h in range(heads))]
    url_state.drop_unavailable("pg_head", options)
    chosen = st.segmented_control("Routing head", options, default="mean", key="pg_head", bind="query-params", required=True)
    return None if chosen in (None, "mean") else int(chosen) - 1


def head_of(answer: Answer, head: int | None) -> int | None:
    """The head of an answer that has perhaps fewer of them."""
    return None if head is None or head >= answer.weights.shape[1] else head


def coloured(answers: dict[str, Answer], head: int | None, code: str) -> None:
    """Texts, and what was said, each token on the colour of its expert, layer by layer."""
    st.subheader("The text, coloured by expert", anchor=False)
    names = views.layer_names(next(iter(answers.values())).layers)
    url_state.drop_unavailable("pg_text_layer", [ALL_LAYERS, *names])
    box, legend = st.columns([1, 3], vertical_alignment="bottom")
    chosen = box.selectbox("Layer", [ALL_LAYERS, *names], key="pg_text_layer", bind="query-params")
    for experts in dict.fromkeys(tuple(answer.experts) for answer in answers.values()):
        of_these = [answer for answer in answers.values() if tuple(answer.experts) == experts]
        seen = {expert for answer in of_these for expert in figures.experts_seen(answer, head_of(answer, head))}
        legend.html(figures.expert_legend(experts, seen if len(experts) > MANY else ()))
    for _, column, name, answer in side_by_side(answers):
        with column:
            own = None if chosen == ALL_LAYERS or names.index(chosen) >= len(answer.layers) else [names.index(chosen)]
            of_answer = answer.decides_per_token
            if len(answers) > 1:
                st.markdown(f"**{layout.plain(name)}**")
            st.html(figures.coloured_text(answer, own, head_of(answer, head)))
            if of_answer:
                st.markdown("**Its answer**")
                st.html(figures.coloured_text(answer, own, head_of(answer, head), said=True))
            count = len(figures.layers_shown(len(answer.layers), len(answer.tokens) or 1))
            if own is None and count < len(answer.layers):
                st.caption(f"{count} of {len(answer.layers)} layers, evenly spaced; choose one to see it.")
    st.caption(" ".join(how_decided(answers)))
    chart_card.footer(
        "pg_coloured",
        "The letter and the colour name the expert with the largest weight; the stronger the colour, the larger its part. “=” is "
        "a tie. Point at a token to read the weights.",
        f"{code}\nlab.figures.coloured_text(answers[{next(iter(answers))!r}])  # HTML",
    )


def how_decided(answers: dict[str, Answer]) -> list[str]:
    """Which decisions hold for a whole text or answer, and which are made anew at each token, in a sentence each."""
    sentences = {
        "the router decides once for the whole text, so a layer has one colour.": [],
        "the router decides once, from the text, and these weights act at every token of the answer.": [],
        "the router decides for each token of the text.": [],
        "the router decides anew at every token, also of the answer.": [],
    }
    for name, answer in answers.items():
        per_token = answer.decides_per_token if answer.said else answer.token_weights is not None
        [*sentences.values()][2 * per_token + bool(answer.said)].append(name)
    return [f"{layout.plain(', '.join(names))}: {about}" for about, names in sentences.items() if names]


def more(answers: dict[str, Answer], code: str, run: Run, after: int) -> None:
    """One of the closer looks at the routing; the first answer is that of this run at this moment."""
    options = [STEPS, WHY]
    if len(answers) > 1:
        options.insert(0, DIFFERENCE)
    if any(answer.token_weights is not None or answer.decides_per_token for answer in answers.values()):
        options.append(TOKENS)
    url_state.drop_unavailable("pg_more", options)
    look = st.segmented_control("Look closer", options, default=options[0], key="pg_more", bind="query-params", required=True)
    if look == TOKENS:
        by_token(answers, code)
        by_said_token({name: answer for name, answer in answers.items() if answer.decides_per_token}, code)
    elif look == DIFFERENCE:
        difference(answers, code)
    elif look == WHY:
        nearest.table(run, after, next(iter(answers.values())), "pg_near")
    else:
        decision(answers, code)


def difference(answers: dict[str, Answer], code: str) -> None:
    """Weights of the second answer minus those of the first, where they can be compared."""
    (name, original), (other_name, other) = answers.items()
    if (list(original.layers), list(original.experts)) != (list(other.layers), list(other.experts)):
        st.caption("The two models have different experts, so their weights cannot be subtracted.")
        return
    st.markdown(f"**{layout.plain(other_name)} minus {layout.plain(name)}**")
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


def decision(answers: dict[str, Answer], code: str) -> None:
    """The decision of one layer step by step, of each answer."""
    first = next(iter(answers.values()))
    layers = views.layer_names(first.layers)
    url_state.drop_unavailable("pg_layer", layers)
    left, right, _ = st.columns([1, 1, 2])
    layer = layers.index(left.selectbox("Layer", layers, key="pg_layer", bind="query-params"))
    heads = [str(h + 1) for h in range(first.weights.shape[1])]
    url_state.drop_unavailable("pg_step_head", heads)
    head = 0 if len(heads) == 1 else heads.index(right.selectbox("Head", heads, key="pg_step_head", bind="query-params"))
    for index, column, name, answer in side_by_side(answers):
        with column:
            if len(answers) > 1:
                st.markdown(f"**{layout.plain(name)}**")
            if layer >= answer.weights.shape[0] or head >= answer.weights.shape[1]:
                st.caption("This model has no such layer or routing head.")
                continue
            table = answer.decision(layer, head)
            chart_card.card(
                figures.answer_decision,
                answer,
                layer,
                head,
                key=f"pg_steps_{index}",
                alt=f"Steps of the decision of {name} at {layers[layer]}",
                table=lambda answer, layer, head: answer.decision(layer, head),
                python=f"{code}\nlab.figures.answer_decision(answers[{name!r}], {layer}, {head})",
                read=(f"{' → '.join(table.columns)}. The last column is" if len(table.columns) > 1 else "This is")
                + " what each expert's output is multiplied by.",
            )


def by_token(answers: dict[str, Answer], code: str) -> None:
    """Weights at each token, for routers that decide per token."""
    per_token = {name: answer for name, answer in answers.items() if answer.token_weights is not None}
    for index, column, name, answer in side_by_side(per_token) if per_token else ():
        with column:
            st.markdown(f"**The text: {layout.plain(name)}**")
            chart_card.card(
                figures.answer_by_token,
                answer,
                key=f"pg_tokens_{index}",
                alt=f"Weights at each token, {name}",
                table=lambda answer: answer.by_token(),
                python=f"{code}\nlab.figures.answer_by_token(answers[{name!r}])",
                read="This router decides for each token separately. Mean over layers and routing heads.",
            )


def by_said_token(answers: dict[str, Answer], code: str) -> None:
    """Weights of the passes that gave the tokens of answers: all tokens, and for one of them all layers."""
    if not answers:
        return
    for index, column, name, answer in side_by_side(answers):
        with column:
            st.markdown(f"**The answer: {layout.plain(name)}**")
            chart_card.card(
                figures.answer_by_said_token,
                answer,
                key=f"pg_said_weights_{index}",
                alt=f"Weights at each token of the answer, {name}",
                table=lambda answer: answer.by_said_token(),
                python=f"{code}\nlab.figures.answer_by_said_token(answers[{name!r}])",
                read="The weights are those under which the token was given. Mean over layers and routing heads.",
            )
    places = [str(place + 1) for place in range(max(len(answer.said) for answer in answers.values()))]
    url_state.drop_unavailable("pg_place", places)
    place = int(st.selectbox("Token of the answer", places, key="pg_place", bind="query-params", width=200)) - 1
    for index, column, name, answer in side_by_side(answers):
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
