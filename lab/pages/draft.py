"""Drafts of the form of Train: what was entered for each recipe, taken from a link, a run or a file, and put into the link."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import streamlit as st

from lab import config
from lab.pages.form import Entry
from lab.runs import Run


def draft(recipe: str) -> tuple[int, dict[str, Any]]:
    """How often the form of a recipe was filled anew, and with which values besides the recipe's."""
    return st.session_state.get("train/drafts", {}).get(recipe, (0, {}))


def fill_anew(recipe: str, values: Mapping[str, Any]) -> None:
    """Forget what was entered for a recipe and begin with these values."""
    drafts = st.session_state.get("train/drafts", {})
    st.session_state["train/drafts"] = drafts | {recipe: (draft(recipe)[0] + 1, dict(values))}


def key(recipe: str, path: str) -> str:
    """The session's name of a widget: every recipe keeps its own draft."""
    times = draft(recipe)[0]
    return f"train/{recipe}/{path}" + (f"#{times}" if times else "")


def drafted(recipe: str, path: str, default: Any) -> Any:
    return st.session_state.get(key(recipe, path), draft(recipe)[1].get(path, default))


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} as {'a.b': 1}; added methods as a list under `methods` too."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    methods = content.get("methods") if not prefix else None
    return found | ({"methods": list(methods)} if isinstance(methods, Mapping) else {})


def take_over(recipe: str) -> None:
    """Fill the form from the link: once from a run it names, and with changes that the page did not write there itself."""
    if id := st.query_params.get("from"):
        del st.query_params["from"]
        fill_anew(recipe, flat(Run.open(id).config))
        return
    given = st.query_params.get_all("o")
    if given and given != st.session_state.get("train/link"):
        content: dict[str, Any] = {}
        for text in given:
            content = config.merged(content, config.parse_override(text))
        fill_anew(recipe, flat(content))


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
        return str(value) in one.choices
    if one.kind in ("int", "float"):
        whole = isinstance(value, int) or (one.kind == "float" and isinstance(value, float))
        return whole and not isinstance(value, bool) and (one.low or -math.inf) <= value <= (one.high or math.inf)
    return isinstance(value, list if one.kind == "names" else str)


def begun(recipe: str, one: Entry) -> Entry:
    """The option with the value its widget begins with."""
    values = draft(recipe)[1]
    return replace(one, default=values[one.path]) if one.path in values and fits(one, values[one.path]) else one
