"""The desk where outside rows become records: ids, splits, field checks and notes shared by all shapes.

Text of outside data is stripped at both ends, and a response of the end marker that some files write out. A wrong field
raises FieldError; `sources` adds file and line.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tutelage.data.leftovers import is_blank, lost, way_out
from tutelage.data.prompts import SPEAKERS, UNKNOWN_USER, assign_splits, named_split, transcript
from tutelage.records import Demonstration, FieldError, Prompt, Ranking, Response

Row = dict[str, Any]
Turn = tuple[str, str]
"""(role, text), with a role of `SPEAKERS`."""

CARRIED = ("user", "labeler", "split", "use_case")
"""Columns that any outside row may carry beside those of its shape."""

_END_MARKER = re.compile(
    r"(\s*(<\|(endoftext|im_end|eot_id|eom_id|eos|end|end_of_text|end_of_turn|end_of_turn_token)\|>"
    r"|<end_of_turn>|<eos>|</s>|<｜end▁of▁sentence｜>))+\s*\Z",
    re.IGNORECASE,
)
"""How models write that a text is over; training puts the model's own end token there."""


@dataclass
class Intake:
    """Collects the records of one file, and what a person should be told about it."""

    source: str
    prompts: dict[str, Prompt] = field(default_factory=dict)
    demonstrations: list[Demonstration] = field(default_factory=list)
    rankings: list[Ranking] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    marked: set[str] = field(default_factory=set)
    """Ids of the prompts whose rows name their split."""

    def prompt(self, text: str, row: Row, *, id: str = "", use_case: str = "other") -> Prompt:
        """The prompt of an outside row. Its id is a digest of its text, so the same prompt is the same everywhere; its
        split is the row's own, else decided in `finish`."""
        split = named_split(row)
        prompt = Prompt(
            id=id or f"p-{digest(text)}",
            text=text,
            user=optional_text(row, "user", UNKNOWN_USER),
            use_case=optional_text(row, "use_case", use_case),
            split=split or "train",
            source=self.source,
        )
        return self.add_prompt(prompt, "prompt", marked=split != "")

    def add_prompt(self, prompt: Prompt, name: str, *, marked: bool) -> Prompt:
        """File a prompt once; its id for another text, or two different marks of its split, is an error of field
        `name`."""
        known = self.prompts.setdefault(prompt.id, prompt)
        if known.text != prompt.text:
            raise FieldError(name, f"{prompt.id!r} stands for two different prompts")
        if marked:
            if prompt.id in self.marked and known.split != prompt.split:
                raise FieldError("split", f"is {prompt.split!r}, but the same prompt was in {known.split!r} before")
            self.marked.add(prompt.id)
            known = self.prompts[prompt.id] = replace(known, split=prompt.split)
        return known

    def finish(self) -> None:
        """Give the prompts whose rows name no split the one of their user, and all records that of their prompt."""
        splits = assign_splits(self.prompts.values(), self.marked)
        self.prompts = {name: replace(prompt, split=splits[name]) for name, prompt in self.prompts.items()}
        self.demonstrations = [replace(d, split=splits[d.prompt_id]) for d in self.demonstrations]
        self.rankings = [replace(r, split=splits[r.prompt_id]) for r in self.rankings]

    def demonstrate(self, prompt: Prompt, response: str, row: Row) -> None:
        """File a demonstration; a repeated one gets a numbered id, so that no row is lost."""
        response = self.ended(response)
        if not response:
            self.notes["a response that is an end marker alone: only the prompt kept"] += 1
            return
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
        responses = [replace(r, text=self.ended(r.text)) for r in responses]
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
        answers = chosen, rejected = self.ended(answers[0]), self.ended(answers[1])
        if chosen == rejected:
            self.notes["chosen and rejected are the same text: kept as a tie"] += 1
        if not chosen or not rejected:
            self.notes["one of the responses is empty: kept"] += 1
        self.rank(prompt, responses_of(prompt, answers), (1, 1 + (chosen != rejected)), row)

    def leave_out(self, row: Row, used: Sequence[str], *, ranked: bool = False) -> None:
        """Remember columns that the shape has no place for. Raises FieldError when one holds an answer or a judgement;
        `ranked` says that the row was read as a comparison."""
        left = {name: value for name, value in row.items() if name not in used and name not in CARRIED}
        if found := lost(left, (row.get(name) for name in used), ranked=ranked):
            others = f" (as do {', '.join(map(repr, found[1:]))})" if found[1:] else ""
            raise FieldError(
                found[0],
                f"looks like an answer or a judgement{others} and would be lost; compared answers are read from "
                f"'prompt', 'chosen' and 'rejected' (or 'responses' and 'ranks'), ratings of single answers are not "
                f"read; bring the rows into that form, {way_out(found)}",
            )
        for name in (name for name, value in left.items() if not is_blank(value)):
            self.notes[f"column {name!r} has no place in our records: left out"] += 1

    def ended(self, response: str) -> str:
        """A response without the end marker written out at its end."""
        match = _END_MARKER.search(response)
        if match is None or ("</s>" in match.group() and "<s>" in response):  # struck through in HTML
            return response
        self.notes["an end marker at the end of a response: taken off, training adds the model's own"] += 1
        return response[: match.start()]


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


