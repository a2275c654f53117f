"""Backbone, bank, router and head put together: batch in, logits and the routing decision out."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lab.adapters import initial_adapters
from lab.config.schema import BackboneConfig, RunConfig
from lab.consolidation.base import Consolidation
from lab.core import registry
from lab.core.errors import LabError, RunFailed, unknown
from lab.core.plugin_errors import wrong_return
from lab.core.rng import generator
from lab.data.batching import Batch, Encoded, by_length
from lab.data.stream import Example, Task
from lab.models.backbone import Backbone
from lab.models.expert_bank import Bank
from lab.models.heads import Head, head_of
from lab.models.layer_calls import LEAVE_OUT
from lab.models.router_inputs import RouterInputs
from lab.routers.base import Decision, MadeOfExamples, MadeOfExperts, Reads, Router, TaskAware, Trained, refuse_weights

CONSOLIDATION = "consolidation."  # how names of its tensors begin beside those of the router


class Output(NamedTuple):
    logits: Tensor  # (B, C), or of texts and label words (B, S, V)
    decision: Decision | None


class Learner(nn.Module):
    """What is trained and evaluated: a frozen backbone, experts in its layers, a router among them, a head on top.

    Between bank and router stands a consolidation, by default none: it turns the trained experts into those that act.
    """

    def __init__(self, config: RunConfig, tasks: Sequence[Task]):
        """Raises LabError for parts that cannot work together."""
        super().__init__()
        self.config, self.task_names = config, [task.name for task in tasks]
        head = head_of(config, tasks)
        self.backbone = Backbone(config.backbone, generates=not head.has_rows)
        kind = registry.experts.get(config.experts.name)(config.experts)
        self.bank = Bank(self.backbone.model, self.backbone.type, kind, config.composition, config.router.heads)
        if head.has_rows:  # what is kept is of texts without answers
            self.backbone.enable_prefix_cache(self.bank.layers[0].name)
        kind_of_router = registry.routers.get(config.router.name)
        embedded = Reads.EMBEDDED in kind_of_router.reads_of(config.router)
        width = self.backbone.embedding_width if embedded else self.backbone.width
        self.router: Router = kind_of_router(config.router, self.bank.layers, width)
        consolidation = registry.consolidations.get(config.consolidation.name)
        self.consolidation: Consolidation = consolidation(config.consolidation, self.router, self.bank.layers)
        self.head: Head = head(config, tasks, self.backbone, self.bank)
        self.inputs = RouterInputs(self.backbone, self.bank)
        one = config.experts.allocation == "shared"
        self.bank.learn_calls(self.backbone.trial(answers=not head.has_rows), self.backbone.tolerance, alike=one)
        _check_prompts(self, len(config.experts.pool or tasks))
        _check_router(self)
        self.router.to(self.backbone.device)
        self.consolidation.to(self.backbone.device)

    @property
    def per_task(self) -> bool:
        """Whether every task brings an expert of its own."""
        return self.config.experts.allocation == "per_task"

    @property
    def isolated(self) -> bool:
        """Whether an expert is trained while all others are switched off."""
        return self.per_task and self.config.experts.isolated

    @property
    def current(self) -> range:
        """Numbers of the experts that the newest task trains."""
        return range(len(self.bank) - 1 if self.per_task else 0, len(self.bank))

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def add_task(self, t: int) -> None:
        """Room for task t (0-based): classifier rows, routing and, where experts are per task, an expert; earlier ones freeze."""
        seed, name = self.config.seed, self.task_names[t]
        self.head.add_task(t)
        new = [name] if self.per_task else self.config.experts.pool[len(self.bank) :]
        if new:
            for k in range(len(self.bank)):
                self.bank.trainable(k, False)
            for expert in new:
                self.bank.grow(expert, seed, "expert", expert)
            self.consolidation.grow(len(self.bank))
            self.router.grow(self.consolidation.choices)
        if isinstance(self.router, TaskAware):
            self.router.add_task(t, len(self.head.space.own[t]), generator(seed, "router", name))
        self.router.to(self.backbone.device)  # what it drew for the task was made on the CPU

    @torch.no_grad()
    def after_expert_trained(self, rows: Sequence[Encoded], queries: Tensor | None) -> None:
        """Consolidation and router keep what they need of the newest task: its trained expert, its training examples.

        `queries` (N, D): those of the examples in the frozen backbone, for routers that are MadeOfExamples.
        """
        self.consolidation.after_expert_trained(self.bank.experts())
        if isinstance(self.router, MadeOfExamples):
            assert queries is not None, "this router is made of the queries of a task's examples"
            labels = torch.tensor([row.label for row in rows], device=self.backbone.device)
            self.router.read_examples(len(self.bank) - 1, queries, labels)
        if not self.consolidation.trains:
            self.after_consolidation()

    @torch.no_grad()
    def after_consolidation(self) -> None:
        """The experts that act have their values: a router that is made of experts reads them."""
        if isinstance(self.router, MadeOfExperts):
            self.router.read_experts(self.consolidation.acting(self.bank.experts()))

    def reinitialise(self) -> None:
        """Experts and classifier rows of the tasks so far as they were before any training."""
        self.head.reinitialise()
        for k, name in enumerate(self.bank.names):
            self.bank.reinitialise(k, self.config.seed, "expert", name)

    def merge_to_average(self) -> None:
        """One expert, the average of all, in place of the bank; nothing is left to choose."""
        self.bank.average("average")
        uniform = registry.routers.get("uniform")
        self.router = uniform(registry.routers.options("uniform"), self.bank.layers, self.backbone.width)
        self.consolidation = registry.consolidations.get("none")(self.config.consolidation, self.router, self.bank.layers)
        self.router.grow(1)
        self.consolidation.grow(1)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """What learning the newest task changes, by names of its own: its expert (or the shared ones), classifier blocks."""
        t = self.head.tasks_seen - 1
        parameters: dict[str, nn.Parameter] = {}
        for k in self.current:
            owner = f"task{t}." if self.per_task else f"{self.bank.names[k]}." if len(self.current) > 1 else ""
            parameters |= {owner + name: p for name, p in self.bank.expert(k).items() if not self.bank.is_fixed(name)}
        if self.router.trained is Trained.WITH_EXPERTS:
            own = self.router.of_task(t) if isinstance(self.router, TaskAware) else dict(self.router.named_parameters())
            parameters |= {f"router.{name}": p for name, p in own.items()}
        return parameters | self.head.parameters_of(range(t + 1) if self.config.train.loss_classes == "seen" else [t])

    # -- batches -------------------------------------------------------------------------------------------------------

    def encode(self, examples: Sequence[Example], task: int, split: str) -> list[Encoded]:
        """Token ids of all examples of a split, see Backbone.encode."""
        rows = self.backbone.encode(examples, task, split)
        self.head.observe_rows(rows, split)
        return rows

    def decide(self, batch: Batch, noise: torch.Generator | None = None) -> Decision | None:
        """The decision about a batch; None while the bank is empty. `noise`: given while the router is trained."""
        if not len(self.bank):
            return None
        decision = self.router(self.inputs.request(self.router, batch, noise))
        return self.consolidation.applied(_checked(self, decision, len(batch.mask)))

    def forward(self, batch: Batch) -> Output:
        decision = self.decide(batch)
        with self.bank.routed(decision):
            return Output(self.head.logits(batch), decision)

    @torch.no_grad()
    def predict(self, rows: Sequence[Encoded], size: int = 64) -> Tensor:
        """Logits (N, C) of the rows as the router sends them."""
        return torch.cat([self(self.backbone.collate(rows[i : i + size])).logits for i in range(0, len(rows), size)])

    @torch.no_grad()
    def represented(
        self, rows: Sequence[Encoded], decision: Decision | None = None, size: int = 64
    ) -> dict[tuple[int, str, int], Tensor]:
        """The sequence representation (D,) of each row by the row's key, under a decision, else as the router sends it."""
        representations: dict[tuple[int, str, int], Tensor] = {}
        for chunk in by_length(rows, size):
            batch = self.backbone.collate([rows[i] for i in chunk])
            with self.bank.routed(decision or self.decide(batch)):
                representations |= zip(batch.keys, self.backbone.embed(batch), strict=True)
        return representations


