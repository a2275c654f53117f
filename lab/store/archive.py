"""A run as one file, .zip or .tar.gz, to take along. What comes in is checked member by member before anything is written.

All members lie in one folder that is called by the run's id; `archive.json` among them holds the SHA-256 of the others.
Checkpoints travel with runs that can be gone on with, not with finished ones.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

from lab.core import documents, names, verified_files
from lab.core.errors import LabError
from lab.run_folder.files import LARGEST, LARGEST_ARRAYS
from lab.run_folder.run import ID, TERMINAL, UNREADABLE, Run, root
from lab.run_folder.writer import unwritable, update_info
from lab.store import rows
from lab.store.turns import is_active, turn

FORMAT = 1
LIST = "archive.json"
MEMBERS = 20_000
LARGEST_ARCHIVE = 1 << 36  # bytes, before and after decompression
RATIO, ALLOWED = 100, 1 << 26  # how many times as large as the file its content may be, and bytes that it may have in any case
CHUNK = 1 << 20
KNOWN = re.compile(
    r"(config\.yaml|(run|env|matrix|manifest|notes|decomposition)\.json|(events|replay)\.jsonl|(log|stored)\.txt|router\.safetensors"
    r"|predictions/after_\d{1,6}\.parquet|routing/after_\d{1,6}\.safetensors"
    r"|(state/after_\d{1,6}/)?experts/[^/]+/adapter_(config\.json|model\.safetensors)"
    r"|state/after_\d{1,6}/(router|classifier)\.safetensors"
    r"|checkpoint/(\d{1,9}/(manifest\.json|tensors\.safetensors|session\.json)|copies/[0-9a-f]{64}|events\.jsonl)"
    r"|plugins/[a-z_]+/[a-z0-9_]+\.py)"  # nobody runs them who does not name their folder
)
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, NotImplementedError, RuntimeError)


class Member(NamedTuple):
    """A file in an archive: its path, its bytes once decompressed, and how to open it."""

    path: str
    size: int
    opened: Callable[[], IO[bytes]]


# -- out -------------------------------------------------------------------------------------------------------------------


def pack(run: Run, file: Path) -> list[str]:
    """Write a run into a new archive; returns the files of its folder that are left out.

    LabError if somebody works on the run, if it is damaged, and if the archive is there already or cannot be written.
    """
    run, zipped = Run(run.dir), file.name.endswith(".zip")  # a run that has read nothing yet
    if not zipped and not file.name.endswith((".tar.gz", ".tgz")):
        raise LabError(f"an archive is called .zip or .tar.gz, not {file.name}")
    if os.path.lexists(file):
        raise LabError(f"{file} is there already: name another file")
    if is_active(run):
        raise LabError(f"run '{run.id}' is {run.status}: stop it before packing it")
    if reason := rows.problem(run):
        raise LabError(reason)
    if not ID.fullmatch(run.id):
        raise LabError(f"'{run.id}' is no run id: rename the folder")
    inside = sorted(path.relative_to(run.dir).as_posix() for path in run.dir.rglob("*") if not path.is_dir())
    skipped = "checkpoint" if run.status == "finished" else " "
    wanted = [name for name in inside if KNOWN.fullmatch(name) and name.split("/")[0] != skipped]
    growing = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with (_zip if zipped else _tar)(growing, run.id) as add:
            digests = {}
            for name in wanted:
                content = run.bytes_of(name)
                digests[name] = hashlib.sha256(content).hexdigest()
                add(name, content)
            add(LIST, json.dumps({"format": FORMAT, "files": digests}, indent=1).encode())
        for _ in _checked(growing):  # what unpack would refuse is not handed out
            pass
        os.replace(growing, file)
    except OSError as error:
        raise LabError(f"the archive {file} cannot be written: {error.strerror or error}") from error
    finally:
        growing.unlink(missing_ok=True)
    return [name for name in inside if name not in wanted and not name.startswith((".", "checkpoint", "l", "stop"))]


@contextmanager
def _zip(file: Path, id: str) -> Iterator[Callable[[str, bytes], None]]:
    with zipfile.ZipFile(file, "w") as archive:

        def add(name: str, content: bytes) -> None:
            about = zipfile.ZipInfo(f"{id}/{name}")  # a time of its own would make two archives of a run differ
            about.external_attr = (stat.S_IFREG | 0o644) << 16
            dense = name.endswith((".safetensors", ".parquet"))
            archive.writestr(about, content, zipfile.ZIP_STORED if dense else zipfile.ZIP_DEFLATED)

        yield add


@contextmanager
def _tar(file: Path, id: str) -> Iterator[Callable[[str, bytes], None]]:
    with ExitStack() as stack:
        packed = stack.enter_context(gzip.GzipFile("", "wb", mtime=0, fileobj=stack.enter_context(open(file, "wb"))))
        archive = stack.enter_context(tarfile.open(fileobj=packed, mode="w"))

        def add(name: str, content: bytes) -> None:
            about = tarfile.TarInfo(f"{id}/{name}")
            about.size = len(content)
            archive.addfile(about, BytesIO(content))

        yield add


# -- in --------------------------------------------------------------------------------------------------------------------


def unpack(file: Path, runs: str | Path | None = None, name: str | None = None) -> Run:
    """Bring a run in from an archive, under its id or another one, whole or not at all.

    LabError names the first thing that is wrong with the archive, or says that a run of that id is there.
    """
    folder = root(runs)
    try:
        id = _id_of(file)
        if name is not None and not ID.fullmatch(name):
            raise LabError(f"'{name}' cannot be a run id: use up to 80 of a-z 0-9 _ . - and begin with a letter or digit")
        place = folder / (name or id)
        _refuse_taken(place)
        growing = folder / f".unpack-{id}.{os.getpid()}.tmp"
        try:
            _write(file, growing)
            run = _verified(Run(growing / id))
            with turn(folder):
                _refuse_taken(place)
                os.rename(run.dir, place)
        finally:
            shutil.rmtree(growing, ignore_errors=True)
    except BROKEN as error:
        raise _unreadable(file, error) from error
    except OSError as error:
        raise unwritable(folder, error) from error
    return Run(place)


def _id_of(file: Path) -> str:
    """The id of the run in an archive all of whose members are allowed; nothing is written."""
    try:
        (id,) = {member.path.split("/")[0] for member in _checked(file)}
    except OSError as error:  # such as a member that begins before the file does
        raise _unreadable(file, error) from error
    return id


def _unreadable(file: Path, error: Exception) -> LabError:
    return LabError(f"the archive {file} cannot be read: {str(error) or type(error).__name__}")


def _refuse_taken(place: Path) -> None:
    if os.path.lexists(place):
        raise LabError(f"a run called '{place.name}' is in {place.parent}: bring this one in under another name (--as)")


def _checked(file: Path) -> Iterator[Member]:
    """The members of an archive, each once it was checked; LabError names what is wrong with one, or with them all."""

    def wrong(what: str, path: str = "") -> LabError:
        shown = f"{path[:100]!r} " if path else ""
        return LabError(f"the archive {file.name}: {shown}{what}")

    seen, ids, total, packed = set[str](), set[str](), 0, os.stat(_regular(file)).st_size
    for member in _members(file, wrong):
        id, _, inside = member.path.partition("/")
        for part in member.path.split("/"):
            if fault := names.fault(part):
                raise wrong(f"has a name that {fault}", member.path)
        if not ID.fullmatch(id) or not (inside == LIST or KNOWN.fullmatch(inside)):
            raise wrong("is no file of a run", member.path)
        key = unicodedata.normalize("NFC", member.path).casefold()
        if key in seen:
            raise wrong("is there twice, or differs in capitals only", member.path)
        seen.add(key)
        ids.add(id)
        total += member.size
        most = LARGEST.get(Path(inside).suffix, LARGEST_ARRAYS)
        if member.size > most or total > LARGEST_ARCHIVE:
            raise wrong(f"has {member.size:,} bytes, at most {most:,} are read, and {LARGEST_ARCHIVE:,} of all", member.path)
        if total > max(ALLOWED, RATIO * packed):
            raise wrong(f"decompressed, it is more than {RATIO} times as large as it is")
        if len(seen) > MEMBERS:
            raise wrong(f"it holds more than {MEMBERS:,} files")
        yield member
    if len(ids) != 1:
        raise wrong("it holds no run" if not ids else f"it holds several folders: {', '.join(sorted(ids))}")
    if missing := {f"{id}/{name}" for id in ids for name in (LIST, "run.json", "config.yaml")} - seen:
        raise wrong(f"it lacks {min(missing)}")


def _regular(file: Path) -> Path:
    try:
        return documents.regular(file, LARGEST_ARCHIVE)
    except FileNotFoundError:
        raise LabError(f"there is no archive {file}") from None
    except LabError as error:
        raise LabError(f"the archive {file} {error}") from error


def _members(file: Path, wrong: Callable[..., LabError]) -> Iterator[Member]:
    """The regular files of an archive; LabError for anything else in it."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for item in archive.infolist():
                kind = stat.S_IFMT(item.external_attr >> 16)
                if item.filename.endswith("/") or kind not in (0, stat.S_IFREG):
                    raise wrong("is no regular file", item.filename)
                if item.flag_bits & 1 or item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise wrong("is encrypted or compressed in a way that is not read", item.filename)
                yield Member(item.orig_filename, item.file_size, lambda item=item: archive.open(item))
        return
    limit = max(ALLOWED, RATIO * os.stat(file).st_size)
    with gzip.open(file) as unpacked, tarfile.open(fileobj=_Bounded(unpacked, 2 * limit), mode="r|") as archive:  # type: ignore
        for item in archive:
            if item.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or item.sparse:
                raise wrong("is no regular file", item.name)
            yield Member(item.name, item.size, lambda item=item: archive.extractfile(item) or BytesIO())


