"""The decode engine: the right distribution, the right tokens, the right ends, and the trainer's logprobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from tinymodels import TINY_ARCHITECTURES
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tutelage.cache import StaticCache
from tutelage.data.batches import pack
from tutelage.generate import BLOCK, Decoder, PackedLinear, Sampled, draw, pad_left
from tutelage.generate import pack as pack_weights
from tutelage.losses import token_logprobs
from tutelage.model import Lm, Top, TrainableLayers, load
from tutelage.records import UserError
from tutelage.stepping import lays_out

TinyModel = Callable[[str], Path]
CPU = torch.device("cpu")
LAST = 1 - 2**-24  # the largest number torch.rand gives
PROMPTS = [
    [5, 9, 300, 17],
    [7],
    list(range(10, 34)),
    [50, 51, 52],
    [200] * 9,
    [40, 41],
]  # one beyond gemma's window
TOKENS = 12

architectures = pytest.mark.parametrize("architecture", TINY_ARCHITECTURES)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---- draw --------------------------------------------------------------------------------------------------

VOCABULARIES = (5, 60, BLOCK, BLOCK + 1, 3 * BLOCK, 1100)


def one_each(logits: Tensor, uniforms: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """A draw from each row. fp32 logits are overwritten: `draw` gets a copy."""
    return draw(logits.clone(), uniforms, torch.full((len(logits),), temperature))


def drawn(row: Tensor, uniforms: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Many draws from one row of logits."""
    return one_each(row.repeat(len(uniforms), 1), uniforms, temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("vocabulary", [40, 700])
def test_frequencies_are_those_of_the_softmax(vocabulary: int, temperature: float) -> None:
    row, n = 1.5 * numbers(vocabulary), 20_000
    token, _ = drawn(row, uniform(n, seed=1), temperature)
    expected = (row / temperature).softmax(0) * n
    found = token.bincount(minlength=vocabulary)
    common = expected >= 5  # chi-square wants no rare cells: they are counted as one
    cells = torch.stack([torch.cat([x[common], x[~common].sum()[None]]) for x in (found.float(), expected)])
    if cells[1, -1] < 5:
        cells = cells[:, :-1]
    statistic = ((cells[0] - cells[1]) ** 2 / cells[1]).sum().item()
    assert len(cells[0]) > 20
    assert stats.chi2.sf(statistic, cells.shape[1] - 1) > 1e-3


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_evenly_spread_numbers_give_every_token_its_share(vocabulary: int) -> None:
    # inverse-CDF sampling of an even grid: a token's count is its probability, but for its interval's ends
    n = 20_000
    row = numbers(vocabulary, seed=vocabulary)
    token, _ = drawn(row, (torch.arange(n) + 0.5) / n)
    found = token.bincount(minlength=vocabulary)
    assert ((found - row.double().softmax(0) * n).abs() <= 2).all()
    assert (token.diff() >= 0).all()


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0, 0.0])
def test_the_logprob_is_that_of_the_distribution_sampled_from(vocabulary: int, temperature: float) -> None:
    logits = 3 * numbers(64, vocabulary)
    token, logprob = one_each(logits, uniform(64), temperature)
    expected = (logits / (temperature or 1)).log_softmax(1).gather(1, token[:, None]).squeeze(1)
    assert logprob.dtype == torch.float32
    torch.testing.assert_close(logprob, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_the_edges_of_the_unit_interval_draw_real_tokens(vocabulary: int) -> None:
    logits = 4 * numbers(50, vocabulary)
    logits[:, 0] = logits[:, -1] = -torch.inf  # neither end of the vocabulary can be drawn
    for edge in (0.0, LAST):
        token, logprob = one_each(logits, torch.full((50,), edge))
        assert torch.isfinite(logprob).all()
        assert ((token > 0) & (token < vocabulary - 1)).all()
        if edge == 0:
            assert (token == 1).all()  # the first that has weight


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_impossible_tokens_are_never_drawn(vocabulary: int) -> None:
    row = numbers(vocabulary)
    row[::2] = -torch.inf
    token, logprob = drawn(row, torch.cat([uniform(5000), torch.tensor([0.0, LAST])]))
    assert (token % 2 == 1).all()
    assert torch.isfinite(logprob).all()


def test_a_sure_token_is_drawn_with_logprob_zero() -> None:
    row = torch.full((900,), -1e4)
    row[517] = 50.0
    token, logprob = drawn(row, torch.tensor([0.0, 0.3, LAST]))
    assert token.tolist() == [517] * 3
    assert logprob.tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [1e-3, 1.0, 80.0])
