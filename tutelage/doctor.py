"""Self-checks that name the cause. In brief at each page's start; in full as `tutelage doctor RUN`.

PPO fails silently: a score one token late or a reference that moves still trains, only to something else. Each check
runs the page's own functions on a few real sequences, compares with what must hold, and says what is usually wrong.
The sequences are cut to unequal lengths, as mistakes in padding, masks and means hide while all are equally long.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tutelage.data.batches import Lowered, Packed, pack
from tutelage.losses import token_logprobs
from tutelage.model import Lm
from tutelage.records import UserError
from tutelage.scalar import ScalarHead, load_scalar
from tutelage.template import prompt_ids, response_ids, response_text

if TYPE_CHECKING:
    from tutelage.ppo import Networks, Rollout
    from tutelage.settings import PpoConfig

LIFT = 1000.0  # points between minibatches: more than any that lie apart already, which might cancel a smaller lift
SINK = 10.0  # times the usual norm of a hidden state: far beyond any ordinary token, far below a sink

Pair = tuple[list[int], list[int]]


@dataclass(frozen=True, slots=True)
class Check:
    """One self-check: what was compared, what was measured, and the likely cause when it fails."""

    name: str
    ok: bool
    measured: str
    cause: str

    def line(self) -> str:
        """One line for the screen."""
        line = f"{'ok  ' if self.ok else 'FAIL'} {self.name}: {self.measured}"
        return line if self.ok else f"{line}; {self.cause}"


def tolerance(lm: Lm) -> float:
    """How far two computations of one logprob may lie apart on average, nats: rounding, not error."""
    return 0.05 if lm.top.head.dtype == torch.bfloat16 else 1e-3


def ragged(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with responses of unequal length, as far as they are long enough: the n-th loses n tokens."""
    longest = max(len(r) for _, r in pairs)
    return [(p, r[: max(1, longest - n)]) for n, (p, r) in enumerate(pairs)]


def scored(lm: Lm, pairs: Sequence[Pair]) -> tuple[Packed, Tensor]:
    """The pairs packed, and the policy's logprobs of all their response tokens, as SFT computes them."""
    batch, hidden = Lowered(lm, pairs).batch(range(len(pairs)))
    states = batch.at(lm.top(hidden, batch.segments))
    return batch, token_logprobs(states, lm.top.head, batch.targets[batch.mask])[0]


def end_token(lm: Lm, pairs: Sequence[Pair]) -> Check:
    """Each written response ends with the end token, once, and that token counts in the loss."""
    batch = pack(pairs, lm.pad, lm.device)
    last = batch.targets.gather(1, batch.mask.long().sum(1, keepdim=True) - 1).squeeze(1)
    closed = int((last == lm.eos).sum())
    inside = sum(r[:-1].count(lm.eos) for _, r in pairs)
    return Check(
        "end token",
        closed == len(pairs) and inside == 0 and lm.pad != lm.eos,
        f"{closed} of {len(pairs)} demonstrations end with it, {inside} hold it earlier,"
        f" padding is {lm.pad}, end is {lm.eos}",
        "the end token is missing, masked away or used as padding: the policy would never learn to stop",
    )


def response_only(batch: Packed, pairs: Sequence[Pair]) -> Check:
    """What the loss counts is the responses, token for token, and nothing of prompts or padding."""
    wanted = [t for _, r in pairs for t in r]
    found = batch.targets[batch.mask].tolist()
    before = batch.ids.flatten()[batch.where[batch.mask]].tolist()
    return Check(
        "response only",
        wanted == found and before == [t for p, r in pairs for t in (p[-1], *r[:-1])],
        f"{len(found)} tokens counted, {len(wanted)} response tokens",
        "prompt tokens or padding are in the loss, or the targets are shifted against the states before them",
    )


@torch.no_grad()
def padding(lm: Lm, pairs: Sequence[Pair]) -> Check:
    """A sequence has the same logprobs alone as packed or padded among others."""
    alone, together = torch.cat([scored(lm, [pair])[1] for pair in pairs]), scored(lm, pairs)[1]
    gap = float((alone - together).abs().mean()) if len(alone) == len(together) else math.inf
    return Check(
        "padding",
        gap < tolerance(lm),
        f"logprobs alone and packed differ by {gap:.1e} nats on average",
        "position ids do not restart at each sequence, or attention reaches padding or a neighbour",
    )


