"""People: accounts, invitations, agreement, a page per labeler, the survey."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from tutelage.records import UserError
from tutelage.studio import accounts, people, screening, survey, told
from tutelage.studio.accounts import Account
from tutelage.studio.app import Anyone, Runs, Sees, TheStore, page, site_of
from tutelage.studio.schema import ROLES
from tutelage.studio.store import Store

router = APIRouter()
Text = Annotated[str, Form()]
Tick = Annotated[bool, Form()]

PASSWORD_BYTES = 12  # of chance in a password that an admin hands over


def _list(
    request: Request, store: Store, me: Account, status: int = 200, problem: str = "", link: str = ""
) -> Response:
    return page(
        request,
        "people.html",
        me,
        status,
        problem=problem,
        link=link,
        found=people.people(store),
        open=people.invited(store),
        screened=screening.screened_first(store),
        roles=ROLES,
        teams=people.teams(store),
        told=told,
    )


@router.get("/people")
def show(request: Request, store: TheStore, me: Sees) -> Response:
    """Accounts and invitations."""
    return _list(request, store, me)


@router.post("/people/invite")
def invite(request: Request, store: TheStore, me: Runs, role: Text = "labeler", team: Text = "") -> Response:
    """Make an invitation; its link is on the page that comes back, and nowhere else."""
    try:
        if len(team) > 64 or not team.isprintable():
            raise UserError("the group's name must have at most 64 characters")
        token = accounts.invite(store, me, role, team)
    except UserError as error:
        return _list(request, store, me, 400, str(error))
    return _list(request, store, me, link=site_of(request).link(request, f"/join/{token}"))


@router.post("/people/withdraw")
def withdraw(request: Request, store: TheStore, me: Runs, invitation: Text = "") -> Response:
    """Make an invitation useless before its time."""
    try:
        accounts.withdraw(store, me, invitation)
    except UserError as error:
        return _list(request, store, me, 400, str(error))
    return RedirectResponse("/people", 303)


@router.post("/people/screening")
def screen_first(store: TheStore, me: Runs, on: Tick = False) -> Response:
    """Whether new labelers are screened first."""
    screening.screen_first(store, me, on)
    return RedirectResponse("/people", 303)


@router.get("/people/{number}")
def one(request: Request, store: TheStore, me: Sees, number: str) -> Response:
    """One account: what was done, how fast, and how it agrees with the others."""
    return _one(request, store, me, number)


@router.post("/people/{number}")
def change(
    request: Request,
    store: TheStore,
    me: Runs,
    number: str,
    role: Text = "labeler",
    team: Text = "",
    active: Tick = False,
) -> Response:
    """Change role, group, or whether the account is open."""
    _there(store, number)
    try:
        if len(team) > 64 or not team.isprintable():
            raise UserError("the group's name must have at most 64 characters")
        accounts.change(store, me, number, role=role, team=team, active=active)
    except UserError as error:
        return _one(request, store, me, number, 400, str(error))
    return _one(request, store, me, number, told_so="saved")


@router.post("/people/{number}/password")
def reset(request: Request, store: TheStore, me: Runs, number: str) -> Response:
    """Give an account a new password, shown once; its sessions end."""
    _there(store, number)
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    accounts.set_password(store, number, password, me)
    return _one(request, store, me, number, password=password)


def _there(store: Store, number: str) -> None:
    if not people.people(store, number):
        raise HTTPException(404, "there is no such account")


def _one(
    request: Request,
    store: Store,
    me: Account,
    number: str,
    status: int = 200,
    problem: str = "",
    password: str = "",
    told_so: str = "",
) -> Response:
    _there(store, number)
    return page(
        request,
        "people_one.html",
        me,
        status,
        problem=problem,
        password=password,
        told_so=told_so,
        labeler=people.labeler(store, number),
        roles=ROLES,
        teams=people.teams(store),
        told=told,
    )


@router.get("/survey")
def ask(request: Request, me: Anyone) -> Response:
    """The two surveys, to be answered or not."""
    return page(request, "survey.html", me, surveys=survey.SURVEYS, titles=survey.TITLES, thanks="")


async def sent(request: Request) -> dict[str, list[str]]:
    """All fields of a form whose names are not fixed."""
    form = await request.form()
    return {name: [value for value in form.getlist(name) if isinstance(value, str)] for name in form}


@router.post("/survey/{kind}")
def answered(
    request: Request, store: TheStore, me: Anyone, kind: str, given: Annotated[dict[str, list[str]], Depends(sent)]
) -> Response:
    """Keep the answers, without a trace of whose they are."""
    try:
        survey.answer(store, kind, given)
    except UserError as error:
        return page(
            request, "survey.html", me, 400, surveys=survey.SURVEYS, titles=survey.TITLES, thanks="", problem=str(error)
        )
    return page(request, "survey.html", me, surveys=survey.SURVEYS, titles=survey.TITLES, thanks=kind)


@router.get("/survey/results")
def results(request: Request, store: TheStore, me: Runs) -> Response:
    """What was answered, counted."""
    return page(
        request, "survey_results.html", me, found=survey.results(store), titles=survey.TITLES, enough=survey.ENOUGH
    )
