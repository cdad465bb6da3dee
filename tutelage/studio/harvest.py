"""What people answered, as records: the latest revision of every answer, read in small parts.

What was answered to screen labelers is never among it, unless asked for: it trains, compares and counts as nothing.

Labelers appear under pseudonyms: a digest of their account's id, which is random. It is the same in every export of
one database, and leads nowhere outside it. Their group is the one they were in when they answered: who joins another
group, or the held-out labelers, does not take earlier answers along.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection, Row

from tutelage.records import Demonstration, FieldError, Ranking, Rating, Response, UserError
from tutelage.studio.filing import chunks
from tutelage.studio.schema import answers, batches, items, prompts, responses
from tutelage.studio.statements import ASIDE_ANSWERS, ASIDE_PROMPTS
from tutelage.studio.store import Store


@dataclass(frozen=True, slots=True)
class Harvested:
    """One answer: of a demonstrate batch a demonstration, and one more for each further pair of a few-shot prompt; else
    a ranking, and a demonstration where the best response was edited. `item` is the same for all labelers of the same
    responses."""

    item: str
    ranking: Ranking | None
    demonstrations: tuple[Demonstration, ...]


@functools.lru_cache(1024)
def pseudonym(account: str) -> str:
    """What a labeler is called outside."""
    return f"labeler-{hashlib.sha256(account.encode()).hexdigest()[:10]}"


def answer_ids(
    tx: Connection,
    kinds: Sequence[str],
    *,
    teams: Sequence[str] = (),
    batch: str = "",
    prompt: str = "",
    screening: bool = False,
    all_of_them: bool = False,
) -> list[str]:
    """Ids of the latest answers of batches of these kinds, in a fixed order. Empty filters let everything through.

    screening: of the screening batches, and of no others; else of all others, and of none of those. all_of_them: those
    too that were set aside.
    """
    later = answers.alias("later")
    newer = sa.exists().where(
        later.c.item_id == answers.c.item_id,
        later.c.account_id == answers.c.account_id,
        later.c.number > answers.c.number,
    )
    query = (
        sa.select(answers.c.id)
        .select_from(answers.join(items).join(batches))
        .where(batches.c.kind.in_(kinds), batches.c.screening == screening, ~newer)
        .order_by(answers.c.id)
    )
    if not all_of_them:
        query = query.where(answers.c.id.not_in(ASIDE_ANSWERS), items.c.prompt_id.not_in(ASIDE_PROMPTS))
    if teams:
        query = query.where(answers.c.team.in_(teams))
    if batch:
        query = query.where(items.c.batch_id == batch)
    if prompt:
        query = query.where(items.c.prompt_id == prompt)
    return [str(found) for found in tx.execute(query).scalars()]


def harvest(tx: Connection, ids: Sequence[str]) -> Iterator[Harvested]:
    """The answers of these ids as records, in their order; a few hundred are in memory at a time."""
    for part in chunks(ids):
        rows = {row.id: row for row in tx.execute(_query().where(answers.c.id.in_(part))).all()}
        wanted = sorted({name for row in rows.values() for name in row.responses})
        texts: dict[str, Row[Any]] = {}
        for names in chunks(wanted):
            found = tx.execute(sa.select(*_RESPONSE).where(responses.c.id.in_(names))).all()
            texts |= {r.id: r for r in found}
        for name in part:
            with _named(rows[name].prompt_id):
                made = _harvested(rows[name], texts)
            yield made


@contextlib.contextmanager
def _named(prompt: str) -> Iterator[None]:
    """Say of an answer that is no record, as older versions let some in, where it can be set aside."""
    try:
        yield
    except (FieldError, TypeError) as error:
        page = f"/prompts/{quote(prompt, safe='')}"
        raise UserError(f"an answer to prompt {prompt!r}: {error}; it can be set aside on {page}") from None


def _query() -> sa.Select[Any]:
    return (
        sa.select(
            answers.c.id,
            answers.c.item_id,
            answers.c.account_id,
            answers.c.body,
            answers.c.form,
            answers.c.mode,
            answers.c.order_seed,
            answers.c.seconds,
            answers.c.team,
            items.c.responses,
            prompts.c.id.label("prompt_id"),
            prompts.c.text,
            prompts.c.split,
        )
        .select_from(answers.join(items))
        .join(prompts, prompts.c.id == items.c.prompt_id)
    )


_RESPONSE = (
    *(responses.c[name] for name in ("id", "text", "model", "tokens", "ended")),
    sa.cast(responses.c.sampling, sa.Text).label("sampling"),
)


def _response(row: Row[Any]) -> Response:
    return Response(
        id=row.id, text=row.text, model=row.model, tokens=row.tokens, ended=row.ended, sampling=_sampling(row.sampling)
    )


@functools.lru_cache(1024)
def _sampling(text: str) -> dict[str, Any]:
    """How a response was sampled; thousands were sampled the same way, and read once."""
    found: dict[str, Any] = orjson.loads(text)
    return found


def _harvested(row: Row[Any], texts: dict[str, Row[Any]]) -> Harvested:
    if "response" in row.body:
        return Harvested(row.item_id, None, _written(row))
    shown = tuple(_response(texts[name]) for name in row.responses)
    ranks = tuple(row.body["ranks"])
    ranking = Ranking(
        prompt_id=row.prompt_id,
        prompt=row.text,
        responses=shown,
        ranks=ranks,
        ratings=tuple(
            Rating(likert=r["likert"], flags=r["flags"], note=r.get("note", "")) for r in row.body["ratings"]
        ),
        labeler=pseudonym(row.account_id),
        group=row.team,
        order_seed=row.order_seed,
        instruction_mode=row.mode,
        split=row.split,
        form_version=row.form,
        seconds=row.seconds,
    )
    edited = row.body["edited"]
    best = {r.text.strip() for r, rank in zip(shown, ranks, strict=True) if rank == 1}
    written = _demonstration(row, f"{row.id}-edited", edited) if edited and edited not in best else None
    return Harvested(row.item_id, ranking, (written,) if written else ())


def _written(row: Row[Any]) -> tuple[Demonstration, ...]:
    """The response; for a few-shot prompt also each further pair, behind the prompt, its response and the other pairs.

    So K pairs give K training items, each with the other K - 1 as context (paper, section 3.2).
    """
    first = row.body["response"]
    pairs = [(pair["query"], pair["response"]) for pair in row.body.get("rows", ())]
    found = [_demonstration(row, row.id, first)]
    for n, (query, response) in enumerate(pairs, start=1):
        others = [f"{q}\n{r}" for at, (q, r) in enumerate(pairs, start=1) if at != n]
        prompt = "\n\n".join([f"{row.text}\n{first}", *others, query])
        found.append(_demonstration(row, f"{row.id}-pair-{n}", response, prompt))
    return tuple(found)


def _demonstration(row: Row[Any], name: str, text: str, prompt: str = "") -> Demonstration:
    return Demonstration(
        id=name,
        prompt_id=row.prompt_id,
        prompt=prompt or row.text,
        response=text,
        labeler=pseudonym(row.account_id),
        split=row.split,
    )


def verdicts(
    store: Store, kinds: Sequence[str] = ("compare", "judge"), *, batch: str = "", screening: bool = False
) -> list[Ranking]:
    """The latest rankings without their texts, by account id instead of pseudonym, in the order they were given:
    what agreement is computed from."""
    with store.read() as tx:
        ids = answer_ids(tx, kinds, batch=batch, screening=screening)
        rows: list[Ranking] = []
        for part in chunks(ids):
            query: sa.Select[Any] = (
                sa.select(
                    answers.c.id,
                    answers.c.account_id,
                    answers.c.body,
                    items.c.prompt_id,
                    items.c.responses,
                    answers.c.team,
                )
                .select_from(answers.join(items))
                .where(answers.c.id.in_(part))
                .order_by(answers.c.id)
            )
            for row in tx.execute(query):
                with _named(row.prompt_id):
                    rows.append(_verdict(row))
        return rows


def _verdict(row: Row[Any]) -> Ranking:
    return Ranking(
        prompt_id=row.prompt_id,
        prompt=row.prompt_id,
        responses=tuple(Response(id=name, text="") for name in row.responses),
        ranks=tuple(row.body["ranks"]),
        ratings=tuple(Rating(likert=r["likert"], flags=r["flags"]) for r in row.body["ratings"]),
        labeler=row.account_id,
        group=row.team,
    )
