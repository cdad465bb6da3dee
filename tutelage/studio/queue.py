"""The queue: who works on what, so that every item gets exactly as many labelers as its batch asks for.

An item has `quota` places. Claiming one makes an assignment that holds a place until its lease runs out; writing in it
renews the lease; submitting turns the held place into a filled one; skipping or postponing gives it back. All of it is
one short transaction each, so that at every moment

    held + done <= quota,   held = active assignments,   done = counted first answers.

(Where an overlap was lowered, what was held or done before still stands, and nothing is added.)

A lease that ran out is taken back when somebody looks for work. A late answer still counts while its place is free,
else it is kept as an extra: never refused, never credited twice. A claim raises the assignment's fence; writes that
carry an older fence come from a page that is no longer the labeler's latest, and are told so.

Locks, on PostgreSQL, are taken in this order, so that nobody waits in a circle: account, batch, items (several of them
by id, or only those that are free at once), assignments. On SQLite there is one writer at a time.

Screening batches (paper B.1) go the same ways with places for everyone. Candidates get those alone, researchers
(reviewers and admins) too, whose answers are the key; no other labeler ever does.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row
from sqlalchemy.exc import IntegrityError

from tutelage.records import UserError
from tutelage.studio import statements
from tutelage.studio.ids import new_id
from tutelage.studio.places import count, log, sweep
from tutelage.studio.schema import RESEARCHERS, answers, assignments, batches, items
from tutelage.studio.store import Store

LEASE = 30 * 60.0
"""Seconds an assignment may lie untouched before its place goes to somebody else."""

WORKS = {"labeler": ("demonstrate", "compare", "judge"), "heldout": ("judge",)}
"""What each role is given. Held-out labelers evaluate and produce no training data (paper section 3.4)."""

SCREENS = ("demonstrate", "compare")
"""What screening batches can ask for."""

MOST = 100
"""Labelers per item, at most: beyond it somebody typed a number wrong."""


class Gone(Exception):
    """The assignment is not there any more for this page: another tab claimed it anew, or it was submitted."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a submit was booked as."""

    answer_id: str
    number: int
    extra: bool
    repeated: bool


def given(role: str, standing: str) -> tuple[tuple[str, ...], bool]:
    """The kinds of work an account is given, and whether it is those of screening batches, or of all others."""
    if role in RESEARCHERS or (role == "labeler" and standing == "candidate"):
        return SCREENS, True
    if role == "labeler" and standing == "declined":
        return (), False
    return WORKS.get(role, ()), False


def claim(store: Store, account: str, kind: str, lease: float = LEASE) -> str | None:
    """The labeler's next item of a kind: the one in hand, else a new assignment. None when there is nothing.

    Returns the assignment's id.
    """
    sweep(store)
    with store.write() as tx:
        now = store.clock()
        who = _worker(tx, account)
        kinds, screening = given(who.role, who.standing)
        if kind not in kinds:
            return None
        mine = _in_hand(tx, account, kind, screening)
        if mine is not None and _renew(tx, mine, now + lease):
            return mine
        item = _next_item(tx, account, {"kind": kind, "team": who.team, "screening": screening})
        return None if item is None else _hold(tx, now, item, account, lease)


def _worker(tx: Connection, account: str) -> Row[Any, Any, Any, Any]:
    """The labeler, held against their own other tabs. Raises Gone for an account that was closed."""
    who = tx.execute(statements.WORKER, {"account": account}).one()
    if not who.active:
        raise Gone("this account is closed")
    return who


def _renew(tx: Connection, assignment: str, expires: float) -> bool:
    """A new lease and fence for what is in hand; False where its place was taken back this very moment."""
    return tx.execute(statements.RENEW, {"assignment": assignment, "until": expires}).rowcount == 1


def _in_hand(tx: Connection, account: str, kind: str, screening: bool) -> str | None:
    which = {"account": account, "kind": kind, "screening": screening}
    return tx.execute(statements.IN_HAND, which).scalar_one_or_none()


def _next_item(tx: Connection, account: str, which: dict[str, Any]) -> str | None:
    """The first free item that this labeler has not had. What they let expire comes back to them."""
    # Past items that others hold for a moment; where there are only such, wait: one may be free after all.
    ways = statements.NEXT_ITEM[:1] if tx.dialect.name == "sqlite" else statements.NEXT_ITEM
    for batch in tx.execute(statements.OPEN_BATCHES, which).scalars().all():
        for way in ways:
            item = tx.execute(way, {"batch": batch, "account": account}).scalar_one_or_none()
            if item is not None:
                return str(item)
    return None


