"""`lab route`."""

from typing import Annotated

import typer

from lab.cli import completion
from lab.cli.options import (
    DryRun,
    Json,
    LabelColumn,
    PairColumn,
    Runs,
    Section,
    TargetsColumn,
    TaskColumn,
    TextColumn,
    Track,
    command,
    quiet,
)
from lab.cli.run import Changes, Option, folder_of_data, joined, preview, say_saved, training
from lab.core.errors import LabError


@command(Section.TRAIN)
def route(
    expert: Annotated[
        list[str], typer.Option(metavar="TASK=ADAPTER", help="a task and its adapter: a folder, RUN/EXPERT, or a hub id")
    ],
    examples: Annotated[
        str,
        typer.Option(
            help="a few labelled examples of each of these tasks: a stream, a folder, a table, or hf:OWNER/NAME",
            autocompletion=completion.names("streams"),
        ),
    ],
    changes: Changes = None,
    option: Option = None,
    router: Annotated[
        str | None,
        typer.Option(
            help="a router (lab list routers), or a recipe that has one; default: l2r", autocompletion=completion.names("routers")
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="recipe for memory and training of the router; default: l2r", autocompletion=completion.recipes),
    ] = None,
    task_column: TaskColumn = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    targets_column: TargetsColumn = None,
    backbone: Annotated[
        str | None, typer.Option(help="default: the one that the adapters belong to", autocompletion=completion.backbones)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="seed of every use of chance")] = None,
    runs: Runs = None,
    id: Annotated[str | None, typer.Option(help="name of the run's folder (default: time, recipe, stream, seed)")] = None,
    track: Track = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Route ready adapters without training them: lab route --expert TASK=FOLDER --expert TASK=OWNER/NAME --examples STREAM"""
    from lab import api
    from lab.data.saved_stream import named
    from lab.data.sources import Columns

    experts, options = by_task(expert), joined(changes, option)
    settings = {name: value for name, value in {"backbone": backbone, "seed": seed}.items() if value is not None}
    with folder_of_data(examples, runs, dry_run) as streams:
        stream = named(examples, streams, Columns(text_column, pair_column, label_column, targets_column, task_column))
        if dry_run:
            from lab.training.ready_adapters import configuration

            preview(configuration(experts, stream, router, recipe, options, runs, **settings), runs, streams, id, as_json)
            return
    say_saved(examples, stream)
    how = {"runs": runs, "id": id, "progress": not quiet(), "track": track}
    training(lambda: api.route(experts, stream, router, recipe, options, **how, **settings), as_json)


def by_task(words: list[str]) -> dict[str, str]:
    """Adapters by task from TASK=ADAPTER. Raises LabError for other words, and for a task that is named twice."""
    experts: dict[str, str] = {}
    for word in words:
        task, equals, adapter = word.partition("=")
        if not (task and equals and adapter):
            raise LabError(f"--expert {word}: write TASK=ADAPTER, for example --expert tickets=adapters/tickets")
        if task in experts:
            raise LabError(f"--expert names '{task}' twice, {experts[task]} and {adapter}: an expert has one adapter")
        experts[task] = adapter
    return experts
