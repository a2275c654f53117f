"""`lab check-plugin`."""

from typing import Annotated

import typer

from lab.cli.options import Json, Section, command
from lab.cli.output import show_json

NEXT = "; what else a plug-in must do is tried once its fault is mended"


@command(Section.KEEP)
def check_plugin(
    target: Annotated[str, typer.Argument(metavar="FILE", help="a Python file, a recipe, a folder, or package.module:Class")],
    as_json: Json = False,
) -> None:
    """Try whether plug-ins do what their contracts ask for: lab check-plugin mine.py"""
    from lab.contracts.plugin_files import outcomes

    rows, failed = [], 0
    for outcome in outcomes(target):
        failed += bool(outcome.problem)
        rows.append(outcome._asdict())
        if not as_json:
            mark = "FAILED" if outcome.problem else "ok    "
            print(f"{mark} {outcome.kind} {outcome.name}: {outcome.check}{f': {outcome.problem}' if outcome.problem else ''}")
    if as_json:
        show_json(rows)
    else:
        print(f"{len(rows) - failed} of {len(rows)} checks passed{NEXT * bool(failed)}")
    if failed:
        raise typer.Exit(1)
