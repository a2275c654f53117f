"""Folders of the Hugging Face hub: from the local cache, or downloaded into it."""

import re
from collections.abc import Sequence
from pathlib import Path

from lab.core.errors import LabError

ID = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?", re.ASCII)  # OWNER/NAME or OWNER/NAME@REVISION
CACHED = re.compile(r"(?:.*[/\\])?models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\](\w+)[/\\]?", re.ASCII)


def snapshot(word: str, files: Sequence[str], more: Sequence[str] = ()) -> Path:
    """The folder of a hub id with these files of it; a revision that is a whole commit is not asked for again.

    `more`: patterns of further files that are fetched.

    Raises LabError if it is neither in the cache nor can be had.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    match = ID.fullmatch(word)
    assert match, f"{word} is no hub id"
    name, revision = match.groups()
    try:
        cached_only = constants.HF_HUB_OFFLINE  # else some versions ask for the list of files all the same
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*files, *more], local_files_only=cached_only))
    except LocalEntryNotFoundError:
        raise LabError(
            f"'{word}' is not in the cache of the hub, and the hub cannot be reached: download it where there is a network "
            f"(hf download {name}), and name the folder or copy the cache (HF_HOME)"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise LabError(f"'{word}' cannot be had from the hub: {reason}; name a folder, RUN/EXPERT, or OWNER/NAME") from None
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise LabError(f"'{word}' on the hub holds no {missing[0]}: it is nothing that was saved as safetensors for the lab")
    return folder


def id_of(name: str) -> str | None:
    """The hub id that a name is, or that a snapshot folder of the cache belongs to."""
    cached = CACHED.fullmatch(name)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    match = ID.fullmatch(name)
    return match[1] if match else None


def cached_folder(name: str) -> Path | None:
    """The snapshot of a hub id that is in the local cache, if there is one."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, "config.json")
    return Path(path).parent if isinstance(path, str) else None
