"""Working on a task: the page, and the small calls its script makes (open, draft, submit, skip, put aside, next)."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from tutelage.records import FieldError
from tutelage.studio import desk, forms, markdown, queue, work
from tutelage.studio.app import Anyone, TheProject, TheStore, home_of, page
from tutelage.studio.limits import Sent

router = APIRouter()

TEMPLATES = {"demonstrate": "demonstrate.html", "compare": "compare.html", "judge": "compare.html"}
ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}", re.ASCII)


def _named(assignment: str) -> str:
    """An id out of an address; what cannot be one never reaches the database."""
    if not ULID.fullmatch(assignment):
        raise queue.Gone("no such task of yours")
    return assignment


Mine = Annotated[str, Depends(_named)]


@router.get("/guidelines")
def guidelines(request: Request, project: TheProject, me: Anyone) -> Response:
    """What labelers are told."""
    return page(request, "guidelines.html", me, text=project.guidelines, questions=forms.QUESTIONS)


@router.post("/next/{kind}")
def following(kind: str, store: TheStore, me: Anyone) -> Response:
    """The next task of a kind; the desk when there is none."""
    return RedirectResponse(_next(store, me, kind), 303)


@router.post("/api/next/{kind}")
def following_for_script(kind: str, store: TheStore, me: Anyone) -> Response:
    """Where the next task of a kind is, or the desk when there is none: {"next"}."""
    return JSONResponse({"next": _next(store, me, kind)})


def _next(store: TheStore, me: Anyone, kind: str) -> str:
    found = queue.claim(store, me.id, kind)
    return f"/task/{found}" if found else home_of(me)


@router.get("/task/{assignment}")
def show(request: Request, store: TheStore, project: TheProject, me: Anyone, assignment: Mine) -> Response:
    """The task, blind."""
    task = work.task(store, me.id, assignment)
    return page(
        request,
        TEMPLATES[task.kind],
        me,
        task=task,
        short=desk.shorten(task.prompt, 60),
        flags=forms.keyed(task.form),
        today=desk.today(store, me),
        guidelines=project.guidelines,
        home=home_of(me),
    )


@router.post("/task/{assignment}/resume")
def resume(store: TheStore, me: Anyone, assignment: Mine) -> Response:
    """Take up again what was put aside, skipped or ran out of time."""
    if not queue.resume(store, me.id, assignment):
        raise HTTPException(409, "this task went to somebody else meanwhile; your draft is kept")
    return RedirectResponse(f"/task/{assignment}", 303)


@router.post("/api/task/{assignment}/open")
def take(store: TheStore, me: Anyone, assignment: Mine) -> Response:
    """What the page's script starts from; from now on this page is the labeler's latest, older ones are told so."""
    task = work.take(store, me.id, assignment)
    return JSONResponse(
        {
            "fence": task.fence,
            "state": task.state,
            "held": task.state in ("active", "submitted"),
            "draft": task.draft,
            "revision": task.draft_no,
            "seconds": task.seconds,
            "earlier": task.earlier,
        }
    )


@router.put("/api/task/{assignment}/draft")
def draft(store: TheStore, me: Anyone, assignment: Mine, sent: Sent) -> Response:
    """Keep a draft: {"fence", "seconds", "body"}; renews the lease. Answers {"revision", "fence", "held"}."""
    kept = work.keep(store, me.id, assignment, _whole(sent, "fence"), sent.get("body"), _seconds(sent))
    return JSONResponse({"revision": kept.revision, "fence": kept.fence, "held": kept.held})


@router.post("/api/task/{assignment}/submit")
def submit(store: TheStore, me: Anyone, assignment: Mine, sent: Sent) -> Response:
    """Book an answer: {"key", "seconds", "body"}, and the page's "fence". The same key again is the same answer."""
    key = sent.get("key")
    if not isinstance(key, str) or not re.fullmatch(r"[\w-]{16,64}", key, re.ASCII):
        raise FieldError("key", "must be 16 to 64 letters, digits, - or _")
    fence = _whole(sent, "fence") if "fence" in sent else None
    task = work.task(store, me.id, assignment)
    body = work.stored(task, sent.get("body"))
    receipt = queue.submit(store, me.id, assignment, key, body, _seconds(sent), fence)
    return JSONResponse({"number": receipt.number, "extra": receipt.extra, "repeated": receipt.repeated})


@router.post("/task/{assignment}/skip")
def skip(store: TheStore, me: Anyone, assignment: Mine, reason: Annotated[str, Form()] = "") -> Response:
    """Never be given this one again; a reason is needed."""
    why = work.words({"reason": reason}, "reason", needed=False)[:1000]
    if not why:
        raise HTTPException(422, "say in a few words why you skip this task")
    queue.give_back(store, me.id, assignment, "skipped", why)
    return RedirectResponse(home_of(me), 303)


@router.post("/task/{assignment}/postpone")
def postpone(store: TheStore, me: Anyone, assignment: Mine) -> Response:
    """Put it aside; the draft stays."""
    queue.give_back(store, me.id, assignment, "postponed")
    return RedirectResponse(home_of(me), 303)


@router.post("/api/preview")
def preview(me: Anyone, sent: Sent) -> Response:
    """Markdown as it will be read, made safe: {"text"} gives {"html"}."""
    return JSONResponse({"html": str(markdown.render(work.words(sent, "text", needed=False)))})


def _whole(sent: dict[str, Any], name: str) -> int:
    value = sent.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldError(name, "must be a whole number")
    return value


def _seconds(sent: dict[str, Any]) -> float:
    value = sent.get("seconds", 0.0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e6:
        raise FieldError("seconds", "must be a number of seconds")
    return float(value)
