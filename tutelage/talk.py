"""Prompts typed by the reader: one answer, several models side by side, or a conversation one turn at a time."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from tutelage.generate import Decoder
from tutelage.limits import Limits
from tutelage.loop import generator
from tutelage.model import Lm, load
from tutelage.records import TooLong, UserError
from tutelage.template import response_text

LONGEST = 64  # tokens of an answer on the screen


def reply(
    lm: Lm, prompt: str, *, temperature: float = 0.7, seed: int = 1, show: Callable[[str], None] | None = None
) -> str:
    """An open model's answer; `show` gets the text as it grows, piece by piece. Raises TooLong for a prompt that leaves
    it no room."""
    ids: list[int] = []
    shown = ""

    def on_token(token: int) -> None:
        nonlocal shown
        ids.append(token)
        text = response_text(lm.tokenizer, ids)
        if show is not None and text.startswith(shown) and not text.endswith("\ufffd"):
            show(text[len(shown) :])
            shown = text

    asked = Limits(lm).prompt(prompt, "the prompt", ahead=1)
    longest = min(LONGEST, lm.room - len(asked))
    uniforms = torch.rand(LONGEST, 1, generator=generator(seed, "talk", prompt))
    sampled = Decoder(lm, lm.top, rows=1).sample(
        [asked],
        max_tokens=longest,
        temperature=temperature,
        uniforms=uniforms,
        on_token=on_token,
    )
    return response_text(lm.tokenizer, sampled.ids[0][sampled.mask[0]].tolist())


def compare(runs: Sequence[Path], prompt: str, *, temperature: float = 0.7, seed: int = 1) -> None:
    """Answers of several models under each other: the models of a loop's folder, or each run that is named."""
    models = {name: load(source) for name, source in named(runs).items()}
    width = max(map(len, models))
    for line in [prompt] if prompt else _typed():
        if not prompt:
            print()
        for name, lm in models.items():
            print(f"{name:<{width}} | ", end="", flush=True)
            with _told_on(typed=not prompt):
                reply(
                    lm,
                    line,
                    temperature=temperature,
                    seed=seed,
                    show=lambda t: print(_plain(t), end="", flush=True),
                )
            print()


def _plain(text: str, keep: str = "") -> str:
    """A model's text as it may go to a terminal: line breaks of any kind and control characters become spaces."""
    return "".join(c if c.isprintable() or c in keep else " " for c in text)


def named(runs: Sequence[Path]) -> dict[str, str]:
    """{name: run or model} to compare. Raises UserError for a folder that is neither a loop nor a run nor a model."""
    if len(runs) == 1 and (runs[0] / "loop.json").exists():
        loop = json.loads((runs[0] / "loop.json").read_text())
        trained = [m for m in loop["models"] if m not in ("base", "prompted")]
        return {"base": loop["model"]} | {m: str(runs[0] / m) for m in trained}
    for path in runs:
        if path.exists() and not any((path / f).exists() for f in ("run.json", "config.json")):
            raise UserError(f"{path}: neither a finished loop nor a run nor a model folder")
    return {path.name: str(path) for path in runs}


@contextlib.contextmanager
def _told_on(*, typed: bool) -> Iterator[None]:
    """Go on after a prompt that was typed and is too long: the next one may fit."""
    try:
        yield
    except TooLong as error:
        if not typed:
            raise
        print(f"tutelage: {error}", file=sys.stderr)


def _typed() -> Iterator[str]:
    print("type a prompt, end with Ctrl-D", file=sys.stderr)
    while True:
        try:
            line = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line:
            yield line


def chat(model: str, *, temperature: float = 0.7, seed: int = 1) -> None:
    """Answer one line after another until the input ends. Each line is a prompt of its own."""
    lm = load(model)
    print(f"{model}: every line is answered by itself", file=sys.stderr)
    for turn, line in enumerate(_typed()):
        with _told_on(typed=True):
            reply(
                lm,
                line,
                temperature=temperature,
                seed=seed + turn,
                show=lambda t: print(_plain(t, "\n"), end="", flush=True),
            )
        print()
