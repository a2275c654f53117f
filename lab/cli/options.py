"""What all commands share: the application, how a command is declared, and options that several have."""

import sys
import warnings
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lab.core.errors import LabError, Notice

Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
TaskColumn = Annotated[str | None, typer.Option(help="of a file: the column that names the task of each row")]
TextColumn = Annotated[str | None, typer.Option(help="of a file or hf:ID: the column of the texts (default: text)")]
PairColumn = Annotated[str | None, typer.Option(help="the column of second texts (default: text_pair, if there is one)")]
LabelColumn = Annotated[str | None, typer.Option(help="the column of the labels (default: label)")]
TargetsColumn = Annotated[
    str | None, typer.Option(help="the column of answers to be written, instead of labels (default: targets)")
]
Runs = Annotated[Path | None, typer.Option("--runs", help="folder of runs (default: $LAB_RUNS, else runs/)")]


class Section(StrEnum):
    """The sections of `lab --help`, in their order; within one, commands stand by name."""

    TRAIN = "Train"
    LOOK = "Look at runs"
    USE = "Use what was trained"
    KEEP = "Check and keep in order"


class Commands(TyperGroup):
    """Commands by section, then by name."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: (self._section(name), name))

    def _section(self, name: str) -> int:
        return [*Section, None].index(getattr(self.commands[name], "rich_help_panel", None))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = formatter.width - 18
        for number, title in enumerate([*Section, "Commands"]):
            names = [name for name in self.list_commands(ctx) if self._section(name) == number]
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name.ljust(12), self.commands[name].get_short_help_str(width)) for name in names])


def typer_of(words: str) -> typer.Typer:
    """An application, or a family of commands, that says `words` of itself."""
    return typer.Typer(
        cls=Commands,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=words,
    )


app = typer_of("Train language-model adapters on a stream of tasks, route them, and see what was forgotten.")


def family(name: str, section: Section, words: str) -> typer.Typer:
    """Commands under one word, as `lab compose add`: give what this returns to `command` as `of`."""
    members = typer_of(words)
    app.add_typer(members, name=name, rich_help_panel=section)
    return members


def command(section: Section | None = None, of: typer.Typer = app) -> Callable[[Callable], Callable]:
    """Declare a function as a command by its name (`env`; `list_` for `list`, `check_plugin` for `check-plugin`).

    Its LabErrors become one line on stderr and exit code 2.
    """

    def declare(function: Callable) -> Callable:
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

        return of.command(name=function.__name__.strip("_").replace("_", "-"), rich_help_panel=section)(guarded)

    return declare


def show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """A notice of the lab as one line on stderr; other warnings as Python shows them."""
    if issubclass(category, Notice):
        print(f"lab: {message}", file=sys.stderr)
    else:
        _as_usual(message, category, *place)


_as_usual = warnings.showwarning
