"""The exception for requests that cannot be met, with its nearest-name help, the one for runs that break, and a warning."""

from collections.abc import Iterable
from difflib import get_close_matches


class LabError(Exception):
    """Something was asked for that cannot be: one line saying what was given, what is allowed, what to do.

    The command line prints the line and exits with code 2; nothing has been written by then.
    """


class Notice(UserWarning):
    """Something that goes on, and that whoever asked for it should know: the command line prints it as one line on stderr."""


class RunFailed(Exception):
    """Training cannot go on although the request was right, for example because the loss is not finite. Exit code 1."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> LabError:
    """The error for a name that does not exist, with the nearest existing one offered."""
    names = sorted(allowed)
    near = get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names) or 'none'}"
    shown = given if given.isprintable() else repr(given)[1:-1]  # in one line
    return LabError(f"unknown {kind} '{shown}': {hint}")
