"""The report of one round: what it was trained on, by how many of whose judgements, and what changed. No torch.

The report of a whole loop (`report.py`) rests on held-out labelers who judged every answer. When a round ends nobody
has judged yet, so this page says what can be said without: whose words and rankings went in, how right the reward
model is where that is known, the curves, and every model's answers to read for oneself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tutelage import __version__, roundfolder
from tutelage.curves import curves
from tutelage.evaluate.intervals import Interval
from tutelage.report import clock, environment
from tutelage.roundresult import ADVICE
from tutelage.run import Run

Context = dict[str, Any]
STYLES = ("base", "ppo", "sft", "ppo_ptx")
"""Colours of base, old policy, SFT and new policy."""
SHOWN = 12
"""Prompts whose answers are on the page."""


def render_round(out: Path, found: Context) -> str:
    """The page as text; `found` is what round.json holds."""
    runs = {name: Run.open(out / name) for name in ("sft", "reward", "ppo_ptx") if (out / name / "run.json").exists()}
    context = {
        "found": found,
        "headline": headline(found),
        "styles": styles(found),
        "tiles": tiles(found),
        "rows": [row | {"score": _interval(row["score"])} for row in _per_model(found)],
        "curves": curves(runs),
        "advice": ADVICE,
        "accuracy": _interval(found["reward_model"]["accuracy"]) if found["reward_model"] else None,
        "samples": _lines(out / roundfolder.JUDGE)[:SHOWN],
        "stages": [{"folder": n, "config": r.config(), "created": r.info.get("created", "")} for n, r in runs.items()],
        "version": __version__,
    }
    page = environment().get_template("round_report.html").render(context)
    return page.encode("utf-8", "replace").decode()  # a lone surrogate is not UTF-8


def headline(found: Context) -> str:
    """What the round learned from, in one sentence."""
    words, order = found["trained_on"]["demonstrations"], found["trained_on"]["rankings"]
    parts = [f"{_count(words['n'], 'demonstration')} by {_count(len(words['labelers']), 'labeler')}"]
    if found["reward_model"]:
        people = len({row["labeler"] for row in order["labelers"]})
        parts.append(
            f"{_count(order['n'], 'ranking')} ({_count(order['comparisons'], 'comparison')}) by "
            f"{_count(people, 'labeler')} of {_count(len(order['groups']), 'group')}"
        )
    return f"Round {found['round']} learned from {' and '.join(parts)}."


def tiles(found: Context) -> list[Context]:
    """The few numbers under the headline."""
    rows: list[tuple[str, str, str]] = []
    model = found["reward_model"]
    if model and (interval := _interval(model["accuracy"])):
        note = f"[{interval.low:.0%}, {interval.high:.0%}] · {model['pairs']} pairs, {model['measured']}"
        rows.append(("reward model agrees with labelers", f"{interval.value:.0%}", note))
    if change := found["score_change"]:
        ends = f"[{change['low']:+.2f}, {change['high']:+.2f}] · " if change["low"] is not None else ""
        rows.append((f"score against {change['old']}", f"{change['value']:+.2f}", f"{ends}{change['n']} prompts"))
    if found["ppo"]:
        rows.append(("distance to the SFT model (KL)", f"{found['ppo']['kl']:.2f}", "nats per response"))
    if own := found["answers"].get(found["newest"]):
        rows.append(("length of an answer", f"{own['length']:.0f}", "tokens"))
        rows.append(("answers that end by themselves", f"{own['ended']:.0%}", f"{own['n']} prompts"))
    rows.append(("time", clock(found["seconds"]["total"]), "the whole round"))
    return [{"label": label, "value": value, "note": note} for label, value, note in rows]


def styles(found: Context) -> dict[str, str]:
    """The colour of each model that answered."""
    old, new = found["previous"], found["newest"]
    named = {"base": "base", old: "ppo", f"round-{found['round']}/sft": "sft", new: "ppo_ptx"}
    return {name: named.get(name, "plain") for name in found["answers"]}


def _per_model(found: Context) -> list[Context]:
    return [{"model": name} | row for name, row in found["answers"].items()]


def _interval(row: Context | None) -> Interval | None:
    if row is None or row["low"] is None:
        return None
    return Interval(row["value"], row["low"], row["high"], row["n"])


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _lines(path: Path) -> list[Context]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
