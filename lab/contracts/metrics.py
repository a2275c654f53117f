"""The contract of a metric, see `lab.metrics.base`: on random matrices of several sizes, and on what was not measured."""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from lab.contracts.checking import Check, documentation_check, need
from lab.core.plugin_errors import wrong_return
from lab.core.registry import Options, metrics
from lab.metrics.base import MatrixScores, Mean, Metric, TransferScores, Undefined, evaluate, metric_classes, refuse_path

NEAR = 1e-9


def matrices(count: int = 20) -> Iterator[MatrixScores]:
    """Finished runs and stopped ones of two to six tasks, with everything measured beside the matrix."""
    draw = np.random.default_rng(0)
    for _ in range(count):
        tasks = int(draw.integers(2, 7))
        rows = int(draw.integers(2, tasks + 1))
        scores = draw.random((rows, tasks)).round(3)
        matrix = [[float(scores[i, j]) if j <= i else None for j in range(tasks)] for i in range(rows)]
        oracle = draw.random(rows).tolist()
        routing = {"own_expert_share": 0.5, "accuracy": 0.25, "oracle_average_accuracy": sum(oracle) / rows}
        tables = {"predictions": _predictions(draw, rows), "routing_table": _routing_table(draw, rows)}
        recorded = {name: partial(_after, table) for name, table in tables.items()}
        yield MatrixScores(matrix, draw.random(tasks).tolist(), routing, oracle=oracle, tables=recorded)


def _after(table: pd.DataFrame, moment: int) -> pd.DataFrame:
    return table.copy()


def _predictions(draw: np.random.Generator, tasks: int) -> pd.DataFrame:
    """Eight test predictions of each task, with the columns of `Run.predictions`."""
    label, prediction = (draw.choice(["no", "yes"], 8 * tasks) for _ in range(2))
    about = {"task": np.repeat([f"t{j}" for j in range(tasks)], 8), "row": np.tile(np.arange(8), tasks), "label": label}
    correct, probability = label == prediction, draw.uniform(0.5, 1, 8 * tasks)
    return pd.DataFrame(about | {"prediction": prediction, "correct": correct, "probability": probability})


def _routing_table(draw: np.random.Generator, tasks: int) -> pd.DataFrame:
    """Weights of an expert per task in two layers with two routing heads, with the columns of `Run.routing_table`."""
    names = [f"t{j}" for j in range(tasks)]
    axes: list[Any] = ["task", "layer", "routing_head", "expert"]
    index = pd.MultiIndex.from_product([names, ["first", "second"], range(2), names], names=axes)
    weights = draw.dirichlet(np.ones(tasks), 4 * tasks).ravel()
    return pd.DataFrame({"after": tasks - 1, "weight": weights}, index).reset_index()


def transfers() -> Iterator[TransferScores]:
    """Two transfer runs with everything measured."""
    for low in (0.0, 0.5):
        held = {"a": {"8": low, "32": 1.0}, "b": {"8": 0.25, "32": low}}
        yield TransferScores({"a": low, "b": 0.5}, held, ["a", "b"], [8, 32], {"c": 0.75}, ["c"], {"0": low, "10": -0.5})


def _read(name: str) -> Iterator[tuple[Metric, MatrixScores | TransferScores]]:
    kind = metrics.get(name)
    for scores in itertools.chain(matrices(), transfers()):
        if isinstance(scores, kind.reads):
            yield from ((metric, scores) for metric in kind.of_scores(scores))


def it_says_what_it_is(options: Options) -> None:
    """A title and a place in the result of its own, a formula, a range."""
    kind = metrics.get(options.name)
    own = kind()
    need(own.about().endswith("."), "its docstring is no sentence: end it with a full stop")
    need(bool(own.latex.strip()), "latex is empty: write the formula; R_{i,j} is the score on task j after task i, from 1")
    low, high = own.range
    need(low < high, f"range is ({low}, {high}): the lowest value, then the highest")
    others = [other for other in metric_classes() if other.name != own.name]
    refuse_path(own.path, others)
    for other in others:
        need(other().title != own.title, f"title '{own.title}' is that of {other.name}: choose another one")


def values_are_in_their_range_and_repeat(options: Options) -> None:
    """Numbers, the same for the same scores; where terms are given, the value is their mean."""
    for metric, scores in _read(options.name):
        try:
            value = metric.compute(scores)
        except Undefined:
            continue
        low, high = metric.range
        need(isinstance(value, Real), wrong_return(metric, "compute", value, "a float"))
        need(
            bool(np.isfinite(value)),
            f"compute() gave {value} for scores without gaps: raise Undefined('why') where there is none",
        )
        need(
            low - NEAR <= value <= high + NEAR,
            f"compute() gave {value}, outside of its range ({low}, {high}): correct one of them",
        )
        need(metric.compute(scores) == value, "compute() gives another value for the same scores")
        if isinstance(metric, Mean) and metric.terms(scores):
            parts = np.asarray(metric.parts(scores), dtype=float)
            mean = float(np.mean(parts if parts.ndim == 1 else parts[:, 0] - parts[:, 1]))
            need(abs(mean - value) < 1e-6, f"its terms have the mean {mean}, compute() gave {value}")


def worked_examples_come_out(options: Options) -> None:
    """The values that `worked` states for matrices, computed by hand."""
    kind = metrics.get(options.name)
    for matrix, expected in kind.worked:
        value = kind().compute(MatrixScores(matrix))
        need(abs(value - expected) < 1e-6, f"worked says {expected} for {matrix}, compute() gave {value}")


def what_is_not_measured_is_none_with_a_reason(options: Options) -> None:
    """Of a run without a learned task, of one with a single task, and of rows with gaps; in no other way."""
    kind = metrics.get(options.name)
    if kind.reads is not MatrixScores:
        return
    for matrix in ([], [[0.5]], [[0.5, None]], [[None, None], [0.5, None]]):
        scores = MatrixScores(matrix)
        for metric in kind.of_scores(scores):
            try:
                value = float(metric.compute(scores))
            except Undefined as reason:
                need(bool(str(reason)), "Undefined has no reason: say why there is no value")
                continue
            except (IndexError, ValueError, ZeroDivisionError, KeyError, TypeError) as error:
                need(False, f"for the matrix {matrix} compute() raises {error!r}: raise Undefined('why')")
                continue
            need(np.isnan(value) or metric.range[0] - NEAR <= value <= metric.range[1] + NEAR, f"for {matrix} it gave {value}")
        values, reasons = evaluate(scores)
        for metric in kind.of_scores(scores):
            need(values[metric.path] is not None or bool(reasons.get(metric.path)), f"for {matrix} it is None without a reason")


CHECKS: Sequence[Check] = (
    documentation_check(metrics),
    it_says_what_it_is,
    values_are_in_their_range_and_repeat,
    worked_examples_come_out,
    what_is_not_measured_is_none_with_a_reason,
)
