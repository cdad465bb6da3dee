"""The one importer: a file's records become part of a collection, by the paper's rules, and all that went is told.

`tutelage add` writes into a folder, the studio into its database; what enters and in which split is decided here for
both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tutelage.data.intake import digest
from tutelage.data.leftovers import way_out
from tutelage.data.prompts import MAX_PROMPT_TOKENS, UNKNOWN_USER, Collected, collect
from tutelage.data.sources import Imported, load
from tutelage.records import Demonstration, Prompt, Ranking, UserError, read_records, write_records

FILES: dict[type, str] = {Prompt: "prompts.jsonl", Demonstration: "demonstrations.jsonl", Ranking: "rankings.jsonl"}


@dataclass(frozen=True, slots=True)
class Admitted:
    """What of a file enters a collection: `collected.kept` are the new prompts, `fresh` holds the demonstrations and
    rankings of these and of prompts known before; `notes` tell of what else happened, for a person."""

    collected: Collected
    fresh: Imported
    notes: tuple[str, ...]


def admit(
    found: Imported,
    known: Sequence[Prompt],
    *,
    rules: bool = True,
    count_tokens: Callable[[str], int] | None = None,
    max_tokens: int = MAX_PROMPT_TOKENS,
) -> Admitted:
    """Judge the records of a file beside the prompts of a collection.

    Known prompts come first: they and their splits stay, and a newcomer that repeats one is the one that goes. What
    belongs to a prompt goes with it. `rules=False` takes every new prompt, for files that went through the rules
    before. Raises UserError when a row names another split than its prompt has here, or an id has two texts.
    """
    _agree(found, known)
    if rules:
        collected = collect(
            found.prompts, existing=known, marked=found.marked, count_tokens=count_tokens, max_tokens=max_tokens
        )
    else:
        texts = {prompt.id: prompt.text for prompt in known}
        if odd := [p.id for p in found.prompts if texts.get(p.id, p.text) != p.text]:
            raise UserError(f"prompt id {odd[0]!r} is used for two different texts")
        collected = Collected(tuple(prompt for prompt in found.prompts if prompt.id not in texts), ())
    fresh = found.restricted_to([*known, *collected.kept])
    notes = [*_gone(found, collected, fresh), *_divided(found, known, collected)]
    return Admitted(collected, fresh, tuple(notes))


def _agree(found: Imported, known: Sequence[Prompt]) -> None:
    splits = {prompt.text: prompt.split for prompt in known}
    for prompt in found.prompts:
        here = splits.get(prompt.text, prompt.split)
        if prompt.id in found.marked and prompt.split != here:
            raise UserError(
                f"prompt {prompt.id!r} is marked {prompt.split!r}, but it is in {here!r} already; mark it so, "
                f"{way_out(['split'])}"
            )


def _gone(found: Imported, collected: Collected, fresh: Imported) -> list[str]:
    """What went with the prompts that were dropped, by the rule that dropped them."""
    rules = {prompt.id: reason.rule for prompt, reason in collected.dropped}
    here = {prompt.id for prompt in fresh.prompts}
    texts = {prompt.text for prompt in fresh.prompts}
    lines = []
    for what, records in (("demonstration", found.demonstrations), ("ranking", found.rankings)):
        gone = Counter(rules[r.prompt_id] for r in records if r.prompt_id not in here and r.prompt not in texts)
        if gone:
            why = ", ".join(f"{count:,} {rule}" for rule, count in sorted(gone.items()))
            lines.append(f"{_count(gone.total(), what)} dropped with their prompts: {why}")
    return lines


def _divided(found: Imported, known: Sequence[Prompt], collected: Collected) -> list[str]:
    """Users who are in several splits, because rows say so."""
    splits: dict[str, set[str]] = {}
    for prompt in (*known, *collected.kept):
        splits.setdefault(prompt.user, set()).add(prompt.split)
    users = {p.user for p in collected.kept if p.id in found.marked and len(splits[p.user]) > 1} - {UNKNOWN_USER}
    return [f"{_count(len(users), 'user')} with prompts in several splits, as the rows say"] if users else []


def add(folder: Path, file: Path, *, ignore: Sequence[str] = ()) -> str:
    """Import `file` into prompts.jsonl, demonstrations.jsonl and rankings.jsonl of `folder`; returns what to print."""
    found = load(file, ignore=ignore)
    prompts, demonstrations, rankings = (_known(folder, kind) for kind in (Prompt, Demonstration, Ranking))
    try:
        admitted = admit(found, prompts)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    prompts = [*prompts, *admitted.collected.kept]
    written, repeated = _merge_demonstrations(demonstrations, admitted.fresh.demonstrations)
    judged: dict[tuple[object, ...], Ranking] = {}
    for ranking in (*rankings, *admitted.fresh.rankings):
        judged.setdefault(_judgement(ranking), ranking)
    for kind, records in ((Prompt, prompts), (Demonstration, written), (Ranking, list(judged.values()))):
        write_records(folder / FILES[kind], records)
    again = {"demonstration": repeated, "ranking": len(rankings) + len(admitted.fresh.rankings) - len(judged)}
    notes = [f"{_count(number, what)} here already" for what, number in again.items() if number]
    total = f"{len(prompts)} prompts, {len(written)} demonstrations, {len(judged)} rankings"
    return "\n".join([found.summary(), admitted.collected.summary(), *admitted.notes, *notes, f"{folder}: now {total}"])


def _merge_demonstrations(old: Sequence[Demonstration], new: Sequence[Demonstration]) -> tuple[list[Any], int]:
    """Both, each once, and how many of the new were there. An id that stands for something else gets a digest."""
    merged = {d.id: d for d in old}
    repeated = 0
    for one in new:
        content = (one.prompt, one.response, one.labeler)
        there = merged.get(one.id)
        if there is not None and (there.prompt, there.response, there.labeler) != content:
            one = replace(one, id=f"{one.id}~{digest(*content)}")
        repeated += one.id in merged
        merged.setdefault(one.id, one)
    return list(merged.values()), repeated


def _judgement(ranking: Ranking) -> tuple[object, ...]:
    """What makes two rankings the same one: who ranked which responses to what, as shown, and how."""
    ranks = sorted((r.id, r.text, rank) for r, rank in zip(ranking.responses, ranking.ranks, strict=True))
    return ranking.prompt_id, ranking.labeler, ranking.group, ranking.order_seed, tuple(ranks)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s'[: number != 1]}"


def _known(folder: Path, kind: type[Any]) -> list[Any]:
    path = folder / FILES[kind]
    return read_records(kind, path) if path.exists() else []
