"""Win rates and intervals: by hand, against independent libraries, and by simulation of their coverage."""

from __future__ import annotations

import json
import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.evaluate.intervals import (
    Interval,
    clustered_mean,
    clustered_ratio,
    t_quantile,
    wilson,
)
from tutelage.evaluate.winrate import bradley_terry, implied_rate, pair_wins, win_rate
from tutelage.records import Ranking, Response, UserError


def ranking(prompt: str, *entries: tuple[str, int], labeler: str = "l") -> Ranking:
    """A ranking from (model, rank) entries."""
    return Ranking(
        prompt_id=prompt,
        prompt=prompt,
        responses=tuple(Response(id=f"{prompt}{i}", text="x", model=model) for i, (model, _) in enumerate(entries)),
        ranks=tuple(rank for _, rank in entries),
        labeler=labeler,
    )


# Win rate


def test_counts_and_rate_by_hand() -> None:
    rankings = [
        ranking("p1", ("ppo", 1), ("sft", 2), ("base", 3)),
        ranking("p2", ("sft", 1), ("ppo", 1)),
        ranking("p3", ("sft", 1), ("ppo", 2)),
        ranking("p3", ("ppo", 1), ("sft", 2), labeler="m"),
        ranking("p4", ("base", 1), ("sft", 2)),
    ]
    got = win_rate(rankings, "ppo", "sft")
    assert (got.wins, got.ties, got.losses, got.comparisons) == (2, 1, 1, 4)
    assert got.rate.value == pytest.approx(2.5 / 4)
    assert got.rate.n == 3
    assert got.rate.low <= got.rate.value <= got.rate.high
    assert json.loads(json.dumps(got.to_dict())) == {
        "value": 0.625,
        "low": got.rate.low,
        "high": got.rate.high,
        "n": 3,
        "wins": 2,
        "ties": 1,
        "losses": 1,
    }
    assert win_rate(rankings, "base", "sft").rate.value == 0.5


def test_every_pair_of_responses_of_two_models_counts() -> None:
    got = win_rate([ranking("p", ("a", 1), ("a", 3), ("b", 2), ("b", 3))], "a", "b")
    assert (got.wins, got.ties, got.losses) == (2, 1, 1)


def test_models_that_never_meet_and_one_model_twice() -> None:
    rankings = [ranking("p", ("a", 1), ("b", 2))]
    with pytest.raises(UserError, match="no ranking holds responses of both 'a' and 'c'"):
        win_rate(rankings, "a", "c")
    with pytest.raises(ValueError, match="two models"):
        win_rate(rankings, "a", "a")


some_ranks = st.lists(st.integers(1, 3), min_size=2, max_size=4).filter(lambda ranks: max(ranks) == len(set(ranks)))
some_rankings = st.lists(st.tuples(st.integers(0, 5), some_ranks), min_size=1, max_size=12).map(
    lambda rows: [
        ranking(f"p{prompt}", *[("ab"[i % 2], rank) for i, rank in enumerate(ranks)]) for prompt, ranks in rows
    ]
)


@settings(max_examples=60, deadline=None)
@given(some_rankings, st.randoms(use_true_random=False))
def test_rates_mirror_and_ignore_the_order_of_rankings(rankings: list[Ranking], random: object) -> None:
    one, other = win_rate(rankings, "a", "b"), win_rate(rankings, "b", "a")
    assert one.rate.value + other.rate.value == pytest.approx(1)
    assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)
    assert 0 <= one.rate.low <= one.rate.value <= one.rate.high <= 1
    shuffled = list(rankings)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert win_rate(shuffled, "a", "b") == one


# Intervals


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (85, 100), (1, 1), (700, 1000)])
def test_wilson_against_statsmodels_and_scipy(successes: int, n: int) -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    stats = pytest.importorskip("scipy.stats")
    got = wilson(successes, n)
    assert (got.low, got.high) == pytest.approx(proportion.proportion_confint(successes, n, method="wilson"))
    other = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (got.low, got.high) == pytest.approx((other.low, other.high))
    assert got.n == n


def test_wilson_by_hand_and_its_limits() -> None:
    # 0 of n: the upper end is z^2 / (n + z^2)
    z2 = 1.959963984540054**2
    assert wilson(0, 20).high == pytest.approx(z2 / (20 + z2))
    assert wilson(0, 20).low == 0
    for successes, n in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="no share"):
            wilson(successes, n)


