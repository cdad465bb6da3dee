"""The labelers' pages in a real browser: by keyboard alone, through crashes, lost networks and second tabs.

Every page is looked at too. The server is real and on SQLite; what the database does is tested elsewhere on both kinds.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
import sqlalchemy as sa
from browser import Live, calm, look, watch
from made_studio import PASSWORD, SETUP_TOKEN, Made, ranking
from playwright.sync_api import Error, Page, Route, expect

from tutelage.studio import accounts, queue
from tutelage.studio.accounts import Account
from tutelage.studio.places import sweep
from tutelage.studio.schema import assignments, prompts, responses, sessions
from tutelage.studio.work import order_of

HOSTILE = """<script>window.hit = 1</script><img src=x onerror="window.hit = 2"> <b onclick="hit=3">bold</b>

[click](javascript:window.hit=4) ![x](http://127.0.0.1:9/x.png) <iframe srcdoc="<script>parent.hit=5</script>"></iframe>
</textarea></pre></script><style>body { display: none }</style> **kept**"""

SHORTCUTS = {
    "demonstrate": [
        ("w", "Write"),
        ("Escape", "Leave the field"),
        ("Ctrl+Enter", "Submit"),
        ("m", "Plain text or Markdown"),
        ("g", "Guidelines"),
        ("x", "Skip this task, with a reason"),
        ("b", "Put this task aside (twice)"),
        ("?", "These shortcuts"),
    ],
    "compare": [
        ("1 … 7", "Overall quality"),
        ("q w …", "A flag: the letter beside it"),
        ("n", "Note"),
        ("Enter j →", "Next page"),
        ("k ←", "Page before"),
        ("1 … 9", "Rank this response, go to the next; the same rank twice is a tie"),
        ("j", "Next response"),
        ("k", "Response before"),
        ("r", "Back to the ratings"),
        ("s", "Put the cards in the order of their ranks"),
        ("e", "Edit the best response"),
        ("Escape", "Leave a field"),
        ("Ctrl+Enter", "Submit"),
        ("m", "Plain text or Markdown"),
        ("g", "Guidelines"),
        ("x", "Skip this task, with a reason"),
        ("b", "Put this task aside (twice)"),
        ("?", "These shortcuts"),
    ],
}


def begin(live: Live, kind: str, who: Account | None = None, **options: Any) -> tuple[Page, str]:
    """A page on a labeler's next task of a kind, ready to be worked on, and the assignment's id."""
    who = who or live.made.account()
    found = queue.claim(live.store, who.id, kind)
    assert found is not None
    page = live.page(who, f"/task/{found}", **options)
    ready(page)
    return page, found


def ready(page: Page) -> None:
    expect(page.locator("#status")).not_to_have_text("opening…")


def saved(page: Page) -> None:
    expect(page.locator("#status")).to_contain_text("saved at")


def draft(live: Live, assignment: str) -> Any:
    """The draft's body, as the studio has it."""
    found = live.made.assignment(assignment).draft
    return found and found["body"]


class Keyboard:
    """Presses keys and counts them."""

    def __init__(self, page: Page) -> None:
        self.page, self.pressed = page, 0

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
            self.pressed += key.count("+") + 1


# ---- by keyboard -----------------------------------------------------------------------------------------------


def test_nine_responses_are_rated_and_ranked_by_keyboard_in_forty_presses(live: Live) -> None:
    live.made.filled("compare", 2, k=9)
    page, assignment = begin(live, "compare")
    keyboard = Keyboard(page)
    for place in range(9):
        expect(page.locator("#position")).to_have_text(f"page {place + 1} of 10")
        keyboard.press(str(1 + place % 7), "Enter")
    expect(page).to_have_url(f"{live.url}/task/{assignment}#rank")
    given = [3, 1, 1, 4, 5, 5, 7, 8, 9]
    for rank in given:
        keyboard.press(str(rank))
    expect(page.locator("#order-now")).to_have_text("B = C, then A, then D, then E = F, then G, then H, then I")
    keyboard.press("Control+Enter")
    page.wait_for_url(lambda url: assignment not in url)  # the next task, at once
    assert keyboard.pressed <= 40
    answer = live.made.answers()[0]
    order = live_order(live, assignment)
    dense = [2, 1, 1, 3, 4, 4, 5, 6, 7]
    assert answer.body["ranks"] == [dense[order.index(i)] for i in range(9)]
    assert [row["likert"] for row in answer.body["ratings"]] == [1 + order.index(i) % 7 for i in range(9)]
    assert answer.body["touched"] is True
    ready(page)
    assert "/task/" in page.url
    expect(page.locator(".taskbar-facts")).to_contain_text("Done today1")
    calm(page)


def test_who_gives_the_proposed_ranks_by_hand_is_not_asked_again(live: Live) -> None:
    live.made.filled("compare", k=2)
    page, _ = begin(live, "compare")
    for key in ("6", "Enter", "2", "Enter", "1", "2"):  # the ratings propose 1 and 2
        page.keyboard.press(key)
    page.keyboard.press("Control+Enter")
    page.wait_for_url(live.url + "/")
    assert live.made.answers()[0].body["touched"] is True


def live_order(live: Live, assignment: str) -> list[int]:
    """order[place shown] = index among the item's responses."""
    row = live.made.assignment(assignment)
    return order_of(row.order_seed, len(live.made.item_of(assignment).responses))


def test_flags_notes_and_the_edited_best_by_keyboard(live: Live) -> None:
    live.made.filled("compare", k=2)
    page, assignment = begin(live, "compare")
    page.keyboard.press("q")
    page.keyboard.press("5")
    page.keyboard.press("n")
    page.keyboard.type("qwerty 123 is typed, not obeyed")
    page.keyboard.press("Escape")
    for key in ("ArrowRight", "p", "w", "w", "7", "j"):
        page.keyboard.press(key)
    expect(page.locator("#ranking")).to_be_visible()
    page.keyboard.press("e")
    expect(page.locator("#edit-from")).to_have_text("B")
    page.keyboard.press("End")
    page.keyboard.type(" ")
    page.locator("#edit").dispatch_event("toggle")  # may come late: what was typed by then stands
    page.keyboard.type("Better so.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#order-dialog")).to_be_visible()  # the order was never touched: asked once
    page.keyboard.press("Enter")
    page.wait_for_url(live.url + "/")
    body = live.made.answers()[0].body
    order = live_order(live, assignment)
    shown = [body["ratings"][i] for i in order]
    assert shown[0] == {"likert": 5, "flags": {"fails_instruction": True}, "note": "qwerty 123 is typed, not obeyed"}
    assert shown[1] == {"likert": 7, "flags": {"expresses_opinion": True}, "note": ""}
    assert [body["ranks"][i] for i in order] == [2, 1]
    assert body["touched"] is False
    assert body["edited"].endswith(" Better so.") and body["edited"].startswith("Response ")
    calm(page)


