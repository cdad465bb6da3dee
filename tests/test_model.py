"""Cutting models in two: the numbers of transformers, nothing shared that trains, honest refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tinymodels import TINY_ARCHITECTURES, TINY_HIDDEN, TINY_LAYERS, tiny_tokenizer
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tutelage.attention import BRANCH, attention_mask, grouped_attention, positions
from tutelage.data import batches
from tutelage.data.batches import Lowered, pack
from tutelage.losses import token_logprobs
from tutelage.model import (
    Lm,
    Top,
    TrainableLayers,
    _warn_of_slow_bf16,
    choose_dtype,
    load,
    save_lm,
)
from tutelage.records import UserError
from tutelage.run import Run
from tutelage.scalar import ScalarHead, load_scalar, need_classifier, save_scalar

TinyModel = Callable[[str], Path]
CPU = torch.device("cpu")
CUTS: tuple[TrainableLayers, ...] = (1, 2, "all")
PAIRS: list[tuple[list[int], list[int]]] = [
    ([5, 9, 300], [17, 33, 0]),
    ([7], [8]),
    (list(range(10, 40)), [44, 45, 46, 0]),  # longer than gemma's window of 16
    ([50, 51], list(range(60, 85))),
]

architectures = pytest.mark.parametrize("architecture", TINY_ARCHITECTURES)
cuts = pytest.mark.parametrize("trainable", CUTS, ids=lambda t: f"top {t}")


def opened(folder: Path, trainable: TrainableLayers = 2, dtype: str = "fp32") -> Lm:
    return load(str(folder), trainable_layers=trainable, dtype=dtype, device=CPU)


def oracle(folder: Path, kind: Any = AutoModelForCausalLM) -> Any:
    """The model as anybody else would open it."""
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def random_ids(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(2, 384, (rows, width), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(lm: Lm, top: Top, ids: Tensor) -> Tensor:
    segments = torch.ones_like(ids)
    return F.linear(top(lm.lower(ids, segments), segments), top.head)


@torch.no_grad()
def logprobs(lm: Lm, pairs: list[tuple[list[int], list[int]]], row: int = 64) -> list[Tensor]:
    """Logprobs of each pair's response tokens, the way every page computes them."""
    packed = pack(pairs, lm.pad, row=row)
    hidden = lm.top(lm.lower(packed.ids, packed.segments), packed.segments)
    found, _ = token_logprobs(packed.at(hidden), lm.top.head, packed.targets[packed.mask])
    return [values[mask] for values, mask in zip(packed.spread(found), packed.mask, strict=True)]


@torch.no_grad()
def move(top: Top, seed: int = 1) -> None:
    """Change whatever trains, as a few updates would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in top.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def refused(act: Callable[[], object], *fragments: str) -> None:
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


def variant(source: Path, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A tiny model like `source`, with other settings or another seed."""
    config = AutoConfig.from_pretrained(source)
    for name, value in changes.items():
        setattr(config, name, value)
    return saved(config, folder, seed)


def saved(config: Any, folder: Path, seed: int = 0) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


# ---- pieces ------------------------------------------------------------------------------------------------


def test_positions_by_hand() -> None:
    # two sequences and padding in one row; a bool mask, padded on the left, is one sequence
    packed = torch.tensor([[1, 1, 1, 2, 2, 0, 0]])
    assert positions(packed)[0, :5].tolist() == [0, 1, 2, 0, 1]
    left = torch.tensor([[False, False, True, True, True], [True, True, True, True, True]])
    assert positions(left)[0, 2:].tolist() == [0, 1, 2]
    assert positions(left)[1].tolist() == [0, 1, 2, 3, 4]
    branches = [1, 1, 1 + BRANCH, 1 + BRANCH, 1 + 2 * BRANCH, 2, 2 + BRANCH, 2 + 2 * BRANCH, 0]
    assert positions(torch.tensor([branches]))[0, :8].tolist() == [0, 1, 2, 3, 2, 0, 1, 1]


def test_attention_mask_by_hand(tiny_model_dir: TinyModel) -> None:
    config = AutoConfig.from_pretrained(tiny_model_dir("llama"))
    found = attention_mask(torch.tensor([[1, 1, 2, 2, 0, 0]]), config)
    assert found.shape == (1, 1, 6, 6)
    assert found[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],  # a new sequence: it sees nothing before it
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],  # padding sees itself, or its softmax would be NaN
        [0, 0, 0, 0, 0, 1],
    ]


def test_branches_see_their_stem_and_themselves(tiny_model_dir: TinyModel) -> None:
    config = AutoConfig.from_pretrained(tiny_model_dir("llama"))
    found = attention_mask(torch.tensor([[1, 1, 1 + BRANCH, 1 + BRANCH, 1 + 2 * BRANCH, 2]]), config)
    assert found[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],  # the second branch: the stem, not the first branch
        [0, 0, 0, 0, 0, 1],
    ]


