"""The playground: the models of a round side by side, and votes that never train anything unless asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tutelage.records import FieldError
from tutelage.studio import playground
from tutelage.studio.app import Inside, TheProject, TheStore, page
from tutelage.studio.host import Event, Host
from tutelage.studio.limits import Sent
from tutelage.studio.playground import Sittings

BREATH = 10.0
"""Seconds of silence after which the page is told that we are still there."""

_making = threading.Lock()


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The model host ends with the studio."""
    yield
    host: Host | None = getattr(app.state, "host", None)
    if host is not None:
        await run_in_threadpool(host.close)


router = APIRouter(lifespan=_lifespan)


def host_of(request: Request) -> Host:
    """The studio's model host; it starts its process when first asked."""
    with _making:
        state = request.app.state
        if not hasattr(state, "host"):
            state.host = Host()
        found: Host = state.host
    return found


def sittings_of(request: Request) -> Sittings:
    """What was answered and not yet voted on."""
    with _making:
        state = request.app.state
        if not hasattr(state, "sittings"):
            state.sittings = Sittings()
        found: Sittings = state.sittings
    return found


TheHost = Annotated[Host, Depends(host_of)]
TheSittings = Annotated[Sittings, Depends(sittings_of)]


@router.get("/playground")
def show(request: Request, store: TheStore, project: TheProject, me: Inside) -> Response:
    """Choose or type a prompt."""
    rounds = playground.finished(project)
    votes = None if me.labels else playground.tally(store)
    return page(
        request,
        "playground.html",
        me,
        rounds=rounds,
        used=playground.in_use(project),
        models=playground.models(project, playground.in_use(project)),
        examples=playground.examples(store),
        longest=playground.LONGEST,
        votes=votes,
    )


class Inbox:
    """Events from the model host's thread, for a generator on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        """Called on another thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def get(self) -> Event | None:
        """The next event; None after a breath of silence."""
        try:
            return await asyncio.wait_for(self._events.get(), BREATH)
        except TimeoutError:
            return None


@router.post("/api/playground/answer")
async def answer(host: TheHost, sittings: TheSittings, project: TheProject, me: Inside, sent: Sent) -> Response:
    """Answer {"prompt", "round", "blind", "temperature"} as server-sent events: start, loading, piece, end, problem,
    done. Whoever closes the connection stops the models."""
    sitting, request = await run_in_threadpool(playground.prepare, project, me.id, sent)
    inbox = Inbox()
    ticket = host.ask(request, inbox.put, me.id)
    key = sittings.open(sitting)

    async def events() -> AsyncIterator[str]:
        labels = [sitting.label(n) for n in range(len(sitting.models))]
        try:
            yield _event("start", {"key": key, "labels": labels, "ahead": ticket.ahead})
            over = False
            while not over:
                event = await inbox.get()
                if event is None:
                    yield ": still here\n\n"
                    continue
                kind, data = playground.tell(sitting, event)
                yield _event(kind, data)
                over = kind == "done"
        finally:
            host.cancel(ticket)

    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _event(kind: str, data: dict[str, Any]) -> str:
    """One server-sent event; JSON holds no line break that could end it early."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


@router.post("/api/playground/vote")
def vote(store: TheStore, sittings: TheSittings, me: Inside, sent: Sent) -> Response:
    """Book {"key", "best"}: the place of the best answer, -1 a tie, -2 all bad. Answers who was who."""
    key, best = sent.get("key"), sent.get("best")
    if not isinstance(key, str):
        raise FieldError("key", "must be text")
    if not isinstance(best, int) or isinstance(best, bool):
        raise FieldError("best", "must be a whole number")
    return JSONResponse(playground.unveiled(sittings.vote(store, me.id, key, best)))
