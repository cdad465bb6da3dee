"""Every way a file can be wrong, one by one: one line that names file, line and field, and no more."""

from __future__ import annotations

import gzip
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutelage.data.sources import load, sniff
from tutelage.records import UserError


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


PREFERENCE = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
LIST_PREFERENCE = {
    "prompt": [user("What is the sky?")],
    "chosen": [assistant("Blue.")],
    "rejected": [assistant("Green.")],
}
PROMPT = {"id": "p1", "text": "Name a fish."}
DEMONSTRATION = {"id": "d1", "prompt": "Fish?", "response": "Tope", "prompt_id": "p1", "split": "test"}
RANKING = {
    "prompt_id": "p1",
    "prompt": "Fish?",
    "responses": [{"id": name, "text": f"fish {name}"} for name in "abc"],
    "ranks": [1, 1, 2],
}
REPLIES = [{"message_id": f"m{i}", "role": "assistant", "text": f"reply {i}", "rank": i} for i in range(3)]
TREE = {
    "message_tree_id": "t",
    "prompt": {"message_id": "m", "role": "prompter", "text": "Hello?", "replies": REPLIES},
}
FEEDBACK = {
    "question": "Who?",
    "passages": [["Title", "One.", "Two."]],
    **{f"prediction {i}": f"answer {i}" for i in range(1, 5)},
    "preference": [1, 0, 1, 2, 0, 1],
}
DOLLY = {"instruction": "Sum up.", "context": "A text.", "response": "Text."}


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def changed_tree(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(json.dumps(TREE))
    change(tree["prompt"])
    return tree


MALFORMED: list[tuple[Any, Any, str]] = [
    # a good first row, a bad second one, what the error says of line 2
    (PREFERENCE, without(PREFERENCE, "prompt"), "field 'prompt' is missing"),
    (PREFERENCE, without(PREFERENCE, "chosen"), "field 'chosen' is missing"),
    (PREFERENCE, {**PREFERENCE, "rejected": None}, "field 'rejected' is null, expected text"),
    (PREFERENCE, {**PREFERENCE, "prompt": " "}, "field 'prompt' is empty"),
    (PREFERENCE, {**PREFERENCE, "prompt": 3}, "field 'prompt' is a number, expected text"),
    (
        PREFERENCE,
        {**PREFERENCE, "split": "dev2"},
        "field 'split' is 'dev2'; expected one of train, valid, test",
    ),
    (PREFERENCE, {**PREFERENCE, "labeler": ["a"]}, "field 'labeler' is a list, expected text"),
    (
        {**PREFERENCE, "split": "train"},
        {**PREFERENCE, "split": "test"},
        "field 'split' is 'test', but the same",
    ),
    (PREFERENCE, ["x"], r"field '\(row\)' is a list, unlike the rows before"),
    (PREFERENCE, "x", r"field '\(row\)' is text, unlike the rows before"),
    ("x", PREFERENCE, r"field '\(row\)' is an object, unlike the rows before"),
    ("x", "", "field 'text' is empty"),
    (
        LIST_PREFERENCE,
        {**LIST_PREFERENCE, "prompt": [assistant("x")]},
        "field 'prompt' ends with an assistant",
    ),
    (LIST_PREFERENCE, {**LIST_PREFERENCE, "prompt": []}, "field 'prompt' is empty"),
    (
        LIST_PREFERENCE,
        {**LIST_PREFERENCE, "chosen": ["x"]},
        r"field 'chosen\[0\]' is text, expected a message",
    ),
    (
        LIST_PREFERENCE,
        {**LIST_PREFERENCE, "chosen": [{"role": "robot", "content": "x"}]},
        r"field 'chosen\[0\].role' is 'robot'; expected one of system, user, assistant",
    ),
    (
        LIST_PREFERENCE,
        {**LIST_PREFERENCE, "chosen": [{"role": "user"}]},
        r"field 'chosen\[0\].content' is missing",
    ),
    (
        LIST_PREFERENCE,
        {**LIST_PREFERENCE, "chosen": [user("x")]},
        "field 'chosen' does not go on with an assistant",
    ),
    (
        {"prompt": "x", "completion": "y"},
        {"prompt": [user("x")], "completion": [assistant("")]},
        "field 'completion' is empty",
    ),
    (
        {"chosen": "a b", "rejected": "a c"},
        {"chosen": "alpha", "rejected": "beta"},
        "field 'rejected' shares no beginning with 'chosen'",
    ),
    (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
        {"chosen": [user("a"), assistant("b")], "rejected": [user("z"), assistant("c")]},
        "field 'rejected' shares no turns with 'chosen'",
    ),
    ({"prompt": "x", "completion": "y"}, {"prompt": "x", "completion": ""}, "field 'completion' is empty"),
    ({"prompt": "x", "response": "y"}, {"prompt": "x"}, "field 'response' is missing"),
    (
        {"messages": [user("x")]},
        {"messages": [assistant("x")]},
        "field 'messages' begins with the only assistant",
    ),
    ({"messages": [user("x")]}, {"messages": "x"}, "field 'messages' is text, expected a list of messages"),
    ({"messages": [user("x")]}, {}, "field 'messages' is missing"),
    (
        {"messages": [user("x")]},
        {"messages": [user("x"), assistant(" ")]},
        r"field 'messages\[1\].content' is empty",
    ),
    (
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        {"chosen": "a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        "field 'chosen' does not begin with 'Human:'",
    ),
    (TREE, {"message_tree_id": "t"}, "field 'prompt' is null, expected the root message"),
    (TREE, changed_tree(lambda m: m.pop("text")), "field 'prompt.text' is missing"),
    (TREE, changed_tree(lambda m: m.update(role="cook")), "field 'prompt.role' is 'cook'; expected prompter"),
    (
        TREE,
        changed_tree(lambda m: m.update(replies=3)),
        "field 'prompt.replies' is a number, expected a list",
    ),
    (
        TREE,
        changed_tree(lambda m: m.update(replies=[3])),
        r"field 'prompt.replies\[0\]' is a number, expected a message",
    ),
    (
        TREE,
        changed_tree(lambda m: m["replies"][1].update(rank="first")),
        r"field 'prompt.replies\[1\].rank' is text, expected a whole number",
    ),
    (
        TREE,
        changed_tree(lambda m: m["replies"][2].update(text="")),
        r"field 'prompt.replies\[2\].text' is empty",
    ),
    (FEEDBACK, {**FEEDBACK, "preference": [1, 2]}, "field 'preference' expected six values"),
    (FEEDBACK, {**FEEDBACK, "preference": [1, 2, 0, 0, 0, 3]}, "field 'preference' expected six values"),
    (FEEDBACK, {**FEEDBACK, "preference": [1, 2, 0, 0, 0, True]}, "field 'preference' expected six values"),
    (FEEDBACK, without(FEEDBACK, "prediction 3"), "field 'prediction 3' is missing"),
    (FEEDBACK, {**FEEDBACK, "passages": "x"}, "field 'passages' is text, expected a list"),
    (FEEDBACK, {**FEEDBACK, "passages": [[]]}, r"field 'passages\[0\]' expected a list of texts"),
    (DOLLY, {**DOLLY, "response": ""}, "field 'response' is empty"),
    (DOLLY, {**DOLLY, "context": 4}, "field 'context' is a number, expected text"),
    (DOLLY, without(DOLLY, "instruction"), "field 'instruction' is missing"),
    (PROMPT, PROMPT, "field 'id' 'p1' is used twice"),
    (PROMPT, {**PROMPT, "id": "p2", "text": ""}, "field 'text' is empty"),
    (PROMPT, {**PROMPT, "id": "p2", "age": 3}, "field 'age' is unknown"),
    (PROMPT, {"text": "x"}, "field 'id' is missing"),
    (DEMONSTRATION, DEMONSTRATION, "field 'id' 'd1' is used twice"),
    (
        DEMONSTRATION,
        {**DEMONSTRATION, "id": "d2", "prompt": "Other"},
        "field 'prompt_id' 'p1' stands for two different prompts",
    ),
    (
        DEMONSTRATION,
        {**DEMONSTRATION, "id": "d2", "split": "train"},
        "field 'split' is 'train', but the same prompt was in 'test' before",
    ),
    (
        RANKING,
        {**RANKING, "ranks": [1, 2]},
        "field 'ranks' has 2 entries for 3 responses",
    ),
    (RANKING, {**RANKING, "ranks": [1, 2, "3"]}, r"field 'ranks\[2\]' is str"),
]


@pytest.mark.attack("malformed rows")
@pytest.mark.parametrize(("good", "bad", "message"), MALFORMED)
def test_a_malformed_row_is_one_line_with_file_line_and_field(
    good: Any, bad: Any, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "data.jsonl", [good])
    load(path)
    with pytest.raises(UserError, match=rf"data\.jsonl, line 2: {message}") as caught:
        load(write(path, [good, bad]))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


FIRST_ROWS: list[tuple[Any, str]] = [
    ({"text": "plain"}, "has fields text: no known shape; name the columns 'prompt'"),
    ({"a": 1, "b": 2}, "has fields a, b: no known shape"),
    ({}, "has fields none: no known shape"),
    (3, "is a number, expected an object"),
]


@pytest.mark.parametrize(("row", "message"), FIRST_ROWS)
def test_an_unknown_first_row(row: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", [row])
    for read in (load, sniff):
        with pytest.raises(UserError, match=rf"data\.jsonl, line 1: .*{message}"):
            read(path)


RAW: list[tuple[str, bytes, str]] = [
    (
        "a.jsonl",
        b'{"prompt": "x"}\n{"prompt": \n',
        r"line 2: not valid JSON \(Expecting value at line 2, column 1\)",
    ),
    (
        "a.jsonl",
        b'{"prompt": "x"}\n\n{"prompt" "y"}\n',
        r"line 3: not valid JSON \(Expecting ':' delimiter at column 11",
    ),
    ("a.jsonl", b'{"prompt": "x"}\n{"prompt": "\xff"}\n', "line 2: not UTF-8 text"),
    ("a.jsonl", b'{"prompt": "x"}\n{"prompt": "\\uD83D"}\n', "line 2: holds half a character"),
    ("a.jsonl", b'{"prompt": "x"}\n{"prompt": "x", "a": {"t": NaN}}\n', "line 2: holds NaN or a number without end"),
    ("a.jsonl", b'{"prompt": "x", "extra": -1e999}\n', "line 1: holds NaN or a number without end"),
    ("a.jsonl", b'{"prompt": ' + b"[" * 100_000, "line 1: JSON nested too deep"),
    ("a.jsonl", b'{"prompt": "x", "seconds": ' + b"9" * 5000 + b"}", "line 1: holds a number that is too long"),
    ("a.csv", b"id,text,flags\np,x," + b"9" * 5000 + b"\n", r"line 2: field 'flags' holds '9{40}', expected JSON"),
    ("a.csv", b"id,text,flags\np,x," + b"[" * 100_000 + b"\n", "line 2: field 'flags' holds .*, expected JSON"),
    ("a.jsonl", b"", "has no rows"),
    ("a.jsonl", b" \n\n", "has no rows"),
    ("a.json", b"[]", "has no rows"),
    ("a.json", b'[{"prompt": "x"}, {"prompt": ""}]', "item 2: field 'prompt' is empty"),
    ("a.json", b'[\n{"prompt": "x"}\n', "not valid JSON .* at line 3, column 1"),
    ("a.jsonl.gz", gzip.compress(b'{"prompt": "x"}\n', mtime=0)[:-9], "damaged gzip file"),
    ("a.jsonl.gz", b"\x1f\x8bnonsense and more nonsense", "damaged gzip file"),
    ("a.txt", b"hello", "unknown kind of file; expected .jsonl, .json, .csv, .tsv or .parquet"),
    ("a.csv", b"prompt,response\nx,y\nz\n", "line 3: has 1 cells, the header has 2"),
    ("a.csv", b'prompt,response\n"x\ny",z\nz,a,b\n', "line 4: has 3 cells, the header has 2"),
    ("a.csv", b"prompt,prompt\nx,y\n", "line 1: the header has column 'prompt' twice"),
    ("a.csv", b"prompt,\nx,y\n", "line 1: the header has a column without a name"),
    ("a.csv", b'prompt,response\nx,"y\n', "not valid CSV"),
    ("a.csv", b"prompt,response\nx,\xff\n", "line 2: not UTF-8 text"),
    ("a.csv", b"prompt,response\n", "has no rows"),
    ("a.csv", b"prompt,response\nx,y\n,y\n", "line 3: field 'prompt' is empty"),
    ("a.csv", b"id,text,flags\np1,x,[]\np2,y,none\n", "line 3: field 'flags' holds 'none', expected JSON"),
    ("a.csv", b"id,text,user\np1,x,\np2,,u\n", "line 3: field 'text' is missing"),
]


@pytest.mark.attack("damaged and mislabelled files")
@pytest.mark.parametrize(("name", "data", "message"), RAW)
def test_a_damaged_file_is_one_line(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        sniff(tmp_path)


def test_parquet_with_nulls_and_a_broken_one(tmp_path: Path) -> None:
    rows = [
        {"prompt": "x", "chosen": "a", "rejected": "b", "labeler": None},
        {"prompt": "y", "chosen": None, "rejected": "b"},
    ]
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pylist(rows)
    importlib.import_module("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    assert sniff(tmp_path / "a.parquet") == "TRL preference"
    with pytest.raises(UserError, match="row 2: field 'chosen' is missing"):
        load(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        load(tmp_path / "b.parquet")
