"""Rounds: training as a child process that outlives the browser and the studio, and what comes back from it.

`tutelage round` runs in a session of its own. It holds an open, locked file from before it starts until it ends, so
that whether it lives is known from the lock alone: after a restart of the studio, and whoever got its process id since.
One round runs at a time. One that has a question (question.json) waits, without a process, until a person has decided.
What it prints goes to log.txt; what it leaves in next.jsonl and judge.jsonl becomes a batch
to rank and a batch to judge, in the transaction that says the round is finished, so exactly once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row
from sqlalchemy.exc import IntegrityError

from tutelage import roundfolder
from tutelage.records import Response, UserError, from_dict, read_rows, write_json
from tutelage.settings import RoundConfig
from tutelage.studio import batches, queue
from tutelage.studio.accounts import Account
from tutelage.studio.export import write_round_data
from tutelage.studio.filing import free_name
from tutelage.studio.places import log, one_at_a_time
from tutelage.studio.project import Project
from tutelage.studio.schema import batches as table
from tutelage.studio.schema import rounds
from tutelage.studio.store import Store, Unavailable

RUNNING = ("running", "stopping")
CHOICES = ("accept_weak_reward", "collect_more")
"""What can be decided on a round whose reward model is not shown to be better than guessing."""
ALIVE, LOG, CONFIG = ".alive", "log.txt", "config.json"
GRACE = 20.0
"""Seconds between asking a round to stop and ending it: it repeats what it did since its last checkpoint."""
EVERY = 2.0
"""Seconds between looks at a running round."""
TAIL = 16_384  # bytes of the log that are read


@dataclass(frozen=True, slots=True)
class Wish:
    """What the one who starts a round chooses. overlap: labelers per prompt of the batches that follow."""

    groups: tuple[str, ...] = ()
    k: int = 0
    next_prompts: int = 30
    judge_prompts: int = 12
    overlap: int = 1


@dataclass(frozen=True, slots=True)
class Round:
    """A round as the database has it."""

    number: int
    state: str
    folder: Path
    pid: int
    settings: dict[str, Any]
    message: str
    started: float
    ended: float | None

    @property
    def running(self) -> bool:
        """Whether it trains, or is being stopped."""
        return self.state in RUNNING


def _round(store: Store, row: Row[Any]) -> Round:
    # Its folder follows from the studio's: the column may hold where the studio was before it was moved or copied.
    folder = roundfolder.round_folder(store.folder.resolve(), row.number)
    return Round(row.number, row.state, folder, row.pid, row.settings, row.message, row.started, row.ended)


def all_rounds(store: Store) -> list[Round]:
    """Every round, the newest first."""
    with store.read() as tx:
        return [_round(store, row) for row in tx.execute(sa.select(rounds).order_by(rounds.c.number.desc()))]


def one(store: Store, number: int) -> Round:
    """A round. Raises UserError when there is none."""
    found = next((r for r in all_rounds(store) if r.number == number), None)
    if found is None:
        raise UserError(f"there is no round {number}")
    return found


# ---- starting --------------------------------------------------------------------------------------------------


def start(store: Store, project: Project, by: Account, wish: Wish) -> int:
    """Start the next round; returns its number. Raises UserError when one runs, or its data cannot be written."""
    with store.read() as tx:
        _none_runs(tx)  # asked again below, where nobody can come between; here, before a folder is made
    number = _following(store, project)
    folder = roundfolder.round_folder(project.folder.resolve(), number)
    fields = dataclasses.asdict(wish)
    overlap = fields.pop("overlap")
    config = RoundConfig(folder=Path(), number=number, **fields)  # the folder is said at each launch, see `_launch`
    if not 1 <= overlap <= queue.MOST:
        raise UserError(f"labelers per prompt is {overlap}; expected 1 to {queue.MOST}")
    with _alive_lock(folder) as lock:
        try:
            with store.write() as tx:
                one_at_a_time(tx)
                _none_runs(tx)
                now = store.clock()
                row = {"number": number, "state": "running", "folder": f"runs/{folder.name}", "pid": 0, "message": ""}
                row |= {"settings": fields | {"overlap": overlap}, "started": now, "ended": None}
                tx.execute(rounds.insert().values(**row))
                log(tx, now, by.id, "round", str(number), step="start")
        except IntegrityError:
            raise UserError("another round was started a moment ago") from None
        write_json(folder / CONFIG, json.loads(json.dumps(dataclasses.asdict(config), default=str)))
        _launch(store, number, folder, lock)
    return number


def _following(store: Store, project: Project) -> int:
    """The next round's number: after all in the database, and after those trained here by hand."""
    by_hand = (n for n in roundfolder.numbers(project.folder) if _data(project, n).is_dir())
    return max([0, *(r.number for r in all_rounds(store)), *by_hand]) + 1