def _checked(learner: Learner, decision: Any, rows: int) -> Decision:
    """What the router returned for so many rows, if layers can act by it; RunFailed if not."""
    router, of = learner.router, f"router '{learner.router.name}'"
    if not isinstance(decision, Decision):
        raise RunFailed(wrong_return(router, "forward", decision, "a Decision"))
    decision.of, experts = of, router.experts if decision.experts is None else len(decision.experts)
    if decision.weights is not None and decision.stacks is None:
        axes = {"rows": (1, rows), "layers": (1, len(learner.bank.layers)), "routing heads": (router.heads,)}
        refuse_weights(of, decision.weights, axes | {"experts": (experts,)}, learner.backbone.device)
    return decision


def read_initial_experts(learner: Learner) -> None:
    """Read what `experts.start` names. Raises LabError for names of no expert of the run, and for experts that do not fit."""
    experts, bank = learner.config.experts, learner.bank
    names = experts.pool or learner.task_names
    for name, path in experts.start.items():
        if name not in names:
            raise unknown("expert in experts.start", name, names)
        try:
            bank.initial_values[name] = bank.load_compatible(initial_adapters.folder(path), learner.backbone.base)
        except LabError as error:
            raise LabError(f"experts.start.{name}: {error}") from None


def routing_state(learner: Learner) -> dict[str, Tensor]:
    """All that router and consolidation hold, by name."""
    own = {f"{CONSOLIDATION}{name}": tensor for name, tensor in learner.consolidation.state_dict().items()}
    return learner.router.state_dict() | own


