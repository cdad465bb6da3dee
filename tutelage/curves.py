"""Training curves of the stages of a loop or a round, each with what a healthy one looks like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tutelage import charts
from tutelage.findings import name
from tutelage.run import Run

Context = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Curve:
    """One training curve: its metric, its title, what a healthy one looks like, how its numbers are
    written."""

    key: str
    title: str
    healthy: str
    form: str = "{:g}"
    reference: float | None = None
    reference_label: str = ""


PPO_CURVES = (
    Curve(
        "score/mean",
        "Score",
        "What the reward model thinks of the responses. It should rise, then level off.",
        "{:g}",
    ),
    Curve("kl", "KL", "Distance to the SFT model, nats per response. It should rise slowly, without a jump."),
    Curve(
        "entropy",
        "Entropy",
        "How undecided the model is at each word. It falls; near 0 it says one thing only.",
    ),
    Curve("length", "Length", "Tokens per response. A steady drift may be a trick the reward model falls for."),
    Curve(
        "ended",
        "Ends by itself",
        "Share of responses that stop before they are cut. It should reach nearly all.",
        "{:.0%}",
    ),
    Curve(
        "value/explained_variance",
        "Value: explained variance",
        "How well the value network foresees the return: 1 is perfectly, 0 no better than a constant.",
        reference=0.0,
        reference_label="a constant guess",
    ),
    Curve(
        "clip_fraction",
        "Clip fraction",
        "Share of words whose change was held back. Some percent is healthy.",
        "{:.1%}",
    ),
    Curve(
        "loss/pretraining",
        "Loss on ordinary text",
        "Nats per token of the pretraining mix. It should not climb.",
    ),
)
REWARD_CURVES = (
    Curve(
        "loss/train",
        "Reward model: loss",
        "Should fall below guessing.",
        "{:g}",
        math.log(2),
        "guessing (0.69)",
    ),
    Curve(
        "accuracy/train",
        "Reward model: accuracy in training",
        "Pairs told apart rightly.",
        "{:.0%}",
        0.5,
        "guessing",
    ),
)


def curves(runs: Mapping[str, Run]) -> list[Context]:
    """Training curves, a group per stage that ran or is running; `runs` by the names of a loop's folders."""
    groups: list[Context] = []
    early: list[Context | None] = []
    if "sft" in runs and (rows := runs["sft"].rows("metrics.jsonl")):
        early.append(_imitation(rows))
    if "reward" in runs and (rows := runs["reward"].rows("metrics.jsonl")):
        early += [_drawn(c, [("", "reward", _points(rows, "step", c.key))], "step") for c in REWARD_CURVES]
    if any(early):
        groups.append({"title": "Imitation (SFT) and reward model", "charts": [d for d in early if d]})
    logs = {m: runs[m].rows("metrics.jsonl") for m in ("ppo_ptx", "ppo") if m in runs}
    if logs:
        drawn = [
            _drawn(c, [(name(m), m, _points(rows, "iteration", c.key)) for m, rows in logs.items()], "iteration")
            for c in PPO_CURVES
        ]
        groups.append({"title": " and ".join(map(name, logs)), "charts": [d for d in drawn if d]})
    return groups


def _imitation(rows: Sequence[Context]) -> Context | None:
    train, held = (_points(rows, "step", key) for key in ("loss/train", "loss/heldout"))
    if not train:
        return None
    after = charts.Series("held-out, after each pass", held, "prompted", True)
    chart = charts.lines("SFT: loss per token", [charts.Series("training", train, "sft"), after], x_label="step")
    healthy = "Both should fall; where the held-out loss turns up, the model learns the demonstrations by heart."
    if not held:
        healthy = "Should fall. No demonstrations are held out, so it does not show when they are learned by heart."
    return _curve("Held-out loss" if held else "Loss", healthy, chart, held or train, "{:.3g}")


def _drawn(curve: Curve, lines: Sequence[tuple[str, str, list[charts.Point]]], x_label: str) -> Context | None:
    lines = [line for line in lines if line[2]]
    if not lines:
        return None
    chart = charts.lines(
        curve.title,
        [charts.Series(label if len(lines) > 1 else "", points, style) for label, style, points in lines],
        x_label=x_label,
        form=curve.form.format,
        reference=curve.reference,
        reference_label=curve.reference_label,
    )
    form = curve.form if "%" in curve.form else "{:.3g}"
    title = f"{curve.title}, {lines[0][0]}" if len(lines) > 1 else curve.title
    return _curve(title, curve.healthy, chart, lines[0][2], form)


def _curve(title: str, healthy: str, chart: str, points: Sequence[charts.Point], form: str) -> Context:
    ends = f"{form.format(points[0][1])} → {form.format(points[-1][1])}"
    return {"title": title, "healthy": healthy, "chart": Markup(chart), "ends": ends}


def _points(rows: Sequence[Context], x: str, y: str) -> list[charts.Point]:
    """(x, y) of the rows that have both as finite numbers."""
    both = [(row[x], row[y]) for row in rows if x in row and y in row]
    numbers = [(a, b) for a, b in both if isinstance(a, int | float) and isinstance(b, int | float)]
    return [(float(a), float(b)) for a, b in numbers if math.isfinite(b)]
