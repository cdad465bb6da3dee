"""Run: the one artefact folder every stage writes and reads. No torch here.

run.json        kind, status, command, version, seed, parents, packages, machine, what it was computed on; finished flag
                and the digests of all files written last
config.json     every resolved field
metrics.jsonl   append only (docs/metrics.md); resuming cuts back what came after the checkpoint, so that a killed
samples.jsonl   and resumed run ends with the same bytes as an uninterrupted one
timings.jsonl   seconds, kept apart because no two runs share them
model/ checkpoints/ and records, where the product is data

One process works in a run folder at a time (`lock.py`). What is read again, a checkpoint or a finished run's files,
must have the digest it was written with (`integrity.py`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from tutelage import __version__
from tutelage.environment import continued, packages, processor
from tutelage.integrity import GrowingDigest, broken, broken_seal, digest, digests, seal
from tutelage.lock import LOCK, give_back, take
from tutelage.records import UserError, write_json, write_text

LOGS = ("metrics.jsonl", "samples.jsonl")
KEPT_CHECKPOINTS = 1
RECORD: dict[str, Any] = {"kind": str, "finished": bool, "status": str, "parents": dict, "seconds": int | float}
RECORD |= {"result": dict, "files": dict, "computed_on": list}  # what run.json must hold, and may hold:
OPTIONAL: dict[str, Any] = {"seconds": 0.0, "result": {}, "files": {}, "computed_on": []}
FIRST = ("run.json", ".run.json.", "config.json", ".config.json.")  # what `Run.start` writes, in this order


class Run:
    """A run folder, open for writing by its own stage or for reading by a later one."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        self._started = time.time()
        self._lock: FileLock | None = None
        self._logged = {log: GrowingDigest(path / log) for log in LOGS}

    # ---- opening -------------------------------------------------------------------------------------------------

    @classmethod
    def start(cls, path: Path, kind: str, config: Any, *, parents: dict[str, Path] | None = None) -> Run:
        """Create the folder, or open it again to resume: same kind, same config, same parents, or a UserError.

        A run already finished is returned as it is (`run.finished`): the caller has nothing left to do. One that
        ended before it had anything to show (a mistake in its data, say) starts anew, whatever has changed. Any other
        is this process's alone until it is finished or the process ends.
        """
        fields = json.loads(json.dumps(dataclasses.asdict(config), default=str))
        known = {name: {"path": str(p), "digest": _parent_digest(p)} for name, p in (parents or {}).items()}
        run = cls._begun(path, kind, fields, known)
        if run is not None and run.finished:
            return run
        lock = take(path)
        run = cls._begun(path, kind, fields, known)  # again: another process may have worked here until now
        if run is None:
            run = cls(path, _fresh(kind, fields, known))
            write_json(path / "run.json", run.info)
            write_json(path / "config.json", fields)
        elif run.finished:
            give_back(path, lock)
            return run
        else:
            run.info = {k: v for k, v in run.info.items() if k != "why"} | {"status": "running"}
            write_json(path / "run.json", run.info)
        run._lock = lock
        return run

    @classmethod
    def _begun(cls, path: Path, kind: str, fields: dict[str, Any], parents: dict[str, Any]) -> Run | None:
        """The run that a folder holds, if it is this one; None where there is none or one with nothing to show."""
        held = {p.name for p in path.iterdir()} - {LOCK} if path.exists() else set()
        if not held or (_at_the_door(held) and not _is_finished(path)):
            return None
        if "run.json" not in held:
            raise UserError(f"{path}: not empty and not a run folder; name another folder")
        run = cls(path, _read(path))
        run._same(kind, fields, parents)
        return run

    @classmethod
    def open(cls, path: Path | str, *kinds: str) -> Run:
        """A finished run of one of `kinds` to read from. Raises UserError for any other folder."""
        path = Path(path)
        info = _read(path)
        if kinds and info["kind"] not in kinds:
            raise UserError(f"{path}: is a run of kind {info['kind']!r}, expected {' or '.join(kinds)}")
        if not info["finished"]:
            raise UserError(
                f"{path}: the run is not finished (status {info['status']!r}); repeat its command to resume it"
            )
        return cls(path, info)

    def _same(self, kind: str, fields: dict[str, Any], parents: dict[str, Any]) -> None:
        if self.info["kind"] != kind:
            raise UserError(
                f"{self.path}: holds a run of kind {self.info['kind']!r}, not {kind!r}; name another folder"
            )
        held = self.config()
        for name in sorted((set(held) | set(fields)) - {"out"}):  # the folder itself may have been moved
            same = _alike(held.get(name), fields.get(name)) or self._is_beside(held.get(name), fields.get(name))
            if not (same or self._same_dtype(name, fields)):
                raise UserError(
                    f"{self.path}: was started with {name}={held.get(name)!r}, now {fields.get(name)!r}; "
                    "repeat the first command to resume, or name another folder"
                )
        for name, parent in parents.items():
            if self.info["parents"].get(name, {}).get("digest") != parent["digest"]:
                raise UserError(
                    f"{self.path}: its {name} ({parent['path']}) has changed since the run began; name another folder"
                )

    def _same_dtype(self, name: str, fields: dict[str, Any]) -> bool:
        """Whether a type is now named that "auto" stood for where the run was begun."""
        computed = self.info.get("computed_on") or [{}]
        return name == "dtype" and self.config().get(name) == "auto" and fields.get(name) == computed[-1].get("dtype")

    # ---- state ---------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether the stage completed."""
        return bool(self.info["finished"])

    @property
    def kind(self) -> str:
        """What wrote it: base, sft, samples, reward, ppo, rankings, evaluation, demo."""
        return str(self.info["kind"])

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.path / "model"

    def config(self) -> dict[str, Any]:
        """Every resolved field of the stage's config."""
        try:
            return dict(json.loads(self.intact("config.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            raise UserError(
                f"{self.path / 'config.json'}: missing or damaged; it must hold the run's settings. {_anew(self.path)}"
            ) from None

    def parent(self, name: str) -> Path:
        """Path of a parent run by its role."""
        return self.located(self.info["parents"][name]["path"])

    def located(self, recorded: str) -> Path:
        """Where a path that this run recorded leads now.

        A folder may have been moved or copied with all its runs. What stands to this run as it stood when it was
        recorded is the same, and is never looked for in the place of before.
        """
        out = str(self.config().get("out", ""))
        if os.path.isabs(recorded) and os.path.isabs(out):
            here = Path(os.path.normpath(self.path.absolute() / os.path.relpath(recorded, out)))
            if here.exists():
                return here
        return Path(recorded)

    def _is_beside(self, recorded: Any, path: Any) -> bool:
        """Whether a path is what a recorded one leads to now."""
        if not isinstance(recorded, str) or not isinstance(path, str) or not os.path.isabs(recorded):
            return False
        return Path(path).exists() and self.located(recorded).resolve() == Path(path).resolve()

    def intact(self, name: str) -> Path:
        """A file or folder of the run. Raises UserError where a finished run's is not what it was when it finished."""
        files = self.info.get("files", {}) if self.finished else {}
        below = {file: sha for file, sha in files.items() if file == name or file.startswith(f"{name}/")}
        if problem := broken(self.path, below):
            raise UserError(f"{problem}; bring it back, or delete {self.path} and repeat the command that made it")
        return self.path / name

    def finish(self, **result: Any) -> None:
        """Write the result, the digests of all files and, last of all, the finished flag; others may work here now."""
        seconds = round(self.info.get("seconds", 0.0) + time.time() - self._started, 2)
        files = digests(self.path, ("run.json", "timings.jsonl", "checkpoints", LOCK))
        self.info = {**self.info, "status": "finished", "finished": True, "seconds": seconds, "result": result}
        self.info["files"] = files
        write_json(self.path / "run.json", self.info)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        if self._lock is not None:
            give_back(self.path, self._lock)

    def stop(self, why: str) -> None:
        """Record that the stage stopped by itself before its end, with the cause."""
        self.info = {**self.info, "status": "stopped", "why": why}
        write_json(self.path / "run.json", self.info)

    @property
    def result(self) -> dict[str, Any]:
        """What `finish` was given."""
        return dict(self.info.get("result", {}))

    # ---- logs ----------------------------------------------------------------------------------------------------

    def log(self, file: str, row: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, samples.jsonl or timings.jsonl."""
        with (self.path / file).open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()

    def rows(self, file: str) -> list[dict[str, Any]]:
        """All whole lines of a log; a torn last line (a kill mid-write) is left out. Raises UserError for a bad one."""
        try:
            text = self.intact(file).read_bytes()
        except FileNotFoundError:
            return []
        found = []
        for number, line in enumerate(text.split(b"\n")[:-1], start=1):
            try:
                found.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                raise UserError(f"{self.path / file}, line {number}: damaged. {_anew(self.path)}") from None
        return found

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def computes(self, **environment: Any) -> None:
        """Record what this process computes with: beside the settings it decides the last bits of the result."""
        self.info["computed_on"] = [{"processor": processor(), **environment, **packages()}]

    def checkpoint(self, step: int, write: Any, state: dict[str, Any]) -> None:
        """Save a resumable state atomically: `write(folder)` puts tensors there, `state` is JSON, `latest` is last."""
        parent = self.path / "checkpoints"
        parent.mkdir(exist_ok=True)
        name = f"step-{step:06d}"
        unfinished = parent / f".{name}"
        for folder in (unfinished, parent / name):
            shutil.rmtree(folder, ignore_errors=True)
        unfinished.mkdir()
        write(unfinished)
        sizes = {log: _sync(self.path / log) if (self.path / log).exists() else 0 for log in LOGS}
        logs = {log: {"size": size, "sha256": self._logged[log].upto(size)} for log, size in sizes.items()}
        seconds = self.info.get("seconds", 0.0) + time.time() - self._started
        held = {"step": step, "logs": logs, "seconds": seconds, "computed_on": self.info.get("computed_on", [])}
        write_json(unfinished / "state.json", held | state)
        seal(unfinished)
        for file in unfinished.iterdir():
            _sync(file)
        os.replace(unfinished, parent / name)
        _sync(parent)
        write_text(parent / "latest", name)
        for old in sorted(parent.glob("step-*"))[:-KEPT_CHECKPOINTS]:
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """The last whole checkpoint (folder, state), with the logs cut back to it; None to start from nothing.

        Raises UserError where it or the logs are not what was written, or this process computes in another type.
        """
        parent = self.path / "checkpoints"
        try:
            name = (parent / "latest").read_text(errors="replace").strip()
        except FileNotFoundError:
            for log in LOGS:
                (self.path / log).unlink(missing_ok=True)
            write_json(self.path / "run.json", self.info)
            return None
        folder = parent / name
        if not re.fullmatch(r"step-\d+", name) or not folder.is_dir():
            raise UserError(f"{parent / 'latest'}: names no checkpoint. {_over(parent)}")
        if problem := broken_seal(folder):
            raise UserError(f"{problem}. {_over(parent)}")
        state: dict[str, Any] = json.loads((folder / "state.json").read_text())
        self._logged = {log: GrowingDigest(self.path / log) for log in LOGS}
        for log, held in state["logs"].items():
            if self._logged[log].upto(held["size"]) != held["sha256"]:
                raise UserError(
                    f"{self.path / log}: {'damaged' if (self.path / log).exists() else 'missing'} (its content is not"
                    f" what it was at the last checkpoint). {_over(parent)}"
                )
        self.info["computed_on"] = continued(self.path, state["computed_on"], self.info.get("computed_on", []))
        for log, held in state["logs"].items():
            if (self.path / log).exists():
                os.truncate(self.path / log, held["size"])
        self.info["seconds"] = state["seconds"]
        write_json(self.path / "run.json", self.info)
        return folder, state


def _alike(one: Any, other: Any) -> bool:
    """Equal, or two ways to write one path that exists."""
    if isinstance(one, str) and isinstance(other, str) and one != other:
        return Path(one).exists() and Path(one).resolve() == Path(other).resolve()
    return bool(one == other)


def _at_the_door(names: set[str]) -> bool:
    """Whether a folder holds no more than a start that went no further: nothing that could be lost."""
    ours = "run.json" in names or "config.json" not in names  # a config.json alone is somebody else's
    return ours and all(name.startswith(FIRST) for name in names)


def _is_finished(path: Path) -> bool:
    try:
        return bool(_read(path)["finished"])
    except UserError:
        return False


def _parent_digest(path: Path) -> str:
    """A parent's digest. Raises UserError for a file of a finished run that is not what it was when it finished."""
    if path.is_file() and (path.parent / "run.json").exists():
        Run(path.parent, _read(path.parent)).intact(path.name)
    return digest(path)


def _sync(path: Path) -> int:
    """Force a file or folder to the disk; returns its size."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, Any]:
    """A run's record. Raises UserError where it is missing or damaged."""
    try:
        info = json.loads((path / "run.json").read_text())
        whole = all(isinstance((OPTIONAL | info)[name], kind) for name, kind in RECORD.items())
        inner = [*info["parents"].values(), *info.get("computed_on", [])]
        if not whole or not all(isinstance(value, dict) for value in inner):
            raise TypeError
    except FileNotFoundError:
        raise UserError(f"{path}: not a run folder (no run.json in it)") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path / 'run.json'}: damaged; it is not the record of a run. {_anew(path)}") from None
    return dict(info)


def _anew(path: Path) -> str:
    return f"To start again delete {path}, or name another folder"


def _over(checkpoints: Path) -> str:
    return f"To start this run again delete {checkpoints}, or name another folder"


def _fresh(kind: str, fields: dict[str, Any], parents: dict[str, Any]) -> dict[str, Any]:
    """run.json of a run that begins."""
    return {
        "kind": kind,
        "status": "running",
        "finished": False,
        "command": sys.argv,
        "version": __version__,
        "seed": fields.get("seed", 0),
        "parents": parents,
        "packages": packages(),
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
