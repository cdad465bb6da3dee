"""Text measures by hand, and what they must not depend on."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.evaluate.text import (
    describe,
    distinct_matched,
    distinct_n,
    duplicate_share,
    ngrams,
    self_repetition,
    top_opening,
    words,
)
from tutelage.records import Response


def test_words_and_ngrams() -> None:
    assert words("I'm sorry, Ann\u2019s mug!") == ["i'm", "sorry", ",", "ann\u2019s", "mug", "!"]
    assert ngrams("a b c", 2) == [("a", "b"), ("b", "c")]
    assert ngrams("a", 2) == []
    with pytest.raises(ValueError, match="n is 0"):
        ngrams("a b", 0)


def test_distinct_by_hand() -> None:
    # bigrams: a b, b a, a b | a b, b c: 3 different of 5
    assert distinct_n(["a b a b", "A b c"], 2) == pytest.approx(3 / 5)
    assert distinct_n(["a b a b"], 1) == pytest.approx(0.5)
    assert distinct_n(["a", ""], 2) == 0 == distinct_n([])


def test_length_matching_removes_the_bonus_of_brevity() -> None:
    # one source of words for both; the long model only says more of it
    text = [f"w{(i * i) % 97}" for i in range(2000)]
    long = [" ".join(text[i : i + 50]) for i in range(0, 2000, 50)]
    short = [" ".join(text[i : i + 10]) for i in range(0, 400, 10)]
    assert distinct_n(short) > 2 * distinct_n(long)
    got = distinct_matched({"long": long, "short": short})
    assert got["long"] == pytest.approx(got["short"], abs=0.05)
    assert got == distinct_matched({"short": short, "long": long})


def test_the_model_with_the_budget_is_measured_whole() -> None:
    groups = {"small": ["a b c a b", "x y"], "large": ["p q r s t u v"] * 3}
    got = distinct_matched(groups)
    assert got["small"] == pytest.approx(distinct_n(groups["small"])) == pytest.approx(4 / 5)
    assert got["large"] == 1  # five bigrams of the first response, all different
    assert distinct_matched({"none": ["a"], "some": ["a b"]}) == {"none": 0, "some": 0}
    assert distinct_matched({}) == {}


def test_self_repetition_by_hand() -> None:
    # trigrams: abc, bca, cab, abc: the last one came before
    assert self_repetition("a b c a b c") == pytest.approx(1 / 4)
    assert self_repetition("a a a a a") == pytest.approx(2 / 3)
    assert self_repetition("a b") == 0


def test_openings_and_duplicates() -> None:
    texts = ["I am sorry, Ann", "I am  SORRY for it", "Thanks a lot", "Thanks a lot"]
    assert top_opening(texts) == ("i am sorry", 0.5)
    assert top_opening([*texts, "thanks A lot!"]) == ("thanks a lot", 0.6)
    assert top_opening([]) == ("", 0)
    assert duplicate_share(texts) == pytest.approx(1 / 4)
    assert duplicate_share(["Yes.", " yes. ", "No."]) == pytest.approx(1 / 3)
    assert duplicate_share([]) == 0


def test_describe_by_hand() -> None:
    responses = [
        Response(id="1", text="I am here.", tokens=5, ended=True),
        Response(id="2", text="I am here.", tokens=7, ended=False),
    ]
    got = describe(responses)
    assert json.loads(json.dumps(got.to_dict())) == {
        "responses": 2,
        "tokens": 6.0,
        "words": 4.0,
        "ended": 0.5,
        "distinct_2": 0.5,
        "repetition": 0.0,
        "opening": "i am here",
        "opening_share": 1.0,
        "duplicates": 0.5,
    }
    with pytest.raises(ValueError, match="no responses"):
        describe([])


some = st.lists(st.text("ab c.", max_size=20), min_size=1, max_size=8)


@given(some)
def test_measures_are_shares(texts: list[str]) -> None:
    for value in (
        distinct_n(texts),
        duplicate_share(texts),
        top_opening(texts)[1],
        distinct_matched({"m": texts})["m"],
        *(self_repetition(text) for text in texts),
    ):
        assert 0 <= value <= 1
    assert distinct_matched({"m": texts})["m"] == pytest.approx(distinct_n(texts))
    assert distinct_n(texts) == distinct_n(texts[::-1])
