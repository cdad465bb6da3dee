"""From scores to advantages: by hand, against a naive double loop, and properties of whitening."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.advantages import explained_variance, gae, kl_rewards, line_of_fit, masked_mean, whiten


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def counted(rows: int, width: int, seed: int = 0) -> Tensor:
    lengths = torch.randint(1, width + 1, (rows, 1), generator=torch.Generator().manual_seed(seed))
    return torch.arange(width)[None] < lengths


# ---- kl_rewards --------------------------------------------------------------------------------------------


def test_rewards_by_hand() -> None:
    # beta 0.1; log ratios (1, -2, _) and (0.5, 0.5, 3); the score lands on the last real token:
    #   row 0 (2 tokens): -0.1, +0.2 + 5, 0          row 1 (3 tokens): -0.05, -0.05, -0.3 - 1
    logprobs = torch.tensor([[-1.0, -4.0, 0.0], [-1.0, -1.0, -1.0]])
    reference = torch.tensor([[-2.0, -2.0, 0.0], [-1.5, -1.5, -4.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = kl_rewards(logprobs, reference, torch.tensor([5.0, -1.0]), mask, 0.1)
    expected = torch.tensor([[-0.1, 0.2 + 5, 0.0], [-0.05, -0.05, -0.3 - 1]])
    torch.testing.assert_close(found, expected)


def test_the_score_lands_on_the_last_real_token_and_nowhere_else() -> None:
    mask = counted(16, 9)
    scores = numbers(16, seed=1)
    found = kl_rewards(torch.zeros(16, 9), torch.zeros(16, 9), scores, mask, 0.3)
    for row, keep, score in zip(found, mask, scores, strict=True):
        last = int(keep.sum()) - 1
        assert row.nonzero().flatten().tolist() == [last]
        assert row[last] == score


def test_the_kl_term_is_neither_clamped_nor_absolute() -> None:
    # a token the reference likes better than the policy earns reward: the estimate stays unbiased
    found = kl_rewards(torch.tensor([[-9.0]]), torch.tensor([[-1.0]]), torch.zeros(1), torch.ones(1, 1).bool(), 0.5)
    assert found.item() == pytest.approx(4)


def test_padding_earns_nothing_and_inputs_stay_as_they_were() -> None:
    logprobs, reference, mask = numbers(4, 6), numbers(4, 6, seed=1), counted(4, 6)
    before = logprobs.clone(), reference.clone()
    found = kl_rewards(logprobs, reference, numbers(4, seed=2), mask, 0.1)
    assert (found[~mask] == 0).all()
    torch.testing.assert_close((logprobs, reference), before, rtol=0, atol=0)


def test_the_sum_of_rewards_is_the_score_minus_beta_times_the_kl() -> None:
    logprobs, reference, mask = numbers(5, 7), numbers(5, 7, seed=1), counted(5, 7)
    scores = numbers(5, seed=2)
    kl = ((logprobs - reference) * mask).sum(1)
    found = kl_rewards(logprobs, reference, scores, mask, 0.02).sum(1)
    torch.testing.assert_close(found, scores - 0.02 * kl)


# ---- gae ---------------------------------------------------------------------------------------------------


def test_gae_by_hand() -> None:
    # two tokens, rewards (0, 1), values (0.5, 0.25), gamma 0.5, lambda 0.5; nothing after the last token:
    #   delta_1 = 1 - 0.25 = 0.75                    A_1 = 0.75                        G_1 = 1
    #   delta_0 = 0 + 0.5 * 0.25 - 0.5 = -0.375      A_0 = -0.375 + 0.25 * 0.75 = -0.1875
    #                                                                                  G_0 = 0.3125
    rewards, values = torch.tensor([[0.0, 1.0, 7.0]]), torch.tensor([[0.5, 0.25, 9.0]])
    mask = torch.tensor([[True, True, False]])
    advantages, returns = gae(rewards, values, mask, 0.5, 0.5)
    assert advantages[0].tolist() == pytest.approx([-0.1875, 0.75, 0])
    assert returns[0].tolist() == pytest.approx([0.3125, 1, 0])


def naive(rewards: Tensor, values: Tensor, length: int, gamma: float, lam: float) -> list[float]:
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, by a double loop over one row's real tokens."""
    v = [*values[:length].tolist(), 0.0]
    deltas = [float(rewards[t]) + gamma * v[t + 1] - v[t] for t in range(length)]
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(length - t)) for t in range(length)]


@given(seed=st.integers(0, 999), gamma=st.floats(0, 1), lam=st.floats(0, 1))
@settings(max_examples=50)
def test_gae_is_the_naive_double_sum(seed: int, gamma: float, lam: float) -> None:
    rewards, values, mask = numbers(4, 8, seed=seed), numbers(4, 8, seed=seed + 1), counted(4, 8, seed)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row in range(4):
        length = int(mask[row].sum())
        expected = naive(rewards[row], values[row], length, gamma, lam)
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-5)
        worth = [a + v for a, v in zip(expected, values[row].tolist(), strict=False)]
        assert returns[row, :length].tolist() == pytest.approx(worth, abs=1e-5)
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


