"""Do labelers agree, and what do they say of each model? (paper sections 3.4 and 4.1, Table 3)

Pair agreement is taken over every two labelers who ranked the same two responses of one prompt. The paper
does not define its 72.6% and 77.3%, so three definitions stand side by side:

    strict   the two verdicts among >, =, < are equal
    untied   the same, without pairs that either labeler called a tie (the headline)
    half     one tie against one preference counts 1/2, else as strict

Intervals resample prompts; their n counts prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from tutelage.evaluate.intervals import RESAMPLES, SEED, Interval, clustered_mean, clustered_ratio
from tutelage.records import RATING_FLAGS, Ranking, UserError

Unit = tuple[str, str, str]
Verdicts = dict[Unit, dict[str, int]]
"""{(prompt, response, other response): {labeler: +1 first preferred | 0 tie | -1 second preferred}}."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement in three definitions; `untied` is None when every pair was tied by someone. Counts are of
    pairs of labelers on pairs of responses."""

    untied: Interval | None
    strict: Interval
    half: Interval
    pairs: int
    untied_pairs: int


def agreement_within(rankings: Iterable[Ranking], *, resamples: int = RESAMPLES, seed: int = SEED) -> Agreement:
    """Agreement between the different labelers of one group. Raises UserError when no two ranked the same
    pair."""
    matched = [
        (unit[0], verdicts[one], verdicts[two])
        for unit, verdicts in _verdicts(rankings).items()
        for one, two in combinations(sorted(verdicts), 2)
    ]
    return _agreement(matched, resamples, seed)


def agreement_across(
    first: Iterable[Ranking], second: Iterable[Ranking], *, resamples: int = RESAMPLES, seed: int = SEED
) -> Agreement:
    """Agreement of each labeler of a first group with each other labeler of a second one."""
    theirs = _verdicts(second)
    matched = [
        (unit[0], verdict, other_verdict)
        for unit, verdicts in _verdicts(first).items()
        for labeler, verdict in verdicts.items()
        for other, other_verdict in theirs.get(unit, {}).items()
        if labeler != other
    ]
    return _agreement(matched, resamples, seed)


def verdict_alpha(rankings: Iterable[Ranking]) -> float | None:
    """Krippendorff's alpha (nominal) of the verdicts >, =, <. Each pair enters in both directions, since
    which response comes first is arbitrary. None when nothing was labeled twice or nobody differed on
    anything."""
    units = [list(verdicts.values()) for verdicts in _verdicts(rankings).values()]
    return krippendorff_alpha([*units, *([-verdict for verdict in unit] for unit in units)], "nominal")


def _verdicts(rankings: Iterable[Ranking]) -> Verdicts:
    """Each labeler's verdict on each pair; a labeler's later ranking corrects an earlier one."""
    verdicts: Verdicts = {}
    for ranking in rankings:
        prompt = ranking.prompt_id or ranking.prompt
        entries = sorted((response.id, rank) for response, rank in zip(ranking.responses, ranking.ranks, strict=True))
        for (one, rank), (two, other_rank) in combinations(entries, 2):
            sign = (rank < other_rank) - (rank > other_rank)
            verdicts.setdefault((prompt, one, two), {})[ranking.labeler] = sign
    return verdicts


def _agreement(matched: Sequence[tuple[str, int, int]], resamples: int, seed: int) -> Agreement:
    if not matched:
        raise UserError("no two labelers ranked the same pair of responses; agreement needs such overlap")

    def interval(items: list[tuple[str, float]]) -> Interval:
        return clustered_mean(items, resamples=resamples, seed=seed)

    untied = [(prompt, float(one == two)) for prompt, one, two in matched if one and two]
    return Agreement(
        untied=interval(untied) if untied else None,
        strict=interval([(prompt, float(one == two)) for prompt, one, two in matched]),
        half=interval([(prompt, 1 - abs(one - two) / 2) for prompt, one, two in matched]),
        pairs=len(matched),
        untied_pairs=len(untied),
    )


def likert_means(rankings: Iterable[Ranking], *, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Interval]:
    """Mean Likert rating (1 to 7) of each model's responses; empty when nothing was rated."""
    items: dict[str, list[tuple[str, float]]] = {}
    for prompt, model, _, _, likert, _ in _ratings(rankings):
        items.setdefault(model, []).append((prompt, float(likert)))
    return {
        model: clustered_mean(items[model], bounds=(1.0, 7.0), resamples=resamples, seed=seed)
        for model in sorted(items)
    }


