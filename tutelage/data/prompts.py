"""Which prompts enter the data: the collection rules of the paper (section 3.2, appendices A.2 and C) as pure
functions.

    collected = collect(prompts, count_tokens=count)
    print(collected.summary())

In order: a prompt over the token limit goes; a training prompt with personal data goes; a prompt that shares
a long beginning with one already kept goes; a user's prompts beyond the limit go. The two rules on the prompt
alone come first, so that a prompt which is dropped anyway never pushes out a clean neighbour. Decisions
follow the order of arrival: more prompts appended later change none of the earlier ones, nor the split of any
user.

The paper says neither how long a shared beginning must be nor how users are assigned to splits; ours are
`DEDUP_PREFIX` and a salted hash.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tutelage.data.pii import find_pii
from tutelage.records import SPLITS, Prompt, UserError

DEDUP_PREFIX = 128
"""Characters that two prompts must share from the start to count as duplicates: about 30 tokens, half the
paper's median customer prompt (Table 9). Case and spacing are ignored. Shorter prompts are duplicates only
when equal, or short templated requests ("Write a reply to a customer who ...") would eat each other."""

USER_LIMIT = 200
"""Prompts kept per user id (paper section 3.2)."""

MAX_PROMPT_TOKENS = 1024
"""Longer prompts are dropped: the paper's 1k (appendix C)."""

SPLIT_SALT = "tutelage-split-1"
"""Changing the salt reshuffles every user: it is fixed once for a workflow."""

SPLIT_SHARES = (0.8, 0.1, 0.1)
"""Expected share of users in train, valid and test."""

UNKNOWN_USER = "unknown"
"""The user of prompts whose source names none. They are no single person: no limit, split by their first
turn."""

SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}
"""How the roles of a conversation are written when it becomes the text of one prompt."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a prompt was dropped: the rule, and the particulars."""

    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Collected:
    """The outcome of `collect`: every prompt given, in one of two lists, in order of arrival."""

    kept: tuple[Prompt, ...]
    dropped: tuple[tuple[Prompt, Reason], ...]

    def summary(self) -> str:
        """Two lines for a person: how many were kept in which split, how many each rule dropped."""
        splits = Counter(prompt.split for prompt in self.kept)
        users = {prompt.user for prompt in self.kept} - {UNKNOWN_USER}
        shares = ", ".join(f"{split} {splits[split]:,}" for split in SPLITS)
        origin = f" from {len(users):,} users" if users else ""
        lines = [f"{len(self.kept) + len(self.dropped):,} prompts in, {len(self.kept):,} kept{origin} ({shares})"]
        if self.dropped:
            rules = Counter(reason.rule for _, reason in self.dropped)
            detail = ", ".join(f"{rules[rule]:,} {rule}" for rule in sorted(rules, key=lambda r: (-rules[r], r)))
            lines.append(f"{len(self.dropped):,} dropped: {detail}")
        return "\n".join(lines)


