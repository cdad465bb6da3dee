"""The database of a studio: opening, migrating, transactions.

SQLite by default, PostgreSQL by URL, one code path. On SQLite: write-ahead log, foreign keys on, every commit synced to
disk, and writers say so at their beginning (BEGIN IMMEDIATE), so that none fails half-way with "database is locked".
Within the process they stand in a line of our own: SQLite's way of waiting is to sleep and try again, which lets some
wait long while others overtake them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DatabaseError, DataError, OperationalError

from tutelage import extras
from tutelage.records import UserError
from tutelage.studio import locks
from tutelage.studio.schema import HEAD, VERSIONS

if TYPE_CHECKING:
    from alembic.config import Config

FILE = "studio.db"
BUSY = 20.0
"""Seconds a writer waits for others before it gives up."""
PATIENCE = 2.5
"""The same where people wait for an answer: whoever cannot write within them is told to come back."""
WAITING = 80
"""Writers that may wait for their turn within the process; the studio has more threads, so that pages can be read."""
WRITERS = 32
"""Writers at a time on PostgreSQL, at most; the pool has more connections, for those that read."""
MIGRATING = 7_018_313
"""The number of PostgreSQL's lock that lets one process at a time bring a database to today's schema."""

NOT_OURS = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )
)
"""SQLite's codes for what the machine does to us. The others (a wrong column, say) are mistakes in the code."""

Clock = Callable[[], float]


class Unavailable(UserError):
    """The database cannot be used just now: locked, its disk full, its server away. Nothing was saved."""


class Store:
    """One database. `read()` and `write()` open transactions; nothing else touches the engine.


    folder: the studio's folder, where the rounds lie that the database tells of. It is not in the database, so that a
    studio that was moved or copied finds its own rounds.
    """

    def __init__(self, engine: Engine, clock: Clock = time.time, patience: float = BUSY, folder: Path = Path()) -> None:
        self.engine = engine
        self.clock = clock
        self.patience = patience
        self.folder = folder
        self._in_use: IO[str] | None = None
        isolation = {} if self.sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reading = engine.execution_options(**isolation)
        self._writing = engine.execution_options(begin="BEGIN IMMEDIATE")
        alone = {"begin": ""} if self.sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._asking = engine.execution_options(**alone)
        self._line = Line()
        self._writers = threading.BoundedSemaphore(WRITERS)

    @property
    def sqlite(self) -> bool:
        """Whether this is the file kind."""
        return self.engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing. Raises Unavailable."""
        with _plainly(), self._reading.connect() as connection, connection.begin():
            yield connection

    def first(self, query: sa.Select[Any], **parameters: Any) -> sa.Row[Any] | None:
        """The first row of one query, without the cost of a transaction around it. Raises Unavailable."""
        with _plainly(), self._asking.connect() as connection:
            return connection.execute(query, parameters).first()

    @contextlib.contextmanager
    def write(self, wait: float | None = None) -> Iterator[Connection]:
        """A transaction that writes; committed, and on disk, when the block ends without an error.

        wait: seconds to wait for other writers, where not the store's. Raises Unavailable, and UserError for text that
        no database can hold.
        """
        patience = self.patience if wait is None else wait
        with (
            _plainly(),
            self._turn(patience),
            self._writing.connect() as connection,
            self._waits(connection, patience),
            connection.begin(),
        ):
            if not self.sqlite and patience < BUSY:
                connection.execute(sa.text(f"SET LOCAL lock_timeout = {max(1, round(1000 * patience))}"))
            yield connection

    @contextlib.contextmanager
    def _turn(self, patience: float) -> Iterator[None]:
        if not (self._line.enter(patience) if self.sqlite else self._writers.acquire(timeout=patience)):
            raise Unavailable("the database is busy; nothing was saved, try again")
        try:
            yield
        finally:
            (self._line.leave if self.sqlite else self._writers.release)()

    @contextlib.contextmanager
    def _waits(self, connection: Connection, patience: float) -> Iterator[None]:
        """Have SQLite wait that long for other processes, where not as long as ever."""
        if not self.sqlite or patience == self.patience:
            yield
            return
        raw = connection.connection.cursor()
        raw.execute(f"PRAGMA busy_timeout = {round(1000 * patience)}")
        try:
            yield
        finally:
            raw.execute(f"PRAGMA busy_timeout = {round(1000 * self.patience)}")
            raw.close()

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()
        if self._in_use is not None:
            self._in_use.close()

    def share(self) -> None:
        """Keep a restore away while this store is open. PostgreSQL's connections do so themselves."""
        if self.sqlite:
            self._in_use = locks.share_file(Path(str(self.engine.url.database)))


