"""What goes out: prompts, demonstrations and rankings as JSONL, pairs in TRL's shape, Parquet, a dataset card.

The same database and seed give the same bytes. Rows are written as they are read, so memory does not grow with the
database; the order of rankings is the seed's, so that who reads from front to back sees no batch after batch.
"""

from __future__ import annotations

import hashlib
import importlib
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage.records import Demonstration, Ranking, UserError
from tutelage.studio.card import card
from tutelage.studio.filing import chunks
from tutelage.studio.harvest import answer_ids, harvest, pseudonym
from tutelage.studio.intake import WRITTEN, prompt_of
from tutelage.studio.outfolder import whole
from tutelage.studio.schema import accounts, actions, answers, prompts, votes
from tutelage.studio.statements import ASIDE_PROMPTS
from tutelage.studio.store import Store

GROUP = 1000
"""Rows of a Parquet row group: what is in memory at once."""

PAIR_COLUMNS = ("prompt", "chosen", "rejected", "group_id", "prompt_id", "labeler", "group", "split")
DEMONSTRATION_COLUMNS = ("id", "prompt", "response", "prompt_id", "labeler", "split")


def export(
    store: Store,
    out: Path,
    *,
    seed: int = 0,
    kinds: Sequence[str] = ("compare",),
    teams: Sequence[str] = (),
    playground: bool = False,
) -> dict[str, int]:
    """Write everything into the folder `out`; returns what was written, counted.

    kinds: of the batches whose rankings go out; "judge" ones only evaluate. teams: groups whose answers go out, all
    when empty. playground: also write votes.jsonl, which never trains anything. Raises UserError when the folder cannot
    be written or holds anything but an earlier export, or the audit log tells of answers that are not there.
    """
    with whole(out) as folder, store.read() as tx:
        _reconcile(tx)
        counts: Counter[str] = Counter(prompts=0, demonstrations=0, edited=0, rankings=0, comparisons=0, ties=0)
        counts["prompts"] = _write_prompts(tx, folder)
        with ExitStack() as open_files:
            files = _Files(folder, open_files)
            wanted = ["demonstrate", *kinds]
            for found in harvest(tx, shuffled(answer_ids(tx, wanted, teams=teams), seed)):
                if found.ranking is not None:
                    files.add_ranking(found.item, found.ranking, counts)
                for demonstration in found.demonstrations:
                    files.add_demonstration(demonstration, counts)
                    counts["edited"] += found.ranking is not None
            counts["labelers"] = len(files.labelers)
            groups = sorted(files.groups)
        if playground:
            counts["votes"] = _write_votes(tx, folder)
        text = card(dict(counts), groups=groups, kinds=kinds, parquet=_parquet() is not None)
        (folder / "README.md").write_text(text, encoding="utf-8")
    return dict(counts)


def write_round_data(store: Store, folder: Path, *, teams: Sequence[str] = ()) -> dict[str, Path]:
    """The data of a training round: prompts.jsonl, demonstrations.jsonl and rankings.jsonl in `folder`, by their names.

    teams: groups whose rankings train the reward model, all when empty; demonstrations are everybody's. Judgements and
    votes never train.
    """
    with whole(folder) as partial, store.read() as tx:
        _write_prompts(tx, partial)
        with ExitStack() as open_files:
            rankings = open_files.enter_context(_open(partial / "rankings.jsonl"))
            demonstrations = open_files.enter_context(_open(partial / "demonstrations.jsonl"))
            ids = answer_ids(tx, ["demonstrate"]) + answer_ids(tx, ["compare"], teams=teams)
            for found in harvest(tx, ids):
                if found.ranking is not None:
                    rankings.write(_line(found.ranking))
                demonstrations.writelines(map(_line, found.demonstrations))
    return {name: folder / f"{name}.jsonl" for name in ("prompts", "demonstrations", "rankings")}


def shuffled(ids: Sequence[str], seed: int) -> list[str]:
    """The ids in an order that the seed alone decides: one more answer moves no other."""
    return sorted(ids, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())


def _reconcile(tx: Connection) -> None:
    """The audit log and the answers must tell the same story."""
    first, later = (
        tx.execute(sa.select(sa.func.count()).select_from(answers).where(which)).scalar_one()
        for which in (answers.c.number == 1, answers.c.number > 1)
    )
    logged = dict.fromkeys(("submit", "revise"), 0)
    query = sa.select(actions.c.what, sa.func.count()).where(actions.c.what.in_(logged)).group_by(actions.c.what)
    logged |= {str(what): int(count) for what, count in tx.execute(query)}
    if (first, later) != (logged["submit"], logged["revise"]):
        raise UserError(
            f"the audit log tells of {logged['submit']:,} answers and {logged['revise']:,} revisions, the database "
            f"holds {first:,} and {later:,}; `tutelage check` says more"
        )


