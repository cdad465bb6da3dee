"""Step 3 of the paper: PPO against the reward model, with a per-token KL penalty and a pretraining mix (eq. 2).

    maximise  E[ r(x, y) - beta log(pi(y|x) / pi_ref(y|x)) ]  +  gamma_ptx E[ log pi(z) ],  z pretraining text

Each iteration is five verbs: sample, score, shape, advantage, update. The reference is the policy as it starts; the
value network is a network of its own that starts as the reward model. PPO and pretraining gradients are added before
the same optimiser step. Normalisation: PPO's losses are means over all response tokens of the minibatch, the
pretraining loss is the mean over its tokens; `ptx_coef` weighs the one against the other (the paper's 27.8 belongs to
an unstated normalisation). Minibatches are packed when the rollout is scored and used as they are for the update, so
that old logprobs come from the very computation that is differentiated: at learning rate 0 the ratio is exactly 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tutelage.advantages import explained_variance, gae, kl_rewards, line_of_fit, masked_mean, whiten
from tutelage.data.batches import Packed, pack, text_rows
from tutelage.data.text import TextBlocks
from tutelage.doctor import check_start
from tutelage.generate import Decoder, Sampled
from tutelage.limits import Limits, each
from tutelage.loop import (
    Progress,
    environment,
    generator,
    load_tensors,
    need_finite,
    save_tensors,
    shuffled,
    stream,
    timed,
)
from tutelage.losses import lm_loss, policy_loss, token_logprobs, value_loss
from tutelage.model import Lm, Top, load, save_lm
from tutelage.optim import MasterAdamW, warmed
from tutelage.records import Prompt, UserError, read_placed
from tutelage.run import Run
from tutelage.scalar import ScalarHead, load_scalar
from tutelage.settings import PpoConfig
from tutelage.template import response_text

VALUE_SLOPE = (0.2, 1.0)  # what the value network's start may be scaled by: below, it would hardly learn
WATCHED = 8  # prompts whose responses samples.jsonl follows through the run


@dataclass(frozen=True, slots=True)
class Rollout:
    """One minibatch, scored: everything PPO needs. hidden is what the tops read; the rest (B, R) or (B,) fp32."""

    batch: Packed
    hidden: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    entropy: Tensor
    scores: Tensor
    ended: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass
class Networks:
    """The four networks on one trunk; `lm.top` is the policy."""

    lm: Lm
    reference: Top
    reward: ScalarHead
    value: ScalarHead


def train(config: PpoConfig) -> Run:
    """Run or resume the stage; returns the run, finished unless the guard stopped it."""
    run = Run.start(config.out, "ppo", config, parents=_parents(config))
    if run.finished:
        return run
    nets = networks(config)
    run.computes(**environment(nets.lm))
    prompts, watched = prompts_of(nets.lm, config, "train"), prompts_of(nets.lm, config, "valid")[:WATCHED]
    text = _text(nets.lm, config)
    eps = config.adam_eps
    actor = MasterAdamW(nets.lm.top.parameters(), eps=eps, clip_norm=config.clip_norm, ema=config.ema)
    critic = MasterAdamW(nets.value.parameters(), eps=eps, clip_norm=config.clip_norm)
    start = _resume(run, nets.value, actor, critic)
    if start == 0:
        check_start(nets, config, [ids for _, ids in prompts])
    progress = Progress("ppo", config.iterations, start)

    for iteration in range(start, config.iterations):
        seconds: dict[str, float] = {}

        # 1. Sample: one response to each of the iteration's prompts, from the policy as it is.
        with timed(seconds, "sample"):
            chosen = [prompts[i][1] for i in stream(len(prompts), iteration, config.episodes, config.seed, "prompts")]
            sampled = rollout(nets.lm, config, chosen, "rollout", iteration)
            episodes = [(p, ids[m].tolist()) for p, ids, m in zip(chosen, sampled.ids, sampled.mask, strict=True)]

        # 2. Score: one pass of the trunk, then policy, reference, reward model and value on top of it.
        with timed(seconds, "score"):
            order = shuffled(config.episodes, config.seed, "minibatch", iteration)
            parts = [order[i : i + config.minibatch] for i in range(0, config.episodes, config.minibatch)]
            rollouts = [score(nets, config, [episodes[i] for i in part], sampled.ended[part]) for part in parts]

        # 3. Shape the rewards and 4. estimate advantages, both over the whole rollout.
        if iteration == 0:
            rollouts = settle_value(nets.value, rollouts, config)
        rollouts, measured = shape(rollouts, config)
        need_finite("score", measured["score/mean"], iteration)
        if stopped := _guard(run, measured, config):
            return stopped

        # 5. Update: PPO and pretraining gradients in one step of the policy; one step of the value network.
        with timed(seconds, "update"):
            rate = warmed(iteration, config.lr, steps=config.warmup_iterations)
            for epoch in range(config.inner_epochs):
                for n in shuffled(len(rollouts), config.seed, "epoch", iteration, epoch):
                    blocks = _ptx_blocks(nets.lm, config, text, actor.steps)
                    measured |= update(nets, config, rollouts[n], blocks, actor, critic, rate)

        row = {"iteration": iteration, "episodes": (iteration + 1) * config.episodes, "lr": rate} | measured
        run.log("metrics.jsonl", row)
        run.log("timings.jsonl", {"iteration": iteration, **{k: round(v, 3) for k, v in seconds.items()}})
        _keep_track(run, nets, config, actor, critic, watched, iteration + 1)
        progress.advance(note=f"score {row['score/mean']:+.2f}  kl {row['kl']:.2f}  length {row['length']:.0f}")

    _save(run, nets.lm, actor, config)
    run.finish(**{k: row[k] for k in ("kl", "score/mean", "length", "ended")}, kept=config.keep, updates=actor.steps)
    return run


def rollout(lm: Lm, config: PpoConfig, prompts: Sequence[list[int]], *names: object) -> Sampled:
    """Responses of the policy to `prompts`, drawn with the generator of `names`."""
    uniforms = torch.rand(config.max_response_tokens, len(prompts), generator=generator(config.seed, *names))
    decoder = Decoder(lm, lm.top, rows=config.episodes)
    return decoder.sample(
        prompts, max_tokens=config.max_response_tokens, temperature=config.temperature, uniforms=uniforms
    )


@torch.no_grad()
def score(nets: Networks, config: PpoConfig, episodes: Sequence[tuple[list[int], list[int]]], ended: Tensor) -> Rollout:
    """Logprobs, values and scores of a minibatch of (prompt ids, response ids); the advantages come later."""
    batch = pack(episodes, nets.lm.pad, nets.lm.device)
    hidden = nets.lm.lower(batch.ids, batch.segments)
    logprobs, entropy = policy_logprobs(nets.lm.top, hidden, batch, config.temperature, entropy=True)
    ref_logprobs, _ = policy_logprobs(nets.reference, hidden, batch, config.temperature)
    scores = nets.reward.read(batch.at_last(nets.reward.top(hidden, batch.segments)))
    scores = torch.where(ended, scores, config.missing_eos_score)
    values = batch.spread(nets.value.read(batch.at(nets.value.top(hidden, batch.segments))))
    empty = torch.zeros_like(values)
    return Rollout(batch, hidden, logprobs, ref_logprobs, values, entropy, scores, ended, empty, empty)


def policy_logprobs(
    top: Top, hidden: Tensor, batch: Packed, temperature: float, *, entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """(B, R) logprobs of the response tokens and their entropies (zero where not asked)."""
    found, ent = token_logprobs(
        batch.at(top(hidden, batch.segments)),
        top.head,
        batch.targets[batch.mask],
        temperature=temperature,
        entropy=entropy,
    )
    return batch.spread(found), batch.spread(torch.zeros_like(found) if ent is None else ent)


@torch.no_grad()
def settle_value(value: ScalarHead, rollouts: Sequence[Rollout], config: PpoConfig) -> list[Rollout]:
    """Shift and scale the value network, once, to the returns of the first rollout; its values are replaced.

    The reward model it starts from learned last tokens only. On unfinished responses it is off by several standard
    deviations, and the value clip lets it move by `value_clip` an iteration: ten iterations of noise (docs/log.md).
    """
    values, mask = _stack([r.values for r in rollouts]), _stack([r.batch.mask for r in rollouts]).bool()
    logprobs, reference = (_stack([getattr(r, f) for r in rollouts]) for f in ("logprobs", "ref_logprobs"))
    scores = torch.cat([r.scores for r in rollouts])
    rewards = kl_rewards(logprobs, reference, scores, mask, config.beta)
    _, returns = gae(rewards, torch.zeros_like(values), mask, config.gamma, 1.0)
    slope, shift = line_of_fit(values, returns, mask, *VALUE_SLOPE)
    value.rescale(slope, shift)
    return [replace(r, values=(slope * r.values + shift) * r.batch.mask) for r in rollouts]


def shape(rollouts: Sequence[Rollout], config: PpoConfig) -> tuple[list[Rollout], dict[str, float]]:
    """Rewards, returns and advantages, whitened over the whole rollout; and what the rollout measured."""
    whole = {f: _stack([getattr(r, f) for r in rollouts]) for f in ("logprobs", "ref_logprobs", "values", "entropy")}
    mask = _stack([r.batch.mask for r in rollouts]).bool()
    scores, ended = torch.cat([r.scores for r in rollouts]), torch.cat([r.ended for r in rollouts])
    rewards = kl_rewards(whole["logprobs"], whole["ref_logprobs"], scores, mask, config.beta)
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    advantages, returns = gae(rewards, whole["values"], mask, config.gamma, config.lam)
    white = whiten(advantages, mask, shift_mean=True)
    done, n = [], 0
    for r in rollouts:
        count, width = r.batch.mask.shape
        part = slice(n, n + count)
        done.append(replace(r, advantages=white[part, :width], returns=returns[part, :width]))
        n += count
    kl = ((whole["logprobs"] - whole["ref_logprobs"]) * mask).sum(1)
    length = mask.sum(1).float()
    measured = {
        "score/mean": scores.mean(),
        "score/std": scores.std(correction=0),
        "kl": kl.mean(),
        "kl/max": kl.max(),
        "reward/mean": (rewards * mask).sum(1).mean(),
        "entropy": masked_mean(whole["entropy"], mask),
        "length": length.mean(),
        "ended": ended.float().mean(),
        "value/mean": masked_mean(whole["values"], mask),
        "value/explained_variance": explained_variance(whole["values"], returns, mask),
        "return/mean": masked_mean(returns, mask),
        "advantage/mean": masked_mean(advantages, mask),
        "advantage/std": masked_mean((advantages - masked_mean(advantages, mask)) ** 2, mask).sqrt(),
    }
    return done, {k: float(v) for k, v in measured.items()}


def update(
    nets: Networks,
    config: PpoConfig,
    r: Rollout,
    blocks: Packed | None,
    actor: MasterAdamW,
    critic: MasterAdamW,
    rate: float,
) -> dict[str, float]:
    """One optimiser step of policy and value network on a minibatch; returns what it measured."""
    mask, count = r.batch.mask, r.batch.mask.sum()
    logprobs, _ = policy_logprobs(nets.lm.top, r.hidden, r.batch, config.temperature)
    loss = policy_loss(logprobs, r.logprobs, r.advantages, mask, config.clip, count)
    loss.backward()
    actor.collect()
    ppo_norm = actor.gradient_norm()
    ptx = _ptx_backward(nets.lm, config, blocks)
    norm = actor.step(rate)

    values = r.batch.spread(nets.value.read(r.batch.at(nets.value.top(r.hidden, r.batch.segments))))
    v_loss = value_loss(values, r.values, r.returns, mask, config.value_clip, count)
    v_loss.backward()
    v_norm = critic.step(config.value_lr)
    with torch.no_grad():
        gap = logprobs - r.logprobs
        ratio = gap.exp()
        measured = {
            "loss/policy": loss.detach(),
            "loss/value": v_loss.detach(),
            "ratio/mean": masked_mean(ratio, mask),
            "ratio/max": torch.where(mask, ratio, 0).max(),
            "log_ratio/var": masked_mean(gap**2, mask) - masked_mean(gap, mask) ** 2,
            "approx_kl": 0.5 * masked_mean(gap**2, mask),
            "clip_fraction": masked_mean(((ratio - 1).abs() > config.clip).float(), mask),
            "value/clip_fraction": masked_mean(((values - r.values).abs() > config.value_clip).float(), mask),
        }
    found = {k: float(v) for k, v in measured.items()} | {"grad_norm/policy": norm, "grad_norm/value": v_norm}
    need_finite("policy loss", found["loss/policy"], actor.steps)
    need_finite("value loss", found["loss/value"], actor.steps)
    return found | {"grad_norm/ppo": ppo_norm} | ({} if ptx is None else {"loss/pretraining": ptx})


def _ptx_backward(lm: Lm, config: PpoConfig, blocks: Packed | None) -> float | None:
    """Add the pretraining gradient to the PPO gradient already collected (paper: gamma E[log pi(z)])."""
    if blocks is None:
        return None
    found, _ = policy_logprobs(lm.top, lm.lower(blocks.ids, blocks.segments), blocks, 1.0)
    loss = lm_loss(found, blocks.mask)
    (config.ptx_coef * loss).backward()
    return float(loss.detach())


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """(B_i, R_i) tensors as one (sum B_i, max R_i), zero where a row was shorter."""
    width = max(t.shape[1] for t in tensors)
    return torch.cat([torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in tensors])


def _parents(config: PpoConfig) -> dict[str, Path]:
    parents = {"policy": config.policy, "reward": config.reward, "prompts": config.prompts}
    return parents | ({"pretraining": config.pretraining} if config.pretraining else {})


def networks(config: PpoConfig) -> Networks:
    """Policy and reference from the SFT run, score and value start from the reward run, all on one trunk."""
    source = Run.open(config.policy, "sft", "ppo")
    lm = load(source.intact("model"), trainable_layers=config.trainable_layers, dtype=config.dtype)
    reward = load_scalar(Run.open(config.reward, "reward").intact("model"), lm)
    reference = lm.top.twin().requires_grad_(False)
    value = reward.twin()
    for part in value.top.trained_parts():
        part.requires_grad_(True)
    value.score.requires_grad_(True)
    return Networks(lm, reference, reward, value)


def prompts_of(lm: Lm, config: PpoConfig, split: str) -> list[tuple[Prompt, list[int]]]:
    """A split's prompts with their ids. Raises TooLong for one that leaves a response no room, unless dropped."""
    limits, longest = Limits(lm, config.max_prompt_tokens), config.max_response_tokens

    def one(placed: tuple[str, Prompt]) -> tuple[Prompt, list[int]]:
        where, prompt = placed
        return prompt, limits.prompt(prompt.text, f"{where}: prompt {prompt.id!r}", ahead=longest)

    needed = split == "train"
    rows = [placed for placed in read_placed(Prompt, config.prompts) if placed[1].split == split]
    if not rows and needed:
        raise UserError(f"{config.prompts}: no prompts in the train split")
    return each(rows, one, drop_long=config.drop_long, what=f"{split} prompts", needed=needed)


