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
PATIENCE = 45_000  # ms that a step may take on a busy machine; what must be quick has a limit of its own


TASKS = ["animals", "<b>weather</b>", "cooking"]
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
    """Somebody else's browser: a page of a context of its own, as patient as a busy machine needs."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    return context.new_page()


def open_page(page, address: str, name: str) -> None:
    """Open a page by its link and wait until it is drawn."""
    page.goto(f"{address}/{name}")
    title = PAGES[name.partition("?")[0]]
    page.get_by_role("heading", name=title, exact=True, level=1).wait_for()
    settled(page)


def settled(page) -> None:
    """Wait until the server has nothing more to draw."""
    idle = "document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')"
    page.wait_for_timeout(300)
    page.wait_for_function(f"{idle} && !document.querySelector('[data-stale=true]')")
