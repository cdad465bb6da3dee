"""Batches: which prompts are chosen, which responses are put up, what can be changed, what is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from made_studio import Made, Visit, ranking

from tutelage.records import Response, UserError
from tutelage.studio import batches, check, forms, queue, work
from tutelage.studio.schema import items, prompts, responses
from tutelage.studio.store import Store


def chosen(store: Store, batch: str) -> list[str]:
    with store.read() as tx:
        return list(
            tx.execute(sa.select(items.c.prompt_id).where(items.c.batch_id == batch).order_by(items.c.place)).scalars()
        )


def use_cases(store: Store, batch: str) -> list[str]:
    with store.read() as tx:
        query = sa.select(prompts.c.use_case).join(items, items.c.prompt_id == prompts.c.id)
        return list(tx.execute(query.where(items.c.batch_id == batch).order_by(items.c.place)).scalars())


def shown(prompt: str, *texts: str, model: str = "sft") -> tuple[str, list[Response]]:
    return prompt, [Response(id=f"{prompt}/{model}/{k}", text=text, model=model) for k, text in enumerate(texts)]


def test_prompts_are_spread_over_use_cases(store: Store, made: Made) -> None:
    made.prompts(30, use_case="chat")
    made.prompts(6, use_case="rewrite")
    made.prompts(5, use_case="rewrite", split="test")
    batch = batches.add_demonstrate(store, "one", number=12)
    assert use_cases(store, batch).count("rewrite") == 2  # 6 of 36, and 12 of them asked for
    assert len(chosen(store, batch)) == 12
    second = batches.add_demonstrate(store, "two", number=100, quota=3)
    assert sorted(use_cases(store, second)) == ["chat"] * 3 + ["rewrite"] * 3
    assert not set(chosen(store, batch)) & set(chosen(store, second))
    again = batches.add_demonstrate(store, "three", number=100, again=True, use_cases=["rewrite"])
    assert len(chosen(store, again)) == 6
    everything = batches.add_demonstrate(store, "four", split="all", number=100, again=True)
    assert len(chosen(store, everything)) == 41


def test_a_batch_that_cannot_be_is_refused(store: Store, made: Made) -> None:
    with pytest.raises(UserError, match="no prompt fits"):
        batches.add_demonstrate(store, "one")
    made.prompts(3)
    batches.add_demonstrate(store, "one", number=1)
    for wrong, says in (
        ({"name": "one"}, "called 'one' already"),
        ({"name": " "}, "1 to 100 characters"),
        ({"name": "two", "split": "dev"}, "no split"),
        ({"name": "two", "overlap": 0}, "expected 1 to 100"),
        ({"name": "two", "mode": "nice"}, "no mode"),
        ({"name": "two", "number": 0}, "at least 1"),
        ({"name": "two", "team": "t" * 65}, "at most 64"),
    ):
        with pytest.raises(UserError, match=says):
            batches.add_demonstrate(store, **wrong)  # type: ignore[arg-type]
    assert len(batches.progress(store)) == 1


def test_responses_are_put_up_for_ranking(store: Store, made: Made) -> None:
    one, two, three = made.prompts(3)
    rows = [shown(one, "a", "b", "a "), shown(two, "same", "same"), shown(three, "x", "y", "z")]
    batch = batches.add_compare(store, "round 1", rows, overlap=2)
    with store.read() as tx:
        found = tx.execute(sa.select(items).where(items.c.batch_id == batch).order_by(items.c.place)).all()
    assert [row.prompt_id for row in found] == [one, three]  # the second has nothing to rank
    assert [len(row.responses) for row in found] == [2, 3]
    assert found[0].responses == [f"{one}/sft/0", f"{one}/sft/1"]
    judged = batches.add_compare(store, "judge", [shown(two, "same", "same")], kind="judge")
    assert batches.one(store, judged).items == 1  # old and new say the same: that is a finding


def test_another_round_of_the_same_name_keeps_both_texts(store: Store, made: Made) -> None:
    (prompt,) = made.prompts(1)
    first = batches.add_compare(store, "round 1", [shown(prompt, "a", "b")])
    second = batches.add_compare(store, "round 2", [shown(prompt, "c", "b")])
    with store.read() as tx:
        texts = {row.id: row.text for row in tx.execute(sa.select(responses))}
        ids = [
            tx.execute(sa.select(items.c.responses).where(items.c.batch_id == batch)).scalar_one()
            for batch in (first, second)
        ]
    assert [[texts[name] for name in own] for own in ids] == [["a", "b"], ["c", "b"]]
    assert ids[0][1] == ids[1][1]  # the same response is one row


def test_responses_without_a_prompt_or_too_many_are_refused(store: Store, made: Made) -> None:
    (prompt,) = made.prompts(1)
    for rows, says in (
        ([shown("nowhere", "a", "b")], "'nowhere' is not in this studio"),
        ([shown(prompt, *"abcdefghij")], "has 10 responses"),
        ([shown(prompt, "a")], "nothing to rank"),
        ([shown(prompt, "a", "b\0")], "NUL"),
        ([], "nothing to rank"),
    ):
        with pytest.raises(UserError, match=says):
            batches.add_compare(store, "round 1", rows)
    assert batches.progress(store) == []


def test_samples_of_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    for name in ("old", "new"):
        rows = [
            {"prompt_id": f"p{n}", "prompt": "x", "k": 0, "response": {"id": f"p{n}/{name}/0", "text": name}}
            for n in range(2)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = batches.read_samples(tmp_path / "old", tmp_path / "new")
    assert [(p, [r.text for r in rs]) for p, rs in found] == [("p0", ["old", "new"]), ("p1", ["old", "new"])]
    (tmp_path / "bad").write_text('{"prompt_id": "p", "response": {"id": "x"}}\n')
    with pytest.raises(UserError, match=r"bad, line 1: field 'text' is missing"):
        batches.read_samples(tmp_path / "bad")


def test_progress_comes_from_the_counters(store: Store, made: Made) -> None:
    batch = made.filled("compare", 3, overlap=2)
    one, two = made.account(), made.account()
    made.answer(one.id)
    queue.claim(store, two.id, "compare")
    found = batches.one(store, batch)
    assert (found.items, found.wanted, found.done, found.held, found.left) == (3, 6, 1, 1, 4)


def test_changing_a_batch(store: Store, made: Made) -> None:
    admin, labeler = made.account("admin"), made.account()
    batch = made.filled("compare", 2)
    made.answer(labeler.id)
    batches.change(store, admin, batch, overlap=3, mode="truthful-first", team="north", priority=5, open=False)
    found = batches.one(store, batch)
    assert (found.overlap, found.mode, found.team, found.priority, found.open) == (
        3,
        "truthful-first",
        "north",
        5,
        False,
    )
    assert (found.wanted, found.done) == (6, 1)
    assert made.answers()[0].mode == "helpful-first"  # what was done keeps the mode it was done in
    assert queue.claim(store, labeler.id, "compare") is None
    assert check.check(store) == []
    with pytest.raises(UserError, match="expected 1 to 100"):
        batches.change(store, admin, batch, overlap=0, mode="helpful-first", team="", priority=0, open=True)
    with pytest.raises(UserError, match="no such batch"):
        batches.change(store, admin, "nothing", overlap=1, mode="helpful-first", team="", priority=0, open=True)


def test_skips_are_listed_with_their_reasons(store: Store, made: Made) -> None:
    batch = made.filled("compare", 2)
    labeler = made.account(name="Kim")
    task = queue.claim(store, labeler.id, "compare")
    assert task is not None
    queue.give_back(store, labeler.id, task, "skipped", "what is a quay?")
    (skip,) = batches.skips(store, batch)
    assert (skip.labeler, skip.reason, skip.prompt_id) == ("Kim", "what is a quay?", made.item_of(task).prompt_id)


def test_the_pages(store: Store, made: Made, visit: Visit) -> None:
    admin = visit("admin")
    prompt = made.prompts(3)[0]
    page = admin.post("/batches/demonstrate", data={"name": "Write <some>", "number": "2", "use_case": ["generation"]})
    assert page.status_code == 200
    assert "Write &lt;some&gt;" in page.text
    assert "0 of 2" in page.text
    row = {"prompt_id": prompt, "prompt": "x", "response": {"id": "a", "text": "one"}}
    other = row | {"response": {"id": "b", "text": "two"}}
    content = f"{json.dumps(row)}\n{json.dumps(other)}\n".encode()
    page = admin.post("/batches/compare", data={"name": "Rank"}, files=[("files", ("samples.jsonl", content))])
    assert page.status_code == 200
    assert "0 of 1" in page.text
    changed = admin.post(str(page.url), data={"overlap": "4", "open": "true"})
    assert "0 of 4" in changed.text
    assert "closed" not in changed.text
    assert "closed" in admin.post(str(page.url), data={"overlap": "4"}).text
    refused = admin.post("/batches/compare", data={"name": "Bad"}, files=[("files", ("samples.jsonl", b"{"))])
    assert refused.status_code == 400
    assert "file 1, line 1: not valid JSON" in refused.text
    assert admin.post(str(page.url), data={"overlap": "0"}).status_code == 400
    assert admin.get("/batches/nothing").status_code == 400


def test_a_new_form_is_for_new_batches(store: Store, made: Made, visit: Visit) -> None:
    admin, labeler = visit("admin"), made.account()
    before = made.filled("compare", k=2)
    assert "Form 1:" in admin.get("/batches").text
    page = admin.post("/batches/form", data={"question": ["sexual_content", "hallucination"]}).text
    assert "Form 2:" in page and page.count('name="question"') == 11
    assert [f'value="{name}" checked' in page for name in ("hallucination", "violent_content")] == [True, False]
    after = made.filled("compare", k=2)
    asked = {}
    for _ in range(2):
        found = queue.claim(store, labeler.id, "compare")
        assert found is not None
        shown = work.task(store, labeler.id, found)
        asked[made.item_of(found).batch_id] = [row["name"] for row in shown.form["flags"]]
        queue.submit(store, labeler.id, found, made.key(), ranking(2), 1.0)
    assert (len(asked[before]), asked[after]) == (11, ["hallucination", "sexual_content"])
    assert sorted(answer.form for answer in made.answers()) == [1, 2]


def test_a_form_that_is_none_is_refused(made: Made, visit: Visit) -> None:
    admin = visit("admin")
    for names, said in (
        ([], "at least one question"),
        (["rude"], "no flag &#39;rude&#39;"),
        (list(forms.QUESTIONS), "form 1 asks these questions already"),
    ):
        answer = admin.post("/batches/form", data={"question": names})
        assert answer.status_code == 400 and said in answer.text
        assert "Form 1:" in answer.text
