"""Packing: every token at its place, none counted twice, and text blocks that need no state."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.attention import BRANCH
from tutelage.data import batches
from tutelage.data.batches import Packed, slices, text_rows
from tutelage.data.text import TextBlocks, write_documentation
from tutelage.records import UserError

PAD = 1
Pair = tuple[list[int], list[int]]

ids = st.lists(st.integers(2, 99), min_size=1, max_size=12)
prompts = st.one_of(ids, st.sampled_from([[7, 8, 9], [5]]))  # neighbours with one prompt share it
pairs_of_ids = st.lists(st.tuples(prompts, ids), min_size=1, max_size=12)


def pack(pairs: list[Pair], row: int = 32) -> Packed:
    return batches.pack(pairs, PAD, row=row)


def test_packing_by_hand() -> None:
    # lengths 5, 3 and 2 into rows of 5: the longest fills row 0; the other two share row 1
    packed = pack([([11, 12], [13]), ([21, 22, 23], [24, 25]), ([31], [32])], row=5)
    assert packed.ids.tolist() == [[21, 22, 23, 24, 25], [11, 12, 13, 31, 32]]
    assert packed.segments.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 2, 2]]
    # flat index = 5 * row + column; a response token is predicted one position before it stands
    assert packed.where.tolist() == [[5 + 1, 0], [2, 3], [5 + 3, 0]]
    assert packed.targets.tolist() == [[13, PAD], [24, 25], [32, PAD]]
    assert packed.mask.tolist() == [[True, False], [True, True], [True, False]]
    assert packed.last.tolist() == [5 + 2, 4, 5 + 4]  # the last response token itself: there a score is read


def test_a_mean_over_the_tokens_of_each_response_by_hand() -> None:
    packed = pack([([11, 12], [13]), ([21, 22, 23], [24, 25]), ([31], [32])], row=5)
    per_token = torch.arange(10.0).view(2, 5) ** 2  # 13 stands at 7, 24 and 25 at 3 and 4, 32 at 9
    assert packed.mean_of(per_token).tolist() == [49.0, (9 + 16) / 2, 81.0]


@given(pairs=pairs_of_ids, row=st.integers(4, 40))
@settings(max_examples=40)
def test_the_mean_over_a_response_sees_its_tokens_and_nothing_else(pairs: list[Pair], row: int) -> None:
    packed = pack(pairs, row)
    means = packed.mean_of(packed.ids.double())
    assert means.tolist() == pytest.approx([sum(response) / len(response) for _, response in pairs])


@given(pairs=pairs_of_ids, row=st.integers(4, 40))
@settings(max_examples=80)
def test_every_sequence_is_whole_somewhere_and_nothing_else_is(pairs: list[Pair], row: int) -> None:
    packed = pack(pairs, row)
    flat, segments = packed.ids.flatten(), packed.segments.flatten()
    width = packed.ids.shape[1]
    taken: Counter[int] = Counter()
    for i, (prompt, response) in enumerate(pairs):
        first, end = int(packed.first[i]), int(packed.last[i]) + 1
        stop, border = first + len(prompt), end - len(response)
        assert first // width == (end - 1) // width  # in one row
        assert flat[first:stop].tolist() == prompt
        assert flat[border:end].tolist() == response
        stem, own = set(segments[first:stop].tolist()), set(segments[border:end].tolist())
        assert len(stem) == len(own) == 1
        assert own.pop() % BRANCH in stem
        row_segments = segments[first // width * width :][:width]
        alone = bool(segments[border] == segments[first])
        assert (row_segments == segments[border]).sum() == (end - first if alone else end - border)
        taken.update(range(border, end))
        taken.update({} if first in taken else range(first, stop))
    assert max(taken.values()) == 1
    rest = sorted(set(range(flat.numel())) - set(taken))
    assert (flat[rest] == PAD).all()
    assert (segments[rest] == 0).all()


def test_neighbours_with_one_prompt_share_it() -> None:
    packed = pack([([11, 12], [13]), ([11, 12], [14, 15]), ([21], [22])], row=7)
    assert packed.ids.tolist() == [[11, 12, 13, 14, 15, 21, 22]]
    assert packed.segments.tolist() == [[1, 1, 1 + BRANCH, 1 + 2 * BRANCH, 1 + 2 * BRANCH, 2, 2]]
    assert packed.where.tolist() == [[1, 0], [1, 3], [5, 0]]  # both first tokens are predicted by the prompt's last
    assert packed.first.tolist() == [0, 0, 5]
    assert packed.last.tolist() == [2, 4, 6]


def test_a_prompt_is_shared_where_that_is_cheaper_than_reading_it_again() -> None:
    # Cost of n tokens that see each other: n (1 + n / 1000).
    assert pack([([2] * 700, [3] * 60)] * 4, row=128).ids.shape == (1, 940)  # 1,824 against 4 times 1,338
    assert pack([([2] * 20, [3] * 200)] * 4, row=128).ids.shape == (4, 220)  # two together 596, apart 537


@given(pairs=pairs_of_ids, row=st.integers(4, 40))
@settings(max_examples=80)
def test_the_indices_lead_back_to_the_responses_in_order(pairs: list[Pair], row: int) -> None:
    packed = pack(pairs, row)
    for i, (prompt, response) in enumerate(pairs):
        assert packed.targets[i][packed.mask[i]].tolist() == response
        before = [*prompt, *response][len(prompt) - 1 : -1]
        assert packed.ids.flatten()[packed.where[i][packed.mask[i]]].tolist() == before
        assert packed.mask[i].tolist() == [n < len(response) for n in range(packed.mask.shape[1])]
    assert (packed.targets[~packed.mask] == PAD).all()


def test_one_value_per_counted_token_comes_back_to_its_place() -> None:
    packed = pack([([5, 6], [7, 8]), ([5], [9]), ([4, 4, 4], [3, 2, 5])])
    hidden = torch.arange(packed.ids.numel(), dtype=torch.float32).view(*packed.ids.shape, 1)
    found = packed.at(hidden)
    assert found.shape == (6, 1)
    assert packed.spread(found.squeeze(1))[packed.mask].tolist() == packed.where[packed.mask].tolist()
    assert (packed.spread(found.squeeze(1))[~packed.mask] == 0).all()
    assert packed.at_last(hidden).flatten().tolist() == packed.last.tolist()


def test_gradients_flow_through_spread() -> None:
    packed = pack([([5, 6], [7, 8]), ([5], [9])])
    values = torch.ones(3, requires_grad=True)
    (packed.spread(values) * torch.tensor([[1.0, 2.0], [3.0, 100.0]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 2, 3]


def test_little_is_lost_to_padding() -> None:
    draw = random.Random(0)
    pairs = [([2] * draw.randint(5, 30), [3] * draw.randint(1, 40)) for _ in range(64)]
    packed = pack(pairs, row=128)
    assert (packed.segments != 0).float().mean() > 0.9


def test_text_rows_by_hand() -> None:
    packed = text_rows([[5, 6, 7], [8, 9, 10]])
    assert packed.ids.tolist() == [[5, 6, 7], [8, 9, 10]]
    assert packed.segments.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert packed.targets.tolist() == [[6, 7], [9, 10]]  # every token but the first is a target
    assert packed.where.tolist() == [[0, 1], [3, 4]]
    assert packed.mask.all()


def test_slices_by_hand() -> None:
    assert slices(5, 2) == [range(2), range(2, 4), range(4, 5)]
    assert slices(0, 2) == []


# ---- pretraining text --------------------------------------------------------------------------------------


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n\n".join(f"{n:03}" * 4 for n in range(20)), encoding="utf-8")  # 20 * 12 letters
    return path


def encode(document: str) -> list[int]:
    return [ord(letter) for letter in document]


def test_blocks_cut_the_text_into_pieces_of_one_length(text: Path) -> None:
    blocks = TextBlocks(text, encode, 7, seed=1)
    everything = encode(text.read_text().replace("\n\n\n", ""))
    assert [len(b) for b in blocks.blocks] == [7] * (240 // 7)
    assert [t for b in blocks.blocks for t in b] == everything[: 7 * (240 // 7)]  # the short rest is left out
    assert blocks.first(2) == blocks.blocks[:2]


@pytest.mark.parametrize("size", [1, 3, 5, 12, 30])
def test_no_block_comes_twice_in_a_pass(text: Path, size: int) -> None:
    blocks = TextBlocks(text, encode, 20, seed=3)
    count = len(blocks.blocks)
    assert count == 12
    places = {tuple(b): i for i, b in enumerate(blocks.blocks)}
    assert len(places) == count
    steps = -(-3 * count // size)
    drawn = [places[tuple(b)] for step in range(steps) for b in blocks.draw(step, size)]
    passes = [drawn[n : n + count] for n in range(0, 3 * count, count)]
    assert all(sorted(p) == list(range(count)) for p in passes)
    assert passes[0] != passes[1] != passes[2]


def test_blocks_depend_on_seed_and_step_alone(text: Path) -> None:
    used, fresh = TextBlocks(text, encode, 20, seed=3), TextBlocks(text, encode, 20, seed=3)
    for step in (0, 1, 7):
        used.draw(step, 4)
    assert used.draw(5, 4) == fresh.draw(5, 4)
    assert used.draw(5, 4) != TextBlocks(text, encode, 20, seed=4).draw(5, 4)


def test_text_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    short, binary = tmp_path / "short.txt", tmp_path / "binary.txt"
    short.write_text("abc", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe\x00")
    for path, problem in (
        (short, "fewer than 8 tokens"),
        (binary, "cannot be read"),
        (tmp_path / "no", "cannot be read"),
    ):
        with pytest.raises(UserError, match=problem) as caught:
            TextBlocks(path, encode, 8, seed=1)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_interpreters_documentation_is_split_once_and_held_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [f"document {n}\n\nsecond paragraph" for n in range(400)]
    monkeypatch.setattr("tutelage.data.text.python_documentation", lambda: documents)
    train, held = write_documentation(tmp_path)
    shown, kept = (path.read_text().split("\n\n\n") for path in (train, held))
    assert sorted([*shown, *kept]) == sorted(documents)
    assert 10 < len(kept) < 80  # a tenth
    monkeypatch.setattr("tutelage.data.text.python_documentation", lambda: 1 / 0)
    assert write_documentation(tmp_path) == (train, held)  # written once
