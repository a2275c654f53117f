"""The contract of a metric, and what metrics are computed from: scores, predictions, routing.

A file of this folder defines one metric. By being there it stands in the JSON of runs, in `lab show`, comparisons, reports,
paired differences and the glossary of the page About. R[i][j] is the score on task j after learning task i, from 0, and T the
number of tasks; rows may be missing from the end (a run that was stopped). Means are over tasks, not over examples. Pure numpy.
"""

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache, cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lab.core import registry
from lab.core.errors import LabError
from lab.core.plugin_errors import at_fault, named, wrong_return
from lab.core.registry import Plugin

if TYPE_CHECKING:  # pandas is slow to import
    from pandas import DataFrame

Matrix = Sequence[Sequence[float | None]] | np.ndarray
AT_THE_END = "measured when the run is finished"
RESERVED = (  # what stands in results beside metrics, see lab.run_folder.result and lab.protocols
    *("run", "dir", "status", "recipe", "scenario", "stream", "backbone", "seed", "protocol", "tasks", "matrix", "measures"),
    *("train_tasks", "trained", "zero_shot", "held_out", "alignment_by_step", "uses", "cost", "changes", "why"),
)
GAP = "some of the scores that it is made of were not measured"


class Undefined(Exception):
    """A metric has no value; the message is the reason that the result gives."""


class Use(IntEnum):
    """What a number is used for when methods are compared; each use includes those before it."""

    EXPLAIN = 0  # it stands in tables
    COMPARE = 1  # its paired differences can be looked at
    JUDGE = 2  # its paired differences are always reported
    RANK = 3  # methods are ordered by it


# -- what metrics are computed from --------------------------------------------------------------------------------------------


def array(matrix: Matrix) -> np.ndarray:
    """R as floats with NaN where not yet seen; shape (rows learned, T)."""
    return np.array(matrix, dtype=float, ndmin=2)


@dataclass(frozen=True)
class MatrixScores:
    """What a run on a stream of tasks recorded.

    `matrix` is R. `single_task`: score of a model trained on task j alone, per task. `routing`: what was measured of the routing
    after the last task, by name; names that end in "_by_task" hold a mapping from tasks. `oracle`: scores after the last task
    when the true task picks the expert, per task. `reasons`: by dotted path in the result, why something was not measured.
    `gap`: why rows of R are empty, where some are. `tables`: what reads "predictions" and "routing_table" as they were recorded
    after learning a task; only metrics that ask for them have them read.
    """

    matrix: Matrix
    single_task: Sequence[float] | None = None
    routing: Mapping[str, Any] = field(default_factory=dict)
    oracle: Sequence[float] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    gap: str = GAP
    tables: "Mapping[str, Callable[[int], DataFrame]]" = field(default_factory=dict)
    of: ClassVar[str] = "runs on a stream"

    @cached_property
    def r(self) -> np.ndarray:
        """R with NaN where not yet seen, (rows learned, T). Raises Undefined where no task is learned."""
        if not len(self.matrix):
            raise Undefined("no task is learned yet")
        return array(self.matrix)

    @property
    def last(self) -> np.ndarray:
        """Scores of the learned tasks after the last one of them, (rows learned,)."""
        return self.r[-1, : len(self.r)]

    @property
    def learned(self) -> np.ndarray:
        """Score of each learned task right after it was learned, (rows learned,)."""
        return np.diag(self.r)

    @property
    def old(self) -> int:
        """Number of tasks learned before the last one. Raises Undefined where there is none."""
        if len(self.r) < 2:
            raise Undefined("needs at least two learned tasks")
        return len(self.r) - 1

    def recorded(self, name: str, reason_of: str = "") -> float:
        """A number of `routing`. Raises Undefined with its reason, or with that of the number `reason_of`."""
        if self.routing.get(name) is None:
            unknown = "not recorded by the version of the run" if self.routing else AT_THE_END
            raise Undefined(self.reasons.get(f"routing.{name}") or self.reasons.get(f"routing.{reason_of}") or unknown)
        return self.routing[name]

    @cached_property
    def predictions(self) -> "DataFrame":
        """Test predictions after the last learned task, one row per test example of every learned task.

        Columns: task, row, label and prediction (texts), correct (a bool), probability (of the prediction, in [0, 1]). Raises
        Undefined with the reason where none are recorded.
        """
        return self._table("predictions")

    @cached_property
    def routing_table(self) -> "DataFrame":
        """Mean routing weights on the test examples of every learned task, after the last one of them.

        Columns: task, layer, routing_head (from 0), expert, weight. Raises Undefined with the reason where none are recorded.
        """
        return self._table("routing_table")

    def _table(self, name: str) -> "DataFrame":
        last = len(self.r) - 1
        if name not in self.tables:
            raise Undefined(AT_THE_END)
        try:
            return self.tables[name](last)
        except LabError as error:  # not recorded, or damaged
            raise Undefined(str(error)) from error


