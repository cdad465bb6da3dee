"""Does a text read as prose by one speaker? Loops, keyword lists, markup and second speakers do not."""

from __future__ import annotations

import re
from collections import Counter

from tutelage.judging import checks, words
from tutelage.judging.finding import Finding, ramp
from tutelage.records import Prompt

LISTS = {"json", "comma_list", "bullets", "numbered", "list"}
"""Wanted formats whose text is no prose."""
LOOSE_USES = ("brainstorming", "extract", "classification")
"""Use cases where an enumeration may be the right response."""

_TITLE = re.compile(
    r"\b(?:head(?:line|ing)|title|caption|slogan|subject line|names? (?:for|of)|poem|verse|song"
    r"|lullaby|limerick|haiku|couplet|rhymes?)\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"<\|?/?\w+\|?/?>|#{2,}|```|\*{3,}|={3,}|~{3,}|\\[nt]|&\w+;|\|{2,}|[!?]{3,}|\.{4,}|\ufffd")
_ODD = re.compile(
    r"[^\w\s.,;:!?'\"()\-%$/&@+\u20ac\u00a3\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u00b0\u00bf\u00a1\u00ab\u00bb\u2022*#=]"
)
_TURN = re.compile(
    r"(?im)^[\s*#>-]*(?:customer|user|human|assistant|agent|support|client|system|ai|bot|question|answer|q|a|prompt|response|"
    r"instructions?|input|output|message|reply|task)\s*\d*\s*:"
)


def asks_title(prompt: Prompt) -> bool:
    """Whether the prompt wants a headline, a name, a verse: text that need not look like sentences."""
    return _TITLE.search(prompt.text) is not None


def repetition(text: str) -> list[Finding]:
    """Repeated word triples, pairs and sentences."""
    said = [words.normalise(sentence) for sentence in words.sentences(text)]
    return [
        (ramp(words.repeated_share(text, 3), 0.4, 0.08), "repeats phrases"),
        (ramp(words.repeated_share(text, 2), 0.5, 0.15), "repeats word pairs"),
        (0.4 ** (len(said) - len(set(said))), "repeats a sentence"),
    ]


def salad(prompt: Prompt, text: str) -> list[Finding]:
    """Prose has function words, few commas and an end; lists and titles that were asked for need not."""
    count = len(words.words(text))
    marks = len(re.findall(r"[,;/\n]", text))
    enumerates = prompt.use_case in LOOSE_USES and marks >= count / 6
    asked = checks.wanted_format(prompt) & LISTS or (asks_title(prompt) and text.strip()[:1].isupper())
    if asked or enumerates or words.list_items(text) or count < 4:
        return []
    findings: list[Finding] = []
    english = words.language(text) in ("en", "")
    for sentence in words.sentences(text):
        size, share = len(words.words(sentence)), words.function_share(sentence)
        if size >= 5:
            zero, one = (0.08, 0.22) if size >= 10 else (-0.1, 0.16)
            share_factor = ramp(share, zero, one) * (0.3 if english and words.is_bare(sentence) else 1.0)
            findings.append((share_factor, "a list of keywords, not a sentence"))
        findings.append((ramp(size, 90, 45), "a sentence without end"))
    if count >= 8 and prompt.use_case not in LOOSE_USES:
        findings.append((ramp(marks / count, 0.45, 0.22), "an enumeration"))
    if english:
        findings.append((max(0.0, 1.0 - 0.4 * words.broken_pairs(text)), "broken grammar"))
    return findings


def junk(prompt: Prompt, text: str) -> list[Finding]:
    """Markup, odd characters, sentences in lower case, shouting; what the prompt has or asks for is fine."""
    formats = checks.wanted_format(prompt)
    prose = [said for said in words.sentences(text) if len(words.words(said)) >= 4]
    lowered = sum(said.lstrip("\"'([*")[:1].islower() for said in prose) / max(1, len(prose))
    small_ok = formats & (LISTS | {"lowercase"}) or words.list_items(text) or asks_title(prompt)
    letters = [letter for letter in text if letter.isalpha()]
    shouting = sum(letter.isupper() for letter in letters) / max(1, len(letters))
    markup = [mark for mark in _MARKUP.findall(text) if mark not in prompt.text]
    odd = [] if "json" in formats else [mark for mark in _ODD.findall(text) if mark not in prompt.text]
    return [
        (0.5 ** len(markup), f"markup {' '.join(markup[:3])}"),
        (ramp(len(odd) / len(text), 0.15, 0.02), f"odd characters {' '.join(odd[:3])}"),
        (1.0 if small_ok else 1.0 - 0.3 * lowered, "sentences start in lower case"),
        (1.0 if "uppercase" in formats or len(letters) < 8 else ramp(shouting, 0.9, 0.4), "shouting"),
    ]


def voice(prompt: Prompt, text: str, other_voice: tuple[str, ...]) -> list[Finding]:
    """One speaker, the right one, who answers rather than asks."""
    findings = [(0.3, f"another turn: {turn.strip()!r}") for turn in _TURN.findall(text)]
    findings += [(0.4, f"the asker's voice: {p!r}") for p in other_voice if words.mentions(text, p)]
    labels = Counter(re.findall(r"(\w+:|->)(?=\s|$)", prompt.text))
    findings += [(0.3, f"another example: {label!r}") for label, n in labels.items() if n >= 2 and label in text]
    said = words.sentences(text)
    questions = sum(sentence.rstrip("\"')").endswith("?") for sentence in said)
    if questions >= 2 and "question" not in checks.wanted_format(prompt) and prompt.use_case not in LOOSE_USES:
        findings.append((ramp(questions / len(said), 1.1, 0.5), "asks and asks"))
    return findings
