"""The stages that train on task after task: an expert, a router's gate, and the routers on the memory.

What loads torch is imported inside the functions that train, see lab.training.stage.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from lab.config.schema import RunConfig
from lab.core import registry
from lab.run_folder import events
from lab.training.stage import Training
from lab.training.workload import TRAINING, Sizes, examples_per_epoch, stored_examples

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lab.data.batching import Batch, Encoded
    from lab.routers.base import Decision, HasGates
    from lab.training.trainer import Session


BEFORE_CALIBRATION = "isolated"  # carried state: the classifier as training on the tasks left it, before any tuning on the memory


class ExpertTraining(Training):
    """Stage A: the task's expert (or the shared ones) and classifier rows, from the task's training examples."""

    session: "Session"
    phase, about, title, announced, rate = "train", "training", "learning", True, "train.lr"

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        return TRAINING * config.train.epochs * examples_per_epoch(config, sizes, task)

    def run(self) -> Iterator[events.Event]:
        session, t, learner = self.session, self.task, self.session.learner
        own_rows = session.protocol.training_rows(session, t)
        if session.cursor.step == 0:
            self.begin(own_rows)
        self.prepare(own_rows)
        reused = self.fetch() if session.cursor.step == 0 else None
        if session.cursor.step == 0:
            count = sum(parameter.numel() for parameter in self.groups[0].values())
            name, progress = session.task_names[t], session.progress()
            yield events.TaskStarted(t, name, len(learner.bank), count, reused is not None, progress)
        if reused is not None:
            session.cursor.reused_s += float(reused["train_s"])
        else:
            for k in learner.current:
                learner.bank.trainable(k, True)
            yield from session.fit(self)
            self.keep()
        self.finish(own_rows)

    def ended(self) -> Iterator[events.Event]:
        yield events.Learned(self.task, self.session.task_names[self.task], self.session.progress())

    def begin(self, own_rows: "list[Encoded]") -> None:
        """Room for the task, and the methods told of it."""
        session = self.session
        session.protocol.add_tasks(session, self.task)
        with session.timed():
            for method in session.methods:
                method.begin_task(self.task, own_rows)

    def prepare(self, own_rows: "list[Encoded]") -> None:
        """What the steps need."""
        session, config = self.session, self.session.config.train
        examples = own_rows
        for method in session.methods:
            examples = method.examples(examples)
        self.batches = session.batches(examples, config.batch_size, "order", self.task)
        self.groups, self.rates = [session.learner.trainable_parameters()], [config.lr]
        self.steps, self.epochs, self.methods = config.epochs * len(self.batches), config.epochs, session.methods
        self.source = [*examples, *session.memory.rows] if session.methods else examples
        self.isolated = session.learner.isolated

    def finish(self, own_rows: "list[Encoded]") -> None:
        """The memory filled, and what methods and the router keep of the trained expert."""
        from lab.routers.base import MadeOfExamples

        session, learner, trained = self.session, self.session.learner, self.groups[0]
        for k in learner.current:
            learner.bank.trainable(k, False)
        session.remember(self.task)
        with session.timed():
            for method in session.methods:
                method.end_task(self.task, own_rows)
        for name in learner.head.parameters_of(range(learner.head.tasks_seen)):
            if name in trained:
                session.carried[BEFORE_CALIBRATION][name] = trained[name].detach().clone()
        if self.isolated:
            with session.timed():
                learner.after_expert_trained(own_rows, self.queries() if isinstance(learner.router, MadeOfExamples) else None)

    # -- a step --------------------------------------------------------------------------------------------------------

    def rows(self, step: int) -> "list[Encoded]":
        from lab.methods.base import rows_of

        rows = self.batches.at(step)
        for method in self.methods:
            rows = rows_of(method, rows, self.session.chance(method.name, self.task, step))
        return rows

    def decision(self, batch: "Batch", step: int) -> "Decision | None":
        from lab.routers.base import single_expert

        learner = self.session.learner
        return single_expert(learner.current[0], learner.backbone.device) if self.isolated else learner.decide(batch)

    def terms(self, batch: "Batch", decision: "Decision | None") -> "dict[str, Tensor]":
        from lab.methods.base import terms_of
        from lab.models.learner import Output

        learner = self.session.learner
        out = Output(learner.head.logits(batch, self.task if self.isolated else None), decision)
        loss = learner.head.isolated_loss if self.isolated else learner.head.loss
        terms = {"task": loss(out.logits, batch)} | (decision.losses if decision else {})
        for method in self.methods:
            terms |= terms_of(method, batch, out, terms)
        return terms

    # -- the store -----------------------------------------------------------------------------------------------------

    def fetch(self) -> dict[str, str] | None:
        """Fill the expert with one that was trained alike before; None where there is none."""
        session, store = self.session, self.session.store
        if store is None or not self.isolated or session.methods:
            return None
        return store.fetch(self.address(), self.stored_parameters())

    def keep(self) -> None:
        """Keep an isolated expert for later runs."""
        session, store = self.session, self.session.store
        if store is not None and self.isolated and not session.methods:
            store.keep(self.address(), self.stored_parameters(), session.cursor.phase_s)

    def address(self) -> str:
        """Content address of the isolated expert."""
        from lab.training.expert_cache import training_address

        session, learner = self.session, self.session.learner
        layers = [layer.name for layer in learner.bank.layers]
        return training_address(session.config, [session.learned_task(self.task)], learner.backbone.identity, layers)

    def stored_parameters(self) -> "dict[str, Tensor]":
        """What is trained, by names without the task's position in the stream."""
        from lab.training.expert_cache import strip_task_prefix

        return strip_task_prefix(self.groups[0], self.task)

    def queries(self) -> "Tensor":
        """Queries of the examples that the task is learned from (N, D); computed once by all runs that share a store."""
        import torch

        from lab.training.expert_cache import query_address

        session, store, learner = self.session, self.session.store, self.session.learner
        task, identity = session.learned_task(self.task), learner.backbone.identity
        address = query_address(session.config.backbone, task, identity) if store else ""
        stored = store.read(address) if store else None
        if stored is not None:
            arrays, about = stored
            session.cursor.reused_s += float(about["train_s"])
            return torch.from_numpy(arrays["query"]).to(learner.backbone.device)
        began = time.perf_counter()
        queries, *_ = learner.inputs.layer_queries(learner.router, session.protocol.training_rows(session, self.task))
        if store:
            store.keep(address, {"query": queries}, time.perf_counter() - began)
        return queries


