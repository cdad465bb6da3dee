"""Screening: who gets what, the numbers by hand, grades that are blind, decisions, and that nothing of it gets out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from made_studio import PASSWORD, Clock, Made, Visit, ranking
from starlette.testclient import TestClient

from tutelage.evaluate.intervals import Interval
from tutelage.records import Response, UserError
from tutelage.studio import (
    accounts,
    agreement,
    batches,
    catalogue,
    desk,
    forms,
    grading,
    groupmodel,
    harvest,
    overview,
    people,
    queue,
    screening,
    values,
    work,
)
from tutelage.studio.accounts import Account
from tutelage.studio.check import check
from tutelage.studio.export import export, write_round_data
from tutelage.studio.queue import LEASE, Gone
from tutelage.studio.schema import EVERYONE, actions, grades, topics
from tutelage.studio.schema import accounts as account_table
from tutelage.studio.schema import batches as batch_table
from tutelage.studio.scores import ABOVE, BELOW, UNKNOWN, Answer, against, flagging, majority, ordering, writing
from tutelage.studio.store import Store

SEXUAL, OPINION = {"sexual_content": True}, {"expresses_opinion": True}


def ranked(ranks: Sequence[int], flags: Sequence[dict[str, bool]] = ()) -> dict[str, Any]:
    """The stored body of a comparison with these ranks and flags."""
    body = ranking(len(ranks), list(ranks))
    for rating, own in zip(body["ratings"], flags, strict=False):
        rating["flags"] = own
    return body


def wrote(made: Made, who: Account, text: str = "The sea is wide.") -> str:
    """The id of a demonstration that somebody wrote."""
    receipt = made.answer(who.id, "demonstrate", {"response": text})
    assert receipt is not None
    return receipt.answer_id


# ---- the numbers, by hand --------------------------------------------------------------------------------------


def seen(ranks: Sequence[int], flagged: Sequence[bool] = ()) -> Answer:
    return Answer(tuple(ranks), tuple(flagged))


def test_what_most_say() -> None:
    assert majority([True, True, False]) is True
    assert majority([False]) is False
    assert majority([True, False]) is None
    assert majority([]) is None


def test_agreement_on_what_is_sensitive() -> None:
    two = [seen((1, 2, 3), (True, False, True)), seen((1, 2, 3), (True, False, False))]
    key = {"a": two, "b": [seen((1, 2), (False, False))]}
    own = {"a": seen((1, 2, 3), (True, True, True)), "b": seen((1, 2), (False, False)), "c": seen((1,), (True,))}
    found = flagging(own, key)
    # a: the researchers say yes, no, and are even; b: no, no; c has no key. Of 4 outputs one is seen otherwise.
    assert found.agreement is not None
    assert (found.agreement.value, found.agreement.n) == (0.75, 4)
    assert (found.agreement.low, found.agreement.high) == (
        pytest.approx(0.3006, abs=1e-4),
        pytest.approx(0.9544, abs=1e-4),
    )
    assert (found.key_flagged, found.own_flagged) == (1, 2)
    # chance: both yes 1/4 * 2/4, both no 3/4 * 2/4, together 1/2; kappa = (3/4 - 1/2) / (1 - 1/2)
    assert found.kappa == pytest.approx(0.5)


def test_who_never_flags_anything_is_seen_for_it() -> None:
    key = {"a": [seen(range(10), [n < 2 for n in range(10)])]}
    found = flagging({"a": seen(range(10), [False] * 10)}, key)
    assert found.agreement is not None
    assert (found.agreement.value, found.key_flagged, found.own_flagged, found.kappa) == (0.8, 2, 0, 0.0)
    harmless = flagging({"a": seen((1, 2), (False, False))}, {"a": [seen((1, 2), (False, False))]})
    assert harmless.kappa is None
    nothing = flagging({}, key)
    assert (nothing.agreement, nothing.kappa, nothing.verdict) == (None, None, UNKNOWN)


def test_agreement_on_the_order() -> None:
    key = {"a": [seen((1, 2, 3)), seen((1, 3, 2))], "b": [seen((1, 1))]}
    # a: mean ranks 1, 2.5, 2.5: the second and third are tied, two pairs are left. b: nothing is.
    assert (
        ordering({"a": seen((1, 2, 3)), "b": seen((1, 2))}, key).agreement
        == ordering({"a": seen((1, 3, 2))}, key).agreement
    )
    found = ordering({"a": seen((2, 2, 1)), "b": seen((1, 2)), "c": seen((1, 2))}, key)
    assert found.agreement is not None
    assert (found.agreement.value, found.agreement.n, found.pairs) == (0.25, 1, 2)  # a tie, and a pair the wrong way
    assert ordering({"b": seen((1, 2))}, key).agreement is None


def test_ties_of_the_key_share_the_ranks_they_take_up() -> None:
    """As group means elsewhere: 1, 1, 1, 2 is 2, 2, 2, 4. By the ranks as they are the last two would be tied."""
    key = {"a": [seen((1, 1, 1, 2)), seen((2, 3, 4, 3))]}
    found = ordering({"a": seen((1, 2, 3, 4))}, key)
    # 2, 2, 2, 4 and 1, 2.5, 4, 2.5: means 1.5, 2.25, 3, 3.25, so all six pairs are ordered, and all alike
    assert (found.pairs, found.agreement and found.agreement.value) == (6, 1.0)


def test_intervals_of_the_order_resample_items() -> None:
    key = {name: [seen((1, 2, 3, 4))] for name in "abcdefgh"}
    mixed = {name: seen((1, 2, 3, 4) if name < "e" else (4, 3, 2, 1)) for name in key}
    found = ordering(mixed, key).agreement
    assert found is not None
    assert (found.value, found.n) == (0.5, 8)
    assert found.low < 0.2 and found.high > 0.8  # 48 pairs, but only 8 items


def test_the_mean_grade_is_of_demonstrations() -> None:
    found = writing({"one": [7, 5, 6], "two": [4], "three": []})
    assert found.grade is not None
    assert (found.grade.value, found.written, found.graded) == (5.0, 3, 2)  # 6 and 4, however many graded each
    assert writing({"three": []}).grade is None


def test_a_cut_off_is_soft() -> None:
    assert against(Interval(0.9, 0.8, 0.95, 20), 0.75) == ABOVE
    assert against(Interval(0.5, 0.4, 0.7, 20), 0.75) == BELOW
    assert against(Interval(0.9, 0.7, 0.95, 20), 0.75) == UNKNOWN
    assert against(Interval(1.0, 0.8, 1.0, 4), 0.75) == UNKNOWN
    assert against(None, 0.75) == UNKNOWN


def test_the_form_says_which_flags_mean_sensitive_content(store: Store) -> None:
    assert forms.sensitive(forms.form(store, 1)) == set(forms.SENSITIVE)
    number = forms.publish(store, ["sexual_content", "expresses_opinion"])
    assert forms.sensitive(forms.form(store, number)) == {"sexual_content"}
    assert forms.sensitive({"flags": [{"name": "x"}]}) == set()


# ---- who gets what ---------------------------------------------------------------------------------------------


@pytest.fixture
def both(made: Made) -> tuple[str, str]:
    """A screening batch and an ordinary one, of two comparisons each."""
    return made.filled("compare", 2, k=2, screening=True), made.filled("compare", 2, k=2, overlap=9)


def batch_of(store: Store, made: Made, account: str, kind: str = "compare") -> str | None:
    """The batch that an account's next task is of."""
    found = queue.claim(store, account, kind)
    return None if found is None else str(made.item_of(found).batch_id)


