"""K responses to every prompt, from any run or model. Paper section 3: the labelers rank what this page writes.

Prompts are answered in batches of similar length; each (prompt, k) has its own stream of random numbers, so that the
same seed gives the same response whatever the batch. Done prompts survive a kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tutelage.data.batches import slices
from tutelage.generate import Decoder
from tutelage.limits import Limits, each
from tutelage.loop import Progress, environment, generator
from tutelage.model import Lm, load
from tutelage.records import Demonstration, Prompt, Response, UserError, read_placed, read_records, to_dict
from tutelage.run import Run
from tutelage.settings import SampleConfig
from tutelage.template import SEPARATOR, response_ids, response_text


def sample(config: SampleConfig) -> Run:
    """Run or resume the stage. Writes samples.jsonl: {"prompt_id", "prompt", "k", "response"} a line."""
    run = Run.start(config.out, "samples", config, parents={"model": Path(config.model), "prompts": config.prompts})
    if run.finished:
        return run
    lm = load(config.model, dtype=config.dtype)
    run.computes(**environment(lm))
    shots = _shots(config)
    encoded = encode(lm, config, shots)
    encoded.sort(key=lambda one: len(one[0]))
    saved = run.latest()
    start = saved[1]["step"] if saved else 0
    decoder = Decoder(lm, lm.top, rows=config.batch)
    per_batch = max(1, config.batch // config.k)
    batches = slices(len(encoded), per_batch)
    progress = Progress(f"sample {config.name or Path(config.model).name}", len(encoded), start)

    for part in batches:
        if part.stop <= start:
            continue
        uniforms = torch.stack([_uniforms(config, encoded[i][1].id, k) for i in part for k in range(config.k)], 1)
        rows = [encoded[i][0] for i in part for _ in range(config.k)]
        temperatures = [config.temperatures[k % len(config.temperatures)] for _ in part for k in range(config.k)]
        drawn = decoder.sample(rows, max_tokens=config.max_response_tokens, temperature=temperatures, uniforms=uniforms)
        for place, i in enumerate(part):
            for k in range(config.k):
                n = place * config.k + k
                ids = drawn.ids[n][drawn.mask[n]].tolist()
                prompt = encoded[i][1]
                response = _response(config, lm, prompt, k, ids, bool(drawn.ended[n]), prompted=bool(shots))
                run.log("samples.jsonl", _row(prompt, k, response))
        run.checkpoint(part.stop, lambda _: None, {})
        progress.advance(len(part))

    run.finish(prompts=len(encoded), responses=len(encoded) * config.k)
    return run


def encode(lm: Lm, config: SampleConfig, shots: Sequence[tuple[str, str]]) -> list[tuple[list[int], Prompt]]:
    """The chosen prompts with their ids. Raises TooLong for one that is; with `drop_long` others are chosen instead."""
    limits, longest = Limits(lm, config.max_prompt_tokens), config.max_response_tokens
    placed = read_placed(Prompt, config.prompts)

    def one(row: tuple[str, Prompt]) -> tuple[list[int], Prompt]:
        where, prompt = row
        return limits.prompt(prompt.text, f"{where}: prompt {prompt.id!r}", ahead=longest, shots=shots), prompt

    if config.drop_long:
        rows = [row for row in placed if config.split in ("all", row[1].split)]
        found = {id(prompt): ids for ids, prompt in each(rows, one, drop_long=True, what="prompts")}
        return [(found[id(p)], p) for p in chosen([p for _, p in placed if id(p) in found], config)]
    places = {id(prompt): where for where, prompt in placed}
    rows = [(places[id(p)], p) for p in chosen([p for _, p in placed], config)]
    return each(rows, one, drop_long=False, what="prompts")


def chosen(prompts: Sequence[Prompt], config: SampleConfig) -> list[Prompt]:
    """The prompts of the split, at most `limit`, round-robin over use cases so that none is forgotten."""
    rows = [p for p in prompts if config.split in ("all", p.split)]
    if not rows:
        raise UserError(f"{config.prompts}: no prompts in split {config.split!r}")
    if not config.limit or config.limit >= len(rows):
        return rows
    by_case: dict[str, list[Prompt]] = {}
    for prompt in rows:
        by_case.setdefault(prompt.use_case, []).append(prompt)
    ranked = sorted((i / len(group), p.id, p) for group in by_case.values() for i, p in enumerate(group))
    return [p for _, _, p in ranked[: config.limit]]


def _shots(config: SampleConfig) -> list[tuple[str, str]]:
    if config.shots is None:
        return []
    shown = [d for d in read_records(Demonstration, config.shots) if d.split == "train"]
    if len(shown) < config.n_shots:
        raise UserError(f"{config.shots}: {len(shown)} training demonstrations, fewer than n_shots = {config.n_shots}")
    step = len(shown) // config.n_shots
    return [(d.prompt, d.response) for d in shown[::step][: config.n_shots]]


def _uniforms(config: SampleConfig, prompt_id: str, k: int) -> torch.Tensor:
    return torch.rand(config.max_response_tokens, generator=generator(config.seed, "sample", prompt_id, k))


def _response(
    config: SampleConfig, lm: Lm, prompt: Prompt, k: int, ids: list[int], ended: bool, *, prompted: bool
) -> Response:
    text = response_text(lm.tokenizer, ids)
    if prompted and SEPARATOR.strip() in text:  # the few-shot prefix shows the base model this way of ending
        text, ended = text.split(SEPARATOR.strip())[0].strip(), True
        ids = response_ids(lm.tokenizer, text)
    name = config.name or Path(config.model).name
    temperature = config.temperatures[k % len(config.temperatures)]
    sampling = {"temperature": temperature, "max_tokens": config.max_response_tokens, "seed": config.seed}
    return Response(
        id=f"{prompt.id}/{name}/{k}", text=text, model=name, tokens=len(ids), ended=ended, sampling=sampling
    )


def _row(prompt: Prompt, k: int, response: Response) -> dict[str, object]:
    return {"prompt_id": prompt.id, "prompt": prompt.text, "split": prompt.split, "k": k, "response": to_dict(response)}