class Line:
    """One thread at a time, first come, first served: Python's own locks let late-comers overtake."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._inside = 0  # the thread whose turn it is
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    def enter(self, timeout: float) -> bool:
        """Wait for one's turn; False when it did not come within `timeout` seconds."""
        me, turn = threading.get_ident(), threading.Event()
        with self._guard:
            if self._inside == me:
                raise RuntimeError("a write within a write would wait for itself")
            if not self._inside:
                self._inside = me
                return True
            if len(self._waiting) >= WAITING:
                return False
            self._waiting.append((me, turn))
        if turn.wait(timeout):
            return True
        with self._guard:
            if turn.is_set():  # it came this very moment
                return True
            self._waiting.remove((me, turn))
            return False

    def leave(self) -> None:
        """Let the next one in."""
        with self._guard:
            self._inside, turn = self._waiting.popleft() if self._waiting else (0, None)
            if turn is not None:
                turn.set()


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Say in one line what the machine did to us; mistakes in the code stay what they are."""
    try:
        yield
    except (DataError, UnicodeEncodeError) as error:
        raise UserError("there is a character in this text that cannot be stored; nothing was saved") from error
    except sa.exc.TimeoutError:
        raise Unavailable("the database is busy; nothing was saved, try again") from None
    except locks.InUse as error:
        raise Unavailable(str(error)) from None
    except DatabaseError as error:
        code = getattr(error.orig, "sqlite_errorcode", None)
        if not (isinstance(error, OperationalError) if code is None else code & 0xFF in NOT_OURS):
            raise
        raise Unavailable(f"the database cannot be used just now ({_reason(error)}); nothing was saved") from error


def _reason(error: DatabaseError) -> str:
    return str(error.orig).strip().splitlines()[0]


def file_url(path: Path) -> sa.URL:
    """The URL of a SQLite file. Never written as text: `?`, `#` and `%` in a path would be read as parts of a URL."""
    return sa.URL.create("sqlite", database=str(path.resolve()))


def url_of(folder: Path, database: str = "") -> str | sa.URL:
    """The database's URL: the one given, else the SQLite file in the studio's folder."""
    return database or file_url(folder / FILE)


def name_of(url: sa.URL) -> str:
    """A database as messages name it: a file by its path, a server's by its URL without the password."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string()


def connect(url: str | sa.URL, patience: float = BUSY, *, shared: bool = True) -> Engine:
    """Create an engine with our settings. Raises UserError for a URL that names no database we know.

    patience: seconds to wait for other processes, and for a connection where all are in use. shared: every connection
    to PostgreSQL says that the database is in use, see `locks`.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise UserError("--database: not a database URL; give postgresql://user:password@host/name") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    kind = parsed.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise UserError(f"--database: {kind} is not supported; SQLite and PostgreSQL are")
    if kind == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UserError("--database: SQLite needs a file, as in sqlite:////home/me/studio.db")
    room: dict[str, Any] = {"pool_size": 20, "max_overflow": 30, "pool_timeout": patience, "json_deserializer": loads}
    try:
        if kind == "postgresql":
            engine = sa.create_engine(parsed, **room)
            if shared:
                sa.event.listen(engine, "connect", locks.share_server)
            return engine
        engine = sa.create_engine(parsed, connect_args={"timeout": patience, "check_same_thread": False}, **room)
    except ModuleNotFoundError:
        raise extras.missing("PostgreSQL", "postgres") from None
    sa.event.listen(engine, "connect", _settle)
    sa.event.listen(engine, "begin", _begin)
    return engine


def loads(text: str | bytes) -> Any:
    """What a JSON column holds. orjson refuses numbers that Python once wrote there and no more lets in."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def _settle(raw: sqlite3.Connection, _: Any) -> None:
    raw.isolation_level = None  # we say BEGIN ourselves
    _write_ahead(raw)
    # Recursive triggers: without them INSERT OR REPLACE would delete append-only rows unseen.
    for line in ("synchronous = FULL", "foreign_keys = ON", "recursive_triggers = ON"):
        raw.execute(f"PRAGMA {line}")


