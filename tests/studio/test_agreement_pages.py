"""Agreement by batch and by labeler, and the test for work unlike everybody else's."""

from __future__ import annotations

import random

import pytest
from made_studio import Made, Visit, ranking

from tutelage.records import Ranking, Response
from tutelage.studio import agreement, harvest
from tutelage.studio.store import Store


def given(labeler: str, item: int, ranks: list[int]) -> Ranking:
    responses = tuple(Response(id=f"{item}/{k}", text="") for k in range(len(ranks)))
    return Ranking(prompt_id=f"p{item}", prompt="x", responses=responses, ranks=tuple(ranks), labeler=labeler)


def ranked(draw: random.Random, odd: float, items: int = 40, labelers: int = 4) -> list[Ranking]:
    """Labelers who mostly agree; "a" turns the order round with chance `odd`."""
    found = []
    for item in range(items):
        truth = draw.sample(range(1, 5), 4)
        for name in "abcdefgh"[:labelers]:
            own = list(truth)
            if draw.random() < 0.4:
                i = draw.randrange(3)
                own[i], own[i + 1] = own[i + 1], own[i]
            found.append(given(name, item, [5 - r for r in own] if name == "a" and draw.random() < odd else own))
    return found


def test_who_turns_the_order_round_is_found() -> None:
    rows = ranked(random.Random(0), odd=0.8)
    assert agreement.outlier(rows, "a").flagged
    assert not any(agreement.outlier(rows, name).flagged for name in "bcd")


def test_labelers_who_are_alike_are_flagged_seldom() -> None:
    flagged = sum(agreement.outlier(ranked(random.Random(seed), odd=0.0), "a").flagged for seed in range(400))
    assert flagged <= 0.05 * 400


def test_few_items_or_few_labelers_say_nothing() -> None:
    assert not agreement.outlier(ranked(random.Random(0), odd=1.0, items=4), "a").flagged
    two = agreement.outlier(ranked(random.Random(0), odd=1.0, labelers=2), "a")
    assert (two.items, two.odd, two.p) == (0, 0, 1.0)


def test_the_odd_one_out_by_hand() -> None:
    rows = [given("a", 0, [3, 2, 1]), given("b", 0, [1, 2, 3]), given("c", 0, [1, 2, 3])]
    found = agreement.outlier(rows, "a")
    assert (found.items, found.odd) == (1, 1)
    assert found.expected == pytest.approx(1 / 3)
    # won at a stake s: 1 - s + 3 s; the mean over the stakes 0.1 to 0.5 is 1.6
    assert found.p == pytest.approx(1 / 1.6)
    assert agreement.outlier(rows, "b").odd == 0


def test_agreement_of_a_batch(store: Store, made: Made) -> None:
    batch = made.filled("compare", 4, overlap=2, k=3)
    one, two = made.account(), made.account()
    assert agreement.of_batch(store, batch) is None
    for item in range(4):
        made.answer(one.id, body=ranking(3, [1, 2, 3]))
        made.answer(two.id, body=ranking(3, [1, 2, 3] if item else [2, 1, 1]))
    found = agreement.of_batch(store, batch)
    assert found is not None
    assert found.untied is not None
    assert (found.pairs, found.untied_pairs) == (12, 11)
    assert found.untied.value == pytest.approx(9 / 11)
    assert found.strict.value == pytest.approx(9 / 12)
    assert found.half.value == pytest.approx(9.5 / 12)
    assert found.strict.n == 4  # prompts, not pairs
    assert found.strict.low < found.strict.value < found.strict.high


def test_agreement_of_a_labeler_is_with_others(store: Store, made: Made) -> None:
    made.filled("compare", 3, overlap=3, k=2)
    people = [made.account() for _ in range(3)]
    for person, ranks in zip(people, ([1, 2], [1, 2], [2, 1]), strict=True):
        for _ in range(3):
            made.answer(person.id, body=ranking(2, ranks))
    rows = harvest.verdicts(store)
    values = [agreement.of_labeler(rows, person.id) for person in people]
    assert [found and found.strict.value for found in values] == [0.5, 0.5, 0.0]


def test_the_pages_show_it(store: Store, made: Made, visit: Visit) -> None:
    batch = made.filled("compare", 6, overlap=3, k=3)
    names = ("Kim", "Lee", "Max")
    people = [made.account(name=name) for name in names]
    for person, ranks in zip(people, ([1, 2, 3], [1, 2, 3], [3, 2, 1]), strict=True):
        for _ in range(6):
            made.answer(person.id, body=ranking(3, ranks))
    reviewer = visit("reviewer")
    page = reviewer.get(f"/batches/{batch}").text
    assert "33% (" in page
    assert "54 comparisons" in page  # 6 items, 3 pairs of labelers, 3 pairs of responses
    page = reviewer.get(f"/people/{people[2].id}").text
    assert "0% (0 to" in page
    assert "On 6 of 6 items" in page
