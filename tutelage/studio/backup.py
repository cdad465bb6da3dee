"""Backup and restore: a copy that is whole although others write meanwhile, and the way back from it.

A backup of SQLite is a database file. A backup of PostgreSQL is a file of lines: a head with the schema's revision,
then every row as JSON. Either can be restored into either kind, at the schema it was made with, and is brought to
today's afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from tutelage.records import UserError
from tutelage.studio.check import check
from tutelage.studio.schema import VERSIONS, metadata
from tutelage.studio.store import Store, connect, known, open_store, revision

SQLITE = b"SQLite format 3\x00"
CHUNK = 500  # rows per insert


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


def backup(store: Store, target: Path) -> int:
    """Write a copy, consistent while others write. Returns the number of rows, audit trail and all.

    Raises UserError when the target exists or cannot be written.
    """
    if target.exists():
        raise UserError(f"{target}: exists; a backup never overwrites")
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        rows = _copy(store, partial) if store.sqlite else _write_lines(store, partial)
        partial.replace(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from None
    except sqlite3.Error as error:
        raise UserError(f"{target}: cannot be written ({error})") from None
    finally:
        for tail in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                Path(f"{partial}{tail}").unlink()
    return rows


def _copy(store: Store, partial: Path) -> int:
    with contextlib.closing(sqlite3.connect(partial)) as copy, store.engine.connect() as connection:
        source = connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        source.backup(copy)
    found = Store(connect(f"sqlite:///{partial.resolve()}"))
    try:
        if problems := check(found):
            raise UserError(f"the copy is not sound ({problems[0]}); nothing was kept")
        rows = _count(found)
    finally:
        found.close()
    with contextlib.closing(sqlite3.connect(partial)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    return rows


def _count(store: Store) -> int:
    with store.read() as tx:
        return sum(tx.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in metadata.sorted_tables)


def _write_lines(store: Store, partial: Path) -> int:
    rows = 0
    with partial.open("w", encoding="utf-8") as file, store.read() as tx:
        file.write(json.dumps({"studio": 1, "schema": revision(tx)}) + "\n")
        for line in _rows(tx):
            file.write(line + "\n")
            rows += 1
        file.flush()
        os.fsync(file.fileno())
    return rows


def restore(url: str, source: Path) -> int:
    """Bring a backup into an empty database; returns the number of rows. Raises UserError; nothing is overwritten."""
    if not source.is_file():
        raise UserError(f"{source}: no such backup")
    with source.open("rb") as file:
        is_database = file.read(len(SQLITE)) == SQLITE
    if is_database:
        return _from_database(url, source)
    with source.open(encoding="utf-8") as file:
        return _from_lines(url, file, str(source))


def _from_database(url: str, source: Path) -> int:
    """By way of a copy, which is brought to today's schema and checked before the target is touched."""
    _must_be_empty(url)
    target = connect(url).url
    beside = Path(str(target.database)).parent if target.get_backend_name() == "sqlite" else None
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=beside) as folder:
        copy = Path(folder) / "copy.db"
        try:
            _pour(source, copy)
        except sqlite3.Error as error:
            raise UserError(f"{source}: cannot be read ({error}); nothing was restored") from None
        found = open_store(f"sqlite:///{copy}")
        try:
            if problems := check(found):
                raise UserError(f"{source}: is not sound ({problems[0]}); nothing was restored")
            if beside is None:
                return _load(url, "head", dump(found), str(source))
            rows = _count(found)
        finally:
            found.close()
        _pour(copy, Path(str(target.database)))
    return rows


def _pour(source: Path, target: Path) -> None:
    """SQLite's own way of copying a database: whole, and past nobody's lock."""
    address = f"file:{quote(str(source.resolve()))}?mode=ro"
    with (
        contextlib.closing(sqlite3.connect(address, uri=True)) as read,
        contextlib.closing(sqlite3.connect(target)) as write,
    ):
        read.backup(write)


def _from_lines(url: str, lines: Iterator[str], name: str) -> int:
    try:
        head = json.loads(next(lines, ""))
        schema = str(head["schema"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{name}: is not a backup of a studio") from None
    if not known(schema):
        raise UserError(f"{name}: was written by a newer Tutelage (schema {schema}); update Tutelage to restore it")
    _must_be_empty(url, schema)
    return _load(url, schema, lines, name)


def _must_be_empty(url: str, schema: str = "head") -> None:
    store = open_store(url, schema=schema)
    try:
        with store.read() as tx:
            for table in _tables(tx).sorted_tables:
                if table.name != "form" and tx.execute(sa.select(table).limit(1)).first() is not None:
                    raise UserError(f"{store.engine.url.render_as_string()}: is not empty; restore into a new one")
    finally:
        store.close()


def _tables(tx: Connection) -> sa.MetaData:
    """The tables as they are in a database, whatever its schema, without the one that says which it is."""
    found = sa.MetaData()
    found.reflect(tx, only=lambda name, _: name != VERSIONS)
    return found


def _load(url: str, schema: str, lines: Iterator[str], name: str) -> int:
    """Rows into a database of their schema, in one transaction; then on to today's."""
    store = open_store(url, schema=schema)
    try:
        with store.write() as tx:
            tables = _tables(tx)
            tx.execute(tables.tables["form"].delete())  # the backup brings its own
            rows = _insert(tx, tables, lines)
    except SQLAlchemyError as error:
        raise UserError(f"{name}: its rows do not fit ({str(error).splitlines()[0]}); nothing was restored") from None
    except UserError as error:
        raise UserError(f"{name}: {error}; nothing was restored") from None
    finally:
        store.close()
    open_store(url).close()
    return rows


def _insert(tx: Connection, tables: sa.MetaData, lines: Iterator[str]) -> int:
    waiting: list[dict[str, Any]] = []
    table, rows = "", 0
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
        rows += 1
    if waiting:
        tx.execute(tables.tables[table].insert(), waiting)
    return rows