def _write_ahead(raw: sqlite3.Connection) -> None:
    """Turn the write-ahead log on. SQLite does not wait by itself where another process turns it on just now."""
    until = time.monotonic() + BUSY
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _begin(connection: Connection) -> None:
    statement = connection.get_execution_options().get("begin", "BEGIN")
    if statement:
        connection.exec_driver_sql(statement)


# ---- opening ---------------------------------------------------------------------------------------------------


def open_store(
    url: str | sa.URL,
    clock: Clock = time.time,
    *,
    folder: Path | None = None,
    schema: str = "head",
    patience: float = BUSY,
    shared: bool = True,
) -> Store:
    """Open a database and bring it to today's schema. Raises UserError in one line when it cannot be.

    folder: the studio's, where a SQLite file lies unless given. schema: a revision to stop at, for what older versions
    left behind. patience: seconds a writer waits for others. shared: False for a restore, which holds the lock alone.
    """
    engine = connect(url, patience, shared=shared)
    shown = name_of(engine.url)
    beside = Path(str(engine.url.database)).parent if engine.dialect.name == "sqlite" else Path()
    store = Store(engine, clock, patience, folder or beside)
    try:
        with contextlib.ExitStack() as undo:
            undo.callback(store.close)
            if shared:
                store.share()
            _make_file(store)
            _migrate(store, schema)
            undo.pop_all()
    except Unavailable as error:
        cause = error.__cause__
        reason = _reason(cause) if isinstance(cause, DatabaseError) else str(error)
        raise UserError(f"{shown}: cannot be opened ({reason})") from None
    except OSError as error:
        raise UserError(f"{shown}: cannot be opened ({error.strerror or error})") from None
    except DatabaseError as error:
        raise UserError(f"{shown}: cannot be brought to today's schema ({_reason(error)})") from None
    except UserError as error:
        raise UserError(f"{shown}: {error}") from None
    return store


def _make_file(store: Store) -> None:
    """A new SQLite file is its owner's alone to read: it holds what people wrote, and hashes of passwords."""
    if store.sqlite:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(str(store.engine.url.database), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _migrate(store: Store, schema: str) -> None:
    # A transaction that writes, even where there is nothing to do: what cannot be written is found out now.
    with store.write(BUSY) as tx:
        if not store.sqlite:
            tx.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATING)))
        found = revision(tx)
        if found is None and (tables := sa.inspect(tx).get_table_names()):
            raise UserError(f"is another program's database (it holds {tables[0]!r}); give the studio one of its own")
        if found == HEAD:
            return
        if found is not None and not known(found):
            raise UserError(f"was written by a newer Tutelage (schema {found}); update Tutelage to open it")
        from alembic import command  # slow to import, and hardly ever needed

        command.upgrade(_alembic(tx), schema)


def _alembic(tx: Connection | None = None) -> Config:
    from alembic.config import Config

    config = Config(attributes={"connection": tx})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def known(schema: str) -> bool:
    """Whether this version knows a revision of the schema."""
    from alembic.script import ScriptDirectory

    return schema in {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}


def revision(tx: Connection) -> str | None:
    """The revision of the schema that a database has; None where there is none of ours."""
    if not sa.inspect(tx).has_table(VERSIONS):
        return None
    return tx.execute(sa.text(f"SELECT version_num FROM {VERSIONS}")).scalar_one_or_none()
