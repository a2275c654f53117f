"""Drafts of the form of Train: what was entered for each recipe, taken from a link, a run or a file, and put into the link."""

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

LARGEST = 2**53 - 1  # number that a browser can count to
NAMES = ("recipe", "about", "scenarios")  # of a run: they come from the recipe
METHOD = re.compile(r"methods|methods\.[^.]+\.name")  # paths of added methods, which have a widget of their own


def draft(recipe: str) -> tuple[int, dict[str, Any], list[str]]:
    """How often the form of a recipe was filled anew, with which values besides the recipe's, and what could not be read."""
    return st.session_state.get("train/drafts", {}).get(recipe, (0, {}, []))


def fill_anew(recipe: str, values: Mapping[str, Any], unread: Sequence[str] = ()) -> None:
    """Forget what was entered for a recipe and begin with these values; `unread` are reasons why others are missing."""
    drafts = st.session_state.get("train/drafts", {})
    st.session_state["train/drafts"] = drafts | {recipe: (draft(recipe)[0] + 1, dict(values), list(unread))}


def key(recipe: str, path: str) -> str:
    """The session's name of a widget: every recipe keeps its own draft."""
    times = draft(recipe)[0]
    return f"train/{recipe}/{path}" + (f"#{times}" if times else "")


def drafted(recipe: str, path: str, default: Any) -> Any:
    return st.session_state.get(key(recipe, path), draft(recipe)[1].get(path, default))


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} as {'a.b': 1}; added methods as a list under `methods` too. LabError for a key that is no text."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if not isinstance(name, str):
            raise LabError(f"a key in {prefix.removesuffix('.') or 'the file'} reads as {name!r}: put it in quotation marks")
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {prefix + name: value}
    if prefix:
        return found
    methods = content.get("methods", {})
    return found | {"methods": list(methods) if isinstance(methods, Mapping) else [str(methods)]}


def follow(recipe: str, path: str) -> None:
    """A choice that brings other settings was made: keep it and what was changed besides, and let all else follow."""
    chosen, changed = st.session_state[key(recipe, path)], {}
    for text in st.session_state.get("train/link", []):
        changed = merged(changed, parse_override(text))
    fill_anew(recipe, flat(changed) | {path: chosen})


def take_over(recipe: str, unread: list[str]) -> None:
    """Fill the form from the link: once from a run it names, and with changes that the page did not write there itself.

    What cannot be read is left out; `unread` begins with what the page could not read.
    """
    content: dict[str, Any] = {}
    id, given = st.query_params.get("from"), st.query_params.get_all("o")
    if id:
        del st.query_params["from"]
        try:
            content = {name: value for name, value in Run.open(Path(id).name).config.items() if name not in NAMES}
        except LabError as error:
            unread = [*unread, str(error)]
    elif given and given != st.session_state.get("train/link"):
        for text in given:
            try:
                content = merged(content, renamed(parse_override(text), warn=False))
            except LabError as error:
                unread = [*unread, str(error)]
    if content or unread:
        fill_anew(recipe, flat(content), unread)


def left_out(recipe: str, found: Sequence[Entry], changes: list[str]) -> list[str]:
    """What of a link, a run or a file did not come into the form, for as long as the form stays as it was then filled."""
    times, values, unread = draft(recipe)
    first = st.session_state.setdefault("train/first", {}).setdefault((recipe, times), changes)
    if changes != first:
        return []
    by_path, methods = {one.path: one for one in found}, registry.methods.names()
    reasons = unread + [str(unknown("method", name, methods)) for name in values.get("methods", []) if name not in methods]
    for path, value in values.items():
        taken = METHOD.fullmatch(path) or (path in by_path and fits(by_path[path], value))
        if not taken and value not in (None, [], {}):
            reasons.append(f"{path}={written(value)}: this form has no such option, or the option no such value")
    return reasons


def put_into_link(changes: list[str]) -> None:
    st.session_state["train/link"] = changes
    if st.query_params.get_all("o") != changes:
        st.query_params["o"] = changes


def fits(one: Entry, value: Any) -> bool:
    """Whether a value from a link or a file may stand in the widget of an option."""
    if value is None:
        return one.optional
    if one.kind == "bool":
        return isinstance(value, bool)
    if one.kind == "choice":
        return str(value) in one.choices or (one.free and isinstance(value, int) and not isinstance(value, bool))
    if one.kind in ("int", "float"):
        whole = isinstance(value, int) or (one.kind == "float" and isinstance(value, float))
        low, high = -LARGEST if one.low is None else one.low, LARGEST if one.high is None else one.high
        return whole and not isinstance(value, bool) and low <= value <= high
    if one.kind == "names":
        return isinstance(value, list) and (not one.choices or all(name in one.choices for name in value))
    return isinstance(value, str)


def begun(recipe: str, one: Entry) -> Entry:
    """The option with the value its widget begins with."""
    values = draft(recipe)[1]
    return replace(one, default=values[one.path]) if one.path in values and fits(one, values[one.path]) else one
