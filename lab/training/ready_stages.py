"""The stage that puts a saved expert into its place: nothing of it is trained, at most the classifier rows of its task.

What loads torch is imported inside the functions that train, see lab.training.stage.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lab.config.schema import RunConfig
from lab.run_folder import events
from lab.training.stages import ExpertTraining
from lab.training.workload import Sizes

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lab.data.batching import Batch, Encoded
    from lab.routers.base import Decision


class ReadyExpert(ExpertTraining):
    """The task's expert, frozen as it was saved, and a classifier on it: the adapter's own head, or one fitted on examples.

    While it is fitted the expert acts alone with weight 1. What expert and backbone make of an example is computed once.
    """

    about, title, rate = "fitting the classifier of a ready expert", "fitting", "protocol.lr"

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        return float(sizes[task]["train"])

    def run(self) -> Iterator[events.Event]:
        session, t = self.session, self.task
        own_rows, starts = session.protocol.training_rows(session, t), session.cursor.step == 0
        if starts:
            self.begin(own_rows)
        with session.timed():
            self.prepare(own_rows)
        if starts:
            count = sum(parameter.numel() for parameter in self.groups[0].values()) if self.steps else 0
            yield events.TaskStarted(t, session.task_names[t], len(session.learner.bank), count, False, session.progress())
        if self.steps:
            yield from session.fit(self)
        self.finish(own_rows)

    def prepare(self, own_rows: "list[Encoded]") -> None:
        from lab.routers.base import single_expert

        session, learner, options = self.session, self.session.learner, self.session.protocol.options
        rows = learner.head.parameters_of([self.task])  # none where the language model answers
        self.groups, self.rates, self.source, self.isolated = [rows], [options.lr], [], True
        self.batches = session.batches(own_rows, session.config.train.batch_size, "order", self.task)
        own_head = session.protocol.heads.get(session.task_names[self.task])
        self.steps, self.epochs = options.epochs * len(self.batches) if rows and own_head is None else 0, options.epochs
        if own_head is not None:
            self.take_head(own_head)
        decision = single_expert(learner.current[0], learner.backbone.device)
        self.represented = learner.represented(own_rows, decision) if self.steps else {}

    def take_head(self, weight: "np.ndarray") -> None:
        """The classifier rows of the task are a linear head without bias (C, D)."""
        import torch

        block = self.session.learner.head.classifier.block(self.task)
        with torch.no_grad():
            block["classifier.weight"].copy_(torch.from_numpy(weight))
            block["classifier.bias"].zero_()

    # -- a step --------------------------------------------------------------------------------------------------------

    def rows(self, step: int) -> "list[Encoded]":
        return self.batches.at(step)

    def decision(self, batch: "Batch", step: int) -> "Decision | None":
        return None  # the experts have acted already

    def terms(self, batch: "Batch", decision: "Decision | None") -> "dict[str, Tensor]":
        import torch

        head = self.session.learner.head
        representation = torch.stack([self.represented[key] for key in batch.keys])  # (B, D)
        return {"task": head.isolated_loss(head.classifier(representation, self.task), batch)}