class GateTraining(Training):
    """A gate of the new expert from the task's training examples, or what consolidates the experts from stored ones.

    Experts and classifier are frozen.
    """

    session: "Session"
    phase, about, rate = "gate", "training the router's gate", "router.lr"

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        consolidation = registry.consolidations.get(config.consolidation.name).steps_of(config.consolidation)
        return TRAINING * (getattr(config.router, "steps", 0) + consolidation) * config.train.batch_size

    def run(self) -> Iterator[events.Event]:
        from lab.routers.base import HasGates

        session, learner = self.session, self.session.learner
        self.expert = len(learner.bank) - 1
        if learner.consolidation.trains:
            options, trained = session.config.consolidation, dict(learner.consolidation.named_parameters())
            self.source, self.rate = session.memory.rows, "consolidation.lr"
        elif isinstance(learner.router, HasGates):
            options, trained = session.config.router, learner.router.gate(self.expert)
            self.source = session.protocol.training_rows(session, self.task)
        else:
            return
        gate = {f"router.{name}": parameter for name, parameter in trained.items()}
        self.batches = session.batches(self.source, session.config.train.batch_size, "gate order", self.task)
        self.groups, self.rates, self.steps = [gate], [options.lr], options.steps
        yield from session.fit(self)
        with session.timed():
            learner.after_consolidation()

    def rows(self, step: int) -> "list[Encoded]":
        return self.batches.at(step)

    def decision(self, batch: "Batch", step: int) -> "Decision | None":
        learner = self.session.learner
        if learner.consolidation.trains:
            return learner.consolidation.oracle_decision(batch.task)
        return cast("HasGates", learner.router).gated(self.expert)  # as `run` has seen

    def terms(self, batch: "Batch", decision: "Decision | None") -> "dict[str, Tensor]":
        learner = self.session.learner
        return {"gate": learner.head.loss(learner.head.logits(batch), batch, "task")}


