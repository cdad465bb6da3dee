"""What labelers see and send back: blind, shuffled and put in order again, and every bad body refused in one line."""

from __future__ import annotations

import itertools
import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_studio import Made

from tutelage.records import FieldError
from tutelage.studio import forms, markdown, queue, work
from tutelage.studio.places import sweep
from tutelage.studio.queue import LEASE, Gone
from tutelage.studio.schema import prompts
from tutelage.studio.store import Store
from tutelage.studio.work import LONGEST, MOST_ROWS, Task, order_of, stored

FORM = forms.default_form()


def task(kind: str = "compare", *, k: int = 3, seed: int = 5, prompt_kind: str = "plain") -> Task:
    """A task without a database."""
    return Task(
        assignment="A",
        fence=1,
        kind=kind,
        state="active",
        mode="helpful-first",
        batch="one",
        prompt_id="p",
        prompt="Say something.",
        use_case="other",
        prompt_kind=prompt_kind,
        flags=(),
        order=tuple(order_of(seed, k)) if kind != "demonstrate" else (),
        texts=tuple("abcdefghi"[:k]) if kind != "demonstrate" else (),
        form=FORM,
        draft=None,
        draft_no=0,
        seconds=0.0,
        expires=0.0,
        earlier=None,
    )


def body(k: int = 3, **changes: Any) -> dict[str, Any]:
    """What a page would send for K responses, the first shown best."""
    ratings = [{"likert": max(1, 7 - n), "flags": {}, "note": ""} for n in range(k)]
    return {"ranks": list(range(1, k + 1)), "ratings": ratings, "log": [], "touched": False, "edited": ""} | changes


# ---- order -----------------------------------------------------------------------------------------------------


def test_the_order_is_the_same_for_the_same_seed_for_ever() -> None:
    """Stored answers are read back by it: a change here would scramble every ranking ever given."""
    assert order_of(1, 4) == [3, 0, 2, 1]
    assert order_of(2026, 9) == [7, 3, 2, 8, 0, 6, 4, 5, 1]


@pytest.mark.parametrize("k", range(2, 10))
def test_every_place_gets_every_response_about_equally_often(k: int) -> None:
    seeds = 3000
    counts = [0] * k
    for seed in range(seeds):
        order = order_of(seed, k)
        assert sorted(order) == list(range(k))
        counts[order[0]] += 1
    assert max(abs(c - seeds / k) for c in counts) < 5 * (seeds / k) ** 0.5


@given(st.integers(2, 9), st.integers(0, 2**31 - 1), st.data())
def test_what_is_stored_comes_back_as_it_was_shown(k: int, seed: int, data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, k), min_size=k, max_size=k))
    likerts = data.draw(st.lists(st.integers(1, 7), min_size=k, max_size=k))
    one = task(k=k, seed=seed)
    sent = body(k, ranks=ranks, ratings=[{"likert": n} for n in likerts])
    kept = stored(one, sent)
    for shown, index in enumerate(one.order):
        assert kept["ratings"][index]["likert"] == likerts[shown]
    pairs = list(itertools.permutations(range(k), 2))
    better = {(a, b) for a, b in pairs if ranks[a] < ranks[b]}
    assert better == {(a, b) for a, b in pairs if kept["ranks"][one.order[a]] < kept["ranks"][one.order[b]]}
    assert set(kept["ranks"]) == set(range(1, len(set(ranks)) + 1))  # dense
    back = work._as_shown(kept, list(one.order))
    assert [row["likert"] for row in back["ratings"]] == likerts


# ---- the log ---------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(2, 9), st.data())
def test_a_log_that_leads_to_the_ranks_is_kept_and_any_other_refused(k: int, data: st.DataObject) -> None:
    start = data.draw(st.lists(st.integers(1, k), min_size=k, max_size=k))
    moves = data.draw(st.lists(st.tuples(st.integers(0, k - 1), st.integers(1, k)), max_size=20))
    ranks = list(start)
    for place, rank in moves:
        ranks[place] = rank
    log = [["start", n, rank] for n, rank in enumerate(start)] + [["rank", *move] for move in moves]
    kept = stored(task(k=k), body(k, ranks=ranks, log=log))
    assert kept["log"] == log
    assert kept["touched"] is bool(moves)
    wrong = [ranks[0] % k + 1, *ranks[1:]]
    with pytest.raises(FieldError, match="does not lead to the ranks"):
        stored(task(k=k), body(k, ranks=wrong, log=log))


