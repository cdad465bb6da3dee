"""Records into tables: prompts, responses, and the answers of people who worked elsewhere.

Imported answers stand in closed batches of their own, one for each file and kind, credited to the labeler the file
names: as an account that is closed and has no password anybody knows, called "NAME (imported)", so that nobody here
is credited with work of a namesake.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from argon2 import PasswordHasher
from sqlalchemy import Connection

from tutelage.data.intake import digest
from tutelage.data.sources import Imported
from tutelage.records import Demonstration, Prompt, Ranking, Response, UserError
from tutelage.studio.accounts import Account
from tutelage.studio.ids import new_id
from tutelage.studio.schema import accounts, actions, answers, assignments, batches, forms, items, prompts, responses
from tutelage.studio.work import LONGEST

CHUNK = 500  # rows of one statement
LARGEST_INT = 2**31 - 1  # of an INTEGER column in PostgreSQL


def fits(where: str, prompt: Prompt) -> None:
    """Refuse names that are longer than their columns, or that no address of a page can hold. Raises UserError."""
    for name, value, limit in (("id", prompt.id, 128), ("user", prompt.user, 128)):
        if len(value) > limit:
            raise UserError(f"{where}: field {name!r} {value[:40]!r}… has {len(value)} characters; at most {limit}")
    if len(prompt.id.splitlines()) > 1 or "\0" in prompt.id:
        raise UserError(f"{where}: field 'id' {prompt.id[:40]!r} holds a line break or NUL; an id is one line of text")


def chunks(rows: Sequence[Any], size: int = CHUNK) -> Iterator[Sequence[Any]]:
    """Parts of at most `size` rows."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _insert(tx: Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    for part in chunks(rows):
        tx.execute(table.insert(), part)


def file_prompts(tx: Connection, now: float, rows: Iterable[Prompt]) -> None:
    """Add prompts. What simulated labelers check of them stays in their file: here people judge."""
    made = [
        {
            "id": p.id,
            "text": p.text,
            "writer": p.user,
            "use_case": p.use_case,
            "kind": p.kind,
            "split": p.split,
            "flags": list(p.flags),
            "source": p.source,
            "created": now,
        }
        for p in rows
    ]
    _insert(tx, prompts, made)


def file_responses(tx: Connection, now: float, entries: Sequence[tuple[str, Sequence[Response]]]) -> list[list[str]]:
    """Add (prompt id, responses); returns the ids they stand under, in order.

    A response that is here already is used again. One whose id is taken by another text, as when two rounds call their
    policy the same, gets an id with a digest of its text.
    """
    named = [(prompt, r, f"{r.id}~{digest(prompt, r.text, r.model)}") for prompt, rs in entries for r in rs]
    wanted = [name for _, r, other in named for name in (r.id, other)]
    here: dict[str, tuple[str, str, str]] = {}
    for part in chunks(wanted):
        query = sa.select(responses.c.id, responses.c.prompt_id, responses.c.text, responses.c.model)
        here |= {r.id: (r.prompt_id, r.text, r.model) for r in tx.execute(query.where(responses.c.id.in_(part)))}
    made, ids = [], []
    for prompt, r, other in named:
        own = (prompt, r.text, r.model)
        name = r.id if here.get(r.id, own) == own else other
        ids.append(name)
        if name not in here:
            here[name] = own
            made.append(_response_row(name, prompt, r, now))
    _insert(tx, responses, made)
    left = iter(ids)
    return [[next(left) for _ in rs] for _, rs in entries]


def _response_row(name: str, prompt: str, r: Response, now: float) -> dict[str, Any]:
    if len(name) > 256 or len(r.model) > 128:
        raise UserError(f"response {name[:40]!r}…: its id or its model's name is too long")
    return {
        "id": name,
        "prompt_id": prompt,
        "text": r.text,
        "model": r.model,
        "tokens": max(0, min(r.tokens, LARGEST_INT)),
        "ended": r.ended,
        "sampling": r.sampling,
        "created": now,
    }


# ---- answers of people who worked elsewhere --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """One answer on its way in."""

    kind: str
    prompt_id: str
    responses: tuple[str, ...]  # ids, in the item's order
    account: str
    key: str
    body: dict[str, Any]
    form: int
    team: str = "training"
    mode: str = "helpful-first"
    order_seed: int = 0
    seconds: float = 0.0