def test_candidates_and_researchers_get_screening_alone_and_others_never(
    store: Store, made: Made, both: tuple[str, str]
) -> None:
    screens, ordinary = both
    made.filled("judge", 1, k=2, overlap=9)
    people = {
        made.screened("candidate"): screens,
        made.screened("declined"): None,
        made.screened("admitted"): ordinary,
        made.account("labeler"): ordinary,
        made.account("heldout"): None,
        made.account("reviewer"): screens,
        made.account("admin"): screens,
    }
    assert [batch_of(store, made, who.id) for who in people] == list(people.values())
    judged = [who.role for who in people if batch_of(store, made, who.id, "judge")]
    assert judged == ["labeler", "labeler", "heldout"]
    assert check(store) == []


def test_held_out_labelers_are_never_screened(store: Store, made: Made, both: tuple[str, str]) -> None:
    who = made.screened("candidate")
    accounts.change(store, made.account("admin"), who.id, role="heldout", team="heldout", active=True)
    assert queue.given("heldout", "candidate") == (("judge",), False)
    assert queue.claim(store, who.id, "compare") is None
    assert screening.view(store).candidates == []


def test_everyone_answers_every_item(store: Store, made: Made, clock: Clock) -> None:
    batch = made.filled("compare", 3, k=2, screening=True)
    people = [made.screened() for _ in range(4)] + [made.account("reviewer"), made.account("admin")]
    for who in people:
        for _ in range(3):
            receipt = made.answer(who.id)
            assert receipt is not None and not receipt.extra
            clock.move(LEASE * 2)
        assert made.answer(who.id) is None
    assert {made.item(item).done for item in made.item_ids(batch)} == {len(people)}
    assert batches.one(store, batch).overlap == EVERYONE
    assert check(store) == []


