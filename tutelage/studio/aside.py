"""Rows set aside: prompts and answers that stay in the database and count nowhere until they are taken back.

Every setting aside and every taking back is a row of its own; the latest one of a prompt or an answer decides. What is
set aside is not exported, trains nothing, is in no figure and is given to nobody to work on. An answer that a labeler
revises counts again: the revision is another answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.records import UserError
from tutelage.studio.accounts import Account
from tutelage.studio.ids import new_id
from tutelage.studio.places import log, one_at_a_time
from tutelage.studio.schema import accounts, answers, asides, items, prompts
from tutelage.studio.statements import ASIDE_ANSWERS, ASIDE_PROMPTS
from tutelage.studio.store import Store

LONGEST = 1000
"""Characters of a reason, at most."""


@dataclass(frozen=True, slots=True)
class Aside:
    """The latest word on a prompt or an answer. about: its id."""

    about: str
    by: str
    at: float
    reason: str


def mark(store: Store, by: Account, *, prompt: str = "", answer: str = "", reason: str = "", back: bool = False) -> str:
    """Set a prompt or an answer aside, or take it back; returns the prompt's id. Raises UserError.

    Doing again what was done changes nothing.
    """
    reason = reason.strip()
    if not back and not reason:
        raise UserError("say in a few words why it is set aside")
    if len(reason) > LONGEST or "\0" in reason:
        raise UserError(f"the reason must be text of at most {LONGEST:,} characters")
    column, about = (asides.c.answer_id, answer) if answer else (asides.c.prompt_id, prompt)
    with store.write() as tx:
        one_at_a_time(tx)
        found = _prompt_of(tx, answer) if answer else prompt
        if found is None or not tx.execute(sa.select(prompts.c.id).where(prompts.c.id == found)).first():
            raise UserError(f"there is no such {'answer' if answer else 'prompt'}")
        latest = tx.execute(sa.select(asides).where(column == about).order_by(asides.c.number.desc())).first()
        if (latest is not None and latest.aside) == (not back):
            return found
        now = store.clock()
        row = {"id": new_id(now), column.name: about, "number": latest.number + 1 if latest else 1, "aside": not back}
        tx.execute(asides.insert().values(**row, account_id=by.id, reason=reason, created=now))
        kind = "answer" if answer else "prompt"
        log(tx, now, by.id, "take back" if back else "set aside", about, kind=kind, reason=reason)
    return found


def _prompt_of(tx: Connection, answer: str) -> str | None:
    query = sa.select(items.c.prompt_id).join(answers, answers.c.item_id == items.c.id).where(answers.c.id == answer)
    return tx.execute(query).scalar_one_or_none()


def find(tx: Connection, about: Sequence[str]) -> dict[str, Aside]:
    """Which of these prompts or answers are set aside, by their ids; as many as a page shows."""
    name = sa.func.coalesce(asides.c.prompt_id, asides.c.answer_id)
    query = (
        sa.select(name.label("about"), accounts.c.name, asides.c.created, asides.c.reason)
        .join(accounts, accounts.c.id == asides.c.account_id)
        .where(sa.or_(asides.c.prompt_id.in_(ASIDE_PROMPTS), asides.c.answer_id.in_(ASIDE_ANSWERS)), name.in_(about))
        .order_by(asides.c.number)
    )
    return {row.about: Aside(row.about, row.name, row.created, row.reason) for row in tx.execute(query)}
