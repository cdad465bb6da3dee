"""Run: the one artefact folder every stage writes and reads. No torch here.

run.json        kind, status, command, version, seed, parents, packages, machine; finished flag written last
config.json     every resolved field
metrics.jsonl   append only (docs/metrics.md); resuming cuts back what came after the checkpoint, so that a killed
samples.jsonl   and resumed run ends with the same bytes as an uninterrupted one
timings.jsonl   seconds, kept apart because no two runs share them
model/ checkpoints/ and records, where the product is data
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from tutelage import __version__
from tutelage.records import UserError, write_json, write_text

LOGS = ("metrics.jsonl", "samples.jsonl")
KEPT_CHECKPOINTS = 1
FIRST = ("run.json", ".run.json.", "config.json", ".config.json.")  # what `Run.start` writes, in this order


class Run:
    """A run folder, open for writing by its own stage or for reading by a later one."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        self._started = time.time()

    # ---- opening -------------------------------------------------------------------------------------------------

    @classmethod
    def start(cls, path: Path, kind: str, config: Any, *, parents: dict[str, Path] | None = None) -> Run:
        """Create the folder, or open it again to resume: same kind, same config, same parents, or a UserError.

        A run already finished is returned as it is (`run.finished`): the caller has nothing left to do. One that
        ended before it had anything to show (a mistake in its data, say) starts anew, whatever has changed.
        """
        fields = dataclasses.asdict(config)
        digests = {name: {"path": str(p), "digest": digest(p)} for name, p in (parents or {}).items()}
        held = {p.name for p in path.iterdir()} if path.exists() else set()
        if held and not (_at_the_door(held) and not _is_finished(path)):
            if "run.json" not in held:
                raise UserError(f"{path}: not empty and not a run folder; name another folder")
            run = cls(path, _read(path))
            run._same(kind, json.loads(json.dumps(fields, default=str)), digests)
            if not run.finished:
                run.info = {k: v for k, v in run.info.items() if k != "why"} | {"status": "running"}
                write_json(path / "run.json", run.info)
            return run
        path.mkdir(parents=True, exist_ok=True)
        info = {
            "kind": kind,
            "status": "running",
            "finished": False,
            "command": sys.argv,
            "version": __version__,
            "seed": fields.get("seed", 0),
            "parents": digests,
            "packages": _packages(),
            "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(path / "run.json", info)
        write_json(path / "config.json", json.loads(json.dumps(fields, default=str)))
        return cls(path, info)

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
            if not _alike(held.get(name), fields.get(name)):
                raise UserError(
                    f"{self.path}: was started with {name}={held.get(name)!r}, now {fields.get(name)!r}; "
                    "repeat the first command to resume, or name another folder"
                )
        for name, parent in parents.items():
            if self.info["parents"].get(name, {}).get("digest") != parent["digest"]:
                raise UserError(
                    f"{self.path}: its {name} ({parent['path']}) has changed since the run began; name another folder"
                )

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
            return dict(json.loads((self.path / "config.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            raise UserError(
                f"{self.path / 'config.json'}: missing or damaged; it must hold the run's settings"
            ) from None

    def parent(self, name: str) -> Path:
        """Path of a parent run by its role."""
        return Path(self.info["parents"][name]["path"])

    def finish(self, **result: Any) -> None:
        """Write the result and, last of all, the finished flag."""
        seconds = round(self.info.get("seconds", 0.0) + time.time() - self._started, 2)
        self.info = {**self.info, "status": "finished", "finished": True, "seconds": seconds, "result": result}
        write_json(self.path / "run.json", self.info)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

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
        """All whole lines of a log; a torn last line (a kill mid-write) is left out."""
        try:
            text = (self.path / file).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.split("\n")[:-1] if line]

    # ---- checkpoints ---------------------------------------------------------------------------------------------

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
        offsets = {log: _sync(self.path / log) if (self.path / log).exists() else 0 for log in LOGS}
        seconds = self.info.get("seconds", 0.0) + time.time() - self._started
        write_json(unfinished / "state.json", {"step": step, "offsets": offsets, "seconds": seconds, **state})
        for file in unfinished.iterdir():
            _sync(file)
        os.replace(unfinished, parent / name)
        _sync(parent)
        write_text(parent / "latest", name)
        for old in sorted(parent.glob("step-*"))[:-KEPT_CHECKPOINTS]:
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """The last whole checkpoint (folder, state), with the logs cut back to it; None to start from nothing."""
        parent = self.path / "checkpoints"
        try:
            folder = parent / (parent / "latest").read_text().strip()
            state: dict[str, Any] = json.loads((folder / "state.json").read_text())
        except FileNotFoundError:
            for log in LOGS:
                (self.path / log).unlink(missing_ok=True)
            return None
        for log, size in state["offsets"].items():
            if (self.path / log).exists():
                os.truncate(self.path / log, size)
        self.info["seconds"] = state["seconds"]
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


def digest(path: Path) -> str:
    """What a parent is known by: the hash of its records or, for a model folder, of its config and weight sizes."""
    sha = hashlib.sha256()
    if path.is_file():
        sha.update(path.read_bytes())
    elif path.is_dir():
        files = (p for p in path.rglob("*") if p.is_file() and "checkpoints" not in p.relative_to(path).parts)
        for file in sorted(files):
            if file.suffix == ".safetensors":
                sha.update(_ends(file))
            elif file.name not in ("timings.jsonl", "run.json", "report.html"):
                sha.update(file.read_bytes())
    else:
        sha.update(str(path).encode())
    return sha.hexdigest()[:16]


def _ends(file: Path, span: int = 1 << 16) -> bytes:
    """Size, header and tail of a weight file: enough to notice another one without reading gigabytes."""
    with file.open("rb") as raw:
        head = raw.read(span)
        raw.seek(max(0, file.stat().st_size - span))
        return str(file.stat().st_size).encode() + head + raw.read()


def _sync(path: Path) -> int:
    """Force a file or folder to the disk; returns its size."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads((path / "run.json").read_text())
        info["kind"], info["finished"], info["status"], info["parents"]
    except FileNotFoundError:
        raise UserError(f"{path}: not a run folder (no run.json in it)") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path / 'run.json'}: damaged; it is not the record of a run") from None
    return info


def _packages() -> dict[str, str]:
    names = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
