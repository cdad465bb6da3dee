"""Over-optimisation, drawn: gold score and reward-model score against KL, along a PPO run (Stiennon et al. Figure 5).

Each snapshot of the policy answers the validation prompts; its KL to the reference, the reward model's score and the
rubric's gold score are means over those answers. Where the reward model's line keeps rising and gold turns down, the
policy is learning the reward model's mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tutelage import rubric
from tutelage.data.batches import pack
from tutelage.generate import Decoder
from tutelage.limits import Limits, each
from tutelage.loop import Progress, generator, load_tensors
from tutelage.losses import token_logprobs
from tutelage.model import Lm, Top
from tutelage.records import Prompt
from tutelage.run import Run
from tutelage.scalar import ScalarHead
from tutelage.settings import EvaluateConfig
from tutelage.template import response_text
from tutelage.workflows import Workflow

Asked = tuple[Prompt, list[int]]


@torch.no_grad()
def frontier(
    config: EvaluateConfig, workflow: Workflow, lm: Lm, network: ScalarHead, asked: Sequence[Asked]
) -> list[dict[str, Any]]:
    """One row per snapshot of each PPO run; iteration 0 is the SFT start. `lm` holds the SFT policy."""
    reference = lm.top.twin()
    start = measure(config, workflow, lm, network, reference, asked)
    rows = []
    progress = Progress("gold against KL", sum(len(_snapshots(path)) for path in config.ppo))
    for path in config.ppo:
        name = Run.open(path, "ppo").path.name
        rows.append({"model": name, "iteration": 0} | start)
        for iteration, file in _snapshots(path):
            weights = load_tensors(file)
            trained = [p for part in lm.top.trained_parts() for p in part.parameters()]
            for i, parameter in enumerate(trained):
                parameter.copy_(weights[f"policy.{i}"])
            measured = measure(config, workflow, lm, network, reference, asked)
            rows.append({"model": name, "iteration": iteration} | measured)
            progress.advance(note=f"kl {rows[-1]['kl']:.1f}  gold {rows[-1]['gold']:.2f}")
    return rows


def frontier_prompts(config: EvaluateConfig, workflow: Workflow, lm: Lm) -> list[Asked]:
    """The validation prompts with their ids. Raises TooLong for one that leaves an answer no room, unless dropped."""
    rows = [p for p in workflow.prompts if p.split == "valid"]

    def one(prompt: Prompt) -> Asked:
        where = f"workflow {workflow.name}: prompt {prompt.id!r}"
        return prompt, Limits(lm).prompt(prompt.text, where, ahead=config.max_response_tokens)

    return each(rows, one, drop_long=config.drop_long, what="validation prompts")


def _snapshots(path: Path) -> list[tuple[int, Path]]:
    files = sorted(Run.open(path, "ppo").intact("snapshots").glob("iteration-*.safetensors"))
    return [(int(f.stem.split("-")[1]), f) for f in files]


def measure(
    config: EvaluateConfig, workflow: Workflow, lm: Lm, network: ScalarHead, reference: Top, asked: Sequence[Asked]
) -> dict[str, Any]:
    """Mean KL (nats per response), gold, score, length and share ended of the policy's answers to the prompts asked."""
    ids = [prompt for _, prompt in asked for _ in range(config.frontier_k)]
    uniforms = torch.rand(config.max_response_tokens, len(ids), generator=generator(config.seed, "frontier"))
    sampled = Decoder(lm, lm.top).sample(
        ids, max_tokens=config.max_response_tokens, temperature=config.temperature, uniforms=uniforms
    )
    responses = [s[m].tolist() for s, m in zip(sampled.ids, sampled.mask, strict=True)]
    batch = pack(list(zip(ids, responses, strict=True)), lm.pad, lm.device)
    hidden = lm.lower(batch.ids, batch.segments)
    targets = batch.targets[batch.mask]
    own, _ = token_logprobs(batch.at(lm.top(hidden, batch.segments)), lm.top.head, targets)
    ref, _ = token_logprobs(batch.at(reference(hidden, batch.segments)), reference.head, targets)
    scores = network.read(batch.at_last(network.top(hidden, batch.segments)))
    owners = [p for p, _ in asked for _ in range(config.frontier_k)]
    gold = [
        rubric.gold(p, response_text(lm.tokenizer, r), bool(e), workflow.rubric)
        for p, r, e in zip(owners, responses, sampled.ended, strict=True)
    ]
    return {
        "kl": float((own - ref).sum()) / len(ids),
        "gold": sum(gold) / len(gold),
        "score": float(scores.mean()),
        "length": float(batch.mask.sum()) / len(ids),
        "ended": float(sampled.ended.float().mean()),
        "n": len(ids),
    }
