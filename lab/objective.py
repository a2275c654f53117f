"""What tasks ask for: to choose a class or to write a text. Everything in which the two differ stands behind one interface."""

import string
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from lab.batch import UNLABELLED, Batch, Encoded
from lab.router import Decision

if TYPE_CHECKING:
    from lab.learner import Learner


class Answers(NamedTuple):
    """Of B rows: the true answers, the model's, whether they count as right, their probabilities, further scores by name."""

    label: Sequence[Any]  # classes (indices of the label space), or texts
    given: Sequence[Any]
    correct: np.ndarray  # (B,) bool; the mean is the score of a task
    probability: np.ndarray  # (B,) of the class that was chosen; NaN of texts, it is not asked for
    scores: dict[str, np.ndarray]  # (B,) each, reported beside the score


class Objective(ABC):
    """Logits and losses for training, answers for evaluation. Logits are (B, C), or of texts (B, S, V)."""

    measures: Sequence[str] = ()  # names of the further scores

    def __init__(self, learner: "Learner"):
        self.learner = learner

    def look(self, rows: Sequence[Encoded], split: str) -> None:  # noqa: B027 (most objectives need not know)
        """Rows that the run is about to train or to be evaluated on."""

    @abstractmethod
    def logits(self, batch: Batch, only: int | None = None) -> Tensor:
        """Logits under the decision that the bank is routed by; `only`: of one task's classes."""

    @abstractmethod
    def loss(self, logits: Tensor, label: Tensor, task: Tensor, how: str) -> Tensor:
        """Mean cross-entropy, see Learner.cross_entropy."""

    @abstractmethod
    def own_loss(self, logits: Tensor, label: Tensor, task: Tensor) -> Tensor:
        """The same of rows of one task, whose expert is trained alone, see Learner.own_cross_entropy."""

    @abstractmethod
    def answers(self, batch: Batch, decision: Decision | None, seen: int) -> Answers:
        """What the model answers as `decision` routes it, when the first `seen` tasks are known."""

    @abstractmethod
    def written(self, answers: np.ndarray) -> np.ndarray:
        """Answers as text."""


class Classification(Objective):
    """A class of the label space, from the sequence representation."""

    def logits(self, batch: Batch, only: int | None = None) -> Tensor:
        return self.learner.classifier(self.learner.backbone.embed(batch), only)

    def loss(self, logits: Tensor, label: Tensor, task: Tensor, how: str) -> Tensor:
        target = self.learner.space.target(label, task)
        return nn.functional.cross_entropy(self.learner.competing(logits, task, how), target, ignore_index=UNLABELLED)

    def own_loss(self, logits: Tensor, label: Tensor, task: Tensor) -> Tensor:
        own = self.learner.space.own[int(task[0])]
        return nn.functional.cross_entropy(logits[:, own.start : own.stop], label, ignore_index=UNLABELLED)

    def answers(self, batch: Batch, decision: Decision | None, seen: int) -> Answers:
        space = self.learner.space
        with self.learner.bank.routed(decision):
            logits = self.learner.logits(batch)
        competing = space.competing(batch.task, seen, "task" if space.scenario == "task" else "seen")
        best = logits.masked_fill(~competing, float("-inf")).softmax(-1).max(-1)
        label, given = space.target(batch.label, batch.task).cpu().numpy(), best.indices.cpu().numpy()
        return Answers(label, given, label == given, best.values.double().cpu().numpy(), {})

    def written(self, answers: np.ndarray) -> np.ndarray:
        return np.array(self.learner.space.names)[answers.astype(int)]


class Generation(Objective):
    """A text, token by token. The score is exact match; ROUGE-L stands beside it.

    Training is teacher-forced: the mean cross-entropy of all target tokens of a batch. A text is routed by what is asked, and
    that stays fixed while the answer is written; only routers that decide per token decide again at every new token.
    """

    measures = ("rouge_l",)

    def __init__(self, learner: "Learner"):
        super().__init__(learner)
        self.longest = 1  # tokens of the longest target among the training examples

    def look(self, rows: Sequence[Encoded], split: str) -> None:
        if split == "train":
            self.longest = max(self.longest, *(len(row.target) for row in rows))

    def logits(self, batch: Batch, only: int | None = None) -> Tensor:
        return self.learner.backbone.token_logits(batch)

    def loss(self, logits: Tensor, label: Tensor, task: Tensor, how: str) -> Tensor:
        return nn.functional.cross_entropy(logits.flatten(0, 1), label.flatten(), ignore_index=UNLABELLED)

    def own_loss(self, logits: Tensor, label: Tensor, task: Tensor) -> Tensor:
        return self.loss(logits, label, task, "task")

    def answers(self, batch: Batch, decision: Decision | None, seen: int) -> Answers:
        backbone, bank, decoding = self.learner.backbone, self.learner.bank, self.learner.config.decoding
        if decision is not None and decision.weights is None:  # made inside the layers: from the text that asks
            with bank.routed(decision):
                backbone.embed(batch)
        with bank.routed(decision and decision.held()):
            texts = backbone.write(batch, decoding.max_tokens or self.longest, decoding.beams)
        correct = np.array([exact_match(text, right) for text, right in zip(texts, batch.answers, strict=True)])
        overlap = np.array([rouge_l(text, right) for text, right in zip(texts, batch.answers, strict=True)])
        first = [right[0] for right in batch.answers]
        return Answers(first, texts, correct, np.full(len(texts), np.nan), {"rouge_l": overlap})

    def written(self, answers: np.ndarray) -> np.ndarray:
        return answers


def plain(text: str) -> str:
    """Lower case, without punctuation, single spaces: texts are compared like this in Super-NaturalInstructions."""
    kept = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join((kept if kept.strip() else text).split())


def exact_match(text: str, right: Sequence[str]) -> bool:
    """Whether a text is one of the right ones, up to case, punctuation and spaces."""
    return plain(text) in map(plain, right)


def rouge_l(text: str, right: Sequence[str]) -> float:
    """ROUGE-L (Lin 2004), F-measure in [0, 1] with stemming, of the right text that is nearest.

    By the package rouge-score, whose words are made of Latin letters and digits: other scripts score 0.
    """
    return max(_scorer().score(answer, text)["rougeL"].fmeasure for answer in right)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def objective(learner: "Learner", generates: bool) -> Objective:
    return Generation(learner) if generates else Classification(learner)
