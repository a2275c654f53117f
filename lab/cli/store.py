"""What keeps a folder of runs in order: `lab rename`, `lab remove`, `lab restore`, `lab collect`, `lab pack` and their kin."""

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from lab.cli.options import Json, RunId, Runs, Section, command
from lab.cli.output import show_json


@command(Section.KEEP)
def rename(
    run: RunId,
    name: Annotated[str, typer.Argument(help='what to call it from now on; "" takes the name away')],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Give a run a name, by which screens show it and commands take it; its id and its folder stay: lab rename RUN NAME"""
    from lab.jobs import jobs
    from lab.run_folder.run import Run

    opened = Run.open(run, runs)
    jobs.annotate(opened, name=name)
    answer = {"name": opened.id, "called": opened.notes["name"] or None}
    show_json(answer) if as_json else print(f"run '{opened.id}' is called '{opened.title}'")


@command(Section.KEEP)
def remove(
    run: Annotated[list[str], typer.Argument(help="ids of runs, or their folders")], runs: Runs = None, as_json: Json = False
) -> None:
    """Move runs into the trash, from where lab restore brings them back: lab remove RUN ..."""
    from lab.jobs import jobs
    from lab.store import trash

    opened = [trash.to_remove(id, runs) for id in run]  # before anything is moved
    removed = []
    for one in dict.fromkeys(opened):
        entry = jobs.delete(one)
        removed.append({"name": entry.id, "status": "removed", "dir": str(entry.dir)})
        if not as_json:
            print(f"run '{entry.id}' is in the trash; bring it back with: lab restore {entry.id}{_folder(runs)}")
    if as_json:
        show_json(removed)


@command(Section.KEEP)
def remove_stream(
    stream: Annotated[list[str], typer.Argument(help="names of saved streams (lab list streams)")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Delete saved data for good, unless a run is on them: lab remove-stream STREAM ..."""
    from lab.data import saved_stream

    names = [*dict.fromkeys(stream)]
    saved_stream.delete(names, runs)
    show_json([{"name": name, "status": "deleted"} for name in names]) if as_json else print(f"deleted: {', '.join(names)}")


@command(Section.KEEP)
def restore(
    run: Annotated[str, typer.Argument(help="id of a run in the trash (lab list trash)")],
    name: Annotated[str | None, typer.Option("--as", help="another id, where its own is taken")] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Bring a run back from the trash: lab restore RUN"""
    from lab.jobs import jobs

    back = jobs.restore(run, runs, name)
    show_json({"name": back.id, "dir": str(back.dir)}) if as_json else print(f"run '{back.id}' is back in {back.dir.parent}")


@command(Section.KEEP)
def empty_trash(
    run: Annotated[list[str] | None, typer.Argument(help="ids of runs in the trash; all without any")] = None,
    days: Annotated[float, typer.Option(help="only what was removed at least so many days ago", min=0)] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be deleted, and delete nothing")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Delete for good what is in the trash: lab empty-trash --days 30"""
    from lab.jobs import jobs
    from lab.store import trash

    wanted = [trash.chosen(id, runs) for id in run] if run else trash.entries(runs)
    latest = datetime.now(UTC) - timedelta(days=days)
    wanted = [entry for entry in wanted if days == 0 or entry.removed <= latest]
    rows = [entry.row() for entry in wanted]
    if not dry_run:
        jobs.empty_trash(runs, wanted)
    if as_json:
        show_json(rows)
        return
    freed = sum(row["bytes"] for row in rows)
    print(f"{len(rows)} runs {'would be' if dry_run else 'were'} deleted, {freed / 1e6:,.1f} MB")


@command(Section.KEEP)
def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be freed, and free nothing")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Delete stored experts that no run of the folder needs, in its trash neither: lab collect --dry-run"""
    from lab.jobs import jobs
    from lab.store import experts

    jobs.refuse_read_only()
    found = experts.collect(runs, dry_run)
    freed = sum(found.files.values())
    if as_json:
        removed = [path.name for path in found.files]
        show_json({"removed": removed, "bytes": freed, "kept": found.kept, "silent": found.silent, "dry_run": dry_run})
        return
    done = "would be" if dry_run else "were"
    print(f"{len(found.files)} stored experts {done} deleted, {freed / 1e6:,.1f} MB; {found.kept} are needed")
    if found.silent:
        names = ", ".join(found.silent[:3]) + (" ..." if len(found.silent) > 3 else "")
        print(f"what was there by their end was kept for {len(found.silent)} runs that do not say what they use: {names}")


@command(Section.KEEP)
def pack(
    run: Annotated[str, typer.Argument(help="id of the run or its folder")],
    file: Annotated[Path, typer.Argument(help="the archive to be written: NAME.zip or NAME.tar.gz")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Write a run into one file, to take along: lab pack RUN run.zip"""
    from lab.run_folder.run import Run
    from lab.store import archive

    left_out = archive.pack(Run.open(run, runs), file)
    if as_json:
        show_json({"file": str(file), "bytes": file.stat().st_size, "left_out": left_out})
        return
    size = file.stat().st_size / 1e6
    print(f"run '{run}' is in {file} ({size:,.1f} MB); bring it in with: lab unpack {shlex.quote(str(file))}")
    if left_out:
        print(f"left out, since they are no files of a run: {', '.join(left_out[:5])}{' ...' if len(left_out) > 5 else ''}")


@command(Section.KEEP)
def unpack(
    file: Annotated[Path, typer.Argument(help="an archive that lab pack has written")],
    name: Annotated[str | None, typer.Option("--as", help="another id, where its own is taken")] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Bring a run in from one file, whole or not at all: lab unpack run.zip"""
    from lab.jobs import jobs
    from lab.store import archive

    jobs.refuse_read_only()
    run = archive.unpack(file, runs, name)
    show_json({"name": run.id, "dir": str(run.dir)}) if as_json else print(f"run '{run.id}' is in {run.dir.parent}")


def _folder(runs: Path | None) -> str:
    return f" --runs {shlex.quote(str(runs))}" if runs else ""
