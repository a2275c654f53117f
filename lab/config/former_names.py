"""Options under the names they had in earlier versions: read for one more version, with a warning that says the new name."""

import warnings
from collections.abc import Mapping
from typing import Any

from lab.core.errors import LabError

FORMER = {"memory_training": "router_training", "train.classes": "train.loss_classes"}  # old path -> new path


class FormerName(UserWarning):
    """An option was given under a former name."""


def current(path: str) -> str:
    """A dotted option path under its present name."""
    for old, new in FORMER.items():
        if path == old or path.startswith(f"{old}."):
            return new + path.removeprefix(old)
    return path


def renamed(content: Mapping[str, Any], warn: bool = True) -> dict[str, Any]:
    """Plain nested settings under their present names; the input is left as it is.

    Raises LabError where an option is given under both names. `warn=False` for what an earlier version of the lab wrote itself.
    """
    settings = dict(content)
    for old, new in FORMER.items():
        *sections, name = old.split(".")
        *_, new_name = new.split(".")
        place = settings
        for section in sections:
            inner = place.get(section)
            if not isinstance(inner, Mapping):
                break
            place[section] = dict(inner)
            place = place[section]
        else:
            if name not in place:
                continue
            if new_name in place:
                raise LabError(f"{old} is the former name of {new}: give it once, as {new}")
            place[new_name] = place.pop(name)
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
