"""Pruning by load (ModuleFormer, Shen et al. 2023): which experts carry the routing of a run, what is lost without the others.

The load of an expert is its part in the sum of the recorded weights after the last task, mean over layers, routing heads, test
examples and tasks. No label enters it. A loss that concentrates the load (router.load=concentrated) leaves more to prune.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lab.analysis.loss_decomposition import reopened
from lab.core.errors import LabError
from lab.inference.loading import recall
from lab.inference.override import Override
from lab.run_folder.run import Run
from lab.training.evaluation import Evaluation, evaluate
from lab.training.trainer import EVALUATION_BATCH


def kept_by_load(loads: Iterable[float], share: float) -> list[int]:
    """Numbers of the fewest experts that together carry `share` of the load, in order; the others may be pruned.

    LabError for a share outside of (0, 1], negative loads, and none.
    """
    load = np.array([*loads], dtype=float)
    if not 0 < share <= 1:
        raise LabError(f"share = {share}: give the part of the load to keep, above 0 and at most 1")
    if not len(load) or not (load >= 0).all() or not load.sum() > 0:
        raise LabError(f"loads = {load.tolist()}: give one number per expert, none negative and not all zero")
    order = np.argsort(-load, kind="stable")
    carried = load[order].cumsum() / load.sum()
    return sorted(order[: int((carried < share - 1e-12).sum()) + 1].tolist())


def pruned(run: Run, share: float = 0.9, watch: Callable[[str, int, int], None] = lambda *_: None) -> dict[str, Any]:
    """Loads of the experts of a finished run, and its scores on test examples with all experts and with the kept ones alone.

    {"run", "share", "experts": [{"expert", "load", "kept"}, ...], "tasks": [{"task", "before", "after"}, ...],
    "average_accuracy": {"before", "after"}}; where tasks have further scores, each and the whole also have "measures": {name:
    {"before", "after"}}. All are measured here, with the model as it was after the last task; a model that writes writes every
    answer again. `watch` is told the task, how many answers are given and how many there will be, before each task and after
    each batch. The others get the weight of a pruned expert in proportion; where a router had chosen pruned ones alone, nothing
    acts. Nothing is written. Raises LabError for a share outside of (0, 1], and for a run that is not finished, of protocol
    transfer, or without several experts to route.
    """
    if not run.protocol.continual:
        raise LabError(f"run '{run.id}' is of protocol {run.protocol.name}: experts are pruned by the load of a run on a stream")
    if run.status != "finished":
        raise LabError(f"run '{run.id}' is {run.status}: experts are pruned by the load of a finished run")
    if not run.recorded():
        raise LabError(f"run '{run.id}' has no recorded routing: there is no load to prune by")
    routing = run.routing()
    loads = np.mean([routing.share(task) for task in range(len(routing.tasks))], axis=0)  # (E,)
    kept = kept_by_load(loads, share)
    if len(loads) < 2:
        raise LabError(f"run '{run.id}' has one expert: there is nothing to route and nothing to prune")
    session, last = reopened(run), len(run.matrix) - 1
    learner = session.learner
    for t in range(last + 1):
        learner.add_task(t)
    recall(run, learner, last)
    without = Override(pruned=tuple(k for k in range(len(loads)) if k not in kept))

    changes = [Override(), without] if without.pruned else [Override()]
    total, answered = len(changes) * sum(len(session.rows[t, "test"]) for t in range(last + 1)), 0

    def evaluated(t: int, change: Override) -> Evaluation:
        nonlocal answered
        test, told = session.rows[t, "test"], answered
        how = change.of if change.pruned else None
        answered += len(test)
        return evaluate(
            learner, test, last + 1, EVALUATION_BATCH, change=how, progress=lambda done: watch(run.tasks[t], told + done, total)
        )

    rows = []
    for t, task in enumerate(run.tasks):
        watch(task, answered, total)
        evaluations = [evaluated(t, change) for change in changes]
        before, after = evaluations[0], evaluations[-1]
        pairs = {name: {"before": value, "after": after.scores[name]} for name, value in before.scores.items()}
        rows.append({"task": task, "before": before.score, "after": after.score} | ({"measures": pairs} if pairs else {}))

    def mean(pairs: list[dict[str, Any]]) -> dict[str, float]:
        return {moment: float(np.mean([pair[moment] for pair in pairs])) for moment in ("before", "after")}

    measures = {name: mean([row["measures"][name] for row in rows]) for name in rows[0].get("measures", {})}
    experts = zip(routing.experts, loads, strict=True)
    return {
        "run": run.id,
        "share": share,
        "experts": [{"expert": name, "load": float(load), "kept": k in kept} for k, (name, load) in enumerate(experts)],
        "tasks": rows,
        "average_accuracy": mean(rows),
        **({"measures": measures} if measures else {}),
    }
