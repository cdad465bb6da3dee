"""Backup and restore: a copy that is whole although others write meanwhile, and the way back from it.

A backup of SQLite is a database file with a line behind its last page. A backup of PostgreSQL is a file of lines:

    {"studio": 2, "schema": ..., "tables": {table: rows}}
    {"table": ..., column: value, ...}                        a line for every row
    {"end": rows, "sha256": ...}                              the digest of all bytes before this line

Both end with a digest, so that one which was cut or altered is refused before anything is written. Either can be
restored into either kind, at the schema it was made with, and is brought to today's afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from tutelage.records import UserError
from tutelage.studio import locks
from tutelage.studio.check import check
from tutelage.studio.schema import VERSIONS, metadata
from tutelage.studio.store import Store, connect, file_url, known, name_of, open_store, revision

SQLITE = b"SQLite format 3\x00"
FORMAT = 2
"""Of a file of lines; the first one had no counts and no end."""
END = b'{"end": '
SEAL = re.compile(rb"\n-- tutelage backup, sha256 ([0-9a-f]{64})\n\Z")
SEAL_BYTES = 93
CHUNK = 500  # rows per insert
BLOCK = 1 << 20

TRUST = "--unverified restores it all the same"


def dump(store: Store) -> Iterator[str]:
    """Every row of every table as a line of JSON, in a fixed order: two databases with equal dumps are equal."""
    with store.read() as tx:
        yield from _rows(tx)


def _rows(tx: Connection) -> Iterator[str]:
    for table in metadata.sorted_tables:
        # Sorted by code points everywhere: PostgreSQL would sort by the language it was set up with.
        text = [c for c in table.primary_key.columns if isinstance(c.type, sa.String)]
        order: list[Any] = [sa.collate(c, "C") for c in text] if tx.dialect.name == "postgresql" else []
        query = sa.select(table).order_by(*(order or table.primary_key.columns))
        for row in tx.execute(query.execution_options(yield_per=CHUNK)):
            yield json.dumps({"table": table.name, **row._mapping}, sort_keys=True)


def _counts(tx: Connection) -> dict[str, int]:
    """Rows by table."""
    tables = metadata.sorted_tables
    return {t.name: int(tx.execute(sa.select(sa.func.count()).select_from(t)).scalar_one()) for t in tables}


# ---- backup ----------------------------------------------------------------------------------------------------


def backup(store: Store, target: Path) -> int:
    """Write a copy, consistent while others write. Returns the number of rows, audit trail and all.

    Raises UserError when the target exists or cannot be written.
    """
    if os.path.lexists(target):
        raise UserError(f"{target}: exists; a backup never overwrites")
    partial = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own, readable by its owner alone: another backup, or a file of the user's, is left alone.
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        os.close(handle)
        partial = Path(name)
        rows = _copy(store, partial) if store.sqlite else _write_lines(store, partial)
        partial.replace(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from None
    except sqlite3.Error as error:
        raise UserError(f"{target}: cannot be written ({error})") from None
    finally:
        for tail in ("", "-wal", "-shm") if partial else ():
            with contextlib.suppress(OSError):
                Path(f"{partial}{tail}").unlink()
    return rows


def _copy(store: Store, partial: Path) -> int:
    with contextlib.closing(sqlite3.connect(partial)) as copy, store.engine.connect() as connection:
        source = connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        source.backup(copy)
    found = Store(connect(file_url(partial)))
    try:
        if problems := check(found):
            raise UserError(f"the copy is not sound ({problems[0]}); nothing was kept")
        with found.read() as tx:
            rows = sum(_counts(tx).values())
    finally:
        found.close()
    with contextlib.closing(sqlite3.connect(partial)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    with partial.open("r+b") as file:
        digest = _digest(file, partial.stat().st_size)
        file.write(f"\n-- tutelage backup, sha256 {digest}\n".encode())  # SQLite ignores what follows its pages
        _to_disk(file)
    return rows


def _write_lines(store: Store, partial: Path) -> int:
    sha, rows = hashlib.sha256(), 0
    with partial.open("wb") as file, store.read() as tx:

        def write(line: str) -> None:
            file.write(block := f"{line}\n".encode())
            sha.update(block)

        write(json.dumps({"studio": FORMAT, "schema": revision(tx), "tables": _counts(tx)}))
        for line in _rows(tx):
            write(line)
            rows += 1
        write(json.dumps({"end": rows, "sha256": sha.hexdigest()}))
        _to_disk(file)
    return rows


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _digest(file: IO[bytes], size: int) -> str:
    """SHA-256 of the first `size` bytes; the file stands behind them afterwards."""
    sha = hashlib.sha256()
    file.seek(0)
    while size and (block := file.read(min(size, BLOCK))):
        sha.update(block)
        size -= len(block)
    return sha.hexdigest()


# ---- restore ---------------------------------------------------------------------------------------------------


def restore(url: str | sa.URL, source: Path, *, unverified: bool = False) -> int:
    """Bring a backup into an empty database that nobody has open; returns the number of rows.

    unverified: also one whose end or digest is missing or wrong. Raises UserError; nothing is overwritten.
    """
    if not source.is_file():
        raise UserError(f"{source}: no such backup")
    try:
        with source.open("rb") as file:
            is_database = file.read(len(SQLITE)) == SQLITE
            # Looked through to its end first: what is not whole must not even make a database.
            lines = None if is_database else _Lines(file, str(source), unverified)
            if is_database and not unverified:
                _must_be_as_written(file, source)
            with _alone(url) as target:
                return _bring_in(url, target, source, lines)
    except OSError as error:
        raise UserError(f"{source}: cannot be restored ({error.strerror or error})") from None


@contextlib.contextmanager
def _alone(url: str | sa.URL) -> Iterator[Path | None]:
    """Keep everybody else out of the database; gives its file, None for a server's. Raises UserError where somebody has
    it open."""
    engine = connect(url, shared=False)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.alone(engine))
        except locks.InUse as error:
            _must_be_empty(url, shared=True)  # said first: closing the studio would not help
            raise UserError(f"{name_of(engine.url)}: {error}") from None
        except SQLAlchemyError as error:
            raise UserError(f"{name_of(engine.url)}: cannot be opened ({_first_line(error)})") from None
        yield Path(str(engine.url.database)) if engine.dialect.name == "sqlite" else None


def _must_be_as_written(file: IO[bytes], source: Path) -> None:
    """Hold a SQLite backup against its digest. Copies of a database by other means have none, and pass."""
    size = file.seek(0, os.SEEK_END) - SEAL_BYTES
    file.seek(max(0, size))
    found = SEAL.match(file.read())
    if found is not None and _digest(file, size) != found[1].decode():
        raise UserError(f"{source}: has changed since it was written; nothing was restored ({TRUST})")


def _bring_in(url: str | sa.URL, target: Path | None, source: Path, lines: _Lines | None) -> int:
    """By way of a SQLite copy, which is brought to today's schema and looked through before the target is touched."""
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=target.parent if target else None) as folder:
        copy = Path(folder) / "copy.db"
        if lines is None:
            _read_database(source, copy)
        else:
            _load(file_url(copy), lines.schema, lines, lines.counts, lines.name)
        with contextlib.closing(open_store(file_url(copy))) as store:
            if lines is None and (problems := check(store)):
                raise UserError(f"{source}: is not sound ({problems[0]}); nothing was restored")
            with store.read() as tx:
                counts = _counts(tx)
            if target is None:
                _load(url, "head", dump(store), counts, str(source))
                return sum(counts.values())
        _must_be_empty(url)
        _pour(copy, target)
    return sum(counts.values())


