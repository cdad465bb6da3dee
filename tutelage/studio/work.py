"""A task as the labeler sees it, blind and shuffled, and what they send back, checked and put in the stored order.

The page never learns ids or model names: responses are numbered by the shuffled place they are shown at. Bodies:

    demonstrate      {"response": text, "rows": [{"query", "response"}]}
    compare, judge   {"ranks": [1, 2, 2], "ratings": [{"likert", "flags", "note"}], "touched": bool, "edited": text,
                      "log": [["start", place, rank], ..., ["rank", place, rank], ...]}

`rows` are further query/response pairs for the same instruction; only few-shot prompts have them.

ranks and ratings arrive in the order shown and are stored in the order of the item's responses. `log` says what the
page proposed ("start") and what the labeler did ("rank"), place by place as shown; it is stored as it came. Replaying
it must give the ranks that were sent, so that neither can be wrong alone. `edited` is the best response as the labeler
would have it: a demonstration; "" where it was left alone.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from tutelage.records import FieldError, Rating
from tutelage.studio import queue
from tutelage.studio.queue import Gone
from tutelage.studio.schema import accounts, answers, assignments, batches, forms, items, prompts, responses
from tutelage.studio.store import Store

LONGEST = 100_000
"""Characters of a written answer or note, at most."""
LONGEST_DRAFT = 2_000_000
"""Characters of a draft as JSON, at most: nine notes and an edited response, each as long as it may be."""
MOST_ROWS = 32
"""Query/response pairs in one answer to a few-shot prompt, at most."""
MOST_STEPS = 10_000

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One assignment, ready to be shown. `texts` are the responses in the order shown."""

    assignment: str
    fence: int
    kind: str
    state: str
    mode: str
    batch: str
    prompt_id: str
    prompt: str
    use_case: str
    prompt_kind: str
    flags: tuple[str, ...]
    order: tuple[int, ...]  # order[place shown] = index among the item's responses; never sent to the page
    texts: tuple[str, ...]
    form: Body
    draft: Body | None
    draft_no: int
    seconds: float
    expires: float
    earlier: Body | None  # this labeler's latest answer, in the order shown


def order_of(seed: int, count: int) -> list[int]:
    """order[place shown] = index among the item's responses; the same for the same seed everywhere."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def task(store: Store, account: str, assignment: str) -> Task:
    """The task of one of the labeler's own assignments. Raises Gone for anybody else's, and for what this labeler's
    standing keeps from them: ordinary tasks while they are screened, screening tasks once they were."""
    with store.read() as tx:
        row = _shown(tx, account, assignment)
        found = tx.execute(sa.select(responses.c.id, responses.c.text).where(responses.c.id.in_(row.responses)))
        by_id: dict[str, str] = {r.id: r.text for r in found}
        latest = tx.execute(
            sa.select(answers.c.body)
            .where(answers.c.item_id == row.item_id, answers.c.account_id == account)
            .order_by(answers.c.number.desc())
        ).first()
    order = order_of(row.order_seed, len(row.responses))
    return Task(
        assignment=row.id,
        fence=row.fence,
        kind=row.kind,
        state=row.state,
        mode=row.mode,
        batch=row.batch,
        prompt_id=row.prompt_id,
        prompt=row.text,
        use_case=row.use_case,
        prompt_kind=row.prompt_kind,
        flags=tuple(row.flags),
        order=tuple(order),
        texts=tuple(by_id[row.responses[i]] for i in order),
        form=dict(row.form_body),
        draft=row.draft,
        draft_no=row.draft_no,
        seconds=row.seconds,
        expires=row.expires,
        earlier=None if latest is None else _as_shown(latest.body, order),
    )


def _shown(tx: Connection, account: str, assignment: str) -> Row[Any]:
    """An assignment with all that is shown of it but the responses. Raises Gone, as `task` says."""
    row = tx.execute(
        sa.select(
            assignments,
            items.c.responses,
            items.c.batch_id,
            prompts.c.id.label("prompt_id"),
            prompts.c.text,
            prompts.c.use_case,
            prompts.c.kind.label("prompt_kind"),
            prompts.c.flags,
            batches.c.kind,
            batches.c.mode,
            batches.c.screening,
            batches.c.name.label("batch"),
            accounts.c.role,
            accounts.c.standing,
            forms.c.body.label("form_body"),
        )
        .join(items, items.c.id == assignments.c.item_id)
        .join(prompts, prompts.c.id == items.c.prompt_id)
        .join(batches, batches.c.id == items.c.batch_id)
        .join(forms, forms.c.number == batches.c.form)
        .join(accounts, accounts.c.id == assignments.c.account_id)
        .where(assignments.c.id == assignment, assignments.c.account_id == account)
    ).first()
    if row is None:
        raise Gone("no such task of yours")
    kinds, screening = queue.given(row.role, row.standing)
    if not kinds or row.screening != screening:
        raise Gone("this task is not open to you now")
    return row


def _as_shown(body: Body, order: list[int]) -> Body:
    if "ranks" not in body:
        return body
    moved: Body = {name: [body[name][i] for i in order] for name in ("ranks", "ratings") if body.get(name)}
    return body | moved


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a draft. held: the task's place in the overlap is (again) this labeler's."""

    revision: int
    fence: int
    held: bool