@pytest.mark.parametrize(("df", "tolerance"), [(1, 1e-9), (2, 1e-9), (3, 0.01), (5, 1e-3), (10, 1e-4), (50, 1e-6)])
def test_t_quantile_against_scipy(df: int, tolerance: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(0.975, df) == pytest.approx(stats.t.ppf(0.975, df), abs=tolerance)


def test_clustered_interval_is_seeded_and_near_the_sandwich_estimate() -> None:
    random = np.random.default_rng(3)
    items = []
    for prompt in range(200):
        level = random.normal(0, 1)
        items += [(f"p{prompt}", float(random.normal(level, 1))) for _ in range(int(random.integers(1, 5)))]
    got = clustered_mean(items, bounds=(-20, 20), seed=5)
    assert got == clustered_mean(items[::-1], bounds=(-20, 20), seed=5)
    assert got != clustered_mean(items, bounds=(-20, 20), seed=6)
    model = pytest.importorskip("statsmodels.api")
    groups = np.array([int(key[1:]) for key, _ in items])
    values = np.array([value for _, value in items])
    fit = model.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert got.value == pytest.approx(fit.params[0])
    assert (got.high - got.low) / 2 == pytest.approx(1.96 * fit.bse[0], rel=0.06)


def test_one_item_a_prompt_matches_the_percentile_bootstrap_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).random(300)
    got = clustered_mean((f"{i:03}", float(value)) for i, value in enumerate(values))
    other = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert (got.low, got.high) == pytest.approx((other.low, other.high), abs=0.004)


def test_prompts_that_all_agree_leave_doubt() -> None:
    got = clustered_mean([(f"p{i}", 1.0) for i in range(20)])
    assert got == Interval(1.0, wilson(20, 20).low, 1.0, 20)
    ties = clustered_mean([("p", 4.0), ("q", 4.0)], bounds=(1, 7))
    assert ties.value == 4 and ties.low == pytest.approx(1 + 6 * wilson(1, 2).low)
    one = clustered_mean([("p", 0.0), ("p", 1.0)])
    assert one.n == 1 and 0 < one.low < 0.5 < one.high < 1


def test_prompts_without_a_denominator_tell_nothing() -> None:
    top, bottom = np.array([1.0, 0.0, 0.0]), np.array([2.0, 2.0, 0.0])
    assert clustered_ratio(top, bottom) == clustered_ratio(top[:2], bottom[:2])
    assert clustered_ratio(top, bottom).n == 2
    with pytest.raises(ValueError, match="no values"):
        clustered_ratio(top[2:], bottom[2:])
    with pytest.raises(ValueError, match="2000 or more"):
        clustered_mean([("p", 1.0)], resamples=100)


def simulate(random: np.random.Generator, prompts: int) -> list[tuple[str, float]]:
    """1 to 5 votes on each of prompts that differ: the chance of a win is Beta(1.5, 1), mean 0.6."""
    items: list[tuple[str, float]] = []
    for prompt in range(prompts):
        chance = random.beta(1.5, 1)
        items += [(f"p{prompt:03}", float(random.random() < chance)) for _ in range(int(random.integers(1, 6)))]
    return items


@pytest.mark.parametrize("prompts", [15, 50])
def test_coverage_of_the_clustered_interval(prompts: int) -> None:
    random = np.random.default_rng(11)
    clustered = independent = 0
    runs = 500
    for run in range(runs):
        items = simulate(random, prompts)
        got = clustered_mean(items, seed=run)
        clustered += got.low <= 0.6 <= got.high
        naive = wilson(sum(value for _, value in items), len(items))
        independent += naive.low <= 0.6 <= naive.high
    assert 0.93 <= clustered / runs <= 0.97
    assert independent / runs < 0.9


# Bradley-Terry


def test_implied_rates_of_the_paper() -> None:
    assert implied_rate(0.65, 0.24) == pytest.approx(0.855, abs=5e-4)
    assert implied_rate(0.65, 0.41) == pytest.approx(0.73, abs=0.005)
    assert implied_rate(0.53, 0.24) == pytest.approx(0.78, abs=0.005)
    assert implied_rate(0.53, 0.41) == pytest.approx(0.61, abs=0.01)
    assert implied_rate(1, 0.5) == 1 and implied_rate(0.5, 1) == 0 and implied_rate(0, 1) == 0
    for first, second in ((1, 1), (0, 0)):
        with pytest.raises(ValueError, match="imply nothing"):
            implied_rate(first, second)
    with pytest.raises(ValueError, match="no rates"):
        implied_rate(1.2, 0.5)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_implied_rates_are_consistent(a: float, b: float, c: float) -> None:
    assert implied_rate(a, 0.5) == pytest.approx(a)
    assert implied_rate(a, b) + implied_rate(b, a) == pytest.approx(1)
    assert implied_rate(implied_rate(a, c), implied_rate(b, c)) == pytest.approx(implied_rate(a, b))


def test_pair_wins_count_ties_half() -> None:
    wins = pair_wins(
        [ranking("p", ("a", 1), ("b", 2)), ranking("q", ("a", 1), ("b", 1)), ranking("r", ("a", 1), ("a", 2))]
    )
    assert wins == {("a", "b"): 1.5, ("b", "a"): 0.5}


def test_two_models_get_the_odds_of_their_wins() -> None:
    fit = bradley_terry({("a", "b"): 3, ("b", "a"): 1}, ridge=0)
    assert fit.strengths["a"] == pytest.approx(math.log(3) / 2)
    assert sum(fit.strengths.values()) == pytest.approx(0)
    assert fit.rate("a", "b") == pytest.approx(0.75)
    assert bradley_terry({("a", "b"): 300, ("b", "a"): 100}).rate("a", "b") == pytest.approx(0.75, abs=1e-4)


