"""The pages of the dashboard: their sections, titles and icons, and the links to them."""

from pathlib import Path

import streamlit as st
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