def take(store: Store, account: str, assignment: str) -> Task:
    """The task for a page that opens it: from now on this page is the labeler's latest, older ones are told so.

    What was put aside or ran out of time gets its place back where that is free. Raises Gone for anybody else's.
    """
    if task(store, account, assignment).state in ("expired", "postponed"):
        queue.resume(store, account, assignment)
    with store.write() as tx:
        mine = assignments.c.id == assignment
        tx.execute(assignments.update().where(mine).values(fence=assignments.c.fence + 1))
    return task(store, account, assignment)


def keep(store: Store, account: str, assignment: str, fence: int, body: Any, seconds: float) -> Kept:
    """Keep a draft and, where its lease ran out, take the place back if it is free. Raises Gone, FieldError."""
    if not isinstance(body, dict):
        raise FieldError("body", "is not an object")
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise FieldError("body", "is not plain JSON") from None
    if len(text) > LONGEST_DRAFT:
        raise FieldError("body", f"has {len(text):,} characters; at most {LONGEST_DRAFT:,}")
    _encodable("body", text)
    revision = queue.save_draft(store, account, assignment, fence, body, seconds)
    with store.read() as tx:
        state = tx.execute(sa.select(assignments.c.state).where(assignments.c.id == assignment)).scalar_one()
    if state != "expired":
        return Kept(revision, fence, held=True)
    held = queue.resume(store, account, assignment)
    return Kept(revision, task(store, account, assignment).fence, held)


def stored(task: Task, body: Any) -> Body:
    """A submitted body, checked and put in the stored order. Raises FieldError naming what is wrong."""
    if not isinstance(body, dict):
        raise FieldError("(body)", "is not an object")
    if task.kind == "demonstrate":
        return _demonstration(task, body)
    ranks = _ranks(body, len(task.texts))
    steps = _replay(body)
    ratings = [_rating(task, row, n) for n, row in enumerate(_list(body, "ratings", len(task.texts)))]
    place = {index: shown for shown, index in enumerate(task.order)}
    return {
        "ranks": [ranks[place[i]] for i in range(len(ranks))],
        "ratings": [ratings[place[i]] for i in range(len(ranks))],
        "touched": body.get("touched") is True or any(step[0] == "rank" for step in steps),
        "edited": words(body, "edited", needed=False),
        "log": steps,
    }


