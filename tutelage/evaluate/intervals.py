"""95% intervals: a bootstrap that resamples whole prompts, and Wilson's interval for independent votes.

Judgements of one prompt share its difficulty, its responses and often its labeler, so they are no independent
votes: treated as such, intervals come out too narrow. The bootstrap draws prompts with replacement and keeps
each prompt's judgements together. Its percentiles are widened for few prompts (Hesterberg 2015, "expanded
percentile interval"), since plain percentiles cover too little there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95
_BLOCK = 4_000_000
"""Draws held in memory at a time."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval. `n` counts the independent units: prompts, or votes for Wilson."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """The form of summary.json."""
        return asdict(self)


def wilson(successes: float, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's interval of a share of n independent votes; successes may hold halves, from ties."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} votes is no share")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)), n)


def clustered_mean(
    items: Iterable[tuple[str, float]],
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Mean of the values of (prompt, value) items, each item with equal weight, resampling prompts.

    `bounds` are the least and greatest possible value. The order of the items does not matter.
    """
    groups: dict[str, list[float]] = {}
    for key, value in items:
        groups.setdefault(key, []).append(value)
    cells = [groups[key] for key in sorted(groups)]
    totals = np.array([math.fsum(cell) for cell in cells], dtype=np.float64)
    counts = np.array([len(cell) for cell in cells], dtype=np.float64)
    return clustered_ratio(totals, counts, bounds=bounds, level=level, resamples=resamples, seed=seed)


def clustered_ratio(
    numerators: Floats,
    denominators: Floats,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """sum(numerators) / sum(denominators) over prompts (one entry each), resampling prompts.

    Prompts with denominator 0 tell nothing and are left out. When all prompts agree there is no spread to
    resample; then Wilson's interval over prompts stands in, stretched to `bounds`: 20 wins of 20 are no proof
    of certainty.
    """
    if resamples < RESAMPLES:
        raise ValueError(f"resamples is {resamples}; expected {RESAMPLES} or more")
    counts = denominators > 0
    tops, bottoms = numerators[counts], denominators[counts]
    n = len(tops)
    if n == 0:
        raise ValueError("no values to estimate from")
    value = float(tops.sum() / bottoms.sum())
    low, high = bounds
    if np.ptp(tops / bottoms) == 0:
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        stand_in = wilson(share * n, n, level=level)
        return Interval(value, low + (high - low) * stand_in.low, low + (high - low) * stand_in.high, n)
    draws = _resampled_ratios(tops, bottoms, resamples, seed)
    tail = _expanded_tail(level, n)
    ends = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(max(low, ends[0])), float(min(high, ends[1])), n)


def _resampled_ratios(tops: Floats, bottoms: Floats, resamples: int, seed: int) -> Floats:
    random = np.random.default_rng(seed)
    n = len(tops)
    ratios = np.empty(resamples)
    block = max(1, _BLOCK // n)
    for start in range(0, resamples, block):
        picked = random.integers(n, size=(min(block, resamples - start), n), dtype=np.int32)
        ratios[start : start + block] = tops[picked].sum(axis=1) / bottoms[picked].sum(axis=1)
    return ratios


def _expanded_tail(level: float, n: int) -> float:
    """Tail probability at which percentiles of n clusters reach as far as a t interval would."""
    return NormalDist().cdf(-math.sqrt(n / (n - 1)) * t_quantile(0.5 + level / 2, n - 1))


def t_quantile(p: float, df: int) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees of freedom, else the expansion 26.7.5 of Abramowitz
    and Stegun (error below 0.01 at p = 0.975 from 3 degrees on)."""
    if df == 1:
        return math.tan(math.pi * (p - 0.5))
    if df == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    x = NormalDist().inv_cdf(p)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / float(df) ** power for power, term in enumerate(terms, start=1))