def test_rows_are_drawn_apart_whatever_their_size(size: float) -> None:
    logits, uniforms = size * numbers(8, 600) + 100 * numbers(8, 1, seed=1), uniform(8)
    together = one_each(logits, uniforms)
    for n in range(8):
        token, logprob = one_each(logits[n : n + 1], uniforms[n : n + 1])
        assert token == together[0][n]
        torch.testing.assert_close(logprob[0], together[1][n])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_temperature_zero_takes_the_largest_logit(dtype: torch.dtype) -> None:
    logits = numbers(20, 700).to(dtype)
    token, _ = one_each(logits, uniform(20), 0.0)
    assert torch.equal(token, logits.argmax(1))
    near = torch.tensor([[0.0, 1e-9, -1.0]])  # nearer than two probabilities can lie apart in fp32
    assert one_each(near, uniform(1), 0.0)[0].item() == 1


def test_every_row_has_its_own_temperature() -> None:
    logits, uniforms = 3 * numbers(6, 600), uniform(6)
    heat = torch.tensor([0.0, 0.3, 1.0, 0.0, 2.5, 1.0])
    token, logprob = draw(logits.clone(), uniforms, heat)
    for n in range(6):
        expected = one_each(logits[n : n + 1], uniforms[n : n + 1], float(heat[n]))
        assert token[n] == expected[0]
        torch.testing.assert_close(logprob[n], expected[1][0])


def test_bf16_logits_are_drawn_from_in_fp32() -> None:
    logits = numbers(30, 700).bfloat16()
    uniforms = uniform(30)
    found, expected = one_each(logits, uniforms, 0.8), one_each(logits.float(), uniforms, 0.8)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


# ---- pieces ------------------------------------------------------------------------------------------------


def test_padding_on_the_left_by_hand() -> None:
    ids, mask = pad_left([[5, 6, 7], [8]], 1)
    assert ids.tolist() == [[5, 6, 7], [1, 1, 8]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


def test_the_cache_by_hand() -> None:
    cache = StaticCache(1, 4)
    first = torch.arange(12.0).view(2, 1, 2, 3)
    key, value = cache.update(first, -first, 0)
    assert torch.equal(key, first)
    assert torch.equal(value, -first)
    cache.length = 2
    following = torch.full((2, 1, 1, 3), 99.0)
    key, value = cache.update(following, following, 0)
    assert torch.equal(key, torch.cat([first, following], 2))
    assert torch.equal(value, torch.cat([-first, following], 2))
    cache.length = 3
    cache.keep(torch.tensor([1]))
    key, _ = cache.update(following[:1], following[:1], 0)
    assert torch.equal(key, torch.cat([first, following, following], 2)[1:])
    assert cache.get_seq_length() == 3


def test_the_cache_drops_rows_in_place_and_repeats_them_anew() -> None:
    cache = StaticCache(1, 2)
    held = torch.arange(8.0).view(4, 1, 1, 2)
    cache.update(held, -held, 0)
    cache.length = 1
    block = cache.keys[0]
    assert block is not None
    cache.keep(torch.tensor([1, 3]))
    assert cache.keys[0] is not None
    assert cache.values[0] is not None
    assert cache.keys[0].data_ptr() == block.data_ptr()
    assert torch.equal(cache.keys[0][:, :, :1], held[[1, 3]])
    assert torch.equal(cache.values[0][:, :, :1], -held[[1, 3]])
    cache.keep(torch.tensor([1, 0, 1]))
    assert torch.equal(cache.keys[0][:, :, :1], held[[3, 1, 3]])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 2e-2), (torch.float32, 1e-5)])
