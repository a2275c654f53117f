"""The model of a run as it was after a task, asked about texts: as it routes them, or with its routing changed.

`load(run, after=3).answer("A text", Override(expert=1)).ranked()` is what it says if expert 1 alone may act. Where the language
model answers, `said` are the tokens of the answer, each with its probability and, where the router decides anew at each, its
weights.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lab.adapters import arithmetic
from lab.adapters.arithmetic import Adapter
from lab.config.resolve import validated
from lab.core.errors import LabError
from lab.data.loading import tasks_of
from lab.data.stream import Example, Task
from lab.models.backbone import is_recorded
from lab.models.learner import Learner, check_positions, load_routing_state, routing_state
from lab.models.pretrained import HashTokenizer, Tokenizer, resolve_device
from lab.routers.base import Decision, LayerDecision, Reads, normalised
from lab.run_folder.prediction import Answer, Token
from lab.run_folder.run import Run

if TYPE_CHECKING:
    from lab.experts.lora import Lora
    from lab.models.heads import Reply

END = "(end)"  # how the token that ends an answer is called
LIKELIEST = 4  # tokens whose probabilities are kept of every place in an answer


@dataclass(frozen=True)
class Override:
    """A change of routing weights, whatever router gave them; nothing set: no change.

    `pruned` are numbers of experts that do not act; the others get their weight in proportion, before any other change. `expert`
    or `uniform` replace the weights by others that sum to one. Else `temperature` t raises them to the power 1/t (of a softmax
    the same as dividing its logits by t) and `top` leaves the largest so many; both keep the sum over the experts. `without` are
    numbers of routing heads that are switched off: their blocks of features are those of the frozen backbone. Where a router
    subtracts the mean of all experts, it does so after the change, and the mean stays that of all.
    """

    expert: int | None = None
    uniform: bool = False
    temperature: float = 1.0
    top: int | None = None
    without: tuple[int, ...] = ()
    pruned: tuple[int, ...] = ()

    def check(self, heads: int, experts: int) -> None:
        """LabError if the change does not fit a decision over so many heads and experts."""
        if self.expert is not None and not 0 <= self.expert < experts:
            raise LabError(f"there is no expert {self.expert}: use 0 to {experts - 1}")
        if not self.temperature > 0:
            raise LabError(f"temperature = {self.temperature}: it must be above 0")
        if self.top is not None and not 1 <= self.top <= experts:
            raise LabError(f"top = {self.top}: use 1 to {experts}")
        if not set(self.without) <= set(range(heads)):
            raise LabError(f"without = {list(self.without)}: this run has {heads} routing head(s), numbered from 0")
        if not set(self.pruned) < set(range(experts)):
            raise LabError(f"pruned = {list(self.pruned)}: this run has {experts} expert(s), numbered from 0, and one must stay")
        if self.expert in self.pruned:
            raise LabError(f"expert {self.expert} is pruned and cannot act alone: choose another one")

    def __call__(self, w: Tensor) -> Tensor:
        """Weights (..., H, E) -> weights of the same shape."""
        acts = torch.ones_like(w).index_fill(-1, torch.tensor(self.pruned, dtype=torch.long, device=w.device), 0.0)
        if self.expert is not None:
            changed = torch.zeros_like(w)
            changed[..., self.expert] = 1
        elif self.uniform:
            changed = acts / acts.sum(-1, keepdim=True)
        else:
            changed, total = w, w.sum(-1, keepdim=True)
            if self.pruned:
                changed = total * normalised(w * acts)
            if self.temperature != 1:
                most = changed.amax(-1, keepdim=True).clamp_min(1e-30)
                changed = total * normalised((changed / most) ** (1 / self.temperature))
            if self.top is not None:
                largest = torch.zeros_like(w).scatter(-1, changed.topk(self.top).indices, 1.0)
                changed = total * normalised(changed * largest)
        if self.without:
            on = torch.ones(w.shape[-2], 1, device=w.device, dtype=w.dtype)
            on[list(self.without)] = 0
            changed = changed * on
        return changed

    def of(self, decision: Decision) -> Decision:
        """The decision with its weights changed, whether they were made before the layers or are made in them.

        The weights as they were stay among its steps.
        """

        def changed(steps: dict[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
            return steps | {"weights": weights, "changed": self(weights)}

        if not isinstance(decision, LayerDecision):
            assert decision.weights is not None, "only decisions made in the layers have no weights yet"
            steps = changed(decision.steps, decision.weights)
            return replace(decision, weights=steps["changed"], steps=steps)

        def decide(layer: int, x: Tensor) -> dict[str, Tensor]:
            made = decision.decide(layer, x)
            steps = made if isinstance(made, dict) else {"weights": made}
            return changed(steps, [*steps.values()][-1])

        used = copy.copy(decision)
        used.decide, used.layer_weights, used.layer_steps = decide, {}, {}
        return used


@dataclass(frozen=True)
class Model:
    """A learner with the weights of one moment of a run; `after` is the last task it had learned."""

    learner: Learner
    after: int

    @property
    def needs_task(self) -> bool:
        """Whether the model must be told the task of a text."""
        return self.learner.head.space.scenario == "task" or Reads.TASK in self.learner.router.reads

    @torch.no_grad()
    def answer(
        self,
        text: str,
        override: Override | None = None,
        task: int | None = None,
        pair: str | None = None,
        right: Sequence[str] = (),
    ) -> Answer:
        """The answer to one text, or pair of texts.

        `task`: its number in the stream, for models that are told. `right`: the answers that are right, by which what a model
        writes is scored. LabError for an empty text, an unknown or missing task, for a change that does not fit, and for right
        answers where the model chooses a class.
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
            reply = learner.head.reply(batch)
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
            learner.consolidation.names(learner.bank.names),
            {name: step.float().cpu().expand(1, len(layers), -1, -1)[0].numpy() for name, step in steps.items()},
            self._tokens(text, rows[0].ids),
            _per_token(used, length),
            label=right[0] if right else None,
            cut=length >= learner.backbone.max_length,
            writes=self.writes,
            said=self._said(reply, None if passed is None else passed[:, length - 1 : -1]),
            ended=not reply.tokens or reply.tokens[-1] in learner.backbone.ends,
            scores=dict(reply.scores),
        )

    @property
    def writes(self) -> bool:
        """Whether answers are texts of the model's own."""
        return not self.learner.head.space.names

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