@architectures
def test_a_shared_prompt_changes_no_response(tiny_model_dir: TinyModel, architecture: str) -> None:
    lm = opened(tiny_model_dir(architecture))
    same = [(PAIRS[2][0], r) for r in ([44, 45, 46, 0], [9], [70, 71, 72, 73, 74, 75, 0])]
    pairs = [PAIRS[0], *same, PAIRS[1]]
    packed = pack(pairs, lm.pad)
    assert int((packed.segments != 0).sum()) == sum(len(p) + len(r) for p, r in pairs) - 2 * len(PAIRS[2][0])
    together, apart = logprobs(lm, pairs), [logprobs(lm, [pair])[0] for pair in pairs]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
    _, hidden = Lowered(lm, pairs).batch(range(len(pairs)))
    torch.testing.assert_close(
        hidden[packed.segments != 0], lm.lower(packed.ids, packed.segments)[packed.segments != 0]
    )


def test_sliding_layers_see_their_window_only(tiny_model_dir: TinyModel) -> None:
    config = AutoConfig.from_pretrained(tiny_model_dir("gemma3_text"))
    found = attention_mask(torch.ones(1, 20, dtype=torch.long), config)
    assert found["full_attention"][0, 0, 19].sum() == 20
    assert found["sliding_attention"][0, 0, 19].tolist() == [False] * 4 + [True] * 16


@pytest.mark.parametrize("length", [1, 5])
def test_grouped_attention_is_attention_with_repeated_heads(length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, length, 8, generator=generator)
    key, value = (torch.randn(2, 3, 7, 8, generator=generator) for _ in range(2))
    mask = torch.rand(2, 1, length, 7, generator=generator) < 0.5
    mask[..., 0] = True
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.3
    expected = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value.repeat_interleave(2, 1)
    found, _ = grouped_attention(torch.nn.Identity(), query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found, expected.transpose(1, 2))
    if length > 1:  # where transformers leaves the mask out: plainly causal
        causal = torch.ones(length, 7, dtype=torch.bool).tril(7 - length)[None, None]
        bare, _ = grouped_attention(torch.nn.Identity(), query, key, value, None)
        masked, _ = grouped_attention(torch.nn.Identity(), query, key, value, causal)
        torch.testing.assert_close(bare, masked)


def test_one_bf16_token_behind_an_fp32_cache() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 1, 8, generator=generator).bfloat16()
    key, value = (torch.randn(2, 2, 9, 8, generator=generator) for _ in range(2))
    mask = torch.arange(9)[None, None, None] < torch.tensor([4, 9])[:, None, None, None]
    found, _ = grouped_attention(torch.nn.Identity(), query, key, value, mask)
    exact, _ = grouped_attention(torch.nn.Identity(), query.float(), key, value, mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=1e-2, atol=1e-2)


def test_dtypes_by_name() -> None:
    assert choose_dtype(CPU, "fp32") == torch.float32
    assert choose_dtype(CPU, "bf16") == torch.bfloat16
    assert choose_dtype(CPU) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_on_a_processor_without_fast_bf16_products_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fast: bool
) -> None:
    monkeypatch.setattr("tutelage.model.lays_out", lambda dtype: fast)
    _warn_of_slow_bf16.cache_clear()
    assert [choose_dtype(CPU, "bf16") for _ in range(2)] == [torch.bfloat16] * 2
    assert capsys.readouterr().err.count("--dtype auto") == (0 if fast else 1)


# ---- the same numbers as transformers ----------------------------------------------------------------------


@architectures
@cuts
def test_logits_are_those_of_transformers(
    tiny_model_dir: TinyModel, architecture: str, trainable: TrainableLayers
) -> None:
    lm = opened(tiny_model_dir(architecture), trainable)
    ids = random_ids(2, 40)
    expected = oracle(tiny_model_dir(architecture))(input_ids=ids).logits
    assert expected.std() > 0.5  # far from flat: a wrong layer order would show
    torch.testing.assert_close(logits(lm, lm.top, ids), expected.detach(), rtol=1e-4, atol=1e-4)


@architectures
def test_bf16_is_close(tiny_model_dir: TinyModel, architecture: str) -> None:
    lm = opened(tiny_model_dir(architecture), 2, "bf16")
    assert lm.top.head.dtype == torch.bfloat16
    exact = opened(tiny_model_dir(architecture), 2)
    for rough, right in zip(logprobs(lm, PAIRS), logprobs(exact, PAIRS), strict=True):
        assert (rough - right).abs().mean() < 0.3


