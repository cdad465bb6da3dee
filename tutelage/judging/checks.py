"""The checks a prompt may carry: their schema, and how far a response keeps each of them.

Only simulated labelers read checks; no model ever sees one. A check is a dict with a `kind`:

    topic {"groups": [[...], ...]}     share of groups of which a member is mentioned
    answer {"any": [...]}              a correct response mentions one of these
    avoid {"any": [...]}               mentioning one of these is wrong
    facts {"allow": [...]}             what the response may state beyond the prompt
    max_words, min_words, sentences, list_items {"n": N};  include {"all": [...]};  exclude {"any": [...]}
    starts_with, ends_with {"text": T};  language {"code": C};  format {"value": V}

The last two lines are constraints: explicit wishes stated in the prompt's text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tutelage.judging import words
from tutelage.records import Prompt, UserError

FORMATS = ("bullets", "numbered", "one_line", "uppercase", "lowercase", "question", "json", "comma_list")
FIELDS = {
    "topic": "groups",
    "answer": "any",
    "avoid": "any",
    "facts": "allow",
    "max_words": "n",
    "min_words": "n",
    "sentences": "n",
    "list_items": "n",
    "include": "all",
    "exclude": "any",
    "starts_with": "text",
    "ends_with": "text",
    "language": "code",
    "format": "value",
}
"""The one field of each kind of check, besides `kind`."""

CONSTRAINTS = tuple(kind for kind in FIELDS if kind not in ("topic", "answer", "avoid", "facts"))


def validate(prompt: Prompt) -> None:
    """Raises UserError naming the prompt when a check of it is unknown, incomplete or of the wrong shape."""
    for index, check in enumerate(prompt.checks, start=1):
        problem = _problem(check)
        if problem:
            raise UserError(f"prompt {prompt.id!r}, check {index}: {problem}")


def _problem(check: dict[str, Any]) -> str:
    kind = check.get("kind")
    if kind not in FIELDS:
        return f"kind {kind!r} is unknown; expected one of {', '.join(FIELDS)}"
    name = FIELDS[kind]
    extra = sorted(set(check) - {"kind", name})
    if extra:
        return f"field {extra[0]!r} is unknown; a {kind} check has {name!r}"
    if name not in check:
        return f"field {name!r} is missing in a {kind} check"
    return f"field {name!r} {wrong}" if (wrong := _wrong_value(kind, name, check[name])) else ""


def _wrong_value(kind: str, name: str, value: Any) -> str:
    if name == "n":
        return "" if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else "must be a number >= 1"
    if name == "text":
        return "" if isinstance(value, str) and value.strip() else "must be text"
    if name == "code":
        return "" if value in words.LANGUAGES else f"must be one of {', '.join(words.LANGUAGES)}"
    if name == "value":
        return "" if value in FORMATS else f"must be one of {', '.join(FORMATS)}"
    if name == "groups":
        fine = isinstance(value, list) and bool(value) and all(_is_phrases(group) for group in value)
        return "" if fine else "must be a list of lists of phrases, none empty"
    return "" if _is_phrases(value) or (kind == "facts" and value == []) else "must be a list of phrases, none empty"


def _is_phrases(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) and item.strip() for item in value)


def of_kind(prompt: Prompt, *kinds: str) -> list[dict[str, Any]]:
    """The prompt's checks of the given kinds."""
    return [check for check in prompt.checks if check["kind"] in kinds]


def wanted_format(prompt: Prompt) -> set[str]:
    """The formats the prompt asks for; `list_items` counts as "list"."""
    formats = {str(check["value"]) for check in of_kind(prompt, "format")}
    return formats | ({"list"} if of_kind(prompt, "list_items") else set())


def keep(check: dict[str, Any], text: str) -> float:
    """How far the text keeps one constraint, 0 to 1; below 1 exactly when it breaks it."""
    return _KEEPERS[check["kind"]](check[FIELDS[check["kind"]]], text)


