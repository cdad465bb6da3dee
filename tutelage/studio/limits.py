"""What requests may cost: who may send a body, how large and how slowly, and how much may be under way at a time.

`Limits` stands before all routes. It finds out who is asking before it reads anything of a body, so that a stranger
cannot have one parsed. Whoever asks for more than their share is told to come back (429) instead of being queued.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

import anyio.to_thread
from fastapi import Depends, HTTPException
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tutelage.records import UserError, shallow
from tutelage.studio.accounts import Account
from tutelage.studio.security import SAFE
from tutelage.studio.turns import Busy

BODY = 2_500_000
"""Bytes of a request's body, at most: the largest draft."""
UPLOAD = 32 * 1024 * 1024
"""Bytes of an upload, at most: an import of some ten thousand prompts."""
UPLOADS = ("/prompts/import", "/batches/compare")
"""Where files are taken, from admins alone."""
PUBLIC = ("/login", "/setup", "/join/")
"""Where somebody who is not logged in may send something."""
HELD = 32 * 1024 * 1024
"""Bytes of strangers' bodies in memory at a time, at most."""
AT_ONCE = 12
"""Requests of one account under way at a time, at most. A browser makes six."""
UPLOADS_AT_ONCE = 2
BODY_SECONDS, UPLOAD_SECONDS, SILENCE = 30.0, 900.0, 20.0
"""How long a body may take, an upload may take, and the next piece of either may be waited for."""
THREADS = 120
"""Threads that answer requests: more than may wait for the database to write (`store.WAITING`)."""
ASKING = 16
"""Threads that look sessions up, apart from the others, so that nobody's login waits for somebody's work."""
INLINE = 20_000
"""Bytes of JSON beyond which it is parsed on a thread."""
AGAIN = {"Retry-After": "2"}
"""Sent with 429 and 503."""

ACCOUNT = "tutelage.account"
"""Where the account that asks stands in a request's scope, once it was looked up."""


class TooLarge(HTTPException):
    """A body goes on beyond what may be sent to this address."""

    def __init__(self, limit: int) -> None:
        size = f"{limit // 2**20} MB" if limit == UPLOAD else f"{limit / 1e6:g} MB"
        super().__init__(413, f"more than {size} at once")


class TooSlow(HTTPException):
    """A body does not arrive."""

    def __init__(self) -> None:
        super().__init__(408, "the request did not arrive in time; try again", {"Connection": "close"})


class Limits:
    """ASGI middleware before the routes.

    visitor: the account of a request, or None; may read the database. refuse: an error as a response.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        visitor: Callable[[Request], Account | None],
        login: Callable[[Request], Response],
        refuse: Callable[[Request, Exception], Response],
    ) -> None:
        self.app, self.visitor, self.login, self.refuse = app, visitor, login, refuse
        self._under_way: Counter[str] = Counter()
        self._held = 0
        self._lock = threading.Lock()  # for the two above
        self._asking: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through when it is within its limits."""
        if scope["type"] == "lifespan":
            anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
            self._asking = anyio.CapacityLimiter(ASKING)
        if scope["type"] != "http" or scope["path"].startswith("/static/"):
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        try:
            await self._serve(request, receive, send)
        except (HTTPException, UserError) as error:
            await (await run_in_threadpool(self.refuse, request, error))(scope, receive, send)

    async def _serve(self, request: Request, receive: Receive, send: Send) -> None:
        scope = request.scope
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        public = path.startswith(PUBLIC)
        account = None
        if not public and request.cookies:
            account = await anyio.to_thread.run_sync(self.visitor, request, limiter=self._asking)
            scope[ACCOUNT] = account
        if scope["method"] in SAFE:
            await self._alone(account, scope, receive, send)
            return
        if account is None and not public:
            await self.login(request)(scope, receive, send)
            return
        upload = path in UPLOADS and account is not None and account.admin
        limit = UPLOAD if upload else BODY
        said = request.headers.get("content-length", "")
        if said.isdecimal() and int(said[:20]) > limit:
            raise TooLarge(limit)
        if upload:
            with self._share("uploads", UPLOADS_AT_ONCE, "other files are being brought in; try again when they are"):
                await self._alone(account, scope, _timed(receive, limit), send)
        else:
            await self._buffered(account, scope, _timed(receive, limit), send)

    async def _alone(self, account: Account | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of an account, which has not too many under way."""
        if account is None:
            await self.app(scope, receive, send)
            return
        with self._share(account.id, AT_ONCE, "you have many requests under way; try again in a moment") as share:

            async def answered(message: Message) -> None:
                if message["type"] == "http.response.start":
                    share.end()  # what is sent from now on, for minutes where it is a stream, keeps no thread busy
                await send(message)

            await self.app(scope, receive, answered)

    async def _buffered(self, account: Account | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request once its whole body is here, so that no thread ever waits for a sender."""
        body = bytearray()
        try:
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return  # the sender has gone
                piece, more = message.get("body", b""), message.get("more_body", False)
                body += piece
                if account is None:
                    self._hold(len(piece))

            await self._alone(account, scope, _whole(bytes(body), receive), send)
        finally:
            if account is None:
                self._hold(-len(body))

    def _hold(self, size: int) -> None:
        with self._lock:
            self._held += size
            if self._held > HELD and size > 0:
                raise Busy("the studio is busy; try again in a moment")

    def _share(self, name: str, most: int, problem: str) -> _Share:
        with self._lock:
            if self._under_way[name] >= most:
                raise Busy(problem)
            self._under_way[name] += 1
        return _Share(self._give_back, name)

    def _give_back(self, name: str) -> None:
        with self._lock:
            self._under_way[name] -= 1
            if not self._under_way[name]:
                del self._under_way[name]


class _Share:
    """One of the requests that somebody may have under way; given back once."""

    def __init__(self, give_back: Callable[[str], None], name: str) -> None:
        self._give_back: Callable[[str], None] | None = give_back
        self._name = name

    def end(self) -> None:
        """Give it back, if that was not done yet."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self._name)

    def __enter__(self) -> _Share:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _whole(body: bytes, receive: Receive) -> Receive:
    """A body in one piece, and then whatever comes."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def whole() -> Message:
        return first.pop() if first else await receive()

    return whole


def _timed(receive: Receive, limit: int) -> Receive:
    """A body's pieces, as long as they come in time and within the limit; afterwards whatever comes, whenever."""
    seen = 0
    whole = False
    until = time.monotonic() + (UPLOAD_SECONDS if limit == UPLOAD else BODY_SECONDS)

    async def timed() -> Message:
        nonlocal seen, whole
        if whole:
            return await receive()
        with anyio.move_on_after(min(SILENCE, until - time.monotonic())) as scope:
            message = await receive()
        if scope.cancelled_caught:
            raise TooSlow
        seen += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if seen > limit:
            raise TooLarge(limit)
        return message

    return timed


# ---- bodies of JSON --------------------------------------------------------------------------------------------


async def sent(request: Request) -> dict[str, Any]:
    """The JSON object that was sent. Raises HTTPException 422 when it is none."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(422, "the request must hold JSON, and say so in its Content-Type")
    raw = await request.body()
    return await run_in_threadpool(_object, raw) if len(raw) > INLINE else _object(raw)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
        shallow(found)
    except RecursionError:
        raise HTTPException(422, "the JSON is nested too deep") from None
    except ValueError as error:
        raise HTTPException(422, f"the request cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise HTTPException(422, "the request must hold a JSON object")
    return found


Sent = Annotated[dict[str, Any], Depends(sent)]
"""What a script sent as JSON; FastAPI's own way would parse it on the event loop, whoever sent it."""
