"""Backups that are not whole, restores into what somebody has open, and folders of any name."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from made_studio import Made

from tutelage.records import UserError
from tutelage.studio import backup as backup_module
from tutelage.studio import locks
from tutelage.studio.backup import backup, dump, restore
from tutelage.studio.check import check
from tutelage.studio.schema import HEAD, items
from tutelage.studio.store import Store, connect, file_url, open_store, url_of


def cut(content: bytes) -> bytes:
    return content[: len(content) * 6 // 10]


def without_its_end(content: bytes) -> bytes:
    return content[: content.rstrip(b"\n").rindex(b"\n") + 1]


def with_another_word(content: bytes) -> bytes:
    assert content.count(b"the sea is wide") > 1
    return content.replace(b"the sea is wide", b"the sea is deep", 1)


def with_more_behind(content: bytes) -> bytes:
    return content + b'{"table": "form"}\n'


def not_utf8(content: bytes) -> bytes:
    at = content.index(b"\n", len(content) // 2) + 1
    return content[:at] + b"\xff\xfe\n" + content[at:]


def without_rows(content: bytes) -> bytes:
    return content[: content.index(b"\n") + 1]


def without_a_row(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(lines[:9] + lines[10:])


def flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE = (cut, without_its_end, with_another_word, with_more_behind, not_utf8, without_rows, without_a_row)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_lines_that_were_cut_or_altered_are_refused_before_anything_is_written(
    damage: Callable[[bytes], bytes], lines_backup: bytes, tmp_path: Path
) -> None:
    (tmp_path / "backup").write_bytes(damage(lines_backup))
    with pytest.raises(UserError, match=r"is cut off after \d+ of \d+ rows|has changed since it was written") as caught:
        restore(file_url(tmp_path / "new" / "studio.db"), tmp_path / "backup")
    assert "\n" not in str(caught.value) and "--unverified" in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def lines_backup(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> bytes:
    """A backup as lines, of a studio in which somebody ranked."""
    folder = tmp_path_factory.mktemp("lines")
    shutil.copy(migrated_file, folder / "studio.db")
    with contextlib.closing(open_store(url_of(folder))) as store:
        made = Made(store)
        made.filled(count=3)
        made.answer(made.crowd(1)[0])
        assert backup_module._write_lines(store, folder / "backup") > 20
    return (folder / "backup").read_bytes()


def test_lines_of_an_earlier_version_are_restored_only_when_that_is_said(lines_backup: bytes, tmp_path: Path) -> None:
    head = json.dumps({"studio": 1, "schema": HEAD}) + "\n"
    old = head.encode() + without_its_end(lines_backup).split(b"\n", 1)[1]
    (tmp_path / "backup").write_bytes(old)
    with pytest.raises(UserError, match=r"do not say where they end.*--unverified"):
        restore(file_url(tmp_path / "studio.db"), tmp_path / "backup")
    assert restore(file_url(tmp_path / "studio.db"), tmp_path / "backup", unverified=True) == old.count(b"\n") - 1


def test_a_sqlite_backup_that_was_cut_or_altered_is_refused(lines_backup: bytes, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(lines_backup)
    restore(url_of(tmp_path), tmp_path / "lines")
    with contextlib.closing(open_store(url_of(tmp_path))) as store:
        backup(store, tmp_path / "backup")
    whole = (tmp_path / "backup").read_bytes()
    with contextlib.closing(sqlite3.connect(tmp_path / "backup")) as found:  # still a database to everybody else
        assert found.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for number, damage in enumerate((cut, with_another_word, flipped)):
        (tmp_path / "damaged").write_bytes(damage(whole))
        folder = tmp_path / f"new-{number}"
        folder.mkdir()
        with pytest.raises(UserError) as caught:
            restore(url_of(folder), tmp_path / "damaged")
        assert "\n" not in str(caught.value) and not (folder / "studio.db").exists()


def test_two_backups_to_one_place_leave_each_other_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "copy.partial").write_text("mine")
    backup(store, tmp_path / "copy")
    assert (tmp_path / "copy.partial").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir() if "copy" in p.name) == ["copy", "copy.partial"]


# ---- a restore is alone ------------------------------------------------------------------------------------------


def test_nothing_is_restored_into_a_studio_that_runs(
    lines_backup: bytes, empty_database: Callable[[], str], tmp_path: Path
) -> None:
    """An empty one too: its first account may be made at any moment."""
    (tmp_path / "backup").write_bytes(lines_backup)
    url = empty_database()
    running = open_store(url)
    made = Made(running)
    with pytest.raises(UserError, match="is open in a running studio or another command; stop it, then restore"):
        restore(url, tmp_path / "backup")
    if not running.sqlite:  # connections that the server ended are made again, and say again that they are here
        engine = connect(url, shared=False)
        with engine.connect() as tx:
            tx.execute(sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
        engine.dispose()
        with contextlib.suppress(UserError), running.read() as tx:
            tx.execute(sa.select(items)).all()
        with running.read() as tx:
            tx.execute(sa.select(items)).all()
        with pytest.raises(UserError, match="is open in a running studio"):
            restore(url, tmp_path / "backup")
    made.account("admin", name="early")
    with pytest.raises(UserError, match="is not empty"):
        restore(url, tmp_path / "backup")
    assert made.account("labeler").id, "it works on"
    running.close()


def test_nobody_opens_a_studio_while_a_backup_is_restored_into_it(
    lines_backup: bytes, empty_database: Callable[[], str], tmp_path: Path
) -> None:
    (tmp_path / "backup").write_bytes(lines_backup)
    url = empty_database()
    with locks.alone(connect(url, shared=False)):
        with pytest.raises(UserError, match="a backup is being restored into it"):
            open_store(url)
        with pytest.raises(UserError, match="a backup is being restored into it"):
            restore(url, tmp_path / "backup")
    assert restore(url, tmp_path / "backup") > 20
    opened = open_store(url)
    assert check(opened) == []
    opened.close()


def test_the_lock_of_a_studio_that_was_killed_is_gone(migrated_file: Path, lines_backup: bytes, tmp_path: Path) -> None:
    (tmp_path / "backup").write_bytes(lines_backup)
    shutil.copy(migrated_file, tmp_path / "studio.db")
    code = "import sys; from pathlib import Path; from tutelage.studio.store import open_store, url_of\n"
    code += "store = open_store(url_of(Path(sys.argv[1]))); print('open', flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None and other.stdout.readline() == b"open\n"
        with pytest.raises(UserError, match="is open in a running studio"):
            restore(url_of(tmp_path), tmp_path / "backup")
        other.kill()
    assert restore(url_of(tmp_path), tmp_path / "backup") > 20


# ---- folders of any name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a?b#c", "100%41sure", "with space", "ünïcode 🦊", "quote'\"", "colon:x", "[br];&=+"])
def test_the_database_lies_in_its_folder_whatever_that_is_called(
    name: str, migrated_file: Path, tmp_path: Path
) -> None:
    folder, other = tmp_path / "in" / name, tmp_path / "in" / f"{name} other"
    folder.mkdir(parents=True), other.mkdir()
    shutil.copy(migrated_file, folder / "studio.db")
    with contextlib.closing(open_store(url_of(folder))) as store:
        Made(store).prompts(2)
        before = list(dump(store))
        backup(store, folder / f"{name}.backup")
    assert restore(url_of(other), folder / f"{name}.backup") == len(before)
    with contextlib.closing(open_store(url_of(other))) as store:
        assert list(dump(store)) == before
    found = {path.relative_to(tmp_path / "in").as_posix() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    assert found == {
        *(f"{name}/{file}" for file in ("studio.db", "studio.db.lock", f"{name}.backup")),
        *(f"{name} other/{file}" for file in ("studio.db", "studio.db.lock")),
    }
