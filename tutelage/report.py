"""The report of a finished loop: one self-contained HTML page that a manager can read from the top down.

Reads runs and records only, runs no model, and writes `report.html` beside them: no script, no outside
resource, so that it opens from a mail attachment and under the strictest content security policy.
`findings.py` says what the numbers mean, `exhibits.py` and `curves.py` what is drawn and tabled,
`templates/report.html` how it is laid out.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from tutelage import exhibits, findings
from tutelage.curves import curves
from tutelage.evaluate.intervals import Interval
from tutelage.findings import name, number, percent
from tutelage.glossary import TERMS
from tutelage.loopfolder import Answer, Loop, final_kl, read_loop
from tutelage.records import Ranking, write_text

TEMPLATES = Path(__file__).parent / "templates"
PAGE_BUDGET = 700_000
"""Characters of prompts and answers shown in full; a loop with more of them says how many are left out."""
Context = dict[str, Any]


def write_report(folder: Path) -> Path:
    """Write `report.html` into a finished loop's folder and return its path. UserError for any other
    folder."""
    loop = read_loop(folder)
    page = folder / "report.html"
    write_text(page, render(loop).encode("utf-8", "replace").decode())  # a lone surrogate is not UTF-8
    return page


def environment() -> Environment:
    """The templates of reports: everything escaped, the house's way to write numbers."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"name": name, "percent": percent, "number": number, "clock": clock}
    found.globals["terms"] = TERMS
    return found


def render(loop: Loop) -> str:
    """The page as text."""
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
        "curves": curves(loop.runs),
        "reward": exhibits.reward(loop),
        "samples": samples(loop),
        "made": made(loop),
    }
    return environment().get_template("report.html").render(context)


def tiles(loop: Loop) -> list[Context]:
    """The few numbers that stand right under the headline."""
    found: list[tuple[str, str, str]] = []
    for other in ("sft", "base"):
        rate = loop.interval("win_rate", f"{loop.assistant}_vs_{other}")
        if rate is not None:
            found.append((f"preferred to {name(other)}", *_apart(rate, f"{rate.n} prompts")))
    first, last = (loop.interval("gold", m) for m in ("sft", loop.assistant))
    if first is not None and last is not None:
        note = f"{name('sft')} → {name(loop.assistant)}, {last.n} prompts"
        found.append(("gold score, 0 to 1", f"{first.value:.2f} → {last.value:.2f}", note))
    accuracy, agreement = loop.interval("reward_model", "accuracy"), loop.interval("agreement", "training")
    if accuracy is not None:
        note = f"two labelers agree: {percent(agreement.value)}" if agreement else f"{accuracy.n} prompts"
        found.append(("reward model agrees with a labeler", *_apart(accuracy, note)))
    losses = loop.per_model("pretraining_loss")
    if {"base", loop.assistant} <= set(losses):
        change = losses[loop.assistant] - losses["base"]
        found.append(("alignment tax", f"{change:+.3f}", "nats per token of ordinary text, against Base"))
    if total := _seconds(loop).get("total"):
        found.append(("whole loop", clock(total), f"on {_machine(loop).get('cores', '?')} processor cores"))
    return [{"label": label, "value": value, "note": note} for label, value, note in found]


def _apart(interval: Interval, note: str) -> tuple[str, str]:
    """The share, and its ends in front of the note."""
    value, ends = percent(interval).split(" ", 1)
    return value, f"{ends} · {note}"


