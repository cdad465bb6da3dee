"""Screening labelers, as the paper did (appendix B.1): who is a candidate, what they answered, what became of them.

A candidate answers the items of the screening batches; researchers (reviewers and admins) answer the same ones in the
same pages, and their answers are the key. Whoever was a candidate once makes no key. Candidates are shown as numbers,
in the order of a digest that says nothing of name or time. The numbers decide nothing: an admin does, and every
decision is logged with the numbers it was made on. Nobody is selected on demographics; the studio keeps none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from tutelage.evaluate.agreement import Agreement, agreement_within
from tutelage.records import UserError
from tutelage.studio import accounts as doors
from tutelage.studio import forms, grading, harvest, work
from tutelage.studio.accounts import Account
from tutelage.studio.filing import chunks
from tutelage.studio.ids import new_id
from tutelage.studio.places import log, release
from tutelage.studio.schema import (
    RESEARCHERS,
    accounts,
    actions,
    answers,
    assignments,
    batches,
    items,
    settings,
    topics,
)
from tutelage.studio.schema import forms as form_table
from tutelage.studio.scores import Answer, Key, Own, Scores, flagging, ordering, writing
from tutelage.studio.store import Store

QUESTION = "Which topics or cultural groups can you judge well when it comes to sensitive speech?"
"""The paper's fourth part, in our words."""
LONGEST = 2000
"""Characters of its answer, and of the words that go with a decision."""

DECISIONS = {"admit": "admitted", "decline": "declined", "rescreen": "candidate"}
"""What an admin may decide, and the standing it leads to."""

DECLINED = (
    "Thank you for the time and care you gave to these tasks. We have decided to go on without you in this project. "
    "What we look for here is narrow, and says nothing about your work elsewhere. Your answers will be used for "
    "nothing else."
)
"""What a candidate who is declined is told, unless the admin finds better words."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One who was screened, without a name. items: those of open batches, and of closed ones those they answered."""

    number: int
    handle: str
    account: str
    standing: str
    answered: int
    items: int
    topics: str
    scores: Scores


@dataclass(frozen=True, slots=True)
class View:
    """Everything on the screening page. keyed: items that a researcher has answered, by kind of work."""

    candidates: list[Candidate]
    items: dict[str, int]
    keyed: dict[str, int]
    researchers: int
    agreement: Agreement | None  # among researchers: nobody can be asked to agree with them more than they do


@dataclass(frozen=True, slots=True)
class Trial:
    """How far one's own screening is. words: what was said with the decision."""

    answered: int
    items: int
    skipped: int
    topics: str
    words: str


def handle(account: str) -> str:
    """What a candidate is called in addresses: leads to no name, and sorts by nothing."""
    return hashlib.sha256(f"screening\0{account}".encode()).hexdigest()[:12]


# ---- the switch ------------------------------------------------------------------------------------------------


def screened_first(store: Store) -> bool:
    """Whether labelers who join are candidates first."""
    with store.read() as tx:
        return doors.screened_first(tx)


def screen_first(store: Store, by: Account, on: bool) -> None:
    """Turn it on or off; who is here already is left as they are."""
    mine = settings.c.name == doors.SCREENED_FIRST
    try:
        with store.write() as tx:
            if tx.execute(settings.update().where(mine).values(value=on)).rowcount == 0:
                tx.execute(settings.insert().values(name=doors.SCREENED_FIRST, value=on))
            log(tx, store.clock(), by.id, "screen-first", doors.SCREENED_FIRST, on=on)
    except IntegrityError:
        raise UserError("somebody else changed this at the same moment; look again") from None


# ---- a candidate's own side ------------------------------------------------------------------------------------


def trial(store: Store, me: Account) -> Trial:
    """A candidate's progress, and nothing of its results."""
    with store.read() as tx:
        own = (
            sa.select(assignments.c.state, sa.func.count())
            .select_from(assignments.join(items).join(batches))
            .where(assignments.c.account_id == me.id, batches.c.screening)
            .group_by(assignments.c.state)
        )
        states = {str(state): int(n) for state, n in tx.execute(own)}
        mine = sa.exists().where(
            assignments.c.item_id == items.c.id,
            assignments.c.account_id == me.id,
            assignments.c.state.in_(("submitted", "skipped")),
        )
        count = sa.select(sa.func.count()).select_from(items.join(batches))
        total = tx.execute(count.where(batches.c.screening, sa.or_(batches.c.open, mine))).scalar_one()
        return Trial(
            states.get("submitted", 0), int(total), states.get("skipped", 0), _topics(tx).get(me.id, ""), _words(tx, me)
        )


