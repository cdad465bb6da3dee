"""The optimiser against torch's own, the schedules worked by hand, and what must survive a resume."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from tutelage.optim import MasterAdamW, cosine, warmed


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(numbers(*s, seed=i).to(dtype)) for i, s in enumerate(((4, 3), (3,), (2, 2)))]


def gradients(held: Sequence[nn.Parameter], step: int, size: float = 1.0) -> None:
    for i, parameter in enumerate(held):
        parameter.grad = (size * numbers(*parameter.shape, seed=100 * step + i)).to(parameter.dtype)


def test_first_step_by_hand() -> None:
    # Adam's first step is lr * g / (|g| + eps): the sign of the gradient, whatever its size
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimiser = MasterAdamW([weight], clip_norm=0.0)
    weight.grad = torch.tensor([0.3, -40.0])
    assert optimiser.step(0.01) == pytest.approx(math.hypot(0.3, 40))
    assert weight.tolist() == pytest.approx([0.99, 1.01])
    assert weight.grad is None


@pytest.mark.parametrize(
    ("eps", "decay", "clip"), [(1e-8, 0.0, 0.0), (1e-5, 0.0, 1.0), (1e-5, 0.1, 0.5), (0.1, 0.3, 1e9)]
)
def test_it_is_torchs_adamw(eps: float, decay: float, clip: float) -> None:
    ours, theirs = parameters(), parameters()
    optimiser = MasterAdamW(ours, betas=(0.9, 0.95), eps=eps, weight_decay=decay, clip_norm=clip)
    groups = [
        {"params": [p for p in theirs if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in theirs if p.ndim == 1], "weight_decay": 0.0},  # decay touches matrices only
    ]
    oracle = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=eps)
    for step in range(12):
        rate = 0.02 / (step + 1)
        for held in (ours, theirs):
            gradients(held, step, size=0.01 if step % 3 else 3.0)
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in theirs if p.grad is not None))
        if clip:
            nn.utils.clip_grad_norm_(theirs, clip)
        for group in oracle.param_groups:
            group["lr"] = rate
        oracle.step()
        assert optimiser.step(rate) == pytest.approx(norm, rel=1e-5)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)


def test_gradients_of_several_backwards_add_up() -> None:
    once, twice = parameters(), parameters()
    whole, split = MasterAdamW(once), MasterAdamW(twice)
    gradients(once, 1)
    first = [p.grad.clone() for p in once if p.grad is not None]
    gradients(once, 2)
    for p, g in zip(once, first, strict=True):
        p.grad = p.grad + g
    gradients(twice, 1)
    split.collect()
    assert all(p.grad is None for p in twice)
    part = split.gradient_norm()
    assert part == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in first)), rel=1e-5)
    gradients(twice, 2)
    assert split.step(0.01) == pytest.approx(whole.step(0.01), rel=1e-5)
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a, b)
    assert split.gradient_norm() == 0  # a step leaves nothing behind


def test_small_updates_are_not_lost_in_bf16() -> None:
    # near 1 bf16 has steps of 2^-8: single updates of 1e-4 vanish there, in the fp32 master they add up
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimiser = MasterAdamW([weight])
    for _ in range(100):
        weight.grad = torch.full((3,), 0.5, dtype=torch.bfloat16)
        optimiser.step(1e-4)
    assert optimiser.masters[0].tolist() == pytest.approx([0.99] * 3, abs=1e-5)
    assert weight.dtype == torch.bfloat16
    torch.testing.assert_close(weight.float(), torch.full((3,), 0.99), rtol=0, atol=2**-8)


def test_gradient_sums_are_fp32() -> None:
    # 256 + 1 is 256 in bf16: a sum kept there would lose the second backward
    weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimiser = MasterAdamW([weight])
    for size in (256.0, 1.0, 1.0):
        weight.grad = torch.full((1,), size, dtype=torch.bfloat16)
        optimiser.collect()
    assert optimiser.gradient_norm() == 258


def test_the_gradients_direction_survives_the_clip() -> None:
    # norm 5 clipped to 1: (0.6, 0.8); the moments see the clipped gradient
    weight = nn.Parameter(torch.zeros(2))
    optimiser = MasterAdamW([weight], clip_norm=1.0)
    weight.grad = torch.tensor([3.0, 4.0])
    assert optimiser.step(0.1) == pytest.approx(5)
    assert optimiser.first[0].tolist() == pytest.approx([0.06, 0.08], rel=1e-5)


def test_at_rate_zero_nothing_moves() -> None:
    held = parameters()
    before = [p.detach().clone() for p in held]
    optimiser = MasterAdamW(held, weight_decay=0.1)
    gradients(held, 1)
    optimiser.step(0.0)
    torch.testing.assert_close([p.detach() for p in held], before, rtol=0, atol=0)


def test_frozen_parameters_and_those_without_a_gradient_stay() -> None:
    frozen, idle, busy = (nn.Parameter(torch.ones(2, 2)) for _ in range(3))
    frozen.requires_grad_(False)
    optimiser = MasterAdamW([frozen, idle, busy], weight_decay=0.1)
    assert len(optimiser.masters) == 2
    busy.grad = torch.ones(2, 2)
    optimiser.step(0.1)
    assert torch.equal(frozen, torch.ones(2, 2))
    assert torch.equal(idle, torch.ones(2, 2))
    assert not torch.equal(busy, torch.ones(2, 2))


def test_the_weight_average_by_hand() -> None:
    # decay 0.5; weights go 1 -> 0.9 -> 0.8 (Adam with a constant gradient): 0.95, then 0.875
    weight = nn.Parameter(torch.tensor([1.0]))
    optimiser = MasterAdamW([weight], ema=0.5)
    for expected in (0.95, 0.875):
        weight.grad = torch.tensor([0.5])
        optimiser.step(0.1)
        assert optimiser.average[0].item() == pytest.approx(expected, rel=1e-5)
    optimiser.use_average()
    assert weight.item() == pytest.approx(0.875, rel=1e-5)
    assert optimiser.masters[0].item() == pytest.approx(0.8, rel=1e-5)  # the raw weights are kept
    optimiser.use_masters()
    assert weight.item() == pytest.approx(0.8, rel=1e-5)
    optimiser.use_average()
    weight.grad = torch.tensor([0.5])
    optimiser.step(0.1)
    assert weight.item() == pytest.approx(0.7, rel=1e-5)  # training goes on from the raw weights


def test_fp32_weights_are_not_held_twice() -> None:
    for dtype, shared in ((torch.float32, True), (torch.bfloat16, False)):
        weight = nn.Parameter(torch.ones(3, dtype=dtype))
        optimiser = MasterAdamW([weight])
        assert (optimiser.masters[0].data_ptr() == weight.data_ptr()) == shared
        assert optimiser.masters[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_restored_optimiser_goes_on_to_the_bit(dtype: torch.dtype, ema: float) -> None:
    straight, first, second = parameters(dtype), parameters(dtype), parameters(dtype)
    whole, before = (MasterAdamW(held, weight_decay=0.1, ema=ema) for held in (straight, first))
    for step in range(3):
        for held, optimiser in ((straight, whole), (first, before)):
            gradients(held, step)
            optimiser.step(0.01)
    saved = {name: tensor.clone() for name, tensor in before.state("actor").items()}
    after = MasterAdamW(second, weight_decay=0.1, ema=ema)
    after.restore(saved, "actor")
    assert after.steps == 3
    for step in range(3, 6):
        for held, optimiser in ((straight, whole), (second, after)):
            gradients(held, step)
            optimiser.step(0.01)
    assert all(torch.equal(a, b) for a, b in zip(straight, second, strict=True))
    left, right = whole.state("x"), after.state("x")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


# ---- schedules ---------------------------------------------------------------------------------------------


def test_cosine_by_hand() -> None:
    # peak 1, floor 0.1, 100 steps: the middle is (1 + 0.1) / 2; a quarter is 0.1 + 0.9 (1 + cos 45 deg) / 2
    assert cosine(0, 100, 1.0) == pytest.approx(1.0)
    assert cosine(25, 100, 1.0) == pytest.approx(0.1 + 0.45 * (1 + math.sqrt(0.5)))
    assert cosine(50, 100, 1.0) == pytest.approx(0.55)
    assert cosine(100, 100, 1.0) == pytest.approx(0.1)
    assert cosine(900, 100, 1.0) == pytest.approx(0.1)
    assert cosine(100, 100, 2.0, floor=0.0) == pytest.approx(0.0)
    rates = [cosine(s, 40, 3e-4) for s in range(40)]
    assert rates == sorted(rates, reverse=True)


def test_cosine_warms_up_by_hand() -> None:
    # 3 warm-up steps: quarters of the peak, which step 3 then has; the fall takes the 7 steps left
    assert [cosine(s, 10, 4.0, warmup=3) for s in range(4)] == pytest.approx([1, 2, 3, 4])
    assert cosine(10, 10, 4.0, warmup=3) == pytest.approx(0.4)


def test_warmed_by_hand() -> None:
    # the paper's PPO: a tenth at the first iteration, the peak from the tenth on
    assert [warmed(s, 1.0, steps=10) for s in (0, 5, 10, 400)] == pytest.approx([0.1, 0.55, 1, 1])
    assert warmed(0, 3e-5, steps=0) == 3e-5
