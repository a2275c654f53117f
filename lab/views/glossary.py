"""The metrics as formulas, once in symbols and once with the numbers of a run; LaTeX for screens and notebooks.

R_{i,j} is the score on task j after learning task i of the T tasks learned so far; S_{h,k} that on held-out task h of H, adapted
to k examples of it. Numbers are those of lab.metrics.matrix and of the run's result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.metrics.matrix import array
from lab.run_folder.run import Run
from lab.views import pick

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
    """All metrics; filled in with the numbers of `run` where it is given and has them."""
    found = run.result() if run else None
    r = array(run.matrix) if run and run.matrix else None
    old = 0 if r is None else len(r) - 1
    routed = (found or {}).get("routing") or {}
    shares, hits = routed.get("own_expert_share_by_task") or {}, routed.get("accuracy_by_task") or {}
    oracle = (run.scores.get("oracle") if run else None) or []

    averages, held_out = (found or {}).get("average") or {"0": None}, (found or {}).get("held_out", {})
    most = max(averages, key=int)  # examples of each held-out task

    def formula(path: str, title: str, about: str, latex: str, terms: Sequence[str], continual: bool = True) -> Formula:
        if run is None:
            return Formula(title, about, latex, why="choose a run to see its numbers")
        if continual != run.protocol.continual:
            return Formula(title, about, latex, why=f"a metric of {'runs on a stream' if continual else 'transfer runs'}")
        value, known = pick(found, path), rf"\frac{{1}}{{{len(terms)}}} \left( {_sum(terms)} \right)" if terms else None
        if value is None or not terms:
            why = found["why"].get(path) or found["why"].get(path.rpartition(".")[2]) or "not recorded for each task"
            return Formula(title, about, latex, known if value is None else f"= {value:.3f}", value, why)
        return Formula(title, about, latex, rf"{known} \approx {value:.3f}", value)

    def pairs(first: Sequence[float], second: Sequence[float]) -> list[str]:
        return [f"({a:.3f} - {b:.3f})" for a, b in zip(first, second, strict=True)]

    def scored(named: Any) -> list[str]:
        return [f"{score:.3f}" for score in named.values() if score is not None] if isinstance(named, dict) else []

    last = [] if r is None else [f"{score:.3f}" for score in r[-1, : old + 1]]
    own = [] if r is None else [r[j, j] for j in range(old + 1)]
    best = [] if r is None else [max(r[j:old, j]) for j in range(old)]
    return [
        formula(
            "average_accuracy",
            "Average accuracy",
            "How good the model is on all tasks at the end.",
            r"\mathrm{ACC} = \frac{1}{T} \sum_{j=1}^{T} R_{T,j}",
            last,
        ),
        formula(
            "forgetting",
            "Forgetting",
            "How far old tasks have fallen from their best; lower is better (Chaudhry et al. 2018).",
            r"\mathrm{FGT} = \frac{1}{T-1} \sum_{j=1}^{T-1} \left( \max_{j \le l < T} R_{l,j} - R_{T,j} \right)",
            pairs(best, r[-1, :old]) if old > 0 else [],
        ),
        formula(
            "backward_transfer",
            "Backward transfer",
            "What later tasks did to earlier ones; negative is forgetting (Lopez-Paz and Ranzato 2017).",
            r"\mathrm{BWT} = \frac{1}{T-1} \sum_{j=1}^{T-1} \left( R_{T,j} - R_{j,j} \right)",
            pairs(r[-1, :old], own[:old]) if old > 0 else [],
        ),
        formula(
            "learning_accuracy",
            "Learning accuracy",
            "How well each task was learned when its turn came.",
            r"\mathrm{LA} = \frac{1}{T} \sum_{j=1}^{T} R_{j,j}",
            [f"{score:.3f}" for score in own],
        ),
        formula(
            "forward_transfer",
            "Forward transfer",
            "What earlier tasks did for later ones; $a_j$ is training on task $j$ alone.",
            r"\mathrm{FWT} = \frac{1}{T-1} \sum_{j=2}^{T} \left( R_{j,j} - a_j \right)",
            [rf"({score:.3f} - a_{{{j}}})" for j, score in enumerate(own[1:], 2)],
        ),
        formula(
            "routing.own_expert_share",
            "Own-expert share",
            "Part of the routing weight that goes to the expert of the true task; 1 is a perfect router.",
            r"\mathrm{OWN} = \frac{1}{T} \sum_{j=1}^{T} \bar{w}_{j,j}",
            [f"{share:.3f}" for share in shares.values()],
        ),
        formula(
            "routing.accuracy",
            "Routing accuracy",
            "How often the expert of the true task has the largest weight, over layers and routing heads.",
            r"\mathrm{HIT} = \frac{1}{T} \sum_{j=1}^{T} \Pr\left( \arg\max_e w_e = j \right)",
            [f"{share:.3f}" for share in hits.values()],
        ),
        formula(
            "routing.oracle_average_accuracy",
            "Oracle routing",
            "Average accuracy when the true task picks the expert, same labels.",
            r"\mathrm{ACC}^{*} = \frac{1}{T} \sum_{j=1}^{T} R^{*}_{T,j}",
            [f"{score:.3f}" for score in oracle],
        ),
        formula(
            "routing.oracle_gap",
            "Oracle gap",
            "What perfect routing would add: what the router loses.",
            r"\mathrm{GAP} = \frac{1}{T} \sum_{j=1}^{T} \left( R^{*}_{T,j} - R_{T,j} \right)",
            pairs(oracle, r[-1]) if r is not None and len(oracle) == r.shape[1] else [],
        ),
        formula(
            "average.0",
            "Zero-shot transfer",
            "How good the jointly trained model is on tasks of which it saw no example.",
            r"\mathrm{A}_0 = \frac{1}{H} \sum_{h=1}^{H} S_{h,0}",
            scored((found or {}).get("zero_shot")),
            continual=False,
        ),
        formula(
            f"average.{most}",
            "Few-shot transfer",
            "The same after $k$ examples of each task; of a run its largest $k$.",
            r"\mathrm{A}_k = \frac{1}{H} \sum_{h=1}^{H} S_{h,k}",
            scored({h: by.get(most) for h, by in held_out.items()}),
            continual=False,
        ),
        formula(
            "trained_average",
            "Training tasks",
            "How good the jointly trained model is on the $N$ tasks it was trained on.",
            r"\mathrm{JOINT} = \frac{1}{N} \sum_{n=1}^{N} R_n",
            scored((found or {}).get("trained")),
            continual=False,
        ),
        formula(
            "alignment",
            "Gradient alignment",
            "Cosine $c_m$ between the adapter gradients of two training tasks, mean over pairs, at $M$ steps of joint training.",
            r"\mathrm{ALIGN} = \frac{1}{M} \sum_{m=1}^{M} c_m",
            scored((found or {}).get("alignment_by_step")),
            continual=False,
        ),
    ]


def _sum(terms: Sequence[str]) -> str:
    """Terms with plus signs, the middle of long sums left out."""
    most = max(3, WIDE // (len(terms[0]) + 3))
    kept = list(terms) if len(terms) <= most else [*terms[: most - 2], r"\dots", terms[-1]]
    return " + ".join(kept)
