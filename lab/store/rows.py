"""A run as one row of a list: what it is, how far it is, the scores it is judged by; or why it cannot be read. No pandas here."""

from typing import Any

from lab.core.dotted import pick
from lab.core.errors import LabError
from lab.metrics.base import judged_metrics
from lab.run_folder.run import UNREADABLE, Run

ABOUT = ("run", "status", "recipe", "stream", "backbone", "scenario", "seed")
FILES = ("run.json", "config.yaml", "matrix.json", "events.jsonl", "notes.json", "launch.json")  # all that a row is made of


def columns() -> list[str]:
    """What stands in every row; the scores among it are those by which methods are judged."""
    progress, scores = ("learned", "tasks", "progress"), (metric.path for metric in judged_metrics())
    return [*ABOUT, *progress, *scores, "created", "reason", "title", "name", "note", "tags", "starred", "archived"]


def problem(run: Run) -> str:
    """Why a run folder cannot be read, in one line; empty if it can."""
    read = _read(run)
    return read if isinstance(read, str) else ""


def _read(run: Run) -> dict[str, Any] | str:
    """The result of a run all of whose files can be read, or why one cannot."""
    try:
        run.refuse_newer()
        _ = run.notes, run.launch
        return run.result()
    except LabError as error:
        return str(error)
    except UNREADABLE as error:
        return str(run.damaged(f"{type(error).__name__}: {error}"))


def row(run: Run) -> dict[str, Any]:
    """The row of a run as plain values, with each of `columns`, and `continual` of its protocol; of one that cannot be read
    `run`, `title` (its id), `status` and `reason` only."""
    result = _read(run)
    if isinstance(result, str):
        return {"run": run.id, "title": run.id, "status": "damaged", "reason": result}
    info, notes = run.info, run.notes
    values = {name: result[name] for name in ABOUT}
    values |= {"learned": learned(run), "tasks": len(run.tasks), "progress": _progress(run, result["status"])}
    values |= {metric.path: pick(result, metric.path) for metric in judged_metrics()}
    values |= {"created": info.get("created"), "reason": info.get("error") or "", "title": run.title}
    values |= {name: notes[name] for name in ("name", "tags", "starred", "archived")} | {"note": notes["text"]}
    return values | {"continual": run.protocol.continual}


def learned(run: Run) -> int:
    """Tasks that are learned and scored; of a transfer run the stages that have ended."""
    return run.protocol.ended_tasks(run)


def _progress(run: Run, status: str) -> float:
    """Share of the work that is done, from the newest event."""
    newest = [] if status == "finished" else run.newest_events()
    return 1.0 if status == "finished" else float(newest[-1].get("progress", 0.0)) if newest else 0.0
