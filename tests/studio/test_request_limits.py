"""What requests may cost: who may send a body, how large and how slowly, how much at a time, and short waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI, UploadFile, params
from made_studio import Clock, Made, Visit
from starlette.testclient import TestClient
from starlette.types import Message
from test_authorisation import names, routes

from tutelage.studio import accounts, connections, limits, playground, security
from tutelage.studio.accounts import Account
from tutelage.studio.app import COOKIE
from tutelage.studio.connections import Connection, Server
from tutelage.studio.host import EACH, Busy, Host
from tutelage.studio.schema import votes
from tutelage.studio.store import PATIENCE, Store, Unavailable, open_store
from tutelage.studio.turns import Turns


@pytest.fixture
def database(tmp_path: Path, migrated_file: Path) -> str:
    """SQLite alone: nothing here differs with the kind, but for the test of locks, which opens its own."""
    shutil.copy(migrated_file, tmp_path / "studio.db")
    return f"sqlite:///{tmp_path / 'studio.db'}"


@pytest.fixture
def store(database: str, clock: Clock) -> Iterator[Store]:
    """Opened as the studio's server opens it, with less patience."""
    opened = open_store(database, clock, patience=0.3)
    yield opened
    opened.close()


def ask(
    app: FastAPI, method: str, path: str, token: str = "", *, read: Callable[[], Any] | None = None, **headers: str
):
    """A request whose body comes from `read`, an async function; without it nobody may ask for the body."""

    async def unread() -> Message:
        raise AssertionError(f"{method} {path}: the body was asked for")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    named = {"host": "localhost:8400"} | ({"cookie": f"{COOKIE}={token}"} if token else {}) | headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "server": ("localhost", 8400),
        "client": ("127.0.0.1", 50_000),
        "headers": [(k.lower().replace("_", "-").encode(), v.encode()) for k, v in named.items()],
    }

    async def go() -> tuple[int, dict[str, str]]:
        await app(scope, read or unread, send)
        found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], found

    return go()


