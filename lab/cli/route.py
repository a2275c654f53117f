"""`lab route`."""

from typing import Annotated

import typer

from lab.cli.options import Json, Runs, Section, command
from lab.cli.run import training
from lab.core.errors import LabError


@command(Section.TRAIN)
def route(
    expert: Annotated[
        list[str],
        typer.Option(metavar="TASK=ADAPTER", help="a task and its adapter: a folder, RUN/EXPERT, or a hub id"),
    ],
    examples: Annotated[str, typer.Option(help="stream with a few labelled examples of each of these tasks")],
    router: Annotated[
        str | None, typer.Option(help="a router (lab list routers), or a recipe that has one; default: l2r")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="recipe for memory and training of the router; default: l2r")] = None,
    option: Annotated[list[str] | None, typer.Option("-o", help="any option, for example -o router_training.steps=200")] = None,
    backbone: Annotated[str | None, typer.Option(help="default: the one that the adapters belong to")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of every use of chance")] = None,
    runs: Runs = None,
    id: Annotated[str | None, typer.Option(help="name of the run's folder (default: time, recipe, stream, seed)")] = None,
    as_json: Json = False,
) -> None:
    """Route ready adapters without training them: lab route --expert tickets=FOLDER --expert news=OWNER/NAME --examples STREAM"""
    from lab import api

    settings = {name: value for name, value in {"backbone": backbone, "seed": seed}.items() if value is not None}
    experts = named(expert)
    training(lambda: api.route(experts, examples, router, recipe, option or [], runs=runs, id=id, **settings), as_json)


def named(words: list[str]) -> dict[str, str]:
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