def test_what_is_missing_is_said_and_shown(live: Live) -> None:
    live.made.filled("compare", k=3)
    page, _ = begin(live, "compare")
    for key in ("4", "Enter", "Enter", "4", "Control+Enter"):
        page.keyboard.press(key)
    expect(page.locator("#remark")).to_have_text("Response B is not rated yet.")
    expect(page).to_have_url(page.url.split("#")[0] + "#2")
    for key in ("6", "Control+Enter"):
        page.keyboard.press(key)
    expect(page.locator("#ranking")).to_be_visible()  # rated, but never seen side by side
    page.keyboard.press("Control+Enter")
    dialog = page.locator("#order-dialog")
    expect(dialog).to_contain_text("B, then A = C")
    dialog.get_by_role("button", name="Look again").click()
    page.keyboard.press("Control+Enter")  # asked once only
    page.wait_for_url(live.url + "/")
    assert len(live.made.answers()) == 1


def test_destructive_keys_need_two_strokes(live: Live) -> None:
    live.made.filled("compare", 2, k=2)
    page, assignment = begin(live, "compare")
    page.keyboard.press("b")
    expect(page.locator("#remark")).to_have_text("Press b once more to put this task aside.")
    assert live.made.assignment(assignment).state == "active"
    page.keyboard.press("b")
    page.wait_for_url(lambda url: assignment not in url)
    assert live.made.assignment(assignment).state == "postponed"
    ready(page)
    second = page.url.rsplit("/", 1)[1].split("#")[0]
    page.keyboard.press("x")
    dialog = page.locator("#skip-dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert live.made.assignment(second).state == "active"
    page.keyboard.press("x")
    dialog.get_by_role("button", name="Skip it").click()  # without a reason it stays
    expect(dialog).to_be_visible()
    dialog.get_by_label("I cannot make out what is asked").check()
    dialog.get_by_role("button", name="Skip it").click()
    page.wait_for_url(live.url + "/")
    assert live.made.assignment(second).state == "skipped"
    expect(page.get_by_role("heading", name="Put aside")).to_be_visible()


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_the_shortcuts_are_frozen_and_can_be_switched_off(live: Live, kind: str) -> None:
    live.made.filled(kind, k=2)
    page, _ = begin(live, kind)
    page.locator("#help").focus()
    page.keyboard.press("Enter")
    terms = page.locator("#keys dt").all_inner_texts()
    listed = [(" ".join(t.split()), d) for t, d in zip(terms, page.locator("#keys dd").all_inner_texts(), strict=True)]
    assert listed == SHORTCUTS[kind]
    page.get_by_label("Shortcuts of a single key").uncheck()
    page.keyboard.press("Escape")
    page.locator("main").focus()
    open_before = page.locator("#guidelines").evaluate("d => d.open")
    page.keyboard.press("g")
    assert page.locator("#guidelines").evaluate("d => d.open") == open_before
    page.keyboard.press("?")
    page.get_by_label("Shortcuts of a single key").check()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    assert page.locator("#guidelines").evaluate("d => d.open") != open_before


def test_native_radios_rank_and_dragging_moves_them(live: Live) -> None:
    live.made.filled("compare", k=3)
    page, assignment = begin(live, "compare")
    for key in ("7", "Enter", "5", "Enter", "3", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#order-now")).to_have_text("A, then B, then C")
    page.keyboard.press("ArrowDown")  # the browser's own: the next radio button of the group
    expect(page.locator("#order-now")).to_have_text("A = B, then C")
    chip, row = page.locator("#order [data-place='2']"), page.locator("#order [data-rank='1']")
    at, to = chip.bounding_box(), row.bounding_box()
    assert at is not None and to is not None
    page.mouse.move(at["x"] + 5, at["y"] + 5)
    page.mouse.down()
    page.mouse.move(at["x"] + 40, at["y"] - 3, steps=4)
    page.mouse.move(to["x"] + 20, to["y"] + 20, steps=4)
    page.mouse.up()
    expect(page.locator("#order-now")).to_have_text("C, then A = B")
    expect(page.locator("input[name='rank-2'][value='1']")).to_be_checked()
    page.keyboard.press("Control+Enter")
    page.wait_for_url(live.url + "/")
    body = live.made.answers()[0].body
    assert [body["ranks"][i] for i in live_order(live, assignment)] == [2, 2, 1]
    assert body["log"] == [["start", 0, 1], ["start", 1, 2], ["start", 2, 3], ["rank", 0, 2], ["rank", 2, 1]]


def test_the_back_button_turns_pages(live: Live) -> None:
    live.made.filled("compare", k=3)
    page, assignment = begin(live, "compare")
    for key in ("4", "Enter", "5", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#position")).to_have_text("page 3 of 4")
    page.go_back()
    expect(page.locator("#position")).to_have_text("page 2 of 4")
    expect(page.locator("input[name='likert-1'][value='5']")).to_be_checked()
    page.go_back()
    expect(page.locator("#position")).to_have_text("page 1 of 4")
    page.go_forward()
    expect(page.locator("#position")).to_have_text("page 2 of 4")
    saved(page)
    page.goto(f"{live.url}/task/{assignment}")
    expect(page.locator("#position")).to_have_text("page 2 of 4")  # where it was left


# ---- nothing typed is lost -------------------------------------------------------------------------------------


def crash(page: Page) -> None:
    """Kill the page's process, as a bad day does."""
    with contextlib.suppress(Error):
        page.goto("chrome://crash", timeout=5000)
    page.close()


def test_a_crash_costs_nothing_here_and_two_seconds_elsewhere(live: Live) -> None:
    live.made.filled("demonstrate")
    me = live.made.account()
    page, assignment = begin(live, "demonstrate", me)
    field = page.locator("#response")
    field.press_sequentially("The sea is wide")
    began = time.monotonic()
    while (draft(live, assignment) or {}).get("response") != "The sea is wide":
        assert time.monotonic() - began < 2 + 3, "not with the studio"  # 2 s, and what a busy machine adds
        time.sleep(0.05)
    field.press_sequentially(" and cold")
    expect(page.locator("#status")).to_have_text("saving…")  # kept here, on its way
    context = page.context
    crash(page)
    elsewhere = live.page(me, f"/task/{assignment}")
    expect(elsewhere.locator("#response")).to_have_value("The sea is wide")
    expect(elsewhere.locator("#notice")).to_contain_text("Restored revision")
    elsewhere.close()
    back = context.new_page()
    watch(back)
    back.goto(f"{live.url}/task/{assignment}")
    expect(back.locator("#response")).to_have_value("The sea is wide and cold")
    expect(back.locator("#notice")).to_contain_text("Restored what was kept on this computer at")
    saved(back)
    assert draft(live, assignment)["response"] == "The sea is wide and cold"
    calm(back)


def test_ratings_and_ranks_survive_a_crash(live: Live) -> None:
    live.made.filled("compare", k=3)
    page, assignment = begin(live, "compare")
    for key in ("7", "q", "Enter", "5", "Enter", "3", "Enter", "2", "2"):
        page.keyboard.press(key)
    expect(page.locator("#order-now")).to_have_text("A = B, then C")
    context = page.context
    crash(page)
    back = context.new_page()
    back.goto(f"{live.url}/task/{assignment}")
    expect(back.locator("#order-now")).to_have_text("A = B, then C")
    expect(back.locator("#position")).to_have_text("page 4 of 4")
    expect(back.locator("input[name='fails_instruction']").first).to_be_checked()
    back.keyboard.press("Control+Enter")
    back.wait_for_url(live.url + "/")
    assert live.made.answers()[0].body["touched"] is True


def test_what_is_typed_before_the_page_is_ready_stays(live: Live) -> None:
    live.made.filled("demonstrate")
    me = live.made.account()
    page = live.context(me).new_page()
    watch(page)
    held: list[Route] = []
    page.route("**/open", lambda route: held.append(route))
    page.goto(f"{live.url}/task/{queue.claim(live.store, me.id, 'demonstrate')}")
    page.keyboard.type("Quick as I am")
    expect(page.locator("#status")).to_have_text("opening…")
    held[0].continue_()
    saved(page)
    expect(page.locator("#response")).to_have_value("Quick as I am")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(live.url + "/")
    assert live.made.answers()[0].body["response"] == "Quick as I am"
    calm(page)


def test_ten_minutes_offline(live: Live) -> None:
    live.made.filled("demonstrate", 2)
    me = live.made.account()
    context = live.context(me)
    page = context.new_page()
    watch(page)
    page.clock.install()
    assignment = queue.claim(live.store, me.id, "demonstrate")
    assert assignment is not None
    page.goto(f"{live.url}/task/{assignment}")
    ready(page)
    context.set_offline(True)
    page.locator("#response").press_sequentially("Written at sea")
    expect(page.locator("#status")).to_have_text("kept on this computer, not yet on the server")
    expect(page.locator("#trouble")).to_contain_text("The studio does not answer.")
    page.clock.fast_forward("10:00")
    page.locator("#response").press_sequentially(", far out")
    page.clock.fast_forward("00:45")
    assert draft(live, assignment) is None
    expect(page.locator("#preview")).to_have_text("Written at sea, far out")  # plain, while nobody renders it
    context.set_offline(False)
    saved(page)
    expect(page.locator("#trouble")).to_be_hidden()
    assert draft(live, assignment) == {"response": "Written at sea, far out"}
    calm(page)


def test_a_submit_offline_is_sent_once_when_the_network_is_back(live: Live) -> None:
    live.made.filled("demonstrate", 2)
    page, assignment = begin(live, "demonstrate")
    page.locator("#response").fill("Once, and only once.")
    saved(page)
    page.context.set_offline(True)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#trouble")).to_contain_text("is submitted by itself as soon as the studio answers")
    page.get_by_role("button", name="Go on editing").click()
    page.locator("#response").press_sequentially(" Really.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#trouble")).to_contain_text("is submitted by itself")
    context = page.context
    crash(page)  # the key was kept
    context.set_offline(False)
    back = context.new_page()
    back.goto(f"{live.url}/task/{assignment}")
    back.wait_for_url(lambda url: assignment not in url)
    assert [a.body for a in live.made.answers()] == [{"response": "Once, and only once. Really."}]


def test_a_lost_acknowledgement_is_no_second_answer(live: Live) -> None:
    live.made.filled("demonstrate", 2)
    page, assignment = begin(live, "demonstrate")
    lost: list[str] = []

    def lose(route: Any) -> None:
        if lost:
            route.continue_()
            return
        lost.append(route.fetch().text())  # the studio booked it; the answer never arrives
        route.abort()

    page.route("**/submit", lose)
    page.locator("#response").fill("Booked already.")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(lambda url: assignment not in url)
    assert lost and len(live.made.answers()) == 1


def test_the_studio_goes_away_and_comes_back(live: Live) -> None:
    live.made.filled("demonstrate")
    page, assignment = begin(live, "demonstrate")
    live.stop()
    page.locator("#response").fill("Through a restart.")
    expect(page.locator("#trouble")).to_contain_text("The studio does not answer.")
    live.start()
    saved(page)
    assert draft(live, assignment) == {"response": "Through a restart."}


def test_an_expired_lease_comes_back_or_is_told(live: Live) -> None:
    live.made.filled("demonstrate", 2)
    page, first = begin(live, "demonstrate")
    other = live.made.account().id
    expire(live, first)
    page.locator("#response").fill("Late, but here.")
    saved(page)
    assert live.made.assignment(first).state == "active"  # nobody wanted the place
    page.locator("#response").fill("Late, but still here.")
    saved(page)
    page.keyboard.press("Control+Enter")
    page.wait_for_url(lambda url: first not in url)
    ready(page)
    second = page.url.rsplit("/", 1)[1]
    expire(live, second)
    assert queue.claim(live.store, other, "demonstrate") is not None  # somebody else took it
    page.locator("#response").fill("Too late.")
    expect(page.locator("#notice")).to_contain_text("its place went to somebody else")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(live.url + "/")
    assert [(a.body["response"], a.extra) for a in live.made.answers()] == [
        ("Late, but still here.", False),
        ("Too late.", True),
    ]


def expire(live: Live, assignment: str) -> None:
    """Let a lease run out, and have it noticed."""
    with live.store.write() as tx:
        tx.execute(assignments.update().where(assignments.c.id == assignment).values(expires=live.store.clock() - 1))
    sweep(live.store)


@pytest.mark.parametrize("same_computer", [True, False])
def test_of_two_tabs_the_older_is_told_and_loses_nothing(live: Live, same_computer: bool) -> None:
    live.made.filled("demonstrate")
    me = live.made.account()
    old, assignment = begin(live, "demonstrate", me)
    old.locator("#response").fill("From the first tab.")
    saved(old)
    if same_computer:
        new = old.context.new_page()
        new.goto(f"{live.url}/task/{assignment}")
    else:
        new = live.page(me, f"/task/{assignment}")
    expect(new.locator("#response")).to_have_value("From the first tab.")
    old.locator("#response").fill("From the first tab, later.")
    expect(old.locator("#notice")).to_contain_text("opened")
    expect(old.locator("#status")).to_have_text("kept on this computer only")
    new.locator("#response").fill("From the second tab.")
    saved(new)
    old.keyboard.press("Control+Enter")  # does nothing
    assert live.made.answers() == []
    assert draft(live, assignment) == {"response": "From the second tab."}
    if same_computer:
        expect(new.locator("#aside")).to_be_visible()
        new.get_by_role("button", name="Show that one instead").click()
        expect(new.locator("#response")).to_have_value("From the first tab, later.")
    expect(old.locator("#response")).to_have_value("From the first tab, later.")
    old.get_by_role("button", name="Go on here").click()
    saved(old)
    assert draft(live, assignment) == {"response": "From the first tab, later."}
    if not same_computer:
        new.locator("#response").press_sequentially("!")
    expect(new.locator("#notice")).to_contain_text("in another tab")


def test_logged_out_in_the_middle(live: Live) -> None:
    live.made.filled("demonstrate")
    live.made.account("admin")
    me = live.made.account(name="Ada")
    page, assignment = begin(live, "demonstrate", me)
    with live.store.write() as tx:
        tx.execute(sessions.delete())
    page.locator("#response").fill("Still here.")
    expect(page.locator("#trouble")).to_contain_text("You are logged out.")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Log in").click()
    login = opened.value
    login.get_by_label("Name").fill("Ada")
    login.get_by_label("Password").fill(PASSWORD)
    login.get_by_role("button", name="Log in").click()
    login.wait_for_url(live.url + "/")
    page.bring_to_front()
    saved(page)
    expect(page.locator("#trouble")).to_be_hidden()
    assert draft(live, assignment) == {"response": "Still here."}


def test_undo_is_a_revision_from_the_desk(live: Live) -> None:
    live.made.filled("compare", k=2)
    page, assignment = begin(live, "compare")
    for key in ("6", "Enter", "2", "Enter", "2", "1", "Control+Enter"):
        page.keyboard.press(key)
    page.wait_for_url(live.url + "/")
    page.get_by_role("link", name="Write sentence number").click()
    ready(page)
    expect(page.locator("#notice")).to_contain_text("your answer as submitted")
    expect(page.get_by_role("button", name="Skip")).to_be_hidden()
    page.locator("#steps a").last.click()
    expect(page.locator("#order-now")).to_have_text("B, then A")
    page.locator("input[name='rank-0'][value='1']").focus()
    page.keyboard.press("1")
    expect(page.locator("#order-now")).to_have_text("A = B")
    saved(page)
    page.keyboard.press("Control+Enter")
    page.wait_for_url(live.url + "/")
    assert [(a.number, a.body["ranks"], a.extra) for a in live.made.answers()][1] == (2, [1, 1], False)
    assert live.made.item_of(assignment).done == 1


def test_time_counts_only_while_somebody_is_there(live: Live) -> None:
    live.made.filled("demonstrate")
    me = live.made.account()
    assignment = queue.claim(live.store, me.id, "demonstrate")
    page = live.context(me).new_page()
    page.clock.install()
    page.goto(f"{live.url}/task/{assignment}")
    ready(page)
    for _ in range(3):
        page.locator("#response").press("a")
        page.clock.run_for(20_000)
    page.clock.run_for(600_000)  # gone for ten minutes
    shown = page.locator("#time").inner_text()
    minutes, seconds = map(int, shown.split(":"))
    assert 100 <= 60 * minutes + seconds <= 135  # twenty, twenty, and a minute until it is noticed


# ---- few-shot prompts ------------------------------------------------------------------------------------------


def few_shot(live: Live) -> None:
    live.made.filled("demonstrate")
    with live.store.write() as tx:
        text = "Name the animal's young.\n\nQuery: cat\nResponse: kitten\n\nQuery: dog\nResponse:"
        tx.execute(prompts.update().values(kind="few-shot", text=text))


def test_few_shot_prompts_give_pairs(live: Live) -> None:
    few_shot(live)
    page, _ = begin(live, "demonstrate")
    page.locator("#response").fill("puppy")
    pairs = page.locator(".pair")
    expect(pairs).to_have_count(3)
    pairs.nth(0).get_by_label("Query").fill("cow")
    pairs.nth(0).get_by_label("Response").fill("calf")
    page.get_by_role("button", name="Add a pair").click()
    pairs.nth(3).get_by_label("Query").fill("sheep")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#remark")).to_contain_text("One pair has only one side.")
    page.keyboard.type("lamb")
    pairs.nth(1).get_by_role("button", name="Remove").click()
    expect(pairs).to_have_count(3)
    pairs.nth(2).get_by_role("button", name="Remove").click()
    expect(pairs).to_have_count(3)  # it has text: asked again
    page.locator("#response").focus()
    saved(page)
    page.reload()
    expect(page.locator(".pair")).to_have_count(3)
    page.keyboard.press("Control+Enter")
    page.wait_for_url(live.url + "/")
    rows = [{"query": "cow", "response": "calf"}, {"query": "sheep", "response": "lamb"}]
    assert live.made.answers()[0].body == {"response": "puppy", "rows": rows}


# ---- hostile text, and what the page must not know -------------------------------------------------------------


def test_hostile_text_is_only_text(live: Live) -> None:
    live.made.filled("compare", k=2)
    live.made.filled("demonstrate")
    with live.store.write() as tx:
        tx.execute(prompts.update().values(text=HOSTILE))
        tx.execute(responses.update().values(text=HOSTILE))
    me = live.made.account()
    outside: list[str] = []
    for kind in ("compare", "demonstrate"):
        page, _ = begin(live, kind, me)
        page.on("request", lambda request: outside.append(request.url))
        page.reload()
        ready(page)
        expect(page.locator(".rendered strong").first).to_have_text("kept")
        page.keyboard.press("m")
        if kind == "demonstrate":
            page.locator("main").focus()
            page.keyboard.press("m")
            page.locator("#response").fill(HOSTILE)
            expect(page.locator("#preview strong")).to_have_text("kept")
        expect(page.locator(".asked .plain")).to_have_text(HOSTILE)
        assert page.locator("main img, main iframe, main script, main .text a, main style, main [onclick]").count() == 0
        assert page.evaluate("window.hit") is None
        calm(page)
    assert all(url.startswith(live.url) for url in outside)


def test_the_page_never_learns_models_or_ids(live: Live) -> None:
    live.made.filled("compare", k=4)
    me = live.made.account()
    assignment = queue.claim(live.store, me.id, "compare")
    page = live.context(me).new_page()
    heard: list[str] = []
    page.on("response", lambda r: heard.append(r.text()) if r.request.resource_type in ("document", "fetch") else None)
    page.goto(f"{live.url}/task/{assignment}")
    ready(page)
    page.keyboard.press("4")
    saved(page)
    with live.store.read() as tx:
        rows = tx.execute(sa.select(responses)).all()
    said = "".join(heard) + page.content()
    assert len(heard) >= 3
    for row in rows:
        assert row.id not in said and row.model not in said


# ---- looking at them -------------------------------------------------------------------------------------------

LONG = """## A plan for a day at the sea

You could begin **early**, when the beach is empty, and then:

1. Swim before breakfast, while the water is still calm.
2. Walk along the dunes to the lighthouse; it opens at ten.
3. Eat something simple: bread, cheese, a few tomatoes.

| time | what |
| --- | --- |
| 8:00 | swim |
| 10:00 | lighthouse |

> Bring a hat. The sun is stronger than it seems, and averyveryverylongwordwithoutanyspacethatmustnotmakethepagewider.
"""


def fill(made: Made, store: Any) -> None:
    """Prompts and responses as people and models write them, in all kinds of batches."""
    made.filled("demonstrate", 4, name="Round 2: demonstrations")
    made.filled("compare", 4, k=4, name="Round 2: comparisons")
    made.filled("compare", 1, k=9, name="Round 2: nine at once", priority=5)
    made.filled("judge", 2, k=2, name="Old against new", mode="truthful-first")
    with store.write() as tx:
        tx.execute(
            prompts.update().values(
                text="Plan a day at the sea for a family with two small children.\n\nKeep it short."
            )
        )
        for n, row in enumerate(tx.execute(sa.select(responses.c.id)).all()):
            text = (
                LONG if n % 3 else f"Go to the beach, number {n}. Swim, eat, sleep, and come home before it gets dark."
            )
            tx.execute(responses.update().where(responses.c.id == row.id).values(text=text))


def test_the_way_in_is_readable_and_accessible(live: Live) -> None:
    page = live.page(None, f"/setup?token={SETUP_TOKEN}")
    look(page, "setup")
    live.made.account("admin", name="Grace")
    page.goto(live.url + "/login")
    look(page, "login")
    page.get_by_label("Name").fill("Grace")
    page.get_by_label("Password").fill("wrong, sadly")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    look(page, "login-wrong")
    token = accounts.invite(live.store, live.made.account("admin"), "labeler")
    page.goto(f"{live.url}/join/{token}")
    look(page, "join")
    page.goto(f"{live.url}/join/nothing")
    look(page, "problem")
    calm(page)


def test_the_desk_and_the_guidelines_are_readable_and_accessible(live: Live) -> None:
    me = live.made.account(name="Ada")
    page = live.page(me)
    look(page, "desk-empty")
    fill(live.made, live.store)
    live.made.answer(me.id, "demonstrate")
    live.made.answer(me.id, "compare", ranking(9))
    for kind, how in (("demonstrate", "postponed"), ("compare", "skipped")):
        found = queue.claim(live.store, me.id, kind)
        assert found
        queue.give_back(live.store, me.id, found, how)
    page.reload()
    look(page, "desk")
    page.goto(live.url + "/guidelines")
    look(page, "guidelines")
    calm(page)


def test_the_writing_page_is_readable_and_accessible(live: Live) -> None:
    fill(live.made, live.store)
    page, assignment = begin(live, "demonstrate")
    look(page, "demonstrate-empty")
    page.locator("#response").fill(LONG)
    saved(page)
    expect(page.locator("#preview table")).to_be_visible()
    look(page, "demonstrate")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    look(page, "demonstrate-help")
    page.keyboard.press("Escape")
    page.context.set_offline(True)
    page.locator("#response").press_sequentially(" more")
    expect(page.locator("#trouble")).to_be_visible()
    look(page, "demonstrate-offline")
    page.context.set_offline(False)
    page.keyboard.press("Control+Enter")
    page.wait_for_url(lambda url: assignment not in url)
    few_shot(live)
    page.reload()
    ready(page)
    look(page, "demonstrate-few-shot")
    calm(page)


@pytest.mark.parametrize("k", [9, 4])
def test_the_ranking_page_is_readable_and_accessible(live: Live, k: int) -> None:
    fill(live.made, live.store)
    me = live.made.account()
    if k == 4:
        live.made.answer(me.id, "compare", ranking(9))
    page, _ = begin(live, "compare", me)
    for key in ("6", "e", "r"):
        page.keyboard.press(key)
    look(page, f"rate-{k}")
    for place in range(k):
        for key in (str(1 + (5 * place) % 7), "Enter"):
            page.keyboard.press(key)
    expect(page.locator("#ranking")).to_be_visible()
    look(page, f"rank-{k}")
    page.keyboard.press("e")
    expect(page.locator("#edited")).to_be_focused()
    look(page, f"rank-{k}-edit")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#order-dialog")).to_be_visible()
    look(page, f"rank-{k}-sure")
    page.keyboard.press("Escape")
    page.locator("#skip").click()
    look(page, f"rank-{k}-skip")
    calm(page)


FIRST_LINES = """selector => [...document.querySelectorAll(selector)].map(holder => {
  const text = [...holder.querySelectorAll(":scope > .text, :scope > .plain")].find(t => t.offsetParent);
  const walk = document.createTreeWalker(text, NodeFilter.SHOW_TEXT, n => n.data.trim() ? 1 : 3);
  const range = document.createRange();
  range.selectNodeContents(walk.nextNode());
  const {left, top, right, bottom} = range.getClientRects()[0];
  const above = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
  return {left, top, right, bottom, seen: text.contains(above)};
})"""
"""Where the first line of each text is, and whether it is what is seen there."""


def on_the_first_screen(page: Page, selector: str, count: int) -> None:
    """The first lines of so many texts are in the window, and nothing covers them."""
    size = page.viewport_size
    assert size is not None and page.evaluate("scrollY") == 0
    lines = page.evaluate(FIRST_LINES, selector)
    assert len(lines) == count
    for line in lines:
        assert line["seen"] and line["left"] >= 0 and line["right"] <= size["width"], line
        assert 0 <= line["top"] < line["bottom"] <= size["height"], line


@pytest.mark.parametrize(("width", "k"), [(1280, 4), (1280, 9), (360, 4)])
@pytest.mark.parametrize("plain", [False, True])
def test_the_prompt_and_all_responses_begin_on_the_first_screen(live: Live, width: int, k: int, plain: bool) -> None:
    live.made.filled("compare", k=k)
    with live.store.write() as tx:
        tx.execute(prompts.update().values(text="\n\n".join(["What the customer wants to know of us."] * 20)))
        tx.execute(responses.update().values(text=LONG * 3))
    page, _ = begin(live, "compare", viewport={"width": width, "height": 800})
    if plain:
        page.keyboard.press("m")
    for place in range(k):
        on_the_first_screen(page, ".asked", 1)
        on_the_first_screen(page, ".response.current", 1)
        page.keyboard.press(str(1 + place % 7))
        page.keyboard.press("Enter")
    expect(page.locator("#ranking")).to_be_attached()
    on_the_first_screen(page, ".asked", 1)
    on_the_first_screen(page, ".response", k)
    for rank in range(k):  # the controls are at each response, on the first screen too
        page.keyboard.press(str(k - rank))
        if width > 1000:
            assert page.evaluate("scrollY") == 0
    expect(page.locator("#order-now")).to_contain_text("then A")
    page.evaluate("scrollTo(0, 0)")
    on_the_first_screen(page, ".response", k)
    calm(page)


def test_a_text_that_is_cut_is_opened_by_its_button(live: Live) -> None:
    live.made.filled("compare", k=4)
    with live.store.write() as tx:
        tx.execute(responses.update().values(text=LONG * 3))
    page, _ = begin(live, "compare", viewport={"width": 1280, "height": 800})
    page.locator("#steps a").last.click()
    card, other = page.locator(".response").nth(1), page.locator(".response").nth(2)
    button = card.get_by_role("button", name="The whole response B")
    expect(button).to_have_attribute("aria-expanded", "false")
    height, before = "t => [t.clientHeight, t.scrollHeight]", other.locator(".text").bounding_box()
    shown, whole = card.locator(".text").evaluate(height)
    assert shown < whole
    button.click()
    expect(button).to_have_attribute("aria-expanded", "true")
    shown, whole = card.locator(".text").evaluate(height)
    assert shown == whole and other.locator(".text").bounding_box() == before
    page.keyboard.press("3")
    expect(card.locator(".ranks input[value='3']")).to_be_checked()  # a key ranks the response one is in
    button.click()
    assert card.locator(".text").evaluate(height)[0] < whole
    calm(page)


def test_no_layout_jumps_while_typing(live: Live) -> None:
    live.made.filled("compare", k=4)
    page, _ = begin(live, "compare")
    watched = "['#submit', '#steps', '.response.current .likert']"
    places = watched + ".map(s => document.querySelector(s).getBoundingClientRect().top)"
    before = page.evaluate(places)
    for key in ("4", "q", "w", "7"):
        page.keyboard.press(key)
    saved(page)
    assert page.evaluate(places) == before