def test_a_screening_batch_stays_for_everyone(store: Store, made: Made, visit: Visit) -> None:
    admin = made.account("admin")
    prompt = made.prompts(1)[0]
    rows = [(prompt, [Response(id=f"{prompt}/{n}", text=f"text {n}") for n in range(3)])]
    batch = batches.add_compare(store, "trial", rows, screening=True, overlap=3, team="north", account=admin)
    visit(admin).post(f"/batches/{batch}", data={"mode": "truthful-first", "overlap": 2, "team": "x", "open": "true"})
    found = batches.one(store, batch)
    assert (found.overlap, found.team, found.mode, found.screening) == (EVERYONE, "", "truthful-first", True)
    with pytest.raises(UserError, match="judging is for evaluation"):
        batches.add_compare(store, "no", rows, kind="judge", screening=True)


def test_screening_batches_are_made_by_a_tick(store: Store, made: Made, visit: Visit) -> None:
    (prompt,) = made.prompts(1)
    replies = [{"id": f"r{n}", "text": f"text {n}"} for n in range(2)]
    lines = "".join(json.dumps({"prompt_id": prompt, "response": reply}) + "\n" for reply in replies)
    file = {"files": ("samples.jsonl", lines.encode())}
    admin = visit("admin")
    admin.post("/batches/demonstrate", data={"name": "write", "screening": "true"})
    admin.post("/batches/compare", data={"name": "rank", "screening": "true"}, files=file)
    admin.post("/batches/compare", data={"name": "plain"}, files=file)
    refused = admin.post("/batches/compare", data={"name": "no", "kind": "judge", "screening": "true"}, files=file)
    assert (refused.status_code, "judging is for evaluation" in refused.text) == (400, True)
    found = {b.name: (b.kind, b.screening, b.items) for b in batches.progress(store)}
    assert found == {"write": ("demonstrate", True, 1), "rank": ("compare", True, 1), "plain": ("compare", False, 1)}


def test_screening_takes_no_prompts_from_other_batches(store: Store, made: Made) -> None:
    made.prompts(3)
    screens = batches.add_demonstrate(store, "trial", screening=True)
    ordinary = batches.add_demonstrate(store, "work")
    assert [batches.one(store, b).items for b in (screens, ordinary)] == [3, 3]
    for again in (True, False):
        with pytest.raises(UserError, match="no prompt fits"):
            batches.add_demonstrate(store, "more", screening=again)


def test_new_labelers_are_candidates_where_the_switch_is_on(
    store: Store, made: Made, visit: Visit, client: TestClient
) -> None:
    here, admin = made.account("labeler"), made.account("admin")
    invited = [accounts.invite(store, admin, role) for role in ("labeler", "heldout", "reviewer", "labeler")]
    page = visit(admin)
    assert "short trial" not in client.get(f"/join/{invited[0]}").text
    assert "checked" in page.post("/people/screening", data={"on": "true"}).text
    assert "short trial" in client.get(f"/join/{invited[0]}").text
    assert "short trial" not in client.get(f"/join/{invited[1]}").text
    joined = [accounts.join(store, token, f"new-{n}", PASSWORD) for n, token in enumerate(invited[:3])]
    page.post("/people/screening")
    joined.append(accounts.join(store, invited[3], "late", PASSWORD))
    created = accounts.create(store, "by hand", PASSWORD, "labeler")
    with store.read() as tx:
        found = dict(tx.execute(sa.select(account_table.c.id, account_table.c.standing)).all())
    assert [found[one.id] for one in joined] == ["candidate", "unscreened", "unscreened", "unscreened"]
    assert found[here.id] == found[created.id] == "unscreened"
    with store.read() as tx:
        logged = tx.execute(sa.select(actions.c.detail).where(actions.c.what == "screen-first")).scalars()
        assert [detail["on"] for detail in logged] == [True, False]


def test_a_candidate_reaches_no_ordinary_task(store: Store, made: Made, visit: Visit, both: tuple[str, str]) -> None:
    who, admin = made.screened("admitted"), made.account("admin")
    task = queue.claim(store, who.id, "compare")
    assert task is not None
    (candidate,) = screening.view(store).candidates
    screening.decide(store, admin, candidate, "rescreen", named=False)
    assert made.assignment(task).state == "expired"
    page = visit(who)
    tries = [
        page.get(f"/task/{task}"),
        page.post(f"/api/task/{task}/open"),
        page.post(f"/task/{task}/resume"),
        page.post(f"/api/task/{task}/submit", json={"key": "k" * 20, "seconds": 1, "body": {}}),
    ]
    assert [one.status_code for one in tries] == [409] * 4
    with pytest.raises(Gone):
        queue.submit(store, who.id, task, "k" * 20, ranking(2), 1.0)
    for path in ("/playground", "/loop", "/batches", "/screening", "/people", f"/screening/{candidate.handle}"):
        assert page.get(path).status_code == 403
    assert page.post("/next/compare", follow_redirects=False).headers["location"].startswith("/task/")
    assert check(store) == []