@dataclass
class _People:
    """Accounts for the labelers that files name; made when first met."""

    tx: Connection
    now: float
    known: dict[tuple[str, str], str] = field(default_factory=dict)
    locked: str = ""

    def find(self, labeler: str, group: str) -> str:
        """The id of the closed account of a labeler of a group."""
        if (labeler, group) not in self.known:
            self.known[labeler, group] = self._account(labeler, group)
        return self.known[labeler, group]

    def _account(self, labeler: str, group: str) -> str:
        if not group.isprintable() or not labeler.isprintable() or len(group) > 64:
            raise UserError(f"labeler {labeler[:40]!r} of group {group[:40]!r}: a name that cannot be shown")
        for tail in (" (imported)", f" (imported, {group})"):
            name = (
                labeler if len(labeler) + len(tail) <= 64 else f"{labeler[: 64 - len(tail) - 9]} {digest(labeler)[:8]}"
            )
            row = self.tx.execute(sa.select(accounts).where(accounts.c.name == (name + tail)[:64])).first()
            if row is None:
                return self._make((name + tail)[:64], group)
            if row.team == group:
                return str(row.id)
        raise UserError(f"labeler {labeler[:40]!r}: this name is taken by somebody of another group")

    def _make(self, name: str, group: str) -> str:
        self.locked = self.locked or PasswordHasher().hash(secrets.token_hex(32))
        made = new_id(self.now)
        role = "heldout" if group == "heldout" else "labeler"
        row = {"id": made, "name": name, "password": self.locked, "role": role, "team": group}
        self.tx.execute(accounts.insert().values(**row, active=False, created=self.now))
        return made


def file_answers(tx: Connection, now: float, file: str, found: Imported) -> list[str]:
    """Add the demonstrations and rankings of a file; returns notes for a person.

    Rankings by the group "heldout" go to a batch of the kind that only evaluates. What is here already is left out.
    """
    people = _People(tx, now)
    long = [d for d in found.demonstrations if len(d.response) > LONGEST]
    written = [d for d in found.demonstrations if len(d.response) <= LONGEST]
    given = [*_demonstrated(tx, people, written), *_ranked(tx, now, people, found.rankings)]
    keys = {key for part in chunks([g.key for g in given]) for key in _keys_here(tx, part)}
    fresh = [g for g in given if g.key not in keys]
    for kind, what in (("demonstrate", "demonstrations"), ("compare", "rankings"), ("judge", "judgements")):
        file_given(tx, now, f"imported {what}, {file}", kind, [g for g in fresh if g.kind == kind])
    counts = Counter("demonstrations" if g.kind == "demonstrate" else "rankings" for g in fresh)
    notes = [f"{count:,} {what} added, by {len(people.known):,} labelers" for what, count in sorted(counts.items())]
    for what, of in (("demonstrations", written), ("rankings", found.rankings)):
        if again := len(of) - counts[what]:
            notes.append(f"{again:,} {what} were here already, or twice in the file: left out")
    if long:
        notes.append(f"{len(long):,} demonstrations of more than {LONGEST:,} characters: left out")
    return notes


def _keys_here(tx: Connection, keys: Sequence[str]) -> list[str]:
    return list(tx.execute(sa.select(answers.c.key).where(answers.c.key.in_(keys))).scalars())


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _newest_form(tx: Connection) -> int:
    return int(tx.execute(sa.select(sa.func.max(forms.c.number))).scalar_one())


def _demonstrated(tx: Connection, people: _People, rows: Sequence[Demonstration]) -> list[_Given]:
    form, given, seen = _newest_form(tx), [], set()
    for d in rows:
        account = people.find(d.labeler, "training")
        key = _key("demonstration", d.prompt_id, account, d.response)
        if key in seen:
            continue
        seen.add(key)
        body = {"response": d.response}
        given.append(
            _Given(
                kind="demonstrate",
                prompt_id=d.prompt_id,
                responses=(),
                account=account,
                key=key,
                body=body,
                form=form,
            )
        )
    return given


def _ranked(tx: Connection, now: float, people: _People, rows: Sequence[Ranking]) -> list[_Given]:
    known_forms = set(tx.execute(sa.select(forms.c.number)).scalars())
    newest = max(known_forms)
    ids = file_responses(tx, now, [(r.prompt_id, r.responses) for r in rows])
    orders: dict[tuple[str, frozenset[str]], list[str]] = {}
    given, seen = [], set()
    for ranking, own in zip(rows, ids, strict=True):
        if len(set(own)) < len(own):
            raise UserError(f"a ranking of prompt {ranking.prompt_id!r} holds one response twice")
        order = orders.setdefault((ranking.prompt_id, frozenset(own)), own)
        account = people.find(ranking.labeler, ranking.group)
        body = _body(ranking, [own.index(name) for name in order])
        key = _key("ranking", ranking.prompt_id, account, *order, str(body["ranks"]), str(ranking.order_seed))
        if key in seen:
            continue
        seen.add(key)
        given.append(
            _Given(
                kind="judge" if ranking.group == "heldout" else "compare",
                prompt_id=ranking.prompt_id,
                responses=tuple(order),
                account=account,
                key=key,
                body=body,
                form=ranking.form_version if ranking.form_version in known_forms else newest,
                team=ranking.group,
                mode=ranking.instruction_mode[:16],
                order_seed=ranking.order_seed % LARGEST_INT,
                seconds=max(0.0, float(ranking.seconds)),
            )
        )
    return given


