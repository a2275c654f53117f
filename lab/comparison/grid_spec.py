"""The cells of a grid file: recipes x streams x scenarios x swept values x orders x seeds, each with its configuration resolved.

A cell is named by the content of that configuration, so that it is the same cell in every grid that holds it.
"""

import itertools
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from lab import views
from lab.config.fingerprint import address, differing
from lab.config.former_names import current_paths
from lab.config.resolve import configure, read_recipe
from lab.config.schema import RunConfig, Section
from lab.core.documents import read_yaml
from lab.core.errors import LabError, unknown
from lab.core.option_errors import explain
from lab.data import loading
from lab.run_folder.run import slug
from lab.training.trainer import resolved

SHOWN = 3  # places of one problem that are named
GRIDS = Path(__file__).parent / "grids"
AXES = {
    "recipe": "recipes",
    "seed": "seeds",
    "scenario": "scenarios",
    "stream": "stream",
    "stream.name": "stream",
    "backbone": "backbone",
    "backbone.name": "backbone",
}


class Problems(dict[str, list[str]]):
    """Each problem of a grid, with the cells that have it; collected, so that one message lists them all."""

    def note(self, problem: LabError | str, where: str) -> None:
        """Add a problem of the cells `where`."""
        self.setdefault(str(problem), []).append(where)

    def refuse(self, grid: str) -> None:
        """LabError if there are problems: one line for one, else one line each."""
        lines = [f"{problem} ({_places([*dict.fromkeys(where)])})" for problem, where in self.items()]
        if lines:
            many = f"{len(lines)} problems\n  " + "\n  ".join(lines)
            raise LabError(f"grid {grid}: {lines[0] if len(lines) == 1 else many}")


def _places(where: Sequence[str]) -> str:
    """The first places, and how many more there are."""
    more = f" and {len(where) - SHOWN} more" if len(where) > SHOWN else ""
    return ", ".join(where[:SHOWN]) + more


# -- the file --------------------------------------------------------------------------------------------------------------


Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]  # as in a run


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
    seeds: list[Seed] = Field([0], min_length=1, description="seeds")
    set: dict[str, Any] = Field({}, description="options that hold for all cells")
    sweep: dict[str, list[Any]] = Field(
        {}, description="options and the values among which validation chooses, per method; x0.5 means half of the recipe's own"
    )
    sweep_seed: Seed | None = Field(None, description="the seed of the sweep; null: the first of `seeds`")

    @field_validator("set", "sweep", mode="before")
    @classmethod
    def _present_names(cls, value: Any) -> Any:
        """Options may be written with their former names."""
        return current_paths(value) if isinstance(value, dict) else value

    @field_validator("recipes", "streams", "scenarios", "orders", "seeds")
    @classmethod
    def _once(cls, value: Any) -> Any:
        """No entry may be written twice."""
        for entry in value if isinstance(value, list) else []:
            if value.count(entry) > 1:
                raise ValueError(f"names {entry!r} twice")
        return value

    def all_streams(self) -> list[str | None]:
        """The streams of the grid; None stands for the recipe's own."""
        return [*self.streams] or [self.stream]

    def combinations(self) -> list[dict[str, Any]]:
        """Every combination of the swept values; every method gets all of them."""
        return [dict(zip(self.sweep, values, strict=True)) for values in itertools.product(*self.sweep.values())]

    @property
    def first_seed(self) -> int:
        """The seed of the sweep."""
        return self.seeds[0] if self.sweep_seed is None else self.sweep_seed


def read(file: str | Path | Mapping[str, Any]) -> tuple[Path, GridFile]:
    """A grid file by its path, a shipped one by its name, or the fields of one; LabError says which field is wrong and what it
    may be."""
    if isinstance(file, Mapping):
        return _checked(Path("from-python"), dict(file))
    path = Path(file) if str(file).endswith((".yaml", ".yml")) else GRIDS / f"{file}.yaml"
    if path.parent == GRIDS and path.stem not in (shipped := [shipped.stem for shipped in GRIDS.glob("*.yaml")]):
        raise unknown("grid", str(file), shipped)
    content = read_yaml(path, f"grid {path.name}")
    if not isinstance(content, dict):
        raise LabError(f"grid {path.name} must be a mapping with recipes, stream, seeds, ..., not {type(content).__name__}")
    return _checked(path, content)


