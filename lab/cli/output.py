"""What the commands print on stdout: JSON, or tables as wide as the terminal."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.run_folder import run as run_folder

USES = {
    "uses.task_id": "task id",
    "uses.stored_examples": "stored examples",
    "uses.generated_examples": "generated examples",
    "cost.trainable_parameters": "trainable parameters",
    "cost.stored_parameters": "stored parameters",
    "cost.stored_bytes": "stored bytes",
}
METRICS = ("average_accuracy", "forgetting", "backward_transfer", "learning_accuracy")


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


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows as a table on stdout, as wide as the terminal."""
    if not rows:
        print("none")
        return
    table = Table()
    for name in dict.fromkeys(key for row in rows for key in row):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(cell(row.get(column.header)) for column in table.columns))
    Console(markup=False, width=None if sys.stdout.isatty() else 160).print(table)


def print_result(found: run_folder.Run) -> None:
    """Metrics, and the matrix with one row per learned task; of a transfer run the scores of all tasks."""
    result = found.result()
    if not found.protocol.continual:
        print_transfer(result)
        return
    routing = {f"routing: {name}": value for name, value in result["routing"].items() if not isinstance(value, dict)}
    print_table([{name: result[name] for name in ("run", "status", *METRICS)} | routing])
    tasks, zero_shot = result["tasks"], result["zero_shot"] or [None] * len(result["tasks"])
    rows = [("before training", zero_shot), *zip(tasks, result["matrix"], strict=False)]
    print_table([{"after": name} | dict(zip(tasks, row, strict=False)) for name, row in rows])
    for name, reason in result["why"].items():
        print(f"{name}: {reason}")


def print_transfer(result: dict[str, Any]) -> None:
    """Training tasks, held-out tasks without shots and with each number of them, and the reasons of what is missing."""
    names = ("run", "status", "trained_average", "alignment")
    shots = {f"{k} shots": score for k, score in result["average"].items()}
    print_table([{name: result[name] for name in names} | shots])
    print_table([{"trained on": task, "score": score} for task, score in result["trained"].items()])
    held = {task: {"0": score} | result["held_out"].get(task, {}) for task, score in result["zero_shot"].items()}
    print_table([{"held out": task} | {f"{k} shots": score for k, score in scores.items()} for task, scores in held.items()])
    for name, reason in result["why"].items():
        print(f"{name}: {reason}")


def print_comparison(found: list[run_folder.Run]) -> None:
    """Measures down, methods across, since a terminal is higher than wide; then what is missing and why."""
    from lab import views
    from lab.comparison.tables import comparison

    table, notes = comparison(found)
    print_table([{"measure": title} | dict(table[title]) for title in table.columns])
    for note in notes:
        print(note)
    for measure in views.tested([run.result() for run in found]):
        pairs = views.differences(found, measure.path)
        if len(pairs) and measure.path != "forgetting":
            print(f"paired differences in {measure.title.lower()}, over the seeds and orders that both have:")
            print_differences(pairs.astype(object).where(pairs.notna(), None).to_dict("records"))


def print_differences(pairs: list[dict[str, Any]]) -> None:
    """Differences with their intervals; what is no claim is grey and says so."""
    rows = []
    for pair in pairs:
        said = {None: f"- ({pair['why']})", True: "yes", False: "no: the interval includes zero"}[pair["claim"]]
        row = {"first": pair["first"], "second": pair["second"], "n": pair["n"], "first - second": between(pair)}
        row |= {"p": pair["p"], "claim": said}
        rows.append({name: value if pair["claim"] else Text(cell(value), "dim") for name, value in row.items()})
    print_table(rows)


def say_unequal(found: list[run_folder.Run]) -> None:
    """On stderr, what makes runs unequal that are compared."""
    from lab import views

    for sentence in views.unequal(found):
        print(sentence, file=sys.stderr)


def print_decomposition(went: dict[str, Any]) -> None:
    """What each old task lost, and the terms that make it up."""
    from lab.comparison.tables import TERMS

    rows = [*went["tasks"], {"task": "mean"} | went["mean"]]
    print_table([{"task": row["task"], "loss": row["loss"]} | {TERMS[term]: row[term] for term in TERMS} for row in rows])
    for term, reason in went["why"].items():
        print(f"{TERMS[term]}: {reason}")


def print_grid(result: dict[str, Any]) -> None:
    """Methods with means and intervals; what they use; the sweep; differences to the best; effects of the order; seconds."""
    several = len({(row["stream"], row["scenario"]) for row in result["table"]}) > 1
    scores, uses, sweeps, places, best = [], [], [], [], {}
    for row in result["table"]:
        method = {name: row[name] for name in (("recipe", "stream", "scenario") if several else ("recipe",))}
        known = ("average_accuracy", "forgetting", "learning_accuracy", "trained_average", "alignment")
        means = {name: between(row[name]) for name in row if name in known or name.startswith("average.")}
        scores.append(method | {"n": row["n"]} | means | {"chosen": settings(row["chosen"]) or None})
        uses.append(method | {title: amount(row[path]) for path, title in USES.items()})
        tried = {settings(entry["values"]): entry["why"] or entry["validation"] for entry in row["sweep"]}
        sweeps.append(method | tried)
        places.append(method | {str(place + 1): between(found) for place, found in enumerate(row["by_position"])})
        score = [found for name, found in row.items() if name == "average_accuracy" or name.startswith("average.")][-1]
        accuracy, leader = score["mean"], best.get((row["stream"], row["scenario"]), ("", -1.0))
        if accuracy is not None and accuracy > leader[1] and (row["uses.task_id"] is not True or "alignment" in row):
            best[row["stream"], row["scenario"]] = row["recipe"], accuracy
    print_table(scores)
    print("what the methods are given, keep and train, mean over the cells:")
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
    if any(found["mean"] is not None for row in result["table"] for found in row["by_position"]):
        print("last score of the task at each position of the stream, minus the task's mean over all positions:")
        print_table(places)
    print("seconds and bytes of a cell, as if nothing had been reused:")
    print_table(result["times"]["rows"])
    for name, of in (("reuse", "all cells"), ("reuse_where_taken", "cells that took experts from the store")):
        found = result["times"][name]
        if found["factor"]:
            spent = f"{found['with_reuse_s']:.0f} s in place of {found['without_reuse_s']:.0f} s"
            print(f"{found['cells']} {of}: {spent}, reuse saved {found['share_saved']:.0%} ({found['factor']:.1f} times as fast)")


def amount(found: dict[str, Any] | bool) -> str | None:
    """A privilege, or the mean of a count; None where it is not known."""
    if isinstance(found, bool):
        return "yes" if found else "no"
    return None if found["mean"] is None else f"{found['mean']:,.0f}"


def settings(values: dict[str, Any] | None) -> str:
    """Options and their values on one line."""
    return ", ".join(f"{name}={value}" for name, value in (values or {}).items())


def between(found: dict[str, Any]) -> str:
    """A mean with its interval, or the reason why there is none."""
    if found["mean"] is None:
        return f"- ({found['why']})"
    return f"{found['mean']:.3f}" + ("" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]")
