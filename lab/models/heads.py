"""What tasks ask for: to choose a class (by a classifier or by its words) or to write a text, behind one interface."""

import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lab.config.schema import RunConfig
from lab.core.errors import LabError
from lab.core.rng import generator
from lab.data.batching import UNLABELLED, Batch, Encoded, padded
from lab.data.label_space import LabelSpace
from lab.data.stream import Task
from lab.models.backbone import Backbone
from lab.models.expert_bank import Bank
from lab.routers.base import Decision

Writing = Callable[[str], object]  # told what was written so far


class Answers(NamedTuple):
    """Of B rows: the true answers, the model's, whether they count as right, their probabilities, further scores by name."""

    label: Sequence[Any] | np.ndarray  # classes (indices of the label space), or texts
    predicted: Sequence[Any] | np.ndarray
    correct: np.ndarray  # (B,) bool; the mean is the score of a task
    probability: np.ndarray  # (B,) of the class that was chosen; NaN of texts, which are not asked for it
    scores: dict[str, np.ndarray]  # (B,) each, reported beside the score


class Reply(NamedTuple):
    """The answer to one text, with what people ask of it; S tokens where the language model answers, V in its vocabulary."""

    answers: Sequence[str]  # the C classes that compete, or the text that was written
    probabilities: Tensor  # (C,); of a text, that of writing just this
    tokens: Sequence[int] = ()  # those that say the likeliest answer
    logits: Tensor | None = None  # (S, V) at each of them, given the text and the tokens before
    scores: Mapping[str, float] = {}  # of a text whose right answers are known


class Classifier(nn.Module):
    """Linear rows for every class, in one block per task; blocks are added as tasks come.

    In scenario domain every block covers all classes, and the logits are the mean over blocks (`averages_blocks`).
    """

    def __init__(self, space: LabelSpace, width: int, device: torch.device, one_block: bool = False):
        """`one_block`: all tasks of scenario domain train the same rows (all but isolated experts do)."""
        super().__init__()
        self.space, self.width, self.device = space, width, device
        self.averages_blocks = space.scenario == "domain"
        self.one_block = one_block and self.averages_blocks
        self.weight, self.bias = nn.ParameterList(), nn.ParameterList()

    def grow(self, *key: object) -> None:
        """A block for the next task, drawn from the generator of `key`."""
        if self.one_block and len(self.weight):
            return
        rows = len(self.space.own[len(self.weight)])
        weight = torch.randn(rows, self.width, generator=generator(*key)) * 0.02
        self.weight.append(nn.Parameter(weight.to(self.device)))
        self.bias.append(nn.Parameter(torch.zeros(rows, device=self.device)))

    def block(self, t: int) -> dict[str, nn.Parameter]:
        """Parameters of task t's rows."""
        t = 0 if self.one_block else t
        return {"classifier.weight": self.weight[t], "classifier.bias": self.bias[t]}

    def forward(self, representation: Tensor, only: int | None = None) -> Tensor:
        """(B, D) -> (B, C) for all C classes of the stream, -inf for those of later tasks; `only`: one task's block.

        The products are taken block by block, so that the logits of a task do not depend in their last bits on the others.
        """
        blocks = [only] if only is not None and not self.one_block else range(len(self.weight))
        logits = [nn.functional.linear(representation, self.weight[t], self.bias[t]) for t in blocks]
        if self.averages_blocks:
            return torch.stack(logits).mean(0)

        def absent(classes: int) -> Tensor:
            return representation.new_full((len(representation), classes), float("-inf"))

        before = self.space.own[blocks[0]].start if blocks else 0
        after = len(self.space) - (self.space.own[blocks[-1]].stop if blocks else 0)
        return torch.cat([absent(before), *logits, absent(after)], dim=1)


