"""The shapes in which prompts, demonstrations and rankings are kept elsewhere, and how each becomes our records.

Every shape recognises a decoded row by its fields and files it with an `Intake`:

    own           one Prompt, Demonstration or Ranking a row, as records.py writes them
    TRL           prompt | prompt, completion | prompt, chosen, rejected | messages; each with plain text or with
                  lists of messages; chosen, rejected alone where they share their beginning
    HH            chosen and rejected transcripts with "Human:" and "Assistant:"
    trees         Open-Assistant message trees, ranks on sibling replies
    QA-Feedback   four answers and all six comparisons
    Dolly         instruction, context, response (also instruction, input, output)

The prompt of a row is its `prompt`; beside chosen and rejected also its `instruction`, `question`, `query` or `input`,
with `input` or `context` below it. A column `system` or `system_prompt` stands before any of them. A column that no
shape has a place for is left out and told, but never one that holds an answer or a judgement (see `leftovers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from tutelage.data.corpora import hh, instruction, qa_feedback, tree
from tutelage.data.intake import (
    ASKED,
    Intake,
    Row,
    Turn,
    asked,
    compare_turns,
    digest,
    kind_of,
    spoken,
    text_of,
    turns_of,
)
from tutelage.data.leftovers import is_blank, may_ask, way_out
from tutelage.data.prompts import named_split, transcript
from tutelage.records import Demonstration, FieldError, Prompt, Ranking, from_dict

# Our own records


def _own(kind: type[Any], row: Row) -> tuple[Any, bool]:
    """A record as it stands, and whether its row names its split."""
    split = named_split(row) if isinstance(row.get("split"), str | None) else ""
    if split:
        row = {**row, "split": split}
    elif is_blank(row.get("split")):
        row = {name: value for name, value in row.items() if name != "split"}
    return from_dict(kind, row), split != ""


def _own_prompt(row: Row, intake: Intake) -> None:
    prompt, marked = _own(Prompt, row)
    if prompt.id in intake.prompts:
        raise FieldError("id", f"{prompt.id!r} is used twice")
    intake.add_prompt(prompt, "id", marked=marked)


def _own_demonstration(row: Row, intake: Intake) -> None:
    record = _with_prompt(*_own(Demonstration, row), intake)
    intake.ids[record.id] += 1
    if intake.ids[record.id] > 1:
        raise FieldError("id", f"{record.id!r} is used twice")
    if response := intake.ended(record.response):
        intake.demonstrations.append(replace(record, response=response))
    else:
        intake.notes["a response that is an end marker alone: only the prompt kept"] += 1


def _own_ranking(row: Row, intake: Intake) -> None:
    record = _with_prompt(*_own(Ranking, row), intake)
    responses = tuple(replace(r, text=intake.ended(r.text)) for r in record.responses)
    intake.rankings.append(replace(record, responses=responses))


def _with_prompt(record: Any, marked: bool, intake: Intake) -> Any:
    name = record.prompt_id or f"p-{digest(record.prompt)}"
    prompt = Prompt(id=name, text=record.prompt, split=record.split, source=intake.source)
    intake.add_prompt(prompt, "prompt_id", marked=marked)
    return replace(record, prompt_id=name)


# TRL


def _answer(row: Row, name: str, context: Sequence[Turn], *, empty: bool = False) -> str:
    """A response field: text, or messages, from which a repeated prompt is taken off."""
    if not isinstance(row.get(name), list):
        return text_of(row, name, empty=empty)
    turns = turns_of(row, name)
    for before in (list(context), [turn for turn in context if turn[0] != "system"]):
        if turns[: len(before)] == before:
            turns = turns[len(before) :]
            break
    return spoken(turns, name, empty=empty)


def _prompt_only(row: Row, intake: Intake) -> None:
    prompt = asked(row, "prompt")
    intake.prompt(prompt.text, row)
    intake.leave_out(row, prompt.columns)


def _bare_prompt(row: str, intake: Intake) -> None:
    intake.prompt(text_of({"text": row}, "text"), {})


def _answered(answer: str) -> Callable[[Row, Intake], None]:
    """Rows with a prompt and its response under the name `answer`."""

    def read(row: Row, intake: Intake) -> None:
        prompt = asked(row, "prompt")
        response = _answer(row, answer, prompt.turns)
        intake.demonstrate(intake.prompt(prompt.text, row), response, row)
        intake.leave_out(row, [*prompt.columns, answer])

    return read


def _messages(row: Row, intake: Intake) -> None:
    """A conversation: its last assistant message is the demonstration; with none, it is a prompt."""
    turns = turns_of(row, "messages")
    spoken = [i for i, (role, _) in enumerate(turns) if role == "assistant"]
    intake.leave_out(row, ["messages"])
    if not spoken:
        intake.prompt(transcript(turns), row)
        intake.notes["no assistant message: taken as a prompt"] += 1
        return
    last = spoken[-1]
    if last == 0:
        raise FieldError("messages", "begins with the only assistant message; there is no prompt")
    if last < len(turns) - 1:
        intake.notes["messages after the last assistant message: left out"] += 1
    if not turns[last][1]:
        raise FieldError(f"messages[{last}].content", "is empty")
    intake.demonstrate(intake.prompt(transcript(turns[:last]), row), turns[last][1], row)


def _preference(row: Row, intake: Intake) -> None:
    """Chosen and rejected beside a column that holds the prompt."""
    prompt = asked(row)
    answers = tuple(_answer(row, name, prompt.turns, empty=True) for name in ("chosen", "rejected"))
    intake.compare(intake.prompt(prompt.text, row), (answers[0], answers[1]), row)
    intake.leave_out(row, [*prompt.columns, "chosen", "rejected"], ranked=True)


def _implicit(row: Row, intake: Intake) -> None:
    """Chosen and rejected that share their beginning, which is the prompt: only where no other column can be it."""
    for name, value in row.items():
        if may_ask(name, value):
            raise FieldError(name, f"may hold the prompt; rename it to 'prompt', {way_out([name])}")
    if isinstance(row.get("chosen"), list):
        chosen, rejected = turns_of(row, "chosen"), turns_of(row, "rejected")
        compare_turns(intake, chosen, rejected, row)
    else:
        first, second = text_of(row, "chosen"), text_of(row, "rejected")
        length = _shared_words(first, second)
        if length == 0 or first == second:
            raise FieldError("rejected", "shares no beginning with 'chosen' that could be the prompt")
        answers = first[length:].strip(), second[length:].strip()
        intake.compare(intake.prompt(first[:length].strip(), row), answers, row)
        intake.notes["no prompt field: the words shared at the start were taken for it"] += 1
    intake.leave_out(row, ["chosen", "rejected"], ranked=True)


def _shared_words(first: str, second: str) -> int:
    """Characters up to the last space before two texts part."""
    space = 0
    for place, (one, other) in enumerate(zip(first, second, strict=False), start=1):
        if one != other:
            break
        if one.isspace():
            space = place
    return space


# Telling shapes apart


@dataclass(frozen=True, slots=True)
class Shape:
    """`fits` looks at a row's field names and at the row; `record` is set for our own records,
    `bare` where a row is a text and no object."""

    name: str
    fits: Callable[[frozenset[str], Any], bool]
    read: Callable[[Any, Intake], None]
    record: type[Any] | None = None
    bare: bool = False


def _only(kind: type[Any], names: frozenset[str]) -> bool:
    return names <= {spec.name for spec in fields(kind)}


def _is_hh(row: Row) -> bool:
    return all(isinstance(row[name], str) and "Assistant:" in row[name] for name in ("chosen", "rejected"))


SHAPES = (
    Shape("bare prompts", lambda names, row: isinstance(row, str), _bare_prompt, bare=True),
    Shape("Open-Assistant trees", lambda names, row: {"message_tree_id", "prompt"} <= names, tree),
    Shape("QA-Feedback", lambda names, row: {"question", "prediction 1", "preference"} <= names, qa_feedback),
    Shape("own rankings", lambda names, row: {"responses", "ranks"} <= names, _own_ranking, Ranking),
    Shape("TRL preference", lambda names, row: {"prompt", "chosen", "rejected"} <= names, _preference),
    Shape("HH transcripts", lambda names, row: {"chosen", "rejected"} <= names and _is_hh(row), hh),
    Shape(
        "comparisons",
        lambda names, row: {"chosen", "rejected"} <= names and bool(names.intersection(ASKED)),
        _preference,
    ),
    Shape("TRL implicit preference", lambda names, row: {"chosen", "rejected"} <= names, _implicit),
    Shape("TRL prompt-completion", lambda names, row: {"prompt", "completion"} <= names, _answered("completion")),
    Shape(
        "own demonstrations",
        lambda names, row: {"id", "prompt", "response"} <= names and _only(Demonstration, names),
        _own_demonstration,
        Demonstration,
    ),
    Shape("prompt-response", lambda names, row: {"prompt", "response"} <= names, _answered("response")),
    Shape("TRL messages", lambda names, row: "messages" in names, _messages),
    Shape(
        "Dolly instructions",
        lambda names, row: "instruction" in names and bool({"response", "output"} & names),
        instruction,
    ),
    Shape(
        "own prompts",
        lambda names, row: {"id", "text"} <= names and _only(Prompt, names),
        _own_prompt,
        Prompt,
    ),
    Shape("TRL prompts", lambda names, row: "prompt" in names, _prompt_only),
)
"""In order: the first that fits is taken, so the more particular come first."""


def shape_of(row: Any) -> Shape:
    """The shape of a row. Raises FieldError when none fits."""
    names = frozenset(row) if isinstance(row, dict) else frozenset()
    if not isinstance(row, dict | str):
        raise FieldError("(row)", f"is {kind_of(row)}, expected an object")
    for shape in SHAPES:
        if shape.fits(names, row):
            return shape
    hint = "name the columns 'prompt' (and 'response', or 'chosen' and 'rejected') to bring it in"
    raise FieldError("(row)", f"has fields {', '.join(sorted(names)) or 'none'}: no known shape; {hint}")
