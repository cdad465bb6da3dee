"""The desk: what is waiting, what was put aside, what was done.

A labeler's holds their work. A candidate's holds the screening tasks alone, and so does a researcher's, who answers
them too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.studio import queue
from tutelage.studio.accounts import Account
from tutelage.studio.schema import answers, assignments, batches, items, prompts
from tutelage.studio.statements import ASIDE_PROMPTS
from tutelage.studio.store import Store

LATEST = 10
PREVIEW = 90  # characters of a prompt in a list

WORDS = {
    "demonstrate": ("Write", "Write the response you would want to get.", "Write the next one"),
    "compare": ("Rank", "Rate several responses to a prompt, then put them in order.", "Rank the next ones"),
    "judge": ("Judge", "Rank responses of older and newer models, blind.", "Judge the next ones"),
}


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of work that is open to this labeler."""

    kind: str
    title: str
    what: str
    button: str
    left: int
    done: int


@dataclass(frozen=True, slots=True)
class Line:
    """A task in a list."""

    assignment: str
    prompt: str
    title: str
    state: str


@dataclass(frozen=True, slots=True)
class Desk:
    """Everything on the page."""

    work: list[Work]
    postponed: list[Line]
    finished: list[Line]
    skipped: list[Line]
    today: int


def desk(store: Store, me: Account) -> Desk:
    """What this labeler sees first."""
    queue.sweep(store)
    with store.read() as tx:
        work = []
        kinds, screening = queue.given(me.role, me.standing)
        for kind in kinds:
            left, done = _left(tx, me, kind, screening), _done(tx, me, kind, screening)
            if left:
                title, what, button = WORDS[kind]
                work.append(Work(kind, title, what, button, left, done))
        return Desk(
            work,
            postponed=_lines(tx, me, ("postponed", "expired"), screening),
            finished=_lines(tx, me, ("submitted",), screening),
            skipped=_lines(tx, me, ("skipped",), screening),
            today=_today(tx, me, store.clock()),
        )


def today(store: Store, me: Account) -> int:
    """Tasks this labeler has finished since midnight, by the clock of the machine the studio runs on."""
    with store.read() as tx:
        return _today(tx, me, store.clock())


def _today(tx: Connection, me: Account, now: float) -> int:
    midnight = time.mktime((*time.localtime(now)[:3], 0, 0, 0, 0, 0, -1))
    query = (
        sa.select(sa.func.count())
        .select_from(assignments)
        .join(
            answers,
            sa.and_(answers.c.item_id == assignments.c.item_id, answers.c.account_id == me.id, answers.c.number == 1),
        )
        .where(assignments.c.account_id == me.id, assignments.c.state == "submitted", answers.c.created >= midnight)
    )
    return int(tx.execute(query).scalar_one())


def _left(tx: Connection, me: Account, kind: str, screening: bool) -> int:
    mine = sa.exists().where(
        assignments.c.item_id == items.c.id,
        assignments.c.account_id == me.id,
        assignments.c.state.not_in(("expired", "active")),
    )
    in_hand = sa.exists().where(
        assignments.c.item_id == items.c.id, assignments.c.account_id == me.id, assignments.c.state == "active"
    )
    query = (
        sa.select(sa.func.count())
        .select_from(items.join(batches))
        .where(batches.c.kind == kind, batches.c.screening == screening)
        .where(batches.c.open, batches.c.team.in_(("", me.team)))
        .where(sa.or_(sa.and_(items.c.free, ~mine, items.c.prompt_id.not_in(ASIDE_PROMPTS)), in_hand))
    )
    return int(tx.execute(query).scalar_one())


def _done(tx: Connection, me: Account, kind: str, screening: bool) -> int:
    query = (
        sa.select(sa.func.count())
        .select_from(assignments.join(items).join(batches))
        .where(batches.c.kind == kind, batches.c.screening == screening)
        .where(assignments.c.account_id == me.id, assignments.c.state == "submitted")
    )
    return int(tx.execute(query).scalar_one())


def _lines(tx: Connection, me: Account, states: tuple[str, ...], screening: bool) -> list[Line]:
    query = (
        sa.select(assignments.c.id, assignments.c.state, prompts.c.text, batches.c.kind)
        .select_from(assignments.join(items).join(batches).join(prompts, prompts.c.id == items.c.prompt_id))
        .where(assignments.c.account_id == me.id, assignments.c.state.in_(states), batches.c.screening == screening)
        .order_by(assignments.c.claimed.desc())
        .limit(LATEST)
    )
    return [
        Line(
            row.id,
            shorten(row.text),
            WORDS[row.kind][0].lower(),
            "ran out of time" if row.state == "expired" else "put aside",
        )
        for row in tx.execute(query)
    ]


def shorten(text: str, length: int = PREVIEW) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"
