"""The merged step: the plain step's numbers on Llama-shaped decoders on a CPU, and the plain step everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodels import TINY_ARCHITECTURES
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tutelage.cache import StaticCache
from tutelage.generate import Decoder, Sampled
from tutelage.model import Lm, load
from tutelage.stepping import LlamaStep, lays_out, product

TinyModel = Callable[[str], Path]
CPU = torch.device("cpu")
PROMPTS = [[5, 9, 300, 17], [7], list(range(10, 34)), [50, 51, 52], [200] * 9, [40, 41], [7]]
TOKENS = 24
NEAR = {"bf16": 0.04, "fp32": 1e-5}  # of the spread: what rounding leaves between two orders of the same sums

TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LAID = [
    pytest.param(name, marks=pytest.mark.skipif(not lays_out(dtype), reason=f"oneDNN lays out no {name} weights here"))
    for name, dtype in TYPES.items()
]
"""The types that the merged step can compute in on this processor; the others are skipped."""


def opened(folder: Path, dtype: str = "fp32") -> Lm:
    return load(str(folder), trainable_layers=2, dtype=dtype, device=CPU)


def like_llama(kind: str, tiny: Path, folder: Path, **changes: Any) -> Path:
    """A tiny random model of another kind, of the size of the tiny Llama and with its tokenizer."""
    like = AutoConfig.from_pretrained(tiny).to_dict()
    kept = {k: like[k] for k in like if k.startswith(("num_", "hidden_size", "vocab", "initializer", "inter"))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **kept | changes))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


@torch.inference_mode()
def steps(decoder: Decoder, merged: bool, count: int = 5) -> list[Tensor]:
    """Logits of a few given tokens behind the prompts, by the merged step or the plain one."""
    kept, decoder.one = decoder.one, decoder.one if merged else None
    cache = StaticCache(decoder.lm.model.config.num_hidden_layers, 40, torch.float32)
    _, seen = decoder._read(PROMPTS, cache)
    found = []
    for n in range(count):
        if n == 3:  # rows leave, as when responses end
            rows = torch.tensor([0, 2, 5])
            cache.keep(rows)
            seen = seen[rows]
        place, seen = seen.sum(1), torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
        found.append(decoder._next(torch.arange(len(seen)) + 60 + n, place, seen, cache).float())
    decoder.one = kept
    return found


def sampled(decoder: Decoder) -> Sampled:
    uniforms = torch.rand(TOKENS, len(PROMPTS), generator=torch.Generator().manual_seed(1))
    return decoder.sample(PROMPTS, max_tokens=TOKENS, temperature=1.0, uniforms=uniforms)


@pytest.mark.parametrize("dtype", LAID)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_the_merged_step_gives_the_plain_steps_logits(
    tiny_model_dir: TinyModel, tmp_path: Path, kind: str, dtype: str
) -> None:
    tiny = tiny_model_dir("llama")
    changes = {"sliding_window": None} if kind == "mistral" else {}
    lm = opened(tiny if kind == "llama" else like_llama(kind, tiny, tmp_path / kind, **changes), dtype)
    decoder = Decoder(lm, lm.top, rows=len(PROMPTS))
    assert isinstance(decoder.one, LlamaStep)
    for merged, plain in zip(steps(decoder, True), steps(decoder, False), strict=True):
        assert merged.shape == plain.shape
        assert (merged - plain).abs().mean() < NEAR[dtype] * plain.std()
    assert sampled(decoder).mask.any(1).all()


@pytest.mark.parametrize("dtype", LAID)
def test_the_merged_step_follows_the_weights_of_its_top(tiny_model_dir: TinyModel, dtype: str) -> None:
    lm = opened(tiny_model_dir("llama"), dtype)
    before = steps(Decoder(lm, lm.top, rows=8), True)
    with torch.no_grad():
        for parameter in lm.top.trained_parts()[0].parameters():
            parameter.mul_(1.5)
    decoder = Decoder(lm, lm.top, rows=8)
    for old, new, plain in zip(before, steps(decoder, True), steps(decoder, False), strict=True):
        assert (new - plain).abs().mean() < NEAR[dtype] * plain.std()
        assert (new - old).abs().mean() > 0.1 * plain.std()


@pytest.mark.parametrize("architecture", [a for a in TINY_ARCHITECTURES if a != "llama"])
def test_other_shapes_take_the_plain_step(tiny_model_dir: TinyModel, architecture: str) -> None:
    lm = opened(tiny_model_dir(architecture))
    assert Decoder(lm, lm.top, rows=8).one is None


@pytest.mark.skipif(not lays_out(torch.float32), reason="oneDNN lays out no fp32 weights here")
def test_a_model_that_only_looks_like_llama_takes_the_plain_step(tiny_model_dir: TinyModel, tmp_path: Path) -> None:
    tiny = tiny_model_dir("llama")
    lm = opened(like_llama("granite", tiny, tmp_path / "granite", residual_multiplier=0.3))
    assert Decoder(lm, lm.top, rows=8).one is None
    plain = opened(like_llama("granite", tiny, tmp_path / "plain", residual_multiplier=1.0))
    scaling = AutoConfig.from_pretrained(tmp_path / "plain").attention_multiplier
    assert scaling == 1.0  # not Llama's 1 / sqrt(D), and read from the model
    assert Decoder(plain, plain.top, rows=8).one is not None


@pytest.mark.parametrize("dtype", LAID)
def test_a_product_with_an_operation_on_its_way_out(dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(5, n, generator=generator).to(TYPES[dtype]) for n in (16, 24))
    weight, bias = (torch.randn(*shape, generator=generator).to(TYPES[dtype]) for shape in ((24, 16), (24,)))
    laid = torch.ops.mkldnn._reorder_linear_weight(weight, 5), bias
    whole = x.float() @ weight.float().T + bias.float()
    close = dict.fromkeys(("rtol", "atol"), 2e-2 if dtype == "bf16" else 1e-5)
    torch.testing.assert_close(product(x, laid).float(), whole, **close)
    torch.testing.assert_close(product(x, laid, plus=other).float(), whole + other.float(), **close)
    torch.testing.assert_close(product(x, laid, times=other).float(), whole * other.float(), **close)
    torch.testing.assert_close(product(x, laid, then="swish").float(), torch.nn.functional.silu(whole), **close)