def test_a_packed_linear_layer_is_the_layer(bias: bool, rows: int, dtype: torch.dtype, near: float) -> None:
    if not lays_out(dtype):
        pytest.skip(f"oneDNN lays out no {dtype} weights on this processor")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = nn.Linear(48, 96, bias=bias).to(dtype)
    x = numbers(rows, 3, 48).to(dtype)
    with torch.no_grad():
        torch.testing.assert_close(PackedLinear(linear, 4)(x), linear(x), rtol=near, atol=near)


# ---- sampling ----------------------------------------------------------------------------------------------


def opened(folder: Path, trainable: TrainableLayers = 2, dtype: str = "fp32") -> Lm:
    return load(str(folder), trainable_layers=trainable, dtype=dtype, device=CPU)


def ending_with(lm: Lm, token: int) -> Lm:
    """The same model, where another token is the end: tiny random models hardly ever say the real one."""
    lm.tokenizer.eos_token = lm.tokenizer.convert_ids_to_tokens(token)
    assert lm.eos == token
    return lm


def sampled(
    lm: Lm,
    prompts: list[list[int]] = PROMPTS,
    *,
    top: Top | None = None,
    temperature: float | Sequence[float] = 1.0,
    uniforms: Tensor | None = None,
    tokens: int = TOKENS,
    **more: Any,
) -> Sampled:
    numbers_used = uniform(tokens, len(prompts), seed=3) if uniforms is None else uniforms
    return Decoder(lm, top or lm.top, rows=len(prompts)).sample(
        prompts, max_tokens=tokens, temperature=temperature, uniforms=numbers_used, **more
    )


def responses(found: Sampled) -> list[list[int]]:
    return [ids[mask].tolist() for ids, mask in zip(found.ids, found.mask, strict=True)]


@torch.no_grad()
def trainers(lm: Lm, top: Top, found: Sampled, temperature: float) -> list[Tensor]:
    """The logprobs the trainer computes for what was sampled."""
    pairs = list(zip(PROMPTS, responses(found), strict=True))
    packed = pack(pairs, lm.pad)
    hidden = top(lm.lower(packed.ids, packed.segments), packed.segments)
    values, _ = token_logprobs(packed.at(hidden), top.head, packed.targets[packed.mask], temperature=temperature)
    return [row[mask] for row, mask in zip(packed.spread(values), packed.mask, strict=True)]


@torch.no_grad()
def move(top: Top) -> None:
    generator = torch.Generator().manual_seed(8)
    for parameter in top.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


@architectures
@pytest.mark.parametrize("trainable", [2, "all"])
def test_greedy_is_transformers_greedy(
    tiny_model_dir: TinyModel, architecture: str, trainable: TrainableLayers
) -> None:
    folder = tiny_model_dir(architecture)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    found = responses(sampled(opened(folder, trainable), temperature=0.0))
    for prompt, response in zip(PROMPTS, found, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=TOKENS,
            pad_token_id=1,
        )
        assert response == expected[0, len(prompt) :].tolist()
    assert len({tuple(r) for r in found}) > 3  # not one answer to everything


@architectures
def test_greedy_ends_where_transformers_ends(tiny_model_dir: TinyModel, architecture: str) -> None:
    folder = tiny_model_dir(architecture)
    lm = opened(folder)
    free = responses(sampled(lm, temperature=0.0))
    ending_with(lm, free[0][4])
    found = sampled(lm, temperature=0.0)
    for n, (response, unhindered) in enumerate(zip(responses(found), free, strict=True)):
        stop = unhindered.index(lm.eos) + 1 if lm.eos in unhindered else TOKENS
        assert response == unhindered[:stop]
        assert bool(found.ended[n]) is (lm.eos in unhindered)
    assert found.ended[0]


