"""What a visitor does by clicks from Start: on a fresh install with the recorded examples of the package, then with 40 runs."""

import re

import pytest
from support import many_runs
from support.browser import CHROMIUM, PAGES, dashboard, open_page, playwright, settled

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or playwright is None, reason="needs Chromium and playwright"),
    pytest.mark.flaky(reruns=1),
]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A dashboard over an empty folder of runs."""
    with dashboard(LAB_RUNS=str(tmp_path_factory.mktemp("fresh"))) as served:
        yield served


def press(page, name: str, role: str = "button", number: int = 0) -> None:
    """Click the button, or link, of this name, and wait until all is drawn."""
    page.get_by_role(role, name=name, exact=True).nth(number).click()
    settled(page)


def answer(page) -> None:
    """Move a slider and uncover the measured values, where the card asks for a guess."""
    if page.get_by_role("button", name="Uncover the answer").count():
        slider = page.get_by_role("slider").first
        slider.focus()
        slider.press("ArrowRight")
        settled(page)
        press(page, "Uncover the answer")


def test_every_lesson_is_followed_to_its_last_card(page, fresh):
    open_page(page, fresh, "")
    press(page, "Take a lesson", "link")
    begin = page.get_by_role("button", name="Begin")
    begin.first.wait_for()
    for lesson in range(begin.count()):
        press(page, "Begin", number=lesson)
        cards = page.get_by_test_id("stButtonGroup").get_by_role("radio")
        cards.first.wait_for()
        titles = set()
        for card in range(1, cards.count() + 1):
            playwright.expect(cards.nth(card - 1)).to_be_checked()
            assert f"card={card}" in page.url
            titles.add(page.locator("h3").first.inner_text())
            answer(page)
            if card < cards.count():
                press(page, "Next")
        assert len(titles) == cards.count() > 1
        press(page, "All lessons")
        assert "lesson=" not in page.url
    assert page.locator("[data-testid=stException]").count() == 0 and page.problems == []


def test_a_replay_is_played_again(page, fresh):
    open_page(page, fresh, "")
    press(page, "Watch a replay", "link")
    page.get_by_role("heading", name="Jobs", exact=True, level=1).wait_for()  # Start has a button Play too
    for job in (r"replay-[a-z0-9-]*[a-z]", r"replay-[a-z0-9-]*-2"):
        press(page, "Play")
        page.wait_for_url(re.compile(rf"job={job}(&|$)"))
        assert page.locator("[data-testid=stException]").count() == 0
    assert page.problems == []


@pytest.fixture(scope="module", params=[0, 40], ids=["fresh", "40 runs"])
def served(request, tmp_path_factory):
    """A dashboard over so many runs."""
    folder = tmp_path_factory.mktemp("runs")
    many_runs.make(folder, request.param)
    with dashboard(LAB_RUNS=str(folder)) as address:
        yield address


def turn_to(page, name: str) -> None:
    """Click the link to a page in the sidebar."""
    page.locator(f"[data-testid=stSidebarNavLink][href$='/{name}']").click()
    page.get_by_role("heading", name=PAGES[name], exact=True, level=1).wait_for()
    settled(page)


def unharmed(page) -> bool:
    """Whether no traceback stands on the page, and its console has no error."""
    return page.locator("[data-testid=stException]").count() == 0 and page.problems == []


@pytest.mark.clicks
def test_every_page_is_turned_to(page, served):
    open_page(page, served, "")
    for name in [*[*PAGES][1:], ""]:
        turn_to(page, name)
        assert unharmed(page), name


@pytest.mark.clicks
def test_a_replay_is_played_among_many_runs(page, served):
    test_a_replay_is_played_again(page, served)


@pytest.mark.clicks
def test_a_text_is_typed_an_expert_forced_and_another_text_and_moment_set_beside_it(page, served):
    """The first text is answered by the model before anything is typed; HTML in a text stays text."""
    open_page(page, served, "")
    turn_to(page, "playground")
    bars = page.locator(".st-key-pg_classes .js-plotly-plot")
    bars.wait_for()
    box = page.get_by_role("textbox", name="Text", exact=True)
    box.fill("I want my <b>money</b> back")
    box.press("Control+Enter")
    settled(page)
    assert page.get_by_text("I want my <b>money</b> back").count() > 1 and page.locator("[data-testid=stMain] p b").count() == 0
    page.locator(".st-key-pg_beside label", has_text="changed routing").click()
    page.locator(".st-key-pg_route label", has_text="one expert").click()
    page.get_by_text("With changed routing the answer is").wait_for()
    settled(page)
    first, second = bars.evaluate("div => div.data.map(trace => [...trace.text])")
    assert first != second
    for beside, sentence in (("another text", "For the other text it is"), ("another moment", "After task 1 the answer was")):
        page.locator(".st-key-pg_beside label", has_text=beside).click()
        page.get_by_text(sentence).wait_for()
        settled(page)
    box.fill("word " * 2_000)
    box.press("Control+Enter")
    page.get_by_text(re.compile("10,000 characters.*4,000")).wait_for()
    assert unharmed(page)


@pytest.mark.clicks
def test_from_a_task_to_one_decision_to_a_what_if(page, served):
    """A click on a cell of the map shows its decision; hard choice shows at once what it does, while the model is asked."""
    open_page(page, served, "")
    turn_to(page, "routing")
    page.locator(".st-key-rt_map .nsewdrag").first.click()  # the cell in the middle
    settled(page)
    page.locator(".st-key-rt_steps .js-plotly-plot").wait_for()
    assert "rt_task=" in page.url and unharmed(page)
    page.get_by_role("radio", name="What if").click()
    page.get_by_text("Move a setting").wait_for()
    page.locator(".st-key-rt_wi_hard label").first.click()
    page.locator(".st-key-rt_wi_shares .js-plotly-plot").wait_for()
    asked = page.get_by_text(re.compile("Until then, what was recorded|the model answered|Exact from the record"))
    asked.first.wait_for()
    assert unharmed(page)
