"""Does a reward model mean what it says? Scores r(x, y) claim P(a preferred to b) = sigmoid(r_a - r_b) (paper
eq. 1).

Which of two responses comes first is arbitrary, so each pair is turned such that the one with the higher
score comes first: the claimed probability is then the confidence, from 0.5 to 1, to be held against how often
that response was really preferred. All measures are the same whichever way round the pairs are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tutelage.evaluate.intervals import RESAMPLES, SEED, Interval, clustered_mean
from tutelage.records import Ranking, UserError


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """score(first) - score(second) of two responses, and whether a labeler preferred the first."""

    prompt_id: str
    difference: float
    preferred: bool


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs whose confidence lies in [low, high): their mean confidence and how often it was right."""

    low: float
    high: float
    confidence: float
    accuracy: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Reward model against labelers. `accuracy.n` counts prompts; `brier` is 0.25 for a model that knows
    nothing; `ece` is the mean gap between confidence and accuracy over the bins; `spread` is the root mean
    square score difference: near 0 the model hardly tells responses apart, far above 3 it is nearly always
    sure."""

    accuracy: Interval
    ece: float
    brier: float
    spread: float
    bins: tuple[Bin, ...]
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def calibrate(
    pairs: Sequence[ScoredPair], *, bins: int = 10, resamples: int = RESAMPLES, seed: int = SEED
) -> Calibration:
    """Calibration over pairs. Equal scores count half right. Empty bins are left out. Raises UserError
    without pairs, or when a difference is not a number."""
    if not pairs:
        raise UserError("no scored pairs to calibrate on")
    if bins < 1:
        raise ValueError(f"bins is {bins}; expected 1 or more")
    gaps = np.array([pair.difference for pair in pairs], dtype=np.float64)
    if not np.isfinite(gaps).all():
        raise UserError(f"{int((~np.isfinite(gaps)).sum())} of {len(pairs)} score differences are not finite numbers")
    first = np.array([pair.preferred for pair in pairs], dtype=np.float64)
    right = np.where(gaps == 0, 0.5, np.where(gaps > 0, first, 1 - first))
    confidence = 1 / (1 + np.exp(-np.minimum(np.abs(gaps), 700)))
    place = np.minimum((2 * (confidence - 0.5) * bins).astype(np.int64), bins - 1)
    table = []
    for i in range(bins):
        inside = place == i
        if inside.any():
            ends = 0.5 + i / (2 * bins), 0.5 + (i + 1) / (2 * bins)
            table.append(Bin(*ends, float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum())))
    items = [(pair.prompt_id, float(ok)) for pair, ok in zip(pairs, right, strict=True)]
    claimed = np.where(gaps > 0, confidence, 1 - confidence)
    return Calibration(
        accuracy=clustered_mean(items, resamples=resamples, seed=seed),
        ece=sum(abs(row.confidence - row.accuracy) * row.pairs for row in table) / len(pairs),
        brier=float(np.mean((claimed - first) ** 2)),
        spread=math.sqrt(float(np.mean(gaps**2))),
        bins=tuple(table),
        pairs=len(pairs),
    )


def scored_pairs(rankings: Iterable[Ranking], scores: Mapping[tuple[str, str], float]) -> Iterator[ScoredPair]:
    """Every untied pair of the rankings with its score difference, the preferred response first.

    `scores` is keyed by (prompt id, response id). Raises UserError naming a response without a score.
    """
    for ranking in rankings:
        key = ranking.prompt_id or ranking.prompt
        for better, worse in ranking.pairs():
            ends = [ranking.responses[i].id for i in (better, worse)]
            missing = [name for name in ends if (key, name) not in scores]
            if missing:
                raise UserError(f"response {missing[0]!r} of prompt {key!r} has no score")
            yield ScoredPair(key, scores[key, ends[0]] - scores[key, ends[1]], True)


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviation of scores: over all, and within prompts, which alone can rank responses."""

    overall: float
    within: float


def score_spread(scores: Mapping[str, Sequence[float]]) -> Spread:
    """Spread of {prompt id: scores of its responses}; within is pooled, K - 1 degrees of freedom each."""
    groups = [np.asarray(values, dtype=np.float64) for values in scores.values() if len(values)]
    if not groups:
        raise ValueError("no scores")
    free = sum(len(group) - 1 for group in groups)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return Spread(overall=float(np.std(np.concatenate(groups))), within=math.sqrt(squares / free) if free else 0.0)
