"""A text once per layer, its tokens in the colours of experts: HTML, which breaks into lines where a chart cannot."""

import string
import textwrap
from collections.abc import Collection, Sequence
from html import escape

import numpy as np

from lab import views
from lab.figures.drawing import TASK_COLOURS, faint
from lab.run_folder.prediction import Answer

LAYERS, TOKENS = 12, 1500  # largest numbers of layers at a time, and of tokens in all of them
NO_EXPERT = "#8A8A8A"  # where several weights are the largest
WHOLE = 40  # characters of a text that has one colour in a layer: one line, since more of it says nothing more
ROW = "display:flex;gap:.5rem;align-items:baseline"
CHIP = "display:inline-block;margin:1px;padding:0 4px;border-radius:4px;white-space:pre-wrap;overflow-wrap:anywhere"


def expert_letter(expert: int) -> str:
    """A, B, ..., Z, AA, AB, ...: what says beside the colour which expert is meant."""
    before, last = divmod(expert, len(string.ascii_uppercase))
    return (expert_letter(before - 1) if before else "") + string.ascii_uppercase[last]


def layers_shown(layers: int, tokens: int) -> list[int]:
    """The layers that fit under each other, evenly spaced, the first and the last among them."""
    count = max(1, min(layers, LAYERS, TOKENS // max(1, tokens)))
    return sorted({round(place) for place in np.linspace(layers - 1 if count == 1 else 0, layers - 1, count)})


def coloured_text(answer: Answer, layers: Sequence[int] | None = None, head: int | None = None, said: bool = False) -> str:
    """The text of an answer in these layers (by their numbers; None: as many as fit), every token on the colour of the expert
    with the largest weight there, followed by the expert's letter; the stronger the colour, the larger its part.

    `head`: one routing head; None: the mean over them. `said`: the tokens that the model said instead of those of the text. Of
    a router that decides once for a text, a layer has one colour. Where experts share the largest weight, the letter is "=".
    """
    tokens, weights = _tokens_and_weights(answer, said)
    numbers = layers_shown(len(answer.layers), len(tokens)) if layers is None else layers
    names = views.layer_names(answer.layers)
    means = weights.mean(2) if head is None else weights[:, :, head]  # (L, T or 1, E)
    rows = []
    for number in numbers:
        chips = [_chip(token, own, answer.experts) for token, own in zip(tokens, means[number], strict=True)]
        name = f'<span style="flex:0 0 6rem;opacity:.7;font-size:.8rem">{escape(names[number])}</span>'
        rows.append(f'<div style="{ROW}">{name}<span style="min-width:0;line-height:1.75">{"".join(chips)}</span></div>')
    return "".join(rows)


def experts_seen(answer: Answer, head: int | None = None) -> set[int]:
    """The numbers of the experts whose colours the text of an answer has, and what was said."""
    weights = [_tokens_and_weights(answer, said)[1] for said in ((False, True) if answer.said else (False,))]
    means = [own.mean(2) if head is None else own[:, :, head] for own in weights]
    return {int(expert) for own in means for expert in own.argmax(-1).ravel()}


def expert_legend(experts: Sequence[str], only: Collection[int] = ()) -> str:
    """The letters, colours and names of experts: of all, or of those with the numbers `only`."""
    chips = [
        _coloured(f"<b>{expert_letter(e)}</b> {escape(str(name))}", _colour(e))
        for e, name in enumerate(experts)
        if not only or e in only
    ]
    return f'<div style="line-height:1.75">{"".join(chips)}</div>'


def _tokens_and_weights(answer: Answer, said: bool) -> tuple[list[str], np.ndarray]:
    """Tokens, and weights (L, T, H, E) at each; the whole text as one where one decision holds for it."""
    if said:
        tokens = [token.text for token in answer.said]
        if answer.decides_per_token:
            return tokens, np.stack([token.weights for token in answer.said if token.weights is not None], 1)
        return [_begin(" ".join(tokens))], answer.weights[:, None]
    if answer.token_weights is None:
        return [_begin(answer.text)], answer.weights[:, None]
    return [*answer.tokens], answer.token_weights


def _begin(text: str) -> str:
    return textwrap.shorten(text, WHOLE, placeholder=" …")


def _chip(token: str, weights: np.ndarray, experts: Sequence[str]) -> str:
    """One token; on hover the weights of its experts, largest first."""
    order = np.argsort(-weights, kind="stable")
    hover = " · ".join(f"{experts[e]} {weights[e]:.2f}" for e in order[:4])
    first = int(order[0])
    if len(order) > 1 and np.isclose(weights[first], weights[order[1]], rtol=1e-4, atol=1e-6):
        return _coloured(f"{escape(token)} <sub>=</sub>", NO_EXPERT, 0.15, hover)
    part = weights[first] / weights.sum() if weights.sum() > 0 else 0.0
    return _coloured(f"{escape(token)} <sub><b>{expert_letter(first)}</b></sub>", _colour(first), float(part), hover)


def _coloured(content: str, colour: str, part: float = 1.0, hover: str = "") -> str:
    background = faint(
        colour, round(0.12 + 0.38 * min(max(part, 0.0), 1.0), 2)
    )  # so faint that text is read on it in both themes
    title = f' title="{escape(hover)}"' if hover else ""
    return f'<span{title} style="{CHIP};background:{background};border-bottom:2px solid {colour}">{content}</span>'


def _colour(expert: int) -> str:
    return TASK_COLOURS[expert % len(TASK_COLOURS)]
