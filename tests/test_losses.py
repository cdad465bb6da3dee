"""The paper's losses against numbers worked by hand and against plain autograd."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.losses import CHUNK, lm_loss, policy_loss, ranking_loss, token_logprobs, value_loss

LN2, LN3 = math.log(2), math.log(3)
TOKENS = CHUNK + 37  # more than one chunk, the last one ragged
WIDTH, VOCABULARY = 7, 19


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def counted(rows: int, width: int, seed: int = 0) -> Tensor:
    """A mask of right-padded rows, each with at least one token."""
    lengths = torch.randint(1, width + 1, (rows, 1), generator=torch.Generator().manual_seed(seed))
    return torch.arange(width)[None] < lengths


# ---- token_logprobs ----------------------------------------------------------------------------------------


def test_logprobs_by_hand() -> None:
    # head = identity, so the logits are the hidden state: softmax(0, ln 3) = (1/4, 3/4);
    # at temperature 2 the logits halve: softmax(0, ln 3 / 2) = (1, sqrt 3) / (1 + sqrt 3)
    hidden, head = torch.tensor([[0.0, LN3], [0.0, LN3]]), torch.eye(2)
    targets = torch.tensor([0, 1])
    found, entropy = token_logprobs(hidden, head, targets, entropy=True)
    assert found.tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4)])
    assert entropy is not None
    expected = -(1 / 4 * math.log(1 / 4) + 3 / 4 * math.log(3 / 4))
    assert entropy.tolist() == pytest.approx([expected, expected])
    warm, none = token_logprobs(hidden, head, targets, temperature=2.0)
    total = 1 + math.sqrt(3)
    assert warm.tolist() == pytest.approx([math.log(1 / total), math.log(math.sqrt(3) / total)])
    assert none is None


def plain(hidden: Tensor, head: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits = hidden @ head.T / temperature
    logp = logits.log_softmax(1)
    return logp.gather(1, targets[:, None]).squeeze(1), -(logp.exp() * logp).sum(1)


@pytest.mark.parametrize("trained", [True, False], ids=["head trains", "head frozen"])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
@pytest.mark.parametrize("entropy", [True, False])
def test_logprobs_and_gradients_are_those_of_autograd(trained: bool, temperature: float, entropy: bool) -> None:
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(1))
    weights = numbers(TOKENS, seed=2)  # a different upstream gradient at every token
    results = []
    for exact in (False, True):  # ours in fp32, plain autograd in fp64
        hidden = numbers(TOKENS, WIDTH, seed=3).to(torch.float64 if exact else torch.float32).requires_grad_(True)
        head = numbers(VOCABULARY, WIDTH, seed=4).to(hidden.dtype).requires_grad_(trained)
        if exact:
            found, ent = plain(hidden, head, targets, temperature)
        else:
            found, ent = token_logprobs(hidden, head, targets, temperature=temperature, entropy=entropy)
        (found * weights).sum().backward()
        results.append([None if t is None else t.detach().double() for t in (found, ent, hidden.grad, head.grad)])
        if not exact and ent is not None:
            assert not ent.requires_grad
    (ours, our_entropy, our_slope, our_head), (theirs, their_entropy, their_slope, their_head) = results
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_slope, their_slope, rtol=1e-5, atol=1e-5)
    if trained:  # sums over all tokens
        torch.testing.assert_close(our_head, their_head, rtol=1e-5, atol=1e-4)
    else:
        assert our_head is None
    if entropy:
        torch.testing.assert_close(our_entropy, their_entropy, rtol=1e-5, atol=1e-5)
    else:
        assert our_entropy is None


def test_the_frozen_heads_gradient_passes_gradcheck() -> None:
    hidden = numbers(5, 3, seed=5).double().requires_grad_(True)
    head, targets = numbers(11, 3, seed=6).double(), torch.tensor([0, 10, 3, 3, 7])

    def function(h: Tensor) -> Tensor:
        return token_logprobs(h, head, targets, temperature=0.6)[0]

    # the logits are made fp32 inside: the steps must be coarse and so must the comparison
    assert torch.autograd.gradcheck(function, (hidden,), eps=1e-2, atol=1e-2, rtol=1e-2)


def test_no_gradient_costs_nothing_and_changes_nothing() -> None:
    hidden, head = numbers(9, WIDTH), numbers(VOCABULARY, WIDTH, seed=1)
    targets = torch.arange(9)
    with torch.no_grad():
        found, _ = token_logprobs(hidden, head.requires_grad_(True), targets)
    assert not found.requires_grad
    torch.testing.assert_close(found, plain(hidden, head.detach(), targets, 1.0)[0])


def test_bf16_logits_are_made_fp32_before_the_softmax() -> None:
    hidden, head = numbers(64, 32).bfloat16(), numbers(500, 32, seed=1).bfloat16()
    targets = torch.arange(64)
    found, _ = token_logprobs(hidden, head, targets)
    assert found.dtype == torch.float32
    logits = hidden @ head.T
    torch.testing.assert_close(found, logits.float().log_softmax(1)[torch.arange(64), targets])
    rough = logits.log_softmax(1)[torch.arange(64), targets].float()
    assert (found - rough).abs().max() > 1e-3  # what a bf16 softmax would have lost


def test_no_tokens_give_no_logprobs() -> None:
    found, entropy = token_logprobs(numbers(0, 4), numbers(5, 4), torch.zeros(0, dtype=torch.long), entropy=True)
    assert found.shape == (0,)
    assert entropy is not None
    assert entropy.shape == (0,)


# ---- lm_loss -----------------------------------------------------------------------------------------------


def test_lm_loss_by_hand() -> None:
    # three tokens count: -(ln 1/2 + ln 1/4 + ln 1/8) / 3 = (1 + 2 + 3) ln 2 / 3 = 2 ln 2
    logprobs = torch.tensor([[-LN2, -2 * LN2], [-3 * LN2, -99.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert lm_loss(logprobs, mask).item() == pytest.approx(2 * LN2)


@given(cut=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_lm_loss_of_a_batch_is_the_token_weighted_mean_of_its_parts(cut: int, seed: int) -> None:
    logprobs, mask = -numbers(6, 9, seed=seed).abs(), counted(6, 9, seed)
    total = sum(lm_loss(logprobs[p], mask[p]) * mask[p].sum() for p in (slice(cut), slice(cut, None)))
    assert (total / mask.sum()).item() == pytest.approx(lm_loss(logprobs, mask).item(), rel=1e-5)
    wider = torch.nn.functional.pad(logprobs, (0, 4)), torch.nn.functional.pad(mask, (0, 4))
    assert lm_loss(*wider).item() == pytest.approx(lm_loss(logprobs, mask).item(), rel=1e-6)


# ---- ranking_loss ------------------------------------------------------------------------------------------


def test_ranking_loss_by_hand() -> None:
    # scores (ln 3, 0, 0); pairs (0, 1) and (0, 2): sigmoid(ln 3) = 3/4 each; pair (1, 2): sigmoid(0) = 1/2
    scores = torch.tensor([LN3, 0.0, 0.0])
    expected = -(2 * math.log(3 / 4) + math.log(1 / 2)) / 3
    assert ranking_loss(scores, [(0, 1), (0, 2), (1, 2)]).item() == pytest.approx(expected)
    # the pair the wrong way round: sigmoid(-ln 3) = 1/4
    assert ranking_loss(scores, [(1, 0)]).item() == pytest.approx(-math.log(1 / 4))


def test_ranking_loss_gradient_by_hand() -> None:
    # d/dx -log sigmoid(x) = -(1 - sigmoid(x)): at ln 3 it is -1/4 for the better and +1/4 for the worse
    scores = torch.tensor([LN3, 0.0], requires_grad=True)
    ranking_loss(scores, [(0, 1)]).backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-0.25, 0.25])


def pairs_of(ranks: list[int]) -> list[tuple[int, int]]:
    return [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]


def test_tied_responses_permute_freely() -> None:
    ranks, scores = [1, 2, 2, 2, 3], [0.9, -0.3, 0.4, 1.2, -2.0]
    losses = []
    for order in permutations((1, 2, 3)):
        swapped = [scores[0], *(scores[i] for i in order), scores[4]]
        losses.append(ranking_loss(torch.tensor(swapped), pairs_of(ranks)).item())
    assert losses == pytest.approx([losses[0]] * 6)


def test_every_prompt_weighs_the_same_whatever_its_k() -> None:
    # equal scores: every pair costs ln 2, and so does the prompt, with 1 pair or with 36
    for k in (2, 4, 9):
        pairs = pairs_of(list(range(k)))
        assert len(pairs) == k * (k - 1) // 2
        assert ranking_loss(torch.zeros(k), pairs).item() == pytest.approx(LN2)


def test_only_differences_of_scores_matter() -> None:
    scores, pairs = numbers(6), pairs_of([1, 2, 3, 3, 4, 5])
    moved = ranking_loss(scores + 17, pairs).item()
    assert moved == pytest.approx(ranking_loss(scores, pairs).item(), rel=1e-4)


def test_a_huge_difference_stays_finite() -> None:
    scores = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = ranking_loss(scores, [(0, 1)])
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert torch.isfinite(scores.grad).all()


# ---- policy_loss -------------------------------------------------------------------------------------------


def test_policy_loss_by_hand() -> None:
    # clip 0.2; (A, ratio) -> max(-A r, -A clip(r, 0.8, 1.2)):
    #   (+1, 1.5): max(-1.5, -1.2) = -1.2   a good token already more likely: no more credit
    #   (-1, 1.5): max( 1.5,  1.2) =  1.5   a bad token made likelier: full cost
    #   (+1, 0.5): max(-0.5, -0.8) = -0.5   a good token made less likely: full cost
    #   (-2, 0.5): max( 1.0,  1.6) =  1.6   a bad token already less likely: no more credit
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -2.0]])
    old = torch.tensor([[-1.0, -2.0, -3.0, -4.0]])
    new = (old + ratio.log()).requires_grad_(True)
    mask, count = torch.ones(1, 4, dtype=torch.bool), torch.tensor(4)
    loss = policy_loss(new, old, advantages, mask, 0.2, count)
    assert loss.item() == pytest.approx((-1.2 + 1.5 - 0.5 + 1.6) / 4)
    loss.backward()
    # gradient -A ratio / count where the unclipped term is the larger, else none
    assert new.grad is not None
    assert new.grad[0].tolist() == pytest.approx([0, 1.5 / 4, -0.5 / 4, 0])


def test_policy_gradient_at_ratio_one_is_minus_advantage_over_count() -> None:
    old, advantages, mask = numbers(4, 6) - 3, numbers(4, 6, seed=1), counted(4, 6)
    new = old.clone().requires_grad_(True)
    count = mask.sum()
    loss = policy_loss(new, old, advantages, mask, 0.2, count)
    assert loss.item() == pytest.approx((-(advantages * mask).sum() / count).item(), rel=1e-5)
    loss.backward()
    torch.testing.assert_close(new.grad, -advantages * mask / count)


@given(cut=st.integers(1, 7), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_splitting_a_minibatch_changes_no_ppo_loss(cut: int, seed: int) -> None:
    old, advantages, mask = numbers(8, 5, seed=seed) - 3, numbers(8, 5, seed=seed + 1), counted(8, 5, seed)
    new, count = old + 0.3 * numbers(8, 5, seed=seed + 2), mask.sum()
    for loss, clip in ((policy_loss, 0.2), (value_loss, 0.2)):
        whole = loss(new, old, advantages, mask, clip, count)
        parts = [loss(new[p], old[p], advantages[p], mask[p], clip, count) for p in (slice(cut), slice(cut, None))]
        torch.testing.assert_close(sum(parts), whole, rtol=1e-5, atol=1e-6)


def test_what_the_mask_hides_cannot_matter() -> None:
    old, advantages, mask = numbers(3, 5) - 3, numbers(3, 5, seed=1), counted(3, 5)
    new = old + 0.1
    expected = policy_loss(new, old, advantages, mask, 0.2, mask.sum())
    wild = torch.where(mask, new, 3.0), torch.where(mask, old, -2.0), torch.where(mask, advantages, 1e3)
    torch.testing.assert_close(policy_loss(*wild, mask, 0.2, mask.sum()), expected)
    torch.testing.assert_close(
        value_loss(*wild, mask, 0.2, mask.sum()), value_loss(new, old, advantages, mask, 0.2, mask.sum())
    )


# ---- value_loss --------------------------------------------------------------------------------------------


def test_value_loss_by_hand() -> None:
    # V_old 0, clip 0.2, so clip(V) is V kept within +-0.2; 0.5 max((V - G)^2, (clip(V) - G)^2):
    #   V 0.1, G 1:  0.81 both                    -> 0.405    inside the range: plain squared error
    #   V 1,   G 1:  max(0,    0.64)              -> 0.32     jumped there: the clipped value is judged
    #   V -1,  G 1:  max(4,    1.44)              -> 2        jumped away: the full error
    values = torch.tensor([[0.1, 1.0, -1.0]], requires_grad=True)
    old, returns = torch.zeros(1, 3), torch.ones(1, 3)
    loss = value_loss(values, old, returns, torch.ones(1, 3, dtype=torch.bool), 0.2, torch.tensor(3))
    assert loss.item() == pytest.approx((0.405 + 0.32 + 2) / 3)
    loss.backward()
    # (V - G) / count inside, nothing where the clip decides, (V - G) / count where the error grew
    assert values.grad is not None
    assert values.grad[0].tolist() == pytest.approx([-0.9 / 3, 0, -2 / 3])


def test_without_movement_the_value_loss_is_half_the_squared_error() -> None:
    values, returns, mask = numbers(4, 6), numbers(4, 6, seed=1), counted(4, 6)
    expected = 0.5 * ((values - returns) ** 2)[mask].mean()
    torch.testing.assert_close(value_loss(values, values, returns, mask, 0.2, mask.sum()), expected)
