"""`lab doctor`."""

from typing import Annotated

import typer

from lab.cli.options import Json, Runs, Section, command
from lab.cli.output import show_json


@command(Section.KEEP)
def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="mend what can be: restore from second copies, set aside; nothing is deleted")
    ] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Check runs, stored experts, what lies beside them and what is installed: lab doctor. Exit code 1 if anything is damaged."""
    from lab.jobs import jobs
    from lab.store import doctor as check

    if repair:
        jobs.refuse_read_only()
    findings = list(check.examine(runs))
    remedies = [check.repair(finding) if repair and finding.mend else finding.remedy for finding in findings]  # "": it is mended
    damaged = sum(finding.damage and bool(remedy) for finding, remedy in zip(findings, remedies, strict=True))
    rows = [finding.row() | {"remedy": remedy, "mended": not remedy} for finding, remedy in zip(findings, remedies, strict=True)]
    if as_json:
        show_json({"sound": not damaged, "findings": rows})
    else:
        for row in rows:
            print(f"{row['of']}: {row['what']}; {row['remedy'] or 'mended'}")
        print(f"{damaged} damaged, {len(rows) - damaged} mended or only to be known" if rows else "sound")
    if damaged:
        raise typer.Exit(1)