def _data(project: Project, number: int) -> Path:
    return roundfolder.round_folder(project.folder, number) / "data"


def resume(store: Store, number: int, by: Account) -> None:
    """Go on with a round that was stopped or failed. Raises UserError for any other."""
    again(store, number, by, ("stopped", "failed"), "resume", {})


def decide(store: Store, number: int, by: Account, choice: str) -> None:
    """Go on with a round that waits: to PPO all the same, or without it. The choice is one of `CHOICES` and stays, so
    that a stop later asks nothing again. Raises UserError for a round that does not wait."""
    if choice not in CHOICES:
        raise UserError(f"no choice {choice!r}; one of {', '.join(CHOICES)}")
    again(store, number, by, ("waiting",), choice, {name: name == choice for name in CHOICES})


def again(store: Store, number: int, by: Account, states: tuple[str, ...], step: str, changes: dict[str, Any]) -> None:
    """Start the process of a round once more, with changes to its config."""
    found = one(store, number)
    if found.state not in states or number != all_rounds(store)[0].number:
        raise UserError(f"round {number} is {found.state}; only the latest round, {' or '.join(states)}, can go on")
    with _alive_lock(found.folder) as lock:
        with store.write() as tx:
            one_at_a_time(tx)
            _none_runs(tx)
            state = tx.execute(sa.select(rounds.c.state).where(rounds.c.number == number)).scalar_one()
            if state not in states:
                raise UserError(f"round {number} is {state} meanwhile")
            now = store.clock()
            tx.execute(_of(number).values(state="running", message="", ended=None))
            log(tx, now, by.id, "round", str(number), step=step)
        if changes:
            write_json(found.folder / CONFIG, (roundfolder.read_json(found.folder / CONFIG) or {}) | changes)
        _launch(store, number, found.folder, lock)


def _launch(store: Store, number: int, folder: Path, lock: int) -> None:
    """Write the round's data, unless it has them, and start the child. What goes wrong is the round's message."""
    try:
        if not (folder / "data" / "rankings.jsonl").exists():
            write_round_data(store, folder / "data")
        # The settings do not say where the studio is: it may have been moved or copied since they were written.
        studio = str(folder.parent.parent)
        command = [sys.executable, "-m", "tutelage.cli", "round", "--config", str(folder / CONFIG), "--folder", studio]
        with (folder / LOG).open("ab") as said:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True, pass_fds=(lock,)
            )
    except (UserError, OSError) as error:
        with store.write() as tx:
            tx.execute(_of(number).values(state="failed", message=str(error), ended=store.clock()))
        raise UserError(f"round {number} could not be started: {error}") from None
    threading.Thread(target=child.wait, name=f"round-{number}", daemon=True).start()  # else it ends as a zombie
    with store.write() as tx:
        tx.execute(_of(number).values(pid=child.pid))


def _none_runs(tx: Connection) -> None:
    """Raise UserError when a round runs."""
    busy = tx.execute(sa.select(rounds.c.number).where(rounds.c.state.in_(RUNNING))).scalars().first()
    if busy is not None:
        raise UserError(f"round {busy} is training; one round runs at a time")


def _of(number: int) -> sa.Update:
    return rounds.update().where(rounds.c.number == number)


# ---- whether it lives ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alive_lock(folder: Path) -> Iterator[int]:
    """The round's lock, as a file descriptor that the child takes over; given up here at the end of the block."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ALIVE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None
    try:
        for _ in range(50):  # somebody may just be looking whether it is held
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.02)
        else:
            raise UserError(f"{folder.name} is being trained by another process")
        yield lock
    finally:
        os.close(lock)


def alive(folder: Path) -> bool:
    """Whether the round's process lives."""
    try:
        lock = os.open(folder / ALIVE, os.O_RDWR)
    except OSError:  # its folder was removed
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def stop(store: Store, number: int, by: Account) -> None:
    """Ask a round to stop; it can go on later from its last checkpoint. Raises UserError when it does not run."""
    with store.write() as tx:
        found = tx.execute(sa.select(rounds).where(rounds.c.number == number).with_for_update()).first()
        if found is None or found.state not in RUNNING:
            raise UserError(f"round {number} is not training")
        # While it is stopping, `ended` is when it was asked to.
        tx.execute(_of(number).values(state="stopping", ended=store.clock()))
        log(tx, store.clock(), by.id, "round", str(number), step="stop")
    _signal(_round(store, found), signal.SIGINT if found.state == "running" else signal.SIGTERM)


