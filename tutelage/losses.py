"""The losses of the paper as pure functions: tensors in, tensors out; no config, no model, no device.

Shape letters: B sequences, R response tokens, K responses of one prompt, N tokens, d hidden size, V vocabulary. A
mask is True where an entry counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 512  # token positions whose (chunk, V) logits exist at one time


def token_logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, *, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """log p(target) and, where asked, the entropy (no gradient) at N positions; both (N,) fp32, in nats.

    hidden (N, d), head (V, d), targets (N,). Logits are made fp32 before the log-softmax and divided by the sampling
    temperature (lm-human-preferences does both). They exist one chunk at a time. With a frozen head, the gradient of
    log p with respect to hidden, (head[target] - softmax @ head) / temperature, is taken in the same pass.
    """
    logprobs, entropies = [], []
    for h, y in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
        if torch.is_grad_enabled() and head.requires_grad:
            logprob, ent = checkpoint(_trained_head, h, head, y, temperature, entropy, use_reentrant=False)
        else:
            logprob, ent = _FrozenHead.apply(h, head, y, temperature, entropy)  # type: ignore[no-untyped-call]
        logprobs.append(logprob)
        entropies.append(ent)
    return torch.cat(logprobs), torch.cat(entropies) if entropy else None


def _trained_head(h: Tensor, head: Tensor, y: Tensor, temperature: float, entropy: bool) -> tuple[Tensor, Tensor]:
    logits = F.linear(h, head).float() / temperature
    total = logits.logsumexp(1)
    logprob = logits.gather(1, y[:, None]).squeeze(1) - total
    with torch.no_grad():
        ent = total - ((logits - total[:, None]).exp() * logits).sum(1) if entropy else logprob.new_zeros(())
    return logprob, ent


class _FrozenHead(torch.autograd.Function):
    """log p(target) whose gradient reaches `hidden` only; saves (N, d) instead of (N, V), and takes one exponential."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, head: Tensor, y: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logits = F.linear(h, head).float()
        if temperature != 1:
            logits.div_(temperature)
        peak = logits.amax(1, keepdim=True)
        picked = (logits.gather(1, y[:, None]) - peak).squeeze(1)
        weights = logits.sub_(peak) if not entropy else logits - peak
        sums = weights.exp_().sum(1)
        spread = sums.log()
        ent = (
            spread + peak.squeeze(1) - torch.einsum("nv,nv->n", weights, logits) / sums
            if entropy
            else sums.new_zeros(())
        )
        if h.requires_grad:
            expected = weights.to(head.dtype) @ head / sums[:, None].to(head.dtype)
            ctx.save_for_backward((head[y] - expected) / temperature)
        ctx.mark_non_differentiable(ent)
        return picked - spread, ent

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0][:, None].to(slope.dtype) * slope, None, None, None, None


def lm_loss(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log-likelihood over the tokens that count, nats per token (paper section 3, L_SFT).

    logprobs (...) and mask (...) of one shape. Normalised by the count over everything given, so the value does not
    depend on how sequences are padded or packed.
    """
    return -(logprobs * mask).sum() / mask.sum()


def ranking_loss(scores: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """The reward model's loss on one prompt: mean over its untied pairs of -log sigmoid(better - worse) (eq. 1).

    scores (K,), one per response of one prompt; pairs of indices (better, worse). Ties are dropped, so the mean is
    over the pairs that remain and each prompt weighs the same whatever its K.
    """
    better, worse = torch.tensor(list(pairs), device=scores.device).unbind(1)
    return -F.logsigmoid(scores[better] - scores[worse]).mean()


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float, count: Tensor
) -> Tensor:
    """PPO's clipped surrogate, summed over response tokens and divided by `count`.

    All (B, R); ratio = exp(logprobs - old_logprobs); loss = max(-A ratio, -A clip(ratio, 1-c, 1+c)) (paper section 3).
    `count` is the number of response tokens of the whole optimiser step, so that splitting changes nothing.
    """
    ratio = (logprobs - old_logprobs).exp()
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return (torch.maximum(unclipped, clipped) * mask).sum() / count


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float, count: Tensor) -> Tensor:
    """0.5 max((V - G)^2, (clip(V, V_old +- c) - G)^2), summed over tokens and divided by `count`; all (B, R)."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    worst = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * (worst * mask).sum() / count
