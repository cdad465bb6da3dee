"""The report of a finished loop: one self-contained HTML page that a manager can read from the top down.

Reads runs and records only, runs no model, and writes `report.html` beside them: no script, no outside resource, so
that it opens from a mail attachment and under the strictest content security policy. What a number means is decided in
`findings.py`, what is drawn and tabled in `exhibits.py` and `charts.py`, the layout in `templates/report.html`.
"""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from tutelage import exhibits, findings
from tutelage.curves import curves
from tutelage.findings import name, number, percent
from tutelage.glossary import TERMS
from tutelage.loopfolder import Answer, Loop, read_loop
from tutelage.records import Ranking, write_text

TEMPLATES = Path(__file__).parent / "templates"
PAGE_BUDGET = 700_000
"""Characters of prompts and answers shown in full; a loop with more of them says how many are left out."""
Context = dict[str, Any]


def write_report(folder: Path) -> Path:
    """Write `report.html` into a finished loop's folder and return its path. Raises UserError for any other folder."""
    loop = read_loop(folder)
    page = folder / "report.html"
    write_text(page, render(loop))
    return page


def render(loop: Loop) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"name": name, "percent": percent, "number": number, "clock": clock}
    environment.globals["terms"] = TERMS
    workflow = _object(loop.info.get("workflow"))
    context = {
        "data": loop,
        "title": workflow.get("title") or workflow.get("name") or loop.path.name,
        "task": workflow.get("description", ""),
        "model_note": str(loop.info.get("model_note", "")),
        "assistant": loop.assistant,
        "headline": findings.headline(loop),
        "verdict": findings.verdict(loop),
        "judge_note": findings.judge_note(loop),
        "seconds": _seconds(loop),
        "tiles": tiles(loop),
        "flow": flow(loop),
        "wins": exhibits.wins(loop),
        "ratings": exhibits.ratings(loop),
        "over": exhibits.overoptimisation(loop),
        "tax": exhibits.tax(loop),
        "curves": curves(loop),
        "reward": exhibits.reward(loop),
        "samples": samples(loop),
        "made": made(loop),
    }
    return environment.get_template("report.html").render(context)


def tiles(loop: Loop) -> list[Context]:
    """The few numbers that stand right under the headline."""
    found = []
    for other in ("sft", "base"):
        rate = loop.interval("win_rate", f"{loop.assistant}_vs_{other}")
        if rate is not None:
            found.append(
                {"label": f"preferred to {name(other)}", "value": percent(rate), "note": f"{rate.n} prompts"}
            )
    gold = [(m, i) for m in ("sft", loop.assistant) if (i := loop.interval("gold", m)) is not None]
    if len(gold) == 2:
        value = f"{gold[0][1].value:.2f} → {gold[1][1].value:.2f}"
        found.append(
            {"label": "gold score, 0 to 1", "value": value, "note": f"{name('sft')} → {name(loop.assistant)}"}
        )
    accuracy, agreement = loop.interval("reward_model", "accuracy"), loop.interval("agreement", "training")
    if accuracy is not None:
        note = f"two labelers agree: {percent(agreement.value)}" if agreement else f"{accuracy.n} prompts"
        found.append(
            {"label": "reward model agrees with a labeler", "value": percent(accuracy), "note": note}
        )
    losses = loop.per_model("pretraining_loss")
    if {"base", loop.assistant} <= set(losses):
        change = losses[loop.assistant] - losses["base"]
        note = "loss on ordinary text, nats per token, against Base"
        found.append({"label": "alignment tax", "value": f"{change:+.3f}", "note": note})
    if total := _seconds(loop).get("total"):
        cores = _machine(loop).get("cores", "?")
        found.append({"label": "whole loop", "value": clock(total), "note": f"{cores} processor cores"})
    return found


def flow(loop: Loop) -> list[Context]:
    """What was trained from what: one box per stage, with its numbers, folder and seconds."""
    boxes = [
        {
            "title": "Base model",
            "lines": [str(loop.info.get("model", "unknown"))],
            "folder": "",
            "stage": "model",
        }
    ]
    runs = loop.runs
    if "sft" in runs:
        done = runs["sft"].result
        lines = [
            f"imitates {done.get('n', '?')} demonstrations",
            f"kept pass {done.get('kept_epoch', '?')}, by {done.get('kept_by', '?')}",
        ]
        boxes.append({"title": "SFT", "lines": lines, "folder": "sft/", "stage": "sft"})
    if loop.rankings:
        train = [r for r in loop.rankings if r.split == "train"]
        sizes = sorted({len(r.responses) for r in train}) or [0]
        many = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        pairs = sum(len(r.pairs()) for r in train)
        lines = [f"{len({r.prompt_id for r in train})} prompts × {many} responses of the SFT model"]
        lines.append(
            f"{len(train)} rankings by {len({r.labeler for r in train})} labelers: {pairs} comparisons to learn from"
        )
        boxes.append({"title": "Rankings", "lines": lines, "folder": "rankings/", "stage": "sample"})
    if "reward" in runs:
        done = runs["reward"].result
        accuracy = loop.interval("reward_model", "accuracy")
        lines = [f"learns from {done.get('n_prompts', '?')} ranked prompts"]
        lines += [f"right in {percent(accuracy)} of held-out pairs"] if accuracy else []
        boxes.append({"title": "Reward model", "lines": lines, "folder": "reward/", "stage": "reward"})
    for model in ("ppo_ptx", "ppo"):
        if model in runs:
            boxes.append(_ppo_box(loop, model))
    prompts = len({a.prompt_id for a in loop.answers})
    lines = [f"{len(loop.models)} models answer {prompts} held-out prompts"]
    lines.append(f"{len({r.labeler for r in loop.judged})} labelers rank the answers blind")
    boxes.append({"title": "Comparison", "lines": lines, "folder": "evaluation/", "stage": "evaluate"})
    seconds = _seconds(loop)
    return [box | {"seconds": seconds.get(str(box["stage"]))} for box in boxes]


