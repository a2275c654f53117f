"""From a recipe and overrides to a checked configuration, and back to the command that gives it.

Precedence: defaults < recipe file < what fits the stream < `-o key=value`. Everything is checked before a model is loaded.
"""

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lab.config.former_names import renamed
from lab.config.schema import CUSTOM, RunConfig, Section
from lab.config.validation import consistent
from lab.core import names, plugin_errors, registry
from lab.core.documents import read_yaml, yaml_text, yaml_value
from lab.core.dotted import nested
from lab.core.errors import LabError, unknown
from lab.core.option_errors import explain

RECIPES = Path(__file__).parent / "recipes"
LIST = re.compile(r"[\w.+-]+,|[\w.+-]+(,[\w.+-]+)+")  # words with commas between them, which no shell expands as it does [a,b]
LONGEST = 200  # characters of the path of an option
GROUPS = ("bounds", "replay", "regularisation", "isolated and routed", "multi-task", "other")  # of recipes, in listings
NAMED = ("stream", "backbone", "experts", "router", "consolidation", "protocol")  # sections that may be given by their name alone

# -- recipes ---------------------------------------------------------------------------------------------------------------


_registered: dict[str, dict[str, Any]] = {}  # recipes of this process by name


def recipe_names() -> list[str]:
    """Names of the shipped recipes, of those in `LAB_PLUGINS`, and of those that were registered in this process, sorted."""
    return sorted({*_registered, *(path.stem for folder in _folders() for path in folder.glob("*.yaml"))})


def add_recipe(name: str, content: dict[str, Any]) -> None:
    """Offer a recipe under its name, in place of one that was registered before.

    Raises LabError for settings that cannot be, and for the name of a recipe that has a file.
    """
    if not registry.NAME.fullmatch(name):
        raise LabError(f"the name of a recipe must be of the characters a-z 0-9 -: {name[:60]!r}")
    if files := [path for folder in _folders() if (path := folder / f"{name}.yaml").is_file()]:
        raise LabError(f"recipe '{name}' is there already ({files[0].name}): give it another name, for example 'my-{name}'")
    former = _registered.get(name)
    _registered[name] = content
    try:
        configure(name)
    except LabError:
        _registered.pop(name) if former is None else _registered.update({name: former})
        raise


def _folders() -> list[Path]:
    return [RECIPES, *registry.plugin_folders("recipes")]


def _file_of(name: str) -> Path:
    """The file of a recipe that is called by its name; LabError for an unknown one, and for one that stands in two folders."""
    files = [path for folder in _folders() if (path := folder / f"{name}.yaml").is_file()]
    if not files:
        raise unknown("recipe", name, recipe_names())
    if len(files) > 1:
        raise LabError(f"recipe '{name}' is defined in {' and in '.join(map(str, files))}: rename all but one of them")
    return files[0]


def recipes() -> list[dict[str, Any]]:
    """Name, description, group in listings, paper ("" where there is none) and settings of every recipe that has a name."""
    contents = {name: _read(name, Path(), ()) for name in recipe_names()}
    return [
        {"name": name, "about": content.get("about", ""), "group": content.pop("group", GROUPS[-1])}
        | {"paper": content.pop("paper", ""), "settings": content}
        for name, content in contents.items()
    ]


def read_recipe(name: str) -> dict[str, Any]:
    """Settings of a recipe by its name or of a YAML file; a recipe may start from another one named by `base`."""
    content = _read(name, Path(), ())
    for name_of_listing in ("group", "paper"):
        content.pop(name_of_listing, None)
    return content


