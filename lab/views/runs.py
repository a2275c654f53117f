"""Run folders one by one: which can be read, a row for each, the newest events and lines."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lab.run_folder.run import Run
from lab.store import index, rows
from lab.store.rows import columns, learned, problem

if TYPE_CHECKING:
    import pandas as pd


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
    """One row per run with `columns`, damaged ones included with the reason."""
    import pandas as pd

    return pd.DataFrame([_shown(row) for row in index.rows(runs)], columns=columns(), dtype=object)


def run_row(run: Run) -> dict[str, Any]:
    """One row of `runs_table`, read from the files of the run."""
    return _shown(rows.row(run))


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"created": moment(row.get("created"))}


def complete(run: Run) -> bool:
    """Whether every task of the run is learned and scored."""
    return bool(run.tasks) and learned(run) == len(run.tasks)


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def task_names(run: Run, events: Iterable[dict[str, Any]] = ()) -> list[str]:
    """Names of the tasks; before the first score is written they are known from the event that begins the run."""
    return run.tasks or next((event["tasks"] for event in events if event.get("kind") == "RunStarted"), [])


def log_tail(run: Run, lines: int = 200) -> str:
    """The last lines of log.txt; progress bars that rewrote their line are kept in their last state."""
    text = run.tail("log.txt").decode("utf-8", errors="replace")
    kept = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join(kept[-lines:]).strip("\n")
