"""The playground and the values page in Chromium: a blind sitting by keyboard, hostile text, and how both look."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from browser import Live, browser, calm, live, look, served  # noqa: F401
from made_round import give_round, train_round
from made_studio import Made, ranking
from playwright.sync_api import Browser, Page, expect

from tutelage.records import write_json
from tutelage.studio import groupmodel
from tutelage.studio.app import build
from tutelage.studio.host import Host
from tutelage.studio.project import Project, init
from tutelage.studio.schema import votes
from tutelage.studio.store import open_store

SLOW = 240_000  # milliseconds for the models' first words: they are loaded first, on a busy machine
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>\n\n**bold** & more"


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round's folder to copy from."""
    return train_round(tmp_path_factory, tiny_model_dir("llama"))


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """One model host for all tests."""
    made = Host()
    yield made
    made.close()


@pytest.fixture(params=[8])
def studio(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    browser: Browser,  # noqa: F811
    host: Host,
    trained: Path,
    tiny_model_dir: Callable[[str], Path],
) -> Iterator[Live]:
    """A studio on the tiny model with a finished round; its answers have as many tokens as the test asks for."""
    made = init(tmp_path / "live", name="Harbour", model=str(tiny_model_dir("llama")))
    settings = dataclasses.replace(made.settings, max_response_tokens=request.param)
    project = Project(made.folder, settings, made.guidelines)
    give_round(project, trained)
    store = open_store(f"sqlite:///{tmp_path / 'live' / 'studio.db'}")
    app = build(project, store)
    app.state.host = host
    try:
        with served(app) as (url, stop, start):
            yield Live(url, project, store, Made(store), browser, stop, start)
            for context in browser.contexts:
                context.close()
    finally:
        store.close()


def whole(page: Page, count: int = 4) -> None:
    """Wait until all models have answered."""
    expect(page.locator(".answer-length", has_text="tokens")).to_have_count(count)
    expect(page.get_by_role("status").first).to_have_text("Which answer is best?", timeout=SLOW)


@pytest.mark.timeout(600)
def test_a_blind_sitting_by_keyboard(studio: Live) -> None:
    studio.made.prompts(3)
    page = studio.page(studio.made.account(), "/playground")
    look(page, "playground-empty")
    page.get_by_label("Example prompt").focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Write sentence number 1 about the sea.")
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".answer h2")).to_have_text(["Answer A", "Answer B", "Answer C", "Answer D"], timeout=SLOW)
    whole(page)
    assert page.locator(".answer-score").all_inner_texts() == ["score –"] * 4
    assert not any(name in page.locator("#answers").inner_text() for name in ("SFT", "PPO", "Base"))
    second = page.get_by_role("button", name="Answer B is best")
    second.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("Your vote: Answer B: ")
    expect(page.get_by_role("status").first).to_be_focused()
    titles = {t.split(": ")[1] for t in page.locator(".answer h2").all_inner_texts()}
    assert titles == {"Base model", "Base, prompted", "SFT", "PPO"}
    assert all(t != "score –" for t in page.locator(".answer-score").all_inner_texts())
    look(page, "playground-voted")
    calm(page)
    with studio.store.read() as tx:
        assert tx.execute(sa.select(votes.c.best)).scalar_one() == 1


@pytest.mark.timeout(600)
def test_open_answers_a_deleted_run_and_text_that_stays_text(studio: Live) -> None:
    shutil.rmtree(studio.project.runs / "round-1" / "ppo_ptx")
    page = studio.page(studio.made.account("admin"), "/playground")
    page.get_by_label("Blind").uncheck()
    page.get_by_label("Prompt", exact=True).fill(HOSTILE)
    page.get_by_role("button", name="Ask").click()
    whole(page)
    expect(page.locator(".answer h2")).to_have_text(["Base model", "Base, prompted", "SFT", "PPO"])
    expect(page.locator(".answer-problem").nth(3)).to_contain_text("the run is gone; it was deleted or moved")
    expect(page.get_by_role("button", name="PPO is best")).to_be_disabled()
    # What a model says comes in by the same door as everything else: pieces and whole texts, set as text.
    page.evaluate(
        """async (text) => {
          const stream = `event: start\\ndata: {"key": "k", "labels": ["A", "B"], "ahead": 0}\\n\\n`
            + `event: piece\\ndata: ${JSON.stringify({ place: 0, text })}\\n\\n`
            + `event: end\\ndata: ${JSON.stringify({ place: 1, text, tokens: 1, ended: true, score: null })}\\n\\n`
            + `event: done\\ndata: {"votable": true}\\n\\n`;
          window.fetch = async () => new Response(stream, { status: 200 });
        }""",
        HOSTILE,
    )
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".answer h2")).to_have_text(["A", "B"])
    assert [t.inner_text() for t in page.locator(".answer-text").all()] == [HOSTILE, HOSTILE]
    assert page.locator(".answer-text *").count() == 0
    assert "taken" not in page.title()
    calm(page)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("studio", [100], indirect=True)
def test_stopped_lost_and_refused(studio: Live) -> None:
    page = studio.page(studio.made.account(), "/playground")
    page.get_by_label("Prompt", exact=True).fill("The sea")
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status").first).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    page.context.clear_cookies()
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("alert")).to_contain_text("you are logged out")
    page.context.set_offline(True)
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("alert")).to_have_text("the studio does not answer")
    calm(page)


def test_whose_values_at_a_glance(live: Live) -> None:  # noqa: F811
    made = live.made
    one, two = made.account(team="mornings"), made.account(team="evenings")
    made.filled("compare", 3, overlap=2, k=3)
    for _ in range(3):
        made.answer(one.id, body=ranking(3))
        made.answer(two.id, body=ranking(3, [3, 2, 1]))
    for group, sign in (("mornings", 1), ("evenings", -1)):
        folder = groupmodel.folder_of(live.project, group)
        rows = [r for rows in groupmodel.compared(live.store).values() for r in rows]
        scores = {r.id: sign * (1.5 - n) for row in rows for n, r in enumerate(row.responses)}
        write_json(folder / "scores.json", {"scores": scores})
        write_json(folder / "state.json", {"group": group, "round": 1, "rankings": 12})
    page = live.page(made.account("admin"), "/values")
    expect(page.get_by_role("heading", name="evenings and mornings: 100% apart")).to_have_count(3)
    expect(page.get_by_text("choose another answer on 3 of 3 sets of responses")).to_be_visible()
    page.get_by_text("What the words mean").click()
    look(page, "values")
    calm(page)