def test_who_was_decided_on_reaches_no_screening_task(
    store: Store, made: Made, visit: Visit, both: tuple[str, str]
) -> None:
    who, admin = made.screened(), made.account("admin")
    made.answer(who.id)
    done, held = (row.id for row in reversed(_assignments(store, who, made)))
    for decision in ("admit", "decline"):
        (candidate,) = screening.view(store).candidates
        screening.decide(store, admin, candidate, decision, named=False)
        assert made.assignment(held).state == "expired"
        for task in (done, held):
            with pytest.raises(Gone):
                work.task(store, who.id, task)
            with pytest.raises(Gone):
                queue.submit(store, who.id, task, made.key(), ranking(2), 1.0)
        assert "put aside" not in visit(who).get("/").text.lower()
    assert desk.desk(store, accounts.named(store, who.name) or who).work == []
    assert check(store) == []


def test_who_is_declined_after_all_reaches_nothing(store: Store, made: Made, both: tuple[str, str]) -> None:
    who = made.screened("admitted")
    task = queue.claim(store, who.id, "compare")
    assert task is not None and work.task(store, who.id, task).texts
    (candidate,) = screening.view(store).candidates
    screening.decide(store, made.account("admin"), candidate, "decline", named=False)
    with pytest.raises(Gone, match="not open to you"):
        work.task(store, who.id, task)
    assert queue.claim(store, who.id, "compare") is None


def _assignments(store: Store, who: Account, made: Made) -> list[sa.Row[Any]]:
    """What somebody did and then holds, the newest first."""
    queue.claim(store, who.id, "compare")
    with store.read() as tx:
        query = sa.text("SELECT id, state FROM assignment WHERE account_id = :who ORDER BY state")
        return list(tx.execute(query, {"who": who.id}))


def test_researchers_work_in_the_ordinary_pages(store: Store, made: Made, visit: Visit, both: tuple[str, str]) -> None:
    reviewer = visit("reviewer")
    assert "Answer screening tasks yourself" in reviewer.get(f"/batches/{both[0]}").text
    assert "Rank the next ones" in reviewer.get("/desk").text
    page = reviewer.post("/next/compare")
    assert "Rate and rank 2 responses" in page.text
    assert 'data-home="/desk"' in page.text
    task = str(page.url).rsplit("/", 1)[1]
    body = {"ranks": [1, 2], "ratings": [{"likert": 4, "flags": {}, "note": ""}] * 2, "log": []}
    assert (
        reviewer.post(f"/api/task/{task}/submit", json={"key": "k" * 20, "seconds": 1, "body": body}).json()["number"]
        == 1
    )
    assert "Your latest answers" in reviewer.get("/desk").text
    assert reviewer.post("/api/next/compare").json()["next"].startswith("/task/")
    assert reviewer.post("/api/next/demonstrate").json() == {"next": "/desk"}
    assert reviewer.post("/next/judge", follow_redirects=False).headers["location"] == "/desk"


# ---- the numbers, out of the database --------------------------------------------------------------------------


def test_the_numbers_of_a_candidate(store: Store, made: Made) -> None:
    made.filled("compare", 2, k=3, screening=True)
    one, two, three = made.account("reviewer"), made.account("admin"), made.account("reviewer")
    who = made.screened()
    was = made.screened("admitted")
    accounts.change(store, two, was.id, role="reviewer", team="x", active=True)  # once a candidate: makes no key
    for researcher, flags in ((one, [SEXUAL, {}, SEXUAL]), (two, [SEXUAL, OPINION, {}]), (three, [{}, {}, SEXUAL])):
        made.answer(researcher.id, body=ranked((1, 2, 3), flags))
    made.answer(one.id, body=ranked((1, 2, 2)))
    made.answer(was.id, body=ranked((3, 2, 1), [SEXUAL, SEXUAL, SEXUAL]))
    made.answer(who.id, body=ranked((2, 1, 3), [SEXUAL, OPINION, {}]))
    made.answer(who.id, body=ranked((1, 1, 2)))
    view = screening.view(store)
    (found,) = view.candidates
    assert (view.items, view.keyed, view.researchers) == ({"compare": 2}, {"compare": 2}, 3)
    assert (found.standing, found.answered, found.topics) == ("candidate", 2, "")
    flags, ranks = found.scores.flags, found.scores.ranks
    # Item 1: the key says yes, no (an opinion is nothing sensitive), yes; item 2: no, no, no. One of six differs.
    assert flags.agreement is not None
    assert (flags.agreement.value, flags.agreement.n) == (pytest.approx(5 / 6), 6)
    assert (flags.key_flagged, flags.own_flagged) == (2, 1)
    # chance: (2 * 1 + 4 * 5) / 36 = 22/36; kappa = (30 - 22) / (36 - 22)
    assert flags.kappa == pytest.approx(8 / 14)
    # Item 1: two pairs of three alike. Item 2: the key ties the last two; a tie counts half, then one alike.
    assert ranks.agreement is not None
    assert (ranks.agreement.value, ranks.agreement.n, ranks.pairs) == (pytest.approx(3.5 / 5), 2, 5)
    assert found.scores.grades.grade is None
    # The three researchers ranked the first item alike; the once-candidate is not among them.
    assert view.agreement is not None and view.agreement.untied is not None
    assert (view.agreement.untied.value, view.agreement.pairs) == (1.0, 9)


