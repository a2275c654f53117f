"""What is not as it should be, met by clicks: each page says in a sentence what is wrong, and shows a way on."""

import re
import shutil

import pytest
from support import damage
from support.browser import CHROMIUM, PAGES, TASKS, dashboard, open_page, playwright, press, settled, shown, turn_to, write
from support.run_folders import FORGETS, KEEPS, write_run

from lab.run_folder.run import Run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.clicks,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None or playwright is None, reason="needs Chromium and playwright"),
]
TAGS = "<img src=x onerror=alert(1)> **bold** :red[x]"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("odd") / "runs"


@pytest.fixture(scope="module")
def address(runs, tmp_path_factory):
    """A dashboard without recorded examples, over a folder of runs that tests fill."""
    runs.mkdir()
    with dashboard(LAB_RUNS=str(runs), LAB_EXAMPLES=str(tmp_path_factory.mktemp("none"))) as served:
        yield served


@pytest.fixture(autouse=True)
def emptied(runs, address):
    """Nothing of a test is left to the next one."""
    yield
    for path in runs.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def main(page):
    return page.get_by_test_id("stMain")


def test_without_any_run_each_page_leads_to_the_form(start):
    for name in ("jobs", "compare", "routing", "playground", "library"):
        turn_to(start, name)
        main(start).get_by_text(re.compile("There are no (runs|experts)|No run here has learned")).first.wait_for()
        main(start).get_by_role("link", name="Go to Train").click()
        shown(start, "train")


def test_one_run_is_shown_on_every_page(start, runs):
    write_run(runs, "alone", "l2r", KEEPS)
    for name in PAGES:
        turn_to(start, name)
    turn_to(start, "compare")
    start.get_by_text("Choose a run of another method to see differences").wait_for()


def test_damaged_runs_are_named_and_leave_the_others_alone(start, runs):
    """Each page says why; where a file is broken that one view reads, the rest of the page stands."""
    whole = write_run(runs, "whole", "l2r", KEEPS)
    damage.break_in_every_way(runs, whole.dir)
    damage.break_inside(runs)
    for name in PAGES:
        turn_to(start, name)
    turn_to(start, "jobs")
    for id in ("bad-empty", "bad-rows", "odd-events"):
        start.goto(re.sub(r"job=[^&]*", f"job={id}", start.url))
        settled(start)
        if id.startswith("bad"):
            start.get_by_text("This run cannot be read").wait_for()
    start.goto(re.sub(r"job=[^&]*", "job=bad-empty", start.url))
    start.get_by_text("This run cannot be read").wait_for()
    settled(start)
    start.get_by_role("button", name="Delete", exact=True).first.click()
    start.get_by_role("button", name="Move into the trash", exact=True).click()
    start.get_by_role("button", name="Undo", exact=True).wait_for()
    assert not (runs / "bad-empty").exists() and whole.dir.exists()


def test_a_run_without_routing_leads_to_its_scores(start, runs):
    write_run(runs, "plain", "sequential", FORGETS, routed=False)
    turn_to(start, "routing")
    start.get_by_text("No routing is recorded for this run of sequential").wait_for()
    main(start).get_by_role("link", name="See its scores").click()
    shown(start, "compare")
    assert "runs=plain" in start.url
    turn_to(start, "playground")
    start.get_by_text("No run here has learned a task yet").or_(start.get_by_text("without its weights")).first.wait_for()


@pytest.mark.parametrize(
    ("link", "sentence"),
    [
        ("jobs?job=gone", "Not available: gone"),
        ("compare?runs=gone", "Not available: gone"),
        ("routing?rt_run=gone", "Not available: gone"),
        ("playground?pg_run=gone", "Not available: gone"),
        ("library?lib_run=gone", "Not available: gone"),
        ("train?from=gone", "gone"),
        ("train?recipe=gone", "unknown recipe 'gone'"),
        ("learn?lesson=gone", "gone"),
    ],
)
def test_a_link_to_what_is_gone_says_so_and_goes_on(page, address, runs, link, sentence):
    write_run(runs, "there", "l2r", KEEPS)
    write_run(runs, "other", "sequential", FORGETS, routed=False)
    open_page(page, address, link)
    main(page).get_by_text(sentence).first.wait_for()
    turn_to(page, "jobs")
    page.get_by_text("All runs (2)").wait_for()
    assert page.problems == []


def test_names_with_tags_are_shown_as_they_are(start, runs):
    """Of a run, by the form that names it, and of tasks and texts."""
    write_run(runs, "own", "l2r", KEEPS, TASKS, texts=["A <i>tagged</i> text", "second"])
    write_run(runs, "other", "sequential", FORGETS, TASKS, routed=False)
    turn_to(start, "jobs")
    start.get_by_role("combobox", name="Run to watch").click()
    start.get_by_role("option", name="own").first.click()
    settled(start)
    press(start, "Name and note")
    write(start, "Name", TAGS, end="Tab")
    start.get_by_test_id("stForm").get_by_role("button", name="Save", exact=True).click()
    start.get_by_role("heading", name=TAGS, exact=True).wait_for()
    assert Run(runs / "own").title == TAGS
    for name in PAGES:
        turn_to(start, name)
        tags = main(start).locator("img[src=x], .js-plotly-plot b, .js-plotly-plot i, p b, p i")
        assert tags.count() == 0, (name, tags.all_inner_texts())


def upload(page, box, path) -> None:
    box.locator("input[type=file]").set_input_files(path)
    settled(page)


def test_uploads_of_the_wrong_kind_and_too_large_ones_are_refused(start, runs, tmp_path):
    """On each page that takes a file; the next file is taken as if nothing had been."""
    files = {
        "picture.csv": b"\x89PNG\r\n\x1a\n\x00\x00",
        "large.csv": b"text,label\n" + b"a long row of text,b\n" * 2_500_000,
        "right.csv": b"text,label\n" + b"".join(b"text %d,%s\n" % (k, b"ab"[k % 2 :][:1]) for k in range(80)),
        "bad.jsonl": b"no replay\n",
        "bad.yaml": b"recipe: [",
        "bad.zip": b"PK no zip",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert (tmp_path / "large.csv").stat().st_size > 50 << 20
    turn_to(start, "train")
    start.get_by_text("Bring your own data").first.click()
    box = start.locator(".st-key-own_file")
    upload(start, box, tmp_path / "picture.csv")
    start.get_by_text("This cannot be a stream yet").wait_for()
    upload(start, box, tmp_path / "large.csv")
    box.get_by_text(re.compile("or smaller|exceeds", re.I)).first.wait_for()
    upload(start, box, tmp_path / "right.csv")
    start.get_by_text("Rows of each class").wait_for()
    start.get_by_text("Open a recipe file").click()
    upload(start, start.locator(".st-key-train_file"), tmp_path / "bad.yaml")
    start.get_by_text("This file cannot be used").wait_for()
    turn_to(start, "jobs")
    start.get_by_text("Watch a replay").click()
    upload(start, start.locator(".st-key-replay_file"), tmp_path / "bad.jsonl")
    press(start, "Play")
    main(start).get_by_text(re.compile("bad.jsonl|replay")).first.wait_for()
    assert start.get_by_test_id("stAlert").count() and not list(runs.glob("replay*"))
    turn_to(start, "library")
    start.get_by_text("Import an expert").click()
    form = start.get_by_test_id("stForm").first
    upload(start, form, tmp_path / "bad.zip")
    write(start, "Name", "mine", end="Tab")
    form.get_by_role("button", name="Import").click()
    start.get_by_test_id("stAlert").get_by_text(re.compile("zip")).wait_for()
