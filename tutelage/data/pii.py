"""Personal data in text, found by patterns: the paper filters it out of the training split (section 3.2).

Seen: e-mail addresses (also "name at host dot com"), phone numbers, payment card numbers (Luhn), IBANs (mod
97), US social security numbers, IP addresses, and street addresses as far as a pattern reaches (English,
German, French, Spanish and Italian street words, P.O. boxes).

Not seen: names of people, user names and handles, birth dates, passport and other national numbers, licence
plates, health or bank facts in prose, numbers written in words, addresses without a street word or house
number, anything in images or encoded text. When in doubt the filter reports: a prompt lost costs less than a
person exposed. So a clean answer here is no proof that a text is anonymous.
"""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

KINDS = (
    "e-mail",
    "card number",
    "IBAN",
    "social security number",
    "IP address",
    "phone number",
    "street address",
)


@dataclass(frozen=True, slots=True)
class Pii:
    """One find: its kind and character offsets, without the text itself, which logs would leak."""

    kind: str
    start: int
    end: int


def find_pii(text: str) -> tuple[Pii, ...]:
    """Every find in order of position. A kind hides its finds from the next, so none is found twice."""
    found: list[Pii] = []
    for kind, finder in _FINDERS:
        spans = list(finder(text))
        found += [Pii(kind, start, end) for start, end in spans]
        text = _hidden(text, spans)
    return tuple(sorted(found, key=lambda pii: pii.start))


Span = tuple[int, int]


def _hidden(text: str, spans: Iterable[Span]) -> str:
    """The text with # in place of the spans, which overlap none of each other."""
    parts, at = [], 0
    for start, end in sorted(spans):
        parts += [text[at:start], "#" * (end - start)]
        at = end
    return "".join([*parts, text[at:]])


def _apart(spans: Iterable[Span]) -> list[Span]:
    """The spans that overlap none before them, in order of position."""
    taken: list[Span] = []
    for span in spans:
        place = bisect(taken, span)
        after_the_last = place == 0 or taken[place - 1][1] <= span[0]
        before_the_next = place == len(taken) or span[1] <= taken[place][0]
        if after_the_last and before_the_next:
            taken.insert(place, span)
    return taken


_EMAIL = re.compile(
    r"""(?<![\w.+'-])[\w.+'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[a-z]{2,24}\b
    |(?<![\w.+'-])[\w.+-]{1,64}\ ?[(\[{]at[)\]}]\ ?[\w-]{1,63}(?:\ ?(?:\.|[(\[{]dot[)\]}])\ ?[\w-]{2,63}){1,4}
    |(?<![\w.+'-])[\w.+-]{1,64}\ at\ [\w-]{2,63}\ dot\ [a-z]{2,24}\b""",
    re.IGNORECASE | re.VERBOSE,
)


def _emails(text: str) -> Iterator[Span]:
    yield from (match.span() for match in _EMAIL.finditer(text))


_DIGIT_RUN = re.compile(r"(?<![\w.+])\d+(?:[ -]\d+)*(?!\w)")