def _hold(tx: Connection, now: float, item: str, account: str, lease: float) -> str:
    count(tx, item, held=1)
    mine = {"item": item, "account": account, "until": now + lease, "now": now}
    again = tx.execute(statements.HOLD_AGAIN, mine).scalar_one_or_none()
    if again is not None:
        log(tx, now, account, "claim", str(again))
        return str(again)
    made = new_id(now)
    row = {
        "id": made,
        "item_id": item,
        "account_id": account,
        "state": "active",
        "fence": 1,
        "expires": now + lease,
        "claimed": now,
        "order_seed": secrets.randbelow(2**31),
        "draft": None,
        "draft_no": 0,
        "seconds": 0.0,
    }
    tx.execute(assignments.insert(), row)
    log(tx, now, account, "claim", made)
    return made


def _lock(tx: Connection, account: str, assignment: str) -> Row[Any]:
    """The assignment, if it is this labeler's, with its item held against others. Raises Gone."""
    found = tx.execute(statements.LOCK, {"assignment": assignment, "account": account}).one_or_none()
    if found is None:
        raise Gone("no such task of yours")
    return found


def save_draft(
    store: Store, account: str, assignment: str, fence: int, body: dict[str, Any], seconds: float, lease: float = LEASE
) -> int:
    """Keep what was written so far and renew the lease; returns the draft's number. Raises Gone.

    A draft is kept after its lease ran out too: the place is gone, the words are not.
    """
    with store.write() as tx:
        now = store.clock()
        row = _lock(tx, account, assignment)
        if row.fence != fence:
            raise Gone("this task was opened again or submitted in another tab")
        expires = now + lease if row.state == "active" else row.expires
        changed = {"draft": body, "draft_no": row.draft_no + 1, "seconds": max(row.seconds, seconds)}
        tx.execute(statements.CHANGE_ASSIGNMENT, {"assignment": assignment, "expires": expires, **changed})
        return int(row.draft_no) + 1


def submit(
    store: Store,
    account: str,
    assignment: str,
    key: str,
    body: dict[str, Any],
    seconds: float,
    fence: int | None = None,
) -> Receipt:
    """Book an answer: the first one fills a place, later ones are revisions of it. Raises Gone.

    key: chosen by the page, once per press of the button. The same key again is the same answer, whoever retries.
    fence: the page's, where it says one. A first answer counts from whatever page; but a page that is no longer the
    labeler's latest cannot put its answer over one that was submitted meanwhile. Booking raises it, so that a draft of
    the same page that was still on its way comes too late to be mistaken for the beginning of a revision.
    """
    try:
        with store.write() as tx:
            return _submit(tx, store.clock(), account, assignment, key, body, seconds, fence)
    except IntegrityError:  # the same key for two tasks at the same moment
        raise Gone("this submit belongs to another task") from None


def _submit(
    tx: Connection,
    now: float,
    account: str,
    assignment: str,
    key: str,
    body: dict[str, Any],
    seconds: float,
    fence: int | None,
) -> Receipt:
    row = _lock(tx, account, assignment)
    known = tx.execute(statements.ANSWER_BY_KEY, {"key": key}).one_or_none()
    if known is not None:
        if (known.account_id, known.item_id) != (account, row.item_id):
            raise Gone("this submit belongs to another task")
        return Receipt(known.id, known.number, known.extra, repeated=True)
    if row.state == "submitted" and fence is not None and fence != row.fence:
        raise Gone("this task was submitted in another tab meanwhile")
    batch = _batch_for(tx, account, row.item_id)
    number, extra = _book(tx, row)
    made = new_id(now)
    answer = {
        "id": made,
        "item_id": row.item_id,
        "account_id": account,
        "number": number,
        "key": key,
        "body": body,
        "form": batch.form,
        "mode": batch.mode,
        "order_seed": row.order_seed,
        "seconds": seconds,
        "extra": extra,
        "team": batch.team,
        "created": now,
    }
    tx.execute(answers.insert(), answer)
    changed = {"state": "submitted", "draft": None, "seconds": seconds, "fence": row.fence + 1}
    tx.execute(statements.CHANGE_ASSIGNMENT, {"assignment": assignment, **changed})
    log(tx, now, account, "submit" if number == 1 else "revise", made, item=row.item_id, extra=extra)
    return Receipt(made, number, extra, repeated=False)


