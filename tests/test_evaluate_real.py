"""Statistics on human votes beside the repository, against facts known of them; skipped where absent."""

from __future__ import annotations

import gzip
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tutelage.evaluate.agreement import agreement_across, agreement_within, krippendorff_alpha, verdict_alpha
from tutelage.evaluate.calibration import calibrate, scored_pairs
from tutelage.evaluate.winrate import bradley_terry, pair_wins, win_rate
from tutelage.records import Ranking, Response

DATA = Path(__file__).parents[2] / "shared" / "data"


def rows_of(name: str) -> list[Any]:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not here")
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def vote(row: Any) -> Ranking:
    """An MT-bench vote as a ranking of two; the set holds no answers, so their text is their name."""
    models = (row["model_a"], row["model_b"])
    key = f"{row['question_id']}/{row['turn']}"
    return Ranking(
        prompt_id=key,
        prompt=key,
        responses=tuple(Response(id=f"{key}/{model}", text=model, model=model) for model in models),
        ranks={"model_a": (1, 2), "model_b": (2, 1)}.get(row["winner"], (1, 1)),
        labeler=row["judge"],
    )


def human_votes() -> list[Ranking]:
    return [vote(row) for row in rows_of("mtbench_votes/human.jsonl.gz")]


def test_mtbench_counts() -> None:
    votes = human_votes()
    assert len(votes) == 3355 and len({ranking.labeler for ranking in votes}) == 65
    assert sum(len(ranking.pairs()) for ranking in votes) == 1293 + 1282


def test_mtbench_win_rate_is_the_count_of_its_votes() -> None:
    rows = rows_of("mtbench_votes/human.jsonl.gz")
    got = win_rate([vote(row) for row in rows], "gpt-4", "llama-13b")
    wins = ties = losses = 0
    for row in rows:
        if {row["model_a"], row["model_b"]} == {"gpt-4", "llama-13b"}:
            winner = row.get(row["winner"], "tie")
            wins, ties, losses = (
                wins + (winner == "gpt-4"),
                ties + (winner == "tie"),
                losses + (winner == "llama-13b"),
            )
    assert (got.wins, got.ties, got.losses) == (wins, ties, losses)
    assert got.rate.value == pytest.approx((wins + ties / 2) / (wins + ties + losses))
    assert got.rate.low > 0.8


def test_mtbench_strengths_order_the_models_as_published() -> None:
    votes = human_votes()
    fit = bradley_terry(pair_wins(votes))
    order = sorted(fit.strengths, key=lambda model: -fit.strengths[model])
    assert order == ["gpt-4", "claude-v1", "gpt-3.5-turbo", "vicuna-13b-v1.2", "alpaca-13b", "llama-13b"]
    evalica = pytest.importorskip("evalica")
    wins = pair_wins(votes)
    scores = evalica.bradley_terry(
        [pair[0] for pair in wins],
        [pair[1] for pair in wins],
        [evalica.Winner.X] * len(wins),
        weights=list(wins.values()),
        tolerance=1e-10,
        limit=10_000,
    )
    sharp = bradley_terry(wins, ridge=0)
    for one, two in combinations(order, 2):
        other = scores.scores[one] / (scores.scores[one] + scores.scores[two])
        assert sharp.rate(one, two) == pytest.approx(other, abs=1e-6)


def test_mtbench_humans_agree_as_published() -> None:
    # Zheng et al. 2023, Table 5: 81% without ties (first turn 81%, second 82%), 63% with ties counted
    got = agreement_within(human_votes())
    assert got.untied is not None
    assert got.untied.value == pytest.approx(0.81, abs=0.03)
    assert got.strict.value == pytest.approx(0.63, abs=0.05)
    assert got.strict.value < got.half.value
    assert got.untied.high - got.untied.low < 0.07
    alpha = verdict_alpha(human_votes())
    assert alpha is not None and 0.3 < alpha < 0.6


def test_mtbench_humans_and_the_judge_model() -> None:
    judge = [vote(row) for row in rows_of("mtbench_votes/gpt4_pair.jsonl.gz")]
    got = agreement_across(human_votes(), judge)
    # Zheng et al. 2023: 85% without ties
    assert got.untied is not None and got.untied.value == pytest.approx(0.85, abs=0.03)


def squality_rankings() -> list[Ranking]:
    rankings = []
    for row in rows_of("squality/human_eval_all_responses.jsonl.gz"):
        for number, systems in row["questions"].items():
            key = f"{row['passage-id']}/{number}"
            ranks: dict[str, dict[str, int]] = {}
            for system in systems:
                for review in systems[system]["reviews"]:
                    ranks.setdefault(review["worker_id"], {})[system] = review["overall-rank"]
            for worker, of in ranks.items():
                rankings.append(
                    Ranking(
                        prompt_id=key,
                        prompt=key,
                        responses=tuple(Response(id=f"{key}/{name}", text=name, model=name) for name in of),
                        ranks=tuple(of.values()),
                        labeler=worker,
                    )
                )
    return rankings


def test_squality_three_raters_of_three_systems() -> None:
    rankings = squality_rankings()
    assert len(rankings) == 300
    human = win_rate(rankings, "human", "bart")
    assert human.comparisons == 300 and human.rate.n == 100
    assert human.rate.low > 0.85
    got = agreement_within(rankings)
    assert got.pairs == 3 * 3 * 100
    assert got.untied is not None and 0.7 < got.untied.value < 0.95


def test_alpha_of_real_votes_against_the_package() -> None:
    package = pytest.importorskip("krippendorff")
    numpy = pytest.importorskip("numpy")
    units: dict[str, list[int]] = {}
    for ranking in squality_rankings():
        for response, rank in zip(ranking.responses, ranking.ranks, strict=True):
            units.setdefault(response.id, []).append(rank)
    table = numpy.array(list(units.values()), dtype=float).T
    expected = package.alpha(reliability_data=table, level_of_measurement="ordinal")
    assert krippendorff_alpha(units.values(), "ordinal") == pytest.approx(expected, abs=1e-9)


def test_longer_wins_in_message_trees() -> None:
    from tutelage.data.sources import load

    path = DATA / "oasst_eval_trees" / "en_100_tree.jsonl.gz"
    if not path.exists():
        pytest.skip("the trees are not here")
    rankings = load(path).rankings
    scores = {(r.prompt_id, a.id): float(len(a.text)) for r in rankings for a in r.responses}
    got = calibrate(list(scored_pairs(rankings, scores)))
    assert got.pairs == 754 and got.accuracy.n == 212
    assert 0.55 < got.accuracy.value < 0.72
