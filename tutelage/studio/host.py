"""The model host's keeper: starts `tutelage.speak` when first asked, asks one thing at a time, restarts it, ends it.

The models live in a child process, so that the web server never loads torch and nothing they do can stop it. The child
reads requests from us and ends when we do, however we end.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage.studio.turns import Busy

COMMAND = (sys.executable, "-m", "tutelage.speak")
WAITING = 8
"""Requests that may stand in line behind the one being answered."""
EACH = 2
"""Of those, one account's, the one being answered included."""
SILENCE = 180.0
"""Seconds without a word after which the child is taken for stuck: reading a large model off a slow disk takes long."""
LONGEST = 600.0
"""Seconds one request may take."""
IDLE = 900.0
"""Seconds after the last request at which the child is ended, so that its memory is free for training."""
GRACE = 5.0
"""Seconds an ending child has before it is killed."""

Event = dict[str, Any]


@dataclass(eq=False, slots=True)
class Ticket:
    """A request in line. ahead: how many stood before it when it came."""

    request: Event
    deliver: Callable[[Event], None]
    ahead: int
    account: str
    cancelled: threading.Event = field(default_factory=threading.Event)


class Child:
    """One process of the model host, its lines read by a thread so that waiting for them can be given up."""

    def __init__(self, command: Sequence[str]) -> None:
        # A file, for a pipe that nobody reads would fill and block it; open as long as the child is.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self._said, text=True, encoding="utf-8"
            )
        except OSError:
            self._said.close()
            raise
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._rows: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="model-host-reader", daemon=True)
        self._writer = threading.Thread(target=self._write, name="model-host-writer", daemon=True)
        self._reader.start()
        self._writer.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _write(self) -> None:
        """Send lines until there is None; a process that has died is noticed by the reading side."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            while (row := self._rows.get()) is not None:
                self.process.stdin.write(json.dumps(row) + "\n")
                self.process.stdin.flush()
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def write(self, row: Event) -> None:
        """Have a line sent. Never waits: the event loop calls it too."""
        self._rows.put(row)

    def line(self, seconds: float) -> Event | None:
        """The next line; None when it has died. Raises TimeoutError after `seconds` of silence."""
        try:
            found = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise TimeoutError from None
        return None if found is None else dict(json.loads(found))

    def end(self, grace: float = GRACE) -> None:
        """End it: by closing its input, and by force when that is not enough."""
        assert self.process.stdout is not None
        self._rows.put(None)
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self._writer.join()
        self.process.stdout.close()
        self._said.close()

    def last_words(self) -> str:
        """The last line that one who died wrote to its error output, else how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.process.poll()}"


class _Stale(Exception):
    """A child from before had died by the time it was asked: no fault of this request, a fresh one may answer it."""


class Host:
    """Answers requests of tutelage/speak.py one after the other, on a thread of its own."""

    def __init__(
        self,
        command: Sequence[str] = COMMAND,
        *,
        silence: float = SILENCE,
        longest: float = LONGEST,
        idle: float = IDLE,
    ) -> None:
        self.command, self.silence, self.longest, self.idle = command, silence, longest, idle
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards what follows; nothing that can take long happens under it
        self._changed = threading.Condition(self._lock)
        self._line: deque[Ticket] = deque()
        self._worker: threading.Thread | None = None
        self._child: Child | None = None
        self._current: Ticket | None = None
        self._closed = False

    def ask(self, request: Event, deliver: Callable[[Event], None], account: str = "") -> Ticket:
        """Put a request in line. `deliver` gets its events on another thread; the last is {"done": true}.

        Raises Busy when too many are waiting, or too many of this account.
        """
        with self._lock:
            if self._closed:
                raise Busy("the studio is being stopped")
            ahead = [*([self._current] if self._current else []), *self._line]
            if account and sum(one.account == account for one in ahead) >= EACH:
                raise Busy(f"the models have {EACH} questions of yours already; wait for an answer or stop one")
            if len(self._line) >= WAITING:
                raise Busy(f"{len(self._line)} questions are waiting for the models already; try again in a minute")
            ticket = Ticket(request | {"id": next(self._numbers)}, deliver, len(ahead), account)
            self._line.append(ticket)
            self._changed.notify()
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="model-host", daemon=True)
                self._worker.start()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody wants this answer any more."""
        ticket.cancelled.set()
        with self._lock:
            waited = ticket in self._line
            if waited:
                self._line.remove(ticket)
            if self._current is ticket and self._child is not None:
                self._child.write({"cancel": ticket.request["id"]})
        if waited:
            ticket.deliver({"done": True, "cancelled": True})

    @property
    def pid(self) -> int | None:
        """The child's process id while there is one."""
        with self._lock:
            return self._child.process.pid if self._child is not None and self._child.alive else None

    def close(self) -> None:
        """End the child and take no more requests; whatever is being answered stops."""
        with self._lock:
            self._closed = True
            worker, child = self._worker, self._child
            if child is not None and self._current is not None:
                child.process.kill()
            self._changed.notify()
        if worker is not None:
            worker.join()

    # ---- the worker's side ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._lock:
                came = self._changed.wait_for(lambda: self._line or self._closed, self.idle)
                if came and not self._line:
                    break
                self._current = ticket = self._line.popleft() if came else None
            if ticket is None:
                self._drop()
                continue
            if not ticket.cancelled.is_set() and not self._closed:
                problem = self._serve(ticket)
                if problem and not self._closed:
                    ticket.deliver({"error": problem})
            with self._lock:
                self._current = None
            ticket.deliver({"done": True, "cancelled": ticket.cancelled.is_set()})
        self._drop()

    def _serve(self, ticket: Ticket) -> str:
        """Have one request answered; what went wrong with the child, or nothing."""
        try:
            try:
                return self._listen(ticket, *self._take(ticket))
            except _Stale:
                return self._listen(ticket, *self._take(ticket))
        except OSError as error:
            return f"the model process cannot be started ({error.strerror or error})"

    def _take(self, ticket: Ticket) -> tuple[Child, bool]:
        """The child, started where there is none, with the request handed over; whether it was there before."""
        old = self._child is not None  # only this thread changes it
        child = self._child or Child(self.command)
        with self._lock:
            self._child = child
            child.write(ticket.request)
            if ticket.cancelled.is_set():
                child.write({"cancel": ticket.request["id"]})
            if self._closed:
                child.process.kill()
        return child, old

    def _listen(self, ticket: Ticket, child: Child, old: bool) -> str:
        number, end, silent = ticket.request["id"], time.monotonic() + self.longest, True
        while True:
            try:
                event = child.line(min(self.silence, end - time.monotonic()))
            except TimeoutError:
                self._drop(grace=0.0)
                return "the models took too long and were stopped; ask again"
            except ValueError:
                self._drop(grace=0.0)
                return "the model process said something that cannot be read and was stopped; ask again"
            if event is None:
                words = child.last_words()
                self._drop()
                if old and silent:
                    raise _Stale
                return f"the model process ended ({words}); ask again"
            if event.get("id") not in (number, None):
                continue  # the tail of an earlier request that was given up
            if event.get("done") and "model" not in event:
                return ""
            silent = False
            ticket.deliver({k: v for k, v in event.items() if k != "id"})

    def _drop(self, grace: float = GRACE) -> None:
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.end(grace)
