"""Rounds as child processes of the studio: started, watched, stopped, killed, taken in exactly once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import tinyloop
from made_studio import Made

from tutelage.records import UserError, write_json
from tutelage.studio import queue, rounds
from tutelage.studio.accounts import Account
from tutelage.studio.project import Project, open_project
from tutelage.studio.rounds import Wish
from tutelage.studio.schema import batches, items, responses
from tutelage.studio.schema import rounds as table
from tutelage.studio.store import Store, Unavailable, open_store, url_of

TinyModel = Callable[[str], Path]
PATIENCE = 240.0
"""Seconds for a child on a busy machine."""
STARTER = """
import sys
from pathlib import Path
from tutelage.studio import rounds
from tutelage.studio.accounts import Account
from tutelage.studio.project import open_project
from tutelage.studio.store import open_store
store, project = open_store(sys.argv[1]), open_project(Path(sys.argv[2]))
rounds.start(store, project, Account(sys.argv[3], "boss", "admin", ""), rounds.Wish(next_prompts=4, judge_prompts=2))
"""
WISH = Wish(next_prompts=4, judge_prompts=2)


@pytest.fixture
def boss(made: Made, store: Store) -> Iterator[Account]:
    """Who starts rounds; no child outlives the test."""
    yield made.account("admin")
    end_all(store)


def end_all(store: Store) -> None:
    """Kill what still trains."""
    for found in rounds.all_rounds(store):
        while found.pid and rounds.alive(found.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, signal.SIGKILL)
            time.sleep(0.05)


@pytest.fixture
def tiny(project: Project, tiny_model_dir: TinyModel) -> Project:
    """A studio whose model is tiny, so that a round takes seconds."""
    settings = {"name": "Tiny", "model": str(tiny_model_dir("llama")), "preset": "small", "k": 3}
    write_json(project.folder / "project.json", settings | {"max_response_tokens": 8})
    for name in ("pretraining.txt", "pretraining_heldout.txt"):
        path = project.runs / "text" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n\n".join([tinyloop.TEXT] * 16))
    return open_project(project.folder)


def written(made: Made, prompts: int = 6) -> None:
    """Prompts with a demonstration each, and three that are held out."""
    made.filled("demonstrate", prompts)
    writer = made.account()
    for _ in range(prompts):
        made.answer(writer.id, "demonstrate")
    made.prompts(3, split="test", use_case="rewrite")


def wait(store: Store, number: int, *states: str) -> rounds.Round:
    """The round when it has come into one of the states."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        rounds.settle(store)
        found = rounds.one(store, number)
        if found.state in states:
            return found
        time.sleep(0.1)
    raise AssertionError(f"still {found.state}: {rounds.log_tail(found.folder)}")


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def taken_in(store: Store) -> dict[str, list[Any]]:
    """{name: items} of the batches that rounds made."""
    with store.read() as tx:
        query = sa.select(batches).where(batches.c.name.like("Round %"))
        return {b.name: list(tx.execute(sa.select(items).where(items.c.batch_id == b.id))) for b in tx.execute(query)}


