"""Writing a run folder: making it, claiming it, its status and its events. Reading one: lab.run_folder.run."""

import json
import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from lab.core import atomic_io
from lab.core.errors import LabError
from lab.run_folder import notes
from lab.run_folder.events import Preparing
from lab.run_folder.lease import LEASE, LOCK, Held, Lease, process_alive
from lab.run_folder.run import FORMAT, ID, PREPARING, Run, root, slug

PACKAGES = ("torch", "transformers", "peft", "datasets", "safetensors", "numpy", "pydantic", "streamlit", "plotly")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def create_run(
    config: dict[str, Any], runs: str | Path | None = None, id: str | None = None, status: str = "queued", name: str = ""
) -> Run:
    """A new folder with config.yaml, run.json and env.json, and the name that people give it.

    LabError if the id is taken, the name cannot be one, or nothing can be written.
    """
    called = notes.checked_name(name)
    folder = root(runs)
    recipe, stream = slug(config["recipe"]), slug(config["stream"]["name"])
    stem = id or f"{datetime.now():%Y%m%d-%H%M%S}-{recipe}-{stream}-s{config['seed']}"[:72]
    refuse_id(id, runs)
    unused, copy = stem, 1
    while True:
        try:
            (folder / unused).mkdir(parents=True)
            break
        except FileExistsError:
            if id or not folder.is_dir():
                raise taken(unused, folder) from None
            unused, copy = f"{stem}-{copy + 1}", copy + 1
        except OSError as error:
            raise unwritable(folder, error) from error
    run = Run(folder / unused)
    try:
        atomic_io.write_yaml(run.dir / "config.yaml", config)
        atomic_io.write_json(run.dir / "env.json", environment())
        update_info(run, format=FORMAT, status=status, created=now())
        if called:
            annotate(run, name=called)
    except OSError as error:
        remove(run.dir)
        raise unwritable(folder, error) from error
    return run


def refuse_id(id: str | None, runs: str | Path | None = None) -> None:
    """LabError for an id that no run can have, or that another run of the folder has."""
    if id is not None and not ID.fullmatch(id):
        raise LabError(f"'{id}' cannot be a run id: use up to 80 of a-z 0-9 _ . - and begin with a letter or digit")
    if id is not None and (root(runs) / id).exists():
        raise taken(id, root(runs))


def taken(id: str, folder: Path) -> LabError:
    """The error for an id that a run has already."""
    return LabError(f"a run called '{id}' exists in {folder}: choose another id or resume it")


def update_info(run: Run, otherwise: Mapping[str, Any] | None = None, **fields: Any) -> None:
    """Change fields of run.json; `otherwise`: fields for a run.json that lacks them, as one that was lost does."""
    try:
        info = run.info
    except LabError:  # damaged: what is known is written anew
        info = {}
    atomic_io.write_json(run.dir / "run.json", {**(otherwise or {}), **info, **fields})


def annotate(run: Run, **fields: Any) -> None:
    """Change what people wrote about a run (`lab.run_folder.notes`), whatever its status; LabError for what does not fit."""
    atomic_io.write_json(run.dir / notes.FILE, run.notes | notes.checked(fields))


def claim(run: Run) -> Lease:
    """Claim the folder for this process and call it running; LabError if another process has it, or has finished the run."""
    lease = lease_of(run)
    try:
        info = run.info
        beside_lease = info if info.get("status") == "running" and info.get("pid") != os.getpid() else {}
        if process_alive(beside_lease.get("pid"), beside_lease.get("process_started")):  # all other signs of it were removed
            raise LabError(f"run '{run.id}' is already being worked on by another process ({info['pid']})")
        if info.get("status") == "finished" and not info.get("replay"):  # since the caller looked
            raise LabError(f"run '{run.id}' is finished: there is nothing to go on with")
        (run.dir / "stop").unlink(missing_ok=True)  # an old request, before anybody can see that it runs and ask anew
        update_info(run, status="running", started=now(), ended=None, error=None, **lease.own)
    except BaseException:
        lease.release()
        raise
    return lease


def lease_of(run: Run) -> Lease:
    """The right to write into a run folder; LabError if another process has it, or if the folder is not there any more."""
    gone = LabError(f"run '{run.id}' is not in {run.dir.parent} any more")
    if not run.dir.is_dir():  # its lock would make it anew
        raise gone
    try:
        lease = Lease(run.dir)
    except Held as holder:
        raise LabError(f"run '{run.id}' is already being worked on by {holder}") from None
    if {path.name for path in run.dir.iterdir()} <= {LOCK, LEASE}:  # it was removed in between
        lease.release()
        remove(run.dir)
        raise gone
    return lease


class Preparation:
    """Writes what a run does before its first task into `preparing.json`, at most every `EVERY` seconds."""

    EVERY = 0.3

    def __init__(self, run: Run):
        self.path, self.what, self.began, self.written = run.dir / PREPARING, "", 0.0, 0.0

    def __enter__(self) -> "Preparation":
        return self

    def __exit__(self, *error: object) -> None:
        self.path.unlink(missing_ok=True)

    def __call__(self, event: Preparing) -> None:
        """Tell of an event; what cannot be written is left out, for nothing depends on it."""
        moment = time.time()
        if event.what != self.what:
            self.what, self.began, self.written = event.what, moment, 0.0
        if moment - self.written >= self.EVERY and self.path.parent.is_dir():
            self.written = moment
            with suppress(OSError):
                content = {"what": event.what, "done": event.done, "total": event.total, "began": self.began}
                atomic_io.write_json(self.path, content)


def append_event(run: Run, event: dict[str, Any]) -> None:
    """Add one line to events.jsonl, in one write."""
    line = json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False) + "\n"
    with open(run.dir / "events.jsonl", "ab") as handle:
        handle.write(line.encode())


def request_stop(run: Run) -> None:
    """Ask the run to stop after its current task."""
    (run.dir / "stop").touch()


def environment() -> dict[str, Any]:
    """Versions and machine, without names of people or places on disk."""
    from lab import __version__

    return {
        "lab": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": package_versions(),
    }


@cache  # reading the metadata of packages takes longer than all else that a new run writes
def package_versions() -> dict[str, str]:
    """Versions of the installed ones of PACKAGES, as they were when this process first asked."""
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def unwritable(folder: Path, error: OSError) -> LabError:
    return LabError(f"the runs folder {folder} cannot be written: {error.strerror}; name another with --runs DIR")


def remove(folder: Path) -> None:
    """Delete a run folder."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
