"""The metrics as formulas, once in symbols and once with the numbers of a run; LaTeX for screens and notebooks.

R_{i,j} is the score on task j after learning task i of the T tasks learned so far; S_{h,k} that on held-out task h of H, adapted
to k examples of it. Numbers are those of `lab.metrics` and of the run's result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.dotted import pick
from lab.metrics.base import Metric, metric_classes
from lab.run_folder.run import Run

WIDE = 48  # characters of a sum that are written out; longer sums are cut in their middle


@dataclass(frozen=True)
class Formula:
    """A metric: its formula, and the same with a run's numbers, or the reason why there are none or not all."""

    title: str
    about: str
    latex: str
    filled: str | None = None
    value: float | None = None
    why: str = ""


def glossary(run: Run | None = None) -> list[Formula]:
    """All metrics; filled in with the numbers of `run`, where it is given, and then those that it can have first."""
    if run is None:
        return [_formula(kind(), why="choose a run to see its numbers") for kind in metric_classes()]
    result, scores = run.result(), run.protocol.measured(run)
    formulas = []
    for kind in sorted(metric_classes(), key=lambda kind: not isinstance(scores, kind.reads)):
        if isinstance(scores, kind.reads):
            formulas += [_filled(metric, result, scores) for metric in kind.of_results([result])]
        else:
            formulas.append(_formula(kind(), why=f"a metric of {kind.reads.of}"))
    return formulas


def _formula(metric: Metric, filled: str | None = None, value: float | None = None, why: str = "") -> Formula:
    return Formula(metric.title, f"{metric.about()} {metric.direction}", metric.latex, filled, value, why)


def _filled(metric: Metric, result: dict[str, Any], scores: Any) -> Formula:
    """The formula of a metric with the numbers of a run."""
    value, terms = pick(result, metric.path), metric.terms(scores)
    mean = rf"\frac{{1}}{{{len(terms)}}} \left( {_sum(terms)} \right)" if terms else None
    if value is None:
        return _formula(metric, mean, why=result["why"].get(metric.path, "not recorded"))
    if mean is None:
        return _formula(metric, f"= {value:.3f}", value, "" if terms is None else "not recorded for each task")
    return _formula(metric, rf"{mean} \approx {value:.3f}", value)


def _sum(terms: Sequence[str]) -> str:
    """Terms with plus signs, the middle of long sums left out."""
    most = max(3, WIDE // (len(terms[0]) + 3))
    kept = list(terms) if len(terms) <= most else [*terms[: most - 2], r"\dots", terms[-1]]
    return " + ".join(kept)
