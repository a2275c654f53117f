"""What tasks ask for: to choose a class (by a classifier or by its words) or to write a text, behind one interface."""

import string
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lab.core.errors import LabError
from lab.data.batching import UNLABELLED, Batch, Encoded, padded
from lab.data.stream import Task
from lab.routers.base import Decision

if TYPE_CHECKING:
    from lab.models.learner import Learner


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

    def observe_rows(self, rows: Sequence[Encoded], split: str) -> None:  # noqa: B027 (most objectives need not know)
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

    def answering_decision(self, batch: Batch, decision: Decision | None) -> Decision | None:
        """The decision under which the batch is answered."""
        return decision

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

    def scores(self, batch: Batch, competing: Tensor) -> Tensor:
        """(B, C) in whose softmax classes have their probabilities; -inf where `competing` (B, C) is false."""
        return self.learner.logits(batch).masked_fill(~competing, float("-inf"))

    def chosen(self, batch: Batch, best: Tensor) -> Tensor:
        """The answers (B,) for the classes (B,) with the best scores."""
        return best

    def answers(self, batch: Batch, decision: Decision | None, seen: int) -> Answers:
        space = self.learner.space
        competing = space.competing(batch.task, seen, "task" if space.scenario == "task" else "seen")
        with self.learner.bank.routed(self.answering_decision(batch, decision)):
            best = self.scores(batch, competing).softmax(-1).max(-1)
        label, given = space.target(batch.label, batch.task).cpu().numpy(), self.chosen(batch, best.indices).cpu().numpy()
        return Answers(label, given, label == given, best.values.double().cpu().numpy(), {})

    def written(self, answers: np.ndarray) -> np.ndarray:
        return np.array(self.learner.space.names)[answers.astype(int)]


class Written(Objective):
    """What the language model says after a text. Training is teacher-forced: the mean cross-entropy of all tokens of a batch."""

    def answering_decision(self, batch: Batch, decision: Decision | None) -> Decision | None:
        """A text is routed by what is asked: what is decided inside the layers is decided from the text before any answer."""
        if decision is not None and decision.weights is None:
            with self.learner.bank.routed(decision):
                self.learner.backbone.embed(batch)
        return decision and decision.for_generation()

    def own_loss(self, logits: Tensor, label: Tensor, task: Tensor) -> Tensor:
        return self.loss(logits, label, task, "task")


class LabelWords(Written, Classification):
    """The label whose words the language model finds most probable after the text; no classifier.

    The score of a label is the sum of the log-probabilities of the tokens of its words, and of the token that ends them, given
    the text: not divided by their number, so that it is the log-probability of writing just this. Probabilities are shares of
    the competing labels. Labels of different tasks that have the same words are one answer, called by the first of them. Training
    is teacher-forced on the words of the right label, so no other label competes in it.
    """

    def __init__(self, learner: "Learner", labels: Sequence[str]):
        """`labels`: the words of every class. Raises LabError where the tokenizer makes the same of different words."""
        super().__init__(learner)
        self.labels = labels
        self.tokens = [learner.backbone.target(words) for words in labels]
        known: dict[tuple[int, ...], str] = {}
        for words, tokens in zip(labels, self.tokens, strict=True):
            if known.setdefault(tokens, words) != words:
                raise LabError(
                    f"labels '{known[tokens]}' and '{words}' are the same tokens for backbone '{learner.config.backbone.name}': "
                    "answer=words cannot tell them apart, use answer=classifier"
                )

    def target(self, label: Tensor, task: Tensor) -> Tensor:
        """Tokens (B, S) of the labels (B,) within tasks (B,), UNLABELLED behind them and of rows without a label."""
        classes = self.learner.space.target(label, task).tolist()
        rows = [() if c == UNLABELLED else self.tokens[c] for c in classes]
        return padded(rows, UNLABELLED, "right").to(label.device)

    def logits(self, batch: Batch, only: int | None = None) -> Tensor:
        """(B, S, V) at the words of the right labels."""
        return self.learner.backbone.token_logits(batch._replace(label=self.target(batch.label, batch.task)))

    def loss(self, logits: Tensor, label: Tensor, task: Tensor, how: str) -> Tensor:
        return nn.functional.cross_entropy(logits.flatten(0, 1), self.target(label, task).flatten(), ignore_index=UNLABELLED)

    def scores(self, batch: Batch, competing: Tensor) -> Tensor:
        found = competing.new_full(competing.shape, float("-inf"), dtype=torch.float32)  # (B, C)
        for words in dict.fromkeys(self.labels[c] for c in competing.any(0).nonzero().flatten().tolist()):
            same = [c for c, label in enumerate(self.labels) if label == words]
            target = torch.tensor([self.tokens[same[0]]], device=competing.device).expand(len(competing), -1)  # (B, S)
            logits = self.learner.backbone.token_logits(batch._replace(label=target))  # (B, S, V)
            score = logits.log_softmax(-1).gather(-1, target[..., None]).sum((1, 2))  # (B,)
            again = competing[:, same].cumsum(1) > 1  # one answer has its probability once
            found[:, same] = score[:, None].masked_fill(again, float("-inf"))
        return found.masked_fill(~competing, float("-inf"))

    def chosen(self, batch: Batch, best: Tensor) -> Tensor:
        """Of classes with the same words, which are one answer, the row's own."""
        right = self.learner.space.target(batch.label, batch.task)
        same = [self.labels[a] == self.labels[b] for a, b in zip(best.tolist(), right.tolist(), strict=True)]
        return right.where(torch.tensor(same, device=best.device), best)


class Generation(Written):
    """A text, token by token. The score is exact match; ROUGE-L stands beside it.

    A text is routed by what is asked, and that stays fixed while the answer is written; only routers that decide per token decide
    again at every new token.
    """

    measures = ("rouge_l",)

    def __init__(self, learner: "Learner"):
        super().__init__(learner)
        self.longest = 1  # tokens of the longest target among the training examples

    def observe_rows(self, rows: Sequence[Encoded], split: str) -> None:
        if split == "train":
            self.longest = max(self.longest, *(len(row.target) for row in rows))

    def logits(self, batch: Batch, only: int | None = None) -> Tensor:
        return self.learner.backbone.token_logits(batch)

    def loss(self, logits: Tensor, label: Tensor, task: Tensor, how: str) -> Tensor:
        return nn.functional.cross_entropy(logits.flatten(0, 1), label.flatten(), ignore_index=UNLABELLED)

    def answers(self, batch: Batch, decision: Decision | None, seen: int) -> Answers:
        backbone, bank, decoding = self.learner.backbone, self.learner.bank, self.learner.config.decoding
        with bank.routed(self.answering_decision(batch, decision)):
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


def objective(learner: "Learner", tasks: Sequence[Task]) -> Objective:
    """The objective of these tasks, which all ask for the same."""
    if tasks[0].generates:
        return Generation(learner)
    if learner.config.answer == "classifier":
        return Classification(learner)
    own = [tasks[0].labels] if learner.space.scenario == "domain" else [task.labels for task in tasks]
    return LabelWords(learner, [label for labels in own for label in labels])
