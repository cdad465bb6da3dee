"""Plain text measures without a model: words, sentences, list items, stop words, language, repeated phrases.

Everything is a pure function of a string. The word lists are small on purpose: they decide between a few
shapes of text (prose, list of keywords, another language), they do not understand it.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

_STRAIGHT = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": "-",
        "\u2011": "-",
        "\u00a0": " ",
    }
)
_WORD = re.compile(r"[^\W_]+(?:['\-.:/@][^\W_]+|,\d+)*")
_ABBREVIATION = re.compile(r"\b(?:mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|a\.m|p\.m)\.(?=\s)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
_NEGATION = re.compile(r"\b(?:no|not|never|cannot|unable|\w+n't)\b")
_REFUSAL = re.compile(
    r"\b(?:cannot|can't|can not|won't|will not|could not|couldn't|unable to|not able to|we do not|we don't)"
    r"\s+(?:\w+\s+)?$"
)
_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d{1,2}[.)])\s+(?=\S)")
_NUMBERED = re.compile(r"^\s*(\d{1,2})[.)]\s+(?=\S)")


def word_set(text: str) -> frozenset[str]:
    """The words of a text separated by spaces."""
    return frozenset(text.split())


STOP_WORDS: dict[str, frozenset[str]] = {
    "en": word_set(
        "a about after again all also am an and any are aren't as at be because been before being but by "
        "can can't cannot could couldn't did didn't do does doesn't doing don't down each for from get had "
        "has hasn't have haven't he he's her here here's him his how i i'd i'll i'm i've if in into is "
        "isn't it it'll it's its just let let's like may me might more most must my no not now of off on "
        "once one only or other our out over own please she should shouldn't so some soon such than that "
        "that's the their them then there there's these they they're this those through to too under until "
        "up us very was wasn't we we'd we'll we're we've were weren't what what's when where which while "
        "who who's why will with within without won't would wouldn't yes you you'll you're you've your "
        "yours"
    ),
    "fr": word_set(
        "au aux avec c'est ce ces cette dans de des du elle elles en est et être il ils j'ai je la le les "
        "leur lui ma mais me mes mon ne nos notre nous on ou par pas plus pour qu'il que qui sa se ses "
        "son sont sur très tu un une vos votre vous à été"
    ),
    "es": word_set(
        "al como con cuando de del donde el ella ellos en era es esta este esto está están fue ha hay la "
        "las le lo los me mi muy más no nos nuestro o para pero por que se si sin sobre son su sus "
        "también tu un una uno unos y ya yo él"
    ),
    "de": word_set(
        "aber als am an auch auf aus bei bin bis da das dass dem den der des die du ein eine einem einen "
        "einer er es für habe haben hat ich ihr im in ist ja mein mich mir mit nach nicht noch nur oder "
        "sehr sich sie sind so um und uns unser vom von vor war wenn wie wir wird zu zum zur über"
    ),
    "it": word_set(
        "ai al alla anche che chi ci come con da dal dalla de degli dei del della delle di e gli ha hanno "
        "ho i il in io la le lo loro ma mi mia mio molto nel nella noi non nostro o per perché più questa "
        "questo sei si sono su sua sul suo tu un una uno vi è"
    ),
    "pt": word_set(
        "ao aos as até com como da das de do dos e ela ele eles em era essa esse esta este está eu foi "
        "isso já mais mas me meu minha muito na nas no nos nossa nosso não o os ou para pela pelo por que "
        "se sem ser seu sua são também tem um uma você à é"
    ),
}
"""Function words of the languages the `language` check knows."""

LANGUAGES = tuple(STOP_WORDS)
_CLASSES: dict[str, frozenset[str]] = {
    "determiner": word_set("a an the my your our their every"),
    "preposition": word_set("to from for with at by in on during"),
    "of": word_set("of into onto"),
    "conjunction": word_set("and or but"),
    "pronoun": word_set("i we he she they"),
    "modal": word_set("will would can could should might must i'll we'll you'll they'll"),
    "verb": word_set("is are was were am be been has have had do does did"),
}
_SMALL = word_set("you your it it's this that these those not as than us me them him her what which who how")
_BROKEN: dict[str, frozenset[str]] = {
    "determiner": frozenset({"determiner", "preposition", "of", "conjunction", "pronoun", "modal", "verb", "end"}),
    "preposition": frozenset({"pronoun", "modal"}),
    "of": frozenset({"conjunction", "pronoun", "modal", "end"}),
    "conjunction": frozenset({"conjunction", "end"}),
    "pronoun": frozenset({"determiner", "of", "conjunction", "pronoun", "end"}),
    "modal": frozenset({"of", "conjunction", "modal"}),
    "verb": frozenset({"modal"}),
}
"""Classes of English function words, and which class cannot follow which (or close a sentence)."""


@functools.lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """Lower case, straight quotes and hyphens, composed accents: the form every match is made on."""
    return unicodedata.normalize("NFC", text.translate(_STRAIGHT)).casefold()


@functools.lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """Normalised words; "don't", "e-mail", "10:30" and "3.5" are one word each."""
    return tuple(_WORD.findall(normalise(text)))


def sentences(text: str) -> list[str]:
    """Sentences by closing punctuation or line break, without list markers; an abbreviation closes none."""
    shielded = _ABBREVIATION.sub(lambda m: m.group(0)[:-1] + "\0", text.translate(_STRAIGHT))
    lines = "\n".join(_BULLET.sub("", line) for line in shielded.splitlines())
    parts = (part.replace("\0", ".").strip() for part in _SENTENCE_END.split(lines))
    return [part for part in parts if _WORD.search(part)]


def lines(text: str) -> list[str]:
    """Lines that are not blank."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def list_items(text: str) -> list[str]:
    """The text of each bullet or numbered line, marker removed."""
    return [_BULLET.sub("", line).strip() for line in lines(text) if _BULLET.match(line)]


