"""A run that trains: its loss, where it stands, what somebody should know about it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from lab.core.errors import LabError
from lab.run_folder.run import UNREADABLE, Run
from lab.training.stages import TRAININGS
from lab.views.routing import routing_by_task
from lab.views.runs import learned, moment, task_names
from lab.views.scores import accuracy_matrix

POINTS = 2000  # of a loss curve
COLLAPSE, LOSS = 0.9, 0.2  # share of one expert on all tasks; part of the score that a task may lose unless said otherwise
DEAD = 0.1  # times an equal share: an expert that gets less on every task is dead
STAGES = {
    "RunStarted": "starting",
    "TaskStarted": "training",
    "Learned": "trained",
    "Evaluated": "evaluating",
    "OracleEvaluated": "evaluating with oracle routing",
    "TaskEnded": "task learned",
    "RunEnded": "done",
}


def losses(run: Run, limit: int = POINTS) -> pd.DataFrame:
    """Loss over the whole run: index (steps since the start), name, task, phase, epoch, step, loss, one column per term.

    Of work that was done twice after an interruption only the later time counts. At most `limit` rows, evenly taken.
    """
    rows: list[dict[str, Any]] = []
    for event in run.events():
        if event.get("kind") == "TaskStarted":
            rows = [row for row in rows if row["task"] < event["task"]]
        elif event.get("kind") == "Step":
            rows.append(event)
    names = task_names(run, run.events("RunStarted"))
    offsets: dict[tuple[int, str], int] = {}
    end, points = 0, []
    for row in rows:
        segment = (row["task"], row["phase"])
        if segment not in offsets:
            offsets[segment], end = end, end + row["steps"]
        terms = {f"term: {name}": _number(value) for name, value in row["terms"].items()}
        point = {"index": offsets[segment] + row["step"], "name": names[row["task"]]}
        point |= {field: row[field] for field in ("task", "phase", "epoch", "step")}
        points.append(point | {"loss": sum(terms.values())} | terms)
    table = pd.DataFrame(points, columns=None if points else ["index", "name", "task", "phase", "epoch", "step", "loss"])
    if len(table) > limit:
        table = table.iloc[np.linspace(0, len(table) - 1, limit).round().astype(int)]
    return table.reset_index(drop=True)


def smoothed(table: pd.DataFrame, weight: float) -> pd.Series:
    """The loss of `losses`, smoothed within each task and phase: means over earlier steps, whose weights fall by the factor
    `weight` (0 <= weight < 1) with every recorded step, as in TensorBoard; 0 changes nothing."""
    parts: Any = table.groupby(["task", "phase"], sort=False)["loss"]
    return parts.transform(lambda loss: loss.ewm(alpha=1 - weight, adjust=True).mean()).rename("loss")


def _number(value: float | None) -> float:
    """A recorded loss term; what was no number is written as null."""
    return math.nan if value is None else float(value)


def task_states(run: Run) -> pd.DataFrame:
    """Every task of the stream with its state, "learned", "now" or "ahead", and its newest score: name, state, score."""
    names = task_names(run, run.events("RunStarted"))
    scores = accuracy_matrix(run, partial=True) if run.tasks else pd.DataFrame(columns=names, dtype=float)
    for stage, score in enumerate(run.recorded_scores.get("done", ())):
        scores.iloc[stage, stage] = score
    rows, done = [], learned(run)
    for number, name in enumerate(names):
        measured = scores.iloc[:, number].dropna()
        state = "learned" if number < done else "now" if number == done and run.status == "running" else "ahead"
        rows.append({"name": name, "state": state, "score": measured.iloc[-1] if len(measured) else math.nan})
    return pd.DataFrame(rows, columns=["name", "state", "score"])


@dataclass(frozen=True)
class Progress:
    """Where a run stands; counts are from 1, None where unknown."""

    stage: str
    share: float = 0.0
    task: int | None = None
    tasks: int = 0
    name: str = ""
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    elapsed_s: float | None = None
    remaining_s: float | None = None

    def text(self) -> str:
        """One line for people: task 2/5 (name) · training · epoch 1/2 · step 40/120 · about 00:41 left."""
        parts = [f"task {self.task}/{self.tasks} ({self.name})"] if self.task else []
        parts.append(self.stage)
        parts += [f"epoch {self.epoch}/{self.epochs}"] if self.epoch else []
        parts += [f"step {self.step}/{self.steps}"] if self.step else []
        parts += [f"about {clock(self.remaining_s)} left"] if self.remaining_s is not None else []
        return " · ".join(parts)


def progress(run: Run, now: Callable[[], float] = time.time) -> Progress:
    """Where the run stands, from its last events."""
    events = list(run.events())
    status, tasks = run.status, task_names(run, events)
    elapsed = _elapsed(run, now)
    if status in ("queued", "running") and (preparing := run.preparing):
        return _preparing(preparing, len(tasks), elapsed, now())
    if not events:
        waiting = {"queued": "starting its process", "running": "starting to train"}
        return Progress(waiting.get(status, status), tasks=len(tasks), elapsed_s=elapsed)
    last = events[-1]
    share = float(last.get("progress", 0.0))
    latest = next((event for event in reversed(events) if event.get("kind") in ("Step", "TaskStarted", "TaskEnded")), {})
    number = latest.get("task")
    stage = TRAININGS[last["phase"]].about if last["kind"] == "Step" else STAGES.get(last["kind"], last["kind"])
    step = last if last["kind"] == "Step" else {}
    ended = last["kind"] == "RunEnded" or status != "running"
    return Progress(
        str(stage if status == "running" else status),
        share,
        None if number is None else number + 1,
        len(tasks),
        tasks[number] if number is not None else "",
        step["epoch"] + 1 if "epoch" in step else None,
        step.get("epochs"),
        step.get("step"),
        step.get("steps"),
        elapsed,
        None if ended else _remaining(events, now),
    )


def _preparing(about: dict[str, Any], tasks: int, elapsed: float | None, now: float) -> Progress:
    """Where a run stands that loads data and model, from its preparing.json."""
    done, total = about["done"], about["total"]
    stage = f"{about['what']}, {done:,} done" if total else about["what"]
    left = (now - about["began"]) / done * (total - done) if done else None
    return Progress(stage, tasks=tasks, elapsed_s=elapsed, remaining_s=left)


def _elapsed(run: Run, now: Callable[[], float]) -> float | None:
    start, end = moment(run.info.get("started")), moment(run.info.get("ended"))
    if start is None:
        return None
    return max(0.0, (end or datetime.fromtimestamp(now(), UTC)).timestamp() - start.timestamp())


def _remaining(events: list[dict[str, Any]], now: Callable[[], float]) -> float | None:
    """Seconds left at the speed since this process began its first task; None if unknown or overdue."""
    begin = max((i for i, event in enumerate(events) if event["kind"] == "RunStarted"), default=0)
    first = next((event for event in events[begin:] if event["kind"] == "TaskStarted"), None)
    last = events[-1]
    if first is None or last.get("progress", 0.0) <= first.get("progress", 0.0):
        return None
    rate = (last["progress"] - first["progress"]) / max(last["time"] - first["time"], 1e-3)
    left = (1 - last["progress"]) / rate - (now() - last["time"])
    return left if left > 0 else None


def clock(seconds: float) -> str:
    """Seconds as mm:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


