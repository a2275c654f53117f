"""`lab run`, `lab resume`, `lab stop`."""

import shlex
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from lab.cli.options import Json, LabelColumn, PairColumn, Runs, Section, TargetsColumn, TaskColumn, TextColumn, command
from lab.cli.output import print_result, show_json
from lab.core.errors import LabError, RunFailed
from lab.run_folder.run import Run, located


@command(Section.TRAIN)
def run(
    recipe: Annotated[str, typer.Argument(help="a shipped recipe (lab list recipes) or a YAML file")],
    option: Annotated[
        list[str] | None, typer.Option("-o", help="any option, for example -o train.lr=0.001 -o stream.tasks=[agnews,dbpedia]")
    ] = None,
    stream: Annotated[
        str | None, typer.Option(help="name of a stream, folder of task folders, table (csv, xlsx, ...), or hf:OWNER/NAME")
    ] = None,
    task_column: TaskColumn = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    targets_column: TargetsColumn = None,
    backbone: Annotated[str | None, typer.Option(help="minilm, tiny, strings, a hub id, or a folder")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of every use of chance")] = None,
    runs: Runs = None,
    id: Annotated[str | None, typer.Option(help="name of the run's folder (default: time, recipe, stream, seed)")] = None,
    as_json: Json = False,
) -> None:
    """Train and evaluate a recipe on a stream: lab run l2r --stream builtin"""
    from lab import api
    from lab.data.saved_stream import named
    from lab.data.sources import Columns

    columns = Columns(text_column, pair_column, label_column, targets_column, task_column)
    settings = {"stream": named(stream, runs, columns), "backbone": backbone, "seed": seed}
    chosen = {name: value for name, value in settings.items() if value is not None}
    training(lambda: api.run(recipe, option or [], runs=runs, id=id, **chosen), as_json)


@command(Section.TRAIN)
def resume(
    run: Annotated[str, typer.Argument(help="id of the run or its folder")],
    option: Annotated[
        list[str] | None, typer.Option("-o", help="an option that changes from here on, for example -o train.lr=0.001")
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="go on although settings, data, backbone or versions are not as they were")
    ] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Go on with a stopped, interrupted or killed run, or start a queued one: lab resume RUN"""
    from lab import api
    from lab.store.turns import safe_status

    if safe_status(Run(located(run, runs))) == "finished":
        print(f"run '{run}' is finished: nothing to do", file=sys.stderr)
    training(lambda: api.resume(run, runs, overrides=option or (), accept_changes=accept_changes), as_json)


@command(Section.TRAIN)
def stop(
    run: Annotated[str, typer.Argument(help="id of the run or its folder")],
    now: Annotated[bool, typer.Option("--now", help="at the next step instead of after the current task")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Stop a run so that it can be resumed: lab stop RUN"""
    from lab.jobs import jobs

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


def training(work: Callable[[], Run], as_json: bool) -> None:
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
        kind = "" if isinstance(error, RunFailed) else f"{type(error).__name__}: "
        print(f"lab: the run failed: {kind}{str(error).strip().splitlines()[0] if str(error).strip() else ''}", file=sys.stderr)
        raise typer.Exit(1) from error
    show_json(finished.result()) if as_json else print_result(finished)