def numbered_items(text: str) -> list[int]:
    """The numbers of the numbered lines, in order."""
    return [int(match.group(1)) for line in lines(text) if (match := _NUMBERED.match(line))]


@functools.lru_cache(maxsize=16384)
def _pattern(phrase: str) -> tuple[str, re.Pattern[str]]:
    """(letters any mention must contain, the pattern of a mention)."""
    phrase = normalise(phrase).strip()
    pieces = [re.escape(piece) for piece in re.split(r"[\s\-]+", phrase)]
    spelled_out = len(pieces) > 1 and all(len(piece) == 1 for piece in pieces)
    body = ("-" if spelled_out else r"[\s\-]*").join(pieces)
    if phrase[-1:].isdigit():
        tail = r"(?![\d]|[.,]\d)"
    elif len(pieces[-1]) <= 3 and phrase[-1:].isalpha():
        tail = r"(?:s|es|'s)?(?!\w)"
    else:
        tail = ""
    head = r"(?<![\w])(?<!\d[.,])" if phrase[:1].isalnum() else ""
    return re.split(r"[\s\-]+", phrase)[0], re.compile(head + body + tail)


def mentions(text: str, phrase: str) -> bool:
    """Whether a word of the text starts with the phrase ("refund" finds "refunded"), on normalised forms.

    A phrase whose last word has up to three letters ("tea", "no") must be the whole word, plural allowed, and
    a number must be the whole number; what the phrase joins by a space or hyphen may be joined by any or
    none.
    """
    plain = normalise(text)
    needed, pattern = _pattern(phrase)
    return needed in plain and pattern.search(plain) is not None


def mentions_any(text: str, phrases: Iterable[str]) -> bool:
    """Whether the text mentions one of the phrases."""
    return any(mentions(text, phrase) for phrase in phrases)