def _batch_for(tx: Connection, account: str, item: str) -> Row[Any, Any, Any, Any, Any, Any, Any, Any]:
    """The batch an item is in, and the labeler's group, if role and standing are still given its kind. Raises Gone."""
    batch = tx.execute(statements.BATCH_AND_ROLE, {"account": account, "item": item}).one()
    kinds, screening = given(batch.role, batch.standing)
    if batch.kind not in kinds or batch.screening != screening:
        raise Gone("your role changed: this kind of work is not yours any more")
    return batch


def _book(tx: Connection, row: Row[Any]) -> tuple[int, bool]:
    """The number of a new answer, and whether it is beyond the overlap; fills the place where there is one."""
    if row.state == "submitted":  # a revision stands where the first answer stood
        earlier = tx.execute(statements.LATEST_ANSWER, {"item": row.item_id, "account": row.account_id}).one()
        return earlier.number + 1, bool(earlier.extra)
    if row.state == "active":
        count(tx, row.item_id, held=-1, done=1)
        return 1, False
    if row.free:
        count(tx, row.item_id, done=1)
    return 1, not row.free


def give_back(store: Store, account: str, assignment: str, state: str, reason: str = "") -> None:
    """Skip an item for good, with a reason, or postpone it for later. Raises Gone."""
    if state not in ("skipped", "postponed"):
        raise ValueError(f"state is {state!r}; expected skipped or postponed")
    with store.write() as tx:
        row = _lock(tx, account, assignment)
        if row.state == "submitted":
            raise Gone("this task was submitted already")
        if row.state == "active":
            count(tx, row.item_id, held=-1)
        tx.execute(statements.CHANGE_ASSIGNMENT, {"assignment": assignment, "state": state})
        log(tx, store.clock(), account, state, assignment, item=row.item_id, reason=reason)


def resume(store: Store, account: str, assignment: str, lease: float = LEASE) -> bool:
    """Take up again what was postponed, skipped or let expire; False where its place is taken. Raises Gone."""
    sweep(store)
    with store.write() as tx:
        now = store.clock()
        _worker(tx, account)
        row = _lock(tx, account, assignment)
        if row.state == "submitted":
            return False
        if row.state == "active":
            return _renew(tx, assignment, now + lease)
        if not _batch_for(tx, account, row.item_id).open:
            raise Gone("this batch is closed; your draft is kept")
        if not row.free:
            return False
        _hold(tx, now, row.item_id, account, lease)
        return True


def change_overlap(store: Store, batch: str, overlap: int, by: str | None = None) -> None:
    """Ask for more or fewer labelers per item, at any time; what was done stays done. Raises UserError."""
    if not 1 <= overlap <= MOST:
        raise UserError(f"the overlap is {overlap}; it can be 1 to {MOST}")
    with store.write() as tx:
        tx.execute(batches.update().where(batches.c.id == batch).values(overlap=overlap))
        mine = items.c.batch_id == batch
        tx.execute(sa.select(items.c.id).where(mine).order_by(items.c.id).with_for_update()).all()
        tx.execute(items.update().where(mine).values(quota=overlap, free=items.c.held + items.c.done < overlap))
        log(tx, store.clock(), by, "overlap", batch, overlap=overlap)


def add_items(tx: Connection, now: float, batch: str, entries: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Append (prompt id, response ids) to a batch as items."""
    wanted = sa.select(batches.c.overlap).where(batches.c.id == batch)
    overlap = tx.execute(wanted.with_for_update()).scalar_one()  # two at once would give out the same places
    last = tx.execute(sa.select(sa.func.max(items.c.place)).where(items.c.batch_id == batch)).scalar_one()
    first = 0 if last is None else last + 1
    rows = [
        {
            "id": new_id(now),
            "batch_id": batch,
            "prompt_id": prompt,
            "place": place,
            "quota": overlap,
            "held": 0,
            "done": 0,
            "free": True,
            "responses": list(responses),
        }
        for place, (prompt, responses) in enumerate(entries, start=first)
    ]
    if rows:
        tx.execute(items.insert(), rows)
