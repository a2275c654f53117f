"""Folders of 2,000 runs and runs of 50 tasks over 64 experts, looked at by clicks; run with -s it prints how long pages take."""

import os
import time

import pytest
from support import many_runs
from support.browser import CHROMIUM, dashboard, playwright, settled, turn_to, write
from support.run_folders import write_pool, write_run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.clicks,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None or playwright is None, reason="needs Chromium and playwright"),
]
TASKS = [f"task-{t}" for t in range(50)]
MATRIX = [[0.9 - 0.01 * (row - task) if task <= row else None for task in range(50)] for row in range(50)]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    runs = tmp_path_factory.mktemp("many") / "runs"
    runs.mkdir()
    many_runs.make(runs, 2_000)
    write_pool(runs, "wide", 50, 64)
    write_run(runs, "long", "l2r", MATRIX, TASKS, routed=False)
    write_run(runs, "long-too", "ewc", MATRIX, TASKS, routed=False)
    with dashboard(LAB_RUNS=str(runs)) as served:
        yield served


def timed(what: str, action, *arguments) -> None:
    """Do something and print how long it took."""
    begin = time.perf_counter()
    action(*arguments)
    print(f"{what}: {time.perf_counter() - begin:.1f} s; load {os.getloadavg()[0]:.1f}")


def test_jobs_compare_and_routing_with_2000_runs(start):
    for _ in range(2):  # the first visit reads all runs
        for name in ("jobs", "compare", "routing", ""):
            timed(f"{name or 'start'} with 2,000 runs", turn_to, start, name)
    turn_to(start, "jobs")
    start.get_by_text("All runs (2,003)").wait_for()


def chosen(page, label: str, option: str) -> None:
    """Choose the run of this name in a picker."""
    box = page.get_by_role("combobox", name=label, exact=True)
    box.click()
    box.fill(option)
    page.get_by_role("option", name=option).first.click()
    settled(page)


def test_routing_of_50_tasks_over_64_experts(start):
    turn_to(start, "routing")
    timed("routing of 50 tasks over 64 experts", chosen, start, "Run", "wide")
    start.locator(".st-key-rt_map .js-plotly-plot").first.wait_for()
    for view in ("Layers and heads", "What if", "All tasks", "One decision"):
        start.get_by_role("radio", name=view).click()
        settled(start)
    for order in ("by likeness", "in groups"):
        chosen(start, "Order", order)
    write(start, "Search", "task-1, pool-6")
    start.locator(".st-key-rt_map .js-plotly-plot").first.wait_for()


def test_compare_and_jobs_of_50_tasks(start):
    turn_to(start, "jobs")
    timed("jobs of a run of 50 tasks", chosen, start, "Run to watch", "long")
    start.locator(".st-key-job_matrix .js-plotly-plot").first.wait_for()
    start.get_by_test_id("stMain").get_by_role("link", name="Compare", exact=True).click()
    settled(start)
    chosen(start, "Runs", "long-too")
    for view in ("Numbers", "Each task", "Matrices", "Trade-offs", "What hurt what", "Why forgotten", "Settings", "Summary"):
        start.get_by_role("radio", name=view, exact=True).click()
        timed(f"{view} of 50 tasks", settled, start)
