"""The rubric of the simulated labelers: nine judgements of a response, and the gold score they add up to.

A judgement is a number in [0, 1], the product of its findings; a finding is a factor and the reason for it,
so the same computation scores a response and explains the score (tutelage/judging). The gold score is the
weighted mean of the judgements behind a gate: politeness, length or a clean ending earn next to nothing
unless the response answers the prompt in readable prose, so that nothing cheap (an empty text, the prompt
copied, a stock sentence) can score well. This is our stand-in for human taste, not the paper's; its words and
weights come from a workflow's `workflow.json`. It reads the surface of a text and knows nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tutelage.judging import checks, judgements
from tutelage.judging.judgements import JUDGEMENTS, Settings
from tutelage.records import Prompt, UserError

DEFAULT_WEIGHTS = {
    "follows": 4.0,
    "constraints": 3.0,
    "grounded": 2.0,
    "polite": 1.0,
    "harmless": 1.0,
    "ends": 1.0,
    "fluent": 2.0,
    "no_placeholders": 1.0,
    "length": 1.0,
}
LEARNED = ("acts", "trade", "trade_pairs")
"""Settings that are found in a workflow's prompts and demonstrations, never given by hand."""
FLOOR = 0.05
"""What is left where `follows` is 0: the prompt copied, a wrong answer."""
HELDOUT_TASTE = {"grounded": 1.5, "harmless": 1.5, "constraints": 1.2, "polite": 0.7}
"""The final evaluation puts truthful and harmless first (paper section 3.4); training put helpful first."""
GATE = {
    "constraints": 0.4,
    "grounded": 0.25,
    "polite": 0.75,
    "harmless": 0.0,
    "ends": 0.3,
    "fluent": 0.0,
    "no_placeholders": 0.5,
    "length": 0.4,
}
"""What is left of a response that fails one of these judgements entirely, whatever its other merits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A group of simulated labelers: how many, how noisy, and what they care about more than the rubric."""

    n: int = 5
    noise: float = 0.19
    """Standard deviation of the noise on a labeler's utility (utilities lie in [0, 1]).

    Depends on how far apart a model's samples are: `python -m tutelage.labelers` tells what a workflow needs.
    """
    tie_width: float = 0.05
    """Responses whose noisy utilities differ by no more than this share a rank."""
    spread: float = 0.3
    """Standard deviation of the log tastes among the group's labelers: how much their values differ."""
    taste: dict[str, float] = field(default_factory=dict)
    """How many times as much as the rubric the whole group cares about a judgement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric:
    """The rubric of a workflow: what the judgements look for, their weights, and the panels that apply it."""

    settings: Settings = field(default_factory=Settings)
    weights: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    panels: dict[str, Panel] = field(
        default_factory=lambda: {
            "training": Panel(),
            "heldout": Panel(noise=0.14, taste=dict(HELDOUT_TASTE)),
        }
    )


def judge(prompt: Prompt, text: str, ended: bool, rubric: Rubric) -> dict[str, float]:
    """The nine judgements of a response, each in [0, 1]; `ended`: it finished by its own end token."""
    found = judgements.find(prompt, text, ended, rubric.settings)
    return {name: math.prod(factor for factor, _ in findings) for name, findings in found.items()}


def combine(
    prompt: Prompt,
    judged: Mapping[str, float],
    weights: Mapping[str, float],
    taste: Mapping[str, float] | None = None,
) -> float:
    """The weighted mean of the judgements behind the gate, in [0, 1].

    The gate multiplies: a response that does not follow keeps FLOOR of its mean, one that fails a judgement
    of GATE keeps that share. `taste` tells how many times as much as `weights` someone cares about a
    judgement; it scales the weight and is the exponent of the gate. `constraints` counts only for a prompt
    that states some.
    """
    taste = taste or {}
    names = [name for name in JUDGEMENTS if name != "constraints" or checks.of_kind(prompt, *checks.CONSTRAINTS)]
    shares = {name: weights[name] * taste.get(name, 1.0) for name in names}
    mean = sum(shares[name] * judged[name] for name in names) / sum(shares.values())
    gate = FLOOR + (1.0 - FLOOR) * float(judged["follows"] ** taste.get("follows", 1.0))
    for name, floor in GATE.items():
        gate *= float((floor + (1.0 - floor) * judged[name]) ** taste.get(name, 1.0))
    return mean * gate


def gold(prompt: Prompt, text: str, ended: bool, rubric: Rubric) -> float:
    """The rubric's own score of a response, in [0, 1]: what a labeler without noise or taste would say."""
    return combine(prompt, judge(prompt, text, ended, rubric), rubric.weights)


