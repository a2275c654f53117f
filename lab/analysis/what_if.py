"""What if experts had been chosen differently? The row of the matrix after a task, under a change of all routing weights.

    from lab.analysis.what_if import what_if
    what_if(run, temperature=0.5)             the last row, if every weight were raised to the power 2
    what_if(run, 2, top=1, pruned=["sea"])    the row after task 2: one expert for each decision, never "sea"

The change is that of `lab.inference.override.Override`. A run records the weights of a few test examples whole, and of all of
them only sums: from these no prediction follows. So the model is asked again about all test examples of the tasks, except where
the record proves that no weight changes: nothing is changed, an expert that never had weight is taken out, or every decision had
gone to one expert alone, which no temperature and no top-k alters. Then the row is the recorded one, and no model is loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.analysis.loss_decomposition import reopened
from lab.core.errors import LabError
from lab.inference.loading import recall
from lab.inference.override import Override, override_of
from lab.metrics.base import MatrixScores
from lab.metrics.base import evaluate as metrics_of
from lab.routers.base import Reads
from lab.run_folder.routing_record import Routing
from lab.run_folder.run import Run
from lab.training.evaluation import evaluate
from lab.training.trainer import EVALUATION_BATCH

Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Tested:
    """One task under a change: its score, and how often each expert had the largest weight, (E,), mean over layers and heads."""

    score: float
    top: np.ndarray


def what_if(run: Run, after: int | None = None, watch: Watch = lambda *_: None, **change: Any) -> dict[str, Any]:
    """The row after task `after` (0-based; default: the last) as it was recorded and under a change of the weights.

    `change`: temperature, top, pruned, expert, uniform, without, see Override; experts are given by name or number. `watch` is
    told a task, how many test examples are answered and how many there are in all. {"run", "after", "asked": tasks the model was
    asked about, "tasks": [{"task", "recorded", "changed"}, ...], "metrics": {path: {"recorded", "changed"}} of average_accuracy,
    forgetting (from the rows before, as recorded) and routing.accuracy, None where undefined}. Nothing is written. Raises
    LabError for a change that does not fit, and as `Examiner` does.
    """
    after = moment(run, after)
    routing = run.routing(after)
    override = override_of(routing.experts, routing.mean(0).shape[1], **change)
    unsure = [t for t in tasks_at(run, after) if not proven(routing, t, override)]
    tested: dict[int, Tested] = {}
    if unsure:
        examiner = Examiner(run, after)
        total, answered = sum(map(examiner.size, unsure)), 0
        for t in unsure:
            tested[t] = examiner.test(t, override, lambda done, t=t, told=answered: watch(run.tasks[t], told + done, total))
            answered += examiner.size(t)
    return outcome(run, after, tested)


def moment(run: Run, after: int | None = None) -> int:
    """The moment that is asked about; LabError where the run has no row of it, or no recorded routing among several experts."""
    if not run.protocol.continual:
        raise LabError(f"run '{run.id}' is of protocol {run.protocol.name}: it has no rows of a matrix to change")
    moments = [k for k in run.recorded() if k < len(run.matrix)]
    if not moments:
        raise LabError(f"run '{run.id}' has no recorded routing: there are no weights to change")
    after = moments[-1] if after is None else after
    if after not in moments:
        raise LabError(f"run '{run.id}' has no recorded routing after task {after}: use one of {moments}")
    if len(run.routing(after).experts) < 2:
        raise LabError(f"run '{run.id}' has one expert after task {after}: it always acts, so there is nothing to choose")
    return after


def tasks_at(run: Run, after: int) -> list[int]:
    """The tasks that row `after` has a score and recorded weights of."""
    routing = run.routing(after)
    known = range(min(len(routing.tasks), run.matrix.shape[1]))  # a damaged run may have fewer scores
    return [t for t in known if not np.isnan(run.matrix[after, t]) and f"{t}/count" in routing.arrays]


def proven(routing: Routing, task: int, change: Override) -> bool:
    """Whether what was recorded proves that a change leaves every weight on every test example of a task as it was."""
    if change.expert is not None or change.uniform or change.without:
        return False
    unused = not routing.arrays[f"{task}/weight_sum"][..., list(change.pruned)].any()
    sharpened = change.temperature != 1 or change.top not in (None, len(routing.experts))
    return unused and (not sharpened or not routing.arrays[f"{task}/entropy_sum"].any())


def outcome(run: Run, after: int, tested: Mapping[int, Tested]) -> dict[str, Any]:
    """What `what_if` returns, from the tasks that were tested; the others keep what was recorded."""
    tasks, routing = tasks_at(run, after), run.routing(after)
    matrix = run.matrix[: after + 1].copy()
    matrix[after, [*tested]] = [own.score for own in tested.values()]
    hits = {t: routing.top1(t).mean((0, 1)) for t in tasks}
    before = _metrics(run.matrix[: after + 1], routing, hits)
    changed = _metrics(matrix, routing, hits | {t: own.top for t, own in tested.items()})
    rows = [{"task": run.tasks[t], "recorded": float(run.matrix[after, t]), "changed": float(matrix[after, t])} for t in tasks]
    return {
        "run": run.id,
        "after": after,
        "asked": [run.tasks[t] for t in tested],
        "tasks": rows,
        "metrics": {path: {"recorded": before[path], "changed": changed[path]} for path in before},
    }


def _metrics(matrix: np.ndarray, routing: Routing, top: Mapping[int, np.ndarray]) -> dict[str, float | None]:
    """Average accuracy, forgetting, and how often the task's own expert has the largest weight; None where undefined."""
    values, _ = metrics_of(MatrixScores(matrix))
    own = [top[t][routing.experts.index(routing.tasks[t])] for t in top] if routing.owned else []
    named = {path: values[path] for path in ("average_accuracy", "forgetting")}
    return named | {"routing.accuracy": float(np.mean(own)) if own else None}


