"""What the commands print on stdout: JSON, or tables as wide as the terminal."""

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.cli.options import quiet

if TYPE_CHECKING:
    from lab.run_folder.run import Run

NAME = 40  # characters of a name that is not broken
UNBOUNDED = 10_000  # columns of what is no terminal: whoever reads it decides about its lines


def show_json(content: Any) -> None:
    print(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def cell(value: Any) -> str | Text:
    if value is None:
        return "-"
    if isinstance(value, Text):
        return value
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {' > '.join(inner) if isinstance(inner, list) else inner}" for key, inner in value.items())
    return str(value)


def console() -> Console:
    """Stdout, as wide as its terminal or as $COLUMNS says; elsewhere lines are as long as they are."""
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else UNBOUNDED)


def print_names(rows: Sequence[dict[str, Any]]) -> None:
    """A line for each row: its name and what it is, cut at the edge of the terminal; below their `group`, if rows have one."""
    names = max((len(row["name"]) for row in rows), default=0) + 2
    width, group = console().width, None
    for row in rows:
        if row.get("group") != group:
            group = row["group"]
            print(group)
        indent = "  " if group else ""
        about = textwrap.shorten(row["about"], max(width - names - len(indent), 20), placeholder=" ...")
        print(f"{indent}{row['name']:{names}}{about}")
    if not rows:
        print("none")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows as a table on stdout, as wide as the terminal."""
    if not rows:
        print("none")
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(dict.fromkeys(key for row in rows for key in row)):
        longest = max(len(str(cell(row.get(name)))) for row in rows)
        table.add_column(name, overflow="fold", no_wrap=number == 0 and longest <= NAME)
    for row in rows:
        table.add_row(*(cell(row.get(str(column.header))) for column in table.columns))
    console().print(table)


def print_result(run: "Run") -> None:
    """Metrics, and the matrix with one row per learned task; of a transfer run the scores of all tasks; and reasons."""
    from lab import views

    result = run.result()
    scores = {measure.title: views.pick(result, measure.path) for measure in views.measures([result]) if measure.score}
    print_table(
        [
            {"measure": title, run.notes["name"] or run.id: value}
            for title, value in ({"Status": result["status"]} | scores).items()
        ]
    )
    if not run.protocol.continual:
        print_transfer(result)
    else:
        print_matrix(result)
    for name, reason in result["why"].items():
        print(f"{name}: {reason}")
    for change in run.changes:
        print(f"went on with a change: {change}")
    for remark in run.remarks:
        print(remark)


def print_matrix(result: dict[str, Any]) -> None:
    """Scores before training, then one row per moment that was evaluated; one column per task."""
    tasks, zero_shot = result["tasks"], result["zero_shot"] or [None] * len(result["tasks"])
    print()
    rows = [(name, row) for name, row in zip(tasks, result["matrix"], strict=False) if any(score is not None for score in row)]
    rows = [("before training", zero_shot), *rows]
    print_table([{"after": name} | dict(zip(tasks, row, strict=False)) for name, row in rows])


def print_transfer(result: dict[str, Any]) -> None:
    """Training tasks, and held-out tasks without shots and with each number of them."""
    print()
    print_table([{"trained on": task, "score": score} for task, score in result["trained"].items()])
    by_task = {task: {"0": score} | result["held_out"].get(task, {}) for task, score in result["zero_shot"].items()}
    print()
    rows = [{"held out": task} | {f"{k} shots": score for k, score in scores.items()} for task, scores in by_task.items()]
    print_table(rows)


def print_comparison(runs: "list[Run]") -> None:
    """Measures down, methods across, since a terminal is higher than wide; then what is missing and why."""
    from lab import views
    from lab.comparison.tables import comparison

    table, notes = comparison(runs)
    print_table([{"measure": title} | dict(table[title]) for title in table.columns])
    for note in notes:
        print(note)
    for measure in views.judged([run.result() for run in runs]):
        pairs = views.differences(runs, measure.path)
        if len(pairs):
            print(f"paired differences in {measure.title.lower()}, over the seeds and orders that both have:")
            print_differences(pairs.astype(object).where(pairs.notna(), None).to_dict("records"))


def print_differences(pairs: list[dict[str, Any]]) -> None:
    """Differences with their intervals; what is no claim is grey and says so."""
    rows = []
    for pair in pairs:
        claim = {None: f"- ({pair['why']})", True: "yes", False: "no: the interval includes zero"}[pair["claim"]]
        row = {"first": pair["first"], "second": pair["second"], "n": pair["n"], "first - second": between(pair)}
        row |= {"p": pair["p"], "claim": claim}
        rows.append({name: value if pair["claim"] else Text(str(cell(value)), "dim") for name, value in row.items()})
    print_table(rows)


def say_unequal(runs: "list[Run]") -> None:
    """On stderr, what makes runs unequal that are compared."""
    from lab import views

    for sentence in views.unequal(runs):
        print(sentence, file=sys.stderr)


@contextmanager
def counted(doing: str) -> Iterator[Callable[[str, int, int], None]]:
    """Inside the block, a bar on stderr with count and ETA; call what it gives with a task, how much is done and of how much."""
    if quiet():
        yield lambda task, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn()
    times = TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn()
    bar = Progress(*columns, *times, console=Console(stderr=True), speed_estimate_period=600)
    work = bar.add_task(doing, total=None)

    def watch(task: str, done: int, total: int) -> None:
        bar.start()  # not before: what is refused is not begun
        bar.update(work, description=f"{doing} {task}", completed=done, total=total)

    try:
        yield watch
    finally:
        if bar.live.is_started:
            bar.stop()


def print_preview(answer: dict[str, Any]) -> None:
    """What a run would be: its configuration, its tasks, its model, how long it takes, and what somebody should know before."""
    from lab.core.documents import yaml_text

    print(yaml_text(answer["config"]))
    print_table(
        [{name: task[name] for name in ("name", "train", "validation", "test", "classes", "longest")} for task in answer["tasks"]]
    )
    model = answer["model"]
    print(f"model: {model['trainable_parameters']:,} trainable parameters in {model['layers']} layers, on {model['device']}")
    print_forecast(answer["forecast"])
    for sentence in answer["warnings"]:
        print(sentence)


def print_grid_preview(answer: dict[str, Any]) -> None:
    """The cells of a grid, and how long those take that are to be run."""
    shown = ("recipe", "stream", "seed", "values", "status")
    rows = [{name: cell[name] or None if name == "values" else cell[name] for name in shown} for cell in answer["cells"]]
    times = [cell["forecast"]["seconds"] for cell in answer["cells"]]
    print_table([row | {"time": None if time is None else duration(time)} for row, time in zip(rows, times, strict=True)])
    print_forecast(answer["forecast"])


def print_forecast(expected: dict[str, Any]) -> None:
    """Time and memory, and where the numbers come from; then that nothing was written."""
    known = [] if expected["seconds"] is None else [f"about {duration(expected['seconds'])}"]
    known += [] if expected["peak_bytes"] is None else [f"{expected['peak_bytes'] / 1e9:.1f} GB of memory"]
    print(f"forecast: {', '.join(known) or 'unknown'} ({expected['source']})")
    print("nothing was written: this was a dry run")


def duration(seconds: float) -> str:
    """Seconds in the largest fitting unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_pruning(answer: dict[str, Any]) -> None:
    """The load of the experts, then the scores of every task with and without the pruned ones."""
    print_table(answer["experts"])
    rows = [*answer["tasks"], {"task": "mean", "measures": answer.get("measures", {})} | answer["average_accuracy"]]
    moments = ("before", "after")
    further = [{f"{name} {m}": pair[m] for name, pair in row.get("measures", {}).items() for m in moments} for row in rows]
    print_table([{name: row[name] for name in ("task", *moments)} | more for row, more in zip(rows, further, strict=True)])


