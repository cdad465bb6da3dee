"""summary.json of a finished loop: every number with its interval where one can be given, under fixed names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tutelage.evaluate.agreement import agreement_within, flag_rates, likert_means
from tutelage.evaluate.calibration import ScoredPair, calibrate
from tutelage.evaluate.intervals import clustered_mean
from tutelage.evaluate.text import describe, distinct_matched
from tutelage.evaluate.winrate import win_rate
from tutelage.loopfolder import final_kl, read_snapshots
from tutelage.records import RATING_FLAGS, Ranking, Response, from_dict, read_records, write_json
from tutelage.run import Run


def summarise(out: Path) -> dict[str, Any]:
    """Read a loop's runs, write `summary.json` into its folder and return it."""
    loop = json.loads((out / "loop.json").read_text())
    models: list[str] = loop["models"]
    rankings = read_records(Ranking, out / "evaluation" / "rankings.jsonl")
    evaluation = Run.open(out / "evaluation", "evaluation")
    measured = json.loads((evaluation.path / "evaluation.json").read_text())
    answers = {m: _responses(out / "answers" / m) for m in models}
    stats = {m: describe(rows) for m, rows in answers.items()}
    flags = {f: flag_rates(rankings, f) for f in RATING_FLAGS}
    snapshots = read_snapshots(evaluation.path / "frontier.jsonl")
    summary = {
        "win_rate": _win_rates(rankings, models),
        "reward_model": _reward(out / "reward"),
        "agreement": _agreement(out, rankings),
        "kl": final_kl(snapshots, Run.open(out / "ppo_ptx", "ppo")),
        "pretraining_loss": measured.get("pretraining_loss", {}),
        "length": {m: s.tokens for m, s in stats.items()},
        "ended": {m: s.ended for m, s in stats.items()},
        "likert": {m: i.to_dict() for m, i in likert_means(rankings).items()},
        "flags": {m: {f: rates[m].value for f, rates in flags.items() if m in rates} for m in models},
        "gold": _gold(evaluation, models),
        "variety": distinct_matched({m: [r.text for r in rows] for m, rows in answers.items()}),
        "text": {m: s.to_dict() for m, s in stats.items()},
        "seconds": loop["seconds"],
        "model": loop["model"],
        "workflow": loop["workflow"]["name"],
        "seed": loop["seed"],
    }
    write_json(out / "summary.json", summary)
    return summary


def _responses(path: Path) -> list[Response]:
    return [from_dict(Response, row["response"]) for row in Run.open(path, "samples").rows("samples.jsonl")]


def _win_rates(rankings: list[Ranking], models: list[str]) -> dict[str, dict[str, float | int]]:
    pairs = [(a, b) for i, b in enumerate(models) for a in models[i + 1 :]] + [
        (b, "sft") for b in models if b in ("base", "prompted")
    ]
    return {f"{a}_vs_{b}": win_rate(rankings, a, b).to_dict() for a, b in pairs}


def _reward(path: Path) -> dict[str, Any]:
    run = Run.open(path, "reward")
    rows = run.rows("pairs.jsonl")
    found: dict[str, Any] = {"score_std": run.result["score_std"]}
    for group, name in (("training", "accuracy"), ("heldout", "accuracy_heldout_labelers")):
        pairs = [
            ScoredPair(r["prompt_id"], r["difference"], r["preferred"] == 1.0) for r in rows if r["group"] == group
        ]
        if pairs:
            calibration = calibrate(pairs)
            found[name] = calibration.accuracy.to_dict()
            found.setdefault("calibration_error", calibration.ece)
            found.setdefault("n_pairs", calibration.pairs)
    return found


def _agreement(out: Path, heldout: list[Ranking]) -> dict[str, Any]:
    """Untied pair agreement: training labelers on the held-out samples, held-out labelers on the models' answers."""
    ranked = read_records(Ranking, out / "rankings" / "rankings.jsonl")
    training = agreement_within([r for r in ranked if r.group == "training" and r.split != "train"])
    held = agreement_within([r for r in ranked if r.group == "heldout"])
    answers = agreement_within(heldout)
    found = {"training": training.untied, "heldout": held.untied, "heldout_on_answers": answers.untied}
    return {name: interval.to_dict() for name, interval in found.items() if interval is not None}


def _gold(evaluation: Run, models: list[str]) -> dict[str, Any]:
    rows = evaluation.rows("answers.jsonl")
    items = {m: [(r["prompt_id"], float(r["gold"])) for r in rows if r["model"] == m] for m in models}
    return {m: clustered_mean(values).to_dict() for m, values in items.items() if values}
