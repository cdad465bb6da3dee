"""The studio on the command line: exit codes, one-line errors, and a server that starts and stops as it says."""

from __future__ import annotations

import http.client
import io
import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from made_server import Server, free_port, running
from made_studio import PASSWORD, Made

from tutelage import cli
from tutelage.studio import accounts, server
from tutelage.studio.commands import StudioWords
from tutelage.studio.project import Project
from tutelage.studio.store import Store, open_store, url_of

COMMANDS = ("init", "studio", "account", "backup", "restore", "check", "export")


def says(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> str:
    """What a command prints; errors must be one line on the error output."""
    assert cli.main([str(word) for word in words]) == code
    out, err = capsys.readouterr()
    if code == 2:
        assert out == "" and err.startswith("tutelage: ") and err.count("\n") == 1
    return out + err


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A studio's folder, just made."""
    assert cli.main(["init", str(tmp_path / "s"), "--name", "Harbour"]) == 0
    return tmp_path / "s"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_neither_the_database_nor_torch(name: str) -> None:
    code = (
        "import sys, tutelage.cli\n"
        "try: tutelage.cli.main([sys.argv[1], '--help'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sorted({'sqlalchemy', 'fastapi', 'torch', 'alembic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True)
    assert "--folder" in done.stdout and done.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize("name", COMMANDS[1:])
def test_a_missing_extra_is_one_line(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for m in sys.modules if m.startswith("tutelage.studio.")]:
        if module != "tutelage.studio.commands":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    capsys.readouterr()
    bare = {"account": ["anna"], "backup": ["b"], "restore": ["b"], "export": ["o"]}.get(name, [])
    assert "the studio needs the extra 'studio'" in says(capsys, name, folder, *bare, code=2)


def test_init_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"tutelage studio {tmp_path / 'a'}" in says(capsys, "init", tmp_path / "a", "--from", "support")
    assert (tmp_path / "a" / "prompts.jsonl").exists()
    assert "is a studio already" in says(capsys, "init", tmp_path / "a", code=2)
    assert "ten use cases" in says(capsys, "init", tmp_path / "b", "--from=instructions")
    (tmp_path / "file").write_text("")
    says(capsys, "init", tmp_path / "file", code=2)


@pytest.mark.parametrize("name", COMMANDS[1:])
def test_a_folder_that_is_no_studio_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = {"account": ["anna"], "backup": ["b"], "restore": ["b"], "export": ["o"]}.get(name, [])
    assert "tutelage init" in says(capsys, name, tmp_path, *bare, code=2)
    assert list(tmp_path.iterdir()) == [], "and nothing is made there"


# ---- account ---------------------------------------------------------------------------------------------------


def test_an_account_is_made_from_a_line_of_input(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    typed(monkeypatch, PASSWORD + "\n")
    assert says(capsys, "account", folder, "Anna", "--role", "admin") == "Anna: admin, group training\n"
    typed(monkeypatch, PASSWORD + "\n")
    assert "--reset gives it a new password" in says(capsys, "account", folder, "anna", code=2)
    typed(monkeypatch, "another good one\n")
    assert "new password" in says(capsys, "account", folder, "anna", "--reset")
    store = open_store(url_of(folder))
    assert accounts.login(store, "Anna", "another good one") is not None
    assert accounts.login(store, "Anna", PASSWORD) is None
    store.close()


@pytest.mark.parametrize(
    ("words", "line", "said"),
    [
        (["otto"], "short\n", "at least 10 characters"),
        (["otto"], "", "at least 10 characters"),
        (["otto", "--role", "king"], PASSWORD, "invalid choice"),
        (["otto", "--reset"], PASSWORD, "there is no account 'otto'"),
        (["otto", "--team", "x" * 65], PASSWORD, "at most 64"),
        ([], PASSWORD, "name"),
    ],
)
def test_accounts_that_cannot_be_made(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    line: str,
    said: str,
) -> None:
    capsys.readouterr()
    typed(monkeypatch, line)
    assert said in says(capsys, "account", folder, *words, code=2)


def test_a_password_typed_in_a_terminal_is_not_shown(folder: Path) -> None:
    mine, theirs = pty.openpty()
    words = [sys.executable, "-m", "tutelage.cli", "account", str(folder), "Anna", "--role", "admin"]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown = b""
        answers = [b"password: ", b"again: "]
        while True:
            try:
                piece = os.read(mine, 1000)
            except OSError:  # the terminal is closed
                break
            if not piece:
                break
            shown += piece
            if answers and shown.endswith(answers[0]):
                answers.pop(0)
                os.write(mine, PASSWORD.encode() + b"\n")
    os.close(mine)
    assert process.returncode == 0, shown
    assert b"Anna: admin" in shown and PASSWORD.encode() not in shown


# ---- backup, restore, check, export ----------------------------------------------------------------------------


def test_there_and_back_again(
    project: Project, store: Store, made: Made, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.filled(count=3)
    made.answer(made.crowd(1)[0])
    there = ("--database", database)
    assert says(capsys, "check", project.folder, *there) == "the database is sound\n"
    assert " rows\n" in says(capsys, "backup", project.folder, tmp_path / "copy", *there)
    assert "never overwrites" in says(capsys, "backup", project.folder, tmp_path / "copy", *there, code=2)
    assert "is not empty" in says(capsys, "restore", project.folder, tmp_path / "copy", *there, code=2)
    assert " rows restored\n" in says(capsys, "restore", project.folder, tmp_path / "copy")  # into the folder's file
    assert says(capsys, "check", project.folder) == "the database is sound\n"
    counts = json.loads(says(capsys, "export", project.folder, tmp_path / "out", "--labels", "all"))
    assert (counts["rankings"], counts["prompts"]) == (1, 3)
    assert (tmp_path / "out" / "README.md").exists()


def test_check_lists_what_is_wrong_and_fails(
    project: Project, store: Store, made: Made, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made.filled()
    with store.write() as tx:
        tx.exec_driver_sql("UPDATE item SET held = 1")
    assert "its counters say 1 held" in says(capsys, "check", project.folder, "--database", database, code=1)


# ---- studio ----------------------------------------------------------------------------------------------------


def page(port: int, path: str = "/login") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_the_studio_starts_says_where_it_is_and_stops(folder: Path) -> None:
    studio = Server(folder, "")
    try:
        status, text = page(studio.port, studio.setup.partition(str(studio.port))[2])
        assert status == 200 and "Harbour" in text
        code, said = studio.stop()
    finally:
        studio.process.kill()
    assert code == 0, said
    first, second, third = said.splitlines()
    assert first.startswith(f"the studio is at http://localhost:{studio.port}   (Ctrl-C stops it")
    assert second.startswith("first: make your account, then bring prompts in.")
    assert third.startswith(f"http://localhost:{studio.port}/setup?token=")


def test_two_studios_find_ports_of_their_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    monkeypatch.setattr(server, "FIRST_PORT", first)
    monkeypatch.setattr(server, "LAST_PORT", first + 20)
    with server._listen("127.0.0.1", 0) as one, server._listen("127.0.0.1", 0) as two:
        assert one.getsockname()[1] == first < two.getsockname()[1]


def test_a_port_in_use_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = says(capsys, "studio", folder, "--no-browser", "--port", port, code=2)
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "ports are 1 to 65535"),
        (["--port", "-1"], "ports are 1 to 65535"),
        (["--port", "many"], "port"),
        (["--host", "0.0.0.0"], "there is no admin yet"),
        (["--host", "not.a.host.example.invalid"], "there is no admin yet"),
        (["--database", "mysql://x/y"], "mysql is not supported"),
    ],
)
def test_words_that_start_no_studio(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    capsys.readouterr()
    assert said in says(capsys, "studio", folder, "--no-browser", *words, code=2)


def test_the_defaults_are_this_machine_only() -> None:
    words = StudioWords(folder=Path("x"))
    assert (words.host, words.port, words.database) == ("127.0.0.1", 0, "")


def test_a_studio_serves_from_either_database(project: Project, store: Store, made: Made, database: str) -> None:
    made.account("admin")
    with running(project.folder, database) as studio:
        assert page(studio.port)[0] == 200


def test_answers_do_not_wait_for_more_to_send(folder: Path) -> None:
    """Where TCP_NODELAY is off, a body that follows its headers waits for the reader's delayed acknowledgement."""
    with server._listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP, "asyncio sets TCP_NODELAY on sockets that say they are TCP only"
