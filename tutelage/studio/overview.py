"""The loop at a glance: what there is of each thing, what is missing, and the one thing to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from tutelage import roundfolder
from tutelage.evaluate.winrate import WinRate, win_rate
from tutelage.records import SPLITS, UserError
from tutelage.studio import rounds
from tutelage.studio.decisions import Standing, standing
from tutelage.studio.harvest import answer_ids, harvest
from tutelage.studio.rounds import Round
from tutelage.studio.schema import answers, batches, items, prompts
from tutelage.studio.statements import ASIDE_ANSWERS, ASIDE_PROMPTS
from tutelage.studio.store import Store

FIRST_DEMONSTRATIONS = 6
"""Enough to show a small model the form of an answer; fewer teach it hardly more than its last one."""
ENOUGH_RANKED = 30
"""Prompts newly ranked that make another round worth its minutes: a reward model of fewer can hardly be checked."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What is in the database, without what screens labelers.

    fresh_: prompts ranked and demonstrations written since the last round began.
    """

    prompts: dict[str, int]  # by split
    demonstrations: int
    edited: int
    writers: int
    rankings: int
    ranked_prompts: int
    rankers: int
    groups: dict[str, int]  # rankings by group
    judgements: int
    to_write: int  # places left in open batches, by what they ask for
    to_rank: int
    to_judge: int
    fresh_ranked: int
    fresh_written: int


@dataclass(frozen=True, slots=True)
class Step:
    """The next action: one sentence, why, and where its button leads. kind: link, start, resume or wait."""

    sentence: str
    why: str
    kind: str
    target: str = ""
    button: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything on the page."""

    counts: Counts
    rounds: list[Round]
    told: dict[int, dict[str, Any]]  # round.json of the finished ones
    wins: dict[int, WinRate]  # new over old policy, by people, blind
    standing: Standing | None  # of the last finished round
    step: Step

    @property
    def latest(self) -> dict[str, Any] | None:
        """round.json of the last finished round."""
        return self.told[max(self.told)] if self.told else None

    @property
    def startable(self) -> bool:
        """Whether a round could start now, advisable or not."""
        return bool(self.counts.demonstrations) and not any(r.running for r in self.rounds)


def overview(store: Store) -> Overview:
    """What the loop's page shows."""
    every = rounds.all_rounds(store)
    told = {r.number: found for r in every if r.state == "finished" and (found := result(r))}
    wins = {n: rate for n, found in told.items() if (rate := blind(store, _of(every, n), found))}
    last = max(told, default=None)
    stands = standing(store, _of(every, last), told[last], wins.get(last)) if last is not None else None
    with store.read() as tx:
        counts = count(tx, every[0].started if every else 0.0)
    return Overview(counts, every, told, wins, stands, next_step(counts, every))


def result(found: Round) -> dict[str, Any] | None:
    """What a finished round says of itself; None where its folder is gone."""
    return roundfolder.read_json(found.folder / roundfolder.FINISHED)


def _of(every: list[Round], number: int) -> Round:
    return next(r for r in every if r.number == number)


def blind(store: Store, found: Round, told: dict[str, Any]) -> WinRate | None:
    """How often people who did not know which was which preferred the new policy to the old one; None before they
    compared any."""
    batch = found.settings.get("batches", {}).get("judge")
    if not batch:
        return None
    with store.read() as tx:
        judged = [h.ranking for h in harvest(tx, answer_ids(tx, ["judge"], batch=batch)) if h.ranking]
    try:
        return win_rate(judged, str(told["newest"]), str(told["previous"] or "base"))
    except UserError:
        return None


# ---- counting --------------------------------------------------------------------------------------------------


def count(tx: Connection, since: float) -> Counts:
    """Count by the database; `since` is when the last round began."""
    used = prompts.c.id.not_in(ASIDE_PROMPTS)
    by_split = tx.execute(sa.select(prompts.c.split, sa.func.count()).where(used).group_by(prompts.c.split))
    groups = tx.execute(
        sa.select(answers.c.team, sa.func.count())
        .select_from(_done())
        .where(batches.c.kind == "compare", answers.c.number == 1)
        .group_by(answers.c.team)
        .order_by(answers.c.team)
    )
    written, writers, _ = _tally(tx, "demonstrate")
    ranked, rankers, ranked_prompts = _tally(tx, "compare")
    left = _left(tx)
    return Counts(
        prompts=dict.fromkeys(SPLITS, 0) | {str(split): int(n) for split, n in by_split},
        demonstrations=written,
        edited=_edited(tx),
        writers=writers,
        rankings=ranked,
        ranked_prompts=ranked_prompts,
        rankers=rankers,
        groups={str(team): int(n) for team, n in groups},
        judgements=_tally(tx, "judge")[0],
        to_write=left.get("demonstrate", 0),
        to_rank=left.get("compare", 0),
        to_judge=left.get("judge", 0),
        fresh_ranked=_tally(tx, "compare", since)[2],
        fresh_written=_tally(tx, "demonstrate", since)[0],
    )


