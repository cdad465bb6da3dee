"""What stands before every request: origin, size, headers, cookies, the first account, guessed passwords."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from made_studio import PASSWORD, SETUP_TOKEN, Made, together
from starlette.testclient import TestClient

from tutelage.records import UserError
from tutelage.studio import accounts, security, server
from tutelage.studio.accounts import Account
from tutelage.studio.app import COOKIE, build
from tutelage.studio.project import Project
from tutelage.studio.schema import accounts as account_table
from tutelage.studio.schema import actions
from tutelage.studio.store import Store, Unavailable

Visit = Callable[[str | Account], TestClient]

# ---- where a request comes from --------------------------------------------------------------------------------


@pytest.mark.attack("changes requested by the pages of another site")
@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({}, True),  # no browser: curl, a script
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8400"}, False),
        ({"Origin": "http://localhost:8400"}, True),
        ({"Origin": "https://localhost:8400"}, True),  # behind a proxy that speaks https
        ({"Origin": "http://localhost:9999"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://[evil"}, False),
    ],
)
def test_only_our_own_pages_may_change_something(visit: Visit, headers: dict[str, str], let_in: bool) -> None:
    me = visit("labeler")
    found = me.post("/next/compare", headers=headers, follow_redirects=False)
    assert found.status_code == (303 if let_in else 403), found.text
    assert me.get("/", headers=headers).status_code == 200, "reading changes nothing"


@pytest.mark.attack("logging somebody out from another site")
def test_a_page_of_another_site_cannot_log_anybody_out(visit: Visit) -> None:
    me = visit("labeler")
    assert me.post("/logout", headers={"Origin": "http://evil.example"}).status_code == 403
    assert me.get("/", follow_redirects=False).status_code == 200


# ---- headers ---------------------------------------------------------------------------------------------------

PAGES = ("/login", "/", "/guidelines", "/nothing-here", "/static/style.css", "/join/none", "/setup", "/task/none")


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("role", ["", "labeler", "admin"])
def test_every_answer_carries_the_headers(client: TestClient, visit: Visit, path: str, role: str) -> None:
    found = (visit(role) if role else client).get(path, follow_redirects=False)
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "unsafe" not in policy and "http:" not in policy and "https:" not in policy and "*" not in policy
    for directive in ("frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
        assert directive in policy
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["referrer-policy"] == "same-origin"
    if not path.startswith("/static"):
        assert found.headers["cache-control"] == "no-store"


@pytest.mark.attack("error pages without the security headers")
def test_refused_and_broken_requests_carry_them_too(
    app: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = client.post("/login", headers={"Origin": "http://evil.example"})

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake of ours, about a secret")

    monkeypatch.setattr(accounts, "has_admin", broken)
    failed = TestClient(app, raise_server_exceptions=False).get("/login")
    assert (refused.status_code, failed.status_code) == (403, 500)
    for found in (refused, failed):
        assert "default-src 'none'" in found.headers["content-security-policy"]
    assert "secret" not in failed.text and "Traceback" not in failed.text


def test_a_database_that_is_away_is_one_line(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise Unavailable("the database cannot be used just now (disk is full); nothing was saved")

    monkeypatch.setattr(accounts, "has_admin", away)
    found = client.get("/login", headers={"Accept": "application/json"})
    assert (found.status_code, found.json()["problem"].split(" (")[0]) == (503, "the database cannot be used just now")


@pytest.mark.attack("addresses with traversal, control characters and markup")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("DELETE", "/login", 405), ("GET", "/static/../app.py", 404)],
)
def test_addresses_that_are_none_say_so_on_a_page_of_ours(
    client: TestClient, method: str, path: str, status: int
) -> None:
    found = client.request(method, path)
    assert found.status_code == status
    assert "That did not work" in found.text and "Traceback" not in found.text


# ---- cookies ---------------------------------------------------------------------------------------------------


def log_in(client: TestClient, name: str, password: str = PASSWORD, **headers: str) -> object:
    return client.post("/login", data={"name": name, "password": password}, headers=headers, follow_redirects=False)


@pytest.mark.attack("reading the session cookie from a script, sending it from another site")
def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(client: TestClient, made: Made) -> None:
    me = made.account()
    plain = log_in(client, me.name).headers["set-cookie"]
    assert "HttpOnly" in plain and "SameSite=lax" in plain and "Secure" not in plain and "Path=/" in plain
    proxied = log_in(client, me.name, **{"X-Forwarded-Proto": "https"}).headers["set-cookie"]
    assert "Secure" in proxied


@pytest.mark.attack("fixing a session before the login")
def test_each_login_is_a_session_of_its_own(client: TestClient, made: Made, store: Store) -> None:
    me = made.account()
    tokens = {log_in(client, me.name).cookies[COOKIE] for _ in range(2)}
    assert len(tokens) == 2 and all(accounts.account_of(store, t) == me for t in tokens)


@pytest.mark.attack("a form field of more than a megabyte")
def test_a_field_of_more_than_a_megabyte_is_told_in_plain_words(visit: Visit) -> None:
    file = {"file": ("a.jsonl", b'{"prompt": "Say hello"}')}
    refused = visit("admin").post("/prompts/import", files=file, data={"note": "x" * 1_100_000})
    assert refused.status_code == 400 and "holds more than 1 MB" in refused.text


@pytest.mark.attack("using a session after its logout")
def test_logging_out_ends_the_session_on_the_server(visit: Visit, store: Store) -> None:
    me = visit("labeler")
    token = me.cookies[COOKIE]
    me.post("/logout")
    assert accounts.account_of(store, token) is None


def test_a_session_that_ended_sends_a_person_to_the_login_and_tells_a_script(visit: Visit, store: Store) -> None:
    me = visit("labeler")
    accounts.logout(store, me.cookies[COOKIE])
    person = me.post("/next/compare", follow_redirects=False)
    assert (person.status_code, person.headers["location"]) == (303, "/login")
    script = me.put("/api/task/x/draft", json={})
    assert script.status_code == 401 and "logged out" in script.json()["problem"]
    form = me.post("/prompts", data={"text": "Half an hour of work"}, follow_redirects=False)
    assert form.status_code == 401 and "reload this page" in form.text  # a redirect would throw it away


# ---- guessing --------------------------------------------------------------------------------------------------


def test_a_wrong_password_costs_only_the_password(client: TestClient, made: Made) -> None:
    made.account(name='Élodie "E" <b>')
    answer = log_in(client, 'Élodie "E" <b>', "wrong password")
    assert answer.status_code == 401
    assert 'value="Élodie &#34;E&#34; &lt;b&gt;"' in answer.text


@pytest.mark.attack("finding out which names have accounts")
def test_nothing_tells_a_known_name_from_an_unknown_one(client: TestClient, made: Made) -> None:
    me = made.account()
    known, unknown = log_in(client, me.name, "wrong password"), log_in(client, "nobody", "wrong password")
    assert known.status_code == unknown.status_code
    assert known.text.replace(me.name, "nobody") == unknown.text  # the form keeps what was typed


# ---- the first account -----------------------------------------------------------------------------------------

SETUP = {"name": "anna", "password": PASSWORD}


OPEN = f"/setup?token={SETUP_TOKEN}"


@pytest.mark.attack("setting a studio up a second time")
def test_who_has_the_printed_address_becomes_the_admin_once(client: TestClient, store: Store) -> None:
    assert client.get(OPEN).status_code == 200
    assert client.post(OPEN, data=SETUP, follow_redirects=False).status_code == 303
    assert accounts.has_admin(store)
    for token in (OPEN, "/setup"):
        assert client.get(token).status_code == 403
        assert client.post(token, data=SETUP | {"name": "eve"}).status_code == 403


@pytest.mark.attack("setting up somebody else's fresh studio")
@pytest.mark.parametrize("token", ["", "?token=", "?token=guess", f"?token={SETUP_TOKEN}x", "?token=%C3%A9"])
@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("127.0.0.1", "http://localhost:8400"),
        ("127.0.0.1", "http://evil.example:8400"),
        ("192.168.1.7", "http://studio.example"),
    ],
    ids=["this machine", "a site whose name leads here", "another machine"],
)
def test_nobody_else_becomes_the_admin(app: FastAPI, store: Store, address: str, base: str, token: str) -> None:
    other = TestClient(app, base_url=base, client=(address, 50_000))
    found = other.get("/setup" + token)
    assert found.status_code == 403 and "Its terminal printed an address" in found.text
    assert other.post("/setup" + token, data=SETUP).status_code == 403
    assert not accounts.has_admin(store)


@pytest.mark.attack("reaching the setup page over the network")
def test_an_application_without_a_token_has_no_setup_page(project: Project, store: Store) -> None:
    here = TestClient(build(project, store), base_url="http://localhost:8400", client=("127.0.0.1", 50_000))
    for token in ("", "?token="):
        assert here.post("/setup" + token, data=SETUP).status_code == 403
    assert not accounts.has_admin(store)


def test_closed_accounts_and_labelers_do_not_count_as_set_up(client: TestClient, store: Store, made: Made) -> None:
    """Imported demonstrations make closed accounts for those who wrote them."""
    made.account("labeler")
    closed = made.account("admin")
    with store.write() as tx:
        tx.execute(account_table.update().where(account_table.c.id == closed.id).values(active=False))
    assert client.get("/", follow_redirects=False).headers["location"] == "/setup"
    assert client.post(OPEN, data=SETUP, follow_redirects=False).status_code == 303
    assert client.get("/", follow_redirects=False).headers["location"] == "/loop"


@pytest.mark.attack("two people setting a studio up at once")
def test_of_two_who_set_up_at_once_one_becomes_the_admin(store: Store) -> None:
    names = iter(["anna", "eve"])
    found = together(2, lambda: accounts.set_up(store, next(names), PASSWORD))
    assert sorted(type(r).__name__ for r in found) == ["Account", "UserError"]


@pytest.mark.attack("a studio open to others before it has an admin")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "studio.example", ""])
def test_a_studio_that_others_can_reach_does_not_start_without_an_admin(
    project: Project, store: Store, database: str, made: Made, host: str
) -> None:
    made.account("labeler")
    with pytest.raises(UserError, match="there is no admin yet: make one first") as caught:
        server.serve(project.folder, host=host, port=0, database=database, browser=False)
    assert "tutelage account" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
    ],
)
def test_which_addresses_are_this_machine(name: str, local: bool) -> None:
    assert security.loopback(name) is local


@pytest.mark.attack("joining without an invitation")
def test_an_invitation_page_needs_its_token(client: TestClient, made: Made, store: Store) -> None:
    token = accounts.invite(store, made.account("admin"), "labeler")
    assert client.get(f"/join/{token}").status_code == 200
    assert client.get(f"/join/{token}x").status_code == 404
    joined = client.post(f"/join/{token}", data={"name": "hanna", "password": PASSWORD}, follow_redirects=False)
    assert joined.status_code == 303 and COOKIE in joined.cookies


def test_bad_words_in_a_form_are_one_line(client: TestClient, made: Made) -> None:
    made.account("admin")
    for data in ({}, {"name": ["a", "b"], "password": ["c", "d"]}, {"name": "\x00", "password": "\x00" * 20}):
        assert client.post("/login", data=data).status_code in (400, 401, 422)
    found = client.post("/login", content=b"\xff\xfe{{", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert found.status_code < 500


@pytest.mark.attack("reading internals from an error page")
def test_errors_go_to_the_terminal_and_not_to_the_page(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(accounts, "has_admin", broken)
    with caplog.at_level(logging.ERROR), pytest.raises(ZeroDivisionError):
        TestClient(app).get("/login")  # raised on, so that the server logs it


def test_who_did_what_is_in_the_audit_trail(store: Store, made: Made) -> None:
    me = made.account()
    made.filled()
    made.answer(me.id)
    with store.read() as tx:
        found = tx.execute(sa.select(actions.c.what).where(actions.c.account_id == me.id)).scalars().all()
    assert sorted(found) == ["account", "claim", "submit"]