def _signal(found: Round, sign: signal.Signals) -> None:
    if found.pid and alive(found.folder):  # the lock says that the id is still our child's
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, sign)


# ---- watching --------------------------------------------------------------------------------------------------


def settle(store: Store) -> None:
    """Bring the database to what the processes and folders say: a round that ended, well or not."""
    with store.read() as tx:
        running = [_round(store, r) for r in tx.execute(sa.select(rounds).where(rounds.c.state.in_(RUNNING)))]
    for found in running:
        if not alive(found.folder):
            _close(store, found.number)
        elif found.state == "stopping" and found.ended is not None and store.clock() - found.ended > GRACE:
            _signal(found, signal.SIGTERM)


def watch(store: Store, ended: threading.Event) -> threading.Thread:
    """Settle every few seconds until `ended`, so that new work reaches the labelers though nobody has a page open."""

    def look() -> None:
        while not ended.wait(EVERY):
            with contextlib.suppress(Unavailable):  # look again
                settle(store)

    thread = threading.Thread(target=look, name="rounds", daemon=True)
    thread.start()
    return thread


def _close(store: Store, number: int) -> None:
    """Book the end of a round whose process is gone."""
    with store.write() as tx:
        one_at_a_time(tx)  # names of batches are looked for
        found = _round(store, tx.execute(sa.select(rounds).where(rounds.c.number == number).with_for_update()).one())
        if not found.running or alive(found.folder):
            return  # somebody else booked it, or started it again
        now = store.clock()
        detail: dict[str, Any] = {}
        if (told := roundfolder.read_json(found.folder / roundfolder.FINISHED)) is not None:
            said = told.get("verdict", {})
            detail = {name: said[name] for name in ("word", "keep") if name in said}
            try:
                with tx.begin_nested():
                    made = _take_in(tx, now, found)
                values: dict[str, Any] = {"state": "finished", "settings": found.settings | {"batches": made}}
            except UserError as error:
                values = {"state": "failed", "message": f"its responses could not be taken in: {error}"}
        elif question := roundfolder.read_json(found.folder / roundfolder.QUESTION):
            values = {"state": "waiting", "message": str(question.get("question", ""))}
        elif found.state == "stopping":
            values = {"state": "stopped", "message": ""}
        else:
            values = {"state": "failed", "message": last_words(found.folder)}
        tx.execute(_of(number).values(ended=now, **values))
        log(tx, now, None, "round", str(number), step=values["state"], **detail)


def _take_in(tx: Connection, now: float, found: Round) -> dict[str, str]:
    """The round's responses as batches: {"compare": id, "judge": id}, without those that have nothing to rank.

    Where it has batches already, another policy has answered what is ranked next: that one's batch takes the place of
    the old one, which is closed.
    """
    made: dict[str, str] = dict(found.settings.get("batches", {}))
    if "compare" in made:
        tx.execute(table.update().where(table.c.id == made.pop("compare")).values(open=False))
    overlap = int(found.settings.get("overlap", 1))
    for kind, file, name, mode in (
        ("compare", roundfolder.NEXT, "to rank", "helpful-first"),
        ("judge", roundfolder.JUDGE, "old and new, blind", "truthful-first"),
    ):
        if kind in made:
            continue
        entries = batches.worth_ranking(read_items(found.folder / file), kind)
        if entries:
            title = free_name(tx, f"Round {found.number}: {name}")
            terms = batches.Terms(mode, overlap, "", found.number)  # the newest first
            made[kind] = batches.file_compare(tx, now, title, entries, kind=kind, terms=terms)
    return made


def read_items(path: Path) -> list[tuple[str, list[Response]]]:
    """(prompt id, responses) of next.jsonl or judge.jsonl. Raises UserError naming file and line."""
    found = []
    for number, row in read_rows(path):
        try:
            said = [from_dict(Response, r) for r in row["responses"]]
            # No database keeps NUL characters, and a model may say anything.
            said = [dataclasses.replace(r, text=r.text.replace("\0", "")) for r in said]
            found.append((str(row["prompt_id"]), said))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number}: damaged ({error})") from None
    return found


def log_tail(folder: Path, lines: int = 12) -> list[str]:
    """The end of what the round printed."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]


def last_words(folder: Path) -> str:
    """Why a round failed: the one line it ended with, or that it said nothing."""
    tail = log_tail(folder)
    if tail and tail[-1].startswith("tutelage: "):
        return tail[-1].removeprefix("tutelage: ")
    if any(line.startswith("Traceback") for line in tail):
        return f"an error in the program: {tail[-1]}"
    said = f"; its log ends with: {tail[-1].strip()}" if tail else ""
    return f"it ended without a word: killed, out of memory, or the machine went down{said}"
