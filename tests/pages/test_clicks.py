"""What a visitor does by clicks from Start: on a fresh install, where only the recorded examples are, and with 40 runs there.

With -s it prints how long a run takes to tell what it does."""

import os
import re
import signal
import time

import pytest
from support import many_runs
from support.browser import (
    CHROMIUM,
    PAGES,
    PATIENCE,
    VIEWS,
    choose,
    click_cell,
    dashboard,
    playwright,
    press,
    settled,
    shown,
    turn_to,
    whole,
    write,
)

from lab.lessons import lesson
from lab.run_folder.run import Run, all_runs

pytestmark = [
    pytest.mark.browser,
    pytest.mark.clicks,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None or playwright is None, reason="needs Chromium and playwright"),
]
MESSY = "\ufeffTopic;Comment ;Verdict\r\n" + "".join(
    f'{topic};"{topic} text; number {k}, {"fine" if k % 2 else "poor"}";{"Good" if k % 2 else "bad "}\r\n'
    for topic in ("films", "books")
    for k in range(40)
)
METHODS = ["sequential", "ewc", "l2r"]


@pytest.fixture(scope="module", params=[0, 40], ids=["fresh", "40 runs"])
def served(request, tmp_path_factory):
    """A dashboard over so many runs: its address, and their folder."""
    runs = tmp_path_factory.mktemp("clicks") / "runs"
    runs.mkdir()
    many_runs.make(runs, request.param)
    with dashboard(LAB_RUNS=str(runs), LAB_THREADS="1") as address:
        yield address, runs


@pytest.fixture(scope="module")
def address(served):
    return served[0]


