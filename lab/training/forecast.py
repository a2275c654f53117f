"""What is known about a run before it starts: time and memory, trainable parameters, what the model will see, warnings.

The forecast needs no model: the run's work over the speed of earlier runs on this machine. `look` loads data and
backbone and is asked in a process of its own, so that a page never loads torch: `python -m lab.training.forecast < config.json`.
"""

import json
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.resolve import validated
from lab.config.schema import RunConfig
from lab.core import registry
from lab.core.errors import LabError
from lab.jobs import jobs, scheduler
from lab.run_folder.run import Run, all_runs
from lab.training.workload import planned_work

if TYPE_CHECKING:
    from lab.training.trainer import Session

DEFAULT = {  # units per second and peak bytes, seen on two CPU cores
    "minilm": (420.0, 1.6e9),
    "tiny": (4000.0, 0.5e9),
    "strings": (900.0, 0.6e9),
}
NEWEST = 5  # earlier runs that count
SHOWN = 3  # examples per task
PATIENCE = 300  # seconds for the process that looks
FEW, CUT, LONG = 8, 0.1, 3600  # examples per label, share of texts at the limit, seconds: beyond these there is a warning

Sizes = list[dict[str, int]]  # of each task, see lab.training.workload.sizes_of


@dataclass(frozen=True)
class Forecast:
    """Time and memory of a run; None where nothing is known to go by."""

    seconds: float | None
    peak_bytes: float | None
    source: str  # where speed and memory come from, in words
    measured: bool  # on this machine, with this backbone


def forecast(config: RunConfig, tasks: Sizes, earlier: Iterable[Run]) -> Forecast:
    """The run's work over the median speed of the newest earlier runs that are most like it."""
    backbone, total = config.backbone.name, planned_work(config, tasks)
    alike = [run for run in earlier if run.info.get("host") == socket.gethostname() and _like(run, config)]
    for same in ("stream", "recipe", ""):  # the most alike there are
        similar = [run for run in alike if not same or _name(run.config[same]) == _name(getattr(config, same))]
        measured = [pair for run in similar[-NEWEST:] if (pair := speed(run))]
        if measured:
            rate, peak = statistics.median(rate for rate, _ in measured), max(peak for _, peak in measured)
            what = f"{len(measured)} earlier run{'s' * (len(measured) > 1)} with {backbone}"
            same_as = f" and this {same}" if same else ""
            return Forecast(total / rate, peak, f"measured in {what}{same_as} on this machine", True)
    if backbone not in DEFAULT:
        return Forecast(None, None, f"no run with {backbone} was measured on this machine yet", False)
    rate, peak = DEFAULT[backbone]
    source = f"no run with {backbone} was measured here yet; {rate:,.0f} examples a second, as seen on two CPU cores"
    return Forecast(total / rate, peak, source, False)


def _name(value: Any) -> str:
    return value if isinstance(value, str) else value["name"] if isinstance(value, dict) else value.name


def _like(run: Run, config: RunConfig) -> bool:
    """Trained to the end, with the same backbone on the same kind of device, and no shorter texts than half as long."""
    try:
        trained = run.info.get("status") == "finished" and not run.info.get("replay")
        theirs, device = run.config["backbone"], config.backbone.device
        same_device = device == "auto" or theirs["device"].partition(":")[0] == device.partition(":")[0]
        same_length = 0.5 <= theirs["max_length"] / config.backbone.max_length <= 2
        return trained and theirs["name"] == config.backbone.name and same_device and same_length
    except (LabError, KeyError, TypeError):
        return False


def speed(run: Run) -> tuple[float, float] | None:
    """Units of work per second of a finished run, its own loading left out, and its peak bytes; None if not recorded.

    Its total work follows from its first evaluated task: that many examples were this share of it.
    """
    cost, info = run.info.get("cost") or {}, run.info
    first = next(run.events("Evaluated"), None)
    if not first or first["after"] != -1 or not first["progress"] or not cost.get("train_s"):
        return None
    wall = (datetime.fromisoformat(info["ended"]) - datetime.fromisoformat(info["started"])).total_seconds()
    seconds = max(wall + cost.get("reused_s", 0.0), cost["train_s"] + cost["eval_s"])  # a resumed run tells only its last part
    return first["examples"] / first["progress"] / seconds, cost["peak_memory_bytes"]


# -- with the model --------------------------------------------------------------------------------------------------------


