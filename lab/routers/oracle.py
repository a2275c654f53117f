"""The true task picks the expert: the reference point of perfect routing."""

from lab.core.errors import LabError
from lab.routers.base import Axes, Decision, Reads, Request, Router, one_hot


class Oracle(Router):
    """The expert of the true task has weight 1, all others 0; uses the task identity and says so."""

    name = "oracle"
    axes = Axes("model", "task", "hard")
    reads = frozenset({Reads.TASK})

    def forward(self, request: Request) -> Decision:
        if request.task is None:
            raise LabError("the oracle router needs the task identity of every row")
        return Decision(one_hot(request.task, self.experts, self.heads))
