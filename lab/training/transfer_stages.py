"""The stages of joint training on many tasks and few-shot adaptation to each of the others.

What loads torch is imported inside the functions that train, see lab.training.stage.
"""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lab.config.fingerprint import differing
from lab.config.schema import RunConfig
from lab.data.stream import sample
from lab.run_folder import events
from lab.training.evaluation_stages import EvaluationStage
from lab.training.stage import Stage, Training
from lab.training.workload import TRAINING, Sizes, tested

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lab.data.batching import Batch, Encoded
    from lab.models.learner import Learner
    from lab.routers.base import Decision
    from lab.training.trainer import Session

START = "start"  # carried state: all parameters, as every adaptation begins with them
LOOKS, ALIGNED = 4, 32  # moments of joint training at which the gradients of tasks are compared, and examples of each task


class MixedTraining(Training):
    """Steps on batches of labelled rows of one or several tasks; each row among the classes of its own task."""

    session: "Session"
    phase, about, title, announced = "train", "training", "learning", True

    def ended(self) -> Iterator[events.Event]:
        yield events.Learned(self.task, self.session.task_names[self.task], self.session.progress())

    def begun(self, reused: bool = False) -> events.TaskStarted:
        """The event of its beginning."""
        session, name = self.session, self.session.task_names[self.task]
        return events.TaskStarted(self.task, name, len(session.learner.bank), count(*self.groups), reused, session.progress())

    def tune(self, size: int) -> Iterator[events.Event]:
        """The steps, on batches of so many rows of `source`."""
        bank = self.session.learner.bank
        self.batches = self.session.batches(self.source, size, "order", self.task)
        tuned = {id(parameter) for group in self.groups for parameter in group.values()}
        for k in range(len(bank)):
            bank.trainable(k, any(id(parameter) in tuned for parameter in bank.expert(k).values()))
        yield from self.session.fit(self)
        for k in range(len(bank)):
            bank.trainable(k, False)

    def rows(self, step: int) -> "list[Encoded]":
        return self.batches.at(step)

    def decision(self, batch: "Batch", step: int) -> "Decision | None":
        return self.session.learner.decide(batch, noise=self.session.chance("gate noise", self.task, step))

    def terms(self, batch: "Batch", decision: "Decision | None") -> "dict[str, Tensor]":
        learner = self.session.learner
        loss = learner.head.loss(learner.head.logits(batch), batch, "task")
        return {"task": loss} | (decision.losses if decision else {})


