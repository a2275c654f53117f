"""Grids: recipes x streams x scenarios x swept values x orders x seeds, one run per cell, and what can be said of them.

A cell is named by the content of its resolved configuration and is an ordinary run in the folder of runs, so nothing else has
to be remembered: a finished cell is not run again, by this grid or by another one that holds it too, and one that was left in
its middle is gone on with. Values are chosen by validation, at one seed and in one order, and then hold for all seeds and orders.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import filelock
import numpy as np
import yaml
from pydantic import Field, ValidationError, field_validator

from lab import files, registry, runs, sources, views
from lab.config import RunConfig, Section, configure
from lab.errors import LabError, unknown
from lab.loop import resolved
from lab.runs import Run
from lab.statistics import by_position, difference, interval
from lab.stream import limited

GRIDS = Path(__file__).parent / "grids"
TICK = 0.5  # seconds between two looks at the cells that run
TRIED = 8  # examples per split with which it is tried whether a cell can be set up
AXES = {"recipe": "recipes", "seed": "seeds", "scenario": "scenarios", "stream": "stream", "stream.name": "stream",
        "backbone": "backbone", "backbone.name": "backbone"}  # fmt: skip
TESTED = ("average_accuracy", "forgetting")  # what methods are compared by
TIMES = ("train_s", "eval_s", "reused_s", "peak_memory_bytes")  # of cost; measured, so never the same twice
TRANSIENT = ("running", "queued", "lost", "interrupted")  # a cell that will come to another end


# -- the file --------------------------------------------------------------------------------------------------------------


class RandomOrders(Section):
    random: int = Field(ge=1, le=1000, description="how many different random orders")
    seed: int = Field(0, ge=0, description="of the orders; the same for all streams, recipes and seeds")


class GridFile(Section):
    """What stands in a grid file."""

    about: str = Field("", description="what the grid is for, for people")
    recipes: list[str] = Field(min_length=1, description="shipped recipes, or YAML files beside the grid file")
    stream: str | None = Field(None, description="one stream")
    streams: list[str] = Field([], description="several streams")
    backbone: str | None = Field(None, description="minilm, tiny, a hub id or a folder; null: that of the recipe")
    scenarios: list[Literal["task", "domain", "class"]] = Field(["class"], min_length=1, description="scenarios")
    orders: list[list[str] | str] | RandomOrders = Field(
        [], description="lists of tasks, names of published orders, or {random: k}; empty: the order of the stream"
    )
    seeds: list[int] = Field([0], min_length=1, description="seeds")
    set: dict[str, Any] = Field({}, description="options that hold for all cells")
    sweep: dict[str, list[Any]] = Field({}, description="options and the values among which validation chooses, per method")
    sweep_seed: int | None = Field(None, ge=0, description="the seed of the sweep; null: the first of `seeds`")

    @field_validator("recipes", "streams", "scenarios", "orders", "seeds")
    @classmethod
    def _once(cls, given: Any) -> Any:
        """Nothing may be named twice."""
        for value in given if isinstance(given, list) else []:
            if given.count(value) > 1:
                raise ValueError(f"names {value!r} twice")
        return given

    def all_streams(self) -> list[str | None]:
        return [*self.streams] or [self.stream]


def read(file: str | Path) -> tuple[Path, GridFile]:
    """A grid file by its path, or a shipped one by its name; LabError says which field is wrong and what it may be."""
    path = Path(file) if str(file).endswith((".yaml", ".yml")) else GRIDS / f"{file}.yaml"
    if not path.is_file():
        shipped = [shipped.stem for shipped in GRIDS.glob("*.yaml")]
        raise unknown("grid", str(file), shipped) if path.parent == GRIDS else LabError(f"there is no grid file {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, reason = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error).split("\n")[0]
        raise LabError(f"grid {path.name}{f', line {mark.line + 1}' if mark else ''}: not valid YAML ({reason})") from error
    if not isinstance(content, dict):
        raise LabError(f"grid {path.name} must be a mapping with recipes, stream, seeds, ..., not {type(content).__name__}")
    try:
        grid = GridFile(**content)
    except ValidationError as error:
        raise LabError(f"grid {path.name}: {registry.explain(error, GridFile)}") from error
    _refuse(path, grid)
    return path, grid


def _refuse(path: Path, grid: GridFile) -> None:
    """What no cell could make up for."""
    where = f"grid {path.name}"
    if grid.stream and grid.streams:
        raise LabError(f"{where}: stream and streams exclude each other: write one of them")
    for name in (*grid.set, *grid.sweep):
        if name in AXES:
            raise LabError(f"{where}: '{name}' is an axis of its own: write {AXES[name]}: ... beside set and sweep")
        if name in grid.set and name in grid.sweep:
            raise LabError(f"{where}: '{name}' stands in set and in sweep: choose one")
        if name == "stream.tasks" and (name in grid.sweep or (isinstance(grid.orders, list) and grid.orders)):
            raise LabError(f"{where}: '{name}' and orders both say which tasks are learned: write orders alone")
    for name, values in grid.sweep.items():
        if not values:
            raise LabError(f"{where}: sweep.{name} is empty: write at least one value")


# -- cells -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One run of a grid, with its configuration resolved."""

    config: RunConfig
    values: dict[str, Any]  # of the swept options

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the resolved configuration, the first 64 bits."""
        content = self.config.model_dump(mode="json", exclude={"about", "scenarios"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def id(self) -> str:
        """Its run id."""
        return f"{runs.slug(self.config.recipe)}-{runs.slug(self.config.stream.name)}"[:50] + f"-s{self.config.seed}-{self.hash}"

    @property
    def key(self) -> tuple[int, tuple[str, ...]]:
        """Seed and order: what pairs the cells of two methods."""
        return self.config.seed, tuple(self.config.stream.tasks)


@dataclass(frozen=True)
class Candidate:
    """Values a method may be given: the cell they are judged by, and the cells of all seeds and orders."""

    values: dict[str, Any]
    trial: Cell
    finals: list[Cell]


@dataclass(frozen=True)
class Row:
    """What is compared: a recipe on a stream in a scenario, with the values it may be given."""

    recipe: str
    stream: str
    scenario: str
    candidates: list[Candidate]

    @property
    def peers(self) -> tuple[str, str]:
        """Rows may be compared where this is equal."""
        return self.stream, self.scenario


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
        self.folder, self.processes = runs.root(folder), processes
        spec = self.spec.model_dump(mode="json", exclude={"about"})
        name = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]
        self.manifest = self.folder / ".grids" / f"{runs.slug(self.path.stem)}-{name}.json"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        before = json.loads(self.manifest.read_text()) if self.manifest.is_file() else {}
        self.threads = before.get("threads") or max(1, cores // processes)  # as the first time, else it would be other cells
        self.finished: dict[str, Outcome] = {}  # looked at once; a finished run does not change
        self.problems: dict[str, list[str]] = {}
        self.rows = self._rows()
        self._give_up_on_problems()

    # -- making the cells ------------------------------------------------------------------------------------------

    def _rows(self) -> list[Row]:
        rows = []
        for recipe, stream, scenario in itertools.product(self.spec.recipes, self.spec.all_streams(), self.spec.scenarios):
            beside = self.path.parent / recipe
            found = str(beside) if recipe.endswith((".yaml", ".yml")) and beside.is_file() else recipe
            candidates = [self._candidate(found, stream, scenario, values) for values in self._combinations()]
            if all(candidates):
                config = candidates[0].trial.config
                rows.append(Row(config.recipe, config.stream.name, scenario, candidates))
                self._refuse_doubles(rows)
        return rows

    def _refuse_doubles(self, rows: list[Row]) -> None:
        """Names by which rows and values are told apart must differ."""
        new = rows[-1]
        if any((row.recipe, *row.peers) == (new.recipe, *new.peers) for row in rows[:-1]):
            self.problems.setdefault(f"two recipes are called '{new.recipe}': rename one of the files", []).append(new.stream)
        values = [candidate.values for candidate in new.candidates]
        for value in values:
            if values.count(value) > 1:
                named = ", ".join(f"{name}={given}" for name, given in value.items())
                self.problems.setdefault(f"sweep holds {named} twice", []).append(new.recipe)

    def _combinations(self) -> list[dict[str, Any]]:
        """Every combination of the swept values; every method gets all of them."""
        names = list(self.spec.sweep)
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*self.spec.sweep.values())]

    def _candidate(self, recipe: str, stream: str | None, scenario: str, values: dict[str, Any]) -> Candidate | None:
        """The cells of some values; None where there is a problem, which is noted."""
        spec, where = self.spec, f"{recipe}{f' on {stream}' if stream else ''}, scenario {scenario}"
        options = [f"{name}={json.dumps(value)}" for name, value in (spec.set | values).items()]
        named = {"stream": stream, "backbone": spec.backbone, "scenario": scenario}
        settings = {name: value for name, value in named.items() if value is not None}
        try:
            plain = configure(recipe, **settings)
            for name in (*spec.set, *values):
                parts = name.split(".")
                if parts[0] == "methods" and parts[1:2] and parts[1] not in plain.methods:
                    raise LabError(f"'{name}': the recipe has no method '{parts[1]}'; a recipe file of your own can add it")
            config = configure(recipe, options, **settings)
            given = {name: views.pick(config.to_dict(), name) for name in values}
            orders = self._orders(config)
            seed = spec.seeds[0] if spec.sweep_seed is None else spec.sweep_seed
            finals = [self._cell(config, order, seed, given) for order in orders for seed in spec.seeds]
            return Candidate(given, self._cell(config, orders[0], seed, given), finals)
        except LabError as error:
            self.problems.setdefault(str(error), []).append(where)
            return None

    def _orders(self, config: RunConfig) -> list[list[str]]:
        """The orders of the tasks of a stream."""
        stream = sources.open_stream(config.stream.name, config.stream.sources)
        usual, wanted = sources.task_order(stream, config.stream.tasks), self.spec.orders
        if isinstance(wanted, RandomOrders):
            if wanted.random > np.prod(range(1, len(usual) + 1), dtype=float):
                raise LabError(f"orders.random = {wanted.random}: {len(usual)} tasks have fewer orders than that")
            found: list[list[str]] = []
            for number in itertools.count():
                drawn = random.Random(f"{wanted.seed}/{number}").sample(sorted(usual), len(usual))
                found += [drawn] if drawn not in found else []
                if len(found) == wanted.random:
                    return found
        found = [sources.task_order(stream, order) for order in wanted] or [usual]
        for order in found:
            if found.count(order) > 1:
                raise LabError(f"orders hold {' > '.join(order)} twice")
        return found

    def _cell(self, config: RunConfig, order: list[str], seed: int, values: dict[str, Any]) -> Cell:
        made = resolved(config.model_copy(update={"seed": seed}), order)
        if not config.backbone.threads:
            backbone = made.backbone.model_copy(update={"threads": min(made.backbone.threads, self.threads)})
            made = made.model_copy(update={"backbone": backbone})
        return Cell(made, values)

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
        """Set up, with a few examples, one cell of each kind that is not finished; LabError lists all that cannot be.

        Data of cells that were begun must still be the same.
        """
        from lab.loop import Session

        data: dict[str, dict[str, Any]] = {}
        tried: set[str] = set()
        for cell in self.possible.values():
            stream, label = cell.config.stream, f"{cell.config.recipe} on {cell.config.stream.name}"
            try:
                source = json.dumps([stream.name, *stream.sources])
                if source not in data:
                    loaded = sources.load_tasks(stream.name, stream.sources, sorted(stream.tasks))
                    data[source] = {task.name: task for task in loaded}
                tasks = [data[source][name] for name in stream.tasks]
                run = Run(self.folder / cell.id)
                begun = (run.info if run.dir.is_dir() else {}).get("fingerprint", {}).get("tasks", {})
                limits = (stream.max_train, stream.max_validation, stream.max_test)
                changed = [task.name for task in tasks if task.name in begun
                           and begun[task.name] != limited(task, cell.config.seed, *limits).digest()]  # fmt: skip
                if changed:
                    raise LabError(f"the data of task '{changed[0]}' have changed since {run.id} was begun: remove that run")
                plain = cell.config.to_dict()
                for section in ("recipe", "about", "seed", "train", "memory_training", "checkpoint", "reuse"):
                    plain.pop(section)
                kind = json.dumps(plain | {"stream": [source, sorted(stream.tasks)]}, sort_keys=True)
                if kind not in tried:
                    tried.add(kind)
                    Session(cell.config, [limited(task, 0, TRIED, TRIED, TRIED) for task in tasks])
            except LabError as error:
                self.problems.setdefault(str(error), []).append(f"{label}, scenario {cell.config.scenario}")
        self._give_up_on_problems()

    def _give_up_on_problems(self) -> None:
        """One line for one problem, else one line each."""
        found = [f"{problem} ({', '.join(dict.fromkeys(where))})" for problem, where in self.problems.items()]
        if found:
            many = f"{len(found)} problems\n  " + "\n  ".join(found)
            raise LabError(f"grid {self.path.name}: {found[0] if len(found) == 1 else many}")

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
        found = Outcome("finished", "", float(np.mean(run.scores["validation"])), result)
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
            raise runs.unwritable(self.folder, error) from error
        for step in self._run(self.trials):
            yield step._replace(total=total)
        self._write_manifest()
        for step in self._run([cell for cell in self.planned() if cell.hash not in trials]):
            yield step._replace(total=total, done=len(trials) + step.done)
        self._write_manifest()

    def _run(self, cells: Sequence[Cell]) -> Iterator[Progress]:
        """Run cells, each in a process of its own, `processes` at a time."""
        context = multiprocessing.get_context("forkserver")  # one process that has loaded the libraries forks all others
        context.set_forkserver_preload(["lab.api", "peft", "transformers.models.bert.modeling_bert"])
        waiting = deque(cell for cell in cells if self.outcome(cell).status not in ("finished", "damaged"))
        active: dict[Any, tuple[Any, Cell]] = {}
        done, ended = len(cells) - len(waiting), list[str]()
        try:
            while waiting or active:
                for _ in range(len(waiting)):
                    if len(active) < self.processes:
                        cell = waiting.popleft()
                        if not self._ready(cell):
                            waiting.append(cell)  # somebody else works on it: look again later
                            continue
                        process = context.Process(target=work, args=(cell.id, str(self.folder.resolve()), dict(os.environ)))
                        process.start()
                        active[process.sentinel] = process, cell
                if not connection.wait(active, TICK) and not active:
                    time.sleep(TICK)
                for sentinel in [sentinel for sentinel, (process, _) in active.items() if not process.is_alive()]:
                    process, cell = active.pop(sentinel)
                    process.join()
                    if self._concluded(cell, process.exitcode):
                        done, ended = done + 1, [*ended, self._said(cell)]
                    else:
                        waiting.append(cell)
                yield Progress(done, len(cells), {cell.id: self._share(cell) for _, cell in active.values()}, ended)
                ended = []
        finally:
            for process, _ in active.values():
                process.terminate()  # as Ctrl-C does: the state is saved
            for process, _ in active.values():
                process.join()

    def _ready(self, cell: Cell) -> bool:
        """Whether nobody works on the cell; its folder is made if there is none."""
        folder = self.folder / cell.id
        with filelock.FileLock(self.folder / ".grids" / ".lock"):
            if folder.is_dir() and not (folder / "run.json").is_file():
                runs.remove(folder)  # its maker was killed
            if not folder.is_dir():
                Run.create(cell.config.to_dict(), self.folder, cell.id)
        return Run(folder).status != "running"

    def _concluded(self, cell: Cell, code: int) -> bool:
        """Whether the cell came to an end with its process, which is noted if it could not say so itself."""
        run = Run(self.folder / cell.id)
        status = run.status
        if status in ("queued", "lost"):
            reason = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
            run.update(status="failed", error=run.info.get("error") or f"its process ended with {reason}", ended=runs.now())
        return status != "running"  # another grid was faster

    def _said(self, cell: Cell) -> str:
        """One line about a cell that ended."""
        found = self.outcome(cell)
        if found.result is None or found.status != "finished":
            return f"{cell.id}: {found.status}: {found.why}"
        return f"{cell.id}: average {found.result['average_accuracy']:.3f}, on validation {found.validation:.3f}"

    def _share(self, cell: Cell) -> float:
        """Share of the cell's work that is done, from its newest event."""
        newest = views.recent_events(Run(self.folder / cell.id))
        return float(newest[-1].get("progress", 0.0)) if newest else 0.0

    def _write_manifest(self) -> None:
        """What the grid is made of and what was chosen so far."""
        cells = [{"cell": cell.hash, "run": cell.id, "recipe": cell.config.recipe, "stream": cell.config.stream.name,
                  "scenario": cell.config.scenario, "order": cell.config.stream.tasks, "seed": cell.config.seed,
                  "values": cell.values} for cell in self.planned()]  # fmt: skip
        chosen = [{"recipe": row.recipe, "stream": row.stream, "scenario": row.scenario, **self.selection(row)}
                  for row in self.rows]  # fmt: skip
        content = {"grid": self.spec.model_dump(mode="json"), "threads": self.threads, "cells": cells, "selection": chosen}
        files.write_json(self.manifest, content)

    # -- what came of it -------------------------------------------------------------------------------------------

    def selection(self, row: Row) -> dict[str, Any]:
        """Values, their validation scores, and which were chosen: the best score, the first of equals; None while unknown."""
        outcomes = [(option, self.outcome(option.trial)) for option in row.candidates]
        tried = [{"values": option.values, "cell": option.trial.hash, "validation": found.validation, "why": found.why}
                 for option, found in outcomes]  # fmt: skip
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
        for measure in views.MEASURES:
            if measure.path.removeprefix("cost.") not in TIMES:
                known = [views.pick(value, measure.path) for value in values]
                if not known or None in known:
                    reason = views.reason(values[known.index(None)], measure.path) if known else "no cell is finished"
                    made[measure.path] = {"n": 0, "mean": None, "why": reason}
                else:
                    made[measure.path] = known[0] if isinstance(known[0], bool) else asdict(interval(known))
        last = [dict(zip(value["tasks"], value["matrix"][-1], strict=True)) for value in values]
        made["by_position"] = [asdict(entry) for entry in by_position(last)]
        return made | {"failed": failed}

    def _differences(self, of_row: list[dict[Any, dict[str, Any]]]) -> list[dict[str, Any]]:
        """Every pair of methods that met the same stream and scenario, first minus second."""
        found = []
        for (one, first), (other, second) in itertools.combinations(zip(self.rows, of_row, strict=True), 2):
            for measure in TESTED if one.peers == other.peers else ():
                a, b = ({key: result[measure] for key, result in results.items() if result[measure] is not None}
                        for results in (first, second))  # fmt: skip
                place = {"stream": one.stream, "scenario": one.scenario, "first": one.recipe, "second": other.recipe}
                found.append(place | {"measure": measure, **asdict(difference(a, b))})
        return found

    def _times(self, of_row: list[dict[Any, dict[str, Any]]], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Seconds per method, and what reuse saved: of all cells, and of those that took experts from the store."""
        rows = [{"recipe": row.recipe, "stream": row.stream, "scenario": row.scenario,
                 **{name: float(np.mean([value["cost"][name] for value in results.values()])) if results else None
                    for name in TIMES}} for row, results in zip(self.rows, of_row, strict=True)]  # fmt: skip
        costs = [entry["cost"] for entry in found.values()]
        return {"rows": rows, "reuse": saved(costs), "reuse_where_taken": saved([c for c in costs if c["reused_s"]])}


def saved(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of training and evaluation that some runs would have taken and took, the share saved, and the factor."""
    whole = sum(cost["train_s"] + cost["eval_s"] for cost in costs)
    reused = sum(cost["reused_s"] for cost in costs)
    known = whole > reused
    return {"cells": len(costs), "without_reuse_s": round(whole, 3), "with_reuse_s": round(whole - reused, 3),
            "share_saved": reused / whole if known else None, "factor": whole / (whole - reused) if known else None}  # fmt: skip


# -- the process of a cell -------------------------------------------------------------------------------------------------


def work(id: str, folder: str, environment: dict[str, str]) -> None:
    """Run or go on with a cell in this process; what happens stands in its folder. Ends, resumable, with the grid's process."""
    from lab import api
    from lab.record import Stopped

    os.environ.update(environment)  # the process this one is forked from has that of its start
    run = Run(Path(folder) / id)
    with open(run.dir / "log.txt", "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    try:
        api.resume(id, folder, progress=False)
    except (Stopped, KeyboardInterrupt):
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        if run.status not in ("running", "failed"):  # it did not come to begin
            run.update(status="failed", error=str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}")
        sys.exit(1)


def _end_with(parent: Any) -> None:
    """Ask this process to stop when its parent is gone, however that ended."""
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
