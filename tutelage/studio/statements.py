"""The queue's statements, built once: building one takes SQLAlchemy longer than the database takes to run it.

Parameters are named after what they are: account, item, assignment, batch, kind, screening, team, now, key.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import bindparam

from tutelage.studio.schema import accounts, answers, asides, assignments, batches, items

_ACCOUNT = bindparam("account", type_=sa.String)
_ASSIGNMENT = bindparam("assignment", type_=sa.String)
_NOW = bindparam("now", type_=sa.Float)

_later = asides.alias("later_aside")


def _aside(column: sa.Column[str]) -> sa.Select[str]:
    newer = sa.exists().where(_later.c[column.name] == column, _later.c.number > asides.c.number)
    return sa.select(column).where(column.is_not(None), asides.c.aside, ~newer)


ASIDE_PROMPTS, ASIDE_ANSWERS = _aside(asides.c.prompt_id), _aside(asides.c.answer_id)
"""Ids of the prompts and of the answers that are set aside (see `aside`)."""

WORKER = (
    sa.select(accounts.c.role, accounts.c.standing, accounts.c.team, accounts.c.active)
    .where(accounts.c.id == _ACCOUNT)
    .with_for_update(key_share=True)
)
"""Who asks, held against their own other tabs."""

IN_HAND = (
    sa.select(assignments.c.id)
    .join(items, items.c.id == assignments.c.item_id)
    .join(batches, batches.c.id == items.c.batch_id)
    .where(
        assignments.c.account_id == _ACCOUNT,
        assignments.c.state == "active",
        batches.c.kind == bindparam("kind"),
        batches.c.screening == bindparam("screening", type_=sa.Boolean),
    )
    .order_by(assignments.c.claimed)
    .limit(1)
)

RENEW = (
    assignments.update()
    .where(assignments.c.id == _ASSIGNMENT, assignments.c.state == "active")
    .values(expires=bindparam("until"), fence=assignments.c.fence + 1)
)

OPEN_BATCHES = (
    sa.select(batches.c.id)
    .where(
        batches.c.kind == bindparam("kind"),
        batches.c.screening == bindparam("screening", type_=sa.Boolean),
        batches.c.open,
        batches.c.team.in_(("", bindparam("team"))),
    )
    .order_by(batches.c.priority.desc(), batches.c.id)
)

_had = sa.exists().where(
    assignments.c.item_id == items.c.id,
    assignments.c.account_id == _ACCOUNT,
    assignments.c.state != "expired",
)
_next = (
    sa.select(items.c.id)
    .where(items.c.batch_id == bindparam("batch"), items.c.free, ~_had, items.c.prompt_id.not_in(ASIDE_PROMPTS))
    .order_by(items.c.place)
    .limit(1)
)

NEXT_ITEM = (_next.with_for_update(skip_locked=True, of=items), _next.with_for_update(of=items))
"""The first free item of a batch that a labeler has not had: past those that others hold, and waiting for them."""

HOLD_AGAIN = (
    assignments.update()
    .where(assignments.c.item_id == bindparam("item"), assignments.c.account_id == _ACCOUNT)
    .values(state="active", fence=assignments.c.fence + 1, expires=bindparam("until"), claimed=_NOW)
    .returning(assignments.c.id)
)

LOCK = (
    sa.select(assignments, items.c.free)
    .join(items, items.c.id == assignments.c.item_id)
    .where(assignments.c.id == _ASSIGNMENT, assignments.c.account_id == _ACCOUNT)
    .with_for_update(of=[items, assignments])  # in this order
)
"""An assignment of this labeler's, with its item, both held against others."""

BATCH_AND_ROLE = (
    sa.select(
        batches.c.form,
        batches.c.mode,
        batches.c.kind,
        batches.c.screening,
        batches.c.open,
        accounts.c.role,
        accounts.c.standing,
        accounts.c.team,
    )
    .join(items, items.c.batch_id == batches.c.id)
    .join(accounts, accounts.c.id == _ACCOUNT)
    .where(items.c.id == bindparam("item"))
)

ANSWER_BY_KEY = sa.select(
    answers.c.id, answers.c.item_id, answers.c.account_id, answers.c.number, answers.c.extra
).where(answers.c.key == bindparam("key"))

LATEST_ANSWER = (
    sa.select(answers.c.number, answers.c.extra)
    .where(answers.c.item_id == bindparam("item"), answers.c.account_id == _ACCOUNT)
    .order_by(answers.c.number.desc())
    .limit(1)
)

CHANGE_ASSIGNMENT = assignments.update().where(assignments.c.id == _ASSIGNMENT)
"""To be run with the columns that change beside `assignment`."""

_held, _done = items.c.held + bindparam("more_held"), items.c.done + bindparam("more_done")
COUNT = (
    items.update()
    .where(items.c.id == bindparam("item"))
    .values(held=_held, done=_done, free=_held + _done < items.c.quota)
)
"""Moves an item's counters, and whether it is free with them."""

LATE = assignments.c.state == "active", assignments.c.expires < _NOW
ANY_LATE = sa.select(assignments.c.id).where(*LATE).limit(1)
