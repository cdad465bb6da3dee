"""Who works here, what they did, and how it compares: for the people page and the page of one labeler."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from tutelage.evaluate.agreement import Agreement
from tutelage.records import UserError
from tutelage.studio import agreement, harvest
from tutelage.studio.accounts import open_invitations
from tutelage.studio.agreement import Outlier
from tutelage.studio.filing import chunks
from tutelage.studio.schema import accounts, answers, assignments, batches, invitations, items, prompts, responses
from tutelage.studio.store import Store

READS = 75.0
"""Characters a second: three times what people read. Who ranked faster has not read everything."""

TYPES = 15.0
"""Characters a second: 180 words a minute. Who wrote faster has not typed it all."""

LATEST = 2000
"""Answers of a labeler that are looked at, the latest first."""


@dataclass(frozen=True, slots=True)
class Person:
    """An account in the list."""

    id: str
    name: str
    role: str
    team: str
    active: bool
    standing: str
    answers: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Open:
    """An invitation nobody has used yet. Its link is shown once, when it is made."""

    handle: str
    role: str
    team: str
    by: str
    expires: float


@dataclass(frozen=True, slots=True)
class Done:
    """What a labeler did of one kind of work. Times in seconds; `fast` and `untouched` are counts of answers."""

    kind: str
    answers: int
    revised: int
    seconds: float
    median: float
    fast: int
    untouched: int


@dataclass(frozen=True, slots=True)
class Labeler:
    """One labeler's page."""

    person: Person
    done: list[Done]
    skipped: int
    agreement: Agreement | None
    outlier: Outlier


def people(store: Store, account: str = "") -> list[Person]:
    """All accounts, open ones first; or one. Counts and times are of what was submitted, screening left out."""
    own = (
        sa.select(
            assignments.c.account_id,
            sa.func.count().label("answers"),
            sa.func.coalesce(sa.func.sum(assignments.c.seconds), 0.0).label("seconds"),
        )
        .select_from(assignments.join(items).join(batches))
        .where(assignments.c.state == "submitted", ~batches.c.screening)
        .group_by(assignments.c.account_id)
        .subquery()
    )
    query = (
        sa.select(accounts, own.c.answers, own.c.seconds)
        .outerjoin(own, own.c.account_id == accounts.c.id)
        .order_by(accounts.c.active.desc(), sa.func.lower(accounts.c.name))
    )
    if account:
        query = query.where(accounts.c.id == account)
    with store.read() as tx:
        return [
            Person(r.id, r.name, r.role, r.team, r.active, r.standing, r.answers or 0, r.seconds or 0.0)
            for r in tx.execute(query)
        ]


def teams(store: Store) -> list[str]:
    """The groups there are."""
    with store.read() as tx:
        return list(tx.execute(sa.select(accounts.c.team).distinct().order_by(accounts.c.team)).scalars())


def invited(store: Store) -> list[Open]:
    """Invitations that can still be used."""
    query = open_invitations(store.clock()).order_by(invitations.c.created.desc())
    with store.read() as tx:
        return [Open(row.token, row.role, row.team, row.by, row.expires) for row in tx.execute(query)]


def labeler(store: Store, account: str) -> Labeler:
    """What one labeler did and how it compares with the others. Raises UserError when there is no such account."""
    found = people(store, account)
    if not found:
        raise UserError("there is no such account")
    with store.read() as tx:
        done = _done(tx, account)
        skipped = tx.execute(
            sa.select(sa.func.count())
            .select_from(assignments.join(items).join(batches))
            .where(assignments.c.account_id == account, assignments.c.state == "skipped", ~batches.c.screening)
        ).scalar_one()
    rankings = harvest.verdicts(store)
    return Labeler(
        person=found[0],
        done=done,
        skipped=int(skipped),
        agreement=agreement.of_labeler(rankings, account),
        outlier=agreement.outlier(rankings, account),
    )


def _done(tx: Connection, account: str) -> list[Done]:
    query = (
        sa.select(
            answers.c.body,
            answers.c.number,
            answers.c.seconds,
            batches.c.kind,
            items.c.responses,
            sa.func.length(prompts.c.text).label("length"),
        )
        .select_from(answers.join(items).join(batches))
        .join(prompts, prompts.c.id == items.c.prompt_id)
        .where(answers.c.account_id == account, ~batches.c.screening)
        .order_by(answers.c.id.desc())
        .limit(LATEST)
    )
    rows = list(tx.execute(query).all())
    lengths: dict[str, int] = {}
    for part in chunks(sorted({name for row in rows for name in row.responses})):
        found = tx.execute(sa.select(responses.c.id, sa.func.length(responses.c.text)).where(responses.c.id.in_(part)))
        lengths |= {str(name): int(length) for name, length in found}
    kinds: dict[str, list[Any]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    return [_of_kind(kind, own, lengths) for kind, own in sorted(kinds.items())]


def _of_kind(kind: str, rows: list[Row[Any]], lengths: dict[str, int]) -> Done:
    first = [row for row in rows if row.number == 1]
    times = [row.seconds for row in first] or [0.0]
    return Done(
        kind=kind,
        answers=len(first),
        revised=len(rows) - len(first),
        seconds=sum(times),
        median=median(times),
        fast=sum(_fast(row, lengths) for row in first),
        untouched=sum(row.body.get("touched") is False for row in first),
    )


def _fast(row: Row[Any], lengths: dict[str, int]) -> bool:
    """Whether an answer took less time than reading or typing does. Imported ones may carry no time: not counted."""
    if row.seconds <= 0:
        return False
    if "response" in row.body:
        return bool(len(row.body["response"]) / row.seconds > TYPES)
    return bool((row.length + sum(lengths[name] for name in row.responses)) / row.seconds > READS)
