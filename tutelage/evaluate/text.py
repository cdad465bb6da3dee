"""What shows in responses without any judge: length, endings, variety, repetition.

A policy that found a trick shows it here first: shorter answers, one opening for everything, the same answer
twice. Words are runs of letters and digits, and single other marks, case ignored.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tutelage.records import Response

DRAWS = 20
"""Orders of the responses averaged over in the length-matched measure."""

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """The words and marks of a text, lower case."""
    return _WORD.findall(text.casefold())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """All runs of n words of a text."""
    if n < 1:
        raise ValueError(f"n is {n}; expected 1 or more")
    found = words(text)
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Different n-grams over all n-grams of all texts (Li et al. 2016); 0 when there are none.

    It falls as the amount of text grows, so models that write less look more varied: to compare models, use
    `distinct_matched`.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def distinct_matched(
    groups: Mapping[str, Sequence[str]], n: int = 2, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, float]:
    """distinct-n of each model's texts, all measured over the same number of n-grams.

    The budget is the smallest number of n-grams that any model has. Each draw puts a model's texts in a
    random order, takes n-grams from the start until the budget is spent, and the draws are averaged. All 0
    when some model has no n-gram at all.
    """
    grams = {model: [ngrams(text, n) for text in texts] for model, texts in groups.items()}
    budget = min((sum(map(len, rows)) for rows in grams.values()), default=0)
    if budget == 0:
        return dict.fromkeys(groups, 0.0)
    return {model: _mean_distinct(rows, budget, draws, seed) for model, rows in grams.items()}


def _mean_distinct(rows: Sequence[Sequence[tuple[str, ...]]], budget: int, draws: int, seed: int) -> float:
    rng = random.Random(seed)
    total = 0
    for _ in range(draws):
        stream = [gram for row in rng.sample(rows, len(rows)) for gram in row]
        total += len(set(stream[:budget]))
    return total / (draws * budget)


def self_repetition(text: str, n: int = 3) -> float:
    """Share of a text's n-grams that occurred earlier in the same text; 0 for a text shorter than n words."""
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def top_opening(texts: Sequence[str], n: int = 3) -> tuple[str, float]:
    """The commonest first n words (marks included) and the share of texts that begin so."""
    openings = Counter(" ".join(words(text)[:n]) for text in texts)
    if not openings:
        return "", 0.0
    opening, count = openings.most_common(1)[0]
    return opening, count / len(texts)


def duplicate_share(texts: Sequence[str]) -> float:
    """Share of texts that repeat an earlier one, case and spacing ignored."""
    if not texts:
        return 0.0
    return 1 - len({" ".join(text.casefold().split()) for text in texts}) / len(texts)


@dataclass(frozen=True, slots=True)
class TextStats:
    """One model's responses: mean tokens and words, share that ended by itself, the measures above."""

    responses: int
    tokens: float
    words: float
    ended: float
    distinct_2: float
    repetition: float
    opening: str
    opening_share: float
    duplicates: float

    def to_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


def describe(responses: Sequence[Response]) -> TextStats:
    """All measures of one model's responses. `tokens` is 0 where the source counted none (imported data)."""
    if not responses:
        raise ValueError("no responses to describe")
    texts = [response.text for response in responses]
    opening, share = top_opening(texts)
    count = len(responses)
    return TextStats(
        responses=count,
        tokens=sum(response.tokens for response in responses) / count,
        words=sum(len(words(text)) for text in texts) / count,
        ended=sum(response.ended for response in responses) / count,
        distinct_2=distinct_n(texts, 2),
        repetition=sum(self_repetition(text) for text in texts) / count,
        opening=opening,
        opening_share=share,
        duplicates=duplicate_share(texts),
    )
