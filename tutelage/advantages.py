"""From scores to advantages: the arithmetic between the reward model and PPO's loss, as pure functions.

All tensors are (B, R), right-padded responses; `mask` is True where a response token counts (the end token
included). Values are the estimates *before* each token. Sources: the paper's section 3 and lm-human-preferences.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_rewards(logprobs: Tensor, ref_logprobs: Tensor, scores: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Per-token reward: -beta (logp - logp_ref), plus the score (B,) on each response's last real token.

    The difference is used as it is, neither clamped nor made absolute: both would bias the KL estimate.
    """
    rewards = -beta * (logprobs - ref_logprobs) * mask
    last = mask.long().sum(1) - 1
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation; returns (advantages, returns), both zero where the mask is False.

    delta_t = r_t + gamma V_{t+1} - V_t with V = 0 after the last token; A_t = delta_t + gamma lam A_{t+1};
    returns = A + V.
    """
    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(following)
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        advantages[:, t] = following
        next_value = values[:, t]
    return advantages, (advantages + values) * mask


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) over all entries that count; the mean is added back unless `shift_mean`.

    Population variance, over the whole batch and the real tokens only. Advantages shift, rewards do not (which
    would change what the end of a response is worth).
    """
    count = mask.sum()
    mean = (x * mask).sum() / count
    var = ((x - mean) ** 2 * mask).sum() / count
    scaled = (x - mean) * torch.rsqrt(var + 1e-8)
    return (scaled if shift_mean else scaled + mean) * mask


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of the entries that count."""
    return (x * mask).sum() / mask.sum()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - mean squared error / variance of the returns: 1 is perfect, 0 is no better than their mean."""
    error = masked_mean((returns - values) ** 2, mask)
    spread = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    return 1 - error / spread.clamp_min(1e-8)


def line_of_fit(x: Tensor, y: Tensor, mask: Tensor, lowest: float, highest: float) -> tuple[Tensor, Tensor]:
    """Least-squares (slope, shift) of y ~ slope x + shift over what counts, the slope kept in [lowest, highest]."""
    mean_x, mean_y = masked_mean(x, mask), masked_mean(y, mask)
    variance = masked_mean((x - mean_x) ** 2, mask).clamp_min(1e-8)
    slope = (masked_mean((x - mean_x) * (y - mean_y), mask) / variance).clamp(lowest, highest)
    return slope, mean_y - slope * mean_x
