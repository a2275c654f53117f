"""The result of a run as `lab run --json` prints it: what was measured, and for every unknown number the reason."""

from typing import TYPE_CHECKING, Any

from lab.metrics.matrix import metrics

if TYPE_CHECKING:
    from lab.run_folder.run import Run


def of_stream(run: "Run") -> dict[str, Any]:
    """Of training on task after task."""
    scores, info = run.scores, run.info
    found = metrics(run.matrix)
    why = found.pop("why")
    routing = dict.fromkeys(("own_expert_share", "accuracy", "oracle_average_accuracy")) | (info.get("routing") or {})
    oracle, average = routing["oracle_average_accuracy"], found["average_accuracy"]
    routing["oracle_gap"] = None if oracle is None or average is None else oracle - average
    why |= info.get("why", {})
    if info.get("error"):
        why["status"] = info["error"]
    why.setdefault("routing.oracle_gap", why.get("routing.oracle_average_accuracy", "measured when the run is finished"))
    unknown = "not recorded by the version of the run" if info.get("routing") else "measured when the run is finished"
    why.setdefault("routing.accuracy", why.get("routing.own_expert_share", unknown))  # both undefined for one reason
    for name in ("own_expert_share", "oracle_average_accuracy"):
        why.setdefault(f"routing.{name}", unknown)
    why = {name: reason for name, reason in why.items() if not name.startswith("routing.") or routing.get(name[8:]) is None}
    why |= {name: "measured when the run is finished" for name in ("uses", "cost") if not info.get(name)}
    if scores.get("zero_shot") is None:
        why["zero_shot"] = "not evaluated yet"
    return _about(run) | {
        "tasks": run.tasks,
        "matrix": run.matrix,
        "zero_shot": scores.get("zero_shot"),
        **found,
        "routing": routing,
        **({"measures": scores["measures"]} if scores.get("measures") else {}),
        "uses": info.get("uses"),
        "cost": info.get("cost"),
        "why": why,
    }


def of_transfer(run: "Run") -> dict[str, Any]:
    """Of joint training and few-shot adaptation."""
    scores, info = run.scores, run.info
    given, held_out = run.config["transfer"], scores.get("held_out", {})
    average = transfer_averages(scores.get("zero_shot", {}), held_out, given["held_out"] or [], given["shots"])
    trained = [scores.get("trained", {}).get(task) for task in given["train_tasks"] or []]
    mean = None if None in trained or not trained else sum(trained) / len(trained)
    measured = [value for value in scores.get("alignment", {}).values() if value is not None]
    alignment = sum(measured) / len(measured) if measured else None
    missing = [name for name in ("uses", "cost") if not info.get(name)]
    why = dict.fromkeys(missing, "measured when the run is finished")
    why |= {f"average.{k}": "not all held-out tasks are adapted to yet" for k, value in average.items() if value is None}
    if mean is None:
        why["trained_average"] = "joint training is not scored yet"
    if alignment is None:
        allocation = run.config["experts"]["allocation"]
        own = "training tasks share no expert, so their gradients have nothing in common" if allocation == "per_task" else ""
        why["alignment"] = own or "not measured yet, or a gradient was zero"
    if info.get("error"):
        why["status"] = info["error"]
    return _about(run) | {
        "protocol": "transfer",
        "train_tasks": given["train_tasks"],
        "trained": scores.get("trained", {}),
        "trained_average": mean,
        "zero_shot": scores.get("zero_shot", {}),
        "held_out": held_out,
        "average": average,
        "alignment": alignment,
        "alignment_by_step": scores.get("alignment", {}),
        "uses": info.get("uses"),
        "cost": info.get("cost"),
        "why": why,
    }


def _about(run: "Run") -> dict[str, Any]:
    """What every result begins with."""
    config = run.config
    return {
        "run": run.id,
        "dir": str(run.dir),
        "status": run.status,
        "recipe": config["recipe"],
        "scenario": config["scenario"],
        "stream": config["stream"]["name"],
        "backbone": config["backbone"]["name"],
        "seed": config["seed"],
    }


def transfer_averages(
    zero_shot: dict[str, float], held_out: dict[str, dict[str, float]], tasks: list[str], shots: list[int]
) -> dict[str, float | None]:
    """Mean score over held-out tasks without shots and for each number of them; None while a task lacks one."""
    found = {"0": [zero_shot.get(task) for task in tasks]}
    found |= {str(k): [held_out.get(task, {}).get(str(k)) for task in tasks] for k in sorted(set(shots))}
    return {k: None if None in scores or not scores else sum(scores) / len(scores) for k, scores in found.items()}