def button(page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def chart(page, key: str):
    """The chart of this key."""
    return page.locator(f".st-key-{key} .js-plotly-plot").first


def test_every_page_is_turned_to(start):
    for name in [*[*PAGES][1:], ""]:
        turn_to(start, name)


def test_every_door_of_start_leads_on(start):
    doors = {
        "learn": "Take a lesson",
        "train": "Train a tiny run",
        "jobs": "Watch a replay",
        "compare": "Compare runs",
        "routing": "Look into the routing",
        "playground": "Type a text",
    }
    for name, title in doors.items():
        start.get_by_test_id("stMain").get_by_role("link", name=title).click()
        shown(start, name)
        turn_to(start, "")


def test_every_lesson_is_followed_to_its_last_card(start):
    """Each answer that is asked for is given, each figure drawn, each question answered rightly."""
    lessons = sorted(
        ((lesson.read_lesson(name), name) for name in lesson.lesson_files()), key=lambda pair: (pair[0].place, pair[1])
    )
    press(start, "Take a lesson", "link")
    for number, (opened, name) in enumerate(lessons):
        press(start, "Begin", number=number)
        for place, card in enumerate(opened.cards, 1):
            start.get_by_role("heading", name=card.title, exact=True).wait_for()
            playwright.expect(start.get_by_role("radio", name=str(place), exact=True)).to_be_checked()
            assert f"lesson={name}" in start.url and f"card={place}" in start.url
            content = start.locator(f".st-key-lesson_{name}_{place}")
            if card.predict:
                content.get_by_role("slider").first.press("ArrowRight")
                button(content, "Uncover the answer").click()  # as soon as it can be clicked
                content.get_by_text(re.compile("Your guesses are")).wait_for()
            playwright.expect(content.locator(".js-plotly-plot")).to_have_count(bool(card.predict) + len(card.show))
            if card.question:
                content.get_by_role("radiogroup").locator("label").nth(card.question.right - 1).click()
                content.get_by_text("Yes. ").wait_for()
            settled(start)
            if place < len(opened.cards):
                press(start, "Next")
        assert button(start, "Next").count() == 0
        press(start, "All lessons")
        assert "lesson=" not in start.url


def test_a_replay_is_played_to_its_end_and_again(start):
    press(start, "Watch a replay", "link")
    shown(start, "jobs")  # Start has a button Play too
    speed = start.get_by_role("slider", name="Speed (times)")
    speed.press("End")
    seen = set()
    for _ in range(2):
        button(start, "Play").click()
        start.wait_for_url(lambda url: (job := re.search(r"job=(replay-[a-z0-9-]+)", url)) and job[1] not in seen)
        seen.add(re.search(r"job=(replay-[a-z0-9-]+)", start.url)[1])
        has_status(start, "finished")
        chart(start, "job_matrix").wait_for()
    whole(start)


def test_a_text_is_typed_an_expert_forced_and_another_text_and_moment_set_beside_it(start):
    """First on Start, from where it is taken to the Playground; HTML in a text stays text."""
    write(start, "Text", "My card was charged twice")
    start.get_by_role("link", name="Change its routing").click()
    shown(start, "playground")
    chart(start, "pg_classes").wait_for()
    box = start.get_by_role("textbox", name="Text", exact=True)
    playwright.expect(box).to_have_value("My card was charged twice")
    write(start, "Text", "I want my <b>money</b> back", end="Control+Enter")
    assert start.get_by_text("I want my <b>money</b> back").count() > 1
    assert start.get_by_test_id("stMain").locator("p b").count() == 0
    start.locator(".st-key-pg_beside label", has_text="changed routing").click()
    start.locator(".st-key-pg_route label", has_text="one expert").click()
    bars_agree(start, False)
    start.get_by_text("With changed routing the answer is").wait_for()
    button(start, "Reset").click()
    bars_agree(start, True)
    for beside, sentence in (("another text", "For the other text it is"), ("another moment", "After task 1 the answer was")):
        start.locator(".st-key-pg_beside label", has_text=beside).click()
        start.get_by_text(sentence).wait_for()
        settled(start)
    write(start, "Text", "word " * 2_000, end="Control+Enter")
    start.get_by_text(re.compile("10,000 characters.*4,000")).wait_for()
    write(start, "Text", "Who wrote Hamlet?", end="Control+Enter")  # and from there it goes on
    start.get_by_text("After task 1 the answer was").wait_for()


def bars_agree(page, wanted: bool) -> None:
    """Wait until both answers have the same probabilities, or others."""
    texts = "document.querySelector('.st-key-pg_classes .js-plotly-plot').data.map(trace => trace.text.join())"
    page.wait_for_function(f"wanted => {texts}.every((text, _, all) => text == all[0]) == wanted", arg=wanted)
    settled(page)


def test_from_a_task_to_one_decision_to_a_what_if(start):
    """A click on a cell of the map shows its decision; hard choice shows at once what it does, then what the model answers."""
    press(start, "Look into the routing", "link")
    shown(start, "routing")
    for _ in range(3):  # to an earlier moment: the model is asked about fewer texts
        start.get_by_role("slider", name="After task").press("ArrowLeft")
    start.get_by_text("After learning task 3 of 6").first.wait_for()
    click_cell(start, chart(start, "rt_map"), 2, 1)
    start.get_by_text("Focus: task product_review › expert question_type").first.wait_for()
    settled(start)
    assert "rt_task=product_review" in start.url and "rt_expert=question_type" in start.url
    start.get_by_text("recorded examples of product_review").first.wait_for()
    chart(start, "rt_steps").wait_for()
    start.get_by_text("Why this expert").first.wait_for()
    start.get_by_role("radio", name="What if").click()
    start.get_by_text("Move a setting").first.wait_for()
    start.locator(".st-key-rt_wi_hard label").first.click()
    chart(start, "rt_wi_shares").wait_for()
    start.get_by_text(re.compile(r"the model answered [\d,]+ test texts|Exact from the record")).first.wait_for()
    chart(start, "rt_wi_row").wait_for()
    settled(start)


def to_form(page) -> None:
    """From Start to the form, with a small stream and the tiny backbone."""
    turn_to(page, "train")
    press(page, "Use these settings", number=1)
    choose(page, "Backbone", "tiny")


def focused(page, runs) -> Run:
    """The run that Jobs shows, once it is shown."""
    page.get_by_role("heading", name="Jobs", exact=True, level=1).wait_for()
    page.wait_for_url(re.compile(r"job="))
    return Run(runs / re.search(r"job=([^&]*)", page.url)[1])


def has_status(page, status: str) -> None:
    """Wait until the run in focus has this status."""
    page.get_by_test_id("stMain").locator(".stMarkdownBadge").filter(has_text=re.compile(rf" {status}$")).first.wait_for()
    whole(page)


def test_a_run_is_started_stopped_killed_resumed_repeated_and_deleted(start, served):
    runs = served[1]
    before = len(all_runs(runs))
    to_form(start)
    write(start, "Epochs per task", "40", "spinbutton")
    write(start, "Name of the run", "my <b>first</b>")
    button(start, "Start").click()
    began, progress = time.perf_counter(), start.get_by_test_id("stMain").get_by_test_id("stProgress")
    for what in ("starting|reading|loading|encoding|step", r"step \d+"):
        progress.filter(has_text=re.compile(what)).first.wait_for()
        print(f"{what}: {time.perf_counter() - began:.1f} s after Start; load {os.getloadavg()[0]:.1f}")
    start.get_by_role("heading", name="my <b>first</b>").wait_for()
    run = focused(start, runs)
    button(start, "Stop after this task").click()
    has_status(start, "stopped")
    button(start, "Resume").click()
    button(start, "Stop after this task").wait_for()  # it trains again
    button(start, "Stop now").click()
    has_status(start, "(stopped|interrupted)")
    button(start, "Resume").click()
    button(start, "Stop after this task").wait_for()
    os.kill(run.info["pid"], signal.SIGKILL)
    has_status(start, "lost")
    start.get_by_text("ended without a result").first.wait_for()
    button(start, "Resume").click()
    has_status(start, "finished")
    chart(start, "job_matrix").wait_for()
    settled(start)
    choose_rows(start, 1)
    start.get_by_text("1 chosen").wait_for()
    button(start, "Repeat").click()
    start.get_by_text(f"All runs ({before + 2})").wait_for()
    assert len(all_runs(runs)) == before + 2
    start.get_by_text("1 chosen").wait_for()  # the same one, which is the second now
    button(start, "Delete").last.click()
    start.get_by_role("dialog").get_by_text("my <b>first</b>").wait_for()
    button(start, "Keep").click()
    start.get_by_role("dialog").wait_for(state="detached")
    assert run.dir.exists()
    button(start, "Delete").last.click()
    button(start, "Move into the trash").click()
    button(start, "Undo").wait_for()
    assert not run.dir.exists()
    button(start, "Undo").click()
    button(start, "Undo").wait_for(state="detached")
    assert run.dir.exists() and len(all_runs(runs)) == before + 2
    assert start.get_by_test_id("stMain").locator("b").count() == 0
    whole(start)


def choose_rows(page, number: int) -> None:
    """Choose the first rows of the table of runs by the boxes at their left."""
    grid = page.get_by_test_id("stDataFrame").filter(has=page.locator("canvas")).last
    grid.scroll_into_view_if_needed()
    for row in range(number):
        grid.click(position={"x": 16, "y": 35 + 35 * row + 17})
        page.get_by_text(f"{row + 1} chosen").wait_for()


def test_three_methods_over_three_seeds_are_compared(start, served):
    """On a fresh install each is trained with one seed, and Compare queues the others; else the runs are there."""
    runs = served[1]
    if not (runs / "run-00000").exists():
        for method in METHODS:
            train_little(start, method, seed=1)
        wait_for_queue(start)
        turn_to(start, "compare")
        playwright.expect(start.get_by_text("One seed each").first).to_be_visible()
        button(start, "Repeat with seeds 1, 2, 3").click()
        start.get_by_text("6 runs wait in the queue").wait_for()
        wait_for_queue(start)
    turn_to(start, "compare")
    alone = start.get_by_test_id("stButtonGroup").first
    for method in METHODS:
        alone.get_by_text(method, exact=True).wait_for()
    assert start.get_by_text("One seed each").count() == 0
    alone.get_by_text("ewc", exact=True).click()
    button(start, "Show all").wait_for()
    settled(start)
    for view in VIEWS:
        start.get_by_role("radio", name=view, exact=True).click()
        playwright.expect(start.get_by_role("radio", name=view, exact=True)).to_be_checked()
        settled(start)
    press(start, "Show all")
    start.get_by_role("radio", name="Numbers", exact=True).click()
    choose(start, "Baseline", "ewc")
    assert "baseline=ewc" in start.url


def train_little(page, method: str, seed: int) -> None:
    """Queue a run of a method that takes seconds."""
    turn_to(page, "train")
    choose(page, "Recipe", f"· {method}:", exact=False)
    choose(page, "Backbone", "tiny")
    for option, value in {"Seed": seed, "Training examples per task": 16, "Epochs per task": 1}.items():
        write(page, option, str(value), "spinbutton")
    button(page, "Add to queue").click()
    shown(page, "jobs")


def wait_for_queue(page) -> None:
    """Look at Jobs until no run waits or trains any more."""
    turn_to(page, "jobs")
    for sign in (page.get_by_text(re.compile("^Queue:")), page.get_by_test_id("stSidebar").get_by_text("Watch this job")):
        sign.first.wait_for(state="detached", timeout=4 * PATIENCE)


def test_a_messy_table_becomes_a_matrix(start, served, tmp_path):
    to_form(start)
    start.get_by_text("Bring your own data").first.click()
    upload = start.get_by_test_id("stFileUploader").first.locator("input[type=file]")
    (tmp_path / "messy.csv").write_text(MESSY, encoding="utf-8", newline="")
    upload.set_input_files(tmp_path / "messy.csv")
    start.get_by_text("Rows of each class").wait_for()
    for what, column in {"Task": "Topic", "Text": "Comment", "Label": "Verdict"}.items():
        choose(start, what, column)
    start.get_by_role("combobox", name="Look at task", exact=True).wait_for()
    write(start, "Name of the stream", "verdicts", end="Tab")
    button(start, "Save as a stream").click()
    start.get_by_text("Saved as the stream verdicts").wait_for()
    settled(start)
    button(start, "Start").click()
    run = focused(start, served[1])
    has_status(start, "finished")
    assert run.config["stream"]["name"] == "verdicts" and run.tasks == ["books", "films"] and run.matrix.shape == (2, 2)
    chart(start, "job_matrix").wait_for()
    whole(start)