def _done() -> Any:
    """Answers with their items and batches, without those that screen labelers or are set aside."""
    used = answers.c.id.not_in(ASIDE_ANSWERS), items.c.prompt_id.not_in(ASIDE_PROMPTS)
    works = sa.and_(batches.c.id == items.c.batch_id, ~batches.c.screening, *used)
    return answers.join(items, items.c.id == answers.c.item_id).join(batches, works)


def _tally(tx: Connection, kind: str, since: float = 0.0) -> tuple[int, int, int]:
    """(answers, labelers, prompts) of a kind of work; revisions count once."""
    query = (
        sa.select(
            sa.func.count(),
            sa.func.count(sa.distinct(answers.c.account_id)),
            sa.func.count(sa.distinct(items.c.prompt_id)),
        )
        .select_from(_done())
        .where(batches.c.kind == kind, answers.c.number == 1, answers.c.created >= since)
    )
    row = tx.execute(query).one()
    return int(row[0]), int(row[1]), int(row[2])


def _edited(tx: Connection) -> int:
    """Rankings whose best response was edited: demonstrations too."""
    text = answers.c.body["edited"].as_string()
    query = sa.select(sa.func.count(sa.distinct(answers.c.item_id))).select_from(_done())
    return int(tx.execute(query.where(batches.c.kind == "compare", text != "")).scalar_one())


def _left(tx: Connection) -> dict[str, int]:
    """Places in open batches that nobody has filled, by kind."""
    missing = sa.case((items.c.quota > items.c.done, items.c.quota - items.c.done), else_=0)
    query = (
        sa.select(batches.c.kind, sa.func.sum(missing))
        .select_from(items.join(batches))
        .where(batches.c.open, ~batches.c.screening)
        .group_by(batches.c.kind)
    )
    return {str(kind): int(n or 0) for kind, n in tx.execute(query)}


# ---- what next -------------------------------------------------------------------------------------------------


def next_step(counts: Counts, every: list[Round]) -> Step:
    """The next action, in the order in which the loop needs things."""
    last = every[0] if every else None
    if last is not None and last.state != "finished":
        return _of_round(last)
    if not sum(counts.prompts.values()):
        why = "A prompt is something people would ask. Forty of one kind of work are a good beginning."
        return Step("Bring prompts in to begin.", why, "link", "/prompts", "Bring prompts in")
    missing = FIRST_DEMONSTRATIONS - counts.demonstrations - counts.edited
    if last is None and missing > 0:
        return _write(counts, missing)
    if last is None:
        why = f"The model imitates {_many(counts.demonstrations + counts.edited, 'demonstration')}"
        if counts.rankings:
            why += f", and a reward model learns from {_many(counts.rankings, 'ranking')}"
        return Step("Start round 1.", f"{why}; then it answers prompts for you to rank.", "start", button="Start")
    wanted = min(ENOUGH_RANKED, counts.fresh_ranked + counts.to_rank)
    if counts.fresh_ranked < wanted:
        n = wanted - counts.fresh_ranked
        why = f"{_many(counts.fresh_ranked, 'prompt')} ranked since round {last.number} began."
        return Step(f"Rank {_more(n, 'prompt')}.", why, "link", "/batches", "See the batches")
    if not counts.fresh_ranked and not counts.fresh_written:
        why = "Nothing was written or ranked since the last round: another one would learn the same again."
        return Step("Give people something to rank.", why, "link", "/batches", "See the batches")
    why = f"{_many(counts.fresh_ranked, 'prompt')} ranked since round {last.number} began."
    if counts.to_judge:
        why += f" {_many(counts.to_judge, 'blind comparison')} of old and new policy still wait."
    return Step(f"Start round {last.number + 1}.", why, "start", button="Start")


def _of_round(last: Round) -> Step:
    where = f"/rounds/{last.number}"
    if last.state == "running":
        return Step(f"Round {last.number} is training.", "You may close this page.", "wait", where, "Watch it")
    if last.state == "stopping":
        return Step(f"Round {last.number} is being stopped.", "It can go on later.", "wait", where, "Watch it")
    if last.state == "waiting":
        return Step(f"Round {last.number} waits for a decision.", last.message, "wait", where, "Decide")
    if last.state == "stopped":
        why = "It goes on from its last checkpoint; nothing is lost."
        return Step(f"Round {last.number} was stopped. Go on with it.", why, "resume", where, "Go on")
    return Step(f"Round {last.number} failed. See why, and try again.", last.message, "resume", where, "Try again")


def _write(counts: Counts, missing: int) -> Step:
    begun = counts.demonstrations + counts.edited
    sentence = f"Write {_more(missing, 'demonstration')}." if begun else f"Write {missing} demonstrations to begin."
    if counts.to_write:
        why = f"{_many(counts.to_write, 'prompt')} wait on the labelers' desks for somebody to write the response."
        return Step(sentence, why, "link", "/people", "See the people")
    why = "A demonstration is the response you would want to get. First choose the prompts to write to."
    return Step(sentence, why, "link", "/batches", "Choose prompts")


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _more(n: int, what: str) -> str:
    return f"{n:,} more {what}{'' if n == 1 else 's'}"