def _read(name: str, beside: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe over its bases; files are found relative to the folder `beside`; `above` are the recipes that lead here."""
    if problem := names.fault(name, path=True):
        raise LabError(f"the name of a recipe {problem}: {name[:60]!r}")
    own = _registered.get(name)
    path = beside / name if name.endswith((".yaml", ".yml")) else Path(name) if own else _file_of(name)
    if path.resolve() in above:
        raise LabError(f"recipe {path.name} is its own base: {' > '.join(p.name for p in (*above, path))}")
    content = own or read_yaml(path, f"recipe {path.name}") or {}
    if not isinstance(content, dict):
        raise LabError(f"recipe {path.name} must be a mapping of options to values, not {type(content).__name__}")
    content = renamed(content)
    if content.get("group", GROUPS[0]) not in GROUPS:
        raise unknown(f"group of recipe {path.name}", str(content["group"]), GROUPS)
    base = content.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise LabError(f"recipe {path.name}: base = {base!r} must be the name of a recipe or a YAML file")
    start = _read(base, path.parent, (*above, path.resolve())) if base else {}
    start.pop("paper", None)  # a recipe that changes another one is not of its paper
    return merged(start, content) | {"recipe": content.get("recipe", path.stem)}


def merged(base: Any, change: Any) -> Any:
    """`change` over `base`, section by section; naming another plug-in drops the options of the old one."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if "name" in base and change.get("name", base["name"]) != base["name"]:
        base = {}
    return base | {key: merged(base.get(key), value) for key, value in change.items()}


# -- overrides -------------------------------------------------------------------------------------------------------------


def parse_override(text: str) -> dict[str, Any]:
    """`a.b=value` as a nested mapping; the value is read as YAML (numbers, true, null, [lists]), `a,b` and `a,` as lists."""
    key, equals, value = text.partition("=")
    path = key.strip()
    if not equals or not path or len(path) > LONGEST:
        raise LabError(f"'{text[:LONGEST]}' is not an option: write key=value, for example train.lr=0.001")
    value = f"[{value}]" if LIST.fullmatch(value) else value
    parsed = yaml_value(value, f"the value of '{path}' cannot be read: {value[:LONGEST]}")
    return _change_of(path, parsed)


Overrides = Mapping[str, Any] | Sequence[str | Mapping[str, Any]]  # values by dotted name, or a list of `key=value` and such


def changes_of(overrides: Overrides) -> list[dict[str, Any]]:
    """Overrides as nested mappings: texts are read as YAML, values of a mapping stand as they are, None for null.

    LabError for what names no option.
    """
    changes: list[dict[str, Any]] = []
    for override in [overrides] if isinstance(overrides, Mapping) else overrides:
        if isinstance(override, Mapping):
            changes += [_change_of(path, value) for path, value in override.items()]
        else:
            changes.append(parse_override(override))
    return changes


def _change_of(path: str, value: Any) -> dict[str, Any]:
    """The change that gives the option at a dotted path this value; the name of a plug-in stands for it."""
    if not isinstance(path, str) or not path or len(path) > LONGEST:
        raise LabError(f"{path!r:.{LONGEST}} is not an option: write its dotted name, for example 'train.lr'")
    return nested(f"{path}.name" if path in NAMED and isinstance(value, str) else path, value)


def written(value: Any) -> str:
    """A value as YAML on one line, as `-o` reads it."""
    if isinstance(value, float):
        return f"{value:g}" if math.isclose(float(f"{value:g}"), value, rel_tol=1e-12) else repr(value)
    if isinstance(value, str) and LIST.fullmatch(value):
        return f'"{value}"'
    if isinstance(value, str) and value:
        with suppress(LabError):  # what cannot be read stands in quotes
            if yaml_value(value, "it") == value:
                return value
    text = yaml_text(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def command_line(content: dict[str, Any]) -> str:
    """The shortest `lab run` that computes what the resolved configuration `content` says.

    Raises LabError for a configuration that options over the recipes of this version cannot express.
    """
    beyond = "this configuration cannot be written as options over a recipe of this version"
    try:
        content = typed(content).to_dict()  # a version without some of today's options may have written it
    except LabError as error:
        raise LabError(f"{beyond}: {error}") from error
    for recipe in dict.fromkeys([content["recipe"] if content["recipe"] in recipe_names() else CUSTOM, CUSTOM]):
        changes = [f"{path}={written(value)}" for path, value in _differences(configure(recipe).to_dict(), content)]
        for change in list(changes):  # naming a plug-in brings its defaults, so some say nothing
            rest = [other for other in changes if other != change]
            changes = rest if _gives(recipe, rest, content) else changes
        if _gives(recipe, changes, content):
            return shlex.join(["lab", "run", recipe, *(word for change in changes for word in ("-o", change))])
    raise LabError(beyond)


def _differences(base: Any, wanted: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options of `wanted` that are not those of `base`, by dotted path; another plug-in comes with all of its options."""
    base = base if isinstance(base, dict) and base.get("name") == wanted.get("name") else {}
    for name, value in wanted.items():
        if isinstance(value, dict) and value:
            yield from _differences(base.get(name), value, f"{prefix}{name}.")
        elif prefix + name != "about" and base.get(name, ...) != value:
            yield prefix + name, value


def _gives(recipe: str, changes: Sequence[str], content: dict[str, Any]) -> bool:
    """Whether these options over a recipe are this configuration; what it is about does not count."""
    try:
        return configure(recipe, changes).to_dict() | {"about": ""} == content | {"about": ""}
    except LabError:
        return False


def configure(recipe: str = CUSTOM, overrides: Overrides = (), **settings: Any) -> RunConfig:
    """A validated configuration: defaults < recipe < what fits the stream < overrides (`key=value`) < settings.

    `settings` are top-level fields, or `stream`, `backbone`, `router` given by name, or a stream itself. Raises LabError with the
    nearest valid name for a misspelt one.
    """
    change: dict[str, Any] = {}  # first on their own: `-o router.heads=2 -o router=oracle` keeps the heads
    for override in changes_of(overrides):
        change = merged(change, renamed(override))
    for name, value in settings.items():
        value = getattr(value, "reference", value)  # of a stream that was opened or saved
        change = merged(change, renamed({name: {"name": value} if name in NAMED and isinstance(value, str) else value}))
    return validated(merged(start(recipe, change), change))


def start(recipe: str, change: dict[str, Any]) -> dict[str, Any]:
    """What `change` is laid over: a recipe, with what fits the stream that is then in use."""
    content = read_recipe(recipe) if recipe != CUSTOM else {"recipe": CUSTOM}
    return fitted(content, _stream(merged(content, change)))


def fitted(content: dict[str, Any], stream: str | None) -> dict[str, Any]:
    """A recipe with the settings that fit a stream; they give way to those of a recipe that names the stream itself."""
    fit = registry.streams.get(stream).fit if stream in registry.streams.names() else {}
    return merged(fit, content) if _stream(content) == stream else merged(content, fit)


def _stream(content: dict[str, Any]) -> str | None:
    """The name of the stream in plain settings; None where several are joined, or none is named."""
    given = content.get("stream")
    given = {"name": given} if isinstance(given, str) else given
    return given.get("name") if isinstance(given, dict) and not given.get("sources") else None


def validated(content: dict[str, Any]) -> RunConfig:
    """RunConfig from plain values; every mistake is one line that names the field and what is allowed."""
    with plugin_errors.named():
        return consistent(typed(content))


def completed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version wrote, with the options it did not have at their defaults; those of plug-ins aside."""
    settings = dict(content)
    for name, field in RunConfig.model_fields.items():
        if isinstance(field.default, Section):
            settings[name] = field.default.model_dump(mode="json") | settings.get(name, {})
        elif not isinstance(field.default, dict):  # a plug-in by its name
            settings.setdefault(name, field.default)
    return settings


def typed(content: dict[str, Any]) -> RunConfig:
    """The same without the question whether the settings go together, for a form that is still being filled."""
    content = renamed(content)
    content = {name: {"name": value} if name in NAMED and isinstance(value, str) else value for name, value in content.items()}
    default_plugins = {
        name: field.default
        for name, field in RunConfig.model_fields.items()
        if isinstance(field.default, dict) and "name" in field.default
    }
    content = merged(default_plugins, content)
    try:
        return RunConfig(**content)
    except ValidationError as error:
        raise LabError(explain(error, RunConfig)) from error
