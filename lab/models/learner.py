"""Backbone, bank, router and classifier put together: batch in, logits and the routing decision out."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lab.adapters import initial_adapters
from lab.config.schema import RunConfig
from lab.core import registry
from lab.core.errors import LabError, unknown
from lab.core.rng import generator
from lab.data.batching import Batch, Encoded, by_length
from lab.data.label_space import LabelSpace
from lab.data.stream import Example, Task
from lab.models.backbone import Backbone, pool
from lab.models.expert_bank import Bank
from lab.models.heads import objective
from lab.routers.base import Decision, LayerDecision, Request


class Output(NamedTuple):
    logits: Tensor  # (B, C), or of texts and label words (B, S, V)
    decision: Decision | None


class Classifier(nn.Module):
    """Linear rows for every class, in one block per task; blocks are added as tasks come.

    With `shared_rows` (scenario domain) every block covers all classes and the logits are the mean over blocks.
    """

    def __init__(self, space: LabelSpace, width: int, device: torch.device, one_block: bool = False):
        """`one_block`: all tasks of scenario domain train the same rows (all but isolated experts do)."""
        super().__init__()
        self.space, self.width, self.device = space, width, device
        self.shared_rows = space.scenario == "domain"
        self.one_block = one_block and self.shared_rows
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

    def forward(self, pooled: Tensor, only: int | None = None) -> Tensor:
        """(B, D) -> (B, C) for all C classes of the stream, -inf for those of tasks not met; `only` one task's block."""
        blocks = [only] if only is not None and not self.one_block else range(len(self.weight))
        parts = {t: nn.functional.linear(pooled, self.weight[t], self.bias[t]) for t in blocks}
        if self.shared_rows:
            return torch.stack(list(parts.values())).mean(0)
        logits = pooled.new_full((len(pooled), len(self.space)), float("-inf"))
        for t, part in parts.items():
            own = self.space.own[t]
            logits = torch.cat([logits[:, : own.start], part, logits[:, own.stop :]], dim=1)
        return logits