def load_routing_state(learner: Learner, tensors: dict[str, Tensor]) -> None:
    """Take `routing_state` back; in runs of earlier versions a router held its consolidation, and another router in itself."""
    if any(name.startswith("choice.") for name in tensors) or "cluster" in tensors:
        tensors = {
            name.removeprefix("choice.") if name.startswith("choice.") else CONSOLIDATION + name: tensor
            for name, tensor in tensors.items()
        }
    own = {name.removeprefix(CONSOLIDATION): tensor for name, tensor in tensors.items() if name.startswith(CONSOLIDATION)}
    learner.consolidation.load_state_dict(own)
    learner.router.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith(CONSOLIDATION)})


def needs_task(learner: Learner) -> bool:
    """Whether the model must be told the task of a text."""
    return learner.head.space.scenario == "task" or Reads.TASK in learner.router.reads


def check_positions(learner: Learner, rows: Iterable[Encoded]) -> list[str]:
    """Refuse texts that with the longest answer need more positions than the backbone has a table of.

    Where positions are computed for any number, as rotary ones are, a sentence is returned that says so.
    """
    backbone, answer = learner.backbone, learner.head.answer_tokens
    limit, own = backbone.answer_positions, backbone.encoder_decoder  # an encoder-decoder counts answers apart from texts
    text = 0 if own else max((len(row.ids) for row in rows), default=0)
    if not answer or limit is None or text + answer <= limit.count:
        return []
    needed = f"answers of up to {answer} tokens" if own else f"texts of up to {text} tokens and answers of up to {answer}"
    fact = f"{needed} need more than the {limit.count} positions of backbone '{backbone.config.name}'"
    if limit.fixed:
        lower = _lower_to(limit.count if own else limit.count - answer)
        raise LabError(f"{fact}: {lower}write shorter answers (decoding.max_tokens, the targets of the data)")
    return [f"{fact}: it was made for no more, what it computes there may be poor"]


def _check_prompts(learner: Learner, experts: int) -> None:
    """Refuse experts that leave too few positions for the texts, or that would stand before every token that is written."""
    backbone, kind = learner.backbone, learner.bank.kind
    needed = kind.positions(experts, learner.bank.composition)
    if needed and not learner.head.has_rows:
        raise LabError(f"experts of kind {kind.name} stand before the text and cannot write: use experts.name=lora")
    limit = backbone.text_positions
    if limit and needed and backbone.max_length + needed > limit.count:
        lower = _lower_to(limit.count - needed)
        raise LabError(
            f"{backbone.max_length} tokens (backbone.max_length) and {needed} positions of {experts} {kind.name}(s) are more "
            f"than the {limit.count} positions of the backbone: {lower}shorten the prompts"
        )


def _lower_to(tokens: int) -> str:
    """Advice to cut texts to so many tokens, if the option takes the number."""
    least = next(rule.ge for rule in BackboneConfig.model_fields["max_length"].metadata if hasattr(rule, "ge"))
    return f"set backbone.max_length={tokens}, or " if tokens >= least else ""


def _check_router(learner: Learner) -> None:
    """Refuse routers that read what this backbone does not have.

    In an encoder-decoder some layers read the text and others the answer, so no router can decide from what a layer reads. Other
    layers read no text (relative positions), or fewer vectors than it has tokens (Funnel).
    """
    router, backbone = learner.router, learner.backbone
    name, per_token = router.name, router.axes_of(router.options).granularity == "token"
    if backbone.encoder_decoder:
        answer = f"decoder layers of backbone '{backbone.config.name}' are given the answer"
        if Reads.LAYERS in router.reads:
            raise LabError(f"router {name} reads the text in every layer, but {answer}: use router.query=backbone")
        if per_token:
            raise LabError(
                f"router {name} weighs experts for each token of the text, but {answer}: use another router, or a decoder"
            )
    elif per_token or Reads.LAYERS in router.reads:
        layers = learner.bank.routed_layers
        most = max(layer.reads for layer in layers)
        blind = [layer.info.name for layer in layers if layer.reads == 0 or (not per_token and 1 < layer.reads < most)]
        if blind:
            raise LabError(
                f"router {name} decides from the tokens that a layer reads, but layer {blind[0]} is not given those of the text "
                f"at its first call: {LEAVE_OUT}, or use another router"
            )
