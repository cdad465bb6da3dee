"""How often one model's response is preferred to another's (paper section 4.1 and Figure 1).

A comparison is a pair of responses to one prompt, ranked by one labeler: a win counts 1, a tie 1/2, a loss 0.
The paper does not say how it counts ties; half is the convention of the field. Intervals resample prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tutelage.evaluate.intervals import RESAMPLES, SEED, Floats, Interval, clustered_mean, wilson
from tutelage.records import Ranking, UserError

__all__ = [
    "BradleyTerry",
    "Interval",
    "WinRate",
    "bradley_terry",
    "implied_rate",
    "pair_wins",
    "wilson",
    "win_rate",
]

RIDGE = 0.01
"""Strength of the pull towards equal models, in units of comparisons: it only bounds a model that never
lost."""


@dataclass(frozen=True, slots=True)
class WinRate:
    """Rate of the first model over the second; `rate.n` counts prompts, the counts are comparisons."""

    rate: Interval
    wins: int
    ties: int
    losses: int

    @property
    def comparisons(self) -> int:
        return self.wins + self.ties + self.losses

    def to_dict(self) -> dict[str, float | int]:
        return {**self.rate.to_dict(), "wins": self.wins, "ties": self.ties, "losses": self.losses}


def win_rate(
    rankings: Iterable[Ranking], model: str, baseline: str, *, resamples: int = RESAMPLES, seed: int = SEED
) -> WinRate:
    """Win rate of `model` over `baseline` in all rankings that hold responses of both.

    Every pair (response of model, response of baseline) of a ranking is one comparison of equal weight.
    Raises UserError when no ranking holds both.
    """
    if model == baseline:
        raise ValueError(f"a win rate needs two models, got {model!r} twice")
    items = [
        (ranking.prompt_id or ranking.prompt, outcome)
        for ranking in rankings
        for first, second, outcome in _outcomes(ranking)
        if (first, second) == (model, baseline)
    ]
    if not items:
        raise UserError(f"no ranking holds responses of both {model!r} and {baseline!r}")
    counts = [sum(outcome == kind for _, outcome in items) for kind in (1.0, 0.5, 0.0)]
    return WinRate(clustered_mean(items, resamples=resamples, seed=seed), *counts)


def _outcomes(ranking: Ranking) -> Iterator[tuple[str, str, float]]:
    """(model, other model, 1 win | 0.5 tie | 0 loss) of every ordered pair of two models' responses."""
    entries = [(response.model, rank) for response, rank in zip(ranking.responses, ranking.ranks, strict=True)]
    for model, rank in entries:
        for other, other_rank in entries:
            if model != other:
                yield model, other, 0.5 if rank == other_rank else float(rank < other_rank)


def implied_rate(first: float, second: float) -> float:
    """Rate of a first over a second model, from the rate of each over a common baseline.

    Under Bradley-Terry the odds multiply: odds(first over second) = odds(first) / odds(second). In the paper
    .65 and .24 against 175B SFT imply .855 (it reports 85%).
    """
    if not (0 <= first <= 1 and 0 <= second <= 1):
        raise ValueError(f"{first} and {second} are no rates")
    up, down = first * (1 - second), second * (1 - first)
    if up + down == 0:
        raise ValueError(f"rates {first:g} and {second:g} imply nothing: both models always won or both always lost")
    return up / (up + down)


def pair_wins(rankings: Iterable[Ranking]) -> dict[tuple[str, str], float]:
    """Times each model was preferred to each other, {(winner, loser): count}; a tie is half for either."""
    wins: dict[tuple[str, str], float] = {}
    for ranking in rankings:
        for model, other, outcome in _outcomes(ranking):
            wins[model, other] = wins.get((model, other), 0.0) + outcome
    return wins


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """Fitted log-odds strengths, mean 0: P(a preferred to b) = sigmoid(strength a - strength b)."""

    strengths: dict[str, float]

    def rate(self, model: str, other: str) -> float:
        return 1 / (1 + math.exp(self.strengths[other] - self.strengths[model]))


def bradley_terry(wins: Mapping[tuple[str, str], float], *, ridge: float = RIDGE) -> BradleyTerry:
    """Fit Bradley-Terry strengths to `pair_wins` counts by Newton's method on the ridged log-likelihood.

    Raises UserError when the comparisons fall into groups without any between them: strengths across such
    groups have no meaning. With ridge 0 a group that never lost to the rest is refused as well: its strength
    is infinite.
    """
    if ridge < 0 or any(count < 0 for count in wins.values()):
        raise ValueError("counts and ridge must not be negative")
    models = sorted({model for pair in wins for model in pair})
    index = {model: i for i, model in enumerate(models)}
    table = np.zeros((len(models), len(models)))
    for (winner, loser), count in wins.items():
        if winner != loser:
            table[index[winner], index[loser]] += count
    _refuse_unlinked(models, table, ridge)
    strengths = _newton(table, ridge)
    return BradleyTerry({model: float(strengths[i]) for model, i in index.items()})


def _refuse_unlinked(models: list[str], table: Floats, ridge: float) -> None:
    if len(models) < 2:
        raise UserError("Bradley-Terry needs comparisons between at least two models")
    group = _reachable(table + table.T)
    if not group.all():
        one, rest = _names(models, group), _names(models, ~group)
        raise UserError(f"no comparison links {one} with {rest}; their strengths cannot be compared")
    if ridge == 0:
        for matrix, word in ((table, "lost to"), (table.T, "won against")):
            group = _reachable(matrix)
            if not group.all():
                rest = _names(models, ~group)
                raise UserError(f"{rest} never {word} {_names(models, group)}; set a ridge above 0")


def _reachable(matrix: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Models reached from the first one along positive entries."""
    seen = np.zeros(len(matrix), dtype=np.bool_)
    seen[0] = True
    while True:
        grown = seen | (matrix[seen] > 0).any(axis=0)
        if (grown == seen).all():
            return seen
        seen = grown


def _names(models: list[str], chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> str:
    return ", ".join(model for model, is_in in zip(models, chosen, strict=True) if is_in)


def _newton(table: Floats, ridge: float) -> Floats:
    """Maximise sum w_ij log sigmoid(s_i - s_j) - ridge/2 sum s_i^2: concave, steps halved to climb."""
    games = table + table.T
    strengths = np.zeros(len(table))

    def objective(s: Floats) -> float:
        return float(-(table * np.logaddexp(0.0, s[None, :] - s[:, None])).sum() - ridge / 2 * (s @ s))

    for _ in range(200):
        chance = 1 / (1 + np.exp(np.clip(strengths[None, :] - strengths[:, None], -500, 500)))
        gradient = (table - games * chance).sum(axis=1) - ridge * strengths
        if np.abs(gradient).max() <= 1e-10 * max(1.0, games.sum()):
            break
        weight = games * chance * (1 - chance)
        hessian = np.diag(weight.sum(axis=1)) - weight + ridge * np.eye(len(table)) + 1 / len(table)
        step = np.linalg.solve(hessian, gradient)
        reached, scale = objective(strengths), 1.0
        while objective(strengths + scale * step) < reached - 1e-12 * abs(reached):  # more than rounding takes
            scale /= 2
        strengths = strengths + scale * step
    return np.asarray(strengths - strengths.mean(), dtype=np.float64)
