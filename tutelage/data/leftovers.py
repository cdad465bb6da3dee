"""Columns that a shape has no place for: which of them hold an answer or a judgement, and may not be lost in silence.

An outside row is read by the columns its shape knows. What is left over may be harmless (an id, a source, a language),
or it may be what the file is about: the second of two answers, or a rating that says how bad the only one is. The
names people give such columns are words of a small vocabulary, joined and numbered in many ways.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


ANSWERS = _set(
    """
    answer response reply output completion continuation generation prediction candidate solution target gold ideal
    chosen rejected preferred dispreferred
    """
)
"""Last words of names of columns that hold an answer, as in "model_response" and "answer1"."""

COUNTS = _set("num n nb number count total max min")
"""First words of columns that count answers and hold none: "num_responses"."""

TALKS = _set("message conversation dialog dialogue history turn")
"""Last words of names of columns that hold a conversation, whose answers count as well."""

VERDICTS = _set(
    """
    label preference prefer preferred dispreferred winner winning win won loser better worse best worst safer choice
    select selected pick picked verdict judgment judgement vote upvote downvote tie rank ranking ranked elo
    comparison chosen rejected
    """
)
"""Words of columns that say which answer is the better one, or whether one is good."""

RATINGS = _set(
    """
    rating rated score scoring likert star grade quality reward helpful helpfulness unhelpful harmless harmlessness
    harmful harm honest honesty correct correctness incorrect wrong accuracy coherence coherent complexity verbosity
    truthful truthfulness factuality relevance fluency safe safety unsafe toxic toxicity acceptable accept accepted
    approve approved thumb liked dislike disliked feedback critique margin strength satisfaction satisfied desirable
    severity flagged passed failed weight
    """
)
"""Words of columns that say how good one answer is."""

GRADES = _set("good bad like positive negative valid invalid pass fail overall annotation evaluation")
"""Words that say so where they stand last."""

DEGREES = _set("strength margin score rating confidence probability reward")
"""Words that make of a verdict the degree of one."""

ABOUT = _set(
    """
    model source url link version time timestamp date at by prompt template language lang format type length token
    seed policy author annotator labeler user style category topic
    """
)
"""Last words of columns that say something about an answer or a judgement, and are none: "chosen_model"."""

VERDICT_VALUES = _set(
    """
    chosen rejected accepted discarded approved preferred correct incorrect wrong safe unsafe harmful
    harmless helpful unhelpful upvote downvote like dislike
    """
) | {
    "thumbs up",
    "thumbs down",
    "thumbs_up",
    "thumbs_down",
}
"""Cells that judge by themselves, whatever their column is called."""

NUMBERS = _set("left right first second third fourth one two three four")
PADDING = NUMBERS | _set("text content raw message value list string body final full")
NO_SIBLINGS = _set(
    """
    tag category keyword topic source id url link image title author annotator worker user name entity domain level
    date language lang model reference ref passage document doc context fact hint step skill label
    """
)
"""Numbered columns of these names ("tag1", "tag2") are no answers beside each other."""

MAY_ASK = _set(
    """
    prompt instruction question query input context text system request task problem post article document passage
    content body title message human history conversation dialog dialogue
    """
)
"""Last words of names of columns that may hold the prompt."""

SPEAKERS = _set("system user assistant human gpt model bot prompter tool")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")


def lost(left: Mapping[str, Any], used: Iterable[Any], *, ranked: bool) -> list[str]:
    """Names of the columns `left` over that hold an answer or a judgement which reading the row would lose.

    `used` are the values that were read: a text that stands among them is not lost. `ranked`: the row was read as a
    comparison, so that how good each answer is matters no more, but a further answer and another verdict do.
    """
    left = {name: value for name, value in left.items() if not is_blank(value)}
    known: set[str] = set()
    if left:
        known = {text for value in used for text in _texts(value)}
    found = {n for n, value in left.items() if _judges(n, value, ranked) or _answers(n, value, known)}
    found |= {n for n, value in left.items() if n not in found and _holds(value, known, ranked)}
    texts = {n: set(_texts(value)) - known for n, value in left.items() if n not in found}
    found |= _siblings(n for n, own in texts.items() if any(c.isalpha() for text in own for c in text))
    return [name for name in left if name in found]


def may_ask(name: str, value: Any) -> bool:
    """Whether a column may hold the prompt."""
    return not is_blank(value) and words_of(name)[-1:] != [] and words_of(name)[-1] in MAY_ASK


def way_out(names: Sequence[str]) -> str:
    """How to say that columns do not matter."""
    return f"or leave out what does not matter: --ignore {shlex.join(names)} (in the studio: Columns to leave out)"


def words_of(name: str) -> list[str]:
    """The words of a column's name, in the singular: "isResponse_2Safe" is is, response, 2, safe."""
    return [_singular(word.casefold()) for word in _WORD.findall(name)]


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-1] if word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")) else word


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing; 0 and false are something."""
    return value is None or value in ("", [], {}) or (isinstance(value, str) and not value.strip())


def _judges(name: str, value: Any, ranked: bool) -> bool:
    if isinstance(value, str) and value.strip().casefold() in VERDICT_VALUES:
        return True
    words = words_of(name)
    last = words[-1] if words else ""
    verdict = VERDICTS.intersection(words)
    if last in ABOUT or (last == "id" and not verdict):
        return False
    if ranked:
        return bool(verdict) and not DEGREES.intersection(words) and not verdict <= {"chosen", "rejected"}
    return bool(verdict or RATINGS.intersection(words)) or last in GRADES


def _answers(name: str, value: Any, known: set[str]) -> bool:
    words = words_of(name)
    while len(words) > 1 and (words[-1] in PADDING or words[-1].isdigit() or len(words[-1]) == 1):
        words.pop()
    kind = words[-1] if words else ""
    if isinstance(value, int | float):
        return not isinstance(value, bool) and kind in ANSWERS - VERDICTS and words[0] not in COUNTS
    may = kind in ANSWERS or (kind in TALKS and (not isinstance(value, str) or kind not in ("message", "turn")))
    return may and bool(set(_texts(value)) - known)


def _holds(value: Any, known: set[str], ranked: bool) -> bool:
    """Whether a nested value holds a judgement, or answers side by side."""
    return any(_judges(name, inner, ranked) for name, inner in _fields(value) if not is_blank(inner)) or any(
        isinstance(part, list) and sum(_answers(n, v, known) for n, v in _fields(part)) > 1 for part in _parts(value)
    )


def _siblings(left: Iterable[str]) -> set[str]:
    """Columns that differ in a number, a letter or a side alone: text1 and text2, or a and b."""
    families: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for name in left:
        words = words_of(name)
        for place in {0, len(words) - 1} if words else ():
            if words[place].isdigit() or len(words[place]) == 1 or words[place] in NUMBERS:
                families[tuple(words[:place] + words[place + 1 :])].add(name)
    return {
        name
        for stem, names in families.items()
        for name in names
        if len(names) > 1 and not NO_SIBLINGS.intersection(stem)
    }


def _parts(value: Any) -> Iterator[Any]:
    """A decoded value and all within it; no recursion, since rows may be nested deep."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    return ((name, inner) for part in _parts(value) if isinstance(part, dict) for name, inner in part.items())


def _texts(value: Any) -> Iterator[str]:
    """All texts within a value, without the names of speakers."""
    for part in _parts(value):
        if isinstance(part, str) and (text := part.strip()) and text.casefold() not in SPEAKERS:
            yield text
