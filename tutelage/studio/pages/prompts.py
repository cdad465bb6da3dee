"""Prompts: what was brought in, by file or by hand, and what the paper's collection rules dropped."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import RedirectResponse, Response

from tutelage.records import PROMPT_KINDS, SPLITS, USE_CASES, UserError
from tutelage.studio import aside, catalogue, intake, told
from tutelage.studio.accounts import Account
from tutelage.studio.app import Runs, Sees, TheStore, page
from tutelage.studio.store import Store

router = APIRouter()
Text = Annotated[str, Form()]
Texts = Annotated[list[str], Form()]
Tick = Annotated[bool, Form()]

SHOTS = 6
"""Examples that the form for few-shot prompts has room for."""


def _list(
    request: Request, store: Store, me: Account, filters: catalogue.Filters, status: int = 200, problem: str = ""
) -> Response:
    return page(
        request,
        "prompts.html",
        me,
        status,
        problem=problem,
        found=catalogue.find(store, filters),
        filters=filters,
        splits=SPLITS,
        use_cases=USE_CASES,
        kinds=PROMPT_KINDS,
        flags=intake.PROMPT_FLAGS,
        shots=SHOTS,
        imports=catalogue.imported(store),
    )


@router.get("/prompts")
def show(
    request: Request,
    store: TheStore,
    me: Sees,
    split: str = "",
    use_case: str = "",
    kind: str = "",
    words: str = "",
    start: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> Response:
    """All prompts, a page at a time, and what was imported."""
    return _list(request, store, me, catalogue.Filters(split, use_case, kind, words.replace("\0", ""), start))


@router.post("/prompts")
def write(
    request: Request,
    store: TheStore,
    me: Runs,
    text: Text = "",
    use_case: Text = "other",
    kind: Text = "plain",
    user: Text = "",
    flags: Texts = [],  # noqa: B006  FastAPI copies it
    query: Texts = [],  # noqa: B006
    response: Texts = [],  # noqa: B006
) -> Response:
    """Add a prompt by hand; a few-shot one with its examples."""
    try:
        if kind == "few-shot":
            shots = list(zip(query, response, strict=False))
            made = intake.write_few_shot(store, me, text, shots, use_case=use_case, flags=flags)[0]
        else:
            made = intake.write_prompt(store, me, text, use_case=use_case, kind=kind, flags=flags, user=user)
    except UserError as error:
        return _list(request, store, me, catalogue.Filters(), 400, str(error))
    return RedirectResponse(f"/prompts/{made}", 303)


@router.get("/prompts/import")
def choose(request: Request, me: Runs) -> Response:
    """A file to bring in, and which shapes are known."""
    return page(request, "prompts_import.html", me, ignore="")


@router.post("/prompts/import")
def bring(
    request: Request, store: TheStore, me: Runs, file: Annotated[UploadFile, File()], ignore: Text = ""
) -> Response:
    """Bring a file in; what was dropped is on the page that follows."""
    try:
        columns = [name.strip() for name in ignore.split(",") if name.strip()]
        done = intake.bring_in(store, me, file.filename or "", file.file.read(), ignore=columns)
    except UserError as error:
        return page(request, "prompts_import.html", me, 400, problem=str(error), ignore=ignore)
    return RedirectResponse(f"/prompts/import/{done.id}", 303)


@router.get("/prompts/import/{number}")
def brought(request: Request, store: TheStore, me: Sees, number: str) -> Response:
    """One import: what was kept, what was dropped, and why."""
    found = catalogue.imported(store, number)
    if not found:
        raise HTTPException(404, "there is no such import")
    return page(request, "prompts_brought.html", me, done=found[0])


@router.post("/prompts/aside")
def set_aside(
    store: TheStore,
    me: Sees,
    prompt: Text = "",
    answer: Text = "",
    reason: Text = "",
    back: Annotated[bool, Form()] = False,
) -> Response:
    """Set a prompt or an answer aside, or take it back."""
    found = aside.mark(store, me, prompt=prompt, answer=answer, reason=reason, back=back)
    return RedirectResponse(f"/prompts/{quote(found, safe='')}", 303)


@router.get("/prompts/{name:path}")
def one(request: Request, store: TheStore, me: Sees, name: str) -> Response:
    """A prompt with everything that was answered to it."""
    found = catalogue.one(store, name)
    if found is None:
        raise HTTPException(404, "there is no such prompt")
    return page(request, "prompts_one.html", me, found=found, told=told)