ASKED = ("prompt", "instruction", "question", "query", "input")
"""Columns that hold the prompt, in order: the first one there is taken."""

BELOW = ("input", "context")
"""Columns of which one may stand below an instruction or a question."""

SYSTEM = ("system", "system_prompt")


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompt of an outside row, as text and as turns, and the columns it was made of."""

    text: str
    turns: list[Turn]
    columns: list[str]


def asked(row: Row, main: str = "") -> Asked:
    """The prompt of a row: its column `main` (else the first of `ASKED`), text or messages, with its input or context
    below it and its system prompt before it. Raises FieldError when another column may be part of it as well."""
    main = main or next((name for name in ASKED if name in row), "prompt")
    columns = [main]
    if isinstance(row.get(main), list):
        turns = turns_of(row, main)
        if turns[-1][0] == "assistant":
            raise FieldError(main, "ends with an assistant message; nothing is left to answer")
    else:
        parts = [text_of(row, main)]
        below = next((name for name in BELOW if name != main and not is_blank(row.get(name))), "")
        if below and main != "prompt":
            parts.append(text_of(row, below))
            columns.append(below)
        turns = [("user", "\n\n".join(parts))]
    for name in SYSTEM:
        if isinstance(row.get(name), str) and row[name].strip() and turns[0][0] != "system":
            turns = [("system", row[name].strip()), *turns]
            columns.append(name)
    text = transcript(turns)
    for name in (name for name in (*ASKED, *BELOW) if main != "prompt" and name not in columns):
        value = row.get(name)
        if not is_blank(value) and not (isinstance(value, str) and (value.strip() in text or text in value)):
            raise FieldError(
                name, f"may be part of the prompt beside {main!r}; join them as 'prompt', {way_out([name])}"
            )
    return Asked(text, turns, columns)


def optional_text(row: Row, name: str, default: str) -> str:
    """A text or whole number field, or the default when absent, null or empty."""
    value = row.get(name)
    if value is None or value == "":
        return default
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise FieldError(name, f"is {kind_of(value)}, expected text")
    return str(value)


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
        rest = {key: value for key, value in message.items() if key not in ("role", "content")}
        if role == "assistant" and (found := lost(rest, [], ranked=False)):
            problem = "judges the message, which would be lost; take such messages out,"
            raise FieldError(f"{where}.{found[0]}", f"{problem} {way_out([f'{name}.{found[0]}'])}")
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


def nul(row: Any) -> str | None:
    """The path of the first text with a NUL character within a decoded row."""
    waiting: list[tuple[str, Any]] = [("", row)]  # no recursion: rows may be nested as deep as JSON is read
    while waiting:
        name, value = waiting.pop()
        parts: list[tuple[str, Any]] = []
        if isinstance(value, str) and "\0" in value:
            return name or "(row)"
        if isinstance(value, dict):
            parts = [(f"{name}.{key}".lstrip("."), inner) for key, inner in value.items()]
            parts += [(f"{name}.(name)".lstrip("."), key) for key in value]
        elif isinstance(value, list):
            parts = [(f"{name}[{i}]", inner) for i, inner in enumerate(value)]
        waiting += reversed(parts)
    return None


def remove(row: Any, name: str) -> bool:
    """Take a column out of a decoded row, or a field within one, as "meta.score"; returns whether it was there."""
    if isinstance(row, list):
        return sum(remove(part, name) for part in row) > 0
    if not isinstance(row, dict):
        return False
    if name in row:
        del row[name]
        return True
    column, _, rest = name.partition(".")
    return bool(rest) and remove(row.get(column), rest)
