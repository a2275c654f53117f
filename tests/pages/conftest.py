"""A dashboard with runs in it, a stream that needs no data, trained runs, and a browser, for the tests of pages."""

from types import SimpleNamespace

import pytest
from support import browser as browsers
from support import toy
from support.browser import CHROMIUM, FLAGS, TASKS, dashboard, open_page, playwright
from support.pages import task
from support.run_folders import FORGETS, KEEPS, write_run
from support.run_folders import TASKS as PLAIN_TASKS

import lab
from lab.data import loading


@pytest.fixture(autouse=True)
def stream(monkeypatch):
    """A stream that needs no data; the benchmark mtl5 would have to be downloaded first."""

    def opened(name, parts=(), runs=None):
        return SimpleNamespace(names=lambda: list(PLAIN_TASKS), orders={}, load=task, downloads=name == "mtl5")

    monkeypatch.setattr(loading, "open_stream", opened)


@pytest.fixture(scope="session")
def played(tmp_path_factory):
    """Runs that were really trained, on the toy stream with the tiny backbone."""
    folder = tmp_path_factory.mktemp("trained")
    for id, recipe, *options in (("told", "oracle"), ("one", "sequential"), ("routed", "l2r", "router.heads=2")):
        toy.recorded(toy.session(recipe, *options), folder, id)
    return folder


@pytest.fixture
def model(runs, played, monkeypatch):
    """The dashboard over those runs, and the model of the routed one."""
    from lab.inference.loading import load

    monkeypatch.setenv("LAB_RUNS", str(played))
    return load(lab.Run.open("routed"), 1)


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


@pytest.fixture(scope="module")
def context(browser):
    """A browser that has loaded the scripts of the dashboard once."""
    opened = browsers.context(browser, viewport={"width": 1440, "height": 1000})
    yield opened
    opened.close()


@pytest.fixture
def page(context):
    """A page without memory of those before; errors it meets are collected in `page.problems`."""
    opened = context.new_page()
    opened.problems = []
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    cut = "net::ERR_ABORTED"  # by going on to the next page
    opened.on("requestfailed", lambda r: opened.problems.append(f"failed: {r.url}") if r.failure != cut else None)
    opened.on("response", lambda answer: opened.problems.append(answer.url) if answer.status >= 400 else None)
    opened.on("console", lambda line: opened.problems.append(line.text) if line.type == "error" else None)
    yield opened
    context.clear_cookies()
    if not opened.is_closed():
        if opened.url.startswith("http"):
            opened.evaluate("localStorage.clear(), sessionStorage.clear()")
        opened.close()


@pytest.fixture
def start(page, address):
    """The page, at Start; in the end nothing may have gone wrong in the browser."""
    open_page(page, address, "")
    yield page
    assert page.problems == []
