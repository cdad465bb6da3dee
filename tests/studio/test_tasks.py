"""The routes a labeler works through: their own tasks only, in one line what is wrong, nothing credited twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from made_studio import Clock, Made
from starlette.testclient import TestClient

from tutelage.studio import queue
from tutelage.studio.accounts import Account
from tutelage.studio.queue import LEASE
from tutelage.studio.schema import prompts, responses
from tutelage.studio.store import Store

Visit = Callable[[str | Account], TestClient]
HOSTILE = "<script>alert(1)</script></textarea></pre><img src=x onerror=alert(2)>{{ 7 * 7 }}"
JSON = {"accept": "application/json"}


@pytest.fixture
def me(made: Made) -> Account:
    """A labeler."""
    return made.account()


@pytest.fixture
def mine(visit: Visit, me: Account) -> TestClient:
    """The labeler's browser."""
    return visit(me)


def claim(made: Made, me: Account, kind: str = "demonstrate", count: int = 1, **more: Any) -> str:
    """A fresh task in the labeler's hand."""
    made.filled(kind, count, **more)
    found = queue.claim(made.store, me.id, kind)
    assert found is not None
    return found


def take(client: TestClient, task: str) -> dict[str, Any]:
    """What the page's script is told first."""
    answer = client.post(f"/api/task/{task}/open")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ranked(k: int, **more: Any) -> dict[str, Any]:
    return {"ranks": list(range(1, k + 1)), "ratings": [{"likert": 4}] * k, "log": [], "touched": True} | more


def test_from_the_desk_through_a_task_to_the_next(mine: TestClient, made: Made, me: Account) -> None:
    made.filled("demonstrate", 2)
    assert "2 waiting for you" in mine.get("/").text
    page = mine.post("/next/demonstrate")
    task = page.url.path.rsplit("/", 1)[1]
    assert page.status_code == 200 and f'data-id="{task}"' in page.text
    there = take(mine, task)
    assert (there["state"], there["held"], there["draft"], there["earlier"]) == ("active", True, None, None)
    sent = {"fence": there["fence"], "seconds": 3.5, "body": {"body": {"response": "The sea"}, "at": 1}}
    assert mine.put(f"/api/task/{task}/draft", json=sent).json()["revision"] == 1
    assert take(mine, task)["draft"] == sent["body"]
    booked = {"key": made.key(), "seconds": 9.0, "body": {"response": " The sea. "}}
    answer = mine.post(f"/api/task/{task}/submit", json=booked)
    assert answer.json() == {"number": 1, "extra": False, "repeated": False}
    assert [(a.body, a.seconds) for a in made.answers()] == [({"response": "The sea."}, 9.0)]
    after = mine.post("/api/next/demonstrate").json()["next"]
    assert after.startswith("/task/") and after != f"/task/{task}"
    assert "Done: 1 today." in mine.get("/").text


def test_when_there_is_nothing_more_the_desk_says_so(mine: TestClient) -> None:
    assert mine.post("/api/next/compare").json() == {"next": "/"}
    assert mine.post("/next/nonsense").url.path == "/"
    assert "Nothing is waiting for you." in mine.get("/").text


def test_the_same_submit_five_times_is_one_answer(mine: TestClient, made: Made, me: Account) -> None:
    task = claim(made, me, "compare", k=4)
    sent = {"key": made.key(), "fence": take(mine, task)["fence"], "seconds": 1.0, "body": ranked(4)}
    replies = [mine.post(f"/api/task/{task}/submit", json=sent).json() for _ in range(5)]
    assert [r["repeated"] for r in replies] == [False, True, True, True, True]
    assert len(made.answers()) == 1


def test_of_two_tabs_the_older_is_told(mine: TestClient, made: Made, me: Account) -> None:
    task = claim(made, me)
    old, new = take(mine, task)["fence"], take(mine, task)["fence"]
    late = mine.put(f"/api/task/{task}/draft", json={"fence": old, "seconds": 1, "body": {"words": "old"}})
    assert (late.status_code, late.json()) == (
        409,
        {"problem": "this task was opened again or submitted in another tab"},
    )
    assert mine.put(f"/api/task/{task}/draft", json={"fence": new, "seconds": 1, "body": {"words": "new"}}).is_success
    first = {"key": made.key(), "fence": new, "seconds": 1, "body": {"response": "new"}}
    assert mine.post(f"/api/task/{task}/submit", json=first).is_success
    second = {"key": made.key(), "fence": old, "seconds": 1, "body": {"response": "old"}}
    assert mine.post(f"/api/task/{task}/submit", json=second).status_code == 409
    assert [a.body["response"] for a in made.answers()] == ["new"]


def test_a_late_answer_is_kept_as_an_extra(mine: TestClient, made: Made, me: Account, clock: Clock) -> None:
    task = claim(made, me)
    there = take(mine, task)
    clock.move(LEASE + 1)
    assert queue.claim(made.store, made.account().id, "demonstrate") is not None
    kept = mine.put(f"/api/task/{task}/draft", json={"fence": there["fence"], "seconds": 1, "body": {}})
    assert kept.json() == {"revision": 1, "fence": there["fence"], "held": False}
    sent = {"key": made.key(), "fence": there["fence"], "seconds": 1, "body": {"response": "late"}}
    assert mine.post(f"/api/task/{task}/submit", json=sent).json()["extra"] is True