def _body(ranking: Ranking, order: Sequence[int]) -> dict[str, Any]:
    ratings = [{"likert": r.likert, "flags": r.flags, "note": r.note} for r in ranking.ratings]
    return {
        "ranks": [ranking.ranks[i] for i in order],
        "ratings": [ratings[i] for i in order] if ratings else [],
        "touched": True,
        "edited": "",
        "log": [],
    }


def file_given(tx: Connection, now: float, name: str, kind: str, given: Sequence[_Given]) -> None:
    """Put answers into a new closed batch; labelers who answered about the same responses share an item."""
    if not given:
        return
    batch = new_id(now)
    newest = _newest_form(tx)
    row = {"id": batch, "name": free_name(tx, name), "kind": kind, "mode": "helpful-first", "overlap": 1, "team": ""}
    tx.execute(batches.insert().values(**row, form=newest, priority=0, open=False, created=now))
    turn: Counter[tuple[str, frozenset[str], str]] = Counter()
    shared: dict[tuple[str, frozenset[str], int], list[_Given]] = {}
    for one in given:
        what = (one.prompt_id, frozenset(one.responses))
        turn[*what, one.account] += 1
        shared.setdefault((*what, turn[*what, one.account]), []).append(one)
    rows: dict[str, list[dict[str, Any]]] = {"item": [], "assignment": [], "answer": [], "action": []}
    for place, group in enumerate(shared.values()):
        item = new_id(now)
        rows["item"].append(_item_row(item, batch, place, group))
        for one in group:
            for table, made in _answer_rows(now, item, one).items():
                rows[table].append(made)
    for target in (items, assignments, answers, actions):
        _insert(tx, target, rows[target.name])


def _item_row(item: str, batch: str, place: int, group: Sequence[_Given]) -> dict[str, Any]:
    row = {"id": item, "batch_id": batch, "prompt_id": group[0].prompt_id, "place": place}
    counters = {"quota": len(group), "held": 0, "done": len(group), "free": False}
    return {**row, **counters, "responses": list(group[0].responses)}


def _answer_rows(now: float, item: str, one: _Given) -> dict[str, dict[str, Any]]:
    """The rows that a labeler here would have left behind."""
    answer = new_id(now)
    return {
        "assignment": {
            "id": new_id(now),
            "item_id": item,
            "account_id": one.account,
            "state": "submitted",
            "fence": 1,
            "expires": now,
            "claimed": now,
            "order_seed": one.order_seed,
            "draft": None,
            "draft_no": 0,
            "seconds": one.seconds,
        },
        "answer": {
            "id": answer,
            "item_id": item,
            "account_id": one.account,
            "number": 1,
            "key": one.key,
            "body": one.body,
            "form": one.form,
            "mode": one.mode,
            "order_seed": one.order_seed,
            "seconds": one.seconds,
            "extra": False,
            "team": one.team,
            "created": now,
        },
        "action": {
            "id": new_id(now),
            "at": now,
            "account_id": one.account,
            "what": "submit",
            "about": answer,
            "detail": {"item": item, "extra": False, "imported": True},
        },
    }


def free_name(tx: Connection, name: str) -> str:
    """A batch's name that is not taken: the one wanted, else with a number."""
    name = name.strip()[:110]
    taken = set(tx.execute(sa.select(batches.c.name).where(batches.c.name.startswith(name, autoescape=True))).scalars())
    number = 2
    found = name
    while found in taken:
        found = f"{name} ({number})"
        number += 1
    return found


def file_own(tx: Connection, now: float, account: Account, rows: Sequence[tuple[str, str]]) -> None:
    """Add demonstrations that an account wrote with its own prompts: (prompt id, response)."""
    form = _newest_form(tx)
    given = [
        _Given(
            kind="demonstrate",
            prompt_id=prompt,
            responses=(),
            account=account.id,
            key=_key("own", prompt, account.id),
            body={"response": response},
            form=form,
        )
        for prompt, response in rows
    ]
    file_given(tx, now, f"few-shot examples by {account.name}", "demonstrate", given)
