"""`lab replay`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lab.cli import completion
from lab.cli.options import Runs, Section, command
from lab.core.errors import LabError


@command(Section.LOOK)
def replay(
    what: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="a run, or a replay file (.jsonl)", autocompletion=completion.runs)
    ],
    save: Annotated[Path | None, typer.Option(help="write the replay file of the run there instead of playing it")] = None,
    speed: Annotated[float, typer.Option(help="how many times as fast as it was recorded")] = 10.0,
    runs: Runs = None,
) -> None:
    """Play a run that has ended as if it were live, or save it as one small file for a machine without torch"""
    from lab.core import atomic_io
    from lab.jobs import jobs
    from lab.run_folder import replay_file as replays
    from lab.run_folder.run import Run

    if what.endswith(".jsonl"):
        content = replays.file_content(Path(what))
    else:
        opened = Run.open(what, runs)
        content = opened.bytes_of(replays.FILE) if opened.info.get("replay") else replays.trace(opened)
    if save is None:
        played = jobs.play(content, speed, runs)
        print(f"{played.id} plays; watch it with: lab app --runs {shlex.quote(str(played.dir.parent))}", file=sys.stderr)
        return
    try:
        replays.read(content)
        atomic_io.replace_bytes(save, content)
    except OSError as error:
        raise LabError(f"the replay file {save} cannot be written: {error.strerror}") from error
    print(f"the replay file is {save} ({len(content):,} bytes)", file=sys.stderr)
