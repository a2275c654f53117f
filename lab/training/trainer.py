"""A run in memory: its learner, its data, where it stands, and the loop over the steps of a stage.

A session can be entered at any step: everything random is drawn from generators keyed by content, so the cursor, the
parameters and the optimiser are all the state there is. What a run does in which order is up to its protocol (`lab.protocols`).
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.adapters import initial_adapters
from lab.config.schema import RunConfig
from lab.core import plugin_errors, registry
from lab.core.dotted import pick
from lab.core.errors import RunFailed
from lab.core.rng import generator
from lab.data.batching import Encoded, EpochBatches, by_length
from lab.data.replay_buffer import Memory
from lab.data.stream import SPLITS, Split, Task
from lab.data.task_checks import check
from lab.experts.base import InputExpert
from lab.models.backbone import is_recorded
from lab.models.learner import Learner, check_positions, read_initial_experts
from lab.models.pretrained import is_encoder_decoder, resolve
from lab.routers.base import Decision, Reads, refuse_not_finite
from lab.run_folder import events
from lab.training.evaluation import Evaluation, Evaluator
from lab.training.expert_cache import Store
from lab.training.optimisation import adamw, clip, restore_moments, schedule
from lab.training.resource_usage import footprint, is_out_of_memory, peak_memory
from lab.training.stage import Plan, Stage, Training
from lab.training.workload import planned_work, sizes_of

EVALUATION_BATCH = 64
Tell = Callable[[events.Preparing], None]


def quiet(event: events.Preparing) -> None:
    """Tell nobody what is being done."""


def prepare(config: RunConfig, tasks: Sequence[Task], runs: str | Path | None = None) -> RunConfig:
    """The configuration with everything that was chosen automatically written down; `runs`: where experts of runs are found."""
    return resolved(config, [task.name for task in tasks], runs)


def resolved(config: RunConfig, tasks: list[str], runs: str | Path | None = None) -> RunConfig:
    """The same from the names of the tasks in their order."""
    name = "+".join(Path(source).name for source in config.stream.sources) or config.stream.name
    protocol, tasks = registry.protocols.build(config.protocol).resolved(tasks)
    stream = config.stream.model_copy(update={"name": name, "tasks": tasks})
    start = initial_adapters.pinned(config.experts.start, runs)
    of_layers = not issubclass(registry.experts.get(config.experts.name), InputExpert)
    layers = sorted({*config.experts.layers, *initial_adapters.layers(start, config.experts.name)}) if of_layers else []
    experts = config.experts.model_copy(update={"start": start, "layers": layers})
    router, kind = config.router, registry.routers.get(config.router.name)
    if Reads.LAYERS in kind.reads_of(router) and is_encoder_decoder(config.backbone.name):
        router = kind.without_layers(router)
    backbone = resolve(config.backbone)
    decided = {"stream": stream, "backbone": backbone, "experts": experts, "router": router, "protocol": protocol}
    return config.model_copy(update=decided)


@dataclass
class Cursor:
    """Where a session stands: `step` steps of the stage that is called `phase` are done on a task; -1: before the first task."""

    task: int
    phase: str
    step: int = 0
    phase_s: float = 0.0  # seconds of training in this stage
    work: float = 0.0  # units of the stages that have ended, see Stage.work
    train_s: float = 0.0
    eval_s: float = 0.0
    reused_s: float = 0.0  # training time that was saved by taking experts from the store


class Session:
    """One run in memory. `train()` trains and evaluates; between two events the state is whole and can be saved."""

    def __init__(self, config: RunConfig, tasks: Sequence[Task], store: Store | None = None, tell: Tell = quiet):
        """`config` must be prepared; `tell` is called with what is being done. Raises LabError for whatever cannot work, before
        any training."""
        self.config, self.store = config, store
        self.protocol = registry.protocols.build(config.protocol)
        by_name = {task.name: task for task in tasks}
        self.tasks = [by_name[name] for name in config.stream.tasks or by_name]
        check(config, self.tasks)
        tell(events.Preparing(f"loading the backbone {Path(config.backbone.name).name}"))
        self.learner = Learner(config, self.tasks)
        read_initial_experts(self.learner)
        self.rows = self.encoded(tell)
        self.notes = [*self.learner.backbone.notes, *check_positions(self.learner, chain(*self.rows.values()))]
        self.notes += [f"task '{task.name}': {note}" for task in self.tasks for note in task.notes]
        self.sizes = sizes_of(self.tasks)
        self.memory = Memory(**dict(config.memory), seed=config.seed)
        build = registry.methods.get
        self.methods = [build(name)(options, self.learner, self.memory) for name, options in config.methods.items()]
        self.scores = self.protocol.scores(self.tasks)  # a dataclass: what the run measures, the content of matrix.json
        self.carried: dict[str, dict[str, Tensor]] = {name: {} for name in self.protocol.carried}
        self.trainable: int | None = None  # numbers that training changes, where these are not all at the end
        self.stored_queries: dict[int, tuple[list[Encoded], list[Tensor]]] = {}  # per task: stored rows; per layer (N, D)
        self.plan: Plan = self.protocol.plan(self.sizes)
        self.total_work = planned_work(config, self.sizes)
        self.cursor = Cursor(self.plan[0].task, self.plan[0].stage.phase)
        self.stage: Stage | None = None  # the one at work
        self.stage_work = 0.0  # units done of it
        self.optimizer: torch.optim.Optimizer | None = None
        self.saved_moments: dict[str, Tensor] = {}  # of a stage that is gone on with, see lab.training.checkpoint
        self.decision: Decision | None = None  # of the newest step
        self.protocol.check_session(self)

    def encoded(self, tell: Tell) -> dict[tuple[int, Split], list[Encoded]]:
        """The examples of every task and split as token ids."""
        parts = [(t, split, task.split(split)) for t, task in enumerate(self.tasks) for split in SPLITS]
        rows, done, total = {}, 0, sum(len(examples) for _, _, examples in parts)
        for t, split, examples in parts:
            tell(events.Preparing(f"encoding {total:,} texts", done, total))
            rows[t, split] = self.learner.encode(examples, t, split)
            done += len(examples)
        return rows

    @property
    def task_names(self) -> list[str]:
        """What the cursor's `task` and that of an event count: tasks, or what the protocol puts in their place."""
        return self.scores.tasks

    # -- the loop ------------------------------------------------------------------------------------------------------

    def train(self) -> Iterator[events.Event]:
        """All stages of the plan from the cursor on."""
        if self.position == 0 and not self.cursor.step:
            layers, examples = [layer.name for layer in self.learner.bank.layers], self.protocol.examples(self)
            labels, device = self.scores.labels, str(self.learner.backbone.device)
            yield events.RunStarted(self.task_names, labels, layers, device, examples, self.progress(), self.notes)
        for task, kind in self.plan[self.position :]:
            stage = self.stage = kind(self, task)
            with plugin_errors.named(RunFailed):
                try:
                    yield from stage.run()
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    raise RunFailed(self.memory_advice(stage)) from error
            self.advance()
            yield from stage.ended()
        yield events.RunEnded(self.cost(), self.uses())

    def fit(self, stage: Training) -> Iterator[events.Step]:
        """Optimiser steps of a stage, from the cursor on."""
        parameters = [parameter for group in stage.groups for parameter in group.values()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.optimizer = self.new_optimizer(stage)
        began, work = time.perf_counter(), stage.work(self.config, self.sizes, stage.task)
        with self.learner.backbone.prefix_cached(stage.source):
            self.cursor.phase_s += time.perf_counter() - began
            for step in range(self.cursor.step, stage.steps):
                began = time.perf_counter()
                for group, rate in zip(self.optimizer.param_groups, stage.rates, strict=True):
                    group["lr"] = rate * schedule(step, stage.steps, self.config.train.warmup)
                batch = self.learner.backbone.collate(stage.rows(step))
                decision = self.decision = stage.decision(batch, step)
                with self.learner.bank.routed(decision):  # open through backward, see Bank.routed
                    terms = stage.terms(batch, decision)
                    self.optimizer.zero_grad(set_to_none=True)
                    torch.as_tensor(sum(terms.values())).backward()
                for method in stage.methods:
                    method.adjust_gradients()
                norm = clip(parameters, self.config.train.clip)
                self.refuse_non_finite(stage, step, terms, norm)  # before the step: parameters stay as they are
                self.optimizer.step()
                self.cursor.step = step + 1
                self.cursor.phase_s += time.perf_counter() - began
                self.stage_work = work * (step + 1) / stage.steps
                yield events.Step(
                    stage.task,
                    stage.phase,
                    step * stage.epochs // stage.steps,
                    stage.epochs,
                    step + 1,
                    stage.steps,
                    {name: term.detach() for name, term in terms.items()},
                    self.optimizer.param_groups[0]["lr"],
                    self.progress(),
                )
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        self.optimizer = None

    def memory_advice(self, stage: Stage) -> str:
        """What to lower where the memory of the device was not enough."""
        config, tasks = self.config, self.task_names
        task = f" on task '{tasks[stage.task]}'" if 0 <= stage.task < len(tasks) else ""
        batch = f"{stage.batch} ({pick(config.to_dict(), stage.batch)}), " if isinstance(stage, Training) else ""
        return (
            f"the memory of {self.learner.backbone.device} was not enough in phase {stage.phase}{task}: lower {batch}"
            f"backbone.max_length ({config.backbone.max_length}) or experts.rank, take a smaller backbone, or free the "
            "device and resume"
        )

    def refuse_non_finite(self, stage: Training, step: int, terms: Mapping[str, Tensor | float], norm: Tensor) -> None:
        """RunFailed where the loss of a step or its gradient is not finite; one look at the device for both."""
        total = torch.as_tensor(sum(terms.values())).detach()
        if not bool((total.to(norm.device) + norm).isfinite()):
            refuse_not_finite(self.decision)
            wrong = [f"the loss term {name}" for name, term in terms.items() if not math.isfinite(float(term))]
            what = wrong[0] if wrong else "the gradient"
            raise RunFailed(
                f"{what} is not finite at step {step + 1} of {stage.steps} of phase {stage.phase} on task "
                f"'{self.task_names[stage.task]}': lower {stage.rate}, for example lab resume RUN -o {stage.rate}=..."
            )

    def score(
        self, after: int, task: int, split: Split = "test", seen: int | None = None, oracle: bool = False
    ) -> Generator[events.Evaluating, None, Evaluation]:
        """Progress events, and the evaluation of a task as the generator's return value.

        `after`: the last task that was learned. `seen`: how many tasks are known; default: those the learner has met.
        """
        began, rows, work = time.perf_counter(), self.rows[task, split], self.stage_work
        evaluator = Evaluator(self.learner, rows, seen or self.learner.head.tasks_seen, oracle)
        with self.learner.backbone.prefix_cached(rows, EVALUATION_BATCH, lasting=True):
            for chunk in by_length(rows, EVALUATION_BATCH):
                evaluator.update(chunk)
                self.stage_work = work + evaluator.done
                yield events.Evaluating(after, task, evaluator.done, len(rows), self.progress())
        self.cursor.eval_s += time.perf_counter() - began
        return evaluator.result()

    # -- pieces of a stage ---------------------------------------------------------------------------------------------

    def new_optimizer(self, stage: Training) -> torch.optim.Optimizer:
        """The optimiser of a stage; of one that was left in its middle, with its moments as they were."""
        optimizer = adamw(stage.groups, stage.rates, self.config.train.weight_decay)
        if self.saved_moments and self.cursor.step:
            restore_moments(optimizer, self.saved_moments)
        self.saved_moments = {}
        return optimizer

    @contextmanager
    def timed(self) -> Iterator[None]:
        """What happens inside the block counts as training time of the stage."""
        began = time.perf_counter()
        yield
        self.cursor.phase_s += time.perf_counter() - began

    def chance(self, purpose: str, t: int, *key: object) -> torch.Generator:
        """The generator of one use of chance: keyed by seed, purpose and the task's name, not by its position."""
        return generator(self.config.seed, purpose, self.task_names[t], *key)

    def batches(self, rows: Sequence[Encoded], size: int, purpose: str, t: int) -> EpochBatches:
        """Batches of the rows in an order of its own for every epoch."""
        return EpochBatches(rows, size, lambda epoch: self.chance(purpose, t, epoch))

    def remember(self, t: int) -> None:
        """Offer the memory the examples that task t was learned from."""
        self.memory.add(self.learned_task(t), self.protocol.training_rows(self, t))

    def learned_task(self, t: int) -> Task:
        """Task t with those training examples that it is learned from, which may be fewer than it has, or of other tasks too."""
        rows = self.protocol.training_rows(self, t)
        return replace(self.tasks[t], train=[self.tasks[row.task].train[row.key[2]] for row in rows])

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """The number of the stage in the plan at which the cursor stands."""
        same_task = [number for number, planned in enumerate(self.plan) if planned.task == self.cursor.task]
        return next((number for number in same_task if self.plan[number].stage.phase == self.cursor.phase), same_task[0])

    def advance(self) -> None:
        """The stage at work is done; the next one of the plan begins."""
        done, number = self.cursor, self.position
        task, stage = self.plan[min(number + 1, len(self.plan) - 1)]
        work = done.work + self.plan[number].stage.work(self.config, self.sizes, done.task)
        self.cursor = Cursor(task, stage.phase, 0, 0.0, work, done.train_s + done.phase_s, done.eval_s, done.reused_s)
        self.stage_work = 0.0

    def progress(self) -> float:
        """Share of the whole run's work that is done."""
        return min((self.cursor.work + self.stage_work) / self.total_work, 1.0)

    def fingerprint(self) -> dict[str, Any]:
        """What the results rest on: backbone weights and data. A run is gone on with only where they are the same."""
        return {"backbone": self.learner.backbone.identity, "tasks": {task.name: task.digest() for task in self.tasks}}

    def rests_on(self, fingerprint: Mapping[str, Any] | None) -> bool:
        """Whether a run that recorded this fingerprint, with this or an earlier version, has the same backbone and data."""
        own, recorded = self.fingerprint(), fingerprint or {}
        return recorded.get("tasks") == own["tasks"] and is_recorded(self.learner.backbone, recorded.get("backbone"))

    def uses(self) -> dict[str, Any]:
        """What the run was given beyond its training examples."""
        task_id = self.config.scenario == "task" or Reads.TASK in self.learner.router.reads
        used = self.config.router_training.steps or any(method.given(method.options) == "stored" for method in self.methods)
        used = used or self.learner.consolidation.trains
        stored, generated = len(self.memory) if used else 0, sum(len(method.generated) for method in self.methods)
        return {"task_id": task_id, "stored_examples": stored, "generated_examples": generated}

    def cost(self) -> dict[str, Any]:
        """Parameters and bytes (see lab.training.resource_usage) and seconds.

        Times include what was saved by reuse; `reused_s` says how much of train_s that is.
        """
        return (
            footprint(self.learner, self.memory, self.methods, self.protocol.stored_tensors(self))
            | {
                "train_s": round(self.cursor.train_s + self.cursor.reused_s, 3),
                "reused_s": round(self.cursor.reused_s, 3),
                "eval_s": round(self.cursor.eval_s, 3),
                "peak_memory_bytes": peak_memory(self.learner.backbone.device),
            }
            | self.protocol.cost(self)
        )
