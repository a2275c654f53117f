"""A dashboard with runs in it, and a browser, for the tests of pages."""

import pytest
from support import toy
from support.browser import CHROMIUM, FLAGS, TASKS, dashboard, playwright
from support.run_folders import FORGETS, KEEPS, write_run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def address(base):
    """A dashboard with two recorded examples, two runs written by hand, and an older one that was really trained."""
    toy.recorded(toy.session("l2r", "router.heads=2"), base / "runs", "trained")
    for folder, names in ((base / "examples", ("seq", "l2r")), (base / "runs", ("own-seq", "own-l2r"))):
        write_run(folder, names[0], "sequential", FORGETS, TASKS, routed=False)
        write_run(folder, names[1], "l2r", KEEPS, TASKS, texts=["A <i>tagged</i> text", "second"])
    with dashboard(LAB_RUNS=str(base / "runs"), LAB_EXAMPLES=str(base / "examples")) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield chromium
        chromium.close()
