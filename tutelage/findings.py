"""What a loop's numbers say, in words: pure functions from a read loop to sentences true to their intervals.

A verdict is only given where the interval allows one. The wording is for a reader who has not seen the paper.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tutelage.evaluate.intervals import Interval, clustered_mean
from tutelage.loopfolder import Answer, Loop, Snapshot
from tutelage.records import Ranking

NAMES = {"base": "Base", "prompted": "Prompted", "sft": "SFT", "ppo": "PPO", "ppo_ptx": "PPO-ptx"}
LONG = {
    "base": "the base model",
    "prompted": "the base model shown a few examples (prompted)",
    "sft": "its imitation-only start (SFT)",
    "ppo": "the trained assistant (PPO)",
    "ppo_ptx": "the trained assistant (PPO-ptx)",
}
FIXED, WORST, OVERRATED, LEAST = 6, 4, 4, 12
"""Sampled prompts: at fixed positions, worst by gold, overrated by the score, and how many at the least."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence, its kind (good, unclear or bad), and what it rests on."""

    kind: str
    text: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A prompt of the sample pages and why it is there."""

    prompt_id: str
    why: tuple[str, ...]


def name(model: str) -> str:
    """How the report calls a model."""
    return NAMES.get(model, model)


def percent(share: Interval | float) -> str:
    """A share as percent, an interval with its ends: "71% [63, 78]". One decimal where rounding would put a
    value that is not 0, 50 or 100 onto these, since they decide what may be said."""
    values = [share.value, share.low, share.high] if isinstance(share, Interval) else [share]
    fine = any(round(100 * v) in (0, 50, 100) and abs(100 * v - round(100 * v)) > 0.05 for v in values)
    first, *ends = [f"{100 * v:.{1 if fine else 0}f}" for v in values]
    return f"{first}%" + (f" [{', '.join(ends)}]" if ends else "")


def number(interval: Interval | float, digits: int = 2) -> str:
    """A plain number, an interval with its ends: "0.82 [0.79, 0.85]"."""
    if isinstance(interval, Interval):
        return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
    return f"{interval:.{digits}f}"


def judges(loop: Loop) -> str:
    """Who compared the models, as the subject of a sentence."""
    held_out = all(r.group == "heldout" for r in loop.judged)
    words = ["held-out"] * held_out + ["simulated"] * loop.simulated + ["labelers"]
    return " ".join(words).capitalize()


def headline(loop: Loop) -> str:
    """The result in one sentence, with the numbers of summary.json."""
    against = [m for m in ("sft", "base", "prompted") if m in loop.models and m != loop.assistant]
    rates = [(m, loop.interval("win_rate", f"{loop.assistant}_vs_{m}")) for m in against[:2]]
    parts = [(m, rate) for m, rate in rates if rate is not None]
    subject = LONG.get(loop.assistant, name(loop.assistant)) if loop.assistant != "sft" else "the imitation model (SFT)"
    if not parts:
        return f"{judges(loop)} compared {len(loop.models)} models, but not {subject} with where it started."
    (first, rate), rest = parts[0], parts[1:]
    found = f"{percent(rate)} of comparisons on {rate.n} prompts"
    sentence = f"{judges(loop)} prefer {subject} to {LONG[first]} in {found}"
    return sentence + "".join(f", and to {LONG[m]} in {percent(other)}" for m, other in rest) + "."


def verdict(loop: Loop) -> Verdict:
    """Whether the trained assistant is better than where it started, as far as the interval says."""
    start = next((m for m in ("sft", "base", "prompted") if m in loop.models and m != loop.assistant), "")
    rate = loop.interval("win_rate", f"{loop.assistant}_vs_{start}")
    if rate is None:
        return Verdict("unclear", "No verdict: the trained assistant was not compared with its start.")
    what = {"sft": "imitation alone", "base": "the base model"}.get(start, name(start))
    if rate.low > 0.5:
        return Verdict("good", f"Better than {what}: the whole 95% interval lies above 50%.")
    if rate.high < 0.5:
        return Verdict("bad", f"Worse than {what}: the whole 95% interval lies below 50%. Training did harm here.")
    return Verdict(
        "unclear",
        f"Not shown to differ from {what}: the 95% interval includes 50%, as chance alone would.",
    )


def judge_note(loop: Loop) -> str:
    """What the labelers are: said at the top, since every preference in the report is theirs."""
    count = len({r.labeler for r in loop.judged})
    if not loop.simulated:
        return f"The {count} labelers who compared the models are people."
    given = loop.info.get("labelers")
    lead = str(given.get("note", "")) if isinstance(given, dict) else ""
    return (
        f"{lead or 'Simulated labelers are programs, not people.'} Each of the {count} that judged here "
        "scores a response by rules (does it answer, keep to the stated limits, invent nothing, stay polite "
        "and harmless, read well), weighs them by its own taste and adds chance. Their preference shows that "
        "the training loop works; it does not show that people would prefer these answers."
    )


def trajectory(points: Sequence[Snapshot], spread: float) -> Verdict:
    """Whether gold still rises at the end of a PPO run or has turned while the score rises.

    `spread` is the standard deviation of gold over single responses: it says how much of a difference between
    two means is sampling noise.
    """
    known = [(p, p.gold) for p in sorted(points, key=lambda p: p.iteration) if p.gold is not None]
    if len(known) < 2:
        return Verdict("unclear", "Too few checkpoints to see a direction.")
    (start, gold0), (last, gold1) = known[0], known[-1]
    peak, best = max(known, key=lambda pair: pair[1])
    middle = known[len(known) // 2 - (len(known) % 2 == 0)][1]
    noise = 1.96 * spread * math.sqrt(2 / max(1, last.n))
    told = (
        f"From start to end gold goes from {gold0:.3f} to {gold1:.3f} and the score from {start.score:+.2f} "
        f"to {last.score:+.2f}, at a KL of {last.kl:.1f} nats. Chance alone moves a difference between two "
        f"of these means by about ±{noise:.3f}."
    )
    if best - gold1 > max(noise, 1e-9):
        says = f"Gold has turned: its best was {best:.3f} at iteration {peak.iteration}"
        if last.score > peak.score:
            says += ", and since then the score rose while gold fell. That is over-optimisation: stop earlier"
        return Verdict("bad", f"{says}.", told)
    if best - gold1 > 0.005:
        says = f"A turn is possible but not shown: gold was highest at iteration {peak.iteration} ({best:.3f})"
        return Verdict("unclear", f"{says}, and its fall since then is within chance.", told)
    if gold1 - middle > noise:
        return Verdict("good", "Gold was still rising at the end: no over-optimisation seen up to this KL.", told)
    if gold1 - gold0 > noise:
        says = "Gold rose and is highest at the end: no sign of over-optimisation up to this KL"
        return Verdict("good", f"{says}, though the second half of the run brought no more than chance.", told)
    return Verdict("unclear", "Gold changed no more than chance would: neither gain nor harm is shown.", told)


def tax_note(loop: Loop, changes: Mapping[str, float]) -> str:
    """What a loss below the base model's is owed to, where the model kept reading text of that kind."""
    gained = [m for m in ("ppo_ptx", "sft") if changes.get(m, 0.0) < 0 and m in loop.runs]
    reading = [m for m in gained if loop.runs[m].config().get("pretraining")]
    if not reading:
        return ""
    which = " and ".join(map(name, reading))
    return (
        f"{which} read text of this kind during training, though not these passages. A loss below the base model's "
        "therefore means that the model got used to such text, not that it became better at language."
    )