@architectures
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("trainable", [1, "all"])
def test_its_logprobs_are_the_trainers(
    tiny_model_dir: TinyModel, architecture: str, temperature: float, trainable: TrainableLayers
) -> None:
    lm = opened(tiny_model_dir(architecture), trainable)
    twin = lm.top.twin()
    move(twin)
    ending_with(lm, responses(sampled(lm, temperature=temperature))[2][5])
    for top in (lm.top, twin):
        found = sampled(lm, top=top, temperature=temperature)
        for row, mask, expected in zip(found.logprobs, found.mask, trainers(lm, top, found, temperature), strict=True):
            torch.testing.assert_close(row[mask], expected, rtol=0, atol=1e-5)


@architectures
@pytest.mark.parametrize("laid_out", [True, False])
def test_bf16_logprobs_are_near_the_trainers(
    tiny_model_dir: TinyModel, monkeypatch: pytest.MonkeyPatch, architecture: str, laid_out: bool
) -> None:
    """Also where oneDNN cannot lay out bf16 weights, as on processors without AVX512."""
    if not laid_out:
        monkeypatch.setattr("tutelage.generate.lays_out", lambda dtype: False)
        monkeypatch.setattr("tutelage.stepping.lays_out", lambda dtype: False)
    lm = opened(tiny_model_dir(architecture), 2, "bf16")
    decoder = Decoder(lm, lm.top)
    if not laid_out:
        assert decoder.one is None
        assert not any(isinstance(m, PackedLinear) for m in (*decoder.base.modules(), decoder.head))
    found = sampled(lm)
    gaps = torch.cat(
        [r[m] - e for r, m, e in zip(found.logprobs, found.mask, trainers(lm, lm.top, found, 1.0), strict=True)]
    )
    assert gaps.abs().mean() < 0.05
    assert gaps.mean().abs() < 0.02


def ending_often(lm: Lm, found: Sampled) -> Lm:
    """Let the token that most rows say, but not all, be the end."""
    said = torch.stack([F.one_hot(found.ids[n][found.mask[n]], 384).amax(0) for n in range(len(found.ids))]).sum(0)
    said[said == len(found.ids)] = 0
    return ending_with(lm, int(said.argmax()))


@architectures
def test_rows_that_finish_leave_the_others_as_they_are(tiny_model_dir: TinyModel, architecture: str) -> None:
    lm = opened(tiny_model_dir(architecture))
    prompts, tokens = [*PROMPTS, *([p, 99] for p in range(20, 34))], 30
    uniforms = uniform(tokens, len(prompts), seed=5)
    ending_often(lm, sampled(lm, prompts, uniforms=uniforms, tokens=tokens))
    together = sampled(lm, prompts, uniforms=uniforms, tokens=tokens)
    assert 3 <= together.ended.sum() < len(prompts)  # some leave the batch early, not all
    for n, prompt in enumerate(prompts):
        alone = sampled(lm, [prompt], uniforms=uniforms[:, n : n + 1], tokens=tokens)
        assert responses(alone)[0] == responses(together)[n]
        assert alone.ended[0] == together.ended[n]
        torch.testing.assert_close(alone.logprobs[0], together.logprobs[n], rtol=0, atol=1e-5)