def print_decomposition(decomposition: dict[str, Any]) -> None:
    """What each old task lost, and the terms that make it up."""
    from lab.comparison.tables import TERMS

    def table(part: dict[str, Any], loss: str) -> None:
        rows = [*part["tasks"], {"task": "mean"} | part["mean"]]
        print_table([{"task": row["task"], loss: row["loss"]} | {TERMS[term]: row[term] for term in TERMS} for row in rows])

    table(decomposition, "loss")
    if "token_loss" in decomposition:
        table(decomposition["token_loss"], "nats per token")
    for term, reason in decomposition["why"].items():
        print(f"{TERMS[term]}: {reason}")


def print_grid(result: dict[str, Any]) -> None:
    """Methods with means and intervals; what they use; the sweep; differences to the best; effects of the order; seconds."""
    from lab import views

    several = len({(row["stream"], row["scenario"]) for row in result["table"]}) > 1
    finished = [cell for cell in result["cells"] if cell["status"] == "finished"]
    measures, leading = views.measures(finished), views.headline(finished)
    scores, uses, sweeps, positions, best = [], [], [], [], {}
    for row in result["table"]:
        method = {name: row[name] for name in (("recipe", "stream", "scenario") if several else ("recipe",))}
        listed = [measure for measure in measures if measure.path in row]
        means = {m.title.lower(): between(row[m.path]) for m in listed if m.score and m.use >= views.Use.COMPARE}
        scores.append(method | {"n": row["n"]} | means | {"chosen": settings(row["chosen"]) or None})
        uses.append(method | {m.title.lower(): amount(row[m.path]) for m in listed if not m.score and not m.part_of})
        tried = {settings(entry["values"]): entry["why"] or entry["validation"] for entry in row["sweep"]}
        sweeps.append(method | tried)
        positions.append(method | {str(i): between(effect) for i, effect in enumerate(row["by_position"], 1)})
        accuracy, leader = row[leading.path]["mean"], best.get((row["stream"], row["scenario"]), ("", -1.0))
        if accuracy is not None and accuracy > leader[1] and (row["uses.task_id"] is not True or "alignment" in row):
            best[row["stream"], row["scenario"]] = row["recipe"], accuracy
    print_table(scores)
    print("what the methods use, store and train, mean over the cells:")
    print_table(uses)
    if len(result["table"][0]["sweep"]) > 1:
        print("average accuracy on validation examples, by which the values were chosen:")
        print_table(sweeps)
    for measure in dict.fromkeys(pair["measure"] for pair in result["differences"]):
        pairs = [
            pair
            for pair in result["differences"]
            if pair["measure"] == measure
            and best.get((pair["stream"], pair["scenario"]), ("",))[0] in (pair["first"], pair["second"])
        ]
        if pairs:
            print(f"paired differences in {measure.replace('_', ' ')} to the most accurate method that is not given the task:")
            print_differences(pairs)
    if any(effect["mean"] is not None for row in result["table"] for effect in row["by_position"]):
        print("last score of the task at each position of the stream, minus the task's mean over all positions:")
        print_table(positions)
    print("seconds and bytes of a cell, as if nothing had been reused:")
    print_table(result["times"]["rows"])
    for name, of in (("reuse", "all cells"), ("reuse_where_taken", "cells that took experts from the store")):
        times = result["times"][name]
        if times["factor"]:
            spent = f"{times['with_reuse_s']:.0f} s in place of {times['without_reuse_s']:.0f} s"
            print(f"{times['cells']} {of}: {spent}, reuse saved {times['share_saved']:.0%} ({times['factor']:.1f} times as fast)")


def amount(mean: dict[str, Any] | bool) -> str | None:
    """A privilege, or the mean of a count; None where it is not known."""
    if isinstance(mean, bool):
        return "yes" if mean else "no"
    return None if mean["mean"] is None else f"{mean['mean']:,.0f}"


def settings(values: dict[str, Any] | None) -> str:
    """Options and their values on one line."""
    return ", ".join(f"{name}={value}" for name, value in (values or {}).items())


def between(interval: dict[str, Any]) -> str:
    """A mean with its interval, or the reason why there is none."""
    if interval["mean"] is None:
        return f"- ({interval['why']})"
    bounds = "" if interval["low"] is None else f" [{interval['low']:.3f}, {interval['high']:.3f}]"
    return f"{interval['mean']:.3f}{bounds}"