@dataclass(frozen=True)
class Alert:
    """A sentence about a run that somebody should read."""

    kind: str  # "loss", "collapse", "dead", "forgotten", "damaged"
    text: str


def alerts(run: Run, after: int | None = None, lost: float = LOSS) -> list[Alert]:
    """What deserves attention: a loss that is no number, a router that collapsed and dead experts, both at the moment `after`
    (default: the last recorded one), and tasks that lost more than `lost` of the score, in [0, 1]."""
    checks: list[Callable[[], list[Alert]]] = [
        lambda: _loss_alerts(run),
        lambda: _collapse_alerts(run, after),
        lambda: _dead_alerts(run, after),
        lambda: _forgotten_alerts(run, lost),
    ]
    raised: list[Alert] = []
    for check in checks:
        try:
            raised += check()
        except UNREADABLE as error:
            raised.append(Alert("damaged", str(error) if isinstance(error, LabError) else str(run.damaged(repr(error)))))
    return raised


def _loss_alerts(run: Run) -> list[Alert]:
    for event in run.events("Step"):
        if not all(math.isfinite(_number(value)) for value in event["terms"].values()):
            name = task_names(run, run.events("RunStarted"))[event["task"]]
            where = f"task {event['task'] + 1} ({name}), step {event['step']}"
            return [Alert("loss", f"The loss is not a number since {where}: lower train.lr.")]
    return []


def _shares(run: Run, after: int | None) -> pd.DataFrame:
    """Shares of at least two experts on at least two tasks, else an empty table: fewer say nothing about routing."""
    shares = routing_by_task(run, after).dropna(how="all") if run.recorded() else pd.DataFrame()
    return shares if min(shares.shape) > 1 else pd.DataFrame()


def _collapse_alerts(run: Run, after: int | None) -> list[Alert]:
    shares = _shares(run, after)
    if shares.empty:
        return []
    lowest = shares.min()  # of each expert over the tasks
    if lowest.max() <= COLLAPSE:
        return []
    text = f"The router has collapsed: expert {lowest.idxmax()} gets at least {lowest.max():.0%} on every task."
    return [Alert("collapse", text)]


def _dead_alerts(run: Run, after: int | None) -> list[Alert]:
    shares = _shares(run, after)
    if shares.empty or shares.min().max() > COLLAPSE:  # which says it already
        return []
    most: Any = shares.max()  # of each expert over the tasks
    dead = most[most < DEAD / len(most)]
    if dead.empty:
        return []
    several = len(dead) > 1
    who = f"Experts {', '.join(dead.index)} are dead" if several else f"Expert {dead.index[0]} is dead"
    share = f"more than {dead.max():.1%}" if dead.max() >= 0.0005 else "any weight that shows"
    return [Alert("dead", f"{who}: no task gives {'one of them' if several else 'it'} {share}.")]


def _forgotten_alerts(run: Run, lost: float) -> list[Alert]:
    table = accuracy_matrix(run, partial=True).to_numpy()
    raised = []
    for j, name in enumerate(run.tasks):
        seen = table[j:, j][~np.isnan(table[j:, j])]
        best = seen[:-1].max(initial=-np.inf)
        if best - seen[-1:].sum() > lost:
            raised.append(Alert("forgotten", f"Task {name} lost {best - seen[-1]:.2f}: from {best:.2f} to {seen[-1]:.2f}."))
    return raised