STEPS: list[Any] = [
    "rank",
    [["rank", 0]],
    [["rank", 0, 1, 1]],
    [["jump", 0, 1]],
    [{"rank": 1}],
    [["rank", 3, 1]],
    [["rank", -1, 1]],
    [["rank", 0, 0]],
    [["rank", 0, 4]],
    [["rank", True, 1]],
    [["rank", 0, 1.0]],
    [["rank", [], 1]],
    [["rank", 0, None]],
    [["rank", 0, 1]] * 10_001,
    [["rank", 0, 2]],
]


@pytest.mark.parametrize("log", STEPS, ids=lambda log: json.dumps(log)[:30])
def test_a_log_that_is_none_is_refused(log: Any) -> None:
    with pytest.raises(FieldError, match="field 'log'"):
        stored(task(), body(log=log))


# ---- bad bodies ------------------------------------------------------------------------------------------------

RATING: dict[str, Any] = {"likert": 4, "flags": {}, "note": ""}
BAD: list[tuple[str, Any, str]] = [
    ("no object", [1, 2], "is not an object"),
    ("nothing", None, "is not an object"),
    ("no ranks", {"ratings": [RATING] * 3}, "field 'ranks' must have 3 entries"),
    ("few ranks", body(ranks=[1, 2]), "field 'ranks' must have 3 entries"),
    ("ranks as text", body(ranks="123"), "field 'ranks' must have 3 entries"),
    ("a rank beyond K", body(ranks=[1, 2, 4]), "whole numbers from 1 to 3"),
    ("rank zero", body(ranks=[0, 1, 2]), "whole numbers from 1 to 3"),
    ("a rank of truth", body(ranks=[True, 1, 2]), "whole numbers from 1 to 3"),
    ("a broken rank", body(ranks=[1.5, 1, 2]), "whole numbers from 1 to 3"),
    ("no rank", body(ranks=[None, 1, 2]), "whole numbers from 1 to 3"),
    ("no ratings", body(ratings=None), "field 'ratings' must have 3 entries"),
    ("few ratings", body(ratings=[RATING]), "field 'ratings' must have 3 entries"),
    ("a rating that is a number", body(ratings=[4, 4, 4]), r"ratings\[0\]' is not an object"),
    ("not rated", body(ratings=[RATING, RATING | {"likert": None}, RATING]), r"ratings\[1\].likert' is missing"),
    ("truth for a mark", body(ratings=[RATING | {"likert": True}] * 3), "is missing"),
    ("a mark of 8", body(ratings=[RATING | {"likert": 8}] * 3), "expected 1 to 7"),
    ("a mark of 0", body(ratings=[RATING | {"likert": 0}] * 3), "expected 1 to 7"),
    ("flags as a list", body(ratings=[RATING | {"flags": []}] * 3), "not on this form"),
    ("an unknown flag", body(ratings=[RATING | {"flags": {"nice": True}}] * 3), "not on this form"),
    ("a flag of 1", body(ratings=[RATING | {"flags": {"hallucination": 1}}] * 3), "must be true or false"),
    ("a note that is a list", body(ratings=[RATING | {"note": []}] * 3), r"ratings\[0\].note' is not text"),
    ("a long note", body(ratings=[RATING | {"note": "x" * (LONGEST + 1)}] * 3), "at most 100,000"),
    ("a note with NUL", body(ratings=[RATING | {"note": "a\0b"}] * 3), "NUL"),
    ("an edit that is a number", body(edited=5), "field 'edited' is not text"),
    ("half a character", body(edited="\ud800"), "half a character"),
]


