"""The whole story in a browser, with real parts: from an empty folder to a policy, and a report that says whose it is.

An admin starts the studio, brings forty prompts in and invites two labelers; they write six demonstrations and rank
thirty comparisons by keyboard; two rounds train a small real model in child processes; the new policy answers in the
playground. Told once on SQLite and once on PostgreSQL. The model is tiny and random: that the loop closes is told
here, what it learns is not.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import PATIENCE, WIDE, calm, join, watch
from made_server import Server
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tutelage import workflows
from tutelage.studio.check import check
from tutelage.studio.project import FILE, init
from tutelage.studio.store import open_store

PASSWORD = "a long enough password"
NO_NETWORK = Path(__file__).parent / "no_network"
DEMONSTRATIONS, COMPARISONS, K = 6, 30, 4
TRAINING = 240  # seconds that a round of a tiny model may take on a busy machine


@pytest.fixture
def studio(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny_model_dir: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Server, Path, str]]:
    """A studio started as a user starts it, without a network: (server, folder, database URL)."""
    calls = tmp_path / "calls"
    monkeypatch.setenv("TUTELAGE_CALLS", str(calls))
    monkeypatch.setenv("PYTHONPATH", str(NO_NETWORK))
    folder = tmp_path / "studio"
    project = init(folder, name="Harbour", model=str(tiny_model_dir("llama")))
    small = dataclasses.asdict(project.settings) | {"preset": "small", "k": K, "max_response_tokens": 8}
    (folder / FILE).write_text(json.dumps(small))
    database = f"sqlite:///{folder / 'studio.db'}"
    if request.param == "postgresql":
        database = request.getfixturevalue("empty_postgres")()
    server = Server(folder, database)
    try:
        yield server, folder, database
    finally:
        server.kill()
    assert not calls.exists(), calls.read_text()


def person(browser: Browser) -> BrowserContext:
    """A browser profile of somebody's own."""
    context = browser.new_context(viewport=WIDE, reduced_motion="reduce")  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    return context


def forty_prompts(folder: Path) -> Path:
    """A file of forty prompts from the embedded workflow, ten of them held out."""
    prompts = workflows.load("support").prompts
    chosen = [p for p in prompts if p.split == "train"][:32] + [p for p in prompts if p.split == "test"][:8]
    path = folder / "forty.jsonl"
    rows = [{"prompt": p.text, "user": p.user, "use_case": p.use_case, "split": p.split} for p in chosen]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def invited(admin: Page, home: str, browser: Browser, name: str) -> Page:
    """Invite a labeler, and follow the link as them."""
    page = person(browser).new_page()
    watch(page)
    join(admin, page, home, name, PASSWORD)
    return page


def demonstrate(page: Page, home: str, count: int) -> None:
    """Write responses by keyboard, one task after the other."""
    page.goto(home)
    page.get_by_role("button", name="Write the next one").click()
    for n in range(count):
        expect(page.locator("#response")).to_be_focused()
        expect(page.locator("#status")).not_to_have_text("opening…")
        page.keyboard.type(f"I am sorry about that. We will look into it today, case {n}.")
        before = page.url
        page.keyboard.press("Control+Enter")
        page.wait_for_url(lambda url, before=before: url.split("#")[0] != before.split("#")[0])


def rank(page: Page, home: str, count: int) -> None:
    """Rate and rank by keyboard: a rating each, then the ranks, the last two tied."""
    page.goto(home)
    page.get_by_role("button", name="Rank the next ones").click()
    for n in range(count):
        shown = page.locator("#status")
        expect(shown).not_to_have_text("opening…")
        for place in range(K):
            page.keyboard.press(str(1 + (n + 2 * place) % 7))
            page.keyboard.press("Enter")
        for one in ("1", "2", "3", "3"):
            page.keyboard.press(one)
        before = page.url.split("#")[0]
        page.keyboard.press("Control+Enter")
        page.wait_for_url(lambda url, before=before: url.split("#")[0] != before)


