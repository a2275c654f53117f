"""Training on a stream, as a generator of events. The loop is on this page: learn, train on the memory, evaluate, task after
task. What it shares with the other protocol, optimiser steps and scores, is in lab.training.trainer.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lab.config.schema import RunConfig
from lab.data.batching import Batch, Encoded, shuffled
from lab.data.stream import Task
from lab.models.learner import Output
from lab.routers.base import Decision
from lab.run_folder import events
from lab.training.expert_cache import Store, query_address, strip_task_prefix, training_address
from lab.training.trainer import Phase, Session

RATE = {"train": "train.lr", "gate": "router.lr", "memory": "router_training.lr"}  # the learning rate of a phase


@dataclass
class Scores:
    """What the run measures; the content of matrix.json."""

    tasks: list[str]
    labels: list[list[str]]
    matrix: list[list[float | None]] = field(default_factory=list)
    partial: list[float] = field(default_factory=list)  # the row in progress
    measures: dict[str, list[list[float | None]]] = field(default_factory=dict)  # matrices beside it, of texts ROUGE-L
    zero_shot: list[float] | None = None
    oracle: list[float] | None = None
    validation: list[float] | None = None  # last row, on the validation examples


class StreamSession(Session):
    """A run of this protocol in memory: task after task."""

    name = "sequential"
    protocol = "stream"

    def __init__(self, config: RunConfig, tasks: Sequence[Task], store: Store | None = None):
        """`config` must be prepared. Raises LabError for whatever cannot work, before any training."""
        super().__init__(config, tasks, store)
        self.scores = Scores([task.name for task in tasks], [list(task.labels) for task in tasks])
        self.stored_queries: dict[int, tuple[list[Encoded], list[Tensor]]] = {}  # per task: stored rows; per layer (N, D)
        self.classifier_before_calibration: dict[
            str, Tensor
        ] = {}  # classifier as training on the tasks left it, before any tuning on the memory

    # -- the loop ------------------------------------------------------------------------------------------------------

    def train(self) -> Iterator[events.Event]:
        """Everything from the cursor on."""
        if self.cursor.task < 0:
            layers = [layer.name for layer in self.learner.bank.layers]
            sizes = [len(self.rows[t, "train"]) for t in range(len(self.tasks))]
            tasks, labels, device = self.scores.tasks, self.scores.labels, str(self.learner.device)
            yield events.RunStarted(tasks, labels, layers, device, sizes, self.progress())
            yield from self.zero_shot()
            self.advance(0, "train")
        for t in range(self.cursor.task, len(self.tasks)):
            if self.cursor.phase == "train":
                yield from self.learn(t)
                self.advance(t, "gate")
                yield events.Learned(t, self.tasks[t].name, self.progress())
            if self.cursor.phase == "gate":
                yield from self.train_gate(t)
                self.advance(t, "memory")
            if self.cursor.phase == "memory":
                yield from self.train_on_memory(t)
                self.advance(t, "evaluate")
            yield from self.evaluate_row(t)
            self.advance(t + 1, "train")
            stored = self.memory.bytes + sum(method.bytes for method in self.methods)
            yield events.TaskEnded(t, self.tasks[t].name, len(self.memory), stored, self.progress())
        yield from self.last_measures()
        yield events.RunEnded(self.cost(), self.uses())

    def learn(self, t: int) -> Iterator[events.Event]:
        """Stage A: the task's expert (or the shared one) and classifier rows, from the task's training examples."""
        learner, config, rows = self.learner, self.config.train, self.rows[t, "train"]
        if self.cursor.step == 0:
            learner.add_task(t)
            with self.timed():
                for method in self.methods:
                    method.begin_task(t, rows)
        examples = rows
        for method in self.methods:
            examples = method.examples(examples)
        isolated, trained = learner.isolated, learner.trainable_parameters()
        store = self.store if isolated and not self.methods else None
        address = self.expert_address(t) if store else ""
        found = store.fetch(address, strip_task_prefix(trained, t)) if store and self.cursor.step == 0 else None
        if self.cursor.step == 0:
            count = sum(parameter.numel() for parameter in trained.values())
            yield events.TaskStarted(t, self.tasks[t].name, len(learner.bank), count, found is not None, self.progress())
        if found is not None:
            self.cursor.reused_s += float(found["train_s"])
        else:
            steps_per_epoch = -(-len(examples) // config.batch_size)

            def rows_of(step: int) -> list[Encoded]:
                epoch, place = divmod(step, steps_per_epoch)
                batches = shuffled(examples, config.batch_size, self.chance("order", t, epoch))
                chosen = [examples[i] for i in batches[place]]
                for method in self.methods:
                    chosen = method.rows(chosen, self.chance(method.name, t, step))
                return chosen

            def decide(batch: Batch, step: int) -> Decision:
                return learner.single_expert_decision(learner.current[0]) if isolated else learner.decide(batch)

            def terms(batch: Batch, decision: Decision) -> dict[str, Tensor]:
                out = Output(learner.logits(batch, t if isolated else None), decision)
                loss = learner.own_cross_entropy if isolated else learner.cross_entropy
                named = {"task": loss(out.logits, batch.label, batch.task)} | decision.losses
                for method in self.methods:
                    named |= method.terms(batch, out)
                return named

            for k in learner.current:
                learner.bank.trainable(k, True)
            steps, rates = config.epochs * steps_per_epoch, [config.lr]
            drawn = [*examples, *self.memory.rows] if self.methods else examples
            yield from self.fit(t, Phase([trained], rates, steps, config.epochs, drawn, rows_of, decide, terms, self.methods))
            if store:
                store.keep(address, strip_task_prefix(trained, t), self.cursor.phase_s)
        for k in learner.current:
            learner.bank.trainable(k, False)
        self.memory.add(self.tasks[t], rows)
        with self.timed():
            for method in self.methods:
                method.end_task(t, rows)
        for name in learner.parameters_of(range(t + 1)):
            if name in trained:
                self.classifier_before_calibration[name] = trained[name].detach().clone()
        if isolated:
            with self.timed():
                learner.after_expert_trained(rows, self.queries(t) if learner.router.learns_queries else [])

    def train_gate(self, t: int) -> Iterator[events.Event]:
        """What the router has for the new expert alone, from the task's training examples; expert and classifier are frozen."""
        learner, batch_size, options = self.learner, self.config.train.batch_size, self.config.router
        expert, rows = len(learner.bank) - 1, self.memory.rows if self.learner.router.holds_experts else self.rows[t, "train"]
        gate = {f"router.{name}": parameter for name, parameter in learner.router.gate(expert).items()}
        if not gate:
            return

        def rows_of(step: int) -> list[Encoded]:
            epoch, place = divmod(step, -(-len(rows) // batch_size))
            return [rows[i] for i in shuffled(rows, batch_size, self.chance("gate order", t, epoch))[place]]

        def decide(batch: Batch, step: int) -> Decision:
            return learner.router.gated(expert, batch.task)

        def terms(batch: Batch, decision: Decision) -> dict[str, Tensor]:
            return {"gate": learner.cross_entropy(learner.logits(batch), batch.label, batch.task, "task")}

        yield from self.fit(t, Phase([gate], [options.lr], options.steps, 1, rows, rows_of, decide, terms))
        with self.timed(), torch.no_grad():
            learner.router.gate_trained()

    def train_on_memory(self, t: int) -> Iterator[events.Event]:
        """Stage B: routers, and the classifier if asked, from the stored examples; experts and backbone are frozen."""
        learner, config = self.learner, self.config.router_training
        learns = learner.router.learns_on_memory(self.config.router)
        own = learner.router.gate(len(learner.bank) - 1)  # was trained in the phase before
        router = {f"router.{name}": p for name, p in learner.router.named_parameters() if learns and name not in own}
        classifier = learner.parameters_of(range(t + 1))
        tuned = classifier if config.classifier == "tuned" else {}
        if t == 0 or not config.steps or not (router or tuned):
            return  # with one task there is nothing to choose between and nothing to calibrate
        if self.cursor.step == 0:
            queries, owners = self.stored(t) if router else ([], torch.zeros(0))
            learner.router.standardise(queries)
            if t == 1 or not config.warm_start:
                learner.router.reset(self.chance("router", t), queries, owners)
                with torch.no_grad():
                    for name, parameter in classifier.items():
                        parameter.copy_(self.classifier_before_calibration[name])
        how = "task" if self.config.scenario == "task" else "seen"
        with self.timed():  # where nothing below the classifier learns, what it is fed with
            fixed = {} if router else learner.represented(self.memory.rows)

        def rows_of(step: int) -> list[Encoded]:
            rows = self.memory.rows
            epoch, place = divmod(step, -(-len(rows) // config.batch_size))
            return [rows[i] for i in shuffled(rows, config.batch_size, self.chance("memory order", t, epoch))[place]]

        def decide(batch: Batch, step: int) -> Decision | None:
            return learner.decide(batch, noise=self.chance("gate noise", t, step)) if router else None

        def terms(batch: Batch, decision: Decision | None) -> dict[str, Tensor]:
            known = torch.stack([fixed[key] for key in batch.keys]) if fixed else None  # (B, D)
            logits = learner.logits(batch) if known is None else learner.classifier(known)
            return {"memory": learner.cross_entropy(logits, batch.label, batch.task, how)} | (decision.losses if decision else {})

        rates, examples = [config.lr, config.classifier_lr], self.memory.rows if router else []
        yield from self.fit(t, Phase([router, tuned], rates, config.steps, 1, examples, rows_of, decide, terms))

    def expert_address(self, t: int) -> str:
        """Content address of the isolated expert of task t."""
        layers = [layer.name for layer in self.learner.bank.layers]
        return training_address(self.config, [self.tasks[t]], self.learner.backbone.identity, layers)

    def queries(self, t: int) -> list[Tensor]:
        """Queries of a task's training examples, (N, D) for every layer; computed once by all runs that share a store."""
        identity = self.learner.backbone.identity
        address = query_address(self.config.backbone, self.tasks[t], identity) if self.store else ""
        found = self.store.read(address) if self.store else None
        if found is not None:
            arrays, about = found
            self.cursor.reused_s += float(about["train_s"])
            return [torch.from_numpy(arrays["query"]).to(self.learner.device)] * len(self.learner.bank.layers)
        began = time.perf_counter()
        queries = self.learner.layer_queries(self.rows[t, "train"])
        if self.store:
            self.store.keep(address, {"query": queries[0]}, time.perf_counter() - began)
        return queries

    def stored(self, t: int) -> tuple[list[Tensor], Tensor]:
        """Of the stored examples of tasks 0..t: what a router is fed with, per layer (N, D), and the expert of their task (N,).

        What the frozen backbone makes of an example is computed once.
        """
        known, self.stored_queries = self.stored_queries, {}
        for task in range(t + 1):
            rows = [row for row in self.memory.rows if row.task == task]
            if task in known and known[task][0] == rows:
                self.stored_queries[task] = known[task]
            elif rows:  # a reservoir may have dropped all of a task's
                self.stored_queries[task] = rows, self.learner.layer_queries(rows)
        queries = [found for _, found in self.stored_queries.values()]
        owners = [
            torch.full((len(rows),), task * self.learner.per_task, device=self.learner.device)
            for task, (rows, _) in self.stored_queries.items()
        ]
        return [torch.cat(layer) for layer in zip(*queries, strict=True)], torch.cat(owners)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def zero_shot(self) -> Iterator[events.Event]:
        """The row before training: an untrained classifier over all classes of the stream (b_j of GEM)."""
        found = []
        with self.learner.untrained():
            for j in range(len(self.tasks)):
                result = yield from self.score(-1, j, seen=len(self.tasks))
                found.append(result.score)
                yield events.Evaluated(-1, j, result.score, len(self.rows[j, "test"]), self.progress(), scores=result.scores)
        self.scores.zero_shot = found

    def evaluate_row(self, t: int) -> Iterator[events.Event]:
        """Row t of the matrix: every task seen so far, on its test examples."""
        self.scores.partial, beside = [], []
        for j in range(t + 1):
            result = yield from self.score(t, j)
            self.scores.partial.append(result.score)
            beside.append(result.scores)
            yield events.Evaluated(
                t,
                j,
                result.score,
                len(self.rows[j, "test"]),
                self.progress(),
                scores=result.scores,
                predictions=result.predictions,
                routing=result.routing,
            )
        unseen = [None] * (len(self.tasks) - t - 1)
        self.scores.matrix.append(self.scores.partial + unseen)
        for name in self.learner.objective.measures:
            self.scores.measures.setdefault(name, []).append([scores[name] for scores in beside] + unseen)
        self.scores.partial = []

    def last_measures(self) -> Iterator[events.Event]:
        """After the last task: the last row on validation examples (for selection), and with oracle routing."""
        last, found = len(self.tasks) - 1, []
        for j in range(len(self.tasks)):
            result = yield from self.score(last, j, "validation")
            found.append(result.score)
        self.scores.validation, found = found, []
        if not self.learner.isolated:
            return
        for j in range(len(self.tasks)):
            result = yield from self.score(last, j, oracle=True)
            found.append(result.score)
            yield events.OracleEvaluated(j, result.score, self.progress())
        self.scores.oracle = found

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def rebuild(self) -> None:
        cursor = self.cursor
        learned = cursor.task + (cursor.phase != "train")  # tasks whose stage A is done
        for t in range(max(learned, cursor.task + 1 if cursor.phase == "train" and cursor.step else learned)):
            self.learner.add_task(t)
            if t < learned:
                self.memory.add(self.tasks[t], self.rows[t, "train"])

    @property
    def checkpoint_extras(self) -> dict[str, dict[str, Tensor]]:
        return {"isolated": self.classifier_before_calibration}

    @property
    def carried_state(self) -> list[Tensor]:
        """The classifier as it was before tuning, if each tuning on the memory begins from there."""
        given = self.config.router_training
        return (
            [*self.classifier_before_calibration.values()]
            if given.steps and given.classifier == "tuned" and not given.warm_start
            else []
        )

    def is_trainable(self, k: int) -> bool:
        """Whether expert k may still change: it is shared, or its task is being learned."""
        return not self.learner.per_task or (k == self.cursor.task and self.cursor.phase == "train")

    def finished_experts(self, t: int) -> list[int]:
        """Experts that are done with training on task t."""
        return [len(self.learner.bank) - 1] if self.learner.per_task else []

    def rate_of(self, t: int, phase: str) -> str:
        """The option that is the learning rate of a phase."""
        return RATE[phase]

    def summary_line(self, t: int) -> str:
        """One line about task t, which has ended."""
        row = self.scores.matrix[t][: t + 1]
        scores = "  ".join(f"{name} {score:.3f}" for name, score in zip(self.stages, row, strict=False))
        return f"after {self.stages[t]}: average {sum(row) / len(row):.3f}   {scores}"
