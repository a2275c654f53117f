"""What the shell completes: names of recipes, runs, streams and plug-ins, and options with their values. Loads no torch."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin

from lab.core.errors import LabError

Completed = list[tuple[str, str]]  # words, each with a sentence about it
PLUGINS = {
    "router": "routers",
    "experts": "experts",
    "consolidation": "consolidations",
    "protocol": "protocols",
    "stream": "streams",
}  # sections of the configuration and the registries of their names

BACKBONES = {
    "minilm": "all-MiniLM-L6-v2, 22M parameters, shipped with the package; the default",
    "tiny": "a random two-layer encoder for tests",
    "strings": "a small decoder that knows basic string skills; goes with the stream strings",
    "owner/model or folder": "any encoder or decoder, of the hub or a folder",
}


def _when_readable(complete: Callable[[str], Completed]) -> Callable[[str], Completed]:
    """A completion that offers nothing where something cannot be read."""

    def guarded(incomplete: str) -> Completed:
        with suppress(LabError, OSError):
            return complete(incomplete)
        return []

    return guarded


@_when_readable
def recipes(incomplete: str) -> Completed:
    from lab.config.resolve import recipes

    return [(recipe["name"], recipe["about"]) for recipe in recipes()]


def names(kind: str) -> Callable[[str], Completed]:
    """The plug-ins of a registry, `streams` for example."""

    @_when_readable
    def complete(incomplete: str) -> Completed:
        from lab.core import registry

        return [(name, "") for name in getattr(registry, kind).names()]

    return complete


@_when_readable
def backbones(incomplete: str) -> Completed:
    return [(name, about) for name, about in BACKBONES.items() if " " not in name]


def runs(ctx: Any, incomplete: str) -> Completed:
    """Runs of the folder that the command line names, or the usual one, and recorded examples."""
    from lab.run_folder.run import examples
    from lab.store import index

    with suppress(LabError, OSError):
        return [(run.id, "") for run in (*index.runs(ctx.params.get("runs")), *index.runs(examples()))]
    return []


@_when_readable
def assignments(incomplete: str) -> Completed:
    """`key=`, and after it the values that are known; bash takes `=` for the end of a word and wants the value alone."""
    key, equals, _ = incomplete.partition("=")
    words = os.environ.get("COMP_WORDS", "").split()
    position = int(os.environ.get("COMP_CWORD", "0"))
    if words and "=" in words[position - 1 : position + 1]:
        key = words[position - (1 if words[position : position + 1] == ["="] else 2)]
        return [(value, "") for value in _values(key)]
    if equals:
        return [(f"{key}={value}", "") for value in _values(key)]
    return [(f"{path}=", about) for path, about, _ in _options()]


def _options() -> Iterator[tuple[str, str, Any]]:
    """Every option that is no plug-in's own: dotted path, what it is, and its type."""
    from lab.config.schema import RunConfig, Section

    for name, field in RunConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for inner, option in field.annotation.model_fields.items():
                yield f"{name}.{inner}", option.description or "", option.annotation
        else:
            yield name, field.description or "", field.annotation


def _values(key: str) -> list[str]:
    if key in PLUGINS or key.removesuffix(".name") in PLUGINS:
        return [name for name, _ in names(PLUGINS[key.removesuffix(".name")])("")]
    kind = next((kind for path, _, kind in _options() if path == key), None)
    if kind is bool:
        return ["true", "false"]
    return [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else []
