"""How soon a task page takes keys: nine responses of 1,000 tokens, in under 500 ms, with under 60 KB of scripts.

    .venv/bin/python benchmarks/studio_page.py

From pressing the button on the desk (the claim, the redirect, the page, its styles and scripts) until the page takes
keys, in headless Chromium on this machine, a fresh task each time. The first page of a profile loads scripts and
styles; later ones ask whether they changed. It needs what `make test` installs: the browser and the tests' studio.
"""

from __future__ import annotations

import gzip
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import arguments, show, spread

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "studio"))  # the browser and the studio of the tests

from browser import SWITCHES, Live, chromium, served  # noqa: E402
from made_studio import Made  # noqa: E402
from playwright.sync_api import Browser, Page, Response, sync_playwright  # noqa: E402
from studio_export import WORDS  # noqa: E402

from tutelage.studio.app import build  # noqa: E402
from tutelage.studio.project import init  # noqa: E402
from tutelage.studio.schema import responses  # noqa: E402
from tutelage.studio.store import open_store, url_of  # noqa: E402

K, LONG = 9, 750  # responses, and words that make some 1,000 tokens


def open_task(page: Page, home: str) -> float:
    """Milliseconds from the button on the desk to a page that takes keys."""
    page.goto(home + "/")
    button = page.locator("form[action='/next/compare'] button")
    button.wait_for()
    started = time.perf_counter()
    button.click()
    page.wait_for_url("**/task/**", wait_until="commit")
    while page.locator("#status").inner_text() == "opening…":
        time.sleep(0.005)
    return 1000 * (time.perf_counter() - started)


def measure(browser: Browser, folder: Path, turns: int) -> dict[str, Any]:
    """The first task of a profile, `turns` later ones, and what the first one loaded."""
    project = init(folder / "studio", name="Harbour")
    store = open_store(url_of(folder / "studio"))
    made, draw = Made(store), random.Random(0)
    made.filled("compare", 1 + turns, k=K)
    with store.write() as tx:
        tx.execute(responses.update().values(text=" ".join(draw.choices(WORDS, k=LONG))))
    loaded: dict[str, bytes] = {}
    elsewhere: list[str] = []

    def note(answer: Response) -> None:
        if not answer.url.startswith(home):
            elsewhere.append(answer.url)
        elif answer.url.split("?")[0].endswith(".js") and answer.ok:
            loaded[answer.url] = answer.body()

    with served(build(project, store)) as (home, stop, start):
        live = Live(home, project, store, made, browser, stop, start)
        page = live.context(made.account()).new_page()
        page.on("response", note)
        first = open_task(page, home)
        later = [skipped(page, home) for _ in range(turns)]
        page.context.close()
    store.close()
    size = sum(len(gzip.compress(body)) for body in loaded.values())
    return {"first_ms": first, "later_ms": spread(later), "scripts_gzip_bytes": size, "elsewhere": elsewhere}


def skipped(page: Page, home: str) -> float:
    """Leave the task in hand, and open the next one."""
    page.request.post(page.url + "/skip", form={"reason": "unclear"}, headers={"Origin": home})
    return open_task(page, home)


def main() -> None:
    """Measure and print."""
    given = arguments(__doc__, turns=(10, "tasks after the first"))
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=SWITCHES)
        found = measure(browser, Path(name), given.turns)
        browser.close()
    later = found["later_ms"]
    table = [
        ["", "value"],
        ["first task, ms", f"{found['first_ms']:.0f}"],
        ["later tasks, ms", "{median:.0f} ({min:.0f} to {max:.0f})".format(**later)],
        ["scripts, KB compressed", f"{found['scripts_gzip_bytes'] / 1024:.1f}"],
        ["requests elsewhere", str(len(found["elsewhere"]))],
    ]
    show(found, table, as_json=given.json)


if __name__ == "__main__":
    main()