def flag_rates(
    rankings: Iterable[Ranking], flag: str, *, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """Share of each model's responses with the flag set, among those where the flag was asked."""
    items: dict[str, list[tuple[str, float]]] = {}
    for prompt, model, _, _, _, flags in _ratings(rankings):
        if _known(flag) in flags:
            items.setdefault(model, []).append((prompt, float(flags[flag])))
    return {model: clustered_mean(items[model], resamples=resamples, seed=seed) for model in sorted(items)}


@dataclass(frozen=True, slots=True)
class FlagAgreement:
    """Agreement on one flag. At 1% prevalence `overall` is near 1 whatever labelers do, so `positive` is the
    one to read: the chance that a second labeler sets the flag where the first did, 2a / (2a + b + c). None:
    never set."""

    positive: Interval | None
    overall: Interval
    prevalence: float
    alpha: float | None
    pairs: int


def flag_agreement(
    rankings: Iterable[Ranking], flag: str, *, resamples: int = RESAMPLES, seed: int = SEED
) -> FlagAgreement:
    """Agreement on a flag over every two labelers of one response. Raises UserError when there are none."""
    votes: dict[tuple[str, str], dict[str, bool]] = {}
    for prompt, _, response, labeler, _, flags in _ratings(rankings):
        if _known(flag) in flags:
            votes.setdefault((prompt, response), {})[labeler] = flags[flag]
    matched = [
        (prompt, of[one], of[two])
        for (prompt, _), of in sorted(votes.items())
        for one, two in combinations(sorted(of), 2)
    ]
    if not matched:
        raise UserError(f"no two labelers answered flag {flag!r} for one response; agreement needs such overlap")
    cells: dict[str, tuple[int, int]] = {}
    for prompt, one, two in matched:
        both, either = cells.get(prompt, (0, 0))
        cells[prompt] = both + 2 * (one and two), either + one + two
    tops, bottoms = np.array(list(cells.values()), dtype=np.float64).T
    return FlagAgreement(
        positive=clustered_ratio(tops, bottoms, resamples=resamples, seed=seed) if bottoms.any() else None,
        overall=clustered_mean(
            [(prompt, float(one == two)) for prompt, one, two in matched], resamples=resamples, seed=seed
        ),
        prevalence=float(np.mean([vote for of in votes.values() for vote in of.values()])),
        alpha=krippendorff_alpha([[int(vote) for vote in of.values()] for of in votes.values()], "nominal"),
        pairs=len(matched),
    )


def likert_alpha(rankings: Iterable[Ranking]) -> float | None:
    """Krippendorff's alpha (ordinal) of the Likert ratings given to one response by several labelers."""
    votes: dict[tuple[str, str], dict[str, int]] = {}
    for prompt, _, response, labeler, likert, _ in _ratings(rankings):
        votes.setdefault((prompt, response), {})[labeler] = likert
    return krippendorff_alpha([list(of.values()) for of in votes.values()], "ordinal")


def _ratings(rankings: Iterable[Ranking]) -> Iterator[tuple[str, str, str, str, int, dict[str, bool]]]:
    """(prompt, model, response id, labeler, likert, flags) of every rated response."""
    for ranking in rankings:
        if ranking.ratings:
            for response, rating in zip(ranking.responses, ranking.ratings, strict=True):
                prompt = ranking.prompt_id or ranking.prompt
                yield prompt, response.model, response.id, ranking.labeler, rating.likert, rating.flags


def _known(flag: str) -> str:
    if flag not in RATING_FLAGS:
        raise ValueError(f"unknown flag {flag!r}; expected one of {', '.join(RATING_FLAGS)}")
    return flag


def krippendorff_alpha(units: Iterable[Sequence[int]], level: Literal["nominal", "ordinal"]) -> float | None:
    """Krippendorff's alpha: 1 full agreement, 0 what chance gives (Krippendorff 2011, "Computing alpha").

    A unit holds the values its labelers gave; units with a single value tell nothing. None when no unit has
    two values, or when only one value ever occurs, for then chance agreement is not defined.
    """
    pairable = [unit for unit in units if len(unit) >= 2]
    values = sorted({value for unit in pairable for value in unit})
    if len(values) < 2:
        return None
    place = {value: i for i, value in enumerate(values)}
    coincidence = np.zeros((len(values), len(values)))
    for unit in pairable:
        counts = np.bincount([place[value] for value in unit], minlength=len(values)).astype(np.float64)
        coincidence += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    margins = coincidence.sum(axis=1)
    if level == "nominal":
        distance = 1 - np.eye(len(values))
    else:
        middle = np.cumsum(margins) - margins / 2
        distance = (middle[:, None] - middle[None, :]) ** 2
    observed = (coincidence * distance).sum()
    expected = (np.outer(margins, margins) * distance).sum() / (margins.sum() - 1)
    return float(1 - observed / expected)
