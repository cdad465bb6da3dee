"""A finished loop folder of made-up numbers, written through the real records and runs."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.evaluate.agreement import likert_means
from tutelage.evaluate.intervals import clustered_mean
from tutelage.evaluate.winrate import win_rate
from tutelage.records import RATING_FLAGS, Prompt, Ranking, Rating, Response, write_json, write_records
from tutelage.run import Run
from tutelage.settings import PpoConfig, RewardConfig, SftConfig

QUALITY = {"base": 0.25, "prompted": 0.45, "sft": 0.62, "ppo": 0.7, "ppo_ptx": 0.78}
TAX = {"base": 0.0, "sft": 0.08, "ppo": 0.12, "ppo_ptx": -0.02}
HOSTILE = "\n<script>alert('x')</script>\n  two  spaces & \"quotes\" <img src=x onerror=y>"


def make_loop(
    out: Path,
    *,
    models: tuple[str, ...] = ("base", "prompted", "sft", "ppo", "ppo_ptx"),
    people: bool = False,
    prompts: int = 24,
    seed: int = 0,
) -> Path:
    """A finished loop folder of made-up numbers: better models win more, PPO over-optimises at its end."""
    rng = random.Random(seed)
    tests = [
        Prompt(id=f"t{i:03}", text=f"Where is parcel {i}? Answer in one line.", split="test", use_case="chat")
        for i in range(prompts)
    ]
    tests[3] = replace(tests[3], text=HOSTILE, checks=({"kind": "max_words", "n": 9},))
    write_records(out / "data" / "prompts.jsonl", tests)
    answers = [_answer(rng, p, m, people) for p in tests for m in models]
    judged = [_ranking(rng, p, models, answers, labeler, people) for p in tests for labeler in range(3)]
    write_records(out / "evaluation" / "rankings.jsonl", judged)
    _lines(out / "evaluation" / "answers.jsonl", answers)
    ppo_runs = [m for m in models if m.startswith("ppo")]
    if not people:
        _lines(out / "evaluation" / "frontier.jsonl", [row for m in ppo_runs for row in _frontier(m)])
    _stages(out, rng, ppo_runs)
    seconds = {"model": 1.0, "sft": 61.5, "sample": 130.0, "reward": 95.0, "ppo_ptx": 700.0, "total": 3725.0}
    loop = {
        "workflow": {"name": "support", "title": "Replies of a shop", "description": "A customer writes."},
        "model": "tiny-model",
        "model_note": "Upstream was instruction-tuned by its makers.",
        "seed": 1,
        "preset": "demo",
        "models": list(models),
        "labelers": {"training": 5, "heldout": 3, "note": "" if people else "Simulated labelers: programs."},
        "seconds": seconds,
    }
    write_json(out / "loop.json", loop)
    write_json(out / "summary.json", _summary(models, judged, answers, people) | {"seconds": seconds})
    return out


def _answer(rng: random.Random, prompt: Prompt, model: str, people: bool) -> dict[str, Any]:
    gold = min(1.0, max(0.0, rng.gauss(QUALITY[model], 0.15)))
    text = f"{model} says of {prompt.id}: on its way, {rng.random():.4f}."
    text = HOSTILE if (prompt.id, model) == ("t003", "sft") else text
    row = {
        "prompt_id": prompt.id,
        "prompt": prompt.text,
        "use_case": "chat",
        "model": model,
        "response": text,
    }
    row |= {"tokens": rng.randint(5, 30), "ended": rng.random() < 0.9, "score": rng.gauss(4 * gold - 2, 0.7)}
    return row | {"gold": None if people else gold, "judgements": {}}


def _ranking(
    rng: random.Random,
    prompt: Prompt,
    models: tuple[str, ...],
    answers: list[dict[str, Any]],
    labeler: int,
    people: bool,
) -> Ranking:
    own = {a["model"]: a for a in answers if a["prompt_id"] == prompt.id}
    worth = {m: round(QUALITY[m] + rng.gauss(0, 0.2), 1) for m in models}
    order = sorted(set(worth.values()), reverse=True)
    flags = dict.fromkeys(RATING_FLAGS, False)
    return Ranking(
        prompt_id=prompt.id,
        prompt=prompt.text,
        responses=tuple(
            Response(id=f"{prompt.id}/{m}/0", text=own[m]["response"], model=m, sampling={"temperature": 1.0})
            for m in models
        ),
        ranks=tuple(1 + order.index(worth[m]) for m in models),
        ratings=tuple(
            Rating(
                likert=max(1, min(7, round(1 + 6 * worth[m]))),
                flags=flags | {"fails_instruction": worth[m] < 0.4, "satisfies_constraint": worth[m] > 0.5},
            )
            for m in models
        ),
        labeler=f"ann-{labeler}" if people else f"simulated-heldout-{labeler}",
        group="heldout",
        split="test",
    )


def _frontier(model: str) -> list[dict[str, Any]]:
    return [
        {
            "model": model,
            "iteration": 5 * i,
            "kl": 0.9 * i,
            "gold": 0.62 + 0.08 * i - (0.025 * i * i if model == "ppo" else 0.008 * i * i),
            "score": 0.1 + 0.3 * i,
            "length": 20.0,
            "ended": 0.95,
            "n": 400,
        }
        for i in range(5)
    ]


def _stages(out: Path, rng: random.Random, ppo_runs: list[str]) -> None:
    data = out / "data"
    run = Run.start(out / "sft", "sft", SftConfig(demonstrations=data / "demonstrations.jsonl", out=out / "sft"))
    for step in range(30):
        held = {"loss/heldout": 2.5 / (1 + step / 9)} if step % 10 == 9 else {}
        run.log("metrics.jsonl", {"step": step, "epoch": step // 10, "loss/train": 3 / (1 + step / 9)} | held)
    run.finish(kept_epoch=3, kept_by="held-out loss", heldout_loss=1.1, n=48)
    write_records(out / "rankings" / "rankings.jsonl", [taught(rng, i) for i in range(30)])
    config = RewardConfig(model="sft", rankings=out / "rankings" / "rankings.jsonl", out=out / "reward")
    run = Run.start(out / "reward", "reward", config)
    for step in range(20):
        row = {"step": step, "epoch": 0, "loss/train": 0.7 - step / 60, "accuracy/train": 0.5 + step / 60}
        run.log("metrics.jsonl", row)
    for i in range(300):
        gap = rng.gauss(0, 1.5)
        right = float(rng.random() < 1 / (1 + math.exp(-0.8 * gap)))
        pair = {"prompt_id": f"v{i % 20}", "group": ("training", "heldout")[i % 2], "labeler": "x"}
        run.log("pairs.jsonl", pair | {"difference": gap, "preferred": right})
    run.finish(accuracy={"training": 0.7}, n_pairs={"training": 150}, score_std=1.1, n_prompts=20, bias=0.1)
    for model in ppo_runs:
        known = {"policy": out / "sft", "reward": out / "reward", "prompts": data / "prompts.jsonl"}
        config = PpoConfig(**known, out=out / model, pretraining=data / "text.txt")
        run = Run.start(out / model, "ppo", config)
        for i in range(20):
            row = {
                "iteration": i,
                "score/mean": 0.1 + i / 10,
                "kl": i / 5,
                "entropy": 2 - i / 20,
                "length": 20.0,
            }
            row |= {"ended": 0.9, "value/explained_variance": float("nan") if i == 0 else i / 30}
            run.log("metrics.jsonl", row | {"clip_fraction": 0.05, "loss/pretraining": 3.5})
        run.finish(kl=3.8, length=20.0, ended=0.9)


def taught(rng: random.Random, i: int) -> Ranking:
    """One ranking the reward model learned from; of two responses the longer wins in two of three
    rankings."""
    texts = ("short", "a much longer response")
    return Ranking(
        prompt_id=f"r{i // 2}",
        prompt="Say something.",
        responses=tuple(Response(id=f"r{i}/{k}", text=text, model="sft") for k, text in enumerate(texts)),
        ranks=(1, 2) if i % 3 == 0 else (2, 1),
        labeler=f"simulated-training-{i % 2}",
        group="training",
        split="valid" if i < 12 else "train",
    )


def _summary(
    models: tuple[str, ...], judged: list[Ranking], answers: list[dict[str, Any]], people: bool
) -> dict[str, Any]:
    pairs = [(a, b) for a in models for b in models if a != b]
    golds = {m: [(a["prompt_id"], a["gold"]) for a in answers if a["model"] == m] for m in models}
    return {
        "win_rate": {f"{a}_vs_{b}": win_rate(judged, a, b).to_dict() for a, b in pairs},
        "reward_model": {
            "accuracy": {"value": 0.76, "low": 0.71, "high": 0.8, "n": 20},
            "accuracy_heldout_labelers": {"value": 0.73, "low": 0.68, "high": 0.78, "n": 20},
            "n_pairs": 150,
            "score_std": 1.1,
            "calibration_error": 0.05,
        },
        "agreement": {
            "training": {"value": 0.73, "low": 0.7, "high": 0.76, "n": 20},
            "heldout_on_answers": {"value": 0.85, "low": 0.83, "high": 0.87, "n": 24},
        },
        "kl": 3.8,
        "pretraining_loss": {m: 3.4 + TAX[m] for m in models if m in TAX},
        "likert": {m: i.to_dict() for m, i in likert_means(judged).items()},
        "gold": {} if people else {m: clustered_mean(items).to_dict() for m, items in golds.items()},
        "model": "tiny-model",
        "seed": 1,
        "workflow": "support",
    }


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