def luhn(digits: str) -> bool:
    """The check digit rule of payment cards (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


_CARD_GROUPS = {(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), *((n,) for n in range(13, 20))}


def _cards(text: str) -> list[Span]:
    """Digit groups as printed on cards, begun as card networks do, that pass Luhn."""
    spans = []
    for run in _DIGIT_RUN.finditer(text):
        groups = list(re.finditer(r"\d+", run.group()))
        for first in range(len(groups)):
            for count in (1, 3, 4, 5):
                group = groups[first : first + count]
                digits = "".join(match.group() for match in group)
                shape = tuple(len(match.group()) for match in group)
                if shape in _CARD_GROUPS and digits[0] in "23456" and luhn(digits):
                    spans.append((run.start() + group[0].start(), run.start() + group[-1].end()))
    return _apart(spans)


_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_IBAN_LENGTHS = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS",
    23: "AE GI IL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "PT",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ CY DO GT HU LB PL",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT",
}
_IBAN_LENGTH = {country: length for length, names in _IBAN_LENGTHS.items() for country in names.split()}


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTH.get(match.group()[:2].upper(), 0)
        places = [i for i, char in enumerate(match.group()) if char.isalnum()][:length]
        compact = "".join(match.group()[i] for i in places).upper()
        if length and len(compact) == length and _mod97(compact):
            yield match.start(), match.start() + places[-1] + 1


def _mod97(iban: str) -> bool:
    """The check rule of ISO 13616: the first four moved to the end, letters as 10 to 35, remainder 1."""
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1


_SSN = re.compile(
    r"""(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])
    |\b(?:ssn|social\ security(?:\ (?:number|no\.?))?)[\s:#]{0,3}(?:is\ )?
        \d{3}[\ -]?\d{2}[\ -]?\d{4}(?!\d)""",
    re.IGNORECASE | re.VERBOSE,
)


def _ssns(text: str) -> Iterator[Span]:
    yield from (match.span() for match in _SSN.finditer(text))


_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])")
_VERSION_BEFORE = re.compile(r"(?:\bversion|\brelease|\bv|\bver\.?|§|\bsection)\s*$", re.IGNORECASE)


def _addresses_ip(text: str) -> Iterator[Span]:
    """Valid addresses other than loopback and unspecified. "Version 1.2.3.4" is let through."""
    for match in _IPV4.finditer(text):
        before = text[max(0, match.start() - 12) : match.start()]
        if _is_ip(match.group()) and not _VERSION_BEFORE.search(before):
            yield match.span()
    for match in _IPV6.finditer(text):
        if len([group for group in match.group().split(":") if group]) >= 3 and _is_ip(match.group()):
            yield match.span()


def _is_ip(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


_DATE = re.compile(
    r"(?<!\d)(?<!\d[-/.])"
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2}))(?![-/.]?\d)"
)
_PHONES = (
    # international: +44 20 7946 0958, +1 (555) 010-9999
    (re.compile(r"(?<![\w+])\+\d(?:[\s().-]{0,2}\d){7,14}(?!\d)"), 8, 15),
    # North America: (555) 010-9999, 555.010.9999, 1-555-010-9999; bare spaces only after a keyword, below
    (
        re.compile(r"(?<![\w.-])(?:1[\s.-]?)?(?:\([2-9]\d{2}\)\s?|[2-9]\d{2}[.-])\d{3}[\s.-]\d{4}(?![\w-])"),
        10,
        11,
    ),
    # national with trunk zero or 00 prefix: 020 7946 0958, 06 12 34 56 78, 0171/1234567
    (re.compile(r"(?<![\w.,-])(?<!\d )00?[1-9]\d{0,3}(?:[\s./-]\d{2,8}){1,6}(?!\w)"), 9, 14),
    # anything number-like soon after a word about phones: call me at 5550109999, tel. 555-0199
    (
        re.compile(
            r"\b(?:tele)?(?:phone|tel|mobile|cell|whatsapp|fax|call|ring|reach me)\b[^\d\n]{0,15}"
            r"(?P<n>\d{9,15}(?!\d)|\d{2,5}(?:[\s().-]{1,2}\d{2,5}){1,5}(?!\d))",
            re.IGNORECASE,
        ),
        7,
        15,
    ),
)


def _phones(text: str) -> list[Span]:
    text = _DATE.sub(lambda match: "#" * len(match.group()), text)
    spans = []
    for pattern, fewest, most in _PHONES:
        for match in pattern.finditer(text):
            start, end = match.span("n") if "n" in pattern.groupindex else match.span()
            if fewest <= sum(char.isdigit() for char in text[start:end]) <= most:
                spans.append((start, end))
    return _apart(spans)


_NUMBER = r"(?<![\w.,$€£-])\d{1,5}"
_CAPITAL = r"[A-ZÀ-Þ][\w'\u2019-]+"
_STREETS = tuple(
    re.compile(pattern)
    for pattern in (
        # 221B Baker Street, 1600 N. Main St
        rf"{_NUMBER}[A-Za-z]?,? (?:[NSEW]\.? )?(?:[A-ZÀ-Þ0-9][\w'\u2019.-]* ){{1,4}}"
        r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|Place|Pl|Terrace"
        r"|Way|Highway|Hwy|Parkway|Pkwy|Close|Crescent)\b",
        # 12 baker street, but not "12 people on the street"
        rf"{_NUMBER} (?!(?:of|in|on|the|a|an|to|at|from|per|and|or)\b)[a-z]{{2,20}} "
        r"(?:street|avenue|boulevard)\b",
        # P.O. Box 123
        r"(?i:\bP\.?\s?O\.?\s?Box \d{1,7})",
        # Hauptstraße 5, Lindenweg 12a, Kölner Str. 7
        r"\b[A-ZÄÖÜ][\wäöüß-]{1,30}(?:(?:stra(?:ß|ss)e|str\.|weg|platz|allee|gasse)| (?:Straße|Str\.))"
        r" \d{1,4} ?[a-z]?\b",
        # 12 rue de la Paix, 3 bis, avenue Foch
        r"\b\d{1,4}(?: ?(?:bis|ter))?,? (?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Pp]lace|[Cc]hemin|[Qq]uai) "
        rf"(?:de la |d[eu]s? |[dl]['\u2019])?{_CAPITAL}",
        # Calle Mayor 5, Via Giuseppe Verdi, 10
        r"\b(?:Calle|Avenida|Avda\.|Plaza|Via|Viale|Piazza|Corso) (?:[a-z]{2,5} ){0,2}"
        rf"{_CAPITAL}(?: {_CAPITAL})?,? \d{{1,4}}\b",
    )
)


def _streets(text: str) -> list[Span]:
    return _apart(match.span() for pattern in _STREETS for match in pattern.finditer(text))


_FINDERS = (
    ("e-mail", _emails),
    ("card number", _cards),
    ("IBAN", _ibans),
    ("social security number", _ssns),
    ("IP address", _addresses_ip),
    ("phone number", _phones),
    ("street address", _streets),
)
