"""What all commands share: how they are declared, and two options."""

import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.core.errors import LabError, Notice

Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
Runs = Annotated[Path | None, typer.Option("--runs", help="folder of runs (default: $LAB_RUNS, else runs/)")]


def show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """A notice of the lab as one line on stderr; other warnings as Python shows them."""
    if issubclass(category, Notice):
        print(f"lab: {message}", file=sys.stderr)
    else:
        _as_usual(message, category, *place)


_as_usual = warnings.showwarning


def command(function: Callable, of: typer.Typer) -> Callable:
    """A command whose LabErrors become one line on stderr and exit code 2."""

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        warnings.showwarning = show_warning
        try:
            function(*args, **kwargs)
        except LabError as error:
            print(f"lab: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except BrokenPipeError:  # whoever reads the output has enough
            raise
        except OSError as error:  # of the machine, outside of training
            print(f"lab: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", file=sys.stderr)
            raise typer.Exit(2) from None

    return of.command(name=function.__name__.strip("_"))(guarded)
