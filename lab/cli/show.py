"""`lab show`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lab.cli.options import Json, RunId, Runs, Section, command
from lab.cli.output import counted, print_decomposition, print_result, show_json

if TYPE_CHECKING:
    from lab.run_folder.run import Run


@command(Section.LOOK)
def show(
    run: RunId,
    decompose: Annotated[
        bool, typer.Option("--decompose", help="where the losses of old tasks come from; measured at the first time, then kept")
    ] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """One run with its metrics and matrix: lab show RUN"""
    from lab.run_folder.run import Run

    opened = Run.open(run, runs)
    losses = {"decomposition": decomposed(opened)} if decompose else {}
    if as_json:
        show_json(opened.result() | losses)
        return
    print_result(opened)
    if losses:
        print_decomposition(losses["decomposition"])


def decomposed(run: "Run") -> dict[str, Any]:
    """The decomposition of a run, with its progress on stderr where it is measured now."""
    from lab.analysis.loss_decomposition import decompose

    with counted("looking back at task") as watch:
        return decompose(run, watch)
