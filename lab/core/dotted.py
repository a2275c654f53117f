"""Nested mappings by dotted path: {'a': {'b': 1}} and 'a.b'."""

from collections.abc import Mapping
from typing import Any


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} as {'a.b': 1}; an empty mapping is a value."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
    return leaves


def pick(values: Any, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    for part in path.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def nested(path: str, value: Any) -> dict[str, Any]:
    """'a.b' and 1 as {'a': {'b': 1}}."""
    name, _, rest = path.partition(".")
    return {name: nested(rest, value) if rest else value}
