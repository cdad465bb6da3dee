"""No answer and no judgement of a file is lost in silence; harmless columns pass; what is ignored is ignored."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tutelage.data.sources import load
from tutelage.records import UserError

PROMPT = {"prompt": "Name a fish."}
DEMONSTRATION = {"prompt": "Name a fish.", "response": "A tope."}
PAIR = {"prompt": "Name a fish.", "chosen": "A tope.", "rejected": "An ox."}
TALK = {
    "messages": [{"role": "user", "content": "Name a fish."}, {"role": "assistant", "content": "A tope."}],
}
DOLLY = {"instruction": "Name a fish.", "output": "A tope."}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


LOST: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # HelpSteer2 and its preferences, Nectar, PKU-SafeRLHF, Label Studio, Argilla
    (DEMONSTRATION, {"helpfulness": 0, "correctness": 0, "coherence": 4}),
    (PROMPT, {"response_1": "A tope.", "response_2": "An ox.", "preference_strength": -2}),
    (PROMPT, {"answers": [{"answer": "A tope.", "rank": 1.0}, {"answer": "An ox.", "rank": 2.0}]}),
    (PROMPT, {"response_0": "A tope.", "response_1": "An ox.", "is_response_0_safe": True, "better_response_id": 0}),
    (PROMPT, {"text1": "A tope.", "text2": "An ox."}),
    (PROMPT, {"response-1": "A tope.", "response-2": "An ox.", "preference.responses": ["1"]}),
    (PROMPT, {"responses": {"ann": {"rating": {"value": 1}}}}),
    # judged demonstrations
    (DEMONSTRATION, {"label": False}),
    (DEMONSTRATION, {"score": -1}),
    (DEMONSTRATION, {"rank": 3}),
    (DEMONSTRATION, {"Rating": "1"}),
    (DEMONSTRATION, {"isSafe": False}),
    (DEMONSTRATION, {"up_votes": 0}),
    (DEMONSTRATION, {"human_likert": 1}),
    (DEMONSTRATION, {"state": "rejected"}),
    (DEMONSTRATION, {"review": {"stars": 1}}),
    (DEMONSTRATION, {"annotations": [{"overall": 1}]}),
    (TALK, {"thumbs": "down"}),
    (DOLLY, {"quality": "low"}),
    # a second answer, under many names
    (DEMONSTRATION, {"output_2": "An ox."}),
    (DEMONSTRATION, {"completion2": "An ox."}),
    (DEMONSTRATION, {"otherAnswer": "An ox."}),
    (DEMONSTRATION, {"rejected": "An ox."}),
    (DOLLY, {"history": [["Hello", "Hi."]]}),
    (PROMPT, {"answer": "A tope."}),
    (PROMPT, {"answer": 42}),
    (PROMPT, {"A": "A tope.", "B": "An ox."}),
    (PROMPT, {"left": "A tope.", "right": "An ox."}),
    (PROMPT, {"outputs": [{"text": "A tope."}, {"text": "An ox."}]}),
    (PROMPT, {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}),
    # beside a comparison: a third answer or another verdict
    (PAIR, {"rejected_2": "An elm."}),
    (PAIR, {"response_3": "An elm."}),
    (PAIR, {"winner": "rejected"}),
    (PAIR, {"label": 0}),
]


@pytest.mark.parametrize(("row", "more"), LOST, ids=lambda value: "-".join(value))
def test_an_answer_or_a_judgement_that_is_left_over_stops_the_file(
    row: dict[str, Any], more: dict[str, Any], tmp_path: Path
) -> None:
    names = list(more)
    path = write(tmp_path / "a.jsonl", row, row | {"id": 2}, row | more)
    with pytest.raises(UserError, match=r"a\.jsonl, line 3: field .* would be lost; .* --ignore ") as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"--ignore {' '.join(names)} (in the studio" in message
    assert len(load(path, ignore=names).prompts) == 1


HARMLESS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (row, {name: value})
    for row in (PROMPT, DEMONSTRATION, PAIR, TALK, DOLLY)
    for name, value in {
        "id": "7",
        "prompt_id": "x",
        "source": "web",
        "category": "qa",
        "language": "en",
        "timestamp": "2024-03-29T05:39:54Z",
        "tags": ["a", "b"],
        "tag1": "a",
        "meta": {"lang": "en", "tokens": [3, 4]},
        "model": "m",
        "length": 12,
        "num_responses": 4,
        "response_length": 12,
        "completion_model": "m",
        "annotation_id": 3,
        "score": None,
        "label": "",
        "answers": [],
    }.items()
] + [
    (PROMPT | {"a": "one"}, {"source_a": "x", "source_b": "y"}),
    (DEMONSTRATION, {"output": "A tope."}),
    (PAIR, {"messages": [{"role": "user", "content": "Name a fish."}, {"role": "assistant", "content": "A tope."}]}),
    (PAIR, {"score_chosen": 8.5, "score_rejected": 2.0, "margin": 6.5, "chosen_model": "m"}),
    (PAIR, {"rating": [5, 1]}),
]


@pytest.mark.parametrize(("row", "more"), HARMLESS, ids=lambda value: "-".join(value))
def test_harmless_columns_pass(row: dict[str, Any], more: dict[str, Any], tmp_path: Path) -> None:
    found = load(write(tmp_path / "a.jsonl", row | more))
    assert len(found.prompts) == 1
    assert (len(found.demonstrations), len(found.rankings)) == (
        int("response" in row or "messages" in row or "output" in row),
        int("chosen" in row),
    )


def test_an_ignored_message_field_and_a_column_that_is_not_there(tmp_path: Path) -> None:
    user, assistant = TALK["messages"]
    path = write(tmp_path / "a.jsonl", {"messages": [user, assistant | {"weight": 0}]})
    with pytest.raises(UserError, match=r"line 1: field 'messages\[1\]\.weight' judges .* --ignore messages\.weight"):
        load(path)
    assert len(load(path, ignore=["messages.weight"]).demonstrations) == 1
    with pytest.raises(UserError, match=r"a\.jsonl: no row has a column 'scroe' to ignore"):
        load(write(tmp_path / "a.jsonl", DEMONSTRATION | {"score": 1}), ignore=["score", "scroe"])


def test_cells_of_a_table_are_judged_as_well(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "pw", "text1", "text2"], ["Fish?", "left", "A tope.", "An ox."]])
    with pytest.raises(UserError, match=r"a\.csv, line 2: field 'text1' .*\(as do 'text2'\)"):
        load(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["question", "instruction", "query", "input"])
def test_a_column_that_holds_the_prompt_is_it(name: str, tmp_path: Path) -> None:
    row = {name: "Who wrote Emma?", "chosen": "Jane Austen did.", "rejected": "Jane Eyre did."}
    (ranking,) = load(write(tmp_path / "a.jsonl", row)).rankings
    assert (ranking.prompt, ranking.responses[0].text) == ("Who wrote Emma?", "Jane Austen did.")
    (ranking,) = load(write(tmp_path / "a.jsonl", row | {"system": "Be brief."})).rankings
    assert ranking.prompt == "System: Be brief.\n\nHuman: Who wrote Emma?"


def test_an_input_stands_below_its_instruction_beside_comparisons(tmp_path: Path) -> None:
    row = {"instruction": "Sum up.", "input": "A text.", "chosen": "Text.", "rejected": "No."}
    assert load(write(tmp_path / "a.jsonl", row)).rankings[0].prompt == "Sum up.\n\nA text."
    row = {"instruction": "Sum up.", "question": "What?", "chosen": "Text.", "rejected": "No."}
    with pytest.raises(UserError, match=r"line 1: field 'question' may be part of the prompt .* --ignore question"):
        load(write(tmp_path / "a.jsonl", row))


@pytest.mark.parametrize("name", ["context", "text", "system", "Question", "user_request", "conversations"])
def test_no_prompt_is_made_up_where_a_column_may_hold_it(name: str, tmp_path: Path) -> None:
    row = {name: "Who wrote Emma?", "chosen": "Jane Austen did.", "rejected": "Jane Eyre did."}
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(UserError, match=rf"line 1: field '{name}' may hold the prompt; rename it .* --ignore {name}"):
        load(path)
    assert load(path, ignore=[name]).prompts[0].text == "Jane"


@pytest.mark.parametrize("marker", ["<|endoftext|>", "</s>", " <|im_end|>\n", "<|eot_id|></s>", "<end_of_turn>"])
def test_an_end_marker_at_the_end_of_a_response_is_taken_off_and_told(marker: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"Name fish {i}.", "completion": f"A tope.{marker}"} for i in range(2)]
    found = load(write(tmp_path / "a.jsonl", *rows, {"prompt": "More", "completion": f"x {marker} y"}))
    assert [d.response for d in found.demonstrations[:2]] == ["A tope.", "A tope."]
    assert found.demonstrations[2].response.endswith(" y")
    assert found.notes == ("2 rows: an end marker at the end of a response: taken off, training adds the model's own",)
    found = load(write(tmp_path / "b.jsonl", PAIR | {"chosen": f"A tope.{marker}"}))
    assert [r.text for r in found.rankings[0].responses] == ["A tope.", "An ox."]
    own = {"id": "d1", "prompt": "Fish?", "response": f"A tope.{marker}"}
    assert load(write(tmp_path / "c.jsonl", own)).demonstrations[0].response == "A tope."
    alone = load(write(tmp_path / "d.jsonl", {"prompt": "Fish?", "completion": marker}))
    assert (len(alone.prompts), len(alone.demonstrations)) == (1, 0)


def test_struck_through_text_keeps_its_end(tmp_path: Path) -> None:
    row = {"prompt": "Strike it.", "completion": "<s>gone</s>"}
    assert load(write(tmp_path / "a.jsonl", row)).demonstrations[0].response == "<s>gone</s>"