@torch.no_grad()
def batch_split(lm: Lm, pairs: Sequence[Pair]) -> Check:
    """SFT's loss of a batch is the token-weighted mean of its parts' losses."""
    from tutelage import sft

    def loss(part: Sequence[Pair]) -> float:
        batch, logprobs = scored(lm, part)
        return float(sft.lm_loss(batch.spread(logprobs), batch.mask))

    parts = sum(loss([(p, r)]) * len(r) for p, r in pairs) / sum(len(r) for _, r in pairs)
    return _same_loss(loss(pairs), parts, tolerance(lm))


def _same_loss(whole: float, parts: float, limit: float) -> Check:
    gap = abs(whole - parts)
    return Check(
        "batch split",
        gap < limit,
        f"loss of a batch and of its parts differ by {gap:.1e}",
        "the loss is normalised per row or counts padding: results would depend on how a batch is split",
    )


def one_template(lm: Lm) -> Check:
    """A prompt's ids do not depend on what follows, and a response survives encoding and decoding."""
    prompt, response = "Where is my order?", "Please send us the order number, and we will look for it."
    back = response_text(lm.tokenizer, response_ids(lm.tokenizer, response))
    open_ids = response_ids(lm.tokenizer, response, ended=False)
    bare = prompt_ids(lm.tokenizer, prompt) == prompt_ids(lm.tokenizer, prompt + " ")
    return Check(
        "template",
        back == response and bare and lm.eos not in open_ids,
        f"a response came back as {back!r}, a cut one keeps open: {lm.eos not in open_ids}",
        "the tokenizer changes text on the way: policy and reward model would see different sequences",
    )


@torch.no_grad()
def end_state(lm: Lm, pairs: Sequence[Pair]) -> Check:
    """What the tops read at the end token is a state like others, not an attention sink."""
    cause = (
        "the end token is an attention sink in this model (its state is the same whatever came before), so a"
        " score read there says nothing: choose another end token"
    )
    if lm.trunk is None:
        return Check("end state", True, "every layer trains, so no frozen state is read", cause)
    closed = [(p, r if r[-1:] == [lm.eos] else [*r, lm.eos]) for p, r in pairs]
    batch = pack(closed, lm.pad, lm.device)
    norms = lm.lower(batch.ids, batch.segments).float().norm(dim=-1).flatten()
    others = batch.segments.flatten() > 0
    others[batch.last] = False
    end, usual = float(norms[batch.last].median()), float(norms[others].median())
    return Check(
        "end state",
        end <= SINK * usual,
        f"norm at the end token {end:,.0f}, of other tokens {usual:,.0f} (medians)",
        cause,
    )


def engine(lm: Lm, r: Rollout, sampled: Tensor, pairs: Sequence[Pair]) -> Check:
    """The logprobs (B, R) that the decode engine sampled with are those that the trainer computes."""
    gaps = [(r.logprobs[n, : len(y)] - sampled[n, : len(y)]).abs() for n, (_, y) in enumerate(pairs)]
    gap = float(torch.cat(gaps).mean())
    return Check(
        "engine",
        gap < 2 * tolerance(lm),
        f"sampling and scoring logprobs differ by {gap:.1e} nats on average",
        "position ids are missing, attention crosses sequences, the responses are misaligned, or sampling and"
        " scoring do not use the same temperature",
    )


def kl_zero(r: Rollout) -> Check:
    """Before the first update the policy is the reference: the KL is 0."""
    kl = float((r.logprobs - r.ref_logprobs).abs().max())
    return Check(
        "kl at step 0",
        kl == 0,
        f"largest per-token difference {kl:.1e}",
        "the reference is not the policy's starting point, or it is trained or scored in another way",
    )


def ratio_one(nets: Networks, config: PpoConfig, r: Rollout) -> Check:
    """At learning rate 0 the ratio of the first minibatch is 1."""
    from tutelage import ppo

    fresh, _ = ppo.policy_logprobs(nets.lm.top, r.hidden, r.batch, config.temperature)
    gap = float((fresh.detach() - r.logprobs).abs().max())
    return Check(
        "ratio at lr 0",
        gap < (1e-2 if nets.lm.top.head.dtype == torch.bfloat16 else 1e-4),
        f"largest |log ratio| {gap:.1e}",
        "old logprobs are stale, dropout is on, or the temperature is not applied when they are recomputed",
    )


