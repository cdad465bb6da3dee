"""What a round's numbers are, with intervals where one can be given and nothing where there is too little. No torch."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.evaluate.calibration import ScoredPair, calibrate
from tutelage.evaluate.intervals import clustered_mean
from tutelage.evaluate.text import describe
from tutelage.evaluate.winrate import WinRate
from tutelage.records import Prompt, Response, from_dict, to_dict, write_text
from tutelage.roundfolder import ENOUGH_TO_FOLD, Plan
from tutelage.run import Run

FEWEST = 5
"""Prompts below which no interval is given: resampling so few says nothing."""

GUESSING = 0.5
"""Accuracy of a reward model that knows nothing."""

Answers = Mapping[str, Mapping[str, Response]]
Scores = Mapping[tuple[str, str], float]


def given(runs: Sequence[Run]) -> dict[str, dict[str, Response]]:
    """The responses of samples runs: by model, or by model and k where there are several to a prompt."""
    found: dict[str, dict[str, Response]] = {}
    for run in runs:
        for row in run.rows("samples.jsonl"):
            response = from_dict(Response, row["response"])
            name = f"{response.model}/{row['k']}" if run.config()["k"] > 1 else response.model
            found.setdefault(row["prompt_id"], {})[name] = response
    return found


def trained_on(plan: Plan, imitated: Run) -> dict[str, Any]:
    """Whose judgements it was: the plan's, less the demonstrations that were too long (`left_out`)."""
    words = plan.trained_on["demonstrations"]
    n = imitated.result["n"]
    return plan.trained_on | {"demonstrations": words | {"n": n, "left_out": words["n"] - n}}


def spreads(prompts: Sequence[Prompt], offered: Answers, scores: Scores | None) -> dict[str, float]:
    """Standard deviation of the scores of each prompt's responses; empty without a reward model."""
    if scores is None:
        return {}
    return {p.id: statistics.pstdev([scores[p.id, name] for name in offered[p.id]]) for p in prompts}


def write_items(path: Path, prompts: Sequence[Prompt], said: Answers, spread: Mapping[str, float]) -> None:
    """One line per prompt: {"prompt_id", "prompt", "use_case", "spread", "responses": [Response, ...]}."""
    rows = [
        {
            "prompt_id": p.id,
            "prompt": p.text,
            "use_case": p.use_case,
            "spread": round(spread[p.id], 4) if p.id in spread else None,
            "responses": [to_dict(r) for r in said[p.id].values()],
        }
        for p in prompts
    ]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def accuracy(judged: Run, folds: Sequence[Run], plan: Plan) -> dict[str, Any]:
    """How often the reward model is right on pairs it has not seen: {"accuracy", "pairs", "measured", "note"}.

    accuracy is an interval over prompts, or None where it is not claimed; by groups that trained.
    """
    sources = folds if plan.measured == "cross-validation" else [judged] if plan.measured == "held-out prompts" else []
    found = on_unseen(sources)
    return found | {
        "measured": plan.measured if found["accuracy"] else "not",
        "prompts": plan.n_ranked,
        "comparisons": plan.trained_on["rankings"]["comparisons"],
        "note": _note(plan, found["accuracy"] is not None),
    }


def on_unseen(runs: Sequence[Run]) -> dict[str, Any]:
    """{"accuracy", "pairs"} of reward models on comparisons by training labelers that each run did not learn from.

    accuracy is an interval over prompts, or None where there are too few of them.
    """
    rows = [row for run in runs for row in run.rows("pairs.jsonl") if row["group"] == "training"]
    pairs = [ScoredPair(r["prompt_id"], r["difference"], r["preferred"] == 1.0) for r in rows]
    known = len({p.prompt_id for p in pairs}) >= FEWEST
    return {"accuracy": calibrate(pairs).accuracy.to_dict() if known else None, "pairs": len(pairs)}


def _note(plan: Plan, known: bool) -> str:
    if not known:
        return (
            f"{plan.n_ranked} ranked prompts are too few to put some aside: all of them trained the reward model, and "
            "how right it is on others is not known."
        )
    if plan.measured == "cross-validation":
        return (
            f"Too few rankings to put some aside, so all of them trained the reward model. The accuracy is that of "
            f"{len(plan.folds)} others, each trained without a part of the prompts and measured on that part."
        )
    return "Measured on prompts whose rankings trained nothing."


def weakness(trust: Mapping[str, Any]) -> str:
    """Why the policy should not be optimised against this reward model: that it is better than guessing is not shown,
    or could not be measured. "" where it is shown. `trust` is what `accuracy` returned."""
    found = trust["accuracy"]
    if found is None:
        return (
            "How right the reward model is could not be measured: it learned from "
            f"{_many(trust['comparisons'], 'comparison')} of {_many(trust['prompts'], 'prompt')}, and "
            f"{ENOUGH_TO_FOLD} prompts with an order are the least that can be divided to measure it."
        )
    if found["low"] > GUESSING:
        return ""
    verdict = "is worse than guessing" if found["high"] < GUESSING else "is not shown to be better than guessing"
    return (
        f"The reward model {verdict}: of {_many(trust['pairs'], 'comparison')} of {_many(found['n'], 'prompt')} that "
        f"it did not learn from it orders {found['value']:.0%} as people did (95% interval {found['low']:.0%} to "
        f"{found['high']:.0%}), and guessing is right in 50%."
    )


