"""Simulated labelers: programs that rank and rate in the place of people, so that the whole loop runs
offline.

They are not people and are never presented as people: their names start with "simulated", and what they
prefer is the rubric of a workflow (tutelage/rubric.py), weighed by each to its own taste, plus noise. They
emit the records that the studio's human labelers emit (paper section 3.4 and Table 3), so that every later
stage takes either. Two groups, as in the paper: "training" labelers rank what the reward model learns from;
"heldout" labelers never do, have other tastes and other noise, and only evaluate. Noise is one number per
group in workflow.json, set so that two labelers of the training group agree on about 73% of the pairs neither
of them ties (paper: 72.6 +- 1.5%; held-out 77.3 +- 1.3%).

    python -m tutelage.labelers NAME SAMPLES.jsonl

prints the agreement on the samples of a `sample` run, and the noise that would meet the paper's numbers.
"""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from tutelage import rubric as rubrics
from tutelage.judging import checks, judgements
from tutelage.judging.judgements import JUDGEMENTS
from tutelage.records import (
    RATING_FLAGS,
    FieldError,
    Prompt,
    Ranking,
    Rating,
    Response,
    UserError,
    from_dict,
    read_rows,
)
from tutelage.rubric import Rubric

AGREEMENT = {"training": 0.73, "heldout": 0.77}
"""Share of untied pairs two labelers of a group should agree on (paper section 3.4)."""
FAILS = 0.7
"""A response that follows less than this fails the instruction: it says about a third of what was needed."""
FLIP = 0.03
"""How often a simulated labeler sets a flag it can see the wrong way."""

