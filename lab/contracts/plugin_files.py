"""The checks of everything that a file, a folder or an entry point offers, for `lab check-plugin`."""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lab.config.registration import register
from lab.config.resolve import configure
from lab.contracts import experts, methods, metrics, routers, streams
from lab.contracts.checking import Broken, Check, documentation_check, title
from lab.contracts.tiny_run import new_session, runs_stops_and_goes_on_to_the_same_numbers, tasks
from lab.core import registry
from lab.core.errors import LabError, RunFailed
from lab.core.plugin_errors import at_fault
from lab.core.registry import Plugin

QUICK = {
    "router": routers.CHECKS,
    "expert": experts.CHECKS,
    "method": methods.CHECKS,
    "stream": streams.CHECKS,
    "metric": metrics.CHECKS,
    "protocol": (documentation_check(registry.protocols),),
    "consolidation": (documentation_check(registry.consolidations),),
}
TRAINED = ("router", "expert", "method", "protocol", "consolidation")  # kinds that a run of a second can be made of


class Outcome(NamedTuple):
    """One check of one plug-in: what is wrong and how to mend it, empty if nothing is."""

    kind: str
    name: str
    check: str
    problem: str


def checks(kind: str) -> dict[str, Check]:
    """All checks of a kind by what they are called in lists."""
    named = {title(check): check for check in QUICK[kind]}
    run = runs_stops_and_goes_on_to_the_same_numbers
    return named | ({title(run): partial(run, kind)} if kind in TRAINED else {})


def outcomes(target: str) -> Iterator[Outcome]:
    """The checks of everything that the file, the folder, or the entry point `package.module:Class` offers.

    Of each plug-in up to the first one that fails. What is checked is registered in this process. Raises LabError where there is
    nothing to check.
    """
    offered = list(_offered(target))
    if not offered:
        raise LabError(f"{target} offers no plug-in: a class derived from lab.Router, lab.Method, ..., or a recipe (.yaml)")
    for what in offered:
        yield from _of_recipe(what) if isinstance(what, Path) else _of_class(what)


def _offered(target: str) -> Iterator[type[Plugin] | Path]:
    """The classes and the recipes of a target."""
    path = Path(target).expanduser()
    if path.is_dir():
        subfolders = [kind.folder for kind in registry.ALL] + ["recipes"]
        for folder in (path, *(path / name for name in subfolders)):
            files = [
                file for file in sorted(folder.glob("*")) if file.suffix in (".py", ".yaml") and registry.is_plugin(file.stem)
            ]
            for file in files:
                yield from _offered(str(file))
    elif path.suffix in (".yaml", ".yml") and path.is_file():
        yield path
    elif path.suffix == ".py" and path.is_file():
        yield from _classes(path)
    elif ":" in target and not path.exists():
        module, _, name = target.partition(":")
        try:
            yield getattr(importlib.import_module(module), name)
        except Exception as error:
            raise LabError(f"{target} cannot be imported: {type(error).__name__}: {error}") from error
    else:
        raise LabError(f"{target} is neither a Python file, a recipe (.yaml), a folder, nor an entry point package.module:Class")


def _classes(file: Path) -> list[type[Plugin]]:
    """The plug-in classes of a file: those that have a name, or that derive from a contract and nothing here derives from."""
    try:
        module = registry.load_file(file.resolve())
    except Exception as error:
        raise LabError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    own: list[type] = [value for value in vars(module).values() if registry.defined_in(value, module)]
    plugins = [value for value in own if issubclass(value, Plugin) and value.kind]
    bases = {base for value in plugins for base in value.__mro__[1:]}
    return [value for value in plugins if "name" in vars(value) or value not in bases]


def _of_class(plugin: type[Plugin]) -> Iterator[Outcome]:
    kind, name = plugin.kind, str(vars(plugin).get("name", plugin.__name__))
    complete = Outcome(kind, name, "it is complete", "")
    try:
        register(plugin)
    except LabError as error:
        yield complete._replace(problem=str(error))
        return
    yield complete
    try:
        options = registry.BY_KIND[kind].options(name)
    except Exception as error:
        yield Outcome(kind, name, "its options are valid by default", _problem(error))
        return
    for check_name, check in checks(kind).items():  # later ones rest on what earlier ones found right
        outcome = Outcome(kind, name, check_name, _tried(check, options))
        yield outcome
        if outcome.problem:
            return


def _of_recipe(file: Path) -> Iterator[Outcome]:
    valid = Outcome("recipe", file.stem, "it is valid", _tried(configure, str(file)))
    yield valid
    if not valid.problem:
        yield valid._replace(check="it runs on two small tasks", problem=_tried(_train, str(file)))


def _train(recipe: str) -> None:
    for _ in new_session(recipe, of=tasks()).train():
        pass


def _tried(check: Callable[[Any], object], argument: Any) -> str:
    """What a check finds wrong with its argument; empty if nothing."""
    try:
        check(argument)
    except Exception as error:
        return _problem(error)
    return ""


def _problem(error: Exception) -> str:
    if isinstance(error, Broken | LabError | RunFailed):
        return str(error)
    return at_fault(error) or f"{type(error).__name__}: {error}"
