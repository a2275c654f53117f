"""Plug-ins and recipes of one's own, offered by `lab.register` for as long as this process lives."""

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from lab.config.resolve import add_recipe
from lab.core import atomic_io, registry
from lab.core.documents import read_yaml, yaml_value
from lab.core.errors import LabError

Offered = TypeVar("Offered", bound=type | dict[str, Any] | str | Path)


def register(offered: Offered, name: str | None = None) -> Offered:
    """Offer a class of one's own under its `name`, or a recipe, and return it: `@lab.register class Mine(lab.Router)`.

    What kind of plug-in a class is follows from its base (`lab.Router`, `lab.Method`, `lab.Expert`, `lab.Stream`, `lab.Metric`,
    `lab.Protocol`, `lab.Consolidation`). A recipe is a mapping, YAML, or a path to it, called `name`, as its field `recipe` says,
    or like its file. The same class again, from a cell that is run again, takes the place of the one before. Raises LabError for
    what is not complete, and for a name that is taken.
    """
    if isinstance(offered, type):
        registry.register(offered)
        return offered
    content: Any = offered
    if isinstance(offered, Path) or (isinstance(offered, str) and offered.endswith((".yaml", ".yml"))):
        content = read_yaml(Path(offered), f"recipe {Path(offered).name}")
        name = name or Path(offered).stem
    elif isinstance(offered, str):
        content = yaml_value(offered, "the recipe cannot be read")
    if not isinstance(content, dict):
        raise LabError(f"a plug-in is a class, and a recipe a mapping of options to values, not {type(content).__name__}")
    name = name or content.get("recipe")
    if not isinstance(name, str):
        raise LabError('a recipe needs a name: lab.register(recipe, name="mine")')
    add_recipe(name, content)
    return offered


def environment() -> dict[str, str]:
    """The environment of a process that is to find what was registered in this one: its sources in a folder of LAB_PLUGINS."""
    own = [plugin for kind in registry.ALL for plugin in kind.own_of_process() if plugin.source is not None]
    if not own:
        return dict(os.environ)
    for plugin in own:
        atomic_io.replace_bytes(_sources() / plugin.file, (plugin.source or "").encode())
    return os.environ | {registry.PLUGINS: os.pathsep.join([str(_sources()), os.environ.get(registry.PLUGINS, "")])}


@cache
def _sources() -> Path:
    """A folder that only this user can write into; it stays, since the processes that read it outlive this one."""
    return Path(tempfile.mkdtemp(prefix="lab-plugins-"))
