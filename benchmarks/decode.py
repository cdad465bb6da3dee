"""Tokens per second of our decode engine against transformers' `generate`: one model, one dtype, in turns.

    .venv/bin/python benchmarks/decode.py                       random prompts, no end token
    .venv/bin/python benchmarks/decode.py --run runs/demo/sft   and an SFT run, with its end token

64 prompts of 24 to 40 tokens, 32 new tokens each, sampled at temperature 1 (no top-k, no top-p on either
side) and greedily. In the first two rows neither side may stop: transformers gets no end token, ours one that
no draw can give. With --run a third row lets responses end: finished rows leave our batch, in transformers
they wait as padding; tokens then count up to and including the end token. Our time includes what every
rollout pays anew, laying out the weights of the layers that train. Each side runs once before the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import MODEL, ROW, arguments, endless, prompts, seconds, show, spread
from transformers import AutoModelForCausalLM

from tutelage.generate import Decoder, pad_left
from tutelage.model import Lm, folder_of, load
from tutelage.records import Demonstration, read_records
from tutelage.run import Run
from tutelage.template import prompt_ids

Rows = Sequence[Sequence[int]]
Side = Callable[[], int]
"""Decodes the batch once; returns how many tokens count."""


def ours(lm: Lm, rows: Rows, tokens: int, temperature: float) -> Side:
    """The engine as a rollout uses it."""
    uniforms = torch.rand(tokens, len(rows), generator=torch.Generator().manual_seed(1))

    def side() -> int:
        decoder = Decoder(lm, lm.top, rows=len(rows))
        sampled = decoder.sample(rows, max_tokens=tokens, temperature=temperature, uniforms=uniforms)
        return int(sampled.mask.sum())

    return side


def theirs(model: Any, eos: int | None, pad: int, rows: Rows, tokens: int, temperature: float) -> Side:
    """`generate` with its own attention and cache; with `eos` None no row ends."""
    ids, mask = pad_left(rows, pad)
    pure = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    how = pure if temperature else {"do_sample": False}

    @torch.inference_mode()
    def side() -> int:
        model.generation_config.eos_token_id, model.generation_config.pad_token_id = eos, pad
        out = model.generate(input_ids=ids, attention_mask=mask.long(), max_new_tokens=tokens, **how)
        ended = (out[:, ids.shape[1] :] == (-1 if eos is None else eos)).long()
        return int((ended.cumsum(1) - ended == 0).sum())

    return side


def race(one: Side, other: Side, repeats: int) -> dict[str, Any]:
    """Both in turns: tokens per second of each, and our speed over theirs turn by turn."""
    one(), other()
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for side, found in zip((one, other), rates, strict=True):
            spent, tokens = seconds(side)
            found.append(tokens / spent)
    ratios = [a / b for a, b in zip(*rates, strict=True)]
    return {"ours": spread(rates[0]), "transformers": spread(rates[1]), "ratio": spread(ratios)}


def endlessly(name: str, tokens: int, repeats: int) -> dict[str, dict[str, Any]]:
    """The two races in which every row decodes every token."""
    lm = endless(load(name, trainable_layers=10))
    reference = AutoModelForCausalLM.from_pretrained(folder_of(name), dtype=lm.top.head.dtype).eval()
    rows = prompts(ROW, 24, 40, lm.vocabulary)
    return {
        label: race(
            ours(lm, rows, tokens, temperature),
            theirs(reference, None, lm.pad, rows, tokens, temperature),
            repeats,
        )
        for label, temperature in (("sampled, no end token", 1.0), ("greedy, no end token", 0.0))
    }


def with_ends(path: str, tokens: int, repeats: int) -> dict[str, Any]:
    """The race on a tuned model that ends its responses, on the prompts it was tuned with."""
    run = Run.open(Path(path), "sft")
    lm = load(path, trainable_layers=10)
    shown = read_records(Demonstration, run.config()["demonstrations"])[:ROW]
    rows = [prompt_ids(lm.tokenizer, d.prompt) for d in shown]
    reference = AutoModelForCausalLM.from_pretrained(run.model, dtype=lm.top.head.dtype).eval()
    return race(ours(lm, rows, tokens, 1.0), theirs(reference, lm.eos, lm.pad, rows, tokens, 1.0), repeats)


def main() -> None:
    """Measure and print."""
    words = arguments(
        __doc__,
        model=(MODEL, "embedded name, folder or hub id"),
        tokens=(32, "new tokens per sequence"),
        repeats=(5, "turns of each side"),
        run=("", "an SFT run: adds the race in which responses end"),
    )
    result = endlessly(words.model, words.tokens, words.repeats)
    if words.run:
        result["sampled, responses end"] = with_ends(words.run, words.tokens, words.repeats)
    table = [["tokens/s", "ours", "transformers", "ratio"]]
    for label, found in result.items():
        whole = [f"{r['median']:,.0f} ({r['min']:,.0f} to {r['max']:,.0f})" for r in found.values()][:2]
        ratio = "{median:.2f} ({min:.2f} to {max:.2f})".format(**found["ratio"])
        table.append([label, *whole, ratio])
    show(result, table, as_json=words.json)


if __name__ == "__main__":
    main()
