"""A run in memory: what every protocol shares. The protocols are lab.protocols.sequential and lab.protocols.few_shot_transfer.

A session can be entered at any step: everything random is drawn from generators keyed by content, so the cursor, the
parameters and the optimiser are all the state there is.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.adapters.initial_adapters import pinned
from lab.config.schema import RunConfig
from lab.core import registry
from lab.core.errors import RunFailed
from lab.core.rng import generator
from lab.data.batching import Batch, Encoded
from lab.data.replay_buffer import Memory
from lab.data.stream import SPLITS, Task
from lab.data.task_checks import check
from lab.methods.base import Method
from lab.models.learner import Learner, read_initial_experts
from lab.models.pretrained import resolve
from lab.routers.base import Decision, Reads
from lab.run_folder import events
from lab.training.evaluation import Evaluation, evaluate
from lab.training.expert_cache import Store
from lab.training.resource_usage import footprint, peak_memory
from lab.training.workload import sizes_of, work_of

EVALUATION_BATCH = 64


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


class Session(ABC):
    """One run in memory. `train()` trains and evaluates; between two events the state is whole and can be saved."""

    protocol: str
    scores: Any  # a dataclass: what the run measures, the content of matrix.json

    def __init__(self, config: RunConfig, tasks: Sequence[Task], store: Store | None = None):
        """`config` must be prepared. Raises LabError for whatever cannot work, before any training."""
        self.config, self.tasks, self.store = config, tasks, store
        check(config, tasks)
        self.learner = Learner(config, tasks)
        read_initial_experts(self.learner)
        encode = self.learner.encode
        self.rows = {(t, s): encode(task.split(s), t, s) for t, task in enumerate(tasks) for s in SPLITS}
        self.work = work_of(config, sizes_of(tasks))
        self.memory = Memory(**dict(config.memory), seed=config.seed)
        build = registry.methods.get
        self.methods = [build(name)(options, self.learner, self.memory) for name, options in config.methods.items()]
        self.cursor = Cursor()
        self.stages = [task.name for task in tasks]  # what the cursor's `task` and that of an event count
        self.partial_work = 0.0  # units done in the current phase
        self.optimizer: torch.optim.Optimizer | None = None
        self.saved_moments: dict[str, Tensor] = {}  # of a phase that is gone on with, see lab.training.checkpoint

    # -- what a protocol says of itself --------------------------------------------------------------------------------

    @abstractmethod
    def train(self) -> Iterator[events.Event]:
        """Everything from the cursor on."""

    @abstractmethod
    def rebuild(self) -> None:
        """In a fresh session: the tasks met and the memory filled as the cursor says; values are filled in afterwards."""

    @property
    @abstractmethod
    def checkpoint_extras(self) -> dict[str, dict[str, Tensor]]:
        """What going on needs beside parameters and statistics, by its name in a saved state."""

    @property
    def carried_state(self) -> list[Tensor]:
        """What the next task needs beside parameters, memory and statistics of router and methods; it counts as stored."""
        return []

    @abstractmethod
    def is_trainable(self, k: int) -> bool:
        """Whether expert k may still change."""

    @abstractmethod
    def finished_experts(self, t: int) -> list[int]:
        """Experts that are done with training on stage t."""

    @abstractmethod
    def rate_of(self, t: int, phase: str) -> str:
        """The option that is the learning rate of a phase."""

    @abstractmethod
    def summary_line(self, t: int) -> str:
        """One line about stage t, which has ended."""

    # -- training ------------------------------------------------------------------------------------------------------

    def fit(self, t: int, phase: "Phase") -> Iterator[events.Step]:
        """Optimiser steps of a phase, from the cursor on."""
        parameters = [parameter for group in phase.groups for parameter in group.values()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.optimizer = self.new_optimizer(phase)
        began = time.perf_counter()
        with self.learner.backbone.prefix_cached(phase.examples):
            self.cursor.phase_s += time.perf_counter() - began
            for step in range(self.cursor.step, phase.steps):
                began = time.perf_counter()
                for group, rate in zip(self.optimizer.param_groups, phase.rates, strict=True):
                    group["lr"] = rate * schedule(step, phase.steps, self.config.train.warmup)
                batch = self.learner.backbone.collate(phase.rows(step))
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
                    t,
                    self.cursor.phase,
                    step * phase.epochs // phase.steps,
                    phase.epochs,
                    step + 1,
                    phase.steps,
                    {name: term.detach() for name, term in terms.items()},
                    self.optimizer.param_groups[0]["lr"],
                    self.progress(),
                )
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

    def new_optimizer(self, phase: "Phase") -> torch.optim.Optimizer:
        """AdamW over the groups; in a phase that was left in its middle, with its moments as they were."""
        optimizer = torch.optim.AdamW(
            [{"params": list(group.values()), "lr": rate} for group, rate in zip(phase.groups, phase.rates, strict=True)],
            weight_decay=self.config.train.weight_decay,
        )
        if self.saved_moments and self.cursor.step:
            parameters = [parameter for group in phase.groups for parameter in group.values()]
            for i, parameter in enumerate(parameters):
                if f"optimizer/{i}/step" not in self.saved_moments:
                    continue  # it has had no gradient, so the optimiser holds nothing for it
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

    def chance(self, purpose: str, t: int, *key: object) -> torch.Generator:
        """The generator of one use of chance: keyed by seed, purpose and the task's name, not by its position."""
        return generator(self.config.seed, purpose, self.stages[t], *key)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def score(self, after: int, task: int, split: str = "test", seen: int | None = None, oracle: bool = False) -> Iterator[Any]:
        """Progress events, and the Evaluation as the generator's return value."""
        began, rows, start = time.perf_counter(), self.rows[task, split], self.partial_work
        for found in evaluate(self.learner, rows, seen or after + 1, EVALUATION_BATCH, oracle):
            if isinstance(found, Evaluation):
                self.cursor.eval_s += time.perf_counter() - began
                return found
            self.partial_work = start + found
            yield events.Evaluating(after, task, found, len(rows), self.progress())

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def add_all_tasks(self) -> None:
        """Room for every task, as at the end of a run."""
        for t in range(len(self.tasks)):
            self.learner.add_task(t)

    def fingerprint(self) -> dict[str, Any]:
        """What the results rest on: backbone weights and data. A run is gone on with only where they are the same."""
        return {"backbone": self.learner.backbone.identity, "tasks": {task.name: task.digest() for task in self.tasks}}

    def advance(self, task: int, phase: str) -> None:
        """The current phase is done; the next one begins."""
        done = self.cursor
        spent = done.phase_s if done.phase != "evaluate" else 0.0
        work, train_s = done.work + self.units(done.task, done.phase), done.train_s + spent
        self.cursor = Cursor(task, phase, 0, 0.0, work, train_s, done.eval_s, done.reused_s)
        self.partial_work = 0.0

    def units(self, task: int, phase: str) -> float:
        """Work of a phase in forward passes of one example, see lab.training.workload."""
        return self.work.units(task, phase)

    def progress(self) -> float:
        """Share of the whole run's work that is done."""
        return min((self.cursor.work + self.partial_work) / self.work.total, 1.0)

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
        return footprint(self.learner, self.memory, self.methods, self.carried_state) | {
            "train_s": round(self.cursor.train_s + self.cursor.reused_s, 3),
            "reused_s": round(self.cursor.reused_s, 3),
            "eval_s": round(self.cursor.eval_s, 3),
            "peak_memory_bytes": peak_memory(self.learner.backbone.device),
        }


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate: linear rise over the warm-up share, then linear fall to zero."""
    rise = max(1, round(warmup * steps))
    return (step + 1) / rise if step < rise else (steps - step) / (steps - rise + 1)
