"""What comes in: shapes, the collection rules, whose answers they become, and files that are wrong."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pytest
import sqlalchemy as sa
from made_studio import Made, Visit

from tutelage.records import Demonstration, Prompt, UserError, write_records
from tutelage.studio import accounts, check, intake
from tutelage.studio.accounts import Account
from tutelage.studio.project import Project, init
from tutelage.studio.schema import accounts as account_table
from tutelage.studio.schema import answers, batches, imports, items, prompts, responses
from tutelage.studio.store import Store


@pytest.fixture
def admin(made: Made) -> Account:
    return made.account("admin", name="Ada")


def jsonl(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def count(store: Store, table: sa.Table) -> int:
    with store.read() as tx:
        return int(tx.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def texts(store: Store) -> list[str]:
    with store.read() as tx:
        return list(tx.execute(sa.select(prompts.c.text).order_by(prompts.c.text)).scalars())


HH = "\n\nHuman: What is a quay?\n\nAssistant: {}"
TREE = {
    "message_tree_id": "t1",
    "prompt": {
        "message_id": "t1",
        "text": "What is a quay?",
        "role": "prompter",
        "replies": [
            {"message_id": "a", "text": "A place to land.", "role": "assistant", "rank": 0, "replies": []},
            {"message_id": "b", "text": "A bird.", "role": "assistant", "rank": 1, "replies": []},
        ],
    },
}


@pytest.mark.parametrize(
    ("name", "content", "kind", "found"),
    [
        ("a.jsonl", jsonl({"prompt": "Say hello"}), None, ["Say hello"]),
        ("a.csv", b"prompt,user\nSay hello,u1\nSay goodbye,u2\n", None, ["Say goodbye", "Say hello"]),
        ("a.jsonl.gz", gzip.compress(jsonl({"prompt": "Say hello"}), mtime=0), None, ["Say hello"]),
        ("a.jsonl", jsonl({"prompt": "Say hello", "completion": "Hello."}), "demonstrate", ["Say hello"]),
        ("a.jsonl", jsonl({"prompt": "Say hello", "chosen": "Hello.", "rejected": "No."}), "compare", ["Say hello"]),
        (
            "hh.jsonl",
            jsonl({"chosen": HH.format("A place to land."), "rejected": HH.format("A bird.")}),
            "compare",
            ["What is a quay?"],
        ),
        ("oa.jsonl", jsonl(TREE), "compare", ["What is a quay?"]),
        (
            "dolly.jsonl",
            jsonl({"instruction": "Say hello", "context": "", "response": "Hello.", "category": "open_qa"}),
            "demonstrate",
            ["Say hello"],
        ),
    ],
)
def test_known_shapes_come_in(
    store: Store, admin: Account, name: str, content: bytes, kind: str | None, found: list[str]
) -> None:
    done = intake.bring_in(store, admin, name, content)
    assert done.kept == len(found)
    assert done.dropped == []
    assert texts(store) == found
    with store.read() as tx:
        assert list(tx.execute(sa.select(batches.c.kind)).scalars()) == ([kind] if kind else [])
    assert check.check(store) == []


def test_parquet_comes_in(store: Store, admin: Account) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    parquet.write_table(arrow.table({"prompt": ["Say hello", "Say goodbye"]}), file)
    assert intake.bring_in(store, admin, "a.parquet", file.getvalue()).kept == 2


def test_what_is_dropped_is_kept_with_its_reason(store: Store, admin: Account) -> None:
    content = jsonl(
        {"prompt": "Write a haiku about rain", "split": "train"},
        {"prompt": "write a  haiku about RAIN", "split": "train"},
        {"prompt": "Answer ann.smith@example.com, she waits", "split": "train"},
        {"prompt": "word " * 1_000_000, "split": "train"},
    )
    done = intake.bring_in(store, admin, "mine.jsonl", content)
    assert done.kept == 1
    assert [row["reason"].partition(":")[0] for row in done.dropped] == ["duplicate", "personal data", "too long"]
    assert all(len(row["text"]) <= intake.SHOWN for row in done.dropped)
    with store.read() as tx:
        row = tx.execute(sa.select(imports)).one()
    assert (row.file, row.kept, row.account_id) == ("mine.jsonl", 1, admin.id)
    assert row.dropped == done.dropped
    assert any("estimates" in note for note in row.notes)
    assert "ann.smith" not in str(row)  # what is dropped for its personal data is not kept elsewhere


def test_one_user_gives_at_most_two_hundred(store: Store, admin: Account) -> None:
    rows = [{"prompt": f"Sentence {n} about the harbour", "user": "u1"} for n in range(205)]
    done = intake.bring_in(store, admin, "mine.jsonl", jsonl(*rows))
    assert (done.kept, len(done.dropped)) == (200, 5)
    with store.read() as tx:
        assert len(set(tx.execute(sa.select(prompts.c.split)).scalars())) == 1


def test_the_same_file_twice_changes_nothing(store: Store, admin: Account) -> None:
    content = jsonl(
        {"prompt": "Say hello", "response": "Hello.", "labeler": "kim"},
        {"prompt": "Say goodbye", "response": "Goodbye.", "labeler": "kim"},
    )
    intake.bring_in(store, admin, "mine.jsonl", content)
    before = [count(store, table) for table in (prompts, items, answers, account_table)]
    done = intake.bring_in(store, admin, "mine.jsonl", content)
    assert done.kept == 0
    assert [count(store, table) for table in (prompts, items, answers, account_table)] == before
    assert any("here already" in note for note in done.notes)


def test_foreign_labelers_are_closed_accounts_of_their_own(store: Store, admin: Account, made: Made) -> None:
    here = made.account("labeler", name="kim")
    content = jsonl(
        {"prompt": "Say hello", "response": "Hello.", "labeler": "kim"},
        {"prompt": "Say hello", "response": "Hi.", "labeler": "lee"},
    )
    intake.bring_in(store, admin, "mine.jsonl", content)
    with store.read() as tx:
        rows = {row.name: row for row in tx.execute(sa.select(account_table))}
        authors = set(tx.execute(sa.select(answers.c.account_id)).scalars())
    assert {"kim (imported)", "lee (imported)"} <= set(rows)
    assert here.id not in authors
    assert admin.id not in authors
    assert not rows["kim (imported)"].active
    assert accounts.login(store, "kim (imported)", "") is None
    with store.read() as tx:  # both labelers stand at the one item
        assert [(row.quota, row.done) for row in tx.execute(sa.select(items))] == [(2, 2)]


@pytest.mark.attack("training on held-out labelers' rankings by importing them")
def test_rankings_of_held_out_labelers_never_train(store: Store, admin: Account) -> None:
    row = {
        "prompt_id": "p1",
        "prompt": "Say hello",
        "responses": [{"id": "a", "text": "Hello."}, {"id": "b", "text": "No."}, {"id": "c", "text": "Hm."}],
        "ranks": [1, 3, 2],
        "labeler": "kim",
        "split": "train",
    }
    turned = row | {
        "responses": [row["responses"][i] for i in (2, 0, 1)],  # type: ignore[index]
        "ranks": [2, 1, 3],
        "labeler": "lee",
    }
    held_out = row | {"group": "heldout", "labeler": "max"}
    intake.bring_in(store, admin, "mine.jsonl", jsonl(row, turned, held_out))
    with store.read() as tx:
        kinds = dict(
            tx.execute(sa.select(batches.c.kind, sa.func.sum(items.c.done)).join(items).group_by("kind")).all()
        )
        bodies = tx.execute(sa.select(answers.c.body)).scalars().all()
        roles = set(tx.execute(sa.select(account_table.c.role).where(~account_table.c.active)).scalars())
    assert kinds == {"compare": 2, "judge": 1}
    assert [body["ranks"] for body in bodies] == [[1, 3, 2]] * 3  # in the item's order, whatever the file's was
    assert roles == {"labeler", "heldout"}


def test_one_id_for_two_texts_gets_two_ids(store: Store, admin: Account) -> None:
    for text in ("Hello.", "Good day."):
        row = {
            "prompt_id": "p1",
            "prompt": "Say hello",
            "responses": [{"id": "p1/policy/0", "text": text}, {"id": "p1/sft/0", "text": "No."}],
            "ranks": [1, 2],
            "split": "train",
        }
        intake.bring_in(store, admin, "mine.jsonl", jsonl(row))
    with store.read() as tx:
        found = set(tx.execute(sa.select(responses.c.text)).scalars())
    assert found == {"Hello.", "Good day.", "No."}
    assert count(store, items) == 2


@pytest.mark.attack("malformed files to import")
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"prompt": "ok"}\n{"prompt": 3}\n', "a.jsonl, line 2: field 'prompt' is a number"),
        ("a.jsonl", b'{"prompt": "a\\u0000b"}\n', "a.jsonl, line 1: field 'prompt' holds a NUL"),
        (
            "a.jsonl",
            b'{"messages": [{"role": "user", "content": "a\\u0000"}]}',
            "field 'messages[0].content' holds a NUL",
        ),
        (
            "a.jsonl",
            b'{"prompt": "x", "more": ' + b"[" * 90 + b'"\\u0000"' + b"]" * 90 + b"}",
            f"field 'more{'[0]' * 90}' holds a NUL",
        ),
        ("a.jsonl", b"{nonsense\n", "a.jsonl, line 1: not valid JSON"),
        ("a.jsonl", b"", "a.jsonl: has no rows"),
        ("a.jsonl", b'{"prompt": "\xff"}', "not UTF-8"),
        ("a.jsonl", b'{"prompt": "\\ud800"}', "half a character"),
        ("a.csv", b"prompt,user\nonly one cell\n", "a.csv, line 2: has 1 cells"),
        ("a.xlsx", b"PK", "unknown kind of file"),
        ("a.parquet", b"PAR1nothing", "not a readable Parquet file"),
        (
            "a.jsonl",
            b'{"id": "x", "text": "one", "split": "train"}\n{"id": "x", "text": "two", "split": "train"}',
            "used twice",
        ),
        ("a.jsonl", jsonl({"id": "x" * 129, "text": "one"}), "at most 128"),
        ("a.jsonl", jsonl({"id": "x\ny", "text": "one"}), "an id is one line of text"),
        ("../../etc/a.jsonl", b"{", "a.jsonl, line 1: not valid JSON"),
    ],
)
def test_a_file_that_is_wrong_is_named_in_one_line(
    store: Store, admin: Account, name: str, content: bytes, says: str
) -> None:
    with pytest.raises(UserError) as error:
        intake.bring_in(store, admin, name, content)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert "tutelage-" not in str(error.value)  # no temporary folder
    assert count(store, prompts) == count(store, imports) == 0


@pytest.mark.attack("names of files that lead elsewhere or are too long for the disk")
@pytest.mark.parametrize("name", ["..", ".", "a/..", "", "\N{FOX FACE}" * 200 + ".jsonl", "..\\..\\a.jsonl"])
def test_any_name_of_a_file_will_do(store: Store, admin: Account, name: str) -> None:
    assert intake.bring_in(store, admin, name, jsonl({"id": "x", "text": "one"})).kept == 1


@pytest.mark.attack("replacing a prompt's text by importing its id again")
def test_a_known_id_with_another_text_is_refused(store: Store, admin: Account) -> None:
    intake.bring_in(store, admin, "a.jsonl", jsonl({"id": "x", "text": "one"}))
    with pytest.raises(UserError, match=r"b.jsonl: prompt id 'x' is used for two different texts"):
        intake.bring_in(store, admin, "b.jsonl", jsonl({"id": "x", "text": "two"}))


def test_a_rows_own_split_stays_and_what_goes_with_prompts_is_told(store: Store, admin: Account) -> None:
    pair = {"chosen": "A tope.", "rejected": "An ox."}
    content = jsonl(
        *({"prompt": f"Name fish {s}.", "split": s, **pair} for s in ("val", "TEST", "train")),
        {"prompt": "name FISH train.", "split": "train", **pair},
    )
    done = intake.bring_in(store, admin, "mine.jsonl", content)
    with store.read() as tx:
        found = dict(tx.execute(sa.select(prompts.c.text, prompts.c.split)).all())
    assert found == {"Name fish val.": "valid", "Name fish TEST.": "test", "Name fish train.": "train"}
    assert "1 ranking dropped with their prompts: 1 duplicate" in done.notes
    again = intake.bring_in(store, admin, "mine.jsonl", content)
    assert "3 here already" in again.notes
    assert "3 rankings were here already, or twice in the file: left out" in again.notes
    with pytest.raises(UserError, match=r"mine.jsonl: prompt .* is marked 'test', but it is in 'train' already"):
        intake.bring_in(store, admin, "mine.jsonl", jsonl({"prompt": "Name fish train.", "split": "test"}))


# ---- the folder ------------------------------------------------------------------------------------------------


def test_the_folder_fills_an_empty_database_once(store: Store, project: Project) -> None:
    rows = [Prompt(id=f"p{n}", text=f"Write line {n}", user="one", split="train") for n in range(3)]
    write_records(project.folder / "prompts.jsonl", rows)
    write_records(
        project.folder / "demonstrations.jsonl",
        [Demonstration(id="d1", prompt_id="p0", prompt="Write line 0", response="Line 0.", labeler="kim")],
    )
    done = intake.first_fill(store, project)
    assert [one.kept for one in done] == [3, 0]
    assert (count(store, prompts), count(store, answers)) == (3, 1)
    assert intake.first_fill(store, project) == []
    assert check.check(store) == []


def test_an_embedded_workflow_comes_in_whole(store: Store, tmp_path: Any) -> None:
    project = init(tmp_path / "support", source="support")
    intake.first_fill(store, project)
    with store.read() as tx:
        splits = set(tx.execute(sa.select(prompts.c.split)).scalars())
    assert splits == {"train", "valid", "test"}
    assert count(store, answers) > 100


# ---- by hand ---------------------------------------------------------------------------------------------------


def test_a_prompt_by_hand(store: Store, admin: Account) -> None:
    made = intake.write_prompt(
        store, admin, " Say hello ", use_case="chat", kind="user-based", flags=["ambiguous"], user="u1"
    )
    with store.read() as tx:
        row = tx.execute(sa.select(prompts).where(prompts.c.id == made)).one()
    assert (row.text, row.use_case, row.kind, row.flags, row.writer) == (
        "Say hello",
        "chat",
        "user-based",
        ["ambiguous"],
        "u1",
    )
    for wrong, says in (
        ({"text": "say HELLO"}, "duplicate"),
        ({"text": "  "}, "is empty"),
        ({"text": "a\0b"}, "NUL"),
        ({"text": "Other", "use_case": "poetry"}, "use_case"),
        ({"text": "Other", "flags": ["nice"]}, "no prompt flag"),
        ({"text": "word " * 5000}, "too long"),
        ({"text": "Other", "user": "u" * 200}, "at most 128"),
    ):
        with pytest.raises(UserError, match=says):
            intake.write_prompt(store, admin, **wrong)  # type: ignore[arg-type]


def test_a_few_shot_prompt_gives_a_row_for_each_example(store: Store, admin: Account) -> None:
    shots = [("good", "positive"), ("bad", "negative"), ("fine", "positive"), ("", "")]
    made = intake.write_few_shot(store, admin, "Name the sentiment.", shots, use_case="classification")
    assert len(made) == 3
    with store.read() as tx:
        rows = {row.id: row for row in tx.execute(sa.select(prompts))}
        given = tx.execute(sa.select(items.c.prompt_id, answers.c.body, answers.c.account_id).join(answers)).all()
    assert len({row.split for row in rows.values()}) == 1
    for row in given:
        text = rows[row.prompt_id].text
        query = text.rpartition("Query: ")[2].removesuffix("\nResponse:")
        assert row.body["response"] == dict(shots)[query]
        assert text.count("Query: ") == 3
        assert text.count("Response: ") == 2  # the others', with what was answered
        assert row.account_id == admin.id
    with pytest.raises(UserError, match="at least two examples"):
        intake.write_few_shot(store, admin, "Name it.", [("one", "two")])
    with pytest.raises(UserError, match="here already"):
        intake.write_few_shot(store, admin, "Name the sentiment.", shots)


# ---- pages -----------------------------------------------------------------------------------------------------


def test_the_pages_tell_what_was_dropped(visit: Visit) -> None:
    admin = visit("admin")
    content = jsonl(
        {"prompt": "<b>One</b> of many"}, {"prompt": "<b>One</b> of MANY"}, {"prompt": "<b>One</b> of MANY"}
    )
    page = admin.post("/prompts/import", files={"file": ("mine.jsonl", content)})
    assert page.status_code == 200
    assert "same words as" in page.text
    assert "1 row: the words of another prompt: taken once" in page.text
    assert "<b>One" not in page.text
    listed = admin.get("/prompts", params={"words": "<b>one"})
    assert "1 prompt" in listed.text
    assert "&lt;b&gt;One" in listed.text
    wrong = admin.post("/prompts/import", files={"file": ("mine.jsonl", b"{")})
    assert wrong.status_code == 400
    assert "mine.jsonl, line 1: not valid JSON" in wrong.text
    assert admin.get("/prompts/import/nothing").status_code == 404
    assert admin.get("/prompts/no/such/prompt").status_code == 404


def test_the_form_leaves_columns_out(visit: Visit) -> None:
    admin = visit("admin")
    content = jsonl({"prompt": "Say hello", "response_1": "Hello.", "response_2": "No.", "winner": 1})
    files = {"file": ("mine.jsonl", content)}
    wrong = admin.post("/prompts/import", files=files, data={"ignore": "winner"})
    assert wrong.status_code == 400
    assert "--ignore response_1 response_2 (in the studio: Columns to leave out)" in wrong.text
    assert 'value="winner"' in wrong.text
    page = admin.post("/prompts/import", files=files, data={"ignore": "response_1, response_2,winner"})
    assert page.status_code == 200
    assert "1</strong> prompt kept" in page.text


def test_the_form_writes_prompts(visit: Visit) -> None:
    admin = visit("admin")
    page = admin.post("/prompts", data={"text": "Say *hello*", "use_case": "chat", "flags": ["ambiguous"]})
    assert page.status_code == 200
    assert "<em>hello</em>" in page.text
    assert "ambiguous" in page.text
    again = admin.post("/prompts", data={"text": "Say *hello*"})
    assert again.status_code == 400
    assert "duplicate" in again.text
    few = {"text": "Name it.", "kind": "few-shot", "query": ["a", "b", ""], "response": ["1", "2", ""]}
    assert "few-shot" in admin.post("/prompts", data=few).text
