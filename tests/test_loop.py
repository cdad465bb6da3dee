"""Randomness without state, tensors on disk, and the guard against NaN."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.loop import clock, generator, load_tensors, need_finite, save_tensors, shuffled, stream
from tutelage.records import UserError


def test_generators_depend_on_seed_and_purpose_alone() -> None:
    first = torch.rand(3, generator=generator(1, "rollout", 7))
    torch.rand(100)  # the global generator is no part of it
    assert torch.equal(first, torch.rand(3, generator=generator(1, "rollout", 7)))
    others = [
        generator(2, "rollout", 7),
        generator(1, "rollout", 8),
        generator(1, "talk", 7),
        generator(17, "rollout"),
    ]
    assert not any(torch.equal(first, torch.rand(3, generator=g)) for g in others)


def test_shuffled_is_the_same_permutation_again() -> None:
    order = shuffled(50, 3, "sft", 0)
    assert sorted(order) == list(range(50))
    assert order == shuffled(50, 3, "sft", 0)
    assert order != shuffled(50, 4, "sft", 0)
    assert order != shuffled(50, 3, "sft", 1)


@given(count=st.integers(1, 30), size=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_a_stream_visits_every_index_once_per_pass(count: int, size: int, seed: int) -> None:
    steps = -(-3 * count // size)
    seen = [i for step in range(steps) for i in stream(count, step, size, seed, "prompts")]
    assert len(seen) == steps * size
    for start in range(0, 3 * count, count):
        assert sorted(seen[start : start + count]) == list(range(count))


def test_a_stream_is_stateless() -> None:
    forwards = [stream(13, step, 5, 1, "prompts") for step in range(9)]
    backwards = [stream(13, step, 5, 1, "prompts") for step in reversed(range(9))]
    assert forwards == backwards[::-1]
    assert forwards != [stream(13, step, 5, 2, "prompts") for step in range(9)]
    # the batch size only cuts the same endless order elsewhere
    assert [i for batch in forwards for i in batch] == [i for s in range(15) for i in stream(13, s, 3, 1, "prompts")]


def test_tensors_come_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    base = torch.randn(6, 4)
    tensors = {"a": base.t(), "b": base[:2], "c": base.bfloat16(), "steps": torch.tensor(7)}
    save_tensors(path, tensors)
    found = load_tensors(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in tensors.items())


def test_a_checkpoint_that_cannot_be_read_or_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00 torn")
    for problem, act in (
        ("cannot be read", lambda: load_tensors(path)),
        ("cannot be read", lambda: load_tensors(tmp_path / "missing")),
        ("cannot be written", lambda: save_tensors(tmp_path / "no" / "folder", {"a": torch.zeros(1)})),
    ):
        with pytest.raises(UserError, match=problem) as caught:
            act()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_with_its_step(value: float) -> None:
    with pytest.raises(UserError, match=f"sft loss became {value} at step 12: .*lower the learning rate"):
        need_finite("sft loss", value, 12)
    assert need_finite("sft loss", 0.5, 12) == 0.5


def test_clock_by_hand() -> None:
    assert [clock(s) for s in (0, 59.9, 61, 3600)] == ["0:00", "0:59", "1:01", "60:00"]