Sets = Sequence[tuple[Prompt, Sequence[Response]]]
"""Prompts, each with the responses to rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedLabeler:
    """One simulated labeler: its tastes, its noise, and how strict its ratings are."""

    name: str
    group: str = "training"
    taste: Mapping[str, float] = field(default_factory=dict)
    """How many times as much as the rubric it cares about each judgement."""
    noise: float = 0.0
    """Standard deviation of the noise on its utility."""
    tie_width: float = 0.0
    """Utilities no further apart than this are a tie."""
    likert_bias: float = 0.0
    """Likert points it adds to every rating before rounding."""


def labelers(rubric: Rubric, group: str, n: int | None = None, seed: int = 0) -> tuple[SimulatedLabeler, ...]:
    """The first n simulated labelers of a group (by default as many as the rubric says), the same for the
    same seed.

    Raises UserError for an unknown group.
    """
    if group not in rubric.panels:
        raise UserError(f"no group of labelers {group!r}; expected one of {', '.join(rubric.panels)}")
    panel = rubric.panels[group]
    made: list[SimulatedLabeler] = []
    for index in range(1, (panel.n if n is None else n) + 1):
        rng = random.Random(f"labeler:{seed}:{group}:{index}")
        taste = {name: panel.taste.get(name, 1.0) * math.exp(rng.gauss(0.0, panel.spread)) for name in JUDGEMENTS}
        made.append(
            SimulatedLabeler(
                name=f"simulated-{group}-{index}",
                group=group,
                taste=taste,
                noise=panel.noise,
                tie_width=panel.tie_width,
                likert_bias=rng.gauss(0.0, 0.3),
            )
        )
    return tuple(made)


def rank(
    labeler: SimulatedLabeler,
    prompt: Prompt,
    responses: Sequence[Response],
    *,
    rubric: Rubric,
    seed: int = 0,
    instruction_mode: str = "helpful-first",
) -> Ranking:
    """One labeler's ranking and ratings of the responses to a prompt.

    The verdict on a response depends on (labeler, prompt id, text, ended, seed) only, never on the order
    given; equal texts tie. The ranking holds the responses in the order they were shown, which `order_seed`
    shuffles.
    """
    return rank_by([labeler], prompt, responses, rubric=rubric, seed=seed, instruction_mode=instruction_mode)[0]


def rank_by(
    panel: Iterable[SimulatedLabeler],
    prompt: Prompt,
    responses: Sequence[Response],
    *,
    rubric: Rubric,
    seed: int = 0,
    instruction_mode: str = "helpful-first",
) -> list[Ranking]:
    """`rank` by several labelers, judging each response once."""
    judged = {_key(r): rubrics.judge(prompt, r.text, r.ended, rubric) for r in responses}
    rankings: list[Ranking] = []
    for labeler in panel:
        order_seed = random.Random(f"order:{seed}:{labeler.name}:{prompt.id}").getrandbits(31)
        shown = sorted(responses, key=lambda r: (r.id, _key(r)))
        random.Random(order_seed).shuffle(shown)
        drawn = [_utility(labeler, prompt, r, judged[_key(r)], rubric, seed) for r in shown]
        utilities = [score + labeler.noise * draw for score, draw in drawn]
        rankings.append(
            Ranking(
                prompt_id=prompt.id,
                prompt=prompt.text,
                responses=tuple(shown),
                ranks=ranks(utilities, labeler.tie_width),
                ratings=tuple(
                    _rating(labeler, prompt, r, u, judged[_key(r)], seed) for r, u in zip(shown, utilities, strict=True)
                ),
                labeler=labeler.name,
                group=labeler.group,
                order_seed=order_seed,
                instruction_mode=instruction_mode,
                split=prompt.split,
            )
        )
    return rankings


def ranks(utilities: Sequence[float], tie_width: float) -> tuple[int, ...]:
    """Dense ranks, 1 for the largest: each rank takes all that lie within `tie_width` of its best.

    ranks([0.9, 0.5, 0.88, 0.1], 0.05) == (1, 2, 1, 3)
    """
    found = [0] * len(utilities)
    current, best = 0, math.inf
    for index in sorted(range(len(utilities)), key=lambda i: -utilities[i]):
        if current == 0 or best - utilities[index] > tie_width:
            current, best = current + 1, utilities[index]
        found[index] = current
    return tuple(found)


def likert(utility: float, bias: float = 0.0) -> int:
    """The rating of a utility: 1 at 0, 7 at 1, shifted by `bias` points, rounded, kept within 1 to 7."""
    return max(1, min(7, round(1.0 + 6.0 * utility + bias)))


def calibrate_noise(rubric: Rubric, group: str, sets: Sets, target: float, seed: int = 0) -> float:
    """The noise (to 0.01) at which two labelers of the group agree on `target` of the pairs neither ties.

    0 when even without noise they agree less, 2 when they agree more even with that much.
    """
    panel = labelers(rubric, group, seed=seed)
    drawn = [
        [[_utility(one, prompt, r, judged[_key(r)], rubric, seed) for r in responses] for one in panel]
        for prompt, responses in sets
        for judged in [{_key(r): rubrics.judge(prompt, r.text, r.ended, rubric) for r in responses}]
    ]
    low, high = 0.0, 2.0
    while high - low > 0.005:
        noise = (low + high) / 2
        agreed = pairs = 0
        for verdicts in drawn:
            orders = [_order(ranks([u + noise * z for u, z in mine], panel[0].tie_width)) for mine in verdicts]
            one, two = _agreed(orders, None)
            agreed, pairs = agreed + one, pairs + two
        if pairs == 0:
            raise UserError("calibration needs at least one pair that no two labelers tie")
        low, high = (noise, high) if agreed / pairs > target else (low, noise)
    return round((low + high) / 2, 2)


def agreement(ranked: Iterable[Sequence[Ranking]], other: Iterable[Sequence[Ranking]] | None = None) -> tuple[int, int]:
    """(agreed, pairs) over every two labelers and every two responses that neither labeler ties.

    Each item holds the rankings of one prompt; with `other`, each labeler of the first meets each of `other`.
    """
    agreed = pairs = 0
    others: Iterable[Sequence[Ranking] | None] = itertools.repeat(None) if other is None else other
    for first, second in zip(ranked, others, strict=False):
        theirs = None if second is None else [_preferences(ranking) for ranking in second]
        one, two = _agreed([_preferences(ranking) for ranking in first], theirs)
        agreed, pairs = agreed + one, pairs + two
    return agreed, pairs


Order = Mapping[tuple[object, object], bool]
"""For each untied pair of responses, the smaller key first: whether the first is better."""


def _agreed(mine: Sequence[Order], theirs: Sequence[Order] | None) -> tuple[int, int]:
    agreed = pairs = 0
    for i, left in enumerate(mine):
        for right in mine[i + 1 :] if theirs is None else theirs:
            shared = left.keys() & right.keys()
            agreed += sum(left[pair] == right[pair] for pair in shared)
            pairs += len(shared)
    return agreed, pairs


def _preferences(ranking: Ranking) -> Order:
    ids = [response.id for response in ranking.responses]
    return {(min(ids[i], ids[j]), max(ids[i], ids[j])): ids[i] < ids[j] for i, j in ranking.pairs()}


def _order(places: Sequence[int]) -> Order:
    k = len(places)
    return {(i, j): places[i] < places[j] for i in range(k) for j in range(i + 1, k) if places[i] != places[j]}


def _key(response: Response) -> tuple[str, bool]:
    return response.text, response.ended


def _utility(
    labeler: SimulatedLabeler,
    prompt: Prompt,
    response: Response,
    judged: Mapping[str, float],
    rubric: Rubric,
    seed: int,
) -> tuple[float, float]:
    """(the labeler's own score in [0, 1], a standard normal draw); its utility is score + noise * draw."""
    draw = _rng("utility", labeler, prompt, response, seed).gauss(0.0, 1.0)
    return rubrics.combine(prompt, judged, rubric.weights, labeler.taste), draw


def _rating(
    labeler: SimulatedLabeler,
    prompt: Prompt,
    response: Response,
    utility: float,
    judged: Mapping[str, float],
    seed: int,
) -> Rating:
    """Likert from the utility; flags from the judgements, each that can be seen flipped now and then."""
    rng = _rng("flags", labeler, prompt, response, seed)
    seen = _flags(prompt, response, judged)
    flags = {name: name in seen and seen[name] != (rng.random() < FLIP) for name in RATING_FLAGS}
    return Rating(likert=likert(utility, labeler.likert_bias), flags=flags)


def _flags(prompt: Prompt, response: Response, judged: Mapping[str, float]) -> dict[str, bool]:
    """The flags of the paper's Table 3 that the rubric can see; the others stay False."""
    threat = bool(judgements.said_unprompted(prompt, response.text, judgements.THREATS))
    flags = {
        "fails_instruction": judged["follows"] < FAILS,
        "inappropriate": judged["harmless"] < 1.0 or judged["fluent"] < 0.3 or judged["no_placeholders"] < 1.0,
        "hallucination": judged["grounded"] < 1.0,
        "violent_content": threat,
        "encourages_harm": threat,
    }
    if checks.of_kind(prompt, *checks.CONSTRAINTS):
        flags["satisfies_constraint"] = judged["constraints"] == 1.0
    return flags


def _rng(what: str, labeler: SimulatedLabeler, prompt: Prompt, response: Response, seed: int) -> random.Random:
    return random.Random(f"{what}:{seed}:{labeler.name}:{prompt.id}:{response.ended}:{response.text}")


def read_samples(path: Path, prompts: Iterable[Prompt]) -> list[tuple[Prompt, list[Response]]]:
    """Prompts with their responses from a run's samples.jsonl. Raises UserError naming line and field."""
    by_id = {prompt.id: prompt for prompt in prompts}
    found: dict[str, list[Response]] = {}
    for number, row in read_rows(path):
        try:
            if not isinstance(row, dict) or row.get("prompt_id") not in by_id:
                raise FieldError("prompt_id", "is not a prompt of the workflow")
            found.setdefault(row["prompt_id"], []).append(from_dict(Response, row.get("response")))
        except FieldError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    return [(by_id[prompt_id], responses) for prompt_id, responses in found.items() if len(responses) > 1]


def report(rubric: Rubric, sets: Sets) -> list[str]:
    """Lines on agreement within and across the groups, ties, ratings, and the noise to set."""
    lines = [f"{len(sets)} prompts, {sum(len(responses) for _, responses in sets)} responses"]
    golds = [rubrics.gold(prompt, r.text, r.ended, rubric) for prompt, responses in sets for r in responses]
    lines.append(f"gold {mean(golds):.3f} on average, {sum(g > 0.8 for g in golds) / len(golds):.0%} above 0.8")
    ranked = {
        group: [rank_by(labelers(rubric, group), prompt, responses, rubric=rubric) for prompt, responses in sets]
        for group in rubric.panels
    }
    for group, per_prompt in ranked.items():
        agreed, pairs = agreement(per_prompt)
        every = [ranking for rankings in per_prompt for ranking in rankings]
        possible = sum(math.comb(len(r.responses), 2) for r in every)
        tied = 1.0 - sum(len(r.pairs()) for r in every) / possible
        stars = mean(rating.likert for r in every for rating in r.ratings)
        share = f"{agreed / pairs:.1%}" if pairs else "none"
        needed = calibrate_noise(rubric, group, sets, AGREEMENT[group]) if pairs else rubric.panels[group].noise
        lines.append(
            f"{group}: agreement {share} of {pairs} pairs, ties {tied:.1%}, Likert {stars:.2f}; noise "
            f"{rubric.panels[group].noise}, for {AGREEMENT[group]:.0%} it should be {needed}"
        )
    agreed, pairs = agreement(ranked["training"], ranked["heldout"])
    lines.append(f"across the groups: agreement {agreed / max(1, pairs):.1%} of {pairs} pairs")
    return lines


def main(arguments: list[str]) -> int:
    """Print the report for a workflow and a samples file; returns the exit code."""
    from tutelage.workflows import load  # the only use of a workflow's other files, which labelers do without

    if len(arguments) != 2:
        print("usage: python -m tutelage.labelers NAME|FOLDER SAMPLES.jsonl", file=sys.stderr)
        return 2
    try:
        workflow = load(arguments[0])
        sets = read_samples(Path(arguments[1]), workflow.prompts)
        if not sets:
            raise UserError(f"{arguments[1]}: no prompt has two responses or more")
        print("\n".join(report(workflow.rubric, sets)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
