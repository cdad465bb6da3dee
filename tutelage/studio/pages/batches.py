"""Batches: what is asked of whom, how often, and by which form; export."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.background import BackgroundTask

from tutelage.records import SPLITS, USE_CASES, UserError
from tutelage.studio import agreement, batches, forms, people, told
from tutelage.studio.accounts import Account
from tutelage.studio.app import Runs, Sees, TheStore, page
from tutelage.studio.export import export
from tutelage.studio.schema import MODES
from tutelage.studio.store import Store

router = APIRouter()
Text = Annotated[str, Form()]
Whole = Annotated[int, Form(ge=-(10**6), le=10**6)]
Tick = Annotated[bool, Form()]

LINES = 50
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in the archive, so that the same export has the same bytes


def _list(request: Request, store: Store, me: Account, status: int = 200, problem: str = "") -> Response:
    return page(
        request,
        "batches.html",
        me,
        status,
        problem=problem,
        found=batches.progress(store),
        splits=SPLITS,
        use_cases=USE_CASES,
        modes=MODES,
        teams=people.teams(store),
        form=(newest := forms.newest(store)),
        asked={row["name"] for row in forms.form(store, newest)["flags"]},
        questions=forms.QUESTIONS,
    )


@router.get("/batches")
def show(request: Request, store: TheStore, me: Sees) -> Response:
    """All batches with their progress, and the forms that make new ones."""
    return _list(request, store, me)


@router.post("/batches/demonstrate")
def demonstrate(
    request: Request,
    store: TheStore,
    me: Runs,
    name: Text = "",
    split: Text = "train",
    use_case: Annotated[list[str], Form()] = [],  # noqa: B006  FastAPI copies it
    number: Whole = 20,
    quota: Whole = 0,
    mode: Text = "helpful-first",
    overlap: Whole = 1,
    team: Text = "",
    priority: Whole = 0,
    again: Tick = False,
    screening: Tick = False,
) -> Response:
    """A batch of prompts to write responses to."""
    try:
        made = batches.add_demonstrate(
            store,
            name,
            split=split,
            use_cases=use_case,
            number=number,
            quota=quota,
            again=again,
            mode=mode,
            overlap=overlap,
            team=team,
            priority=priority,
            screening=screening,
            account=me,
        )
    except UserError as error:
        return _list(request, store, me, 400, str(error))
    return RedirectResponse(f"/batches/{made}", 303)


@router.post("/batches/compare")
def compare(
    request: Request,
    store: TheStore,
    me: Runs,
    files: Annotated[list[UploadFile], File()],
    name: Text = "",
    kind: Text = "compare",
    mode: Text = "helpful-first",
    overlap: Whole = 1,
    team: Text = "",
    priority: Whole = 0,
    screening: Tick = False,
) -> Response:
    """A batch of responses to rank, from the samples.jsonl of one or more `samples` runs."""
    try:
        if kind not in ("compare", "judge"):
            raise UserError(f"no kind {kind!r}; one of compare, judge")
        made = batches.add_compare(
            store,
            name,
            _samples(files),
            kind=kind,
            mode=mode,
            overlap=overlap,
            team=team,
            priority=priority,
            screening=screening,
            account=me,
        )
    except UserError as error:
        return _list(request, store, me, 400, str(error))
    return RedirectResponse(f"/batches/{made}", 303)


@router.post("/batches/form")
def form(
    request: Request,
    store: TheStore,
    me: Runs,
    question: Annotated[list[str], Form()] = [],  # noqa: B006  FastAPI copies it
) -> Response:
    """What is asked of every response, from now on: a new version of the form."""
    try:
        forms.publish(store, question, me.id)
    except UserError as error:
        return _list(request, store, me, 400, str(error))
    return RedirectResponse("/batches", 303)


def _samples(files: list[UploadFile]) -> batches.Rows:
    with tempfile.TemporaryDirectory(prefix="tutelage-") as folder:
        paths = []
        for number, file in enumerate(files, start=1):
            path = Path(folder) / f"file {number}"
            path.write_bytes(file.file.read())
            paths.append(path)
        try:
            return batches.read_samples(*paths)
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}/", "")) from None


@router.get("/batches/export.zip")
def download(
    store: TheStore,
    me: Runs,
    seed: Annotated[int, Query(ge=0, le=2**31)] = 0,
    what: Literal["compare", "judge", "both"] = "compare",
    team: Annotated[list[str], Query()] = [],  # noqa: B006
    votes: bool = False,
) -> Response:
    """Everything as one archive."""
    kinds = ("compare", "judge") if what == "both" else (what,)
    holder = tempfile.TemporaryDirectory(prefix="tutelage-")
    try:
        out, archive = Path(holder.name) / "export", Path(holder.name) / "export.zip"
        export(store, out, seed=seed, kinds=kinds, teams=[t for t in team if t], playground=votes)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted(out.iterdir()):
                entry = zipfile.ZipInfo(path.name, EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                with path.open("rb") as source, packed.open(entry, "w", force_zip64=True) as target:
                    while block := source.read(2**20):
                        target.write(block)
    except BaseException:
        holder.cleanup()
        raise
    gone = BackgroundTask(holder.cleanup)
    return FileResponse(archive, media_type="application/zip", filename="export.zip", background=gone)


@router.get("/batches/{number}")
def one(
    request: Request, store: TheStore, me: Sees, number: str, start: Annotated[int, Query(ge=0, le=10**9)] = 0
) -> Response:
    """A batch: progress, agreement, what was skipped and why, its items."""
    return _one(request, store, me, number, start)


@router.post("/batches/{number}")
def change(
    request: Request,
    store: TheStore,
    me: Runs,
    number: str,
    mode: Text = "helpful-first",
    overlap: Whole = 1,
    team: Text = "",
    priority: Whole = 0,
    open: Tick = False,
) -> Response:
    """Change a batch."""
    try:
        batches.change(store, me, number, overlap=overlap, mode=mode, team=team, priority=priority, open=open)
    except UserError as error:
        return _one(request, store, me, number, 0, 400, str(error))
    return RedirectResponse(f"/batches/{number}", 303)


def _one(
    request: Request, store: Store, me: Account, number: str, start: int, status: int = 200, problem: str = ""
) -> Response:
    batch = batches.one(store, number)
    return page(
        request,
        "batches_one.html",
        me,
        status,
        problem=problem,
        batch=batch,
        agreement=None if batch.kind == "demonstrate" or batch.screening else agreement.of_batch(store, number),
        skips=batches.skips(store, number),
        lines=batches.items_of(store, number, start, LINES),
        start=start,
        step=LINES,
        modes=MODES,
        teams=people.teams(store),
        told=told,
    )