def gold_spread(answers: Sequence[Answer], model: str) -> float:
    """Standard deviation of gold over a model's answers; 0 with fewer than two."""
    golds = [a.gold for a in answers if a.model == model and a.gold is not None]
    if len(golds) < 2:
        return 0.0
    mean = sum(golds) / len(golds)
    return math.sqrt(sum((g - mean) ** 2 for g in golds) / (len(golds) - 1))


def longer_wins(rankings: Sequence[Ranking], group: str) -> tuple[Interval, int] | None:
    """How often the longer response (in characters) was preferred in a group's held-out pairs, and the pairs;
    equal lengths count half. A reward model no better than this, or its opposite, may know length only."""
    items = [
        (r.prompt_id or r.prompt, 0.5 if better == worse else float(better > worse))
        for r in rankings
        if r.split != "train" and r.group == group
        for i, j in r.pairs()
        for better, worse in [(len(r.responses[i].text), len(r.responses[j].text))]
    ]
    return (clustered_mean(items), len(items)) if items else None


def reward_reading(accuracy: Interval, human: Interval | None, longer: Interval | None) -> str:
    """What the reward model's accuracy means beside its two yardsticks."""
    right = f"{percent(accuracy)} of pairs"
    says = f"On prompts it never saw, the reward model picks the response a labeler preferred in {right}"
    if human is not None:
        near = human.low <= accuracy.value <= human.high
        place = (
            "about as often as" if near else "more often than" if accuracy.value > human.value else "less often than"
        )
        says += f", {place} two labelers agree with each other ({percent(human)})"
    says += "."
    if longer is not None:
        cheap = max(longer.value, 1 - longer.value)
        rule = "longer" if longer.value >= 0.5 else "shorter"
        clear = accuracy.low > cheap
        says += f" Always picking the {rule} response would be right in {percent(cheap)}: the reward model " + (
            "has learned more than length." if clear else "is not clearly better than that."
        )
    return says


