"""Grading candidates' demonstrations, 1 to 7, blind: not whose it is, nor what others gave it (paper B.1).

Everyone who grades has an order of their own: demonstrations by a digest of the seed that was stored when each was
taken up, and of who grades. A grade is never changed: a second thought is its next revision.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.records import UserError
from tutelage.studio import harvest
from tutelage.studio.accounts import Account
from tutelage.studio.filing import chunks
from tutelage.studio.ids import new_id
from tutelage.studio.places import log
from tutelage.studio.schema import accounts, answers, items, prompts
from tutelage.studio.schema import grades as table
from tutelage.studio.store import Store

WORST, BEST = 1, 7


@dataclass(frozen=True, slots=True)
class Written:
    """A demonstration as it is graded. rows: further pairs of a few-shot prompt. mine: the grade I gave it, 0 for none.

    graded, of: how many I have graded, of all.
    """

    answer: str
    prompt: str
    response: str
    rows: list[dict[str, str]]
    mode: str
    mine: int
    graded: int
    of: int


def grades(tx: Connection) -> dict[str, dict[str, list[int]]]:
    """{account: {demonstration: the latest grade of everyone who graded it}}, of what was written for screening."""
    found: dict[str, dict[str, list[int]]] = {}
    whose: dict[str, str] = {}
    for part in chunks(harvest.answer_ids(tx, ("demonstrate",), screening=True)):
        for row in tx.execute(sa.select(answers.c.id, answers.c.account_id).where(answers.c.id.in_(part))):
            found.setdefault(row.account_id, {})[row.id] = []
            whose[row.id] = row.account_id
    for (answer, _), grade in sorted(_latest(tx).items()):
        if answer in whose:  # else it was written anew since
            found[whose[answer]][answer].append(grade)
    return found


def _latest(tx: Connection, grader: str = "") -> dict[tuple[str, str], int]:
    """{(answer, grader): grade}, the latest revisions; of one grader, or of all."""
    query = sa.select(table.c.answer_id, table.c.account_id, table.c.grade).order_by(table.c.number)
    if grader:
        query = query.where(table.c.account_id == grader)
    return {(row.answer_id, row.account_id): row.grade for row in tx.execute(query)}


def left(store: Store, me: Account) -> int:
    """How many demonstrations wait for my grade."""
    with store.read() as tx:
        done = {answer for answer, _ in _latest(tx, me.id)}
        return sum(name not in done for name in _mine(tx, me))


def following(store: Store, me: Account, answer: str = "") -> Written | None:
    """The next demonstration that I have not graded, or the one named; None where there is none.

    Raises UserError where the one named is none that I may grade.
    """
    with store.read() as tx:
        order = _mine(tx, me)
        done = {name: grade for (name, _), grade in _latest(tx, me.id).items()}
        if answer and answer not in order:
            raise UserError("this demonstration is not there to be graded")
        name = answer or next((n for n in order if n not in done), None)
        if name is None:
            return None
        row = tx.execute(
            sa.select(answers.c.body, answers.c.mode, prompts.c.text)
            .select_from(answers.join(items))
            .join(prompts, prompts.c.id == items.c.prompt_id)
            .where(answers.c.id == name)
        ).one()
        graded = sum(n in done for n in order)
        body = row.body
        return Written(
            name, row.text, body["response"], body.get("rows", []), row.mode, done.get(name, 0), graded, len(order)
        )


def _mine(tx: Connection, me: Account) -> list[str]:
    """What there is to grade, in my order: the demonstrations of those who are candidates now, as they stand. None is
    my own, for I am no labeler."""
    seeds: dict[str, int] = {}
    for part in chunks(harvest.answer_ids(tx, ("demonstrate",), screening=True)):
        query = (
            sa.select(answers.c.id, answers.c.order_seed)
            .join(accounts, accounts.c.id == answers.c.account_id)
            .where(answers.c.id.in_(part), accounts.c.role == "labeler", accounts.c.standing == "candidate")
        )
        seeds |= {row.id: row.order_seed for row in tx.execute(query)}
    return sorted(seeds, key=lambda name: hashlib.sha256(f"{seeds[name]}\0{me.id}\0{name}".encode()).digest())


def give(store: Store, me: Account, answer: str, grade: int) -> None:
    """Grade a demonstration, or give it another grade. Raises UserError."""
    if not WORST <= grade <= BEST:
        raise UserError(f"a grade is {WORST} to {BEST}")
    with store.write() as tx:
        # Held against my other tabs, so that revisions are numbered one after the other.
        tx.execute(sa.select(accounts.c.id).where(accounts.c.id == me.id).with_for_update(key_share=True))
        if answer not in _mine(tx, me):
            raise UserError("this demonstration is not there to be graded: it was written anew, or was decided on")
        earlier = sa.select(sa.func.coalesce(sa.func.max(table.c.number), 0))
        query = earlier.where(table.c.answer_id == answer, table.c.account_id == me.id)
        number, now = int(tx.execute(query).scalar_one()) + 1, store.clock()
        made = new_id(now)
        row = {"id": made, "answer_id": answer, "account_id": me.id, "number": number, "grade": grade, "created": now}
        tx.execute(table.insert().values(**row))
        log(tx, now, me.id, "grade", made, answer=answer, grade=grade)
