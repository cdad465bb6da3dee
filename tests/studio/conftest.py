"""What the studio's tests stand on: a fresh database each, on SQLite and on a PostgreSQL started for the session.

store    an opened database; tests that take it run once on each kind
clock    its time, which moves only by `clock.move(seconds)`
made     factories: accounts, prompts, responses, batches, items, answers
client   the application in this process, nobody logged in
live     the application served, and Chromium to look at it (see browser.py)
visit    visit("labeler") is such a client with a fresh account of that role logged in; visit(account) logs that one in
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from browser import browser, live  # noqa: F401 - fixtures
from fastapi import FastAPI
from made_studio import SETUP_TOKEN, Clock, Made, Visit
from starlette.testclient import TestClient

from tutelage.studio import accounts
from tutelage.studio.accounts import Account
from tutelage.studio.app import COOKIE, build
from tutelage.studio.project import Project, init
from tutelage.studio.schema import metadata
from tutelage.studio.store import Store, open_store

SCRIPT = Path(__file__).parents[2] / "scripts" / "postgres.sh"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL that lives as long as this session, with nothing in it; it may create databases."""
    installed = subprocess.run([SCRIPT, "install"], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"no PostgreSQL: {installed.stderr.strip() or 'it cannot be installed'}")
    # Durability costs time that these tests, which never pull the server's plug, have no use for.
    words = [SCRIPT, "serve", "-c fsync=off", "-c max_connections=300"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        url = server.stdout.readline().strip()
        assert url, "scripts/postgres.sh serve did not start"
        yield url
        server.stdin.close()


_databases = itertools.count(1)


@pytest.fixture(scope="session")
def empty_postgres(postgres: str) -> Callable[[], str]:
    """A function that gives the URL of an empty database of its own."""

    def make() -> str:
        name = f"studio_{next(_databases)}"
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return sa.make_url(postgres).set(database=name).render_as_string(hide_password=False)

    return make


@pytest.fixture(scope="session")
def postgres_again(empty_postgres: Callable[[], str]) -> Callable[[], str]:
    """A function that gives the URL of the one database that tests use in turns, emptied.

    Making a database takes PostgreSQL the better part of a second, emptying one takes none.
    """
    url = empty_postgres()
    open_store(url).close()
    tables = ", ".join(f'"{t.name}"' for t in metadata.sorted_tables if t.name != "form")

    def empty() -> str:
        with psycopg.connect(url, autocommit=True) as connection:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}".encode())
            connection.execute("SET session_replication_role = replica")  # past the append-only triggers
            connection.execute(f"TRUNCATE {tables}".encode())
            connection.execute("DELETE FROM form WHERE number > 1")
        return url

    return empty


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """A function that gives the URL of a database with nothing in it at all."""
    if request.param == "postgresql":
        return request.getfixturevalue("empty_postgres")  # type: ignore[no-any-return]
    numbers = iter(range(100))
    return lambda: f"sqlite:///{tmp_path / f'empty-{next(numbers)}.db'}"


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database of today's schema with nothing in it; tests use copies."""
    path = tmp_path_factory.mktemp("migrated") / "studio.db"
    open_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def clock() -> Clock:
    """The store's time."""
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database of today's schema, once of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_again")())
    folder = tmp_path / "database"
    folder.mkdir()
    shutil.copy(request.getfixturevalue("migrated_file"), folder / "studio.db")
    return f"sqlite:///{folder / 'studio.db'}"


@pytest.fixture
def store(database: str, clock: Clock, tmp_path: Path) -> Iterator[Store]:
    """A fresh database, opened; the studio's folder is the one of `project`."""
    opened = open_store(database, clock, folder=tmp_path / "studio")
    yield opened
    opened.close()


@pytest.fixture
def made(store: Store) -> Made:
    """Factories over the store."""
    return Made(store)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty studio's folder."""
    return init(tmp_path / "studio", name="Harbour")


@pytest.fixture
def app(project: Project, store: Store) -> FastAPI:
    """The application over the store."""
    return build(project, store, setup=SETUP_TOKEN)


def on_this_machine(app: FastAPI) -> TestClient:
    """A browser's stand-in on this machine; it follows redirects, and an error in our code fails the test."""
    return TestClient(app, base_url="http://localhost:8400", client=("127.0.0.1", 50_000))


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    """A browser's stand-in, nobody logged in."""
    return on_this_machine(app)


@pytest.fixture
def visit(app: FastAPI, made: Made, store: Store) -> Visit:
    """A function from a role, or from an account, to a client with that account logged in."""

    def open_as(who: str | Account) -> TestClient:
        account = made.account(who) if isinstance(who, str) else who
        client = on_this_machine(app)
        client.cookies.set(COOKIE, accounts.open_session(store, account.id))
        return client

    return open_as
