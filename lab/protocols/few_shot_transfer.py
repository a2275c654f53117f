"""The second protocol: joint training on many tasks, then few-shot adaptation to each task that was held out.

The stages of a run are the joint training and, for every held-out task and number of shots, one adaptation; each begins with the
parameters of the same moment. What the recipes differ in stands in the configuration: the experts and the router, what adaptation
begins with and what it tunes.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lab.config.fingerprint import differing
from lab.config.schema import RunConfig
from lab.core.errors import LabError
from lab.data.batching import Batch, Encoded, shuffled
from lab.data.stream import Task, sample
from lab.routers.base import Decision
from lab.run_folder import events
from lab.training.expert_cache import Store, training_address
from lab.training.trainer import Phase, Session
from lab.training.workload import ALIGNED, LOOKS

JOINT = "joint training"


class Adaptation(NamedTuple):
    """A stage: task `task` is met with `shots` of its training examples."""

    task: int
    shots: int


@dataclass
class TransferScores:
    """What the run measures; the content of matrix.json. Scores are by name of the task, then by number of shots."""

    tasks: list[str]  # the stages
    labels: list[list[str]]
    train_tasks: list[str]
    trained: dict[str, float] = field(default_factory=dict)  # after joint training
    zero_shot: dict[str, float] = field(default_factory=dict)  # of held-out tasks before adaptation: classifier rows are new
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)
    validation: dict[str, dict[str, float]] = field(default_factory=dict)  # the same on validation examples
    alignment: dict[str, float | None] = field(default_factory=dict)  # of gradients, by the step of joint training
    done: list[float] = field(default_factory=list)  # score of each stage that has ended; of joint training the mean over tasks
    protocol: str = "transfer"


class TransferSession(Session):
    """A run of this protocol in memory: `train()` yields the events of a run on a stream, a stage in the place of a task."""

    name = "few-shot-transfer"
    protocol = "transfer"
    scores: TransferScores

    def __init__(self, config: RunConfig, tasks: Sequence[Task], store: Store | None = None):
        """`config` must be prepared. Raises LabError for whatever cannot work, before any training."""
        held = config.transfer.held_out
        chosen = [task for task in tasks if task.name in (*config.transfer.train_tasks, *held)]
        super().__init__(config, sorted(chosen, key=lambda task: task.name in held), store)
        self.trained_on = range(len(self.tasks) - len(held))
        shots = sorted(set(config.transfer.shots))
        self.plan = [Adaptation(t, k) for t in range(len(self.trained_on), len(self.tasks)) for k in shots]
        self._check_shots()
        names = [task.name for task in self.tasks]
        self.stages = [JOINT, *(f"{names[t]}, {k} shots" for t, k in self.plan)]
        labels = [list(task.labels) for task in self.tasks]
        self.scores = TransferScores(self.stages, labels, [names[t] for t in self.trained_on])
        self.trainable = 0  # numbers that joint training changes
        self.start: dict[str, Tensor] = {}  # all parameters, as every adaptation begins with them

    def _check_shots(self) -> None:
        for t, k in self.plan:
            given = f"transfer.shots = {k}: held-out task '{self.tasks[t].name}' has"
            there, labels = len(self.rows[t, "train"]), len(self.tasks[t].labels)
            if k > there:
                raise LabError(f"{given} {there} training examples: ask for at most these")
            if k < labels:
                raise LabError(f"{given} {labels} labels: give each at least one shot")

    # -- the protocol ----------------------------------------------------------------------------------------------

    def train(self) -> Iterator[events.Event]:
        """Everything from the cursor on."""
        if self.cursor.task < 0:
            layers, sizes = [layer.name for layer in self.learner.bank.layers], self.sizes()
            yield events.RunStarted(self.stages, self.scores.labels, layers, str(self.learner.device), sizes, self.progress())
            self.add_all_tasks()
            self.advance(0, "train")
        for s in range(self.cursor.task, len(self.stages)):
            if self.cursor.phase == "train":
                yield from self.learn_jointly() if s == 0 else self.adapt(s)
                self.advance(s, "evaluate")
                yield events.Learned(s, self.stages[s], self.progress())
            yield from self.evaluate_joint() if s == 0 else self.evaluate_adapted(s)
            self.advance(s + 1, "train")
            yield events.TaskEnded(s, self.stages[s], 0, 0, self.progress())
        self.to_start()
        yield events.RunEnded(self.cost(), self.uses())

    def learn_jointly(self) -> Iterator[events.Event]:
        """Experts, routing and classifier rows of the training tasks, from batches that mix the tasks."""
        config, store = self.config, self.store
        rows = [row for t in self.trained_on for row in self.rows[t, "train"]]
        steps = config.train.epochs * -(-len(rows) // config.train.batch_size)
        modules, routing = self.modules(self.trained_on), self.routing(self.trained_on)
        trained = modules | routing
        found = store.fetch(self.joint_address(), trained) if store and self.cursor.step == 0 else None
        if self.cursor.step == 0:
            yield self.began(0, found is not None, modules, routing)
        if found is not None:
            self.scores.alignment, self.cursor.reused_s = json.loads(found["alignment"]), float(found["train_s"])
            return
        moments = {round((look + 1) * steps / LOOKS) for look in range(LOOKS)}
        rates = [config.train.lr, config.transfer.router_lr]
        for event in self.tune(0, rows, config.train.batch_size, steps, [modules, routing], rates, config.train.epochs):
            if isinstance(event, events.Step) and event.step in moments:  # before anybody sees the step, so that no kill skips it
                self.scores.alignment[str(event.step)] = self.alignment()
            yield event
        if store:
            store.keep(self.joint_address(), trained, self.cursor.phase_s, alignment=json.dumps(self.scores.alignment))

    def joint_address(self) -> str:
        """Content address of joint training: recipes that differ in the adaptation alone share it."""
        config, learner = self.config, self.learner
        return training_address(
            config,
            [self.tasks[t] for t in self.trained_on],
            learner.backbone.identity,
            [layer.name for layer in learner.bank.layers],
            router=differing(config.router),
            composition=config.composition,
            router_lr=config.transfer.router_lr,
        )

    def adapt(self, s: int) -> Iterator[events.Event]:
        """The classifier rows of a held-out task, its routing and the experts, as far as they are tuned, from its shots."""
        t, config = self.plan[s - 1].task, self.config.transfer.adaptation
        groups = [self.adapted_modules(t), self.routing([t])]
        rates = [config.lr or self.config.train.lr, config.router_lr or self.config.transfer.router_lr]
        if self.cursor.step == 0:
            self.to_start()
            yield self.began(s, False, *groups)
        yield from self.tune(s, self.shots(s), config.batch_size, config.steps, groups, rates)

    def shots(self, s: int) -> list[Encoded]:
        """Training examples of an adaptation, balanced over the labels; those of fewer shots are among those of more."""
        t, shots = self.plan[s - 1]
        return list(sample(self.rows[t, "train"], shots, f"{self.config.seed}/{self.tasks[t].name}/shots"))

    def began(self, s: int, reused: bool, *groups: dict[str, nn.Parameter]) -> events.TaskStarted:
        """The event that begins a stage in which these parameters are trained."""
        return events.TaskStarted(s, self.stages[s], len(self.learner.bank), count(*groups), reused, self.progress())

    def tune(
        self,
        s: int,
        rows: list[Encoded],
        size: int,
        steps: int,
        groups: list[dict[str, nn.Parameter]],
        rates: list[float],
        epochs: int = 1,
    ) -> Iterator[events.Event]:
        """So many steps on batches of the rows, passed over again and again; each row among the classes of its own task."""
        learner = self.learner
        tuned = {id(parameter) for group in groups for parameter in group.values()}
        for k in range(len(learner.bank)):
            learner.bank.trainable(k, any(id(parameter) in tuned for parameter in learner.bank.expert(k).values()))

        def rows_of(step: int) -> list[Encoded]:
            turn, place = divmod(step, -(-len(rows) // size))
            return [rows[i] for i in shuffled(rows, size, self.chance("order", s, turn))[place]]

        def decide(batch: Batch, step: int) -> Decision:
            return learner.decide(batch, noise=self.chance("gate noise", s, step))

        def terms(batch: Batch, decision: Decision) -> dict[str, Tensor]:
            return {"task": learner.cross_entropy(learner.logits(batch), batch.label, batch.task, "task")} | decision.losses

        yield from self.fit(s, Phase(groups, rates, steps, epochs, rows, rows_of, decide, terms))
        for k in range(len(learner.bank)):
            learner.bank.trainable(k, False)

    # -- what is trained -------------------------------------------------------------------------------------------

    def experts_of(self, tasks: Sequence[int]) -> list[int]:
        """Experts that act on these tasks: their own where there is one per task, else all."""
        return list(tasks) if self.learner.per_task else list(range(len(self.learner.bank)))

    def modules(self, tasks: Sequence[int]) -> dict[str, nn.Parameter]:
        """Experts and classifier rows of these tasks."""
        experts = {f"expert{k}.{name}": p for k in self.experts_of(tasks) for name, p in self.learner.bank.expert(k).items()}
        return experts | self.learner.parameters_of(tasks)

    def routing(self, tasks: Sequence[int]) -> dict[str, nn.Parameter]:
        """The router's parameters for these tasks."""
        return {name: parameter for t in tasks for name, parameter in self.learner.router.of_task(t).items()}

    def adapted_modules(self, t: int) -> dict[str, nn.Parameter]:
        """Of a held-out task, without its routing."""
        return self.modules([t]) if self.config.transfer.adaptation.tuned == "all" else self.learner.parameters_of([t])

    # -- the moment between --------------------------------------------------------------------------------------------

    def add_all_tasks(self) -> None:
        """Room for all tasks. What belongs to a held-out task is drawn by its name and stays as it is until adaptation."""
        super().add_all_tasks()
        self.learner.router.requires_grad_(False)
        self.trainable = count(self.modules(self.trained_on), self.routing(self.trained_on))

    def change_to_start(self) -> None:
        """From joint training to the experts that adaptation begins with."""
        start = self.config.transfer.adaptation.start
        if start == "average":
            self.learner.merge_to_average()
        elif start == "fresh":
            self.learner.reinitialise()

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that adaptation may change, by name."""
        learner = self.learner
        found = {f"expert{k}.{name}": p for k in range(len(learner.bank)) for name, p in learner.bank.expert(k).items()}
        found |= {f"router.{name}": p for name, p in learner.router.named_parameters()}
        return found | {f"classifier.{name}": p for name, p in learner.classifier.named_parameters()}

    @torch.no_grad()
    def to_start(self) -> None:
        """All parameters as every adaptation begins with them."""
        for name, parameter in self.parameters().items():
            parameter.copy_(self.start[name])
        for k in range(len(self.learner.bank)):
            self.learner.bank.trainable(k, False)

    # -- measures ----------------------------------------------------------------------------------------------------

    def alignment(self) -> float | None:
        """Mean cosine between the gradients of two training tasks with respect to all experts, each from ALIGNED of its examples.

        Unit gradients g_t of T tasks: mean over t < u of g_t . g_u = (|sum g_t|^2 - T) / (T (T - 1)). None where no expert is
        shared, where there is one task, and where a gradient is zero.
        """
        learner = self.learner
        if learner.per_task or len(self.trained_on) < 2:
            return None
        parameters = [p for k in range(len(learner.bank)) for p in learner.bank.expert(k).values()]
        total = torch.zeros(sum(p.numel() for p in parameters), device=learner.device)
        for t in self.trained_on:
            rows = sample(self.rows[t, "train"], ALIGNED, f"{self.config.seed}/{self.tasks[t].name}/aligned")
            batch = learner.collate(rows)
            decision = learner.decide(batch)
            with learner.bank.routed(decision):
                loss = learner.cross_entropy(learner.logits(batch), batch.label, batch.task, "task")
                gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, materialize_grads=True)])
            if not gradient.any():
                return None
            total += gradient / gradient.norm()
        tasks = len(self.trained_on)
        return ((total.double() @ total.double()).item() - tasks) / (tasks * (tasks - 1))

    def evaluate_joint(self) -> Iterator[events.Event]:
        """Test scores of the training tasks, and of the held-out ones before any of their examples was seen."""
        self.scores.trained = {}
        for t in self.trained_on:
            result = yield from self.score(0, t)
            self.scores.trained[self.tasks[t].name] = result.score
            yield events.Evaluated(
                0,
                t,
                result.score,
                len(self.rows[t, "test"]),
                self.progress(),
                predictions=result.predictions,
                routing=result.routing,
            )
        self.change_to_start()
        self.start = {name: parameter.detach().clone() for name, parameter in self.parameters().items()}
        for t in range(len(self.trained_on), len(self.tasks)):
            result = yield from self.score(0, t)
            self.scores.zero_shot[self.tasks[t].name] = result.score
            yield events.Evaluated(-1, t, result.score, len(self.rows[t, "test"]), self.progress())
        self.scores.done = [sum(self.scores.trained.values()) / len(self.trained_on)]

    def evaluate_adapted(self, s: int) -> Iterator[events.Event]:
        """Test and validation scores of the task of an adaptation."""
        t, shots = self.plan[s - 1]
        name, scores = self.tasks[t].name, {}
        for split in ("validation", "test"):
            result = yield from self.score(s, t, split)
            scores[split] = result.score
        self.scores.validation.setdefault(name, {})[str(shots)] = scores["validation"]
        self.scores.held_out.setdefault(name, {})[str(shots)] = scores["test"]
        self.scores.done = [*self.scores.done[:s], scores["test"]]
        yield events.Evaluated(s, t, scores["test"], len(self.rows[t, "test"]), self.progress(), predictions=result.predictions)

    # -- bookkeeping -----------------------------------------------------------------------------------------------

    def sizes(self) -> list[int]:
        """Training examples of every stage."""
        return [sum(len(self.rows[t, "train"]) for t in self.trained_on), *(shots for _, shots in self.plan)]

    def rebuild(self) -> None:
        self.add_all_tasks()
        if self.cursor.task > 0:
            self.change_to_start()

    @property
    def checkpoint_extras(self) -> dict[str, dict[str, Tensor]]:
        return {"start": self.start}

    def is_trainable(self, k: int) -> bool:
        return True

    def finished_experts(self, t: int) -> list[int]:
        return self.experts_of(self.trained_on) if t == 0 else []

    def rate_of(self, t: int, phase: str) -> str:
        return "transfer.adaptation.lr" if t and self.config.transfer.adaptation.lr else "train.lr"

    def summary_line(self, t: int) -> str:
        return f"{self.stages[t]}: {self.scores.done[t]:.3f}"

    def cost(self) -> dict[str, Any]:
        """As of a stream, with what joint training trains, and what adaptation to a task tunes beside its classifier rows."""
        last = self.plan[-1].task
        tuned = count(self.adapted_modules(last), self.routing([last])) - count(self.learner.parameters_of([last]))
        return super().cost() | {"trainable_parameters": self.trainable, "adapted_parameters": tuned}


def count(*groups: dict[str, nn.Parameter]) -> int:
    """Numbers in groups of parameters."""
    return sum(parameter.numel() for group in groups for parameter in group.values())
