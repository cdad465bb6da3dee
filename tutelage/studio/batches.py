"""Batches: which prompts or responses are put before whom, and how far each batch is.

A demonstrate batch is made from prompts, a compare or judge batch from responses, as a `samples` run writes them.
Progress comes from the items' counters alone: no answer is read to count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from tutelage.records import MAX_RANKED, SPLITS, FieldError, Response, UserError, from_dict, read_rows
from tutelage.studio import filing, queue
from tutelage.studio.accounts import Account
from tutelage.studio.ids import new_id
from tutelage.studio.places import one_at_a_time
from tutelage.studio.schema import (
    EVERYONE,
    KINDS,
    MODES,
    accounts,
    actions,
    assignments,
    batches,
    forms,
    items,
    prompts,
)
from tutelage.studio.statements import ASIDE_PROMPTS
from tutelage.studio.store import Store

Rows = Iterable[tuple[str, Sequence[Response]]]
"""(prompt id, responses) of each item."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a batch is worked on."""

    mode: str
    overlap: int
    team: str
    priority: int
    screening: bool = False  # for everyone who is given screening tasks: overlap and group do not apply


@dataclass(frozen=True, slots=True)
class Progress:
    """A batch and how far it is. All counts are places: items times labelers per item (for screening: without end)."""

    id: str
    name: str
    kind: str
    mode: str
    overlap: int
    team: str
    form: int
    priority: int
    open: bool
    screening: bool
    items: int
    wanted: int
    done: int
    held: int

    @property
    def left(self) -> int:
        """Places nobody has taken yet."""
        return max(0, self.wanted - self.done - self.held)


def add_demonstrate(
    store: Store,
    name: str,
    *,
    split: str = "train",
    use_cases: Sequence[str] = (),
    number: int = 20,
    quota: int = 0,
    again: bool = False,
    mode: str = "helpful-first",
    overlap: int = 1,
    team: str = "",
    priority: int = 0,
    screening: bool = False,
    account: Account | None = None,
) -> str:
    """A batch of prompts to write responses to; returns its id. Raises UserError when no prompt fits.

    split: one of SPLITS, or "all". use_cases: those wanted, all when empty. number: prompts, at most, spread evenly
    over the use cases so that none is forgotten; quota: prompts of one use case, at most, 0 for no limit. Prompts
    that are in a demonstrate batch already are left out unless `again`; a batch that screens and one that does not
    take none from each other.
    """
    if split not in (*SPLITS, "all"):
        raise UserError(f"no split {split!r}; one of {', '.join(SPLITS)}, all")
    if number < 1 or quota < 0:
        raise UserError("the number of prompts must be at least 1, the quota per use case at least 0")
    with store.write() as tx:
        one_at_a_time(tx)
        found = _candidates(tx, split, use_cases, again=again, screening=screening)
        chosen = _spread(found, number, quota)
        if not chosen:
            raise UserError("no prompt fits: bring prompts in, or allow those that are in a batch already")
        terms = Terms(mode, overlap, team, priority, screening)
        return _make(tx, store.clock(), account, name, "demonstrate", terms, [(p, ()) for p in chosen])


def _candidates(
    tx: Connection, split: str, use_cases: Sequence[str], *, again: bool, screening: bool
) -> list[tuple[str, str]]:
    """(id, use case) of the prompts that may be chosen, oldest first."""
    query = sa.select(prompts.c.id, prompts.c.use_case).order_by(prompts.c.created, prompts.c.id)
    query = query.where(prompts.c.id.not_in(ASIDE_PROMPTS))
    if split != "all":
        query = query.where(prompts.c.split == split)
    if use_cases:
        query = query.where(prompts.c.use_case.in_(use_cases))
    if not again:
        alike = batches.c.kind == "demonstrate", batches.c.screening == screening
        asked = sa.select(items.c.prompt_id).join(batches).where(*alike)
        query = query.where(prompts.c.id.not_in(asked))
    return [(row.id, row.use_case) for row in tx.execute(query)]


def _spread(found: Sequence[tuple[str, str]], number: int, quota: int) -> list[str]:
    """At most `number` prompts, in turn from every use case in proportion to how many it has."""
    by_case: dict[str, list[str]] = {}
    for prompt, case in found:
        by_case.setdefault(case, []).append(prompt)
    if quota:
        by_case = {case: group[:quota] for case, group in by_case.items()}
    ranked = sorted((i / len(group), case, p) for case, group in by_case.items() for i, p in enumerate(group))
    return [prompt for _, _, prompt in ranked[:number]]


