"""Self-checks that name the cause. In brief at each page's start; in full as `tutelage doctor RUN`.

PPO fails silently: a score one token late or a reference that moves still trains, only to something else. Each check
here runs the page's own functions on a few real sequences, compares with what must hold, and says what is usually
wrong when it does not. Sources: docs/paper.md and the public trackers of RLHF systems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tutelage.advantages import kl_rewards
from tutelage.data.batches import pack
from tutelage.losses import lm_loss, token_logprobs
from tutelage.model import Lm, ScalarHead, load_scalar
from tutelage.records import UserError
from tutelage.template import prompt_ids, response_ids, response_text

if TYPE_CHECKING:
    from tutelage.ppo import Networks, Rollout
    from tutelage.settings import PpoConfig

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
        return f"{'ok  ' if self.ok else 'FAIL'} {self.name}: {self.measured}" + ("" if self.ok else f"; {self.cause}")


def tolerance(lm: Lm) -> float:
    """How far two computations of one logprob may lie apart on average, nats: rounding, not error."""
    return 0.05 if lm.top.head.dtype == torch.bfloat16 else 1e-3


# ---- what any trained sequence must satisfy --------------------------------------------------------------------------


def end_token(lm: Lm, pairs: Sequence[Pair]) -> Check:
    """Each written response ends with the end token, once, and that token counts in the loss."""
    batch = pack(pairs, lm.pad, lm.device)
    last = batch.targets.gather(1, batch.mask.long().sum(1, keepdim=True) - 1).squeeze(1)
    closed = int((last == lm.eos).sum())
    inside = sum(r[:-1].count(lm.eos) for _, r in pairs)
    ok = closed == len(pairs) and inside == 0 and lm.pad != lm.eos
    return Check(
        "end token",
        ok,
        f"{closed} of {len(pairs)} demonstrations end with it, {inside} hold it earlier, padding is {lm.pad}, end is {lm.eos}",
        "the end token is missing, masked away or used as padding: the policy would never learn to stop",
    )


def response_only(lm: Lm, pairs: Sequence[Pair]) -> Check:
    """What the loss counts is the responses, token for token, and nothing of the prompts."""
    batch = pack(pairs, lm.pad, lm.device)
    wanted = [t for _, r in pairs for t in r]
    found = batch.targets[batch.mask].tolist()
    follows = batch.ids.flatten()[batch.where[batch.mask] + 1].tolist()
    return Check(
        "response only",
        wanted == found == follows,
        f"{len(found)} tokens counted, {len(wanted)} response tokens",
        "prompt tokens or padding are in the loss, or the targets are shifted against the states that predict them",
    )


@torch.no_grad()
def padding(lm: Lm, pairs: Sequence[Pair]) -> Check:
    """A sequence has the same logprobs alone as packed or padded among others."""
    alone = torch.cat([_logprobs(lm, [p]) for p in pairs])
    together = _logprobs(lm, pairs)
    gap = float((alone - together).abs().mean())
    return Check(
        "padding",
        gap < tolerance(lm),
        f"logprobs alone and packed differ by {gap:.1e} nats on average",
        "position ids do not restart at each sequence, or attention reaches padding or a neighbour",
    )


@torch.no_grad()
def batch_split(lm: Lm, pairs: Sequence[Pair]) -> Check:
    """The loss of a batch is the token-weighted mean of its parts' losses."""
    half = len(pairs) // 2
    whole, parts = pack(pairs, lm.pad, lm.device), (pairs[:half], pairs[half:])
    joint = float(lm_loss(whole.spread(_logprobs(lm, pairs)), whole.mask))
    total, count = 0.0, 0
    for part in parts:
        batch = pack(part, lm.pad, lm.device)
        tokens = int(batch.mask.sum())
        total += float(lm_loss(batch.spread(_logprobs(lm, part)), batch.mask)) * tokens
        count += tokens
    gap = abs(joint - total / count)
    return Check(
        "batch split",
        gap < tolerance(lm),
        f"loss of the batch and of its halves differ by {gap:.1e}",
        "the loss is normalised per row or counts padding: results would depend on how a batch is split",
    )


def one_template(lm: Lm) -> Check:
    """A prompt's ids do not depend on what follows, and a response survives encoding and decoding."""
    prompt, response = "Where is my order?", "Please send us the order number, and we will look for it."
    ids = response_ids(lm.tokenizer, response)
    same = response_text(lm.tokenizer, ids) == response and prompt_ids(lm.tokenizer, prompt + " ") == prompt_ids(
        lm.tokenizer, prompt
    )
    return Check(
        "template",
        same,
        "a response encodes and decodes to itself" if same else f"{response!r} came back as {response_text(lm.tokenizer, ids)!r}",
        "the tokenizer changes text on the way: policy and reward model would see different prompts",
    )


