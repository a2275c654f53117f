"""The options of a configuration: an entry per field of a pydantic model, and overrides for those that changed.

The entries follow a configured object, not only its class, so that the options of the chosen plug-ins appear too.
"""

import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lab.config.resolve import merged, written
from lab.core import dotted
from lab.core.documents import yaml_value

WORDS = {"lr": "learning rate", "per_task": "per task", "max_train": "most training examples"}  # of names that say too little


@dataclass(frozen=True)
class Entry:
    """One option: its dotted path, what it means, its value in the recipe, and which values are allowed."""

    path: str
    about: str
    default: Any
    kind: str  # "bool", "int", "float", "choice", "text", "names"
    optional: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    free: bool = False  # a whole number is allowed besides the choices

    @property
    def section(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def title(self) -> str:
        """The last part of the path as a label, after its section: "router_training.lr" -> "Router training: learning rate"."""
        section, _, name = self.path.rpartition(".")
        words = WORDS.get(name, name.replace("_", " "))
        return f"{section.rpartition('.')[2].replace('_', ' ').capitalize()}: {words}" if section else words.capitalize()

    def matches(self, search: str) -> bool:
        """Whether every word of a search stands in its path, title or description."""
        text = f"{self.path} {self.title} {self.about}".lower()
        return all(word in text for word in search.lower().split())

    @property
    def step(self) -> float:
        """How much one press of + or - changes a number: 1, or the power of ten of its size."""
        if self.kind == "int":
            return 1
        return 10.0 ** math.floor(math.log10(abs(self.default))) if self.default else 0.1


def entries(
    model: BaseModel, choices: Mapping[str, Sequence[str]], hidden: Sequence[str] = (), prefix: str = ""
) -> Iterator[Entry]:
    """All options of a configured model, in order; `choices` holds allowed names for paths whose type is only text."""
    for name, field in type(model).model_fields.items():
        path, value = prefix + name, getattr(model, name)
        if path in hidden:
            continue
        if isinstance(value, BaseModel):
            yield from entries(value, choices, hidden, f"{path}.")
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                if isinstance(inner, BaseModel):
                    yield from entries(inner, choices, (*hidden, f"{path}.{key}.name"), f"{path}.{key}.")
        elif not any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in get_args(field.annotation)):
            yield entry(path, field, value, choices.get(path, ()))  # an optional section that is not there has no entries


def limit(field: FieldInfo, *names: str) -> float | None:
    """The first bound of a field among these names ("ge", "lt", ...); None if it has none."""
    bounds = (getattr(item, name, None) for item in field.metadata for name in names)
    return next((bound for bound in bounds if bound is not None), None)


def entry(path: str, field: FieldInfo, value: Any, choices: Sequence[str] = ()) -> Entry:
    """The entry of one field with its value."""
    types_allowed = (
        get_args(field.annotation) if get_origin(field.annotation) in (Union, types.UnionType) else (field.annotation,)
    )
    kinds = [kind for kind in types_allowed if kind is not type(None)]
    optional = len(kinds) < len(types_allowed)
    low, high = limit(field, "ge", "gt"), limit(field, "le", "lt")
    about = field.description or ""
    if any(get_origin(kind) is list for kind in kinds):
        return Entry(path, about, value, "names", optional, choices=tuple(choices))
    if get_origin(kinds[0]) is Literal:
        names = tuple(str(choice) for choice in get_args(kinds[0]))
        return Entry(path, about, value, "choice", optional, choices=names, free=len(kinds) > 1)
    if choices:
        return Entry(path, about, value, "choice", optional, choices=tuple(dict.fromkeys([*choices, str(value)])))
    kind = {bool: "bool", int: "int", float: "float"}.get(kinds[0], "text")
    return Entry(path, about, value, kind, optional, low, high)


def overrides(entries: Sequence[Entry], values: Mapping[str, Any]) -> list[str]:
    """`key=value` for every option whose value differs from that of the recipe."""
    changed = [entry for entry in entries if entry.path in values and not same(values[entry.path], entry.default)]
    return [f"{entry.path}={written(values[entry.path])}" for entry in changed]


def same(first: Any, second: Any) -> bool:
    """Equality that treats an empty list, an empty text and None as equal, and floats up to rounding."""
    if isinstance(first, float) and isinstance(second, float | int):
        return math.isclose(first, second, rel_tol=1e-9)
    return (first or None) == (second or None) if not isinstance(first, bool | int | float) else first == second


def nested(changes: Sequence[str]) -> dict[str, Any]:
    """Overrides as a nested mapping, for a recipe file: ["train.lr=0.1"] -> {"train": {"lr": 0.1}}."""
    mapping: dict[str, Any] = {}
    for text in changes:
        path, _, value = text.partition("=")
        mapping = merged(mapping, dotted.nested(path, yaml_value(value, path)))
    return mapping
