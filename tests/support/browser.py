"""A dashboard of its own and a headless browser to look at it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from lab.pages import server

try:
    from playwright import sync_api as playwright
except ImportError:  # tests that need it are skipped
    playwright = None

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 240_000  # ms that a step may take on a busy machine; what must be quick has a limit of its own
# Notes when the browser last asked the server for something, and when the server last said something.
LISTEN = """
const send = WebSocket.prototype.send;
window.asked = window.answered = 0;
WebSocket.prototype.send = function (data) {
    if (!this.heard) {
        this.heard = true;
        this.addEventListener("message", () => { window.answered = performance.now(); });
    }
    window.asked = performance.now();
    return send.call(this, data);
};
"""


TASKS = ["animals", "<b>weather</b>", "cooking"]
VIEWS = [
    "Summary",
    "Numbers",
    "Each task",
    "Matrices",
    "Trade-offs",
    "What hurt what",
    "Why forgotten",
    "Order",
    "Learning rates",
    "Settings",
]  # of Compare
PAGES = {
    "": "What does a model forget?",
    "train": "Train",
    "route": "Route adapters",
    "jobs": "Jobs",
    "compare": "Compare",
    "routing": "Routing",
    "playground": "Playground",
    "library": "Library",
    "about": "About",
    "learn": "Lessons",
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def dashboard(*options: str, port: int | None = None, **environment: str):
    """The address of a dashboard of its own with these options of `lab app` and environment variables."""
    port = port or free_port()
    package = {"PYTHONPATH": str(Path(server.HERE).parents[1])}
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-m", "lab", "app", "--port", str(port), *options]
    process = subprocess.Popen(command, env=os.environ | package | environment, start_new_session=True, **quiet)
    try:
        yield wait_for(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        assert process.wait(20) == 0
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))  # its server has ended with it


def wait_for(address: str) -> str:
    """The address, as soon as the server answers there."""
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=1)
            return address
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the dashboard did not start")


def visitor(browser, **options):
    """Somebody else's browser: a page of a context of its own."""
    return context(browser, **options).new_page()


def context(browser, **options):
    """A context whose pages are as patient as a busy machine needs, and know whether the server has answered."""
    opened = browser.new_context(**options)
    opened.set_default_timeout(PATIENCE)
    opened.add_init_script(LISTEN)
    return opened


def open_page(page, address: str, name: str) -> None:
    """Open a page by its link and wait until it is drawn."""
    page.goto(f"{address}/{name}")
    shown(page, name.partition("?")[0])


def shown(page, name: str) -> None:
    """Wait until this page is shown and drawn."""
    page.get_by_role("heading", name=PAGES[name], exact=True, level=1).wait_for()
    settled(page)


def settled(page) -> None:
    """Wait until the server has nothing more to draw; no error of the program stands on the page then."""
    idle = "document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')"
    page.wait_for_timeout(300)  # widgets tell of a change a little after it
    page.wait_for_function(f"window.asked <= window.answered && {idle} && !document.querySelector('[data-stale=true]')")
    whole(page)


def whole(page) -> None:
    """No error of the program stands on the page."""
    errors = page.get_by_test_id("stException")
    assert errors.count() == 0, errors.all_inner_texts()


# -- what a hand does --------------------------------------------------------------------------------------------------------


def turn_to(page, name: str) -> None:
    """Click the link to a page in the sidebar."""
    page.locator(f"[data-testid=stSidebarNavLink][href$='/{name}']").click()
    shown(page, name)


def press(page, name: str, role: str = "button", number: int = 0) -> None:
    """Click the button, or link, of this name, and wait until all is drawn."""
    page.get_by_role(role, name=name, exact=True).nth(number).click()
    settled(page)


def choose(page, label: str, option: str, exact: bool = True) -> None:
    """Choose in a select box: type the name of the option, or without `exact` a part of it, and take it."""
    box = page.get_by_role("combobox", name=label, exact=True)
    box.click()
    box.fill(option)  # of a long list only what is in sight is drawn
    page.get_by_role("option", name=option, exact=exact).first.click()
    settled(page)


def write(page, label: str, text: str, role: str = "textbox", end: str = "Enter") -> None:
    """Write into a field."""
    field = page.get_by_role(role, name=label, exact=True)
    field.fill(text)
    field.press(end)
    settled(page)


def click_cell(page, chart, column: float, row: float) -> None:
    """Click on a point of a chart, by its numbers on the axes."""
    settled(page)
    chart.wait_for()
    x, y = spot(page, chart, column, row)
    page.mouse.move(x - 3, y - 3)
    page.mouse.move(x, y, steps=4)
    page.wait_for_timeout(400)  # a click is on the cell that plotly last saw the mouse over, and it looks at times only
    page.mouse.click(x, y)
    settled(page)


def spot(page, chart, column: float, row: float) -> tuple[float, float]:
    """Where in the window a point of a chart lies, once the chart stands still there."""
    chart.scroll_into_view_if_needed()
    now, before, steady = None, None, 0
    while steady < 3:
        page.wait_for_timeout(200)
        now = chart.evaluate(
            """(div, [x, y]) => { const l = div._fullLayout, b = div.getBoundingClientRect();
            return [b.left + l.xaxis._offset + l.xaxis.c2p(x), b.top + l.yaxis._offset + l.yaxis.c2p(y)] }""",
            [column, row],
        )
        before, steady = now, steady + 1 if now == before else 0
    return now
