"""What a visitor does, by clicks from Start on a fresh install: no run, the recorded examples of the package."""

import re

import pytest
from support.browser import CHROMIUM, dashboard, open_page, playwright, settled

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
    for job in (r"replay-[a-z0-9-]*[a-z]", r"replay-[a-z0-9-]*-2"):
        press(page, "Play")
        page.wait_for_url(re.compile(rf"job={job}(&|$)"))
        assert page.locator("[data-testid=stException]").count() == 0
    assert page.problems == []
