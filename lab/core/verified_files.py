"""Files that are known to be as they were written: sets of them with a manifest, and second copies under their digest.

A set is a folder that appears with all its files or not at all; `manifest.json`, written last, holds the SHA-256 of the others.
A second copy is a file that is called by its SHA-256. What is damaged is told from what is whole by reading it back.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from lab.core import atomic_io

MANIFEST, REASON = "manifest.json", "reason.txt"


class Damaged(Exception):
    """A file is missing or is not as it was written; the message names it."""


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a new folder of these files and their manifest. It is on the disk and was read back by the time it has its name.

    Raises OSError if it cannot be written, and Damaged if what is read back differs; then there is no folder.
    """
    growing = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        growing.mkdir(parents=True)
        manifest = json.dumps({name: hashlib.sha256(content).hexdigest() for name, content in files.items()}, indent=1)
        for name, content in [*files.items(), (MANIFEST, manifest.encode())]:
            atomic_io.write_bytes(growing / name, content)
        atomic_io.sync(growing)
        read(growing)
        os.replace(growing, folder)
    except BaseException:
        shutil.rmtree(growing, ignore_errors=True)
        raise
    atomic_io.sync(folder.parent)


def read(folder: Path) -> dict[str, bytes]:
    """The content of every file of a set. Raises Damaged if one of them, or the manifest, is not as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes()) if (folder / MANIFEST).is_file() else None
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} cannot be read") from error
    if not isinstance(manifest, dict) or not manifest or any(Path(name).name != name for name in manifest):
        raise Damaged(f"{MANIFEST} is missing or names no files")
    return {name: content(folder / name, digest) for name, digest in manifest.items()}


def content(path: Path, digest: str) -> bytes:
    """The content of a file. Raises Damaged if its SHA-256 is another, or it cannot be read."""
    if not path.is_file():
        raise Damaged(f"{path.name} is missing")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise Damaged(f"{path.name} is not as it was written: its SHA-256 differs")
    return data


def remove(folder: Path) -> None:
    """Remove a set; one that is half removed is no longer under its name."""
    leaving = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    os.replace(folder, leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def set_aside(path: Path, reason: str) -> Path:
    """Move a damaged set, or a file, out of its folder `f` into `f.damaged-<n>` beside that, with the reason in a file."""
    number = 1
    while (aside := path.parent.with_name(f"{path.parent.name}.damaged-{number}")).exists():
        number += 1
    if path.is_dir():
        os.replace(path, aside)
    else:
        aside.mkdir()
        os.replace(path, aside / path.name)
    atomic_io.replace_bytes(aside / REASON, f"{reason}\n".encode())
    return aside


# -- second copies ---------------------------------------------------------------------------------------------------------


def copy(path: Path, copies: Path) -> str:
    """Keep a second copy of a file in the folder `copies`; returns its SHA-256."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if not (copies / digest).exists():
        atomic_io.replace_bytes(copies / digest, data)
    return digest


def mend(path: Path, digest: str, copies: Path) -> bool:
    """Bring a file and its second copy to what they were, from the one that is whole; returns whether the file was damaged.

    Raises Damaged if neither is whole.
    """
    damage, data = [], b""
    for place in (path, copies / digest):
        try:
            data = content(place, digest)
        except Damaged as reason:
            damage.append((place, reason))
    if len(damage) == 2:
        raise damage[0][1]
    for place, _ in damage:
        if place.is_dir():
            set_aside(place, "a folder lay where a file belongs")
        atomic_io.replace_bytes(place, data)
    return any(place == path for place, _ in damage)
