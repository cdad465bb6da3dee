"""Screening: a researcher's tasks, grading, candidates side by side, an admin's decision; a candidate's own side."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from tutelage.records import UserError
from tutelage.studio import desk, grading, scores, screening, told
from tutelage.studio.accounts import Account
from tutelage.studio.app import Candidate, Runs, Sees, TheProject, TheStore, page
from tutelage.studio.store import Store

router = APIRouter()
Text = Annotated[str, Form()]
Tick = Annotated[bool, Form()]


@router.get("/desk")
def mine(request: Request, store: TheStore, me: Sees) -> Response:
    """The screening tasks that wait for a researcher."""
    waiting = grading.left(store, me)
    return page(request, "desk.html", me, desk=desk.desk(store, me), grading=waiting)


@router.get("/screening")
def show(request: Request, store: TheStore, me: Sees) -> Response:
    """The candidates by number, and the key they are compared with."""
    view, waiting = screening.view(store), grading.left(store, me)
    first = screening.screened_first(store)
    return page(
        request,
        "screening.html",
        me,
        view=view,
        grading=waiting,
        first=first,
        scores=scores,
        told=told,
        question=screening.QUESTION,
    )


@router.get("/screening/grade")
def look(
    request: Request, store: TheStore, project: TheProject, me: Sees, answer: str = "", before: str = ""
) -> Response:
    """A demonstration to be graded: the next one, or one graded before."""
    found = grading.following(store, me, answer)
    return page(request, "grade.html", me, found=found, before=before, guidelines=project.guidelines)


@router.post("/screening/grade")
def grade(
    store: TheStore, me: Sees, answer: Text = "", grade: Annotated[int, Form(ge=grading.WORST, le=grading.BEST)] = 0
) -> Response:
    """Keep a grade; then the next demonstration."""
    grading.give(store, me, answer, grade)
    return RedirectResponse(f"/screening/grade?before={answer}", 303)


@router.post("/screening/topics")
def say(request: Request, store: TheStore, me: Candidate, text: Text = "") -> Response:
    """What a candidate says they can judge."""
    try:
        screening.say(store, me, text)
    except UserError as error:
        return candidate_page(request, store, me, 400, str(error))
    return RedirectResponse("/?kept=topics", 303)


def candidate_page(
    request: Request, store: Store, me: Account, status: int = 200, problem: str = "", kept: bool = False
) -> Response:
    """The desk of one who is screened, or was declined: what this is, how far it is, and nothing of its results."""
    return page(
        request,
        "candidate.html",
        me,
        status,
        problem=problem,
        kept=kept,
        desk=desk.desk(store, me),
        grading=0,
        trial=screening.trial(store, me),
        question=screening.QUESTION,
        longest=screening.LONGEST,
    )


@router.get("/screening/{handle}")
def one(request: Request, store: TheStore, me: Runs, handle: str, name: Annotated[bool, Query()] = False) -> Response:
    """One candidate, to be decided on; the name only where it is asked for."""
    return _one(request, store, me, handle, name)


@router.post("/screening/{handle}")
def decide(
    request: Request, store: TheStore, me: Runs, handle: str, decision: Text = "", words: Text = "", name: Tick = False
) -> Response:
    """Admit, decline, or take back into screening."""
    try:
        screening.decide(store, me, screening.one(store, handle), decision, words=words, named=name)
    except UserError as error:
        return _one(request, store, me, handle, name, 400, str(error))
    return RedirectResponse("/screening", 303)


def _one(
    request: Request, store: Store, me: Account, handle: str, name: bool, status: int = 200, problem: str = ""
) -> Response:
    found = screening.one(store, handle)
    return page(
        request,
        "screening_one.html",
        me,
        status,
        problem=problem,
        one=found,
        known=screening.name_of(store, found.account) if name else "",
        words=screening.DECLINED,
        longest=screening.LONGEST,
        scores=scores,
        told=told,
        question=screening.QUESTION,
    )
