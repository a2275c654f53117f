"""What a model answered to one text, and how it was routed: kept in a run folder, or just computed by `lab.inference`.

Letters: C classes, L adapted layers, H routing heads, E experts, T tokens. No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from lab.core.errors import LabError
from lab.run_folder.run import Run


@dataclass(frozen=True, eq=False)
class Token:
    """One token that a language model said: its probability after all before it, and what else was likely there.

    `weights` (L, H, E) where the router decides anew at every token: those of the pass that gave the token.
    """

    text: str
    probability: float
    likeliest: Sequence[tuple[str, float]]  # the likeliest tokens with their probabilities, largest first
    weights: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """One text with the probabilities of its classes and the routing behind them.

    `steps` are what led to the weights, as the router names them, (L, H, E) each; the last one is the weights that were used.
    `token_weights` (L, T, H, E) where the router decides per token. Of a kept answer only the predicted class is known.
    A model that writes has one class, the text it wrote, whose probability is that of writing just this; `said` are its tokens,
    or those of the words of the likeliest label where the language model chooses among labels.
    """

    text: str
    classes: Sequence[str]
    probabilities: np.ndarray  # (C,)
    layers: Sequence[str]
    experts: Sequence[str]
    steps: dict[str, np.ndarray] = field(default_factory=dict)
    tokens: Sequence[str] = ()
    token_weights: np.ndarray | None = None
    label: str | None = None  # the true class, or a right answer, where it is known
    cut: bool = False  # whether the text was longer than the model reads
    writes: bool = False  # whether the answer is a text of the model's own
    said: Sequence[Token] = ()
    ended: bool = True  # whether what was written came to its end, not to the largest number of tokens
    scores: dict[str, float] = field(default_factory=dict)  # of a written answer, by name, where it can be judged
    query: np.ndarray | None = None  # (D,): what the router looked up, of several layers that of the last; None where it has none

    @property
    def prediction(self) -> str:
        return self.classes[int(self.probabilities.argmax())]

    @property
    def weights(self) -> np.ndarray:
        """The weights that were used: (L, H, E)."""
        return [*self.steps.values()][-1]

    def ranked(self) -> pd.Series:
        """Probability of each class, largest first."""
        return pd.Series(self.probabilities, pd.Index(self.classes, name="class"), name="probability").sort_values(
            ascending=False, kind="stable"
        )

    def by_expert(self) -> pd.Series:
        """Each expert's part in the sum of weights, mean over layers and heads: (E,); 0 where all heads are off."""
        total = self.weights.sum(-1, keepdims=True)
        share = np.divide(self.weights, total, out=np.zeros_like(self.weights), where=total != 0).mean((0, 1))
        return pd.Series(share, pd.Index(self.experts, name="expert"), name="share")

    def by_layer(self, head: int | None = None) -> pd.DataFrame:
        """Weights in every layer, of one routing head or the mean over them: (L, E)."""
        return self._table(self.weights.mean(1) if head is None else self.weights[:, head])

    def by_token(self) -> pd.DataFrame:
        """Weights at every token, mean over layers and heads: (T, E); LabError where the router does not decide per token."""
        if self.token_weights is None:
            raise LabError("this router decides once for the whole text, not for each token")
        index = pd.Index(self.tokens, name="token")
        return pd.DataFrame(self.token_weights.mean((0, 2)), index, pd.Index(self.experts, name="expert"))

    @property
    def decides_per_token(self) -> bool:
        """Whether what was said has weights of its own at every token; else the weights of the text acted all along."""
        return any(token.weights is not None for token in self.said)

    def by_said_token(self) -> pd.DataFrame:
        """The probability of every token that was said and, of a router that decides anew at each, weights: (S, 1 or 1 + E).

        Weights are means over layers and heads, one column per expert.
        """
        weights = [() if token.weights is None else token.weights.mean((0, 1)) for token in self.said]
        rows = [[token.probability, *own] for token, own in zip(self.said, weights, strict=True)]
        index = pd.Index([token.text for token in self.said], name="token")
        return pd.DataFrame(rows, index, ["probability", *(self.experts if self.decides_per_token else ())])

    def at(self, place: int) -> "Answer":
        """The answer with the weights of the pass that gave the token at this place; itself where one decision holds for all."""
        weights = self.said[place].weights
        return self if weights is None else replace(self, steps={"weights": weights})

    def decision(self, layer: int, head: int = 0) -> pd.DataFrame:
        """One decision step by step: (E, steps), the last column the weights."""
        columns = {name: step[layer, head] for name, step in self.steps.items()}
        return pd.DataFrame(columns, pd.Index(self.experts, name="expert"))

    def _table(self, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, pd.Index(self.layers, name="layer"), pd.Index(self.experts, name="expert"))


def kept(run: Run, after: int | None, task: int) -> list[Answer]:
    """The answers to the test examples of a task that a run kept whole, as they were after learning task `after`
    (None: the last that was recorded).

    Where no predictions are stored the label is None and the prediction "?". LabError where no routing was recorded.
    """
    moments = run.recorded()
    after = moments[-1] if after is None and moments else after
    routing = run.routing(after)
    if f"{task}/rows" not in routing.arrays:
        raise LabError(f"run '{run.id}' kept no examples of task {task} after task {after}")
    steps, rows, name = routing.steps(task), routing.arrays[f"{task}/rows"].astype(int), routing.tasks[task]
    texts, stored = routing.texts.get(str(task), []), _predictions(run, after, name)
    writes, answers, queries = run.writes, [], routing.queries(task)
    for i, row in enumerate(rows):
        prediction = stored.loc[row] if row in stored.index else {"label": None, "prediction": "?", "probability": np.nan}
        measures = {"exact_match": "correct", "rouge_l": "rouge_l"} if writes else {}
        answers.append(
            Answer(
                texts[i] if i < len(texts) else "",
                [prediction["prediction"]],
                np.array([prediction["probability"]], dtype=float),
                routing.layers,
                routing.experts,
                {step: values[i] for step, values in steps.items()},
                label=prediction["label"],
                writes=writes,
                query=None if queries is None else queries[i],
                scores={name: float(prediction[column]) for name, column in measures.items() if column in prediction},
            )
        )
    return answers


def _predictions(run: Run, after: int | None, task: str) -> pd.DataFrame:
    """Stored predictions on one task by test row; empty where there are none."""
    if after not in run.predicted():
        return pd.DataFrame()
    stored = run.predictions(after)
    return stored.loc[stored["task"] == task].drop_duplicates(subset=["row"]).set_index("row")
