"""What is wrong with options that somebody wrote, in one line: the field, the value and what is allowed, or the nearest name."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from lab.core.errors import unknown

SHOWN = 300  # characters of a wrong value


def explain(error: ValidationError, model: type[BaseModel], section: str = "") -> str:
    """One line for what is wrong with the values of `model`: the field, the value and what is allowed, or the nearest name."""
    problems = [(problem, *_place(problem, model)) for problem in error.errors()]
    misspelt = {tuple(path[:-1]) for problem, path, _ in problems if problem["type"] == "extra_forbidden"} - {()}
    messages = dict[str, None]()
    for problem, path, within in problems:
        section_of = tuple(path[:-1] if problem["type"] == "missing" else path)
        if section_of not in misspelt:  # else the misspelt name says why it is no member of a union, or what is missing
            messages[_explain(problem, path, within, section)] = None
    return "; ".join(messages)


def _place(problem: Any, model: type[BaseModel]) -> tuple[list[str], type[BaseModel] | None]:
    """Where a problem is: the names of fields, without those of members of unions, and the model that has the last one."""
    path, kinds, within = list[str](), (model,), None
    foreign = len(problem["loc"]) - 1 if problem["type"] == "extra_forbidden" else None  # a name that somebody wrote
    for number, part in enumerate(map(str, problem["loc"])):
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if path and number != foreign:  # what follows a name may be a member of a union
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
        owner = ".".join(filter(None, [section, *path[:-1]]))
        return str(unknown(f"option of {owner}" if owner else "option", path[-1], within.model_fields if within else ()))
    where, message = ".".join(filter(None, [section, *path])), problem["msg"].removeprefix("Value error, ")
    return f"{where} = {_short(problem['input'])}: {message[:1].lower()}{message[1:]}"


def _short(value: Any) -> str:
    """A value as it is written in Python, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