def test_the_latest_revision_counts(store: Store, made: Made) -> None:
    made.filled("compare", 1, k=2, screening=True)
    one, who = made.account("reviewer"), made.screened()
    made.answer(one.id)
    task = queue.claim(store, who.id, "compare")
    assert task is not None
    for ranks in ((2, 1), (1, 2)):
        queue.submit(store, who.id, task, made.key(), ranked(ranks), 9.0)
    (found,) = screening.view(store).candidates
    assert found.scores.ranks.agreement is not None
    assert found.scores.ranks.agreement.value == 1.0


def test_what_was_closed_is_asked_of_nobody_new(store: Store, made: Made, visit: Visit) -> None:
    old = made.filled("compare", 3, k=2, screening=True)
    early, late, ada = made.screened(), made.screened(), made.account("admin")
    made.answer(early.id)
    page = visit(ada)
    page.post(f"/batches/{old}", data={"mode": "helpful-first"})
    made.filled("compare", 2, k=2, screening=True)
    found = {c.account: (c.answered, c.items) for c in screening.view(store).candidates}
    assert found == {early.id: (1, 3), late.id: (0, 2)}
    assert [(t.answered, t.items) for t in (screening.trial(store, who) for who in (early, late))] == [(1, 3), (0, 2)]


def test_candidates_are_numbers_in_an_order_of_their_own(store: Store, made: Made, visit: Visit) -> None:
    people = [made.screened(name=f"Kim {n}") for n in range(6)]
    found = screening.view(store).candidates
    assert [c.number for c in found] == [1, 2, 3, 4, 5, 6]
    assert [c.handle for c in found] == sorted(screening.handle(p.id) for p in people)
    pages = [visit(role).get("/screening").text for role in ("reviewer", "admin")]
    admin = visit("admin")
    pages += [admin.get(f"/screening/{c.handle}").text for c in found]
    for text in pages:
        assert "Candidate" in text and "Kim" not in text
        assert not any(p.id in text for p in people)
    named = admin.get(f"/screening/{found[0].handle}?name=true").text
    assert next(p.name for p in people if p.id == found[0].account) in named
    screening.decide(store, made.account("admin"), found[0], "admit", named=False)
    after = {c.handle: c.number for c in screening.view(store).candidates}
    assert after == {c.handle: c.number for c in found}  # a decision moves no number


# ---- grades ----------------------------------------------------------------------------------------------------


def test_grades_are_blind_in_random_order_and_averaged(store: Store, made: Made, visit: Visit) -> None:
    made.filled("demonstrate", 6, screening=True)
    kim, lee = made.screened(name="Kim"), made.screened(name="Lee")
    texts = [wrote(made, who, f"{who.name[0]}{n}") for who in (kim, lee) for n in range(6)]
    one, two = made.account("reviewer", name="One"), made.account("admin", name="Two")
    wrote(made, one, "a researcher's own")  # nobody grades it
    orders = []
    for grader, value in ((one, 7), (two, 4)):
        order = []
        while (found := grading.following(store, grader)) is not None:
            assert (found.graded, found.of, found.mine) == (len(order), 12, 0)
            order.append(found.answer)
            grading.give(store, grader, found.answer, value)
        orders.append(order)
        assert grading.left(store, grader) == 0
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(texts)
    assert orders[0] != orders[1] and orders[0] != texts and orders[1] != texts
    scores = {c.account: c.scores.grades for c in screening.view(store).candidates}
    found = scores[kim.id]
    assert found.grade is not None
    assert (found.grade.value, found.written, found.graded) == (5.5, 6, 6)
    grading.give(store, two, texts[0], 7)  # a second thought
    again = {c.account: c.scores.grades for c in screening.view(store).candidates}[kim.id].grade
    assert again is not None and again.value == pytest.approx((7 + 5 * 5.5) / 6)
    with store.read() as tx:
        kept = tx.execute(sa.select(sa.func.count()).select_from(grades)).scalar_one()
        logged = tx.execute(sa.select(sa.func.count()).where(actions.c.what == "grade")).scalar_one()
    assert kept == logged == 25
    assert check(store) == []


