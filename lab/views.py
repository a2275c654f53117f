"""Run folders as tables: pure functions from Run objects to pandas and numpy, shared by screens and notebooks.

No torch, no streamlit. T tasks, L adapted layers, H routing heads, E experts. `after` is the index of the last learned
task, from 0. Missing values are NaN or None, never 0.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from lab.answer import kept
from lab.errors import LabError
from lab.metrics import array
from lab.runs import Routing, Run
from lab.statistics import difference, interval

UNREADABLE = (LabError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError)  # what a damaged folder can cause
POINTS = 2000  # of a loss curve
APART = 40  # characters up to which options stand in a label
TAIL = 1 << 16  # bytes of events.jsonl read for the newest events
COLLAPSE, LOSS = 0.9, 0.2  # share of one expert on all tasks; score points a task may lose
DEAD = 0.1  # times an equal share: an expert that gets less on every task is dead


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
    Measure("routing.oracle_average_accuracy", "Oracle routing", "average accuracy when the true task picks the expert"),
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
    Measure("cost.eval_s", "Evaluation seconds", "time spent in evaluation", score=False),
    Measure("cost.peak_memory_bytes", "Peak memory bytes", "most memory held: on the GPU if it computed there", score=False),
]
COMMON = Measure("common_average_accuracy", "Average on common tasks", "mean score, after the last one, on tasks of all runs")


# -- many runs -------------------------------------------------------------------------------------------------------------


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


def problem(run: Run) -> str:
    """Why a run folder cannot be read, in one line; empty if it can."""
    try:
        run.refuse_newer()
        run.result()
    except LabError as error:
        return str(error)
    except UNREADABLE as error:
        return f"run '{run.id}' is damaged: {type(error).__name__}: {error}"
    return ""


def unready(run: Run) -> str:
    """Why a readable run has no numbers to compare yet; empty if it has."""
    if run.status in ("queued", "running"):
        return f"run '{run.id}' is {run.status}: its numbers still change"
    if run.info.get("replay"):
        return f"run '{run.id}' is a replay of '{run.info['replay']['run']}', no repetition"
    if run.protocol == "transfer":
        return "" if run.scores.get("held_out") else f"run '{run.id}' is {run.status} and was adapted to no task"
    return "" if run.matrix else f"run '{run.id}' is {run.status} and has learned no task"


def readable(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if not problem(run)]


def runs_table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row per run, damaged ones included with the reason."""
    return pd.DataFrame([run_row(run) for run in runs], columns=COLUMNS)


COLUMNS = ["run", "status", "recipe", "stream", "backbone", "scenario", "seed", "learned", "tasks", "progress",
           "average_accuracy", "forgetting", "created", "reason"]  # fmt: skip


def run_row(run: Run) -> dict[str, Any]:
    """One row of `runs_table`."""
    reason = problem(run)
    if reason:
        return {"run": run.id, "status": "damaged", "reason": reason}
    result = run.result()
    row = {name: result[name] for name in ("run", "status", "recipe", "stream", "backbone", "scenario", "seed")}
    row |= {name: result.get(name) for name in ("average_accuracy", "forgetting")} | {"reason": run.info.get("error") or ""}
    row |= {"learned": learned(run), "tasks": len(run.tasks), "created": _moment(run.info.get("created"))}
    return row | {"progress": 1.0 if result["status"] == "finished" else _share(run)}


def learned(run: Run) -> int:
    """Tasks that are learned and scored; of a transfer run the stages that have ended."""
    return len(run.scores.get("done", run.matrix))


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _share(run: Run) -> float:
    """Share of the work that is done, from the newest event."""
    newest = recent_events(run)
    return float(newest[-1].get("progress", 0.0)) if newest else 0.0


