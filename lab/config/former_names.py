"""Options under the names they had in earlier versions: read for one more version, with a warning that says the new name."""

import warnings
from collections.abc import Mapping
from typing import Any

from lab.core.errors import LabError, Notice

FORMER = {  # old path -> new path
    "memory_training": "router_training",
    "train.classes": "train.loss_classes",
    "transfer": "protocol",
}
PLUGIN = {"transfer": "transfer"}  # sections that hold the options of a plug-in by now: old path -> name of the plug-in


class FormerName(Notice):
    """An option was given under a former name."""


def current(path: str) -> str:
    """A dotted option path under its present name."""
    return next((new + path.removeprefix(old) for old, new in FORMER.items() if _under(old, path)), path)


def current_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted option path under their present names."""
    plugins = {f"{FORMER[old]}.name": name for old, name in PLUGIN.items() if any(_under(old, path) for path in settings)}
    return plugins | {current(path): value for path, value in settings.items()}


def _under(section: str, path: str) -> bool:
    """Whether a dotted path is a section or lies in it."""
    return path == section or path.startswith(f"{section}.")


def renamed(content: Mapping[str, Any], warn: bool = True) -> dict[str, Any]:
    """Plain nested settings under their present names; the input is left as it is.

    Raises LabError where an option is given under both names. `warn=False` for what an earlier version of the lab wrote itself.
    """
    settings = dict(content)
    for old, new in FORMER.items():
        *sections, name = old.split(".")
        *_, new_name = new.split(".")
        parent = settings
        for section in sections:
            inner = parent.get(section)
            if not isinstance(inner, Mapping):
                break
            parent[section] = dict(inner)
            parent = parent[section]
        else:
            if name not in parent:
                continue
            if new_name in parent:
                raise LabError(f"{old} is the former name of {new}: give it once, as {new}")
            value = parent.pop(name)
            if old in PLUGIN and isinstance(value, Mapping):
                value = {"name": PLUGIN[old], **value}
            if old not in PLUGIN or value is not None:  # null was how to do without the plug-in
                parent[new_name] = value
            if warn:
                warnings.warn(f"{old} is called {new} now; the old name works in this version only", FormerName, stacklevel=3)
    return with_consolidation(settings, warn)


def with_consolidation(settings: dict[str, Any], warn: bool) -> dict[str, Any]:
    """Clustering of experts (mbc), which was a router that held another one, as a consolidation beside that router."""
    router = settings.get("router")
    if not isinstance(router, Mapping) or router.get("name") != "mbc":
        return settings
    if warn:
        warnings.warn("router=mbc is consolidation=mbc now; the old name works in this version only", FormerName, stacklevel=4)
    choice = router.get("choice", {"name": "arrow"})
    choice = {"name": choice} if isinstance(choice, str) else dict(choice)
    own = {name: value for name, value in router.items() if name not in ("choice", "heads")}
    heads = {"heads": router["heads"]} if "heads" in router else {}
    return settings | {"router": choice | heads, "consolidation": own}