def _read_database(source: Path, copy: Path) -> None:
    try:
        _pour(source, copy)
        with contextlib.closing(sqlite3.connect(copy)) as found:
            ours = found.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSIONS,)).fetchone()
    except sqlite3.Error as error:
        raise UserError(f"{source}: cannot be read ({error}); nothing was restored") from None
    if ours is None:
        raise UserError(f"{source}: is not a backup of a studio")


def _pour(source: Path, target: Path) -> None:
    """SQLite's own way of copying a database: whole, and past nobody's lock."""
    address = f"file:{quote(str(source.resolve()))}?mode=ro"
    with (
        contextlib.closing(sqlite3.connect(address, uri=True)) as read,
        contextlib.closing(sqlite3.connect(target)) as write,
    ):
        read.backup(write)


class _Lines:
    """A backup as lines, found whole when it is opened. Iterating gives the rows' lines."""

    def __init__(self, file: IO[bytes], name: str, unverified: bool) -> None:
        self.name, self._file = name, file
        file.seek(0)
        head = file.readline()
        try:
            found = json.loads(head)
            written, self.schema = int(found["studio"]), str(found["schema"])
            self.counts: dict[str, int] | None = dict(found["tables"]) if written >= FORMAT else None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{name}: is not a backup of a studio") from None
        if written > FORMAT or not known(self.schema):
            raise UserError(
                f"{name}: was written by a newer Tutelage (schema {self.schema}); update Tutelage to restore it"
            )
        self._start = len(head)
        if unverified:
            self.counts = None
            return
        if self.counts is None:
            raise UserError(
                f"{name}: was written by an earlier Tutelage, whose backups do not say where they end: "
                f"whether all of it is here cannot be told ({TRUST})"
            )
        self._verify(head, sum(self.counts.values()))

    def _verify(self, head: bytes, wanted: int) -> None:
        sha, rows = hashlib.sha256(head), 0
        for line in self._file:
            if line.startswith(END):
                break
            sha.update(line)
            rows += 1
        else:
            raise UserError(
                f"{self.name}: is cut off after {rows:,} of {wanted:,} rows; nothing was restored ({TRUST})"
            )
        end = json.dumps({"end": rows, "sha256": sha.hexdigest()}) + "\n"
        if line != end.encode() or self._file.read(1):
            raise UserError(f"{self.name}: has changed since it was written; nothing was restored ({TRUST})")

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self._start)
        for line in self._file:
            if line.startswith(END):
                return
            yield line