@architectures
def test_what_prompts_share_is_read_once_and_changes_nothing(
    tiny_model_dir: TinyModel, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = opened(tiny_model_dir(architecture))
    front = list(range(100, 120))  # longer than gemma's window of 16
    prompts = [front + p for p in (*PROMPTS, PROMPTS[0], PROMPTS[0])]
    read: list[int] = []
    real = Decoder._step
    Decoder(lm, lm.top)  # a merged step is proved once, and reads something for that
    monkeypatch.setattr(Decoder, "_step", lambda self, ids, *a: read.append(ids.numel()) or real(self, ids, *a))
    together = sampled(lm, prompts)
    suffix = max(map(len, PROMPTS))
    assert read[:2] == [len(front), len(PROMPTS) * suffix]
    for n, prompt in enumerate(prompts):
        alone = sampled(lm, [prompt], uniforms=uniform(TOKENS, len(prompts), seed=3)[:, n : n + 1])
        assert responses(together)[n] == responses(alone)[0]
        torch.testing.assert_close(together.logprobs[n], alone.logprobs[0], rtol=0, atol=1e-4)


def test_the_order_of_the_batch_changes_nothing(tiny_model_dir: TinyModel) -> None:
    lm = opened(tiny_model_dir("llama"))
    uniforms = uniform(TOKENS, len(PROMPTS), seed=6)
    forwards = sampled(lm, PROMPTS, uniforms=uniforms)
    backwards = sampled(lm, PROMPTS[::-1], uniforms=uniforms.flip(1))
    assert responses(forwards) == responses(backwards)[::-1]


def test_every_prompt_has_its_own_temperature(tiny_model_dir: TinyModel) -> None:
    lm, heat = opened(tiny_model_dir("llama")), [0.0, 0.5, 1.0, 2.0, 0.0, 0.7]
    uniforms = uniform(30, len(PROMPTS), seed=6)
    ending_often(lm, sampled(lm, uniforms=uniforms, temperature=heat, tokens=30))  # rows leave: each keeps its own
    together = sampled(lm, uniforms=uniforms, temperature=heat, tokens=30)
    assert together.ended.any()
    for n, prompt in enumerate(PROMPTS):
        alone = sampled(lm, [prompt], uniforms=uniforms[:, n : n + 1], temperature=heat[n], tokens=30)
        assert responses(alone)[0] == responses(together)[n]
        torch.testing.assert_close(alone.logprobs[0], together.logprobs[n], rtol=0, atol=1e-5)


@architectures
def test_masks_and_ends_say_what_happened(tiny_model_dir: TinyModel, architecture: str) -> None:
    lm = opened(tiny_model_dir(architecture))
    ending_often(lm, sampled(lm, tokens=30))
    found = sampled(lm, tokens=30)
    assert found.ids.shape == found.mask.shape == found.logprobs.shape == (len(PROMPTS), 30)
    assert found.ended.any()
    assert not found.ended.all()
    for ids, mask, logprobs, ended in zip(found.ids, found.mask, found.logprobs, found.ended, strict=True):
        length = int(mask.sum())
        assert mask.tolist() == [n < length for n in range(30)]
        assert lm.eos not in ids[: length - 1].tolist()
        assert bool(ended) is (int(ids[length - 1]) == lm.eos)  # the end token itself counts
        assert ended or length == 30
        assert (ids[length:] == lm.pad).all()
        assert (logprobs[length:] == 0).all()
        assert (logprobs[:length] <= 0).all()


def test_an_end_at_the_very_first_token(tiny_model_dir: TinyModel) -> None:
    lm = opened(tiny_model_dir("llama"))
    first = responses(sampled(lm, temperature=0.0, tokens=1))
    ending_with(lm, first[1][0])
    found = sampled(lm, temperature=0.0)
    assert responses(found)[1] == [lm.eos]
    assert found.ended[1]
    alone = sampled(lm, [PROMPTS[1]], temperature=0.0)  # the whole batch ends there
    assert responses(alone) == [[lm.eos]]
    assert alone.ids.shape == (1, TOKENS)


def test_a_response_that_is_cut_has_not_ended(tiny_model_dir: TinyModel) -> None:
    lm = ending_with(opened(tiny_model_dir("llama")), 350)  # said by nobody here
    free = sampled(lm)
    assert not free.ended.any()
    assert free.mask.all()
    shorter = sampled(lm, tokens=5, uniforms=uniform(TOKENS, len(PROMPTS), seed=3))  # more numbers than needed
    assert torch.equal(shorter.ids, free.ids[:, :5])
    ending_with(lm, responses(free)[0][-1])  # the end token as the last one allowed: that is an end
    assert lm.eos not in responses(free)[0][:-1]
    assert sampled(lm).ended[0]


@architectures
def test_a_prompt_without_room_for_the_response_is_one_line(tiny_model_dir: TinyModel, architecture: str) -> None:
    lm = opened(tiny_model_dir(architecture))
    full = [list(range(2, 118)), [5]]  # 116 and 12 tokens: just the model's 128 positions
    assert sampled(lm, full).mask.all()
    with pytest.raises(UserError, match="a prompt of 117 tokens and 12 to come, for 128 positions"):
        sampled(lm, [[*full[0], 5], [5]])


def test_single_prompts_stream_every_token(tiny_model_dir: TinyModel) -> None:
    lm, heard = opened(tiny_model_dir("llama")), []
    ending_with(lm, responses(sampled(lm, PROMPTS[:1]))[0][6])
    found = sampled(lm, PROMPTS[:1], on_token=heard.append)
    assert heard == responses(found)[0]
    assert heard[-1] == lm.eos


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_new_decoder_sees_what_training_changed(tiny_model_dir: TinyModel, dtype: str) -> None:
    lm = opened(tiny_model_dir("llama"), 2, dtype)
    before = sampled(lm)
    assert torch.equal(sampled(lm).logprobs, before.logprobs)
    move(lm.top)
    after = sampled(lm)
    assert responses(after) != responses(before)
    gaps = torch.cat(
        [r[m] - e for r, m, e in zip(after.logprobs, after.mask, trainers(lm, lm.top, after, 1.0), strict=True)]
    )
    assert gaps.abs().mean() < (1e-5 if dtype == "fp32" else 0.05)


def test_the_same_numbers_give_the_same_responses(tiny_model_dir: TinyModel) -> None:
    lm = opened(tiny_model_dir("gpt2"))
    first, again, other = (sampled(lm, uniforms=uniform(TOKENS, len(PROMPTS), seed=s)) for s in (1, 1, 2))
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.logprobs, again.logprobs)
    assert not torch.equal(first.ids, other.ids)


