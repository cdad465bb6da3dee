"""Connections that ask nothing: a request must have begun in whole within a while, else its connection is closed.

Without it, whoever opens connections and sends half a request on each keeps everybody else out.
"""

from __future__ import annotations

import asyncio
import resource
import time
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

SECONDS = 15.0
"""How long a connection may take to send a request's headers, or what is left of a body that was refused."""


def most() -> int:
    """Connections at a time, beyond which the one that has waited longest for a request is closed: half of what the
    system lets this process open, for databases and files need some too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2000 if soft == resource.RLIM_INFINITY else min(2000, soft // 2)


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol, with a limit to how long a connection may wait for a whole request."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.since = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def answering(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock, and make room where too many are open."""
        super().connection_made(transport)
        self._start()
        if len(self.connections) > most():
            waiting = [c for c in self.connections if isinstance(c, Connection) and not c.answering and c is not self]
            if waiting:
                min(waiting, key=lambda c: c.since).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Stop the clock where this made a request whole; let it run on where not."""
        super().data_received(data)
        if self.answering:
            self._stop()
        elif self._timer is None:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        self.since = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(SECONDS, self._end)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        if not self.answering:
            self.transport.close()
