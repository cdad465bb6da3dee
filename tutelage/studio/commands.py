"""The studio on the command line: init, studio, account, backup, restore, check, export.

Parsed words in, exit code out; the command line proper is `tutelage.cli`. The studio's packages are an extra and take
a while to load, so nothing of them is imported before a command runs.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tutelage import extras
from tutelage.records import UserError

if TYPE_CHECKING:
    from tutelage.studio.store import Store

EXTRA = (
    *("alembic", "argon2", "fastapi", "jinja2", "limits", "markdown_it"),
    *("nh3", "orjson", "sqlalchemy", "ulid", "uvicorn"),
)
"""What the extra `studio` installs, by the names it is imported under."""


@dataclass(frozen=True, kw_only=True)
class InitWords:
    """Make a studio's folder, empty or with the prompts and guidelines of an embedded workflow."""

    folder: Path
    """Folder to make."""
    source: str = ""
    """Embedded workflow (support, instructions), or a folder with one, whose prompts and guidelines it begins with;
    --from says the same."""
    name: str = ""
    """What the studio is called; the folder's name unless given."""
    model: str = ""
    """Base model that the first round starts from: embedded name, local folder or hub id."""


@dataclass(frozen=True, kw_only=True)
class StudioWords:
    """Open a studio in the browser: where people write, rank and train. It runs until Ctrl-C."""

    folder: Path
    """A studio's folder, as `tutelage init` makes it."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than this machine's own need an admin with a password first."""
    port: int = 0
    """Port to listen on; 0 takes the first free one from 8400."""
    no_browser: bool = False
    """Open no browser."""
    database: str = ""
    """postgresql://user@host/name instead of the file in the folder (a password can stand in ~/.pgpass)."""
    public_url: str = ""
    """Address people open when a proxy is in front, as in https://studio.example.org/label; links, cookies and the
    check of where requests come from follow it."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks the proxy connects from, as in 127.0.0.1 or 172.16.0.0/12: its X-Forwarded-For and
    X-Forwarded-Proto are believed. It must set them itself."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port is {self.port}; ports are 1 to 65535, and 0 takes a free one")


@dataclass(frozen=True, kw_only=True)
class AccountWords:
    """Make an account, or give one a new password. The password is typed, or one line of the standard input."""

    folder: Path
    """A studio's folder."""
    name: str
    """The name to log in with."""
    role: Literal["labeler", "heldout", "reviewer", "admin"] = "labeler"
    """What it may do; heldout labelers only evaluate."""
    team: str = ""
    """The group whose values its rankings carry; "training" unless given."""
    reset: bool = False
    """The account is there: give it a new password and end its sessions."""
    database: str = ""
    """postgresql://user@host/name instead of the file in the folder."""


@dataclass(frozen=True, kw_only=True)
class BackupWords:
    """Write a copy of a studio's database, whole although people work in it meanwhile."""

    folder: Path
    """A studio's folder."""
    file: Path
    """File to write; it must not be there."""
    database: str = ""
    """postgresql://user@host/name instead of the file in the folder."""


@dataclass(frozen=True, kw_only=True)
class RestoreWords:
    """Bring a backup into a studio whose database is empty or not there; either kind into either kind."""

    folder: Path
    """A studio's folder."""
    file: Path
    """What `tutelage backup` wrote."""
    unverified: bool = False
    """Also a backup that does not say where it ends, as earlier versions wrote them, or was altered since."""
    database: str = ""
    """postgresql://user@host/name instead of the file in the folder."""


@dataclass(frozen=True, kw_only=True)
class CheckWords:
    """Look whether a studio's database is sound: its file, its references, its counters, its audit trail."""

    folder: Path
    """A studio's folder."""
    database: str = ""
    """postgresql://user@host/name instead of the file in the folder."""


