"""What counts as asking the same, and that all that goes with a prompt is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tutelage.data.adding import add
from tutelage.data.duplicates import Duplicates
from tutelage.records import Demonstration, Prompt, Ranking, UserError, read_records

SYSTEM = (
    "You are an assistant for the Harbour Library. Answer politely, in at most three sentences, and never invent "
    "opening hours or book titles. If you are unsure, say so."
)
TEMPLATE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request, and "
    "nothing that was not asked for.\n\n### Instruction:\n{}\n\n### Response:"
)
LONG = (
    "I have an old cast iron pan that my grandmother gave me, it is covered in rust on the inside and something sticky "
    "on the outside, and I would like to use it again, so how do I clean it"
)
QUESTIONS = ("How do I descale a kettle?", "Name two rivers in Peru.", "What is 17 * 23?", "What is 17 * 24?")


def repeats(first: str, second: str) -> str | None:
    """How the second repeats the first."""
    seen = Duplicates()
    seen.add(first, "a")
    found = seen.find(second)
    return found and found[1].split()[1]


@pytest.mark.parametrize(
    "text",
    [
        f"{SYSTEM} {{}}",
        f"{SYSTEM}\n\n{{}}",
        f"System: {SYSTEM}\n\nHuman: {{}}",
        f"Human: {LONG}?\n\nAssistant: With salt.\n\nHuman: {{}}",
        TEMPLATE,
        f"{LONG}: {{}}",
        "图书馆的助手应当礼貌地回答。" * 12 + "{}",
    ],
)
def test_what_stands_before_many_questions_does_not_make_them_one(text: str) -> None:
    seen = Duplicates()
    for question in QUESTIONS:
        assert seen.find(text.format(question)) is None
        seen.add(text.format(question), question)
    for question in QUESTIONS:
        assert seen.find(text.format(question.upper())) == (question, "same words as")


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("Name a fish.", " name  A\nFISH.", "words"),
        ("Name a fish.", "Name a fish that flies.", None),
        (f"{LONG} with salt?", f"{LONG} without salt?", "beginning"),
        (f"{SYSTEM}\n\n{LONG} now?", f"{SYSTEM}\n\n{LONG} today?", "beginning"),
        (f"{LONG}?", f"{LONG}? Thank you!", "beginning"),
        (f"{LONG}? Thank you!", f"{LONG}?", "beginning"),
        (f"{LONG}? {LONG}!", f"{LONG}?", None),
        ("Human: Hi\n\nAssistant: Yes?\n\nHuman: Why?", "Human: Hi\n\nAssistant: No?\n\nHuman: Why?", None),
        ("Human: Hi\n\nAssistant: Yes?\n\nHuman: Why?", "Human: Hi\n\nAssistant: Yes?\n\nHuman: why?", "words"),
    ],
)
def test_near_duplicates_are_found_in_either_order(one: str, other: str, how: str | None) -> None:
    assert repeats(one, other) == repeats(other, one) == how


# ---- adding: splits, the same file again, and what went --------------------------------------------------------


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def splits(folder: Path) -> dict[str, str]:
    return {p.text: p.split for p in read_records(Prompt, folder / "prompts.jsonl")}


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


def test_a_rows_own_split_wins_and_the_others_go_by_user(tmp_path: Path) -> None:
    rows = [{"prompt": f"Task {n}", "response": "Done.", "split": s} for n, s in enumerate(["val", "Test", "train"])]
    rows += [{"prompt": f"Job {n}", "response": "Done.", "user": "ann"} for n in range(20)]
    rows += [{"prompt": "Marked", "response": "Done.", "user": "ann", "split": "test"}]
    add(tmp_path / "d", write(tmp_path / "a.jsonl", *rows))
    found = splits(tmp_path / "d")
    assert [found[f"Task {n}"] for n in range(3)] == ["valid", "test", "train"]
    assert {found[f"Job {n}"] for n in range(20)} == {"test"}
    written = read_records(Demonstration, tmp_path / "d" / "demonstrations.jsonl")
    assert {d.prompt: d.split for d in written} == found


def test_adding_what_was_written_keeps_every_split_and_twice_changes_nothing(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Task {n}", "chosen": "Yes.", "rejected": "No.", "user": f"u{n}", "split": s}
        for n, s in enumerate(("train", "valid", "test") * 9)
    ]
    add(tmp_path / "one", write(tmp_path / "a.jsonl", *rows))
    for _ in range(2):
        for name in ("rankings.jsonl", "prompts.jsonl", "demonstrations.jsonl"):
            if (tmp_path / "one" / name).stat().st_size:
                text = add(tmp_path / "two", tmp_path / "one" / name)
    assert splits(tmp_path / "two") == splits(tmp_path / "one") == {r["prompt"]: r["split"] for r in rows}
    assert "27 here already" in text
    before = content(tmp_path / "one")
    text = add(tmp_path / "one", tmp_path / "a.jsonl")
    assert content(tmp_path / "one") == before
    assert "27 rankings here already" in text


def test_a_split_that_is_not_the_one_here_is_refused_and_can_be_ignored(tmp_path: Path) -> None:
    row = {"prompt": "Name a fish.", "response": "A tope."}
    add(tmp_path / "d", write(tmp_path / "a.jsonl", row | {"split": "train"}))
    other = write(tmp_path / "b.jsonl", row | {"split": "test", "response": "A dab."})
    with pytest.raises(
        UserError, match=r"b\.jsonl: prompt .* is marked 'test', but it is in 'train' .* --ignore split"
    ):
        add(tmp_path / "d", other)
    add(tmp_path / "d", other, ignore=["split"])
    assert [d.split for d in read_records(Demonstration, tmp_path / "d" / "demonstrations.jsonl")] == ["train"] * 2


def test_users_whose_rows_are_in_several_splits_are_told(tmp_path: Path) -> None:
    rows = [{"prompt": f"Task {s}", "user": "ann", "split": s} for s in ("train", "test")]
    text = add(tmp_path / "d", write(tmp_path / "a.jsonl", *rows))
    assert splits(tmp_path / "d") == {"Task train": "train", "Task test": "test"}
    assert "1 user with prompts in several splits, as the rows say" in text


def test_rankings_and_demonstrations_that_go_with_their_prompts_are_told(tmp_path: Path) -> None:
    pairs = [
        {"prompt": text, "chosen": "A tope.", "rejected": "An ox.", "split": "train"}
        for text in ("Name a fish.", "NAME a fish.", "Mail ann@example.com")
    ]
    text = add(tmp_path / "d", write(tmp_path / "a.jsonl", *pairs))
    assert "2 rankings dropped with their prompts: 1 duplicate, 1 personal data" in text
    written = {"prompt": "name A fish.", "response": "A dab."}
    text = add(tmp_path / "d", write(tmp_path / "b.jsonl", written))
    assert "1 demonstration dropped with their prompts: 1 duplicate" in text


def test_no_judgement_replaces_another(tmp_path: Path) -> None:
    pair = {"prompt": "Name a fish.", "chosen": "A tope.", "rejected": "A dab."}
    turned = {"prompt": "Name a fish.", "chosen": "A dab.", "rejected": "A tope."}
    text = add(tmp_path / "d", write(tmp_path / "a.jsonl", pair, turned, pair))
    assert len(read_records(Ranking, tmp_path / "d" / "rankings.jsonl")) == 2
    assert "1 ranking here already" in text
    for response in ("A tope.", "A dab.", "A tope."):  # one id in two files
        add(tmp_path / "d", write(tmp_path / "b.jsonl", {"id": "d1", "prompt": "Name a fish.", "response": response}))
    found = read_records(Demonstration, tmp_path / "d" / "demonstrations.jsonl")
    assert [d.response for d in found] == ["A tope.", "A dab."]
    assert len({d.id for d in found}) == 2
