"""What browser tests stand on: the system's Chromium, a live studio on a free port, axe-core, screenshots.

Its fixtures, `browser` and `live`, are known to every test beside it (see conftest.py).

`browser` is started once per test file and closed with it, not once per session: while Playwright's synchronous side is
running it leaves an event loop set in this thread, which tests of other files would stumble over.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from made_studio import SETUP_TOKEN, Made
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tutelage.studio import accounts
from tutelage.studio.accounts import Account
from tutelage.studio.app import COOKIE, build
from tutelage.studio.project import Project, init
from tutelage.studio.store import Store, open_store

SCRIPT = Path(__file__).parents[2] / "scripts" / "chromium.sh"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 30_000
"""Milliseconds Playwright waits for anything: a busy machine is no failure."""
expect.set_options(timeout=PATIENCE)
HERE = ("http://127.0.0.1:", "data:", "blob:", "about:")
WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 360, "height": 740}


def chromium() -> str:
    """The path of a Chromium, installed where there is none."""
    for _ in range(2):
        found = next((path for name in NAMES if (path := shutil.which(name))), None)
        if found:
            return found
        subprocess.run([SCRIPT, "install"], check=True)
    raise AssertionError("scripts/chromium.sh brought no Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=SWITCHES, timeout=120_000)
        yield started
        started.close()


@dataclass
class Live:
    """A studio that is being served, and the browser that looks at it."""

    url: str
    project: Project
    store: Store
    made: Made
    browser: Browser
    stop: Callable[[], None]
    start: Callable[[], None]

    def context(self, who: Account | None = None, **options: Any) -> BrowserContext:
        """A browser profile of its own, with an account logged in."""
        context = self.browser.new_context(
            **{"viewport": WIDE, "reduced_motion": "reduce", "locale": "en-GB"} | options
        )
        context.set_default_timeout(PATIENCE)
        if who is not None:
            self.log_in(context, who)
        return context

    def log_in(self, context: BrowserContext, who: Account) -> None:
        """Give a profile a session of an account, as its login would."""
        token = accounts.open_session(self.store, who.id)
        context.add_cookies([{"name": COOKIE, "value": token, "url": self.url, "httpOnly": True, "sameSite": "Lax"}])

    def page(self, who: Account | None = None, path: str = "/", **options: Any) -> Page:
        """A page in a profile of its own, open at a path. What goes wrong in its scripts fails the test at `calm`."""
        page = self.context(who, **options).new_page()
        watch(page)
        page.goto(self.url + path)
        return page


def watch(page: Page, places: tuple[str, ...] = HERE) -> None:
    """Collect a page's errors, content-policy violations and requests to other places; `calm` reads them."""
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def heard(line: ConsoleMessage) -> None:
        if line.type == "error" and "Failed to load resource" not in line.text:  # an answer of 4xx is no mistake
            wrong.append(line.text)

    def asked(request: Request) -> None:
        if not request.url.startswith(places):
            wrong.append(f"the page asked for {request.url}")

    page.on("console", heard)
    page.on("request", asked)
    setattr(page, "wrong", wrong)  # noqa: B010 - Playwright's pages take attributes


def calm(page: Page) -> None:
    """Nothing went wrong in a page's scripts, broke the content policy, or was asked of another place."""
    assert page.wrong == []  # type: ignore[attr-defined]


@contextlib.contextmanager
def served(app: Any) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """Serve an application on a free port: (address, stop, start), to take it down and bring it back there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start() -> None:
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", access_log=False, lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the studio did not start"
            time.sleep(0.02)
        running.append((server, thread))

    def stop() -> None:
        while running:
            server, thread = running.pop()
            server.should_exit = server.force_exit = True
            thread.join(30)
            assert not thread.is_alive()

    start()
    try:
        yield f"http://127.0.0.1:{port}", stop, start
    finally:
        stop()


@pytest.fixture
def live(tmp_path: Path, browser: Browser) -> Iterator[Live]:
    """A studio with nothing in it, served on a free port; profiles opened through it are closed with it."""
    project = init(tmp_path / "live", name="Harbour")
    store = open_store(f"sqlite:///{tmp_path / 'live' / 'studio.db'}")
    try:
        with served(build(project, store, setup=SETUP_TOKEN)) as (url, stop, start):
            yield Live(url, project, store, Made(store), browser, stop, start)
            for context in browser.contexts:
                context.close()
    finally:
        store.close()


def join(admin: Page, page: Page, home: str, name: str, password: str) -> None:
    """An admin makes a link that invites a labeler, who follows it on a page of their own."""
    admin.goto(home + "/people")
    admin.get_by_role("button", name="Make a link").click()
    page.goto(admin.locator("input[readonly]").input_value())
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Join").click()
    expect(page.get_by_role("heading", name="Your desk")).to_be_visible()


# ---- looking at pages ------------------------------------------------------------------------------------------


def accessible(page: Page) -> None:
    """axe-core finds nothing serious or critical on the page as it stands."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    bad = [
        f"{v['id']} ({v['impact']}): {v['help']}: {[node['target'] for node in v['nodes']][:5]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert not bad, "\n".join(bad)


def fits(page: Page) -> None:
    """Nothing makes the page scroll sideways."""
    width, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width <= room, f"{page.url} is {width} px wide in {room} px"


def look(page: Page, name: str) -> None:
    """The page, checked as it should be seen: wide, at 360 px and at 200% zoom; light and dark; by axe-core.

    With TUTELAGE_SHOTS=FOLDER in the environment, a screenshot of each is left there.
    """
    before = page.viewport_size
    # 200% zoom of a window 1,200 wide is a page of 600 by 450 pixels.
    for shape, size in (("wide", WIDE), ("narrow", NARROW), ("zoomed", {"width": 600, "height": 450})):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            fits(page)
            if shape != "zoomed":
                accessible(page)
            if folder := os.environ.get("TUTELAGE_SHOTS"):
                page.screenshot(path=f"{folder}/{name}-{shape}-{scheme}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(before)  # type: ignore[arg-type]