def flow(loop: Loop) -> list[Context]:
    """What was trained from what: one box per stage, with its numbers, folder and seconds."""
    seconds = _seconds(loop)
    boxes = [_box("Base model", [str(loop.info.get("model", "unknown"))], "", seconds.get("model"))]
    if "sft" in loop.runs:
        done = loop.runs["sft"].result
        lines = [f"imitates {done.get('n', '?')} demonstrations"]
        lines.append(f"kept pass {done.get('kept_epoch', '?')}, by {done.get('kept_by', '?')}")
        boxes.append(_box("SFT", lines, "sft/", seconds.get("sft")))
    if train := [r for r in loop.rankings if r.split == "train"]:
        sizes = sorted({len(r.responses) for r in train})
        many = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        pairs = sum(len(r.pairs()) for r in train)
        lines = [f"{many} responses to each of {len({r.prompt_id for r in train})} prompts"]
        lines.append(f"ranked by {len({r.labeler for r in train})} training labelers: {pairs:,} comparisons")
        boxes.append(_box("Rankings", lines, "rankings/", seconds.get("sample")))
    if "reward" in loop.runs:
        accuracy = loop.interval("reward_model", "accuracy")
        lines = [f"learns from {loop.runs['reward'].result.get('n_prompts', '?')} ranked prompts"]
        lines += [f"right in {percent(accuracy)} of held-out pairs"] if accuracy else []
        boxes.append(_box("Reward model", lines, "reward/", seconds.get("reward")))
    if trained := [m for m in ("ppo_ptx", "ppo") if m in loop.runs]:
        lines = [line for m in trained for line in _ppo_lines(loop, m, named=len(trained) > 1)]
        folders = ", ".join(f"{m}/" for m in trained)
        boxes.append(_box(" and ".join(map(name, trained)), lines, folders, _spent(seconds, *trained)))
    prompts = len({a.prompt_id for a in loop.answers})
    lines = [f"{len(loop.models)} models answer {prompts} held-out prompts"]
    lines.append(f"{len({r.labeler for r in loop.judged})} labelers rank the answers blind")
    folders = "answers/, evaluation/"
    return [*boxes, _box("Comparison", lines, folders, _spent(seconds, "answers", "evaluate"))]


def _box(title: str, lines: list[str], folder: str, seconds: float | None) -> Context:
    return {"title": title, "lines": lines, "folder": folder, "seconds": seconds}


def _spent(seconds: dict[str, float], *stages: str) -> float | None:
    known = [seconds[stage] for stage in stages if stage in seconds]
    return sum(known) if known else None


def _ppo_lines(loop: Loop, model: str, *, named: bool) -> list[str]:
    config = loop.runs[model].config()
    start = f"{name(model)}: " if named else ""
    lines = [f"{start}{config.get('iterations', '?')} rounds × {config.get('episodes', '?')} scored responses"]
    if (kl := final_kl(loop.snapshots, loop.runs[model])) is not None:
        lines.append(f"ends {kl:.1f} nats (KL) from the SFT model")
    if config.get("ptx_coef"):
        lines.append(f"keeps reading ordinary text (weight {config['ptx_coef']:g})")
    return lines


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
    ranks: dict[str, list[int]] = {model: [] for model in loop.models}
    for ranking in rankings:
        for response, rank in zip(ranking.responses, ranking.ranks, strict=True):
            ranks.setdefault(response.model, []).append(rank)
    means = {model: sum(own) / len(own) for model, own in ranks.items() if own}
    rows = [
        {"answer": answers[model], "ranks": ranks[model], "mean": means.get(model)}
        for model in loop.models
        if model in answers
    ]
    size = len(first.prompt) + sum(len(a.response) + 500 for a in answers.values())
    return {
        "id": key,
        "prompt": first.prompt,
        "use_case": first.use_case,
        "rows": rows,
        "best": min(means.values(), default=None),
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
        stages.append({"folder": folder, "kind": run.kind, "config": config, "created": run.info.get("created", "")})
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
    return {"stages": stages, "facts": facts, "version": info.get("version", ""), "commands": _commands(loop)}


def _commands(loop: Loop) -> list[str]:
    """The commands that wrote the stages, each once, in their order."""
    given = [run.info.get("command") for run in loop.runs.values()]
    found = [_command([str(word) for word in words]) for words in given if isinstance(words, list) and words]
    return list(dict.fromkeys(found)) or [f"tutelage demo --seed {loop.info.get('seed', 1)}"]


def _command(words: list[str]) -> str:
    path = Path(words[0])
    program = [path.name]
    if path.suffix == ".py" and path.parent.name == "tutelage":  # run as a module
        program = ["python", "-m", "tutelage" if path.stem == "__main__" else f"tutelage.{path.stem}"]
    return shlex.join([*program, *words[1:]])


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
