"""One subcommand per stage: parse, import lazily, call, print. Nothing here may import torch at the top.

Exit codes: 0 done, 1 a check failed, 2 the user's mistake (one line says which), 130 interrupted (the run resumes).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage import __version__, config, settings
from tutelage.records import UserError
from tutelage.studio import commands

Words = list[str]


def _stage(module: str, function: str, kind: type[Any], name: str) -> Callable[[Words], int]:
    """A command that parses `kind`, runs one page and says where the result is."""

    def command(words: Words) -> int:
        import importlib

        parsed = config.parse(kind, words, f"tutelage {name}")
        run = getattr(importlib.import_module(module), function)(parsed)
        print(json.dumps({"run": str(run.path), "kind": run.kind, **run.result}, indent=2))
        return 0

    return command


def demo(words: Words) -> int:
    """The whole loop, then where to look."""
    parsed = config.parse(settings.LoopConfig, words, "tutelage demo")
    from tutelage import pipeline

    summary = pipeline.loop(parsed, pipeline.recipe_of(parsed))
    for name in ("ppo_ptx_vs_sft", "ppo_ptx_vs_base", "sft_vs_base"):
        rate = summary["win_rate"][name]
        first, second = name.split("_vs_")
        print(
            f"{first} preferred to {second}: {rate['value']:.0%}  [{rate['low']:.0%}, {rate['high']:.0%}]"
            f"  over {rate['n']} held-out prompts, by simulated held-out labelers"
        )
    if right := summary["reward_model"].get("accuracy"):
        print(
            f"reward model right in {right['value']:.0%}  [{right['low']:.0%}, {right['high']:.0%}]  of comparisons on "
            f"{right['n']} prompts it did not learn from; guessing is right in 50%"
        )
    print(f"\nreport    {parsed.out / 'report.html'}\nsummary   {parsed.out / 'summary.json'}")
    print(f"try it    tutelage compare {parsed.out}")
    return 0


@dataclass(frozen=True, kw_only=True)
class FetchWords:
    """Put an embedded base model into the user's cache, once; afterwards nothing is downloaded."""

    name: str = "smollm2-135m"
    """smollm2-135m (Apache-2.0) or gemma-3-270m (Gemma Terms)."""
    accept_license: bool = False
    """Agree to the model's terms, where it has some to agree to."""


def fetch(words: Words) -> int:
    """Fetch an embedded model."""
    parsed = config.parse(FetchWords, _positional(words, "--name"), "tutelage fetch")
    from tutelage.fetch import fetch as run

    print(run(parsed.name, accept_license=parsed.accept_license))
    return 0


@dataclass(frozen=True, kw_only=True)
class ReportWords:
    """Write report.html of a finished loop (again)."""

    folder: Path = Path("runs/demo")
    """Folder of the loop."""


def report(words: Words) -> int:
    """Write a report."""
    parsed = config.parse(ReportWords, _positional(words, "--folder"), "tutelage report")
    from tutelage.report import write_report

    print(write_report(parsed.folder))
    return 0


@dataclass(frozen=True, kw_only=True)
class CompareWords:
    """Your own prompt, answered side by side by the models of a loop, or by the runs you name."""

    runs: tuple[Path, ...] = (Path("runs/demo"),)
    """A loop's folder, or runs and model folders."""
    prompt: str = ""
    """The prompt; without one they are read from the keyboard, a line each."""
    temperature: float = 0.7
    """Sampling temperature; 0 takes the likeliest token."""
    seed: int = 1
    """Seed of the sampling."""


def compare(words: Words) -> int:
    """Answer prompts side by side."""
    parsed = config.parse(CompareWords, _positional(words, "--runs"), "tutelage compare")
    from tutelage.talk import compare as run

    run(parsed.runs, parsed.prompt, temperature=parsed.temperature, seed=parsed.seed)
    return 0