def recorded_shares(run: Run, after: int, change: Override) -> tuple[np.ndarray, np.ndarray]:
    """Each expert's part of the weights on the examples that were recorded whole, as they were and under a change: (T, E) each.

    Rows of tasks without such examples are NaN. The second is exact unless `reads_layers`: a layer that is fed with what others
    have changed may then decide differently.
    """
    import torch

    routing = run.routing(after)
    before, changed = np.full((2, len(routing.tasks), len(routing.experts)), np.nan)
    for t in range(len(routing.tasks)):
        if f"{t}/examples" in routing.arrays:
            weights = torch.from_numpy(np.array(routing.examples(t), dtype=np.float32))  # (N, L, H, E)
            for table, used in ((before, weights), (changed, change(weights))):
                table[t] = (used / used.sum(-1, keepdim=True).clamp_min(1e-12)).mean((0, 1, 2)).numpy()
    return before, changed


def reads_layers(run: Run) -> bool:
    """Whether the router decides by what the layers are fed with, so that a change in one layer may change decisions above it."""
    from lab.config.resolve import validated
    from lab.core import registry

    options = validated(run.config).router
    return Reads.LAYERS in registry.routers.get(options.name).reads_of(options)


class Examiner:
    """The model of a run after a task, and the test examples of the run: what asks it again under a change.

    Loading takes as long as a run takes to begin. Raises LabError where the run kept no weights of this moment, and where its
    data or its backbone are not those it was made with.
    """

    def __init__(self, run: Run, after: int):
        if after not in run.kept():
            raise LabError(
                f"run '{run.id}' is here without its weights of the moment after task {after}, so its model cannot be asked: "
                f"train one of your own, lab run {run.config['recipe']}"
            )
        self.session = reopened(run)
        learner = self.session.learner
        for t in range(run.protocol.tasks_met(after, len(run.tasks))):
            learner.add_task(t)
        recall(run, learner, after)

    def size(self, task: int) -> int:
        """Test examples of a task."""
        return len(self.session.rows[task, "test"])

    def test(self, task: int, change: Override, watch: Callable[[int], None] = lambda _: None) -> Tested:
        """The test examples of a task under a change; `watch` is told after each batch how many are answered."""
        learner = self.session.learner
        evaluation = evaluate(
            learner,
            self.session.rows[task, "test"],
            learner.head.tasks_seen,
            EVALUATION_BATCH,
            change=change.of if change != Override() else None,
            progress=watch,
        )
        routing = evaluation.routing
        assert routing is not None, "several experts have weights"
        return Tested(evaluation.score, (np.asarray(routing.top_count) / routing.count).mean((0, 1)))