def test_lambda_one_gives_the_rest_of_the_rewards_and_lambda_zero_one_step() -> None:
    rewards, values, mask = numbers(3, 6), numbers(3, 6, seed=1), counted(3, 6)
    _, returns = gae(rewards, values, mask, 1.0, 1.0)
    rest = (rewards * mask).flip(1).cumsum(1).flip(1) * mask
    torch.testing.assert_close(returns, rest, rtol=1e-5, atol=1e-5)
    advantages, _ = gae(rewards, values, mask, 1.0, 0.0)
    following = torch.nn.functional.pad((values * mask)[:, 1:], (0, 1))
    torch.testing.assert_close(advantages, (rewards + following - values) * mask)


def test_values_of_padding_are_never_bootstrapped_from() -> None:
    rewards, values, mask = numbers(4, 8), numbers(4, 8, seed=1), counted(4, 8)
    wild = torch.where(mask, values, 1e6)
    found = gae(torch.where(mask, rewards, -1e6), wild, mask, 0.9, 0.95)
    torch.testing.assert_close(found, gae(rewards, values, mask, 0.9, 0.95))
    wider = [torch.nn.functional.pad(x, (0, 3)) for x in (rewards, values, mask)]
    torch.testing.assert_close(gae(*wider, 0.9, 0.95)[0][:, :8], found[0])


# ---- whitening and means -----------------------------------------------------------------------------------


def test_whiten_by_hand() -> None:
    # 1, 2, 3, 6 count: mean 3, population variance (4 + 1 + 0 + 9) / 4 = 3.5; the 99 does not
    x, mask = torch.tensor([[1.0, 2.0, 3.0], [6.0, 99.0, 99.0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    root = 3.5**0.5
    found = whiten(x, mask, shift_mean=True)
    assert found.flatten().tolist() == pytest.approx([-2 / root, -1 / root, 0, 3 / root, 0, 0])
    kept = whiten(x, mask, shift_mean=False)  # the mean of 3 is added back, to real tokens only
    assert kept.flatten().tolist() == pytest.approx([3 - 2 / root, 3 - 1 / root, 3, 3 + 3 / root, 0, 0])


@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100), shift=st.floats(-50, 50))
@settings(max_examples=50)
def test_whitened_mean_and_variance_over_the_real_tokens_only(seed: int, scale: float, shift: float) -> None:
    mask = counted(6, 9, seed)
    x = torch.where(mask, scale * numbers(6, 9, seed=seed) + shift, 1e4)
    found = whiten(x, mask, shift_mean=True)
    assert (found[~mask] == 0).all()
    real = found[mask].double()
    assert real.mean().item() == pytest.approx(0, abs=5e-3)
    assert real.var(correction=0).item() == pytest.approx(1, abs=1e-2)
    kept = whiten(x, mask, shift_mean=False)[mask].double()
    assert kept.mean().item() == pytest.approx(x[mask].double().mean().item(), abs=1e-2)


def test_equal_values_whiten_to_zero_and_not_to_nan() -> None:
    found = whiten(torch.full((2, 3), 4.0), torch.ones(2, 3).bool(), shift_mean=True)
    assert found.abs().max() < 1e-3


def test_masked_mean_by_hand() -> None:
    x, mask = torch.tensor([[1.0, 5.0], [100.0, 3.0]]), torch.tensor([[True, True], [False, True]])
    assert masked_mean(x, mask).item() == pytest.approx(3)


def test_explained_variance_by_hand() -> None:
    # returns 0, 2, 4: mean 2, variance 8/3; estimates off by 1 each: 1 - 1 / (8/3) = 5/8
    returns, mask = torch.tensor([[0.0, 2.0, 4.0, 50.0]]), torch.tensor([[True, True, True, False]])
    assert explained_variance(returns + 1, returns, mask).item() == pytest.approx(5 / 8)
    assert explained_variance(returns, returns, mask).item() == pytest.approx(1)
    assert explained_variance(torch.full((1, 4), 2.0), returns, mask).item() == pytest.approx(0)
    assert torch.isfinite(explained_variance(torch.zeros(1, 4), torch.ones(1, 4), mask))


def test_a_line_is_fitted_to_what_counts_with_its_slope_kept_in_bounds() -> None:
    x, y = torch.tensor([[1.0, 2.0, 3.0], [4.0, 99.0, 99.0]]), torch.tensor([[2.5, 3.0, 3.5], [4.0, -7.0, 7.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    slope, shift = line_of_fit(x, y, mask, 0.2, 1.0)
    assert (slope.item(), shift.item()) == pytest.approx((0.5, 2.0))
    slope, shift = line_of_fit(x, -y, mask, 0.2, 1.0)  # falling: the flattest line that is allowed, through the means
    assert (slope.item(), shift.item()) == pytest.approx((0.2, -3.25 - 0.2 * 2.5))
    slope, shift = line_of_fit(x, 10 * y, mask, 0.2, 1.0)
    assert (slope.item(), shift.item()) == pytest.approx((1.0, 32.5 - 2.5))
