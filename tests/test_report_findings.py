"""What the report says of numbers, and how it draws them: verdicts, readings, choice of samples, charts."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_loop import make_loop, taught

from tutelage import charts, findings
from tutelage.evaluate.intervals import Interval
from tutelage.findings import percent
from tutelage.loopfolder import Answer, Loop, Snapshot, read_loop


def _with_rate(loop: Loop, value: float, low: float, high: float) -> Loop:
    rates = {"ppo_ptx_vs_sft": {"value": value, "low": low, "high": high, "n": 100}}
    return replace(loop, summary={"win_rate": rates})


def test_the_verdict_follows_the_interval_not_the_value(tmp_path: Path) -> None:
    loop = read_loop(make_loop(tmp_path / "l", prompts=4))
    assert findings.verdict(_with_rate(loop, 0.6, 0.51, 0.7)).kind == "good"
    unclear = findings.verdict(_with_rate(loop, 0.6, 0.49, 0.7))
    assert unclear.kind == "unclear"
    assert "includes 50%" in unclear.text
    assert findings.verdict(_with_rate(loop, 0.4, 0.3, 0.49)).kind == "bad"


def test_percent_never_rounds_onto_what_decides() -> None:
    assert percent(Interval(0.71, 0.63, 0.78, 144)) == "71% [63, 78]"
    assert percent(Interval(0.55, 0.504, 0.6, 9)) == "55.0% [50.4, 60.0]"
    assert percent(0.998) == "99.8%"
    assert percent(1.0) == "100%"


def _run(golds: list[float], scores: list[float]) -> list[Snapshot]:
    rows = zip(golds, scores, strict=True)
    return [Snapshot("ppo", i, float(i), g, s, 400) for i, (g, s) in enumerate(rows)]


@pytest.mark.parametrize(
    ("golds", "kind", "said"),
    [
        ([0.6, 0.7, 0.8, 0.9], "good", "still rising"),
        ([0.6, 0.9, 0.8, 0.7], "bad", "over-optimisation"),
        ([0.6, 0.9, 0.9, 0.89], "unclear", "within chance"),
        ([0.6, 0.9, 0.9, 0.9], "good", "highest at the end"),
        ([0.6, 0.605, 0.61, 0.615], "unclear", "no more than chance"),
        ([0.9, 0.8, 0.7, 0.6], "bad", "turned"),
    ],
)
def test_the_reading_of_a_trajectory(golds: list[float], kind: str, said: str) -> None:
    found = findings.trajectory(_run(golds, [0.0, 1.0, 2.0, 3.0]), spread=0.2)
    assert found.kind == kind
    assert said in found.text
    assert "at a KL of 3.0 nats" in found.detail


def test_longer_wins_counts_held_out_pairs_of_the_group_only() -> None:
    rankings = [taught(random.Random(0), i) for i in range(30)]
    found = findings.longer_wins(rankings, "training")
    assert found is not None
    interval, pairs = found
    assert pairs == 12
    assert interval.value == pytest.approx(8 / 12)
    assert findings.longer_wins(rankings, "heldout") is None


def _answers(golds: dict[str, float], scores: dict[str, float]) -> list[Answer]:
    return [Answer(k, k, "chat", "ppo_ptx", "r", 3, True, golds[k], scores[k]) for k in golds]


def test_samples_are_fixed_positions_worst_and_overrated() -> None:
    keys = [f"p{i:02}" for i in range(60)]
    golds = {k: 0.5 + i / 200 for i, k in enumerate(keys)}
    scores = {k: float(i) for i, k in enumerate(keys)}
    golds["p50"], scores["p50"] = 0.1, 100.0  # worst by gold and best by score
    chosen = findings.chosen_samples(_answers(golds, scores), "ppo_ptx")
    why = {c.prompt_id: c.why for c in chosen}
    assert len(chosen) >= 12
    # Six positions, four worst and one overrated (itself a worst) are ten: two more positions make twelve.
    assert [k for k in why if why[k][0].startswith("fixed")][:2] == ["p03", "p11"]
    assert len(why["p50"]) == 2
    assert {"p00", "p01", "p02"} <= set(why)


def test_all_prompts_are_samples_where_there_are_few() -> None:
    keys = [f"p{i}" for i in range(5)]
    chosen = findings.chosen_samples(_answers(dict.fromkeys(keys, 0.5), dict.fromkeys(keys, 0.0)), "ppo_ptx")
    assert {c.prompt_id for c in chosen} == set(keys)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 7.7), (0.001, 0.0042), (0.0, 123456.0)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)


def test_steps_are_counted_in_whole_numbers() -> None:
    def labels(*xs: float) -> list[str]:
        drawn = charts.lines("t", [charts.Series("s", [(x, 3.0 + x) for x in xs])], x_label="step")
        return re.findall(r'"middle">([^<]+)<', drawn)

    assert labels(0, 1) == ["0", "1"]
    assert "0.2" in labels(0, 0.5, 1)


def test_no_number_sticks_out_on_the_left() -> None:
    drawn = charts.lines("t", [charts.Series("s", [(0.0, 0.0), (1.0, -0.00188)])], x_label="x")
    numbers = re.findall(r'x="([\d.]+)" [^>]*"end">(-[\d.]+)<', drawn)
    assert len(numbers) > 2
    assert all(float(x) - charts.DIGIT * len(label) >= 0 for x, label in numbers)


def test_charts_escape_their_words_and_survive_odd_numbers() -> None:
    odd = [charts.Bar('<b>"&', 0.5, 0.5, 0.5, 'x"', "<i>")]
    assert "<b>" not in charts.bars("<t>", odd)
    for points in ([], [(0.0, 1.0)], [(0.0, math.nan)], [(1.0, 2.0), (1.0, 2.0)], [(0.0, -1e9), (1.0, 1e9)]):
        drawn = charts.lines("t", [charts.Series("s", points)], x_label="x")
        assert "nan" not in drawn
        assert drawn.endswith("</svg>")
    assert charts.histograms("t", [charts.Series("s", [(1.0, 0.0)] * 3)], x_label="x").count("<rect") == 1
    stop = charts.Stop(0.0, 0.5, 0.5, "0")
    assert charts.trails("t", [charts.Trail("s", [stop])], x_label="x", upper="a", lower="b").count("<circle") >= 2


def test_bars_are_as_long_as_their_values() -> None:
    drawn = charts.bars("t", [charts.Bar("a", 0.25), charts.Bar("b", 0.5)], high=1.0)
    short, long = (float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', drawn))
    assert long == pytest.approx(2 * short, abs=0.2)


def test_long_lines_are_thinned_without_losing_their_mean() -> None:
    points = [(float(i), float(i % 7)) for i in range(1000)]
    thin = charts.thinned(points)
    assert len(thin) <= charts.MOST_POINTS
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(sum(y for _, y in points) / 1000, abs=0.02)
