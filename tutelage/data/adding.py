"""Bring a file of the user's into a folder of ours, by the paper's collection rules, and say what was dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tutelage.data.prompts import collect
from tutelage.data.sources import load
from tutelage.records import Demonstration, Prompt, Ranking, read_records, write_records

FILES: dict[type, str] = {Prompt: "prompts.jsonl", Demonstration: "demonstrations.jsonl", Ranking: "rankings.jsonl"}


def add(folder: Path, file: Path) -> str:
    """Import `file` into prompts.jsonl, demonstrations.jsonl and rankings.jsonl of `folder`; returns what to print.

    Known prompts come first, so their split stays and a newcomer that repeats one is the one that goes. Records
    whose prompt was dropped go with it.
    """
    imported = load(file)
    prompts, demonstrations, rankings = (_known(folder, kind) for kind in (Prompt, Demonstration, Ranking))
    collected = collect(imported.prompts, existing=prompts)
    fresh = imported.restricted_to([*prompts, *collected.kept])
    demonstrations = list({d.id: d for d in [*demonstrations, *fresh.demonstrations]}.values())
    rankings = list({_ranked(r): r for r in [*rankings, *fresh.rankings]}.values())
    for kind, records in ((Prompt, [*prompts, *collected.kept]), (Demonstration, demonstrations), (Ranking, rankings)):
        write_records(folder / FILES[kind], records)
    total = (
        f"{len(prompts) + len(collected.kept)} prompts, {len(demonstrations)} demonstrations, {len(rankings)} rankings"
    )
    return "\n".join([imported.summary(), collected.summary(), f"{folder}: now {total}"])


def _ranked(ranking: Ranking) -> tuple[object, ...]:
    """What makes two rankings the same one: who ranked which responses to what, as shown."""
    responses = tuple(sorted(r.id for r in ranking.responses))
    return ranking.prompt_id, ranking.labeler, ranking.order_seed, responses


def _known(folder: Path, kind: type[Any]) -> list[Any]:
    path = folder / FILES[kind]
    return read_records(kind, path) if path.exists() else []