def _demonstration(task: Task, body: Body) -> Body:
    made: Body = {"response": words(body, "response", needed=True)}
    given = body.get("rows", [])
    if not isinstance(given, list) or len(given) > MOST_ROWS:
        raise FieldError("rows", f"must be a list of at most {MOST_ROWS} pairs")
    if given and task.prompt_kind != "few-shot":
        raise FieldError("rows", "are for few-shot prompts only")
    rows = []
    for n, row in enumerate(given):
        if not isinstance(row, dict):
            raise FieldError(f"rows[{n}]", "is not a pair of query and response")
        pair = {name: words(row, name, needed=False, where=f"rows[{n}].{name}") for name in ("query", "response")}
        if any(pair.values()):  # a pair left empty is no pair
            rows.append(pair)
            for name, text in pair.items():
                if not text:
                    raise FieldError(f"rows[{n}].{name}", "is empty; fill both sides of the pair or neither")
    return made | {"rows": rows} if task.prompt_kind == "few-shot" else made


def words(body: Body, name: str, *, needed: bool, where: str = "") -> str:
    """A text that was sent, without the white space around it. Raises FieldError, which names `where`."""
    value, where = body.get(name, ""), where or name
    if not isinstance(value, str):
        raise FieldError(where, "is not text")
    if len(value) > LONGEST:
        raise FieldError(where, f"has {len(value):,} characters; at most {LONGEST:,}")
    if "\0" in value:
        raise FieldError(where, "holds a NUL character")
    _encodable(where, value)
    if needed and not value.strip():
        raise FieldError(where, "is empty")
    return value.strip()


def _encodable(where: str, text: str) -> None:
    """Half a surrogate pair is valid JSON, and no text: no database takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FieldError(where, "holds half a character") from None


def _list(body: Body, name: str, count: int) -> list[Any]:
    value = body.get(name)
    if not isinstance(value, list) or len(value) != count:
        raise FieldError(name, f"must have {count} entries, one for each response")
    return value


def _within(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _ranks(body: Body, count: int) -> list[int]:
    """Ranks made dense: 1 is best, equal is tied, no gaps."""
    given = _list(body, "ranks", count)
    if not all(_within(rank, 1, count) for rank in given):
        raise FieldError("ranks", f"must be whole numbers from 1 to {count}")
    dense = {rank: n for n, rank in enumerate(sorted(set(given)), start=1)}
    return [dense[r] for r in given]


def _replay(body: Body) -> list[list[Any]]:
    """The log's steps, when they lead to the ranks that were sent."""
    steps, ranks = body.get("log", []), body["ranks"]
    if not isinstance(steps, list) or len(steps) > MOST_STEPS:
        raise FieldError("log", f"must be a list of at most {MOST_STEPS:,} steps")
    found: dict[int, int] = {}
    for step in steps:
        if not (isinstance(step, list) and len(step) == 3 and step[0] in ("start", "rank")):
            raise FieldError("log", "holds something that is not a step")
        if not _within(step[1], 0, len(ranks) - 1) or not _within(step[2], 1, len(ranks)):
            raise FieldError("log", "names a response or a rank that is not there")
        found[step[1]] = step[2]
    if any(found.get(n, rank) != rank for n, rank in enumerate(ranks)):
        raise FieldError("log", "does not lead to the ranks that were sent; reload the page")
    return steps


def _rating(task: Task, row: Any, n: int) -> Body:
    where = f"ratings[{n}]"
    if not isinstance(row, dict):
        raise FieldError(where, "is not an object")
    likert, flags = row.get("likert"), row.get("flags", {})
    if not isinstance(likert, int) or isinstance(likert, bool):
        raise FieldError(f"{where}.likert", "is missing; rate every response from 1 to 7")
    known = {question["name"] for question in task.form["flags"]}
    if not isinstance(flags, dict) or not set(flags) <= known:
        raise FieldError(f"{where}.flags", "has a question that is not on this form")
    Rating(likert=likert, flags=flags)
    return {"likert": likert, "flags": flags, "note": words(row, "note", needed=False, where=f"{where}.note")}
