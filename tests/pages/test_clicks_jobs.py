"""The life of a run, and data of one's own, by clicks from Start: on a fresh install, and with 40 runs there."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from support.browser import CHROMIUM, dashboard, open_page, playwright, settled
from support.many_runs import make

from lab.run_folder.run import Run, all_runs

pytestmark = [
    pytest.mark.browser,
    pytest.mark.clicks,
    pytest.mark.skipif(CHROMIUM is None or playwright is None, reason="needs Chromium and playwright"),
]
MESSY = "\ufeffTopic;Comment ;Verdict\r\n" + "".join(
    f'{topic};"{topic} text; number {k}, {"fine" if k % 2 else "poor"}";{"Good" if k % 2 else "bad "}\r\n'
    for topic in ("films", "books")
    for k in range(40)
)


@pytest.fixture(scope="module", params=[0, 40], ids=["fresh", "40 runs"])
def served(request, tmp_path_factory):
    """A dashboard over a folder of runs: its address, and the folder."""
    runs = tmp_path_factory.mktemp("clicks") / "runs"
    runs.mkdir()
    if request.param:
        make(runs, request.param)
    with dashboard(LAB_RUNS=str(runs), LAB_THREADS="1") as address:
        yield address, runs


def button(page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def choose(page, label: str, option: str) -> None:
    """Choose in a select box."""
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option, exact=True).click()
    settled(page)


def to_train(page, address: str) -> None:
    """From Start to the form, with the small stream and the tiny backbone."""
    open_page(page, address, "")
    page.get_by_role("link", name="Train", exact=True).first.click()
    page.get_by_role("heading", name="Train", exact=True, level=1).wait_for()
    settled(page)
    button(page, "Use these settings").nth(1).click()
    settled(page)
    choose(page, "Backbone", "tiny")


def focused(page, runs: Path) -> Run:
    """The run that the page shows."""
    page.wait_for_url(re.compile(r"job="))
    return Run(runs / re.search(r"job=([^&]*)", page.url)[1])


def badge(page, status: str) -> None:
    """Wait until the run in focus has this status."""
    page.get_by_test_id("stMain").get_by_text(status, exact=True).first.wait_for(timeout=120_000)
    settled(page)


def pick_rows(page, number: int) -> None:
    """Choose the first rows of the table."""
    grid = page.get_by_test_id("stDataFrame").first
    grid.scroll_into_view_if_needed()
    for row in range(number):
        grid.locator("canvas").first.click(position={"x": 16, "y": 35 + 35 * row + 17})
        page.wait_for_timeout(300)
    settled(page)


def nothing_broke(page) -> None:
    assert page.locator("[data-testid=stException]").count() == 0 and page.problems == []


def test_a_run_is_started_stopped_killed_resumed_repeated_and_deleted(page, served):
    address, runs = served
    before = len(all_runs(runs))
    to_train(page, address)
    page.get_by_role("textbox", name="Name of the run").fill("my <b>first</b>")
    began = time.monotonic()
    button(page, "Start").click()
    page.get_by_role("heading", name="my <b>first</b>").wait_for()
    page.get_by_text(re.compile("starting its process|reading the tasks|loading the backbone|encoding|training")).first.wait_for()
    assert time.monotonic() - began < 10  # 3 s on an idle machine
    run = focused(page, runs)
    button(page, "Stop after this task").click(timeout=120_000)
    badge(page, "stopped")
    button(page, "Resume").click()
    button(page, "Stop now").click(timeout=120_000)
    button(page, "Resume").wait_for(timeout=120_000)
    button(page, "Resume").click()
    button(page, "Stop after this task").wait_for(timeout=120_000)
    os.kill(run.info["pid"], signal.SIGKILL)
    badge(page, "lost")
    button(page, "Resume").click()
    badge(page, "finished")
    pick_rows(page, 1)
    page.get_by_text("1 chosen").wait_for()
    button(page, "Repeat").click()
    settled(page)
    assert len(all_runs(runs)) == before + 2
    page.get_by_test_id("stMain").get_by_text(re.compile("1 chosen")).wait_for()
    button(page, "Delete").last.click()
    page.get_by_role("dialog").get_by_role("button", name="Move into the trash").click()
    button(page, "Undo").wait_for()
    assert len(all_runs(runs)) == before + 1
    button(page, "Undo").click()
    button(page, "Undo").wait_for(state="detached")
    assert len(all_runs(runs)) == before + 2
    nothing_broke(page)


def test_a_messy_table_becomes_a_matrix(page, served, tmp_path):
    address, runs = served
    to_train(page, address)
    page.get_by_text("Bring your own data").first.click()
    upload = page.get_by_test_id("stFileUploader").first.locator("input[type=file]")
    (tmp_path / "wrong.csv").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    (tmp_path / "large.csv").write_text("text,label\n" + "a long row of text,b\n" * 600_000)
    (tmp_path / "messy.csv").write_text(MESSY, encoding="utf-8", newline="")
    upload.set_input_files(tmp_path / "wrong.csv")
    page.get_by_text("This cannot be a stream yet").wait_for()
    upload.set_input_files(tmp_path / "large.csv")
    page.get_by_text(re.compile("10.?MB or smaller|exceed", re.I)).first.wait_for()
    upload.set_input_files(tmp_path / "messy.csv")
    page.get_by_text("Rows of each class").wait_for()
    settled(page)
    page.get_by_role("textbox", name="Name of the stream").fill("verdicts")
    page.keyboard.press("Tab")
    settled(page)
    button(page, "Save as a stream").click()
    page.get_by_text("Saved as the stream verdicts").wait_for()
    settled(page)
    choose(page, "Backbone", "tiny")
    button(page, "Start").click()
    run = focused(page, runs)
    badge(page, "finished")
    assert run.config["stream"]["name"] == "verdicts" and run.tasks == ["books", "films"] and run.matrix.shape == (2, 2)
    page.get_by_test_id("stPlotlyChart").first.wait_for()
    nothing_broke(page)
