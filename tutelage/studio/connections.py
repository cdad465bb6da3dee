"""Connections that ask nothing: a request must have begun in whole within a while, else its connection is closed.

Without it, whoever opens connections and sends half a request on each keeps everybody else out.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

SECONDS = 15.0
"""How long a connection may take to send a request's headers, or what is left of a body that was refused."""


ACCEPTED = 32
"""Connections that are accepted before the event loop turns to those that are there. asyncio would accept as many as
may wait in the system's line, and run out of files before `Connection` could close any."""
LINE = 1024
"""Connections that may wait in the system's line."""
FILES = 6000
"""Files that the process would like to be allowed to have open."""


def most() -> int:
    """Connections at a time, beyond which the one that has waited longest for a request is closed: a third of the files
    that this process may have open, for databases need some too."""
    return min(FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0]) // 3


class Server(uvicorn.Server):
    """uvicorn, accepting a few connections at a time."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and let as many wait in line as ever."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < FILES:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
        self.config.backlog = ACCEPTED
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(LINE)


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
            self._make_room()

    def _make_room(self) -> None:
        """Close what has waited longest. A connection that is closed stays among the others for a moment."""
        here = [c for c in self.connections if not c.transport.is_closing()]
        waiting = sorted((c for c in here if not c.answering and c is not self), key=lambda c: c.since)
        for connection in waiting[: max(0, len(here) - most())]:
            connection.transport.abort()

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
