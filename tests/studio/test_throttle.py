"""Guessing at passwords: it is slow, and keeps nobody else out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from httpx import Response
from made_studio import PASSWORD, Made, Visit
from starlette.testclient import TestClient

from tutelage.studio import accounts, throttle
from tutelage.studio.store import Store
from tutelage.studio.throttle import ACCOUNTS, Attempt, Throttle, device_cookie, device_of, network_of

NEW = "another good one"


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2 with little memory: here it is the counting that is looked at."""
    monkeypatch.setattr(accounts, "_hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


@pytest.fixture
def database(tmp_path: Path, migrated_file: Path) -> str:
    """One kind of database is enough: the counts are in the process."""
    shutil.copy(migrated_file, tmp_path / "studio.db")
    return f"sqlite:///{tmp_path / 'studio.db'}"


@pytest.fixture
def at(app: FastAPI) -> Callable[[str], TestClient]:
    """A function from an address to a new browser there."""
    return lambda address: TestClient(app, base_url="http://localhost:8400", client=(address, 50_000))


def log_in(client: TestClient, name: str, password: str = PASSWORD) -> Response:
    return client.post("/login", data={"name": name, "password": password}, follow_redirects=False)


def fail(client: TestClient, name: str, times: int = 12) -> list[int]:
    return [log_in(client, name, "wrong password").status_code for _ in range(times)]


# ---- the limits ------------------------------------------------------------------------------------------------


@pytest.mark.attack("guessing at one name")
def test_ten_wrong_passwords_from_one_network_are_enough_for_a_minute(
    at: Callable[..., TestClient], made: Made
) -> None:
    me = made.account()
    assert fail(at("1.2.3.4"), me.name) == [401] * 10 + [429] * 2
    assert log_in(at("1.2.3.4"), f" {me.name.upper()} ").status_code == 429, (
        "the right one, however the name is written"
    )


@pytest.mark.attack("guessing at many names from one address")
def test_ten_wrong_passwords_for_many_names_are_enough_too(at: Callable[..., TestClient]) -> None:
    here = at("1.2.3.4")
    assert [fail(here, f"name-{n}", 1)[0] for n in range(12)] == [401] * 10 + [429] * 2


@pytest.mark.attack("locking an owner out of a name by guessing")
def test_a_guesser_does_not_keep_the_owner_out(at: Callable[..., TestClient], made: Made) -> None:
    me = made.account()
    known = at("1.2.3.4")
    assert log_in(known, me.name).status_code == 303
    known.post("/logout")
    assert fail(at("6.6.6.6"), me.name)[-1] == 429
    assert log_in(at("1.2.3.4"), me.name).status_code == 303, "where they have logged in before, in a new browser"
    assert log_in(at("7.7.7.7"), me.name).status_code == 303, "and anywhere else"
    assert fail(at("1.2.3.4"), me.name)[-1] == 429
    assert log_in(known, me.name).status_code == 303, "next to the guesser, in the browser they always use"


@pytest.mark.attack("guessing from many networks")
def test_a_guesser_with_many_networks_is_slow_and_still_keeps_no_known_browser_out(
    at: Callable[..., TestClient], made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "FOR_NAME", (throttle.RateLimitItemPerHour(15),))
    me, other = made.account(), made.account()
    known = at("1.2.3.4")
    log_in(known, me.name)
    tried = [code for n in range(4) for code in fail(at(f"2001:db8:{n}::1"), me.name, 5)]
    assert tried == [401] * 15 + [429] * 5
    assert log_in(at("2001:db8:9::1"), me.name).status_code == 429, "a browser and a network that are new"
    assert log_in(known, me.name).status_code == 303
    assert log_in(at("1.2.3.4"), me.name).status_code == 303
    assert log_in(at("2001:db8:0::2"), other.name).status_code == 303


@pytest.mark.attack("locking an office out by guessing from within it")
def test_one_person_behind_a_shared_address_keeps_no_known_colleague_out(
    at: Callable[..., TestClient], made: Made
) -> None:
    """An office, or a proxy that does not say who is asking."""
    me = made.account()
    log_in(at("1.2.3.4"), me.name)
    stranger = at("1.2.3.4")
    assert [fail(stranger, f"name-{n}", 1)[0] for n in range(12)][-1] == 429
    assert log_in(at("1.2.3.4"), me.name).status_code == 303


def test_a_known_browser_has_limits_of_its_own(at: Callable[..., TestClient], made: Made) -> None:
    me, other = made.account(), made.account()
    known = at("1.2.3.4")
    log_in(known, me.name)
    assert fail(known, me.name) == [401] * 10 + [429] * 2
    assert log_in(known, other.name).status_code == 303, "it speaks for the account it has logged into alone"
    assert log_in(at("1.2.3.4"), me.name).status_code == 303


@pytest.mark.attack("escaping the limits with the cookie of another account")
def test_the_cookie_of_another_account_frees_nobody(at: Callable[..., TestClient], made: Made) -> None:
    me, guesser = made.account(), made.account()
    theirs = at("6.6.6.6")
    assert log_in(theirs, guesser.name).status_code == 303
    assert fail(theirs, me.name) == [401] * 10 + [429] * 2


def test_joining_makes_a_browser_known(at: Callable[..., TestClient], made: Made, store: Store) -> None:
    token = accounts.invite(store, made.account("admin"), "labeler")
    mine = at("1.2.3.4")
    mine.post(f"/join/{token}", data={"name": "hanna", "password": PASSWORD})
    fail(at("1.2.3.4"), "hanna")
    assert log_in(mine, "hanna").status_code == 303


def test_successes_are_not_counted(at: Callable[..., TestClient], made: Made) -> None:
    me = made.account()
    assert {log_in(at("1.2.3.4"), me.name).status_code for _ in range(12)} == {303}


def test_the_networks_that_are_remembered_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "FORMER", 2)
    limits = Throttle()
    for name in ("a", "b", "c"):
        limits.succeed(Attempt(name, "1.2.3.4"))
    assert list(limits._former) == [("b", "1.2.3.4"), ("c", "1.2.3.4")]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.2.3.4", "1.2.3.5", False),
        ("1.2.3.4", "::ffff:1.2.3.4", True),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.5", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("testclient", "testclient", True),
        ("", "1.2.3.4", False),
    ],
)
def test_what_counts_as_one_network(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same


# ---- devices ---------------------------------------------------------------------------------------------------


def test_a_device_proves_the_accounts_it_has_logged_into() -> None:
    cookie = ""
    for n in range(ACCOUNTS + 1):
        cookie = device_cookie(cookie, f"account-{n}", f"hash-{n}")
    number = cookie.split(".")[0]
    assert device_of(cookie, "account-8", "hash-8") == device_of(cookie, "account-1", "hash-1") == number
    assert device_of(cookie, "account-0", "hash-0") == "", "the oldest made room"
    assert device_of(cookie, "account-8", "a new password's hash") == ""
    assert device_of(cookie, "account-9", "hash-8") == ""
    assert device_cookie(cookie, "account-8", "hash-8") == cookie


@pytest.mark.parametrize("cookie", ["", ".", "x.y", "é.é", "x" * 5000, "." * 5000, "a" * 22 + ".é"])
def test_cookies_that_are_none_prove_nothing(cookie: str) -> None:
    assert device_of(cookie, "account", "hash") == ""
    made = device_cookie(cookie, "account", "hash")
    assert device_of(made, "account", "hash") and len(made) < 400


# ---- one's own password ----------------------------------------------------------------------------------------


def test_somebody_changes_their_own_password(visit: Visit, made: Made, at: Callable[..., TestClient]) -> None:
    me = made.account("labeler")
    here, there = visit(me), visit(me)
    assert "password" in here.get("/").text, "the way there is on every page"
    saved = here.post("/account/password", data={"present": PASSWORD, "password": NEW})
    assert saved.status_code == 200 and "logged out everywhere but here" in saved.text
    assert there.get("/", follow_redirects=False).status_code == 303, "the other session has ended"
    fail(at("127.0.0.1"), me.name)
    assert log_in(here, me.name, NEW).status_code == 303, "this browser is known with the new one"


@pytest.mark.attack("guessing a password at an unlocked screen")
def test_who_finds_a_screen_unlocked_cannot_guess_on_and_on(visit: Visit, made: Made) -> None:
    me = made.account("labeler")
    here = visit(me)

    def change(present: str, password: str = NEW) -> int:
        return here.post("/account/password", data={"present": present, "password": password}).status_code

    assert [change(PASSWORD, "short") for _ in range(12)] == [400] * 12, "a bad new one is no guess"
    assert [change("wrong password") for _ in range(12)] == [400] * 10 + [429] * 2
    assert change(PASSWORD) == 429
    assert log_in(visit("labeler"), me.name).status_code == 303, "and locks nobody out"
