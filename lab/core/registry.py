"""Plug-ins that are found by being there: one file in a folder, one class in the file.

A registry belongs to a folder of the package (`lab/routers`, `lab/experts`, ...). Each file in it defines one class that carries
the same name as the file in its `name` attribute and declares its options as a nested pydantic model `Options`. The options are
what `-o`, recipes, forms and the documentation are generated from. Plug-ins of your own may lie elsewhere, see `Registry`.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache, partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, field_validator

from lab.core.errors import LabError, unknown
from lab.core.option_errors import explain
from lab.core.source_text import SourceText, source_of

PLUGINS = "LAB_PLUGINS"  # environment variable: folders of plug-ins of your own, separated as in PATH
TEXT = "__text__"  # of a module outside of the package: what it was loaded from
HERE = ", registered in this process"
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")  # of a plug-in
CONTRACT = "base"  # the file of a folder that holds what its plug-ins have in common; it is none itself


class Fields(BaseModel):
    """Values that people write: unknown fields are refused, and neither text nor true and false are read as numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _as_written(cls, value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        result = read(value)
        if _is_converted(value, result):
            raise ValueError(f"input should be of type {type(result).__name__}, and is not converted")
        return result


def _is_converted(value: Any, result: Any) -> bool:
    """Whether pydantic made a number, or true or false, of text or of the other; also within lists and mappings."""
    if isinstance(value, list) and isinstance(result, list):
        return any(map(_is_converted, value, result))
    if isinstance(value, dict) and isinstance(result, dict):
        return any(_is_converted(value[name], inner) for name, inner in result.items() if name in value)
    if isinstance(result, bool) or isinstance(value, bool):
        return type(value) is not type(result)
    return isinstance(value, str) and isinstance(result, int | float)


class Options(Fields):
    """Options of a plug-in: every field has a default and a description."""

    name: str = ""


OptionsClass = type[Options]


class Plugin(ABC):
    """What every plug-in class has: a name, a sentence about itself (its docstring), and options."""

    kind: ClassVar[str] = ""  # set by the contract of each kind: the first word of the registry's
    required: ClassVar[Sequence[str]] = ()  # attributes without a default that instances may change; set by the contract
    name: ClassVar[str]
    Options: ClassVar[OptionsClass] = Options

    @classmethod
    def about(cls) -> str:
        """First paragraph of the docstring as one line."""
        return _first_paragraph(cls.__doc__)

    @classmethod  # noqa: B027 (nothing to refuse is a good answer)
    def check(cls, config: Any) -> None:
        """Refuse what cannot work together with the rest of a `RunConfig`; raises LabError. Default: everything works."""

    @classmethod  # noqa: B027
    def check_tasks(cls, config: Any, tasks: Sequence[Any]) -> None:
        """Refuse tasks that it cannot work on, before a model is loaded; raises LabError. Default: none."""


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def plugin_folders(name: str = "") -> list[Path]:
    """The folders of plug-ins that `LAB_PLUGINS` names, or their subfolders `name`."""
    return [Path(folder).expanduser() / name for folder in os.environ.get(PLUGINS, "").split(os.pathsep) if folder]


@cache
def _entry_points(group: str) -> metadata.EntryPoints:
    """What installed packages offer to a group; read once in a process."""
    return metadata.entry_points(group=group)


class Source(NamedTuple):
    """Where a plug-in comes from, what loads its module, or its class itself, and the file it stands in where that is known."""

    origin: str
    load: Callable[[], Any]
    file: Path | None = None
    shipped: bool = False


class OwnPlugin(NamedTuple):
    """A plug-in that is not shipped, as a run keeps it.

    `origin`: where it was, without the names of folders. `source`: its text, None where none is kept. `missing`: names that the
    text uses and does not define.
    """

    kind: str
    name: str
    file: str  # its path in a folder of `LAB_PLUGINS`
    origin: str
    source: str | None
    missing: tuple[str, ...] = ()

    @property
    def digest(self) -> str | None:
        """SHA-256 of the text."""
        return None if self.source is None else hashlib.sha256(self.source.encode()).hexdigest()


class Registry:
    """Named plug-ins of one kind, one per file of `package`; a broken file is reported only when asked for.

    Beside the package: files of the folders in `LAB_PLUGINS`, either in a subfolder that is called like the package
    (`routers/mine.py`), or directly there with the kind as an attribute of the class (`kind = "router"`); entry points of
    installed packages in the group `lab.<folder>` (`lab.routers`); and classes that were registered in this process.
    """

    def __init__(self, kind: str, package: str):
        self.kind, self.package = kind, package
        self.folder = package.rpartition(".")[2]
        self.registered: dict[str, type[Plugin]] = {}

    def names(self) -> list[str]:
        """All plug-in names, sorted; no plug-in is imported."""
        return sorted(self._sources())

    def _sources(self) -> dict[str, list[Source]]:
        """Where the plug-ins of each name come from."""
        sources: dict[str, list[Source]] = {}
        for folder in importlib.import_module(self.package).__path__:
            for name, source in _shipped(self.package, folder, os.stat(folder).st_mtime_ns):
                sources.setdefault(name, []).append(source)
        for file in self._files():
            sources.setdefault(_plugin_name(file.stem), []).append(Source(str(file), partial(load_file, file), file))
        for point in _entry_points(f"lab.{self.folder}"):
            sources.setdefault(point.name, []).append(Source(f"{point.value} of an installed package", point.load))
        for name, plugin in self.registered.items():
            if not any(_is_found(plugin, source) for source in sources.get(name, [])):
                sources.setdefault(name, []).append(Source(_address(plugin) + HERE, partial(_same, plugin)))
        return sources

    def add(self, plugin: type[Plugin]) -> None:
        """Offer a class under its name, in place of the one that the same place held before.

        Raises LabError for a class that is not complete, and for a name that another plug-in has.
        """
        if problem := fault(plugin):
            raise LabError(problem)
        others = [
            source.origin
            for source in self._sources().get(plugin.name, [])
            if not (_is_found(plugin, source) or source.origin == _address(plugin) + HERE)
        ]
        if others:
            raise LabError(
                f"{self.kind} '{plugin.name}' is there already ({others[0]}): give {plugin.__name__} another name, "
                f'for example name = "my-{plugin.name}"'
            )
        former = [name for name, other in self.registered.items() if _address(other) == _address(plugin)]
        for name in former:
            del self.registered[name]
        self.registered[plugin.name] = plugin

    def own(self, name: str) -> OwnPlugin | None:
        """The plug-in called `name` as a run keeps it; None for a shipped one. Raises LabError as `get`."""
        source = self._sources().get(name, [None])[0]
        if source is None or source.shipped:
            return None
        plugin = self.get(name)
        kind, file = self.kind.split()[0], f"{self.folder}/{name.replace('-', '_')}.py"
        origin = f"{source.file.name} in {PLUGINS}" if source.file else source.origin.removesuffix(HERE)
        text = SourceText(vars(sys.modules[plugin.__module__])[TEXT]) if source.file else source_of(plugin)
        return OwnPlugin(kind, name, file, origin, text and text.text, text.missing if text else ())

    def own_of_process(self) -> list[OwnPlugin]:
        """The plug-ins that were registered in this process, where others do not find them."""
        names = [name for name in self.registered if self._sources()[name][0].origin.endswith(HERE)]
        return [own for name in names if (own := self.own(name))]

    def signature(self) -> tuple[str, ...]:
        """What changes whenever another plug-in would be found; classes of this process are its own."""
        own = {name: f"{name} {os.getpid()}.{id(plugin)}" for name, plugin in self.registered.items()}
        return tuple(own.get(name, name) for name in self.names())

    def _files(self) -> Iterator[Path]:
        """Files of `LAB_PLUGINS` that hold plug-ins of this kind, without running them."""
        of_class = re.compile(rf"^\s+kind\b[^=\n]*=\s*[\"']{self.kind.split()[0]}[\"']", re.MULTILINE)
        for folder in plugin_folders():
            yield from (file for file in sorted((folder / self.folder).glob("*.py")) if is_plugin(file.stem))
            for file in sorted(folder.glob("*.py")):
                if is_plugin(file.stem) and of_class.search(file.read_text(encoding="utf-8", errors="replace")):
                    yield file

    def get(self, name: str) -> Any:
        """The plug-in class called `name`.

        Raises LabError for an unknown name, for one that several plug-ins have, and for a file that cannot be imported.
        """
        sources = self._sources()
        if name not in sources:
            raise unknown(self.kind, name, sources)
        if len(sources[name]) > 1:
            origins = " and in ".join(source.origin for source in sources[name])
            raise LabError(f"{self.kind} '{name}' is defined in {origins}: rename all but one of them")
        (source,) = sources[name]
        try:
            loaded = source.load()
        except Exception as error:
            raise LabError(
                f"{self.kind} '{name}' is broken: importing {source.origin} failed: {type(error).__name__}: {error}"
            ) from error
        own = [loaded] if isinstance(loaded, type) else [v for v in vars(loaded).values() if defined_in(v, loaded)]
        for value in own:
            if isinstance(value, type) and vars(value).get("name") == name:
                if problem := fault(value):
                    raise LabError(f"{self.kind} '{name}' is broken: {problem}")
                return value
        names = ", ".join(f"{value.__name__} has '{vars(value)['name']}'" for value in own if "name" in vars(value))
        raise LabError(
            f"{self.kind} '{name}' is broken: {source.origin} defines no class with name = '{name}'{f' ({names})' * bool(names)}"
        )

    def about(self, name: str) -> str:
        """The sentence of a plug-in about itself, read from its file, which is not run; that of one without a file is loaded.

        What is wrong with the file, or with the plug-in that is loaded, is said in place of it.
        """
        source = self._sources()[name][0]
        try:
            if source.file is None:
                return self.get(name).about()
            classes = [node for node in ast.parse(source.file.read_bytes()).body if isinstance(node, ast.ClassDef)]
        except (LabError, OSError, SyntaxError, ValueError) as error:
            return f"broken: {error}"
        own = [node for node in classes if any(ast.unparse(part) == f"name = {name!r}" for part in node.body)]
        return _first_paragraph(ast.get_docstring(own[0])) if own else f"broken: no class with name = '{name}'"

    def build(self, options: Options) -> Any:
        """The plug-in that these options name, made from them alone."""
        return self.get(options.name)(options)

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


def register(plugin: type[Plugin]) -> None:
    """Offer a class to the registry of its kind, see `Registry.add`."""
    if not (isinstance(plugin, type) and issubclass(plugin, Plugin) and plugin.kind in BY_KIND):
        bases = ", ".join(f"lab.{name.title()}" for name in BY_KIND)
        raise LabError(f"{getattr(plugin, '__name__', plugin)!r} is no plug-in: derive the class from one of {bases}")
    BY_KIND[plugin.kind].add(plugin)


@cache
def fault(plugin: type) -> str:
    """What a class leaves out that its contract asks for; empty if it is complete."""
    what = plugin.__name__
    if not issubclass(plugin, Plugin) or not plugin.kind:
        return f"{what} derives from no contract, as lab.Router or lab.Method"
    if not isinstance(vars(plugin).get("name"), str):
        return f'{what} has no name of its own: write name = "{what.lower()}" in the class'
    if not NAME.fullmatch(plugin.name):
        near = re.sub("[^a-z0-9]+", "-", plugin.name.lower()).strip("-") or what.lower()
        return f"the name {plugin.name!r} of {what} must be of the characters a-z 0-9 -, and begin with no -: write '{near}'"
    if plugin.__abstractmethods__:
        return f"{what} leaves out {', '.join(sorted(plugin.__abstractmethods__))}, which its contract asks for"
    for owner in plugin.__mro__:
        for name, annotation in vars(owner).get("__annotations__", {}).items():
            if get_origin(annotation) is ClassVar and not hasattr(plugin, name):
                return f"{what} leaves out {name}, which its contract asks for: see {owner.__module__}"
    if missing := [name for name in plugin.required if not hasattr(plugin, name)]:
        return f"{what} leaves out {missing[0]}, which its contract asks for"
    contract = next(owner for owner in reversed(plugin.__mro__) if vars(owner).get("kind"))
    arguments = [*inspect.signature(contract).parameters]
    try:
        inspect.signature(plugin).bind(*arguments)
    except TypeError:
        return f"{what} is made with ({', '.join(arguments)}), its __init__ takes {inspect.signature(plugin)}"
    if not (isinstance(plugin.Options, type) and issubclass(plugin.Options, contract.Options)):
        return f"{what}.Options must derive from {contract.Options.__name__}"
    if needed := [name for name, field in plugin.Options.model_fields.items() if field.is_required()]:
        return f"option {needed[0]} of {what} has no default: every option has one"
    return ""


def _address(plugin: type) -> str:
    return f"{plugin.__module__}.{plugin.__qualname__}"


def _same(plugin: type) -> type:
    return plugin


def _is_found(plugin: type, source: Source) -> bool:
    """Whether a source is the place where this very class stands, so that it need not be registered to be found."""
    if source.file:
        return Path(getattr(sys.modules.get(plugin.__module__), "__file__", None) or "") == source.file
    return source.origin.startswith(f"{plugin.__module__}:{plugin.__qualname__} ")


@lru_cache(maxsize=64)
def _shipped(package: str, folder: str, changed: int) -> tuple[tuple[str, Source], ...]:
    """The plug-ins in a folder of the package by their names, sorted; looked for again once the folder has changed."""
    files = [file for file in Path(folder).glob("*.py") if is_plugin(file.stem)]
    packages = [file for file in Path(folder).glob("*/__init__.py") if is_plugin(file.parent.name)]
    paths = {file: f"{package}.{_module_of(file)}" for file in sorted(files + packages)}
    loads = {file: partial(importlib.import_module, path) for file, path in paths.items()}
    return tuple((_plugin_name(_module_of(file)), Source(path, loads[file], file, True)) for file, path in paths.items())


def _module_of(file: Path) -> str:
    return file.parent.name if file.stem == "__init__" else file.stem


def is_plugin(stem: str) -> bool:
    """Whether a file of this name, without its ending, holds a plug-in."""
    return stem != CONTRACT and not stem.startswith("_")


def _plugin_name(stem: str) -> str:
    return stem.replace("_", "-")


def defined_in(value: Any, module: ModuleType) -> bool:
    """Whether it is a class that the module defines, and did not import."""
    return isinstance(value, type) and value.__module__ == module.__name__


def load_file(file: Path) -> ModuleType:
    """The module of a file outside of the package, imported once in a process."""
    name = f"lab_plugins.{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}.{file.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec and spec.loader, f"{file} is no Python file"
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        vars(module)[TEXT] = file.read_text(encoding="utf-8", errors="replace")  # of what is loaded: the file may change
        try:
            spec.loader.exec_module(module)
        except BaseException:  # so that the next attempt fails too
            del sys.modules[name]
            raise
    return sys.modules[name]


routers = Registry("router", "lab.routers")
experts = Registry("expert kind", "lab.experts")
consolidations = Registry("consolidation", "lab.consolidation")
methods = Registry("method", "lab.methods")
streams = Registry("stream", "lab.data.streams")
protocols = Registry("protocol", "lab.protocols")
metrics = Registry("metric", "lab.metrics")
trackers = Registry("tracker", "lab.tracking")
ALL = (routers, experts, consolidations, methods, streams, protocols, metrics)
BY_KIND = {registry.kind.split()[0]: registry for registry in ALL}  # by the word in `Plugin.kind`
