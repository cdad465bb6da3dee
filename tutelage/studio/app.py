"""The web application: who is asking, what they may do, and the pages put together.

`build` makes an application from a folder and a store; nothing is global, so tests run several side by side.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.exceptions import HTTPException as AnyHTTPException

from tutelage.records import FieldError, UserError
from tutelage.studio import accounts, markdown
from tutelage.studio.accounts import Account
from tutelage.studio.address import Rooted, Site
from tutelage.studio.limits import ACCOUNT, AGAIN, Limits
from tutelage.studio.project import Project
from tutelage.studio.queue import Gone
from tutelage.studio.security import HEADERS, Guard
from tutelage.studio.store import Store, Unavailable
from tutelage.studio.throttle import Throttle
from tutelage.studio.turns import Busy

COOKIE = "tutelage_session"
HERE = Path(__file__).parent


class Login(Exception):
    """Nobody is logged in, and the page needs somebody."""


def build(project: Project, store: Store, *, site: Site | None = None, setup: str = "") -> FastAPI:
    """The application. site: where people reach it; setup: the token that lets its holder become the first admin."""
    from tutelage.studio.pages import ROUTERS

    app = FastAPI(title="Tutelage studio", docs_url=None, redoc_url=None, openapi_url=None)
    site = site or Site()
    app.state.project, app.state.store, app.state.site = project, store, site
    app.state.setup = accounts.digest(setup) if setup else ""
    app.state.throttle, app.state.templates = Throttle(), environment(site.path)
    app.add_middleware(Limits, visitor=visitor, login=_logged_out, refuse=_sorry)
    app.add_middleware(Guard, site=site)  # the outermost, so that whatever is refused has its headers
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(Login, _to_login)
    app.add_exception_handler(UserError, _sorry)
    app.add_exception_handler(FieldError, _problem(422))
    app.add_exception_handler(Gone, _problem(409))
    app.add_exception_handler(AnyHTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _broken)
    return app


def environment(base: str = "") -> Environment:
    """The templates: everything escaped, unknown names are errors, files addressed by their content.

    base: the public path, which stands before every address.
    """
    env = Environment(
        loader=PackageLoader("tutelage.studio"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Rooted],
    )
    env.globals["base"], env.globals["static"] = base, lambda name: base + _static_url(name)
    env.filters["markdown"] = markdown.render
    return env


@functools.cache
def _static_url(name: str) -> str:
    """/static/name?v=digest: browsers keep a file until it changes, which it does not while the studio runs."""
    return f"/static/{name}?v={hashlib.sha256((HERE / 'static' / name).read_bytes()).hexdigest()[:8]}"


# ---- what routes ask for ---------------------------------------------------------------------------------------


def store_of(request: Request) -> Store:
    """The studio's database."""
    found: Store = request.app.state.store
    return found


def project_of(request: Request) -> Project:
    """The studio's folder and settings."""
    found: Project = request.app.state.project
    return found


def site_of(request: Request) -> Site:
    """Where people reach the studio."""
    found: Site = request.app.state.site
    return found


def visitor(request: Request) -> Account | None:
    """Who is logged in, if anybody."""
    if ACCOUNT in request.scope:  # `Limits` looked them up
        known: Account | None = request.scope[ACCOUNT]
        return known
    token = request.cookies.get(COOKIE)
    return accounts.account_of(store_of(request), token) if token else None


def needs(*roles: str) -> Callable[[Request], Account]:
    """A dependency: the account that asks, of one of these roles (any when none is named)."""

    def account(request: Request) -> Account:
        found = visitor(request)
        if found is None:
            raise Login
        if roles and found.role not in roles:
            raise HTTPException(403, "this page is for " + " and ".join(f"{r}s" for r in roles))
        return found

    return account


TheStore = Annotated[Store, Depends(store_of)]
TheProject = Annotated[Project, Depends(project_of)]
Anyone = Annotated[Account, Depends(needs())]
Sees = Annotated[Account, Depends(needs("reviewer", "admin"))]
Runs = Annotated[Account, Depends(needs("admin"))]


