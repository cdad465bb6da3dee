"""Which prompts ask the same: the paper's rule of the long shared beginning, applied to what was asked.

Many prompts of a file may begin with one system prompt, one template or one conversation and still ask different
things. So a shared beginning counts only up to the sentence in which two prompts part, and a conversation repeats
another only in its last human turn, after equal turns before it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

DEDUP_PREFIX = 128
"""Characters that two prompts must share to count as near-duplicates: about 30 tokens, half the paper's median
customer prompt (Table 9). Case and spacing are ignored. Shorter prompts are duplicates only when equal, or short
templated requests ("Write a reply to a customer who ...") would eat each other."""

EXTRA = 0.25
"""A prompt that goes on where another one ends repeats it when what follows is at most this share of its length."""

_END = re.compile(r"[.!?:;…][\"'”’)\]*]*(?=\s)|[。！？：；\n]")
"""Where a sentence or a line ends."""

_HUMAN = "\n\nHuman: "


@dataclass
class Duplicates:
    """The prompts seen so far: `find` looks for one that a new text repeats, `add` remembers a text under its id.

    Of two texts with the same conversation before their last human turn, one repeats the other when both are equal;
    when they part within a sentence of which they share the first `prefix` characters; or when one of at least `prefix`
    characters is the beginning of the other, which adds little (`EXTRA`).
    """

    prefix: int = DEDUP_PREFIX
    _new: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """`beginning` -> (text, id) of prompts that no text with the same beginning was compared with yet. Taking texts
    apart costs 0.1 ms each, so it is done only where a second one begins alike."""
    _whole: dict[bytes, str] = field(default_factory=dict)
    """Digest of a whole text -> id."""
    _cut: dict[bytes, str] = field(default_factory=dict)
    """Digest of a text without its last sentences, where these are little -> id."""
    _long: dict[tuple[bytes, str], dict[bytes, str]] = field(default_factory=dict)
    """(digest of what comes before, first characters of a long sentence) -> {digest up to its end: id}."""

    def find(self, text: str) -> tuple[str, str] | None:
        """The id of the prompt that `text` repeats, and how: "same words as" or "same beginning as"."""
        key = beginning(text, self.prefix)
        for other, name in self._new.pop(key, ()):
            self._take_apart(other, name)
        steps = list(_steps(text, self.prefix))
        whole = steps[-1].after
        if whole in self._whole:
            return self._whole[whole], "same words as"
        for step in steps:
            for after, name in self._long.get((step.before, step.start), {}).items():
                if after != step.after:
                    return name, "same beginning as"
        names = [self._cut.get(whole), *(self._whole.get(s.after) for s in steps if s.rest_is_little)]
        return next(((name, "same beginning as") for name in names if name is not None), None)

    def add(self, text: str, name: str) -> None:
        """Remember a prompt. Of several that repeat each other the first is the one that is named."""
        self._new.setdefault(beginning(text, self.prefix), []).append((text, name))

    def _take_apart(self, text: str, name: str) -> None:
        for step in (steps := list(_steps(text, self.prefix))):
            if step.start:
                self._long.setdefault((step.before, step.start), {}).setdefault(step.after, name)
            if step.rest_is_little:
                self._cut.setdefault(step.after, name)
        self._whole.setdefault(steps[-1].after, name)


def beginning(text: str, length: int = DEDUP_PREFIX) -> str:
    """The first characters of what was asked, without case and spacing: equal for all texts that repeat each other."""
    if length < 1:
        raise ValueError(f"length is {length}; expected 1 or more")
    words = _turns(text)[1].split(None, length)[:length]
    return " ".join(words).casefold()[:length]


@dataclass(frozen=True, slots=True)
class _Step:
    """One sentence of a text: digests of the text up to its start and its end, and its first characters if it is long.

    `rest_is_little`: sentences follow, but little in comparison with the long text up to here.
    """

    before: bytes
    start: str
    after: bytes
    rest_is_little: bool


def _steps(text: str, prefix: int) -> Iterator[_Step]:
    before, asked = _turns(text)
    digest = hashlib.blake2b(f"{_plain(before)}\0".encode(), digest_size=16)
    sentences = _sentences(asked, prefix)
    total, length = sum(map(len, sentences)), 0
    for sentence in sentences:
        start = digest.digest()
        digest.update(f"{sentence} ".encode())
        length += len(sentence)
        little = prefix <= length < total <= (1 + EXTRA) * length
        yield _Step(start, sentence[:prefix] if len(sentence) >= prefix else "", digest.digest(), little)


def _turns(text: str) -> tuple[str, str]:
    """What a conversation holds before its last human turn, and that turn. Any other text is one turn."""
    if text.startswith(("Human: ", "System: ")):
        before, found, asked = text.rpartition(_HUMAN)
        if found:
            return before, asked
    return "", text


def _sentences(text: str, prefix: int) -> list[str]:
    """The sentences and lines of a text, without case and spacing; a short text is taken as one."""
    plain = _plain(text)
    if len(plain) < prefix:
        return [plain]
    ends = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    parts = (_plain(text[start:end]) for start, end in pairwise(ends))
    return [part for part in parts if part]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
