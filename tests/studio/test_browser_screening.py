"""Screening in a real browser: a candidate's trial, the key, blind grades and a decision, all by keyboard.

Told once, from the switch that is turned on to the words that candidates read in the end. Every page of it is looked at
on the way.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from browser import Live, calm, look
from made_studio import PASSWORD, ranking
from playwright.sync_api import Locator, Page, expect

from tutelage.studio import accounts, grading
from tutelage.studio.accounts import Account
from tutelage.studio.check import check
from tutelage.studio.schema import actions, prompts, responses

TRIAL, K = 6, 3
"""Items of each kind: enough for something to be said of a cut-off."""
BY_HAND = 2
"""How many of them the candidate answers in the browser."""
RUDE, SLUR = "A joke about a people, which nobody should have to read.", "Denigrates a protected group"
WORDS = "Thank you, Lee. We look for people who know the harbour."


def set_up(live: Live) -> None:
    """A trial of six comparisons and six demonstrations, and one ordinary task. One response of each prompt is rude."""
    live.made.filled("compare", TRIAL, k=K, screening=True, name="trial: rank")
    live.made.filled("demonstrate", TRIAL, screening=True, name="trial: write")
    live.made.filled("demonstrate", 1, name="the real thing")
    with live.store.write() as tx:
        for prompt in tx.execute(sa.select(prompts.c.id)).scalars().all():
            first = tx.execute(sa.select(sa.func.min(responses.c.id)).where(responses.c.prompt_id == prompt)).scalar()
            tx.execute(responses.update().where(responses.c.id == first).values(text=RUDE))


def answered(live: Live, who: Account, ranks: list[int], times: int, *, flagged: bool = True) -> None:
    """Comparisons answered without a browser; the first of a prompt's responses is the rude one."""
    for _ in range(times):
        body = ranking(K, ranks)
        body["ratings"][0]["flags"] = {"denigrates_group": flagged}
        assert live.made.answer(who.id, "compare", body) is not None


def wrote(live: Live, who: Account, text: str, times: int = 1) -> None:
    """Demonstrations written without a browser."""
    for n in range(times):
        assert live.made.answer(who.id, "demonstrate", {"response": f"{text} {n}"}) is not None


def to(page: Page, wanted: Locator) -> None:
    """Walk to something by Tab alone."""
    expect(wanted).to_be_visible()
    for _ in range(80):
        if wanted.evaluate("node => node === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} cannot be reached by Tab")


def press(page: Page, wanted: Locator) -> None:
    """Walk to a button or a link, and press it."""
    to(page, wanted)
    page.keyboard.press("Enter")


def turned(page: Page, act: Callable[[], None]) -> None:
    """Do what leads to another page, and wait for it."""
    before = page.url.split("#")[0]
    act()
    page.wait_for_url(lambda url: url.split("#")[0] != before)


def rank(page: Page) -> None:
    """The comparison in hand: the rude response is flagged and comes last, the other two are tied."""
    expect(page.locator("#status")).not_to_have_text("opening…")
    ranks = []
    for _ in range(K):
        card = page.locator(".response.current")
        rude = RUDE in card.inner_text()
        if rude:
            page.keyboard.press(card.locator(".flags label").filter(has_text=SLUR).locator("kbd").inner_text())
        page.keyboard.press("1" if rude else "6")
        ranks.append("2" if rude else "1")
        page.keyboard.press("Enter")
    for key in ranks:
        page.keyboard.press(key)
    turned(page, lambda: page.keyboard.press("Control+Enter"))


def write(page: Page, text: str) -> None:
    """The demonstration in hand."""
    expect(page.locator("#status")).not_to_have_text("opening…")
    expect(page.locator("#response")).to_be_focused()
    page.keyboard.type(text)
    turned(page, lambda: page.keyboard.press("Control+Enter"))