def reward_place(config: PpoConfig, r: Rollout) -> Check:
    """The score lands on the last real token; each token pays its log ratio to the reference.

    Read from the returns that the page computes: where no real token has a value, a reward t tokens ahead is
    worth lambda^t. lambda is 1/2 here, so that returns show what stands in padding (values of 100) too.
    """
    from tutelage import ppo

    plain = replace(config, beta=1.0, gamma=1.0, lam=0.5, whiten_rewards=False)
    zero, mask = torch.zeros_like(r.logprobs), r.batch.mask.long()
    values = zero.masked_fill(mask == 0, 100.0)
    ahead = 0.5 ** (mask.flip(1).cumsum(1).flip(1) - 1)

    def returns(gap: float, score: float) -> Tensor:
        made: dict[str, Any] = {"logprobs": zero + gap, "ref_logprobs": zero, "values": values}
        made |= {"scores": torch.full_like(r.scores, score)}
        return ppo.shape([replace(r, **made)], plain)[0][0].returns

    placed = torch.allclose(returns(0.0, 1.0), ahead * mask)
    above, below = (torch.allclose(returns(gap, 0.0), -gap * (2 - ahead) * mask) for gap in (1.0, -1.0))
    return Check(
        "reward",
        placed and above and below,
        f"score on the last token: {placed}; drift costs: {above}; its opposite pays as much: {below}",
        "the score stands beside the last token, the KL penalty has the wrong sign or is clamped, or padding"
        " leaks into the returns",
    )


@torch.no_grad()
def score_place(nets: Networks, r: Rollout, pairs: Sequence[Pair]) -> Check:
    """The score of a response is read at its own last token, whatever stands around it; so are the values."""
    gaps = []
    for n, (prompt, response) in enumerate(pairs):
        row = torch.tensor([[*prompt, *response]], device=nets.lm.device)
        segments = torch.ones_like(row)
        hidden = nets.lm.lower(row, segments)
        score = nets.reward.read(nets.reward.top(hidden, segments)[:, -1])
        gaps.append(float((score - r.scores[n]).abs()))
        values = nets.value.read(nets.value.top(hidden, segments))[0, -len(response) - 1 : -1]
        gaps.append(float((values - r.values[n, : len(response)]).abs().mean()))
    worst = max(gaps)
    return Check(
        "score and value place",
        worst < (0.25 if nets.lm.top.head.dtype == torch.bfloat16 else 1e-3),
        f"read alone and in the batch they differ by at most {worst:.1e}",
        "the score is read at padding or beside the last token, or values are stale or of other tokens",
    )


def cut_score(nets: Networks, config: PpoConfig, pairs: Sequence[Pair], cut: Tensor) -> Check:
    """A response that did not end by itself gets the fixed score, not the reward model's."""
    from tutelage import ppo

    scores = ppo.score(nets, config, pairs, cut).scores
    wrong = int((scores != config.missing_eos_score).sum())
    return Check(
        "cut responses",
        wrong == 0,
        f"{wrong} of {len(pairs)} got another score than missing_eos_score = {config.missing_eos_score}",
        "responses without an end are scored by the reward model: the policy would learn to run on",
    )


def loss_split(config: PpoConfig, r: Rollout) -> Check:
    """PPO's losses of a minibatch are the sums of its parts' losses over the same count of tokens."""
    from tutelage import ppo

    mask, count = r.batch.mask, r.batch.mask.sum()
    moved, values = r.logprobs + 0.1 * r.logprobs.sin(), r.values + 0.1

    def loss(part: slice) -> float:
        advantages, returns = r.logprobs.cos()[part], r.values[part] - 1
        policy = ppo.policy_loss(moved[part], r.logprobs[part], advantages, mask[part], config.clip, count)
        value = ppo.value_loss(values[part], r.values[part], returns, mask[part], config.value_clip, count)
        return float(policy + value)

    return _same_loss(loss(slice(None)), sum(loss(slice(n, n + 1)) for n in range(len(mask))), 1e-4)


def whitened(config: PpoConfig, rollouts: Sequence[Rollout]) -> Check:
    """Advantages have mean 0 and variance 1 over the whole rollout, not within each minibatch."""
    from tutelage import ppo

    lifted = [replace(r, scores=r.scores + LIFT * n) for n, r in enumerate(rollouts)]
    parts = [r.advantages[r.batch.mask] for r in ppo.shape(lifted, config)[0]]
    apart = abs(float(parts[0].mean() - parts[-1].mean()))
    whole = torch.cat(parts)
    mean, std = float(whole.mean()), float(whole.std(correction=0))
    ok = abs(mean) < 1e-3 and abs(std - 1) < 1e-2 and (len(rollouts) == 1 or apart > 0.1)
    return Check(
        "whitening",
        ok,
        f"mean {mean:+.1e}, deviation {std:.3f}; minibatches {LIFT:.0f} points apart are {apart:.2f} apart after it",
        "advantages are whitened per minibatch or over padding: a good minibatch would look like a bad one",
    )