@dataclass(frozen=True, kw_only=True)
class ChatWords:
    """Talk to a run or a model in the terminal; every line is answered by itself."""

    run: str = "runs/demo/ppo_ptx"
    """Run folder, embedded name, local folder or hub id."""
    temperature: float = 0.7
    """Sampling temperature."""
    seed: int = 1
    """Seed of the sampling."""


def chat(words: Words) -> int:
    """Talk to one model."""
    parsed = config.parse(ChatWords, _positional(words, "--run"), "tutelage chat")
    from tutelage.talk import chat as run

    run(parsed.run, temperature=parsed.temperature, seed=parsed.seed)
    return 0


@dataclass(frozen=True, kw_only=True)
class DoctorWords:
    """Self-checks of a run that name the cause of what is wrong."""

    run: Path = Path("runs/demo/ppo_ptx")
    """An sft, reward or ppo run."""
    json: bool = False
    """Print JSON."""


def doctor(words: Words) -> int:
    """Check a run; exit code 1 when a check fails."""
    parsed = config.parse(DoctorWords, _positional(words, "--run"), "tutelage doctor")
    from tutelage.examine import examine

    checks = examine(parsed.run)
    if parsed.json:
        print(
            json.dumps(
                [{"name": c.name, "ok": c.ok, "measured": c.measured, "cause": c.cause} for c in checks], indent=2
            )
        )
    else:
        print("\n".join(c.line() for c in checks))
    return 0 if all(c.ok for c in checks) else 1


@dataclass(frozen=True, kw_only=True)
class AddWords:
    """Import prompts, demonstrations or comparisons into a folder, by the paper's collection rules."""

    folder: Path
    """Folder to add to: prompts.jsonl, demonstrations.jsonl, rankings.jsonl."""
    file: Path
    """Own JSONL, TRL shapes, HH transcripts, Open-Assistant trees, QA-Feedback, Dolly, CSV or Parquet (.gz too)."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out, such as a second answer or a rating that does not matter; "meta.score" is one within."""


def add(words: Words) -> int:
    """Import a file and say what was kept and dropped."""
    parsed = config.parse(AddWords, _positional(words, "--folder", "--file"), "tutelage add")
    from tutelage.data.adding import add as run

    print(run(parsed.folder, parsed.file, ignore=parsed.ignore))
    return 0


def _positional(words: Words, *names: str) -> Words:
    """Leading bare words become the named options: `tutelage report DIR` is `tutelage report --folder DIR`."""
    bare = [i for i, w in enumerate(words) if not w.startswith("-")]
    count = 0
    while count < len(words) and count in bare:
        count += 1
    lead, rest = words[:count], words[count:]
    if not lead:
        return words
    if len(names) == 1:
        return [names[0], *lead, *rest]
    if len(lead) > len(names):
        raise UserError(f"{len(lead)} words given where {' '.join(names)} were expected")
    return [w for pair in zip(names, lead, strict=False) for w in pair] + rest


def round_(words: Words) -> int:
    """Train a round of a studio, then say where to look."""
    parsed = config.parse(settings.RoundConfig, _positional(words, "--folder"), "tutelage round")
    import signal

    from tutelage import round as page
    from tutelage.roundfolder import round_folder
    from tutelage.roundresult import verdict

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    found = page.train(parsed)
    out = round_folder(parsed.folder, found["round"])
    if "question" in found:
        print(
            f"round {found['round']} stopped before PPO. {found['question']}\n"
            "Go on with the same command and --accept-weak-reward (PPO all the same), or with --collect-more (end this "
            "round without PPO; its SFT model answers what people rank next).",
            file=sys.stderr,
        )
        return 1
    said = verdict(found)
    print(f"{said.sentence} {said.follows}\n")
    print(f"new policy   {out / found['policy']}\nreport       {out / 'report.html'}")
    print(f"next         {found['next']['prompts']} prompts to rank, in {out / 'next.jsonl'}")
    return 0


