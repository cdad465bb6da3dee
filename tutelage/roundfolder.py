"""The folder of one round of a studio, and what goes into each of its stages. No torch.

    runs/round-N/data/      prompts, demonstrations and rankings as they stood when the round began (given)
    runs/round-N/used/      the same, divided into what trains, what measures and what is answered
    runs/round-N/sft ...    one run folder per stage
    runs/round-N/stage.json where the round is
    runs/round-N/question.json  why it waits for a person's decision; only while it does
    runs/round-N/next.jsonl, judge.jsonl   what people rank next
    runs/round-N/policy.json    whether its new or the old policy stays in use, who decided that, and why
    runs/round-N/round.json what it was trained on and what changed; written last

Test prompts never train. Thirty rankings are the normal case, and thirty are too few to put some aside: below
`ENOUGH_TO_SPLIT` ranked prompts all but the test prompts train, and the reward model's accuracy is measured by
cross-validation; below `ENOUGH_TO_FOLD` it is not claimed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tutelage.records import (
    Demonstration,
    Prompt,
    Ranking,
    UserError,
    read_records,
    write_json,
    write_records,
)

ENOUGH_TO_SPLIT = (50, 10)
"""Ranked prompts in train, and outside it, from which on the splits are kept: 10 prompts give an interval of +-15."""
ENOUGH_TO_FOLD = 9
FOLDS = 3
"""Each costs most of another training; three leave two thirds of the rankings to learn from."""
WATCHED = 6
"""Prompts whose answers are followed while the policy trains."""
HELDOUT = "heldout"
"""The group of labelers whose judgements only ever measure (paper section 3.4)."""
FINISHED, STAGE, NEXT, JUDGE = "round.json", "stage.json", "next.jsonl", "judge.jsonl"
QUESTION, CHOICE = "question.json", "policy.json"


def round_folder(folder: Path, number: int) -> Path:
    """Where round `number` of a studio's folder lies."""
    return folder / "runs" / f"round-{number}"


def numbers(folder: Path) -> list[int]:
    """The rounds that a studio's folder holds, in order."""
    found = (path.name.removeprefix("round-") for path in (folder / "runs").glob("round-*"))
    return sorted(int(name) for name in found if name.isdigit())


def read_json(path: Path) -> dict[str, Any] | None:
    """An object from a file; None where there is none yet, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def previous(folder: Path, number: int) -> tuple[int, dict[str, Any]] | None:
    """The last finished round before `number`, and its round.json."""
    for earlier in reversed([n for n in numbers(folder) if n < number]):
        found = read_json(round_folder(folder, earlier) / FINISHED)
        if found is not None and (round_folder(folder, earlier) / str(found.get("policy")) / "model").is_dir():
            return earlier, found
    return None


def in_use(folder: Path, number: int) -> tuple[str, Path] | None:
    """The policy in use when round `number` begins: its name in answers, and where it is; None for the base model."""
    found = previous(folder, number)
    if found is None:
        return None
    earlier, told = found
    own = round_folder(folder, earlier)
    if (read_json(own / CHOICE) or {}).get("keep") != "old":
        return f"round-{earlier}/{told['policy']}", own / str(told["policy"])
    old = told.get("previous")
    return (str(old), folder / "runs" / str(old)) if old else None


def choose(out: Path, keep: str, by: str, why: str) -> None:
    """Write policy.json: whether the "new" or the "old" policy of a finished round stays in use."""
    write_json(out / CHOICE, {"keep": keep, "by": by, "why": why})


# ---- what trains, what measures --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """The round's inputs, divided. Paths are files of `used/`; `rankings` is None where nothing was ranked."""

    demonstrations: Path
    prompts: Path
    heldout: Path
    pool: Path
    rankings: Path | None
    folds: tuple[Path, ...]
    groups: tuple[str, ...]
    measured: str
    """How the reward model's accuracy is measured: "held-out prompts", "cross-validation" or "not"."""
    n_demonstrations: int
    n_ranked: int
    """Prompts whose rankings train."""
    trained_on: dict[str, Any]


