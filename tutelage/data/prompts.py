"""Which prompts enter the data: the collection rules of the paper (section 3.2, appendices A.2 and C) as pure
functions.

    collected = collect(prompts, count_tokens=count)
    print(collected.summary())

In order: a prompt that is here already is not taken again; a prompt over the token limit goes; a training prompt
with personal data goes; a prompt that asks the same as one already kept goes (see `duplicates`); a user's prompts
beyond the limit go. The two rules on the prompt alone come before the duplicates, so that a prompt which is dropped
anyway never pushes out a clean neighbour. Decisions follow the order of arrival: more prompts appended later change
none of the earlier ones, nor the split of any user.

A prompt whose row names a split keeps it; every other one goes where its user's prompts are. The paper does not say
how users are assigned to splits; ours is a salted hash.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tutelage.data.duplicates import DEDUP_PREFIX, Duplicates
from tutelage.data.leftovers import way_out
from tutelage.data.pii import find_pii
from tutelage.records import SPLITS, FieldError, Prompt, UserError

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

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "development", "eval", "evaluation"), "valid"),
    **dict.fromkeys(("test", "testing", "heldout", "held_out"), "test"),
}
"""How data sets call their splits, and what we call them. A tail that says what the rows are for counts for nothing:
"train_sft", "test_prefs"."""

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
    """The outcome of `collect`: every prompt given, in one of three lists, in order of arrival."""

    kept: tuple[Prompt, ...]
    dropped: tuple[tuple[Prompt, Reason], ...]
    here: tuple[Prompt, ...] = ()
    """With the very words of a prompt that was there before."""

    def summary(self) -> str:
        """Up to three lines for a person: how many were kept in which split, how many each rule dropped."""
        splits = Counter(prompt.split for prompt in self.kept)
        users = {prompt.user for prompt in self.kept} - {UNKNOWN_USER}
        shares = ", ".join(f"{split} {splits[split]:,}" for split in SPLITS)
        origin = f" from {len(users):,} users" if users else ""
        total = len(self.kept) + len(self.dropped) + len(self.here)
        lines = [f"{total:,} prompts in, {len(self.kept):,} kept{origin} ({shares})"]
        if self.here:
            lines.append(f"{len(self.here):,} here already")
        if self.dropped:
            rules = Counter(reason.rule for _, reason in self.dropped)
            detail = ", ".join(f"{rules[rule]:,} {rule}" for rule in sorted(rules, key=lambda r: (-rules[r], r)))
            lines.append(f"{len(self.dropped):,} dropped: {detail}")
        return "\n".join(lines)


def collect(
    prompts: Iterable[Prompt],
    *,
    existing: Sequence[Prompt] = (),
    marked: Collection[str] = (),
    count_tokens: Callable[[str], int] | None = None,
    max_tokens: int = MAX_PROMPT_TOKENS,
    user_limit: int = USER_LIMIT,
    dedup_prefix: int = DEDUP_PREFIX,
    shares: tuple[float, float, float] = SPLIT_SHARES,
    salt: str = SPLIT_SALT,
) -> Collected:
    """Apply the collection rules.

    `existing` are prompts already in the workflow: they stay as they are, count as duplicates and towards the
    user limit, and their users keep their split. `marked` are the ids of new prompts whose split is their row's
    own and stays. `count_tokens` gives the length of a text in tokens; without it no prompt is too long. Raises
    UserError when an id is used for two texts.
    """
    prompts = list(prompts)
    ids = {prompt.id: prompt.text for prompt in existing}
    here = frozenset(prompt.text for prompt in existing)
    units: dict[str, str] = {}
    seen = Duplicates(dedup_prefix)
    for prompt in existing:
        units.setdefault(split_unit(prompt), prompt.split)
        seen.add(prompt.text, prompt.id)
    splits = assign_splits(prompts, marked, units=units, shares=shares, salt=salt)
    counts = Counter(prompt.user for prompt in existing)
    kept: list[Prompt] = []
    dropped: list[tuple[Prompt, Reason]] = []
    known: list[Prompt] = []
    for given in prompts:
        if ids.setdefault(given.id, given.text) != given.text:
            raise UserError(f"prompt id {given.id!r} is used for two different texts")
        prompt = replace(given, split=splits[given.id])
        if prompt.text in here:
            known.append(prompt)
            continue
        reason = _unfit(prompt, count_tokens, max_tokens)
        if reason is None and (found := seen.find(prompt.text)) is not None:
            name, how = found
            reason = Reason("duplicate", f"{how} {name}")
        if reason is None and prompt.user != UNKNOWN_USER and counts[prompt.user] >= user_limit:
            reason = Reason("over the user limit", f"{prompt.user} has {user_limit:,} prompts already")
        if reason is not None:
            dropped.append((prompt, reason))
            continue
        seen.add(prompt.text, prompt.id)
        counts[prompt.user] += 1
        kept.append(prompt)
    return Collected(tuple(kept), tuple(dropped), tuple(known))


def assign_splits(
    prompts: Iterable[Prompt],
    marked: Collection[str],
    *,
    units: Mapping[str, str] | None = None,
    shares: tuple[float, float, float] = SPLIT_SHARES,
    salt: str = SPLIT_SALT,
) -> dict[str, str]:
    """The split of each prompt, by id: the one its row names (`marked`), else the one of its unit.

    A unit (see `split_unit`) is where it was before (`units`), else where its first marked prompt is, else where the
    hash puts it.
    """
    prompts = list(prompts)
    units = dict(units or {})
    for prompt in prompts:
        if prompt.id in marked:
            units.setdefault(split_unit(prompt), prompt.split)
    splits = {}
    for prompt in prompts:
        splits[prompt.id] = prompt.split
        if prompt.id not in marked:
            unit = split_unit(prompt)
            splits[prompt.id] = units.setdefault(unit, split_of(unit, shares=shares, salt=salt))
    return splits


def named_split(row: Mapping[str, object]) -> str:
    """The split that a row names, in our words; "" when it names none. Raises FieldError for a name we do not know."""
    value = row.get("split")
    if value is None or value == "":
        return ""
    plain = re.sub(r"[_-](sft|prefs?|gen|rm|ppo)$", "", str(value).strip().casefold())
    split = SPLIT_NAMES.get(plain.replace("-", "_"))
    if split is None:
        raise FieldError("split", f"is {value!r}; expected one of {', '.join(SPLITS)}, {way_out(['split'])}")
    return split


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
