"""A reward model for each group of labelers: trained from the newest SFT run on that group's rankings alone.

    runs/values/GROUP/      rankings.jsonl, config.json, state.json, log.txt, scores.json, reward/ (the run)
    runs/values/GROUP.next/ the same while it is being made, and pid; it takes the old one's place when it is whole

`tutelage reward` trains and `tutelage.score` scores all compared responses, each as a child process. A lock says that
one of them runs: the children hold it too, so it is true even when the studio was killed meanwhile. What was stopped
half-way, by `stop` or by a kill, goes on when it is started again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from tutelage import config, presets, roundfolder
from tutelage.records import Ranking, UserError, write_json, write_records, write_text
from tutelage.roundfolder import read_json
from tutelage.settings import RewardConfig
from tutelage.studio import rounds
from tutelage.studio.harvest import answer_ids, harvest
from tutelage.studio.project import Project
from tutelage.studio.schema import rounds as table
from tutelage.studio.store import Store

NEEDED = 12
"""Rankings of training prompts, each with an untied pair, from which a group's model is trained: fewer say nothing."""
PID = "pid"
"""The file with the process id of the child at work, there as long as it is: an id of before may be somebody else's."""
STOP = "stop"
"""The file that asks for the end: a signal may fall between two commands, or be lost while one starts."""
JUDGED = "judged"
"""The group that rankings of old against new policy get here: they are scored, and never train."""


@dataclass(frozen=True, slots=True)
class GroupModel:
    """What there is of a group's reward model. state: none, training, failed, ready."""

    group: str
    state: str
    message: str
    trained_on: int
    round: int | None
    scores: dict[str, float]


def slug(group: str) -> str:
    """A group's name as a folder's: plain letters, and a digest that keeps any two apart."""
    plain = re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-")[:32]
    return f"{plain or 'group'}-{hashlib.sha256(group.encode()).hexdigest()[:6]}"


def folder_of(project: Project, group: str) -> Path:
    """Where a group's model lies."""
    return project.runs / "values" / slug(group)


def usable(rankings: Sequence[Ranking]) -> list[Ranking]:
    """The rankings that can train: of training prompts, with at least one untied pair."""
    return [r for r in rankings if r.split == "train" and r.pairs()]


def compared(store: Store) -> dict[str, list[Ranking]]:
    """The latest rankings by group, texts included; those of old against new policy under JUDGED."""
    found: dict[str, list[Ranking]] = {}
    with store.read() as tx:
        for kind in ("compare", "judge"):
            for one in harvest(tx, answer_ids(tx, [kind])):
                if one.ranking is not None:
                    found.setdefault(JUDGED if kind == "judge" else one.ranking.group, []).append(one.ranking)
    return found


def look(project: Project, group: str) -> GroupModel:
    """What there is now."""
    folder = folder_of(project, group)
    state = read_json(folder / "state.json") or {}
    scores = (read_json(folder / "scores.json") or {}).get("scores", {})
    told = {"trained_on": int(state.get("rankings", 0)), "round": state.get("round"), "scores": scores}
    if training(project) == group:
        return GroupModel(group, "training", "", **told)
    unfinished = read_json(_next(folder) / "state.json")
    if unfinished is not None:
        why = unfinished.get("message", "it was interrupted; training again goes on where it was")
        return GroupModel(group, "failed", str(why), **told)
    return GroupModel(group, "ready" if scores else "none", "", **told)


def _next(folder: Path) -> Path:
    return folder.with_name(folder.name + ".next")


# ---- training --------------------------------------------------------------------------------------------------


_door = threading.Lock()
"""Held while the lock file is tried: looking whether it is free must not keep anybody else from taking it."""


def training(project: Project) -> str | None:
    """The group whose model is being made; None when none is."""
    path = project.runs / "values" / ".lock"
    try:
        with _door, path.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return path.read_text(encoding="utf-8")
    return None


def start(store: Store, project: Project, group: str) -> threading.Thread:
    """Begin to train and score a group's model; the thread ends with it. Raises UserError when it cannot begin."""
    by_group = compared(store)
    own = by_group.get(group, []) if group != JUDGED else []
    if len(ready := usable(own)) < NEEDED:
        raise UserError(
            f"group {group!r} has {len(ready)} rankings that can train a reward model; {NEEDED} are needed "
            "(of training prompts, with at least one untied pair)"
        )
    number = _newest(project)
    rounds.settle(store)
    with store.read() as tx:
        if tx.execute(sa.select(table.c.number).where(table.c.state.in_(rounds.RUNNING))).first():
            raise UserError("a round is being trained; wait until it ends")
    lock = _lock(project, group)
    try:
        folder = _next(folder_of(project, group)).resolve()
        rows = [dataclasses.replace(r, group=JUDGED if g == JUDGED else slug(g)) for g in by_group for r in by_group[g]]
        _prepare(folder, rows, _settings(project, number, folder, group, len(ready)))
        write_json(folder / "state.json", {"group": group, "round": number, "rankings": len(ready)})
        for left in (PID, STOP):  # of one that was stopped, or killed together with the studio
            (folder / left).unlink(missing_ok=True)
        worker = threading.Thread(target=_work, args=(folder, lock), name=f"values-{group}", daemon=True)
        worker.start()
    except BaseException:
        lock.close()
        raise
    return worker