def train_round(admin: Page, home: str, number: int) -> None:
    """Press the button, close the page, and come back when the round is done."""
    admin.goto(home + "/loop")
    admin.get_by_label("Prompts to rank next").fill(str(COMPARISONS))
    admin.get_by_role("button", name="Start training").click()
    expect(admin.get_by_role("heading", name=f"Round {number}")).to_be_visible()
    admin.goto("about:blank")
    until = time.monotonic() + TRAINING
    admin.goto(f"{home}/rounds/{number}")  # from here on the page keeps itself up to date
    while (state := admin.locator("#round-state").inner_text()) in ("running", "stopping", "waiting"):
        assert time.monotonic() < until, admin.locator("#live-log").inner_text()
        if state == "waiting":  # a random model learns nothing from thirty rankings, and the page says so
            expect(admin.get_by_role("heading", name="against this reward model?")).to_be_visible()
            admin.get_by_role("button", name="Go on anyway").click()
            expect(admin.locator("#round-state")).not_to_have_text("waiting")
        time.sleep(1)
    assert state == "finished", admin.locator("main").inner_text()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("studio", ["sqlite", "postgresql"], indirect=True)
def test_from_an_empty_folder_to_a_new_policy(
    studio: tuple[Server, Path, str], browser: Browser, tmp_path: Path
) -> None:
    server, folder, database = studio
    home = f"http://127.0.0.1:{server.port}"

    # 1. A new user opens the address that the studio prints: it asks for their account, then says what to do first.
    admin = person(browser).new_page()
    watch(admin)
    admin.goto(server.setup.replace("localhost", "127.0.0.1"))
    admin.get_by_label("Your name").fill("Ada")
    admin.get_by_label("Password").fill(PASSWORD)
    admin.get_by_role("button", name="Begin").click()
    expect(admin.locator(".next-sentence")).to_be_visible()

    # 2. Forty prompts come in.
    admin.goto(home + "/prompts/import")
    admin.get_by_label("JSONL").set_input_files(forty_prompts(tmp_path))
    admin.get_by_role("button", name="Bring it in").click()
    expect(admin.locator("main")).to_contain_text("40")

    # 3. Two labelers are invited, and asked for six demonstrations.
    labelers = [invited(admin, home, browser, name) for name in ("Emil", "Zora")]
    admin.goto(home + "/batches")
    asked = admin.locator("form[action='/batches/demonstrate']")
    asked.get_by_label("Name").fill("first words")
    asked.get_by_label("Prompts", exact=False).first.fill(str(DEMONSTRATIONS))
    asked.get_by_role("button", name="Make the batch").click()
    emil, zora = labelers
    for page, count in ((emil, 3), (zora, 2), (emil, 1)):  # the last one lay on Emil's desk meanwhile
        demonstrate(page, home, count)

    # 4. The first round imitates them, and puts its responses up for ranking.
    train_round(admin, home, 1)

    # 5. Thirty comparisons are ranked, in two accounts, by keyboard.
    for page, count in ((emil, 15), (zora, 14), (emil, 1)):
        rank(page, home, count)

    # 6. The second round trains a reward model and a new policy; its report names whose judgements it learned from.
    train_round(admin, home, 2)
    told = json.loads((folder / "runs" / "round-2" / "round.json").read_text())
    trained_on = told["trained_on"]
    assert trained_on["demonstrations"]["n"] == DEMONSTRATIONS
    assert (trained_on["rankings"]["n"], trained_on["rankings"]["groups"]["training"]["labelers"]) == (COMPARISONS, 2)
    assert told["policy"] == "ppo_ptx"
    admin.get_by_role("link", name="Open the report").click()
    expect(admin.locator("body")).to_contain_text(f"{COMPARISONS} rankings")

    # 7. The new policy answers in the playground, beside the base model.
    admin.goto(home + "/playground")
    admin.get_by_label("Prompt", exact=True).fill("Where is my parcel?")
    admin.get_by_role("button", name="Ask").click()
    expect(admin.locator("#status")).to_have_text("Which answer is best?", timeout=120_000)
    best = admin.locator("button:enabled", has_text="This one is best")
    assert best.count() >= 3  # a model of 128 positions may have no room for worked examples
    best.first.click()
    expect(admin.locator("#answers")).to_contain_text("PPO")

    # 8. What comes next is there: new responses to rank, and old and new policy to judge blind.
    emil.goto(home)
    expect(emil.get_by_role("button", name="Judge the next ones")).to_be_visible()
    expect(emil.get_by_role("button", name="Rank the next ones")).to_be_visible()

    for page in (admin, *labelers):
        calm(page)
    store = open_store(database)
    try:
        assert check(store) == []
    finally:
        store.close()
