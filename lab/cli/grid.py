"""`lab grid`."""

import sys
from collections import deque
from contextlib import closing
from typing import Annotated

import typer

from lab.cli.options import DryRun, Json, Runs, Section, Track, command, quiet
from lab.cli.output import print_grid, print_grid_preview, show_json


@command(Section.TRAIN)
def grid(
    file: Annotated[str, typer.Argument(help="a grid file, or a shipped grid by its name")],
    processes: Annotated[int, typer.Option(min=1, max=512, help="cells that run at the same time")] = 1,
    look: Annotated[bool, typer.Option("--look", help="run nothing, show what is finished")] = False,
    dry_run: DryRun = False,
    runs: Runs = None,
    track: Track = None,
    as_json: Json = False,
) -> None:
    """Recipes x streams x orders x scenarios x seeds x swept options, compared: lab grid FILE"""
    from lab.comparison.grid_runner import Grid
    from lab.training.progress_line import follow_cells

    opened = Grid(file, runs, processes, track)
    if dry_run:
        answer = opened.preview()
        show_json(answer) if as_json else print_grid_preview(answer)
        return
    try:
        with closing(opened.work()) as steps:
            if not look:
                deque(steps, maxlen=0) if quiet() else follow_cells(steps)
    except KeyboardInterrupt:
        print("lab: interrupted; the same command goes on with it", file=sys.stderr)
        raise typer.Exit(1) from None
    show_json(opened.result()) if as_json else print_grid(opened.result())
    if look:
        print(
            f"lab: {len(opened.unfinished())} of the {len(opened.planned())} cells known so far are not finished", file=sys.stderr
        )
        return
    for id, reason in opened.unfinished().items():
        print(f"lab: cell {id} is not finished: {reason}", file=sys.stderr)
    if opened.unfinished():
        raise typer.Exit(1)