def _text(lm: Lm, config: PpoConfig) -> TextBlocks | None:
    if config.pretraining is None or not config.ptx_coef:
        return None
    return TextBlocks(config.pretraining, lm.text_ids, min(config.ptx_tokens, lm.room), config.seed)


def _ptx_blocks(lm: Lm, config: PpoConfig, text: TextBlocks | None, step: int) -> Packed | None:
    if text is None:
        return None
    return text_rows(text.draw(step, max(1, math.ceil(config.ptx_ratio * config.minibatch))), lm.device)


def _guard(run: Run, measured: dict[str, float], config: PpoConfig) -> Run | None:
    """Stop a run that has left the reference far behind, naming the cause; the last checkpoint stays."""
    if abs(measured["kl"]) <= config.max_kl:
        return None
    why = (
        f"KL is {measured['kl']:.1f} nats per response, beyond max_kl = {config.max_kl}: the policy is diverging from"
        " the reference; lower --lr or raise --beta. A strongly negative KL: sampling and scoring disagree (see doctor)"
    )
    run.stop(why)
    raise UserError(f"{run.path}: stopped: {why}")


def _keep_track(
    run: Run,
    nets: Networks,
    config: PpoConfig,
    actor: MasterAdamW,
    critic: MasterAdamW,
    watched: Sequence[tuple[Prompt, list[int]]],
    done: int,
) -> None:
    """Every few iterations: the watched prompts' responses, a snapshot of the policy, a checkpoint."""
    if config.snapshot_every and done % config.snapshot_every == 0:
        if watched:
            _log_samples(run, nets, config, watched, done)
        kept = actor.average if config.keep == "ema" else actor.parameters
        parts = {f"policy.{i}": w.to(p.dtype) for i, (w, p) in enumerate(zip(kept, actor.parameters, strict=True))}
        (run.path / "snapshots").mkdir(exist_ok=True)
        save_tensors(run.path / "snapshots" / f"iteration-{done:05d}.safetensors", parts)
    if done % config.checkpoint_every == 0:
        line = {"value.bias": nets.value.bias, "value.scale": nets.value.scale}
        tensors = actor.state("actor") | critic.state("critic") | line
        run.checkpoint(done, lambda folder: save_tensors(folder / "state.safetensors", tensors), {})


