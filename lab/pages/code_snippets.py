"""Python and commands that show the same as a page, written so that they work anywhere on this machine."""

import os
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from lab.pages.recorded_examples import is_own, is_packaged
from lab.run_folder.run import Run, root

PACKAGE_EXAMPLES = '"$(python -c "import lab; print(lab.__path__[0])")/examples"'  # the folder of examples, for a shell


def python_of(
    draw: Callable[..., Any], table: Callable[..., Any] | None, arguments: tuple[Any, ...], options: dict[str, Any]
) -> str:
    """The lines that draw a figure outside of the page: `draw(*arguments, **options)`; then `table(*arguments)`, its numbers."""
    names: dict[str, str] = {}  # expression that opens a run -> its variable

    def expression(value: Any) -> str:
        if isinstance(value, Run):
            return names.setdefault(open_expression(value), f"run{len(names) + 1}")
        return f"[{', '.join(map(expression, value))}]" if isinstance(value, list) else repr(value)

    positional = [expression(value) for value in arguments]
    call = ", ".join([*positional, *(f"{name}={expression(value)}" for name, value in options.items())])
    lines = ["import lab", "", *(f"{name} = {opening}" for opening, name in names.items()), f"{_public_name(draw)}({call})"]
    if table and table.__name__ != "<lambda>":
        lines.append(f"{_public_name(table)}({', '.join(positional)})")
    return "\n".join(lines)


def _public_name(function: Callable[..., Any]) -> str:
    """Where a function is offered: `lab.views.labels` is defined in a module of the package `lab.views`."""
    return ".".join([*function.__module__.split(".")[:2], function.__name__])


def open_expression(run: Run) -> str:
    """The Python expression that opens a run, wherever it is evaluated."""
    if is_packaged(run):
        return f"lab.Run.open({run.id!r}, lab.__path__[0] + '/examples')"
    return f"lab.Run.open({', '.join(map(repr, [run.id, *_folder_to_name(run)]))})"


def command_of(runs: Sequence[Run], option: str = "--json") -> str:
    """The command that prints the results of these runs (or does what another `option` says), wherever it is typed."""
    folders = {run: PACKAGE_EXAMPLES if is_packaged(run) else "".join(map(shlex.quote, _folder_to_name(run))) for run in runs}
    several = len(set(folders.values())) > 1
    names = [f"{folder}/{run.id}" if several and folder else run.id for run, folder in folders.items()]
    runs_options = "" if several else "".join(f" --runs {folder}" for folder in {*folders.values()} if folder)
    return f"lab {'show' if len(names) == 1 else 'compare'} {' '.join(names)} {option}{runs_options}"


def runs_option() -> str:
    """The option that a command needs to find the runs of this page; empty for ./runs, where commands look anyway."""
    return f" --runs {shlex.quote(str(root().resolve()))}" if os.environ.get("LAB_RUNS") else ""


def _folder_to_name(run: Run) -> list[str]:
    """The folder that must be named to find a run; none for ./runs, where commands look anyway."""
    in_default_folder = is_own(run) and not os.environ.get("LAB_RUNS")
    return [] if in_default_folder else [str(run.dir.parent.resolve())]
