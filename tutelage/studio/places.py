"""The places of an item, and the leases that hold them: counting, taking back what ran out, the audit trail.

`queue` explains the whole. What is here runs within transactions of others, except `sweep`.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.studio import statements
from tutelage.studio.ids import new_id
from tutelage.studio.schema import actions, assignments, forms, items
from tutelage.studio.store import Store


def log(tx: Connection, at: float, account: str | None, what: str, about: str, **detail: Any) -> None:
    """Write the audit trail."""
    row = {"id": new_id(at), "at": at, "account_id": account, "what": what, "about": about, "detail": detail}
    tx.execute(actions.insert(), row)


def one_at_a_time(tx: Connection) -> None:
    """Wait for whoever else is arranging something: who looks first and then acts on it must be alone with what it saw.

    A lock on a row that is always there, held until this transaction ends, and taken before any other. It stands in
    nobody's way who answers on that form.
    """
    tx.execute(sa.select(forms.c.number).order_by(forms.c.number).limit(1).with_for_update(key_share=True))


def count(tx: Connection, item: str, *, held: int = 0, done: int = 0) -> None:
    """Move an item's counters, and whether it is free with them."""
    tx.execute(statements.COUNT, {"item": item, "more_held": held, "more_done": done})


def sweep(store: Store) -> int:
    """Take back the places of leases that ran out; returns how many. Writes only where there are some."""
    now = store.clock()
    if store.first(statements.ANY_LATE, now=now) is None:
        return 0
    with store.write() as tx:
        # Items that others hold this moment are left for the next time.
        of_late = items.c.id.in_(sa.select(assignments.c.item_id).where(*_late(now)))
        held = tx.execute(sa.select(items.c.id).where(of_late).with_for_update(skip_locked=True)).scalars().all()
        return _expire(tx, now, assignments.c.item_id.in_(held), *_late(now)) if held else 0


def _late(now: float) -> tuple[sa.ColumnElement[bool], ...]:
    return assignments.c.state == "active", assignments.c.expires < now


def _expire(tx: Connection, now: float, *which: sa.ColumnElement[bool]) -> int:
    ended = assignments.update().where(*which).values(state="expired")
    late = tx.execute(ended.returning(assignments.c.id, assignments.c.item_id)).all()
    for row in late:
        count(tx, row.item_id, held=-1)
        log(tx, now, None, "expire", row.id)
    return len(late)


def release(tx: Connection, now: float, account: str) -> int:
    """Give back at once whatever an account holds: it was closed, or its role changed. Drafts are kept."""
    mine = assignments.c.account_id == account, assignments.c.state == "active"
    of_mine = items.c.id.in_(sa.select(assignments.c.item_id).where(*mine))
    held = tx.execute(sa.select(items.c.id).where(of_mine).order_by(items.c.id).with_for_update()).scalars().all()
    return _expire(tx, now, assignments.c.item_id.in_(held), *mine)
