"""How fast pages appear with 200 runs in the folder, in Chromium: run by hand with -m slow -s, on an idle machine.

Every line that is printed has the machine's load beside it. What is asserted holds on any machine: a page stands in a multiple of
the time that an empty page of Streamlit with a single chart takes, measured in the same minutes.
"""

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.browser import CHROMIUM, PAGES, dashboard, playwright, settled, wait_for

import lab
from lab.core import atomic_io
from lab.run_folder.run import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or playwright is None, reason="needs Chromium and playwright"),
]

RUNS, TIMES = 200, 3
MOST = 2.5  # times the empty page
SWITCH, PROGRESS = 2.0, 10.0  # seconds to the next page, complete; from Start to the first progress of a training
EMPTY = """
import plotly.graph_objects as go
import streamlit as st
st.title("Nothing else")
st.plotly_chart(go.Figure(go.Scatter(x=[1, 2], y=[1, 2])))
"""
CHARTS = (".js-plotly-plot .main-svg", "[data-testid=stVegaLiteChart] :is(svg, canvas)", "[data-testid=stDataFrame] canvas")
CHART = f"[data-testid=stMain] :is({', '.join(CHARTS)})"
WITH_CHART = ("", "jobs", "compare", "routing", "playground", "library")


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A dashboard over 200 runs that are copies of the recorded examples with other seeds."""
    folder = tmp_path_factory.mktemp("runs")
    recorded = sorted((Path(lab.__file__).parent / "examples").iterdir())
    for number in range(RUNS):
        copy = shutil.copytree(recorded[number % len(recorded)], folder / f"run-{number:03}")
        atomic_io.write_yaml(copy / "config.yaml", Run(copy).config | {"seed": number // len(recorded)})
    with dashboard(LAB_RUNS=str(folder)) as served:
        yield served


def drawn(page, name: str, begin: float) -> dict[str, float]:
    """Seconds from `begin` until the heading of a page stands, its first chart, and everything."""
    times = {}
    page.get_by_role("heading", name=PAGES[name], exact=True, level=1).wait_for(timeout=60_000)
    times["heading"] = time.perf_counter() - begin
    if name in WITH_CHART:
        page.locator(CHART).first.wait_for(timeout=60_000)
        times["first chart"] = time.perf_counter() - begin
    settled(page)
    return times | {"complete": time.perf_counter() - begin}


def medians(what: str, times: list[dict[str, float]]) -> dict[str, float]:
    """In seconds, without the first time, which only warms server and browser; also printed."""
    middle = {name: statistics.median(each[name] for each in times[1:]) for name in times[0]}
    line = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in middle.items())
    print(f"{what or 'start'}: {line}; load {os.getloadavg()[0]:.1f}")
    return middle


@pytest.fixture(scope="module")
def empty(browser, tmp_path_factory) -> dict[str, float]:
    """Seconds until an empty page of Streamlit shows its heading and one chart."""
    script = tmp_path_factory.mktemp("empty") / "page.py"
    script.write_text(EMPTY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--server.port", str(port), "--server.headless", "true", "--browser.gatherUsageStats", "false"]
    server = subprocess.Popen([sys.executable, "-m", "streamlit", "run", str(script), *options], stdout=subprocess.DEVNULL)
    try:
        address, times = wait_for(f"http://127.0.0.1:{port}"), []
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        for _ in range(TIMES + 1):
            page = context.new_page()
            begin = time.perf_counter()
            page.goto(address, wait_until="commit")
            page.locator("h1").wait_for()
            heading = time.perf_counter() - begin
            page.locator(CHART).first.wait_for()
            chart = time.perf_counter() - begin
            settled(page)
            times.append({"heading": heading, "first chart": chart, "complete": time.perf_counter() - begin})
            page.close()
        context.close()
        return medians("an empty page", times)
    finally:
        server.terminate()
        server.wait()


def test_every_page_by_its_link(browser, crowded, empty):
    """By a new visitor each time; the server has drawn the page before."""
    late = []
    for name in PAGES:
        times = []
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        for _ in range(TIMES + 1):
            page = context.new_page()
            begin = time.perf_counter()
            page.goto(f"{crowded}/{name}", wait_until="commit")
            times.append(drawn(page, name, begin))
            page.close()
        context.close()
        middle = medians(name, times)
        late += [(name, part, seconds) for part, seconds in middle.items() if seconds >= MOST * empty[part]]
    assert not late


def test_page_switches(browser, crowded):
    """By the link in the sidebar, from a page that is complete to the next one."""
    times: dict[str, list[dict[str, float]]] = {name: [] for name in PAGES}
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(crowded)
    settled(page)
    for _ in range(TIMES + 1):
        for name in [*[*PAGES][1:], ""]:
            begin = time.perf_counter()
            page.locator(f"[data-testid=stSidebarNavLink][href$='/{name}']").click()
            times[name].append(drawn(page, name, begin))
    page.close()
    late = {name: medians(f"switch to {name or 'start'}", own)["complete"] for name, own in times.items()}
    assert max(late.values()) < SWITCH, late


def test_first_progress_after_start(browser, crowded):
    """Until the page of jobs says what the process does."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    small = "".join(f"&o={option}" for option in ("backbone.name=tiny", "stream.max_train=32", "stream.max_test=8"))
    page.goto(f"{crowded}/train?recipe=sequential{small}")
    start = page.get_by_role("button", name="Start", exact=True)
    start.wait_for(timeout=60_000)
    settled(page)
    begin = time.perf_counter()
    start.click()
    doing = re.compile(r"loading|encoding|step \d+", re.IGNORECASE)
    page.locator("[data-testid=stMain] [data-testid=stProgress]").filter(has_text=doing).first.wait_for(timeout=60_000)
    seconds = time.perf_counter() - begin
    print(f"first progress: {seconds:.2f} s; load {os.getloadavg()[0]:.1f}")
    page.close()
    assert seconds < PROGRESS