def add_compare(
    store: Store,
    name: str,
    rows: Rows,
    *,
    kind: str = "compare",
    mode: str = "helpful-first",
    overlap: int = 1,
    team: str = "",
    priority: int = 0,
    screening: bool = False,
    account: Account | None = None,
) -> str:
    """A batch of responses to rank; returns its id. The prompts must be in the database. Raises UserError.

    kind "compare" makes training data: of responses with the same text one is shown, and a prompt with fewer than two
    different ones is left out, since there is nothing to rank. kind "judge" only evaluates and shows all.
    """
    entries = worth_ranking(rows, kind)
    if not entries:
        raise UserError("nothing to rank: no prompt has two different responses")
    terms = Terms(mode, overlap, team, priority, screening)
    with store.write() as tx:
        one_at_a_time(tx)
        return file_compare(tx, store.clock(), name, entries, kind=kind, terms=terms, account=account)


def worth_ranking(rows: Rows, kind: str) -> list[tuple[str, list[Response]]]:
    """The rows that leave something to rank, as `add_compare` says."""
    entries = [(prompt, list(responses)) for prompt, responses in rows]
    if kind == "compare":
        entries = [(p, different) for p, rs in entries if len(different := _different(rs)) > 1]
    return entries


def file_compare(
    tx: Connection,
    now: float,
    name: str,
    entries: Sequence[tuple[str, Sequence[Response]]],
    *,
    kind: str,
    terms: Terms,
    account: Account | None = None,
) -> str:
    """`add_compare` within a transaction that does more. Raises UserError."""
    for prompt, responses in entries:
        if not 2 <= len(responses) <= MAX_RANKED:
            raise UserError(f"prompt {prompt!r} has {len(responses)} responses; a ranking needs 2 to {MAX_RANKED}")
        if any("\0" in r.text for r in responses):
            raise UserError(f"a response to prompt {prompt!r} holds a NUL character")
    for part in filing.chunks([prompt for prompt, _ in entries]):
        here = set(tx.execute(sa.select(prompts.c.id).where(prompts.c.id.in_(part))).scalars())
        missing = [prompt for prompt in part if prompt not in here]
        if missing:
            raise UserError(f"prompt {missing[0]!r} is not in this studio; bring its prompts in first")
    ids = filing.file_responses(tx, now, entries)
    chosen = [(prompt, own) for (prompt, _), own in zip(entries, ids, strict=True)]
    return _make(tx, now, account, name, kind, terms, chosen)


def _different(responses: Sequence[Response]) -> list[Response]:
    """The first response of every text."""
    first: dict[str, Response] = {}
    for response in responses:
        first.setdefault(response.text.strip(), response)
    return list(first.values())


def _make(
    tx: Connection,
    now: float,
    account: Account | None,
    name: str,
    kind: str,
    terms: Terms,
    entries: Sequence[tuple[str, Sequence[str]]],
) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise UserError("the batch's name must have 1 to 100 characters")
    if tx.execute(sa.select(batches.c.id).where(batches.c.name == name)).first():
        raise UserError(f"there is a batch called {name!r} already")
    if kind not in KINDS:
        raise UserError(f"no kind {kind!r}; one of {', '.join(KINDS)}")
    _check(terms)
    if terms.screening and kind not in queue.SCREENS:
        raise UserError("a screening batch asks to write or to rank; judging is for evaluation")
    made = new_id(now)
    newest = tx.execute(sa.select(sa.func.max(forms.c.number))).scalar_one()
    values = {"id": made, "name": name, "kind": kind, "form": newest, "open": True, "created": now}
    tx.execute(batches.insert().values(**values, **_columns(terms)))
    queue.add_items(tx, now, made, entries)
    by = account.id if account else None
    told = {"kind": kind, "overlap": terms.overlap, "screening": terms.screening}
    queue.log(tx, now, by, "batch", made, items=len(entries), **told)
    return made


def _columns(terms: Terms) -> dict[str, Any]:
    row: dict[str, Any] = {"mode": terms.mode, "priority": terms.priority, "screening": terms.screening}
    if terms.screening:
        return row | {"overlap": EVERYONE, "team": ""}
    return row | {"overlap": terms.overlap, "team": terms.team.strip()}


def _check(terms: Terms) -> None:
    if terms.mode not in MODES:
        raise UserError(f"no mode {terms.mode!r}; one of {', '.join(MODES)}")
    if not 1 <= terms.overlap <= queue.MOST:
        raise UserError(f"labelers per item is {terms.overlap}; expected 1 to {queue.MOST}")
    if len(terms.team) > 64 or not terms.team.isprintable():
        raise UserError("the group's name must have at most 64 characters")
    if abs(terms.priority) > 1000:
        raise UserError("the priority must be between -1,000 and 1,000")