@architectures
@cuts
def test_neither_packing_nor_padding_nor_order_changes_a_logprob(
    tiny_model_dir: TinyModel, architecture: str, trainable: TrainableLayers
) -> None:
    lm = opened(tiny_model_dir(architecture), trainable)
    alone = [logprobs(lm, [pair], row=1)[0] for pair in PAIRS]
    for row in (1, 48, 128):
        for found, expected in zip(logprobs(lm, PAIRS, row), alone, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for found, expected in zip(logprobs(lm, PAIRS[::-1], 128), alone[::-1], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@architectures
def test_logprobs_are_those_of_transformers(tiny_model_dir: TinyModel, architecture: str) -> None:
    lm, model = opened(tiny_model_dir(architecture)), oracle(tiny_model_dir(architecture))
    for (prompt, response), found in zip(PAIRS, logprobs(lm, PAIRS, 128), strict=True):
        with torch.no_grad():
            rows = model(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(1)
        expected = rows[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None]).squeeze(1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@architectures
@pytest.mark.parametrize("trainable", [2, "all"])
def test_what_stands_in_the_padding_cannot_matter(
    tiny_model_dir: TinyModel, architecture: str, trainable: TrainableLayers
) -> None:
    lm = opened(tiny_model_dir(architecture), trainable)
    ids = random_ids(2, 12)
    segments = torch.tensor([[0, 0, 0] + [1] * 9, [1] * 7 + [0] * 5])
    other = torch.where(segments == 0, random_ids(2, 12, seed=1), ids)
    real = segments != 0
    with torch.no_grad():
        first, second = (lm.top(lm.lower(x, segments), segments)[real] for x in (ids, other))
        left = lm.top(lm.lower(ids[:1, 3:], segments[:1, 3:]), segments[:1, 3:])
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first[:9], left[0], rtol=0, atol=1e-5)


@architectures
def test_gradients_are_those_of_transformers(tiny_model_dir: TinyModel, architecture: str) -> None:
    lm, model = opened(tiny_model_dir(architecture), "all"), oracle(tiny_model_dir(architecture))
    ids = random_ids(1, 20)
    segments = torch.ones_like(ids)
    found, _ = token_logprobs(lm.top(ids, segments)[0, :-1], lm.top.head, ids[0, 1:])
    found.mean().backward()
    rows = model(input_ids=ids).logits[0, :-1].log_softmax(1)
    rows.gather(1, ids[0, 1:, None]).mean().backward()
    expected = dict(model.named_parameters())
    named = dict(lm.model.named_parameters())
    assert named.keys() == expected.keys()
    for name, parameter in named.items():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-5, msg=name)


@architectures
def test_the_trunk_runs_once_per_sequence_and_gives_the_same_states(
    tiny_model_dir: TinyModel, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "GROUP", 2)  # pairs 0 and 1 are lowered together, 2 and 3 too
    lm = opened(tiny_model_dir(architecture))
    lowered = Lowered(lm, PAIRS)
    lowered.batch([0])
    runs: list[int] = []
    real = Lm.lower
    monkeypatch.setattr(Lm, "lower", lambda *a: runs.append(int((a[2] != 0).sum())) or real(*a))
    for indices in ([3, 2, 1, 0], [1, 0], range(4)):  # known, unknown, another order, another packing
        packed, hidden = lowered.batch(indices)
        real_tokens = packed.segments != 0
        expected = real(lm, packed.ids, packed.segments)
        torch.testing.assert_close(hidden[real_tokens], expected[real_tokens], rtol=0, atol=1e-5)
    assert runs == [sum(len(p) + len(r) for p, r in PAIRS[2:])]
    resumed = Lowered(lm, PAIRS)  # one that begins in the middle of an epoch has the same states to the bit
    resumed.batch([2])
    assert torch.equal(resumed.batch([3, 1])[1], lowered.batch([3, 1])[1])


def test_without_a_trunk_the_tops_read_ids(tiny_model_dir: TinyModel) -> None:
    lm = opened(tiny_model_dir("llama"), "all")
    packed, ids = Lowered(lm, PAIRS).batch([0, 1])
    assert torch.equal(ids, packed.ids)


# ---- what is shared and what trains ------------------------------------------------------------------------


@architectures
@pytest.mark.parametrize("trainable", [1, 2])
def test_only_the_top_layers_and_the_final_norm_train(
    tiny_model_dir: TinyModel, architecture: str, trainable: int
) -> None:
    lm = opened(tiny_model_dir(architecture), trainable)
    training = {n for n, p in lm.model.named_parameters() if p.requires_grad}
    tops = {f".{n}." for n in range(TINY_LAYERS - trainable, TINY_LAYERS)}
    below = {f".{n}." for n in range(TINY_LAYERS - trainable)}
    assert training
    assert not any(part in name for name in training for part in below)
    assert not any(word in name for name in training for word in ("wte", "wpe", "embed", "lm_head"))
    expected = {n for n, _ in lm.model.named_parameters() if any(part in n for part in tops)}
    finals = {n for n in training if n not in expected}
    assert training >= expected
    assert all("norm" in n or "ln_f" in n for n in finals)
    assert finals
    own = {id(p) for p in lm.top.parameters() if p.requires_grad}
    assert own == {id(p) for n, p in lm.model.named_parameters() if n in training}


@architectures
def test_everything_trains_where_nothing_is_cut(tiny_model_dir: TinyModel, architecture: str) -> None:
    lm = opened(tiny_model_dir(architecture), "all")
    assert lm.trunk is None
    assert all(p.requires_grad for p in lm.model.parameters())
    assert {id(p) for p in lm.top.parameters()} == {id(p) for p in lm.model.parameters()}


@architectures
@pytest.mark.parametrize("trainable", [1, 2])
def test_a_twin_shares_what_is_frozen_and_copies_what_trains(
    tiny_model_dir: TinyModel, architecture: str, trainable: int
) -> None:
    lm = opened(tiny_model_dir(architecture), trainable)
    twin = lm.top.twin()
    ours, theirs = dict(lm.top.named_parameters()), dict(twin.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        shared = parameter.data_ptr() == theirs[name].data_ptr()
        assert shared is not parameter.requires_grad, name
        assert torch.equal(parameter, theirs[name])


@architectures
def test_a_twin_of_a_whole_model_shares_nothing(tiny_model_dir: TinyModel, architecture: str) -> None:
    lm = opened(tiny_model_dir(architecture), "all")
    twin = lm.top.twin()
    ours = {p.untyped_storage().data_ptr() for p in (*lm.top.parameters(), *lm.model.parameters())}
    assert not ours & {p.untyped_storage().data_ptr() for p in twin.parameters()}
    tied = lm.top.head is lm.base.get_input_embeddings().weight
    assert (twin.head is twin.base.get_input_embeddings().weight) is tied  # a tied head stays tied in the copy
    assert tied is (architecture in ("gpt2", "gemma3_text"))


@architectures
@cuts
def test_the_reference_and_the_trunk_stay_while_the_policy_moves(
    tiny_model_dir: TinyModel, architecture: str, trainable: TrainableLayers
) -> None:
    lm = opened(tiny_model_dir(architecture), trainable)
    reference = lm.top.twin().requires_grad_(False)
    assert all(p.requires_grad for p in lm.top.trained_parts()[0].parameters())  # freezing the copy froze no more
    ids = random_ids(2, 24)
    segments = torch.ones_like(ids)
    before, below = logits(lm, reference, ids), lm.lower(ids, segments)
    torch.testing.assert_close(before, logits(lm, lm.top, ids), rtol=0, atol=0)
    move(lm.top)
    assert torch.equal(logits(lm, reference, ids), before)
    assert torch.equal(lm.lower(ids, segments), below)
    assert (logits(lm, lm.top, ids) - before).abs().max() > 0.1


@cuts
def test_a_scalar_networks_twin_is_of_its_own(tiny_model_dir: TinyModel, trainable: TrainableLayers) -> None:
    lm = opened(tiny_model_dir("llama"), trainable)
    reward = ScalarHead(lm.top.twin(), seed=3)
    reward.bias.fill_(0.5)
    reward.scale.fill_(2.0)
    value = reward.twin()
    ids = random_ids(1, 9)
    segments = torch.ones_like(ids)
    lower = lm.lower(ids, segments)
    before = reward(lower, segments).detach()
    assert torch.equal(value(lower, segments), before)
    move(value.top)
    with torch.no_grad():
        value.score.add_(1)
        value.bias.add_(1)
    assert torch.equal(reward(lower, segments), before)
    assert not torch.equal(value(lower, segments), before)


def test_the_scalar_head_by_hand(tiny_model_dir: TinyModel) -> None:
    head = ScalarHead(opened(tiny_model_dir("llama")).top, seed=1)
    with torch.no_grad():
        head.score.copy_(torch.arange(float(TINY_HIDDEN))[None])
    hidden = torch.zeros(2, TINY_HIDDEN)
    hidden[0, 3], hidden[1, 5] = 2.0, -1.0
    assert head.read(hidden).tolist() == [6, -5]
    head.bias.fill_(1.0)
    head.scale.fill_(0.5)
    assert head.read(hidden).tolist() == [(6 - 1) / 2, (-5 - 1) / 2]
    assert head.read(hidden.bfloat16()).dtype == torch.float32


def test_a_fresh_scalar_head_is_small_and_depends_on_its_seed(tiny_model_dir: TinyModel) -> None:
    top = opened(tiny_model_dir("llama")).top
    heads = [ScalarHead(top, seed=n) for n in range(40)]
    weights = torch.cat([h.score for h in heads]).detach()
    assert weights.std().item() == pytest.approx((TINY_HIDDEN + 1) ** -0.5, rel=0.1)  # N(0, 1/(d+1))
    assert torch.equal(ScalarHead(top, seed=4).score, heads[4].score)
    assert not torch.equal(heads[3].score, heads[4].score)
    assert (float(heads[0].bias), float(heads[0].scale)) == (0, 1)


def test_padding_is_never_the_end(tiny_model_dir: TinyModel) -> None:
    lm = opened(tiny_model_dir("llama"))
    assert (lm.eos, lm.pad, lm.vocabulary) == (0, 1, 384)
    lm.tokenizer.pad_token = lm.tokenizer.eos_token
    assert lm.pad != lm.eos
    lm.tokenizer.pad_token = None
    assert lm.pad != lm.eos


# ---- saving and opening again ------------------------------------------------------------------------------

SAVED = (
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("gpt_neox", {}),
    ("gpt2", {}),
    ("gemma3_text", {}),
)


@pytest.mark.parametrize(("architecture", "changes"), SAVED, ids=lambda v: v if isinstance(v, str) else "+".join(v))
@pytest.mark.parametrize("trainable", [2, "all"])
def test_a_saved_policy_opens_as_what_it_is(
    tiny_model_dir: TinyModel,
    tmp_path: Path,
    architecture: str,
    changes: dict[str, Any],
    trainable: TrainableLayers,
) -> None:
    source = variant(tiny_model_dir(architecture), tmp_path / "source", **changes)
    lm = opened(source, trainable)
    twin = lm.top.twin()  # a snapshot from a copy and the policy itself, as PPO keeps them
    move(lm.top, 1)
    move(twin, 2)
    ids = random_ids(2, 30)
    for name, top in (("policy", lm.top), ("twin", twin)):
        expected = logits(lm, top, ids)
        save_lm(lm, top, tmp_path / name)
        model = oracle(tmp_path / name)
        found = model(input_ids=ids).logits.detach()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        again = opened(tmp_path / name, trainable)
        torch.testing.assert_close(logits(again, again.top, ids), expected, rtol=1e-5, atol=1e-5)
        assert again.tokenizer.get_vocab() == lm.tokenizer.get_vocab()
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert tied is bool(AutoConfig.from_pretrained(source).tie_word_embeddings)
        assert torch.equal(logits(lm, top, ids), expected)  # saving changed nothing
    assert not torch.equal(logits(lm, lm.top, ids), logits(lm, twin, ids))


def test_a_saved_bf16_policy_is_saved_as_bf16(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    lm = opened(tiny_model_dir("llama"), 2, "bf16")
    move(lm.top)
    save_lm(lm, lm.top, tmp_path / "model")
    assert AutoConfig.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
    again = opened(tmp_path / "model", 2, "bf16")
    ids = random_ids(1, 20)
    assert torch.equal(logits(again, again.top, ids), logits(lm, lm.top, ids))


def test_a_run_opens_by_its_folder(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    from tutelage.settings import LoopConfig

    run = Run.start(tmp_path / "run", "sft", LoopConfig())
    shutil.copytree(tiny_model_dir("llama"), run.model)
    refused(lambda: opened(run.path), "not finished")
    run.finish()
    assert opened(run.path).vocabulary == 384


def scored(lm: Lm, network: ScalarHead) -> Tensor:
    packed = pack(PAIRS, lm.pad, row=128)
    with torch.no_grad():
        return network.read(packed.at_last(network.top(lm.lower(packed.ids, packed.segments), packed.segments)))


@pytest.mark.parametrize(("architecture", "changes"), SAVED, ids=lambda v: v if isinstance(v, str) else "+".join(v))
@pytest.mark.parametrize("trainable", [2, "all"])
def test_a_saved_reward_model_gives_the_same_scores_to_everybody(
    tiny_model_dir: TinyModel,
    tmp_path: Path,
    architecture: str,
    changes: dict[str, Any],
    trainable: TrainableLayers,
) -> None:
    source = variant(tiny_model_dir(architecture), tmp_path / "source", **changes)
    lm = opened(source, trainable)
    network = ScalarHead(lm.top.twin(), seed=5)
    move(network.top)
    network.bias.fill_(0.25)
    network.scale.fill_(3.0)
    expected, folder = scored(lm, network), tmp_path / "reward"
    save_scalar(lm, network, folder)

    opened_again = load_scalar(folder, opened(source, trainable))
    torch.testing.assert_close(scored(lm, opened_again), expected, rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in opened_again.parameters())

    model = oracle(folder, AutoModelForSequenceClassification)
    tokens = [p + r for p, r in PAIRS]
    width = max(map(len, tokens))
    ids = torch.tensor([t + [lm.pad] * (width - len(t)) for t in tokens])
    seen = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in tokens])
    with torch.no_grad():  # it reads the last token that is no padding
        raw = model(input_ids=ids, attention_mask=seen).logits.squeeze(1)
    torch.testing.assert_close((raw - 0.25) * 3, expected, rtol=1e-4, atol=1e-4)


def test_opening_a_reward_model_leaves_the_policy_able_to_train(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    for trainable in (2, "all"):
        lm = opened(tiny_model_dir("gpt2"), trainable)
        save_scalar(lm, ScalarHead(lm.top.twin()), tmp_path / str(trainable))
        before = [p.requires_grad for p in lm.top.parameters()]
        network = load_scalar(tmp_path / str(trainable), lm)
        assert [p.requires_grad for p in lm.top.parameters()] == before
        value = network.twin()
        for part in value.top.trained_parts():
            part.requires_grad_(True)
        assert not any(p.requires_grad for p in network.parameters())
        shared = {p.untyped_storage().data_ptr() for p in lm.top.parameters() if p.requires_grad}
        assert not shared & {p.untyped_storage().data_ptr() for p in (*network.parameters(), *value.parameters())}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma3_text"])
def test_a_reward_model_on_a_shared_trunk_keeps_no_weight_of_its_file(
    tiny_model_dir: TinyModel, tmp_path: Path, architecture: str
) -> None:
    lm = opened(tiny_model_dir(architecture), 2)
    save_scalar(lm, ScalarHead(lm.top.twin()), tmp_path / "reward")
    network = load_scalar(tmp_path / "reward", lm)
    held = {id(p) for p in lm.model.parameters()}
    own = [p for p in network.parameters() if id(p) not in held]
    assert len(own) == 1 + sum(len(list(part.parameters())) for part in lm.top.trained_parts())
    for parameter in own:  # one that lies in the file is a view of all of it
        assert parameter.untyped_storage().nbytes() == parameter.nbytes


def test_the_scalar_head_keeps_its_fp32_weights_in_bf16(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    lm = opened(tiny_model_dir("llama"), 2, "bf16")
    network = ScalarHead(lm.top.twin(), seed=5)
    save_scalar(lm, network, tmp_path / "reward")
    found = load_scalar(tmp_path / "reward", lm)
    assert torch.equal(found.score, network.score)
    assert torch.equal(scored(lm, found), scored(lm, network))


# ---- refusals, each in one line ----------------------------------------------------------------------------


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    refused(lambda: load(tmp_path / "nowhere"), str(tmp_path / "nowhere"), "no such folder")
    refused(lambda: load("nobody/no-such-model"), "nobody/no-such-model", "cannot be opened")
    refused(lambda: load(""), "no such folder")


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    refused(lambda: load(tmp_path), str(tmp_path), "cannot be opened as a model")
    (tmp_path / "config.json").write_text("{")
    refused(lambda: load(tmp_path), str(tmp_path), "cannot be opened as a model")


def test_weights_that_are_torn(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir("llama"), tmp_path / "torn")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    refused(lambda: load(folder), str(folder), "cannot be opened as a model")


def test_a_model_without_tokenizer_or_end_token(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir("llama"), tmp_path / "bare")
    for file in folder.glob("token*"):
        file.unlink()
    refused(lambda: load(folder), str(folder), "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir("llama"))
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    refused(lambda: load(folder), str(folder), "names no end token")


@pytest.mark.parametrize("trainable", [0, -1, TINY_LAYERS, 99])
def test_a_cut_that_is_not_in_the_model(tiny_model_dir: TinyModel, trainable: int) -> None:
    refused(
        lambda: opened(tiny_model_dir("llama"), trainable),
        f"trainable_layers is {trainable}",
        "1 to 3, or 'all'",
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("gemma3_text", {"final_logit_softcapping": 5.0}),
        ("cohere", {"logit_scale": 0.5}),
        ("granite", {"logits_scaling": 2.0}),
    ],
)
def test_models_whose_logits_are_scaled_are_refused(
    tiny_model_dir: TinyModel, tmp_path: Path, architecture: str, changes: dict[str, Any], dtype: str
) -> None:
    if architecture == "gemma3_text":
        folder = variant(tiny_model_dir(architecture), tmp_path / "model", **changes)
    else:
        like = AutoConfig.from_pretrained(tiny_model_dir("llama")).to_dict()
        kept = {k: like[k] for k in like if k.startswith(("num_", "hidden_size", "vocab", "initializer", "inter"))}
        ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
        folder = saved(AutoConfig.for_model(architecture, **kept, **ends, **changes), tmp_path / "model")
    refused(lambda: opened(folder, dtype=dtype), str(folder), "computes its logits in a way", "use another model")


def test_a_mild_cap_on_the_logits_is_noticed_in_bf16_too(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    folder = variant(tiny_model_dir("gemma3_text"), tmp_path / "model", final_logit_softcapping=30.0)
    refused(lambda: opened(folder, dtype="bf16"), "computes its logits in a way")


@pytest.mark.parametrize(
    ("architecture", "problem"), [("opt", "keeps its layers in a way"), ("phi", "output heads with a bias")]
)
def test_other_architectures_are_refused(tmp_path: Path, architecture: str, problem: str) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 384}
    more = {"opt": {"ffn_dim": 32, "word_embed_proj_dim": 32}, "phi": {"intermediate_size": 32}}[architecture]
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    folder = saved(AutoConfig.for_model(architecture, **sizes, **more, **ends), tmp_path / "model")
    refused(lambda: opened(folder, 1), problem)


EAGER_WRONGS = [  # what our attention does not compute; each opens well without it
    ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}, "s_aux"),
    ("gemma2", {"attn_logit_softcapping": 50.0, "final_logit_softcapping": None, "sliding_window": 16}, "softcap"),
]
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
UNFIT = [
    ("bloom", {"n_layer": 2, "n_head": 4}, "cannot be run by Tutelage"),
    ("mamba", {"state_size": 8}, "layers that Tutelage cannot run"),
    ("qwen3_next", {**LINEAR, "num_experts": 2, "moe_intermediate_size": 16}, "linear_attention"),
    ("minimax", {"num_local_experts": 2, "num_experts_per_tok": 1}, "linear_attention"),
    ("lfm2", {"full_attn_idxs": [1], "block_auto_adjust_ff_dim": False}, "conv"),
    ("gptj", {"n_layer": 2, "n_head": 4, "rotary_dim": 4}, "attention cannot be replaced"),
    ("mpt", {"n_layers": 2, "n_heads": 4, "d_model": 32}, "no final norm"),
]
TINY = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def tiny(architecture: str, folder: Path, **more: Any) -> Path:
    sizes = TINY | {"intermediate_size": 48, "vocab_size": 384, "max_position_embeddings": 128}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    return saved(AutoConfig.for_model(architecture, **(sizes | ends | more)), folder)


def test_an_architecture_without_a_sequence_classifier_is_refused_before_a_reward_model_trains(tmp_path: Path) -> None:
    folder = tiny("granite", tmp_path / "model")
    refused(lambda: need_classifier(opened(folder, 1)), str(folder), "no sequence classifier", "use another model")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("architecture", "changes", "named"), EAGER_WRONGS)
def test_attention_that_is_not_ours_is_refused(
    tmp_path: Path, architecture: str, changes: dict[str, Any], named: str, dtype: str
) -> None:
    folder = tiny(architecture, tmp_path / "model", **changes)
    refused(lambda: opened(folder, 1, dtype), str(folder), f"attention takes {named}", "use another model")


@pytest.mark.parametrize(("architecture", "changes", "why"), UNFIT)
def test_an_architecture_that_cannot_work_is_refused_by_its_reason(
    tmp_path: Path, architecture: str, changes: dict[str, Any], why: str
) -> None:
    folder = tiny(architecture, tmp_path / "model", **changes)
    refused(lambda: opened(folder, 1), str(folder), why, "use another model")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_proof_compares_with_the_models_own_attention(
    tiny_model_dir: TinyModel, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    def cooler(module: Any, *args: Any, **more: Any) -> Any:
        return grouped_attention(module, *args, **{**more, "scaling": 0.97 * more["scaling"]})

    monkeypatch.setitem(AttentionInterface._global_mapping, "tutelage", cooler)
    refused(lambda: opened(tiny_model_dir("llama"), dtype=dtype), "in a way Tutelage does not reproduce")


def test_an_error_in_the_models_own_code_is_a_refusal(
    tiny_model_dir: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise IndexError("no such\nthing")

    monkeypatch.setitem(AttentionInterface._global_mapping, "tutelage", broken)
    refused(lambda: opened(tiny_model_dir("llama")), "LlamaForCausalLM cannot be run by Tutelage (IndexError: no such)")


def test_the_proof_leaves_no_trace(tiny_model_dir: TinyModel) -> None:
    lm = opened(tiny_model_dir("gemma3_text"), 2, "bf16")
    assert {p.dtype for p in lm.model.parameters()} == {torch.bfloat16}
    for config in (lm.model.config, lm.top.base.config, lm.trunk.config):
        assert (config.sliding_window, config._attn_implementation) == (16, "tutelage")
    hooked = [m for m in lm.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooked


def test_a_window_is_used_as_the_model_uses_it(tmp_path: Path) -> None:
    uses = opened(tiny("mistral", tmp_path / "mistral", sliding_window=16), 1)
    ignores = opened(tiny("llama", tmp_path / "llama", sliding_window=16), 1)
    assert (uses.model.config.sliding_window, ignores.model.config.sliding_window) == (16, None)
    ids = random_ids(1, 40)
    for lm in (uses, ignores):
        expected = oracle(Path(lm.name))(input_ids=ids).logits.detach()
        torch.testing.assert_close(logits(lm, lm.top, ids), expected, rtol=1e-4, atol=1e-4)


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    weights = folder / "model.safetensors"
    save_file(change({k: v.clone() for k, v in load_file(weights).items()}), weights, {"format": "pt"})
    return folder


def poisoned(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    weights["model.embed_tokens.weight"][300, 3] = float("nan")
    return weights


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (lambda w: {k: v for k, v in w.items() if "layers.1.mlp" not in k}, ["3 are missing", "layers.1.mlp"]),
        (lambda w: {k: v for k, v in w.items() if "embed_tokens" not in k}, ["1 are missing", "embed_tokens"]),
        (lambda w: {f"x.{k}": v for k, v in w.items()}, ["are missing", "belong to another model"]),
        (lambda w: w | {"score.weight": torch.ones(1, 32)}, ["1 belong to another model (score.weight)"]),
        (lambda w: w | {"model.norm.weight": torch.ones(3)}, ["1 have another shape (model.norm.weight)"]),
        (poisoned, ["NaN or infinity, in model.embed_tokens.weight"]),
    ],
)
def test_weights_that_are_not_the_models(
    tiny_model_dir: TinyModel, tmp_path: Path, change: Any, fragments: list[str]
) -> None:
    folder = rewrite(shutil.copytree(tiny_model_dir("llama"), tmp_path / "model"), change)
    refused(lambda: opened(folder), str(folder), *fragments)


def test_a_reward_model_with_a_weight_missing(tiny_model_dir: TinyModel, reward: Path) -> None:
    rewrite(reward, lambda w: {k: v for k, v in w.items() if "layers.3.mlp" not in k})
    refused(lambda: load_scalar(reward, opened(tiny_model_dir("llama"))), str(reward), "layers.3.mlp", "are missing")


def test_a_depth_that_the_files_do_not_have_is_refused_at_once(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**7, "layer_types": None}))
    refused(lambda: opened(folder), str(folder), "10000000 layers")


def test_tokens_without_a_row(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir("llama"), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<call>", "descale"])
    tokenizer.save_pretrained(folder)
    refused(lambda: opened(folder), str(folder), "2 tokens", "384", "'<call>'", "resize_token_embeddings")


def test_a_picture_token_without_a_row_is_read_as_text(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir("llama"), tmp_path / "model")
    AutoTokenizer.from_pretrained(folder, extra_special_tokens={"image_token": "<picture>"}).save_pretrained(folder)
    lm = opened(folder)
    assert max(lm.text_ids("a <picture> here")) < 384
    save_lm(lm, lm.top, tmp_path / "again")
    assert max(opened(tmp_path / "again").text_ids("a <picture> here")) < 384


def test_an_adapter_is_named_and_not_left_out(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir("llama"), tmp_path / "model")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(lambda: opened(folder), str(folder), "adapter_config.json", "merge_and_unload")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    refused(lambda: opened(folder), str(folder), "adapter_config.json", "merge_and_unload")


def test_pickled_weights_are_never_opened(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir("llama"), tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(lambda: opened(folder), str(folder), "pytorch_model.bin", "safetensors alone", "save_pretrained")


@pytest.fixture
def reward(tiny_model_dir: TinyModel, tmp_path: Path) -> Path:
    lm = opened(tiny_model_dir("llama"))
    save_scalar(lm, ScalarHead(lm.top.twin()), tmp_path / "reward")
    return tmp_path / "reward"


def test_a_reward_model_of_another_trunk(tiny_model_dir: TinyModel, tmp_path: Path, reward: Path) -> None:
    other = variant(tiny_model_dir("llama"), tmp_path / "other", seed=9)
    refused(lambda: load_scalar(reward, opened(other)), str(reward), str(other), "cannot share a trunk")
    deeper = variant(tiny_model_dir("llama"), tmp_path / "deeper", num_hidden_layers=5)
    refused(lambda: load_scalar(reward, opened(deeper)), str(reward), "number of layers")
    wider = variant(tiny_model_dir("llama"), tmp_path / "wider", intermediate_size=48)
    refused(lambda: load_scalar(reward, opened(wider)), "cannot share a trunk")
    refused(lambda: load_scalar(reward, opened(tiny_model_dir("gpt2"))), "cannot share a trunk")
    assert load_scalar(reward, opened(other, "all")).score.shape == (
        1,
        TINY_HIDDEN,
    )  # nothing to share: any will do


def test_a_reward_model_that_trained_more_layers_than_the_policy(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    lm = opened(tiny_model_dir("llama"), 3)
    network = ScalarHead(lm.top.twin())
    move(network.top)
    save_scalar(lm, network, tmp_path / "reward")
    refused(
        lambda: load_scalar(tmp_path / "reward", opened(tiny_model_dir("llama"), 2)),
        "below the top 2 layers",
        "all",
    )
    load_scalar(tmp_path / "reward", opened(tiny_model_dir("llama"), 3))


def test_a_reward_model_of_another_tokenizer(tiny_model_dir: TinyModel, reward: Path) -> None:
    for file in reward.glob("tokenizer*.json"):
        file.write_text(file.read_text().replace("<|pad|>", "<|filler|>"))
    lm = opened(tiny_model_dir("llama"))
    refused(lambda: load_scalar(reward, lm), str(reward), "tokenizer differs", lm.name)


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"bias": 1}', '{"bias": "x", "scale": 1}', '{"bias": null, "scale": 1}']
)
def test_a_reward_model_without_its_shift_and_scale(tiny_model_dir: TinyModel, reward: Path, text: str | None) -> None:
    if text is None:
        (reward / "scalar.json").unlink()
    else:
        (reward / "scalar.json").write_text(text)
    refused(lambda: load_scalar(reward, opened(tiny_model_dir("llama"))), str(reward / "scalar.json"), "bias")


def test_a_policy_is_no_reward_model(tiny_model_dir: TinyModel) -> None:
    lm = opened(tiny_model_dir("llama"))
    refused(lambda: load_scalar(tiny_model_dir("llama"), lm), str(tiny_model_dir("llama")))
    refused(lambda: load_scalar(tiny_model_dir("llama") / "no", lm), "cannot be opened")


def test_a_reward_models_shift_and_scale_lie_open(reward: Path) -> None:
    assert json.loads((reward / "scalar.json").read_text()) == {"bias": 0.0, "scale": 1.0}