ADVICE = (
    "A policy optimised against it may learn to please noise. Rank more prompts (thirty are a beginning, a hundred "
    "tell much more), and check how far your labelers agree with each other."
)
"""What to do about a weak reward model."""


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def answers(prompts: Sequence[Prompt], said: Answers, scores: Scores | None) -> dict[str, Any]:
    """Per model: mean score with its interval (None without a reward model), tokens, share that ended by itself."""
    names = list(dict.fromkeys(name for p in prompts for name in said[p.id]))
    found = {}
    for name in names:
        own = [p.id for p in prompts if name in said[p.id]]
        stats = describe([said[key][name] for key in own])
        found[name] = {
            "n": len(own),
            "score": mean({key: scores[key, name] for key in own}) if scores is not None else None,
            "length": round(stats.tokens, 2),
            "ended": round(stats.ended, 4),
        }
    return found


def change(prompts: Sequence[Prompt], scores: Scores | None, new: str, old: str) -> dict[str, Any] | None:
    """New policy's score minus the old one's, prompt by prompt; None without a reward model or without both."""
    if scores is None:
        return None
    both = {p.id: scores[p.id, new] - scores[p.id, old] for p in prompts if {(p.id, new), (p.id, old)} <= scores.keys()}
    return (mean(both) or {}) | {"new": new, "old": old} if both else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said of a round's new policy against the old one. word: better, worse or not told apart; keep: which
    of the two ("new" or "old") stays in use unless somebody decides otherwise, and follows: that as a sentence."""

    word: str
    sentence: str
    keep: str
    follows: str


def verdict(told: Mapping[str, Any], wins: WinRate | None = None) -> Verdict:
    """The verdict on a finished round (`told`: round.json): by labelers who judged blind where there are any, else by
    the reward model, which is believed only where it is shown to be better than guessing."""
    new, old = str(told["newest"]), str(told.get("previous") or "base")
    trust, change = told.get("reward_model"), told.get("score_change")
    if wins is not None:
        rate = wins.rate
        word = _word(rate.low, rate.high, 0.5) if rate.n >= FEWEST else UNKNOWN
        by = (
            f"by labelers who judged blind: preferred in {rate.value:.0%} of {_many(wins.comparisons, 'comparison')} "
            f"of {_many(rate.n, 'prompt')} (95% interval {rate.low:.0%} to {rate.high:.0%}; 50% is no difference)"
        )
    elif trust and trust.get("weak"):
        word, by = UNKNOWN, "nobody has judged them blind yet, and the reward model is not shown to know better"
    elif trust and change and change["low"] is not None:
        word = _word(change["low"], change["high"], 0.0)
        by = (
            f"by the reward model: {change['value']:+.2f} in score on {_many(change['n'], 'held-out prompt')} (95% "
            f"interval {change['low']:+.2f} to {change['high']:+.2f}). It judges what was trained to please it, and no "
            "person has judged yet"
        )
    else:
        word, by = UNKNOWN, "nobody has judged them blind yet, and nothing else can tell"
    keep = "old" if word == "worse" else "new"
    follows = {
        "better": f"{new} is in use.",
        "worse": f"{old} stays in use unless somebody decides otherwise.",
        UNKNOWN: f"{new} is in use all the same, for it learned from more of people's work; {old} can be kept instead.",
    }
    relation = f"not told apart from {old}" if word == UNKNOWN else f"{word} than {old}"
    return Verdict(word, f"{new} is {relation}, {by}.", keep, follows[word])


UNKNOWN = "not told apart"


def _word(low: float, high: float, equal: float) -> str:
    return "better" if low > equal else "worse" if high < equal else UNKNOWN


def mean(values: Mapping[str, float]) -> dict[str, Any] | None:
    """{"value", "low", "high", "n"} of one number per prompt; low and high are None where there are too few."""
    if not values:
        return None
    if len(values) < FEWEST or len(set(values.values())) == 1:
        return {"value": statistics.fmean(values.values()), "low": None, "high": None, "n": len(values)}
    return clustered_mean(values.items(), bounds=(-math.inf, math.inf)).to_dict()


def chosen(prompts: Sequence[Prompt], asked: int, spread: Mapping[str, float], k: int) -> dict[str, Any]:
    """How the next prompts were chosen, and how many of each use case."""
    by = "spread of the reward model's scores, with a quota per use case" if spread else "turn, over the use cases"
    cases = Counter(p.use_case for p in prompts)
    return {"prompts": len(prompts), "k": k, "of": asked, "by": by, "use_cases": dict(sorted(cases.items()))}