@pytest.mark.parametrize(("sent", "problem"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_ranking_is_refused_in_one_line(sent: Any, problem: str) -> None:
    with pytest.raises(FieldError, match=problem) as caught:
        stored(task(), sent)
    assert "\n" not in str(caught.value)


PAIR = {"query": "cow", "response": "calf"}
BAD_WRITING: list[tuple[str, Any, str]] = [
    ("nothing", {}, "field 'response' is empty"),
    ("white space", {"response": " \n\t"}, "field 'response' is empty"),
    ("a number", {"response": 7}, "is not text"),
    ("too long", {"response": "x" * (LONGEST + 1)}, "has 100,001 characters; at most 100,000"),
    ("NUL", {"response": "a\0"}, "NUL"),
    ("rows that are none", {"response": "a", "rows": "b"}, "must be a list of at most"),
    ("too many rows", {"response": "a", "rows": [PAIR] * (MOST_ROWS + 1)}, "must be a list of at most"),
    ("a row of text", {"response": "a", "rows": ["b"]}, r"rows\[0\]' is not a pair"),
    (
        "half a row",
        {"response": "a", "rows": [PAIR, {"query": "cow"}]},
        r"rows\[1\].response' is empty",
    ),
    ("the other half", {"response": "a", "rows": [{"response": "calf"}]}, r"rows\[0\].query' is empty"),
    ("a row of numbers", {"response": "a", "rows": [{"query": 1, "response": 2}]}, r"rows\[0\].query' is not text"),
]


@pytest.mark.parametrize(("sent", "problem"), [b[1:] for b in BAD_WRITING], ids=[b[0] for b in BAD_WRITING])
def test_a_bad_demonstration_is_refused_in_one_line(sent: Any, problem: str) -> None:
    with pytest.raises(FieldError, match=problem):
        stored(task("demonstrate", prompt_kind="few-shot"), sent)


def test_pairs_are_for_few_shot_prompts() -> None:
    few, plain = task("demonstrate", prompt_kind="few-shot"), task("demonstrate")
    empty = {"query": "", "response": " "}
    assert stored(few, {"response": " a ", "rows": [PAIR, empty]}) == {"response": "a", "rows": [PAIR]}
    assert stored(few, {"response": "a"}) == {"response": "a", "rows": []}
    assert stored(plain, {"response": "a", "rows": []}) == {"response": "a"}
    with pytest.raises(FieldError, match="few-shot prompts only"):
        stored(plain, {"response": "a", "rows": [PAIR]})


@pytest.mark.parametrize("kind", ["compare", "demonstrate"])
@given(sent=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["ranks", "ratings", "log", "response", "rows", "likert", "flags"]), inner),
    max_leaves=12,
))  # fmt: skip
def test_nothing_that_is_sent_breaks_it(kind: str, sent: Any) -> None:
    try:
        kept = stored(task(kind, prompt_kind="few-shot"), sent)
    except FieldError:
        return
    json.dumps(kept)


# ---- with a database -------------------------------------------------------------------------------------------


def taken(made: Made, kind: str = "compare", **more: Any) -> tuple[str, str]:
    """(account, assignment) of a fresh task in hand."""
    made.filled(kind, **more)
    account = made.account().id
    assignment = queue.claim(made.store, account, kind)
    assert assignment is not None
    return account, assignment


def test_a_task_shows_its_own_responses_shuffled_by_its_seed(store: Store, made: Made) -> None:
    account, assignment = taken(made, k=9)
    shown = work.task(store, account, assignment)
    ids = made.item_of(assignment).responses
    assert list(shown.order) == order_of(made.assignment(assignment).order_seed, 9)
    for place, index in enumerate(shown.order):
        assert shown.texts[place] == f"Response {index} to {ids[0].split('/')[0]}: the sea is wide."


def test_nobody_sees_anybody_elses(store: Store, made: Made) -> None:
    _, assignment = taken(made)
    other = made.account().id
    for attempt in (
        lambda: work.task(store, other, assignment),
        lambda: work.take(store, other, assignment),
        lambda: work.keep(store, other, assignment, 1, {}, 0.0),
    ):
        with pytest.raises(Gone, match="no such task of yours"):
            attempt()


def test_an_answer_is_shown_again_as_it_was_given(store: Store, made: Made) -> None:
    account, assignment = taken(made, k=5)
    one = work.task(store, account, assignment)
    sent = body(5, ranks=[3, 1, 1, 2, 4], edited="Better.")
    queue.submit(store, account, assignment, made.key(), stored(one, sent), 1.0)
    earlier = work.task(store, account, assignment).earlier
    assert earlier is not None
    assert (earlier["ranks"], earlier["ratings"]) == (sent["ranks"], sent["ratings"])


def test_the_page_that_opened_it_last_is_the_one_that_writes(store: Store, made: Made) -> None:
    account, assignment = taken(made, "demonstrate")
    first = work.take(store, account, assignment)
    second = work.take(store, account, assignment)
    assert second.fence > first.fence
    with pytest.raises(Gone, match="opened again"):
        work.keep(store, account, assignment, first.fence, {"body": {}}, 1.0)
    assert work.keep(store, account, assignment, second.fence, {"body": {}}, 1.0).revision == 1
    key = made.key()
    queue.submit(store, account, assignment, key, {"response": "a"}, 1.0, second.fence)
    assert queue.submit(store, account, assignment, key, {"response": "a"}, 1.0, first.fence).repeated
    with pytest.raises(Gone, match="another tab"):
        queue.submit(store, account, assignment, made.key(), {"response": "b"}, 1.0, first.fence)
    with pytest.raises(Gone):  # a draft of the same page that was still on its way
        work.keep(store, account, assignment, second.fence, {"body": {}}, 1.0)
    revising = work.take(store, account, assignment)
    assert (revising.draft, revising.state) == (None, "submitted")
    assert work.keep(store, account, assignment, revising.fence, {"body": {}}, 1.0).held