def test_the_grading_page(store: Store, made: Made, visit: Visit) -> None:
    made.filled("demonstrate", 1, screening=True)
    who, other = made.screened(name="Kim"), made.account("admin", name="Ada")
    answer = wrote(made, who, "A **bold** sea <script>alert(1)</script>")
    reviewer = visit("reviewer")
    assert "1 waiting for you" in reviewer.get("/desk").text
    grading.give(store, other, answer, 2)
    page = reviewer.get("/screening/grade").text
    assert "<strong>bold</strong>" in page and "alert(1)</script>" not in page
    assert "Kim" not in page and who.id not in page and "checked" not in page  # nor what Ada gave
    assert reviewer.post("/screening/grade", data={"answer": answer, "grade": "8"}).status_code == 422
    page = reviewer.post("/screening/grade", data={"answer": answer, "grade": "6"}).text
    assert "Nothing is waiting for your grade" in page
    assert 'value="6" required checked' in reviewer.get(f"/screening/grade?answer={answer}").text
    assert "4.0 of 7" in reviewer.get("/screening").text


def test_what_may_not_be_graded(store: Store, made: Made) -> None:
    made.filled("demonstrate", 2, screening=True)
    made.filled("demonstrate", 1)
    who, reviewer, labeler = made.screened(), made.account("reviewer"), made.account("labeler")
    first = wrote(made, who)
    ordinary = wrote(made, labeler)
    task = queue.claim(store, who.id, "demonstrate")
    assert task is not None
    for text in ("first words", "better words"):
        receipt = queue.submit(store, who.id, task, made.key(), {"response": text}, 9.0)
        if text == "first words":
            replaced = receipt.answer_id
            grading.give(store, reviewer, replaced, 1)
    for answer in (replaced, ordinary, "nothing"):
        with pytest.raises(UserError, match="not there to be graded"):
            grading.give(store, reviewer, answer, 5)
    for grade in (0, 8):
        with pytest.raises(UserError, match="1 to 7"):
            grading.give(store, reviewer, first, grade)
    (found,) = screening.view(store).candidates
    assert (found.scores.grades.grade, found.scores.grades.written) == (None, 2)  # the grade was of other words
    admin = made.account("admin")
    assert grading.left(store, admin) == 2
    screening.decide(store, admin, found, "admit", named=False)
    assert grading.left(store, admin) == 0  # it was decided: nobody needs to know
    screening.decide(store, admin, found, "rescreen", named=False)
    accounts.change(store, admin, who.id, role="reviewer", team="x", active=True)
    assert grading.left(store, accounts.named(store, who.name) or who) == 0  # one's own


# ---- deciding, and what a candidate sees -----------------------------------------------------------------------


def test_a_decision_is_logged_with_its_numbers(store: Store, made: Made, visit: Visit) -> None:
    made.filled("compare", 1, k=2, screening=True)
    ada, who = made.account("admin", name="Ada"), made.screened()
    made.answer(ada.id), made.answer(who.id)
    handle = screening.handle(who.id)
    page = visit(ada)
    assert page.post(f"/screening/{handle}", data={"decision": "crown"}).status_code == 400
    assert "admitted" in page.post(f"/screening/{handle}", data={"decision": "admit"}).text
    assert page.post(f"/screening/{handle}", data={"decision": "admit"}).status_code == 400
    page.post(f"/screening/{handle}", data={"decision": "decline", "words": " Not now, Kim. ", "name": "true"})
    page.post(f"/screening/{handle}", data={"decision": "rescreen"})
    with store.read() as tx:
        query = sa.select(actions).where(actions.c.about == who.id, actions.c.what.in_(screening.DECISIONS))
        rows = tx.execute(query.order_by(actions.c.id)).all()
    by_what = {row.what: row for row in rows}
    assert set(by_what) == {"admit", "decline", "rescreen"} and {row.account_id for row in rows} == {ada.id}
    assert [by_what[w].detail["before"] for w in ("admit", "decline", "rescreen")] == [
        "candidate",
        "admitted",
        "declined",
    ]
    assert (by_what["decline"].detail["words"], by_what["decline"].detail["named"]) == ("Not now, Kim.", True)
    numbers = by_what["admit"].detail["numbers"]
    assert numbers["ranks"]["agreement"]["value"] == 1.0
    assert numbers["flags"]["agreement"]["n"] == 2
    assert numbers["grades"] == {"grade": None, "written": 0, "graded": 0, "verdict": UNKNOWN}
    assert by_what["admit"].detail["named"] is False
    with pytest.raises(UserError, match="no such candidate"):
        screening.one(store, "nobody")
    assert check(store) == []


def test_a_candidate_sees_how_far_they_are_and_nothing_else(store: Store, made: Made, visit: Visit) -> None:
    made.filled("compare", 2, k=2, screening=True), made.filled("demonstrate", 1, screening=True)
    who, admin, reviewer = made.screened(), made.account("admin"), made.account("reviewer")
    page = visit(who)
    assert "0 of 3 tasks done" in page.get("/").text
    made.answer(reviewer.id), made.answer(who.id)
    grading.give(store, reviewer, wrote(made, who), 3)
    task = queue.claim(store, who.id, "compare")
    assert task is not None
    queue.give_back(store, who.id, task, "skipped", "unpleasant")
    text = page.get("/").text
    assert "2 of 3 tasks done, 1 skipped" in text
    assert "%" not in re.sub(r"<style.*?</style>", "", text) and "of 7" not in text and "grade" not in text.lower()
    assert "/playground" not in text
    (candidate,) = screening.view(store).candidates
    screening.decide(store, admin, candidate, "decline", named=False)
    declined = page.get("/").text
    assert "Thank you for the time and care" in declined and "tasks done" not in declined
    screening.decide(store, admin, candidate, "rescreen", named=False)
    screening.decide(store, admin, candidate, "admit", named=False)
    assert "Your desk" in page.get("/").text


