"""Looking prompts and imports up: lists with filters, and one prompt with all that was answered to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from tutelage.records import Prompt
from tutelage.studio import aside
from tutelage.studio.aside import Aside
from tutelage.studio.forms import QUESTIONS
from tutelage.studio.harvest import answer_ids
from tutelage.studio.intake import prompt_of
from tutelage.studio.schema import accounts, answers, batches, imports, items, prompts, responses
from tutelage.studio.store import Store

PAGE = 50  # prompts in a list
IMPORTS = 20  # latest imports in a list


@dataclass(frozen=True, slots=True)
class Filters:
    """What a list is narrowed by; empty fields let everything through. start: rows left out at the beginning."""

    split: str = ""
    use_case: str = ""
    kind: str = ""
    words: str = ""
    start: int = 0

    def at(self, start: int) -> str:
        """The query string of the same list from another row on."""
        named = {"split": self.split, "use_case": self.use_case, "kind": self.kind, "words": self.words}
        return urlencode({name: value for name, value in named.items() if value} | {"start": start})


@dataclass(frozen=True, slots=True)
class Found:
    """One page of a list."""

    lines: list[Prompt]
    aside: dict[str, Aside]
    total: int
    start: int

    @property
    def before(self) -> int | None:
        """Where the page before begins."""
        return max(0, self.start - PAGE) if self.start else None

    @property
    def after(self) -> int | None:
        """Where the next page begins."""
        return self.start + PAGE if self.start + PAGE < self.total else None


def find(store: Store, filters: Filters) -> Found:
    """The prompts that fit, newest first."""
    query = sa.select(prompts)
    for column, value in (
        (prompts.c.split, filters.split),
        (prompts.c.use_case, filters.use_case),
        (prompts.c.kind, filters.kind),
    ):
        if value:
            query = query.where(column == value)
    if filters.words.strip():
        query = query.where(prompts.c.text.icontains(filters.words.strip(), autoescape=True))
    with store.read() as tx:
        total = tx.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one()
        rows = tx.execute(
            query.order_by(prompts.c.created.desc(), prompts.c.id).offset(filters.start).limit(PAGE)
        ).all()
        left = aside.find(tx, [row.id for row in rows])
    return Found([prompt_of(row) for row in rows], left, int(total), filters.start)


@dataclass(frozen=True, slots=True)
class Import:
    """An import as it is shown."""

    id: str
    file: str
    by: str
    at: float
    kept: int
    dropped: list[dict[str, str]]
    notes: list[str]

    def reasons(self) -> dict[str, list[dict[str, str]]]:
        """What was dropped by each rule, the rule that dropped most first."""
        found: dict[str, list[dict[str, str]]] = {}
        for row in self.dropped:
            found.setdefault(row["reason"].partition(":")[0], []).append(row)
        return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


def imported(store: Store, name: str = "") -> list[Import]:
    """The latest imports; or one."""
    query = (
        sa.select(imports, accounts.c.name)
        .outerjoin(accounts, accounts.c.id == imports.c.account_id)
        .order_by(imports.c.id.desc())
        .limit(IMPORTS)
    )
    if name:
        query = query.where(imports.c.id == name)
    with store.read() as tx:
        return [
            Import(row.id, row.file, row.name or "the studio's folder", row.created, row.kept, row.dropped, row.notes)
            for row in tx.execute(query)
        ]


@dataclass(frozen=True, slots=True)
class Judged:
    """A response as one labeler saw it. likert: 0 where it was not rated; flags: what was ticked, in words."""

    rank: int
    model: str
    text: str
    likert: int
    flags: list[str]
    note: str


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer to a prompt. `ranked`: its responses, best first; empty for a demonstration."""

    id: str
    aside: Aside | None
    labeler: str
    account: str
    kind: str
    batch: str
    batch_id: str
    at: float
    seconds: float
    text: str
    ranked: list[Judged]


@dataclass(frozen=True, slots=True)
class Whole:
    """A prompt with all its answers."""

    prompt: Prompt
    aside: Aside | None
    created: float
    answers: list[Answered]


def one(store: Store, name: str) -> Whole | None:
    """A prompt and what people answered to it."""
    with store.read() as tx:
        row = tx.execute(sa.select(prompts).where(prompts.c.id == name)).first()
        if row is None:
            return None
        return Whole(prompt_of(row), aside.find(tx, [name]).get(name), row.created, _answers(tx, name))


def _answers(tx: Connection, prompt: str) -> list[Answered]:
    texts = {
        r.id: (r.model, r.text)
        for r in tx.execute(
            sa.select(responses.c.id, responses.c.model, responses.c.text).where(responses.c.prompt_id == prompt)
        )
    }
    latest = answer_ids(tx, ("demonstrate", "compare", "judge"), prompt=prompt, all_of_them=True)
    left = aside.find(tx, latest)
    query: sa.Select[Any] = (
        sa.select(
            answers.c.id,
            answers.c.body,
            answers.c.account_id,
            answers.c.created,
            answers.c.seconds,
            accounts.c.name,
            batches.c.kind,
            batches.c.name.label("batch"),
            batches.c.id.label("batch_id"),
            items.c.responses,
        )
        .select_from(answers.join(items).join(batches))
        .join(accounts, accounts.c.id == answers.c.account_id)
        .where(answers.c.id.in_(latest))
        .order_by(answers.c.id)
    )
    return [_answered(row, texts, left.get(row.id)) for row in tx.execute(query)]


def _answered(row: Row[Any], texts: dict[str, tuple[str, str]], left: Aside | None) -> Answered:
    body = row.body
    ranks = body.get("ranks", ())
    ratings = body.get("ratings") or [{}] * len(ranks)  # what was ranked elsewhere may come without
    ranked = [
        Judged(rank, *texts[name], rating.get("likert", 0), _ticked(rating), rating.get("note", ""))
        for rank, name, rating in zip(ranks, row.responses, ratings, strict=True)
    ]
    text = body.get("response") or body.get("edited", "")
    ranked.sort(key=lambda one: (one.rank, one.model, one.text))
    return Answered(
        row.id,
        left,
        row.name,
        row.account_id,
        row.kind,
        row.batch,
        row.batch_id,
        row.created,
        row.seconds,
        text,
        ranked,
    )


def _ticked(rating: dict[str, Any]) -> list[str]:
    """The labels of a rating's flags that are true."""
    return [QUESTIONS[name][0] for name, true in rating.get("flags", {}).items() if true and name in QUESTIONS]
