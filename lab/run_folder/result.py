"""The result of a run as `lab run --json` prints it: what was measured, and for every unknown number the reason."""

from typing import TYPE_CHECKING, Any

from lab.metrics.base import AT_THE_END, MatrixScores, TransferScores, evaluate

if TYPE_CHECKING:
    from lab.run_folder.run import Run


def scores(run: "Run") -> MatrixScores | TransferScores:
    """What the metrics of a run are computed from."""
    recorded = run.scores
    if run.protocol != "transfer":
        return MatrixScores(
            matrix=run.matrix,
            routing=run.info.get("routing") or {},
            oracle=recorded.get("oracle"),
            reasons=run.info.get("why") or {},
        )
    options = run.config["transfer"]
    return TransferScores(
        zero_shot=recorded.get("zero_shot", {}),
        held_out=recorded.get("held_out", {}),
        held_out_tasks=options["held_out"] or [],
        shots=options["shots"],
        trained=recorded.get("trained", {}),
        train_tasks=options["train_tasks"] or [],
        alignment=recorded.get("alignment", {}),
        shares_experts=run.config["experts"]["allocation"] != "per_task",
    )


def of_stream(run: "Run") -> dict[str, Any]:
    """Of training on task after task."""
    values, why = evaluate(scores(run))
    info, zero_shot = run.info, run.scores.get("zero_shot")
    routing = info.get("routing") or {}
    why |= {path: why for path, why in info.get("why", {}).items() if routing.get(path.removeprefix("routing.")) is None}
    if zero_shot is None:
        why["zero_shot"] = "not evaluated yet"
    measures = {"measures": run.scores["measures"]} if run.scores.get("measures") else {}
    result = _about(run) | {"tasks": run.tasks, "matrix": run.matrix, "zero_shot": zero_shot, "routing": routing, **measures}
    return nested(result, values) | _uses(run, why)


def of_transfer(run: "Run") -> dict[str, Any]:
    """Of joint training and few-shot adaptation."""
    values, why = evaluate(scores(run))
    result = _about(run) | {
        "protocol": "transfer",
        "train_tasks": run.config["transfer"]["train_tasks"],
        "trained": run.scores.get("trained", {}),
        "zero_shot": run.scores.get("zero_shot", {}),
        "held_out": run.scores.get("held_out", {}),
        "alignment_by_step": run.scores.get("alignment", {}),
    }
    return nested(result, values) | _uses(run, why)


def _uses(run: "Run", why: dict[str, str]) -> dict[str, Any]:
    """What every result ends with: what the run used, and the reasons of all that is missing."""
    amounts = {name: run.info.get(name) for name in ("uses", "cost")}
    why |= {name: AT_THE_END for name, amount in amounts.items() if not amount}
    if run.info.get("error"):
        why["status"] = run.info["error"]
    return amounts | {"why": why}


def nested(result: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The result with a value at each dotted path; sections that it has are copied, others are made."""
    filled = dict(result)
    for path, value in values.items():
        section, _, name = path.partition(".")
        if name:
            filled[section] = nested(filled.get(section) or {}, {name: value})
        else:
            filled[path] = value
    return filled


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
