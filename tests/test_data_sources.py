"""Importers: our own records and the TRL shapes, in every container."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tutelage.data.adding import add
from tutelage.data.prompts import collect, split_of
from tutelage.data.sources import Imported, load, sniff
from tutelage.records import (
    Demonstration,
    Prompt,
    Ranking,
    Rating,
    Response,
    UserError,
    read_records,
    to_dict,
    write_records,
)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pair(imported: Imported, index: int = 0) -> tuple[str, str, str, tuple[int, ...]]:
    ranking = imported.rankings[index]
    return ranking.prompt, ranking.responses[0].text, ranking.responses[1].text, ranking.ranks


PROMPTS = [
    Prompt(id="p1", text="Name a fish.", user="ann", use_case="open QA", split="valid", flags=("ambiguous",)),
    Prompt(
        id="p2",
        text="Sing.",
        user="bob",
        kind="few-shot",
        checks=({"kind": "max_words", "n": 3},),
        source="s",
    ),
]
DEMONSTRATIONS = [
    Demonstration(id="d1", prompt="Name a fish.", response=" Tope", prompt_id="p1", labeler="l", split="test")
]
RANKINGS = [
    Ranking(
        prompt_id="p1",
        prompt="Name a fish.",
        responses=tuple(Response(id=f"r{i}", text=f"fish {i}", model="sft", sampling={"top_p": 1.0}) for i in range(3)),
        ranks=(1, 1, 2),
        ratings=tuple(Rating(likert=i + 3, flags={"hallucination": True}) for i in range(3)),
        labeler="l",
        seconds=1.5,
    )
]
PREFERENCE = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
LIST_PREFERENCE = {
    "prompt": [user("What is the sky?")],
    "chosen": [assistant("Blue.")],
    "rejected": [assistant("Green.")],
}
# Own records


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.tsv.gz", "a.parquet"])
@pytest.mark.parametrize("records", [PROMPTS, DEMONSTRATIONS, RANKINGS], ids=["prompts", "demonstrations", "rankings"])
def test_own_records_come_back_as_they_were_from_any_container(name: str, records: list[Any], tmp_path: Path) -> None:
    path = tmp_path / name
    save(path, [to_dict(record) for record in records])
    imported = load(path)
    kind = {Prompt: "prompts", Demonstration: "demonstrations", Ranking: "rankings"}[type(records[0])]
    assert imported.shape == sniff(path) == f"own {kind}"
    assert list(getattr(imported, kind)) == records
    assert imported.notes == ()
    if kind != "prompts":
        expected = [(r.prompt_id, r.prompt, r.split) for r in records]
        assert [(p.id, p.text, p.split) for p in imported.prompts] == expected


def save(path: Path, rows: list[dict[str, Any]]) -> None:
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
        return
    if kind in ("csv", "tsv"):
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t" if kind == "tsv" else ",")
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow([cell if isinstance(cell, str) else json.dumps(cell) for cell in row.values()])
        data = text.getvalue().encode()
    elif kind == "json":
        data = json.dumps(rows, indent=2).encode()
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_records_written_by_the_house_are_read_back(tmp_path: Path) -> None:
    write_records(tmp_path / "r.jsonl", RANKINGS)
    assert list(load(tmp_path / "r.jsonl").rankings) == RANKINGS


def test_a_row_that_names_no_split_gets_the_one_of_its_user_or_first_turn(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "text": f"task {i}", "user": f"u{i}"} for i in range(40)]
    imported = load(write(tmp_path / "a.jsonl", rows))
    assert [p.split for p in imported.prompts] == [split_of(f"user:u{i}") for i in range(40)]
    rows = [{"id": f"d{i}", "prompt": f"Task {i}", "response": "ok"} for i in range(40)]
    imported = load(write(tmp_path / "b.jsonl", rows))
    assert [d.split for d in imported.demonstrations] == [split_of(f"turn:task {i}") for i in range(40)]
    assert [d.prompt_id for d in imported.demonstrations] == [p.id for p in imported.prompts]


# TRL


def test_preference_pairs_plain_and_as_messages(tmp_path: Path) -> None:
    imported = load(write(tmp_path / "a.jsonl", [PREFERENCE]))
    assert imported.shape == "TRL preference"
    assert pair(imported) == ("The sky is", "blue.", "green.", (1, 2))
    assert imported.prompts[0].id == imported.rankings[0].prompt_id
    imported = load(write(tmp_path / "b.jsonl", [LIST_PREFERENCE]))
    assert pair(imported) == ("What is the sky?", "Blue.", "Green.", (1, 2))


def test_a_prompt_repeated_in_the_answers_is_taken_off(tmp_path: Path) -> None:
    row = {
        "prompt": "Hi",
        "chosen": [user("Hi"), assistant("Hello")],
        "rejected": [user("Hi"), assistant("Go")],
    }
    assert pair(load(write(tmp_path / "a.jsonl", [row]))) == ("Hi", "Hello", "Go", (1, 2))


def test_pairs_without_a_prompt_share_it(tmp_path: Path) -> None:
    rows = [{"chosen": "The sky is blue.", "rejected": "The sky is black."}]
    imported = load(write(tmp_path / "a.jsonl", rows))
    assert imported.shape == "TRL implicit preference"
    assert pair(imported) == ("The sky is", "blue.", "black.", (1, 2))
    assert imported.notes == ("1 row: no prompt field: the words shared at the start were taken for it",)
    start = [user("Hi"), assistant("Hello"), user("Bye")]
    row = {"chosen": [*start, assistant("Bye!")], "rejected": [*start, assistant("Go.")]}
    imported = load(write(tmp_path / "b.jsonl", [row]))
    assert pair(imported) == ("Human: Hi\n\nAssistant: Hello\n\nHuman: Bye", "Bye!", "Go.", (1, 2))


def test_demonstrations_from_prompt_completion_and_messages(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"prompt": "The sky is", "completion": " blue.", "user": "ann", "labeler": "l1", "tokens": 3},
        {"prompt": [user("Sky?")], "completion": [assistant("Blue.")]},
    ]
    imported = load(write(tmp_path / "a.jsonl", rows))
    assert imported.shape == "TRL prompt-completion"
    assert [(d.prompt, d.response, d.labeler) for d in imported.demonstrations] == [
        ("The sky is", "blue.", "l1"),
        ("Sky?", "Blue.", "unknown"),
    ]
    assert imported.prompts[0].user == "ann"
    assert imported.demonstrations[0].split == imported.prompts[0].split == split_of("user:ann")
    assert imported.notes == ("1 row: column 'tokens' has no place in our records: left out",)
    rows = [
        {"messages": [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hello")]},
        {"messages": [user("Hi"), assistant("Hello"), user("Bye")]},
        {"messages": [user("Alone")]},
    ]
    imported = load(write(tmp_path / "b.jsonl", rows))
    assert imported.shape == "TRL messages"
    assert [(d.prompt, d.response) for d in imported.demonstrations] == [
        ("System: Be brief.\n\nHuman: Hi", "Hello"),
        ("Hi", "Hello"),
    ]
    assert imported.prompts[2].text == "Alone"
    assert imported.notes == (
        "1 row: messages after the last assistant message: left out",
        "1 row: no assistant message: taken as a prompt",
    )


def test_prompts_plain_as_messages_and_bare(tmp_path: Path) -> None:
    rows = [{"prompt": "One", "split": "validation"}, {"prompt": [user("Two")], "use_case": "chat"}]
    imported = load(write(tmp_path / "a.jsonl", rows))
    assert imported.shape == "TRL prompts"
    assert [(p.text, p.use_case) for p in imported.prompts] == [("One", "other"), ("Two", "chat")]
    assert imported.prompts[0].split == "valid"
    imported = load(write(tmp_path / "b.jsonl", ["One", "Two", "One"]))
    assert (imported.shape, len(imported.prompts)) == ("bare prompts", 2)


def test_a_prompt_of_two_users_belongs_to_the_first(tmp_path: Path) -> None:
    rows = [{"prompt": "One", "user": name} for name in "abcdefghij"]
    (prompt,) = load(write(tmp_path / "a.jsonl", rows)).prompts
    assert (prompt.user, prompt.split) == ("a", split_of("user:a"))


def test_csv_of_pairs_keeps_line_breaks_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffprompt,chosen,rejected\r\n"Two\nlines",yes,"no, never"\r\n'.encode())
    assert pair(load(path)) == ("Two\nlines", "yes", "no, never", (1, 2))


def test_equal_and_empty_responses_are_kept_and_told(tmp_path: Path) -> None:
    rows = [{**PREFERENCE, "rejected": "blue."}, {**PREFERENCE, "rejected": ""}]
    imported = load(write(tmp_path / "a.jsonl", rows))
    assert [r.ranks for r in imported.rankings] == [(1, 1), (1, 2)]
    assert len({r.id for r in imported.rankings[0].responses}) == 2
    assert imported.notes == (
        "1 row: chosen and rejected are the same text: kept as a tie",
        "1 row: one of the responses is empty: kept",
    )


def test_two_labelers_of_one_pair_can_be_matched(tmp_path: Path) -> None:
    rows = [{**PREFERENCE, "labeler": "a"}, {**PREFERENCE, "labeler": "b"}]
    one, two = load(write(tmp_path / "a.jsonl", rows)).rankings
    assert one.prompt_id == two.prompt_id
    assert [r.id for r in one.responses] == [r.id for r in two.responses]


# After importing


def test_summary_is_written_for_people(tmp_path: Path) -> None:
    text = load(write(tmp_path / "a.jsonl", [{**PREFERENCE, "split": "train", "x": 1}] * 2)).summary()
    assert text == (
        "TRL preference: 1 prompts, 2 rankings (2 untied pairs); prompts by split: train 1, valid 0, test 0\n"
        "2 rows: column 'x' has no place in our records: left out"
    )


def test_summary_of_demonstrations(tmp_path: Path) -> None:
    row = {"prompt": "x", "response": "y", "split": "test"}
    text = load(write(tmp_path / "a.jsonl", [row])).summary()
    assert text.endswith("1 prompts, 1 demonstrations; prompts by split: train 0, valid 0, test 1")


def test_records_follow_the_prompts_that_were_kept(tmp_path: Path) -> None:
    rows = [{"prompt": f"task {i}", "response": "done"} for i in range(3)]
    imported = load(write(tmp_path / "a.jsonl", rows))
    known = Prompt(id="known", text="task 0", user="ann", split="test")
    kept = collect(imported.prompts[:2], existing=[known]).kept
    assert [p.text for p in kept] == ["task 1"]
    rest = imported.restricted_to([known, *kept])
    assert [(d.prompt_id, d.split) for d in rest.demonstrations] == [
        ("known", "test"),
        (kept[0].id, kept[0].split),
    ]
    assert [p.id for p in rest.prompts] == ["known", kept[0].id]
    assert len(rest.demonstrations) == len(imported.demonstrations) - 1
    assert imported.restricted_to(imported.prompts) == imported


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")

    def refuse(name: str, package: str | None = None) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(UserError, match=r"a\.parquet: reading Parquet needs the extra 'parquet'"):
        load(tmp_path / "a.parquet")


def test_importing_costs_neither_torch_nor_pyarrow() -> None:
    code = "import sys, tutelage.data.sources; print({'torch', 'pyarrow', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_imported_is_frozen(tmp_path: Path) -> None:
    imported = load(write(tmp_path / "a.jsonl", [PREFERENCE]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        imported.shape = "x"  # type: ignore[misc]


def test_pairs_of_one_prompt_by_one_labeler_are_all_added(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Name a fish.", "chosen": a, "rejected": b}
        for a, b in [("Tope", "Ox"), ("Tope", "Elm"), ("Ox", "Elm")]
    ]
    for _ in range(2):  # a second import of the same file adds nothing
        add(tmp_path / "mine", write(tmp_path / "pairs.jsonl", rows))
        assert len(read_records(Ranking, tmp_path / "mine" / "rankings.jsonl")) == 3
