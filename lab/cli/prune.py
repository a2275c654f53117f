"""`lab prune`."""

from typing import Annotated

import typer

from lab.cli.options import Json, RunId, Runs, Section, command
from lab.cli.output import counted, print_pruning, show_json


@command(Section.USE)
def prune(
    run: RunId,
    share: Annotated[float, typer.Option(help="part of the routing's load that the kept experts carry, in (0, 1]")] = 0.9,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """The fewest experts that carry the load of a run, and its scores without the others: lab prune RUN --share 0.9"""
    from lab.analysis.pruning import pruned
    from lab.run_folder.run import Run

    with counted("evaluating task") as watch:
        answer = pruned(Run.open(run, runs), share, watch)
    show_json(answer) if as_json else print_pruning(answer)
