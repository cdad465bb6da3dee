"""Four public collections in their own shapes: HH transcripts, Open-Assistant trees, QA-Feedback, Dolly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from tutelage.data.intake import Intake, Row, Turn, asked, compare_turns, kind_of, responses_of, text_of
from tutelage.data.prompts import transcript
from tutelage.records import MAX_RANKED, FieldError, Prompt, Response

# Anthropic HH


_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def hh(row: Row, intake: Intake) -> None:
    chosen, rejected = (_hh_turns(text_of(row, name), name) for name in ("chosen", "rejected"))
    compare_turns(intake, chosen, rejected, row)
    intake.leave_out(row, ["chosen", "rejected"], ranked=True)


def _hh_turns(text: str, name: str) -> list[Turn]:
    parts = _SPEAKER.split(text)
    if parts[0].strip() or len(parts) < 3:
        raise FieldError(name, "does not begin with 'Human:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [(roles[who], said.strip()) for who, said in zip(parts[1::2], parts[2::2], strict=True)]


# Open-Assistant


def tree(row: Row, intake: Intake) -> None:
    """Every prompter message is a prompt with the thread above it; its ranked replies make a ranking."""
    if not isinstance(row.get("prompt"), dict):
        raise FieldError("prompt", f"is {kind_of(row.get('prompt'))}, expected the root message of a tree")
    stack: list[tuple[Row, list[Turn], str]] = [(row["prompt"], [], "prompt")]
    while stack:
        message, above, where = stack.pop()
        if message.get("deleted"):
            intake.notes["a deleted message: left out with all below it"] += 1
            continue
        role = {"prompter": "user", "assistant": "assistant"}.get(str(message.get("role")))
        if role is None:
            raise FieldError(f"{where}.role", f"is {message.get('role')!r}; expected prompter or assistant")
        turns = [*above, (role, text_of(message, "text", label=f"{where}.text"))]
        replies = list(_replies(message, where))
        stack += [(reply, turns, name) for reply, name in reversed(replies)]
        if role == "user":
            name = text_of(message, "message_id", label=f"{where}.message_id")
            prompt = intake.prompt(transcript(turns), {"split": row.get("split")}, id=name)
            _rank_replies(prompt, replies, intake)


def _replies(message: Row, where: str) -> Iterator[tuple[Row, str]]:
    replies = [] if message.get("replies") is None else message["replies"]
    if not isinstance(replies, list):
        raise FieldError(f"{where}.replies", f"is {kind_of(replies)}, expected a list")
    for i, reply in enumerate(replies):
        if not isinstance(reply, dict):
            raise FieldError(f"{where}.replies[{i}]", f"is {kind_of(reply)}, expected a message")
        yield reply, f"{where}.replies[{i}]"


def _rank_replies(prompt: Prompt, replies: Sequence[tuple[Row, str]], intake: Intake) -> None:
    """Replies without a rank were never compared. Written replies have the model "human"."""
    ranked = []
    for reply, where in replies:
        rank = reply.get("rank")
        if rank is None or reply.get("deleted"):
            continue
        if not isinstance(rank, int) or isinstance(rank, bool):
            raise FieldError(f"{where}.rank", f"is {kind_of(rank)}, expected a whole number")
        name = text_of(reply, "message_id", label=f"{where}.message_id")
        model = str(reply.get("model_name") or "model") if reply.get("synthetic") else "human"
        text = text_of(reply, "text", label=f"{where}.text")
        ranked.append((rank, Response(id=name, text=text, model=model)))
    if len(ranked) < 2:
        return
    if len(ranked) > MAX_RANKED:
        intake.notes[f"more than {MAX_RANKED} ranked replies: the best {MAX_RANKED} kept"] += 1
        ranked = sorted(ranked, key=lambda pair: pair[0])[:MAX_RANKED]
    intake.rank(prompt, [response for _, response in ranked], [rank for rank, _ in ranked], {})


# QA-Feedback


_SIX = tuple(combinations(range(4), 2))
"""The order of the comparisons: 1v2, 1v3, 1v4, 2v3, 2v4, 3v4."""


def qa_feedback(row: Row, intake: Intake) -> None:
    """Four sampled answers to a question with passages; each comparison is 0 tie, 1 or 2.

    Where an order fits all six they become one ranking of four. Where none does (1 > 2 > 3 > 1, or 1 = 2 = 3
    but 1 > 3), each comparison stays a ranking of two, so that nothing is added to what the labeler said.
    """
    prompt = intake.prompt(_qa_prompt(row), row, use_case="closed QA")
    answers = responses_of(prompt, [text_of(row, f"prediction {i}") for i in range(1, 5)], "qa-feedback")
    verdicts = row.get("preference")
    if not isinstance(verdicts, list) or [type(v) for v in verdicts] != [int] * 6 or not set(verdicts) <= {0, 1, 2}:
        raise FieldError("preference", "expected six values 0 (tie), 1 or 2")
    beaten = [0.0] * 4
    for (i, j), verdict in zip(_SIX, verdicts, strict=True):
        beaten[i] += (0.5, 1, 0)[verdict]
        beaten[j] += (0.5, 0, 1)[verdict]
    ranks = [sorted(beaten, reverse=True).index(count) for count in beaten]
    if [(ranks[i] < ranks[j]) + 2 * (ranks[i] > ranks[j]) for i, j in _SIX] == verdicts:
        intake.rank(prompt, answers, ranks, row)
    else:
        intake.notes["comparisons that fit no order: kept as six pairs"] += 1
        for (i, j), verdict in zip(_SIX, verdicts, strict=True):
            intake.rank(prompt, [answers[i], answers[j]], [(0, 0), (0, 1), (1, 0)][verdict], row)
    if row.get("gold") is not None:
        intake.demonstrate(prompt, text_of(row, "gold"), row)
    used = ["question", "passages", "gold", "preference", *(f"prediction {i}" for i in range(1, 5))]
    intake.leave_out(row, used, ranked=True)


def _qa_prompt(row: Row) -> str:
    passages = row.get("passages")
    if not isinstance(passages, list):
        raise FieldError("passages", f"is {kind_of(passages)}, expected a list of passages")
    blocks = []
    for i, passage in enumerate(passages):
        if not isinstance(passage, list) or not passage or not all(isinstance(part, str) for part in passage):
            raise FieldError(f"passages[{i}]", "expected a list of texts: title, then sentences")
        blocks.append(f"{passage[0]}\n{' '.join(passage[1:])}".strip())
    return "\n\n".join([f"Answer the question from the passages: {text_of(row, 'question')}", *blocks])


# Dolly


_CATEGORIES = {
    "brainstorming": "brainstorming",
    "classification": "classification",
    "closed_qa": "closed QA",
    "creative_writing": "generation",
    "general_qa": "open QA",
    "information_extraction": "extract",
    "open_qa": "open QA",
    "summarization": "summarization",
}


def instruction(row: Row, intake: Intake) -> None:
    """An instruction with its input or context below it, and what was answered."""
    answer = "response" if "response" in row else "output"
    task = asked(row, "instruction")
    use_case = _CATEGORIES.get(str(row.get("category")), "other")
    intake.demonstrate(intake.prompt(task.text, row, use_case=use_case), text_of(row, answer), row)
    intake.leave_out(row, ["id", *task.columns, answer, "category"])
