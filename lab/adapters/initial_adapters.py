"""Experts that begin as saved ones in place of a random draw: option `experts.start`.

A prepared configuration names each by its folder and the SHA-256 of its weights, `FOLDER#SHA-256`, because the content of a
folder may change: a run is resumed, an expert reused and a cell of a grid taken for the same only where the content is the same.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab.adapters import peft_folder
from lab.core.errors import LabError

PINNED = re.compile(r"(.+)#([0-9a-f]{64})")


def pinned(start: dict[str, str], runs: str | Path | None = None) -> dict[str, str]:
    """Every saved expert as FOLDER#SHA-256, from that, from a folder, or from RUN/EXPERT in the folder of runs.

    Raises LabError for what is not there, and for what has changed since it was pinned.
    """
    adapters = {}
    for name, given in start.items():
        match = PINNED.fullmatch(given)
        folders = peft_folder.named(match[1] if match else given, runs)
        if len(folders) != 1:
            raise LabError(f"experts.start.{name}: '{given}' is {len(folders)} experts: name one of {', '.join(folders)}")
        (folder,) = folders.values()
        try:
            content = peft_folder.digest(folder)
        except LabError as error:
            raise LabError(f"experts.start.{name}: {error}") from None
        if match and content != match[2]:
            raise LabError(
                f"experts.start.{name}: the expert in {folder} has changed since the run was prepared: start a new run"
            )
        adapters[name] = f"{folder.resolve()}#{content}"
    return adapters


def folder(given: str) -> Path:
    """The folder of a pinned expert."""
    return Path(_parts(given)[0])


def _parts(given: str) -> tuple[str, str]:
    """Folder and SHA-256 of a pinned expert."""
    match = PINNED.fullmatch(given)
    assert match, f"{given} was not pinned"
    return match[1], match[2]


def digests(start: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the weights that these experts begin with; without those that are drawn."""
    return {name: _parts(start[name])[1] for name in names if name in start}
