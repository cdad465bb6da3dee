"""Turns at something costly: a few at a time, a few more that wait a moment, and the rest told to come back."""

from __future__ import annotations

import threading

from tutelage.records import UserError


class Busy(UserError):
    """Too many want the same at once; try again in a moment."""


class Turns:
    """A lock for `at_once` threads. Entering raises Busy where `waiting` wait already, or the turn does not come."""

    def __init__(self, at_once: int, waiting: int, seconds: float) -> None:
        self._free = threading.BoundedSemaphore(at_once)
        self._room = threading.BoundedSemaphore(at_once + waiting)
        self._seconds = seconds

    def __enter__(self) -> None:
        if not self._room.acquire(blocking=False):
            raise Busy("many people are at this just now; try again in a moment")
        if not self._free.acquire(timeout=self._seconds):
            self._room.release()
            raise Busy("many people are at this just now; try again in a moment")

    def __exit__(self, *_: object) -> None:
        self._free.release()
        self._room.release()
