"""Files that others may have written, read without trust: what can be misread, or costs too much, is refused in one line.

YAML is that of version 1.2 (core schema, https://yaml.org/spec/1.2.2/#103-core-schema), so `yes`, `on`, `1:30` and dates are text
and 010 is ten. Names are text and stand once; anchors, aliases and tags are refused. JSON has names once and finite numbers.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import yaml

from lab.core.errors import LabError

LARGEST = 1 << 20  # bytes of a file that people write
NODES, DEPTH = 50_000, 40  # values of a YAML text, and how deep YAML and JSON may be nested
DIGITS = 20  # of an integer in JSON
PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one where it is there
WORDS = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    word: value for value in (True, False) for word in (str(value), str(value).lower(), str(value).upper())
}
INTEGER = re.compile(r"[-+]?[0-9]{1,20}|0o[0-7]{1,20}|0x[0-9a-fA-F]{1,16}")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


# -- files -----------------------------------------------------------------------------------------------------------------


def regular(path: Path, most: int, within: Path | None = None) -> Path:
    """The file that `path` leads to, links followed.

    Raises FileNotFoundError, and LabError for what is no regular file (a FIFO would never end), has more than `most` bytes, or,
    through a link, lies outside of the folder `within`. The message continues a sentence that begins with the name of the file.
    """
    target = path if within is not None and _has_no_link(path, within) else Path(os.path.realpath(path))
    if within is not None and target is not path and not target.is_relative_to(os.path.realpath(within)):
        raise LabError("is a link that leaves the folder of runs")
    try:
        status = os.stat(target)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
    except (OSError, ValueError) as error:  # too long a name, a loop of links; a zero byte
        raise LabError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(status.st_mode):
        raise LabError("is a folder, no file" if stat.S_ISDIR(status.st_mode) else "is no regular file")
    if status.st_size > most:
        raise LabError(f"has {status.st_size:,} bytes, at most {most:,} are read")
    return target


def _has_no_link(path: Path, within: Path) -> bool:
    """Whether `path` is a way through folders of `within` itself: far quicker to see than where links lead."""
    parts = path.parts[len(within.parts) :]
    if path.parts[: len(within.parts)] != within.parts or ".." in parts:
        return False
    return not any(os.path.islink(os.path.join(within, *parts[:depth])) for depth in range(1, len(parts) + 1))


def opened(path: Path, most: int = LARGEST, within: Path | None = None) -> BinaryIO:
    """A file that is `regular`, open for reading; raises as that does."""
    target = regular(path, most, within)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)  # should it have been exchanged just now
    try:
        return open(target, "rb", opener=lambda name, _: os.open(name, flags))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LabError(f"cannot be read ({error.strerror})") from error


def read_yaml(path: Path, what: str) -> Any:
    """The value of a YAML file that people write; LabError, beginning with `what` it is, for all that is wrong with it."""
    try:
        with opened(path) as file:
            return yaml_value(file.read(), what)
    except FileNotFoundError:
        raise LabError(f"there is no {what.split()[0]} file {path}") from None
    except LabError as error:
        raise error if str(error).startswith(what) else LabError(f"{what} {error}") from error


# -- YAML ------------------------------------------------------------------------------------------------------------------


def yaml_value(text: str | bytes, what: str) -> Any:
    """The value of a YAML text of one document; LabError names `what` it is and the line that is wrong."""
    if len(text) > LARGEST:
        raise LabError(f"{what} is longer than {LARGEST:,} characters")
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        text.encode()  # lone surrogates, as of a command line that is no UTF-8
        events = _Events(yaml.parse(text, PARSER))
        value = events.value()
        events.end()
        return value
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise LabError(f"{what}{line}: not valid YAML ({error.problem})") from error
    except yaml.YAMLError as error:  # a character that YAML forbids
        raise LabError(f"{what}: not valid YAML ({getattr(error, 'reason', None) or 'unreadable'})") from error
    except UnicodeError as error:
        raise LabError(f"{what}: not valid YAML (it is not UTF-8)") from error


class _Events:
    """What a parser finds in a YAML text, one after the other, and the values that these make."""

    def __init__(self, events: Iterator[Any]):
        self.events, self.nodes = events, 0

    def value(self) -> Any:
        """The value of the first document; None for an empty text."""
        for event in self.events:
            if not isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
                return None if isinstance(event, yaml.StreamEndEvent) else self._node(event, 0)
        return None

    def end(self) -> None:
        """Refuse a second document."""
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                _refuse(event, "only one document is read")

    def _node(self, event: Any, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > NODES or depth > DEPTH:
            _refuse(event, f"at most {NODES:,} values are read" if self.nodes > NODES else f"nested deeper than {DEPTH} levels")
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            _refuse(event, "anchors and aliases (& and *) are not read: write the value out, or put text in quotation marks")
        if event.tag:
            _refuse(event, "tags (!) are not read: put text in quotation marks")
        if isinstance(event, yaml.ScalarEvent):
            event.value.encode()  # half a character, written as an escape, raises UnicodeEncodeError
            return _plain(event.value) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._node(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        mapping: dict[str, Any] = {}
        for key in self._until(yaml.MappingEndEvent):
            name = self._node(key, depth + 1)
            if not isinstance(name, str) or name == "<<":
                _refuse(key, f"the name {name!r} is no text: put it in quotation marks")
            if name in mapping:
                _refuse(key, f"the name {name!r} stands there twice")
            mapping[name] = self._node(next(self.events), depth + 1)
        return mapping

    def _until(self, end: type) -> Iterator[Any]:
        for event in self.events:
            if isinstance(event, end):
                return
            yield event


def _refuse(event: Any, problem: str) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _plain(text: str) -> Any:
    """The value of a scalar without quotation marks."""
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if FLOAT.fullmatch(text):
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    return text


class _Dumper(yaml.SafeDumper):
    """Puts text in quotation marks that either version of YAML would read as something else."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", INTEGER, list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def yaml_text(value: Any, **style: Any) -> str:
    """A value as YAML that `yaml_value` reads back; names in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style)


# -- JSON ------------------------------------------------------------------------------------------------------------------


def json_value(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError for what is none, and for what Python's parser lets pass or cannot bear."""
    try:
        value = json.loads(
            text.decode("utf-8-sig") if isinstance(text, bytes) else text,
            object_pairs_hook=unique,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH} levels") from None
    _refuse_odd(value, 0)
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these names and values, for `json.loads`; ValueError for a name that stands there twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return content


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a whole number has {len(text):,} digits, at most {DIGITS} are read")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:DIGITS]} is too large")
    return number


def _refuse_odd(value: Any, depth: int) -> None:
    """ValueError for deep nesting, and for half a character, which cannot be shown or written."""
    if depth > DEPTH:
        raise ValueError(f"nested deeper than {DEPTH} levels")
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_odd(name, depth)
            _refuse_odd(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _refuse_odd(inner, depth + 1)
    elif isinstance(value, str) and not value.isascii():
        value.encode()  # UnicodeEncodeError is a ValueError
