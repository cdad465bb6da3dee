"""The pictures of docs/tutorial.md: the tutorial done in headless Chromium, on the embedded model, for real.

    .venv/bin/python scripts/tutorial.py docs/tutorial  # in a throw-away folder, both rounds: 10 minutes
    .venv/bin/python scripts/tutorial.py OUT --model MODEL  # another model

The demonstrations are those of the embedded workflow. The comparisons are ranked by its rubric, where the reader of the
tutorial ranks by their own judgement: what the pictures show was trained on a program's taste.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "studio"))  # the browser and the server of the tests

from browser import SWITCHES, chromium, join  # noqa: E402
from made_server import Server  # noqa: E402

from tutelage import rubric, workflows  # noqa: E402
from tutelage.records import Prompt  # noqa: E402
from tutelage.studio.project import FILE, init  # noqa: E402

PASSWORD = "a long enough password"
SIZE = {"width": 1120, "height": 720}
HALF_AN_HOUR = 1800.0
PATIENCE = 60_000  # milliseconds


class Tour:
    """One walk through the tutorial, with a camera."""

    def __init__(self, browser: Browser, home: str, setup: str, out: Path, prompts: list[Prompt]) -> None:
        self.browser, self.home, self.setup, self.out = browser, home, setup.replace("localhost", "127.0.0.1"), out
        self.workflow = workflows.load("support")
        self.prompts = {prompt.text: prompt for prompt in prompts}
        self.begun = time.monotonic()

    def say(self, words: str) -> None:
        """Progress, for who waits."""
        print(f"{time.monotonic() - self.begun:5.0f} s  {words}", flush=True)

    def person(self) -> Page:
        """Somebody's own browser profile."""
        context = self.browser.new_context(viewport=SIZE, reduced_motion="reduce", locale="en-GB")  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE)
        return context.new_page()

    def shoot(self, page: Page, name: str, at: str = "", height: int = SIZE["height"]) -> None:
        """A picture of what a reader sees, scrolled to `at`, in a window so high."""
        page.set_viewport_size({"width": SIZE["width"], "height": height})
        if at:
            page.locator(at).first.evaluate("(found) => found.scrollIntoView({block: 'start'})")
            page.evaluate("window.scrollBy(0, -12)")
        page.screenshot(path=self.out / f"{name}.png")
        page.set_viewport_size(SIZE)  # type: ignore[arg-type]
        self.say(name)

    def begin(self) -> Page:
        """The admin's account."""
        admin = self.person()
        admin.goto(self.setup)
        admin.get_by_label("Your name").fill("Ada")
        admin.get_by_label("Password").fill(PASSWORD)
        self.shoot(admin, "1-first-page")
        admin.get_by_role("button", name="Begin").click()
        expect(admin.locator(".next-sentence")).to_be_visible()
        self.shoot(admin, "1-loop")
        return admin

    def bring_in(self, admin: Page, file: Path) -> None:
        """The prompts."""
        admin.goto(self.home + "/prompts/import")
        admin.get_by_label("JSONL").set_input_files(file)
        admin.get_by_role("button", name="Bring it in").click()
        expect(admin.locator("main")).to_contain_text(str(len(self.prompts)))
        self.shoot(admin, "2-brought-in")

    def invite(self, admin: Page, name: str) -> Page:
        """A labeler, who follows the link they were sent."""
        page = self.person()
        join(admin, page, self.home, name, PASSWORD)
        return page

    def demonstrate(self, page: Page, count: int, name: str = "") -> None:
        """Write so many of the workflow's demonstrations."""
        written = {d.prompt: d.response for d in self.workflow.demonstrations}
        page.goto(self.home)
        page.get_by_role("button", name="Write the next one").click()
        for n in range(count):
            expect(page.locator("#status")).not_to_have_text("opening…")
            page.keyboard.type(written[self.prompt_on(page)])
            if name and n == 1:
                expect(page.locator("#status")).to_contain_text("saved at")
                self.shoot(page, name)
            self.submit(page)

    def rank(self, page: Page, count: int, names: tuple[str, str] | None = None) -> None:
        """Rate and rank by keyboard, as the workflow's rubric would."""
        page.goto(self.home)
        page.get_by_role("button", name="Rank the next ones").click()
        for n in range(count):
            expect(page.locator("#status")).not_to_have_text("opening…")
            prompt = self.prompts[self.prompt_on(page)]
            golds = [rubric.gold(prompt, text, True, self.workflow.rubric) for text in self.responses_on(page)]
            for gold in golds:
                if names and n == 1 and gold == golds[-1]:
                    self.shoot(page, names[0])
                page.keyboard.press(str(1 + round(6 * gold)))
                page.keyboard.press("Enter")
            for gold in golds:
                page.keyboard.press(str(1 + sum(round(other, 1) > round(gold, 1) for other in golds)))
            if names and n == 1:
                page.evaluate("window.scrollTo(0, 0)")
                self.shoot(page, names[1])
            self.submit(page)

    def prompt_on(self, page: Page) -> str:
        """The prompt of the task that is open, as it was typed."""
        return (page.locator(".asked > .plain").text_content() or "").strip()

    def responses_on(self, page: Page) -> list[str]:
        """The responses in the order they are shown."""
        return [text.strip() for text in page.locator("article.response > .plain").all_text_contents()]

    def submit(self, page: Page) -> None:
        """Submit, and wait for what comes next."""
        before = page.url.split("#")[0]
        page.keyboard.press("Control+Enter")
        page.wait_for_url(lambda url: url.split("#")[0] != before)

    def train(self, admin: Page, number: int, prompts: int, live: str = "") -> None:
        """Press the button and wait, looking once at the curves while it trains."""
        admin.goto(self.home + "/loop")
        admin.get_by_label("Prompts to rank next").fill(str(prompts))
        admin.get_by_role("button", name="Start training").click()
        state = admin.locator("#round-state")  # the page keeps itself up to date
        until, looked = time.monotonic() + HALF_AN_HOUR, False
        while state.inner_text() in ("running", "stopping", "waiting"):
            if time.monotonic() > until:
                raise SystemExit(f"round {number} takes too long")
            if state.inner_text() == "waiting":  # thirty rankings are often too few to show more than chance
                self.shoot(admin, "7-question")
                admin.get_by_role("button", name="Go on anyway").click()
                expect(state).not_to_have_text("waiting")
            if live and not looked and admin.locator("#live-samples .watched").count():
                self.shoot(admin, live, height=1500)
                looked = True
            time.sleep(2)
        if state.inner_text() != "finished":
            raise SystemExit(admin.locator("main").inner_text())

    def whole(self, file: Path) -> None:
        """The tutorial, from the first page to the last."""
        admin = self.begin()
        self.bring_in(admin, file)
        emil, zora = self.invite(admin, "Emil"), self.invite(admin, "Zora")
        admin.goto(self.home + "/people")
        self.shoot(admin, "3-people")
        admin.goto(self.home + "/batches")
        asked = admin.locator("form[action='/batches/demonstrate']")
        asked.get_by_label("Name").fill("first words")
        asked.get_by_label("Prompts", exact=False).first.fill("6")
        self.shoot(admin, "4-batch")
        asked.get_by_role("button", name="Make the batch").click()
        for page, count, name in ((emil, 3, "4-writing"), (zora, 2, ""), (emil, 1, "")):
            self.demonstrate(page, count, name)
        self.train(admin, 1, prompts=30)
        self.shoot(admin, "5-round-1")
        for page, count, names in ((emil, 15, ("6-rating", "6-ranking")), (zora, 14, None), (emil, 1, None)):
            self.rank(page, count, names)
        self.train(admin, 2, prompts=30, live="7-training")
        self.shoot(admin, "8-round-2")
        self.playground(admin)
        admin.goto(self.home + "/rounds/2/report")
        self.shoot(admin, "8-report")
        admin.goto(self.home + "/loop")
        self.shoot(admin, "8-loop")

    def playground(self, admin: Page) -> None:
        """One prompt, every model."""
        admin.goto(self.home + "/playground")
        admin.get_by_label("Prompt", exact=True).fill("The teapot I got from you drips all over the table.")
        admin.get_by_role("button", name="Ask").click()
        best = admin.get_by_role("button", name=" is best")
        expect(best.first).to_be_enabled(timeout=180_000)
        best.first.click()  # then the names are told
        expect(admin.locator("#answers")).to_contain_text("PPO")
        self.shoot(admin, "8-playground", at="#answers", height=1000)


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder the pictures go to")
    parser.add_argument("--model", default="smollm2-135m", help="what the rounds start from")
    parser.add_argument("--preset", default="", help="another preset than the studio's")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file = ROOT / "docs" / "tutorial" / "forty.jsonl"
    texts = {json.loads(line)["prompt"] for line in file.read_text().splitlines()}
    prompts = [prompt for prompt in workflows.load("support").prompts if prompt.text in texts]
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        folder = Path(scratch) / "shop"
        project = init(folder, name="Harbour & Pine", model=given.model)
        if given.preset:
            settings = json.loads((project.folder / FILE).read_text()) | {"preset": given.preset}
            (project.folder / FILE).write_text(json.dumps(settings))
        server = Server(folder, f"sqlite:///{folder / 'studio.db'}")
        browser = playwright.chromium.launch(executable_path=chromium(), args=SWITCHES)
        try:
            Tour(browser, f"http://127.0.0.1:{server.port}", server.setup, given.out, prompts).whole(file)
        finally:
            browser.close()
            server.kill()


if __name__ == "__main__":
    main()
