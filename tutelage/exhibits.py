"""The report's charts and tables: each function turns one part of a read loop into what its section shows.

Numbers that summary.json holds are taken from there; what it lacks (counts, intervals of flags, the length
baseline) is computed here from the records. A part that a loop left out gives None, and its section one line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from markupsafe import Markup

from tutelage import charts, findings
from tutelage.evaluate.agreement import flag_rates, likert_means
from tutelage.evaluate.calibration import Calibration, ScoredPair, calibrate
from tutelage.evaluate.intervals import Interval, clustered_mean, wilson
from tutelage.evaluate.text import describe, distinct_matched
from tutelage.evaluate.winrate import implied_rate, win_rate
from tutelage.findings import name, number, percent
from tutelage.glossary import FLAGS
from tutelage.loopfolder import Loop
from tutelage.records import RATING_FLAGS, Response, UserError
from tutelage.run import Run

CONTENT_CHECKS = {"topic", "answer", "avoid", "facts"}
"""Checks about what is said; every other kind is a stated constraint."""

Context = dict[str, Any]


def wins(loop: Loop) -> Context:
    """The paper's Figure 1 and every head-to-head with its counts."""
    rows = []
    for first, second in combinations(reversed(loop.models), 2):
        try:
            found = win_rate(loop.judged, first, second)
        except UserError:
            continue
        rate = loop.interval("win_rate", f"{first}_vs_{second}") or found.rate
        rows.append({"first": first, "second": second, "rate": rate, "counts": found})
    bars: list[charts.Bar] = []
    for model in loop.models:
        against = _rate(loop, rows, model, "sft")
        if model == "sft":
            bars.append(charts.Bar("SFT (baseline)", 0.5, None, None, "sft", "50% by definition"))
        else:
            bars += _share_bar(name(model), model, against)
    title = "Win rate against the SFT model, with 95% intervals"
    percents = "{:.0%}".format
    chart = charts.bars(title, bars, high=1, form=percents, reference=0.5, reference_label="even with SFT")
    return {
        "chart": Markup(chart) if "sft" in loop.models else "",
        "rows": rows,
        "implied": _implied(loop),
        "agreement": loop.interval("agreement", "heldout_on_answers"),
    }


def _rate(loop: Loop, rows: Sequence[Context], model: str, baseline: str) -> Interval | None:
    """A rate from the summary, else from the head-to-heads, turned round where they have it the other way."""
    if (given := loop.interval("win_rate", f"{model}_vs_{baseline}")) is not None:
        return given
    for row in rows:
        rate: Interval = row["rate"]
        if (row["first"], row["second"]) == (model, baseline):
            return rate
        if (row["first"], row["second"]) == (baseline, model):
            return Interval(1 - rate.value, 1 - rate.high, 1 - rate.low, rate.n)
    return None


def _implied(loop: Loop) -> Context | None:
    """The assistant against base as the rates against SFT imply it, beside the direct measure."""
    keys = (f"{loop.assistant}_vs_sft", "base_vs_sft", f"{loop.assistant}_vs_base")
    up, down, direct = (loop.interval("win_rate", key) for key in keys)
    if up is None or down is None or direct is None or {up.value, down.value} & {0.0, 1.0}:
        return None
    return {"implied": implied_rate(up.value, down.value), "direct": direct}


def ratings(loop: Loop) -> Context:
    """Likert means, flags, endings, length and variety of every model, with intervals."""
    likert = likert_means(loop.judged)
    rated = [m for m in loop.models if m in likert]
    bars = [charts.Bar(name(m), i.value, i.low, i.high, m, number(i)) for m in rated for i in [likert[m]]]
    golds = [(m, i) for m in loop.models if (i := loop.interval("gold", m)) is not None]
    gold_bars = [charts.Bar(name(m), i.value, i.low, i.high, m, number(i)) for m, i in golds]
    likert_chart = charts.bars("Mean Likert rating, 1 to 7, with 95% intervals", bars, low=1, high=7, grid=6)
    gold_chart = charts.bars("Mean gold score, 0 to 1, with 95% intervals", gold_bars, high=1)
    flags, silent = _flags(loop)
    return {
        "likert": Markup(likert_chart) if bars else "",
        "likert_n": max((i.n for i in likert.values()), default=0),
        "gold": Markup(gold_chart) if gold_bars else "",
        "gold_n": max((i.n for _, i in golds), default=0),
        "flags": flags,
        "silent": silent,
        "text": [_text_row(loop, m, varied) for m, varied in _variety(loop).items()],
    }