def _candidate(me: Anyone) -> Account:
    if not me.candidate:
        raise HTTPException(403, "this is for those who are being screened")
    return me


def _inside(me: Anyone) -> Account:
    if me.candidate or me.declined:
        raise HTTPException(403, "this page is for those who were admitted")
    return me


Candidate = Annotated[Account, Depends(_candidate)]
Inside = Annotated[Account, Depends(_inside)]


def home_of(me: Account) -> str:
    """Where an account's tasks wait. Researchers, who come home to the loop, have a desk beside it."""
    return "/" if me.labels else "/desk"


def page(request: Request, name: str, account: Account | None = None, status: int = 200, **more: Any) -> HTMLResponse:
    """A template as a response; every page knows who is asking and what the studio is called."""
    template = request.app.state.templates.get_template(name)
    values = {"me": account, "project": project_of(request), "path": request.url.path, "problem": "", "typed": ""}
    error, headers = sys.exc_info()[1], None
    if isinstance(error, Busy | Unavailable):  # shown by a route that catches every UserError, as its own refusals
        status, headers = 429 if isinstance(error, Busy) else 503, AGAIN
    return HTMLResponse(template.render(values | more), status, headers)


def wants_json(request: Request) -> bool:
    """Whether a script is asking rather than a person's browser."""
    return request.url.path.startswith("/api/") or "application/json" in request.headers.get("accept", "")


# ---- what goes wrong -------------------------------------------------------------------------------------------


def _to_login(request: Request, _: Exception) -> Response:
    return _logged_out(request)


def _logged_out(request: Request) -> Response:
    if wants_json(request):
        return JSONResponse({"problem": "you are logged out; log in in another tab, nothing written here is lost"}, 401)
    if request.headers.get("content-length", "0") != "0":  # a filled form: a redirect would throw it away
        return page(request, "logged_out.html", status=401)
    return RedirectResponse("/login", 303)


def _problem(status: int, headers: Mapping[str, str] | None = None) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        if wants_json(request):
            return JSONResponse({"problem": str(error)}, status, headers)
        account = None
        with contextlib.suppress(Unavailable):
            account = visitor(request)
        found = page(request, "problem.html", account, status, problem=str(error))
        found.headers.update(headers or {})
        return found

    return answer


def _sorry(request: Request, error: Exception) -> Response:
    """What may not be, or may not be now; `Limits` refuses with it too."""
    if isinstance(error, AnyHTTPException):
        return _refused(request, error)
    if isinstance(error, Busy):
        return _problem(429, AGAIN)(request, error)
    return (_problem(503, AGAIN) if isinstance(error, Unavailable) else _problem(400))(request, error)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    said = {404: "there is no such page", 405: "this address does not take such a request"}
    detail = str(error.detail if isinstance(error, HTTPException) else said.get(error.status_code, error.detail))
    if "exceeded maximum size of 1024KB" in detail:  # Starlette's words; it calls a field a part, or a field
        detail = "one field of the form holds more than 1 MB; bring long texts in as a file"
    return _problem(error.status_code, error.headers)(request, UserError(detail))


def _malformed(request: Request, error: Exception) -> Response:
    """What FastAPI found wrong with a request, as one line."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return _problem(422)(request, UserError(f"{where}: {first['msg']}" if where else str(first["msg"])))


def _broken(request: Request, _: Exception) -> Response:
    """A mistake of ours. The server's log has the traceback; nothing was saved, for transactions are whole."""
    text = "something went wrong inside the studio; nothing was saved. Its terminal says what."
    if wants_json(request):
        return JSONResponse({"problem": text}, 500, HEADERS)
    home = site_of(request).path + "/"
    return HTMLResponse(f"<!doctype html><title>Tutelage</title><p>{text} <a href='{home}'>Go home</a>", 500, HEADERS)
