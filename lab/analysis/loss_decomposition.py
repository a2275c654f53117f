"""Where did it go? What each old task has lost since it was learned, split by re-evaluation with the modules as they were.

R is the matrix of a finished run of T tasks, O_i[j] the score on task j after task i when the true task picks the expert, j < T:

    R[j][j] - R[T][j] = router + experts + classifier + new_classes
    router            = (O_T[j] - R[T][j]) - (O_j[j] - R[j][j])     how much the error of the router has grown since then
    O_j[j] - O_T[j]   = experts + classifier + new_classes          what is lost even if routing is perfect

The second line is split over what changed since task j was learned: the experts, the classifier's rows of the classes known
then, and (scenario class only) the classes that compete since. s(S) is the score with the parts S as they are now and the others
as they were, so s(none) = O_j[j] and s(all) = O_T[j]. The share of a part is its mean cost over all orders of changing them
(Shapley), since no order is the right one and the terms must not depend on it. Parts that are equal bit for bit have the share 0
without evaluation.

Where no single expert is the model of a task (one shared expert, or experts trained while the earlier ones act), there is no
perfect routing: `router` is None, s is measured with the run's own routing, and `experts` means experts and router together.
The mean over old tasks is the negative of backward transfer, term by term.

Where the language model answers, the same is done with the loss of the tokens of the right answers, which moves before a score
does: the mean cross-entropy in nats takes the place of the score, its growth that of the loss. No classes compete in it.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lab.config.resolve import validated
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.data.batching import Encoded
from lab.inference.loading import recall
from lab.models.heads import Classifier, Written
from lab.models.learner import Learner, routing_state
from lab.run_folder.run import Run
from lab.training import runner
from lab.training.evaluation import evaluate, token_loss
from lab.training.trainer import EVALUATION_BATCH, Session

Measure = Callable[[Learner, list[Encoded], int, bool], float]  # of rows, when so many tasks are seen, by perfect routing or not
TERMS = ("router", "experts", "classifier", "new_classes")
FILE = "decomposition.json"


def decompose(run: Run, watch: Callable[[str, int, int], None] = lambda *_: None) -> dict[str, Any]:
    """The decomposition of a finished run: read from its folder if it is there, else measured and kept there.

    {"tasks": [{"task", "learned": R[j][j], "last": R[T][j], "loss", <terms>, "oracle_learned", "oracle_last"}, ...],
    "mean": {"loss", <terms>}, "why": {<term that does not exist>: reason}}. Where the language model answers, "token_loss" has
    "tasks" and "mean" of the loss per token of the right answers. `watch` is told each old task before its turn, how many are
    done and how many there are. Raises LabError for a run that is not finished or keeps no state, and where its scores cannot
    be reproduced here.
    """
    decomposition = run.decomposition
    if not decomposition:
        decomposition = _measure(run, watch)
        atomic_io.write_json(run.dir / FILE, decomposition)
    return decomposition


def _measure(run: Run, watch: Callable[[str, int, int], None]) -> dict[str, Any]:
    if not run.protocol.continual:
        raise LabError(
            f"run '{run.id}' is of protocol {run.protocol.name}: nothing is forgotten, adaptations begin from one moment"
        )
    if run.status != "finished" or len(run.matrix) < 2:
        state = f"is {run.status}" if run.status != "finished" else "has learned one task only"
        raise LabError(f"run '{run.id}' {state}: where its losses went can be asked of finished runs of two or more tasks")
    if np.isnan(np.diagonal(run.matrix)).any():
        raise LabError(f"run '{run.id}' was not evaluated after every task: where its losses went cannot be told")
    session = reopened(run)
    last = len(run.matrix) - 1
    then, now = Learner(session.config, session.tasks), session.learner
    then.head.longest = now.head.longest  # which has seen the training examples
    for t in range(last + 1):
        now.add_task(t)
    recall(run, now, last)
    scores, tokens = [], []
    for j in range(last):
        watch(run.tasks[j], j, last)
        for t in range(then.head.tasks_seen, run.protocol.tasks_met(j, last + 1)):
            then.add_task(t)
        recall(run, then, j)
        scores.append(_row_of_scores(run, session, then, j))
        tokens += [_row_of_tokens(session, then, j)] if isinstance(now.head, Written) else []
        watch(run.tasks[j], j + 1, last)
    losses = {"token_loss": {"tasks": tokens, "mean": _mean(tokens)}} if tokens else {}
    return {"tasks": scores, "mean": _mean(scores), "why": _why(session)} | losses


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """The mean of each term over the old tasks, None of those that do not exist."""
    names = ("loss", *TERMS)
    return {name: None if rows[0][name] is None else sum(row[name] for row in rows) / len(rows) for name in names}


def reopened(run: Run) -> Session:
    """The session of the run before training; LabError where it kept no moments, or data or backbone are not those of the run."""
    if not (run.dir / "state" / "after_0" / "classifier.safetensors").is_file():
        raise LabError(
            f"run '{run.id}' has no files of its moments (state/after_0): only a run that kept them can be looked back at"
        )
    session = runner.session(validated(run.config), run.dir.parent, keep=False)
    if not session.rests_on(run.info.get("fingerprint")):
        raise LabError(f"the data or the backbone of run '{run.id}' have changed since it was made: it cannot be evaluated again")
    return session


def _why(session: Session) -> dict[str, str]:
    """Reasons of the terms that do not exist."""
    why = {}
    if not session.learner.isolated:
        one = len(session.learner.config.experts.pool) == 1
        shared = "there is one shared expert: nothing to route" if one else "every task trains all experts: none is a task's own"
        why["router"] = "experts act together: none alone is the model of a task"
        why["router"] = why["router"] if session.learner.per_task else shared
    if session.tasks[0].generates:
        why["new_classes"] = "answers are free text: there are no classes"
    elif session.config.scenario != "class":
        own = {"task": "only the classes of the given task compete", "domain": "all tasks have the same classes"}
        why["new_classes"] = own[session.config.scenario]
    return why


def _score(learner: Learner, rows: list[Encoded], seen: int, oracle: bool) -> float:
    return evaluate(learner, rows, seen, EVALUATION_BATCH, oracle).score


def _gain_of_tokens(learner: Learner, rows: list[Encoded], seen: int, oracle: bool) -> float:
    """The loss per token, so that more is better, as of a score."""
    return -token_loss(learner, rows, EVALUATION_BATCH, oracle)


def _row_of_scores(run: Run, session: Session, then: Learner, j: int) -> dict[str, Any]:
    """The terms of the score of old task j. LabError where the scores of the run are not reproduced here."""
    learned, kept, oracle = float(run.matrix[j, j]), float(run.matrix[-1, j]), session.learner.isolated
    row, before, after = _row(session, then, j, _score, learned, kept)
    expected = {"after the last task": (after, run.recorded_scores["oracle"][j] if oracle else kept)}
    expected |= {} if oracle else {"when it was learned": (before, learned)}
    for moment, (here, recorded) in expected.items():
        if here != recorded:
            raise LabError(
                f"the scores of run '{run.id}' are not reproduced here: task '{run.tasks[j]}' {moment} had {recorded:.4f}, "
                f"now {here:.4f}; use the machine and the versions that made it (env.json)"
            )
    return row | {"oracle_learned": before if oracle else None, "oracle_last": after if oracle else None}


def _row_of_tokens(session: Session, then: Learner, j: int) -> dict[str, Any]:
    """The terms of the growth of the loss per token of old task j."""
    routed = (_gain_of_tokens(learner, session.rows[j, "test"], 0, False) for learner in (then, session.learner))
    row, _, _ = _row(session, then, j, _gain_of_tokens, *routed)
    return row | {"learned": -row["learned"], "last": -row["last"]}


def _row(
    session: Session, then: Learner, j: int, measure: Measure, learned: float, kept: float
) -> tuple[dict[str, Any], float, float]:
    """The terms of old task j by a measure that was `learned` and is `kept`, and s(none) and s(all).

    `then` is the learner after task j, the session's learner the one after the last task.
    """
    now, oracle = session.learner, session.learner.isolated
    old = _classifier(then.head.classifier, now.head.classifier)
    compete = measure is _score and session.config.scenario == "class" and not session.tasks[0].generates
    changed = {
        "experts": not _equal(_modules(then, j, oracle), _modules(now, j, oracle)),
        "classifier": not _equal(dict(old.named_parameters()), dict(now.head.classifier.named_parameters())),
        "new_classes": compete,
    }
    parts = [part for part, differs in changed.items() if differs]

    @cache
    def score(new: frozenset[str]) -> float:
        learner = then if changed["experts"] and "experts" not in new else now
        classifier = now.head.classifier if "classifier" in new or not changed["classifier"] else old
        seen = now if "new_classes" in new or not changed["new_classes"] else then
        with _with(learner, classifier):
            return measure(learner, session.rows[j, "test"], seen.head.tasks_seen, oracle)

    before, after = score(frozenset()), score(frozenset(parts))
    row: dict[str, Any] = {"task": session.task_names[j], "learned": learned, "last": kept, "loss": learned - kept}
    row["router"] = (after - kept) - (before - learned) if oracle else None
    row |= dict.fromkeys(TERMS[1:], 0.0) | shares(score, parts)
    row["new_classes"] = row["new_classes"] if compete else None
    return row, before, after


def shares(score: Callable[[frozenset[str]], float], parts: Sequence[str]) -> dict[str, float]:
    """Split score(none) - score(all) among parts that changed; `score(S)` is that with the parts S new and the others old.

    The share of a part is its mean cost over all orders in which the parts can be changed one after the other (Shapley 1953):
    no order is preferred, the shares add up, and a part whose change never matters has the share 0. 2^n scores for n parts.
    """
    orders = list(permutations(parts))
    share_of = dict.fromkeys(parts, 0.0)
    for order in orders:
        for i, part in enumerate(order):
            share_of[part] += (score(frozenset(order[:i])) - score(frozenset(order[: i + 1]))) / len(orders)
    return share_of


def _modules(learner: Learner, j: int, oracle: bool) -> dict[str, Tensor]:
    """What `experts` stands for: with perfect routing the expert of task j, else all experts and the router."""
    if oracle and not learner.consolidation.trains:
        return dict(learner.bank.expert(j))
    experts = {f"{k}.{name}": p for k in range(len(learner.bank)) for name, p in learner.bank.expert(k).items()}
    return experts | {f"router.{name}": tensor for name, tensor in routing_state(learner).items()}


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _classifier(then: Classifier, now: Classifier) -> Classifier:
    """The classifier as it was, with the rows of later classes as they are now; without new classes simply as it was."""
    if then.averages_blocks:
        return then
    mixed = copy.deepcopy(now)
    for own, block in ((mixed.weight, then.weight), (mixed.bias, then.bias)):
        for t, parameter in enumerate(block):
            own[t] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
    return mixed


@contextmanager
def _with(learner: Learner, classifier: Classifier) -> Iterator[None]:
    """Inside the block the learner has another classifier."""
    kept, learner.head.classifier = learner.head.classifier, classifier
    try:
        yield
    finally:
        learner.head.classifier = kept