@dataclass(frozen=True)
class TransferScores:
    """What joint training and few-shot adaptation recorded.

    `zero_shot`: by held-out task the score before any of its examples was seen. `held_out`: by held-out task and number of
    examples (as text) the score after adaptation. `trained`: by training task the score after joint training. `alignment`: by
    step the mean cosine of gradients, None where a gradient was zero.
    """

    zero_shot: Mapping[str, float]
    held_out: Mapping[str, Mapping[str, float]]
    held_out_tasks: Sequence[str]
    shots: Sequence[int]
    trained: Mapping[str, float]
    train_tasks: Sequence[str]
    alignment: Mapping[str, float | None]
    shares_experts: bool = True  # whether training tasks have an expert in common
    gap: ClassVar[str] = GAP
    of: ClassVar[str] = "transfer runs"


# -- the contract --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A number of a result as tables know it: where it stands, what to call it, what it means, what it is used for."""

    path: str  # dotted path in the result
    title: str
    about: str
    score: bool = True  # between 0 and 1, or a difference of such; else a count or an amount
    lower_is_better: bool = False
    use: Use = Use.EXPLAIN
    part_of: str = ""  # path of the amount that holds this one
    comes_with: str = ""  # path in the result without which the number is not listed


class Metric(Plugin):
    """A number computed from the scores of a run; the first paragraph of the docstring of its class says what it means."""

    kind = "metric"
    required = ("path", "title")
    path: str  # where it stands in the result, dotted
    title: str
    latex: ClassVar[str]  # the formula; R_{i,j} counts from 1
    reads: ClassVar[type] = MatrixScores  # what it is computed from
    range: ClassVar[tuple[float, float]] = (0, 1)  # of its values, where scores are between 0 and 1
    lower_is_better: ClassVar[bool] = False
    use: Use = Use.JUDGE
    worked: ClassVar[Sequence[tuple[Matrix, float]]] = ()  # matrices and the values that they have by hand, which checks compare
    rank: ClassVar[int] = 100  # where it stands in tables; metrics of one rank are sorted by name

    @abstractmethod
    def compute(self, scores: Any) -> float:
        """Its value. Raises Undefined with the reason where there is none."""

    def terms(self, scores: Any) -> list[str] | None:
        """In LaTeX, the terms of which the value is the mean; empty where they were not recorded, None if it is no mean."""
        return None

    @classmethod
    def of_scores(cls, scores: Any) -> "Sequence[Metric]":
        """The metrics of this class that `scores` allow: one, unless a class stands for a family of metrics."""
        return [cls()]

    @classmethod
    def of_results(cls, results: Sequence[Mapping[str, Any]]) -> "Sequence[Metric]":
        """The metrics of this class that stand in any of the results; without results, those of a run on a stream."""
        listed = any(has(result, cls.path) for result in results) if results else cls.reads is MatrixScores
        return [cls()] if listed else []

    @property
    def direction(self) -> str:
        """Between what its values are, and which of them are better, as a sentence."""
        low, high = self.range
        return f"From {low:g} to {high:g}; {'lower' if self.lower_is_better else 'higher'} is better."

    def measure(self) -> Measure:
        return Measure(self.path, self.title, self.about(), True, self.lower_is_better, self.use)


