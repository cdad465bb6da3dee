"""One process at a time in a folder. The lock ends with its process, however that ends; readers need none."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout

from tutelage.records import UserError

LOCK = ".lock"
"""The locked file: it holds the process id of whoever works in the folder, and is gone when the work is finished."""

_held: WeakValueDictionary[Path, FileLock] = WeakValueDictionary()


def take(folder: Path) -> FileLock:
    """Lock a folder, made where it is missing, for as long as the result is kept. This process may take it again.

    Raises UserError naming the folder and the process when another one has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / LOCK
    lock = _held.get(path)
    if lock is not None and lock.is_locked:
        return lock
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder}: {_owner(path)} is working in this folder; wait until it has ended, or name another folder"
        ) from None
    path.write_text(f"process {os.getpid()} on {platform.node()}\n")
    _held[path] = lock
    return lock


def give_back(folder: Path, lock: FileLock) -> None:
    """Unlock a folder whose work is finished. The file goes first: whoever locks it afterwards finds that out."""
    (folder / LOCK).unlink(missing_ok=True)
    lock.release(force=True)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder's lock during the block."""
    lock = take(folder)
    try:
        yield
    finally:
        give_back(folder, lock)


def _owner(path: Path) -> str:
    """Who has the lock, as far as the file tells: other systems may not let it be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip() or "another process"
    return "another process"