def test_a_draft_takes_its_place_back_where_it_is_free(store: Store, made: Made, clock: Any) -> None:
    account, assignment = taken(made, "demonstrate")
    fence = work.take(store, account, assignment).fence
    clock.move(LEASE + 1)
    assert sweep(store) == 1
    kept = work.keep(store, account, assignment, fence, {"body": {}}, 1.0)
    assert kept.held and kept.fence > fence
    assert made.assignment(assignment).state == "active"
    clock.move(LEASE + 1)
    assert queue.claim(store, made.account().id, "demonstrate") is not None
    late = work.keep(store, account, assignment, kept.fence, {"body": {"response": "late"}}, 1.0)
    assert not late.held and late.fence == kept.fence
    assert made.assignment(assignment).draft == {"body": {"response": "late"}}


@pytest.mark.parametrize(
    ("draft", "problem"),
    [
        ("text", "is not an object"),
        ({"a": float("nan")}, "is not plain JSON"),
        ({"a": "\ud800"}, "half a character"),
        ({"a": "x" * work.LONGEST_DRAFT}, "at most 2,000,000"),
    ],
    ids=["text", "nan", "surrogate", "long"],
)
def test_a_bad_draft_is_refused_in_one_line(store: Store, made: Made, draft: Any, problem: str) -> None:
    account, assignment = taken(made, "demonstrate")
    with pytest.raises(FieldError, match=problem):
        work.keep(store, account, assignment, 1, draft, 1.0)
    assert made.assignment(assignment).draft is None


def test_what_people_write_comes_back_unchanged(store: Store, made: Made) -> None:
    account, assignment = taken(made, "demonstrate")
    text = "“Grüße” 🌊 \u202e \\u0000 'quoted' \"twice\" ‮ עברית\nline"
    draft = {"body": {"response": text + "\0"}}
    work.keep(store, account, assignment, 1, draft, 1.0)
    assert work.task(store, account, assignment).draft == draft
    with store.write() as tx:
        tx.execute(prompts.update().values(text=text))
    assert work.task(store, account, assignment).prompt == text


# ---- the form, and Markdown ------------------------------------------------------------------------------------


def test_every_question_has_a_key_of_its_own() -> None:
    keyed = forms.keyed(FORM)
    assert len(keyed) == len(FORM["flags"]) == 11
    assert "".join(flag["key"] for flag in keyed) == "qwertyuiopa"  # hands remember them
    assert len(set(forms.KEYS)) == len(forms.KEYS) and not set(forms.KEYS) & set("gjkmnbx")


def test_markdown_keeps_line_breaks_of_texts_and_not_of_files() -> None:
    assert markdown.render("a\nb") == "<p>a<br>\nb</p>\n"
    assert markdown.render("a\nb", breaks=False) == "<p>a\nb</p>\n"


HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": "![x](http://example.com/x.png) <img src=x onerror=alert(1)>",
    "link": "[x](javascript:alert(1)) <a href='javascript:alert(1)'>x</a> [y](http://example.com)",
    "attribute": "<b onclick=alert(1) style='x'>y</b>",
    "svg": "<svg><script>alert(1)</script></svg><math><mi//xlink:href='data:x'>",
    "entity": "&lt;script&gt; &#x3c;script&#x3e;",
    "fence": "```<script>\n</code></pre><script>alert(1)</script>\n```",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_markdown_is_harmless(text: str) -> None:
    html = str(markdown.render(text)).lower()
    tags = re.findall("<[^>]*>", html)
    assert tags
    for bad in ("script", "img", "<a", "svg", "math", "<b ", "style", "href", "src", "onclick"):
        assert not any(bad in tag for tag in tags), html


@pytest.mark.parametrize("piece", ["[", "*a ", "> ", "`", "- ", "x\n\n", "|a", "x" * 1000])
def test_no_text_keeps_the_studio_busy(piece: str) -> None:
    for length in (markdown.LONGEST, 5_000_000):
        text = (piece * (length // len(piece) + 1))[:length]
        began = time.process_time()
        assert markdown.render(text)
        assert time.process_time() - began < 5
