"""The pages of the dashboard: their sections, titles and icons, and the links to them."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException
from streamlit.navigation.page import StreamlitPage

HERE = Path(__file__).parent
SECTIONS = {  # file name, title and icon of every page
    "Learn": [("start", "Start", ":material/home:"), ("learn", "Lessons", ":material/school:")],
    "Experiment": [
        ("train", "Train", ":material/model_training:"),
        ("route", "Route adapters", ":material/merge:"),
        ("jobs", "Jobs", ":material/monitoring:"),
    ],
    "Understand": [
        ("compare", "Compare", ":material/compare_arrows:"),
        ("routing", "Routing", ":material/alt_route:"),
        ("playground", "Playground", ":material/experiment:"),
    ],
    "Keep": [("library", "Library", ":material/inventory_2:"), ("about", "About", ":material/info:")],
}


def pages() -> dict[str, list[StreamlitPage]]:
    """The pages of every section, for the navigation in the sidebar."""
    return {section: [page(name) for name, _, _ in entries] for section, entries in SECTIONS.items()}


def page(name: str) -> StreamlitPage:
    """The page whose file is `name`.py, for links; its URL is the same name, and / for Start."""
    title, icon = next((title, icon) for entries in SECTIONS.values() for key, title, icon in entries if key == name)
    return st.Page(str(HERE / f"{name}.py"), title=title, icon=icon, url_path=name, default=name == "start")


SHOWN = "page shown"  # key in the session of the name of the page that is shown


def shown(current: StreamlitPage) -> None:
    """Remember which page is shown."""
    st.session_state[SHOWN] = current.url_path or "start"


def link(name: str, label: str, icon: str | None = None, query: Mapping[str, Any] = {}, help: str | None = None) -> None:
    """A link to a page with these values in its address.

    Streamlit's own link to the page that is already shown draws it with new values, but leaves the address of the browser as it
    was, so that the next click forgets them. Such a link is a button here, which changes the address.
    """
    if name != st.session_state.get(SHOWN):
        st.page_link(page(name), label=label, icon=icon, query_params=dict(query) or None, help=help)
    elif st.button(
        label, icon=icon, type="tertiary", help=help, key=f"link/{label}/{dict(query)}", on_click=change_address, args=[query]
    ):
        st.rerun()  # the whole page, where the link stands in a part that is drawn alone


def go(name: str, values: Mapping[str, Any]) -> None:
    """Show a page with these values in its address; its widgets that stand in the address must not be drawn yet."""
    if name == st.session_state.get(SHOWN):
        change_address(values)
        st.rerun()
    st.switch_page(page(name), query_params=dict(values))


def change_address(values: Mapping[str, Any]) -> None:
    """Give the address of the shown page these values alone; a value of a widget is set through the widget."""
    for name in {*st.query_params} - {*values}:
        st.session_state.pop(name, None)
        with suppress(StreamlitAPIException):  # of a widget that stands in the address: it goes with the widget
            del st.query_params[name]
    for name, value in values.items():
        if name in st.session_state:
            st.session_state[name] = value
        else:
            st.query_params[name] = value
