"""Who has a database open: everybody who works in it shares a lock, a restore holds the same lock alone.

A restore replaces what is there, so nobody may have the database open meanwhile, not even an empty studio that is about
to get its first account. SQLite: flock on a file beside the database, held while the store is open. PostgreSQL: an
advisory lock that every connection takes when it is made and keeps, so that a connection made after a fault takes it
again. Either lock ends with the process that holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy import Engine

from tutelage.records import UserError

OPEN = 7_018_314
"""The number of PostgreSQL's advisory lock."""


class InUse(UserError):
    """Somebody else has the database open, or restores a backup into it."""


RESTORING = "a backup is being restored into it; try again when that has ended"


def share_file(database: Path) -> IO[str]:
    """Say that a SQLite database is open, until the file returned is closed. Raises InUse during a restore."""
    file = _lock_file(database)
    if not _take(file, fcntl.LOCK_SH):
        file.close()
        raise InUse(RESTORING)
    return file


def share_server(raw: Any, _: Any) -> None:
    """Say that a PostgreSQL database is open, until this connection ends. Raises InUse during a restore."""
    taken = raw.execute(f"SELECT pg_try_advisory_lock_shared({OPEN})").fetchone()[0]
    raw.rollback()  # ends the transaction; the lock is the session's
    if not taken:
        raw.close()
        raise InUse(RESTORING)


@contextlib.contextmanager
def alone(engine: Engine) -> Iterator[None]:
    """Hold the lock alone. Raises InUse where anybody else has the database open, by way of any other engine."""
    with contextlib.ExitStack() as stack:
        if engine.dialect.name == "sqlite":
            taken = _take(stack.enter_context(_lock_file(Path(str(engine.url.database)))), fcntl.LOCK_EX)
        else:
            stack.callback(engine.dispose)
            session = stack.enter_context(engine.execution_options(isolation_level="AUTOCOMMIT").connect())
            taken = session.execute(sa.select(sa.func.pg_try_advisory_lock(OPEN))).scalar_one()
        if not taken:
            raise InUse("is open in a running studio or another command; stop it, then restore")
        yield


def _lock_file(database: Path) -> IO[str]:
    path = database.resolve()
    return open(os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+")


def _take(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