def _logprobs(lm: Lm, pairs: Sequence[Pair]) -> Tensor:
    batch = pack(pairs, lm.pad, lm.device)
    hidden = lm.top(lm.lower(batch.ids, batch.segments), batch.segments)
    return token_logprobs(batch.at(hidden), lm.top.head, batch.targets[batch.mask])[0]


# ---- what PPO must satisfy before its first step ---------------------------------------------------------------------


def engine(nets: Networks, config: PpoConfig, prompts: Sequence[list[int]]) -> Check:
    """The logprobs that the decode engine sampled with are those that the trainer computes."""
    from tutelage import ppo

    sampled = ppo.rollout(nets.lm, config, prompts, "doctor")
    pairs = [(p, ids[m].tolist()) for p, ids, m in zip(prompts, sampled.ids, sampled.mask, strict=True)]
    r = ppo.score(nets, config, pairs, sampled.ended)
    width = r.batch.mask.shape[1]
    gap = float(((r.logprobs - sampled.logprobs[:, :width]) * r.batch.mask).abs().sum() / r.batch.mask.sum())
    return Check(
        "engine",
        gap < 2 * tolerance(nets.lm),
        f"sampling and scoring logprobs differ by {gap:.1e} nats on average",
        "position ids are missing, the temperature is applied in one of the two only, or the responses are misaligned",
    )


def kl_zero(nets: Networks, config: PpoConfig, r: Rollout) -> Check:
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
        "old logprobs are stale, dropout is on, or the temperature is not applied when logprobs are recomputed",
    )


def reward_place(nets: Networks, config: PpoConfig, r: Rollout) -> Check:
    """The score lands on the last real token; the KL penalty lowers the reward of likelier-than-reference tokens."""
    zero = torch.zeros_like(r.logprobs)
    marked = kl_rewards(zero, zero, torch.ones_like(r.scores), r.batch.mask, config.beta)
    last = r.batch.mask.long().sum(1) - 1
    placed = bool((marked.gather(1, last[:, None]) == 1).all()) and float(marked.sum()) == len(last)
    above = kl_rewards(zero + 1.0, zero, torch.zeros_like(r.scores), r.batch.mask, 1.0)
    signed = bool((above[r.batch.mask] == -1).all())
    return Check(
        "reward",
        placed and signed,
        f"score on the last token: {placed}; penalty has the right sign: {signed}",
        "the score is placed beside the end token, or the KL penalty rewards drifting from the reference",
    )


@torch.no_grad()
def score_place(nets: Networks, config: PpoConfig, r: Rollout) -> Check:
    """The score of a response is read at its own last token, whatever stands around it; so are the values."""
    gaps = []
    for n in range(min(4, len(r.scores))):
        row, segments = _single(r, n)
        hidden = nets.lm.lower(row, segments)
        alone = nets.reward.read(nets.reward.top(hidden, segments)[:, -1])
        if bool(r.ended[n]):
            gaps.append(float((alone - r.scores[n]).abs()))
        length = int(r.batch.mask[n].sum())
        values = nets.value.read(nets.value.top(hidden, segments))[0, -length - 1 : -1]
        gaps.append(float((values - r.values[n, :length]).abs().mean()))
    worst = max(gaps)
    limit = 0.25 if nets.lm.top.head.dtype == torch.bfloat16 else 1e-3
    return Check(
        "score and value place",
        worst < limit,
        f"read alone and in the batch they differ by at most {worst:.1e}",
        "the score is read at padding or one token late, or values belong to other tokens than their returns (stale)",
    )


def _single(r: Rollout, n: int) -> tuple[Tensor, Tensor]:
    """The n-th sequence of a packed batch in a row of its own."""
    flat_ids, flat_segments = r.batch.ids.flatten(), r.batch.segments
    row, column = divmod(int(r.batch.last[n]), flat_segments.shape[1])
    inside = flat_segments[row] == flat_segments[row, column]
    ids = flat_ids.view_as(flat_segments)[row][inside][None]
    return ids, torch.ones_like(ids)


def whitened(nets: Networks, config: PpoConfig, rollouts: Sequence[Rollout]) -> Check:
    """Advantages have mean 0 and variance 1 over the whole rollout, not within each minibatch."""
    from tutelage import ppo

    lifted = [replace(r, scores=r.scores + 5.0 * n) for n, r in enumerate(rollouts)]
    shaped, _ = ppo.shape(lifted, config)
    values = torch.cat([r.advantages[r.batch.mask] for r in shaped])
    apart = abs(float(shaped[0].advantages[shaped[0].batch.mask].mean() - shaped[-1].advantages[shaped[-1].batch.mask].mean()))
    mean, std = float(values.mean()), float(values.std(correction=0))
    ok = abs(mean) < 1e-3 and abs(std - 1) < 1e-2 and (len(rollouts) == 1 or apart > 0.1)
    return Check(
        "whitening",
        ok,
        f"mean {mean:+.1e}, deviation {std:.3f}; minibatches that differ by 5 score points differ by {apart:.2f} after it",
        "advantages are whitened per minibatch or over padding: a good minibatch would look like a bad one",
    )


