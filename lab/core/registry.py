"""Plug-ins that are found by being there: one file in a folder, one class in the file.

A registry belongs to a folder of the package (`lab/routers`, `lab/experts`, ...). Each file in it defines one
class that carries the same name as the file in its `name` attribute and declares its options as a nested pydantic
model `Options`. The options are what `-o`, recipes, forms and the documentation are generated from.
"""

import importlib
import pkgutil
from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from lab.core.errors import LabError, unknown

CONTRACT = "base"  # the file of a folder that holds what its plug-ins have in common; it is none itself


class Options(BaseModel):
    """Options of a plug-in: every field has a default and a description; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: str = ""


class Plugin(ABC):
    """What every plug-in class has: a name, a sentence about itself (its docstring), and options."""

    name: ClassVar[str]
    Options: ClassVar[type[Options]] = Options

    @classmethod
    def about(cls) -> str:
        """First paragraph of the docstring as one line."""
        return " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())

    @classmethod  # noqa: B027 (nothing to refuse is a good answer)
    def check(cls, config: Any) -> None:
        """Refuse what cannot work together with the rest of a `RunConfig`; raises LabError. Default: everything works."""

    @classmethod  # noqa: B027
    def check_tasks(cls, config: Any, tasks: Sequence[Any]) -> None:
        """Refuse tasks that it cannot work on, before a model is loaded; raises LabError. Default: none."""


class Registry:
    """Named plug-ins of one kind, one per file of `package`; a broken file is reported only when asked for."""

    def __init__(self, kind: str, package: str):
        self.kind, self.package = kind, package

    def names(self) -> list[str]:
        """All plug-in names, sorted; no plug-in is imported."""
        folder = importlib.import_module(self.package)
        found = (module.name for module in pkgutil.iter_modules(folder.__path__))
        return sorted(name.replace("_", "-") for name in found if name != CONTRACT and not name.startswith("_"))

    def get(self, name: str) -> Any:
        """The plug-in class called `name`; raises LabError for an unknown name or a file that cannot be imported."""
        if name not in self.names():
            raise unknown(self.kind, name, self.names())
        path = f"{self.package}.{name.replace('-', '_')}"
        try:
            module = importlib.import_module(path)
        except Exception as error:
            raise LabError(f"{self.kind} '{name}' is broken: importing {path} failed: {error!r}") from error
        for value in vars(module).values():
            if isinstance(value, type) and vars(value).get("name") == name and value.__module__ == path:
                return value
        raise LabError(f"{self.kind} '{name}' is broken: {path} defines no class with name = '{name}'")

    def options(self, given: Any, section: str = "") -> Options:
        """Validated options from a name, a mapping with a `name`, or options already validated; `section` is named in errors."""
        if isinstance(given, Options):
            return given
        fields = {"name": given} if isinstance(given, str) else given
        if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
            raise LabError(f"{section or self.kind} = {given!r}: needs a name, one of {', '.join(self.names())}")
        model = self.get(fields["name"]).Options
        try:
            return model(**fields)
        except ValidationError as error:
            raise LabError(explain(error, model, section or f"{self.kind} {fields['name']}")) from error


def explain(error: ValidationError, model: type[BaseModel], section: str = "") -> str:
    """One line for what is wrong with the values of `model`: the field, the value and what is allowed, or the nearest name."""
    problems = [(problem, *_place(problem["loc"], model)) for problem in error.errors()]
    misspelt = {tuple(path[:-1]) for problem, path, _ in problems if problem["type"] == "extra_forbidden"} - {()}
    told = dict[str, None]()
    for problem, path, within in problems:
        section_of = tuple(path[:-1] if problem["type"] == "missing" else path)
        if section_of not in misspelt:  # else the misspelt name says why it is no member of a union, or what is missing
            told[_explain(problem, path, within, section)] = None
    return "; ".join(told)


def _place(loc: Sequence[int | str], model: type[BaseModel]) -> tuple[list[str], type[BaseModel] | None]:
    """Where a problem is: the names of fields, without those of members of unions, and the model that has the last one."""
    path, kinds, within = list[str](), (model,), None
    for part in map(str, loc):
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if part == "str" or part.startswith(("list[", "literal[", "constrained-int")):
            continue
        if named := [kind for kind in models if kind.__name__ == part]:
            kinds = named
            continue
        path, within = [*path, part], next(iter(models), None)
        kinds = ()
        if within and part in within.model_fields:
            annotation = within.model_fields[part].annotation
            kinds = (annotation, *get_args(annotation))  # of an optional section, or of a union
    return path, within


def _explain(problem: Any, path: Sequence[str], within: type[BaseModel] | None, section: str) -> str:
    if problem["type"] == "extra_forbidden":
        place = ".".join(filter(None, [section, *path[:-1]]))
        return str(unknown(f"option of {place}" if place else "option", path[-1], within.model_fields if within else ()))
    where, message = ".".join(filter(None, [section, *path])), problem["msg"].removeprefix("Value error, ")
    return f"{where} = {problem['input']!r}: {message[:1].lower()}{message[1:]}"


routers = Registry("router", "lab.routers")
experts = Registry("expert kind", "lab.experts")
methods = Registry("method", "lab.methods")
streams = Registry("stream", "lab.data.streams")
protocols = Registry("protocol", "lab.protocols")
metrics = Registry("metric", "lab.metrics")
