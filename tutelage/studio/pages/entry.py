"""Coming in and going out: the first account, login, invitations, the home page."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from tutelage.records import UserError
from tutelage.studio import accounts, desk, screening
from tutelage.studio.app import COOKIE, Anyone, TheStore, page, visitor
from tutelage.studio.pages.screening import candidate_page
from tutelage.studio.security import on_this_machine
from tutelage.studio.store import Store

router = APIRouter()
Text = Annotated[str, Form()]


def enter(request: Request, token: str) -> Response:
    """Hand over a session's cookie and go home."""
    answer = RedirectResponse("/", 303)
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    answer.set_cookie(COOKIE, token, max_age=int(accounts.SESSION), httponly=True, samesite="lax", secure=secure)
    return answer


@router.get("/")
def home(request: Request, store: TheStore, kept: str = "") -> Response:
    """What there is to do, for whoever it is; setting up where nobody is there yet."""
    me = visitor(request)
    if me is None:
        return RedirectResponse("/login" if accounts.any_account(store) else "/setup", 303)
    if me.candidate or me.declined:
        return candidate_page(request, store, me, kept=kept == "topics")
    if me.labels:
        return page(request, "desk.html", me, desk=desk.desk(store, me), grading=0)
    return RedirectResponse("/loop", 303)


@router.get("/setup")
def setup_page(request: Request, store: TheStore) -> Response:
    """The first account: an admin."""
    _only_once(request, store)
    return page(request, "setup.html")


@router.post("/setup")
def setup(request: Request, store: TheStore, name: Text = "", password: Text = "") -> Response:
    """Make the first account and log it in."""
    _only_once(request, store)
    try:
        made = accounts.create(store, name, password, "admin")
    except UserError as error:
        return page(request, "setup.html", status=400, problem=str(error), typed=name)
    return enter(request, accounts.open_session(store, made.id))


def _only_once(request: Request, store: Store) -> None:
    if accounts.any_account(store):
        raise HTTPException(403, "this studio is set up already; log in, or ask its admin for an invitation")
    address = request.client.host if request.client else ""
    if not (request.app.state.local and on_this_machine(address, request.headers.get("host", ""))):
        raise HTTPException(403, "the first account is made on the studio's own machine: `tutelage account`")


@router.get("/login")
def login_page(request: Request, store: TheStore) -> Response:
    """Name and password."""
    if not accounts.any_account(store) and request.app.state.local:
        return RedirectResponse("/setup", 303)
    return page(request, "login.html", visitor(request))


@router.post("/login")
def login(request: Request, store: TheStore, name: Text = "", password: Text = "") -> Response:
    """Log in; ten failures a minute, for a name or an address, are enough."""
    throttle = request.app.state.throttle
    keys = f"name:{accounts.as_login(name)[:200]}", f"from:{request.client.host if request.client else ''}"
    with throttle.turn:
        if throttle.blocked(*keys):
            return page(request, "login.html", status=429, problem="too many tries; wait a minute", typed=name)
        token = accounts.login(store, name, password)
        if token is None:
            throttle.fail(*keys)
    if token is None:
        return page(request, "login.html", status=401, problem="the name or the password is wrong", typed=name)
    return enter(request, token)


@router.post("/logout")
def logout(request: Request, store: TheStore, me: Anyone) -> Response:
    """End this session."""
    accounts.logout(store, request.cookies[COOKIE])
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/join/{token}")
def join_page(request: Request, store: TheStore, token: str) -> Response:
    """An invitation: choose a name and a password."""
    found = accounts.invitation(store, token)
    if found is None:
        raise HTTPException(404, "this invitation was used already or ran out; ask for a new one")
    return page(request, "join.html", token=token, role=found.role, screened=_screened(store, found.role))


def _screened(store: Store, role: str) -> bool:
    """Whether who joins in this role is a candidate first."""
    return role == "labeler" and screening.screened_first(store)


@router.post("/join/{token}")
def join(request: Request, store: TheStore, token: str, name: Text = "", password: Text = "") -> Response:
    """Use an invitation and log in."""
    try:
        made = accounts.join(store, token, name, password)
    except UserError as error:
        found = accounts.invitation(store, token)
        if found is None:
            raise HTTPException(404, str(error)) from None
        told = {"role": found.role, "screened": _screened(store, found.role), "problem": str(error), "typed": name}
        return page(request, "join.html", status=400, token=token, **told)
    return enter(request, accounts.open_session(store, made.id))