def pretend(
    store: Store, project: Project, made: Made, *, number: int = 1, state: str = "running", pid: int = 0
) -> Path:
    """A round as a studio that is gone left it: finished in its folder, still running in the database."""
    folder = project.runs / f"round-{number}"
    prompts = made.prompts(3)
    rows = [row_of(number, p, n) for n, p in enumerate(prompts)]
    folder.mkdir(parents=True)
    for name in ("next.jsonl", "judge.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(folder / "round.json", {"round": number})
    with store.write() as tx:
        row = {"number": number, "state": state, "folder": str(folder), "pid": pid, "settings": {}, "message": ""}
        tx.execute(table.insert().values(**row, started=store.clock(), ended=None))
    return folder


def row_of(number: int, prompt: str, n: int) -> dict[str, Any]:
    said = [{"id": f"{prompt}/{k}", "text": f"answer {k}\0 of {n}", "model": f"round-{number}/sft"} for k in range(3)]
    return {"prompt_id": prompt, "prompt": "?", "use_case": "chat", "spread": None, "responses": said}


# ---- with a real child -----------------------------------------------------------------------------------------


def test_a_round_runs_by_itself_and_its_answers_come_back(
    store: Store, tiny: Project, made: Made, boss: Account
) -> None:
    written(made)
    number = rounds.start(store, tiny, boss, WISH)
    found = rounds.one(store, number)
    assert (number, found.state) == (1, "running") and rounds.alive(found.folder) and found.pid
    with pytest.raises(UserError, match="round 1 is training; one round runs at a time"):
        rounds.start(store, tiny, boss, WISH)
    found = wait(store, 1, "finished", "failed")
    assert (found.state, found.message) == ("finished", "")
    made_batches = taken_in(store)
    assert set(made_batches) == {"Round 1: to rank", "Round 1: old and new, blind"}
    assert len(made_batches["Round 1: old and new, blind"]) == 2
    assert all(len(item.responses) == 2 for item in made_batches["Round 1: old and new, blind"])
    ranked = made_batches["Round 1: to rank"]
    assert 1 <= len(ranked) <= 4 and all(2 <= len(item.responses) <= 3 for item in ranked)
    assert queue.claim(store, made.account().id, "compare"), "labelers are given them"


@pytest.mark.slow
def test_killed_resumed_stopped_and_resumed_again(store: Store, tiny: Project, made: Made, boss: Account) -> None:
    written(made)
    number = rounds.start(store, tiny, boss, WISH)
    found = rounds.one(store, number)
    until(lambda: (found.folder / "sft").exists())
    os.kill(found.pid, signal.SIGKILL)
    found = wait(store, number, "failed")
    assert found.message.startswith("it ended without a word")
    rounds.resume(store, number, boss)
    until(lambda: (found.folder / "stage.json").exists() and rounds.one(store, number).pid != found.pid)
    rounds.stop(store, number, boss)
    assert wait(store, number, "stopped", "finished").state in ("stopped", "finished")
    if rounds.one(store, number).state == "stopped":
        rounds.resume(store, number, boss)
    assert wait(store, number, "finished", "failed").state == "finished"
    assert len(taken_in(store)) == 2


@pytest.mark.slow
def test_a_round_outlives_the_studio_that_started_it(store: Store, tiny: Project, made: Made, boss: Account) -> None:
    written(made)
    url = store.engine.url.render_as_string(hide_password=False)
    words = [sys.executable, "-c", STARTER, url, str(tiny.folder), boss.id]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rounds.alive(rounds.one(store, 1).folder)
    assert wait(store, 1, "finished", "failed").state == "finished"
    assert len(taken_in(store)) == 2


def test_what_a_child_cannot_do_is_one_line(store: Store, tiny: Project, made: Made, boss: Account) -> None:
    made.prompts(3)
    rounds.start(store, tiny, boss, WISH)
    found = wait(store, 1, "failed")
    assert found.message.endswith("no demonstration outside the test split; write some first")
    with pytest.raises(UserError, match="round 1 is not training"):
        rounds.stop(store, 1, boss)


# ---- a studio that was moved or copied -------------------------------------------------------------------------


def test_rounds_lie_where_the_studio_lies_now(store: Store, project: Project, made: Made) -> None:
    """Databases of earlier versions hold the path of the place where a round was started."""
    folder = pretend(store, project, made, state="finished")
    (folder / "report.html").write_text("a report")
    project.folder.rename(project.folder.with_name("moved"))
    store.folder = project.folder.with_name("moved")
    found = rounds.one(store, 1)
    assert found.folder == store.folder / "runs" / "round-1" and (found.folder / "report.html").is_file()


def test_a_copied_studio_never_trains_in_the_original(tmp_path: Path, tiny: Project, migrated_file: Path) -> None:
    """Its round was started by an earlier version: the database and config.json name the original."""
    shutil.copy(migrated_file, tiny.folder / "studio.db")
    with contextlib.closing(open_store(url_of(tiny.folder))) as store:
        made = Made(store)
        boss = made.account("admin")
        written(made)
        folder = pretend(store, tiny, made, state="stopped")
        (folder / "round.json").unlink()
        write_json(folder / "config.json", {"folder": str(tiny.folder), "number": 1, "judge_prompts": 2})
    copy = tmp_path / "copy"
    shutil.copytree(tiny.folder, copy)
    before = {path: path.stat().st_mtime_ns for path in tiny.folder.rglob("*")}
    with contextlib.closing(open_store(url_of(copy))) as store:
        rounds.resume(store, 1, boss)
        try:
            until(lambda: (copy / "runs" / "round-1" / "sft" / "run.json").exists())
        finally:
            end_all(store)
    assert {path: path.stat().st_mtime_ns for path in tiny.folder.rglob("*")} == before


# ---- from what is on the disk ----------------------------------------------------------------------------------


def test_a_finished_round_is_taken_in_once_whoever_looks(store: Store, project: Project, made: Made) -> None:
    pretend(store, project, made)
    with ThreadPoolExecutor(8) as crowd:
        for done in [crowd.submit(rounds.settle, store) for _ in range(16)]:
            done.result()
    rounds.settle(store)
    assert {name: len(rows) for name, rows in taken_in(store).items()} == {
        "Round 1: to rank": 3,
        "Round 1: old and new, blind": 3,
    }
    found = rounds.one(store, 1)
    assert found.state == "finished" and set(found.settings["batches"]) == {"compare", "judge"}
    with store.read() as tx:
        assert not [t for t in tx.execute(sa.select(responses.c.text)).scalars() if "\0" in t]


def test_a_round_that_was_told_to_stop_but_had_finished_is_finished(store: Store, project: Project, made: Made) -> None:
    pretend(store, project, made, state="stopping")
    rounds.settle(store)
    assert rounds.one(store, 1).state == "finished"


@pytest.mark.parametrize(
    ("line", "problem"), [("{}", "line 1"), ("not json", "line 1"), ('{"prompt_id": "x"}', "line 1")]
)
def test_damaged_answers_are_named_and_nothing_is_half_taken_in(
    store: Store, project: Project, made: Made, line: str, problem: str
) -> None:
    folder = pretend(store, project, made)
    (folder / "judge.jsonl").write_text(line + "\n")
    rounds.settle(store)
    found = rounds.one(store, 1)
    assert found.state == "failed" and problem in found.message and "judge.jsonl" in found.message
    assert taken_in(store) == {}


def test_answers_all_alike_leave_nothing_to_rank(store: Store, project: Project, made: Made) -> None:
    folder = pretend(store, project, made)
    row = row_of(1, made.prompts(1)[0], 0)
    for said in row["responses"]:
        said["text"] = "the same"
    (folder / "next.jsonl").write_text(json.dumps(row) + "\n")
    rounds.settle(store)
    assert set(taken_in(store)) == {"Round 1: old and new, blind"}


def test_answers_of_another_policy_take_the_place_of_those_that_wait(
    store: Store, project: Project, made: Made
) -> None:
    folder = pretend(store, project, made)
    rounds.settle(store)
    before = rounds.one(store, 1).settings["batches"]
    rows = [json.loads(line) for line in (folder / "next.jsonl").read_text().splitlines()]
    for row in rows:
        for said in row["responses"]:
            said |= {"id": said["id"] + "-old", "text": "the old one: " + said["text"], "model": "base"}
    (folder / "next.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with store.write() as tx:
        tx.execute(table.update().values(state="running"))
    rounds.settle(store)
    after = rounds.one(store, 1).settings["batches"]
    assert after["judge"] == before["judge"] and after["compare"] != before["compare"]
    with store.read() as tx:
        opened = {row.id: row.open for row in tx.execute(sa.select(batches.c.id, batches.c.open))}
    assert opened == {before["compare"]: False, after["compare"]: True, before["judge"]: True}


def test_a_name_that_is_taken_is_no_obstacle(store: Store, project: Project, made: Made) -> None:
    made.batch(name="Round 1: to rank")
    pretend(store, project, made)
    rounds.settle(store)
    assert "Round 1: to rank (2)" in taken_in(store)


def test_a_reused_process_id_is_never_taken_for_the_round(
    store: Store, project: Project, made: Made, boss: Account
) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        folder = pretend(store, project, made, pid=stranger.pid)
        (folder / "round.json").unlink()
        rounds.stop(store, 1, boss)
        rounds.settle(store)
        assert rounds.one(store, 1).state == "stopped"
        assert stranger.poll() is None
        stranger.kill()


def test_of_many_who_press_the_button_one_starts_a_round(
    store: Store, project: Project, made: Made, boss: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    monkeypatch.setattr(rounds, "_launch", lambda store, number, folder, lock: started.append(number))
    together = threading.Barrier(6)

    def press() -> str:
        together.wait()
        try:
            rounds.start(store, project, boss, WISH)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(6) as crowd:
        said = [one.result() for one in [crowd.submit(press) for _ in range(6)]]
    assert started == [1] and said.count("") == 1
    assert all("round 1" in s or "another" in s or "round-1" in s for s in said if s)


def test_a_folder_that_cannot_be_written_is_one_line(store: Store, project: Project, boss: Account) -> None:
    project.runs.write_text("a file where the runs' folder would be")
    with pytest.raises(UserError, match="round-1: cannot be written"):
        rounds.start(store, project, boss, WISH)
    assert rounds.all_rounds(store) == []


def test_only_the_latest_stopped_round_goes_on(store: Store, project: Project, made: Made, boss: Account) -> None:
    for number in (1, 2):
        pretend(store, project, made, number=number, state="stopped")
    with pytest.raises(UserError, match="only the latest round"):
        rounds.resume(store, 1, boss)
    with pytest.raises(UserError, match="there is no round 7"):
        rounds.resume(store, 7, boss)


def test_the_watcher_books_the_end_though_nobody_looks(
    store: Store, project: Project, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "EVERY", 0.01)
    pretend(store, project, made)
    ended = threading.Event()
    watching = rounds.watch(store, ended)
    until(lambda: rounds.one(store, 1).state == "finished")
    ended.set()
    watching.join(PATIENCE)
    assert not watching.is_alive()


def test_the_watcher_goes_on_when_the_database_was_away(
    store: Store, project: Project, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "EVERY", 0.01)
    pretend(store, project, made)
    looks, look = [], rounds.settle

    def settle(store: Store) -> None:
        looks.append(store)
        if len(looks) < 3:
            raise Unavailable("the database cannot be used just now")
        look(store)

    monkeypatch.setattr(rounds, "settle", settle)
    ended = threading.Event()
    watching = rounds.watch(store, ended)
    until(lambda: rounds.one(store, 1).state == "finished")
    ended.set()
    watching.join(PATIENCE)
