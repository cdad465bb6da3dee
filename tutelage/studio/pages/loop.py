"""The loop on one page: what is there, what is missing, the next action, and the rounds as they train."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response

from tutelage.records import UserError
from tutelage.studio import decisions, groupmodel, overview, rounds
from tutelage.studio.app import Runs, Sees, TheProject, TheStore, page
from tutelage.studio.live import live
from tutelage.studio.project import Project
from tutelage.studio.rounds import Round, Wish
from tutelage.studio.security import REPORT_POLICY
from tutelage.studio.store import Store

router = APIRouter()
Number = Annotated[int, Form()]


@router.get("/loop")
def loop(request: Request, store: TheStore, project: TheProject, me: Sees) -> Response:
    """Counts, what is missing, the next action."""
    rounds.settle(store)
    view = overview.overview(store)
    return page(request, "loop.html", me, view=view, wish=Wish(k=project.settings.k), enough=overview.ENOUGH_RANKED)


@router.post("/rounds")
def start(
    store: TheStore,
    project: TheProject,
    me: Runs,
    groups: Annotated[list[str] | None, Form()] = None,
    offered: Number = 0,
    k: Number = 0,
    next_prompts: Number = 30,
    judge_prompts: Number = 12,
    overlap: Number = 1,
) -> Response:
    """Start the next round."""
    rounds.settle(store)
    overview.overview(store)  # the policy in use follows the judgements there are when the round starts
    wish = Wish(tuple(groups or ()), k, next_prompts, judge_prompts, overlap)
    if offered and not wish.groups:
        raise UserError("choose at least one group whose rankings train the reward model")
    if max(next_prompts, judge_prompts) > 1000:
        raise UserError("at most 1,000 prompts a batch")
    _alone(project)
    return RedirectResponse(f"/rounds/{rounds.start(store, project, me, wish)}", 303)


@router.get("/rounds/{number}")
def show(request: Request, store: TheStore, me: Sees, number: int) -> Response:
    """One round: live while it trains, then what changed."""
    found = _found(store, number)
    told = overview.result(found) if found.state == "finished" else None
    wins = overview.blind(store, found, told) if told else None
    latest = rounds.all_rounds(store)[0].number == number
    values: dict[str, Any] = {"round": found, "live": live(found), "told": told, "wins": wins, "latest": latest}
    values["standing"] = decisions.standing(store, found, told, wins) if told else None
    return page(request, "round.html", me, **values)


@router.get("/api/rounds/{number}")
def poll(request: Request, store: TheStore, me: Sees, number: int) -> Response:
    """What changed since the page was made: {"state", "parts": {element id: its inner HTML}}."""
    found = _found(store, number)
    templates = request.app.state.templates
    module = templates.get_template("round_live.html").make_module()
    view = live(found)
    parts = {
        "live-stage": str(module.stage(found, view)),
        "live-curves": str(module.curves(view)),
        "live-samples": str(module.samples(view)),
        "live-log": str(module.log(view)),
    }
    return JSONResponse({"state": found.state, "parts": parts})


@router.post("/rounds/{number}/stop")
def stop(store: TheStore, me: Runs, number: int) -> Response:
    """Stop it; it can go on later."""
    _found(store, number)
    rounds.stop(store, number, me)
    return RedirectResponse(f"/rounds/{number}", 303)


@router.post("/rounds/{number}/resume")
def resume(store: TheStore, project: TheProject, me: Runs, number: int) -> Response:
    """Go on with it."""
    _found(store, number)
    _alone(project)
    rounds.resume(store, number, me)
    return RedirectResponse(f"/rounds/{number}", 303)


@router.post("/rounds/{number}/decide")
def decide(store: TheStore, project: TheProject, me: Runs, number: int, choice: Annotated[str, Form()]) -> Response:
    """Go on with a round that waits, as was chosen."""
    _found(store, number)
    _alone(project)
    rounds.decide(store, number, me, choice)
    return RedirectResponse(f"/rounds/{number}", 303)


@router.post("/rounds/{number}/keep")
def keep(store: TheStore, project: TheProject, me: Runs, number: int, policy: Annotated[str, Form()]) -> Response:
    """Choose which policy of a finished round stays in use."""
    _found(store, number)
    _alone(project)
    decisions.keep(store, number, me, policy)
    return RedirectResponse(f"/rounds/{number}", 303)


@router.get("/rounds/{number}/report")
def report(store: TheStore, me: Sees, number: int) -> Response:
    """The report the round left."""
    path = _found(store, number).folder / "report.html"
    if not path.is_file():
        raise HTTPException(404, f"round {number} has no report: it is not finished, or its folder was removed")
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})


def _alone(project: Project) -> None:
    """A round and a group's reward model would only slow each other down."""
    if group := groupmodel.training(project):
        raise UserError(f"the reward model of group {group!r} is being trained; wait until it ends, or stop it")


def _found(store: Store, number: int) -> Round:
    rounds.settle(store)
    try:
        return rounds.one(store, number)
    except UserError as error:
        raise HTTPException(404, str(error)) from None