def _log_samples(
    run: Run, nets: Networks, config: PpoConfig, watched: Sequence[tuple[Prompt, list[int]]], done: int
) -> None:
    sampled = rollout(nets.lm, config, [ids for _, ids in watched], "watched", done)
    episodes = [(ids, s[m].tolist()) for (_, ids), s, m in zip(watched, sampled.ids, sampled.mask, strict=True)]
    r = score(nets, config, episodes, sampled.ended)
    kl = ((r.logprobs - r.ref_logprobs) * r.batch.mask).sum(1)
    for (prompt, _), (_, ids), s, k in zip(watched, episodes, r.scores.tolist(), kl.tolist(), strict=True):
        text = response_text(nets.lm.tokenizer, ids)
        row = {"iteration": done, "prompt_id": prompt.id, "prompt": prompt.text, "response": text}
        run.log("samples.jsonl", row | {"score": s, "kl": k, "length": len(ids)})


def _resume(run: Run, value: ScalarHead, actor: MasterAdamW, critic: MasterAdamW) -> int:
    saved = run.latest()
    if saved is None:
        return 0
    tensors = load_tensors(saved[0] / "state.safetensors")
    actor.restore(tensors, "actor")
    critic.restore(tensors, "critic")
    value.bias.copy_(tensors["value.bias"])
    value.scale.copy_(tensors["value.scale"])
    return int(saved[1]["step"])


def _save(run: Run, lm: Lm, actor: MasterAdamW, config: PpoConfig) -> None:
    """model/ gets the weights that `keep` names, model_raw/ or model_ema/ the others, where there are any."""
    save_lm(lm, lm.top, run.model if config.keep == "raw" else run.path / "model_raw")
    if config.ema:
        actor.use_average()
        save_lm(lm, lm.top, run.model if config.keep == "ema" else run.path / "model_ema")