def spans(text: str, phrases: Iterable[str]) -> list[tuple[int, int]]:
    """(start, end) of the mentions in the normalised text; of overlapping ones the first and longest."""
    plain = normalise(text)
    found: list[tuple[int, int]] = []
    for phrase in phrases:
        needed, pattern = _pattern(phrase)
        if needed in plain:
            found += [match.span() for match in pattern.finditer(plain)]
    kept: list[tuple[int, int]] = []
    for start, end in sorted(found, key=lambda span: (span[0], -span[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def refuses(text: str) -> bool:
    """Whether the text has a negation at all."""
    return _NEGATION.search(normalise(text)) is not None


def only_refused(text: str, phrases: Iterable[str]) -> bool:
    """Whether each mention of the phrases follows a refusal, a word between at most: "cannot now replace"."""
    plain = normalise(text)
    return all(_REFUSAL.search(plain[:start]) for start, _ in spans(text, phrases))


def remove(text: str, phrases: Iterable[str]) -> str:
    """The normalised text without the given phrases."""
    plain = normalise(text)
    for start, end in reversed(spans(text, phrases)):
        plain = plain[:start] + " " + plain[end:]
    return plain


@functools.lru_cache(maxsize=16384)
def stem(word: str) -> str:
    """A crude stem for overlap only: plural, -ing, -ed and -ly endings cut, first six letters kept."""
    word = re.sub(r"(?:'s|'ll|'re|'ve|'d|'m)$", "", word)
    for ending in ("ing", "ies", "ed", "es", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:6]


@functools.lru_cache(maxsize=4096)
def content_stems(text: str) -> tuple[str, ...]:
    """Stems of the words that are no function words of English, in order, repeats kept."""
    return tuple(stem(word) for word in words(text) if word not in STOP_WORDS["en"] and not word.isdigit())


def function_share(text: str) -> float:
    """Share of function words, in the language where it is largest."""
    found = words(text)
    if not found:
        return 0.0
    return max(sum(word in stops for word in found) / len(found) for stops in STOP_WORDS.values())


def language_evidence(text: str) -> dict[str, int]:
    """How many words of the text are function words of each language."""
    found = words(text)
    return {code: sum(word in stops for word in found) for code, stops in STOP_WORDS.items()}


def language(text: str) -> str:
    """The language with most function words, English where it ties; "" without evidence."""
    evidence = language_evidence(text)
    best = max(evidence.values())
    return "" if best == 0 else next(code for code, count in evidence.items() if count == best)


def repeated_share(text: str, n: int = 3) -> float:
    """Share of word n-grams that occurred earlier in the text; 0 for texts shorter than n + 1 words."""
    found = words(text)
    grams = Counter(zip(*(found[i:] for i in range(n)), strict=False))
    total = sum(grams.values())
    return 0.0 if total < 2 else 1.0 - len(grams) / total


def broken_pairs(text: str) -> int:
    """English word pairs hardly any sentence has ("the to", "we the"), and small words capitalised inside."""
    count = 0
    prose = "\n".join(line for line in text.splitlines() if not _BULLET.match(line))
    for sentence in sentences(prose):
        found = [*(_class(word) for word in words(sentence)), "end"]
        count += sum(b in _BROKEN.get(a, ()) for a, b in pairwise(found))
        inside = re.findall(r"(?<=[a-z] )[A-Z][a-z]+\b", sentence)
        title = len(inside) > len(found) / 2
        count += sum(word.casefold() in STOP_WORDS["en"] - {"may", "will"} and not title for word in inside)
    return count


def is_bare(sentence: str) -> bool:
    """Whether an English sentence of six words or more has none of the small words that hold one together."""
    found = words(sentence)
    return len(found) >= 6 and not any(_class(word) or word in _SMALL for word in found)


def _class(word: str) -> str:
    return next((name for name, members in _CLASSES.items() if word in members), "")


def longest_shared_run(text: str, other: str) -> int:
    """Length in words of the longest run of words that occurs in both texts."""
    left, right = words(text), words(other)
    best = 0
    previous = [0] * (len(right) + 1)
    for word in left:
        current = [0] * (len(right) + 1)
        for j, candidate in enumerate(right):
            if word == candidate:
                current[j + 1] = previous[j] + 1
                best = max(best, current[j + 1])
        previous = current
    return best