def explain(prompt: Prompt, text: str, ended: bool, rubric: Rubric) -> list[str]:
    """One line per finding that lowered a judgement: "grounded 0.50: invented number 30"."""
    found = judgements.find(prompt, text, ended, rubric.settings)
    return [
        f"{name} {factor:.2f}: {reason}"
        for name, findings in found.items()
        for factor, reason in findings
        if factor < 1.0
    ]


def parse(row: dict[str, Any], where: str) -> Rubric:
    """A rubric from its fields in a workflow.json. Raises UserError naming `where` and the field."""
    settings = _settings({key: value for key, value in row.items() if key not in ("weights", "labelers")}, where)
    weights = DEFAULT_WEIGHTS | _weights(row.get("weights", {}), f"{where}, field 'weights'")
    if not any(value for name, value in weights.items() if name != "constraints"):
        raise UserError(f"{where}: field 'weights' leaves nothing to judge")
    panels = row.get("labelers", {})
    if not isinstance(panels, dict) or not set(panels) <= {"training", "heldout"}:
        raise UserError(f"{where}: field 'labelers' must be an object with 'training' and 'heldout'")
    defaults = Rubric().panels
    parsed = {
        group: _panel(panels.get(group, {}), defaults[group], f"{where}, labelers {group!r}") for group in defaults
    }
    return Rubric(settings=settings, weights=weights, panels=parsed)


def fields() -> tuple[str, ...]:
    """The names of workflow.json that belong to the rubric."""
    return (
        *(f.name for f in dataclasses.fields(Settings) if f.name not in LEARNED),
        "weights",
        "labelers",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _weights(row: Any, where: str) -> dict[str, float]:
    if not isinstance(row, dict) or not all(_is_number(value) for value in row.values()):
        raise UserError(f"{where}: must be an object of numbers >= 0")
    unknown = sorted(set(row) - set(JUDGEMENTS))
    if unknown:
        raise UserError(f"{where}: {unknown[0]!r} is unknown; expected some of {', '.join(JUDGEMENTS)}")
    return {name: float(value) for name, value in row.items()}


def _panel(row: Any, default: Panel, where: str) -> Panel:
    names = {f.name for f in dataclasses.fields(Panel)}
    if not isinstance(row, dict) or not set(row) <= names:
        raise UserError(f"{where}: must be an object with some of {', '.join(sorted(names))}")
    for name in sorted(set(row) - {"taste"}):
        if not _is_number(row[name]) or (name == "n" and (row[name] != int(row[name]) or row[name] < 1)):
            raise UserError(f"{where}, field {name!r}: is {row[name]!r}, expected a number >= {int(name == 'n')}")
    values = dict(row)
    if "taste" in row:
        values["taste"] = _weights(row["taste"], f"{where}, field 'taste'")
    return dataclasses.replace(default, **values)


def _settings(row: dict[str, Any], where: str) -> Settings:
    values: dict[str, Any] = {}
    for name, value in row.items():
        if name == "length_words":
            values[name] = _range(value, f"{where}, field {name!r}")
        elif name == "length_words_by_use_case":
            if not isinstance(value, dict):
                raise UserError(f"{where}: field {name!r} must be an object of use case: [low, high]")
            values[name] = {use: _range(pair, f"{where}, field {name!r}, {use!r}") for use, pair in value.items()}
        elif name == "closed_domain":
            if not isinstance(value, bool):
                raise UserError(f"{where}: field {name!r} must be true or false")
            values[name] = value
        else:
            if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
                raise UserError(f"{where}: field {name!r} must be a list of phrases")
            values[name] = tuple(value)
    values.setdefault("closed_domain", bool(values.get("facts")))
    return Settings(**values)


def _range(value: Any, where: str) -> tuple[int, int]:
    fine = isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) and v >= 1 for v in value)
    if not fine or value[0] > value[1]:
        raise UserError(f"{where}: must be [low, high], both whole numbers >= 1")
    return value[0], value[1]