def _must_be_empty(url: str | sa.URL, *, shared: bool = False) -> None:
    store = open_store(url, shared=shared)
    with contextlib.closing(store), store.read() as tx:
        _refuse_rows(tx, store)


def _refuse_rows(tx: Connection, store: Store) -> None:
    for table in _tables(tx).sorted_tables:
        if table.name != "form" and tx.execute(sa.select(table).limit(1)).first() is not None:
            raise UserError(f"{name_of(store.engine.url)}: is not empty; restore into a new one")


def _tables(tx: Connection) -> sa.MetaData:
    """The tables as they are in a database, whatever its schema, without the one that says which it is."""
    found = sa.MetaData()
    found.reflect(tx, only=lambda name, _: name != VERSIONS)
    return found


def _load(
    url: str | sa.URL, schema: str, lines: Iterable[str | bytes], counts: dict[str, int] | None, name: str
) -> None:
    """Rows into an empty database of their schema, in one transaction. counts: rows by table, where they are known."""
    store = open_store(url, schema=schema, shared=False)
    try:
        with store.write() as tx:
            _refuse_rows(tx, store)
            tables = _tables(tx)
            tx.execute(tables.tables["form"].delete())  # the backup brings its own
            rows = _insert(tx, tables, lines)
            if counts is not None and rows != Counter(counts):
                raise UserError("its rows are not as many as its first line says")
    except SQLAlchemyError as error:
        raise UserError(f"{name}: its rows do not fit ({_first_line(error)}); nothing was restored") from None
    except UserError as error:
        raise UserError(f"{name}: {error}; nothing was restored") from None
    finally:
        store.close()


def _first_line(error: SQLAlchemyError) -> str:
    return str(error).strip().splitlines()[0]


def _insert(tx: Connection, tables: sa.MetaData, lines: Iterable[str | bytes]) -> Counter[str]:
    """Insert the rows; returns how many by table."""
    waiting: list[dict[str, Any]] = []
    table, rows = "", Counter[str]()
    for number, line in enumerate(lines, start=2):
        try:
            row = json.loads(line)
            name = row.pop("table")
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"line {number} is not a row") from None
        if name not in tables.tables:
            raise UserError(f"line {number} is of an unknown table {name!r}")
        if row.keys() != set(tables.tables[name].columns.keys()):
            raise UserError(f"line {number} does not have the columns of {name!r}")
        if waiting and (name != table or len(waiting) == CHUNK):
            tx.execute(tables.tables[table].insert(), waiting)
            waiting = []
        table = name
        waiting.append(row)
        rows[name] += 1
    if waiting:
        tx.execute(tables.tables[table].insert(), waiting)
    return rows
