"""`lab compare`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli import completion
from lab.cli.options import Json, Runs, Section, command
from lab.cli.output import print_comparison, say_unequal, show_json
from lab.core.errors import LabError

if TYPE_CHECKING:
    from lab.run_folder.run import Run


@command(Section.LOOK)
def compare(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="ids of runs or their folders", autocompletion=completion.runs)
    ] = None,
    report: Annotated[Path | None, typer.Option(help="write everything into one HTML file that opens offline")] = None,
    out: Annotated[
        Path | None, typer.Option(help="write the table into a file: .csv or .parquet (numbers), .md or .tex (for people)")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="print the unrounded numbers, with the reason of each missing one")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="print the table for a paper")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print the table for a README")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Runs side by side with their costs: lab compare RUN RUN --report comparison.html"""
    forms = {"csv": csv, "latex": latex, "markdown": markdown, "json": as_json}
    chosen = [name for name, wanted in forms.items() if wanted]
    if len(chosen) > 1:
        raise LabError(f"--{chosen[0]} and --{chosen[1]} exclude each other: one table is printed")
    if report is not None:
        from lab.figures import report as reports

        reports.check(report)
    if out is not None:
        from lab.comparison import side_by_side

        side_by_side.check_file(out)
    compared, excluded = comparable(ids or [], runs)
    streams, others = ([run for run in compared if run.protocol.continual is wanted] for wanted in (True, False))
    parts = [part for part in (streams, others) if part]
    for part in parts:
        say_unequal(part)
    if report is not None:
        if not streams:
            raise LabError("a report is about runs on a stream, transfer runs have a table: leave --report away")
        for run in others:
            excluded[run.id] = f"run '{run.id}' is of protocol {run.protocol.name}, which has a table of its own"
        reports.write(streams, report, excluded)
        print(f"the report is in {report}", file=sys.stderr)
    if out is not None:
        side_by_side.Comparison(compared).save(out)
        print(f"the table is in {out}", file=sys.stderr)
    if as_json:
        show_json([run.result() for run in compared])
    elif chosen:
        from lab.comparison import tables

        print("\n".join(tables.FORMATS[chosen[0]](part) for part in parts), end="")
    elif report is None and out is None:
        for part in parts:
            print_comparison(part)


def comparable(ids: list[str], runs: Path | None) -> tuple["list[Run]", dict[str, str]]:
    """The runs that can be compared, and the reasons of those left out, which it prints on stderr; LabError if none is left."""
    from lab import views
    from lab.run_folder.run import Run, located

    if not ids:
        raise LabError("name at least one run to compare: lab compare RUN RUN; lab list runs shows them")
    kept, excluded = [], {}
    for id in dict.fromkeys(ids):
        try:
            run = Run.open(id, runs)
            reason = views.problem(run)
        except LabError as error:
            if not os.path.lexists(located(id, runs) / "run.json"):
                raise
            reason = str(error)
        if reason:
            excluded[id] = reason
        else:
            kept.append(run)
    kept, incomparable = views.comparable(kept)
    excluded |= incomparable
    if not kept:
        raise LabError(f"there is nothing to compare: {'; '.join(excluded.values())}")
    for reason in excluded.values():
        print(f"left out: {reason}", file=sys.stderr)
    return kept, excluded
