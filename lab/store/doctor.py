"""What is wrong with a folder of runs and with what is installed: one finding each, with its remedy, and mending what can be.

Mending restores from second copies, makes anew, or sets aside; it deletes nothing. What is set aside, except states of runs,
lies in `.aside/` of the folder. A run that somebody works on is left alone.
"""

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement

from lab.core import atomic_io, documents, verified_files
from lab.core.errors import LabError
from lab.core.verified_files import Damaged
from lab.run_folder.lease import LEASE
from lab.run_folder.run import FORMAT, UNREADABLE, Run, process_alive, root
from lab.run_folder.writer import lease_of
from lab.store import archive, experts, index, migrations, trash
from lab.store.turns import is_active, safe_status

ASIDE = ".aside"
LEAST_FREE = 1e9  # bytes
HOLES = {  # of versions below the lower bounds of pyproject.toml
    "transformers": "CVE-2026-9856, CVE-2026-5241 and others before 5.10",
    "torch": "CVE-2025-32434 before 2.6",
    "streamlit": "CVE-2026-33682 before 1.54",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: of what, what it is, what to do; whether it is damage; and what mends it, if anything does."""

    of: str
    what: str
    remedy: str
    damage: bool = True
    mend: Callable[[], object] | None = None

    @property
    def sentence(self) -> str:
        return f"{self.of}: {self.what}; {self.remedy}"

    def row(self) -> dict[str, Any]:
        return {"of": self.of, "what": self.what, "remedy": self.remedy, "damage": self.damage, "repairable": bool(self.mend)}


def examine(runs: str | Path | None = None, whole: bool = True) -> Iterator[Finding]:
    """Everything that is found wrong. `whole`: every file that has a digest is read; otherwise it takes about a second."""
    folder = root(runs)
    yield from _packages()
    yield from _folder(folder)
    if not folder.is_dir():
        return
    yield from _index(folder)
    listed = index.runs(folder)
    for run, row in zip(listed, index.rows(listed), strict=True):
        details = [*_run(run)] if whole and not is_active(run) else []
        if row["status"] == "damaged" and not any(finding.damage for finding in details):
            what = row["reason"].removeprefix(f"run '{run.id}' ")
            yield Finding(f"run '{run.id}'", what, _remedy(run), mend=_from_copy(run))
        elif row["status"] == "lost":
            yield Finding(f"run '{run.id}'", "is lost: its process is gone without a word", f"lab resume {run.id}", False)
        yield from details
    if whole:
        yield from _experts(folder / experts.FOLDER)
        yield from _trash(folder / trash.FOLDER)
        yield from _leftovers(folder)


def repair(finding: Finding) -> str:
    """Mend what was found; returns why that did not work, empty if it did."""
    try:
        if finding.mend is not None:
            finding.mend()
        return ""
    except (LabError, Damaged, OSError) as error:
        return str(error)


def aside(folder: Path, path: Path) -> Path:
    """Move a file or folder within a folder of runs out of the way, into `.aside/` under its own path; returns where it is."""
    place = folder / ASIDE / path.relative_to(folder)
    number = 1
    while os.path.lexists(place):
        number += 1
        place = place.with_name(f"{path.name}~{number}")
    place.parent.mkdir(parents=True, exist_ok=True)
    os.rename(path, place)
    return place


# -- what is installed, and the folder -------------------------------------------------------------------------------------


def _packages() -> Iterator[Finding]:
    """Packages that are older or newer than what the lab asks for."""
    with suppress(metadata.PackageNotFoundError):
        for line in metadata.requires("adapter-routing-lab") or ():
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
                continue
            try:
                version = metadata.version(wanted.name)
            except metadata.PackageNotFoundError:
                yield Finding(f"package {wanted.name}", "is not installed", f"pip install '{wanted}'")
                continue
            if not wanted.specifier.contains(version, prereleases=True):
                hole = f" (known holes: {HOLES[wanted.name]})" if wanted.name in HOLES else ""
                yield Finding(f"package {wanted.name}", f"is of version {version}{hole}", f"pip install '{wanted}'")


def _folder(folder: Path) -> Iterator[Finding]:
    """Rights and room."""
    name = f"folder {folder}"
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(name, "cannot be written: runs can be looked at only", "give yourself the right to, or use --runs DIR")
    elif existing.stat().st_mode & stat.S_IWOTH and not existing.stat().st_mode & stat.S_ISVTX:
        yield Finding(name, "everybody on this machine can change it", f"chmod o-w {folder}")
    if (free := shutil.disk_usage(existing).free) < LEAST_FREE:
        yield Finding(name, f"its disk has {free / 1e6:,.0f} MB left", "lab collect, lab empty-trash, or use --runs DIR")


def _index(folder: Path) -> Iterator[Finding]:
    path = folder / index.FILE
    try:
        with documents.opened(path, index.LARGEST, folder) as file:
            documents.json_value(file.read())
    except FileNotFoundError:
        return
    except (LabError, ValueError):
        mend = lambda: (aside(folder, path), index.forget(), index.rows(index.runs(folder)))  # noqa: E731
        yield Finding("index of runs", "cannot be read", "nothing: it is made anew when it is next needed", False, mend)


# -- runs ------------------------------------------------------------------------------------------------------------------


def _remedy(run: Run) -> str:
    if _from_copy(run):
        return "lab doctor --repair restores it from its second copy"
    if run.saved:
        return f"lab resume {run.id} goes on from its checkpoint, or lab remove {run.id}"
    return f"restore its files, or lab remove {run.id}"


def _run(run: Run) -> Iterator[Finding]:
    """Files that are not as they were written, states that are damaged, an old format, a lease that nobody holds."""
    name = f"run '{run.id}'"
    for file, digest in _promised(run).items():
        try:
            verified_files.content(run.dir / file, digest)
        except Damaged as reason:
            copy = _copy_of(run, file, digest)
            remedy = "lab doctor --repair restores it from its second copy" if copy else _without_copy(run)
            yield Finding(name, str(reason).replace(Path(file).name, file, 1), remedy, True, copy)
    for path in _states(run):
        try:
            verified_files.read(path)
        except Damaged as reason:
            remedy = "lab doctor --repair sets it aside: the one before is used"
            yield Finding(name, f"checkpoint {path.name}: {reason}", remedy, True, _within(run, _set_aside(path, str(reason))))
    with suppress(LabError):
        if migrations.format_of(run) < FORMAT:
            what = f"is of format {migrations.format_of(run)}, the present one is {FORMAT}"
            remedy = "it is read as it is; lab doctor --repair writes the present one"
            yield Finding(name, what, remedy, False, partial(migrations.migrate, run))
    if _is_left(run.dir / LEASE):
        remedy, mend = "nothing: the next process takes it over", partial(aside, run.dir.parent, run.dir / LEASE)
        yield Finding(name, "the lease of a process that is gone is there", remedy, False, mend)


def _promised(run: Run) -> dict[str, str]:
    """SHA-256 of the files that must be as they were: those of a finished run, or of the newest state of another one."""
    try:
        if manifest := archive.sealed(run):
            return manifest
    except (LabError, OSError):
        return {}
    for path in _states(run):
        with suppress(Damaged, *UNREADABLE):
            final = documents.json_value(verified_files.read(path)["session.json"])["final"]
            return {file: digest for file, digest in final.items() if archive.KNOWN.fullmatch(file) and file != "config.yaml"}
    return {}


def _states(run: Run) -> list[Path]:
    """The folders of saved states, the newest first."""
    folder = run.dir / "checkpoint"
    numbered = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()] if folder.is_dir() else []
    return sorted(numbered, key=lambda path: int(path.name), reverse=True)


def _copy_of(run: Run, file: str, digest: str) -> Callable[[], object] | None:
    """What restores a file from its second copy, if that is whole."""
    for copy in (run.dir / "checkpoint" / "copies" / digest, run.dir / "checkpoint" / file):
        with suppress(Damaged):
            data = verified_files.content(copy, digest)
            return _within(run, partial(atomic_io.replace_bytes, run.dir / file, data))
    return None


def _from_copy(run: Run) -> Callable[[], object] | None:
    """What restores the files of a run that cannot be read, as far as it has second copies of those that are not as they were."""
    copies = []
    for file, digest in _promised(run).items():
        try:
            verified_files.content(run.dir / file, digest)
        except Damaged:
            copies.append(_copy_of(run, file, digest))
    whole = [copy for copy in copies if copy is not None]
    return (lambda: [copy() for copy in whole]) if whole else None


def _without_copy(run: Run) -> str:
    if safe_status(run) == "finished":
        return f"what was read from it cannot be trusted: train it anew, or lab remove {run.id}"
    return f"lab resume {run.id} goes back to what is whole"


def _set_aside(path: Path, reason: str) -> Callable[[], object]:
    return partial(verified_files.set_aside, path, reason)


def _within(run: Run, act: Callable[[], object]) -> Callable[[], object]:
    """The act, while nobody else works on the run."""

    def alone() -> None:
        with lease_of(run):
            act()

    return alone


def _is_left(lease: Path) -> bool:
    """Whether a lease names a process of this machine that is gone."""
    try:
        with documents.opened(lease, documents.LARGEST, lease.parent) as file:
            holder = documents.json_value(file.read())
        here = holder["host"] == socket.gethostname()
        return here and not process_alive(holder.get("pid"), holder.get("process_started"))
    except UNREADABLE:
        return False


# -- what lies beside them -------------------------------------------------------------------------------------------------


def _experts(store: Path) -> Iterator[Finding]:
    """Stored experts that are not as they were kept."""
    for path in sorted(store.glob("*.safetensors")) if store.is_dir() else ():
        what = ""
        if not experts.ADDRESS.fullmatch(path.stem):
            what = "has a name that is no address"
        else:
            try:
                arrays, about = atomic_io.read_arrays(documents.regular(path, 1 << 36, store))
                same = about.get("sha256", "") in ("", experts.digest(arrays))
                what = "" if same else "is not as it was kept: its SHA-256 differs"
            except (atomic_io.UnreadableArrays, *UNREADABLE) as error:
                what = f"cannot be read ({error})"
        if what:
            remedy = "lab doctor --repair sets it aside: it is trained anew when it is needed"
            yield Finding(f"stored expert {path.name}", what, remedy, True, partial(aside, store.parent, path))


def _trash(folder: Path) -> Iterator[Finding]:
    known = {entry.dir for entry in trash.entries(folder.parent)} if folder.is_dir() else set()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path not in known and not path.name.startswith("."):
            remedy, mend = "lab doctor --repair sets it aside", partial(aside, folder.parent, path)
            yield Finding(f"trash {path.name}", "is no run that was removed", remedy, False, mend)


def _leftovers(folder: Path) -> Iterator[Finding]:
    """Temporary files of processes that were killed: their names hold the number of the process."""
    busy = {run.dir for run in index.unended(folder) if is_active(run)}
    for top in sorted(folder.iterdir()):
        if top in busy or top.name == ASIDE or top.is_symlink():
            continue
        inside = [top, *top.rglob(".*.tmp")] if top.is_dir() else [top]
        for path in inside:
            number = path.name.split(".")[-2] if path.name.startswith(".") and path.name.endswith(".tmp") else ""
            within = any(parent.name.endswith(".tmp") for parent in path.parents)  # what goes as a whole
            if number.isdecimal() and not psutil.pid_exists(int(number)) and not within:
                what, remedy = "is left of a process that was killed", "lab doctor --repair sets it aside"
                yield Finding(f"file {path.relative_to(folder)}", what, remedy, False, partial(aside, folder, path))
