"""A finished loop folder, read and checked: what the report is made from. No torch.

Every mistake in the folder is one line that names file, line and field. What a loop may leave out (plain PPO,
gold scores, few-shot answers, a stage done elsewhere) is simply absent here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.evaluate.intervals import Interval
from tutelage.records import Prompt, Ranking, UserError, read_records, read_rows
from tutelage.run import Run

STAGES = ("sft", "samples", "rankings", "reward", "ppo_ptx", "ppo", "evaluation")
"""Folders that a loop's stages write, in the order they run."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer to a held-out prompt. `gold` is the rubric's view without noise, 0 to 1; None where
    people judged. `score` is the reward model's."""

    prompt_id: str
    prompt: str
    use_case: str
    model: str
    response: str
    tokens: int
    ended: bool
    gold: float | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A policy along its PPO run: mean KL to its start (nats per response), gold and score over `n`
    responses."""

    model: str
    iteration: int
    kl: float
    gold: float | None
    score: float
    n: int


@dataclass(frozen=True, slots=True)
class Loop:
    """All a finished loop left behind. `rankings` taught the reward model; `judged` compare the models."""

    path: Path
    info: dict[str, Any]
    summary: dict[str, Any]
    models: tuple[str, ...]
    runs: dict[str, Run]
    prompts: dict[str, Prompt]
    rankings: list[Ranking]
    judged: list[Ranking]
    answers: list[Answer]
    snapshots: list[Snapshot]

    @property
    def assistant(self) -> str:
        """The model the loop is about: PPO-ptx, else PPO, else the last one."""
        return next((m for m in ("ppo_ptx", "ppo") if m in self.models), self.models[-1])

    @property
    def simulated(self) -> bool:
        """Whether programs, not people, compared the models."""
        return any(r.labeler.startswith("simulated") for r in self.judged)

    def interval(self, *path: str) -> Interval | None:
        """The interval at a path of names in summary.json, if there is one."""
        found: Any = self.summary
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        try:
            return Interval(float(found["value"]), float(found["low"]), float(found["high"]), int(found["n"]))
        except (KeyError, TypeError, ValueError):
            return None

    def per_model(self, name: str) -> dict[str, float]:
        """Plain numbers per model of summary.json, models in the loop's order."""
        found = self.summary.get(name)
        rows = found if isinstance(found, dict) else {}
        return {m: float(rows[m]) for m in self.models if isinstance(rows.get(m), int | float)}


def read_loop(folder: Path) -> Loop:
    """Read a finished loop. Raises UserError, in one line, for any other folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    info = _read_object(folder / "loop.json", f"{folder}: not a finished loop (no loop.json in it)")
    unfinished = f"{folder}: the loop is not finished (no summary.json); repeat its command to resume it"
    summary = _read_object(folder / "summary.json", unfinished)
    judged = read_records(Ranking, folder / "evaluation" / "rankings.jsonl")
    answers = _read_answers(folder / "evaluation" / "answers.jsonl")
    models = _models(folder / "loop.json", info, {a.model for a in answers})
    if not judged or not answers:
        raise UserError(f"{folder / 'evaluation'}: holds no answers and rankings to report on")
    prompts = folder / "data" / "prompts.jsonl"
    rankings = folder / "rankings" / "rankings.jsonl"
    return Loop(
        path=folder,
        info=info,
        summary=summary,
        models=models,
        runs={name: Run.open(folder / name) for name in STAGES if (folder / name / "run.json").exists()},
        prompts={p.id: p for p in read_records(Prompt, prompts)} if prompts.exists() else {},
        rankings=read_records(Ranking, rankings) if rankings.exists() else [],
        judged=judged,
        answers=answers,
        snapshots=read_snapshots(folder / "evaluation" / "frontier.jsonl"),
    )


def _models(path: Path, info: dict[str, Any], found: set[str]) -> tuple[str, ...]:
    named = info.get("models")
    if not isinstance(named, list) or not all(isinstance(m, str) for m in named):
        raise UserError(f"{path}: field 'models' must be a list of names")
    missing = [m for m in named if m not in found]
    if missing or not named:
        raise UserError(f"{path}: field 'models' names {', '.join(missing) or 'nothing'}, without any answer")
    return tuple(named)


def _read_object(path: Path, missing: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(missing) from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: is {type(value).__name__}, expected an object")
    return value


def _read_answers(path: Path) -> list[Answer]:
    return [
        Answer(
            prompt_id=_take(path, number, row, "prompt_id", str),
            prompt=_take(path, number, row, "prompt", str),
            use_case=str(row.get("use_case", "")),
            model=_take(path, number, row, "model", str),
            response=_take(path, number, row, "response", str),
            tokens=_take(path, number, row, "tokens", int),
            ended=_take(path, number, row, "ended", bool),
            gold=_number_or_none(path, number, row, "gold"),
            score=_number_or_none(path, number, row, "score"),
        )
        for number, row in read_rows(path)
    ]


def final_kl(snapshots: Sequence[Snapshot], ppo: Run) -> float | None:
    """KL of the policy that was kept, on the validation prompts; of the last rollout where it was not measured so."""
    last = ppo.config().get("iterations")
    kept = [s.kl for s in snapshots if s.model == ppo.path.name and s.iteration == last]
    found = kept[0] if kept else ppo.result.get("kl")
    return float(found) if isinstance(found, int | float) else None


def read_snapshots(path: Path) -> list[Snapshot]:
    """The policies along PPO runs as they were measured; none where there is no such file."""
    if not path.exists():
        return []
    return [
        Snapshot(
            model=_take(path, number, row, "model", str),
            iteration=_take(path, number, row, "iteration", int),
            kl=float(_take(path, number, row, "kl", int, float)),
            gold=_number_or_none(path, number, row, "gold"),
            score=float(_take(path, number, row, "score", int, float)),
            n=int(row.get("n", 0)),
        )
        for number, row in read_rows(path)
    ]


def _number_or_none(path: Path, number: int, row: Any, name: str) -> float | None:
    if isinstance(row, dict) and row.get(name) is None:
        return None
    return float(_take(path, number, row, name, int, float))


def _take(path: Path, number: int, row: Any, name: str, *kinds: type) -> Any:
    """A field of one of the kinds. Raises UserError naming file, line and field."""
    if not isinstance(row, dict):
        raise UserError(f"{path}, line {number}: is {type(row).__name__}, expected an object")
    if name not in row:
        raise UserError(f"{path}, line {number}: field {name!r} is missing")
    if not isinstance(row[name], kinds) or (isinstance(row[name], bool) and bool not in kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{path}, line {number}: field {name!r} is not {expected}")
    return row[name]