def written(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of every route that takes something, its path filled in."""
    pairs = [name.split(" ") for name in names(app)]
    return [
        (m, p.replace("{kind}", "compare").replace("{", "").replace("}", ""))
        for m, p in pairs
        if m not in security.SAFE
    ]


def session(store: Store, account: Account) -> str:
    return accounts.open_session(store, account.id)


# ---- bodies ----------------------------------------------------------------------------------------------------


@pytest.mark.attack("a large body sent by a stranger, to every route")
def test_no_route_reads_a_strangers_body(app: FastAPI, made: Made) -> None:
    made.account("admin")
    found = written(app)
    assert len(found) > 25
    for method, path in found:
        if path.startswith(limits.PUBLIC):
            large = str(limits.BODY + 1)
            assert asyncio.run(ask(app, method, path, content_length=large))[0] == 413, path
        else:
            status, headers = asyncio.run(ask(app, method, path, content_length="9"))
            assert status == 401, path
            assert "default-src 'none'" in headers["content-security-policy"]


@pytest.mark.attack("a request that announces too large a body, to every route")
def test_every_route_has_a_limit_and_uploads_are_for_those_who_may(app: FastAPI, store: Store, made: Made) -> None:
    admin, labeler = session(store, made.account("admin")), session(store, made.account())
    for method, path in written(app):
        upload = path in limits.UPLOADS
        for token, most in ((admin, limits.UPLOAD if upload else limits.BODY), (labeler, limits.BODY)):
            status, _ = asyncio.run(ask(app, method, path, token, content_length=str(most + 1)))
            assert status == 413, path


def test_files_are_taken_where_uploads_are_and_fastapi_parses_no_json(app: FastAPI) -> None:
    taking = set()
    for route in routes(app.routes):
        for field in route.dependant.body_params:
            assert isinstance(field.field_info, params.Form), f"{route.path}: JSON is taken as `limits.Sent`"
            if UploadFile in (field.field_info.annotation, *getattr(field.field_info.annotation, "__args__", ())):
                taking.add(route.path)
    assert taking == set(limits.UPLOADS)


@pytest.mark.attack("a body that grows too large without announcing it")
@pytest.mark.parametrize("path", ["/login", "/api/preview", "/prompts/import"])
def test_a_body_that_does_not_say_its_length_is_refused_when_it_is_too_long(
    visit: Visit, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(limits, "BODY", 10_000)
    monkeypatch.setattr(limits, "UPLOAD", 10_000)
    kind = "application/json" if path.startswith("/api") else "multipart/form-data; boundary=x"
    found = visit("admin").post(path, content=(b"x" * 1000 for _ in range(20)), headers={"Content-Type": kind})
    assert found.status_code == 413


@pytest.mark.attack("a Content-Length that is no length")
@pytest.mark.parametrize("length", ["words", "-1", "9" * 5000])
def test_a_length_that_is_none_breaks_nothing(client: TestClient, length: str) -> None:
    assert client.post("/login", headers={"Content-Length": length}, content=b"x").status_code < 500


@pytest.mark.attack("a body that never arrives")
@pytest.mark.parametrize("path", ["/login", "/prompts/import"])
def test_a_body_that_does_not_arrive_is_given_up(
    app: FastAPI, store: Store, made: Made, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(limits, "SILENCE", 0.05)
    token = session(store, made.account("admin"))

    async def slow() -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    kind = {"content_type": "multipart/form-data; boundary=x", "content_length": "1000"}
    status, headers = asyncio.run(ask(app, "POST", path, token, read=slow, **kind))
    assert (status, headers["connection"]) == (408, "close")


@pytest.mark.attack("filling the memory with many bodies at once")
def test_strangers_bodies_share_a_little_memory(app: FastAPI, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.account("admin")
    monkeypatch.setattr(limits, "HELD", 1000)

    async def much() -> Message:
        return {"type": "http.request", "body": b"x" * 600, "more_body": True}

    status, headers = asyncio.run(ask(app, "POST", "/login", read=much))
    assert (status, headers["retry-after"]) == (429, "2")


@pytest.mark.attack("JSON that is nested deep, malformed or of endless numbers")
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[]", "must hold a JSON object"),
        (b"{", "cannot be read as JSON"),
        (b'{"text":' + b"[" * 200 + b"]" * 200 + b"}", "'text' is nested more than 100"),
        (b'{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
        (b'{"text":' + b"9" * 100_000 + b"}", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
    ],
)
def test_json_that_is_none_or_too_deep_is_one_line(visit: Visit, body: bytes, says: str) -> None:
    found = visit("labeler").post("/api/preview", content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == 422
    assert says in found.json()["problem"]


def test_json_needs_its_content_type(visit: Visit) -> None:
    found = visit("labeler").post("/api/preview", content=b'{"text": "x"}', headers={"Content-Type": "text/plain"})
    assert found.status_code == 422


def test_large_json_is_not_parsed_on_the_event_loop(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(value: object) -> None:
        with contextlib.suppress(RuntimeError):
            seen.append(asyncio.get_running_loop())

    monkeypatch.setattr(limits, "shallow", noted)
    me = visit("labeler")
    assert me.post("/api/preview", json={"text": "x"}).status_code == 200
    assert len(seen) == 1, "a small body is parsed where it is"
    assert me.post("/api/preview", json={"text": "x" * limits.INLINE}).status_code == 200
    assert len(seen) == 1


# ---- waiting ---------------------------------------------------------------------------------------------------


@pytest.mark.attack("waiting for a locked database in everybody's place")
def test_a_database_that_is_locked_keeps_nobody_waiting(
    app: FastAPI, store: Store, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two requests of one account, of which one may be under way, one waits and is told, the other at once."""
    assert PATIENCE <= 3
    monkeypatch.setattr(limits, "AT_ONCE", 1)
    token, other = session(store, made.account()), session(store, made.account("admin"))

    async def empty() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def all_at_once() -> list[tuple[int, dict[str, str]]]:
        asked = [ask(app, "POST", "/next/demonstrate", token, read=empty) for _ in range(2)]
        return await asyncio.gather(*asked, ask(app, "GET", "/guidelines", other), ask(app, "GET", "/login"))

    with store.write():
        answers = asyncio.run(all_at_once())
    assert sorted(status for status, _ in answers[:2]) == [429, 503]
    assert all(headers["retry-after"] == "2" for _, headers in answers[:2])
    assert [status for status, _ in answers[2:]] == [200, 200]
    assert asyncio.run(ask(app, "POST", "/next/demonstrate", token, read=empty))[0] == 303, "its share was given back"


def test_routes_that_show_their_own_refusals_say_that_it_passes(
    visit: Visit, store: Store, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = made.account("admin")
    me, token = visit(admin), accounts.invite(store, admin, "labeler")
    with store.write():
        found = me.post("/prompts", data={"text": "Say hello"})
    assert (found.status_code, found.headers["retry-after"]) == (503, "2")
    full = Turns(1, waiting=0, seconds=0.0)
    monkeypatch.setattr(accounts, "_hashing", full)
    with full:
        found = me.post(f"/join/{token}", data={"name": "kim", "password": "a good password"})
    assert (found.status_code, found.headers["retry-after"]) == (429, "2")


def test_a_lock_of_another_process_ends_as_soon(store: Store, database: str) -> None:
    other = open_store(database)
    start = time.monotonic()
    with other.write(), pytest.raises(Unavailable, match="locked"), store.write():
        pass
    assert time.monotonic() - start < 10, "far from the 20 s that writers elsewhere wait"
    other.close()


def test_only_so_many_wait_to_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.studio.store.WAITING", 0)
    problems = []

    def late() -> None:
        try:
            with store.write(wait=60):
                pass
        except Unavailable as error:
            problems.append(str(error))

    with store.write():
        thread = threading.Thread(target=late)
        thread.start()
        thread.join(30)
    assert problems == ["the database is busy; nothing was saved, try again"]


def test_a_page_does_not_wait_to_write_its_session_down(store: Store, made: Made, clock: Clock) -> None:
    me = made.account()
    token = session(store, me)
    clock.move(accounts.SEEN_EVERY + 1)
    found = []
    with store.write():
        reader = threading.Thread(target=lambda: found.append(accounts.account_of(store, token)))
        reader.start()
        reader.join(30)
    assert found == [me]
    accounts.account_of(store, token)
    clock.move(accounts.SESSION - 100)
    assert accounts.account_of(store, token) == me, "the next one wrote it down"


@pytest.mark.attack("many logins at once")
def test_passwords_are_hashed_a_few_at_a_time_and_the_rest_come_back(
    client: TestClient, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = made.account("admin")
    full = Turns(1, waiting=0, seconds=0.0)
    monkeypatch.setattr(accounts, "_hashing", full)
    with full:
        found = client.post("/login", data={"name": me.name, "password": "wrong"})
        assert (found.status_code, found.headers["retry-after"]) == (429, "2")
        with pytest.raises(Busy):
            made.account()
        assert client.get("/login").status_code == 200
    assert client.post("/login", data={"name": me.name, "password": "wrong"}).status_code == 401


def test_turns_are_taken_and_given_back() -> None:
    turns = Turns(1, waiting=1, seconds=0.05)
    inside, leave, problems = threading.Event(), threading.Event(), []

    def hold() -> None:
        with turns:
            inside.set()
            leave.wait()

    def wait() -> None:
        try:
            with turns:
                pass
        except Busy as error:
            problems.append(error)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    wait()
    assert len(problems) == 1, "its turn did not come"
    leave.set()
    holder.join()
    wait()
    assert len(problems) == 1


# ---- the playground --------------------------------------------------------------------------------------------


@pytest.mark.attack("one person's questions filling the playground's line")
def test_one_account_has_few_questions_in_line_and_leaves_them_when_it_goes() -> None:
    host = Host(("sleep", "600"))
    try:
        mine = [host.ask({}, lambda _: None, "kim") for _ in range(EACH)]
        with pytest.raises(Busy, match="questions of yours"):
            host.ask({}, lambda _: None, "kim")
        assert host.ask({}, lambda _: None, "lee").ahead == EACH
        told: list[Any] = []
        mine[1].deliver = told.append
        host.cancel(mine[1])
        assert told == [{"done": True, "cancelled": True}]
        assert host.ask({}, lambda _: None, "kim").ahead == EACH, "the place is free at once"
    finally:
        host.close()


@pytest.mark.attack("a vote that blocks the playground")
def test_a_vote_that_waits_for_the_database_stands_in_nobodys_way(store: Store, made: Made) -> None:
    me = made.account()
    sittings = playground.Sittings()

    def sitting() -> playground.Sitting:
        pair = tuple(playground.Model(name, "base", "") for name in "ab")
        answers = {n: {"text": "x", "score": None, "tokens": 1} for n in range(2)}
        return playground.Sitting(me.id, "p", pair, blind=False, answers=answers)

    key = sittings.open(sitting())
    problems: list[str] = []

    def vote() -> None:
        try:
            sittings.vote(store, me.id, key, 0)
        except Unavailable as error:
            problems.append(str(error))

    with store.write():
        voting = threading.Thread(target=vote)
        voting.start()
        sittings.open(sitting())  # the event loop does this
        voting.join(30)
    assert len(problems) == 1
    both = [threading.Thread(target=vote) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    vote()
    with store.read() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(votes)).scalar_one() == 1


# ---- connections -----------------------------------------------------------------------------------------------


@pytest.fixture
def port(app: FastAPI, made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The application served by our own server, which waits 0.5 s for a request and has room for ten connections."""
    made.account("admin")
    monkeypatch.setattr(connections, "SECONDS", 0.5)
    monkeypatch.setattr(connections, "most", lambda: 10)
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(uvicorn.Config(app, http=Connection, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield int(listening.getsockname()[1])
    server.should_exit = True
    thread.join(30)


@pytest.mark.attack("half requests on many connections")
def test_half_requests_are_dropped_and_keep_nobody_out(port: int) -> None:
    halves = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    for half in halves:
        with contextlib.suppress(OSError):  # closed for one that came later
            half.sendall(b"GET /login HTTP/1.1\r\nHost: x\r\nX-a: ")
    assert httpx.get(f"http://127.0.0.1:{port}/login", timeout=60).status_code == 200
    for half in halves:
        half.settimeout(60)
        with contextlib.suppress(ConnectionError):
            assert half.recv(1) == b"", "the server ends it"
        half.close()


def test_whole_requests_are_answered_one_after_the_other(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for _ in range(3):
            assert client.get("/login").status_code == 200
            time.sleep(0.3)
        late = json.dumps({"text": "x" * 3_000_000}).encode()
        assert client.post("/api/preview", content=late).status_code == 401
        assert client.get("/login").status_code == 200