class JointTraining(MixedTraining):
    """Experts, routing and classifier rows of the training tasks, from batches that mix the tasks."""

    rate = "train.lr"

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        trained = [sizes[t]["train"] for t in config.protocol.trained_on(len(sizes))]
        return TRAINING * (ALIGNED * LOOKS * len(trained) + config.train.epochs * sum(trained))

    def run(self) -> Iterator[events.Event]:
        session, config, store = self.session, self.session.config, self.session.store
        first = session.cursor.step == 0
        if first:
            session.protocol.add_all_tasks(session)
        tasks = session.config.protocol.trained_on(len(session.tasks))
        self.source = [row for t in tasks for row in session.rows[t, "train"]]
        self.epochs = config.train.epochs
        self.steps = self.epochs * -(-len(self.source) // config.train.batch_size)
        self.groups = [modules(session.learner, tasks), routing(session.learner, tasks)]
        self.rates = [config.train.lr, config.protocol.router_lr]
        trained, scores = self.groups[0] | self.groups[1], session.scores
        reused = store.fetch(self.address(), trained) if store and first else None
        if first:
            yield self.begun(reused is not None)
        if reused is not None:
            scores.alignment, session.cursor.reused_s = json.loads(reused["alignment"]), float(reused["train_s"])
            return
        moments = {round((look + 1) * self.steps / LOOKS) for look in range(LOOKS)}
        for event in self.tune(config.train.batch_size):
            if isinstance(event, events.Step) and event.step in moments:  # before anybody sees the step, so that no kill skips it
                scores.alignment[str(event.step)] = alignment(session, tasks)
            yield event
        if store:
            store.keep(self.address(), trained, session.cursor.phase_s, alignment=json.dumps(scores.alignment))

    def address(self) -> str:
        """Content address of joint training: recipes that differ in the adaptation alone share it."""
        from lab.training.expert_cache import training_address

        session, config, learner = self.session, self.session.config, self.session.learner
        return training_address(
            config,
            [session.tasks[t] for t in config.protocol.trained_on(len(session.tasks))],
            learner.backbone.identity,
            [layer.name for layer in learner.bank.layers],
            router=differing(config.router),
            composition=config.composition,
            router_lr=config.protocol.router_lr,
            **({"plugins": own} if (own := config.own_digests("expert", "router", "consolidation")) else {}),
        )


class JointEvaluation(EvaluationStage):
    """Test scores of the training tasks, and of the held-out ones before any of their examples was seen.

    Between the two the model changes to what adaptations begin with.
    """

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        return tested(sizes)

    def run(self) -> Iterator[events.Event]:
        session, scores = self.session, self.session.scores
        trained_on, scores.trained = session.config.protocol.trained_on(len(session.tasks)), {}
        for t in trained_on:
            result = yield from session.score(0, t)
            scores.trained[session.tasks[t].name] = result.score
            yield events.Evaluated(
                0,
                t,
                result.score,
                len(session.rows[t, "test"]),
                session.progress(),
                predictions=result.predictions,
                routing=result.routing,
            )
        change_to_start(session)
        session.carried[START] = {name: p.detach().clone() for name, p in parameters(session.learner).items()}
        for t in range(len(trained_on), len(session.tasks)):
            result = yield from session.score(0, t)
            scores.zero_shot[session.tasks[t].name] = result.score
            yield events.Evaluated(-1, t, result.score, len(session.rows[t, "test"]), session.progress())
        scores.done = [sum(scores.trained.values()) / len(trained_on)]

    def ended(self) -> Iterator[events.Event]:
        yield events.TaskEnded(self.task, self.session.task_names[self.task], 0, 0, self.session.progress())


class Adaptation(MixedTraining):
    """The classifier rows of a held-out task, its routing and the experts, as far as they are tuned, from its shots."""

    batch = "protocol.adaptation.batch_size"

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        return TRAINING * config.protocol.adaptation.steps * config.protocol.adaptation.batch_size

    def run(self) -> Iterator[events.Event]:
        session, options = self.session, self.session.config.protocol
        adaptation, (t, shots) = options.adaptation, options.adaptations(len(session.tasks))[self.task - 1]
        self.rate = "protocol.adaptation.lr" if adaptation.lr else "train.lr"
        self.groups = tuned_groups(session, t)
        self.rates = [adaptation.lr or session.config.train.lr, adaptation.router_lr or options.router_lr]
        self.steps, self.source = adaptation.steps, self.shots(t, shots)
        if session.cursor.step == 0:
            return_to_start(session)
            yield self.begun()
        yield from self.tune(adaptation.batch_size)

    def shots(self, t: int, shots: int) -> "list[Encoded]":
        """Training examples of a held-out task, balanced over the labels; those of fewer shots are among those of more."""
        session = self.session
        return list(sample(session.rows[t, "train"], shots, f"{session.config.seed}/{session.tasks[t].name}/shots"))


class AdaptationEvaluation(EvaluationStage):
    """Validation and test scores of the task of an adaptation."""

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        size = sizes[config.protocol.adaptations(len(sizes))[task - 1].task]
        return float(size["test"] + size["validation"])

    def run(self) -> Iterator[events.Event]:
        session, scores = self.session, self.session.scores
        t, shots = session.config.protocol.adaptations(len(session.tasks))[self.task - 1]
        name = session.tasks[t].name
        validation = yield from session.score(self.task, t, "validation")
        result = yield from session.score(self.task, t)
        scores.validation.setdefault(name, {})[str(shots)] = validation.score
        scores.held_out.setdefault(name, {})[str(shots)] = result.score
        scores.done = [*scores.done[: self.task], result.score]
        rows, progress = len(session.rows[t, "test"]), session.progress()
        yield events.Evaluated(self.task, t, result.score, rows, progress, predictions=result.predictions)

    def ended(self) -> Iterator[events.Event]:
        yield events.TaskEnded(self.task, self.session.task_names[self.task], 0, 0, self.session.progress())


class ReturnToStart(Stage):
    """The end of a run: the model as every adaptation began with it, no work."""

    session: "Session"
    phase = "train"

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        return 0.0

    def run(self) -> Iterator[events.Event]:
        return_to_start(self.session)
        return iter(())


# -- what is trained -------------------------------------------------------------------------------------------------------


def modules(learner: "Learner", tasks: Sequence[int]) -> "dict[str, nn.Parameter]":
    """Experts and classifier rows of these tasks: their own experts where there is one per task, else all."""
    numbers = tasks if learner.per_task else range(len(learner.bank))
    experts = {f"expert{k}.{name}": p for k in numbers for name, p in learner.bank.expert(k).items()}
    return experts | learner.head.parameters_of(tasks)


def routing(learner: "Learner", tasks: Sequence[int]) -> "dict[str, nn.Parameter]":
    """The router's parameters for these tasks."""
    from lab.routers.base import TaskAware

    router = learner.router
    if not isinstance(router, TaskAware):
        return dict(router.named_parameters())
    return {name: parameter for t in tasks for name, parameter in router.of_task(t).items()}


def tuned_groups(session: "Session", t: int) -> "list[dict[str, nn.Parameter]]":
    """What adaptation to held-out task t tunes: modules and classifier rows, and its routing."""
    learner, all_modules = session.learner, session.config.protocol.adaptation.tuned == "all"
    return [modules(learner, [t]) if all_modules else learner.head.parameters_of([t]), routing(learner, [t])]


def count(*groups: "dict[str, nn.Parameter]") -> int:
    """Numbers in groups of parameters."""
    return sum(parameter.numel() for group in groups for parameter in group.values())


# -- the moment between ----------------------------------------------------------------------------------------------------


def change_to_start(session: "Session") -> None:
    """From joint training to the experts that adaptation begins with."""
    start = session.config.protocol.adaptation.start
    if start == "average":
        session.learner.merge_to_average()
    elif start == "fresh":
        session.learner.reinitialise()


def parameters(learner: "Learner") -> "dict[str, nn.Parameter]":
    """All that adaptation may change, by name."""
    experts = {f"expert{k}.{name}": p for k in range(len(learner.bank)) for name, p in learner.bank.expert(k).items()}
    router = {f"router.{name}": p for name, p in learner.router.named_parameters()}
    return experts | router | {f"classifier.{name}": p for name, p in learner.head.classifier.named_parameters()}


def return_to_start(session: "Session") -> None:
    """All parameters as every adaptation begins with them."""
    for name, parameter in parameters(session.learner).items():
        parameter.data.copy_(session.carried[START][name])
    for k in range(len(session.learner.bank)):
        session.learner.bank.trainable(k, False)


def alignment(session: "Session", tasks: Sequence[int]) -> float | None:
    """Mean cosine between the gradients of two of the tasks with respect to all experts, each from ALIGNED of its examples.

    Unit gradients g_t of T tasks: mean over t < u of g_t . g_u = (|sum g_t|^2 - T) / (T (T - 1)). None where no expert is
    shared, where there is one task, and where a gradient is zero.
    """
    import torch

    learner = session.learner
    if learner.per_task or len(tasks) < 2:
        return None
    shared = [p for k in range(len(learner.bank)) for p in learner.bank.expert(k).values()]
    total = torch.zeros(sum(p.numel() for p in shared), device=learner.backbone.device)
    for t in tasks:
        rows = sample(session.rows[t, "train"], ALIGNED, f"{session.config.seed}/{session.tasks[t].name}/aligned")
        batch = learner.backbone.collate(rows)
        decision = learner.decide(batch)
        with learner.bank.routed(decision):
            loss = learner.head.loss(learner.head.logits(batch), batch, "task")
            gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared, materialize_grads=True)])
        if not gradient.any():
            return None
        total += gradient / gradient.norm()
    return ((total.double() @ total.double()).item() - len(tasks)) / (len(tasks) * (len(tasks) - 1))