def reference_frozen(nets: Networks, config: PpoConfig, r: Rollout) -> Check:
    """A step of the policy moves the policy, and neither reference nor trunk nor reward model."""
    from tutelage import ppo

    before = ppo.score(nets, config, _pairs(r), r.ended)
    parameters = [p for p in nets.lm.top.parameters() if p.requires_grad]
    held = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p in parameters:
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)).to(p) * 0.02)
        after = ppo.score(nets, config, _pairs(r), r.ended)
        for p, old in zip(parameters, held, strict=True):
            p.copy_(old)
    moved = float((after.logprobs - before.logprobs).abs().max())
    still = float((after.ref_logprobs - before.ref_logprobs).abs().max()) + float((after.scores - before.scores).abs().max())
    still += float((after.values - before.values).abs().max())
    return Check(
        "reference frozen",
        moved > 0 and still == 0,
        f"policy moved by {moved:.1e}, reference, scores and values by {still:.1e}",
        "reference, reward model or value network share trainable weights with the policy (embeddings or tied head, often)",
    )


def _pairs(r: Rollout) -> list[Pair]:
    pairs = []
    for n in range(len(r.scores)):
        ids, _ = _single(r, n)
        length = int(r.batch.mask[n].sum())
        row = ids[0].tolist()
        pairs.append((row[:-length], row[-length:]))
    return pairs


# ---- at the pages' doors ---------------------------------------------------------------------------------------------


def check_policy(lm: Lm, pairs: Sequence[Pair]) -> None:
    """SFT's start: raises UserError naming the first failed check."""
    few = list(pairs[:4]) * (2 if len(pairs) < 2 else 1)
    need([end_token(lm, pairs), response_only(lm, few), padding(lm, few), batch_split(lm, few), one_template(lm)])


def ppo_checks(nets: Networks, config: PpoConfig, prompts: Sequence[list[int]]) -> list[Check]:
    """All of PPO's checks on a few prompts."""
    from tutelage import ppo

    few = list(prompts[:4])
    sampled = ppo.rollout(nets.lm, config, few, "doctor")
    pairs = [(p, ids[m].tolist()) for p, ids, m in zip(few, sampled.ids, sampled.mask, strict=True)]
    half = max(1, len(pairs) // 2)
    rollouts = [ppo.score(nets, config, pairs[:half], sampled.ended[:half])]
    if pairs[half:]:
        rollouts.append(ppo.score(nets, config, pairs[half:], sampled.ended[half:]))
    single: list[Callable[[Networks, PpoConfig, Rollout], Check]] = [kl_zero, ratio_one, reward_place, score_place]
    checks = [engine(nets, config, few), *(check(nets, config, rollouts[0]) for check in single)]
    return [*checks, whitened(nets, config, rollouts), reference_frozen(nets, config, rollouts[0])]


def check_start(nets: Networks, config: PpoConfig, prompts: Sequence[list[int]]) -> None:
    """PPO's start: raises UserError naming the first failed check."""
    need(ppo_checks(nets, config, prompts))


@torch.no_grad()
def saved_order(lm: Lm, network: ScalarHead, folder: Path, pairs: Sequence[Pair]) -> Check:
    """A reward model read back from its folder orders responses as it did before."""
    batch = pack(pairs, lm.pad, lm.device)
    hidden = lm.lower(batch.ids, batch.segments)
    again = load_scalar(folder, lm)
    before, after = (n.read(batch.at_last(n.top(hidden, batch.segments))) for n in (network, again))
    gap = float((before - after).abs().max())
    return Check(
        "saved order",
        gap < 1e-2,
        f"scores before and after saving differ by at most {gap:.1e}",
        "the head, its shift or its scale was lost or rounded on the way to disk",
    )


def check_saved_order(lm: Lm, network: ScalarHead, folder: Path, pairs: Sequence[Pair]) -> None:
    """The reward page's end: raises UserError when the saved model is another one."""
    need([saved_order(lm, network, folder, pairs)])


def need(checks: Sequence[Check]) -> None:
    """Raise UserError naming the failed checks."""
    failed = [c for c in checks if not c.ok]
    if failed:
        raise UserError("doctor: " + " | ".join(c.line() for c in failed))