def test_put_aside_and_taken_up_again(mine: TestClient, made: Made, me: Account) -> None:
    task = claim(made, me)
    there = take(mine, task)
    mine.put(f"/api/task/{task}/draft", json={"fence": there["fence"], "seconds": 7, "body": {"words": "half"}})
    assert mine.post(f"/task/{task}/postpone").url.path == "/"
    assert "Put aside" in mine.get("/").text
    assert mine.post(f"/task/{task}/resume").url.path == f"/task/{task}"
    again = take(mine, task)
    assert (again["draft"], again["seconds"], again["state"]) == ({"words": "half"}, 7.0, "active")


def test_a_skip_needs_a_reason_and_can_be_undone(mine: TestClient, made: Made, me: Account) -> None:
    task = claim(made, me)
    refused = mine.post(f"/task/{task}/skip", data={"reason": "  "}, headers=JSON)
    assert (refused.status_code, refused.json()) == (
        422,
        {"problem": "say in a few words why you skip this task"},
    )
    assert mine.post(f"/task/{task}/skip", data={"reason": "unclear\0"}, headers=JSON).status_code == 422
    assert made.assignment(task).state == "active"
    assert mine.post(f"/task/{task}/skip", data={"reason": "unclear"}).status_code == 200
    assert made.assignment(task).state == "skipped"
    assert "You skipped this task" in mine.get(f"/task/{task}").text
    assert mine.post(f"/task/{task}/resume").url.path == f"/task/{task}"
    assert made.assignment(task).state == "active"


def test_a_place_that_is_taken_cannot_be_taken_up(mine: TestClient, made: Made, me: Account) -> None:
    task = claim(made, me)
    mine.post(f"/task/{task}/postpone")
    assert queue.claim(made.store, made.account().id, "demonstrate") is not None
    refused = mine.post(f"/task/{task}/resume")
    assert refused.status_code == 409 and "went to somebody else" in refused.text


CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/task/{}", {}),
    ("POST", "/api/task/{}/open", {}),
    ("PUT", "/api/task/{}/draft", {"json": {"fence": 1, "seconds": 1, "body": {}}}),
    ("POST", "/api/task/{}/submit", {"json": {"key": "k" * 20, "seconds": 1, "body": {"response": "mine now"}}}),
    ("POST", "/task/{}/skip", {"data": {"reason": "because"}}),
    ("POST", "/task/{}/postpone", {}),
    ("POST", "/task/{}/resume", {}),
]


@pytest.mark.parametrize(("method", "path", "more"), CALLS, ids=[f"{m} {p}" for m, p, _ in CALLS])
def test_nobody_touches_the_task_of_somebody_else(
    visit: Visit, client: TestClient, made: Made, me: Account, method: str, path: str, more: dict[str, Any]
) -> None:
    task = claim(made, me)
    before = made.assignment(task)
    for other, status in (("labeler", 409), ("heldout", 409), ("reviewer", 409), ("admin", 409)):
        refused = visit(other).request(method, path.format(task), **more)
        assert refused.status_code == status, other
        assert "Write sentence number" not in refused.text
    out = client.request(method, path.format(task), follow_redirects=False, **more)
    assert out.status_code == (401 if path.startswith("/api/") or "data" in more else 303)
    assert made.assignment(task) == before and made.answers() == []


@pytest.mark.parametrize("name", ["nothing", "..%2f..%2fetc", "0" * 26, "%00", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "é" * 26])
@pytest.mark.parametrize(("method", "path", "more"), CALLS, ids=[f"{m} {p}" for m, p, _ in CALLS])
def test_a_task_that_is_none(mine: TestClient, name: str, method: str, path: str, more: dict[str, Any]) -> None:
    refused = mine.request(method, path.format(name), headers=JSON, **more)
    assert refused.status_code in (404, 405, 409), refused.text


BODIES: list[tuple[str, Any, str]] = [
    ("no key", {"body": {"response": "a"}}, "field 'key' must be 16 to 64"),
    ("a short key", {"key": "k", "body": {"response": "a"}}, "field 'key' must be 16 to 64"),
    ("a strange key", {"key": "k\0" * 10, "body": {"response": "a"}}, "field 'key' must be 16 to 64"),
    ("no body", {"key": "k" * 20}, "is not an object"),
    ("empty", {"key": "k" * 20, "body": {"response": "  "}}, "field 'response' is empty"),
    ("2 MB", {"key": "k" * 20, "body": {"response": "x" * 2_000_000}}, "has 2,000,000 characters; at most 100,000"),
    ("time runs back", {"key": "k" * 20, "seconds": -1, "body": {"response": "a"}}, "field 'seconds'"),
    ("time as text", {"key": "k" * 20, "seconds": "1", "body": {"response": "a"}}, "field 'seconds'"),
    ("a fence of text", {"key": "k" * 20, "fence": "1", "body": {"response": "a"}}, "field 'fence'"),
]


