"""Grids: what is missing of the cells of a grid file is run, and all of it is read together.

A cell is an ordinary run in the folder of runs, under an id that ends in the cell's hash, so nothing else has to be remembered:
a finished cell is not run again, by this grid or by another one that holds it too, and one that was left in its middle is gone
on with. Values are chosen by validation, at one seed and in one order, and then hold for all seeds and orders.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lab import views
from lab.comparison.grid_spec import Cell, Problems, Row, make_rows, read
from lab.core import atomic_io, registry
from lab.core.errors import LabError
from lab.core.intervals import by_position, difference, interval
from lab.data import loading
from lab.data.stream import Task, limited
from lab.jobs.scheduler import Scheduler, Worker, turn
from lab.run_folder.run import Run, remove, root, slug, unwritable
from lab.training import runner
from lab.training.recorder import Stopped
from lab.training.trainer import Session

TICK = 0.5  # seconds between two looks at the cells that run
TRIED = 8  # examples per split with which it is tried whether a cell can be set up
TIMES = ("train_s", "eval_s", "reused_s", "peak_memory_bytes")  # of cost; measured, so never the same twice
TRANSIENT = ("running", "queued", "lost", "interrupted", "stopped")  # a cell that will come to another end


class Outcome(NamedTuple):
    """What is known of a cell: the status of its run (or missing, damaged), why it is not finished, and what it found."""

    status: str
    why: str = ""
    validation: float | None = None  # mean score on the validation examples of all tasks after the last one
    result: dict[str, Any] | None = None  # as `lab run --json` prints it


class Progress(NamedTuple):
    """Where the work on a grid stands: cells done of all, share done of each cell that runs now, cells that ended just now."""

    done: int
    total: int
    active: dict[str, float]
    ended: list[str]


class Grid:
    """A grid file and a folder of runs. Making it checks the file; `work` runs what is missing; `result` reads all of it."""

    def __init__(self, file: str | Path, folder: str | Path | None = None, processes: int = 1):
        """Raises LabError that lists every problem of every cell; nothing is written."""
        self.path, self.spec = read(file)
        self.folder, self.processes = root(folder), processes
        spec = self.spec.model_dump(mode="json", exclude={"about"})
        name = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]
        self.manifest = self.folder / ".grids" / f"{slug(self.path.stem)}-{name}.json"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = self._threads_before() or max(1, cores // processes)
        self.finished: dict[str, Outcome] = {}  # looked at once; a finished run does not change
        self.rows = make_rows(self.path, self.spec, self.threads, self.folder)

    def _threads_before(self) -> int | None:
        """Threads of a cell when the grid was first run: with others it would be made of other cells."""
        if not self.manifest.is_file():
            return None
        try:
            return int(json.loads(self.manifest.read_text())["threads"])
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(f"{self.manifest} is damaged ({error}): remove it; finished cells stay") from error

    @property
    def trials(self) -> list[Cell]:
        """Cells that values are chosen by."""
        return [option.trial for row in self.rows if len(row.candidates) > 1 for option in row.candidates]

    @cached_property
    def possible(self) -> dict[str, Cell]:
        """Every cell that may come to be run, by its hash."""
        finals = [cell for row in self.rows for option in row.candidates for cell in option.finals]
        return {cell.hash: cell for cell in (*self.trials, *finals)}

    # -- checks ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Set up, with a few examples, one cell of each kind, unless it was begun before; LabError lists all that cannot be.

        Data of cells that were begun must still be the same.
        """
        problems, whole = Problems(), dict[tuple[str, ...], Task]()
        tried: set[str] = set()
        for cell in self.possible.values():
            config, run = cell.config, Run(self.folder / cell.id)
            label = f"{config.recipe} on {config.stream.name}"
            try:
                begun = (run.info if run.dir.is_dir() else {}).get("fingerprint", {}).get("tasks", {})
                plain = config.to_dict()
                for section in ("recipe", "about", "seed", "train", "router_training", "checkpoint", "reuse"):
                    plain.pop(section)
                plain["stream"]["tasks"] = sorted(config.stream.tasks)
                kind = json.dumps(plain, sort_keys=True)
                if kind in tried and not begun:
                    continue
                tried.add(kind)
                tasks = loading.tasks_of(config.stream, config.seed, whole)
                changed = [task.name for task in tasks if task.name in begun and begun[task.name] != task.digest()]
                if changed:
                    raise LabError(f"the data of task '{changed[0]}' have changed since {run.id} was begun: remove that run")
                if not begun:  # what was begun could be set up
                    train = max(TRIED, registry.protocols.build(config.protocol).fewest_examples())
                    Session(config, [limited(task, 0, train, TRIED, TRIED) for task in tasks])
            except LabError as error:
                problems.note(error, f"{label}, scenario {config.scenario}")
        problems.refuse(self.path.name)

    # -- work ------------------------------------------------------------------------------------------------------

    def outcome(self, cell: Cell) -> Outcome:
        """What is known of a cell now."""
        if cell.hash in self.finished:
            return self.finished[cell.hash]
        run = Run(self.folder / cell.id)
        if not (run.dir / "run.json").is_file():
            return Outcome("missing", "it was not run yet")
        if problem := views.problem(run):
            return Outcome("damaged", problem)
        result = run.result()
        if result["status"] != "finished":
            return Outcome(result["status"], run.info.get("error") or f"its run is {result['status']}", result=result)
        found = Outcome("finished", "", run.validation, result)
        return self.finished.setdefault(cell.hash, found)

    def work(self) -> Iterator[Progress]:
        """Run every cell that is not finished: those of the sweep, then, with the values that they chose, all others.

        A cell that fails does not stop the others. Whatever ends this (Ctrl-C too) leaves cells that can be gone on with.
        """
        trials = {cell.hash for cell in self.trials}
        both = sum(row.candidates[0].trial.hash in {cell.hash for cell in row.candidates[0].finals} for row in self.rows)
        total = sum(len(row.candidates[0].finals) for row in self.rows) + (len(trials) - both if trials else 0)
        planned = self.planned()
        if len(planned) == total and all(self.outcome(cell).status == "finished" for cell in planned):
            return
        self.check()
        try:
            self._write_manifest()
        except OSError as error:
            raise unwritable(self.folder, error) from error
        for step in self._run(self.trials):
            yield step._replace(total=total)
        self._write_manifest()
        rest = [cell for cell in self.planned() if cell.hash not in trials]
        places = [cell.key for row in self.rows for cell in row.candidates[0].finals]
        rest.sort(key=lambda cell: places.index(cell.key))  # all methods at one seed and in one order, then at the next
        for step in self._run(rest):
            yield step._replace(total=total, done=len(trials) + step.done)
        self._write_manifest()

    def _run(self, cells: Sequence[Cell]) -> Iterator[Progress]:
        """Run cells, each in a process of its own, `processes` at a time."""
        waiting = [cell for cell in cells if self.outcome(cell).status not in ("finished", "damaged")]
        if not waiting:
            return
        scheduler = Scheduler(self.processes, Forks())
        cell_of = {Run(self.folder / cell.id): cell for cell in waiting}
        done = len(cells) - len(waiting)
        try:
            while waiting or scheduler.workers:
                if waiting and scheduler.free():
                    waiting, finished_elsewhere = self._start(waiting, scheduler)
                    done += finished_elsewhere
                lines = []
                for run in scheduler.ended(TICK):
                    if run.status == "running":  # another process was faster: look again later
                        waiting.append(cell_of[run])
                    else:
                        done += 1
                        lines.append(self._summary_line(cell_of[run]))
                yield Progress(done, len(cells), {run.id: self._share(run) for run in scheduler.workers}, lines)
        finally:
            scheduler.stop()

    def _start(self, waiting: Sequence[Cell], scheduler: Scheduler) -> tuple[list[Cell], int]:
        """Start cells while there is a free slot; returns those that still wait, and how many another grid has finished."""
        left, finished = list[Cell](), 0
        with turn(self.folder, patience=-1):
            for cell in waiting:
                run = self._folder_of(cell) if scheduler.free() else None
                if run and run.status == "finished":
                    finished += 1
                elif not (run and scheduler.start(run)):
                    left.append(cell)
        return left, finished

    def _folder_of(self, cell: Cell) -> Run:
        """The run of a cell; its folder is made if there is none."""
        run = Run(self.folder / cell.id)
        if run.dir.is_dir() and not (run.dir / "run.json").is_file():
            remove(run.dir)  # its maker was killed
        return run if run.dir.is_dir() else Run.create(cell.config.to_dict(), self.folder, cell.id)

    def _summary_line(self, cell: Cell) -> str:
        """One line about a cell that ended."""
        found = self.outcome(cell)
        if found.result is None or found.status != "finished":
            return f"{cell.id}: {found.status}: {found.why}"
        scores = ((m.title.lower(), views.pick(found.result, m.path)) for m in views.judged([found.result]))
        return f"{cell.id}: {', '.join(f'{name} {score:.3f}' for name, score in scores if score is not None)}"

    def _share(self, run: Run) -> float:
        """Share of a cell's work that is done, in [0, 1], from its newest event."""
        newest = views.recent_events(run)
        return float(newest[-1].get("progress", 0.0)) if newest else 0.0

    def _write_manifest(self) -> None:
        """What the grid is made of and what was chosen so far."""
        cells = [
            {
                "cell": cell.hash,
                "run": cell.id,
                "recipe": cell.config.recipe,
                "stream": cell.config.stream.name,
                "scenario": cell.config.scenario,
                "order": cell.config.stream.tasks,
                "seed": cell.config.seed,
                "values": cell.values,
            }
            for cell in self.planned()
        ]
        chosen = [
            {"recipe": row.recipe, "stream": row.stream, "scenario": row.scenario, **self.selection(row)} for row in self.rows
        ]
        content = {"grid": self.spec.model_dump(mode="json"), "threads": self.threads, "cells": cells, "selection": chosen}
        atomic_io.write_json(self.manifest, content)

    # -- what came of it -------------------------------------------------------------------------------------------

    def selection(self, row: Row) -> dict[str, Any]:
        """Values, their validation scores, and which were chosen: the best score, the first of equals; None while unknown."""
        outcomes = [(option, self.outcome(option.trial)) for option in row.candidates]
        tried = [
            {"values": option.values, "cell": option.trial.hash, "validation": found.validation, "why": found.why}
            for option, found in outcomes
        ]
        known = [entry for entry in tried if entry["validation"] is not None]
        best = max(known, key=lambda entry: entry["validation"], default=None)
        if any(found.status in ("missing", *TRANSIENT) for _, found in outcomes):
            best = None
        best = tried[0] if len(tried) == 1 else best  # nothing to choose
        return {"chosen": best and best["values"], "sweep": tried}

    def finals(self, row: Row) -> list[Cell]:
        """The cells of a row at its chosen values; none while these are unknown."""
        chosen = self.selection(row)["chosen"]
        return next((option.finals for option in row.candidates if option.values == chosen), []) if chosen is not None else []

    def planned(self) -> list[Cell]:
        """The cells of the sweep, and those of the chosen values as far as these are known; each once."""
        cells = (*self.trials, *(cell for row in self.rows for cell in self.finals(row)))
        return list({cell.hash: cell for cell in cells}.values())

    def unfinished(self) -> dict[str, str]:
        """Run id and reason of every cell that is not finished."""
        found = {cell.id: self.outcome(cell) for cell in self.planned()}
        return {id: outcome.why for id, outcome in found.items() if outcome.status != "finished"}

    def result(self) -> dict[str, Any]:
        """All cells as `lab run --json` prints them; the table, which holds no times, so that it is the same from whatever
        moment the grid was gone on with; differences between methods; and the times.
        """
        cells = []
        for cell in self.planned():
            found = self.outcome(cell)
            shown = found.result or {"run": cell.id, "status": found.status, "why": {"status": found.why}}
            cells.append({"cell": cell.hash, "values": cell.values, **shown})
        found = {entry["cell"]: entry for entry in cells if entry["status"] == "finished"}
        of_row = [{cell.key: found[cell.hash] for cell in self.finals(row) if cell.hash in found} for row in self.rows]
        return {
            "cells": cells,
            "table": [self._table_row(row, results) for row, results in zip(self.rows, of_row, strict=True)],
            "differences": self._differences(of_row),
            "times": self._times(of_row, found),
        }

    def _table_row(self, row: Row, results: dict[Any, dict[str, Any]]) -> dict[str, Any]:
        """Mean and interval of every measure over seeds and orders, what was chosen and by which scores, and what is missing."""
        values = list(results.values())
        made: dict[str, Any] = {"recipe": row.recipe, "stream": row.stream, "scenario": row.scenario, "n": len(values)}
        made |= {"seeds": self.spec.seeds, "orders": [list(order) for order in dict.fromkeys(key[1] for key in results)]}
        made |= self.selection(row)
        failed = {cell.id: self.outcome(cell).why for cell in self.finals(row) if cell.key not in results}
        for measure in views.measures(values):
            if measure.path.removeprefix("cost.") not in TIMES:
                known = [views.pick(value, measure.path) for value in values]
                if not known or None in known:
                    reason = views.reason(values[known.index(None)], measure.path) if known else "no cell is finished"
                    made[measure.path] = {"n": 0, "mean": None, "why": reason}
                else:
                    made[measure.path] = known[0] if isinstance(known[0], bool) else asdict(interval(known))
        last = [dict(zip(value["tasks"], value["matrix"][-1], strict=True)) for value in values if "matrix" in value]
        made["by_position"] = [asdict(entry) for entry in by_position(last)]
        return made | {"failed": failed}

    def _differences(self, of_row: list[dict[Any, dict[str, Any]]]) -> list[dict[str, Any]]:
        """Every pair of methods that met the same stream and scenario, first minus second."""
        found = []
        for (one, first), (other, second) in itertools.combinations(zip(self.rows, of_row, strict=True), 2):
            shown = views.judged([*first.values(), *second.values()])
            for measure in (m.path for m in shown) if one.peers == other.peers else ():
                a, b = (
                    {key: value for key, result in results.items() if (value := views.pick(result, measure)) is not None}
                    for results in (first, second)
                )
                place = {"stream": one.stream, "scenario": one.scenario, "first": one.recipe, "second": other.recipe}
                found.append(place | {"measure": measure, **asdict(difference(a, b))})
        return found

    def _times(self, of_row: list[dict[Any, dict[str, Any]]], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Seconds per method, and what reuse saved: of all cells, and of those that took experts from the store."""
        rows = [
            {
                "recipe": row.recipe,
                "stream": row.stream,
                "scenario": row.scenario,
                **{
                    name: float(np.mean([value["cost"][name] for value in results.values()])) if results else None
                    for name in TIMES
                },
            }
            for row, results in zip(self.rows, of_row, strict=True)
        ]
        costs = [entry["cost"] for entry in found.values()]
        return {"rows": rows, "reuse": saved(costs), "reuse_where_taken": saved([c for c in costs if c["reused_s"]])}


def saved(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of training and evaluation that some runs would have taken and took, the share saved, and the factor."""
    whole = sum(cost["train_s"] + cost["eval_s"] for cost in costs)
    reused = sum(cost["reused_s"] for cost in costs)
    known = whole > reused
    return {
        "cells": len(costs),
        "without_reuse_s": round(whole, 3),
        "with_reuse_s": round(whole - reused, 3),
        "share_saved": reused / whole if known else None,
        "factor": whole / (whole - reused) if known else None,
    }


# -- the process of a cell -------------------------------------------------------------------------------------------------


class Forks:
    """Launches cells as forks of one process that has loaded the libraries: none spends the seconds of an import of its own."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["lab.api", "peft", "transformers.models.bert.modeling_bert"])
        first = self.context.Process(target=int)  # does nothing: when it has ended the libraries are loaded
        first.start()
        first.join()

    def __call__(self, run: Run) -> Worker:
        words = run.id, str(run.dir.parent.resolve()), dict(os.environ)
        process = self.context.Process(target=work, args=words)
        process.start()
        return Fork(process)


class Fork:
    """The process of a cell, as a scheduler sees it."""

    def __init__(self, process: BaseProcess):
        self.process, self.pid = process, process.pid or 0

    def poll(self) -> int | None:
        return self.process.exitcode


def work(id: str, folder: str, environment: dict[str, str]) -> None:
    """Train a cell, or go on with it, in this process; the result is in its folder. Ends, resumable, with the grid's process."""
    os.environ.update(environment)  # the process this one is forked from has that of its start
    run = Run(Path(folder) / id)
    with open(run.dir / "log.txt", "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    try:
        runner.resume(id, folder, progress=False)
    except (Stopped, KeyboardInterrupt):
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        if run.status == "queued":  # it failed before the run began
            run.update(status="failed", error=str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}")
        sys.exit(1)


def _end_with(parent: Any) -> None:
    """Ask this process to stop when its parent is gone, however that ended."""
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
