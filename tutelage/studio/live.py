"""A round as it trains: where it is, its curves so far, what the policy says by now, and the end of its log.

Read from the run folders, which other processes write: a line that is half there is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import roundfolder, roundtime
from tutelage.curves import curves
from tutelage.run import Run
from tutelage.studio import rounds
from tutelage.studio.rounds import Round

STAGES = ("sft", "reward", "ppo_ptx")
"""Run folders that have curves."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A prompt followed through the training, and the policy's latest response to it."""

    prompt: str
    response: str
    score: float
    kl: float
    length: int


@dataclass(frozen=True, slots=True)
class Live:
    """Everything that changes while a round trains."""

    left: str
    line: str
    place: int
    of: int
    curves: list[dict[str, Any]]
    watched: list[Watched]
    iteration: int
    log: list[str]


def live(found: Round) -> Live:
    """A round as it stands."""
    stage = roundfolder.read_json(found.folder / roundfolder.STAGE) or {}
    runs = {name: run for name in STAGES if (run := _run(found.folder / name)) is not None}
    samples = runs["ppo_ptx"].rows("samples.jsonl") if "ppo_ptx" in runs else []
    last = max((row["iteration"] for row in samples), default=0)
    return Live(
        left=roundtime.words(roundtime.left(found.folder, _earlier(found))),
        line=str(stage.get("line", "starting")),
        place=int(stage.get("place", 0)),
        of=int(stage.get("of", 0)),
        curves=curves(runs),
        watched=[_watched(row) for row in samples if row["iteration"] == last],
        iteration=last,
        log=rounds.log_tail(found.folder),
    )


def _earlier(found: Round) -> list[dict[str, Any]]:
    """What the rounds before this one told of themselves, the newest first."""
    paths = (found.folder.parent / f"round-{number}" for number in range(found.number - 1, 0, -1))
    return [told for path in paths if (told := roundfolder.read_json(path / roundfolder.FINISHED)) is not None]


def _run(path: Path) -> Run | None:
    """A run folder, finished or not; None before it is there."""
    try:
        return Run(path, json.loads((path / "run.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _watched(row: dict[str, Any]) -> Watched:
    return Watched(row["prompt"], row["response"], float(row["score"]), float(row["kl"]), int(row["length"]))