@pytest.mark.parametrize(("sent", "problem"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES])
def test_a_bad_submit_is_refused_in_one_line(
    mine: TestClient, made: Made, me: Account, sent: Any, problem: str
) -> None:
    task = claim(made, me)
    refused = mine.post(f"/api/task/{task}/submit", json=sent)
    assert refused.status_code == 422
    assert problem in refused.json()["problem"] and "\n" not in refused.json()["problem"]
    assert made.answers() == [] and made.assignment(task).state == "active"


def test_large_drafts_and_broken_json_are_refused(mine: TestClient, made: Made, me: Account) -> None:
    task = claim(made, me)
    fence = take(mine, task)["fence"]
    large = {"fence": fence, "seconds": 1, "body": {"body": {"response": "x" * 2_200_000}}}
    refused = mine.put(f"/api/task/{task}/draft", json=large)
    assert refused.status_code == 422 and "at most 2,000,000" in refused.json()["problem"]
    for raw in (b"", b"{", b"[]", b"null", b'{"fence": NaN}', b"\xff\xfe", b"[" * 100_000):
        refused = mine.put(f"/api/task/{task}/draft", content=raw, headers={"content-type": "application/json"})
        assert 400 <= refused.status_code < 500, raw
    assert made.assignment(task).draft is None


def test_hostile_text_is_escaped_everywhere(mine: TestClient, made: Made, me: Account, store: Store) -> None:
    tasks = [claim(made, me, "compare", k=2), claim(made, me)]
    with store.write() as tx:
        tx.execute(prompts.update().values(text=HOSTILE))
        tx.execute(responses.update().values(text=HOSTILE))
    for path in (*(f"/task/{task}" for task in tasks), "/"):
        text = mine.get(path).text
        assert "<script>alert" not in text and "<img" not in text and "</textarea></pre>" not in text
        assert "&lt;script&gt;" in text or path == "/"
        assert "{{ 7 * 7 }}" in text or path == "/"
    shown = mine.post("/api/preview", json={"text": HOSTILE + "\n\n**kept**"}).json()["html"]
    assert "<script" not in shown and "<img" not in shown and "<strong>kept</strong>" in shown


@pytest.mark.parametrize("size", [5_000_000])
def test_a_prompt_of_5_mb_is_shown_as_it_is(mine: TestClient, made: Made, me: Account, store: Store, size: int) -> None:
    task = claim(made, me)
    with store.write() as tx:
        tx.execute(prompts.update().values(text="**x** " * (size // 6)))
    page = mine.get(f"/task/{task}")
    assert page.status_code == 200 and "<strong>x" not in page.text
    assert mine.get("/").status_code == 200


@pytest.mark.parametrize("kind", ["compare", "judge"])
def test_neither_pages_nor_answers_name_models_or_ids(
    mine: TestClient, made: Made, me: Account, store: Store, kind: str
) -> None:
    task = claim(made, me, kind, k=4)
    row, item = made.assignment(task), made.item_of(task)
    there = take(mine, task)
    sent = {"key": made.key(), "seconds": 1, "body": ranked(4)}
    said = [
        mine.get("/").text,
        mine.get(f"/task/{task}").text,
        json.dumps(there),
        mine.put(f"/api/task/{task}/draft", json={"fence": there["fence"], "seconds": 1, "body": {}}).text,
        mine.post(f"/api/task/{task}/submit", json=sent).text,
        mine.get(f"/task/{task}").text,
        json.dumps(take(mine, task)),
        mine.get("/").text,
    ]
    for text in said:
        assert not [i for i in item.responses if i in text]
        assert "model-" not in text and str(row.order_seed) not in text and item.id not in text


def test_the_mode_the_batch_and_every_question_are_on_the_page(mine: TestClient, made: Made, me: Account) -> None:
    task = claim(made, me, "judge", k=3, mode="truthful-first", name="Old against new")
    page = mine.get(f"/task/{task}").text
    assert "truthful-first" in page and "Truth and harmlessness weigh most" in page and "Old against new" in page
    assert page.count('type="checkbox" name="hallucination"') == 3
    assert page.count('name="likert-0"') == 7 and page.count('name="rank-0"') == 3


def test_scripts_are_few_and_small(client: TestClient) -> None:
    """What a task page loads: fewer than 60 KB before any compression, nothing from elsewhere."""
    seen: dict[str, str] = {}
    waiting = ["compare.js", "demonstrate.js"]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            answer = client.get(f"/static/{name}")
            assert answer.headers["cache-control"] == "no-cache" and "javascript" in answer.headers["content-type"]
            seen[name] = answer.text
            lines = [
                line for line in answer.text.splitlines() if line.startswith(("import", "export")) and " from " in line
            ]
            waiting += [line.split('"./')[1].split('"')[0] for line in lines]
    assert len(seen) == 10
    assert sum(len(text.encode()) for text in seen.values()) < 60_000
    assert not any("http://" in text or "https://" in text or "eval(" in text for text in seen.values())