class Mean(Metric):
    """A metric that is the mean of parts."""

    @abstractmethod
    def parts(self, scores: Any) -> np.ndarray:
        """Numbers (n,), or pairs (n, 2) that stand for the first minus the second. Raises Undefined where there are none."""

    def compute(self, scores: Any) -> float:
        parts = self.parts(scores)
        return float(np.mean(parts if parts.ndim == 1 else parts[:, 0] - parts[:, 1]))

    def terms(self, scores: Any) -> list[str] | None:
        try:
            parts = self.parts(scores)
        except Undefined:
            return []
        if np.isnan(parts).any():
            return []
        return [f"{part:.3f}" for part in parts] if parts.ndim == 1 else [f"({a:.3f} - {b:.3f})" for a, b in parts]


def has(result: Mapping[str, Any], path: str) -> bool:
    """Whether a result has an entry at a dotted path, be it None."""
    section: Any = result
    *sections, name = path.split(".")
    for part in sections:
        section = section.get(part) if isinstance(section, Mapping) else None
    return isinstance(section, Mapping) and name in section


# -- all of them ---------------------------------------------------------------------------------------------------------------


def metric_classes() -> list[type[Metric]]:
    """All metrics in the order of tables; a broken one is left out with a warning."""
    return _load(registry.metrics.signature())


@cache
def _load(signature: tuple[str, ...]) -> list[type[Metric]]:
    classes: list[type[Metric]] = []
    for kind in sorted(_loaded(), key=lambda kind: not kind.__module__.startswith("lab.")):  # shipped ones keep their places
        try:
            with named():
                refuse_path(kind().path, classes)
            classes.append(kind)
        except LabError as error:
            warnings.warn(f"metric '{kind.name}' is broken: {error}", RuntimeWarning, stacklevel=3)
    return sorted(classes, key=lambda metric: (metric.rank, metric.name))


def _loaded() -> Iterator[type[Metric]]:
    for name in registry.metrics.names():
        try:
            yield registry.metrics.get(name)
        except LabError as error:  # one broken file must not hide the numbers of all runs
            warnings.warn(str(error), RuntimeWarning, stacklevel=4)


def refuse_path(path: str, others: Sequence[type[Metric]] = ()) -> None:
    """LabError for a path at which, or above which, something else stands in results."""
    owners = dict.fromkeys(RESERVED, "something else in results") | {other().path: other().title for other in others}
    for taken, owner in owners.items():
        if path == taken or path.startswith(f"{taken}.") or taken.startswith(f"{path}."):
            raise LabError(f"the path {path} of a metric meets {taken}, which is {owner}: choose another one")


def judged_metrics(results: Sequence[Mapping[str, Any]] = ()) -> list[Metric]:
    """The metrics whose differences between methods are always reported, the most important first."""
    judged = [metric for kind in metric_classes() for metric in kind.of_results(results) if metric.use >= Use.JUDGE]
    return sorted(judged, key=lambda metric: -metric.use)


def evaluate(scores: Any) -> tuple[dict[str, float | None], dict[str, str]]:
    """Every metric that reads such scores: values by dotted path, None where undefined, and by path the reasons of these."""
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for metric in (metric for kind in metric_classes() if isinstance(scores, kind.reads) for metric in kind.of_scores(scores)):
        try:
            values[metric.path] = value = _number(metric, metric.compute(scores))
            if math.isnan(value):
                raise Undefined(scores.gap)
        except Undefined as reason:
            values[metric.path], reasons[metric.path] = None, str(reason)
        except Exception as error:
            if not (sentence := at_fault(error)):
                raise
            values[metric.path], reasons[metric.path] = None, sentence
    return values, reasons


def _number(metric: Metric, value: object) -> float:
    """What a metric computed. Raises Undefined for what is no number, and for one that is infinite."""
    if not isinstance(value, Real):
        raise Undefined(wrong_return(metric, "compute", value, "a float"))
    if math.isinf(value):
        raise Undefined(f"metric '{metric.name}' is {value}: its scores give no finite number")
    return float(value)