def ask(config: dict[str, Any]) -> dict[str, Any]:
    """`look` in a process of its own. Raises LabError with its reason if it fails."""
    jobs.refuse_read_only()
    words = [sys.executable, "-m", "lab.training.forecast"]
    try:
        done = subprocess.run(
            words, input=json.dumps(config), capture_output=True, text=True, timeout=PATIENCE, env=scheduler.environment()
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"looking at data and model took longer than {PATIENCE} s: is the network slow?") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise LabError(f"the process that looks at data and model failed (exit status {done.returncode}): {last}") from None
    if "error" in answer:
        raise LabError(answer["error"])
    return answer


def look(config: RunConfig) -> dict[str, Any]:
    """Trainable parameters, device, and per task its sizes, labels, longest text and first examples as
    tokens, each a word or piece of one and its id."""
    from lab.training import runner

    return seen(runner.session(config, keep=False))


def seen(session: "Session") -> dict[str, Any]:
    """The answer of `look`, of a session in which nothing is trained yet; it gets the experts of all tasks."""
    from lab.models.pretrained import HashTokenizer

    learner = session.learner
    session.protocol.add_all_tasks(session)
    limit = learner.backbone.max_length
    words_of = getattr(learner.backbone.tokenizer, "convert_ids_to_tokens", None)
    tasks = []
    for t, task in enumerate(session.tasks):
        rows = session.rows[t, "train"]
        lengths = [len(row.ids) for row in rows]
        answers = [row.answers[0] if task.generates else task.labels[row.label] for row in rows[:SHOWN]]
        examples = []
        for answer, row, example in zip(answers, rows, task.train, strict=False):
            words = words_of(row.ids) if words_of else HashTokenizer.words(example.text, example.pair)
            tokens = [[str(word), int(id)] for word, id in zip(words, row.ids, strict=False)]
            examples.append({"label": answer, "tokens": tokens})
        tasks.append(
            {
                "name": task.name,
                "labels": list(task.labels),
                **session.sizes[t],
                "longest": max(lengths),
                "at_limit": sum(length >= limit for length in lengths) / len(lengths),
                "examples": examples,
            }
        )
    return {
        "trainable_parameters": session.cost()["trainable_parameters"],
        "layers": len(learner.bank.layers),
        "limit": limit,
        "device": str(learner.backbone.device),
        "dtype": session.config.backbone.dtype,
        "tasks": tasks,
    }


def preview(config: RunConfig, runs: str | Path | None = None, streams: str | Path | None = None) -> dict[str, Any]:
    """What a run would be, checked as it checks itself before it starts; nothing is written. Raises LabError.

    `streams`: the folder of runs in which saved streams are found. Returns `config` with all that is decided automatically,
    `forecast` from the earlier runs in `runs`, `model` and `tasks`, `warnings`.
    """
    from lab.training import runner

    session = runner.session(config, streams, keep=False)
    sizes, model = session.sizes, seen(session)
    expected = forecast(session.config, sizes, all_runs(runs))
    tasks = model.pop("tasks")
    return {
        "config": session.config.to_dict(),
        "forecast": asdict(expected),
        "model": model,
        "tasks": tasks,
        "warnings": warnings(session.config, expected, sizes, model | {"tasks": tasks}),
    }


def warnings(config: RunConfig, expected: Forecast | None, tasks: Sizes | None, seen: dict[str, Any] | None) -> list[str]:
    """What somebody should know before starting, in sentences; the last three are None where they are not known."""
    sentences = [*registry.protocols.build(config.protocol).warnings(config)]
    if expected and expected.seconds and expected.seconds > LONG:
        hours = expected.seconds / 3600
        sentences.append(f"This is expected to take {hours:.1f} hours. Fewer training examples per task make it shorter.")
    if tasks and len(tasks) < 2:
        sentences.append("With one task there is nothing to forget and nothing to route.")
    limit, looked = (seen["limit"], seen["tasks"]) if seen else (0, [])
    for task in looked:
        name, per_label = task["name"], task["train"] / max(len(task["labels"]), 1)
        if task["at_limit"] > CUT:
            share = task["at_limit"]
            sentences.append(f"{name}: {share:.0%} of the texts reach the limit of {limit} tokens and are cut there.")
        if per_label < FEW:
            sentences.append(f"{name}: {per_label:.1f} training examples per label are few.")
    return sentences


def _answer() -> dict[str, Any]:
    """What the process says: a report, or the reason why there is none."""
    try:
        return look(validated(json.load(sys.stdin)))
    except LabError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    print(json.dumps(_answer()))
