"""The desk where outside rows become records: ids, splits, field checks and notes shared by all shapes.

Text of outside data is stripped at both ends. A wrong field raises FieldError; `sources` adds file and line.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tutelage.data.prompts import SPEAKERS, UNKNOWN_USER, split_of, split_unit, transcript
from tutelage.records import SPLITS, Demonstration, FieldError, Prompt, Ranking, Response

Row = dict[str, Any]
Turn = tuple[str, str]
"""(role, text), with a role of `SPEAKERS`."""

CARRIED = ("user", "labeler", "split", "use_case")
"""Columns that any outside row may carry beside those of its shape."""


@dataclass
class Intake:
    """Collects the records of one file, and what a person should be told about it."""

    source: str
    prompts: dict[str, Prompt] = field(default_factory=dict)
    demonstrations: list[Demonstration] = field(default_factory=list)
    rankings: list[Ranking] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)

    def prompt(self, text: str, row: Row, *, id: str = "", use_case: str = "other") -> Prompt:
        """The prompt of an outside row. Its id is a digest of its text, so the same prompt is the same
        everywhere; its split is the row's own, else that of its user (see `prompts.split_unit`)."""
        prompt = Prompt(
            id=id or f"p-{digest(text)}",
            text=text,
            user=optional_text(row, "user", UNKNOWN_USER),
            use_case=optional_text(row, "use_case", use_case),
            source=self.source,
        )
        split = _given_split(row)
        if not split:
            known = self.prompts.get(prompt.id)
            split = known.split if known else split_of(split_unit(prompt))
        return self.add_prompt(replace(prompt, split=split), "prompt")

    def add_prompt(self, prompt: Prompt, name: str) -> Prompt:
        """File a prompt once; its id for another text, or another split, is an error of field `name`."""
        known = self.prompts.setdefault(prompt.id, prompt)
        if known.text != prompt.text:
            raise FieldError(name, f"{prompt.id!r} stands for two different prompts")
        if known.split != prompt.split:
            raise FieldError("split", f"is {prompt.split!r}, but the same prompt was in {known.split!r} before")
        return known

    def demonstrate(self, prompt: Prompt, response: str, row: Row) -> None:
        """File a demonstration; a repeated one gets a numbered id, so that no row is lost."""
        name = f"d-{digest(prompt.text, response)}"
        self.ids[name] += 1
        self.demonstrations.append(
            Demonstration(
                id=name if self.ids[name] == 1 else f"{name}-{self.ids[name]}",
                prompt_id=prompt.id,
                prompt=prompt.text,
                response=response,
                labeler=optional_text(row, "labeler", "unknown"),
                split=prompt.split,
            )
        )

    def rank(self, prompt: Prompt, responses: Sequence[Response], ranks: Sequence[int], row: Row) -> None:
        """File a ranking; the ranks given may have any base and gaps, lowest is best, equal is tied."""
        order = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
        self.rankings.append(
            Ranking(
                prompt_id=prompt.id,
                prompt=prompt.text,
                responses=tuple(responses),
                ranks=tuple(order[rank] for rank in ranks),
                labeler=optional_text(row, "labeler", "unknown"),
                split=prompt.split,
            )
        )

    def compare(self, prompt: Prompt, answers: tuple[str, str], row: Row) -> None:
        """File (chosen, rejected); two equal texts cannot be preferred to each other and become a tie."""
        chosen, rejected = answers
        if chosen == rejected:
            self.notes["chosen and rejected are the same text: kept as a tie"] += 1
        if not chosen or not rejected:
            self.notes["one of the responses is empty: kept"] += 1
        self.rank(prompt, responses_of(prompt, answers), (1, 1 + (chosen != rejected)), row)

    def leave_out(self, row: Row, used: Sequence[str]) -> None:
        """Remember columns that the shape has no place for."""
        for name in row:
            if name not in used and name not in CARRIED:
                self.notes[f"column {name!r} has no place in our records: left out"] += 1


