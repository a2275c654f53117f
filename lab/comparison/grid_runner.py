"""Runs the cells of a grid file that are missing, and reads all of them together.

A cell is an ordinary run in the folder of runs, under an id that ends in the cell's hash, so nothing else has to be remembered:
no grid runs a finished cell again, and a cell that was left in its middle is resumed. Swept values are chosen by validation, at
one seed and in one order, and then hold for all seeds and orders.
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
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from lab import views
from lab.comparison.grid_spec import Cell, Problems, Row, make_rows, read
from lab.config import registration
from lab.core import atomic_io, documents, registry
from lab.core.errors import LabError
from lab.core.intervals import by_position, difference, interval
from lab.data import loading
from lab.data.stream import Task, limited
from lab.jobs.scheduler import Scheduler, Worker
from lab.run_folder.files import LARGEST
from lab.run_folder.run import Run, all_runs, root, slug
from lab.run_folder.writer import create_run, remove, unwritable, update_info
from lab.store.turns import safe_status, turn
from lab.tracking.base import tracker
from lab.training import runner
from lab.training.forecast import forecast
from lab.training.recorder import Stopped
from lab.training.trainer import Session
from lab.training.workload import sizes_of

TICK = 0.5  # seconds between two looks at the cells that run
TRIED = 8  # examples per split with which it is tried whether a cell can be set up
TIMES = ("train_s", "eval_s", "reused_s", "peak_memory_bytes")  # of cost; measured, so never the same twice
TRANSIENT = ("running", "queued", "lost", "interrupted", "stopped")  # a cell that will come to another end


class Outcome(NamedTuple):
    """The state of a cell: the status of its run (or missing, damaged), why it is not finished, and its result."""

    status: str
    why: str = ""
    validation: float | None = None  # mean score on the validation examples of all tasks after the last one
    result: dict[str, Any] | None = None  # as `lab run --json` prints it


class Progress(NamedTuple):
    """How far the work on a grid is."""

    done: int  # cells that have ended, of `total`
    total: int
    active: dict[str, float]  # run id of each cell that runs now, and the share of its work that is done, in [0, 1]
    ended: list[str]  # a line about each cell that has ended since the last time


class Grid:
    """A grid file and a folder of runs. Making it checks the file; `work` runs what is missing; `result` reads all of it."""

    def __init__(
        self, file: str | Path | Mapping[str, Any], folder: str | Path | None = None, processes: int = 1, track: str | None = None
    ):
        """Resolves every cell; nothing is written. `processes`: cells that run at the same time. `track`: a tool that shows them.

        LabError lists every problem of every cell.
        """
        self.track = track
        tracker(track)  # is installed
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
        """CPU threads of a cell when the grid was first run; another number would make other cells."""
        try:
            with documents.opened(self.manifest, LARGEST[".json"], self.folder) as file:
                return int(documents.json_value(file.read())["threads"])
        except FileNotFoundError:
            return None
        except (LabError, ValueError, KeyError, TypeError) as error:
            raise LabError(f"{self.manifest} is damaged ({error}): remove it; finished cells stay") from error

    @property
    def trials(self) -> list[Cell]:
        """The cells by whose validation scores values are chosen."""
        return [option.trial for row in self.rows if len(row.candidates) > 1 for option in row.candidates]

    @cached_property
    def possible(self) -> dict[str, Cell]:
        """Every cell that may be run, whatever values are chosen, by its hash."""
        finals = [cell for row in self.rows for option in row.candidates for cell in option.finals]
        return {cell.hash: cell for cell in (*self.trials, *finals)}

    # -- checks ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Set up one cell of each kind with a few examples, and compare the data of begun cells with those they began with.

        LabError lists every cell that cannot be set up, or whose data have changed.
        """
        problems, loaded, tried = Problems(), dict[tuple[str, ...], Task](), set[str]()
        for cell in self.possible.values():
            config, run = cell.config, Run(self.folder / cell.id)
            label = f"{config.recipe} on {config.stream.name}"
            try:
                begun = (run.info if run.dir.is_dir() else {}).get("fingerprint", {}).get("tasks", {})
                plain = config.to_dict()
                for section in ("recipe", "about", "seed", "train", "router_training", "checkpoint", "reuse"):
                    plain.pop(section)
                plain["stream"]["tasks"] = sorted(config.stream.tasks or ())
                kind = json.dumps(plain, sort_keys=True)
                if kind in tried and not begun:
                    continue
                tried.add(kind)
                tasks = loading.tasks_of(config.stream, config.seed, loaded, self.folder)
                changed = [task.name for task in tasks if task.name in begun and begun[task.name] != task.digest()]
                if changed:
                    raise LabError(f"the data of task '{changed[0]}' have changed since {run.id} was begun: remove that run")
                if not begun:  # what was begun could be set up
                    train = max(TRIED, registry.protocols.build(config.protocol).fewest_examples())
                    Session(config, [limited(task, 0, train, TRIED, TRIED) for task in tasks])
            except LabError as error:
                problems.note(error, f"{label}, scenario {config.scenario}")
        problems.refuse(self.path.name)

    def preview(self) -> dict[str, Any]:
        """The cells known so far with their configurations, states and forecasts; checked as before they run, nothing written.

        `forecast`: seconds of those that are not finished, with `processes` at a time; None where the speed of one is unknown.
        """
        self.check()
        earlier, loaded, cells = all_runs(self.folder), dict[tuple[str, ...], Task](), []
        for cell in self.planned():
            sizes = sizes_of(loading.tasks_of(cell.config.stream, cell.config.seed, loaded))
            state = self.outcome(cell).status
            expected = asdict(forecast(cell.config, sizes, earlier))
            about = {"recipe": cell.config.recipe, "stream": cell.config.stream.name, "seed": cell.config.seed}
            cells.append(
                {"cell": cell.hash, "run": cell.id, "status": state, **about, "values": cell.values, "forecast": expected}
                | {"config": cell.config.to_dict()}
            )
        ahead = [cell["forecast"] for cell in cells if cell["status"] != "finished"]
        seconds = [expected["seconds"] for expected in ahead]
        total = {
            "seconds": None if None in seconds else sum(seconds) / min(self.processes, len(seconds) or 1),
            "peak_bytes": max((expected["peak_bytes"] or 0 for expected in ahead), default=0) * self.processes or None,
            "source": f"{len(ahead)} of {len(cells)} cells are to be run, {self.processes} at a time",
        }
        return {"cells": cells, "forecast": total}

    # -- work ------------------------------------------------------------------------------------------------------

    def outcome(self, cell: Cell) -> Outcome:
        """The state of a cell now."""
        if cell.hash in self.finished:
            return self.finished[cell.hash]
        run = Run(self.folder / cell.id)
        if not os.path.lexists(run.dir / "run.json"):
            return Outcome("missing", "it was not run yet")
        if problem := views.problem(run):
            return Outcome("damaged", problem)
        result = run.result()
        if result["status"] != "finished":
            return Outcome(result["status"], run.info.get("error") or f"its run is {result['status']}", result=result)
        return self.finished.setdefault(cell.hash, Outcome("finished", "", run.validation, result))

    def work(self) -> Generator[Progress]:
        """Run every cell that is not finished: those of the sweep, then all others with the values chosen by them.

        A cell that fails does not stop the others. However this ends (Ctrl-C, kill -9), the same grid goes on with its cells.
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
        keys = [cell.key for row in self.rows for cell in row.candidates[0].finals]
        rest.sort(key=lambda cell: keys.index(cell.key))  # all methods at one seed and in one order, then at the next
        for step in self._run(rest):
            yield step._replace(total=total, done=len(trials) + step.done)
        self._write_manifest()

    def _run(self, cells: Sequence[Cell]) -> Iterator[Progress]:
        """Run cells, each in a process of its own, `processes` at a time."""
        waiting = [cell for cell in cells if self.outcome(cell).status not in ("finished", "damaged")]
        if not waiting:
            return
        scheduler = Scheduler(self.processes, Forks(self.track))
        cell_of = {Run(self.folder / cell.id): cell for cell in waiting}
        done = len(cells) - len(waiting)
        try:
            while waiting or scheduler.workers:
                if waiting and scheduler.free():
                    waiting, settled = self._start(waiting, scheduler)
                    done += settled
                lines = []
                for run in scheduler.ended(TICK):
                    if safe_status(run) == "running":  # another process was faster: look again later
                        waiting.append(cell_of[run])
                    else:
                        done += 1
                        lines.append(self._summary_line(cell_of[run]))
                yield Progress(done, len(cells), {run.id: self._share(run) for run in scheduler.workers}, lines)
        finally:
            scheduler.stop()

    def _start(self, waiting: Sequence[Cell], scheduler: Scheduler) -> tuple[list[Cell], int]:
        """Start cells while there is a free slot.

        Returns the cells that still wait, those included that another process works on, and how many need no work any more.
        """
        left, settled = list[Cell](), 0
        with turn(self.folder, patience=-1):
            for cell in waiting:
                run = self._folder_of(cell) if scheduler.free() else None
                if run and safe_status(run) in ("finished", "damaged"):  # by another process, since this one looked
                    settled += 1
                elif not (run and scheduler.start(run)):
                    left.append(cell)
        return left, settled

    def _folder_of(self, cell: Cell) -> Run:
        """The run of a cell; its folder is made if there is none."""
        run = Run(self.folder / cell.id)
        if run.dir.is_dir() and not os.path.lexists(run.dir / "run.json"):
            remove(run.dir)  # its maker was killed
        return run if run.dir.is_dir() else create_run(cell.config.to_dict(), self.folder, cell.id)

    def _summary_line(self, cell: Cell) -> str:
        """One line about a cell that ended."""
        outcome = self.outcome(cell)
        if outcome.result is None or outcome.status != "finished":
            return f"{cell.id}: {outcome.status}: {outcome.why}"
        scores = ((m.title.lower(), views.pick(outcome.result, m.path)) for m in views.judged([outcome.result]))
        return f"{cell.id}: {', '.join(f'{name} {score:.3f}' for name, score in scores if score is not None)}"

    def _share(self, run: Run) -> float:
        """Share of a cell's work that is done, in [0, 1], from its newest event."""
        newest = run.newest_events()
        return float(newest[-1].get("progress", 0.0)) if newest else 0.0

    def _write_manifest(self) -> None:
        """Write the cells of the grid, and the values chosen so far, into its file."""
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

    # -- results ---------------------------------------------------------------------------------------------------

    def selection(self, row: Row) -> dict[str, Any]:
        """The swept values with their validation scores, and the chosen ones: the best score, the first of equal ones.

        None is chosen while a cell of the sweep is still to be run.
        """
        outcomes = [(option, self.outcome(option.trial)) for option in row.candidates]
        tried = [
            {"values": option.values, "cell": option.trial.hash, "validation": outcome.validation, "why": outcome.why}
            for option, outcome in outcomes
        ]
        measured = [entry for entry in tried if entry["validation"] is not None]
        best = max(measured, key=lambda entry: entry["validation"], default=None)
        if any(outcome.status in ("missing", *TRANSIENT) for _, outcome in outcomes):
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
        outcomes = {cell.id: self.outcome(cell) for cell in self.planned()}
        return {id: outcome.why for id, outcome in outcomes.items() if outcome.status != "finished"}

    def result(self) -> dict[str, Any]:
        """All cells as `lab run --json` prints them, the table, the differences between methods, and the times.

        The table holds no times: it is the same however often the grid was interrupted.
        """
        cells = []
        for cell in self.planned():
            outcome = self.outcome(cell)
            shown = outcome.result or {"run": cell.id, "status": outcome.status, "why": {"status": outcome.why}}
            cells.append({"cell": cell.hash, "values": cell.values, **shown})
        finished = {entry["cell"]: entry for entry in cells if entry["status"] == "finished"}
        of_row = [{cell.key: finished[cell.hash] for cell in self.finals(row) if cell.hash in finished} for row in self.rows]
        return {
            "cells": cells,
            "table": [self._table_row(row, results) for row, results in zip(self.rows, of_row, strict=True)],
            "differences": self._differences(of_row),
            "times": self._times(of_row, finished),
        }

    def _table_row(self, row: Row, results: dict[Any, dict[str, Any]]) -> dict[str, Any]:
        """Mean and interval of every measure over seeds and orders, what was chosen and by which scores, and what is missing."""
        values = list(results.values())
        entry: dict[str, Any] = {"recipe": row.recipe, "stream": row.stream, "scenario": row.scenario, "n": len(values)}
        entry |= {"seeds": self.spec.seeds, "orders": [list(order) for order in dict.fromkeys(key[1] for key in results)]}
        entry |= self.selection(row)
        failed = {cell.id: self.outcome(cell).why for cell in self.finals(row) if cell.key not in results}
        for measure in views.measures(values):
            if measure.path.removeprefix("cost.") not in TIMES:
                numbers = [views.pick(value, measure.path) for value in values]
                if not numbers or None in numbers:
                    reason = views.reason(values[numbers.index(None)], measure.path) if numbers else "no cell is finished"
                    entry[measure.path] = {"n": 0, "mean": None, "why": reason}
                else:
                    entry[measure.path] = numbers[0] if isinstance(numbers[0], bool) else asdict(interval(numbers))
        last = [dict(zip(value["tasks"], value["matrix"][-1], strict=True)) for value in values if "matrix" in value]
        entry["by_position"] = [asdict(position) for position in by_position(last)]
        return entry | {"failed": failed}

    def _differences(self, of_row: list[dict[Any, dict[str, Any]]]) -> list[dict[str, Any]]:
        """The measures of each pair of methods on the same stream and scenario, first minus second."""
        rows = []
        for (first_row, first), (second_row, second) in itertools.combinations(zip(self.rows, of_row, strict=True), 2):
            shown = views.judged([*first.values(), *second.values()])
            for measure in (m.path for m in shown) if first_row.peers == second_row.peers else ():
                a, b = (
                    {key: value for key, result in results.items() if (value := views.pick(result, measure)) is not None}
                    for results in (first, second)
                )
                where = {"stream": first_row.stream, "scenario": first_row.scenario}
                methods = {"first": first_row.recipe, "second": second_row.recipe}
                rows.append(where | methods | {"measure": measure, **asdict(difference(a, b))})
        return rows

    def _times(self, of_row: list[dict[Any, dict[str, Any]]], finished: dict[str, dict[str, Any]]) -> dict[str, Any]:
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
        costs = [entry["cost"] for entry in finished.values()]
        return {"rows": rows, "reuse": saved(costs), "reuse_where_taken": saved([c for c in costs if c["reused_s"]])}