def test_sampling_follows_the_models_own_distribution(tiny_model_dir: TinyModel) -> None:
    """Second tokens of many responses, against the exact mixture over all first tokens."""
    lm = opened(tiny_model_dir("llama"), "all")
    prompt, n = [5, 9, 17], 2000
    with torch.no_grad():
        ones = torch.ones(1, 3, dtype=torch.long)
        first = F.linear(lm.top(torch.tensor([prompt]), ones)[0, -1], lm.top.head).softmax(0)
        ids = torch.cat([torch.tensor(prompt).repeat(384, 1), torch.arange(384)[:, None]], 1)
        second = F.linear(lm.top(ids, torch.ones_like(ids))[:, -1], lm.top.head).softmax(1)
        second[lm.eos] = 0  # those ended
    expected = (first @ second) * n
    found = sampled(lm, [prompt] * n, tokens=2)
    counts = found.ids[:, 1][found.mask[:, 1]].bincount(minlength=384)
    common = expected >= 5
    statistic = ((counts[common] - expected[common]) ** 2 / expected[common]).sum().item()
    assert common.sum() > 30
    assert stats.chi2.sf(statistic, int(common.sum())) > 1e-3


def test_a_linear_layer_with_a_forward_of_its_own_is_not_packed() -> None:
    class Router(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            found = super().forward(x)
            return found, found.argmax(-1)

    router = nn.Sequential(Router(8, 4))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    found = pack_weights(router, 3)(x)
    assert torch.equal(found[1], router(x)[1])
