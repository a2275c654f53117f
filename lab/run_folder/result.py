"""The result of a run as `lab run --json` prints it: what was measured, and for every unknown number the reason."""

from collections.abc import Mapping
from typing import Any

from lab.metrics.base import AT_THE_END
from lab.run_folder.run import Run


def assembled(run: Run, recorded: dict[str, Any], reasons: Mapping[str, str]) -> dict[str, Any]:
    """The result from the run's metrics, what stands beside them, and why some of that is missing."""
    values, why = run.evaluated()
    why |= reasons
    amounts = {name: run.info.get(name) for name in ("uses", "cost")}
    why |= {name: AT_THE_END for name, amount in amounts.items() if not amount}
    if run.info.get("error"):
        why["status"] = run.info["error"]
    changes = {"changes": run.changes} if run.changes else {}
    return nested(about(run) | recorded, values) | amounts | changes | {"why": why}


def about(run: Run) -> dict[str, Any]:
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


def nested(result: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The result with a value at each dotted path; sections that it has are copied, others are made."""
    filled = dict(result)
    for path, value in values.items():
        section, _, name = path.partition(".")
        if name:
            filled[section] = nested(filled.get(section) or {}, {name: value})
        else:
            filled[path] = value
    return filled