@dataclass(frozen=True, kw_only=True)
class ExportWords:
    """Write what people gave: rankings, comparisons for TRL, demonstrations, Parquet, a dataset card."""

    folder: Path
    """A studio's folder."""
    out: Path
    """Folder to write: a new one, an empty one, or an earlier export, whose files are replaced."""
    labels: Literal["training", "all"] = "training"
    """What was collected for training, or all: blind judgements of old and new policy and playground votes too."""
    groups: tuple[str, ...] = ()
    """Labeler groups whose answers go out; none named means all."""
    seed: int = 0
    """Seed of the order of the rows; the same database and seed give the same bytes."""
    database: str = ""
    """postgresql://user@host/name instead of the file in the folder."""


def init(words: InitWords) -> int:
    """Make a folder and say what to do next."""
    project = _load("project").init(words.folder, source=words.source, name=words.name, model=words.model)
    print(f"made   {words.folder}: {project.settings.name}\nnext   tutelage studio {words.folder}")
    return 0


def studio(words: StudioWords) -> int:
    """Serve until stopped."""
    _load("server").serve(
        words.folder,
        host=words.host,
        port=words.port,
        database=words.database,
        browser=not words.no_browser,
        public_url=words.public_url,
        proxies=words.trusted_proxies,
    )
    return 0


def account(words: AccountWords) -> int:
    """Make an account, or set its password."""
    accounts = _load("accounts")
    with _opened(words.folder, words.database) as store:
        known = accounts.named(store, words.name)
        if words.reset and known is None:
            raise UserError(f"there is no account {words.name!r}")
        if not words.reset and known is not None:
            raise UserError(f"there is an account {words.name!r} already; --reset gives it a new password")
        password = _password()
        if words.reset:
            accounts.set_password(store, known.id, password)
            print(f"{known.name}: new password; all its sessions are ended")
        else:
            made = accounts.create(store, words.name, password, words.role, words.team)
            print(f"{made.name}: {made.role}, group {made.team}")
    return 0


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    try:
        password = getpass.getpass("password: ")
        if getpass.getpass("again: ") != password:
            raise UserError("the two passwords differ; nothing was changed")
    except EOFError:
        raise UserError("no password was given; nothing was changed") from None
    return password


def backup(words: BackupWords) -> int:
    """Write a copy."""
    with _opened(words.folder, words.database) as store:
        rows = _load("backup").backup(store, words.file)
    print(f"{words.file}: {rows:,} rows")
    return 0


def restore(words: RestoreWords) -> int:
    """Bring a copy back."""
    _load("project").open_project(words.folder)
    url = _load("store").url_of(words.folder, words.database)
    rows = _load("backup").restore(url, words.file, unverified=words.unverified)
    print(f"{words.file}: {rows:,} rows restored")
    return 0


def check(words: CheckWords) -> int:
    """Say what is wrong, a line each; exit code 1 when something is."""
    with _opened(words.folder, words.database) as store:
        problems: list[str] = _load("check").check(store)
    print("\n".join(problems) or "the database is sound")
    return 1 if problems else 0


def export(words: ExportWords) -> int:
    """Write a data set and say what is in it."""
    everything = words.labels == "all"
    with _opened(words.folder, words.database) as store:
        counts = _load("export").export(
            store,
            words.out,
            seed=words.seed,
            kinds=("compare", "judge") if everything else ("compare",),
            teams=words.groups,
            playground=everything,
        )
    print(json.dumps({"out": str(words.out), **counts}, indent=2))
    return 0


def _load(name: str) -> Any:
    """One of the studio's modules. Raises UserError when the extra was not installed."""
    try:
        return importlib.import_module(f"tutelage.studio.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in EXTRA:
            raise
        raise extras.missing("the studio", "studio") from None


@contextlib.contextmanager
def _opened(folder: Path, database: str) -> Iterator[Store]:
    """The database of a folder that is a studio's, opened. Raises UserError."""
    _load("project").open_project(folder)
    opened = _load("store")
    store: Store = opened.open_store(opened.url_of(folder, database), folder=folder)
    try:
        yield store
    finally:
        store.close()