def _flags(loop: Loop) -> tuple[list[Context], list[str]]:
    """Rows of the flags that were ever set, and the names of those that never were."""
    rows, silent = [], []
    constrained = {i for i, p in loop.prompts.items() if any(c.get("kind") not in CONTENT_CHECKS for c in p.checks)}
    for flag in RATING_FLAGS:
        judged = loop.judged
        if flag == "satisfies_constraint" and constrained:
            judged = [r for r in judged if r.prompt_id in constrained]
        rates = flag_rates(judged, flag)
        label, good = FLAGS[flag]
        if any(rate.value for rate in rates.values()):
            count = max(rate.n for rate in rates.values())
            rows.append({"label": label, "good": good, "rates": rates, "n": count})
        else:
            silent.append(label)
    return rows, silent


def _variety(loop: Loop) -> dict[str, float]:
    """Share of different word pairs over equally much text of every model."""
    given = loop.per_model("variety")
    if len(given) == len(loop.models):
        return given
    return distinct_matched({m: [a.response for a in loop.answers if a.model == m] for m in loop.models})


def _text_row(loop: Loop, model: str, variety: float) -> Context:
    own = [a for a in loop.answers if a.model == model]
    found = describe([Response(id=a.prompt_id, text=a.response, tokens=a.tokens, ended=a.ended) for a in own])
    lengths = [(a.prompt_id, float(a.tokens)) for a in own]
    longest = max(tokens for _, tokens in lengths)
    same = longest == min(tokens for _, tokens in lengths)  # all cut at the limit, say: no spread to resample
    length = longest if same else clustered_mean(lengths, bounds=(0.0, longest))
    ended = wilson(sum(a.ended for a in own), len(own))
    return {"model": model, "stats": found, "length": length, "ended": ended, "variety": variety}


def overoptimisation(loop: Loop) -> Context | None:
    """Gold beside the reward model's score along the KL, and what the lines say; None without gold scores."""
    spread = findings.gold_spread(loop.answers, loop.assistant)
    trails, readings = [], []
    for model in ("ppo_ptx", "ppo"):
        own = sorted((s for s in loop.snapshots if s.model == model), key=lambda s: s.iteration)
        stops = [charts.Stop(s.kl, s.gold, s.score, str(s.iteration)) for s in own if s.gold is not None]
        if len(stops) > 1:
            trails.append(charts.Trail(name(model), stops, model))
            readings.append({"model": model, "verdict": findings.trajectory(own, spread), "rows": own})
    if not trails:
        return None
    chart = charts.trails(
        "Gold score and reward-model score against KL, points labelled by iteration",
        trails,
        x_label="KL to the SFT model, nats per response",
        upper="Gold score (what we want)",
        lower="Reward-model score (what is optimised)",
    )
    return {"chart": Markup(chart), "readings": readings, "n": max(s.n for s in loop.snapshots)}


def tax(loop: Loop) -> Context | None:
    """The loss on ordinary text per model and its difference to the base model; None if not measured."""
    losses = loop.per_model("pretraining_loss")
    if "base" not in losses or len(losses) < 2:
        return None
    changes = {m: loss - losses["base"] for m, loss in losses.items() if m != "base"}
    bars = [charts.Bar(name(m), change, style=m, shown=f"{change:+.3f}") for m, change in changes.items()]
    title = "Change of the loss on ordinary text against the base model, nats per token"
    return {
        "losses": losses,
        "changes": changes,
        "ratios": {m: math.expm1(change) for m, change in changes.items()},
        "chart": Markup(charts.bars(title, bars, form=_signed)),
        "note": findings.tax_note(loop, changes),
        "ppo": "ppo" in losses,
    }


