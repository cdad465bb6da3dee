"""Agreement, ratings and flags: by hand, and Krippendorff's alpha against its package."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.evaluate.agreement import (
    agreement_across,
    agreement_within,
    flag_agreement,
    flag_rates,
    krippendorff_alpha,
    likert_alpha,
    likert_means,
    verdict_alpha,
)
from tutelage.records import Ranking, Rating, Response, UserError


def ranking(
    prompt: str,
    ranks: str,
    labeler: str,
    *,
    likert: str = "",
    hallucination: str = "",
    order: str = "abcdefghi",
) -> Ranking:
    """ranks "121" for responses a, b, c; likert "415" and hallucination "010" likewise."""
    flags = [{"hallucination": bit == "1"} for bit in hallucination] or [{}] * len(ranks)
    return Ranking(
        prompt_id=prompt,
        prompt=prompt,
        responses=tuple(Response(id=f"{prompt}-{name}", text="x", model=name) for name in order[: len(ranks)]),
        ranks=tuple(map(int, ranks)),
        ratings=tuple(Rating(likert=int(n), flags=f) for n, f in zip(likert, flags, strict=False)),
        labeler=labeler,
    )


def test_three_definitions_by_hand() -> None:
    # pairs ab, ac, bc: ann > = <; bob > > <; cid = = <
    rankings = [ranking("p", "121", "ann"), ranking("p", "132", "bob"), ranking("p", "112", "cid")]
    # ann: a>b, a=c, b<c   bob: a>b, a>c, b<c   cid: a=b, a>c, b>c
    got = agreement_within(rankings)
    assert got.pairs == 9
    # ann-bob: same, half, same; ann-cid: half, half, opposite; bob-cid: half, same, opposite
    assert got.strict.value == pytest.approx(3 / 9)
    assert got.half.value == pytest.approx((2.5 + 1.0 + 1.5) / 9)
    assert got.untied_pairs == 5
    assert got.untied is not None
    assert got.untied.value == pytest.approx(3 / 5)
    assert got.strict.n == got.untied.n == 1


def test_order_of_responses_does_not_matter_and_their_ids_do() -> None:
    one, two = ranking("p", "12", "ann"), ranking("p", "21", "bob", order="ba")
    assert agreement_within([one, two]).strict.value == 1
    with pytest.raises(UserError, match="no two labelers ranked the same pair"):
        agreement_within([one, ranking("p", "12", "bob", order="cd")])
    with pytest.raises(UserError, match="no two labelers"):
        agreement_within([one, ranking("q", "12", "bob")])


def test_a_labeler_does_not_agree_with_himself_and_the_last_word_counts() -> None:
    with pytest.raises(UserError, match="no two labelers"):
        agreement_within([ranking("p", "12", "ann"), ranking("p", "12", "ann")])
    rankings = [ranking("p", "12", "ann"), ranking("p", "12", "bob"), ranking("p", "21", "ann")]
    got = agreement_within(rankings)
    assert (got.pairs, got.strict.value) == (1, 0)


def test_prompts_without_an_id_are_told_apart_by_their_text() -> None:
    nameless = [replace(ranking(p, "12", who, likert="44"), prompt_id="") for p in "pq" for who in ("ann", "bob")]
    assert agreement_within(nameless).strict.n == 2
    assert likert_means(nameless)["a"].n == 2


def test_only_ties_leave_the_headline_open() -> None:
    got = agreement_within([ranking("p", "11", "ann"), ranking("p", "11", "bob")])
    assert (got.untied, got.untied_pairs, got.strict.value, got.half.value) == (None, 0, 1, 1)


def test_across_groups_only_labelers_of_both_are_paired() -> None:
    first = [ranking("p", "12", "ann"), ranking("p", "21", "bob")]
    second = [ranking("p", "12", "cid"), ranking("p", "12", "ann"), ranking("q", "12", "dan")]
    got = agreement_across(first, second)
    # ann-cid agree; bob-cid and bob-ann do not; ann is not paired with herself
    assert (got.pairs, got.strict.value) == pytest.approx((3, 1 / 3))
    with pytest.raises(UserError, match="no two labelers"):
        agreement_across(first[:1], second[1:])


def test_random_labelers_agree_as_chance_says() -> None:
    random = np.random.default_rng(0)
    rankings = [
        ranking(f"p{i}", "".join(random.permutation(list("1234"))), labeler) for i in range(300) for labeler in "xy"
    ]
    got = agreement_within(rankings)
    assert got.untied is not None and got.untied == got.strict == got.half
    assert got.untied.low < 0.5 < got.untied.high
    assert got.untied.n == 300
    alpha = verdict_alpha(rankings)
    assert alpha is not None and abs(alpha) < 0.1


RANKS = [ranks for ranks in map("".join, itertools.product("123", repeat=3)) if int(max(ranks)) == len(set(ranks))]
"""All rankings of three responses: without gaps."""


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("pqr"), st.sampled_from("xyz"), st.sampled_from(RANKS)),
        min_size=2,
        max_size=12,
    )
)
def test_the_definitions_are_ordered(rows: list[tuple[str, str, str]]) -> None:
    rankings = [ranking(prompt, ranks, labeler) for prompt, labeler, ranks in rows]
    try:
        got = agreement_within(rankings)
    except UserError:
        return
    assert got.strict.value <= got.half.value + 1e-12
    assert 0 <= got.untied_pairs <= got.pairs
    if got.untied_pairs == got.pairs:
        assert got.untied == got.strict == got.half


# Ratings


def test_likert_means_per_model() -> None:
    rankings = [
        ranking("p", "12", "ann", likert="71"),
        ranking("p", "12", "bob", likert="53"),
        ranking("q", "12", "ann", likert="33"),
        ranking("r", "12", "ann"),
    ]
    got = likert_means(rankings)
    assert list(got) == ["a", "b"]
    assert got["a"].value == pytest.approx(5) and got["b"].value == pytest.approx(7 / 3)
    assert got["a"].n == 2 and 1 <= got["b"].low <= got["b"].value <= got["b"].high <= 7
    assert likert_means(rankings[3:]) == {}
    best = likert_means([ranking(p, "12", "ann", likert="71") for p in "pqr"])
    assert (best["a"].high, best["b"].low) == (7, 1)  # all alike, and the scale ends here


def test_flag_rates_count_only_where_the_flag_was_asked() -> None:
    rankings = [
        ranking("p", "12", "ann", likert="44", hallucination="10"),
        ranking("q", "12", "ann", likert="44", hallucination="00"),
        ranking("r", "12", "ann", likert="44"),
    ]
    got = flag_rates(rankings, "hallucination")
    assert (got["a"].value, got["a"].n, got["b"].value) == (0.5, 2, 0)
    assert got["b"].high > 0.5
    assert flag_rates(rankings, "violent_content") == {}
    with pytest.raises(ValueError, match="unknown flag 'rude'"):
        flag_rates(rankings, "rude")


def test_positive_agreement_on_a_rare_flag() -> None:
    # 40 prompts with 3 responses; both set it 2 times, each alone once: 2a / (2a + b + c) = 4 / 6
    bits = {0: ("100", "100"), 1: ("010", "010"), 2: ("001", "000"), 3: ("000", "001")}
    rankings = []
    for i in range(40):
        ann, bob = bits.get(i, ("000", "000"))
        rankings.append(ranking(f"p{i:02}", "123", "ann", likert="444", hallucination=ann))
        rankings.append(ranking(f"p{i:02}", "123", "bob", likert="444", hallucination=bob))
    got = flag_agreement(rankings, "hallucination")
    assert got.pairs == 120
    assert got.overall.value == pytest.approx(118 / 120)
    assert got.prevalence == pytest.approx(6 / 240)
    assert got.positive is not None and got.positive.value == pytest.approx(4 / 6)
    assert got.positive.n == 4 and got.positive.low < 0.5
    # alpha of two raters: 1 - (n - 1) * o / (2 n0 n1); n = 240 values, o = 4 unequal ordered pairs
    assert got.alpha == pytest.approx(1 - 239 * 4 / (2 * 6 * 234))


def test_who_was_not_asked_about_a_flag_says_nothing_of_it() -> None:
    asked = [ranking("p", "12", name, likert="44", hallucination="10") for name in ("ann", "bob")]
    got = flag_agreement([*asked, ranking("p", "12", "cid", likert="44")], "hallucination")
    assert got == flag_agreement(asked, "hallucination")
    assert (got.pairs, got.prevalence) == (2, 0.5)


def test_a_flag_never_set_and_one_without_overlap() -> None:
    rankings = [ranking("p", "12", name, likert="44", hallucination="00") for name in ("ann", "bob")]
    got = flag_agreement(rankings, "hallucination")
    assert (got.positive, got.alpha, got.overall.value, got.prevalence) == (None, None, 1, 0)
    with pytest.raises(UserError, match="no two labelers answered flag 'hallucination'"):
        flag_agreement(rankings[:1], "hallucination")


# Krippendorff


def test_alpha_of_the_published_example() -> None:
    # Krippendorff 2011, example C: four observers, twelve units, some values missing
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[row[i] for row in rows if row[i] is not None] for i in range(12)]
    assert krippendorff_alpha(units, "nominal") == pytest.approx(0.743, abs=5e-4)  # type: ignore[arg-type]
    assert krippendorff_alpha(units, "ordinal") == pytest.approx(0.815, abs=5e-4)  # type: ignore[arg-type]


values = st.one_of(st.none(), st.integers(1, 5))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(values, min_size=3, max_size=3), min_size=1, max_size=12))
def test_alpha_against_the_package(units: list[list[int | None]]) -> None:
    package = pytest.importorskip("krippendorff")
    given_units = [[value for value in unit if value is not None] for unit in units]
    pairable = {value for unit in given_units if len(unit) > 1 for value in unit}
    table = np.array([[math.nan if value is None else value for value in unit] for unit in units], dtype=float).T
    for level in ("nominal", "ordinal"):
        got = krippendorff_alpha(given_units, level)
        if len(pairable) < 2:
            assert got is None
        else:
            assert got == pytest.approx(package.alpha(reliability_data=table, level_of_measurement=level), abs=1e-9)


def test_likert_alpha_is_ordinal() -> None:
    rankings = [ranking("p", "123", "ann", likert="147"), ranking("p", "123", "bob", likert="157")]
    assert likert_alpha(rankings) == krippendorff_alpha([[1, 1], [4, 5], [7, 7]], "ordinal")
    assert likert_alpha([ranking("p", "12", "ann")]) is None