class _Bounded:
    """A stream that ends in an error after so many bytes: headers too are of any size once they are decompressed."""

    def __init__(self, stream: IO[bytes], most: int):
        self.stream, self.left = stream, most

    def read(self, size: int) -> bytes:
        data = self.stream.read(min(size, CHUNK))
        self.left -= len(data)
        if self.left < 0:
            raise tarfile.ReadError(f"decompressed, it is more than {RATIO} times as large as it is")
        return data


def _write(file: Path, folder: Path) -> None:
    """Write the members of an archive into a new folder; each has the size that it promised."""
    for member in _checked(file):
        path = folder / member.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with member.opened() as source, open(path, "xb") as target:
            left = member.size
            while chunk := source.read(min(CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    break
                target.write(chunk)
        if left:
            raise LabError(f"the archive {file.name}: {member.path!r} has not the size that it promises")


def _verified(run: Run) -> Run:
    """A run that was just written, if its files are those that were packed; it belongs to no process and waits for nothing."""
    try:
        content = documents.json_value(run.bytes_of(LIST))
        if content["format"] > FORMAT:
            raise LabError(f"the archive of run '{run.id}' was written by a newer version (format {content['format']})")
        digests: dict[str, Any] = dict(content["files"])
    except LabError:
        raise
    except (ValueError, *UNREADABLE) as error:
        raise LabError(f"the archive of run '{run.id}': {LIST} cannot be read") from error
    inside = {path.relative_to(run.dir).as_posix() for path in run.dir.rglob("*") if path.is_file()} - {LIST}
    if different := inside ^ digests.keys():
        raise LabError(f"the archive of run '{run.id}': {min(different)} is not in both the archive and its list")
    try:
        for name, digest in digests.items():
            verified_files.content(run.dir / name, digest)
        for name, digest in sealed(run).items():
            verified_files.content(run.dir / name, digest)
    except verified_files.Damaged as damage:
        raise LabError(f"the archive of run '{run.id}' is damaged: {damage}") from damage
    if reason := rows.problem(run):
        raise LabError(reason)
    (run.dir / LIST).unlink()
    status = run.info.get("status")
    ended = status if status in TERMINAL else "interrupted"
    update_info(run, status=ended, waiting=None, pid=None, process_started=None)
    return run


def sealed(run: Run) -> dict[str, str]:
    """SHA-256 of the files that a finished run promises, by their paths; empty where it has none. LabError if it is damaged."""
    try:
        content = documents.json_value(run.bytes_of(verified_files.MANIFEST))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise run.damaged(f"{verified_files.MANIFEST} cannot be read ({error})") from error
    files = content.items() if isinstance(content, dict) else [("", None)]
    if not all(isinstance(digest, str) and KNOWN.fullmatch(name) for name, digest in files):
        raise run.damaged(f"{verified_files.MANIFEST} names no files of a run")
    return content