def test_what_a_candidate_can_judge_in_their_own_words(store: Store, made: Made, visit: Visit) -> None:
    who = made.screened()
    page = visit(who)
    assert screening.QUESTION in page.get("/").text
    assert page.post("/screening/topics", data={"text": " "}).status_code == 400
    assert page.post("/screening/topics", data={"text": "x" * 2001}).status_code == 400
    for text in ("Harbour slang.", "Harbour slang, <b>and</b> sailing."):
        assert "Kept." in page.post("/screening/topics", data={"text": text}).text
    shown = visit("reviewer").get("/screening").text
    assert "Harbour slang, &lt;b&gt;and&lt;/b&gt; sailing." in shown
    with store.read() as tx:
        kept = tx.execute(sa.select(topics.c.number, topics.c.text).order_by(topics.c.number)).all()
    assert [tuple(row) for row in kept] == [(1, "Harbour slang."), (2, "Harbour slang, <b>and</b> sailing.")]
    (candidate,) = screening.view(store).candidates
    screening.decide(store, made.account("admin"), candidate, "admit", named=False)
    assert page.post("/screening/topics", data={"text": "late"}).status_code == 403
    with pytest.raises(UserError, match="trial is over"):
        screening.say(store, who, "late")
    assert check(store) == []


def test_the_pages_say_what_the_numbers_are_worth(store: Store, made: Made, visit: Visit) -> None:
    made.filled("compare", 12, k=4, screening=True, name="trial")
    one, who = made.account("reviewer"), made.screened()
    for _ in range(12):
        made.answer(one.id), made.answer(who.id, body=ranked((4, 3, 2, 1)))
    text = visit("reviewer").get("/screening").text
    assert "nobody is selected on demographics" in text and "A person chooses" in text
    assert "100% (93 to 100)" in text and "above 75%" in text  # 48 harmless outputs, seen so
    assert "0% (0 to 24)" in text and "below 75%" in text and "72 pairs of 12 items" in text
    assert "too few to say" in text  # nothing was written
    assert "the key flags 0, the candidate 0" in text
    admin = visit("admin")
    assert "24 answers to 12 items" in admin.get("/batches").text
    assert "everyone" in admin.get("/batches").text
    assert str(EVERYONE) not in admin.get("/batches").text


# ---- nothing of it gets out ------------------------------------------------------------------------------------


@pytest.fixture
def screened(store: Store, made: Made) -> dict[str, str]:
    """One ordinary ranking and demonstration; and screening by a candidate, who was admitted since, and a reviewer."""
    screens = made.filled("compare", 3, k=3, screening=True)
    writes = made.filled("demonstrate", 2, screening=True)
    kim, one = made.screened(name="Kim"), made.account("reviewer", name="One")
    for who in (kim, one):
        for ranks in ((1, 2, 3), (3, 2, 1), (2, 1, 3)):
            made.answer(who.id, body=ranked(ranks, [SEXUAL]) | {"edited": f"Trial edit by {who.name}."})
        wrote(made, who, f"Trial words by {who.name}.")
    (candidate,) = screening.view(store).candidates
    screening.decide(store, made.account("admin"), candidate, "admit", named=False)
    ordinary = made.filled("compare", 1, k=3)
    made.filled("demonstrate", 1)
    made.answer(kim.id, body=ranked((2, 1, 3)))
    wrote(made, kim, "Words for training.")
    return {"screens": screens, "writes": writes, "ordinary": ordinary, "kim": kim.id, "one": one.id}


def test_exports_and_rounds_have_none_of_it(store: Store, screened: dict[str, str], tmp_path: Path) -> None:
    counts = export(store, tmp_path / "out", kinds=("compare", "judge"), playground=True)
    told = {"demonstrations": 1, "edited": 0, "rankings": 1, "labelers": 1}
    assert {name: counts[name] for name in told} == told
    found = write_round_data(store, tmp_path / "round")
    assert [len(found[name].read_text().splitlines()) for name in ("demonstrations", "rankings")] == [1, 1]
    for path in [*(tmp_path / "out").iterdir(), *(tmp_path / "round").iterdir()]:
        assert b"Trial" not in path.read_bytes()
        assert b"sexual_content" not in path.read_bytes()