class Head(nn.Module, ABC):
    """What tasks ask for: the label space, the classifier, the losses of training and the answers of evaluation.

    Logits are (B, C), or of texts (B, S, V), under the decision that the bank is routed by. The classifier is there for every
    kind of head; where the language model answers it has no rows.
    """

    measures: Sequence[str] = ()  # names of the further scores
    has_rows: ClassVar[bool] = False  # whether the classifier answers
    longest: int = 0  # tokens of the longest target among the training examples, where answers are written

    def __init__(self, config: RunConfig, tasks: Sequence[Task], backbone: Backbone, bank: Bank):
        super().__init__()
        self.config = config
        self.backbone_and_bank = (backbone, bank)  # in a tuple: they are no submodules of the head
        self.space = LabelSpace(config.scenario, tasks)
        self.tasks_seen = 0
        self.task_names = [task.name for task in tasks]
        self.classified = self.space if self.has_rows else LabelSpace(config.scenario, [replace(t, labels=()) for t in tasks])
        self.classifier = self.fresh_classifier(0)

    @property
    def backbone(self) -> Backbone:
        return self.backbone_and_bank[0]

    @property
    def bank(self) -> Bank:
        return self.backbone_and_bank[1]

    # -- the classifier ------------------------------------------------------------------------------------------------

    def fresh_classifier(self, tasks: int) -> Classifier:
        """An untrained classifier with the blocks of the first so many tasks."""
        experts = self.config.experts
        isolated = experts.allocation == "per_task" and experts.isolated
        classifier = Classifier(self.classified, self.backbone.width, self.backbone.device, one_block=not isolated)
        for name in self.task_names[:tasks]:
            classifier.grow(self.config.seed, "classifier", name)
        return classifier

    def add_task(self, t: int) -> None:
        """Room for task t (0-based)."""
        self.tasks_seen = t + 1
        self.classifier.grow(self.config.seed, "classifier", self.task_names[t])

    def reinitialise(self) -> None:
        """The classifier of the tasks so far as it was before any training."""
        self.classifier = self.fresh_classifier(len(self.classifier.weight))

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """Inside the block the classifier is a fresh one over all classes of the stream."""
        kept, self.classifier = self.classifier, self.fresh_classifier(len(self.task_names))
        try:
            yield
        finally:
            self.classifier = kept

    def parameters_of(self, tasks: Iterable[int]) -> dict[str, nn.Parameter]:
        """Classifier blocks of some tasks, by name; each parameter once."""
        blocks = [0] if self.classifier.one_block else tasks
        return {f"task{t}.{name}": p for t in blocks for name, p in self.classifier.block(t).items() if p.numel()}

    # -- losses and answers --------------------------------------------------------------------------------------------

    def observe_rows(self, rows: Sequence[Encoded], split: str) -> None:
        """Rows that the run is about to train or to be evaluated on."""

    @abstractmethod
    def logits(self, batch: Batch, only: int | None = None) -> Tensor:
        """Logits under the decision that the bank is routed by; `only`: of one task's classes."""

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch, classes: str | None = None) -> Tensor:
        """Mean cross-entropy over the competing classes ("task" or "seen", None: train.loss_classes), or over tokens.

        logits (B, C) or (B, S, V) of the batch. Rows and tokens that are UNLABELLED do not count.
        """

    @abstractmethod
    def isolated_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of rows of one task, whose expert is trained alone, among the classes of that task.

        Only that task's columns are computed with. Masked ones would change nothing but the rounding, which depends on where the
        task's columns stand among all: an isolated expert is to have the same bytes in every order of the tasks.
        """

    @property
    def answer_tokens(self) -> int:
        """Tokens of the longest answer that the language model is trained on or writes after a text."""
        return 0

    def answering_decision(self, batch: Batch, decision: Decision | None) -> Decision | None:
        """The decision under which the batch is answered."""
        return decision

    @abstractmethod
    def answers(self, batch: Batch, decision: Decision | None, seen: int) -> Answers:
        """What the model answers as `decision` routes it, among the classes of the first `seen` tasks."""

    @abstractmethod
    def reply(self, batch: Batch, writing: Writing | None = None) -> Reply:
        """The answer to the one text of the batch, under the decision that the bank is routed by; see `answering_decision`.

        `writing` is given what a model that writes has written so far, token by token.
        """

    @abstractmethod
    def written(self, answers: np.ndarray) -> np.ndarray:
        """Answers as text."""


class Classification(Head):
    """A class of the label space, from the sequence representation."""

    has_rows = True

    def logits(self, batch: Batch, only: int | None = None) -> Tensor:
        return self.classifier(self.backbone.embed(batch), only)

    def competing(self, logits: Tensor, task: Tensor, classes: str | None = None) -> Tensor:
        """Logits (B, C) with -inf where a class does not compete, see `loss`; task (B,)."""
        mask = self.space.competing(task, self.tasks_seen, classes or self.config.train.loss_classes)
        return logits.masked_fill(~mask, float("-inf"))

    def loss(self, logits: Tensor, batch: Batch, classes: str | None = None) -> Tensor:
        target = self.space.target(batch.label, batch.task)
        competing = self.competing(logits, batch.task, classes)
        return nn.functional.cross_entropy(competing, target, ignore_index=UNLABELLED)

    def isolated_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        task, _, _ = batch.keys[0]  # from the host: reading it from the tensor would wait for the device
        own = self.space.own[task]
        return nn.functional.cross_entropy(logits[:, own.start : own.stop], batch.label, ignore_index=UNLABELLED)

    def scores(self, batch: Batch, competing: Tensor) -> Tensor:
        """(B, C) in whose softmax classes have their probabilities; -inf where `competing` (B, C) is false."""
        return self.logits(batch).masked_fill(~competing, float("-inf"))

    def chosen(self, batch: Batch, best: Tensor) -> Tensor:
        """The answers (B,) for the classes (B,) with the best scores."""
        return best

    def candidates(self, task: Tensor, seen: int) -> Tensor:
        """(B, C): which classes compete when rows of these tasks (B,) are answered after `seen` tasks."""
        return self.space.competing(task, seen, "task" if self.space.scenario == "task" else "seen")

    def probabilities(self, batch: Batch, seen: int) -> Tensor:
        """(B, C), 0 where a class does not compete after `seen` tasks, under the decision that the bank is routed by."""
        return self.scores(batch, self.candidates(batch.task, seen)).softmax(-1)

    def answers(self, batch: Batch, decision: Decision | None, seen: int) -> Answers:
        with self.bank.routed(self.answering_decision(batch, decision)):
            best = self.probabilities(batch, seen).max(-1)
        label = self.space.target(batch.label, batch.task).cpu().numpy()
        predicted = self.chosen(batch, best.indices).cpu().numpy()
        return Answers(label, predicted, label == predicted, best.values.double().cpu().numpy(), {})

    def reply(self, batch: Batch, writing: Writing | None = None) -> Reply:
        competes = self.candidates(batch.task, self.tasks_seen)[0]
        chances = self.probabilities(batch, self.tasks_seen)[0]
        return Reply([self.space.names[c] for c in competes.nonzero().flatten().tolist()], chances[competes])

    def written(self, answers: np.ndarray) -> np.ndarray:
        return np.array(self.space.names)[answers.astype(int)]


class Written(Head):
    """What the language model says after a text. Training is teacher-forced: the mean cross-entropy of all tokens of a batch."""

    def answering_decision(self, batch: Batch, decision: Decision | None) -> Decision | None:
        """A text is routed by what is asked: what is decided inside the layers is decided from the text before any answer."""
        if decision is not None and decision.weights is None:
            with self.bank.routed(decision):
                self.backbone.embed(batch)
        return decision and decision.for_generation()

    @abstractmethod
    def targets(self, batch: Batch) -> Tensor:
        """Tokens (B, S) of the right answers, UNLABELLED behind them and of rows without a label."""

    def logits(self, batch: Batch, only: int | None = None) -> Tensor:
        """(B, S, V) at the tokens of the right answers."""
        return self.backbone.token_logits(batch._replace(label=self.targets(batch)))

    def loss(self, logits: Tensor, batch: Batch, classes: str | None = None) -> Tensor:
        return nn.functional.cross_entropy(logits.flatten(0, 1), self.targets(batch).flatten(), ignore_index=UNLABELLED)

    def isolated_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.loss(logits, batch, "task")

    def token_losses(self, batch: Batch, decision: Decision | None) -> Tensor:
        """Cross-entropy (N,) in nats of all tokens of the right answers, each after those before it, routed by `decision`."""
        target = self.targets(batch).flatten()
        with self.bank.routed(self.answering_decision(batch, decision)):
            losses = nn.functional.cross_entropy(self.logits(batch).flatten(0, 1), target, reduction="none")
        return losses[target != UNLABELLED]

    def saying(self, batch: Batch, tokens: Sequence[int]) -> Tensor:
        """Logits (S, V) at each of the tokens, said to the one text of the batch."""
        return self.backbone.token_logits(batch._replace(label=torch.tensor([tokens], device=batch.ids.device)))[0]


class LabelWords(Written, Classification):
    """The label whose words the language model finds most probable after the text; no classifier.

    The score of a label is the sum of the log-probabilities of the tokens of its words, and of the token that ends them, given
    the text: not divided by their number, so that it is the log-probability of writing just this. Probabilities are shares of
    the competing labels. Labels of different tasks that have the same words are one answer, called by the first of them. Training
    is teacher-forced on the words of the right label, so no other label competes in it.
    """

    has_rows = False

    def __init__(self, config: RunConfig, tasks: Sequence[Task], backbone: Backbone, bank: Bank):
        """Raises LabError where the tokenizer makes the same of different words."""
        super().__init__(config, tasks, backbone, bank)
        own = [tasks[0].labels] if self.space.scenario == "domain" else [task.labels for task in tasks]
        self.labels = [label for labels in own for label in labels]  # the words of every class
        self.tokens = [backbone.target(words) for words in self.labels]
        words_of: dict[tuple[int, ...], str] = {}
        for words, tokens in zip(self.labels, self.tokens, strict=True):
            if words_of.setdefault(tokens, words) != words:
                raise LabError(
                    f"labels '{words_of[tokens]}' and '{words}' are the same tokens for backbone '{config.backbone.name}': "
                    "answer=words cannot tell them apart, use answer=classifier"
                )

    @property
    def answer_tokens(self) -> int:
        return max(map(len, self.tokens))

    def targets(self, batch: Batch) -> Tensor:
        classes = self.space.target(batch.label, batch.task).tolist()
        rows = [() if c == UNLABELLED else self.tokens[c] for c in classes]
        return padded(rows, UNLABELLED, "right").to(batch.label.device)

    def scores(self, batch: Batch, competing: Tensor) -> Tensor:
        scores = competing.new_full(competing.shape, float("-inf"), dtype=torch.float32)  # (B, C)
        for words in dict.fromkeys(self.labels[c] for c in competing.any(0).nonzero().flatten().tolist()):
            same = [c for c, label in enumerate(self.labels) if label == words]
            target = torch.tensor([self.tokens[same[0]]], device=competing.device).expand(len(competing), -1)  # (B, S)
            logits = self.backbone.token_logits(batch._replace(label=target))  # (B, S, V)
            score = logits.log_softmax(-1).gather(-1, target[..., None]).sum((1, 2))  # (B,)
            again = competing[:, same].cumsum(1) > 1  # one answer has its probability once
            scores[:, same] = score[:, None].masked_fill(again, float("-inf"))
        return scores.masked_fill(~competing, float("-inf"))

    def reply(self, batch: Batch, writing: Writing | None = None) -> Reply:
        reply = super().reply(batch)
        competing = self.candidates(batch.task, self.tasks_seen)[0].nonzero().flatten()
        tokens = self.tokens[int(competing[reply.probabilities.argmax()])]
        return reply._replace(tokens=tokens, logits=self.saying(batch, tokens))

    def chosen(self, batch: Batch, best: Tensor) -> Tensor:
        """Of classes with the same words, which are one answer, the row's own."""
        right = self.space.target(batch.label, batch.task)
        same = [self.labels[a] == self.labels[b] for a, b in zip(best.tolist(), right.tolist(), strict=True)]
        return right.where(torch.tensor(same, device=best.device), best)


