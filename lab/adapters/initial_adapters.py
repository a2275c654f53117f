"""Experts that begin as saved ones in place of a random draw: option `experts.start`.

A prepared configuration names each by its folder, or its hub id with the commit, and the SHA-256 of its content,
`FOLDER#SHA-256`, because the content of a folder may change: a run is resumed, an expert reused and a cell of a grid taken for
the same only where the content is the same.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab.adapters import hub, peft_folder
from lab.core.errors import LabError

PINNED = re.compile(r"(.+)#([0-9a-f]{64})")


def pinned(start: dict[str, str], runs: str | Path | None = None) -> dict[str, str]:
    """Every saved expert as FOLDER#SHA-256, from that, from a folder, from RUN/EXPERT in the folder of runs, or from a hub id.

    Raises LabError for what is not there, and for what has changed since it was pinned.
    """
    adapters = {}
    for name, given in start.items():
        match = PINNED.fullmatch(given)
        try:
            folders = peft_folder.named(match[1] if match else given, runs)
        except LabError as error:
            raise LabError(f"experts.start.{name}: {error}") from None
        if len(folders) != 1:
            raise LabError(f"experts.start.{name}: '{given}' is {len(folders)} experts: name one of {', '.join(folders)}")
        ((word, folder),) = folders.items()
        try:
            content = peft_folder.content_digest(folder)
            if match and match[2] == peft_folder.digest(folder):  # as earlier versions pinned: of the weights alone
                content = match[2]
        except LabError as error:
            raise LabError(f"experts.start.{name}: {error}") from None
        if match and content != match[2]:
            raise LabError(
                f"experts.start.{name}: the expert in {folder} has changed since the run was prepared: start a new run"
            )
        of_hub = None if Path(word).is_dir() else hub.CACHED.fullmatch(str(folder))
        adapters[name] = f"{hub.id_of(word)}@{of_hub[3]}#{content}" if of_hub else f"{folder.resolve()}#{content}"
    return adapters


def layers(start: Mapping[str, str], kind: str) -> list[str]:
    """Names of the layers that pinned experts of this kind have, those of poolers left out."""
    names = {layer for saved in read(start).values() if saved.kind.lower() == kind for layer in saved.layers()}
    return sorted(name for name in names if "pooler" not in name.split("."))


def read(start: Mapping[str, str]) -> dict[str, peft_folder.SavedAdapter]:
    """Pinned experts by name. Raises LabError, which names the expert, for one that is not read exactly."""
    adapters = {}
    for name, given in start.items():
        try:
            adapters[name] = peft_folder.read(folder(given))
        except LabError as error:
            raise LabError(f"experts.start.{name}: {error}") from None
    return adapters


def folder(given: str) -> Path:
    """The folder of a pinned expert."""
    (place,) = peft_folder.named(_parts(given)[0]).values()
    return place


def _parts(given: str) -> tuple[str, str]:
    """Folder and SHA-256 of a pinned expert."""
    match = PINNED.fullmatch(given)
    assert match, f"{given} was not pinned"
    return match[1], match[2]


def digests(start: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of what these experts begin with; without those that are drawn."""
    return {name: _parts(start[name])[1] for name in names if name in start}