def test_from_an_invitation_to_a_decision(live: Live) -> None:
    set_up(live)
    ada, one, two = (live.made.account(role) for role in ("admin", "reviewer", "reviewer"))

    # 1. An admin turns screening on; who joins from now on is a candidate.
    admin = live.page(ada, "/people")
    switch = admin.get_by_label("New labelers are screened first")
    to(admin, switch)
    admin.keyboard.press("Space")
    press(admin, admin.get_by_role("button", name="Save"))
    expect(switch).to_be_checked()
    kim_page = live.page(None, f"/join/{accounts.invite(live.store, ada, 'labeler')}")
    expect(kim_page.locator("main")).to_contain_text("It begins with a short trial")
    kim_page.keyboard.type("Kim")
    kim_page.keyboard.press("Tab")
    kim_page.keyboard.type(PASSWORD)
    kim_page.keyboard.press("Enter")
    expect(kim_page.get_by_role("heading", name="Your trial")).to_be_visible()
    expect(kim_page.locator("main")).to_contain_text(f"0 of {2 * TRIAL} tasks done")
    kim = accounts.named(live.store, "Kim")
    assert kim is not None and kim.candidate

    # 2. The candidate ranks, writes, and says what they can judge. Another one only answers.
    answered(live, kim, [2, 1, 1], TRIAL - BY_HAND)
    wrote(live, kim, "The sea is wide, and I have", TRIAL - BY_HAND)
    kim_page.reload()
    press(kim_page, kim_page.get_by_role("button", name="Rank the next ones"))
    kim_page.wait_for_url("**/task/*")
    for _ in range(BY_HAND):
        rank(kim_page)
    press(kim_page, kim_page.get_by_role("button", name="Write the next one"))
    kim_page.wait_for_url("**/task/*")
    for n in range(BY_HAND):
        write(kim_page, f"The sea was calm on day {n}.")
    to(kim_page, kim_page.get_by_label("Which topics"))
    kim_page.keyboard.type("Harbours, and the people who work there.")
    press(kim_page, kim_page.get_by_role("button", name="Send"))
    expect(kim_page.get_by_role("status")).to_contain_text("Kept.")
    expect(kim_page.locator("main")).to_contain_text("You have done all tasks there are.")
    look(kim_page, "trial-done")
    lee = live.made.screened(name="Lee")
    answered(live, lee, [1, 2, 3], TRIAL, flagged=False)
    wrote(live, lee, "No", TRIAL)

    # 3. Researchers answer the same tasks in the same pages: the key.
    answered(live, two, [2, 1, 1], TRIAL)
    answered(live, one, [2, 1, 1], TRIAL - 1)
    page = live.page(one, "/desk")
    press(page, page.get_by_role("button", name="Rank the next ones"))
    page.wait_for_url("**/task/*")
    rank(page)
    expect(page).to_have_url(live.url + "/desk")  # that was the last one

    # 4. They grade what candidates wrote, without knowing whose it is.
    said = ""
    press(page, page.get_by_role("link", name="Grade the next one"))
    look(page, "grade")
    for n in range(2 * TRIAL):
        expect(page.locator("main")).to_contain_text(f"{n} of {2 * TRIAL} graded by you")
        grade = 2 if "No " in page.locator("section[aria-labelledby=written] .text").inner_text() else 7
        radios = page.locator("input[name=grade]")
        to(page, radios.first)
        page.keyboard.press("Space")
        for _ in range(grade - 1):
            page.keyboard.press("ArrowRight")
        said += page.content()
        turned(page, lambda: page.keyboard.press("Enter"))
    expect(page.locator("main")).to_contain_text("Nothing is waiting for your grade.")
    assert "The sea was calm on day 1." in said
    for person in (kim, lee):
        assert person.id not in said and f">{person.name}<" not in said
    while (written := grading.following(live.store, two)) is not None:
        grading.give(live.store, two, written.answer, 1 if written.response.startswith("No ") else 7)

    # 5. The numbers, without a name: of two who could not differ more.
    press(page, page.get_by_role("link", name="The candidates"))
    cards = page.locator("article.candidate")
    expect(cards).to_have_count(2)
    good = cards.filter(has_text="Harbours, and the people who work there.")
    expect(good).to_contain_text("100% (82 to 100) above 75%")
    expect(good).to_contain_text(f"{K * TRIAL} outputs; the key flags {TRIAL}, the candidate {TRIAL}; kappa 1.00")
    expect(good).to_contain_text(f"{2 * TRIAL} pairs of {TRIAL} items")
    expect(good).to_contain_text("7.0 of 7 (4.7 to 7.0) too few to say")
    bad = cards.filter(has_text="Not answered.")
    expect(bad).to_contain_text(f"the key flags {TRIAL}, the candidate 0; kappa 0.00")
    expect(bad).to_contain_text("below 75%")
    expect(bad).to_contain_text("1.5 of 7 (1.1 to 3.9) below 6")
    expect(page.locator("main")).not_to_contain_text("Kim")
    expect(page.get_by_role("link", name="Decide")).to_have_count(0)  # a reviewer does not
    look(page, "screening")

    # 6. An admin admits one, with the name before them, and declines the other in their own words.
    admin.goto(live.url + "/screening")
    press(admin, admin.locator("article.candidate").filter(has_text="Harbours").get_by_role("link", name="Decide"))
    expect(admin.locator("main")).not_to_contain_text("Kim")
    look(admin, "candidate")
    press(admin, admin.get_by_role("link", name="Show the name"))
    expect(admin.locator("main")).to_contain_text("This is Kim.")
    press(admin, admin.get_by_role("button", name="Admit"))
    admin.wait_for_url("**/screening")
    press(admin, admin.locator("article.candidate").filter(has_text="Not answered.").get_by_role("link", name="Decide"))
    to(admin, admin.get_by_label("What they are told"))
    admin.keyboard.press("Control+a")
    admin.keyboard.type(WORDS)
    press(admin, admin.get_by_role("button", name="Decline"))
    admin.wait_for_url("**/screening")
    expect(admin.locator("article.candidate .tag").filter(has_text="declined")).to_have_count(1)
    with live.store.read() as tx:
        rows = tx.execute(sa.select(actions).where(actions.c.what.in_(("admit", "decline")))).all()
    told = {row.what: (row.about, row.detail["named"], row.detail["numbers"]["grades"]["verdict"]) for row in rows}
    assert told == {"admit": (kim.id, True, "too few to say"), "decline": (lee.id, False, "below")}

    # 7. Who was admitted gets the real work; who was not reads the words, and has none.
    kim_page.goto(live.url)
    expect(kim_page.get_by_role("heading", name="Your desk")).to_be_visible()
    press(kim_page, kim_page.get_by_role("button", name="Write the next one"))
    expect(kim_page.locator(".taskbar-facts")).to_contain_text("the real thing")
    lee_page = live.page(lee)
    expect(lee_page.locator(".said")).to_have_text(WORDS)
    expect(lee_page.locator("main").get_by_role("button")).to_have_count(0)
    look(lee_page, "declined")

    for seen in (admin, page, kim_page, lee_page):
        calm(seen)
    assert check(live.store) == []