def saved(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of training and evaluation that some runs would have taken and took, the share saved, and the factor."""
    total = sum(cost["train_s"] + cost["eval_s"] for cost in costs)
    reused = sum(cost["reused_s"] for cost in costs)
    worked = total > reused
    return {
        "cells": len(costs),
        "without_reuse_s": round(total, 3),
        "with_reuse_s": round(total - reused, 3),
        "share_saved": reused / total if worked else None,
        "factor": total / (total - reused) if worked else None,
    }


# -- the process of a cell -------------------------------------------------------------------------------------------------


class Forks:
    """Launches cells as forks of one process that has loaded the libraries: none spends the seconds of an import of its own."""

    def __init__(self, track: str | None = None) -> None:
        self.track = track
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["lab.api", "peft", "transformers.models.bert.modeling_bert"])
        first = self.context.Process(target=int)  # does nothing: when it has ended the libraries are loaded
        _start(first)
        first.join()

    def __call__(self, run: Run) -> Worker:
        words = run.id, str(run.dir.parent.resolve()), registration.environment(), self.track
        process = self.context.Process(target=work, args=words)
        _start(process)
        return Fork(process)


def _start(process: BaseProcess) -> None:
    """Start a process that does not run the caller's script once more, as `multiprocessing` would for the names in it."""
    script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = script


class Fork:
    """The process of a cell, as a scheduler sees it."""

    def __init__(self, process: BaseProcess):
        self.process, self.pid = process, process.pid or 0

    def poll(self) -> int | None:
        return self.process.exitcode


def work(id: str, folder: str, environment: dict[str, str], track: str | None = None) -> None:
    """Train a cell, or go on with it, in this process; the result is in its folder. Ends, resumable, with the grid's process."""
    os.environ.update(environment)  # the process this one is forked from has that of its start
    run = Run(Path(folder) / id)
    with open(run.dir / "log.txt", "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    try:
        runner.resume(id, folder, progress=False, track=track)
    except (Stopped, KeyboardInterrupt):
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        if run.status == "queued":  # it failed before the run began
            update_info(
                run, status="failed", error=str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
            )
        sys.exit(1)


def _end_with(parent: Any) -> None:
    """Ask this process to stop when its parent is gone, however that ended."""
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
