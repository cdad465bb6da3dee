"""Step 4: the held-out labelers compare all models' answers to the held-out prompts, blind (paper section 4.1).

Every model answers the same test prompts (one `sample` run each). The held-out group ranks the answers to a prompt
together, shuffled, without model names; the reward model scores them and the rubric gives its noiseless gold score.
Beside it stand two measures that need the models: gold and reward-model score along the KL of each PPO run
(`frontier.py`), and the loss on held-out pretraining text, the alignment tax.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tutelage import labelers, rubric, workflows
from tutelage.data.batches import pack, slices, text_rows
from tutelage.data.text import TextBlocks
from tutelage.evaluate.frontier import frontier, frontier_prompts
from tutelage.limits import Limits, each
from tutelage.loop import Progress, environment, release_memory
from tutelage.losses import token_logprobs
from tutelage.model import Lm, load
from tutelage.records import Prompt, Response, UserError, from_dict, write_json, write_records
from tutelage.run import Run
from tutelage.scalar import ScalarHead, load_scalar
from tutelage.settings import EvaluateConfig
from tutelage.workflows import Workflow

TEXT_TOKENS = 64
TEXT_BLOCKS = 64  # blocks of held-out text that the alignment tax is measured on

Answers = dict[str, dict[str, Response]]
"""{prompt id: {model: response}}."""


def evaluate(config: EvaluateConfig) -> Run:
    """Run the stage; writes rankings.jsonl, answers.jsonl, frontier.jsonl and evaluation.json."""
    parents = {f"answers/{p.name}": p for p in config.answers} | {"reward": config.reward}
    run = Run.start(config.out, "evaluation", config, parents=parents)
    if run.finished:
        return run
    workflow = workflows.load(config.workflow)
    reward = Run.open(config.reward, "reward")
    lm = load(config.policy, trainable_layers=reward.config()["trainable_layers"], dtype=config.dtype)
    run.computes(**environment(lm))
    network = load_scalar(reward.intact("model"), lm)
    prompts, answers = _answers(config, workflow, Limits(lm))
    asked = frontier_prompts(config, workflow, lm) if config.ppo else []

    panel = labelers.labelers(workflow.rubric, "heldout", seed=config.seed)
    ranked = [
        ranking
        for prompt in prompts
        for ranking in labelers.rank_by(
            panel, prompt, list(answers[prompt.id].values()), rubric=workflow.rubric, seed=config.seed
        )
    ]
    write_records(run.path / "rankings.jsonl", ranked)

    scores = score_answers(lm, network, prompts, answers)
    (run.path / "answers.jsonl").unlink(missing_ok=True)
    for prompt in prompts:
        for model, response in answers[prompt.id].items():
            run.log("answers.jsonl", _row(workflow, prompt, model, response, scores[prompt.id, model]))

    points = frontier(config, workflow, lm, network, asked) if config.ppo else []
    (run.path / "frontier.jsonl").unlink(missing_ok=True)
    for point in points:
        run.log("frontier.jsonl", point)
    del lm, network  # the text losses load one model after another: none of them beside these
    found = {"pretraining_loss": _text_losses(config)} if config.pretraining else {}
    write_json(run.path / "evaluation.json", found)
    run.finish(prompts=len(prompts), models=sorted({m for a in answers.values() for m in a}), rankings=len(ranked))
    return run


def _answers(config: EvaluateConfig, workflow: Workflow, limits: Limits) -> tuple[list[Prompt], Answers]:
    """The prompts that every model answered, and the answers. Raises TooLong for a prompt with one that the reward
    model has no room for, unless dropped."""
    known = {p.id: p for p in workflow.prompts}
    answers: Answers = {}
    places: dict[tuple[str, str], str] = {}
    for path in config.answers:
        source = Run.open(path, "samples")
        for number, row in enumerate(source.rows("samples.jsonl"), start=1):
            response = from_dict(Response, row["response"])
            answers.setdefault(row["prompt_id"], {})[response.model] = response
            places[row["prompt_id"], response.model] = f"{source.path / 'samples.jsonl'}, line {number}"
    models = {m for a in answers.values() for m in a}
    shared = [i for i, a in answers.items() if set(a) == models and i in known]
    if not shared:
        raise UserError("evaluate: no prompt of the workflow was answered by all of: " + ", ".join(sorted(models)))

    def one(prompt: Prompt) -> Prompt:
        for model, r in answers[prompt.id].items():
            limits.pair(prompt.text, r.text, f"{places[prompt.id, model]}: prompt {prompt.id!r}", ended=r.ended)
        return prompt

    return each([known[i] for i in shared], one, drop_long=config.drop_long, what="answered prompts"), answers


@torch.no_grad()
def score_answers(
    lm: Lm, network: ScalarHead, prompts: Sequence[Prompt], answers: Answers, *, cut: bool = False
) -> dict[tuple[str, str], float]:
    """The reward model's score of every answer, {(prompt id, model): score}. Raises TooLong, unless `cut`."""
    keys = [(p, m) for p in prompts for m in answers[p.id]]
    pairs = []
    for prompt, model in keys:
        response, where = answers[prompt.id][model], f"prompt {prompt.id!r}, answered by {model},"
        pairs.append(Limits(lm).pair(prompt.text, response.text, where, ended=response.ended, cut=cut))
    found: list[float] = []
    for part in slices(len(keys), 64):
        batch = pack([pairs[i] for i in part], lm.pad, lm.device)
        hidden = network.top(lm.lower(batch.ids, batch.segments), batch.segments)
        found += network.read(batch.at_last(hidden)).tolist()
    return {(p.id, m): s for (p, m), s in zip(keys, found, strict=True)}


def _row(workflow: Workflow, prompt: Prompt, model: str, response: Response, score: float) -> dict[str, Any]:
    judged = rubric.judge(prompt, response.text, response.ended, workflow.rubric)
    gold = rubric.combine(prompt, judged, workflow.rubric.weights)
    return {
        "prompt_id": prompt.id,
        "prompt": prompt.text,
        "use_case": prompt.use_case,
        "model": model,
        "response": response.text,
        "tokens": response.tokens,
        "ended": response.ended,
        "gold": round(gold, 4),
        "score": round(score, 4),
        "judgements": {k: round(v, 3) for k, v in judged.items()},
    }


@torch.no_grad()
def _text_losses(config: EvaluateConfig) -> dict[str, float]:
    """Nats per token of held-out pretraining text for every model of `text_models`."""
    losses = {}
    progress = Progress("pretraining loss", len(config.text_models))
    for entry in config.text_models:
        release_memory()
        name, _, source = entry.partition("=")
        losses[name] = text_loss(load(source, dtype=config.dtype), config.pretraining)
        progress.advance(note=f"{name} {losses[name]:.3f}")
    return losses


@torch.no_grad()
def text_loss(lm: Lm, path: Path | None) -> float:
    """Mean negative log-likelihood, nats per token, of a fixed sample of a text file's blocks."""
    if path is None:
        raise UserError("text_loss: no text given")
    blocks = TextBlocks(path, lm.text_ids, min(TEXT_TOKENS, lm.room), 0).draw(0, TEXT_BLOCKS)
    total, count = 0.0, 0
    for part in slices(len(blocks), 16):
        batch = text_rows([blocks[i] for i in part], lm.device)
        hidden = lm.top(lm.lower(batch.ids, batch.segments), batch.segments)
        logprobs, _ = token_logprobs(batch.at(hidden), lm.top.head, batch.targets[batch.mask])
        total -= float(logprobs.sum())
        count += len(logprobs)
    return total / count