def _signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


GROUPS = {"training": "training labelers", "heldout": "held-out labelers"}
ACCURACIES = {"training": "accuracy", "heldout": "accuracy_heldout_labelers"}
"""Where summary.json keeps the reward model's accuracy on each group."""


def reward(loop: Loop) -> Context | None:
    """The reward model beside its yardsticks: accuracy, calibration, scores; None without a reward run."""
    if "reward" not in loop.runs:
        return None
    found = _calibrations(loop.runs["reward"])
    longer = {g: one for g in GROUPS if (one := findings.longer_wins(loop.rankings, g)) is not None}
    bars: list[charts.Bar] = []
    readings = []
    for group, words in GROUPS.items():
        accuracy = loop.interval("reward_model", ACCURACIES[group])
        if accuracy is None and group in found:
            accuracy = found[group].accuracy
        agreed, length = loop.interval("agreement", group), longer[group][0] if group in longer else None
        if accuracy is not None:
            readings.append(findings.reward_reading(accuracy, agreed, length))
        bars += _share_bar(f"Reward model, {words}", "ppo_ptx", accuracy)
        bars += _share_bar(f"{words.capitalize()} among themselves", "sft", agreed)
        bars += _share_bar(f"Longer one wins, {words}", "base", length)
    title = "Share of held-out pairs told apart rightly, with 95% intervals"
    chart = charts.bars(title, bars, high=1, form="{:.0%}".format, reference=0.5, reference_label="guessing")
    return {
        "chart": Markup(chart) if bars else "",
        "reading": readings[0] if readings else "",
        "counts": {group: one.pairs for group, one in found.items()},
        "longer_pairs": {GROUPS[group]: pairs for group, (_, pairs) in longer.items()},
        "calibration": [_calibration(group, one) for group, one in found.items()],
        "scores": _score_rows(loop),
        "spread": loop.runs["reward"].result.get("score_std"),
    }


def _share_bar(label: str, style: str, share: Interval | None) -> list[charts.Bar]:
    if share is None:
        return []
    return [charts.Bar(label, share.value, share.low, share.high, style, percent(share))]


def _calibrations(run: Run) -> dict[str, Calibration]:
    pairs: dict[str, list[ScoredPair]] = {group: [] for group in GROUPS}
    for row in run.rows("pairs.jsonl"):
        pair = ScoredPair(str(row["prompt_id"]), float(row["difference"]), row["preferred"] == 1.0)
        pairs.setdefault(str(row["group"]), []).append(pair)
    return {group: calibrate(own) for group, own in pairs.items() if own and group in GROUPS}


def _calibration(group: str, found: Calibration) -> Context:
    claims = []
    for one in found.bins:
        ends = wilson(one.accuracy * one.pairs, one.pairs)
        claims.append(charts.Claim(one.confidence, one.accuracy, ends.low, ends.high, one.pairs))
    words = GROUPS[group]
    title = f"Reliability of the reward model, {words}"
    style = {"training": "ppo_ptx", "heldout": "prompted"}[group]
    chart = charts.reliability(
        title,
        claims,
        style=style,
        x_label="how sure the reward model was",
        y_label="how often the labeler agreed",
    )
    return {
        "group": words,
        "ece": found.ece,
        "brier": found.brier,
        "pairs": found.pairs,
        "chart": Markup(chart),
    }


def _score_rows(loop: Loop) -> Markup | str:
    rows = [
        charts.Series(name(m), [(a.score, 0.0) for a in loop.answers if a.model == m and a.score is not None], m)
        for m in loop.models
    ]
    rows = [row for row in rows if row.points]
    title = "Reward-model scores of each model's answers to the held-out prompts"
    return Markup(charts.histograms(title, rows, x_label="score (0: as good as a demonstration)")) if rows else ""
