"""Setting prompts and answers aside: they count nowhere, and an answer that breaks things breaks nothing any more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from made_studio import Made, Visit, ranking

from tutelage.records import UserError
from tutelage.studio import accounts, aside, batches, desk, overview, playground, queue
from tutelage.studio.accounts import Account
from tutelage.studio.check import check
from tutelage.studio.export import export, write_round_data
from tutelage.studio.harvest import verdicts
from tutelage.studio.schema import actions, asides, responses
from tutelage.studio.schema import answers as answer_table
from tutelage.studio.store import Store


def exported(store: Store, folder: Path) -> tuple[int, int, int]:
    counts = export(store, folder)
    return counts["prompts"], counts["rankings"], counts["demonstrations"]


@pytest.fixture
def me(made: Made) -> Account:
    return made.account("reviewer")


def test_an_answer_set_aside_counts_nowhere_until_it_is_taken_back(
    store: Store, made: Made, me: Account, tmp_path: Path
) -> None:
    made.filled("compare", 2, k=2), made.filled("demonstrate", 1)
    [labeler] = made.crowd(1)
    made.answer(labeler), made.answer(labeler), made.answer(labeler, "demonstrate", {"response": "The sea."})
    assert exported(store, tmp_path / "a") == (3, 2, 1)
    first = next(row for row in made.answers() if "ranks" in row.body)
    prompt = aside.mark(store, me, answer=first.id, reason="spam")
    assert prompt == made.item(first.item_id).prompt_id
    assert exported(store, tmp_path / "a") == (3, 1, 1)
    assert len(verdicts(store)) == 1
    paths = write_round_data(store, tmp_path / "round")
    assert len(paths["rankings"].read_text().splitlines()) == 1
    with store.read() as tx:
        assert overview.count(tx, 0.0).rankings == 1
        assert len(tx.execute(sa.text("SELECT id FROM rankings")).all()) == 1
    aside.mark(store, me, answer=first.id, reason="again")  # changes nothing
    aside.mark(store, me, answer=first.id, back=True)
    assert exported(store, tmp_path / "a") == (3, 2, 1)
    with store.read() as tx:
        assert len(tx.execute(sa.text("SELECT id FROM rankings")).all()) == 2
        rows = tx.execute(sa.select(asides.c.aside, asides.c.reason).order_by(asides.c.number)).all()
        logged = tx.execute(sa.select(actions.c.what, actions.c.account_id).where(actions.c.about == first.id)).all()
    assert [tuple(row) for row in rows] == [(True, "spam"), (False, "")]
    assert [tuple(row) for row in logged if row.what != "submit"] == [("set aside", me.id), ("take back", me.id)]
    assert check(store) == []


def test_a_prompt_set_aside_is_given_to_nobody_and_takes_its_answers_along(
    store: Store, made: Made, me: Account, tmp_path: Path
) -> None:
    batch = made.filled("compare", 2, k=2)
    [labeler] = made.crowd(1)
    made.answer(labeler)
    done, open_ = (made.item(item).prompt_id for item in made.item_ids(batch))
    for prompt in (done, open_):
        aside.mark(store, me, prompt=prompt, reason="personal data")
    assert exported(store, tmp_path / "a") == (0, 0, 0)
    assert queue.claim(store, labeler, "compare") is None
    assert desk.desk(store, accounts.Account(labeler, "x", "labeler", "training")).work == []
    assert playground.examples(store) == {}
    with pytest.raises(UserError, match="no prompt fits"):
        batches.add_demonstrate(store, "b", split="all", number=9)
    aside.mark(store, me, prompt=open_, back=True)
    assert queue.claim(store, labeler, "compare") is not None


def test_a_revision_of_an_answer_set_aside_counts_again(store: Store, made: Made, me: Account, tmp_path: Path) -> None:
    made.filled("compare", 1, k=2)
    [labeler] = made.crowd(1)
    task = queue.claim(store, labeler, "compare")
    assert task is not None
    queue.submit(store, labeler, task, made.key(), ranking(2), 1.0)
    aside.mark(store, me, answer=made.answers()[0].id, reason="in haste")
    queue.submit(store, labeler, task, made.key(), ranking(2, [2, 1]), 1.0)
    assert exported(store, tmp_path / "a")[1] == 1


@pytest.mark.attack("a stored row that breaks exports and pages")
@pytest.mark.parametrize("bad", ["rank 10^30", "rank 10^400", "rank gap", "nested 260"])
def test_a_row_that_got_in_somehow_stands_in_the_way_until_it_is_set_aside(
    store: Store, made: Made, me: Account, visit: Visit, tmp_path: Path, bad: str
) -> None:
    batch = made.filled("compare", 2, k=2)
    [labeler] = made.crowd(1)
    made.answer(labeler)
    task = queue.claim(store, labeler, "compare")
    assert task is not None
    body = ranking(2) | (
        {"ranks": [1, {"rank gap": 9, "rank 10^400": 10**400}.get(bad, 10**30)]} if "rank" in bad else {}
    )
    queue.submit(store, labeler, task, made.key(), body, 1.0)
    [answer] = [row for row in made.answers() if row.item_id == made.item_of(task).id]
    prompt = made.item_of(task).prompt_id
    if bad == "nested 260":
        deep = json.loads('{"a":' * 260 + "1" + "}" * 260)
        with store.write() as tx:
            tx.execute(responses.update().where(responses.c.prompt_id == prompt).values(sampling=deep))
    with pytest.raises(UserError, match=f"'{prompt}'.*/prompts/{prompt}"):
        export(store, tmp_path / "out")
    client = visit(me)
    page = client.get(f"/prompts/{prompt}")
    assert page.status_code == 200 and answer.id in page.text
    form = {"answer": answer.id, "reason": "damaged"}
    assert client.post("/prompts/aside", data=form).url.path == f"/prompts/{prompt}"
    assert exported(store, tmp_path / "out") == (2, 1, 0)
    write_round_data(store, tmp_path / "round")
    for path in ("/loop", "/values", f"/batches/{batch}", f"/people/{labeler}", f"/prompts/{prompt}", "/prompts"):
        assert client.get(path).status_code == 200, path


def test_the_page_says_who_set_aside_and_why(store: Store, made: Made, me: Account, visit: Visit) -> None:
    [prompt] = made.prompts(1, id="a/b ü")
    client = visit(me)
    refused = client.post("/prompts/aside", data={"prompt": prompt, "reason": " "})
    assert refused.status_code == 400 and "say in a few words" in refused.text
    assert client.post("/prompts/aside", data={"prompt": "none", "reason": "x"}).status_code == 400
    page = client.post("/prompts/aside", data={"prompt": prompt, "reason": "<b>twice</b>"})
    assert f"Set aside by {me.name}: &lt;b&gt;twice" in page.text
    assert "set aside</span>" in client.get("/prompts").text
    assert "Set aside by" not in client.post("/prompts/aside", data={"prompt": prompt, "back": "true"}).text
    assert len(made.answers()) == 0
    with store.read() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(answer_table)).scalar_one() == 0