def read_samples(*files: Path) -> list[tuple[str, list[Response]]]:
    """The responses of `samples` runs, (prompt id, responses) in the order of the first file.

    Responses of several files to one prompt stand side by side: old and new policy to be judged. Raises UserError
    naming file, line and field.
    """
    found: dict[str, list[Response]] = {}
    for file in files:
        for number, row in read_rows(file):
            try:
                if not isinstance(row, dict) or not isinstance(row.get("prompt_id"), str):
                    raise FieldError("prompt_id", "is missing")
                found.setdefault(row["prompt_id"], []).append(from_dict(Response, row.get("response")))
            except FieldError as error:
                raise UserError(f"{file}, line {number}: {error}") from None
    return list(found.items())


# ---- changing --------------------------------------------------------------------------------------------------


def change(
    store: Store, account: Account, batch: str, *, overlap: int, mode: str, team: str, priority: int, open: bool
) -> None:
    """Change a batch at any time: what was done stays done, and keeps the mode it was done in. Raises UserError.

    One that screens stays for everyone, whatever overlap and team say.
    """
    _check(Terms(mode, overlap, team, priority))
    before = one(store, batch)
    if before.screening:
        overlap, team = before.overlap, ""
    if overlap != before.overlap:
        queue.change_overlap(store, batch, overlap)
    values = {"mode": mode, "team": team.strip(), "priority": priority, "open": open}
    with store.write() as tx:
        tx.execute(batches.update().where(batches.c.id == batch).values(**values))
        queue.log(tx, store.clock(), account.id, "change", batch, overlap=overlap, **values)


# ---- looking ---------------------------------------------------------------------------------------------------


def progress(store: Store, batch: str = "") -> list[Progress]:
    """All batches, those worked on first; or one."""
    total = [
        sa.func.count(items.c.id).label("items"),
        sa.func.coalesce(sa.func.sum(items.c.quota), 0).label("wanted"),
        sa.func.coalesce(sa.func.sum(items.c.done), 0).label("done"),
        sa.func.coalesce(sa.func.sum(items.c.held), 0).label("held"),
    ]
    query = (
        sa.select(batches, *total)
        .outerjoin(items, items.c.batch_id == batches.c.id)
        .group_by(batches.c.id)
        .order_by(batches.c.open.desc(), batches.c.priority.desc(), batches.c.id.desc())
    )
    if batch:
        query = query.where(batches.c.id == batch)
    with store.read() as tx:
        return [_progress(row) for row in tx.execute(query)]


def _progress(row: Row[Any]) -> Progress:
    said = ("id", "name", "kind", "mode", "overlap", "team", "form", "priority", "open", "screening")
    counted = ("items", "wanted", "done", "held")
    told: dict[str, Any] = {name: getattr(row, name) for name in said}
    counts: dict[str, Any] = {name: int(getattr(row, name)) for name in counted}
    return Progress(**told, **counts)


def one(store: Store, batch: str) -> Progress:
    """A batch. Raises UserError when there is none."""
    found = progress(store, batch)
    if not found:
        raise UserError("there is no such batch")
    return found[0]


@dataclass(frozen=True, slots=True)
class Skip:
    """An item that somebody would not do."""

    prompt_id: str
    prompt: str
    labeler: str
    reason: str
    at: float


def skips(store: Store, batch: str, limit: int = 100) -> list[Skip]:
    """The latest skips of a batch with their reasons: unclear prompts show here first."""
    query = (
        sa.select(items.c.prompt_id, prompts.c.text, accounts.c.name, actions.c.detail, actions.c.at)
        .select_from(actions)
        .join(assignments, assignments.c.id == actions.c.about)
        .join(items, items.c.id == assignments.c.item_id)
        .join(prompts, prompts.c.id == items.c.prompt_id)
        .join(accounts, accounts.c.id == assignments.c.account_id)
        .where(actions.c.what == "skipped", items.c.batch_id == batch)
        .order_by(actions.c.id.desc())
        .limit(limit)
    )
    with store.read() as tx:
        return [Skip(r.prompt_id, r.text, r.name, _reason(r.detail), r.at) for r in tx.execute(query)]


def _reason(detail: dict[str, Any]) -> str:
    return str(detail.get("reason", ""))


@dataclass(frozen=True, slots=True)
class Line:
    """An item in a list."""

    place: int
    prompt_id: str
    prompt: str
    quota: int
    done: int
    held: int


def items_of(store: Store, batch: str, start: int = 0, count: int = 50) -> list[Line]:
    """A page of a batch's items in their order."""
    query = (
        sa.select(items.c.place, items.c.prompt_id, prompts.c.text, items.c.quota, items.c.done, items.c.held)
        .join(prompts, prompts.c.id == items.c.prompt_id)
        .where(items.c.batch_id == batch, items.c.place >= start)
        .order_by(items.c.place)
        .limit(count)
    )
    with store.read() as tx:
        return [Line(*row) for row in tx.execute(query)]
