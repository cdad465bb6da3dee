"""Who may do what: every route of the application times every role, from one table. A route without a line fails."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.routing import APIRoute
from httpx import Response
from made_studio import Made, Visit, ranking
from starlette.testclient import TestClient

from tutelage.studio import queue
from tutelage.studio.accounts import Account
from tutelage.studio.schema import ROLES, accounts
from tutelage.studio.store import Store

WHO = {
    "n": "nobody",
    "c": "candidate",  # a labeler who is being screened
    "d": "declined",  # and one who was
    "l": "labeler",
    "h": "heldout",
    "r": "reviewer",
    "a": "admin",
}

MAY = {
    "GET /": "cdlhra",
    "GET /setup": "",  # everybody, and then nobody ever again: it is set up
    "POST /setup": "",
    "GET /login": "ncdlhra",
    "POST /login": "ncdlhra",
    "POST /logout": "cdlhra",
    "GET /account": "cdlhra",
    "POST /account/password": "cdlhra",
    "GET /join/{token}": "ncdlhra",
    "POST /join/{token}": "ncdlhra",
    "GET /guidelines": "cdlhra",
    "POST /next/{kind}": "cdlhra",
    "POST /api/next/{kind}": "cdlhra",
    "GET /task/{assignment}": "cdlhra",
    "POST /task/{assignment}/resume": "cdlhra",
    "POST /api/task/{assignment}/open": "cdlhra",
    "PUT /api/task/{assignment}/draft": "cdlhra",
    "POST /api/task/{assignment}/submit": "cdlhra",
    "POST /task/{assignment}/skip": "cdlhra",
    "POST /task/{assignment}/postpone": "cdlhra",
    "POST /api/preview": "cdlhra",
    "GET /prompts": "ra",
    "POST /prompts": "a",
    "POST /prompts/aside": "ra",
    "GET /prompts/import": "a",
    "POST /prompts/import": "a",
    "GET /prompts/import/{number}": "ra",
    "GET /prompts/{name:path}": "ra",
    "GET /batches": "ra",
    "POST /batches/demonstrate": "a",
    "POST /batches/compare": "a",
    "POST /batches/form": "a",
    "GET /batches/export.zip": "a",
    "GET /batches/{number}": "ra",
    "POST /batches/{number}": "a",
    "GET /people": "ra",
    "POST /people/invite": "a",
    "POST /people/withdraw": "a",
    "POST /people/screening": "a",
    "GET /people/{number}": "ra",
    "POST /people/{number}": "a",
    "POST /people/{number}/password": "a",
    "GET /desk": "ra",
    "GET /screening": "ra",
    "GET /screening/grade": "ra",
    "POST /screening/grade": "ra",
    "POST /screening/topics": "c",
    "GET /screening/{handle}": "a",
    "POST /screening/{handle}": "a",
    "GET /survey": "cdlhra",
    "POST /survey/{kind}": "cdlhra",
    "GET /survey/results": "a",
    "GET /loop": "ra",
    "POST /rounds": "a",
    "GET /rounds/{number}": "ra",
    "GET /api/rounds/{number}": "ra",
    "POST /rounds/{number}/stop": "a",
    "POST /rounds/{number}/resume": "a",
    "POST /rounds/{number}/decide": "a",
    "POST /rounds/{number}/keep": "a",
    "GET /rounds/{number}/report": "ra",
    "GET /values": "ra",
    "POST /values/train": "a",
    "POST /values/stop": "a",
    "GET /api/values/training": "ra",
    "GET /playground": "lhra",
    "POST /api/playground/answer": "lhra",
    "POST /api/playground/vote": "lhra",
}
"""The letters of those who may. What they may do can still fail for want of a thing to do it to."""

FILE = ("a.jsonl", b'{"prompt": "x"}\n')
SENT: dict[str, dict[str, Any]] = {
    "POST /prompts/import": {"files": {"file": FILE}},
    "POST /batches/compare": {"files": [("files", FILE)]},
    "POST /rounds": {"data": {"offered": "1"}},  # without a group: refused before anything trains
    "POST /task/{assignment}/skip": {"data": {"reason": "unclear"}},
    "POST /login": {"data": {"name": "nobody", "password": "wrong"}},
    "POST /screening/grade": {"data": {"answer": "1", "grade": "4"}},
}
"""What a request needs so that it is the role, and not a missing field, that decides."""


def routes(container: Any) -> Iterator[APIRoute]:
    """All routes, those of included routers too, however FastAPI keeps them."""
    for route in container:
        inner = getattr(route, "original_router", None)
        if isinstance(route, APIRoute):
            yield route
        elif inner is not None:
            yield from routes(inner.routes)


def names(app: FastAPI) -> list[str]:
    return [f"{method} {route.path}" for route in routes(app.routes) for method in sorted(route.methods)]


def ask(client: TestClient, name: str, **values: str) -> Response:
    """Make a request, its path filled in; things that are not named are called "1"."""
    method, path = name.split(" ")
    fill = {"kind": "compare", "token": "no-such-invitation"} | values
    for key in ("kind", "token", "assignment", "number", "handle", "name:path", "name"):
        path = path.replace("{" + key + "}", fill.get(key, "1"))
    sent = SENT.get(name) or ({"json": {}} if path.startswith("/api/") and method != "GET" else {})
    return client.request(method, path, follow_redirects=False, **sent)


def let_in(answer: Response) -> bool:
    """Whether the request got past the door, whatever it found behind it."""
    sent_away = answer.headers.get("location") == "/login" and "set-cookie" not in answer.headers  # logout sets one
    return answer.status_code not in (401, 403) and not sent_away


def test_every_route_has_a_line(app: FastAPI) -> None:
    found = names(app)
    assert len(found) > 45
    assert sorted(set(found) - set(MAY)) == [], "routes without a line in MAY"
    assert sorted(set(MAY) - set(found)) == [], "lines in MAY without a route"


@pytest.mark.attack("every route as nobody and as every role")
def test_the_matrix(app: FastAPI, visit: Visit, made: Made) -> None:
    people = {role: made.account(role) for role in ROLES}
    people |= {standing: made.screened(standing) for standing in ("candidate", "declined")}
    wrong = []
    for name, (letter, role) in itertools.product(names(app), WHO.items()):
        client = TestClient(app) if role == "nobody" else visit(people[role])  # a session each: some end it
        if name == "POST /login":
            app.state.throttle = type(app.state.throttle)()
        answer = ask(client, name)
        expected = letter in MAY[name]
        if name == "POST /login":  # open to all: a wrong password is its own answer
            assert "the name or the password is wrong" in answer.text
        elif let_in(answer) != expected or answer.status_code >= 500:
            wrong.append(
                f"{name} as {role}: {answer.status_code}, expected to be {'let in' if expected else 'refused'}"
            )
        elif not expected and role == "nobody" and MAY[name]:
            filled = "data" in SENT.get(name, {}) or "files" in SENT.get(name, {})
            where = 401 if filled or name.split(" ")[1].startswith("/api/") else 303
            if answer.status_code != where:
                wrong.append(f"{name} as nobody: {answer.status_code}, expected {where}")
    assert wrong == []
    assert set(WHO.values()) == {"nobody", "candidate", "declined", *ROLES}


# ---- other people's work ---------------------------------------------------------------------------------------


@pytest.fixture
def kim_and_lee(made: Made) -> tuple[Account, Account]:
    return made.account(name="Kim"), made.account(name="Lee")


@pytest.mark.attack("reading and changing another person's work")
def test_nobody_reads_or_changes_anothers_work(
    store: Store, made: Made, visit: Visit, kim_and_lee: tuple[Account, Account]
) -> None:
    kim, lee = kim_and_lee
    batch = made.filled("compare", 1, k=2)
    task = queue.claim(store, kim.id, "compare")
    assert task is not None
    queue.save_draft(store, kim.id, task, 1, {"edited": "Kim's secret draft"}, 3.0)
    before = made.assignment(task)
    other = visit(lee)
    body = {"ranks": [1, 2], "ratings": [{"likert": 4, "flags": {}, "note": ""}] * 2, "log": []}
    requests = [
        other.get(f"/task/{task}"),
        other.post(f"/api/task/{task}/open"),
        other.put(f"/api/task/{task}/draft", json={"fence": 1, "seconds": 1, "body": {"edited": "Lee"}}),
        other.post(f"/api/task/{task}/submit", json={"key": "k" * 20, "seconds": 1, "body": body}),
        other.post(f"/task/{task}/skip", data={"reason": "mine now"}),
        other.post(f"/task/{task}/postpone"),
        other.post(f"/task/{task}/resume"),
    ]
    assert [answer.status_code for answer in requests] == [409] * len(requests)
    assert not any("secret" in answer.text for answer in requests)
    assert tuple(made.assignment(task)) == tuple(before)
    assert made.answers() == []
    assert "secret" not in other.get("/").text
    queue.submit(store, kim.id, task, made.key(), ranking(2), 9.0)
    assert other.get(f"/task/{task}").status_code == 409
    assert other.get(f"/batches/{batch}").status_code == 403
    assert other.get(f"/people/{kim.id}").status_code == 403


@pytest.mark.attack("submitting under another person's key")
def test_a_submit_cannot_ride_on_anothers_key(
    store: Store, made: Made, visit: Visit, kim_and_lee: tuple[Account, Account]
) -> None:
    """A key that is known already must not answer for another labeler's task."""
    kim, lee = kim_and_lee
    made.filled("compare", 2, k=2)
    mine, theirs = (queue.claim(store, one.id, "compare") for one in (kim, lee))
    assert mine is not None
    queue.submit(store, kim.id, mine, "k" * 20, ranking(2), 9.0)
    body = {"ranks": [1, 2], "ratings": [{"likert": 4, "flags": {}, "note": ""}] * 2, "log": []}
    answer = visit(lee).post(f"/api/task/{theirs}/submit", json={"key": "k" * 20, "seconds": 1, "body": body})
    assert answer.status_code == 409
    assert len(made.answers()) == 1


@pytest.mark.attack("finding out which model wrote a response")
def test_labelers_never_see_which_model_wrote_what(
    store: Store, made: Made, visit: Visit, kim_and_lee: tuple[Account, Account]
) -> None:
    kim, _ = kim_and_lee
    made.filled("compare", 1, k=4)
    page = visit(kim)
    task = queue.claim(store, kim.id, "compare")
    assert task is not None
    item = made.item_of(task)
    text = page.get(f"/task/{task}").text + page.post(f"/api/task/{task}/open", json={}).text + page.get("/").text
    assert not any(f"model-{n}" in text for n in range(4))
    assert not any(name in text for name in item.responses)


@pytest.mark.attack("working on with a closed account")
def test_a_closed_account_is_out_at_once(store: Store, visit: Visit, kim_and_lee: tuple[Account, Account]) -> None:
    kim, _ = kim_and_lee
    page = visit(kim)
    assert page.get("/guidelines").status_code == 200
    with store.write() as tx:
        tx.execute(sa.update(accounts).where(accounts.c.id == kim.id).values(active=False))
    assert page.get("/guidelines", follow_redirects=False).headers["location"] == "/login"
