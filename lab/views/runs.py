"""Run folders one by one: which can be read, a row for each, the newest events and lines."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lab.core.dotted import pick
from lab.core.errors import LabError
from lab.run_folder.run import UNREADABLE, Run
from lab.views.results import judged

if TYPE_CHECKING:
    import pandas as pd


def columns() -> list[str]:
    """Columns of `runs_table`; the scores among them are those by which methods are judged."""
    about = ["run", "status", "recipe", "stream", "backbone", "scenario", "seed", "learned", "tasks", "progress"]
    return [*about, *(measure.path for measure in judged()), "created", "reason"]


def problem(run: Run) -> str:
    """Why a run folder cannot be read, in one line; empty if it can."""
    try:
        run.refuse_newer()
        run.result()
        _ = run.notes, run.launch
    except LabError as error:
        return str(error)
    except UNREADABLE as error:
        return str(run.damaged(f"{type(error).__name__}: {error}"))
    return ""


def unready(run: Run) -> str:
    """Why a readable run has no numbers to compare yet; empty if it has."""
    if run.status in ("queued", "running"):
        return f"run '{run.id}' is {run.status}: its numbers still change"
    if run.info.get("replay"):
        return f"run '{run.id}' is a replay of '{run.info['replay']['run']}', no repetition"
    return run.protocol.unready(run)


def comparable(runs: Sequence[Run]) -> tuple[list[Run], dict[str, str]]:
    """Those of readable runs that have numbers to compare, each once, and by id why the others are left out."""
    excluded = {run.id: reason for run in runs if (reason := unready(run))}
    seen: dict[tuple[str, str], str] = {}
    for run in runs:
        if run.id in excluded or not complete(run):
            continue
        same = (str({name: value for name, value in run.config.items() if name != "about"}), str(run.tasks))
        if same in seen:
            excluded[run.id] = f"run '{run.id}' has the settings and the seed of '{seen[same]}': it would count twice"
        seen.setdefault(same, run.id)
    return [run for run in runs if run.id not in excluded], excluded


def readable(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if not problem(run)]


def runs_table(runs: Iterable[Run]) -> "pd.DataFrame":
    """One row per run, damaged ones included with the reason."""
    import pandas as pd

    return pd.DataFrame([run_row(run) for run in runs], columns=columns())


def run_row(run: Run) -> dict[str, Any]:
    """One row of `runs_table`."""
    reason = problem(run)
    if reason:
        return {"run": run.id, "status": "damaged", "reason": reason}
    result = run.result()
    row = {name: result[name] for name in ("run", "status", "recipe", "stream", "backbone", "scenario", "seed")}
    row |= {measure.path: pick(result, measure.path) for measure in judged()} | {"reason": run.info.get("error") or ""}
    row |= {"learned": learned(run), "tasks": len(run.tasks), "created": moment(run.info.get("created"))}
    return row | {"progress": 1.0 if result["status"] == "finished" else _share(run)}


def learned(run: Run) -> int:
    """Tasks that are learned and scored; of a transfer run the stages that have ended."""
    return run.protocol.ended_tasks(run)


def complete(run: Run) -> bool:
    """Whether every task of the run is learned and scored."""
    return bool(run.tasks) and learned(run) == len(run.tasks)


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _share(run: Run) -> float:
    """Share of the work that is done, from the newest event."""
    newest = run.newest_events()
    return float(newest[-1].get("progress", 0.0)) if newest else 0.0


def task_names(run: Run, events: Iterable[dict[str, Any]] = ()) -> list[str]:
    """Names of the tasks; before the first score is written they are known from the event that begins the run."""
    return run.tasks or next((event["tasks"] for event in events if event.get("kind") == "RunStarted"), [])


def log_tail(run: Run, lines: int = 200) -> str:
    """The last lines of log.txt; progress bars that rewrote their line are kept in their last state."""
    text = run.tail("log.txt").decode("utf-8", errors="replace")
    kept = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join(kept[-lines:]).strip("\n")