def _checked(path: Path, content: dict[str, Any]) -> tuple[Path, GridFile]:
    """The grid that a file holds."""
    try:
        grid = GridFile(**content)
    except ValidationError as error:
        raise LabError(f"grid {path.name}: {explain(error, GridFile)}") from error
    _refuse(path, grid)
    return path, grid


def _refuse(path: Path, grid: GridFile) -> None:
    """LabError for entries that contradict each other, whatever the cells are."""
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
        """The first 64 bits of the address of the resolved configuration, texts for people left out."""
        content = {name: value for name, value in differing(self.config).items() if name not in ("about", "scenarios")}
        own = self.config.own_digests()
        return address(content | ({"plugins": own} if own else {}))[:16]

    @cached_property
    def id(self) -> str:
        """Its run id."""
        return f"{slug(self.config.recipe)}-{slug(self.config.stream.name)}"[:50] + f"-s{self.config.seed}-{self.hash}"

    @property
    def key(self) -> tuple[int, tuple[str, ...]]:
        """Seed and order: what pairs the cells of two methods."""
        return self.config.seed, tuple(self.config.stream.tasks or ())


@dataclass(frozen=True)
class Candidate:
    """Values a method may be given: the cell they are judged by, and the cells of all seeds and orders."""

    values: dict[str, Any]
    trial: Cell
    finals: list[Cell]


@dataclass(frozen=True)
class Row:
    """A row of the table: a recipe on a stream in a scenario, with the values among which validation chooses."""

    recipe: str
    stream: str
    scenario: str
    candidates: list[Candidate]

    @property
    def peers(self) -> tuple[str, str]:
        """Rows may be compared where this is equal."""
        return self.stream, self.scenario


# -- from the file to the cells --------------------------------------------------------------------------------------------


def make_rows(path: Path, grid: GridFile, threads: int, folder: Path | None) -> list[Row]:
    """All rows of a grid file with all their cells; LabError lists every problem of every cell.

    `threads`: CPU threads of a cell where its configuration leaves them to the machine, at most. `folder`: of the runs whose
    experts cells may begin with, and of saved streams.
    """
    rows, problems = [], Problems()
    for recipe, stream, scenario in itertools.product(grid.recipes, grid.all_streams(), grid.scenarios):
        beside = path.parent / recipe
        source = str(beside) if recipe.endswith((".yaml", ".yml")) and beside.is_file() else recipe
        candidates: list[Candidate] = []
        for values in grid.combinations():
            try:
                candidates.append(_candidate(grid, source, stream, scenario, values, threads, folder))
            except LabError as error:
                problems.note(error, f"{recipe}{f' on {stream}' if stream else ''}, scenario {scenario}")
        if len(candidates) == len(grid.combinations()):
            config = candidates[0].trial.config
            rows.append(Row(config.recipe, config.stream.name, scenario, candidates))
    _refuse_doubles(rows, problems)
    problems.refuse(path.name)
    return rows