class Generation(Written):
    """A text, token by token. The score is exact match; ROUGE-L stands beside it.

    A text is routed by what is asked, and that stays fixed while the answer is written; only routers that decide per token decide
    again at every new token.
    """

    measures = ("rouge_l",)

    def __init__(self, config: RunConfig, tasks: Sequence[Task], backbone: Backbone, bank: Bank):
        super().__init__(config, tasks, backbone, bank)
        self.longest = 1

    @property
    def answer_tokens(self) -> int:
        return max(self.longest, self.config.decoding.max_tokens or 0)

    def observe_rows(self, rows: Sequence[Encoded], split: str) -> None:
        if split == "train":
            self.longest = max(self.longest, *(len(row.target) for row in rows))

    @property
    def limit(self) -> int:
        """Tokens that an answer may have."""
        return self.config.decoding.max_tokens or self.longest

    def targets(self, batch: Batch) -> Tensor:
        return batch.label

    def answers(self, batch: Batch, decision: Decision | None, seen: int) -> Answers:
        with self.bank.routed(self.answering_decision(batch, decision)):
            texts = self.backbone.write(batch, self.limit, self.config.decoding.beams)
        correct = np.array([exact_match(text, right) for text, right in zip(texts, batch.answers, strict=True)])
        overlap = np.array([rouge_l(text, right) for text, right in zip(texts, batch.answers, strict=True)])
        first = [right[0] for right in batch.answers]
        return Answers(first, texts, correct, np.full(len(texts), np.nan), {"rouge_l": overlap})

    def reply(self, batch: Batch, writing: Writing | None = None) -> Reply:
        tokenizer = self.backbone.writing_tokenizer
        so_far: list[int] = []

        def watch(token: Tensor) -> None:
            so_far.extend(token.tolist())
            if writing:
                writing(*tokenizer.batch_decode([so_far], skip_special_tokens=True))

        ids = self.backbone.written_tokens(batch, self.limit, self.config.decoding.beams, watch)  # (1, S)
        (text,) = tokenizer.batch_decode(ids, skip_special_tokens=True)
        logits = self.saying(batch, ids[0].tolist())
        probability = logits.log_softmax(-1).gather(-1, ids.T).sum().exp()
        (right,) = batch.answers
        scores = {"exact_match": float(exact_match(text, right)), "rouge_l": rouge_l(text, right)} if right else {}
        return Reply([text], probability[None], ids[0].tolist(), logits, scores)

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


def head_of(config: RunConfig, tasks: Sequence[Task]) -> type[Head]:
    """The head of these tasks, which all ask for the same.

    LabError where some tasks ask for free text and some do not, and where words of labels are to answer those that do.
    """
    kinds = {task.generates: task.name for task in tasks}
    if len(kinds) > 1:
        raise LabError(
            f"task '{kinds[True]}' asks for free text and task '{kinds[False]}' for labels: "
            "stream.labels_as_text=true writes labels as text, or name tasks of one kind in stream.tasks"
        )
    if True in kinds and config.answer == "words":
        raise LabError(f"answer=words chooses among labels, task '{kinds[True]}' asks for free text: use answer=classifier")
    if True in kinds:
        return Generation
    return LabelWords if config.answer == "words" else Classification