def collect(
    prompts: Iterable[Prompt],
    *,
    existing: Sequence[Prompt] = (),
    count_tokens: Callable[[str], int] | None = None,
    max_tokens: int = MAX_PROMPT_TOKENS,
    user_limit: int = USER_LIMIT,
    dedup_prefix: int = DEDUP_PREFIX,
    shares: tuple[float, float, float] = SPLIT_SHARES,
    salt: str = SPLIT_SALT,
    keep_splits: bool = False,
) -> Collected:
    """Apply the collection rules.

    `existing` are prompts already in the workflow: they stay as they are, count as duplicates and towards the
    user limit, and their users keep their split. `count_tokens` gives the length of a text in tokens; without
    it no prompt is too long. `keep_splits` takes over the split each new prompt carries (it was fixed
    elsewhere). Raises UserError when an id is used for two texts, or a user's given splits differ.
    """
    texts = {prompt.id: prompt.text for prompt in existing}
    splits: dict[str, str] = {}
    for prompt in existing:
        splits.setdefault(split_unit(prompt), prompt.split)
    owners = {prefix_key(prompt.text, dedup_prefix): prompt.id for prompt in reversed(existing)}
    counts = Counter(prompt.user for prompt in existing)
    fixed = frozenset(splits)
    kept: list[Prompt] = []
    dropped: list[tuple[Prompt, Reason]] = []
    for prompt in prompts:
        if texts.setdefault(prompt.id, prompt.text) != prompt.text:
            raise UserError(f"prompt id {prompt.id!r} is used for two different texts")
        unit = split_unit(prompt)
        given = prompt.split if keep_splits else split_of(unit, shares=shares, salt=salt)
        split = splits.setdefault(unit, given)
        if keep_splits and split != given and unit not in fixed and prompt.user != UNKNOWN_USER:
            raise UserError(f"user {prompt.user!r} has prompts in {split} and in {given}; a user's split must be one")
        prompt = replace(prompt, split=split)
        key = prefix_key(prompt.text, dedup_prefix)
        reason = _unfit(prompt, count_tokens, max_tokens)
        if reason is None and key in owners:
            reason = Reason("duplicate", f"same beginning as {owners[key]}")
        if reason is None and prompt.user != UNKNOWN_USER and counts[prompt.user] >= user_limit:
            reason = Reason("over the user limit", f"{prompt.user} has {user_limit:,} prompts already")
        if reason is not None:
            dropped.append((prompt, reason))
            continue
        owners[key] = prompt.id
        counts[prompt.user] += 1
        kept.append(prompt)
    return Collected(tuple(kept), tuple(dropped))


def _unfit(prompt: Prompt, count_tokens: Callable[[str], int] | None, max_tokens: int) -> Reason | None:
    """The rules that look at one prompt alone. Personal data is named by kind only."""
    if count_tokens is not None:
        tokens = count_tokens(prompt.text)
        if tokens > max_tokens:
            return Reason("too long", f"{tokens:,} tokens, limit {max_tokens:,}")
    if prompt.split == "train":
        kinds = dict.fromkeys(pii.kind for pii in find_pii(prompt.text))
        if kinds:
            return Reason("personal data", ", ".join(kinds))
    return None


def prefix_key(text: str, length: int = DEDUP_PREFIX) -> str:
    """Two prompts are duplicates when their keys are equal: the first `length` characters, or all."""
    if length < 1:
        raise ValueError(f"length is {length}; expected 1 or more")
    return " ".join(text.casefold().split())[:length]


def split_unit(prompt: Prompt) -> str:
    """What may not be divided between splits: the user, or for an unknown user the conversation's first turn.

    The first turn, since several rows of a public set often continue one opening, and an opening in both
    train and test is a leak.
    """
    if prompt.user != UNKNOWN_USER:
        return f"user:{prompt.user}"
    return f"turn:{' '.join(first_turn(prompt.text).casefold().split())}"


def split_of(unit: str, *, shares: tuple[float, float, float] = SPLIT_SHARES, salt: str = SPLIT_SALT) -> str:
    """The split of a unit: its salted SHA-256 as a point in [0, 1), laid against the three shares."""
    if min(shares) < 0 or not math.isclose(sum(shares), 1.0):
        raise ValueError(f"shares are {shares}; expected three non-negative numbers that sum to 1")
    digest = hashlib.sha256(f"{salt}\0{unit}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    if point < shares[0]:
        return "train"
    return "valid" if point < shares[0] + shares[1] else "test"


def transcript(turns: Sequence[tuple[str, str]]) -> str:
    """A conversation, [(role, text), ...] with roles of `SPEAKERS`, as the text of one prompt.

    A single user turn is just its text; more become paragraphs "Human: ...", "Assistant: ...".
    """
    if len(turns) == 1 and turns[0][0] == "user":
        return turns[0][1].strip()
    return "\n\n".join(f"{SPEAKERS[role]}: {text.strip()}" for role, text in turns)


_FIRST_TURN = re.compile(r"\A(?:System: .*?\n\n)?Human: (.*?)(?:\n\nAssistant: |\Z)", re.DOTALL)


def first_turn(text: str) -> str:
    """The first human turn of a transcript; the whole text of any other prompt."""
    match = _FIRST_TURN.match(text)
    return match.group(1).strip() if match else text
