"""The stages that evaluate on task after task: before training, after every task, and after the last one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lab.config.schema import RunConfig
from lab.run_folder import events
from lab.training.stage import Stage
from lab.training.workload import Sizes, tested

if TYPE_CHECKING:
    from lab.training.trainer import Session


class EvaluationStage(Stage):
    """A stage that evaluates; on disk all of them are the phase "evaluate"."""

    session: "Session"
    phase = "evaluate"


class UntrainedEvaluation(EvaluationStage):
    """The row before training: an untrained classifier over all classes of the stream (b_j of GEM)."""

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        return tested(sizes)

    def run(self) -> Iterator[events.Event]:
        session, scores = self.session, []
        with session.learner.head.untrained():
            for j in range(len(session.tasks)):
                result = yield from session.score(-1, j, seen=len(session.tasks))
                scores.append(result.score)
                rows, progress = len(session.rows[j, "test"]), session.progress()
                yield events.Evaluated(-1, j, result.score, rows, progress, scores=result.scores)
        session.scores.zero_shot = scores


class RowEvaluation(EvaluationStage):
    """Row t of the matrix: every task seen so far, on its test examples."""

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        return tested(sizes[: task + 1])

    def run(self) -> Iterator[events.Event]:
        session, t, scores = self.session, self.task, self.session.scores
        scores.partial, measures = [], []
        scores.matrix += [[None] * len(session.tasks) for _ in range(t - len(scores.matrix))]  # moments without an evaluation
        for j in range(t + 1):
            result = yield from session.score(t, j)
            scores.partial.append(result.score)
            measures.append(result.scores)
            yield events.Evaluated(
                t,
                j,
                result.score,
                len(session.rows[j, "test"]),
                session.progress(),
                scores=result.scores,
                predictions=result.predictions,
                routing=result.routing,
            )
        unseen = [None] * (len(session.tasks) - t - 1)
        scores.matrix.append(scores.partial + unseen)
        for name in session.learner.head.measures:
            rows = scores.measures.setdefault(name, [])
            rows += [[None] * len(session.tasks) for _ in range(t - len(rows))]
            rows.append([of_task[name] for of_task in measures] + unseen)
        scores.partial = []

    def ended(self) -> Iterator[events.Event]:
        session = self.session
        stored = session.memory.bytes + sum(method.bytes for method in session.methods)
        name, progress = session.task_names[self.task], session.progress()
        yield events.TaskEnded(self.task, name, len(session.memory), stored, progress)


class FinalEvaluation(EvaluationStage):
    """After the last task: the last row on validation examples (for selection), and with oracle routing."""

    @classmethod
    def work(cls, config: RunConfig, sizes: Sizes, task: int) -> float:
        oracle = config.experts.allocation == "per_task" and config.experts.isolated
        return float(sum(size["validation"] for size in sizes)) + oracle * tested(sizes)

    def run(self) -> Iterator[events.Event]:
        session, tasks = self.session, range(len(self.session.tasks))
        last, scores = len(tasks) - 1, []
        for j in tasks:
            result = yield from session.score(last, j, "validation")
            scores.append(result.score)
        session.scores.validation, scores = scores, []
        if not session.learner.isolated:
            return
        for j in tasks:
            result = yield from session.score(last, j, oracle=True)
            scores.append(result.score)
            yield events.OracleEvaluated(j, result.score, session.progress())
        session.scores.oracle = scores