def counts_of(seed: int, models: int) -> dict[tuple[str, str], float]:
    random = np.random.default_rng(seed)
    strength = random.normal(0, 1, models)
    wins: dict[tuple[str, str], float] = {}
    for i, j in permutations(range(models), 2):
        if i < j:
            won = random.binomial(40, 1 / (1 + np.exp(strength[j] - strength[i])))
            ties = int(random.integers(0, 10))
            wins[f"m{i}", f"m{j}"], wins[f"m{j}", f"m{i}"] = won + ties / 2, 40 - won + ties / 2
    return wins


@pytest.mark.parametrize("seed", range(3))
def test_strengths_match_logistic_regression_and_evalica(seed: int) -> None:
    wins = counts_of(seed, 6)
    fit = bradley_terry(wins, ridge=0)
    model = pytest.importorskip("statsmodels.api")
    design, answer, weight = [], [], []
    for (winner, loser), count in wins.items():
        row = np.zeros(6)
        row[int(winner[1:])], row[int(loser[1:])] = 1, -1
        design.append(row[1:])
        answer.append(1.0)
        weight.append(count)
        design.append(-row[1:])
        answer.append(0.0)
        weight.append(count)
    glm = model.GLM(answer, np.array(design), family=model.families.Binomial(), freq_weights=np.array(weight)).fit(
        tol=1e-12
    )
    reference = np.concatenate([[0.0], glm.params])
    reference -= reference.mean()
    assert [fit.strengths[f"m{i}"] for i in range(6)] == pytest.approx(list(reference), abs=1e-6)
    evalica = pytest.importorskip("evalica")
    pairs = list(wins)
    scores = evalica.bradley_terry(
        [winner for winner, _ in pairs],
        [loser for _, loser in pairs],
        [evalica.Winner.X] * len(pairs),
        weights=[wins[pair] for pair in pairs],
        tolerance=1e-12,
        limit=100_000,
    ).scores
    logs = {name: math.log(score) for name, score in scores.items()}
    mean = sum(logs.values()) / 6
    assert fit.strengths == pytest.approx({name: value - mean for name, value in logs.items()}, abs=1e-6)


def test_a_model_that_never_lost_is_finite_only_under_a_ridge() -> None:
    wins = {("a", "b"): 5.0, ("b", "c"): 2.0, ("c", "b"): 2.0}
    fit = bradley_terry(wins)
    assert 0.9 < fit.rate("a", "b") < 1
    with pytest.raises(UserError, match="b, c never won against a; set a ridge above 0"):
        bradley_terry(wins, ridge=0)
    with pytest.raises(UserError, match="b, c never lost to a; set a ridge above 0"):
        bradley_terry({("b", "a"): 5.0, ("c", "b"): 2.0, ("b", "c"): 2.0}, ridge=0)


def test_the_ridge_pulls_to_the_stationary_point() -> None:
    wins, ridge = counts_of(7, 4), 2.0
    fit = bradley_terry(wins, ridge=ridge)
    for name, strength in fit.strengths.items():
        others = [other for other in fit.strengths if other != name]
        surplus = sum(wins[name, o] - (wins[name, o] + wins[o, name]) * fit.rate(name, o) for o in others)
        assert surplus == pytest.approx(ridge * strength, abs=1e-6)


@pytest.mark.parametrize(
    ("wins", "ridge"),
    [
        # Newton's full step overshoots here, and goes back and forth for ever.
        ({"ca": 1_000, "cb": 10_000, "da": 1, "db": 10_000, "ad": 1, "bd": 1}, 0.01),
        # Near the top one step gains less than rounding loses; it is to be taken all the same.
        ({"ac": 75, "ba": 1, "bc": 14, "ca": 4, "cb": 46}, 0.1),
    ],
)
def test_lopsided_counts_are_fitted_to_the_end(wins: dict[str, int], ridge: float) -> None:
    counts = {(pair[0], pair[1]): float(count) for pair, count in wins.items()}
    fit = bradley_terry(counts, ridge=ridge)
    for name, strength in fit.strengths.items():
        games = {o: counts.get((name, o), 0) + counts.get((o, name), 0) for o in fit.strengths if o != name}
        surplus = sum(counts.get((name, o), 0) - n * fit.rate(name, o) for o, n in games.items())
        assert surplus == pytest.approx(ridge * strength, abs=2e-10 * sum(counts.values()))


def test_unlinked_models_are_refused() -> None:
    with pytest.raises(UserError, match="no comparison links a, b with c, d"):
        bradley_terry({("a", "b"): 2.0, ("c", "d"): 1.0})
    with pytest.raises(UserError, match="at least two models"):
        bradley_terry({("a", "a"): 2.0})
    with pytest.raises(UserError, match="no comparison links a with b"):
        bradley_terry({("a", "b"): 0.0})
    with pytest.raises(ValueError, match="negative"):
        bradley_terry({("a", "b"): -1.0})
