"""The folder that an export writes into: all of it or nothing, and never over anything that no export wrote.

manifest.json names the files of an export with their SHA-256. A folder that holds anything else and no manifest is not
written into; a file that was changed since, or that somebody put under a name that is needed, is not replaced; what the
manifest does not name is not deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tutelage.records import UserError, write_json
from tutelage.roundfolder import read_json

MANIFEST = "manifest.json"
STAGING = ".export-"
KIND = "tutelage export"

Digests = dict[str, str]
"""{name of a file: SHA-256 of its content}."""


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """Give a folder to write into; when the block ends its files take the places of those of the export before.

    Until then `out` holds the export before, whatever ends this one. Should the end come while files change places, the
    manifest names those of both, and the next export begins from there. Raises UserError for a folder that is not an
    export's.
    """
    try:
        with ExitStack() as stack:
            _hold(out, stack)
            before = _earlier(out)
            for left in _staging(out):  # of an export that was killed
                shutil.rmtree(left)
            staged = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=STAGING, dir=out)))
            yield staged
            _take_places(out, staged, before)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from None


def _hold(out: Path, stack: ExitStack) -> None:
    """Make the folder, and keep other exports out of it."""
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    stack.callback(os.close, folder)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{out}: another export is writing into it; wait, or name another folder") from None


def _staging(out: Path) -> list[Path]:
    return [path for path in out.glob(f"{STAGING}????????") if path.is_dir() and not path.is_symlink()]


def _earlier(out: Path) -> Digests:
    """The files of the export that `out` holds; none where it is empty. Raises UserError for any other folder."""
    manifest: Any = read_json(out / MANIFEST) or {}
    if manifest.get("kind") != KIND:
        if held := sorted(path.name for path in set(out.iterdir()) - set(_staging(out))):
            raise UserError(f"{out}: holds {held[0]} and is no earlier export; name a new folder, or an empty one")
        return {}
    now, before = manifest.get("files", {}), manifest.get("replacing", {})
    found = {}
    for name in {**now, **before}:
        path = out / name
        if path.name != name or not os.path.lexists(path):
            continue
        found[name] = _sha(path) if path.is_file() and not path.is_symlink() else ""
        if found[name] not in (now.get(name), before.get(name)):
            raise UserError(f"{path}: was changed since it was exported; move it away, or name another folder")
    return found


def _take_places(out: Path, staged: Path, before: Digests) -> None:
    after = {path.name: _sha(path) for path in sorted(staged.iterdir())}
    for name in after:
        if name not in before and os.path.lexists(out / name):
            raise UserError(f"{out / name}: is in the way, and no export wrote it; move it, or name another folder")
    write_json(out / MANIFEST, {"kind": KIND, "files": after, "replacing": before})
    for name in after:
        os.replace(staged / name, out / name)
    for name in before.keys() - after.keys():
        (out / name).unlink()
    write_json(out / MANIFEST, {"kind": KIND, "files": after})


def _sha(path: Path) -> str:
    """The digest of a file, which is on the disk afterwards."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
