"""Accounts and invitations as pages, what a labeler's page counts, and the survey that nobody can be found by."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from made_studio import PASSWORD, Made, Visit, ranking
from starlette.testclient import TestClient

from tutelage.records import UserError
from tutelage.studio import accounts, people, queue, survey
from tutelage.studio.schema import actions, surveys
from tutelage.studio.store import Store


def test_an_invitation_is_a_link_that_works_once(client: TestClient, visit: Visit, store: Store) -> None:
    admin = visit("admin")
    page = admin.post("/people/invite", data={"role": "reviewer", "team": "north"}).text
    (link,) = re.findall(r'value="(http[^"]+/join/[^"]+)"', page)
    assert link not in admin.get("/people").text
    assert "reviewer, group north" in admin.get("/people").text
    joined = client.post(link, data={"name": "Kim", "password": PASSWORD})
    assert joined.status_code == 200
    assert "reviewer, group north" not in admin.get("/people").text
    assert {(p.name, p.role, p.team) for p in people.people(store)} >= {("Kim", "reviewer", "north")}
    assert admin.post("/people/invite", data={"role": "king"}).status_code == 400


def test_closing_and_opening_an_account(made: Made, visit: Visit) -> None:
    kim = made.account(name="Kim")
    admin, theirs = visit("admin"), visit(kim)
    assert theirs.get("/survey").status_code == 200
    page = admin.post(f"/people/{kim.id}", data={"role": "labeler", "team": "north"})
    assert "closed" in page.text
    assert "/login" in str(theirs.get("/survey").url)
    page = admin.post(f"/people/{kim.id}", data={"role": "heldout", "team": "north", "active": "true"})
    assert "held-out labeler, group north" in page.text


def test_the_last_admin_stays(made: Made, visit: Visit) -> None:
    ada = made.account("admin", name="Ada")
    page = visit(ada).post(f"/people/{ada.id}", data={"role": "labeler", "team": "x", "active": "true"})
    assert page.status_code == 400
    assert "at least one admin" in page.text


def test_a_new_password_is_shown_once_and_works(made: Made, visit: Visit, store: Store) -> None:
    kim = made.account(name="Kim")
    admin, theirs = visit("admin"), visit(kim)
    page = admin.post(f"/people/{kim.id}/password").text
    (password,) = re.findall(r'readonly value="([^"]+)"', page)
    assert accounts.login(store, "Kim", PASSWORD) is None
    assert accounts.login(store, "Kim", password)
    assert "/login" in str(theirs.get("/survey").url)
    with store.read() as tx:
        by = tx.execute(sa.select(actions.c.account_id).where(actions.c.what == "password")).scalar_one()
    assert by is not None
    assert by != kim.id  # the log says who gave it
    assert password not in admin.get(f"/people/{kim.id}").text


def test_what_a_labeler_did(store: Store, made: Made) -> None:
    kim = made.account(name="Kim")
    made.filled("compare", 3, k=2)
    for seconds, touched in ((30.0, True), (50.0, True), (0.1, False)):
        task = queue.claim(store, kim.id, "compare")
        assert task is not None
        queue.submit(store, kim.id, task, made.key(), ranking(2) | {"touched": touched}, seconds)
    queue.submit(store, kim.id, task, made.key(), ranking(2), 40.0)  # thought again
    made.filled("demonstrate", 2)
    for response in ("Short.", "word " * 200):
        task = queue.claim(store, kim.id, "demonstrate")
        assert task is not None
        queue.submit(store, kim.id, task, made.key(), {"response": response}, 20.0)
    made.filled("compare", 1)
    task = queue.claim(store, kim.id, "compare")
    assert task is not None
    queue.give_back(store, kim.id, task, "skipped", "unclear")
    found = people.labeler(store, kim.id)
    ranked, written = found.done
    assert (ranked.kind, ranked.answers, ranked.revised, ranked.median) == ("compare", 3, 1, 30.0)
    assert (ranked.fast, ranked.untouched) == (1, 1)
    assert (written.kind, written.answers, written.fast, written.seconds) == ("demonstrate", 2, 1, 40.0)
    assert found.skipped == 1
    (listed,) = people.people(store, kim.id)
    assert listed.answers == 5
    with pytest.raises(UserError, match="no such account"):
        people.labeler(store, "nobody")


# ---- the survey ------------------------------------------------------------------------------------------------


def test_a_survey_leaves_no_trace_of_who(store: Store, made: Made, visit: Visit) -> None:
    kim = made.account(name="Kim")
    with store.read() as tx:
        before = tx.execute(sa.select(sa.func.count()).select_from(actions)).scalar_one()
    page = visit(kim).post("/survey/who", data={"age": "25-34", "ethnicity": ["Latinx", "Another"], "nationality": ""})
    assert "Thank you" in page.text
    with store.read() as tx:
        assert tx.execute(sa.select(sa.func.count()).select_from(actions)).scalar_one() == before
        (row,) = tx.execute(sa.select(surveys)).all()
    assert row.body == {"survey": "who", "answers": {"ethnicity": ["Latinx", "Another"], "age": ["25-34"]}}
    assert row.day == "2026-09-21"
    assert kim.id not in str(tuple(row))
    assert not row.id.startswith(kim.id[:6])  # no ULID: the time of day is not in it


def test_answers_that_are_not_on_the_form_are_refused(store: Store, visit: Visit) -> None:
    labeler = visit("labeler")
    for kind, given in (
        ("who", {"age": "seven"}),
        ("who", {"age": ["25-34", "35-44"]}),
        ("who", {"nationality": "x" * 61}),
        ("work", {"clear": ""}),
        ("nothing", {"a": "b"}),
    ):
        assert labeler.post(f"/survey/{kind}", data=given).status_code == 400
    assert survey.results(store)["who"][0] == 0


def test_results_are_shown_from_five_on(store: Store, visit: Visit) -> None:
    admin = visit("admin")
    for n in range(4):
        survey.answer(store, "work", {"glad": ["Agree" if n else "Neither"]})
    assert survey.results(store)["work"] == (4, [])
    assert "shown from 5 on" in admin.get("/survey/results").text
    survey.answer(store, "work", {"glad": ["Agree"], "clear": ["Disagree"]})
    count, rows = survey.results(store)["work"]
    assert count == 5
    glad = next(row for row in rows if row.question.name == "glad")
    assert dict(glad.counts)["Agree"] == 4
    assert [name for name, _ in glad.counts] == list(survey.SCALE)
    assert glad.answered == 5
    assert "Overall, I&#39;m glad" in admin.get("/survey/results").text
