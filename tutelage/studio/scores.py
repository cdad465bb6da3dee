"""How a candidate's answers stand beside the researchers': the paper's screening in numbers (appendix B.1).

    flags     of the outputs, the share where "is anything sensitive in it?" is answered as most researchers do
    ranks     of all pairs of outputs that the researchers do not tie, the share put in their order; a tie counts half
    grades    the mean over demonstrations of the mean grade, 1 to 7, that researchers gave without knowing whose it is

What the researchers disagree on evenly is no key: such outputs and pairs are left out. Pure functions; who is who, and
what was answered, is known to `screening`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from tutelage.evaluate.intervals import Interval, clustered_mean, wilson
from tutelage.studio.values import mean_ranks

FLAGS, RANKS, GRADES = 0.75, 0.75, 6.0
"""The paper's soft cut-offs."""

LEAST = 5
"""Outputs, items or demonstrations below which nothing is said of a cut-off: resampling fewer means little."""

ABOVE, BELOW, UNKNOWN = "above", "below", "too few to say"


@dataclass(frozen=True, slots=True)
class Answer:
    """One person's answer to one item, output by output: its rank, and whether anything sensitive was flagged in it."""

    ranks: tuple[int, ...]
    flagged: tuple[bool, ...]


Own = Mapping[str, Answer]
"""{item: the candidate's answer}."""
Key = Mapping[str, Sequence[Answer]]
"""{item: the researchers' answers}."""


@dataclass(frozen=True, slots=True)
class Flagging:
    """agreement: with Wilson's interval over outputs. kappa: agreement beyond what the two shares of flags give by
    chance; 0 for who never flags anything; None where neither flags differ at all."""

    agreement: Interval | None
    key_flagged: int
    own_flagged: int
    kappa: float | None

    @property
    def verdict(self) -> str:
        """Where it lies."""
        return against(self.agreement, FLAGS)


@dataclass(frozen=True, slots=True)
class Ordering:
    """agreement: with an interval that resamples items. pairs: of outputs, that the key does not tie."""

    agreement: Interval | None
    pairs: int

    @property
    def verdict(self) -> str:
        """Where it lies."""
        return against(self.agreement, RANKS)


@dataclass(frozen=True, slots=True)
class Writing:
    """grade: mean of the demonstrations that have one, with an interval that resamples them."""

    grade: Interval | None
    written: int
    graded: int

    @property
    def verdict(self) -> str:
        """Where it lies."""
        return against(self.grade, GRADES)


@dataclass(frozen=True, slots=True)
class Scores:
    """The three numbers of one candidate."""

    flags: Flagging
    ranks: Ordering
    grades: Writing

    def to_dict(self) -> dict[str, Any]:
        """All of it, with where each lies: what a decision is logged with."""
        parts: dict[str, Flagging | Ordering | Writing]
        parts = {"flags": self.flags, "ranks": self.ranks, "grades": self.grades}
        return {name: asdict(part) | {"verdict": part.verdict} for name, part in parts.items()}


def against(found: Interval | None, cut: float) -> str:
    """Above or below a cut-off where the whole interval is; else there is too little to say so."""
    if found is None or found.n < LEAST:
        return UNKNOWN
    if found.low >= cut:
        return ABOVE
    return BELOW if found.high < cut else UNKNOWN


def majority(votes: Sequence[bool]) -> bool | None:
    """What most say; None where they are even."""
    yes = sum(votes)
    return None if 2 * yes == len(votes) else 2 * yes > len(votes)


def flagging(own: Own, key: Key) -> Flagging:
    """Agreement on what is sensitive, over the outputs that the candidate saw and the key decides."""
    pairs: list[tuple[bool, bool]] = []
    for item, answer in own.items():
        for place, flagged in enumerate(answer.flagged):
            most = majority([r.flagged[place] for r in key.get(item, ())])
            if most is not None:
                pairs.append((flagged, most))
    n, alike = len(pairs), sum(one == other for one, other in pairs)
    mine, told = sum(one for one, _ in pairs), sum(other for _, other in pairs)
    return Flagging(wilson(alike, n) if n else None, told, mine, _kappa(alike, mine, told, n))


def _kappa(alike: int, mine: int, told: int, n: int) -> float | None:
    """Cohen's kappa of two yes/no raters; None where chance alone would make them agree on everything."""
    chance = mine * told + (n - mine) * (n - told)  # of n * n
    return None if chance == n * n else (alike * n - chance) / (n * n - chance)


def ordering(own: Own, key: Key) -> Ordering:
    """Agreement on the order of every two outputs. The key's order is that of the researchers' mean ranks."""
    alike: list[tuple[str, float]] = []
    for item, answer in own.items():
        if not key.get(item):
            continue
        means = mean_ranks([r.ranks for r in key[item]])
        for i, j in combinations(range(len(means)), 2):
            told, mine = _sign(means[i], means[j]), _sign(answer.ranks[i], answer.ranks[j])
            if told:
                alike.append((item, 1 - abs(told - mine) / 2))
    return Ordering(clustered_mean(alike) if alike else None, len(alike))


def _sign(one: float, two: float) -> int:
    return (one < two) - (one > two)


def writing(grades: Mapping[str, Sequence[int]]) -> Writing:
    """The mean grade. grades: {demonstration: what each researcher gave it}."""
    means = [(name, fmean(given)) for name, given in grades.items() if given]
    grade = clustered_mean(means, bounds=(1.0, 7.0)) if means else None
    return Writing(grade, len(grades), len(means))