def _ppo_box(loop: Loop, model: str) -> Context:
    config, done = loop.runs[model].config(), loop.runs[model].result
    iterations, episodes = int(config.get("iterations", 0)), int(config.get("episodes", 0))
    lines = [f"{iterations} rounds × {episodes} responses, scored by the reward model"]
    lines.append(f"ends {float(done.get('kl', math.nan)):.1f} nats (KL) from the SFT model")
    if config.get("ptx_coef"):
        lines.append(f"keeps reading ordinary text (weight {config['ptx_coef']:g})")
    return {"title": name(model), "lines": lines, "folder": f"{model}/", "stage": model}


def samples(loop: Loop) -> Context:
    """The prompts shown with every model's answer, the rule that chose them, and all others to unfold."""
    chosen = findings.chosen_samples(loop.answers, loop.assistant)
    by_prompt: dict[str, dict[str, Answer]] = {}
    for answer in loop.answers:
        by_prompt.setdefault(answer.prompt_id, {})[answer.model] = answer
    judged: dict[str, list[Ranking]] = {}
    for ranking in loop.judged:
        judged.setdefault(ranking.prompt_id, []).append(ranking)
    cards = {key: _card(loop, key, answers, judged.get(key, [])) for key, answers in by_prompt.items()}
    every, spent = [], 0
    for card in cards.values():
        spent += card["size"]
        if spent > PAGE_BUDGET:
            break
        every.append(card)
    fixed = sum(any(why.startswith("fixed") for why in c.why) for c in chosen)
    return {
        "shown": [cards[c.prompt_id] | {"why": c.why} for c in chosen],
        "every": every,
        "left_out": len(cards) - len(every),
        "fixed": fixed,
        "has_gold": any(a.gold is not None for a in loop.answers),
        "sampling": _sampling(loop),
    }


def _card(loop: Loop, key: str, answers: dict[str, Answer], rankings: list[Ranking]) -> Context:
    first = next(iter(answers.values()))
    rows = []
    for model in loop.models:
        if (answer := answers.get(model)) is not None:
            ranks = [
                rank
                for r in rankings
                for response, rank in zip(r.responses, r.ranks, strict=True)
                if response.model == model
            ]
            rows.append(
                {"answer": answer, "ranks": ranks, "mean": sum(ranks) / len(ranks) if ranks else None}
            )
    best = min((r["mean"] for r in rows if r["mean"] is not None), default=None)
    size = len(first.prompt) + sum(len(a.response) + 500 for a in answers.values())
    return {
        "id": key,
        "prompt": first.prompt,
        "use_case": first.use_case,
        "rows": rows,
        "best": best,
        "size": size,
        "why": (),
    }


def _sampling(loop: Loop) -> str:
    """How the answers were drawn, from the responses themselves."""
    found = {r.sampling.get("temperature") for ranking in loop.judged for r in ranking.responses} - {None}
    return f"temperature {found.pop():g} for every model" if len(found) == 1 else ""


def made(loop: Loop) -> Context:
    """Settings, versions, machine, times and the command that repeats the loop."""
    stages = []
    for folder, run in loop.runs.items():
        config = {key: value for key, value in run.config().items() if value not in (None, "")}
        stages.append(
            {"folder": folder, "kind": run.kind, "config": config, "created": run.info.get("created", "")}
        )
    first = next(iter(loop.runs.values()), None)
    info = first.info if first is not None else {}
    machine, packages = _machine(loop), _object(info.get("packages"))
    versions = [f"tutelage {info.get('version', 'unknown')}", *(f"{k} {v}" for k, v in packages.items())]
    place = [f"{machine.get('cores', '?')} cores", machine.get("system", "unknown system")]
    facts = [
        ("Folder", str(loop.path)),
        ("Workflow", str(_object(loop.info.get("workflow")).get("name", "unknown"))),
        ("Base model", str(loop.info.get("model", "unknown"))),
        ("Preset", str(loop.info.get("preset", "none"))),
        ("Seed", str(loop.info.get("seed", "unknown"))),
        ("Versions", ", ".join(versions)),
        ("Machine", ", ".join([*place, f"Python {machine.get('python', '?')}"])),
    ]
    return {"stages": stages, "facts": facts, "version": info.get("version", ""), "command": _command(loop)}


def _command(loop: Loop) -> str:
    given = next((run.info.get("command") for run in loop.runs.values()), None)
    if not isinstance(given, list) or not given:
        return f"tutelage demo --seed {loop.info.get('seed', 1)}"
    program, *rest = map(str, given)
    words = ["python", "-m", "tutelage"] if program.endswith("__main__.py") else [Path(program).name]
    return shlex.join([*words, *rest])


def _machine(loop: Loop) -> Context:
    return _object(next((run.info.get("machine") for run in loop.runs.values()), None))


def _object(value: Any) -> Context:
    return value if isinstance(value, dict) else {}


def _seconds(loop: Loop) -> dict[str, float]:
    found = loop.info.get("seconds") or loop.summary.get("seconds") or {}
    return {str(stage): float(value) for stage, value in found.items() if isinstance(value, int | float)}


def clock(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 12 min 05 s, 2 h 03 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
