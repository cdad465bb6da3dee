"""The database itself: migrations, triggers, views, bad databases, backup and restore, on both kinds."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from made_studio import Made, ranking

from tutelage.records import UserError
from tutelage.studio import queue
from tutelage.studio import store as store_module
from tutelage.studio.backup import backup, dump, restore
from tutelage.studio.check import check
from tutelage.studio.forms import default_form, form
from tutelage.studio.schema import (
    APPEND_ONLY,
    HEAD,
    VERSIONS,
    actions,
    asides,
    forms,
    grades,
    items,
    metadata,
    topics,
    votes,
)
from tutelage.studio.store import Store, Unavailable, connect, file_url, open_store, url_of

# ---- schema ----------------------------------------------------------------------------------------------------


def test_migrations_make_the_schema_that_the_code_describes(store: Store) -> None:
    def ours(thing: object, name: str | None, kind: str, *_: object) -> bool:
        return not (kind == "table" and name == VERSIONS)

    with store.read() as tx:
        context = MigrationContext.configure(tx, opts={"include_object": ours, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_todays_revision_is_the_last_migration() -> None:
    folder = Path(store_module.__file__).parent / "migrations" / "versions"
    assert [path.name.split("_")[0] for path in sorted(folder.glob("*.py"))][-1] == HEAD


def test_opening_again_changes_nothing(store: Store, database: str) -> None:
    before = list(dump(store))
    open_store(database).close()
    assert list(dump(store)) == before


def test_the_first_form_is_the_one_the_code_makes(store: Store) -> None:
    assert form(store, 1) == default_form()


def test_two_processes_may_open_a_new_database_at_once(tmp_path: Path, empty_database: Callable[[], str]) -> None:
    url = empty_database()
    failures = []

    def once() -> None:
        try:
            open_store(url).close()
        except UserError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("verb", ["UPDATE", "DELETE"])
@pytest.mark.parametrize("table", APPEND_ONLY)
def test_what_people_did_cannot_be_changed_or_deleted(store: Store, made: Made, table: str, verb: str) -> None:
    made.filled()
    [me] = made.crowd(1)
    made.answer(me)
    answer = made.answers()[0].id
    with store.write() as tx:
        row = {"id": "vote", "account_id": me, "prompt": "p", "answers": [], "best": 0, "created": 0.0}
        tx.execute(votes.insert().values(**row))
        revision = {"account_id": me, "number": 1, "created": 0.0}
        tx.execute(topics.insert().values(id="topic", text="the sea", **revision))
        tx.execute(grades.insert().values(id="grade", answer_id=answer, grade=4, **revision))
        tx.execute(asides.insert().values(id="aside", answer_id=answer, aside=True, reason="", **revision))
    before = list(dump(store))
    statement = f'DELETE FROM "{table}"' if verb == "DELETE" else f"UPDATE \"{table}\" SET id = 'x'"
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.write() as tx:
        tx.execute(sa.text(statement))
    assert list(dump(store)) == before


def test_nor_replaced_nor_emptied(store: Store, made: Made) -> None:
    made.filled()
    made.answer(made.crowd(1)[0])
    statement = "INSERT OR REPLACE INTO answer SELECT * FROM answer" if store.sqlite else "TRUNCATE answer CASCADE"
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.write() as tx:
        tx.execute(sa.text(statement))


def test_views_show_the_latest_answers_to_whoever_opens_the_file(store: Store, made: Made) -> None:
    made.filled(overlap=2), made.filled("demonstrate", name="writing")
    me, other = made.crowd(2)
    made.answer(me), made.answer(other)
    task = queue.claim(store, me, "demonstrate")
    assert task is not None
    for text in ("first words", "better words"):
        queue.submit(store, me, task, made.key(), {"response": text}, 3.0)
    with store.read() as tx:
        written = tx.execute(sa.text("SELECT * FROM demonstrations")).mappings().all()
        ranked = tx.execute(sa.text("SELECT * FROM rankings")).mappings().all()
        progress = tx.execute(sa.text("SELECT * FROM progress WHERE batch = 'writing'")).mappings().one()
    assert [(w["revision"], "better words" in str(w["body"])) for w in written] == [(2, True)]
    assert len(ranked) == 2 and {r["team"] for r in ranked} == {"training"}
    assert (progress["items"], progress["done"], progress["held"], progress["wanted"]) == (1, 1, 0, 1)


# ---- databases of earlier versions ------------------------------------------------------------------------------


def rows_of(url: str) -> dict[str, list[dict[str, object]]]:
    """Every row of every table, as the tables are in the database, whatever its schema."""
    engine = connect(url)
    with engine.connect() as tx:
        tables = sa.MetaData()
        tables.reflect(tx)
        found = {
            table.name: [dict(row._mapping) for row in tx.execute(sa.select(table).order_by(*table.primary_key))]
            for table in tables.sorted_tables
            if table.name != VERSIONS
        }
    engine.dispose()
    return found


@pytest.fixture
def first_schema(empty_database: Callable[[], str]) -> str:
    """The URL of a database that the first schema made, in which people worked: a row in every table."""
    url = empty_database()
    opened = open_store(url, schema="0001")
    account = {"password": "x", "role": "labeler", "team": "north", "active": True, "created": 1.5}
    batch = {"mode": "helpful-first", "overlap": 2, "team": "", "form": 2, "priority": 3, "open": True, "created": 2.0}
    prompt = {"text": "Sea?", "writer": "w", "use_case": "chat", "kind": "plain", "split": "train", "flags": ["x"]}
    item = {"prompt_id": "p", "place": 0, "quota": 2, "held": 0, "done": 1, "free": True}
    done = {"account_id": "kim", "order_seed": 7, "seconds": 3.25}
    task = {"state": "submitted", "fence": 2, "expires": 9.0, "claimed": 3.0, "draft": None, "draft_no": 0}
    answer = {"number": 1, "form": 2, "mode": "helpful-first", "extra": False, "created": 4.0}
    wrote = {"response": "naïve ☃"}
    reply = {
        "prompt_id": "p",
        "text": "Wide.",
        "model": "m",
        "tokens": 3,
        "ended": True,
        "sampling": {},
        "created": 1.0,
    }
    kept = {
        "form": [{"number": 2, "body": {"likert": {}, "flags": [{"name": "violent_content"}]}, "created": 0.5}],
        "account": [{"id": "kim", "name": "Kim", "login": "kim"} | account],
        "session": [{"token": "t", "account_id": "kim", "created": 1.0, "seen": 1.0, "expires": 9e9}],
        "invitation": [
            {"token": "t", "role": "labeler", "team": "x", "made_by": "kim", "created": 1.0, "expires": 9e9}
            | {"used": None, "used_by": None}
        ],
        "prompt": [{"id": "p", "source": "s", "created": 1.0} | prompt],
        "response": [{"id": "p/1"} | reply, {"id": "p/2"} | reply],
        "batch": [
            {"id": "b", "name": "b", "kind": "demonstrate"} | batch,
            {"id": "c", "name": "c", "kind": "compare"} | batch,
        ],
        "item": [
            {"id": "i", "batch_id": "b", "responses": []} | item,
            {"id": "j", "batch_id": "c", "responses": ["p/1", "p/2"]} | item,
        ],
        "assignment": [{"id": "s", "item_id": "i"} | done | task, {"id": "u", "item_id": "j"} | done | task],
        "answer": [
            {"id": "a", "item_id": "i", "key": "k" * 20, "body": wrote} | done | answer,
            {"id": "r", "item_id": "j", "key": "r" * 20, "body": ranking(2)} | done | answer,
        ],
        "action": [
            {"id": f"l{name}", "at": 4.0, "account_id": "kim", "what": "submit", "about": name, "detail": {"n": 1}}
            for name in "ar"
        ],
        "import": [
            {"id": "m", "file": "f", "account_id": None, "kept": 1, "dropped": [], "notes": ["n"], "created": 1.0}
        ],
        "vote": [{"id": "v", "account_id": None, "prompt": "p", "answers": [], "best": -1, "created": 1.0}],
        "round": [
            {"number": 1, "state": "failed", "folder": "f", "pid": 1, "settings": {"k": 4}, "message": "m"}
            | {"started": 1.0, "ended": None}
        ],
        "survey": [{"id": "y", "day": "2026-11-20", "body": {"survey": "who"}}],
    }
    with opened.write() as tx:
        tables = sa.MetaData()
        tables.reflect(tx)
        assert set(kept) == set(tables.tables) - {VERSIONS}
        for name, rows in kept.items():
            tx.execute(tables.tables[name].insert(), rows)
    opened.close()
    return url


def as_it_was(before: dict[str, list[dict[str, object]]], after: dict[str, list[dict[str, object]]]) -> None:
    """Everything that was there is there, column by column; forms say more, of the same questions."""
    for table, rows in before.items():
        found = [{name: copy.deepcopy(row[name]) for name in rows[0]} for row in after[table]]
        if table == "form":
            for row in found:
                body = row["body"]
                assert isinstance(body, dict)
                assert [flag.pop("sensitive") for flag in body["flags"]].count(True) == (6 if row["number"] == 1 else 1)
        assert found == rows, table


def test_a_database_of_the_first_schema_keeps_all_it_has(first_schema: str) -> None:
    before = rows_of(first_schema)
    opened = open_store(first_schema)
    after = rows_of(first_schema)
    as_it_was(before, after)
    assert {row["standing"] for row in after["account"]} == {"unscreened"}
    assert {row["screening"] for row in after["batch"]} == {False}
    assert {row["team"] for row in after["answer"]} == {"north"}  # the group its labeler is in
    assert [after[name] for name in ("grade", "topic", "setting")] == [[], [], []]
    assert check(opened) == []
    assert form(opened, 1) == default_form()
    with opened.read() as tx:
        views = [
            len(tx.execute(sa.text(f"SELECT * FROM {v}")).all()) for v in ("demonstrations", "rankings", "progress")
        ]
    assert views == [1, 1, 2]
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), opened.write() as tx:
        tx.execute(sa.text("DELETE FROM answer"))
    opened.close()
    again = open_store(first_schema)
    assert rows_of(first_schema) == after
    again.close()


def test_a_backup_of_the_first_schema_comes_back(
    first_schema: str, tmp_path: Path, empty_database: Callable[[], str]
) -> None:
    before = rows_of(first_schema)
    store = Store(connect(first_schema))
    lines = [json.dumps({"studio": 1, "schema": "0001"})]
    names = [t.name for t in metadata.sorted_tables if t.name in before]
    lines += [json.dumps({"table": name, **row}) for name in names for row in before[name]]
    (tmp_path / "lines").write_text("\n".join(lines) + "\n")
    sources = [tmp_path / "lines"]
    if store.sqlite:  # a backup of SQLite is the file itself
        sources.append(Path(str(store.engine.url.database)))
    store.close()
    for source in sources:
        url = empty_database()
        open_store(url).close()  # an empty studio may have been opened already, with the schema of today
        assert restore(url, source, unverified=True) == sum(map(len, before.values()))
        as_it_was(before, rows_of(url))
        opened = open_store(url)
        assert check(opened) == []
        opened.close()


def test_views_keep_their_columns(store: Store, empty_database: Callable[[], str]) -> None:
    first = open_store(empty_database(), schema="0001")
    columns = [
        {
            view: [c["name"] for c in sa.inspect(one.engine).get_columns(view)]
            for view in ("demonstrations", "rankings", "progress")
        }
        for one in (first, store)
    ]
    first.close()
    assert columns[0] == columns[1]


# ---- databases that cannot be opened ---------------------------------------------------------------------------


def one_line(url: str | sa.URL) -> str:
    with pytest.raises(UserError) as caught:
        open_store(url)
    line = str(caught.value)
    assert "\n" not in line and "Traceback" not in line
    return line


def test_a_newer_schema_says_so(store: Store, database: str) -> None:
    with store.write() as tx:
        tx.execute(sa.text(f"UPDATE {VERSIONS} SET version_num = '9999'"))
    try:
        assert "newer Tutelage (schema 9999); update Tutelage" in one_line(database)
    finally:  # the database is shared by later tests
        with store.write() as tx:
            tx.execute(sa.text(f"UPDATE {VERSIONS} SET version_num = '{HEAD}'"))


@pytest.mark.parametrize("table", ["account", "somebody_elses", "alembic_version"])
def test_a_database_of_another_program_is_left_alone(empty_database: Callable[[], str], table: str) -> None:
    url = empty_database()
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE TABLE {table} (version_num text)"))
    assert f"another program's database (it holds {table!r})" in one_line(url)
    assert sa.inspect(engine).get_table_names() == [table]
    engine.dispose()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "studio.db").write_text("Dear diary, " * 100)
    assert "file is not a database" in one_line(url_of(tmp_path))


def test_a_folder_that_is_not_there_or_cannot_be_written(tmp_path: Path) -> None:
    assert "No such file or directory" in one_line(url_of(tmp_path / "nowhere"))
    assert "cannot be opened" in one_line("sqlite:////proc/studio.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in one_line(url_of(tmp_path))


def test_a_locked_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(url_of(tmp_path)).close()
    monkeypatch.setattr(store_module, "BUSY", 0.1)
    with contextlib.closing(sqlite3.connect(tmp_path / "studio.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "database is locked" in one_line(url_of(tmp_path))


def test_a_database_that_is_locked_while_it_serves(tmp_path: Path) -> None:
    opened = open_store(url_of(tmp_path), patience=0.1)
    with contextlib.closing(sqlite3.connect(tmp_path / "studio.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match=r"locked.*nothing was saved"), opened.write():
            pass
        with opened.read() as tx:
            assert tx.execute(sa.select(forms.c.number)).scalar_one() == 1, "readers are not in its way"
    opened.close()


def test_a_writer_that_waits_too_long_is_told_and_the_next_one_gets_in(tmp_path: Path) -> None:
    opened = open_store(url_of(tmp_path), patience=0.05)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with opened.write():
            inside.set()
            leave.wait()

    other = threading.Thread(target=hold)
    other.start()
    inside.wait()
    with pytest.raises(Unavailable, match=r"busy.*nothing was saved"), opened.write():
        pass
    leave.set()
    other.join()
    with opened.write():
        pass
    opened.close()


def test_a_turn_that_comes_as_one_stops_waiting_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    line = store_module.Line()

    class Late(threading.Event):
        """Stops waiting at the very moment at which the one inside leaves."""

        def wait(self, timeout: float | None = None) -> bool:
            line.leave()
            return False

    two = SimpleNamespace(Event=Late, get_ident=iter((1, 2, 3)).__next__)
    monkeypatch.setattr(store_module, "threading", two)
    assert line.enter(0) and line.enter(0)
    line.leave()
    assert line.enter(0)  # nobody is left inside


def test_more_people_than_connections_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_store(url_of(tmp_path))
    monkeypatch.setattr(opened.engine.pool, "_timeout", 0.05)
    with contextlib.ExitStack() as others:
        for _ in range(50):
            others.enter_context(opened.read())
        with pytest.raises(Unavailable, match=r"busy.*nothing was saved"), opened.read():
            pass
    with opened.read():
        pass
    opened.close()


@pytest.mark.parametrize(("said", "tries"), [("database is locked", 3), ("disk I/O error", 1)])
def test_a_write_ahead_log_that_another_process_turns_on_is_waited_for(said: str, tries: int) -> None:
    """SQLite answers at once here, whatever its timeout says."""
    asked = []

    class Raw:
        def execute(self, line: str) -> None:
            asked.append(line)
            if len(asked) < 3:
                raise sqlite3.OperationalError(said)

    with contextlib.nullcontext() if tries == 3 else pytest.raises(sqlite3.OperationalError, match=said):
        store_module._write_ahead(Raw())  # type: ignore[arg-type]
    assert asked == ["PRAGMA journal_mode = WAL"] * tries


def test_postgresql_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match="PostgreSQL needs the extra 'postgres'"):
        connect("postgresql://user@host/name")


def test_a_database_that_was_taken_apart_is_one_line(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "studio.db")) as other:
        other.execute(f"CREATE TABLE {VERSIONS} (version_num text)")
        other.execute(f"INSERT INTO {VERSIONS} VALUES ('0001')")
        other.commit()
    assert "cannot be brought to today's schema (no such table" in one_line(url_of(tmp_path))


def test_a_full_disk_says_so_and_loses_nothing(tmp_path: Path, made_in: Callable[[Store], Made]) -> None:
    """SQLite is told that it may have no more pages: the same error, by the same path, as a disk that is full."""
    opened = open_store(url_of(tmp_path))
    made = made_in(opened)
    made.prompts(3)
    before = list(dump(opened))
    many = [{"number": n, "body": {"x": "y" * 4000}, "created": 0.0} for n in range(2, 50)]

    def fill() -> None:
        with opened.write() as tx:
            pages = tx.exec_driver_sql("PRAGMA page_count").scalar_one()
            tx.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            tx.execute(forms.insert(), many)

    with pytest.raises(Unavailable, match=r"full.*nothing was saved"):
        fill()
    assert list(dump(opened)) == before
    assert check(opened) == []
    opened.close()


@pytest.fixture
def made_in() -> Callable[[Store], Made]:
    """Factories over a store that the test opened itself."""
    return Made


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://a:b@c/d", "mysql is not supported"),
        ("not a url", "not a database URL"),
        ("postgresql://host:port/x", "not a database URL"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:///:memory:", "SQLite needs a file"),
        ("postgresql://user:secret@127.0.0.1:1/x", "cannot be opened"),
        ("postgres://user:secret@127.0.0.1:1/x", "cannot be opened"),
    ],
)
def test_urls_that_name_no_database(url: str, said: str) -> None:
    line = one_line(url)
    assert said in line and "secret" not in line


def test_text_that_no_database_can_hold_is_the_users_mistake(store: Store, made: Made) -> None:
    texts = ["lone \ud800 surrogate"] if store.sqlite else ["lone \ud800 surrogate", "a NUL \x00 in it"]
    for text in texts:
        with pytest.raises(UserError, match="cannot be stored"):
            made.prompts(1, text=text)


def test_a_mistake_in_the_code_stays_one(store: Store) -> None:
    with pytest.raises(sa.exc.DBAPIError), store.read() as tx:
        tx.execute(sa.text("SELECT nothing FROM nowhere"))


def test_a_write_within_a_write_does_not_hang(tmp_path: Path) -> None:
    opened = open_store(url_of(tmp_path))
    with pytest.raises(RuntimeError, match="wait for itself"), opened.write(), opened.write():
        pass
    opened.close()


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    opened = open_store(url_of(tmp_path))
    made = Made(opened)
    made.prompts(1)
    backup(opened, tmp_path / "copy.db")
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    opened.close()


def test_what_was_acknowledged_is_synced_to_disk(tmp_path: Path) -> None:
    opened = open_store(url_of(tmp_path))
    with opened.write() as tx:
        settings = {
            name: tx.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "recursive_triggers": 1}
    opened.close()


# ---- check -----------------------------------------------------------------------------------------------------


def test_check_finds_what_was_broken_by_hand(store: Store, made: Made) -> None:
    made.filled(count=4, overlap=2)
    me, other = made.crowd(2)
    made.answer(me), made.answer(other)
    queue.claim(store, me, "compare")
    assert check(store) == []
    with store.write() as tx:
        tx.execute(sa.update(items).where(items.c.place == 3).values(held=1, free=False))
        tx.execute(sa.text("UPDATE assignment SET state = 'submitted' WHERE state = 'active'"))
        answer = tx.execute(sa.text("SELECT * FROM answer")).mappings().first()
        assert answer is not None
        body = json.dumps(ranking(4))
        again = {**answer, "id": "answer", "key": "another key, of 16", "number": 3, "body": body}
        columns = ", ".join(again)
        tx.execute(sa.text(f"INSERT INTO answer ({columns}) VALUES ({', '.join(':' + c for c in again)})"), again)
    found = "\n".join(check(store))
    for said in ("its counters say", "but there is no answer", "not numbered 1 to 2", "not in the audit trail"):
        assert said in found


# ---- backup and restore ----------------------------------------------------------------------------------------


@pytest.fixture
def worked(store: Store, made: Made) -> Store:
    """A database in which people wrote, ranked, revised, skipped and wait."""
    made.filled(count=6, overlap=2), made.filled("demonstrate", count=3)
    made.account("admin", name="Ärger")
    me, other = made.crowd(2)
    made.answer(me), made.answer(me, "demonstrate", {"response": "naïve ☃ words\nin two lines"}), made.answer(other)
    task = queue.claim(store, other, "compare")
    assert task is not None
    queue.save_draft(store, other, task, 1, {"ranks": [1, None]}, 2.5)
    return store


@pytest.mark.parametrize("into", ["sqlite", "postgresql"])
def test_a_restored_backup_is_the_same_database(
    worked: Store, tmp_path: Path, into: str, empty_postgres: Callable[[], str]
) -> None:
    rows = backup(worked, tmp_path / "backup")
    url = empty_postgres() if into == "postgresql" else file_url(tmp_path / "restored.db")
    assert restore(url, tmp_path / "backup") == rows == sum(1 for _ in dump(worked))
    found = open_store(url)
    assert list(dump(found)) == list(dump(worked))
    assert check(found) == []
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), found.write() as tx:
        tx.execute(actions.delete())
    found.close()


def test_a_backup_made_while_others_write_is_of_one_moment(store: Store, made: Made, tmp_path: Path) -> None:
    made.filled(count=400, k=2)
    labelers = made.crowd(4)
    stop = threading.Event()

    def work(labeler: str) -> None:
        while not stop.is_set() and made.answer(labeler):
            pass

    threads = [threading.Thread(target=work, args=(labeler,)) for labeler in labelers]
    for thread in threads:
        thread.start()
    try:
        for number in range(3):
            backup(store, tmp_path / f"backup-{number}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    answered = []
    for number in range(3):
        url = f"sqlite:///{tmp_path / f'restored-{number}.db'}"
        restore(url, tmp_path / f"backup-{number}")
        found = open_store(url)
        assert check(found) == []
        with found.read() as tx:
            answered.append(tx.execute(sa.text("SELECT count(*) FROM answer")).scalar_one())
        found.close()
    assert answered == sorted(answered) and answered[0] < len(made.answers())


def test_a_backup_overwrites_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("words")
    with pytest.raises(UserError, match="never overwrites"):
        backup(store, tmp_path / "precious")
    assert (tmp_path / "precious").read_text() == "words"


def test_a_backup_that_cannot_be_written_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="cannot be written"):
        backup(store, tmp_path / "file" / "backup")
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_a_restore_overwrites_nothing(worked: Store, database: str, tmp_path: Path) -> None:
    before = list(dump(worked))
    backup(worked, tmp_path / "backup")
    with pytest.raises(UserError, match="is not empty"):
        restore(database, tmp_path / "backup")
    assert list(dump(worked)) == before


FORM = b'{"table": "form", "number": 1, "body": {}, "created": 0.0}\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a backup"),
        (b"words\n", "not a backup"),
        (b"[]\n", "not a backup"),
        (b"\xff\xfe\x00", "not a backup"),
        (b'{"studio": 1, "schema": "9999"}\n', "newer Tutelage"),
        (b'{"studio": 1, "schema": "0001"}\nwords\n', "line 2 is not a row"),
        (b'{"studio": 1, "schema": "0001"}\n{"table": "elephant"}\n', "unknown table 'elephant'"),
        (b'{"studio": 1, "schema": "0001"}\n{"table": "prompt", "trunk": "a"}\n', "not have the columns of 'prompt'"),
        (b'{"studio": 1, "schema": "0001"}\n' + 2 * FORM, "its rows do not fit"),
    ],
)
def test_what_is_no_backup_is_refused_in_one_line(
    content: bytes, said: str, tmp_path: Path, empty_database: Callable[[], str]
) -> None:
    (tmp_path / "backup").write_bytes(content)
    url = empty_database()
    with pytest.raises(UserError, match=said) as caught:
        restore(url, tmp_path / "backup", unverified=True)
    assert "\n" not in str(caught.value)


def test_a_foreign_or_broken_database_is_no_backup(tmp_path: Path, migrated_file: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "foreign")) as other:
        other.execute("CREATE TABLE elephant (trunk)")
    (tmp_path / "broken").write_bytes(migrated_file.read_bytes()[:20_000])
    for name in ("foreign", "broken"):
        target = tmp_path / f"{name}-restored.db"
        with pytest.raises(UserError):
            restore(f"sqlite:///{target}", tmp_path / name)
        opened = open_store(f"sqlite:///{target}")
        assert check(opened) == [], "the target is still a good, empty database"
        opened.close()
    with pytest.raises(UserError, match="no such backup"):
        restore(f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "nothing")
