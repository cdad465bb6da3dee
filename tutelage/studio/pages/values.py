"""Whose values: groups of labelers, where they agree, where they do not, and what their reward models choose."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from tutelage.records import UserError
from tutelage.studio import groupmodel, harvest, playground, values
from tutelage.studio.accounts import Account
from tutelage.studio.app import Runs, Sees, TheProject, TheStore, page
from tutelage.studio.project import Project
from tutelage.studio.store import Store

router = APIRouter()


@router.get("/values")
def show(request: Request, store: TheStore, project: TheProject, me: Sees) -> Response:
    """Groups, agreement, conflicts, and the groups' reward models."""
    return _page(request, store, project, me)


@router.post("/values/train")
def train(
    request: Request, store: TheStore, project: TheProject, me: Runs, group: Annotated[str, Form()] = ""
) -> Response:
    """Train the reward model of one group."""
    if group not in {r.group for r in harvest.verdicts(store)}:
        raise HTTPException(404, "no group of that name has ranked anything")
    try:
        groupmodel.start(store, project, group)
    except UserError as error:
        return _page(request, store, project, me, status=409, problem=str(error))
    return RedirectResponse("/values#models", 303)


@router.post("/values/stop")
def stop(request: Request, store: TheStore, project: TheProject, me: Runs) -> Response:
    """Stop the training; it can go on later."""
    try:
        groupmodel.stop(project)
    except UserError as error:
        return _page(request, store, project, me, status=409, problem=str(error))
    return RedirectResponse("/values#models", 303)


@router.get("/api/values/training")
def training(project: TheProject, me: Sees) -> Response:
    """Which group's model is being trained: {"group": name or null}."""
    return JSONResponse({"group": groupmodel.training(project)})


def _page(
    request: Request, store: Store, project: Project, me: Account, *, status: int = 200, problem: str = ""
) -> Response:
    rankings = harvest.verdicts(store)
    held_out = values.held_out(store)
    able = [r for r in harvest.verdicts(store, ("compare",)) if r.prompt_id not in held_out and r.pairs()]
    found = values.groups(rankings, able)
    models = {g.name: groupmodel.look(project, g.name) for g in found}
    scored = {name: m.scores for name, m in models.items() if m.scores}
    conflicts = values.conflicts(rankings)
    return page(
        request,
        "values.html",
        me,
        status,
        problem=problem,
        groups=found,
        pairings=values.agreements(rankings),
        conflicts=conflicts,
        texts=values.texts(store, conflicts),
        models=models,
        scored=scored,
        chosen={
            (c.prompt_id, c.responses, name): values.choice(c.responses, scores)
            for c in conflicts
            for name, scores in scored.items()
        },
        unlike=[(a, b, *values.unlike(rankings, scored[a], scored[b])) for a, b in combinations(scored, 2)],
        foretold={
            (model, g.name): values.foretells([r for r in rankings if r.group == g.name], scores, held_out)
            for model, scores in scored.items()
            for g in found
        },
        needed=groupmodel.NEEDED,
        rounds=playground.finished(project),
    )