def _studio(run: Callable[[Any], int], kind: type[Any], name: str, *bare: str) -> Callable[[Words], int]:
    """A command of the studio: parses `kind`, leading bare words being the options named."""

    def command(words: Words) -> int:
        words = ["--source" + w.removeprefix("--from") if w.split("=")[0] == "--from" else w for w in words]
        return run(config.parse(kind, _positional(words, *bare), f"tutelage {name}"))

    return command


COMMANDS: dict[str, tuple[str, Callable[[Words], int]]] = {
    "demo": ("the whole loop on an embedded workflow, simulated labelers, offline; ends with a report", demo),
    "fetch": ("put an embedded base model into the cache", fetch),
    "add": ("import prompts, demonstrations or comparisons", add),
    "sft": ("imitate demonstrations", _stage("tutelage.sft", "train", settings.SftConfig, "sft")),
    "sample": (
        "K responses per prompt, from any run",
        _stage("tutelage.sample", "sample", settings.SampleConfig, "sample"),
    ),
    "rank": ("let simulated labelers rank samples", _stage("tutelage.rank", "rank", settings.RankConfig, "rank")),
    "reward": ("train a reward model on rankings", _stage("tutelage.reward", "train", settings.RewardConfig, "reward")),
    "ppo": ("optimise the policy: PPO, or PPO-ptx", _stage("tutelage.ppo", "train", settings.PpoConfig, "ppo")),
    "evaluate": (
        "held-out labelers compare models",
        _stage("tutelage.evaluate.judge", "evaluate", settings.EvaluateConfig, "evaluate"),
    ),
    "init": (
        "make a studio: the folder where people's feedback is collected",
        _studio(commands.init, commands.InitWords, "init", "--folder"),
    ),
    "studio": (
        "open a studio in the browser: write, rank, train",
        _studio(commands.studio, commands.StudioWords, "studio", "--folder"),
    ),
    "account": (
        "make a studio's account, or give one a new password",
        _studio(commands.account, commands.AccountWords, "account", "--folder", "--name"),
    ),
    "round": ("the next turn of a studio's loop: train on what people wrote and ranked", round_),
    "export": (
        "write what people gave as a data set",
        _studio(commands.export, commands.ExportWords, "export", "--folder", "--out"),
    ),
    "backup": (
        "write a copy of a studio's database",
        _studio(commands.backup, commands.BackupWords, "backup", "--folder", "--file"),
    ),
    "restore": (
        "bring a copy back",
        _studio(commands.restore, commands.RestoreWords, "restore", "--folder", "--file"),
    ),
    "check": (
        "look whether a studio's database is sound",
        _studio(commands.check, commands.CheckWords, "check", "--folder"),
    ),
    "report": ("write report.html of a finished loop", report),
    "compare": ("your prompt, answered side by side", compare),
    "chat": ("talk to a run", chat),
    "doctor": ("self-checks that name the cause", doctor),
}


def usage() -> str:
    """The first screen."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (text, _) in COMMANDS.items()]
    return "\n".join(
        [
            "tutelage: from a model that continues text to one that follows instructions, by human feedback",
            "",
            "usage: tutelage COMMAND [options]      tutelage COMMAND --help",
            "",
            *lines,
            "",
            "start with: tutelage demo",
        ]
    )


def main(arguments: Words | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # `tutelage --help | head`: whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _run(words: Words) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version"):
        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        return config.fail(UserError(f"no command {words[0]!r}; one of: {', '.join(COMMANDS)}"))
    try:
        return COMMANDS[words[0]][1](words[1:])
    except UserError as error:
        return config.fail(error)
    except KeyboardInterrupt:
        print("\ntutelage: interrupted; the same command resumes", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        return config.fail(UserError(f"{error.filename or 'the system'}: {error.strerror or error}"))


if __name__ == "__main__":
    sys.exit(main())