def fixed_positions(count: int, wanted: int) -> list[int]:
    """`wanted` indices spread evenly over 0..count-1, each in the middle of its part."""
    wanted = min(count, wanted)
    return [int((i + 0.5) * count / wanted) for i in range(wanted)]


def chosen_samples(answers: Sequence[Answer], assistant: str) -> list[Chosen]:
    """The prompts of the sample pages by a rule that no one's taste enters: fixed positions over the test
    set, the assistant's worst by gold, those whose standing by score is furthest above their standing by
    gold; more fixed positions where these overlap, so that at least 12 are shown."""
    order = list(dict.fromkeys(a.prompt_id for a in answers))
    own = [a for a in answers if a.model == assistant]
    why: dict[str, list[str]] = {}
    wanted = FIXED
    while True:
        picked = fixed_positions(len(order), wanted)
        why = {order[i]: [f"fixed position {i + 1} of {len(order)}"] for i in picked}
        for answer in sorted((a for a in own if a.gold is not None), key=_gold)[:WORST]:
            why.setdefault(answer.prompt_id, []).append(f"one of the {WORST} lowest gold scores")
        for answer, score, gold in overrated(answers, assistant)[:OVERRATED]:
            note = f"rated too high: by score it beats {score:.0%} of all answers, by gold {gold:.0%}"
            why.setdefault(answer.prompt_id, []).append(note)
        if len(why) >= min(LEAST, len(order)) or wanted >= len(order):
            return [Chosen(key, tuple(reasons)) for key, reasons in why.items()]
        wanted += 1


def _gold(answer: Answer) -> float:
    return answer.gold if answer.gold is not None else 0.0


def overrated(answers: Sequence[Answer], assistant: str) -> list[tuple[Answer, float, float]]:
    """(answer, standing by score, standing by gold) of the assistant's answers that stand higher by score, the
    largest gap first; a standing is the share of all models' answers beaten."""
    both = [a for a in answers if a.gold is not None and a.score is not None]
    if not both:
        return []
    golds, scores = _standings([_gold(a) for a in both]), _standings([a.score or 0.0 for a in both])
    found = zip(both, scores, golds, strict=True)
    return sorted((f for f in found if f[0].model == assistant and f[1] > f[2]), key=lambda f: f[2] - f[1])


def _standings(values: Sequence[float]) -> list[float]:
    """Share of all values that each beats, ties half."""
    counts, below, seen = Counter(values), {}, 0
    for value in sorted(counts):
        below[value], seen = seen, seen + counts[value]
    return [(below[v] + counts[v] / 2) / len(values) for v in values]
