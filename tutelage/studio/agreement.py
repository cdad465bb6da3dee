"""Do labelers agree, batch by batch and labeler by labeler, and is somebody's work unlike everybody else's?

The three definitions and their intervals are those of `tutelage.evaluate.agreement`. The outlier test follows the idea
of Chatbot Arena's test for odd voters (a sequential product of evidence against the crowd), made for few labelers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.evaluate.agreement import Agreement, agreement_across, agreement_within
from tutelage.records import Ranking, UserError
from tutelage.studio import harvest
from tutelage.studio.store import Store

STAKES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of what was won so far that are put on "this labeler is the odd one out again"; their mean is the evidence."""

ALPHA = 0.05
LEAST = 5
"""Items that at least three labelers ranked, below which the test says nothing."""


@dataclass(frozen=True, slots=True)
class Outlier:
    """How strongly a labeler's rankings stand against those of the others on the same responses.

    items: those that at least three labelers ranked. odd: on how many of them this labeler agreed least of all.
    expected: how many that would be if all labelers were alike, at most. p: chance of evidence this strong, at any
    time, if they were.
    """

    items: int
    odd: int
    expected: float
    p: float

    @property
    def flagged(self) -> bool:
        """Whether somebody should look."""
        return self.items >= LEAST and self.p < ALPHA


def of_batch(store: Store, batch: str) -> Agreement | None:
    """Agreement between the labelers of a batch; None when no two ranked the same responses."""
    try:
        return agreement_within(harvest.verdicts(store, batch=batch))
    except UserError:
        return None


def of_labeler(rankings: Sequence[Ranking], account: str) -> Agreement | None:
    """Agreement of one labeler with each other labeler; None when nobody ranked the same responses."""
    own = [r for r in rankings if r.labeler == account]
    try:
        return agreement_across(own, [r for r in rankings if r.labeler != account])
    except UserError:
        return None


def outlier(rankings: Sequence[Ranking], account: str) -> Outlier:
    """Bet, item after item in the order given, that this labeler agrees least with the others.

    With m labelers who are all alike, one given labeler is strictly the odd one with chance at most 1/m, whatever the
    item. A bet that then pays m to 1 is fair at best, so what a bettor owns is a test martingale: that it ever reaches
    1/p has chance at most p (Ville's inequality).
    """
    owned = np.ones(len(STAKES))
    stakes = np.array(STAKES)
    most, items, odd, expected = 1.0, 0, 0, 0.0
    for group in _shared(rankings, account):
        hit = _odd_one(group) == account
        items, odd, expected = items + 1, odd + hit, expected + 1 / len(group)
        owned *= 1 - stakes + stakes * len(group) * hit
        most = max(most, float(owned.mean()))
    return Outlier(items, odd, expected, 1 / most)


def _shared(rankings: Sequence[Ranking], account: str) -> list[dict[str, dict[str, int]]]:
    """{labeler: {response id: rank}} of each set of responses that the account and at least two others ranked."""
    found: dict[tuple[str, frozenset[str]], dict[str, dict[str, int]]] = {}
    for ranking in rankings:
        ranks = {r.id: rank for r, rank in zip(ranking.responses, ranking.ranks, strict=True)}
        found.setdefault((ranking.prompt_id, frozenset(ranks)), {})[ranking.labeler] = ranks
    return [group for group in found.values() if account in group and len(group) > 2]


def _odd_one(group: dict[str, dict[str, int]]) -> str | None:
    """Who disagrees most with all others; None when two share that place."""
    names = list(group)
    signs = np.array([_signs(group[name]) for name in names])
    distance = np.abs(signs[:, None, :] - signs[None, :, :]).sum(axis=(1, 2))
    first, second = np.sort(distance)[::-1][:2]
    return names[int(distance.argmax())] if first > second else None


def _signs(ranks: dict[str, int]) -> list[int]:
    values = [ranks[name] for name in sorted(ranks)]
    k = len(values)
    return [(values[i] < values[j]) - (values[i] > values[j]) for i in range(k) for j in range(i + 1, k)]
