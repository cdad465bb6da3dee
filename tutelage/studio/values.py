"""Whose values: do the groups of labelers want the same, and where not? (the question the paper ends on, section 5.2)

A group is the account's `team` at the time of the answer. Everything here is counted from the latest rankings of all
groups; intervals resample prompts, for judgements of one prompt are no independent votes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import sqlalchemy as sa

from tutelage.evaluate.agreement import Agreement, agreement_across, agreement_within
from tutelage.evaluate.intervals import Interval, clustered_mean
from tutelage.records import Ranking, UserError
from tutelage.studio.filing import chunks
from tutelage.studio.schema import prompts, responses
from tutelage.studio.store import Store

SHOWN = 10
"""Prompts that the page lists."""

Scores = Mapping[str, float]
"""{response id: a reward model's score}."""


@dataclass(frozen=True, slots=True)
class Group:
    """Labelers of one group, and what they gave in it. trainable: rankings that can train a reward model."""

    name: str
    labelers: int
    rankings: int
    prompts: int
    trainable: int


@dataclass(frozen=True, slots=True)
class Pairing:
    """Agreement within a group (both names equal) or across two; None where nobody ranked the same responses."""

    first: str
    second: str
    agreement: Agreement | None


@dataclass(frozen=True, slots=True)
class Conflict:
    """One set of responses that two groups ranked. distance: 0 as one, 1 the opposite on every pair.

    means: {group: mean rank of each response}, ties sharing the ranks they take up, so that 1 is best.
    """

    prompt_id: str
    responses: tuple[str, ...]
    groups: tuple[str, str]
    distance: float
    means: dict[str, tuple[float, ...]]
    labelers: dict[str, int]


def groups(rankings: Sequence[Ranking], trainable: Sequence[Ranking]) -> list[Group]:
    """Every group that ranked something, by name. trainable: the rankings that may train."""
    able = Counter(r.group for r in trainable)
    found = []
    for name, own in _by_group(rankings).items():
        labelers, asked = {r.labeler for r in own}, {r.prompt_id for r in own}
        found.append(Group(name, len(labelers), len(own), len(asked), able[name]))
    return found


def agreements(rankings: Sequence[Ranking]) -> list[Pairing]:
    """Agreement within every group, then across every two."""
    by = _by_group(rankings)
    return [Pairing(n, n, _within(by[n])) for n in by] + [
        Pairing(a, b, _across(by[a], by[b])) for a, b in combinations(by, 2)
    ]


def _by_group(rankings: Sequence[Ranking]) -> dict[str, list[Ranking]]:
    return {name: [r for r in rankings if r.group == name] for name in sorted({r.group for r in rankings})}


def _within(rankings: list[Ranking]) -> Agreement | None:
    try:
        return agreement_within(rankings)
    except UserError:
        return None


def _across(first: list[Ranking], second: list[Ranking]) -> Agreement | None:
    try:
        return agreement_across(first, second)
    except UserError:
        return None


# ---- where they differ -----------------------------------------------------------------------------------------


def conflicts(rankings: Sequence[Ranking], count: int = SHOWN) -> list[Conflict]:
    """The sets of responses on which two groups differ most, the worst first; those they agree on are left out."""
    sets: dict[tuple[str, tuple[str, ...]], dict[str, dict[str, tuple[int, ...]]]] = {}
    for ranking in rankings:
        pairs = sorted(zip((r.id for r in ranking.responses), ranking.ranks, strict=True))
        names, ranks = zip(*pairs, strict=True)
        sets.setdefault((ranking.prompt_id, names), {}).setdefault(ranking.group, {})[ranking.labeler] = ranks
    found = []
    for (prompt, names), by_group in sets.items():
        for first, second in combinations(sorted(by_group), 2):
            given = {g: list(by_group[g].values()) for g in (first, second)}
            distance = _distance(given[first], given[second])
            if distance > 0:
                means = {g: mean_ranks(rows) for g, rows in given.items()}
                counts = {g: len(rows) for g, rows in given.items()}
                found.append(Conflict(prompt, names, (first, second), distance, means, counts))
    return sorted(found, key=lambda c: (-c.distance, c.prompt_id, c.groups))[:count]


def _distance(first: Sequence[tuple[int, ...]], second: Sequence[tuple[int, ...]]) -> float:
    """Mean over all pairs of responses of how far apart the groups' mean verdicts (-1 to 1) lie, as a share."""
    pairs = list(combinations(range(len(first[0])), 2))
    gaps = [abs(_verdict(first, i, j) - _verdict(second, i, j)) / 2 for i, j in pairs]
    return sum(gaps) / len(gaps)


def _verdict(rows: Sequence[tuple[int, ...]], i: int, j: int) -> float:
    return sum((r[i] < r[j]) - (r[i] > r[j]) for r in rows) / len(rows)


def mean_ranks(rows: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Mean rank of each response over rankings of the same ones; ties share the ranks they take up."""
    shared = [[sum(o < r for o in row) + (sum(o == r for o in row) + 1) / 2 for r in row] for row in rows]
    return tuple(sum(column) / len(rows) for column in zip(*shared, strict=True))


def texts(store: Store, found: Sequence[Conflict]) -> dict[str, str]:
    """The texts of all prompts and responses that are shown, by id."""
    wanted = sorted({name for c in found for name in c.responses})
    asked = sorted({c.prompt_id for c in found})
    read: dict[str, str] = {}
    with store.read() as tx:
        for part in chunks(wanted):
            query = sa.select(responses.c.id, responses.c.text).where(responses.c.id.in_(part))
            read |= {f"response {row.id}": row.text for row in tx.execute(query)}
        query = sa.select(prompts.c.id, prompts.c.text).where(prompts.c.id.in_(asked))
        read |= {f"prompt {row.id}": row.text for row in tx.execute(query)}
    return read


# ---- what the groups' reward models say ------------------------------------------------------------------------


def choice(names: Sequence[str], scores: Scores) -> str | None:
    """The response a reward model would choose; None where it has not scored all of them."""
    if any(name not in scores for name in names):
        return None
    return max(names, key=lambda name: scores[name])


def unlike(rankings: Sequence[Ranking], first: Scores, second: Scores) -> tuple[int, int]:
    """On how many sets of responses two reward models choose differently, and of how many."""
    sets = {tuple(sorted(r.id for r in ranking.responses)) for ranking in rankings}
    chosen = [(choice(names, first), choice(names, second)) for names in sorted(sets)]
    both = [(one, two) for one, two in chosen if one is not None and two is not None]
    return sum(one != two for one, two in both), len(both)


def foretells(rankings: Sequence[Ranking], scores: Scores, held_out: frozenset[str]) -> Interval | None:
    """How often a reward model puts two responses in a group's order, on prompts that no model trained on.

    Ties by the labeler are left out, ties by the model count half. None where there is nothing to measure.
    """
    items = []
    for ranking in rankings:
        if ranking.prompt_id not in held_out or any(r.id not in scores for r in ranking.responses):
            continue
        for better, worse in ranking.pairs():
            gap = scores[ranking.responses[better].id] - scores[ranking.responses[worse].id]
            items.append((ranking.prompt_id, 0.5 if gap == 0 else float(gap > 0)))
    return clustered_mean(items) if items else None


def held_out(store: Store) -> frozenset[str]:
    """Ids of the prompts outside the training split."""
    with store.read() as tx:
        return frozenset(tx.execute(sa.select(prompts.c.id).where(prompts.c.split != "train")).scalars())
