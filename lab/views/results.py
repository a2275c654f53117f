"""The numbers of a result: what they are called, what they mean, how they are picked and written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """A number of a result: where it stands, what to call it, what it means."""

    path: str
    title: str
    about: str
    score: bool = True  # between 0 and 1, or a difference of such; else a count or an amount


MEASURES = [
    Measure("average_accuracy", "Average accuracy", "mean score over all tasks after the last one"),
    Measure("forgetting", "Forgetting", "mean drop of old tasks from their best score to their last one; lower is better"),
    Measure("backward_transfer", "Backward transfer", "mean change of old tasks since they were learned; negative: forgetting"),
    Measure("forward_transfer", "Forward transfer", "score right after learning, minus the score of training on the task alone"),
    Measure("learning_accuracy", "Learning accuracy", "mean score of each task right after it was learned"),
    Measure("routing.own_expert_share", "Own-expert share", "part of the routing weight that the expert of the true task gets"),
    Measure("routing.accuracy", "Routing accuracy", "how often the largest weight is the own expert's, over layers and heads"),
    Measure("routing.oracle_average_accuracy", "Oracle routing", "average accuracy when the true task picks the expert"),
    Measure("routing.oracle_gap", "Oracle gap", "average accuracy under oracle routing, minus the own one"),
    Measure("uses.task_id", "Uses task identity", "whether the true task is given at test", score=False),
    Measure("uses.stored_examples", "Stored examples", "training examples of old tasks kept at the end", score=False),
    Measure("uses.generated_examples", "Generated examples", "pseudo-examples made in place of stored ones", score=False),
    Measure("cost.trainable_parameters", "Trainable parameters", "parameters trained over the whole stream", score=False),
    Measure("cost.stored_parameters", "Stored parameters", "numbers kept to the end: adapters and statistics", score=False),
    Measure("cost.stored_bytes", "Stored bytes", "bytes kept from one task to the next: the three below together", score=False),
    Measure("cost.adapter_bytes", "Adapter bytes", "experts, classifier and router", score=False),
    Measure("cost.memory_bytes", "Memory bytes", "texts and labels of the stored examples", score=False),
    Measure("cost.statistics_bytes", "Statistics bytes", "what routers and methods keep beside their parameters", score=False),
    Measure("cost.train_s", "Training seconds", "time spent in training, or saved by taking experts from the store", score=False),
    Measure("cost.reused_s", "Seconds saved by reuse", "training seconds that experts from the store saved", score=False),
    Measure("cost.eval_s", "Evaluation seconds", "time spent in evaluation", score=False),
    Measure("cost.peak_memory_bytes", "Peak memory bytes", "most memory held: on the GPU if it computed there", score=False),
]
COMMON = Measure("common_average_accuracy", "Average on common tasks", "mean score, after the last one, on tasks of all runs")


def tested(results: Sequence[dict[str, Any]]) -> list[Measure]:
    """Of these measures those that methods are told apart by."""
    names = ("average_accuracy", "forgetting", "alignment")
    return [m for m in measures(results) if m.path in names or (m.path.startswith("average.") and m.path != "average.0")]


def measures(results: Sequence[dict[str, Any]]) -> list[Measure]:
    """What results of one protocol are compared by; uses and costs are the same in both."""
    shots = sorted({int(k) for result in results for k in result.get("average", ())})
    if not shots:
        return MEASURES
    about = "mean score of the held-out tasks, adapted to so many examples each; 0: before any was seen"
    return [
        *(Measure(f"average.{k}", f"{k} shots", about) for k in shots),
        Measure("trained_average", "Training tasks", "mean score of the training tasks after joint training"),
        Measure("alignment", "Gradient alignment", "mean cosine between the adapter gradients of two training tasks"),
        *(measure for measure in MEASURES if measure.path.startswith(("uses.", "cost."))),
        Measure("cost.adapted_parameters", "Adapted parameters", "tuned for a held-out task beside its classifier rows", False),
    ]


def pick(result: dict[str, Any], path: str) -> Any:
    """A value of a result by its dotted path; None where it is missing."""
    value: Any = result
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def reason(result: dict[str, Any], path: str) -> str:
    """Why a value of a result is missing."""
    section, _, name = path.rpartition(".")
    if section == "average" and name not in result["average"]:
        return f"this run was not adapted to {name} shots"
    known = result["why"].get(path) or result["why"].get(name)
    return known or ("not recorded by the version of this run" if result.get(section) else "measured when the run is finished")


def cell(value: float, half: float, why: str, score: bool, name: str = "") -> str:
    """A number as text, with half the width of its interval if there is one, or a dash with the reason."""
    if math.isnan(value):
        return f"– ({why})"
    if name == "uses.task_id":
        return "yes" if value else "no"
    form = "{:.3f}" if score else "{:,.0f}" if value >= 100 or value == int(value) else "{:.1f}"
    return form.format(value) + (f" ± {form.format(half)}" if not math.isnan(half) else "")
