"""Plug-ins of one's own in a run folder: their sources, for whoever goes on with the run elsewhere. Nothing here runs them."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from lab.core import atomic_io, registry
from lab.core.errors import LabError
from lab.core.registry import PLUGINS, OwnPlugin
from lab.run_folder.run import Run

FOLDER = "plugins"  # in the run folder; laid out as a folder of LAB_PLUGINS


def keep(run: Run, plugins: Sequence[OwnPlugin]) -> list[Path]:
    """Write the sources of the plug-ins into the run folder; returns the files."""
    files = []
    for plugin in plugins:
        if plugin.source is not None:
            files.append(run.dir / FOLDER / plugin.file)
            atomic_io.replace_bytes(files[-1], plugin.source.encode())
    return files


def refuse_absent(run: Run) -> None:
    """LabError for a plug-in that the run needs and this process does not have: where its source is, and what to do."""
    kinds = registry.BY_KIND
    absent = [entry for entry in run.plugins if entry["kind"] in kinds and entry["name"] not in kinds[entry["kind"]].names()]
    if not absent:
        return
    named = " and ".join(f"{entry['kind']} '{entry['name']}' ({entry['origin']})" for entry in absent)
    need = f"run '{run.id}' needs {named}, which is not here"
    again = f"register it in this process and lab.resume('{run.id}')"
    if lost := [entry["name"] for entry in absent if entry["sha256"] is None]:
        raise LabError(f"{need}, and no source of '{lost[0]}' could be kept: {again}")
    folder = run.dir / FOLDER
    lacking = sorted({name for entry in absent for name in entry["missing"]})
    first = f", add {', '.join(lacking)}, which it uses and does not define" if lacking else ""
    others = f"{os.pathsep}${PLUGINS}" if os.environ.get(PLUGINS) else ""
    command = f"{PLUGINS}={shlex.quote(str(folder))}{others} lab resume {run.id} --runs {shlex.quote(str(run.dir.parent))}"
    raise LabError(f"{need}. Its source is kept in {folder}: read it{first}, and go on with {command}, or {again}")