def _candidate(
    grid: GridFile, recipe: str, stream: str | None, scenario: str, values: dict[str, Any], threads: int, folder: Path | None
) -> Candidate:
    """The cells of some swept values."""
    own = read_recipe(recipe).get("methods") or {}
    for name in (*grid.set, *values):
        section, _, method = name.partition(".")
        if section == "methods" and method and method.split(".")[0] not in own:
            raise LabError(f"'{name}': the recipe has no method '{method.split('.')[0]}'; a recipe file of your own can add it")
    axes = {"stream": stream, "backbone": grid.backbone, "scenario": scenario}
    axes = {name: value for name, value in axes.items() if value is not None}
    fixed = [f"{name}={json.dumps(value)}" for name, value in grid.set.items()]
    usual = configure(recipe, fixed, **axes).to_dict() if any(map(_factor, values.values())) else {}
    values = {
        name: _multiplied(views.pick(usual, name), factor, name) if (factor := _factor(value)) else value
        for name, value in values.items()
    }
    config = configure(recipe, [*fixed, *(f"{name}={json.dumps(value)}" for name, value in values.items())], **axes)
    resolved_values = {name: views.pick(config.to_dict(), name) for name in values}
    orders = _orders(grid, config, folder)
    finals = [_cell(config, order, seed, resolved_values, threads, folder) for order in orders for seed in grid.seeds]
    return Candidate(resolved_values, _cell(config, orders[0], grid.first_seed, resolved_values, threads, folder), finals)


def _factor(value: Any) -> float | None:
    """The number in a swept value like x0.5."""
    match = re.fullmatch(r"x(\d+\.?\d*)", value) if isinstance(value, str) else None
    return float(match[1]) if match else None


def _multiplied(usual: Any, factor: float, name: str) -> float:
    """The recipe's own value of an option times a factor, to twelve digits, so that 3 * 0.1 is called 0.3."""
    if isinstance(usual, bool) or not isinstance(usual, int | float):
        raise LabError(f"sweep.{name}: x{factor:g} is a multiple of the recipe's own value, which is {usual!r}: write values")
    return float(f"{usual * factor:.12g}")


def _orders(grid: GridFile, config: RunConfig, folder: Path | None) -> list[list[str]]:
    """The orders in which the cells learn the tasks of a stream; LabError if they are equal or hold different tasks."""
    stream = loading.open_stream(config.stream.name, config.stream.sources, folder)
    usual, wanted = loading.task_order(stream, config.stream.tasks), grid.orders
    if isinstance(wanted, RandomOrders):
        if wanted.random > math.factorial(len(usual)):
            raise LabError(f"orders.random = {wanted.random}: {len(usual)} tasks have fewer orders than that")
        distinct: list[list[str]] = []
        for number in itertools.count():
            order = random.Random(f"{wanted.seed}/{number}").sample(sorted(usual), len(usual))
            distinct += [order] if order not in distinct else []
            if len(distinct) == wanted.random:
                return distinct
    orders = [loading.task_order(stream, order) for order in wanted] or [usual]
    for order in orders:
        if orders.count(order) > 1:
            raise LabError(f"orders hold {' > '.join(order)} twice")
        if sorted(order) != sorted(orders[0]):
            raise LabError(f"orders are to hold the same tasks: {' > '.join(orders[0])} and {' > '.join(order)} do not")
    return orders


def _cell(config: RunConfig, order: list[str], seed: int, values: dict[str, Any], threads: int, folder: Path | None) -> Cell:
    """The cell of one order and seed; threads that its configuration leaves to the machine are at most `threads`."""
    config_of_cell = resolved(config.model_copy(update={"seed": seed}), order, folder)
    if not config.backbone.threads:
        backbone = config_of_cell.backbone
        backbone = backbone.model_copy(update={"threads": min(backbone.threads, threads)})
        config_of_cell = config_of_cell.model_copy(update={"backbone": backbone})
    return Cell(config_of_cell, values)


def _refuse_doubles(rows: Sequence[Row], problems: Problems) -> None:
    """Names by which rows and values are told apart must differ."""
    names = [(row.recipe, *row.peers) for row in rows]
    for row in rows:
        if names.count((row.recipe, *row.peers)) > 1:
            problems.note(f"two recipes are called '{row.recipe}': rename one of the files", row.stream)
        values = [candidate.values for candidate in row.candidates]
        for value in values:
            if values.count(value) > 1:
                problems.note(
                    f"sweep holds {', '.join(f'{name}={setting}' for name, setting in value.items())} twice", row.recipe
                )
