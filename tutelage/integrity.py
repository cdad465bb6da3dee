"""Digests: whether files are still what was written, and by what a parent run is known. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tutelage.lock import LOCK

SUMS = "SHA256SUMS"
"""The digests of a folder's other files, in the format of `sha256sum`."""

_verified: set[tuple[str, str, int, int]] = set()
"""(path, digest, size, time of change) of files found intact: weights are not read again for every question."""


def sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path, skip: tuple[str, ...] = ()) -> dict[str, str]:
    """{path below the folder: SHA-256} of all files; `skip` are names at the top that are left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] not in skip)
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}


def seal(folder: Path) -> None:
    """Write the digests of a folder's files beside them."""
    lines = [f"{digest}  {name}\n" for name, digest in digests(folder, (SUMS,)).items()]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def broken_seal(folder: Path) -> str:
    """What is wrong with a sealed folder: the file and its fault; nothing when it is as it was written."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return f"{folder / SUMS}: missing"
    except (OSError, UnicodeDecodeError):
        return f"{folder / SUMS}: damaged"
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    unknown = sorted(digests(folder, (SUMS,)).keys() - expected.keys())
    if not expected or unknown:
        return f"{folder / SUMS}: damaged"
    return broken(folder, expected)


def broken(folder: Path, expected: Mapping[str, str]) -> str:
    """The first file that is missing or is not what its digest says, and which of both; else nothing."""
    for name, digest in expected.items():
        path = folder / name
        try:
            held = path.stat()
            key = (str(path.resolve()), digest, held.st_size, held.st_mtime_ns)
            if key not in _verified:
                if sha256(path) != digest:
                    return f"{path}: damaged (its content is not what was written)"
                _verified.add(key)
        except FileNotFoundError:
            return f"{path}: missing"
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
    return ""


class GrowingDigest:
    """The SHA-256 of a log that only grows: each byte is read once, however often the digest is asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self._sha = path, 0, hashlib.sha256()

    def upto(self, size: int) -> str:
        """The digest of the first `size` bytes, which are no fewer than the last time; of all where there are fewer."""
        if size > self.size and self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self.size)
                while self.size < size and (part := file.read(min(1 << 20, size - self.size))):
                    self._sha.update(part)
                    self.size += len(part)
        return self._sha.hexdigest()


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
            elif file.name not in ("timings.jsonl", "run.json", "report.html", LOCK):
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
