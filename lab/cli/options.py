"""What all commands share: the application, how a command is declared, how its errors are said, and common options."""

import inspect
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from lab.cli import completion
from lab.core.errors import LabError, Notice, unknown

Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
TaskColumn = Annotated[str | None, typer.Option(help="of a file: the column that names the task of each row")]
TextColumn = Annotated[str | None, typer.Option(help="of a file or hf:ID: the column of the texts (default: text)")]
PairColumn = Annotated[str | None, typer.Option(help="the column of second texts (default: text_pair, if there is one)")]
LabelColumn = Annotated[str | None, typer.Option(help="the column of the labels (default: label)")]
TargetsColumn = Annotated[
    str | None, typer.Option(help="the column of answers to be written, instead of labels (default: targets)")
]
Runs = Annotated[Path | None, typer.Option("--runs", help="folder of runs (default: $LAB_RUNS, else runs/)")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="id, name or folder of the run", autocompletion=completion.runs)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check everything and say what would be done; nothing is written")]
Track = Annotated[
    str | None,
    typer.Option(
        help="a tool that follows: mlflow, tensorboard, trackio, wandb ($LAB_TRACK)", autocompletion=completion.names("trackers")
    ),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="nothing on stderr but errors")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="lines of the log as well, and where an error comes from")]

UsageError: Any = typer.BadParameter.__base__  # of typer's parser, which each version imports from elsewhere
WRONG, INTERRUPTED = 2, 130  # exit codes

logger = logging.getLogger("lab")


# -- help and errors -----------------------------------------------------------------------------------------------------------


class Section(StrEnum):
    """The sections of `lab --help`, in their order; within one, commands stand by name."""

    TRAIN = "Train"
    LOOK = "Look at runs"
    USE = "Use what was trained"
    KEEP = "Check and keep in order"


class Commands(TyperGroup):
    """Commands by section, then by name; whatever is wrong with a request is one line on stderr and exit code 2."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: (self._section(name), name))

    def _section(self, name: str) -> int:
        return [*Section, None].index(getattr(self.commands[name], "rich_help_panel", None))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """In the help every command has one line: its sentence without the example."""
        for number, title in enumerate([*Section, "Commands"]):
            names = [name for name in self.list_commands(ctx) if self._section(name) == number]
            sentences = [(self.commands[name].help or "").strip().split("\n")[0].partition(": lab ")[0] for name in names]
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name.ljust(12), text) for name, text in zip(names, sentences, strict=True)])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help(), file=sys.stderr)
            ctx.exit(WRONG)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            family = ctx.command_path.removeprefix("lab").strip()
            raise unknown(f"command of {family}" if family else "command", args[0], self.commands)
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> NoReturn:
        """Run a command line and exit with its code."""
        try:
            code = super().main(args, **extra | {"prog_name": "lab", "standalone_mode": False})
            sys.stdout.flush()
        except UsageError as error:
            code = _say(_explained(error))
        except LabError as error:
            code = _say(str(error))
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BrokenPipeError:  # whoever reads the output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        sys.exit(code or 0)


def _say(problem: str) -> int:
    print(f"lab: {problem}", file=sys.stderr)
    return WRONG


def _explained(error: Any) -> str:
    """What typer finds wrong with the words of a command, as the lab says such things."""
    command = error.ctx.command_path if error.ctx else "lab"
    if getattr(error, "option_name", None) and type(error).__name__ == "NoSuchOption":
        options = [name for parameter in error.ctx.command.get_params(error.ctx) for name in parameter.opts if name[:1] == "-"]
        return str(unknown(f"option of {command}", error.option_name, options))
    message = error.format_message().rstrip(".")
    return f"{message[:1].lower()}{message[1:]}: {command} -h says what it takes"


# -- declaring -----------------------------------------------------------------------------------------------------------------


def typer_of(words: str, completion: bool = False) -> typer.Typer:
    """An application, or a family of commands, that says `words` of itself."""
    return typer.Typer(
        cls=Commands,
        add_completion=completion,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=words,
    )


app = typer_of("Train language-model adapters on a stream of tasks, route them, and see what was forgotten.", completion=True)


def family(name: str, section: Section, words: str) -> typer.Typer:
    """Commands under one word, as `lab compose add`: give what this returns to `command` as `of`."""
    members = typer_of(words)
    app.add_typer(members, name=name, rich_help_panel=section)
    return members


def command(section: Section | None = None, of: typer.Typer = app) -> Callable[[Callable], Callable]:
    """Declare a function as a command by its name (`env`; `list_` for `list`, `check_plugin` for `check-plugin`).

    The first line of its docstring is its sentence in the help, with an example: `What it does: lab env`. It gets the options
    -q and -v, see `quiet`. Its LabErrors become one line on stderr and exit code 2.
    """

    def declare(function: Callable) -> Callable:
        @wraps(function)
        def guarded(*args: Any, is_quiet: bool, is_verbose: bool, **kwargs: Any) -> None:
            warnings.showwarning = show_warning
            try:
                set_loudness(is_quiet, is_verbose)
                function(*args, **kwargs)
            except LabError as error:
                if verbose() and error.__cause__:
                    traceback.print_exception(error.__cause__)
                raise typer.Exit(_say(str(error))) from None
            except BrokenPipeError:
                raise
            except OSError as error:  # of the machine, outside of training
                place = f"{error.filename}: " if error.filename else ""
                raise typer.Exit(_say(f"{place}{error.strerror or error}")) from None

        shared = {"is_quiet": Quiet, "is_verbose": Verbose}
        own = inspect.signature(function)
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=a) for name, a in shared.items()
        ]
        guarded.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
        guarded.__annotations__ = function.__annotations__ | shared
        return of.command(name=function.__name__.strip("_").replace("_", "-"), rich_help_panel=section)(guarded)

    return declare


def _version(asked: bool) -> None:
    if asked:
        import lab

        print(f"lab {lab.__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of `lab` itself."""


# -- how much is said ----------------------------------------------------------------------------------------------------------


class _Stderr(logging.StreamHandler):
    """Lines of the log on whatever is stderr when they are written: above a bar of progress, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_loudness(quiet: bool, verbose: bool) -> None:
    """Errors only, or the lines of the log as well."""
    if quiet and verbose:
        raise LabError("-q and -v exclude each other")
    logger.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _Stderr)]
    if verbose:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)


def quiet() -> bool:
    """Whether nothing but errors may be on stderr: no progress, no notices."""
    return logger.level >= logging.ERROR


def verbose() -> bool:
    """Whether lines of the log, and where errors come from, are wanted."""
    return logger.level == logging.INFO


def show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """A notice of the lab as one line on stderr; other warnings as Python shows them."""
    if not issubclass(category, Notice):
        _as_usual(message, category, *place)
    elif not quiet():
        print(f"lab: {message}", file=sys.stderr)


_as_usual = warnings.showwarning
