"""Errors that come out of plug-ins which are not shipped, as one line that names the plug-in and its method."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lab.core.errors import LabError, RunFailed
from lab.core.registry import Plugin

PACKAGE = "lab."


def at_fault(error: BaseException) -> str:
    """In a sentence, the innermost method of a plug-in of one's own that an error went through, and the error; else empty."""
    sentence, step = "", error.__traceback__
    while step:
        plugin = _plugin_of(step.tb_frame)
        if plugin:
            code = step.tb_frame.f_code
            place = f"{Path(code.co_filename).name}, line {step.tb_lineno}"
            sentence = f"{plugin.kind} '{plugin.name}' failed in {code.co_name} ({place})"
        step = step.tb_next
    reason = " ".join(str(error).split())
    return sentence and f"{sentence}: {type(error).__name__}{f': {reason}' if reason else ''}"


def _plugin_of(frame: FrameType) -> type[Plugin] | None:
    """The class of one's own whose method a frame is."""
    if str(frame.f_globals.get("__name__", "")).startswith(PACKAGE):
        return None
    owner: Any = frame.f_locals.get("self", frame.f_locals.get("cls"))
    owner = owner if isinstance(owner, type) else type(owner)
    own = issubclass(owner, Plugin) and not owner.__module__.startswith(PACKAGE) and "name" in vars(owner)
    return owner if own else None


def wrong_return(plugin: Plugin, method: str, value: object, wanted: str) -> str:
    """In a sentence, what a method of a plug-in returned, and what it is to return."""
    return f"{plugin.kind} '{plugin.name}' returned {type(value).__name__} from {method}: return {wanted}"


def refuse_entries(plugin: Plugin, method: str, value: object, kind: type) -> None:
    """RunFailed unless a method of a plug-in returned a dict that holds this kind of values by name."""
    if not isinstance(value, dict):
        raise RunFailed(wrong_return(plugin, method, value, f"a dict of {kind.__name__}s by name"))
    for name, entry in value.items():
        if not isinstance(entry, kind):
            gave = f"gave {name} as {type(entry).__name__} in {method}"
            raise RunFailed(f"{plugin.kind} '{plugin.name}' {gave}: give a {kind.__name__}")


@contextmanager
def named(raised: type[LabError] | type[RunFailed] = LabError) -> Iterator[None]:
    """Inside the block an error that comes out of a plug-in of one's own becomes one of this class, which names it."""
    try:
        yield
    except (LabError, RunFailed):
        raise
    except Exception as error:
        if sentence := at_fault(error):
            raise raised(sentence) from error
        raise
