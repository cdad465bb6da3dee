"""Records: what is written comes back the same; a malformed line is one sentence with file, line, field."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.records import (
    RATING_FLAGS,
    Demonstration,
    FieldError,
    Prompt,
    Ranking,
    Rating,
    Response,
    UserError,
    from_dict,
    read_records,
    read_rows,
    to_dict,
    write_json,
    write_records,
    write_text,
)

PROMPT = Prompt(
    id="p1",
    text="Where is my parcel?\nIt is late — since 3 days\u2028…",
    user="ada",
    use_case="chat",
    kind="user-based",
    split="valid",
    flags=("pii", "short"),
    checks=({"kind": "topic", "groups": [["parcel"], ["late"]]}, {"kind": "max_words", "n": 15}),
    source="support",
)
DEMONSTRATION = Demonstration(
    id="d1", prompt="Say hello.", response="Hello!", prompt_id="p1", labeler="ada", split="test"
)
RESPONSES = (
    Response(id="r1", text="It is on its way.", model="sft", tokens=7, ended=True, sampling={"temperature": 1.0}),
    Response(id="r2", text="", model="base", tokens=0, ended=False),
    Response(id="r3", text="日本 🙂 \t\\"),
)
RATINGS = (
    Rating(likert=7, flags={"satisfies_constraint": True, "hallucination": False}),
    Rating(likert=1, flags=dict.fromkeys(RATING_FLAGS, True)),
    Rating(likert=4),
)
RANKING = Ranking(
    prompt_id="p1",
    prompt="Where is my parcel?",
    responses=RESPONSES,
    ranks=(1, 2, 1),
    ratings=RATINGS,
    labeler="ada",
    group="heldout",
    order_seed=3,
    instruction_mode="helpful-first",
    split="train",
    form_version=2,
    seconds=12.5,
)
EVERY = (PROMPT, DEMONSTRATION, RESPONSES[0], RATINGS[0], RANKING)

RESPONSE_ROW = {"id": "r", "text": "yes"}
RANKING_ROW: dict[str, Any] = {
    "prompt_id": "p",
    "prompt": "?",
    "responses": [RESPONSE_ROW, RESPONSE_ROW],
    "ranks": [1, 2],
}


# ---- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", EVERY, ids=lambda r: type(r).__name__)
def test_a_record_comes_back_the_same(record: Any, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "rows.jsonl"
    write_records(path, [record, record])
    assert path.read_text(encoding="utf-8").count("\n") == 2
    assert read_records(type(record), path) == [record, record]
    assert from_dict(type(record), json.loads(json.dumps(to_dict(record)))) == record


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(texts, texts, st.integers(2, 9).flatmap(lambda k: st.lists(st.integers(1, k), min_size=k, max_size=k)))
def test_any_text_and_any_ranks_come_back_the_same(first: str, second: str, ranks: list[int]) -> None:
    responses = tuple(Response(id=f"{second}{i}", text=first) for i in range(len(ranks)))
    dense = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
    ranking = Ranking(
        prompt_id=first, prompt=f"?{second}", responses=responses, ranks=tuple(dense[rank] for rank in ranks)
    )
    line = json.dumps(to_dict(ranking), ensure_ascii=False)
    assert "\n" not in line
    assert from_dict(Ranking, json.loads(line)) == ranking


def test_defaults_need_not_be_written() -> None:
    assert from_dict(Prompt, {"id": "p", "text": "Hello"}) == Prompt(id="p", text="Hello")
    assert from_dict(Response, RESPONSE_ROW) == Response(id="r", text="yes")
    ranking = from_dict(Ranking, RANKING_ROW)
    assert (ranking.labeler, ranking.ratings, ranking.seconds) == ("unknown", (), 0.0)


def test_whole_numbers_are_floats_too() -> None:
    assert from_dict(Ranking, {**RANKING_ROW, "seconds": 3}).seconds == 3


def test_blank_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"a": 1}\n   \n\t\n{"b": 2}')
    assert list(read_rows(path)) == [(2, {"a": 1}), (5, {"b": 2})]
    path.write_text("")
    assert read_records(Prompt, path) == []


def test_records_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        PROMPT.text = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Response("r", "positional")  # type: ignore[call-arg]


# ---- malformed lines ---------------------------------------------------------------------------------------

NAMED = {
    "prompt": Prompt,
    "demonstration": Demonstration,
    "response": Response,
    "rating": Rating,
    "ranking": Ranking,
}


@pytest.mark.parametrize(
    ("kind", "row", "sentence"),
    [
        ("prompt", [], "field '(row)' is list, expected an object"),
        ("prompt", "text", "field '(row)' is str, expected an object"),
        ("prompt", None, "field '(row)' is NoneType, expected an object"),
        ("prompt", {"id": "p"}, "field 'text' is missing"),
        ("prompt", {"text": "?"}, "field 'id' is missing"),
        (
            "prompt",
            {"id": "p", "text": "?", "txet": 1},
            "field 'txet' is unknown; a Prompt has id, text, user",
        ),
        ("prompt", {"id": 3, "text": "?"}, "field 'id' is int, expected str"),
        ("prompt", {"id": "p", "text": None}, "field 'text' is NoneType, expected str"),
        ("prompt", {"id": "p", "text": " \n"}, "field 'text' is empty"),
        (
            "prompt",
            {"id": "p", "text": "?", "use_case": "QA"},
            "field 'use_case' is 'QA'; expected one of generation,",
        ),
        (
            "prompt",
            {"id": "p", "text": "?", "kind": "odd"},
            "field 'kind' is 'odd'; expected one of plain, few-shot",
        ),
        (
            "prompt",
            {"id": "p", "text": "?", "split": "dev"},
            "field 'split' is 'dev'; expected one of train, valid",
        ),
        ("prompt", {"id": "p", "text": "?", "flags": "pii"}, "field 'flags' is str, expected a list"),
        ("prompt", {"id": "p", "text": "?", "flags": ["a", 3]}, "field 'flags[1]' is int, expected str"),
        ("prompt", {"id": "p", "text": "?", "checks": ["topic"]}, "field 'checks[0]' is str, expected dict"),
        ("demonstration", {"id": "d", "prompt": "?"}, "field 'response' is missing"),
        ("demonstration", {"id": "d", "prompt": "", "response": "!"}, "field 'prompt' is empty"),
        ("demonstration", {"id": "d", "prompt": "?", "response": " "}, "field 'response' is empty"),
        (
            "demonstration",
            {"id": "d", "prompt": "?", "response": "!", "split": "all"},
            "field 'split' is 'all'; expected one of train, valid, test",
        ),
        ("response", {**RESPONSE_ROW, "tokens": 1.5}, "field 'tokens' is float, expected int"),
        ("response", {**RESPONSE_ROW, "tokens": True}, "field 'tokens' is bool, expected int"),
        ("response", {**RESPONSE_ROW, "ended": 1}, "field 'ended' is int, expected bool"),
        ("response", {**RESPONSE_ROW, "sampling": []}, "field 'sampling' is list, expected dict"),
        ("rating", {"likert": 8}, "field 'likert' is 8; expected 1 to 7"),
        ("rating", {"likert": 0}, "field 'likert' is 0; expected 1 to 7"),
        ("rating", {"likert": "7"}, "field 'likert' is str, expected int"),
        ("rating", {"likert": 7, "flags": {"rude": True}}, "field 'flags' has unknown names rude"),
        ("ranking", {**RANKING_ROW, "prompt": " "}, "field 'prompt' is empty"),
        ("ranking", {**RANKING_ROW, "ranks": [1]}, "field 'ranks' has 1 entries for 2 responses"),
        (
            "ranking",
            {**RANKING_ROW, "ranks": [0, 1]},
            "field 'ranks' must be 1 for the best, then 2 and so on without a gap",
        ),
        ("ranking", {**RANKING_ROW, "ranks": [1, True]}, "field 'ranks[1]' is bool, expected int"),
        ("ranking", {**RANKING_ROW, "ranks": [1, 2.0]}, "field 'ranks[1]' is float, expected int"),
        ("ranking", {**RANKING_ROW, "ranks": 1}, "field 'ranks' is int, expected a list"),
        (
            "ranking",
            {**RANKING_ROW, "responses": [RESPONSE_ROW], "ranks": [1]},
            "field 'responses' has 1 entries; a ranking needs 2 to 9",
        ),
        (
            "ranking",
            {**RANKING_ROW, "responses": [RESPONSE_ROW] * 10, "ranks": [1] * 10},
            "field 'responses' has 10 entries; a ranking needs 2 to 9",
        ),
        ("ranking", {**RANKING_ROW, "responses": [RESPONSE_ROW, {"id": "r"}]}, "field 'text' is missing"),
        ("ranking", {**RANKING_ROW, "responses": [RESPONSE_ROW, "yes"]}, "'responses[1]'"),
        (
            "ranking",
            {**RANKING_ROW, "ratings": [{"likert": 3}]},
            "field 'ratings' has 1 entries for 2 responses",
        ),
        ("ranking", {**RANKING_ROW, "ratings": [{"likert": 3}, {"likert": 9}]}, "field 'likert' is 9"),
        ("ranking", {**RANKING_ROW, "seconds": "12"}, "field 'seconds' is str, expected float"),
        ("ranking", {**RANKING_ROW, "split": ""}, "field 'split' is ''; expected one of train, valid, test"),
    ],
)
def test_a_malformed_record_names_file_line_and_field(kind: str, row: Any, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError) as caught:
        read_records(NAMED[kind], path)
    line = str(caught.value)
    assert line.startswith(f"{path}, line 3: field ")
    assert sentence in line
    assert "\n" not in line


def test_a_nested_field_is_named_with_its_place(tmp_path: Path) -> None:
    row = {**RANKING_ROW, "ratings": [{"likert": 3}, {"likert": 9}]}
    with pytest.raises(FieldError, match=r"^field 'ratings\[1\]' field 'likert' is 9; expected 1 to 7$"):
        from_dict(Ranking, row)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"id": "p" "text": "?"}', "not valid JSON (Expecting ',' delimiter at column 12)"),
        (b"id,text", "not valid JSON (Expecting value at column 1)"),
        (b'{"id": "p", "text": "tab\there"}', "not valid JSON (Invalid control character at at column 25)"),
        (b'{"id": "p", "text": "caf\xe9"}', "not UTF-8 text"),
    ],
)
def test_a_line_that_is_not_json(line: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "p", "text": "fine"}\n' + line + b"\n")
    with pytest.raises(UserError) as caught:
        read_records(Prompt, path)
    assert str(caught.value) == f"{path}, line 2: {problem}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl: no such file$"):
        read_records(Prompt, tmp_path / "gone.jsonl")
    with pytest.raises(UserError, match=r"is a folder, expected a JSONL file$"):
        read_records(Prompt, str(tmp_path))


# ---- rankings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ((1, 2), [(0, 1)]),
        ((2, 1), [(1, 0)]),
        ((1, 1), []),
        ((3, 1, 2), [(1, 0), (2, 0), (1, 2)]),
        ((1, 2, 1), [(0, 1), (2, 1)]),
    ],
)
def test_pairs_put_the_better_first_and_drop_ties(ranks: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    ranking = Ranking(prompt_id="p", prompt="?", responses=RESPONSES[: len(ranks)], ranks=ranks)
    assert sorted(ranking.pairs()) == sorted(expected)


def test_k_responses_without_ties_give_every_pair() -> None:
    for k in range(2, 10):
        responses = tuple(Response(id=str(i), text="x") for i in range(k))
        ranking = Ranking(prompt_id="p", prompt="?", responses=responses, ranks=tuple(range(1, k + 1)))
        assert len(ranking.pairs()) == math.comb(k, 2)


# ---- writing -----------------------------------------------------------------------------------------------


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    write_records(path, [PROMPT])
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "half")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_json_refuses_what_json_has_no_word_for(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"win_rate": 0.75, "name": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"win_rate": 0.75, "name": "é"}
    assert path.read_text(encoding="utf-8").endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": math.nan})
    assert json.loads(path.read_text(encoding="utf-8"))["win_rate"] == 0.75


def test_importing_records_costs_no_torch() -> None:
    code = "import sys, tutelage.records; print(*sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---- bounds ----------------------------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


PAIR = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]
RANKED = {"prompt_id": "p", "prompt": "Why?", "responses": PAIR, "ranks": [1, 2]}


def sampled(value: Any) -> dict[str, Any]:
    return {"responses": [PAIR[0] | {"sampling": value}, PAIR[1]]}


@pytest.mark.attack("numbers and nesting that other programs cannot hold")
@pytest.mark.parametrize(
    ("kind", "row", "says"),
    [
        (Ranking, {"ranks": [1, 10**30]}, "'ranks' must be 1 for the best"),
        (Ranking, {"ranks": [1, 2**64 + 5]}, "'ranks' must be 1"),
        (Ranking, {"ranks": [1, 10**400]}, "'ranks' must be 1"),
        (Ranking, {"ranks": [1, 3]}, "'ranks' must be 1"),
        (Ranking, {"ranks": [2, 2]}, "'ranks' must be 1"),
        (Ranking, {"ranks": [0, 1]}, "'ranks' must be 1"),
        (Ranking, {"order_seed": 2**53}, "'order_seed' is a number beyond"),
        (Ranking, {"form_version": -(2**53)}, "'form_version' is a number beyond"),
        (Ranking, {"seconds": 10**400}, "'seconds' is a number beyond"),
        (Ranking, {"seconds": 1e300}, "'seconds' is a number beyond"),
        (Ranking, sampled({"seed": 2**70}), "'sampling.seed' is a number beyond"),
        (Ranking, sampled({"a": [{"b": 2**70}]}), r"'sampling.a\[0\].b' is a number beyond"),
        (Ranking, sampled(nested(99)), "'responses' is nested more than 100"),
        (Ranking, {"responses": [PAIR[0] | {"tokens": 10**30}, PAIR[1]]}, "'tokens' is a number beyond"),
        (Prompt, {"id": "p", "text": "x", "checks": [{"n": 10**400}]}, r"'checks\[0\].n' is a number beyond"),
        (Prompt, {"id": "p", "text": "x", "checks": [nested(100)]}, "'checks' is nested more than 100"),
        (Prompt, {"id": "p", "text": nested(900)}, "'text' is nested more than 100"),
    ],
)
def test_what_other_programs_could_not_hold_is_refused(tmp_path: Path, kind: Any, row: Any, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    whole = RANKED | row if kind is Ranking else row
    path.write_text("\n" + json.dumps(whole) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"rows.jsonl, line 2: .*{says}") as caught:
        read_records(kind, path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(path))


def test_what_is_just_within_the_bounds_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = RANKED | sampled(nested(90) | {"seed": 2**53 - 1}) | {"ranks": [1, 1], "order_seed": -5}
    path.write_text(json.dumps(row), encoding="utf-8")
    [read] = read_records(Ranking, path)
    assert json.loads(json.dumps(to_dict(read)))["responses"] == json.loads(json.dumps(to_dict(read)["responses"]))
    assert read.responses[0].sampling["seed"] == 2**53 - 1
