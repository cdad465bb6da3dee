"""What the studio's tests are filled with: a clock that can be moved, and people, prompts, batches and items."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from starlette.testclient import TestClient

from tutelage.records import UserError
from tutelage.studio import accounts, queue
from tutelage.studio.accounts import Account
from tutelage.studio.ids import new_id
from tutelage.studio.schema import EVERYONE, answers, assignments, batches, forms, items, prompts, responses
from tutelage.studio.schema import accounts as account_table
from tutelage.studio.store import Store

Visit = Callable[[str | Account], TestClient]
"""The fixture `visit`: from a role, or an account, to a client with that account logged in."""

PASSWORD = "correct horse battery"
SETUP_TOKEN = "what-the-terminal-printed"
"""Opens /setup in applications that tests build."""
START = 1_790_000_000.0


class Clock:
    """Time that moves only when told, forwards or backwards. Seconds since 1970."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        """Jump."""
        self.now += seconds


class Made:
    """Factories over one store. Names are unique; everything has sensible defaults."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def _next(self) -> int:
        with self._lock:
            return next(self._numbers)

    def account(self, role: str = "labeler", *, name: str = "", team: str = "", password: str = PASSWORD) -> Account:
        """An account that can log in."""
        return accounts.create(self.store, name or f"{role}-{self._next()}", password, role, team)

    def screened(self, standing: str = "candidate", *, name: str = "") -> Account:
        """A labeler who is a candidate, or was one."""
        made = self.account("labeler", name=name)
        with self.store.write() as tx:
            tx.execute(account_table.update().where(account_table.c.id == made.id).values(standing=standing))
            if standing != "candidate":
                what = {"admitted": "admit", "declined": "decline"}[standing]
                queue.log(tx, self.store.clock(), None, what, made.id)
        return replace(made, standing=standing)

    def crowd(self, count: int, role: str = "labeler", team: str = "training") -> list[str]:
        """Ids of many accounts at once. They cannot log in with a password: hashing one is slow on purpose."""
        now = self.store.clock()
        rows = [
            {
                "id": new_id(now),
                "name": f"{role}-{self._next()}",
                "password": "",
                "role": role,
                "team": team,
                "active": True,
                "created": now,
            }
            for _ in range(count)
        ]
        with self.store.write() as tx:
            tx.execute(account_table.insert(), rows)
        return [str(row["id"]) for row in rows]

    def prompts(self, count: int = 1, **values: Any) -> list[str]:
        """Ids of fresh prompts."""
        now = self.store.clock()
        made = []
        for n in (self._next() for _ in range(count)):
            row = {
                "id": f"prompt-{n:05d}",
                "text": f"Write sentence number {n} about the sea.",
                "writer": f"writer-{n % 7}",
                "use_case": "generation",
                "kind": "plain",
                "split": "train",
                "flags": [],
                "source": "test",
                "created": now,
            }
            made.append(row | values)
        with self.store.write() as tx:
            tx.execute(prompts.insert(), made)
        return [str(row["id"]) for row in made]

    def responses(self, prompt: str, count: int = 4, **values: Any) -> list[str]:
        """Ids of fresh responses to a prompt."""
        now = self.store.clock()
        made = []
        for n in range(count):
            row = {
                "id": f"{prompt}/{self._next():05d}",
                "prompt_id": prompt,
                "text": f"Response {n} to {prompt}: the sea is wide.",
                "model": f"model-{n}",
                "tokens": 9,
                "ended": True,
                "sampling": {"temperature": 1.0, "seed": n},
                "created": now,
            }
            made.append(row | values)
        with self.store.write() as tx:
            tx.execute(responses.insert(), made)
        return [str(row["id"]) for row in made]

    def batch(self, kind: str = "compare", *, overlap: int = 1, name: str = "", **values: Any) -> str:
        """The id of an open batch without items; one that screens has places for everyone."""
        overlap = EVERYONE if values.get("screening") else overlap
        now = self.store.clock()
        made = new_id(now)
        with self.store.write() as tx:
            row = {
                "id": made,
                "name": name or f"batch-{self._next()}",
                "kind": kind,
                "mode": "helpful-first",
                "overlap": overlap,
                "team": "",
                "form": tx.execute(sa.select(sa.func.max(forms.c.number))).scalar_one(),
                "priority": 0,
                "open": True,
                "created": now,
            }
            tx.execute(batches.insert().values(**(row | values)))
        return made

    def items(self, batch: str, count: int = 1, *, k: int = 4) -> list[str]:
        """Ids of fresh items in a batch, in their order; each with a prompt and, for rankings, K responses."""
        with self.store.read() as tx:
            kind = tx.execute(sa.select(batches.c.kind).where(batches.c.id == batch)).scalar_one()
        found = self.prompts(count)
        entries = [(p, self.responses(p, k) if kind != "demonstrate" else []) for p in found]
        with self.store.write() as tx:
            queue.add_items(tx, self.store.clock(), batch, entries)
            query = sa.select(items.c.id).where(items.c.batch_id == batch, items.c.prompt_id.in_(found))
            return [str(i) for i in tx.execute(query.order_by(items.c.place)).scalars()]

    def filled(self, kind: str = "compare", count: int = 1, *, overlap: int = 1, k: int = 4, **values: Any) -> str:
        """The id of an open batch with items."""
        batch = self.batch(kind, overlap=overlap, **values)
        self.items(batch, count, k=k)
        return batch

    def item_ids(self, batch: str) -> list[str]:
        """Ids of a batch's items, in their order."""
        with self.store.read() as tx:
            query = sa.select(items.c.id).where(items.c.batch_id == batch).order_by(items.c.place)
            return [str(i) for i in tx.execute(query).scalars()]

    def key(self) -> str:
        """What a page chooses once per press of its button."""
        return f"key-{self._next():020d}"

    def answer(self, account: str, kind: str = "compare", body: dict[str, Any] | None = None) -> queue.Receipt | None:
        """Claim the next task of a kind and submit it; None where there is none."""
        assignment = queue.claim(self.store, account, kind)
        if assignment is None:
            return None
        if body is None:
            k = len(self.item_of(assignment).responses)
            body = {"response": "The sea is wide."} if kind == "demonstrate" else ranking(k)
        return queue.submit(self.store, account, assignment, self.key(), body, 12.0)

    def item_of(self, assignment: str) -> sa.Row[Any]:
        """The item an assignment is of."""
        with self.store.read() as tx:
            return tx.execute(sa.select(items).join(assignments).where(assignments.c.id == assignment)).one()

    def item(self, item: str) -> sa.Row[Any]:
        """An item as it stands."""
        with self.store.read() as tx:
            return tx.execute(sa.select(items).where(items.c.id == item)).one()

    def assignment(self, assignment: str) -> sa.Row[Any]:
        """An assignment as it stands."""
        with self.store.read() as tx:
            return tx.execute(sa.select(assignments).where(assignments.c.id == assignment)).one()

    def answers(self) -> list[sa.Row[Any]]:
        """All answers, oldest first."""
        with self.store.read() as tx:
            return list(tx.execute(sa.select(answers).order_by(answers.c.created, answers.c.id)))


def ranking(k: int, ranks: list[int] | None = None) -> dict[str, Any]:
    """The stored body of a comparison: the first response best, the last worst, unless told otherwise."""
    return {
        "ranks": ranks or list(range(1, k + 1)),
        "ratings": [{"likert": max(1, 7 - n), "flags": {}, "note": ""} for n in range(k)],
        "touched": True,
        "edited": "",
        "log": [],
    }


def together(count: int, act: Any) -> list[Any]:
    """What several threads got, or what was raised in them."""
    results: list[Any] = []
    start = threading.Barrier(count)

    def once() -> None:
        start.wait()
        try:
            results.append(act())
        except UserError as error:
            results.append(error)

    threads = [threading.Thread(target=once) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
