"""Pages of the dashboard without a browser: opening one, and reading what it shows."""

import base64
import functools
import json
from pathlib import Path

import numpy as np
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

import lab
from lab.data.stream import Example, Task
from lab.pages.gate import Gate

Gate.stands = True  # an AppTest looks like a server of Streamlit, and none of its pages is reached through one

MAIN = Path(lab.__file__).parent / "pages" / "main.py"
PAGES = ["start", "train", "route", "jobs", "compare", "routing", "playground", "library", "about", "learn"]

# Every AppTest looks through the metadata of all installed packages, for more than a second; once in a process is enough.
manifest_scanner.scan_component_manifests = functools.cache(manifest_scanner.scan_component_manifests)


def open_page(name: str, **parameters: str | list[str]) -> AppTest:
    """A page as it looks when opened by its link; no other page is rendered before."""
    app = AppTest.from_file(str(MAIN), default_timeout=180)  # seconds, for busy machines
    if name != "start":  # where a dashboard begins
        app.switch_page(f"{name}.py")
    for key, value in parameters.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def task(name: str) -> Task:
    """Twelve texts in three splits."""
    texts = [Example(f"text {i} about {name}", i % 2) for i in range(12)]
    return Task(name, ("no", "yes"), texts[:6], texts[6:8], texts[8:])


def texts(app: AppTest) -> str:
    """All text of a page."""
    kinds = ("title", "subheader", "markdown", "caption", "info", "warning", "error", "success", "text")
    return "\n".join(element.value for kind in kinds for element in getattr(app, kind)).replace("\\", "")


def element(app: AppTest, key: str):
    """The chart with this key, or None."""
    return next((chart for chart in app.get("plotly_chart") if chart.proto.id.endswith(f"-{key}")), None)


def chart(app: AppTest, key: str) -> np.ndarray | None:
    """The cells of the chart with this key; None where there is none or it has no cells."""
    drawn = element(app, key)
    traces = json.loads(drawn.proto.spec)["data"] if drawn else []
    return cells(traces[0]) if traces and "z" in traces[0] else None


def heatmap(app: AppTest, number: int) -> np.ndarray:
    """The cells of a chart of the page."""
    return cells(json.loads(app.get("plotly_chart")[number].proto.spec)["data"][0])


def cells(trace: dict) -> np.ndarray:
    """The values of a heat map, which Plotly writes as lists or as bytes in base64."""
    z = trace["z"]
    if isinstance(z, list):
        return np.array(z, dtype=float)
    values = np.frombuffer(base64.b64decode(z["bdata"]), dtype=z["dtype"])
    return values.reshape([int(size) for size in z["shape"].split(",")])


def codes(app: AppTest) -> int:
    """How many popovers with code there are."""
    return sum(block.proto.popover.label == "Code" for block in app.get("popover"))


def bars(app: AppTest) -> str:
    """What stands above the progress bars."""
    return "\n".join(bar.proto.text for bar in app.get("progress")).replace("\\", "")
