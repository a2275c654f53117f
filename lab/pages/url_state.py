"""Widgets whose value stands in the link (`bind="query-params"`): default values, and values that cannot be chosen here."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

from lab.pages import layout

GONE = "It may have been archived or deleted since the link was made, or it lies in another folder."
LONGEST, MOST = 8000, 200  # characters and values of a link


def drop_oversized() -> None:
    """Forget what a link says where it says more than any link of the lab, before a page reads it."""
    values = [value for name in st.query_params for value in (name, *st.query_params.get_all(name))]
    if len(values) > MOST or sum(map(len, values)) > LONGEST:
        st.query_params.clear()
        st.warning(f"The link was left aside: it is longer than {LONGEST:,} characters.", icon=":material/link_off:")


def set_default(key: str, options: list[str], default: Any, label: Callable[[str], str] = str) -> list[str]:
    """Give a bound widget a valid value before it is drawn, so that the link shows it from the first look on.

    Of several chosen values those among `options` stay; `default` (a list for a multiselect) replaces a choice of which
    nothing is left. A link holds labels (the widget's `format_func`) instead of options. Returns the values that are no options.
    """
    many, drawn_before = isinstance(default, list), key in st.session_state
    option_of = {label(option): option for option in options} | {option: option for option in options}
    chosen = st.session_state[key] if drawn_before else st.query_params.get_all(key)
    chosen = chosen if isinstance(chosen, list) else [chosen]
    missing = [name for name in chosen if name not in option_of]
    if missing or not (chosen or (many and drawn_before)):
        valid = [option_of[name] for name in chosen if name in option_of] or (default if many else [default])
        st.session_state[key] = valid if many else valid[0]
        with suppress(StreamlitAPIException):  # the link follows by itself once the widget was drawn
            st.query_params[key] = [label(option) for option in valid] if many else label(valid[0])
    return missing


def restore(key: str, options: list[str], default: Any, label: Callable[[str], str] = str, remark: str = GONE) -> None:
    """Give a widget over things that lie in folders a valid value before it is drawn, and write that into the link.

    The widget is not bound to the link, for that would hold labels (the widget's `format_func`), and people change the names of
    runs: the link holds options; a label in it is understood too. A link that changes, as by a click on another link, changes
    the choice. Warns of what a link names and is not there, with a `remark`, until the choice changes; without a
    remark it does not. A `default` that takes time to find is a function that returns a list; it is called where it is needed.
    """
    many, linked = isinstance(default, list) or callable(default), st.query_params.get_all(key)
    opened = key not in st.session_state or bool(linked and linked != st.session_state.get(f"{key}/linked"))
    chosen = linked if opened else st.session_state[key]
    chosen = list(dict.fromkeys(chosen)) if isinstance(chosen, list) else [chosen]
    option_of = {label(option): option for option in options} | {option: option for option in options}
    valid: list[Any] = [option_of[name] for name in chosen if name in option_of]
    missing = [name for name in chosen if name not in option_of]
    if not valid and (opened or missing or not many):
        first: Any = default() if callable(default) else default
        valid = first if many else [first]
    st.session_state[key] = valid if many else valid[0]
    if linked != valid:
        st.query_params[key] = valid
    st.session_state[f"{key}/linked"] = valid
    if opened:
        st.session_state[f"{key}/missing"] = missing, valid
    missing, chosen_then = st.session_state.get(f"{key}/missing", ([], None))
    if missing and valid == chosen_then and remark:
        st.warning(f"Not available: {layout.plain(', '.join(missing))}. {remark}", icon=":material/link_off:")


def drop_unavailable(key: str, options: list[Any]) -> None:
    """Clear the value of a widget unless everything chosen is among its options."""
    chosen = st.session_state.get(key)
    if chosen is not None and not set(chosen if isinstance(chosen, list) else [chosen]) <= set(options):
        del st.session_state[key]
