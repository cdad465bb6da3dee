"""Calibration: by hand, on simulated reward models of known quality, and independent of orientation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.evaluate.calibration import ScoredPair, calibrate, score_spread, scored_pairs
from tutelage.records import Ranking, Response, UserError

LOG3 = math.log(3)  # sigmoid(log 3) = 3/4


def test_by_hand() -> None:
    # confidence 3/4 four times: right, right, right, wrong; confidence 1/2 once
    pairs = [
        ScoredPair("p", LOG3, True),
        ScoredPair("p", -LOG3, False),
        ScoredPair("q", LOG3, True),
        ScoredPair("r", -LOG3, True),
        ScoredPair("r", 0.0, False),
    ]
    got = calibrate(pairs)
    assert got.accuracy.value == pytest.approx(3.5 / 5) and got.accuracy.n == 3 and got.pairs == 5
    assert got.brier == pytest.approx((3 * (1 / 4) ** 2 + (3 / 4) ** 2 + (1 / 2) ** 2) / 5)
    assert got.spread == pytest.approx(math.sqrt(4 * LOG3**2 / 5))
    assert got.ece == pytest.approx(0)
    low, high = got.bins
    assert (low.low, low.high, low.confidence, low.accuracy, low.pairs) == (0.5, 0.55, 0.5, 0.5, 1)
    assert (high.confidence, high.accuracy, high.pairs) == pytest.approx((0.75, 0.75, 4))
    assert high.low <= 0.75 < high.high + 1e-9
    assert json.loads(json.dumps(got.to_dict()))["accuracy"]["n"] == 3


def test_one_bin_holds_everything() -> None:
    (only,) = calibrate([ScoredPair("p", LOG3, True), ScoredPair("q", 0.0, True)], bins=1).bins
    assert (only.low, only.high, only.pairs) == (0.5, 1.0, 2)


def test_expected_calibration_error_by_hand() -> None:
    # two pairs at 3/4, none right: gap 3/4; two at 1/2, half right by definition: gap 0
    pairs = [ScoredPair(f"p{i}", gap, False) for i, gap in enumerate((LOG3, LOG3, 0.0, 0.0))]
    assert calibrate(pairs).ece == pytest.approx((2 * 0.75 + 0) / 4)


def simulated(scale: float, n: int = 6000) -> list[ScoredPair]:
    """Labelers that prefer by sigmoid of the true difference; a model that reports `scale` times it."""
    random = np.random.default_rng(4)
    gaps = random.normal(0, 1.5, n)
    first = random.random(n) < 1 / (1 + np.exp(-gaps))
    return [
        ScoredPair(f"p{i}", float(scale * gap), bool(ok)) for i, (gap, ok) in enumerate(zip(gaps, first, strict=True))
    ]


def test_a_true_model_is_calibrated_and_an_overconfident_one_is_not() -> None:
    true, bold, shy = (calibrate(simulated(scale)) for scale in (1.0, 5.0, 0.2))
    assert true.ece < 0.02 < 0.1 < bold.ece
    assert true.brier < min(bold.brier, shy.brier)
    assert all(row.confidence > row.accuracy for row in bold.bins if row.pairs > 50 and row.confidence > 0.6)
    assert all(row.confidence < row.accuracy for row in shy.bins if row.pairs > 50 and row.confidence > 0.55)
    assert true.accuracy == bold.accuracy == shy.accuracy
    assert bold.spread == pytest.approx(5 * true.spread)


def test_brier_against_scipy_free_definition_and_sklearn_like_bins() -> None:
    pairs = simulated(2.0, 500)
    claimed = np.array([1 / (1 + math.exp(-pair.difference)) for pair in pairs])
    happened = np.array([pair.preferred for pair in pairs], dtype=float)
    got = calibrate(pairs, bins=5)
    assert got.brier == pytest.approx(float(((claimed - happened) ** 2).mean()))
    folded, right = np.maximum(claimed, 1 - claimed), np.where(claimed > 0.5, happened, 1 - happened)
    edges = np.linspace(0.5, 1, 6)
    assert sum(row.pairs for row in got.bins) == 500
    for row, low, high in zip(got.bins, edges, edges[1:], strict=False):
        assert (row.low, row.high) == pytest.approx((low, high))
        inside = (folded >= low) & (folded < high)
        assert row.pairs == inside.sum() and row.accuracy == pytest.approx(right[inside].mean())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-50, 50), st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_turning_pairs_round_changes_nothing(rows: list[tuple[float, bool, bool]]) -> None:
    straight = [ScoredPair(f"p{i % 4}", gap, ok) for i, (gap, ok, _) in enumerate(rows)]
    turned = [ScoredPair(f"p{i % 4}", -gap if turn else gap, ok != turn) for i, (gap, ok, turn) in enumerate(rows)]
    one, other = calibrate(straight), calibrate(turned)
    assert one.accuracy == other.accuracy and one.bins == other.bins and one.ece == other.ece
    assert one.brier == pytest.approx(other.brier) and one.spread == other.spread
    assert 0 <= one.brier <= 1 and 0 <= one.ece <= 1


def test_extreme_scores_do_not_overflow_and_no_numbers_are_refused() -> None:
    got = calibrate([ScoredPair("p", 1e6, True), ScoredPair("q", -1e6, True)])
    assert got.brier == pytest.approx(0.5) and got.bins[-1].high == 1.0
    with pytest.raises(UserError, match="1 of 2 score differences are not finite"):
        calibrate([ScoredPair("p", math.nan, True), ScoredPair("q", 1.0, True)])
    with pytest.raises(UserError, match="no scored pairs"):
        calibrate([])
    with pytest.raises(ValueError, match="bins"):
        calibrate([ScoredPair("p", 1.0, True)], bins=0)


def test_pairs_of_rankings_by_hand() -> None:
    ranking = Ranking(
        prompt_id="p",
        prompt="x",
        responses=tuple(Response(id=name, text="y") for name in "abc"),
        ranks=(2, 1, 2),
    )
    scores = {("p", "a"): 1.0, ("p", "b"): 3.0, ("p", "c"): 4.0}
    assert list(scored_pairs([ranking], scores)) == [ScoredPair("p", 2.0, True), ScoredPair("p", -1.0, True)]
    with pytest.raises(UserError, match="response 'b' of prompt 'p' has no score"):
        list(scored_pairs([ranking], {("p", "a"): 1.0}))


def test_spread_by_hand() -> None:
    got = score_spread({"p": [1.0, 3.0], "q": [5.0, 7.0], "r": [4.0]})
    assert got.within == pytest.approx(math.sqrt((2 + 2 + 0) / 2))
    assert got.overall == pytest.approx(math.sqrt(20 / 5))
    assert score_spread({"p": [1.0]}).within == 0
    assert score_spread({"p": [1.0, 3.0], "q": []}) == score_spread({"p": [1.0, 3.0]})
    with pytest.raises(ValueError, match="no scores"):
        score_spread({})