def plan(out: Path, groups: tuple[str, ...], pool: int) -> Plan:
    """Divide the round's data and write `used/`. Raises UserError for data that no round can be trained on.

    groups: of labelers whose rankings train; none named means all but the held-out labelers. pool: how many prompts
    are answered, of which the next to be ranked are chosen.
    """
    data, used = out / "data", out / "used"
    prompts = read_records(Prompt, data / "prompts.jsonl")
    shown = [d for d in read_records(Demonstration, data / "demonstrations.jsonl") if d.split != "test"]
    path = data / "rankings.jsonl"
    rankings = read_records(Ranking, path) if path.exists() else []
    if not shown:
        raise UserError(f"{data / 'demonstrations.jsonl'}: no demonstration outside the test split; write some first")
    if not any(p.split == "train" for p in prompts):
        raise UserError(f"{data / 'prompts.jsonl'}: no prompt in the train split")

    learned, measured = divided(rankings, chosen_groups(rankings, groups, path))
    write_records(used / "demonstrations.jsonl", [replace(d, split="train") for d in shown])
    write_records(used / "prompts.jsonl", followed(prompts))
    write_records(used / "heldout.jsonl", held_out(prompts))
    write_records(used / "pool.jsonl", next_pool(prompts, rankings, shown, pool))
    folds: list[Path] = []
    if learned:
        write_records(used / "rankings.jsonl", learned)
        folds = _write_folds(used, learned) if measured == "cross-validation" else []
    training = [r for r in learned if r.split == "train"]
    return Plan(
        demonstrations=used / "demonstrations.jsonl",
        prompts=used / "prompts.jsonl",
        heldout=used / "heldout.jsonl",
        pool=used / "pool.jsonl",
        rankings=used / "rankings.jsonl" if learned else None,
        folds=tuple(folds),
        groups=tuple(sorted({r.group for r in training})),
        measured=measured,
        n_demonstrations=len(shown),
        n_ranked=len({r.prompt_id for r in training}),
        trained_on={"demonstrations": _whose_words(shown), "rankings": _whose_order(training, rankings)},
    )


def chosen_groups(rankings: Sequence[Ranking], groups: tuple[str, ...], path: Path) -> set[str]:
    """The groups that train. Raises UserError for one that ranked nothing, and for the held-out labelers."""
    found = {r.group for r in rankings}
    if HELDOUT in groups:
        raise UserError("--groups: held-out labelers only evaluate; their rankings never train")
    if missing := sorted(set(groups) - found):
        raise UserError(f"{path}: no ranking by group {missing[0]!r}; there are {', '.join(sorted(found)) or 'none'}")
    return set(groups) or found - {HELDOUT}


def divided(rankings: Sequence[Ranking], groups: set[str]) -> tuple[list[Ranking], str]:
    """The rankings of the reward model's run, with their splits, and how its accuracy is measured.

    Nothing at all where no untied comparison could train. Rankings by other groups measure on held-out prompts.
    """
    ours = [r for r in rankings if r.group in groups and r.split != "test"]
    if not any(r.pairs() for r in ours):
        return [], "not"
    train = {r.prompt_id for r in rankings if r.group in groups and r.split == "train"}
    held = {r.prompt_id for r in rankings if r.split != "train" and r.pairs()}
    if len(train) >= ENOUGH_TO_SPLIT[0] and len(held) >= ENOUGH_TO_SPLIT[1]:
        return [r for r in rankings if r.group in groups or r.split != "train"], "held-out prompts"
    everything = [replace(r, split="train") for r in ours]
    return everything, "cross-validation" if len(untied(everything)) >= ENOUGH_TO_FOLD else "not"


def untied(rankings: Iterable[Ranking]) -> list[str]:
    """Ids of the prompts with at least one untied comparison, sorted."""
    return sorted({r.prompt_id for r in rankings if r.pairs()})


def _write_folds(used: Path, rankings: Sequence[Ranking]) -> list[Path]:
    """One file per fold: a third of the prompts measures, the rest trains; all rankings of a prompt stay together."""
    place = {key: n % FOLDS for n, key in enumerate(untied(rankings))}
    paths = []
    for fold in range(FOLDS):
        rows = [replace(r, split="valid" if place.get(r.prompt_id) == fold else "train") for r in rankings]
        paths.append(used / f"fold-{fold + 1}.jsonl")
        write_records(paths[-1], rows)
    return paths


