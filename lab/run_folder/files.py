"""The files of a run folder, which others may have written or damaged: all readers of a run open them here. No torch."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from lab.core import atomic_io, documents
from lab.core.errors import LabError
from lab.run_folder import expected_fields

LARGEST = {".json": 1 << 24, ".yaml": 1 << 20, ".jsonl": 1 << 28, ".txt": 1 << 28, ".parquet": 1 << 29}  # bytes that are read
LARGEST_ARRAYS = 1 << 36  # bytes of a safetensors file, of which only what is asked for is read
TAIL = 1 << 16  # bytes of the end of a file that are enough for its newest lines

Found = TypeVar("Found", Path, BinaryIO)


class RunFiles:
    """The files of one run folder; two are equal if they are of the same folder."""

    def __init__(self, folder: Path):
        self.dir = Path(folder)
        self._contents: dict[str, tuple[Any, dict[str, Any]]] = {}  # of JSON files and of metrics, each with its stamp
        self.id = os.fsencode(self.dir.name).decode("utf-8", "backslashreplace")  # others may have made the folder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunFiles) and self.dir == other.dir

    def __hash__(self) -> int:
        return hash(self.dir)

    def damaged(self, what: object) -> LabError:
        """The error for a folder in which something is wrong."""
        return LabError(f"run '{self.id}' is damaged: {what}")

    def file(self, name: str) -> Path:
        """A file of the run for a library that opens it by its path. This and `opened` are the door to all files of a run.

        Raises FileNotFoundError, and LabError for what is no regular file of bearable size within the folder of runs.
        """
        return self._checked_file(documents.regular, name)

    def opened(self, name: str) -> BinaryIO:
        """A file of the run, open for reading; raises as `file`."""
        return self._checked_file(documents.opened, name)

    def _checked_file(self, door: Callable[[Path, int, Path], Found], name: str) -> Found:
        try:
            return door(self.dir / name, LARGEST.get(Path(name).suffix, LARGEST_ARRAYS), self.dir.parent)
        except LabError as error:
            raise self.damaged(f"{name} {error}") from error

    def bytes_of(self, name: str) -> bytes:
        """The content of a file of the run; raises as `file`."""
        with self.opened(name) as file:
            return file.read()

    def tail(self, name: str) -> bytes:
        """The last bytes of a file of the run; none if it is missing."""
        try:
            with self.opened(name) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
                return file.read(TAIL)
        except FileNotFoundError:
            return b""

    def _json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file, {} if it is missing; read again only once it has changed."""
        path = f"{self.dir}/{name}"  # as text, since lists of thousands of runs ask often
        stamp = atomic_io.stamp(path)
        if stamp is None and not os.path.lexists(path):  # cheap, as most runs lack some
            return {}
        if stamp is None or self._contents.get(name, (None,))[0] != stamp:
            try:
                content = documents.json_value(self.bytes_of(name))
            except FileNotFoundError:
                return {}
            except ValueError as error:
                raise self.damaged(f"{name} cannot be read ({error})") from error
            self._contents[name] = stamp, self._checked(name, content, "JSON object")
        return dict(self._contents[name][1])

    def _checked(self, name: str, content: Any, kind: str) -> dict[str, Any]:
        """The content of a file if its fields are of the types that readers expect."""
        if not isinstance(content, dict):
            raise self.damaged(f"{name} holds no {kind}")
        if fault := expected_fields.fault(name, content):
            raise self.damaged(f"{name}: {fault}")
        return content
