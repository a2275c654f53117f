"""A routed model to be asked about texts, as it routes them or with its routing changed.

    model = lab.load(run)
    model.predict(["a text"])                  the classes that it chooses, by name
    model(["a text"], expert="sea")            a table of answers if this expert alone acts, see `Override`
    model.answer("a text").ranked()            everything about one answer

Where the language model answers, `answer(...).said` are the tokens of the answer, each with its probability and, where the router
decides anew at each, its weights.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lab.adapters import arithmetic
from lab.adapters.arithmetic import Adapter
from lab.core.errors import LabError, unknown
from lab.data.batching import Batch, Encoded, by_length
from lab.data.stream import Example
from lab.inference import merging, saved_model
from lab.inference.origin import Origin
from lab.inference.override import Override, override_of
from lab.inference.single_expert import SingleExpert
from lab.inference.texts import Texts, cut_texts, say_cut
from lab.models.heads import Classification, Generation, Writing
from lab.models.learner import Learner, check_positions, needs_task
from lab.models.pretrained import HashTokenizer, Tokenizer
from lab.routers.base import Decision, LayerDecision, Reads
from lab.run_folder.prediction import Answer, Token

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lab.experts.lora import Lora
    from lab.models.heads import Reply

END = "(end)"  # how the token that ends an answer is called
LIKELIEST = 4  # tokens whose probabilities are kept of every place in an answer
STRETCH = 16  # batches whose states below the first expert are kept at a time
Task = str | Sequence[str] | None  # of all texts, or of each
Watch = Callable[[int, int], None]  # how many texts are done, and of how many
Looked = TypeVar("Looked")


def _unwatched(done: int, total: int) -> None:
    pass


@dataclass(frozen=True, repr=False)
class RoutedModel:
    """A learner with the weights of one moment of a run, and where it comes from.

    Texts are lists (or pandas Series) of strings, or of pairs of strings. `task` names the task of all texts, or of each: given
    to models that `needs_task`, and to no others. Answers are in the order of the texts, and do not depend on `batch_size` but
    for rounding. Further keywords (`expert`, `uniform`, `temperature`, `top`, `without`, `pruned`) change the routing, see
    `Override`; experts are given by name or number. All methods raise LabError for texts that are none, by their position (from
    0), and for a task or a change that does not fit; a text that is too long is cut, with one notice for all of them.
    """

    learner: Learner
    origin: Origin

    def __repr__(self) -> str:
        """`<RoutedModel l2r on minilm after task 'cooking': experts animals, cooking>`"""
        config, task = self.origin.config, self.origin.tasks[self.after]
        what = f"{config['recipe']} on {config['backbone']['name']} after task '{task}'"
        return f"<RoutedModel {what}: experts {', '.join(self.learner.bank.names)}>"

    @property
    def after(self) -> int:
        """The last task that it has learned (0-based)."""
        return self.origin.after

    @property
    def needs_task(self) -> bool:
        """Whether the model must be told the task of a text."""
        return needs_task(self.learner)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that it has learned."""
        return self.learner.task_names[: self.learner.head.tasks_seen]

    @property
    def experts(self) -> list[str]:
        """Names of the experts that act."""
        return self.learner.consolidation.names(self.learner.bank.names)

    @property
    def classes(self) -> pd.DataFrame:
        """The classes it chooses among, by name (`TASK/LABEL`; in scenario domain `LABEL`): columns task and label."""
        space = self.learner.head.space
        domain = space.scenario == "domain"
        learned = [*zip(self.tasks, self.origin.labels, strict=False)][: 1 if domain else None]
        owned = [(None if domain else task, label) for task, labels in learned for label in labels]
        return pd.DataFrame(owned, pd.Index(space.names[: len(owned)], name="class"), ["task", "label"])

    # -- many texts ----------------------------------------------------------------------------------------------------

    def predict(
        self, texts: Iterable[Any], batch_size: int = 64, task: Task = None, watch: Watch = _unwatched, **change: Any
    ) -> "list[str] | pd.Series":
        """The name of the chosen class of each text, as the run's predictions name it; a Series for a Series.

        `model.classes` has the task and the label of a name. LabError where the model writes text, see `generate`.
        """
        asked = Texts.read(texts)
        _, best, _ = self._chosen(asked, batch_size, task, watch, change)
        return asked.like([self.learner.head.space.names[c] for c in best], "prediction")

    def predict_proba(
        self, texts: Iterable[Any], batch_size: int = 64, task: Task = None, watch: Watch = _unwatched, **change: Any
    ) -> pd.DataFrame:
        """The probability of each class for each text, a row per text and a column per class; a row sums to 1.

        Classes of other tasks than the one that a text is told to be of have probability 0. LabError where the model writes.
        """
        asked = Texts.read(texts)
        _, _, probabilities = self._chosen(asked, batch_size, task, watch, change)
        return pd.DataFrame(probabilities[:, : len(self.classes)], asked.index, self.classes.index.rename(None))

    def generate(
        self, texts: Iterable[Any], batch_size: int = 64, task: Task = None, watch: Watch = _unwatched, **change: Any
    ) -> "list[str] | pd.Series":
        """What the model writes for each text; a Series for a Series. LabError where the model chooses a class."""
        asked = Texts.read(texts)
        return asked.like(self._written(asked, batch_size, task, watch, change), "prediction")

    def route(
        self,
        texts: Iterable[Any],
        batch_size: int = 64,
        task: Task = None,
        watch: Watch = _unwatched,
        per_token: bool = False,
        **change: Any,
    ) -> pd.DataFrame:
        """The weights of the experts, one row for each: columns row, text, layer, head, expert, weight.

        `row` is the position of the text, or its label in the index of a Series; `head` counts routing heads from 0. Of routers
        that decide at each token, weights are means over the tokens of a text; with `per_token` there are rows for every token,
        in columns position and token. LabError where the router does not decide at each token.
        """
        asked = Texts.read(texts)

        def look(batch: Batch, decision: Decision, chunk: list[Encoded]) -> list[np.ndarray]:
            if decision.weights is None:  # layers decide, when they are given the text
                with self.learner.bank.routed(decision):
                    self.learner.backbone.embed(batch)
            if not per_token:
                return [*self._weights(decision, len(chunk))]
            layers = _layers_per_token(decision, batch)
            return [layers[i][:, batch.mask[i].bool().cpu().numpy()] for i in range(len(chunk))]

        weights = self._each(asked, batch_size, task, watch, change, look)
        return self._tidy(asked, weights, per_token)

    def __call__(
        self, texts: Iterable[Any], batch_size: int = 64, task: Task = None, watch: Watch = _unwatched, **change: Any
    ) -> pd.DataFrame:
        """Everything about the answers that fits in a table, a row per text: `model(texts, top=1, temperature=0.5)`.

        Columns: text, and pair where texts have one; prediction and, where a class is chosen, its task and label and its
        probability; expert, the one with the largest part of the weights over layers and heads, and its share of them.
        """
        asked = Texts.read(texts)
        table = asked.columns
        if self.writes:
            texts_written, weights = self._written(asked, batch_size, task, watch, change, weights=True)
            table["prediction"] = texts_written
        else:
            weights, best, probabilities = self._chosen(asked, batch_size, task, watch, change, weights=True)
            chosen = self.classes.iloc[best]
            table |= {"prediction": [*chosen.index], "task": [*chosen["task"]], "label": [*chosen["label"]]}
            table["probability"] = probabilities.max(1, initial=0.0)
        shares = np.array([_share(own) for own in weights]).reshape(len(asked), len(self.experts))
        table["expert"] = [self.experts[k] for k in shares.argmax(1)] if len(asked) else []
        table["share"] = shares.max(1, initial=0.0)
        return pd.DataFrame(table, asked.index)

    def _chosen(
        self, asked: Texts, size: int, task: Task, watch: Watch, change: dict[str, Any], weights: bool = False
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Weights (L, H, E) of each text, if asked for, the numbers of the chosen classes (N,), probabilities (N, C)."""
        head = self.learner.head
        if not isinstance(head, Classification):
            raise LabError("this model writes text and chooses no class: use generate")

        def look(batch: Batch, decision: Decision, chunk: list[Encoded]) -> list[tuple]:
            with self.learner.bank.routed(head.answering_decision(batch, decision)):
                probabilities = head.probabilities(batch, head.tasks_seen)
            best = probabilities.max(-1).indices.cpu().numpy()
            own = [*self._weights(decision, len(chunk))] if weights else [None] * len(chunk)
            return [*zip(own, best, probabilities.double().cpu().numpy(), strict=True)]

        looked = self._each(asked, size, task, watch, change, look)
        own, best, probabilities = zip(*looked, strict=True) if looked else ((), (), ())
        table = np.stack(probabilities) if looked else np.zeros((0, len(head.space)))
        return [*own], np.array(best, dtype=int), table

    def _written(self, asked: Texts, size: int, task: Task, watch: Watch, change: dict[str, Any], weights: bool = False) -> Any:
        """The texts that are written and, if asked for, the weights (L, H, E) of each."""
        learner, head = self.learner, self.learner.head
        if not isinstance(head, Generation):
            raise LabError("this model chooses a class and writes no text: use predict")

        def look(batch: Batch, decision: Decision, chunk: list[Encoded]) -> list[tuple]:
            with learner.bank.routed(head.answering_decision(batch, decision)):
                texts = learner.backbone.write(batch, head.limit, learner.config.decoding.beams)
            own = [*self._weights(decision, len(chunk))] if weights else [None] * len(chunk)
            return [*zip(texts, own, strict=True)]

        looked = self._each(asked, size, task, watch, change, look)
        texts = [text for text, _ in looked]
        return (texts, [own for _, own in looked]) if weights else texts

    @torch.no_grad()
    def _each(
        self,
        asked: Texts,
        size: int,
        task: Task,
        watch: Watch,
        change: dict[str, Any],
        look: Callable[[Batch, Decision, list[Encoded]], list[Looked]],
    ) -> list[Looked]:
        """What `look` sees of each text, in their order; texts pass in batches of similar length, as in an evaluation."""
        learner, backbone = self.learner, self.learner.backbone
        if size < 1:
            raise LabError(f"batch_size = {size}: it must be at least 1")
        override = override_of(self.experts, learner.router.heads, **change)
        numbers = self._numbers(task, len(asked))
        rows = [row._replace(task=t) for row, t in zip(backbone.encode(asked.examples, 0, "asked"), numbers, strict=True)]
        check_positions(learner, rows)
        say_cut(backbone, asked.examples, rows)
        seen: dict[int, Looked] = {}
        chunks = [*by_length(rows, size)]
        for first in range(0, len(chunks), STRETCH):
            stretch = chunks[first : first + STRETCH]
            with backbone.prefix_cached([rows[i] for chunk in stretch for i in chunk], size):
                for chunk in stretch:
                    own = [rows[i] for i in chunk]
                    batch = backbone.collate(own)
                    seen |= zip(chunk, look(batch, self._decision(batch, override), own), strict=True)
                    watch(len(seen), len(rows))
        return [seen[i] for i in range(len(rows))]

    def _decision(self, batch: Batch, override: Override) -> Decision:
        decision = self.learner.decide(batch)
        assert decision is not None, "a learner that has learned a task has experts"
        return override.of(decision) if override != Override() else decision

    def _weights(self, decision: Decision, rows: int) -> np.ndarray:
        """The weights (B, L, H, E) that a decision has used."""
        weights = decision.recorded()
        assert weights is not None, "every adapted layer has asked for its weights"
        return weights.float().cpu().expand(rows, len(self.learner.bank.layers), -1, -1).numpy()

    def _numbers(self, task: Task, texts: int) -> list[int]:
        """The number of the task of each text; 0 for models that are not told."""
        if not self.needs_task:
            if task is not None:
                raise LabError("this model is not told the task of a text: leave out task")
            return [0] * texts
        if task is None:
            raise LabError(f"this model is told the task of every text: name it, task={self.tasks[0]!r}, or one for each text")
        names = [task] * texts if isinstance(task, str) else [*task]
        if len(names) != texts:
            raise LabError(f"task names {len(names)} tasks for {texts} texts: give one name, or one for each text")
        for name in dict.fromkeys(names if names else [task] if isinstance(task, str) else []):
            if name not in self.tasks:
                raise unknown("task", str(name), self.tasks)
        return [self.tasks.index(name) for name in names]

    def _tidy(self, asked: Texts, weights: list[np.ndarray], per_token: bool) -> pd.DataFrame:
        """Weights (L, H, E), or per token (L, T, H, E), of each text as a table."""
        layers, experts = [layer.name for layer in self.learner.bank.layers], self.experts
        counts = [own.size for own in weights]
        shapes = [own.shape for own in weights]

        def codes(axis: int) -> np.ndarray:
            """The number along an axis (counted from the end) of every weight."""
            whole = [np.indices(shape, dtype=np.int32)[axis].ravel() for shape in shapes]
            return np.concatenate(whole) if whole else np.zeros(0, dtype=np.int32)

        position = np.repeat(np.arange(len(weights)), counts)
        texts = asked.columns["text"]
        columns: dict[str, Any] = {"row": asked.index.to_numpy()[position]}
        numbers, different = pd.factorize(np.array(texts, dtype=object))
        columns["text"] = pd.Categorical.from_codes(numbers[position], different)
        columns["layer"] = pd.Categorical.from_codes(codes(0), layers)
        if per_token:
            tokens = [self._tokens(text, row) for text, row in zip(texts, self._ids(asked), strict=True)]
            columns["position"] = codes(1)
            columns["token"] = [tokens[p][t] for p, t in zip(position, columns["position"], strict=True)]
        columns |= {"head": codes(-2), "expert": pd.Categorical.from_codes(codes(-1), experts)}
        columns["weight"] = np.concatenate([own.ravel() for own in weights]) if weights else np.zeros(0, dtype=np.float32)
        return pd.DataFrame(columns)

    def _ids(self, asked: Texts) -> list[list[int]]:
        return [row.ids for row in self.learner.backbone.encode(asked.examples, 0, "asked")]

    # -- one text ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def answer(
        self,
        text: str,
        override: Override | None = None,
        task: int | None = None,
        pair: str | None = None,
        right: Sequence[str] = (),
        writing: Writing | None = None,
    ) -> Answer:
        """The answer to one text, or pair of texts.

        `task`: its number in the stream, for models that are told. `right`: the answers that are right, by which what a model
        writes is scored. `writing` is called with what the model has written so far, at every token (not with several beams, of
        which none is certain before the end). LabError for an empty text, an unknown or missing task, for a change that does not
        fit, and for right answers where the model chooses a class.
        """
        learner, override = self.learner, override or Override()
        override.check(learner.router.heads, learner.consolidation.experts)
        if not text.strip():
            raise LabError("the text is empty: type a few words")
        if self.needs_task and task is None:
            raise LabError("this model is told the task of every text: name it")
        if task is not None and not 0 <= task <= self.after:
            raise LabError(f"task {task} was not learned at this moment: use 0 to {self.after}")
        if right and not self.writes:
            raise LabError("this model chooses a class: right answers are for models that write")
        example = Example(text, 0, pair, tuple(right))
        rows = learner.backbone.encode([example], task or 0, "train")  # of other splits queries are kept by row
        check_positions(learner, rows)
        batch = learner.backbone.collate(rows)
        routed = learner.decide(batch)
        assert routed is not None, "a learner that has learned a task has experts"
        used = override.of(routed) if override != Override() else routed
        answering = learner.head.answering_decision(batch, used)
        with learner.bank.routed(answering):
            reply = learner.head.reply(batch, writing)
        weights = used.recorded()
        assert weights is not None, "every adapted layer has asked for its weights"
        steps = used.recorded_steps() | {"weights" if used is routed else "changed": weights}
        layers = [layer.name for layer in learner.bank.layers]
        length = len(rows[0].ids)
        passed = _per_token(answering, length + len(reply.tokens)) if answering is not used else None
        return Answer(
            text,
            reply.answers,
            reply.probabilities.cpu().numpy(),
            layers,
            self.experts,
            {name: step.float().cpu().expand(1, len(layers), -1, -1)[0].numpy() for name, step in steps.items()},
            self._tokens(text, rows[0].ids),
            _per_token(used, length),
            label=right[0] if right else None,
            cut=bool(cut_texts(learner.backbone, [example], rows)),
            writes=self.writes,
            said=self._said(reply, None if passed is None else passed[:, length - 1 : -1]),
            ended=not reply.tokens or reply.tokens[-1] in learner.backbone.ends,
            scores=dict(reply.scores),
            query=None if routed.match is None else routed.match.query[0].float().cpu().numpy(),
        )

    @property
    def writes(self) -> bool:
        """Whether answers are texts of the model's own."""
        return not self.learner.head.space.names

    # -- going on with it ----------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> Path:
        """Save the model in a new folder from which `lab.load` takes it without its run, see lab.inference.saved_model.

        Written whole or not at all. Raises LabError if the folder is there and not empty, or cannot be written.
        """
        saved_model.write(Path(folder), self.learner, self.origin)
        return Path(folder)

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
        """Save the model as a repository of the Hugging Face hub; returns its address. Raises LabError where that fails."""
        with TemporaryDirectory() as parent:
            folder = self.save_pretrained(Path(parent) / "model")
            return saved_model.push(folder, repo_id, private, token, f"Model of run {self.origin.run.get('run')}")

    def expert(self, name: str | int) -> SingleExpert:
        """One of the experts that act, to be saved for peft or merged. Raises LabError for an unknown one."""
        if isinstance(name, str) and name not in self.experts:
            raise unknown("expert", name, self.experts)
        return SingleExpert(self.learner, self.origin, self.experts.index(name) if isinstance(name, str) else name)

    def merge(self, task: str | None = None) -> "PreTrainedModel":
        """A plain model of transformers with the experts merged in, where the decision is the same for all texts.

        `task`: the one for which it is merged, for routers that are given the task. Its hidden states are those of the routed
        model; `tokenizer` belongs to it, and of the classifier it has nothing. Raises LabError where texts are routed
        differently, and for experts that are no linear change of their layers.
        """
        told = Reads.TASK in self.learner.router.reads
        if task is not None and not told:
            raise LabError(f"router {self.learner.router.name} is not given the task: leave out task")
        number = self._numbers(task, 1)[0] if told else None
        return merging.merged(self.learner, merging.fixed_decision(self.learner, number))

    def save_merged(self, folder: str | Path, task: str | None = None, expert: str | None = None) -> Path:
        """Save what `merge`, or that of an expert, gives in a new folder, with tokenizer, classifier and a card.

        Raises LabError as these do, and if the folder is there and not empty.
        """
        plain = self.merge(task) if expert is None else self.expert(expert).merge()
        what = f"expert {expert}" if expert else f"all experts, for task {task}" if task else "all experts"
        merging.write(Path(folder), plain, self.learner, self.origin, what)
        return Path(folder)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the backbone, as transformers has it."""
        return self.learner.backbone.tokenizer

    @torch.no_grad()
    def accuracy(self, adapter: Adapter, task: int, examples: Sequence[Example], size: int = 32) -> float:
        """Part of a learned task's examples that are answered right while this LoRA alone acts, with the model's classifier.

        The classes that compete are those of the scenario, as in the oracle's score. LabError for no LoRA, and for other layers.
        """
        learner, own = self.learner, self.learner.bank.layers
        adapter = arithmetic.within(adapter, [layer.name for layer in own])
        shapes = {f"{layer.name}.lora_A": layer.inputs for layer in own} | {
            f"{layer.name}.lora_B": layer.outputs for layer in own
        }
        fits = {name: tensor.shape[name.endswith("lora_A")] for name, tensor in adapter.tensors.items()} == shapes
        if learner.bank.kind.name != "lora" or adapter.kind != "LORA" or not fits:
            raise LabError(f"expert '{adapter.name}' is no LoRA of the layers of this model, so the model cannot answer with it")
        rows = learner.backbone.encode(examples, task, "train")  # of other splits queries are kept by row
        decision = Decision(
            torch.ones(1, 1, 1, 1, device=learner.backbone.device), stacks=self._stacks(adapter), composition="mix"
        )
        batches = [learner.backbone.collate(rows[i : i + size]) for i in range(0, len(rows), size)]
        right = [learner.head.answers(batch, decision, learner.head.tasks_seen).correct for batch in batches]
        return float(np.concatenate(right).mean())

    def _stacks(self, adapter: Adapter) -> list[dict[str, Tensor]]:
        """Per layer the adapter's factors, (1, r, I) and (1, O, r), as if it were of this bank."""
        bank, device = self.learner.bank, self.learner.backbone.device
        kind = cast("Lora", bank.kind)  # as `accuracy` has checked
        factors = {"lora_A": 1.0, "lora_B": adapter.scale / kind.scale}
        return [
            {part: (times * adapter.tensors[f"{layer.name}.{part}"]).to(device).unsqueeze(0) for part, times in factors.items()}
            for layer in bank.layers
        ]

    def _tokens(self, text: str, ids: list[int]) -> list[str]:
        """The tokens of a text as people read them."""
        tokenizer = self.learner.backbone.tokenizer
        if isinstance(tokenizer, HashTokenizer):  # which cannot be turned round; its words are those between blanks
            return ["[start]", *text.split()][: len(ids)]
        return [self._token(number) for number in ids]

    def _token(self, number: int) -> str:
        """A token as people read it."""
        return cast(Tokenizer, self.learner.backbone.tokenizer).decode([number]).strip() or "␣"

    def _said(self, reply: "Reply", weights: np.ndarray | None) -> list[Token]:
        """The tokens of an answer; weights (L, S, H, E) of the passes that gave them, None where one decision holds for all."""
        if reply.logits is None:
            return []
        chances, ends = reply.logits.softmax(-1), self.learner.backbone.ends  # (S, V)

        def name(number: int) -> str:
            return END if number in ends else self._token(number)

        said = []
        for place, number in enumerate(reply.tokens):
            best = chances[place].topk(min(LIKELIEST, chances.shape[1]))
            likeliest = [(name(k), p) for k, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
            own = None if weights is None else weights[:, place]
            said.append(Token(name(number), float(chances[place, number]), likeliest, own))
        return said


def _per_token(decision: Decision | None, tokens: int) -> np.ndarray | None:
    """Weights (L, T, H, E) of a decision that was made for each token of one text; None of any other."""
    if not isinstance(decision, LayerDecision):
        return None
    weights = [w for _, w in sorted(decision.layer_weights.items())]
    if not all(w.dim() == 4 and w.shape[1] == tokens for w in weights):
        return None
    return torch.stack([w[0] for w in weights]).float().cpu().numpy()


def _share(weights: np.ndarray) -> np.ndarray:
    """Each expert's part in the sum of weights (L, H, E), mean over layers and heads: (E,); 0 where all heads are off."""
    total = weights.sum(-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total != 0).mean((0, 1))


def _layers_per_token(decision: Decision, batch: Batch) -> np.ndarray:
    """Weights (B, L, T, H, E) of a decision that was made at each token of the batch. Raises LabError of any other."""
    made = [w for _, w in sorted(decision.layer_weights.items())] if isinstance(decision, LayerDecision) else []
    if not made or not all(w.dim() == 4 and w.shape[1] == batch.mask.shape[1] for w in made):
        raise LabError("this router decides once for the whole text, not for each token: leave out per_token")
    return torch.stack([w.expand(len(batch.mask), -1, -1, -1) for w in made], 1).float().cpu().numpy()
