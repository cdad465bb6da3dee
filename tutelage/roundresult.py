"""What a round's numbers are, with intervals where one can be given and nothing where there is too little. No torch."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.evaluate.calibration import ScoredPair, calibrate
from tutelage.evaluate.intervals import clustered_mean
from tutelage.evaluate.text import describe
from tutelage.records import Prompt, Response, to_dict, write_text
from tutelage.roundfolder import ENOUGH_TO_FOLD, Plan
from tutelage.run import Run

FEWEST = 5
"""Prompts below which no interval is given: resampling so few says nothing."""

GUESSING = 0.5
"""Accuracy of a reward model that knows nothing."""

Answers = Mapping[str, Mapping[str, Response]]
Scores = Mapping[tuple[str, str], float]


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