def load(run: Run, after: int | None = None, device: str | None = None) -> Model:
    """The model of `run` as it was after learning task `after` (default: the last one that was kept).

    `device`: where to compute; default: where the run did if that is here, else the CPU. Raises LabError where the moment was not
    kept, a file is missing or damaged, or the backbone is not the one the run was trained with.
    """
    if not run.protocol.continual:
        raise LabError(f"run '{run.id}' is of protocol {run.protocol.name}: texts can be asked of runs on a stream")
    moments = run.kept()
    after = moments[-1] if after is None and moments else after
    if after not in moments:
        raise LabError(f"run '{run.id}' has no weights of the moment after task {after}; kept: {moments or 'none'}")
    config = validated(run.config)
    backbone = config.backbone.model_copy(update={"device": device or _here(config.backbone.device)})
    tasks = [Task(name, tuple(labels), (), (), ()) for name, labels in zip(run.tasks, run.recorded_scores["labels"], strict=True)]
    learner = Learner(config.model_copy(update={"backbone": backbone}), tasks)
    trained_with = run.info.get("fingerprint", {}).get("backbone")
    if trained_with and not is_recorded(learner.backbone, trained_with):
        raise LabError(f"the backbone {backbone.name} is not the one that run '{run.id}' was trained with: it has changed since")
    for t in range(run.protocol.tasks_met(after, len(tasks))):
        learner.add_task(t)
    recall(run, learner, after)
    _limit_answers(run, learner)
    learner.requires_grad_(False)
    return Model(learner, after)


def recall(run: Run, learner: Learner, after: int) -> None:
    """Give a learner that has met the tasks 0..after the parameters of that moment, from the files of the run."""
    name_of_state = f"state/after_{after}"
    state = run.dir / name_of_state
    try:
        for k, name in enumerate(learner.bank.names):
            changing = state / "experts" / name  # an expert that later tasks train on; others stand in the run folder once
            learner.bank.load_expert(k, learner.bank.read(changing if changing.is_dir() else run.dir / "experts" / name))
            learner.bank.trainable(k, False)
        learner.head.classifier.load_state_dict(load_file(run.file(f"{name_of_state}/classifier.safetensors")))
        load_routing_state(learner, load_file(run.file(f"{name_of_state}/router.safetensors")) if routing_state(learner) else {})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise LabError(f"run '{run.id}' is damaged: {state.name} cannot be read ({str(error).splitlines()[0]})") from error


def _limit_answers(run: Run, learner: Learner) -> None:
    """Let the model write as long answers as in the run; one of an earlier version did not note it, its data say it."""
    if not run.writes or learner.config.decoding.max_tokens:
        return
    if "longest_answer" in run.info:
        learner.head.longest = run.info["longest_answer"]
        return
    for t, task in enumerate(tasks_of(learner.config.stream, learner.config.seed, runs=run.dir.parent)):
        learner.encode(task.train, t, "train")


def _here(device: str) -> str:
    """The device if this machine has it, else the CPU."""
    try:
        return str(resolve_device(device))
    except LabError:
        return "cpu"