def test_agreement_values_and_outliers_have_none_of_it(store: Store, screened: dict[str, str]) -> None:
    rows = harvest.verdicts(store)
    assert [(r.labeler, r.ranks) for r in rows] == [(screened["kim"], (2, 1, 3))]
    assert agreement.of_batch(store, screened["screens"]) is None
    assert [(g.name, g.rankings) for g in values.groups(rows, rows)] == [("training", 1)]
    assert {name: len(own) for name, own in groupmodel.compared(store).items()} == {"training": 1}
    kim = people.labeler(store, screened["kim"])
    assert (kim.agreement, kim.outlier.items) == (None, 0)
    assert [(done.kind, done.answers) for done in kim.done] == [("compare", 1), ("demonstrate", 1)]
    assert {p.name: p.answers for p in people.people(store) if p.answers} == {"Kim": 2}


def test_skips_of_the_trial_are_no_skips_of_the_work(store: Store, made: Made, visit: Visit) -> None:
    batch, who = made.filled("compare", 1, screening=True), made.screened(name="Kim")
    task = queue.claim(store, who.id, "compare")
    assert task is not None
    queue.give_back(store, who.id, task, "skipped", "too unpleasant")
    assert people.labeler(store, who.id).skipped == 0
    page = visit("reviewer").get(f"/batches/{batch}").text
    assert "too unpleasant" in page and "Kim" not in page


def test_the_loops_counts_have_none_of_it(store: Store, screened: dict[str, str], made: Made) -> None:
    counts = overview.overview(store).counts
    assert (counts.demonstrations, counts.edited, counts.writers) == (1, 0, 1)
    assert (counts.rankings, counts.rankers, counts.ranked_prompts, counts.groups) == (1, 1, 1, {"training": 1})
    assert (counts.to_write, counts.to_rank, counts.to_judge) == (0, 0, 0)
    assert (counts.fresh_ranked, counts.fresh_written) == (1, 1)


def test_no_prompts_page_shows_who_answered_what(store: Store, screened: dict[str, str], visit: Visit) -> None:
    reviewer = visit("reviewer")
    for name in ("screens", "writes"):
        for line in batches.items_of(store, screened[name]):
            found = catalogue.one(store, line.prompt_id)
            assert found is not None and found.answers == []
            assert "Trial" not in reviewer.get(f"/prompts/{line.prompt_id}").text


def test_whoever_opens_the_file_sees_what_trains(store: Store, screened: dict[str, str]) -> None:
    with store.read() as tx:
        counts = [
            tx.execute(sa.text(f"SELECT count(*) FROM {view}")).scalar_one()
            for view in ("rankings", "demonstrations", "progress")
        ]
    assert counts == [1, 1, 2]


def test_once_screened_always_left_out(store: Store, screened: dict[str, str], made: Made) -> None:
    """It is the batch that decides, not who answered: the reviewer who becomes a labeler brings nothing along."""
    accounts.change(store, made.account("admin"), screened["one"], role="labeler", team="training", active=True)
    assert len(harvest.verdicts(store)) == 1
    assert overview.overview(store).counts.rankings == 1


# ---- check -----------------------------------------------------------------------------------------------------


def test_check_knows_what_screening_needs(store: Store, made: Made) -> None:
    made.filled("demonstrate", 2, screening=True), made.filled("demonstrate", 1), made.filled("judge", 1, k=2)
    who, other, reviewer = made.screened(), made.account("labeler"), made.account("reviewer")
    first, ordinary = wrote(made, who), wrote(made, other)
    grading.give(store, reviewer, first, 5)
    screening.say(store, who, "the sea")
    assert check(store) == []
    with store.write() as tx:
        row = {"number": 1, "grade": 4, "created": 0.0}
        tx.execute(grades.insert().values(id="of ordinary", answer_id=ordinary, account_id=reviewer.id, **row))
        tx.execute(grades.insert().values(id="of own", answer_id=first, account_id=who.id, **row))
        tx.execute(grades.insert().values(id="third", answer_id=first, account_id=reviewer.id, **row | {"number": 3}))
        tx.execute(topics.insert().values(id="third", account_id=who.id, number=3, text="", created=0.0))
        tx.execute(account_table.update().where(account_table.c.id == other.id).values(standing="king"))
        tx.execute(account_table.update().where(account_table.c.id == who.id).values(standing="admitted"))
        tx.execute(batch_table.update().where(batch_table.c.kind == "judge").values(screening=True))
    found = "\n".join(check(store))
    for said in (
        "grade of ordinary: is not of a demonstration that was written for screening",
        "grade of own: was given by the one who wrote the answer",
        "one person's grade are not numbered 1 to 2",
        "what it can judge are not numbered 1 to 2",
        "grade third: is not in the audit trail",
        "its standing is king",
        "was admitted, but the audit trail does not say so",
        "screens labelers, but asks for judging",
    ):
        assert said in found
