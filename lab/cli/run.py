"""`lab run`, `lab resume`, `lab stop`."""

import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli import completion
from lab.cli.options import (
    DryRun,
    Json,
    LabelColumn,
    PairColumn,
    RunId,
    Runs,
    Section,
    TargetsColumn,
    TaskColumn,
    TextColumn,
    Track,
    command,
    quiet,
    verbose,
)
from lab.cli.output import print_preview, print_result, show_json
from lab.core.errors import LabError, RunFailed

if TYPE_CHECKING:
    from lab.config.schema import RunConfig
    from lab.run_folder.run import Run

Changes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE...",
        help="options, for example train.lr=0.001 stream.tasks=agnews,dbpedia",
        autocompletion=completion.assignments,
        show_default=False,
    ),
]
Option = Annotated[
    list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="the same", autocompletion=completion.assignments)
]


@command(Section.TRAIN)
def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help="a shipped recipe (lab list recipes) or a YAML file", autocompletion=completion.recipes
        ),
    ] = None,
    changes: Changes = None,
    option: Option = None,
    stream: Annotated[
        str | None,
        typer.Option(
            help="name of a stream, folder of task folders, table (csv, xlsx, ...), or hf:OWNER/NAME",
            autocompletion=completion.names("streams"),
        ),
    ] = None,
    task_column: TaskColumn = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    targets_column: TargetsColumn = None,
    backbone: Annotated[
        str | None, typer.Option(help="minilm, tiny, strings, a hub id, or a folder", autocompletion=completion.backbones)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="seed of every use of chance")] = None,
    runs: Runs = None,
    id: Annotated[str | None, typer.Option(help="name of the run's folder (default: time, recipe, stream, seed)")] = None,
    name: Annotated[str, typer.Option(help="what to call the run; lab rename changes it at any time")] = "",
    track: Track = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train and evaluate a recipe on a stream: lab run l2r --stream builtin"""
    if recipe is None:
        raise LabError("name a recipe, for example: lab run l2r --stream builtin; lab list recipes shows them")
    if "=" in recipe:
        raise LabError(f"'{recipe}' is an option: name a recipe before it, for example lab run l2r {shlex.quote(recipe)}")
    from lab.data.saved_stream import named
    from lab.data.sources import Columns
    from lab.run_folder.notes import checked_name

    settings = {"backbone": backbone, "seed": seed}
    chosen = {name: value for name, value in settings.items() if value is not None}
    options, name = joined(changes, option), checked_name(name)
    with folder_of_data(stream, runs, dry_run) as streams:
        columns = Columns(text_column, pair_column, label_column, targets_column, task_column)
        saved_stream = named(stream, streams, columns)
        chosen |= {"stream": saved_stream} if saved_stream else {}
        if dry_run:
            from lab.config.resolve import configure

            preview(configure(recipe, options, **chosen), runs, streams, id, as_json)
            return
    from lab import api

    say_saved(stream, saved_stream)
    how = {"id": id, "name": name, "progress": not quiet(), "track": track}
    training(lambda: api.run(recipe, options, runs=runs, **how, **chosen), as_json)


def say_saved(data: str | None, stream: str | None) -> None:
    """Say under which name data of one's own were saved."""
    if stream != data and not quiet():
        print(f"{data} is saved as the stream {stream}", file=sys.stderr)


@contextmanager
def folder_of_data(stream: str | None, runs: Path | None, dry_run: bool) -> Iterator[Path | None]:
    """Where data of one's own are saved as a stream: in the folder of runs; for a dry run in a folder that is removed again."""
    from lab.data.sources import is_source

    if dry_run and stream is not None and is_source(stream):
        with TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield runs


def joined(changes: list[str] | None, option: list[str] | None) -> list[str]:
    """Options from both places of a command line, between which there is no order; LabError for one that stands in both."""
    first, second = ({text.partition("=")[0] for text in texts or ()} for texts in (changes, option))
    if both := sorted(first & second):
        raise LabError(f"{both[0]} is given twice, with -o and without: leave one away")
    return [*(changes or ()), *(option or ())]


def preview(config: "RunConfig", runs: Path | None, streams: Path | None, id: str | None, as_json: bool) -> None:
    """Check everything that a run checks before it starts, and print what it would be."""
    from lab.run_folder.writer import refuse_id
    from lab.training import forecast

    refuse_id(id, runs)
    answer = forecast.preview(config, runs, streams)
    show_json(answer) if as_json else print_preview(answer)


@command(Section.TRAIN)
def resume(
    run: RunId,
    changes: Changes = None,
    option: Option = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="go on although settings, data, backbone or versions are not as they were")
    ] = False,
    runs: Runs = None,
    track: Track = None,
    as_json: Json = False,
) -> None:
    """Go on with a stopped, interrupted or killed run, or start a queued one: lab resume RUN"""
    from lab import api
    from lab.run_folder.run import Run, located
    from lab.store.turns import safe_status

    if safe_status(Run(located(run, runs))) == "finished" and not quiet():
        print(f"run '{run}' is finished: nothing to do", file=sys.stderr)
    options = joined(changes, option)
    how = {"progress": not quiet(), "overrides": options, "accept_changes": accept_changes, "track": track}
    training(lambda: api.resume(run, runs, **how), as_json)


@command(Section.TRAIN)
def stop(
    run: RunId,
    now: Annotated[bool, typer.Option("--now", help="at the next step instead of after the current task")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Stop a run so that it can be resumed: lab stop RUN"""
    from lab.jobs import jobs
    from lab.run_folder.run import Run

    opened = Run.open(run, runs)
    jobs.stop(opened, now)
    answer = {"run": run, "stop": "now" if now else "after the current task"}
    if as_json:
        show_json(answer)
    elif opened.status == "running":
        print(f"run '{run}' will stop {answer['stop']}")
    else:
        print(
            f"run '{run}' is {opened.status}; go on with: lab resume {run}{f' --runs {shlex.quote(str(runs))}' if runs else ''}"
        )


def training(work: "Callable[[], Run]", as_json: bool) -> None:
    """Call `work` and print the run it returns; exit code 1 and a line on stderr if the run failed or was stopped."""
    from lab.training.recorder import Stopped

    try:
        finished = work()
    except LabError:
        raise
    except (Stopped, KeyboardInterrupt) as stop:
        print(f"lab: {str(stop) or 'interrupted; lab list runs shows what can be resumed'}", file=sys.stderr)
        raise typer.Exit(1) from None
    except Exception as error:
        if verbose():
            traceback.print_exception(error)
        kind = "" if isinstance(error, RunFailed) else f"{type(error).__name__}: "
        print(f"lab: the run failed: {kind}{str(error).strip().splitlines()[0] if str(error).strip() else ''}", file=sys.stderr)
        raise typer.Exit(1) from error
    show_json(finished.result()) if as_json else print_result(finished)
