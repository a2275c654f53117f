"""What notebooks and the command line call: run, route, train, resume, compare, runs."""

import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.resolve import Overrides, configure
from lab.config.schema import RunConfig
from lab.core.errors import LabError
from lab.data.saved_stream import named
from lab.run_folder import events
from lab.run_folder.notes import checked_name
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run
from lab.tracking.base import tracker
from lab.training.progress_line import preparing
from lab.training.ready_adapters import configuration
from lab.training.runner import resume, session, watched  # noqa: F401 (resume is public)

if TYPE_CHECKING:
    from lab.comparison.grid_view import GridResult
    from lab.comparison.side_by_side import Comparison
    from lab.views.run_list import RunList

Choice = str | list[str] | None  # a name, or several; None: any


def train(config: RunConfig | str, **settings: Any) -> Iterator[events.Event]:
    """Events of a run that leaves no folder behind: `for event in lab.train("l2r", stream="builtin")`."""
    yield from session(_configured(config, (), settings), keep=False).train()


def run(
    recipe: str | RunConfig,
    overrides: Overrides | None = None,
    *,
    runs: str | Path | None = None,
    id: str | None = None,
    name: str = "",
    progress: bool = True,
    track: str | None = None,
    **settings: Any,
) -> Run:
    """Train and evaluate a recipe, and return the finished run.

    `overrides` are options by their dotted name, `{"train.lr": 1e-3, "stream.max_train": None}`, or `key=value` texts as on the
    command line; `settings` are fields of the configuration
    (`stream="builtin", backbone="minilm", seed=0`). `stream` also takes what `lab.stream` returns, a file, or "hf:OWNER/NAME",
    which is saved among the runs first. `name`: what to call the run. `track`: a tool that follows the run, mlflow, tensorboard,
    trackio or wandb (default: $LAB_TRACK, else none). Everything is checked before the run's folder is made; raises LabError.
    """
    tool, name = tracker(track), checked_name(name)
    if "stream" in settings:
        settings["stream"] = named(settings["stream"], runs)
    config = _configured(recipe, overrides or (), settings)
    with preparing(progress) as tell:
        prepared = session(config, runs, tell=tell)
    return watched(create_run(prepared.config.to_dict(), runs, id, name=name), prepared, progress, tool=tool)


def route(
    experts: Mapping[str, str | Path],
    examples: Any,
    router: str | None = None,
    recipe: str | None = None,
    overrides: Overrides | None = None,
    *,
    runs: str | Path | None = None,
    id: str | None = None,
    progress: bool = True,
    track: str | None = None,
    **settings: Any,
) -> Run:
    """Route saved adapters, which stay as they are, and return the finished run; see `ready_adapters.configuration`.

    `experts` are adapters by task (folders, RUN/EXPERT, hub ids), `examples` a stream with labelled examples of these tasks, as
    `stream` for `run`, which says what the rest is.
    """
    config = configuration(experts, named(examples, runs), router, recipe, overrides or (), runs, **settings)
    return run(config, runs=runs, id=id, progress=progress, track=track)


def _configured(recipe: str | RunConfig, overrides: Overrides, settings: dict[str, Any]) -> RunConfig:
    """The configuration of a recipe with its changes; a complete one stays, and changes to it are a LabError."""
    if isinstance(recipe, str):
        return configure(recipe, overrides, **settings)
    if overrides or settings:
        raise LabError(
            f"this configuration is complete, {', '.join(map(str, [*overrides, *settings]))} would be ignored: "
            "give changes to lab.configure, or name a recipe here"
        )
    return recipe


def compare(*runs_or_ids: Run | str, runs: str | Path | None = None) -> "Comparison":
    """Runs side by side: metrics, routing, uses and cost; runs are given as such or by their ids in the folder `runs`.

    A run that cannot be compared is left out with a warning that says why; LabError if none is left.
    """
    from lab.comparison.side_by_side import Comparison
    from lab.views import comparable

    if not runs_or_ids:
        raise LabError("name at least one run to compare")
    opened = [run if isinstance(run, Run) else Run.open(run, runs) for run in dict.fromkeys(runs_or_ids)]
    compared, excluded = comparable(opened)
    if not compared:
        raise LabError(f"there is nothing to compare: {'; '.join(excluded.values())}")
    for reason in excluded.values():
        warnings.warn(f"left out: {reason}", stacklevel=2)
    return Comparison(compared)


def runs(
    runs: str | Path | None = None,
    *,
    recipe: Choice = None,
    stream: Choice = None,
    backbone: Choice = None,
    scenario: Choice = None,
    seed: int | list[int] | None = None,
    status: Choice = None,
) -> "RunList":
    """The runs in a folder (default: $LAB_RUNS, else ./runs), oldest first, as a sequence that shows itself as a table.

    Those of one recipe, stream, ..., or of one of several: `lab.runs(recipe="l2r", status=["finished", "stopped"])`.
    `lab.runs()[-1]` is the newest, `lab.runs()["id"]` one by its id, `lab.runs().table()` a DataFrame with one row per run.
    LabError for a status that there is not.
    """
    from lab.store import index
    from lab.views.run_list import RunList

    wanted = {"recipe": recipe, "stream": stream, "backbone": backbone, "scenario": scenario, "seed": seed, "status": status}
    return RunList(index.runs(runs)).where(**wanted)


def grid(
    fields: str | Path | Mapping[str, Any],
    *,
    runs: str | Path | None = None,
    processes: int = 1,
    progress: bool = True,
    track: str | None = None,
) -> "GridResult":
    """Run the missing cells of a grid, `processes` at a time, and return its cells and table.

    `fields` are those of a grid file (`{"recipes": ["l2r", "uniform"], "stream": "builtin", "seeds": [0, 1, 2]}`, see README), or
    a file, or the name of a shipped one. However it ended before, the same call goes on with it, and what is finished is only
    read. A cell that fails does not stop the others: `unfinished` says why. `track`: a tool that follows each, as for `run`.
    Raises LabError with every problem of every cell.
    """
    from lab.comparison.grid_runner import Grid
    from lab.comparison.grid_view import GridResult
    from lab.training.progress_line import follow_cells

    if isinstance(fields, Mapping):
        streams = {name: fields[name] for name in ("stream", "streams") if fields.get(name)}
        of_streams = {name: [named(s, runs) for s in v] if name == "streams" else named(v, runs) for name, v in streams.items()}
        fields = {**fields, **of_streams}
    opened = Grid(fields, runs, processes, track)
    with closing(opened.work()) as steps:
        follow_cells(steps) if progress else deque(steps, maxlen=0)
    return GridResult(opened)


def sweep(
    recipe: str,
    values: Mapping[str, list[Any]],
    overrides: Mapping[str, Any] | None = None,
    *,
    runs: str | Path | None = None,
    processes: int = 1,
    progress: bool = True,
    track: str | None = None,
    **fields: Any,
) -> "GridResult":
    """Try every combination of values of some options, and choose the best by the mean score on validation examples.

    `lab.sweep("l2r", {"train.lr": [3e-4, 1e-3]}, stream="builtin", seeds=[0, 1])`: a grid of one recipe. The values are tried at
    one seed, the chosen ones then hold for all `seeds`. `fields` are further ones of a grid file (stream, backbone, orders, ...),
    `overrides` options by dotted name that hold for all cells. The result has `chosen`, `sweep`, and all of `lab.grid`.
    """
    of_grid = {"recipes": [recipe], "sweep": {**values}, "set": {**(overrides or {})}, **fields}
    return grid(of_grid, runs=runs, processes=processes, progress=progress, track=track)
