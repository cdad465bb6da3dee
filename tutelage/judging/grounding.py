"""What a response states that nobody told it: links, addresses, phone numbers, numbers and names."""

from __future__ import annotations

import functools
import re

from tutelage.judging import words

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
_LINK = re.compile(r"(?:https?://|www\.)\S+|\b[\w-]+\.(?:com|org|net|io|co\.uk|edu|gov)\b\S*", re.IGNORECASE)
_PHONE = re.compile(r"\+?\(?\d[\d()\-\s]{6,}\d")
_COUNTS = dict(
    pair.split("=")
    for pair in words.word_set(
        "two=2 three=3 four=4 five=5 six=6 seven=7 eight=8 nine=9 ten=10 eleven=11 twelve=12 "
        "fifteen=15 twenty=20 thirty=30 forty=40 fifty=50 sixty=60 ninety=90 hundred=100"
    )
)
_UNITS = ("second", "minute", "hour", "day", "week", "month", "year", "percent", "dollar", "euro", "pound")
_ORDINARY = words.STOP_WORDS["en"] | words.word_set(
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june "
    "july august september october november december english french german spanish italian portuguese "
    "ok id faq pdf tv usb wi-fi"
)
"""Capitalised words that name nobody."""


def contacts(text: str, known: str) -> tuple[list[str], str]:
    """(invented e-mail addresses, links and phone numbers, each with its kind; the text without contacts)."""
    found: list[str] = []
    for kind, pattern in (("e-mail address", _EMAIL), ("link", _LINK), ("phone number", _PHONE)):
        said = [match.strip(" .,\n") for match in pattern.findall(text)]
        found += [f"{kind} {contact}" for contact in said if words.normalise(contact) not in known]
        text = pattern.sub(" ", text)
    return found, text


def numbers(text: str, known: str) -> list[str]:
    """Numbers of the text that are not known, or not with that unit ("2 days" where only "2 years" is known).

    Digits always count; spelled numbers only before a unit, since "one of them" states nothing. Markers of
    list items are not numbers.
    """
    said = _quantities("\n".join(words.list_items(text) or [text]), spelled=False)
    told = _quantities(known, spelled=True)
    loose = {number for number, _ in told}
    return sorted(f"{n} {unit}".strip() for n, unit in said - told if unit or n not in loose)


@functools.lru_cache(maxsize=4096)
def _quantities(text: str, *, spelled: bool) -> frozenset[tuple[str, str]]:
    """(number, unit) pairs; the unit is the first unit word among the next four words, "" without one.

    With `spelled`, spelled numbers count with or without a unit.
    """
    found: set[tuple[str, str]] = set()
    tokens = re.findall(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+|[.!?;]", words.normalise(text))
    for index, token in enumerate(tokens):
        number = _COUNTS.get(token, token if token[0].isdigit() else "")
        if not number:
            continue
        ahead = tokens[index + 1 : index + 5]
        sentence = ahead[: next((i for i, word in enumerate(ahead) if word in ".!?;"), len(ahead))]
        unit = next((unit for word in sentence for unit in _UNITS if word.startswith(unit)), "")
        if unit or spelled or token[0].isdigit():
            found.add((number, unit))
    return frozenset(found)


def names(text: str, known: str) -> list[str]:
    """Capitalised words inside a sentence that are not known; German, full of capitals, is left out."""
    if words.language(text) == "de":
        return []
    told = set(words.words(known)) | _ORDINARY
    inside = [word for said in words.sentences(text) for word in re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", said)]
    return [name for name in dict.fromkeys(inside) if name.casefold() not in told]
