"""Public collections in their own shapes, on rows made by hand; the real files are in test_data_real.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tutelage.data.prompts import split_of
from tutelage.data.sources import Imported, load


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(imported: Imported, index: int = 0) -> tuple[str, str, str, tuple[int, ...]]:
    ranking = imported.rankings[index]
    return ranking.prompt, ranking.responses[0].text, ranking.responses[1].text, ranking.ranks


TREE = {
    "message_tree_id": "t",
    "prompt": {
        "message_id": "m0",
        "role": "prompter",
        "text": "Hello?",
        "replies": [
            {
                "message_id": "m1",
                "role": "assistant",
                "text": "Bad",
                "rank": 1,
                "replies": [{"message_id": "m4", "role": "prompter", "text": "Why?", "replies": []}],
            },
            {
                "message_id": "m2",
                "role": "assistant",
                "text": "Good",
                "rank": 0,
                "synthetic": True,
                "model_name": "chip",
            },
            {"message_id": "m3", "role": "assistant", "text": "Late", "replies": []},
        ],
    },
}
FEEDBACK = {
    "question": "Who?",
    "passages": [["Title", "One.", "Two."]],
    **{f"prediction {i}": f"answer {i}" for i in range(1, 5)},
    "preference": [1, 0, 1, 2, 0, 1],
}
DOLLY = {
    "id": 0,
    "instruction": "Sum up.",
    "context": "A text.",
    "response": "Text.",
    "category": "summarization",
}


def test_hh_transcripts(tmp_path: Path) -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:"
    rows = [
        {"chosen": start + " Bye!", "rejected": start + " Go."},
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Go\n\nHuman: Why?",
        },
        {"chosen": start, "rejected": start + " Go."},
    ]
    imported = load(write(tmp_path / "a.jsonl", rows))
    assert imported.shape == "HH transcripts"
    assert pair(imported) == ("Human: Hi\n\nAssistant: Hello\n\nHuman: Bye", "Bye!", "Go.", (1, 2))
    assert pair(imported, 1) == ("Hi", "Hello", "Go\n\nHuman: Why?", (1, 2))
    assert pair(imported, 2)[1] == ""
    assert {p.split for p in imported.prompts} == {split_of("turn:hi")}
    assert "1 row: a response of several turns: kept as one text" in imported.notes


def test_message_trees(tmp_path: Path) -> None:
    imported = load(write(tmp_path / "a.jsonl", [TREE]))
    assert imported.shape == "Open-Assistant trees"
    assert [(p.id, p.text) for p in imported.prompts] == [
        ("m0", "Hello?"),
        ("m4", "Human: Hello?\n\nAssistant: Bad\n\nHuman: Why?"),
    ]
    (ranking,) = imported.rankings
    assert [(r.id, r.text, r.model) for r in ranking.responses] == [
        ("m1", "Bad", "human"),
        ("m2", "Good", "chip"),
    ]
    assert ranking.ranks == (2, 1)
    assert len({p.split for p in imported.prompts}) == 1


def test_tree_with_deleted_and_with_too_many_replies(tmp_path: Path) -> None:
    replies = [
        {"message_id": f"r{i}", "role": "assistant", "text": f"reply {i}", "rank": 2 * i, "deleted": i == 1}
        for i in range(12)
    ]
    row = {
        "message_tree_id": "t",
        "prompt": {"message_id": "m", "role": "prompter", "text": "Hi", "replies": replies},
    }
    imported = load(write(tmp_path / "a.jsonl", [row]))
    (ranking,) = imported.rankings
    assert [r.id for r in ranking.responses] == ["r0", *(f"r{i}" for i in range(2, 10))]
    assert ranking.ranks == tuple(range(1, 10))
    assert imported.notes == (
        "1 row: more than 9 ranked replies: the best 9 kept",
        "1 row: a deleted message: left out with all below it",
    )


def test_qa_feedback_order_with_ties(tmp_path: Path) -> None:
    # 1 > 2, 1 = 3, 1 > 4, 2 < 3, 2 = 4, 3 > 4: the order 1 = 3 > 2 = 4
    imported = load(write(tmp_path / "a.jsonl", [{**FEEDBACK, "gold": "gold"}]))
    assert imported.shape == "QA-Feedback"
    assert [r.ranks for r in imported.rankings] == [(1, 2, 1, 2)]
    assert imported.prompts[0].text == "Answer the question from the passages: Who?\n\nTitle\nOne. Two."
    assert imported.prompts[0].use_case == "closed QA"
    assert [d.response for d in imported.demonstrations] == ["gold"]


def test_qa_feedback_that_goes_in_a_circle_stays_six_pairs(tmp_path: Path) -> None:
    # 1 > 2, 2 > 3, 3 > 1
    imported = load(write(tmp_path / "a.jsonl", [{**FEEDBACK, "preference": [1, 2, 1, 1, 1, 0]}]))
    assert [r.ranks for r in imported.rankings] == [(1, 2), (2, 1), (1, 2), (1, 2), (1, 2), (1, 1)]
    assert len({r.prompt_id for r in imported.rankings}) == 1
    assert imported.notes == ("1 row: comparisons that fit no order: kept as six pairs",)


def test_dolly_and_its_relatives(tmp_path: Path) -> None:
    rows = [
        DOLLY,
        {"instruction": "Name a fish.", "context": "", "response": "Tope", "category": "open_qa"},
        DOLLY,
    ]
    imported = load(write(tmp_path / "a.jsonl", rows))
    assert imported.shape == "Dolly instructions"
    assert [(p.text, p.use_case) for p in imported.prompts] == [
        ("Sum up.\n\nA text.", "summarization"),
        ("Name a fish.", "open QA"),
    ]
    assert len({d.id for d in imported.demonstrations}) == 3
    imported = load(write(tmp_path / "b.jsonl", [{"instruction": "Sum up.", "input": "A text.", "output": "Text."}]))
    assert (imported.demonstrations[0].prompt, imported.notes) == ("Sum up.\n\nA text.", ())