def _words(tx: Connection, me: Account) -> str:
    """What was said with the latest decision about an account."""
    query = sa.select(actions.c.detail).where(actions.c.about == me.id, actions.c.what.in_(DECISIONS))
    detail = tx.execute(query.order_by(actions.c.at.desc(), actions.c.id.desc()).limit(1)).scalar_one_or_none()
    return "" if detail is None else str(detail.get("words", ""))


def _topics(tx: Connection) -> dict[str, str]:
    """{account: what it says it can judge}, the latest."""
    query = sa.select(topics.c.account_id, topics.c.text).order_by(topics.c.account_id, topics.c.number)
    return {row.account_id: row.text for row in tx.execute(query)}


def say(store: Store, me: Account, text: str) -> None:
    """A candidate's answer to the fourth part. Raises UserError for too many words, or where it was decided."""
    text = _short(text)
    if not text:
        raise UserError("nothing was written; nothing was kept")
    with store.write() as tx:
        if _held(tx, me.id) != "candidate":
            raise UserError("your trial is over; nothing was changed")
        now = store.clock()
        query = sa.select(sa.func.coalesce(sa.func.max(topics.c.number), 0)).where(topics.c.account_id == me.id)
        number, made = int(tx.execute(query).scalar_one()) + 1, new_id(now)
        tx.execute(topics.insert().values(id=made, account_id=me.id, number=number, text=text, created=now))
        log(tx, now, me.id, "topics", made, number=number)


def _short(text: str) -> str:
    if len(text) > LONGEST:
        raise UserError(f"this has {len(text):,} characters; at most {LONGEST:,}")
    return work.words({"text": text}, "text", needed=False)


def _held(tx: Connection, account: str) -> str | None:
    """A labeler's standing, held against others; None for anybody who is no labeler."""
    query = sa.select(accounts.c.standing).where(accounts.c.id == account, accounts.c.role == "labeler")
    return tx.execute(query.with_for_update(key_share=True)).scalar_one_or_none()


# ---- the numbers -----------------------------------------------------------------------------------------------


def view(store: Store) -> View:
    """All candidates with their numbers, those who wait for a decision first."""
    with store.read() as tx:
        given, key = _compared(tx)
        written = grading.grades(tx)
        said, there = _topics(tx), sum(_items(tx, batches.c.open).values())
        answered = _answered(tx, there)
        found = [
            Candidate(
                number,
                handle(row.id),
                row.id,
                row.standing,
                *answered.get(row.id, (0, there)),
                said.get(row.id, ""),
                Scores(
                    flagging(given.get(row.id, {}), key),
                    ordering(given.get(row.id, {}), key),
                    writing(written.get(row.id, {})),
                ),
            )
            for number, row in _screened(tx)
        ]
        keyed, researchers = _keyed(tx)
        total = _items(tx)
    found.sort(key=lambda c: (c.standing != "candidate", c.number))
    return View(found, total, keyed, researchers, _among(store))


def one(store: Store, name: str) -> Candidate:
    """A candidate by handle. Raises UserError when there is none."""
    found = next((c for c in view(store).candidates if c.handle == name), None)
    if found is None:
        raise UserError("there is no such candidate")
    return found


def name_of(store: Store, account: str) -> str:
    """Whose number it is: for an admin who chooses to know."""
    with store.read() as tx:
        return str(tx.execute(sa.select(accounts.c.name).where(accounts.c.id == account)).scalar_one())


def _screened(tx: Connection) -> list[tuple[int, Any]]:
    """(number, account) of the labelers who are or were candidates, decided ones too, so that numbers stay."""
    query = sa.select(accounts.c.id, accounts.c.role, accounts.c.standing).where(accounts.c.standing != "unscreened")
    rows = sorted(tx.execute(query), key=lambda row: handle(row.id))
    return [(number, row) for number, row in enumerate(rows, start=1) if row.role == "labeler"]


def _researcher() -> tuple[sa.ColumnElement[bool], ...]:
    return accounts.c.role.in_(RESEARCHERS), accounts.c.standing == "unscreened"


