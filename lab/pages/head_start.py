"""A browser that is idle loads the scripts that draw charts and tables, so that the next page shows them at once."""

from pathlib import Path

import streamlit
from streamlit.components.v2 import component

FOLDER = Path(streamlit.__file__).parent / "static" / "static" / "js"
SCRIPTS = ("PlotlyChart.*.js", "DataFrame.*.js")  # 5 MB, which Streamlit loads with the first chart and the first table

LOAD = component(
    "lab.head_start",
    html="<div></div>",
    js="""
    export default function ({ data }) {
        const load = () => data.forEach((name) => import(new URL(`./static/js/${name}`, location).href).catch(() => {}));
        const later = setTimeout(() => (window.requestIdleCallback ?? setTimeout)(load), 1000);
        return () => clearTimeout(later);
    }
    """,
)


def load() -> None:
    """Let the browser load them, once the shown page has stood for a second."""
    LOAD(key="head start", data=[file.name for pattern in SCRIPTS for file in sorted(FOLDER.glob(pattern))])