def digest(*texts: str) -> str:
    """16 hexadecimal digits of SHA-256: 10^6 texts collide with probability below 10^-7."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def responses_of(prompt: Prompt, texts: Sequence[str], model: str = "unknown") -> list[Response]:
    """Responses with ids made from prompt and text, so that two labelers of the same pair can be matched."""
    seen: Counter[str] = Counter()
    responses = []
    for text in texts:
        seen[text] += 1
        tail = "" if seen[text] == 1 else f"-{seen[text]}"
        responses.append(Response(id=f"r-{digest(prompt.id, text)}{tail}", text=text, model=model))
    return responses


def text_of(row: Row, name: str, *, label: str = "", empty: bool = False) -> str:
    """A required text field, stripped; `label` is how errors call it. Raises FieldError when it is missing,
    no text, or empty (unless `empty`)."""
    label = label or name
    if name not in row:
        raise FieldError(label, "is missing")
    value = row[name]
    if not isinstance(value, str):
        raise FieldError(label, f"is {kind_of(value)}, expected text")
    if not empty and not value.strip():
        raise FieldError(label, "is empty")
    return value.strip()


def optional_text(row: Row, name: str, default: str) -> str:
    """A text or whole number field, or the default when absent, null or empty."""
    value = row.get(name)
    if value is None or value == "":
        return default
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise FieldError(name, f"is {kind_of(value)}, expected text")
    return str(value)


def _given_split(row: Row) -> str:
    value = optional_text(row, "split", "")
    value = {"validation": "valid", "dev": "valid"}.get(value, value)
    if value and value not in SPLITS:
        raise FieldError("split", f"is {value!r}; expected one of {', '.join(SPLITS)}")
    return value


def kind_of(value: Any) -> str:
    """What a decoded value is, in words."""
    if value is None:
        return "null"
    kinds = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), type(value).__name__)


def turns_of(row: Row, name: str) -> list[Turn]:
    """A conversation field, [{"role", "content"}, ...] with roles system, user, assistant."""
    if name not in row:
        raise FieldError(name, "is missing")
    if not isinstance(row[name], list):
        raise FieldError(name, f"is {kind_of(row[name])}, expected a list of messages")
    if not row[name]:
        raise FieldError(name, "is empty")
    turns = []
    for i, message in enumerate(row[name]):
        where = f"{name}[{i}]"
        if not isinstance(message, dict):
            raise FieldError(where, f"is {kind_of(message)}, expected a message with role and content")
        role = message.get("role")
        if not isinstance(role, str) or role not in SPEAKERS:
            raise FieldError(f"{where}.role", f"is {role!r}; expected one of {', '.join(SPEAKERS)}")
        turns.append((role, text_of(message, "content", label=f"{where}.content", empty=True)))
    return turns


def spoken(turns: Sequence[Turn], name: str, *, empty: bool) -> str:
    """What follows a prompt as one text; it must begin with the assistant. Raises FieldError."""
    if not turns or turns[0][0] != "assistant":
        raise FieldError(name, "does not go on with an assistant message after the prompt")
    text = turns[0][1] if len(turns) == 1 else transcript(turns).removeprefix("Assistant: ")
    if not text and not empty:
        raise FieldError(name, "is empty")
    return text


def compare_turns(intake: Intake, chosen: Sequence[Turn], rejected: Sequence[Turn], row: Row) -> None:
    """The shared turns up to the last point where the assistant speaks next are the prompt."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    starts = [
        i
        for i in range(1, min(shared, len(chosen) - 1, len(rejected) - 1) + 1)
        if chosen[i][0] == rejected[i][0] == "assistant"
    ]
    if not starts:
        raise FieldError("rejected", "shares no turns with 'chosen' that could be the prompt")
    cut = starts[-1]
    if max(len(chosen), len(rejected)) > cut + 1:
        intake.notes["a response of several turns: kept as one text"] += 1
    answers = spoken(chosen[cut:], "chosen", empty=True), spoken(rejected[cut:], "rejected", empty=True)
    intake.compare(intake.prompt(transcript(chosen[:cut]), row), answers, row)