def _line(row: Any) -> bytes:
    """A record or a row as a line of JSON, fields in their order."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _open(path: Path) -> IO[bytes]:
    return path.open("wb")


def _write_prompts(tx: Connection, folder: Path) -> int:
    ids = sorted(tx.execute(sa.select(prompts.c.id).where(prompts.c.id.not_in(ASIDE_PROMPTS))).scalars())
    named = {f"written by {name}" for name in tx.execute(sa.select(accounts.c.name)).scalars()}  # by older versions
    with _open(folder / "prompts.jsonl") as file:
        for part in chunks(ids):
            found = {row.id: row for row in tx.execute(sa.select(prompts).where(prompts.c.id.in_(part))).all()}
            for prompt in (prompt_of(found[name]) for name in part):
                file.write(_line(replace(prompt, source=WRITTEN) if prompt.source in named else prompt))
    return len(ids)


def _write_votes(tx: Connection, folder: Path) -> int:
    count = 0
    with _open(folder / "votes.jsonl") as file:
        for row in tx.execute(sa.select(votes).order_by(votes.c.id)):
            who = pseudonym(row.account_id) if row.account_id else ""
            file.write(_line({"prompt": row.prompt, "answers": row.answers, "best": row.best, "labeler": who}))
            count += 1
    return count


@dataclass
class _Files:
    """The files that answers go to, row by row."""

    folder: Path
    stack: ExitStack
    labelers: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        names = ("rankings", "demonstrations", "preferences")
        self._rankings, self._demonstrations, self._pairs = (
            self.stack.enter_context(_open(self.folder / f"{name}.jsonl")) for name in names
        )
        self._pair_table = self.stack.enter_context(_Table(self.folder / "preferences.parquet", PAIR_COLUMNS))
        self._demonstration_table = self.stack.enter_context(
            _Table(self.folder / "demonstrations.parquet", DEMONSTRATION_COLUMNS)
        )

    def add_ranking(self, item: str, ranking: Ranking, counts: Counter[str]) -> None:
        """The ranking, and its untied pairs; the pairs of an item carry its id, so that they can stay together."""
        self._rankings.write(_line(ranking))
        pairs = ranking.pairs()
        k = len(ranking.ranks)
        counts.update(rankings=1, comparisons=len(pairs), ties=k * (k - 1) // 2 - len(pairs))
        self.labelers.add(ranking.labeler)
        self.groups.add(ranking.group)
        for better, worse in pairs:
            row = {
                "prompt": ranking.prompt,
                "chosen": ranking.responses[better].text,
                "rejected": ranking.responses[worse].text,
                "group_id": item,
                "prompt_id": ranking.prompt_id,
                "labeler": ranking.labeler,
                "group": ranking.group,
                "split": ranking.split,
            }
            self._pairs.write(_line(row))
            self._pair_table.add(row)

    def add_demonstration(self, demonstration: Demonstration, counts: Counter[str]) -> None:
        """One written or edited response."""
        self._demonstrations.write(_line(demonstration))
        self._demonstration_table.add({name: getattr(demonstration, name) for name in DEMONSTRATION_COLUMNS})
        self.labelers.add(demonstration.labeler)
        counts["demonstrations"] += 1


def _parquet() -> Any:
    """pyarrow, or None where it is not installed."""
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        return None


class _Table:
    """A Parquet file of text columns, written a row group at a time; nothing where pyarrow is missing."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._arrow = _parquet()
        self._columns = columns
        self._waiting: list[dict[str, Any]] = []
        if self._arrow is not None:
            self._schema = self._arrow.schema([(name, self._arrow.string()) for name in columns])
            self._writer = self._arrow.parquet.ParquetWriter(path, self._schema)

    def __enter__(self) -> _Table:
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        if self._arrow is None:
            return
        self._waiting.append(row)
        if len(self._waiting) == GROUP:
            self._flush()

    def _flush(self) -> None:
        columns = {name: [row[name] for row in self._waiting] for name in self._columns}
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))
        self._waiting = []

    def __exit__(self, *_: object) -> None:
        if self._arrow is not None:
            if self._waiting:
                self._flush()
            self._writer.close()