def followed(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of PPO: those of the train split, and a few, best held-out ones, that are only watched."""
    train = [p for p in prompts if p.split == "train"]
    watched = [p for s in ("valid", "test") for p in prompts if p.split == s] or train
    return [*train, *(replace(p, split="valid") for p in spread_out(watched, WATCHED))]


def held_out(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts that no stage trained on: the test split, else the valid split; none where there is neither."""
    return next((found for s in ("test", "valid") if (found := [p for p in prompts if p.split == s])), [])


def next_pool(
    prompts: Sequence[Prompt], rankings: Sequence[Ranking], shown: Sequence[Demonstration], count: int
) -> list[Prompt]:
    """At most `count` training prompts, the least ranked first, spread over the use cases.

    Those with a demonstration come last: the model has learned what to say to them, and says it every time.
    """
    times = Counter(key for key, _ in {(r.prompt_id, r.labeler) for r in rankings})
    known = {d.prompt for d in shown}
    train = sorted((p for p in prompts if p.split == "train"), key=lambda p: (p.text in known, times[p.id], p.id))
    return spread_out(train, count)


def spread_out(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """The first `count` prompts, each use case in its share; within one, the given order."""
    cases: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        cases.setdefault(prompt.use_case, []).append(prompt)
    placed = [(i / len(group), n, p) for n, group in enumerate(cases.values()) for i, p in enumerate(group)]
    return [p for _, _, p in sorted(placed, key=lambda one: one[:2])[:count]]


def quotas(cases: Mapping[str, int], count: int) -> dict[str, int]:
    """How many of `count` prompts each use case gets: its share, at least one while there are enough, never more
    than it has. {use case: prompts} in, the same out."""
    total = sum(cases.values())
    count = min(count, total)
    given = dict.fromkeys(cases, 0)
    while sum(given.values()) < count:  # one at a time to whoever is furthest below its share
        open_cases = [c for c in cases if given[c] < cases[c]]
        neediest = max(open_cases, key=lambda c: (given[c] == 0, cases[c] * count / total - given[c], c))
        given[neediest] += 1
    return given


def most_spread(pool: Sequence[Prompt], spread: Mapping[str, float], count: int) -> list[Prompt]:
    """The `count` prompts on whose responses the reward model is least of one mind, with a quota per use case."""
    given = quotas(Counter(p.use_case for p in pool), count)
    chosen = []
    for case, most in given.items():
        own = sorted((p for p in pool if p.use_case == case), key=lambda p: (-spread[p.id], p.id))
        chosen += own[:most]
    return sorted(chosen, key=lambda p: (-spread[p.id], p.id))


# ---- whose judgements ------------------------------------------------------------------------------------------


def _whose_words(shown: Sequence[Demonstration]) -> dict[str, Any]:
    counts = Counter(d.labeler for d in shown)
    return {"n": len(shown), "labelers": dict(sorted(counts.items()))}


def _whose_order(training: Sequence[Ranking], given: Sequence[Ranking]) -> dict[str, Any]:
    """Who ranked what the reward model learned from, and how many of the rankings given it did not learn from."""
    by = Counter((r.labeler, r.group) for r in training)
    groups: dict[str, dict[str, int]] = {}
    for (_, group), count in sorted(by.items()):
        one = groups.setdefault(group, {"labelers": 0, "rankings": 0})
        one["labelers"] += 1
        one["rankings"] += count
    pairs = sum(len(r.pairs()) for r in training)
    every = sum(len(r.ranks) * (len(r.ranks) - 1) // 2 for r in training)
    return {
        "n": len(training),
        "prompts": len({r.prompt_id for r in training}),
        "comparisons": pairs,
        "ties": every - pairs,
        "labelers": [{"labeler": who, "group": group, "rankings": n} for (who, group), n in sorted(by.items())],
        "groups": groups,
        "not_trained_on": len(given) - len(training),
    }
