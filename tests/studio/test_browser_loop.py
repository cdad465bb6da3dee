"""The loop and a round in a real browser: readable in every shape, and up to date while the round trains."""

from __future__ import annotations

import fcntl
import re
import time

import sqlalchemy as sa
from browser import Live, calm, look
from made_studio import ranking
from playwright.sync_api import expect
from test_loop_page import add_round, begun, tell

from tutelage.records import write_json
from tutelage.studio import rounds
from tutelage.studio.schema import rounds as table


def stage(line: str) -> dict[str, object]:
    """What a round says of where it is: two of eight iterations in the last minute, at which others take 30 s."""
    plan = {"sft": {"work": 1.0, "steps": 4}, "ppo_ptx": {"work": 1.0, "steps": 8}, "next": {"work": 1.0, "steps": 9}}
    found = {"stage": "ppo_ptx", "line": line, "place": 5, "of": 7, "at": time.time() - 60, "done": 0.0}
    return found | {"spent": {"sft": 120.0}, "plan": plan}


def test_a_round_is_followed_while_it_trains(live: Live) -> None:
    folder = add_round(live.store, live.project, state="running")
    begun(folder)
    with (folder / rounds.ALIVE).open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)  # as its process holds it
        page = live.page(live.made.account("admin"), "/rounds/1")
        expect(page.locator("#live-stage")).to_contain_text("optimise the policy")
        expect(page.locator("#live-stage")).to_contain_text("not known yet")
        look(page, "round-running")
        before = page.locator("h2", has_text="Log").bounding_box()
        write_json(folder / "stage.json", stage("sample what people rank next"))
        (folder / "log.txt").write_text("a later word <b>not bold</b>\n")
        expect(page.locator("#live-stage")).to_contain_text("sample what people rank next")
        expect(page.locator("#live-stage")).to_contain_text(re.compile(r"About \d minutes left \(\d to \d+ min\)"))
        expect(page.locator("#live-log")).to_have_text("a later word <b>not bold</b>")
        assert page.locator("h2", has_text="Log").bounding_box() == before  # nothing jumps
        tell(folder)
        with live.store.write() as tx:
            tx.execute(sa.update(table).values(state="finished", ended=live.store.clock()))
    expect(page.locator("#round-state")).to_have_text("finished")
    expect(page.get_by_role("link", name="Open the report")).to_be_visible()
    calm(page)
    look(page, "round-finished")


def test_a_round_goes_on_being_shown_when_the_studio_comes_back(live: Live) -> None:
    folder = add_round(live.store, live.project, state="running")
    begun(folder)
    with (folder / rounds.ALIVE).open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        page = live.page(live.made.account("reviewer"), "/rounds/1")
        expect(page.get_by_role("button", name="Stop")).to_have_count(0)  # a reviewer watches
        live.stop()
        write_json(folder / "stage.json", stage("while it was away"))
        page.wait_for_timeout(2500)
        live.start()
        expect(page.locator("#live-stage")).to_contain_text("while it was away")


def test_the_loop_is_readable_in_every_state(live: Live) -> None:
    page = live.page(live.made.account("admin"), "/loop")
    look(page, "loop-empty")
    live.made.filled("compare", 3, k=4)
    labeler = live.made.account()
    live.made.answer(labeler.id, "compare", ranking(4))
    tell(add_round(live.store, live.project))
    add_round(live.store, live.project, 2, state="failed", message="the disk is full: 0 bytes left")
    page.goto(live.url + "/loop")
    expect(page.locator(".next-sentence")).to_be_visible()
    look(page, "loop")
    page.goto(live.url + "/rounds/2")
    look(page, "round-failed")
    page.goto(live.url + "/values")
    look(page, "values")
    calm(page)
