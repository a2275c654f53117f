"""The one place that writes files: whole, then renamed, so that a reader never meets half a file."""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lab.core import documents
from lab.core.errors import LabError

UnreadableArrays = SafetensorError  # what `read_arrays` raises for a damaged file


def replace_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically and durably (temporary file in the same folder, fsync, rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_bytes(temporary, content)
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: Path, what: str) -> None:
    """LabError if no file can be written there; nothing is left behind. `what` the file is, in a word."""
    folder = path.parent
    reason = "it is a folder" if path.is_dir() else "" if folder.is_dir() else f"there is no folder {folder}"
    if not reason and not os.access(path if path.exists() else folder, os.W_OK):
        reason = "permission denied"
    if reason:
        raise LabError(f"the {what} {path} cannot be written: {reason}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a new file and wait until its content is on the disk."""
    with open(path, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system and the kind of disk can say so."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    replace_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_yaml(path: Path, content: Any) -> None:
    replace_bytes(path, documents.yaml_text(content).encode())


def write_arrays(path: Path, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """numpy arrays as safetensors, with string metadata; the same content gives the same bytes."""
    replace_bytes(path, array_bytes(arrays, metadata))


def array_bytes(arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file of numpy arrays, with string metadata."""
    import numpy as np
    from safetensors.numpy import save

    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # others are written in the order of memory
    content = save(ordered, metadata=dict(metadata or {}))
    return _metadata_in_order(content) if len(metadata or {}) > 1 else content


def _metadata_in_order(content: bytes) -> bytes:
    """A safetensors file whose metadata stands sorted by name: the library writes it in an order of chance."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Arrays and metadata of a safetensors file; neither torch nor pickle is involved."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}, handle.metadata() or {}  # noqa: SIM118


def stamp(path: str | Path) -> tuple[int, int, int] | None:
    """What changes with the content of a file: its inode, time (ns) and size (bytes); None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
