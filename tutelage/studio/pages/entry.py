"""Coming in and going out: the first account, login, invitations, one's own password, the home page."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from tutelage.records import UserError
from tutelage.studio import accounts, desk, screening, throttle
from tutelage.studio.app import COOKIE, Anyone, TheStore, page, site_of, visitor
from tutelage.studio.pages.screening import candidate_page
from tutelage.studio.store import Store
from tutelage.studio.throttle import Attempt
from tutelage.studio.turns import Busy

router = APIRouter()
Text = Annotated[str, Form()]

NO_ADMIN = (
    "this studio has no admin yet. Its terminal printed an address when it started, which opens this page once; "
    "or make the account there, with `tutelage account FOLDER NAME --role admin`"
)

TOO_MANY = "too many tries; wait a while, or use a browser that has logged into this account before"


def enter(request: Request, store: Store, account: str, token: str, to: str = "/") -> Response:
    """Hand over a session's cookie, remember this browser as one of the account's, and go home."""
    answer = RedirectResponse(to, 303)
    _set_cookie(request, answer, COOKIE, token, int(accounts.SESSION))
    row = accounts.credentials(store, account=account)
    if row is not None:
        device = throttle.device_cookie(request.cookies.get(throttle.COOKIE, ""), row.id, row.password)
        _set_cookie(request, answer, throttle.COOKIE, device, throttle.COOKIE_AGE)
    return answer


def _set_cookie(request: Request, answer: Response, name: str, value: str, seconds: int) -> None:
    site = site_of(request)
    secure = site.https(request)
    answer.set_cookie(name, value, max_age=seconds, path=site.cookie_path, httponly=True, samesite="lax", secure=secure)


@router.get("/")
def home(request: Request, store: TheStore, kept: str = "") -> Response:
    """What there is to do, for whoever it is; setting up where nobody runs the studio yet."""
    me = visitor(request)
    if me is None:
        return RedirectResponse("/login" if accounts.has_admin(store) else "/setup", 303)
    if me.candidate or me.declined:
        return candidate_page(request, store, me, kept=kept == "topics")
    if me.labels:
        return page(request, "desk.html", me, desk=desk.desk(store, me), grading=0)
    return RedirectResponse("/loop", 303)


@router.get("/setup")
def setup_page(request: Request, store: TheStore, token: str = "") -> Response:
    """The first account: an admin."""
    _first_admin(request, store, token)
    return page(request, "setup.html", token=token)


@router.post("/setup")
def setup(request: Request, store: TheStore, token: str = "", name: Text = "", password: Text = "") -> Response:
    """Make the first admin and log them in."""
    _first_admin(request, store, token)
    try:
        made = accounts.set_up(store, name, password)
    except UserError as error:
        return page(request, "setup.html", status=400, problem=str(error), typed=name, token=token)
    request.app.state.setup = ""
    return enter(request, store, made.id, accounts.open_session(store, made.id))


def _first_admin(request: Request, store: Store, token: str) -> None:
    """Let through who holds the token that the terminal printed, while there is no admin."""
    if accounts.has_admin(store):
        raise HTTPException(403, "this studio is set up already; log in, or ask its admin for an invitation")
    kept = request.app.state.setup
    if not (kept and hmac.compare_digest(accounts.digest(token), kept)):
        raise HTTPException(403, NO_ADMIN)


@router.get("/login")
def login_page(request: Request, store: TheStore) -> Response:
    """Name and password."""
    if not accounts.has_admin(store):
        return RedirectResponse("/setup", 303)
    return page(request, "login.html", visitor(request))


@router.post("/login")
def login(request: Request, store: TheStore, name: Text = "", password: Text = "") -> Response:
    """Log in, unless there were too many failures: see `throttle`."""
    limits, row = request.app.state.throttle, accounts.credentials(store, login=name[:200])
    cookie = request.cookies.get(throttle.COOKIE, "")
    device = throttle.device_of(cookie, row.id, row.password) if row is not None else ""
    address = request.client.host if request.client else ""
    attempt = Attempt(accounts.as_login(name[:200]), throttle.network_of(address), device)
    with limits.turn:
        if limits.blocked(attempt):
            return page(request, "login.html", status=429, problem=TOO_MANY, typed=name)
        token = accounts.login(store, name, password)
        if token is None:
            limits.fail(attempt)
    if token is None or row is None:
        return page(request, "login.html", status=401, problem="the name or the password is wrong", typed=name)
    limits.succeed(attempt)
    return enter(request, store, row.id, token)


@router.post("/logout")
def logout(request: Request, store: TheStore, me: Anyone) -> Response:
    """End this session."""
    accounts.logout(store, request.cookies[COOKIE])
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, path=site_of(request).cookie_path)
    return answer


@router.get("/account")
def account_page(request: Request, me: Anyone, saved: bool = False) -> Response:
    """One's own account: a new password."""
    return page(request, "account.html", me, saved=saved)


@router.post("/account/password")
def change_password(request: Request, store: TheStore, me: Anyone, present: Text = "", password: Text = "") -> Response:
    """Change one's own password. Whoever found a screen unlocked may try the present one no oftener than a login."""
    limits, attempt = request.app.state.throttle, Attempt(me.name, "", device=f"account:{me.id}")
    with limits.turn:
        if limits.blocked(attempt):
            return page(request, "account.html", me, 429, problem=TOO_MANY, saved=False)
        try:
            accounts.change_password(store, me, present, password, request.cookies[COOKIE])
        except Busy:
            raise
        except UserError as error:
            if isinstance(error, accounts.WrongPassword):
                limits.fail(attempt)
            return page(request, "account.html", me, 400, problem=str(error), saved=False)
    return enter(request, store, me.id, request.cookies[COOKIE], "/account?saved=true")


@router.get("/join/{token}")
def join_page(request: Request, store: TheStore, token: str) -> Response:
    """An invitation: choose a name and a password."""
    found = accounts.invitation(store, token)
    if found is None:
        raise HTTPException(404, accounts.USELESS)
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
    return enter(request, store, made.id, accounts.open_session(store, made.id))