def _near(count: int, target: int) -> float:
    """1 on target; else at most one half, less with distance, so that a near miss still beats a far one."""
    return 1.0 if count == target else 0.5 * max(0.0, 1.0 - abs(count - target) / target)


def _max_words(n: int, text: str) -> float:
    return 1.0 if len(words.words(text)) <= n else _near(len(words.words(text)), n)


def _min_words(n: int, text: str) -> float:
    return 1.0 if len(words.words(text)) >= n else _near(len(words.words(text)), n)


def _include(phrases: list[str], text: str) -> float:
    return sum(words.mentions(text, phrase) for phrase in phrases) / len(phrases)


def _exclude(phrases: list[str], text: str) -> float:
    return 0.0 if any(words.mentions(text, phrase) for phrase in phrases) else 1.0


def _starts_with(start: str, text: str) -> float:
    return float(words.normalise(text).lstrip("\"'*- ").startswith(words.normalise(start).strip()))


def _ends_with(end: str, text: str) -> float:
    closing = " .!?\"'*"
    return float(words.normalise(text).rstrip(closing + "\n").endswith(words.normalise(end).rstrip(closing)))


def _language(code: str, text: str) -> float:
    """Share of the evidence against the strongest rival; one half when a few words show nothing."""
    evidence = words.language_evidence(text)
    mine, rival = evidence[code], max(count for other, count in evidence.items() if other != code)
    if mine + rival == 0:
        return 0.5 if 0 < len(words.words(text)) <= 4 else 0.0
    return 1.0 if mine > rival else 0.5 * mine / rival


def _format(value: str, text: str) -> float:
    return _FORMATTERS[value](text)


def _bullets(text: str) -> float:
    found, all_lines = len(words.list_items(text)), len(words.lines(text))
    return found / all_lines if found >= 2 else 0.0


def _numbered(text: str) -> float:
    numbers, all_lines = words.numbered_items(text), len(words.lines(text))
    in_order = numbers == list(range(1, len(numbers) + 1))
    return (1.0 if in_order else 0.5) * len(numbers) / all_lines if len(numbers) >= 2 else 0.0


def _one_line(text: str) -> float:
    count = len(words.lines(text))
    return 1.0 if count == 1 else 0.5 / max(count, 1)


def _case(wanted: Callable[[str], bool]) -> Callable[[str], float]:
    def share(text: str) -> float:
        letters = [letter for letter in text if letter.isalpha()]
        return sum(wanted(letter) for letter in letters) / len(letters) if letters else 0.0

    return share


def _question(text: str) -> float:
    return 1.0 if text.rstrip("\"' \n").endswith("?") else 0.5 * ("?" in text)


def _json(text: str) -> float:
    try:
        value = json.loads(text)
    except ValueError:
        return 0.3 if text.strip()[:1] in "{[" and text.strip()[-1:] in "}]" and text.strip() else 0.0
    return 1.0 if isinstance(value, (dict, list)) and value else 0.5


def _comma_list(text: str) -> float:
    items = [item.strip() for item in text.strip().rstrip(".").split(",")]
    if len(words.lines(text)) != 1 or len(items) < 2:
        return 0.0
    return sum(1 <= len(words.words(item)) <= 5 for item in items) / len(items)


_FORMATTERS: dict[str, Callable[[str], float]] = {
    "bullets": _bullets,
    "numbered": _numbered,
    "one_line": _one_line,
    "uppercase": _case(str.isupper),
    "lowercase": _case(str.islower),
    "question": _question,
    "json": _json,
    "comma_list": _comma_list,
}
_KEEPERS: dict[str, Callable[[Any, str], float]] = {
    "max_words": _max_words,
    "min_words": _min_words,
    "sentences": lambda n, text: _near(len(words.sentences(text)), n),
    "list_items": lambda n, text: _near(len(words.list_items(text)), n),
    "include": _include,
    "exclude": _exclude,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "language": _language,
    "format": _format,
}