@torch.no_grad()
def reference_frozen(nets: Networks, config: PpoConfig, pairs: Sequence[Pair], ended: Tensor) -> Check:
    """A step of the policy moves the policy, and neither trunk, reference, reward model nor value network."""
    from tutelage import ppo

    before = ppo.score(nets, config, pairs, ended)
    parameters = [p for p in nets.lm.top.parameters() if p.requires_grad]
    held = [p.clone() for p in parameters]
    noise = torch.Generator().manual_seed(0)
    for p in parameters:
        p.add_(torch.randn(p.shape, generator=noise).to(p) * 0.02)
    after = ppo.score(nets, config, pairs, ended)
    for p, old in zip(parameters, held, strict=True):
        p.copy_(old)
    moved = float((after.logprobs - before.logprobs).abs().max())
    fixed = ("ref_logprobs", "scores", "values")
    still = max(float((getattr(after, f) - getattr(before, f)).abs().max()) for f in fixed)
    return Check(
        "reference frozen",
        moved > 0 and still == 0,
        f"policy moved by {moved:.1e}; reference, scores and values by {still:.1e}",
        "reference, reward model or value network share trainable weights with the policy (often a tied"
        " head or embeddings), or nothing of the policy trains",
    )


def sft_checks(lm: Lm, pairs: Sequence[Pair]) -> list[Check]:
    """All checks of training sequences: ends on all of them, the rest on a few."""
    few = ragged(list(pairs[:4]) * (2 if len(pairs) < 2 else 1))
    batch = pack(few, lm.pad, lm.device)
    checks = [end_token(lm, pairs), response_only(batch, few), padding(lm, few), batch_split(lm, few)]
    return [*checks, one_template(lm)]


def check_policy(lm: Lm, pairs: Sequence[Pair]) -> None:
    """SFT's start: raises UserError naming the failed checks."""
    need(sft_checks(lm, pairs))


def ppo_checks(nets: Networks, config: PpoConfig, prompts: Sequence[list[int]]) -> list[Check]:
    """All of PPO's checks on a few prompts."""
    from tutelage import ppo

    few = list(prompts[:4])
    sampled = ppo.rollout(nets.lm, config, few, "doctor")
    pairs = ragged([(p, ids[m].tolist()) for p, ids, m in zip(few, sampled.ids, sampled.mask, strict=True)])
    ended = torch.ones_like(sampled.ended)  # so that every score is the reward model's
    half = max(1, len(pairs) // 2)
    parts = [part for part in (pairs[:half], pairs[half:]) if part]
    r = ppo.score(nets, config, pairs, ended)
    minibatches = [ppo.score(nets, config, part, ended[: len(part)]) for part in parts]
    checks = [response_only(r.batch, pairs), engine(nets.lm, r, sampled.logprobs, pairs), kl_zero(r)]
    checks += [ratio_one(nets, config, r), reward_place(config, r), score_place(nets, r, pairs)]
    checks += [cut_score(nets, config, pairs, ~ended), loss_split(config, r), whitened(config, minibatches)]
    return [*checks, reference_frozen(nets, config, pairs, ended)]


def check_start(nets: Networks, config: PpoConfig, prompts: Sequence[list[int]]) -> None:
    """PPO's start: raises UserError naming the failed checks."""
    need(ppo_checks(nets, config, prompts))


def warn_end_state(lm: Lm, pairs: Sequence[Pair]) -> None:
    """The reward page's start: one line on stderr where the score would be read at an attention sink."""
    check = end_state(lm, pairs[:8])
    if not check.ok:
        print(f"tutelage: warning: {check.name}: {check.measured}; {check.cause}", file=sys.stderr)


@torch.no_grad()
def check_saved_order(lm: Lm, network: ScalarHead, folder: Path, pairs: Sequence[Pair]) -> None:
    """The reward page's end: raises UserError when the model read back scores responses differently."""
    batch = pack(pairs, lm.pad, lm.device)
    hidden = lm.lower(batch.ids, batch.segments)
    both = (network, load_scalar(folder, lm))
    before, after = (n.read(batch.at_last(n.top(hidden, batch.segments))) for n in both)
    need([same_scores(float((before - after).abs().max()))])


def same_scores(gap: float, limit: float = 1e-2) -> Check:
    """A saved reward model scores as it did before it was saved, up to rounding."""
    return Check(
        "saved order",
        gap < limit,
        f"scores before and after saving differ by at most {gap:.1e}",
        "the head, its shift or its scale was lost or rounded on the way to disk",
    )


def need(checks: Sequence[Check]) -> None:
    """Raise UserError naming the failed checks."""
    failed = [c for c in checks if not c.ok]
    if failed:
        raise UserError("doctor: " + " | ".join(c.line() for c in failed))
