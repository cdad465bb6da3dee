"""A newcomer's walk in a browser: `make studio` in a fresh clone, the first account, a first round, a ranking.

It is walked at the width of a laptop and at that of a telephone, on a part of the embedded workflow and a stand-in for
the embedded model; everything else is what a newcomer has.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser import SWITCHES, calm, chromium, fits, join, watch
from packaged import checkout, offline
from playwright.sync_api import Page, expect, sync_playwright
from terminal import CTRL_C, run
from tinymodels import save_stand_in

PASSWORD = "a long enough password"
MINUTES = 20


def press(page: Page, name: str) -> None:
    """Press a button or follow a link that is as wide as the page allows."""
    fits(page)
    page.get_by_role("button", name=name).or_(page.get_by_role("link", name=name)).first.click()


def set_up(page: Page, address: str) -> str:
    """The first account, at the address that the terminal printed; returns the studio's own address."""
    page.goto(address)
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Password").fill(PASSWORD)
    press(page, "Begin")
    expect(page.get_by_role("heading", name="The loop")).to_be_visible()
    return address.partition("/setup")[0]


def begin_a_round(page: Page, home: str) -> None:
    """The workflow's prompts and demonstrations are there; round 1 trains on them and leaves responses to rank."""
    page.goto(home + "/loop")
    for what in ("Prompts", "Demonstrations"):
        card = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=what))
        assert int(card.locator(".fact").inner_text()) >= 8, what
    page.get_by_label("Prompts to rank next").fill("3")
    page.get_by_label("Held-out prompts").fill("2")
    press(page, "Start training")
    expect(page.get_by_role("heading", name="Round 1")).to_be_visible()
    fits(page)
    expect(page.locator("#round-state")).to_have_text("finished", timeout=MINUTES * 60_000)
    expect(page.get_by_role("link", name="Open the report")).to_be_visible()
    fits(page)


def on_first_screen(page: Page) -> None:
    """The prompt and every response that is shown begin where nobody has to scroll."""
    height = page.evaluate("window.innerHeight")
    for part in page.locator(".asked, article.response:visible").all():
        box = part.bounding_box()
        assert box is not None and 0 <= box["y"] < height, "something to be read is below the first screen"


def rank(page: Page) -> None:
    """Rank everything there is to rank, by keyboard."""
    press(page, "Rank the next ones")
    for _ in range(3):
        expect(page.locator("#status")).not_to_have_text("opening…")
        fits(page)
        on_first_screen(page)
        count = page.locator("article.response").count()
        for mark in range(count):
            page.keyboard.press(str(7 - mark))
            page.keyboard.press("Enter")
        expect(page.locator("article.response:visible")).to_have_count(count)  # side by side
        page.evaluate("window.scrollTo(0, 0)")
        on_first_screen(page)
        for place in range(count):
            page.keyboard.press(str(1 + place))
        before = page.url.split("#")[0]
        page.keyboard.press("Control+Enter")
        page.wait_for_url(lambda url, before=before: url.split("#")[0] != before)
    expect(page.get_by_role("heading", name="Your desk")).to_be_visible()


@pytest.mark.slow
@pytest.mark.timeout(60 * (MINUTES + 10))
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (360, 740)])
def test_from_make_studio_to_a_ranked_first_round(width: int, height: int, tmp_path: Path) -> None:
    tree = checkout(tmp_path / "tutelage", small=True)
    save_stand_in(tmp_path / "cache")

    def walk(found: re.Match[str]) -> str:
        with sync_playwright() as playwright:
            started = playwright.chromium.launch(executable_path=chromium(), args=SWITCHES, timeout=120_000)
            pages = []
            for _ in range(2):  # two people, each with a browser of their own
                context = started.new_context(
                    viewport={"width": width, "height": height}, reduced_motion="reduce", locale="en-GB"
                )
                context.set_default_timeout(60_000)
                pages.append(context.new_page())
                watch(pages[-1])
            admin, labeler = pages
            home = set_up(admin, found[1].replace("localhost", "127.0.0.1"))
            begin_a_round(admin, home)
            join(admin, labeler, home, "Emil", PASSWORD)
            rank(labeler)
            admin.goto(home + "/loop")
            card = admin.get_by_role("listitem").filter(has=admin.get_by_role("heading", name="Rankings"))
            expect(card.locator(".fact")).to_have_text("3")
            expect(admin.get_by_role("link", name="Round 1").first).to_be_visible()
            for page in pages:
                fits(page)
                calm(page)
            started.close()
        return CTRL_C

    environment = offline(tmp_path / "home", tmp_path / "cache")
    run("make studio", tree, environment, {r"(http://\S+/setup\?token=\S+)\n": walk}, 60 * (MINUTES + 8))
