"""How much a file may hold: bytes once unpacked, rows, and what Parquet declares before anything is read.

A file of 400 kB can unpack to gigabytes. The limits are beyond what a person with a laptop could work with, so that
only such files, and mistakes, meet them.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tutelage.records import UserError


@dataclass(frozen=True, slots=True)
class Room:
    """What a file may hold: bytes, where it is packed (gzip, Parquet), and rows."""

    unpacked: int
    rows: int


DISK = Room(unpacked=2 * 2**30, rows=5_000_000)
"""For files of the user's own."""
UPLOAD = Room(unpacked=256 * 2**20, rows=500_000)
"""For files that are sent to a studio, which others use meanwhile."""

RATIO = 200
"""Unpacked bytes to packed ones, at most: text has 3 to 10, rows that are nearly alike up to 100."""
SMALL = 32 * 2**20
"""Unpacked bytes up to which the ratio does not matter."""
BUFFER = 64 * 1024


class _Unpacked(io.RawIOBase):
    """What a gzip file holds, as far as it may."""

    def __init__(self, path: Path, file: BinaryIO, room: Room) -> None:
        self._path, self._packed, self._room = path, file, room
        self._file = gzip.GzipFile(fileobj=file)
        self._seen = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._file.readinto(buffer)
        self._seen += size
        if self._seen > self._room.unpacked:
            raise _too_much(self._path, self._room)
        if self._seen > SMALL and self._seen > RATIO * self._packed.tell():
            raise UserError(
                f"{self._path}: unpacks to more than {RATIO} times its size, as data hardly does; if it is right, "
                "unpack it first"
            )
        return size


def unpacked(path: Path, file: BinaryIO, room: Room) -> io.BufferedReader:
    """A gzip file's content. Reading raises UserError where it goes on beyond `room`."""
    return io.BufferedReader(_Unpacked(path, file, room), BUFFER)


def _too_much(path: Path, room: Room) -> UserError:
    return UserError(f"{path}: unpacks to more than {_size(room.unpacked)}, the most a packed file may hold; split it")


def _size(count: int) -> str:
    return f"{count // 2**30} GB" if count >= 2**30 else f"{count // 2**20} MB"


def within(path: Path, room: Room, rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The rows, as far as there may be. Raises UserError."""
    for number, row in enumerate(rows, start=1):
        if number > room.rows:
            raise _too_many(path, room)
        yield row


def _too_many(path: Path, room: Room) -> UserError:
    return UserError(f"{path}: has more than {room.rows:,} rows, the most a file may have; split it")


def declared(path: Path, metadata: Any, room: Room) -> None:
    """Refuse a Parquet file by its footer. Raises UserError."""
    if metadata.num_rows > room.rows:
        raise _too_many(path, room)
    if sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups)) > room.unpacked:
        raise _too_much(path, room)


def weighed(path: Path, room: Room, rows: Iterable[Any]) -> Iterator[Any]:
    """The rows of a Parquet file, which can hold one long text a million times, as far as their texts have room."""
    seen = 0
    for row in rows:
        seen += _characters(row)
        if seen > room.unpacked:
            raise _too_much(path, room)
        yield row


def _characters(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 1
