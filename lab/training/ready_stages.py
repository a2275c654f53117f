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
    from torch import Tensor

    from lab.data.batching import Encoded


class ReadyExpert(ExpertTraining):
    """The task's expert, frozen as it was saved, and a classifier on it: the adapter's own head, or one fitted on examples."""

    about, title = "placing a ready expert", "placing"

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        return float(sizes[task]["train"])

    def run(self) -> Iterator[events.Event]:
        session, t, learner = self.session, self.task, self.session.learner
        own_rows = session.protocol.training_rows(session, t)
        self.begin(own_rows)
        rows = learner.head.parameters_of([t])  # none where the language model answers
        self.groups, self.isolated = [rows], True
        count = sum(parameter.numel() for parameter in rows.values())
        yield events.TaskStarted(t, session.task_names[t], len(learner.bank), count, False, session.progress())
        if rows:
            with session.timed():
                self.set_classifier(*self.classifier(own_rows))
        self.finish(own_rows)

    def classifier(self, own_rows: "list[Encoded]") -> "tuple[Tensor, Tensor]":
        """Weight (C, D) and bias (C,) of the task's classes: of the adapter's head, or fitted while its expert acts alone."""
        import torch

        from lab.routers.base import single_expert
        from lab.training.optimisation import logistic_regression

        learner, head = self.session.learner, self.session.protocol.heads.get(self.session.task_names[self.task])
        classes = len(learner.head.classifier.block(self.task)["classifier.bias"])
        if head is not None:
            return torch.from_numpy(head), torch.zeros(classes)
        representations = learner.represented(own_rows, single_expert(learner.current[0], learner.backbone.device))
        x = torch.stack([representations[row.key] for row in own_rows])  # (N, D)
        return logistic_regression(x, torch.tensor([row.label for row in own_rows], device=x.device), classes)

    def set_classifier(self, weight: "Tensor", bias: "Tensor") -> None:
        """Copy the values into the task's block."""
        block = self.session.learner.head.classifier.block(self.task)
        block["classifier.weight"].data.copy_(weight)
        block["classifier.bias"].data.copy_(bias)