def labels(runs: Sequence[Run], seeds: bool = True) -> list[str]:
    """Short unique names: the recipe, and what else is needed to tell the runs apart; without `seeds` these may share one."""
    facts = [run.result() for run in runs]
    names = [fact["recipe"] for fact in facts]
    fields = {"stream": "{}", "scenario": "{}", "backbone": "{}", **({"seed": "seed {}"} if seeds else {})}
    for field, form in fields.items():
        values: dict[str, set[Any]] = {}
        for name, fact in zip(names, facts, strict=True):
            values.setdefault(name, set()).add(fact[field])
        names = [f"{n}, {form.format(f[field])}" if len(values[n]) > 1 else n for n, f in zip(names, facts, strict=True)]
    if not seeds:
        return names
    return [f"{name}, {run.id}" if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but some options, by default the seed and the order of the tasks."""

    label: str
    recipe: str
    runs: list[Run]


def groups(runs: Sequence[Run], over: Sequence[str] = ("seed", "stream.tasks")) -> list[Group]:
    """Runs put together that differ in nothing but the options `over`, and learned the same tasks.

    A run without a complete matrix stays alone.
    """
    members: dict[str, list[Run]] = {}
    for run in runs:
        same = {name: value for name, value in _flat(run.config).items() if name not in (*over, "about")}
        own = "" if complete(run) else run.id
        members.setdefault(json.dumps([same, sorted(run.tasks), own], sort_keys=True), []).append(run)
    firsts = [group[0] for group in members.values()]
    names = labels(firsts, seeds=False)
    names = [f"{name}, {_apart(firsts, names, i)}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    names = [f"{name}, {run.id}" if names.count(name) > 1 else name for name, run in zip(names, firsts, strict=True)]
    return [Group(name, g[0].config["recipe"], g) for name, g in zip(names, members.values(), strict=True)]


def _apart(runs: Sequence[Run], names: Sequence[str], i: int) -> str:
    """What tells run i from the others of the same name: the options in which they differ if these are short, else its id."""
    alike = [_flat(run.config) for run, name in zip(runs, names, strict=True) if name == names[i]]
    own = _flat(runs[i].config)
    differing = [name for name in own if name not in ("seed", "about") and any(c.get(name) != own[name] for c in alike)]
    text = ", ".join(f"{name} {own[name]}" for name in differing)
    return text if 0 < len(text) <= APART else runs[i].id


def complete(run: Run) -> bool:
    """Whether every task of the run is learned and scored."""
    return bool(run.tasks) and learned(run) == len(run.tasks)


def summary(runs: Sequence[Run]) -> pd.DataFrame:
    """Long form, one row per group of runs and measure: label, recipe, n, learned, tasks, measure, value, low, high, spread, why.

    `value` is the mean over the n runs of the group, `low` and `high` the bounds of its interval (see lab.statistics), `spread`
    their sample standard deviation, all three NaN below two runs; `why` is the reason of a missing value. Runs of different
    tasks have the measure COMMON too. The runs are of one protocol; of transfer runs tasks are stages (see lab.transfer).
    """
    columns = ["label", "recipe", "n", "learned", "tasks", "measure", "value", "low", "high", "spread", "why"]
    common, rows, shown = common_tasks(runs), [], measures([run.result() for run in runs])
    if shown is MEASURES and any(set(run.tasks) != set(common) for run in runs):
        shown = [COMMON, *MEASURES]
    for group in groups(runs):
        results = [run.result() | {COMMON.path: common_average(run, common)} for run in group.runs]
        rows += [_summary_row(group, results, measure) for measure in shown]
    return pd.DataFrame(rows, columns=columns).astype({name: float for name in ("value", "low", "high", "spread")})


def common_tasks(runs: Sequence[Run]) -> list[str]:
    """Tasks of the same name and labels that all runs have learned, in the order of the first run."""
    learned = [dict(zip(run.tasks[: len(run.matrix)], run.scores.get("labels", []), strict=False)) for run in runs]
    return [task for task in (learned[0] if runs else {}) if all(other.get(task) == learned[0][task] for other in learned)]


def common_average(run: Run, tasks: Sequence[str]) -> float | None:
    """Mean score on some of its tasks after the last one that it learned; None if there is none."""
    return float(np.mean([run.matrix[-1][run.tasks.index(task)] for task in tasks])) if tasks else None


def differences(runs: Sequence[Run], measure: str = "average_accuracy") -> pd.DataFrame:
    """Paired differences between groups, long form: first, second, measure, n, mean, low, high, p, claim, why.

    First minus second over the seeds and orders that both have in equal circumstances; see lab.statistics.Difference. Groups
    without such pairs have no difference but a reason.
    """
    rows = []
    for one, other in combinations(groups(runs), 2):
        whole = ([run for run in group.runs if complete(run)] for group in (one, other))
        values = ({circumstances(run): pick(run.result(), measure) for run in runs} for runs in whole)
        first, second = ({key: value for key, value in given.items() if value is not None} for given in values)
        found = asdict(difference(first, second))
        missing = [_without(group, measure) for group, values in ((one, first), (other, second)) if not values]
        rows.append({"first": one.label, "second": other.label, "measure": measure, **found, "why": (*missing, found["why"])[0]})
    columns = ["first", "second", "measure", "n", "mean", "low", "high", "p", "claim", "why"]
    return pd.DataFrame(rows, columns=columns).astype({"claim": object})


def circumstances(run: Run) -> str:
    """What two runs must share for their scores to be a pair: seed, stream with its order and limits, scenario, backbone."""
    config = run.config
    return json.dumps([config["seed"], config["stream"], run.tasks, config["scenario"], config["backbone"]["name"]], default=str)


def _without(group: Group, measure: str) -> str:
    """Why no run of a group has a value that could be half of a pair."""
    run = group.runs[0]
    partial = f"{run.id} has learned {learned(run)} of {len(run.tasks)} tasks"
    return reason(run.result(), measure) if complete(run) else partial


def _summary_row(group: Group, results: list[dict[str, Any]], measure: Measure) -> dict[str, Any]:
    values = [pick(result, measure.path) for result in results]
    first = group.runs[0]
    row = {"label": group.label, "recipe": group.recipe, "n": len(results), "measure": measure.path}
    row |= {"learned": learned(first), "tasks": len(first.tasks)}
    if any(value is None for value in values):
        reasons = [reason(result, measure.path) for result, value in zip(results, values, strict=True) if value is None]
        none = dict.fromkeys(("value", "low", "high", "spread"), np.nan)
        return row | none | {"why": "no task is common to all runs" if measure is COMMON else reasons[0]}
    numbers = np.array(values, dtype=float)
    spread, found = numbers.std(ddof=1) if len(numbers) > 1 else np.nan, interval(numbers)
    return row | {"value": found.mean, "low": found.low, "high": found.high, "spread": spread, "why": ""}


def pick(result: dict[str, Any], path: str) -> Any:
    """A value of a result by its dotted path; None where it is missing."""
    value: Any = result
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def reason(result: dict[str, Any], path: str) -> str:
    """Why a value of a result is missing."""
    section, _, name = path.rpartition(".")
    known = result["why"].get(path) or result["why"].get(name)
    return known or ("not recorded by the version of this run" if result.get(section) else "measured when the run is finished")


def summary_table(runs: Sequence[Run]) -> pd.DataFrame:
    """`summary` as people read it: one row per measure, one column per group, each cell a value or a dash with the reason."""
    found = summary(runs)
    known = {measure.path: measure for measure in (COMMON, *measures([run.result() for run in runs]))}
    found["cell"] = [cell(r.value, r.high - r.value, r.why, known[r.measure].score, r.measure) for r in found.itertuples()]
    table = found.pivot(index="measure", columns="label", values="cell")
    shown = list(dict.fromkeys(found["measure"]))
    table = table.loc[shown, list(dict.fromkeys(found["label"]))]
    table.index = pd.Index([known[path].title for path in shown], name="measure")
    return table


def cell(value: float, half: float, why: str, score: bool, name: str = "") -> str:
    """A number as text, with half the width of its interval if there is one, or a dash with the reason."""
    if math.isnan(value):
        return f"– ({why})"
    if name == "uses.task_id":
        return "yes" if value else "no"
    form = "{:.3f}" if score else "{:,.0f}" if value >= 100 or value == int(value) else "{:.1f}"
    return form.format(value) + (f" ± {form.format(half)}" if not math.isnan(half) else "")


def config_difference(runs: Sequence[Run]) -> pd.DataFrame:
    """Options in which the runs differ: one row per option, one column per run, values as text."""
    flat = [_flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for config in flat for name in config))
    rows = {name: [config.get(name, "–") for config in flat] for name in names if name != "about"}
    differing = {name: row for name, row in rows.items() if len(set(row)) > 1}
    table = pd.DataFrame.from_dict(differing, orient="index", columns=labels(runs), dtype=object)
    return table.rename_axis("option")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{'a': {'b': 1}} as {'a.b': '1'}."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return flat


# -- scores ----------------------------------------------------------------------------------------------------------------


Runs = Run | Sequence[Run]  # one run, or several that learned the same tasks in the same order: then means over them


def each(runs: Runs) -> list[Run]:
    """The runs as a list; LabError if they learned different tasks or orders, so that there is no mean over them."""
    found = [runs] if isinstance(runs, Run) else list(runs)
    for run in found[1:]:
        if run.tasks != found[0].tasks:
            raise LabError(f"{found[0].id} and {run.id} learned different tasks or another order: they cannot be put together")
    return found


def accuracy_matrix(run: Runs, after: int | None = None, partial: bool = False) -> pd.DataFrame:
    """R as a table (T, T): rows "learned so far", columns tasks; rows later than `after` are NaN. Of several runs: their mean.

    With `partial` the row that is being measured is filled as far as it is known.
    """
    found = [_accuracy_matrix(one, after, partial) for one in each(run)]
    return sum(found[1:], found[0]) / len(found)


def _accuracy_matrix(run: Run, after: int | None, partial: bool) -> pd.DataFrame:
    tasks, scores = run.tasks, run.scores
    rows = [list(row) for row in scores.get("matrix", [])]
    if partial and len(rows) < len(tasks) and scores.get("partial"):
        rows.append(list(scores["partial"]))
    values = np.full((len(tasks), len(tasks)), np.nan)
    for i, row in enumerate(rows if after is None else rows[: after + 1]):
        values[i, : len(row)] = [np.nan if score is None else score for score in row]
    return pd.DataFrame(values, index=pd.Index(tasks, name="after"), columns=pd.Index(tasks, name="task"))


def zero_shot(run: Runs) -> list[float] | None:
    """Scores before any training, one per task, or None; of several runs: their mean."""
    found = [one.scores.get("zero_shot") for one in each(run)]
    return None if None in found else [float(score) for score in np.array(found, dtype=float).mean(0)]


def matrix_difference(first: Runs, second: Runs) -> pd.DataFrame:
    """R of the first run minus R of the second; LabError if they learned different tasks or orders."""
    one, other = each(first)[0], each(second)[0]
    if one.tasks != other.tasks:
        raise LabError(f"{one.id} and {other.id} learned different tasks or another order: there is no difference to show")
    return accuracy_matrix(first) - accuracy_matrix(second)


def forgetting_curves(run: Runs, after: int | None = None) -> pd.DataFrame:
    """Score of each task after each task from its own on, long form: after, after_name, task, name, score, low, high.

    Of several runs `score` is the mean and `low` to `high` its t-interval, which is NaN for one run.
    """
    runs = each(run)
    scores = np.array([accuracy_matrix(one, after) for one in runs])  # (runs, T, T)
    tasks = runs[0].tasks
    rows = []
    for j, i in zip(*np.triu_indices(len(tasks)), strict=True):  # j before i
        if not np.isnan(scores[:, i, j]).any():
            found = interval(scores[:, i, j])
            place = {"after": i, "after_name": tasks[i], "task": j, "name": tasks[j]}
            rows.append(place | {"score": found.mean, "low": found.low, "high": found.high})
    columns = ["after", "after_name", "task", "name", "score", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype({"low": float, "high": float})


def transfer_scores(run: Run) -> pd.DataFrame:
    """Scores of the held-out tasks of a transfer run: one row per task, one column per number of shots, 0 first; NaN: not yet."""
    result = run.result()
    rows = {task: {"0": score} | result["held_out"].get(task, {}) for task, score in result["zero_shot"].items()}
    return pd.DataFrame(rows, dtype=float).T.reindex(columns=list(result["average"])).rename_axis("task")


def average_curve(run: Run, after: int | None = None) -> np.ndarray:
    """Mean score over the tasks seen, after each learned task: (rows learned,)."""
    rows = run.matrix if after is None else run.matrix[: after + 1]
    if not rows:
        return np.zeros(0)
    r = array(rows)
    return np.array([np.mean(r[i, : i + 1]) for i in range(len(r))])


def average_curves(runs: Sequence[Run]) -> pd.DataFrame:
    """Average curves of several runs, long form: label, recipe, run, after, score; `label` names the group of seeds."""
    rows = [
        {"label": group.label, "recipe": group.recipe, "run": run.id, "after": i, "score": score}
        for group in groups(runs)
        for run in group.runs
        for i, score in enumerate(average_curve(run))
    ]
    return pd.DataFrame(rows, columns=["label", "recipe", "run", "after", "score"])


def metrics_after(run: Run, after: int) -> dict[str, Any]:
    """The metrics of the run as they stood after learning task `after`."""
    from lab.metrics import metrics

    return metrics(run.matrix[: after + 1])


# -- training --------------------------------------------------------------------------------------------------------------


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
    end, found = 0, []
    for row in rows:
        segment = (row["task"], row["phase"])
        if segment not in offsets:
            offsets[segment], end = end, end + row["steps"]
        terms = {f"term: {name}": _number(value) for name, value in row["terms"].items()}
        place = {"index": offsets[segment] + row["step"], "name": names[row["task"]]}
        place |= {field: row[field] for field in ("task", "phase", "epoch", "step")}
        found.append(place | {"loss": sum(terms.values())} | terms)
    table = pd.DataFrame(found, columns=None if found else ["index", "name", "task", "phase", "epoch", "step", "loss"])
    if len(table) > limit:
        table = table.iloc[np.linspace(0, len(table) - 1, limit).round().astype(int)]
    return table.reset_index(drop=True)


def _number(value: float | None) -> float:
    """A recorded loss term; what was no number is written as null."""
    return math.nan if value is None else float(value)


def task_names(run: Run, events: Iterable[dict[str, Any]] = ()) -> list[str]:
    """Names of the tasks; before the first score is written they are known from the event that begins the run."""
    return run.tasks or next((event["tasks"] for event in events if event.get("kind") == "RunStarted"), [])


def recent_events(run: Run) -> list[dict[str, Any]]:
    """The newest events, oldest first, from the end of the file only; damaged lines are skipped."""
    path = run.dir / "events.jsonl"
    if not path.exists():
        return []
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - TAIL))
        lines = handle.read().decode("utf-8", errors="replace").splitlines()
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            found.append(event)
    return found


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


STAGES = {
    "RunStarted": "starting",
    "TaskStarted": "training",
    "Evaluated": "evaluating",
    "OracleEvaluated": "evaluating with oracle routing",
    "TaskEnded": "task learned",
    "RunEnded": "done",
}
PHASES = {"train": "training", "gate": "training the router's gate", "memory": "training on the memory"}


def task_states(run: Run) -> pd.DataFrame:
    """Every task of the stream with its state, "learned", "now" or "ahead", and its newest score: name, state, score."""
    names = task_names(run, run.events("RunStarted"))
    scores = accuracy_matrix(run, partial=True) if run.tasks else pd.DataFrame(columns=names, dtype=float)
    for stage, score in enumerate(run.scores.get("done", ())):
        scores.iloc[stage, stage] = score
    rows, done = [], learned(run)
    for number, name in enumerate(names):
        known = scores.iloc[:, number].dropna()
        state = "learned" if number < done else "now" if number == done and run.status == "running" else "ahead"
        rows.append({"name": name, "state": state, "score": known.iloc[-1] if len(known) else math.nan})
    return pd.DataFrame(rows, columns=["name", "state", "score"])


def progress(run: Run, now: Callable[[], float] = time.time) -> Progress:
    """Where the run stands, from its last events."""
    events = list(run.events())
    status, tasks = run.status, task_names(run, events)
    elapsed = _elapsed(run, now)
    if not events:
        waiting = {"queued": "waiting for its process", "running": "loading the model"}
        return Progress(waiting.get(status, status), tasks=len(tasks), elapsed_s=elapsed)
    last = events[-1]
    share = float(last.get("progress", 0.0))
    place = next((event for event in reversed(events) if event.get("kind") in ("Step", "TaskStarted", "TaskEnded")), {})
    number = place.get("task")
    stage = PHASES.get(last["phase"], last["phase"]) if last["kind"] == "Step" else STAGES.get(last["kind"], last["kind"])
    step = last if last["kind"] == "Step" else {}
    ended = last["kind"] == "RunEnded" or status != "running"
    return Progress(
        stage if status == "running" else status, share, None if number is None else number + 1, len(tasks),
        tasks[number] if number is not None else "", step.get("epoch"), step.get("epochs"), step.get("step"), step.get("steps"),
        elapsed, None if ended else _remaining(events, now),
    )  # fmt: skip


def _elapsed(run: Run, now: Callable[[], float]) -> float | None:
    start, end = _moment(run.info.get("started")), _moment(run.info.get("ended"))
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


def alerts(run: Run) -> list[Alert]:
    """What deserves attention: a loss that is no number, a router that collapsed, dead experts, tasks that lost more than 0.2."""
    found = []
    for look in (_loss_alerts, _collapse_alerts, _dead_alerts, _forgotten_alerts):
        try:
            found += look(run)
        except LabError as error:
            found.append(Alert("damaged", str(error)))
    return found


def _loss_alerts(run: Run) -> list[Alert]:
    for event in run.events("Step"):
        if not all(math.isfinite(_number(value)) for value in event["terms"].values()):
            name = task_names(run, run.events("RunStarted"))[event["task"]]
            where = f"task {event['task'] + 1} ({name}), step {event['step']}"
            return [Alert("loss", f"The loss is not a number since {where}: lower train.lr.")]
    return []


def _collapse_alerts(run: Run) -> list[Alert]:
    moments = run.recorded()
    if not moments:
        return []
    shares = routing_by_task(run, moments[-1]).dropna(how="all")
    if shares.shape[0] < 2 or shares.shape[1] < 2:
        return []
    lowest = shares.min()  # of each expert over the tasks
    if lowest.max() <= COLLAPSE:
        return []
    text = f"The router has collapsed: expert {lowest.idxmax()} gets at least {lowest.max():.0%} on every task."
    return [Alert("collapse", text)]


def _dead_alerts(run: Run) -> list[Alert]:
    moments = run.recorded()
    shares = routing_by_task(run, moments[-1]).dropna(how="all") if moments else pd.DataFrame()
    if shares.shape[0] < 2 or shares.shape[1] < 2:
        return []
    if shares.min().max() > COLLAPSE:  # which says it already
        return []
    most = shares.max()  # of each expert over the tasks
    dead = most[most < DEAD / len(most)]
    return [Alert("dead", f"Expert {name} is dead: no task gives it more than {most[name]:.1%}.") for name in dead.index]


def _forgotten_alerts(run: Run) -> list[Alert]:
    table = accuracy_matrix(run, partial=True).to_numpy()
    found = []
    for j, name in enumerate(run.tasks):
        seen = table[j:, j][~np.isnan(table[j:, j])]
        best = seen[:-1].max(initial=-np.inf)
        if best - seen[-1:].sum() > LOSS:
            found.append(Alert("forgotten", f"Task {name} lost {best - seen[-1]:.2f}: from {best:.2f} to {seen[-1]:.2f}."))
    return found


def log_tail(run: Run, lines: int = 200) -> str:
    """The last lines of log.txt; progress bars that rewrote their line are kept in their last state."""
    path = run.dir / "log.txt"
    if not path.exists():
        return ""
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - TAIL))
        text = handle.read().decode("utf-8", errors="replace")
    kept = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join(kept[-lines:]).strip("\n")


# -- routing ---------------------------------------------------------------------------------------------------------------


def routing_by_task(run: Run, after: int | None = None) -> pd.DataFrame:
    """Mean share of each expert in the routing of each task seen: (tasks seen, E); rows sum to one."""
    routing = run.routing(after)
    shares = np.full((len(routing.tasks), len(routing.experts)), np.nan)
    for task in range(len(routing.tasks)):
        if f"{task}/share_sum" in routing.arrays:
            shares[task] = routing.share(task)
    return pd.DataFrame(shares, index=pd.Index(routing.tasks, name="task"), columns=pd.Index(routing.experts, name="expert"))


def routing_by_layer(run: Run, after: int | None, task: int, expert: int, measure: str = "weight") -> pd.DataFrame:
    """One number per layer and routing head on the test examples of a task: (L, H).

    `measure`: "weight", the mean weight of the expert; "entropy" of all weights, from 0 (one expert takes all) to 1 (all have the
    same); "change" since the task was learned, the Jensen-Shannon distance (base 2, 0 to 1) of the mean weights then and now; NaN
    if that moment was not recorded.
    """
    routing = run.routing(after)
    if not (0 <= task < len(routing.tasks) and 0 <= expert < len(routing.experts)):
        raise LabError(f"run '{run.id}' has no task {task} or expert {expert} recorded after task {after}")
    if measure == "weight":
        values = routing.mean(task)[:, :, expert]
    elif measure == "entropy":
        values = routing.entropy(task) / max(math.log(len(routing.experts)), 1e-9)
    elif measure == "change":
        values = _change(run, routing, task)
    else:
        raise LabError(f"measure '{measure}' is unknown: use weight, entropy or change")
    heads = pd.Index([f"head {h + 1}" for h in range(values.shape[1])], name="routing head")
    return pd.DataFrame(values, index=pd.Index(routing.layers, name="layer"), columns=heads)


def _change(run: Run, now: Routing, task: int) -> np.ndarray:
    """Jensen-Shannon distance of the mean weights when the task was learned and now, (L, H)."""
    means = now.mean(task)
    if task not in run.recorded():
        return np.full(means.shape[:2], np.nan)
    then = run.routing(task).mean(task)
    then = np.pad(then, ((0, 0), (0, 0), (0, means.shape[-1] - then.shape[-1])))  # later experts had no weight then
    p, q = (np.clip(w, 0, None) / np.clip(w, 1e-12, None).sum(-1, keepdims=True) for w in (then, means))
    middle = (p + q) / 2

    def divergence(w: np.ndarray) -> np.ndarray:
        return (w * np.log2(np.where(w > 0, w / np.where(middle > 0, middle, 1), 1))).sum(-1)

    return np.sqrt(np.clip((divergence(p) + divergence(q)) / 2, 0, 1))


def routing_profile(run: Run, after: int | None, task: int) -> pd.DataFrame:
    """Mean weight of every expert in every layer on the test examples of a task, mean over routing heads: (L, E)."""
    routing = run.routing(after)
    layers, experts = pd.Index(routing.layers, name="layer"), pd.Index(routing.experts, name="expert")
    return pd.DataFrame(routing.mean(task).mean(1), index=layers, columns=experts)


def routing_load(run: Run, after: int | None = None) -> pd.DataFrame:
    """What each expert has to do: `load`, its mean share over the tasks seen (they sum to one), and `largest`, on which part of
    all choices its weight is the largest."""
    routing, shares = run.routing(after), routing_by_task(run, after).dropna(how="all")
    top = np.mean([routing.top1(t).mean((0, 1)) for t in range(len(routing.tasks)) if f"{t}/count" in routing.arrays], axis=0)
    return pd.DataFrame({"load": shares.mean(), "largest": top})


def routing_entropy(run: Run, after: int | None = None) -> pd.Series:
    """Mean entropy of the routing of each task, from 0 (one expert takes all) to 1 (all have the same weight)."""
    routing = run.routing(after)
    most = max(math.log(len(routing.experts)), 1e-9)
    values = [routing.entropy(t).mean() / most if f"{t}/count" in routing.arrays else np.nan for t in range(len(routing.tasks))]
    return pd.Series(values, pd.Index(routing.tasks, name="task"), name="entropy")


def layer_names(paths: Sequence[str]) -> list[str]:
    """The telling parts of module paths, 'encoder.layer.3.attention.self.query' as '3 · query'; whole paths where these clash."""
    short = []
    for path in paths:
        parts = path.split(".")
        number = next((part for part in parts if part.isdigit()), "")
        short.append(f"{number} · {parts[-1]}" if number and parts[-1] != number else path)
    return [path if short.count(name) > 1 else name for name, path in zip(short, paths, strict=True)]


def routing_drift(run: Run, after: int | None = None) -> pd.DataFrame:
    """Change of the shares since each task was learned: (tasks seen, E); a row is NaN if that moment was not recorded.

    An expert that did not exist then had a share of 0, so the share that later experts took is their gain.
    """
    now = routing_by_task(run, after)
    moments = set(run.recorded())
    rows = []
    for task, name in enumerate(now.index):
        if task in moments:
            then = routing_by_task(run, task)
            rows.append((now.iloc[task] - then.iloc[task].reindex(now.columns, fill_value=0.0)).rename(name))
        else:
            rows.append(pd.Series(np.nan, index=now.columns, name=name))
    return pd.DataFrame(rows).rename_axis("task")


def own_expert(run: Run, after: int, task: int) -> int:
    """The expert named like the task, else the one with the largest share."""
    shares = routing_by_task(run, after)
    name = shares.index[task]
    return list(shares.columns).index(name) if name in shares.columns else int(np.nanargmax(shares.iloc[task].to_numpy()))


def own_share(run: Run, after: int) -> float:
    """Mean over the tasks seen of the share of the expert named like the task; NaN where there are no such experts."""
    shares = routing_by_task(run, after)
    own = [shares.at[name, name] for name in shares.index if name in shares.columns]
    return float(np.mean(own)) if own else math.nan


def routed_examples(run: Run, after: int | None, task: int) -> pd.DataFrame:
    """Test examples of a task that were kept whole: text, label, prediction, correct, probability, and each expert's share.

    Columns of experts are prefixed with "share: ". Where no predictions are stored, label and correct are None.
    """
    columns = ["text", "label", "prediction", "correct", "probability"]
    rows = []
    for one in kept(run, after, task):
        correct = None if one.label is None else one.label == one.prediction
        row = dict(zip(columns, (one.text, one.label, one.prediction, correct, float(one.probabilities[0])), strict=True))
        rows.append(row | {f"share: {name}": share for name, share in one.by_expert().items()})
    return pd.DataFrame(rows, columns=None if rows else columns)
