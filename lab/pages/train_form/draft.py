"""Drafts of the form: the values entered for each recipe, taken from a link, a run or a file, and written into the link."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from lab.config.former_names import renamed
from lab.config.resolve import merged, parse_override, written
from lab.core import registry
from lab.core.errors import LabError, unknown
from lab.pages.train_form.options import Entry
from lab.run_folder.run import Run

LARGEST = 2**53 - 1  # largest integer that a browser holds exactly
OF_RECIPE = ("recipe", "about", "scenarios")  # in the configuration of a run; the recipe decides them
METHOD = re.compile(r"methods|methods\.[^.]+\.name")  # paths of added methods, which have a widget of their own


def draft(recipe: str) -> tuple[int, dict[str, Any], list[str]]:
    """How often the form of a recipe was filled anew, the values that differ from it, and why others could not be read."""
    return st.session_state.get("train/drafts", {}).get(recipe, (0, {}, []))


def fill_anew(recipe: str, values: Mapping[str, Any], unread: Sequence[str] = ()) -> None:
    """Replace the draft of a recipe by these values; `unread` holds the reasons why others could not be read."""
    drafts = st.session_state.get("train/drafts", {})
    st.session_state["train/drafts"] = drafts | {recipe: (draft(recipe)[0] + 1, dict(values), list(unread))}


def key(recipe: str, path: str) -> str:
    """The key of an option's widget in the session: every recipe has a draft of its own, and a new draft has new widgets."""
    times = draft(recipe)[0]
    return f"train/{recipe}/{path}" + (f"#{times}" if times else "")


def drafted(recipe: str, path: str, default: Any) -> Any:
    """The value of an option as it was entered, else that of the draft, else `default`."""
    return st.session_state.get(key(recipe, path), draft(recipe)[1].get(path, default))


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}; the names of methods also as a list under `methods`."""
    values: dict[str, Any] = {}
    for name, value in content.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {prefix + name: value}
    if prefix:
        return values
    methods = content.get("methods", {})
    return values | {"methods": list(methods) if isinstance(methods, Mapping) else [str(methods)]}


def follow(recipe: str, path: str) -> None:
    """Begin anew after a choice that brings other settings (a stream): keep it and all changes, and let the rest follow it."""
    choose(recipe, path, st.session_state[key(recipe, path)])


def choose(recipe: str, path: str, value: Any) -> None:
    """Begin anew with this value of an option that brings other settings, and with all changes."""
    changed: dict[str, Any] = {}
    for text in st.session_state.get("train/link", []):
        changed = merged(changed, parse_override(text))
    fill_anew(recipe, flat(changed) | {path: value})


def take_over(recipe: str, unread: list[str]) -> None:
    """Fill the form from the link: once from a run that it names (`from`), and from changes (`o`) that the page did not write.

    What cannot be read is left out, and its reason is added to `unread`.
    """
    content: dict[str, Any] = {}
    run_id, linked = st.query_params.get("from"), st.query_params.get_all("o")
    if run_id:
        del st.query_params["from"]
        try:
            content = {name: value for name, value in Run.open(Path(run_id).name).config.items() if name not in OF_RECIPE}
        except LabError as error:
            unread = [*unread, str(error)]
    elif linked and linked != st.session_state.get("train/link"):
        for text in linked:
            try:
                content = merged(content, renamed(parse_override(text), warn=False))
            except LabError as error:
                unread = [*unread, str(error)]
    if content or unread:
        fill_anew(recipe, flat(content), unread)


def left_out(recipe: str, entries: Sequence[Entry], changes: list[str]) -> list[str]:
    """Reasons why parts of a link, a run or a file did not come into the form; empty once the form was changed by hand."""
    times, values, unread = draft(recipe)
    first = st.session_state.setdefault("train/first", {}).setdefault((recipe, times), changes)
    if changes != first:
        return []
    by_path, methods = {entry.path: entry for entry in entries}, registry.methods.names()
    reasons = unread + [str(unknown("method", name, methods)) for name in values.get("methods", []) if name not in methods]
    for path, value in values.items():
        taken = METHOD.fullmatch(path) or (path in by_path and fits(by_path[path], value))
        if not taken and value not in (None, [], {}):
            reasons.append(f"{path}={written(value)}: the form has no such option, or the option does not take this value")
    return reasons


def put_into_link(changes: list[str]) -> None:
    """Write the changes into the link, and remember them as the page's own."""
    st.session_state["train/link"] = changes
    if st.query_params.get_all("o") != changes:
        st.query_params["o"] = changes


def fits(entry: Entry, value: Any) -> bool:
    """Whether the widget of an option can hold a value from a link or a file."""
    if value is None:
        return entry.optional
    if entry.kind == "bool":
        return isinstance(value, bool)
    if entry.kind == "choice":
        return str(value) in entry.choices or (entry.free and isinstance(value, int) and not isinstance(value, bool))
    if entry.kind in ("int", "float"):
        numeric = isinstance(value, int) or (entry.kind == "float" and isinstance(value, float))
        low, high = -LARGEST if entry.low is None else entry.low, LARGEST if entry.high is None else entry.high
        return numeric and not isinstance(value, bool) and low <= value <= high
    if entry.kind == "names":
        return isinstance(value, list) and (not entry.choices or all(name in entry.choices for name in value))
    return isinstance(value, str)


def with_initial_value(recipe: str, entry: Entry) -> Entry:
    """The option with the value that its widget begins with: that of the draft where it fits, else that of the recipe."""
    values = draft(recipe)[1]
    drafted_here = entry.path in values and fits(entry, values[entry.path])
    return replace(entry, default=values[entry.path]) if drafted_here else entry