class RouterTraining(Training):
    """Stage B: routers, and the classifier if asked, from the stored examples; experts and backbone are frozen."""

    session: "Session"
    phase, about, rate = "memory", "training on the memory", "router_training.lr"
    batch = "router_training.batch_size"

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        examples = config.router_training.steps * config.router_training.batch_size
        learning = registry.protocols.get(config.protocol.name).on_memory
        if examples and registry.routers.get(config.router.name).trained not in learning:
            # each goes through the model once, then the classifier alone is tuned
            return float(stored_examples(config, sizes[: task + 1]))
        return TRAINING * examples

    def run(self) -> Iterator[events.Event]:
        session, learner, config = self.session, self.session.learner, self.session.config.router_training
        learns = learner.router.trained in session.protocol.on_memory
        router = {f"router.{name}": p for name, p in learner.router.named_parameters() if learns}
        classifier = learner.head.parameters_of(range(learner.head.tasks_seen))
        tuned = classifier if config.classifier == "tuned" else {}
        if self.task == 0 or not config.steps or not (router or tuned):
            return  # with one task there is nothing to choose between and nothing to calibrate
        self.routes = bool(router)
        if session.cursor.step == 0:
            self.begin(classifier)
        rows = session.memory.rows
        with session.timed():  # where nothing below the classifier learns, what it is fed with
            self.represented = {} if router else learner.represented(rows)
        self.batches = session.batches(rows, config.batch_size, "memory order", self.task)
        self.groups, self.rates, self.steps = [router, tuned], [config.lr, config.classifier_lr], config.steps
        self.source = rows if router else []
        yield from session.fit(self)

    def begin(self, classifier: "dict[str, nn.Parameter]") -> None:
        """The router and the classifier as the first step begins with them."""
        from lab.routers.base import FromMemory

        session, learner = self.session, self.session.learner
        first = next(task for task, stage in session.plan if stage is RouterTraining and task > 0)
        anew = self.task == first or not session.config.router_training.warm_start
        if self.routes and isinstance(learner.router, FromMemory):
            queries, owners = self.stored()
            learner.router.standardise(queries)
            if anew:
                learner.router.reset(session.chance("router", self.task), queries, learner.consolidation.owner(owners))
        if anew:
            for name, parameter in classifier.items():
                parameter.data.copy_(session.carried[BEFORE_CALIBRATION][name])

    def stored(self) -> "tuple[list[Tensor], Tensor]":
        """Of the stored examples of all tasks so far, what a router is fed with, per layer (N, D), and the task's expert (N,).

        What the frozen backbone makes of an example is computed once.
        """
        import torch

        session, learner = self.session, self.session.learner
        before, session.stored_queries = session.stored_queries, {}
        for task in range(learner.head.tasks_seen):
            rows = [row for row in session.memory.rows if row.task == task]
            if task in before and before[task][0] == rows:
                session.stored_queries[task] = before[task]
            elif rows:  # a reservoir may have dropped all of a task's
                session.stored_queries[task] = rows, learner.inputs.layer_queries(learner.router, rows)
        queries = [of_task for _, of_task in session.stored_queries.values()]
        owners = [
            torch.full((len(rows),), task * learner.per_task, device=learner.backbone.device)
            for task, (rows, _) in session.stored_queries.items()
        ]
        return [torch.cat(layer) for layer in zip(*queries, strict=True)], torch.cat(owners)

    # -- a step --------------------------------------------------------------------------------------------------------

    def rows(self, step: int) -> "list[Encoded]":
        return self.batches.at(step)

    def decision(self, batch: "Batch", step: int) -> "Decision | None":
        noise = self.session.chance("gate noise", self.task, step)
        return self.session.learner.decide(batch, noise=noise) if self.routes else None

    def terms(self, batch: "Batch", decision: "Decision | None") -> "dict[str, Tensor]":
        import torch

        learner, represented = self.session.learner, self.represented
        pooled = torch.stack([represented[key] for key in batch.keys]) if represented else None  # (B, D)
        logits = learner.head.logits(batch) if pooled is None else learner.head.classifier(pooled)
        competing = "task" if self.session.config.scenario == "task" else "seen"
        loss = learner.head.loss(logits, batch, competing)
        return {"memory": loss} | (decision.losses if decision else {})


TRAININGS: dict[str, type[Training]] = {stage.phase: stage for stage in (ExpertTraining, GateTraining, RouterTraining)}
