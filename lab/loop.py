"""Training as a generator of events. The loop is on this page: learn, train on the memory, evaluate, task after task.

A session can be entered at any step: everything random is drawn from generators keyed by content, so the cursor, the
parameters and the optimiser are all the state there is.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab import events, registry
from lab.batch import Batch, Encoded, shuffled
from lab.chance import generator
from lab.checks import check
from lab.config import RunConfig
from lab.cost import footprint, peak_memory
from lab.errors import RunFailed
from lab.evaluate import Evaluation, evaluate
from lab.learner import Learner, Output
from lab.memory import Memory
from lab.method import Method
from lab.pretrained import resolve
from lab.router import Decision
from lab.starts import pinned
from lab.store import Store, anywhere
from lab.stream import SPLITS, Task
from lab.work import work_of

EVALUATION_BATCH = 64
RATE = {"train": "train.lr", "gate": "router.lr", "memory": "memory_training.lr"}  # the learning rate of a phase


@dataclass
class Cursor:
    """Where a session stands: `step` steps of `phase` of `task` are done; task -1 is the evaluation before training."""

    task: int = -1
    phase: str = "evaluate"
    step: int = 0
    phase_s: float = 0.0  # seconds of training in this phase
    work: float = 0.0  # units of finished phases, see Session.units
    train_s: float = 0.0
    eval_s: float = 0.0
    reused_s: float = 0.0  # training time that was saved by taking experts from the store


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


def prepare(config: RunConfig, tasks: Sequence[Task], runs: str | Path | None = None) -> RunConfig:
    """The configuration with everything that was chosen automatically written down; `runs`: where experts of runs are found."""
    return resolved(config, [task.name for task in tasks], runs)


def resolved(config: RunConfig, tasks: list[str], runs: str | Path | None = None) -> RunConfig:
    """The same from the names of the tasks in their order."""
    name = "+".join(Path(source).name for source in config.stream.sources) or config.stream.name
    if config.transfer:
        train, held = config.transfer.sides(tasks)
        tasks = train + held
        sides = config.transfer.model_copy(update={"train_tasks": train, "held_out": held})
        config = config.model_copy(update={"transfer": sides})
    stream = config.stream.model_copy(update={"name": name, "tasks": tasks})
    experts = config.experts.model_copy(update={"start": pinned(config.experts.start, runs)})
    return config.model_copy(update={"stream": stream, "backbone": resolve(config.backbone), "experts": experts})


class Session:
    """One run in memory. `train()` trains and evaluates; between two events the state is whole and can be saved."""

    protocol = "stream"

    def __init__(self, config: RunConfig, tasks: Sequence[Task], store: Store | None = None):
        """`config` must be prepared. Raises LabError for whatever cannot work, before any training."""
        self.config, self.tasks, self.store = config, tasks, store
        check(config, tasks)
        self.learner = Learner(config, tasks)
        self.learner.read_starts()
        encode = self.learner.encode
        self.rows = {(t, s): encode(task.split(s), t, s) for t, task in enumerate(tasks) for s in SPLITS}
        self.work = work_of(config, [{s: len(task.split(s)) for s in SPLITS} for task in tasks])
        self.memory = Memory(**dict(config.memory), seed=config.seed)
        build = registry.methods.get
        self.methods = [build(name)(options, self.learner, self.memory) for name, options in config.methods.items()]
        self.cursor = Cursor()
        self.stages = [task.name for task in tasks]  # what the cursor's `task` and that of an event count
        self.scores = Scores([task.name for task in tasks], [list(task.labels) for task in tasks])
        self.stored_queries: dict[int, tuple[list[Encoded], list[Tensor]]] = {}  # per task: stored rows; per layer (N, D)
        self.partial_work = 0.0  # units done in the current phase
        self.optimizer: torch.optim.Optimizer | None = None
        self.saved_moments: dict[str, Tensor] = {}  # of a phase that is gone on with, see lab.checkpoint
        self.isolated: dict[str, Tensor] = {}  # classifier as training on the tasks left it, before any tuning on the memory

    # -- the loop --------------------------------------------------------------------------------------------------

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
            learner.meet(t)
            with self.timed():
                for method in self.methods:
                    method.begin_task(t, rows)
        examples = rows
        for method in self.methods:
            examples = method.examples(examples)
        isolated, trained = learner.isolated, learner.trained()
        store = self.store if isolated and not self.methods else None
        found = store.fetch(store.address(self, t), anywhere(trained, t)) if store and self.cursor.step == 0 else None
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
                return learner.alone(learner.current[0]) if isolated else learner.decide(batch)

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
                store.keep(store.address(self, t), anywhere(trained, t), self.cursor.phase_s)
        for k in learner.current:
            learner.bank.trainable(k, False)
        self.memory.add(self.tasks[t], rows)
        with self.timed():
            for method in self.methods:
                method.end_task(t, rows)
        for name in learner.parameters_of(range(t + 1)):
            if name in trained:
                self.isolated[name] = trained[name].detach().clone()
        if isolated:
            with self.timed():
                learner.learned(rows, self.queries(t) if learner.router.learns_queries else [])

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
        learner, config = self.learner, self.config.memory_training
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
                        parameter.copy_(self.isolated[name])
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

    def queries(self, t: int) -> list[Tensor]:
        """What layer_queries makes of a task's training examples; done once by all runs that share a store."""
        one, layers = self.learner.router.uses_query, len(self.learner.bank.layers)
        address = self.store.address_of_queries(self, t) if self.store else ""
        found = self.store.read(address) if self.store else None
        if found is not None:
            arrays, about = found
            self.cursor.reused_s += float(about["train_s"])
            queries = [torch.from_numpy(arrays[str(layer)]).to(self.learner.device) for layer in range(len(arrays))]
            return queries * layers if one else queries
        began = time.perf_counter()
        queries = self.learner.layer_queries(self.rows[t, "train"])
        if self.store:
            kept = {str(layer): found for layer, found in enumerate(queries[:1] if one else queries)}
            self.store.keep(address, kept, time.perf_counter() - began)
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

    def fit(self, t: int, phase: "Phase") -> Iterator[events.Step]:
        """Optimiser steps of a phase, from the cursor on."""
        parameters = [parameter for group in phase.groups for parameter in group.values()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.optimizer = self.new_optimizer(phase)
        began = time.perf_counter()
        with self.learner.backbone.knowing(phase.examples):
            self.cursor.phase_s += time.perf_counter() - began
            for step in range(self.cursor.step, phase.steps):
                began = time.perf_counter()
                for group, rate in zip(self.optimizer.param_groups, phase.rates, strict=True):
                    group["lr"] = rate * schedule(step, phase.steps, self.config.train.warmup)
                batch = self.learner.collate(phase.rows(step))
                decision = phase.decide(batch, step)
                with self.learner.bank.routed(decision):  # open through backward, see Bank.routed
                    terms = phase.terms(batch, decision)
                    self.optimizer.zero_grad(set_to_none=True)
                    sum(terms.values()).backward()
                for method in phase.methods:
                    method.adjust_gradients()
                if self.config.train.clip:
                    nn.utils.clip_grad_norm_(parameters, self.config.train.clip)
                self.optimizer.step()
                self.cursor.step = step + 1
                self.cursor.phase_s += time.perf_counter() - began
                self.partial_work = self.units(t, self.cursor.phase) * (step + 1) / phase.steps
                yield events.Step(
                    t, self.cursor.phase, step * phase.epochs // phase.steps, phase.epochs, step + 1, phase.steps,
                    {name: term.detach() for name, term in terms.items()}, self.optimizer.param_groups[0]["lr"], self.progress(),
                )  # fmt: skip
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        self.optimizer = None
        if not all(parameter.isfinite().all() for parameter in parameters):
            rate = self.rate_of(t, self.cursor.phase)
            raise RunFailed(f"training on task '{self.stages[t]}' left parameters that are not finite: lower {rate}")

    @contextmanager
    def timed(self) -> Iterator[None]:
        """What happens inside the block counts as training time of the phase."""
        began = time.perf_counter()
        yield
        self.cursor.phase_s += time.perf_counter() - began

    def fingerprint(self) -> dict[str, Any]:
        """What the results rest on: backbone weights and data. A run is gone on with only where they are the same."""
        return {"backbone": self.learner.backbone.identity, "tasks": {task.name: task.digest() for task in self.tasks}}

    def chance(self, purpose: str, t: int, *key: object) -> torch.Generator:
        """The generator of one use of chance: keyed by seed, purpose and the task's name, not by its position."""
        return generator(self.config.seed, purpose, self.stages[t], *key)

    def new_optimizer(self, phase: "Phase") -> torch.optim.Optimizer:
        """AdamW over the groups; in a phase that was left in its middle, with its moments as they were."""
        optimizer = torch.optim.AdamW(
            [{"params": list(group.values()), "lr": rate} for group, rate in zip(phase.groups, phase.rates, strict=True)],
            weight_decay=self.config.train.weight_decay,
        )
        if self.saved_moments and self.cursor.step:
            parameters = [parameter for group in phase.groups for parameter in group.values()]
            for i, parameter in enumerate(parameters):
                state = {name: self.saved_moments[f"optimizer/{i}/{name}"] for name in ("step", "exp_avg", "exp_avg_sq")}
                place = {name: "cpu" if name == "step" else parameter.device for name in state}
                optimizer.state[parameter] = {name: tensor.to(place[name], copy=True) for name, tensor in state.items()}
        self.saved_moments = {}
        return optimizer

    def moments(self) -> dict[str, Tensor]:
        """State of the optimiser of the phase in progress, by parameter number."""
        if self.optimizer is None:
            return {}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state = self.optimizer.state
        return {f"optimizer/{i}/{name}": tensor for i, p in enumerate(parameters) for name, tensor in state[p].items()}

    # -- evaluation ------------------------------------------------------------------------------------------------

    def score(self, after: int, task: int, split: str = "test", seen: int | None = None, oracle: bool = False) -> Iterator[Any]:
        """Progress events, and the Evaluation as the generator's return value."""
        began, rows, start = time.perf_counter(), self.rows[task, split], self.partial_work
        for found in evaluate(self.learner, rows, seen or after + 1, EVALUATION_BATCH, oracle):
            if isinstance(found, Evaluation):
                self.cursor.eval_s += time.perf_counter() - began
                return found
            self.partial_work = start + found
            yield events.Evaluating(after, task, found, len(rows), self.progress())

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
            yield events.Evaluated(t, j, result.score, len(self.rows[j, "test"]), self.progress(),
                                   scores=result.scores, predictions=result.predictions, routing=result.routing)  # fmt: skip
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

    # -- bookkeeping -----------------------------------------------------------------------------------------------

    def meet_all(self) -> None:
        """Room for every task, as at the end of a run."""
        for t in range(len(self.tasks)):
            self.learner.meet(t)

    def rebuild(self) -> None:
        """In a fresh session: the tasks met and the memory filled as the cursor says; values are filled in afterwards."""
        cursor = self.cursor
        learned = cursor.task + (cursor.phase != "train")  # tasks whose stage A is done
        for t in range(max(learned, cursor.task + 1 if cursor.phase == "train" and cursor.step else learned)):
            self.learner.meet(t)
            if t < learned:
                self.memory.add(self.tasks[t], self.rows[t, "train"])

    @property
    def kept(self) -> dict[str, dict[str, Tensor]]:
        """What going on needs beside parameters and statistics, by its name in a saved state."""
        return {"isolated": self.isolated}

    def changing(self, k: int) -> bool:
        """Whether expert k may still change: it is shared, or its task is being learned."""
        return not self.learner.per_task or (k == self.cursor.task and self.cursor.phase == "train")

    def final(self, t: int) -> list[int]:
        """Experts that are done with training on task t."""
        return [len(self.learner.bank) - 1] if self.learner.per_task else []

    def rate_of(self, t: int, phase: str) -> str:
        """The option that is the learning rate of a phase."""
        return RATE[phase]

    def said(self, t: int) -> str:
        """One line about task t, which has ended."""
        row = self.scores.matrix[t][: t + 1]
        scores = "  ".join(f"{name} {score:.3f}" for name, score in zip(self.stages, row, strict=False))
        return f"after {self.stages[t]}: average {sum(row) / len(row):.3f}   {scores}"

    def advance(self, task: int, phase: str) -> None:
        """The current phase is done; the next one begins."""
        done = self.cursor
        spent = done.phase_s if done.phase != "evaluate" else 0.0
        work, train_s = done.work + self.units(done.task, done.phase), done.train_s + spent
        self.cursor = Cursor(task, phase, 0, 0.0, work, train_s, done.eval_s, done.reused_s)
        self.partial_work = 0.0

    def units(self, task: int, phase: str) -> float:
        """Work of a phase in forward passes of one example, see lab.work."""
        return self.work.units(task, phase)

    def progress(self) -> float:
        """Share of the whole run's work that is done."""
        return min((self.cursor.work + self.partial_work) / self.work.total, 1.0)

    def uses(self) -> dict[str, Any]:
        """What the run was given beyond its training examples."""
        task_id = self.config.scenario == "task" or self.learner.router.uses_task_id
        used = self.config.memory_training.steps or any(method.given(method.options) == "stored" for method in self.methods)
        used = used or self.learner.router.holds_experts
        stored, generated = len(self.memory) if used else 0, sum(len(method.generated) for method in self.methods)
        return {"task_id": task_id, "stored_examples": stored, "generated_examples": generated}

    def cost(self) -> dict[str, Any]:
        """Parameters and bytes (see lab.cost) and seconds.

        Times include what was saved by reuse; `reused_s` says how much of train_s that is.
        """
        return footprint(self.learner, self.memory, self.methods) | {
            "train_s": round(self.cursor.train_s + self.cursor.reused_s, 3),
            "reused_s": round(self.cursor.reused_s, 3),
            "eval_s": round(self.cursor.eval_s, 3),
            "peak_memory_bytes": peak_memory(self.learner.device),
        }


@dataclass(frozen=True)
class Phase:
    """What the optimiser does in one phase: groups of named parameters, their rates, the examples, three functions."""

    groups: list[dict[str, nn.Parameter]]
    rates: list[float]
    steps: int
    epochs: int
    examples: Sequence[Encoded]
    rows: Callable[[int], list[Encoded]]
    decide: Callable[[Batch, int], Decision | None]
    terms: Callable[[Batch, Decision | None], dict[str, Tensor]]
    methods: Sequence[Method] = ()  # that may adjust the gradients


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate: linear rise over the warm-up share, then linear fall to zero."""
    rise = max(1, round(warmup * steps))
    return (step + 1) / rise if step < rise else (steps - step) / (steps - rise + 1)