class Learner(nn.Module):
    """What is trained and evaluated. The backbone is frozen; `query` asks it alone."""

    def __init__(self, config: RunConfig, tasks: Sequence[Task]):
        super().__init__()
        self.config = config
        self.space = LabelSpace(config.scenario, tasks)
        generates = writes(tasks, config.answer)
        with_rows = [replace(task, labels=()) if generates else task for task in tasks]
        self.classified = LabelSpace(config.scenario, with_rows)  # the classes that have rows of the classifier
        self.backbone = Backbone(config.backbone, generates)
        kind = registry.experts.get(config.experts.name)(config.experts)
        self.bank = Bank(self.backbone.model, self.backbone.type, kind, config.composition, config.router.heads)
        self._check_positions(len(tasks) if self.per_task else len(self.pool), generates)
        if not generates:  # what would be kept is of texts without answers
            self.backbone.enable_prefix_cache(self.bank.layers[0].name)
        router = registry.routers.get(config.router.name)
        self.router = router(config.router, self.bank.layers, self.backbone.width).to(self.device)
        embedding = self.backbone.model.get_input_embeddings().weight
        if self.router.uses_embedded and embedding.shape[1] != self.backbone.width:
            raise LabError(
                f"router {config.router.name} reads embedded tokens of width {self.backbone.width}, this backbone's have "
                f"{embedding.shape[1]}: use router.query=backbone"
            )
        self.router.classes = [len(own) for own in self.space.own]
        if self.backbone.encoder_decoder:
            self._check_sides(router.axes_of(config.router).granularity == "token")
        self.classifier = self.new_classifier()  # without rows where the language model answers
        self.objective = objective(self, tasks)
        self.task_names = [task.name for task in tasks]
        self.queries: dict[tuple, Tensor] = {}  # by the keys of the batch
        self.tasks_seen = 0  # tasks met so far
        self.starts: dict[str, dict[str, Tensor]] = {}  # parameters that experts begin with, by name

    def _check_positions(self, experts: int, generates: bool) -> None:
        """Refuse experts that leave too few positions for the texts, or that would stand before every token that is written."""
        backbone, kind = self.backbone, self.bank.kind
        needed = kind.positions(experts, self.bank.composition)
        if needed and generates:
            raise LabError(f"experts of kind {kind.name} stand before the text and cannot write: use experts.name=lora")
        if backbone.positions is not None and needed and backbone.max_length + needed > backbone.positions:
            raise LabError(
                f"{backbone.max_length} tokens (backbone.max_length) and {needed} positions of {experts} {kind.name}(s) are more "
                f"than the {backbone.positions} positions of the backbone: cut the texts or shorten the prompts"
            )

    def _check_sides(self, per_token: bool) -> None:
        """Refuse routers that decide from what a layer reads where some layers read the text and others the answer."""
        name, given = self.config.router.name, f"decoder layers of backbone '{self.config.backbone.name}' are given the answer"
        if self.router.reads_layers:
            raise LabError(f"router {name} reads the text in every layer, but {given}: use router.query=backbone")
        if per_token:
            raise LabError(
                f"router {name} weighs experts for each token of the text, but {given}: use another router, or a decoder"
            )

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    def new_classifier(self) -> Classifier:
        return Classifier(self.classified, self.backbone.width, self.device, one_block=not self.isolated)

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """Inside the block the classifier is a fresh one over all classes of the stream."""
        kept, self.classifier = self.classifier, self.new_classifier()
        for name in self.task_names:
            self.classifier.grow(self.config.seed, "classifier", name)
        try:
            yield
        finally:
            self.classifier = kept

    @property
    def per_task(self) -> bool:
        return self.config.experts.allocation == "per_task"

    @property
    def pool(self) -> list[str]:
        """Names of the experts that every task trains; none where each task has its own."""
        return self.config.experts.pool

    @property
    def current(self) -> range:
        """Numbers of the experts that the task met last trains."""
        return range(len(self.bank) - 1 if self.per_task else 0, len(self.bank))

    @property
    def isolated(self) -> bool:
        """Whether an expert is trained while all others are switched off."""
        return self.per_task and self.config.experts.isolated

    def add_task(self, t: int) -> None:
        """Room for task t: classifier rows, routing and, where experts are per task, an expert; earlier experts are frozen."""
        seed, name = self.config.seed, self.task_names[t]
        self.tasks_seen = t + 1
        self.classifier.grow(seed, "classifier", name)
        new = [name] if self.per_task else self.pool[len(self.bank) :]
        if new:
            for k in range(len(self.bank)):
                self.bank.trainable(k, False)
            for expert in new:
                self.begin(self.bank.grow(expert, seed, "expert", expert))
            self.router.grow(len(self.bank))
        self.router.add_task(t, generator(seed, "router", name))
        self.router.to(self.device)  # what it drew for the task was made on the CPU

    def read_starts(self) -> None:
        """Read what `experts.start` names. Raises LabError for names of no expert of the run, and for experts that do not fit."""
        names = self.pool or self.task_names
        for name, place in self.config.experts.start.items():
            if name not in names:
                raise unknown("expert in experts.start", name, names)
            self.starts[name] = self.bank.load_compatible(initial_adapters.folder(place), self.config.backbone.name)

    def begin(self, k: int) -> None:
        """Give the fresh expert k the values it is to begin with, where it has any."""
        if self.bank.names[k] in self.starts:
            self.bank.load_expert(k, self.starts[self.bank.names[k]])

    def merge_to_average(self) -> None:
        """One expert, the average of all, in place of the bank; nothing is left to choose."""
        self.bank.average("average")
        uniform = registry.routers.get("uniform")
        self.router = uniform(registry.routers.options("uniform"), self.bank.layers, self.backbone.width)
        self.router.grow(1)

    def after_expert_trained(self, rows: Sequence[Encoded], queries: Sequence[Tensor]) -> None:
        """Let the router keep what it needs of the task met last: its trained expert, its training examples and their queries."""
        experts = [dict(self.bank.expert(k)) for k in range(len(self.bank))]
        with torch.no_grad():
            self.router.after_expert_trained(experts, queries, torch.tensor([row.label for row in rows], device=self.device))

    def reinitialise(self) -> None:
        """Experts and classifier rows of the tasks met so far as they were before any training."""
        seed, met = self.config.seed, len(self.classifier.weight)
        self.classifier = self.new_classifier()
        for name in self.task_names[:met]:
            self.classifier.grow(seed, "classifier", name)
        for k, name in enumerate(self.bank.names):
            self.bank.reinitialise(k, seed, "expert", name)
            self.begin(k)

    def encode(self, examples: Sequence[Example], task: int, split: str) -> list[Encoded]:
        """Token ids of all examples of a split, see Backbone.encode."""
        rows = self.backbone.encode(examples, task, split)
        self.objective.observe_rows(rows, split)
        return rows

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        return self.backbone.collate(rows)

    @torch.no_grad()
    def query(self, batch: Batch) -> Tensor:
        """Frozen backbone's sequence representations (B, D).

        Batches of test and validation examples come again after every task, made of the same rows: they are computed once.
        """
        if self.bank.slot is not None:
            raise LabError("queries come from the frozen backbone: ask for them before the bank is routed")
        key = tuple(batch.keys)
        if key in self.queries:
            return self.queries[key].to(self.device)
        found = self.backbone.embed(batch)
        if all(split in ("validation", "test") for _, split, _ in key):
            self.queries[key] = found.cpu()
        return found

    @torch.no_grad()
    def layer_queries(self, rows: Sequence[Encoded], size: int = 64) -> list[Tensor]:
        """Per adapted layer, what a router may be fed with on these rows while no expert acts: (N, D) each."""
        batches = [self.collate(rows[i : i + size]) for i in range(0, len(rows), size)]
        if self.router.uses_query:
            return [torch.cat([self.query(batch) for batch in batches])] * len(self.bank.layers)
        seen: list[list[Tensor]] = [[] for _ in self.bank.layers]
        for batch in batches:

            def silent(layer: int, x: Tensor, mask: Tensor = batch.mask) -> Tensor:
                seen[layer].append(pool(x.float(), mask, "mean"))
                return x.new_zeros(1, self.router.heads, len(self.bank))

            with self.bank.routed(LayerDecision(silent)):
                self.backbone.embed(batch)
        return [torch.cat(parts) for parts in seen]

    @torch.no_grad()
    def represented(self, rows: Sequence[Encoded], size: int = 64) -> dict[tuple[int, str, int], Tensor]:
        """The sequence representation (D,) of each row as the router sends it, by the row's key."""
        found: dict[tuple[int, str, int], Tensor] = {}
        for chunk in by_length(rows, size):
            batch = self.collate([rows[i] for i in chunk])
            with self.bank.routed(self.decide(batch)):
                found |= zip(batch.keys, self.backbone.embed(batch), strict=True)
        return found

    def request(self, batch: Batch, noise: torch.Generator | None = None) -> Request:
        """What the router may see; the task only if the router declares that it uses it."""
        query = self.query(batch) if self.router.uses_query else None
        embedded = self.backbone.embedded(batch) if self.router.uses_embedded else None
        return Request(batch.mask, query, batch.task if self.router.uses_task_id else None, noise, embedded)

    def decide(self, batch: Batch, noise: torch.Generator | None = None) -> Decision | None:
        """The router's decision; None while the bank is empty."""
        return self.router(self.request(batch, noise)) if len(self.bank) else None

    def single_expert_decision(self, k: int) -> Decision:
        """The decision that only expert k acts, with weight 1.

        Both compositions are then the same function; it is always computed in the same form, so that an isolated expert
        has the same bytes in every recipe.
        """
        return Decision(torch.ones(1, 1, 1, 1, device=self.device), experts=(k,), composition="mix")

    def logits(self, batch: Batch, only: int | None = None) -> Tensor:
        """(B, C), or of texts and label words (B, S, V), under the decision the bank is routed by."""
        return self.objective.logits(batch, only)

    def forward(self, batch: Batch) -> Output:
        decision = self.decide(batch)
        with self.bank.routed(decision):
            return Output(self.logits(batch), decision)

    @torch.no_grad()
    def predict(self, rows: Sequence[Encoded], size: int = 64) -> Tensor:
        """Logits (N, C) of the rows as the router sends them."""
        return torch.cat([self(self.collate(rows[i : i + size])).logits for i in range(0, len(rows), size)])

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """What learning the task met last changes, by names of its own: its expert (or the shared ones), classifier blocks."""
        t, found = self.tasks_seen - 1, {}
        for k in self.current:
            owner = f"task{t}." if self.per_task else f"{self.bank.names[k]}." if len(self.current) > 1 else ""
            found |= {owner + name: p for name, p in self.bank.expert(k).items()}
        if self.router.learns_with_experts:
            found |= {f"router.{name}": p for name, p in self.router.of_task(t).items()}
        return found | self.parameters_of(range(self.tasks_seen) if self.config.train.loss_classes == "seen" else [t])

    def cross_entropy(self, logits: Tensor, label: Tensor, task: Tensor, how: str | None = None) -> Tensor:
        """Mean cross-entropy over the competing classes ("task" or "seen", None: train.loss_classes), or over tokens.

        logits (B, C), labels within their tasks (B,), tasks (B,); of texts logits (B, S, V) and tokens (B, S). What is UNLABELLED
        does not count.
        """
        return self.objective.loss(logits, label, task, how or self.config.train.loss_classes)

    def own_cross_entropy(self, logits: Tensor, label: Tensor, task: Tensor) -> Tensor:
        """Mean cross-entropy among the classes of the one task that all rows are of; arguments as for cross_entropy.

        Only that task's columns are computed with. Masked ones would change nothing but the rounding, which depends on where the
        task's columns stand among all: an isolated expert is to have the same bytes in every order of the tasks.
        """
        return self.objective.own_loss(logits, label, task)

    def competing(self, logits: Tensor, task: Tensor, how: str | None = None) -> Tensor:
        """Logits (B, C) with -inf where a class does not compete, see cross_entropy."""
        return logits.masked_fill(
            ~self.space.competing(task, self.tasks_seen, how or self.config.train.loss_classes), float("-inf")
        )

    def parameters_of(self, tasks: Iterable[int]) -> dict[str, nn.Parameter]:
        """Classifier blocks of some tasks, by name; each parameter once."""
        blocks = [0] if self.classifier.one_block else tasks
        return {f"task{t}.{name}": p for t in blocks for name, p in self.classifier.block(t).items() if p.numel()}


def writes(tasks: Sequence[Task], answer: str) -> bool:
    """Whether the language model answers, with free text or by the words of labels.

    LabError where some tasks ask for free text and some do not, and where words of labels are to answer those that do.
    """
    kinds = {task.generates: task.name for task in tasks}
    if len(kinds) > 1:
        raise LabError(
            f"task '{kinds[True]}' asks for free text and task '{kinds[False]}' for labels: "
            "stream.labels_as_text=true writes labels as text, or name tasks of one kind in stream.tasks"
        )
    if True in kinds and answer == "words":
        raise LabError(f"answer=words chooses among labels, task '{kinds[True]}' asks for free text: use answer=classifier")
    return True in kinds or answer == "words"
