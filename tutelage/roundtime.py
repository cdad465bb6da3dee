"""How long a round will still take, from measured speeds. No torch.

The work of a stage is counted in passes of a token through the model, roughly. How many seconds a unit takes is
measured: by the running stage itself, else by the same stage of an earlier round of this studio, else by the stages of
this round that are done, which says less about another kind of work and gives a wider range.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import roundfolder
from tutelage.presets import Recipe
from tutelage.records import Prompt, Ranking, read_records
from tutelage.roundfolder import Plan

TRAINED, DRAWN = 3.0, 4.0
"""Passes that a trained token costs (forward, backward), and a sampled one: decoding is slow for its arithmetic."""
OPTIMISED = 8.0
"""Passes over an episode's tokens: scores, values, reference, and the updates of both networks."""
CHARACTERS = 4  # of a token, about
FILLED = 0.6
"""Share of the longest response that responses have on average."""
SETTLED = 0.1
"""Share of a stage after which its own speed is believed."""
SURE, LIKELY, UNSURE = 1.15, 1.3, 2.0
"""By what factor an estimate may be off: of the running stage, of one measured in an earlier round, of any other."""

Work = dict[str, dict[str, float]]
"""{stage: {"work": units, "steps": rows that its log will have, 0 where it has none}}, in the order they run."""


@dataclass(frozen=True, slots=True)
class Left:
    """Seconds left of a round, and the range they lie in."""

    seconds: float
    low: float
    high: float


def work(plan: Plan, recipe: Recipe, *, k: int, judged: int, models: int, response_tokens: int) -> Work:
    """What each stage of a round has to do. judged: held-out prompts that `models` models answer; k: responses per
    prompt of the pool."""
    pool = read_records(Prompt, plan.pool)
    asked = sum(len(p.text) for p in pool) / CHARACTERS / max(1, len(pool))
    said = FILLED * response_tokens
    whole = asked + said
    found = {"sft": _passes(recipe.sft, plan.n_demonstrations, 8, TRAINED * whole)}
    if plan.rankings is not None:
        rows = [r for r in read_records(Ranking, plan.rankings) if r.split == "train"]
        each = sum(len(r.ranks) for r in rows) / max(1, len(rows))
        reward = _passes(recipe.reward, plan.n_ranked, 8, TRAINED * whole * each)
        found["reward"] = reward
        if plan.folds:
            share = 1 - 1 / len(plan.folds)
            found["folds"] = {"work": len(plan.folds) * share * reward["work"], "steps": len(plan.folds)}
        iterations, episodes = recipe.ppo["iterations"], recipe.ppo["episodes"]
        episode = DRAWN * said + OPTIMISED * whole
        found["ppo_ptx"] = {"work": iterations * episodes * episode, "steps": iterations}
    answers, samples = judged * models, len(pool) * k
    found["answers"] = {"work": answers * DRAWN * said, "steps": answers}
    found["next"] = {"work": samples * DRAWN * said, "steps": samples}
    scored = (answers + samples) * whole if plan.rankings is not None else 0.0
    found["report"] = {"work": scored + whole, "steps": 0}
    return found


def _passes(recipe: Mapping[str, Any], rows: int, batch: int, cost: float) -> dict[str, float]:
    epochs = recipe.get("epochs", 1)
    return {"work": epochs * rows * cost, "steps": epochs * -(-rows // recipe.get("batch", batch))}


def done(out: Path, stage: str, steps: float) -> float:
    """The share of a stage that its folders show, from 0 to 1."""
    if not steps:
        return 0.0
    if stage == "folds":
        rows = sum((run / "pairs.jsonl").exists() for run in (out / "folds").glob("*"))
    elif stage == "answers":
        rows = sum(_lines(run / "samples.jsonl") for run in (out / "answers").glob("*"))
    else:
        rows = _lines(out / ("samples/samples.jsonl" if stage == "next" else f"{stage}/metrics.jsonl"))
    return min(1.0, rows / steps)


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def left(out: Path, earlier: Sequence[Mapping[str, Any]], now: float | None = None) -> Left | None:
    """What is left of the round in `out`; None before anything was measured. earlier: round.json of finished ones,
    the newest first."""
    stage = roundfolder.read_json(out / roundfolder.STAGE)
    if not stage or stage.get("stage") not in stage.get("plan", {}):
        return None
    plan: Work = stage["plan"]
    spent: dict[str, float] = stage["spent"]
    here = str(stage["stage"])
    share = done(out, here, plan[here]["steps"])
    elapsed, gained = (time.time() if now is None else now) - stage["at"], share - stage["done"]
    total = [0.0, 0.0, 0.0]
    for name in list(plan)[list(plan).index(here) :]:
        todo = 1 - share if name == here else 1.0
        if name == here and gained > SETTLED:
            seconds, factor = elapsed / gained * todo, SURE
        else:
            speed = _speed(name, plan, spent, earlier)
            if speed is None:
                return None
            seconds, factor = speed[0] * plan[name]["work"] * todo, speed[1]
            if name == here and not plan[here]["steps"]:  # it shows no progress of its own
                seconds = max(0.0, seconds - elapsed)
        total = [t + s for t, s in zip(total, (seconds, seconds / factor, seconds * factor), strict=True)]
    return Left(*total)


def _speed(
    name: str, plan: Work, spent: Mapping[str, float], earlier: Sequence[Mapping[str, Any]]
) -> tuple[float, float] | None:
    """Seconds a unit of a stage's work takes, and by what factor that may be off; None where nothing was measured."""
    for told in earlier:
        before, seconds = told.get("plan", {}).get(name, {}).get("work"), told.get("seconds", {}).get(name)
        if before and seconds:
            return seconds / before, LIKELY
    known = [stage for stage in spent if stage in plan]
    units = sum(plan[stage]["work"] for stage in known)
    return (sum(spent[stage] for stage in known) / units, UNSURE) if units else None


def words(found: Left | None) -> str:
    """The time left as people say it."""
    if found is None:
        return "Time left: not known yet; it is measured as the round goes on"
    if found.high < 60:
        return "Less than a minute left"
    low, high = _minutes(found.low), _minutes(found.high)
    return f"About {_span(_minutes(found.seconds))} left" + (f" ({low} to {high} min)" if low < high < 90 else "")


def _minutes(seconds: float) -> int:
    return max(1, round(seconds / 60))


def _span(minutes: int) -> str:
    if minutes < 90:
        return f"{minutes} minute{'s'[: minutes != 1]}"
    return f"{minutes // 60} h {minutes % 60} min"
