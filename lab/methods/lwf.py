"""Learning without forgetting: on the examples of the new task, keep what the model said before (Li and Hoiem 2018)."""

import torch
from pydantic import Field
from torch import Tensor

from lab.core.registry import Options
from lab.data.batching import Batch, Encoded
from lab.data.replay_buffer import Memory
from lab.methods.base import Method
from lab.models.learner import Learner, Output


class LwFOptions(Options):
    name: str = "lwf"
    strength: float = Field(1.0, ge=0, le=1e6, description="lambda_o, weight of the distillation; the paper has 1")
    temperature: float = Field(2.0, gt=0, le=1000, description="softens the two distributions that are compared")


class LwF(Method):
    """On the examples of a new task the classes of earlier tasks keep the probabilities they had before; nothing is stored.

    The earlier model is asked once for every training example when a task begins, as in the paper. Scenario task: one
    distribution over the classes of each earlier task, summed; else one over all earlier classes.
    """

    name = "lwf"
    Options = LwFOptions
    options: LwFOptions
    needs_classes = True

    def __init__(self, options: LwFOptions, learner: Learner, memory: Memory):
        super().__init__(options, learner, memory)
        self.before: Tensor | None = None  # (N, C) logits of the task's training examples before it was learned

    def begin_task(self, t: int, rows: list[Encoded]) -> None:
        self.before = self.learner.predict(rows) if t else None

    def terms(self, batch: Batch, out: Output) -> dict[str, Tensor]:
        t, space = self.learner.head.tasks_seen - 1, self.learner.head.space
        if self.before is None or not (batch.task == t).any():  # a batch of replayed rows alone has nothing to keep
            return {}
        groups = space.own[:t] if space.scenario == "task" else [range(space.own[t - 1].stop)]
        before = self.before[[row for task, _, row in batch.keys if task == t]]  # (B', C)
        now = out.logits[batch.task == t]  # (B', C)
        losses = [distillation(now[:, group], before[:, group], self.options.temperature) for group in map(list, groups)]
        return {"lwf": self.options.strength * sum(losses, torch.zeros(()))}

    def end_task(self, t: int, rows: list[Encoded]) -> None:
        self.before = None

    def state(self) -> dict[str, Tensor]:
        return {} if self.before is None else {"before": self.before}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.before = tensors["before"].to(self.learner.backbone.device) if tensors else None


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher / T) || softmax(logits / T)), mean over rows; logits and teacher (B, C).

    The gradient is that of the cross-entropy between the softened distributions, the loss of the paper (equations 2 and 3). It
    has no factor T^2, which Hinton et al. (2015) multiply with to keep the size of the gradient.
    """
    log_p, log_q = (teacher / temperature).log_softmax(-1), (logits / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
