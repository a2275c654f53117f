"""Training as a generator of events. The loop is on this page: learn, train on the memory, evaluate, task after task.

A session can be entered at any step: everything random is drawn from generators keyed by content, so the cursor, the
parameters and the optimiser are all the state there is.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab import events, registry
from lab.backbone import resolve
from lab.batch import Batch, Encoded, shuffled
from lab.chance import generator
from lab.config import RunConfig
from lab.errors import LabError, RunFailed
from lab.evaluate import Evaluation, evaluate
from lab.learner import Learner, Output
from lab.memory import Memory
from lab.router import Decision
from lab.store import Store
from lab.stream import Task

EVALUATION_BATCH = 64
PHASES = ("train", "memory", "evaluate")
RATE = {"train": "train.lr", "memory": "memory_training.lr"}  # the learning rate of a phase


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
    zero_shot: list[float] | None = None
    oracle: list[float] | None = None
    validation: list[float] | None = None  # last row, on the validation examples


def prepare(config: RunConfig, tasks: Sequence[Task]) -> RunConfig:
    """The configuration with everything that was chosen automatically written down."""
    name = "+".join(Path(source).name for source in config.stream.sources) or config.stream.name
    stream = config.stream.model_copy(update={"name": name, "tasks": [task.name for task in tasks]})
    return config.model_copy(update={"stream": stream, "backbone": resolve(config.backbone)})


class Session:
    """One run in memory. `train()` trains and evaluates; between two events the state is whole and can be saved."""

    def __init__(self, config: RunConfig, tasks: Sequence[Task], store: Store | None = None):
        """`config` must be prepared. Raises LabError for whatever cannot work, before any training."""
        self.config, self.tasks, self.store = config, tasks, store
        check_memory(config, tasks)
        self.learner = Learner(config, tasks)
        encode = self.learner.backbone.encode
        self.rows = {(t, s): encode(task.split(s), t, s) for t, task in enumerate(tasks) for s in ("train", "validation", "test")}
        self.memory = Memory(config.memory.per_task, config.memory.per_class, config.seed)
        build = registry.methods.get
        self.methods = [build(name)(options, self.learner, self.memory) for name, options in config.methods.items()]
        self.cursor = Cursor()
        self.scores = Scores([task.name for task in tasks], [list(task.labels) for task in tasks])
        self.stored_queries: dict[int, list[Tensor]] = {}  # per task and adapted layer, (N, D)
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
                self.advance(t, "memory")
                yield events.Learned(t, self.tasks[t].name, self.progress())
            if self.cursor.phase == "memory":
                yield from self.train_on_memory(t)
                self.advance(t, "evaluate")
            yield from self.evaluate_row(t)
            self.advance(t + 1, "train")
            yield events.TaskEnded(t, self.tasks[t].name, len(self.memory), self.memory.bytes, self.progress())
        yield from self.last_measures()
        yield events.RunEnded(self.cost(), self.uses())

    def learn(self, t: int) -> Iterator[events.Event]:
        """Stage A: the task's expert (or the shared one) and classifier rows, from the task's training examples."""
        learner, config, rows = self.learner, self.config.train, self.rows[t, "train"]
        if self.cursor.step == 0:
            learner.meet(t)
            for method in self.methods:
                method.begin_task(t)
        for method in self.methods:
            rows = method.examples(rows)
        expert = len(learner.bank) - 1
        isolated = learner.isolated
        blocks = range(t + 1) if config.classes == "seen" else [t]
        trained = learner.bank.expert(expert) | learner.parameters_of(blocks)
        store = self.store if isolated and not self.methods else None
        saved_s = store.fetch(self, t, trained) if store and self.cursor.step == 0 else None
        if self.cursor.step == 0:
            count = sum(parameter.numel() for parameter in trained.values())
            yield events.TaskStarted(t, self.tasks[t].name, len(learner.bank), count, saved_s is not None, self.progress())
        if saved_s is not None:
            self.cursor.reused_s += saved_s
        else:
            steps_per_epoch = -(-len(rows) // config.batch_size)

            def rows_of(step: int) -> list[Encoded]:
                epoch, place = divmod(step, steps_per_epoch)
                batches = shuffled(rows, config.batch_size, self.chance("order", t, epoch))
                chosen = [rows[i] for i in batches[place]]
                for method in self.methods:
                    chosen = method.rows(chosen, self.chance(method.name, t, step))
                return chosen

            def decide(batch: Batch, step: int) -> Decision:
                return learner.alone(expert) if isolated else learner.decide(batch)

            def terms(batch: Batch, decision: Decision) -> dict[str, Tensor]:
                out = Output(learner.logits(batch, t if isolated else None), decision)
                named = {"task": self.cross_entropy(out.logits, batch, t + 1, config.classes)} | decision.losses
                for method in self.methods:
                    named |= method.terms(batch, out)
                return named

            learner.bank.trainable(expert, True)
            steps = config.epochs * steps_per_epoch
            yield from self.fit(t, Phase([trained], [config.lr], steps, config.epochs, rows_of, decide, terms))
            if store:
                store.keep(self, t, trained, self.cursor.phase_s)
        learner.bank.trainable(expert, False)
        for method in self.methods:
            method.end_task(t)
        self.memory.add(self.tasks[t], self.rows[t, "train"])
        self.isolated |= {name: parameter.detach().clone() for name, parameter in learner.parameters_of(blocks).items()}

    def train_on_memory(self, t: int) -> Iterator[events.Event]:
        """Stage B: routers, and the classifier if asked, from the stored examples; experts and backbone are frozen."""
        learner, config = self.learner, self.config.memory_training
        router = {f"router.{name}": parameter for name, parameter in learner.router.named_parameters()}
        classifier = learner.parameters_of(range(t + 1))
        tuned = classifier if config.classifier == "tuned" else {}
        if t == 0 or not config.steps or not (router or tuned):
            return  # with one task there is nothing to choose between and nothing to calibrate
        if self.cursor.step == 0:
            if router:
                self.standardise(t)
            if t == 1 or not config.warm_start:
                learner.router.reset(self.chance("router", t))
                with torch.no_grad():
                    for name, parameter in classifier.items():
                        parameter.copy_(self.isolated[name])
        how = "task" if self.config.scenario == "task" else "seen"

        def rows_of(step: int) -> list[Encoded]:
            rows = self.memory.rows
            epoch, place = divmod(step, -(-len(rows) // config.batch_size))
            return [rows[i] for i in shuffled(rows, config.batch_size, self.chance("memory order", t, epoch))[place]]

        def decide(batch: Batch, step: int) -> Decision:
            return learner.decide(batch, noise=self.chance("gate noise", t, step))

        def terms(batch: Batch, decision: Decision) -> dict[str, Tensor]:
            return {"memory": self.cross_entropy(learner.logits(batch), batch, t + 1, how)} | decision.losses

        yield from self.fit(t, Phase([router, tuned], [config.lr, config.classifier_lr], config.steps, 1, rows_of, decide, terms))

    def standardise(self, t: int) -> None:
        """Show the router what it will be fed with; what the frozen backbone makes of a stored example is computed once."""
        for task in range(t + 1):
            if task not in self.stored_queries:
                rows = [row for row in self.memory.rows if row.task == task]
                self.stored_queries[task] = self.learner.layer_queries(rows)
        self.learner.router.standardise([torch.cat(layer) for layer in zip(*self.stored_queries.values(), strict=True)])

    def fit(self, t: int, phase: "Phase") -> Iterator[events.Step]:
        """Optimiser steps of a phase, from the cursor on."""
        parameters = [parameter for group in phase.groups for parameter in group.values()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.optimizer = self.new_optimizer(phase)
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
            for method in self.methods:
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
            name, rate = self.tasks[t].name, RATE[self.cursor.phase]
            raise RunFailed(f"training on task '{name}' left parameters that are not finite: lower {rate}")

    def fingerprint(self) -> dict[str, Any]:
        """What the results rest on: backbone weights and data. A run is gone on with only where they are the same."""
        return {"backbone": self.learner.backbone.identity, "tasks": {task.name: task.digest() for task in self.tasks}}

    def chance(self, purpose: str, t: int, *key: object) -> torch.Generator:
        """The generator of one use of chance: keyed by seed, purpose and the task's name, not by its position."""
        return generator(self.config.seed, purpose, self.tasks[t].name, *key)

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

    def cross_entropy(self, logits: Tensor, batch: Batch, seen: int, how: str) -> Tensor:
        """Mean cross-entropy over the competing classes; logits (B, C)."""
        logits = logits.masked_fill(~self.learner.space.competing(batch.task, seen, how), float("-inf"))
        return nn.functional.cross_entropy(logits, self.learner.space.target(batch.label, batch.task))

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
                yield events.Evaluated(-1, j, result.score, len(self.rows[j, "test"]), self.progress())
        self.scores.zero_shot = found

    def evaluate_row(self, t: int) -> Iterator[events.Event]:
        """Row t of the matrix: every task seen so far, on its test examples."""
        self.scores.partial = []
        for j in range(t + 1):
            result = yield from self.score(t, j)
            self.scores.partial.append(result.score)
            yield events.Evaluated(t, j, result.score, len(self.rows[j, "test"]), self.progress(),
                                   predictions=result.predictions, routing=result.routing)  # fmt: skip
        self.scores.matrix.append(self.scores.partial + [None] * (len(self.tasks) - t - 1))
        self.scores.partial = []

    def last_measures(self) -> Iterator[events.Event]:
        """After the last task: the last row on validation examples (for selection), and with oracle routing."""
        last, found = len(self.tasks) - 1, []
        for j in range(len(self.tasks)):
            result = yield from self.score(last, j, "validation")
            found.append(result.score)
        self.scores.validation, found = found, []
        if not self.learner.per_task:
            return
        for j in range(len(self.tasks)):
            result = yield from self.score(last, j, oracle=True)
            found.append(result.score)
            yield events.OracleEvaluated(j, result.score, self.progress())
        self.scores.oracle = found

    # -- bookkeeping -----------------------------------------------------------------------------------------------

    def advance(self, task: int, phase: str) -> None:
        """The current phase is done; the next one begins."""
        done = self.cursor
        spent = done.phase_s if done.phase != "evaluate" else 0.0
        work, train_s = done.work + self.units(done.task, done.phase), done.train_s + spent
        self.cursor = Cursor(task, phase, 0, 0.0, work, train_s, done.eval_s, done.reused_s)
        self.partial_work = 0.0

    def units(self, task: int, phase: str) -> float:
        """Work of a phase in forward passes of one example; a training example counts three."""
        config = self.config
        if phase == "train":
            return 3.0 * config.train.epochs * len(self.rows[task, "train"])
        if phase == "memory":
            return 3.0 * config.memory_training.steps * config.memory_training.batch_size
        return float(sum(len(self.rows[j, "test"]) for j in range(task + 1 if task >= 0 else len(self.tasks))))

    def progress(self) -> float:
        """Share of the whole run's work that is done."""
        tasks = range(len(self.tasks))
        last = sum(len(self.rows[j, "validation"]) + self.learner.per_task * len(self.rows[j, "test"]) for j in tasks)
        total = self.units(-1, "evaluate") + sum(self.units(t, phase) for t in tasks for phase in PHASES) + last
        return min((self.cursor.work + self.partial_work) / total, 1.0)

    def uses(self) -> dict[str, Any]:
        """What the run was given beyond its training examples."""
        task_id = self.config.scenario == "task" or self.learner.router.uses_task_id
        stored = len(self.memory) if self.config.methods or self.config.memory_training.steps else 0
        return {"task_id": task_id, "stored_examples": stored, "generated_examples": 0}

    def cost(self) -> dict[str, Any]:
        """Parameters, bytes, seconds. Times include what was saved by reuse; `reused_s` says how much of train_s that is."""
        learner = self.learner
        kept = [p for k in range(len(learner.bank)) for p in learner.bank.expert(k).values()]
        kept += [*learner.classifier.parameters(), *learner.router.parameters()]
        count = sum(p.numel() for p in kept)
        return {
            "trainable_parameters": count,
            "stored_bytes": sum(p.numel() * p.element_size() for p in kept) + self.memory.bytes,
            "memory_bytes": self.memory.bytes,
            "train_s": round(self.cursor.train_s + self.cursor.reused_s, 3),
            "reused_s": round(self.cursor.reused_s, 3),
            "eval_s": round(self.cursor.eval_s, 3),
            "peak_memory_bytes": peak_memory(learner.device),
        }

@dataclass(frozen=True)
class Phase:
    """What the optimiser does in one phase: groups of named parameters with their rates, and three functions of the step."""

    groups: list[dict[str, nn.Parameter]]
    rates: list[float]
    steps: int
    epochs: int
    rows: Callable[[int], list[Encoded]]
    decide: Callable[[Batch, int], Decision | None]
    terms: Callable[[Batch, Decision | None], dict[str, Tensor]]


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate: linear rise over the warm-up share, then linear fall to zero."""
    rise = max(1, round(warmup * steps))
    return (step + 1) / rise if step < rise else (steps - step) / (steps - rise + 1)


def check_memory(config: RunConfig, tasks: Sequence[Task]) -> None:
    """A memory that cannot hold one example of each class of a task is refused."""
    for task in tasks:
        if 0 < config.memory.per_task < len(task.labels):
            raise LabError(
                f"memory.per_task = {config.memory.per_task} is smaller than the {len(task.labels)} classes "
                f"of task '{task.name}': store at least {len(task.labels)}"
            )


def peak_memory(device: torch.device) -> int:
    """Most memory this process held so far, in bytes: on the GPU where it computes there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
