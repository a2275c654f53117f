"""How fast the pages appear with 200 runs in the folder, measured in Chromium: run by hand with -m slow, on an idle machine."""

import shutil
import statistics
import time
from pathlib import Path

import pytest
from test_browser import CHROMIUM, PAGES, browser, dashboard  # noqa: F401

import lab
from lab import files
from lab.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

RUNS, TIMES = 200, 5
FIRST_PAINT, SWITCH = 2.0, 1.0  # seconds


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A dashboard over 200 runs that are copies of the recorded examples with other seeds."""
    folder = tmp_path_factory.mktemp("runs")
    recorded = sorted((Path(lab.__file__).parent / "examples").iterdir())
    for number in range(RUNS):
        copy = shutil.copytree(recorded[number % len(recorded)], folder / f"run-{number:03}")
        files.write_yaml(copy / "config.yaml", Run(copy).config | {"seed": number // len(recorded)})
    with dashboard(LAB_RUNS=str(folder)) as served:
        yield served


def title(page, name: str):
    return page.get_by_role("heading", name=PAGES[name], exact=True, level=1)


def test_first_paint_and_page_switches(browser, crowded):  # noqa: F811
    """Until title and first number stand on Start, for a new visitor (nothing cached) and for one who was here before; until the
    title of the next page stands after a click.
    """
    names = ["jobs", "compare", "library", ""]  # each is left for the next one, with all its charts
    visits, switches = {"first visit": [], "second visit": []}, {name: [] for name in names}
    for _ in range(TIMES + 1):  # the first one only warms server and browser
        context = browser.new_context(viewport={"width": 1440, "height": 1000})
        for times in visits.values():
            page = context.new_page()
            begin = time.perf_counter()
            page.goto(crowded, wait_until="commit")
            title(page, "").wait_for(timeout=60_000)
            page.locator("[data-testid=stMetricValue]").first.wait_for(timeout=60_000)
            times.append(time.perf_counter() - begin)
            page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')", timeout=60_000)
        for name in names:
            page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')", timeout=60_000)
            link = page.locator(f"[data-testid=stSidebarNavLink][href$='/{name}']")
            begin = time.perf_counter()
            link.click()
            title(page, name).wait_for(timeout=60_000)
            switches[name].append(time.perf_counter() - begin)
        context.close()
    paint, switch = (
        {name or "start": statistics.median(times[1:]) for name, times in found.items()} for found in (visits, switches)
    )
    print("\n" + "\n".join(f"{name}: {value:.2f} s" for name, value in (paint | switch).items()))
    assert max(switch.values()) < SWITCH
    assert max(paint.values()) < FIRST_PAINT
