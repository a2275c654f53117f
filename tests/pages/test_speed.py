"""How fast the pages appear with 200 runs in the folder, measured in Chromium: run by hand with -m slow, on an idle machine."""

import shutil
import statistics
import time
from pathlib import Path

import pytest
from support.browser import CHROMIUM, PAGES, dashboard, playwright

import lab
from lab.core import atomic_io
from lab.run_folder.run import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or playwright is None, reason="needs Chromium and playwright"),
]

RUNS, TIMES = 200, 5
FIRST_PAINT, SWITCH = 2.0, 1.0  # seconds


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


def title(page, name: str):
    return page.get_by_role("heading", name=PAGES[name], exact=True, level=1)


def idle(page) -> None:
    """The script of the page has ended."""
    page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')", timeout=60_000)


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """In seconds, without the first time, which only warms server and browser; also printed."""
    found = {name: statistics.median(seconds[1:]) for name, seconds in times.items()}
    print("\n" + "\n".join(f"{name}: {value:.2f} s" for name, value in found.items()))
    return found


def test_first_paint(browser, crowded):
    """Until title and first number stand on Start, for a new visitor (nothing cached) and for one who was here before."""
    times = {"first visit": [], "second visit": []}
    for _ in range(TIMES + 1):
        context = browser.new_context(viewport={"width": 1440, "height": 1000})
        for seconds in times.values():
            page = context.new_page()
            begin = time.perf_counter()
            page.goto(crowded, wait_until="commit")
            title(page, "").wait_for(timeout=60_000)
            page.locator(".st-key-number_average_accuracy h2").wait_for(timeout=60_000)
            seconds.append(time.perf_counter() - begin)
            idle(page)
        context.close()
    assert max(medians(times).values()) < FIRST_PAINT


def test_page_switches(browser, crowded):
    """Until the title of the next page stands after a click; each page is left with all its charts."""
    times = {name or "start": [] for name in ("jobs", "compare", "library", "")}
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(crowded)
    for _ in range(TIMES + 1):
        for name, seconds in times.items():
            name = "" if name == "start" else name
            idle(page)
            link = page.locator(f"[data-testid=stSidebarNavLink][href$='/{name}']")
            begin = time.perf_counter()
            link.click()
            title(page, name).wait_for(timeout=60_000)
            seconds.append(time.perf_counter() - begin)
    page.close()
    assert max(medians(times).values()) < SWITCH