def stop(project: Project) -> None:
    """Ask the training to stop; it goes on later from its last checkpoint. Raises UserError when none runs."""
    group = training(project)
    if group is None:
        raise UserError("no group's reward model is being trained")
    folder = _next(folder_of(project, group))
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has not begun yet, or has just ended
        (folder / STOP).touch()
        os.kill(int((folder / PID).read_text(encoding="utf-8")), signal.SIGINT)


def _newest(project: Project) -> int:
    """The newest finished round that has its SFT run still."""
    for number in reversed(roundfolder.numbers(project.folder)):
        folder = roundfolder.round_folder(project.folder, number)
        if (folder / roundfolder.FINISHED).exists() and (folder / "sft" / "model").is_dir():
            return number
    raise UserError("a group's reward model starts from an SFT run, and no round has been finished yet")


def _lock(project: Project, group: str) -> IO[str]:
    path = project.runs / "values" / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    file = path.open("r+", encoding="utf-8")  # not "w": who does not get the lock must leave its text alone
    try:
        with _door:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(f"the model of group {path.read_text(encoding='utf-8')!r} is being trained; wait") from None
    file.truncate()
    file.write(group)
    file.flush()
    return file


def _settings(project: Project, number: int, folder: Path, group: str, ranked: int) -> RewardConfig:
    """The round's own reward model with other rankings; the studio's recipe counts its passes by their number."""
    from_round = roundfolder.round_folder(project.folder, number).resolve()
    held = from_round / "reward" / "config.json"
    fields: dict[str, Any] = {}
    if held.exists():
        found = config.load(RewardConfig, held)
        fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    if project.settings.preset == "studio":
        fields |= presets.studio(0, ranked).reward
    own: dict[str, Any] = {"model": str(from_round / "sft"), "rankings": folder / "rankings.jsonl"}
    own |= {"out": folder / "reward", "drop_long": True}
    return RewardConfig(**fields | own | {"groups": (slug(group),)})


def _prepare(folder: Path, rows: Sequence[Ranking], settings: RewardConfig) -> None:
    """The folder's files; a half-way training on the very same files is kept, any other one is thrown away."""
    fresh = folder.with_name(folder.name + ".fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    write_records(fresh / "rankings.jsonl", rows)
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(settings).items()}
    write_json(fresh / "config.json", plain)
    if _kept(folder) == _kept(fresh):
        (fresh / "config.json").replace(folder / "config.json")  # where the studio is may have changed
        shutil.rmtree(fresh)
        return
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _kept(folder: Path) -> tuple[bytes, dict[str, Any]] | None:
    """What a training goes by: its rankings, and its settings with all paths as seen from the run."""
    fields = read_json(folder / "config.json")
    rankings = folder / "rankings.jsonl"
    if fields is None or not rankings.exists():
        return None
    out = str(fields["out"])
    seen = {k: os.path.relpath(v, out) if isinstance(v, str) and os.path.isabs(v) else v for k, v in fields.items()}
    return rankings.read_bytes(), seen


def _work(folder: Path, lock: IO[str]) -> None:
    """Train, score, take the old model's place; write down why not. Gives the lock back."""
    train = ["reward", "--config", str(folder / "config.json")]
    score = ["--reward", str(folder / "reward"), "--rankings", str(folder / "rankings.jsonl")]
    score += ["--out", str(folder / "scores.json")]
    with lock:
        told = read_json(folder / "state.json") or {}
        for module, words in (("tutelage.cli", train), ("tutelage.score", score)):
            done = _child([sys.executable, "-m", module, *words], folder, lock.fileno())
            if not done or (folder / STOP).exists():
                why = "stopped" if done else rounds.last_words(folder)
                write_json(folder / "state.json", told | {"message": why})
                return
        final = folder.with_name(folder.name.removesuffix(".next"))
        shutil.rmtree(final, ignore_errors=True)
        folder.rename(final)


def _child(command: list[str], folder: Path, lock: int) -> bool:
    """Run one command to its end, holding the lock; whether it did what it should. What it says goes to the log."""
    with (folder / rounds.LOG).open("ab") as said:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=(lock,))
        write_text(folder / PID, str(child.pid))
        done = child.wait()
    (folder / PID).unlink()
    return done == 0