def _compared(tx: Connection) -> tuple[Mapping[str, Own], Key]:
    """{candidate: {item: answer}} and the researchers' key, of the latest answers to what is to be ranked."""
    bodies = dict(tx.execute(sa.select(form_table.c.number, form_table.c.body)).all())
    meant = {number: forms.sensitive(body) for number, body in bodies.items()}
    is_key = sa.and_(*_researcher()).label("is_key")
    given: dict[str, dict[str, Answer]] = {}
    key: dict[str, list[Answer]] = {}
    for part in chunks(harvest.answer_ids(tx, ("compare",), screening=True)):
        query = (
            sa.select(answers.c.item_id, answers.c.account_id, answers.c.body, answers.c.form, is_key)
            .join(accounts, accounts.c.id == answers.c.account_id)
            .where(answers.c.id.in_(part))
        )
        for row in tx.execute(query):
            answer = _answer(row.body, meant[row.form])
            if row.is_key:
                key.setdefault(row.item_id, []).append(answer)
            else:
                given.setdefault(row.account_id, {})[row.item_id] = answer
    return given, key


def _answer(body: dict[str, Any], sensitive: frozenset[str]) -> Answer:
    flags: Sequence[dict[str, bool]] = [rating["flags"] for rating in body["ratings"]]
    return Answer(tuple(body["ranks"]), tuple(any(own.get(name) for name in sensitive) for own in flags))


def _answered(tx: Connection, there: int) -> dict[str, tuple[int, int]]:
    """{account: (items of screening batches that it answered, of how many)}. there: items of open batches."""
    closed = sa.func.sum(sa.case((batches.c.open, 0), else_=1))
    query = (
        sa.select(assignments.c.account_id, sa.func.count(), closed)
        .select_from(assignments.join(items).join(batches))
        .where(batches.c.screening, assignments.c.state == "submitted")
        .group_by(assignments.c.account_id)
    )
    return {str(account): (int(n), there + int(more)) for account, n, more in tx.execute(query)}


def _items(tx: Connection, *which: sa.ColumnElement[bool]) -> dict[str, int]:
    """{kind: items of screening batches}, of all or some batches."""
    query = sa.select(batches.c.kind, sa.func.count()).select_from(items.join(batches))
    query = query.where(batches.c.screening, *which)
    return {str(kind): int(n) for kind, n in tx.execute(query.group_by(batches.c.kind))}


def _keyed(tx: Connection) -> tuple[dict[str, int], int]:
    """({kind: items that researchers answered}, researchers who answered any)."""
    done = assignments.join(items).join(batches).join(accounts, accounts.c.id == assignments.c.account_id)
    which = (batches.c.screening, assignments.c.state == "submitted", *_researcher())
    query = sa.select(batches.c.kind, sa.func.count(sa.distinct(items.c.id))).select_from(done).where(*which)
    found = {str(kind): int(n) for kind, n in tx.execute(query.group_by(batches.c.kind))}
    who = sa.select(sa.func.count(sa.distinct(accounts.c.id))).select_from(done).where(*which)
    return found, int(tx.execute(who).scalar_one())


def _among(store: Store) -> Agreement | None:
    """Agreement among the researchers; None where no two ranked the same outputs."""
    with store.read() as tx:
        who = set(tx.execute(sa.select(accounts.c.id).where(*_researcher())).scalars())
    try:
        rows = harvest.verdicts(store, ("compare",), screening=True)
        return agreement_within([r for r in rows if r.labeler in who])
    except UserError:
        return None


# ---- deciding --------------------------------------------------------------------------------------------------


def decide(store: Store, by: Account, candidate: Candidate, decision: str, *, words: str = "", named: bool) -> None:
    """Admit, decline, or take back into screening. What the labeler holds is given back at once. Raises UserError.

    words: to the candidate, when declined. named: whether the admin had the name before them.
    """
    if decision not in DECISIONS:
        raise UserError(f"no decision {decision!r}; one of {', '.join(DECISIONS)}")
    words = (_short(words) or DECLINED) if decision == "decline" else ""
    with store.write() as tx:
        before = _held(tx, candidate.account)
        if before in (None, "unscreened", DECISIONS[decision]):
            raise UserError("this was decided already; look again")
        now = store.clock()
        standing = DECISIONS[decision]
        tx.execute(accounts.update().where(accounts.c.id == candidate.account).values(standing=standing))
        release(tx, now, candidate.account)
        told = {"before": before, "words": words, "named": named, "numbers": candidate.scores.to_dict()}
        log(tx, now, by.id, decision, candidate.account, **told)
