"""From saved adapters to the configuration of a run that routes them: kind, rank and layers, backbone, router, examples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.adapters import initial_adapters
from lab.adapters.base_model import Base, compare
from lab.adapters.peft_folder import SavedAdapter
from lab.config.resolve import Overrides, changes_of, configure, read_recipe, recipe_names, written
from lab.config.schema import RunConfig
from lab.core import registry
from lab.core.dotted import pick
from lab.core.errors import LabError, unknown
from lab.data import loading
from lab.models.pretrained import BUILT_IN, locate

STEPS = 200  # of training on the memory, once, where a recipe has such a training before each evaluation; 80 cost two points
RECIPE = "l2r"  # whose router, memory and settings are taken where no other recipe is named


def configuration(
    experts: Mapping[str, str | Path],
    examples: Any,
    router: str | None = None,
    recipe: str | None = None,
    overrides: Overrides = (),
    runs: str | Path | None = None,
    **settings: Any,
) -> RunConfig:
    """The configuration with which ready experts are routed.

    `experts`: adapters by the task that each is for: folders, RUN/EXPERT or hub ids. `examples`: a stream with these tasks.
    `router`: a router, or a recipe whose router and settings are taken; `recipe`: all else (default: l2r). `overrides` and
    `settings` as for `lab.run`; they come last. Raises LabError for adapters that cannot act side by side.
    """
    if not experts:
        raise LabError("there is no expert to route: name at least one, a task and its adapter")
    start = initial_adapters.pinned({name: str(word) for name, word in experts.items()}, runs)
    saved = initial_adapters.read(start)
    kind = registry.experts.get(_kind(saved))
    options = {"name": kind.name, "allocation": "per_task", "isolated": True, "targets": [], "skip": 0.0, "start": start}
    options |= kind.options_for([adapter.config for adapter in saved.values()])
    chosen = [f"experts={written(options)}", "protocol=ready-experts", f"stream.tasks={written([*experts])}"]
    if router in registry.routers.names():
        chosen.append(f"router={router}")
    elif router is not None and router not in recipe_names():
        raise unknown("router", router, [*registry.routers.names(), RECIPE])
    changes = changes_of(overrides)
    if "backbone" not in settings and not any(pick(change, "backbone.name") for change in changes):
        settings["backbone"] = _backbone(saved)
    base = recipe or (router if router in recipe_names() else RECIPE)
    if recipe is None and read_recipe(base).get("router_training", {}).get("steps"):
        chosen.append(f"router_training.steps={STEPS}")
    config = configure(base, [*chosen, *changes], stream=examples, **settings)
    tasks = loading.open_stream(config.stream.name, config.stream.sources, runs).names()
    if without := [name for name in experts if name not in tasks]:
        raise unknown("task in the examples, of expert", without[0], tasks)
    return config


def _kind(saved: Mapping[str, SavedAdapter]) -> str:
    """The one kind of these experts."""
    kinds = {name: adapter.kind.lower() for name, adapter in saved.items()}
    (first, kind), *others = kinds.items()
    for name, other in others:
        if other != kind:
            raise LabError(f"experts.start.{name} is of kind {other}, {first} of kind {kind}: route experts of one kind")
    return kind


def _backbone(saved: Mapping[str, SavedAdapter]) -> str:
    """The backbone that all of them belong to, by the name under which the lab finds it."""
    named = {name: adapter for name, adapter in saved.items() if adapter.base.name}
    if not named:
        raise LabError("no adapter says which backbone it belongs to: name it, --backbone NAME")
    first, *others = named
    ours = _as_built_in(named[first].base) or named[first].base
    for name in others:
        try:
            compare(named[name].base, ours)
        except LabError as error:
            raise LabError(f"experts.start.{name} and experts.start.{first} are of two backbones: {error}") from None
    return ours.name


def _as_built_in(theirs: Base) -> Base | None:
    """One of the lab's own backbones, if that is what an adapter belongs to."""
    for name in BUILT_IN:
        source = locate(name)
        ours = Base(name, theirs.digest, tuple(word for word in (source.path, source.hub_id) if word))
        if theirs.name in ours.names or theirs.hub_ids() & ours.hub_ids() or _same_files(theirs, ours):
            return ours
    return None


def _same_files(theirs: Base, ours: Base) -> bool:
    """Whether both are here, with the same weights."""
    try:
        return theirs.folder() is not None and ours.folder() is not None and not compare(Base(theirs.name), ours)
    except LabError:
        return False
